//! Two hosts and two links: faster than one link, and one link may go.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Noise, read_head};
use crate::client::{Connection, Over};
use crate::harness::Site;
use crate::namespace::{Peer, ip, tc};
use crate::server::Nginx;
use crate::subsystem::{Subsystem, subsystem_tests};

subsystem_tests! {
    (stream, http):
        a_download_outlives_the_loss_of_its_first_link;
    (stream):
        two_links_carry_a_download_faster_than_one;
}

/// Enough for some seconds over one link of 50 Mbit/s.
const SIZE: usize = 24 * 1024 * 1024;

/// nginx here, a client's host there, and two links in between.
struct Hosts<'site> {
    peer: Peer,
    _backend: Backend,
    _nginx: Nginx<'site>,
    on: Subsystem,
}

impl<'site> Hosts<'site> {
    /// Starts both and joins them.
    fn new(site: &'site Site, on: Subsystem) -> Self {
        let peer = Peer::new();
        ip("mptcp limits set subflow 4 add_addr_accepted 4");
        peer.run(|| ip("mptcp limits set subflow 4 add_addr_accepted 4"));
        for link in [1, 2] {
            ip(&format!(
                "link add near{link} type veth peer name far{link}"
            ));
            ip(&format!("link set far{link} netns {}", peer.thread_id));
            set_up(&format!("near{link}"), &format!("10.0.{link}.1"));
            peer.run(move || set_up(&format!("far{link}"), &format!("10.0.{link}.2")));
        }
        ip("mptcp endpoint add 10.0.2.1 dev near2 signal");
        peer.run(|| ip("mptcp endpoint add 10.0.2.2 dev far2 subflow"));

        let backend = Backend::noise(SIZE);
        let server = match on {
            Subsystem::Http => {
                let mut bytes = vec![0; SIZE];
                Noise::new().fill(&mut bytes);
                std::fs::write(site.path("large"), bytes).expect("there is room for a file");
                "sendfile on;\nserver {\n    listen 8080 mptcp;\n    root .;\n}\n".into()
            }
            _ => format!(
                "server {{\n    listen 8080 mptcp;\n    proxy_pass {};\n}}\n",
                backend.address
            ),
        };
        let nginx = site.start(&on.conf(&server));
        Self {
            peer,
            _backend: backend,
            _nginx: nginx,
            on,
        }
    }

    /// Downloads all from the client's host. Returns the time it took and
    /// whether the connection was MPTCP.
    fn download(&self, over: Over, half_way: impl FnOnce() + Send + 'static) -> (Duration, bool) {
        let on = self.on;
        self.peer.run(move || download(on, over, half_way))
    }
}

/// Gives one end of a link its address and its speed.
fn set_up(link: &str, address: &str) {
    ip(&format!("address add {address}/24 dev {link}"));
    ip(&format!("link set {link} up"));
    tc(&format!(
        "qdisc add dev {link} root tbf rate 50mbit burst 64kb latency 100ms"
    ));
}

/// Downloads over the first link's address, and checks each byte. Calls
/// `half_way` when a third has come.
fn download(on: Subsystem, over: Over, half_way: impl FnOnce()) -> (Duration, bool) {
    let begin = Instant::now();
    let mut connection =
        Connection::open(over, "10.0.1.1:8080").expect("the server is reached over the first link");
    if on == Subsystem::Http {
        let request = connection.send(b"GET /large HTTP/1.0\r\n\r\n");
        request.expect("a request can be sent");
        read_head(&mut connection).expect("http answers");
    }
    let mut noise = Noise::new();
    let (mut bytes, mut expected) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let (mut received, mut half_way) = (0, Some(half_way));
    loop {
        let count = connection.read(&mut bytes).expect("the transfer goes on");
        if count == 0 {
            break;
        }
        noise.fill(&mut expected[..count]);
        assert!(
            bytes[..count] == expected[..count],
            "a byte differs within {count} after {received}"
        );
        received += count;
        if let Some(half_way) = half_way.take_if(|_| received > SIZE / 3) {
            half_way();
        }
    }
    assert_eq!(received, SIZE, "all bytes arrive");
    (begin.elapsed(), connection.is_mptcp())
}

fn two_links_carry_a_download_faster_than_one(on: Subsystem) {
    let site = Site::alone();
    let hosts = Hosts::new(&site, on);
    let (one_link, mptcp) = hosts.download(Over::Tcp, || ());
    assert!(!mptcp);
    let (two_links, mptcp) = hosts.download(Over::Mptcp, || ());
    assert!(mptcp);
    let ratio = one_link.as_secs_f64() / two_links.as_secs_f64();
    println!("TCP {one_link:?}, MPTCP {two_links:?}, ratio {ratio:.2}");
    assert!(
        ratio >= 1.7,
        "TCP took {one_link:?}, MPTCP {two_links:?}: only {ratio:.2} times as fast"
    );
}

fn a_download_outlives_the_loss_of_its_first_link(on: Subsystem) {
    let site = Site::alone();
    let hosts = Hosts::new(&site, on);
    let (time, mptcp) = hosts.download(Over::Mptcp, || ip("link set far1 down"));
    println!("{time:?}");
    assert!(mptcp);
}
