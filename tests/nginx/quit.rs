//! nginx quits while an old socket drains. As without the module, nginx serves no new client, no
//! socket listens, and nginx can be started again at once.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::client::{Connection, Transport};
use crate::forbidden::start_without;
use crate::harness::{Site, wait_until};
use crate::seccomp::SOCKET_DOMAIN;
use crate::server::{Conf, Nginx};
use crate::sockets::listening_on;
use crate::subsystem::{Subsystem, test_on};

const ADDRESSES: [&str; 2] = ["127.0.0.1:8080", "[::1]:8080"];

/// Less than the 5 seconds of a drain, and more than a busy machine needs.
const SOON: Duration = Duration::from_secs(3);

/// nginx during a drain. The drain lasts 5 seconds, because the kernel does not report whether
/// handshakes are in progress.
fn draining<'site>(site: &'site Site, conf: &dyn Fn(&str) -> Conf, to: &str) -> Nginx<'site> {
    let from = if to.is_empty() { "mptcp" } else { "" };
    let nginx = start_without(site, &conf(from), SOCKET_DOMAIN, libc::AF_NETLINK);
    nginx.reload(&conf(to));
    assert_eq!(listening_on(8080), 2, "the old socket drains");
    nginx
}

/// A client whose connection stays open, so its worker cannot exit.
fn stay(on: Subsystem, address: &str) -> Connection {
    let mut client = Connection::open(Transport::Tcp, address).expect("it is served");
    let begin: &[u8] = match on {
        Subsystem::Http => b"GET / HT",
        _ => b"HE",
    };
    client.send(begin).expect("the connection is there");
    client
}

fn is_refused(address: &str) {
    for transport in [Transport::Tcp, Transport::Mptcp] {
        let error = Connection::open(transport, address)
            .err()
            .expect("nobody listens");
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "{address} {transport:?}"
        );
    }
}

#[test_on(http, mail)]
fn a_quit_during_a_drain_refuses_clients_at_once(on: Subsystem) {
    for address in ADDRESSES {
        for word in ["mptcp", ""] {
            let site = Site::new();
            // Both masters remove the same pid file, so the second removal fails.
            site.provoke(libc::ENOENT);
            let conf = |word: &str| on.listen(&format!("{address} {word}")).workers(2);
            let nginx = draining(&site, &conf, word);
            let client = stay(on, address);
            let begin = Instant::now();
            nginx.signal(libc::SIGQUIT);
            wait_until("the end of all listening", || listening_on(8080) == 0);
            assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
            is_refused(address);
            assert!(nginx.runs(), "a client is connected");

            std::fs::remove_file(site.path("nginx.pid")).expect("the old master has written it");
            let next = site.start(&conf(word));
            on.serves(address, !word.is_empty());
            drop(client);
            nginx.wait_for_end();
            on.serves(address, !word.is_empty());
            next.quit();
        }
    }
}

#[test_on(stream)]
fn workers_exit_in_time_during_a_drain(on: Subsystem) {
    let site = Site::new();
    let backend = "127.0.0.1:9000";
    let _backend = TcpListener::bind(backend).expect("the port is free in a new namespace");
    let conf = |word: &str| {
        let [address, _] = ADDRESSES;
        let server = format!("server {{ listen {address} {word}; proxy_pass {backend}; }}");
        let conf = on.conf(&server).workers(2);
        conf.main("worker_shutdown_timeout 1s;")
    };
    let nginx = draining(&site, &conf, "mptcp");
    let mut client = Connection::open(Transport::Tcp, ADDRESSES[0]).expect("it is served");
    client.send(b"x").expect("the connection is there");
    let begin = Instant::now();
    nginx.quit();
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    is_refused(ADDRESSES[0]);
}

#[test_on(stream, http, mail)]
fn a_quit_during_a_drain_without_clients_ends_at_once(on: Subsystem) {
    for address in ADDRESSES {
        let site = Site::new();
        let conf = |word: &str| on.listen(&format!("{address} {word}")).workers(2);
        let nginx = draining(&site, &conf, "mptcp");
        let begin = Instant::now();
        nginx.quit();
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        is_refused(address);
        let next = site.start(&conf("mptcp"));
        on.serves(address, true);
        next.quit();
    }
}

#[test_on(stream, http, mail)]
fn a_stop_during_a_drain_leaves_no_listening_socket(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("{} {word}", ADDRESSES[0])).workers(2);
    let nginx = draining(&site, &conf, "mptcp");
    nginx.signal(libc::SIGTERM);
    nginx.wait_for_end();
    assert_eq!(listening_on(8080), 0);
    let next = site.start(&conf(""));
    on.serves(ADDRESSES[0], false);
    next.quit();
}

#[test_on(stream, http, mail)]
fn old_workers_that_exit_after_a_reload_do_not_end_a_drain(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("{} {word}", ADDRESSES[0])).workers(2);
    let nginx = draining(&site, &conf, "mptcp");
    // The workers of the previous reload quit.
    nginx.reload(&conf("mptcp"));
    assert_eq!(listening_on(8080), 2, "the old socket drains on");
    wait_until("the end of the drain", || listening_on(8080) == 1);
    on.serves(ADDRESSES[0], true);
}
