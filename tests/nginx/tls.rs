//! `mptcp` together with `ssl`.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use crate::client::{Accepted, Connection, Transport};
use crate::harness::{Site, wait_until};
use crate::linux;
use crate::mptcp_log::{LOG, log_format, logged, nothing};
use crate::subsystem::{Subsystem, test_on};

/// The directives that name the files of [`make_certificate`].
pub const CERTIFICATE: &str = "ssl_certificate cert.pem;\n    ssl_certificate_key key.pem;";

/// Creates a key and its certificate in the test's folder.
pub fn make_certificate(site: &Site) {
    let words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem";
    site.run(Command::new("openssl").args(words.split(' ')))
        .succeeds();
}

/// Accepts one TCP connection and forwards it over MPTCP, because openssl cannot open MPTCP
/// sockets. Returns the address of its listener.
pub fn mptcp_bridge(to: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a bridge can listen on the loopback");
    let address = listener
        .local_addr()
        .expect("a listener has an address")
        .to_string();
    thread::spawn(move || -> io::Result<()> {
        let (mut near, _) = listener.accept()?;
        let mut far = Connection::open(Transport::Mptcp, to)?;
        let (mut near_in, mut far_out) = (near.try_clone()?, far.try_clone()?);
        let there = thread::spawn(move || -> io::Result<()> {
            io::copy(&mut near_in, &mut far_out)?;
            far_out.finish()
        });
        let copied = io::copy(&mut far, &mut near);
        near.shutdown(Shutdown::Both)?;
        copied?;
        there.join().unwrap_or(Ok(()))
    });
    address
}

/// Connects with openssl's client to this address, and sends a request. Returns the client's
/// output: with the option `-quiet` the answer, otherwise a description of the TLS connection.
pub fn tls_client(site: &Site, address: &str, options: &str, request: &str) -> String {
    site.run_with(&mut openssl(address, options), request)
        .succeeds()
}

fn openssl(address: &str, options: &str) -> Command {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-verify_return_error", "-CAfile", "cert.pem"]);
    client.args(["-connect", address]);
    client.args(options.split_whitespace());
    client
}

/// The answer to a client that waits for the greeting before it sends its request. nginx 1.26
/// and 1.30 sometimes answer a mail request that arrives before the greeting only after a
/// minute, with or without MPTCP.
fn greeted_client(site: &Site, address: &str, on: Subsystem) -> String {
    let output = File::create(site.path("output")).expect("a file can be made");
    let mut client = openssl(address, "-quiet")
        .current_dir(&site.folder)
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is missing: install it");
    wait_until("the greeting", || site.read("output").contains(on.answer()));
    let mut input = client.stdin.take().expect("it is a pipe");
    input
        .write_all(on.request().as_bytes())
        .expect("the client reads its input");
    let status = client.wait().expect("the client ends");
    assert!(status.success(), "{status}");
    site.read("output")
}

#[test_on(stream, http, mail)]
fn tls_works_over_mptcp_and_over_tcp(on: Subsystem) {
    let site = Site::new();
    make_certificate(&site);
    let nginx =
        site.start(&on.conf(&on.server_with("127.0.0.1:8443 mptcp ssl", CERTIFICATE, on.answer())));
    assert!(nginx.listener().is_mptcp());

    let is_answered = |address: &str| {
        let text = match on {
            Subsystem::Mail => greeted_client(&site, address, on),
            _ => tls_client(&site, address, "-quiet", on.request()),
        };
        let mut answers = text.lines().filter_map(|line| on.answer_in(line));
        assert!(answers.any(|answer| answer == on.answer()), "{text}");
    };
    let before = Accepted::now();
    is_answered("127.0.0.1:8443");
    assert_eq!(Accepted::now(), before, "openssl connects over TCP");
    is_answered(&mptcp_bridge("127.0.0.1:8443"));
    assert_eq!(
        Accepted::now().handshakes,
        before.handshakes + 1,
        "the bridge connects over MPTCP"
    );
}

#[test_on(stream, http)]
fn the_state_of_tls_connections_is_logged(on: Subsystem) {
    let site = Site::new();
    make_certificate(&site);
    let more = format!("{CERTIFICATE}\n    {LOG}");
    let server = on.server_with("127.0.0.1:8443 mptcp ssl", &more, on.answer());
    let _nginx = site.start(&on.conf(&(log_format() + &server)));
    tls_client(&site, "127.0.0.1:8443", "-quiet", on.request());
    assert_eq!(logged(&site, 1), nothing());
    let bridge = mptcp_bridge("127.0.0.1:8443");
    let text = tls_client(&site, &bridge, "-quiet", on.request());
    let line = logged(&site, 2);
    assert_eq!(line["mptcp"], "on");
    assert_eq!(line["mptcp_subflows_total"], "1");
    if !linux::counts_mptcp() {
        assert_eq!(line["mptcp_bytes_sent"], "-");
        return;
    }
    // The bytes of the TLS handshake are counted too.
    let sent: usize = line["mptcp_bytes_sent"].parse().expect("a number");
    assert!(sent > text.len(), "{line:?}");
}
