//! `mptcp` together with `ssl`.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::thread;

use crate::client::{Accepted, Connection, Over};
use crate::harness::Site;
use crate::server::{ANSWER, Conf};

/// Makes a key and a certificate for it in the test's folder.
fn make_certificate(site: &Site) {
    let words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem";
    site.run(Command::new("openssl").args(words.split(' ')))
        .succeeds();
}

/// Takes one TCP connection and passes it on over MPTCP, since openssl has
/// no MPTCP of its own. Returns where it listens.
fn mptcp_bridge(to: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a bridge can listen on the loopback");
    let address = listener
        .local_addr()
        .expect("a listener has an address")
        .to_string();
    thread::spawn(move || -> io::Result<()> {
        let (mut near, _) = listener.accept()?;
        let mut far = Connection::open(Over::Mptcp, to)?;
        let (mut near_in, mut far_out) = (near.try_clone()?, far.try_clone()?);
        let there = thread::spawn(move || -> io::Result<()> {
            io::copy(&mut near_in, &mut far_out)?;
            far_out.finish()
        });
        io::copy(&mut far, &mut near)?;
        near.shutdown(Shutdown::Both)?;
        there.join().unwrap_or(Ok(()))
    });
    address
}

/// What a TLS client at this address is told.
fn ask_over_tls(site: &Site, address: &str) -> String {
    let mut client = Command::new("openssl");
    client.args([
        "s_client",
        "-quiet",
        "-verify_return_error",
        "-CAfile",
        "cert.pem",
        "-connect",
        address,
    ]);
    site.run(&mut client).succeeds()
}

#[test]
fn tls_works_over_mptcp_and_over_tcp() {
    let site = Site::new();
    make_certificate(&site);
    let conf = Conf::stream(
        "ssl_certificate cert.pem;\nssl_certificate_key key.pem;\n\
         server { listen 127.0.0.1:8443 mptcp ssl; return \"served over stream\\n\"; }\n",
    );
    let nginx = site.start(&conf);
    assert!(nginx.listener().is_mptcp());

    let before = Accepted::now();
    let text = ask_over_tls(&site, "127.0.0.1:8443");
    assert!(text.contains(ANSWER), "{text}");
    assert_eq!(Accepted::now(), before, "openssl connects over TCP");

    let text = ask_over_tls(&site, &mptcp_bridge("127.0.0.1:8443"));
    assert!(text.contains(ANSWER), "{text}");
    assert_eq!(
        Accepted::now().handshakes,
        before.handshakes + 1,
        "the bridge connects over MPTCP"
    );
}
