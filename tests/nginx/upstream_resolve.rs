//! `mptcp` in an `upstream` with the parameter `resolve`: nginx resolves its servers repeatedly.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use crate::harness::{Host, Site, wait_until};
use crate::subsystem::{Subsystem, test_on};
use crate::upstream::{FORMAT, back, front, reply, upstream};

const NAME: &str = "server.test:8081";

/// A name server that answers each query with one address, 127.0.0.N.
struct NameServer {
    address: String,
    last_octet: Arc<AtomicU8>,
}

impl NameServer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("the network is ours");
        let address = socket.local_addr().expect("it is bound").to_string();
        let last_octet = Arc::new(AtomicU8::new(1));
        let current = Arc::clone(&last_octet);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                let address = Ipv4Addr::new(127, 0, 0, current.load(Ordering::Relaxed));
                let response = response(&query[..length], address);
                // An error is ignored, because nginx sends a query again if it gets no response.
                let _ = socket.send_to(&response, client);
            }
        });
        Self {
            address,
            last_octet,
        }
    }

    fn move_to(&self, last_octet: u8) {
        self.last_octet.store(last_octet, Ordering::Relaxed);
    }
}

/// The response to a query, see RFC 1035, section 4.1: the query followed by one answer of type A.
/// The name of the answer is a pointer to that of the question. The answer is valid for a second.
fn response(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    const HEADER: usize = 12;
    let name = query[HEADER..].iter().position(|&octet| octet == 0);
    let end = HEADER + name.expect("a name ends with 0") + 5;
    let mut response = query[..end].to_vec();
    response[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
    response.extend(address.octets());
    response
}

#[test_on(stream, http)]
fn a_server_that_moves_is_reached_over_mptcp(on: Subsystem) {
    let site = Site::new();
    let names = NameServer::start();
    let lines = format!(
        "zone servers 128k;\n    resolver {} ipv6=off valid=1s;\n    \
         server {NAME} resolve;\n    mptcp;",
        names.address
    );
    let servers = front(on, "http", "") + &back(on, "8081 mptcp", "");
    let conf = on.conf(&(FORMAT.to_owned() + &upstream(&lines) + &servers));
    if Host::get().version < (1, 27, 3) {
        let text = site.check(&conf).fails();
        assert!(
            text.contains("\"resolver\" directive is not allowed here"),
            "{text}"
        );
        return;
    }
    let _nginx = site.start(&conf);
    for last_octet in [1, 2] {
        names.move_to(last_octet);
        let expected = format!("127.0.0.{last_octet}:8081|on");
        wait_until(&expected, || {
            reply(on);
            site.read("up.log").lines().last() == Some(expected.as_str())
        });
    }
}
