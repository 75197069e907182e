//! Masters without capabilities, and workers that run as an ordinary user.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::client::Transport;
use crate::harness::{Site, wait_until};
use crate::server::WITHOUT_NETWORK_CAPABILITIES;
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};

const ADDRESSES: [&str; 2] = ["127.0.0.1:8080", "[::1]:8080"];

/// Less than a second: a client whose SYN gets no answer sends it again after a second, so a
/// client that takes longer has lost a SYN.
const AT_ONCE: Duration = Duration::from_millis(900);

#[test_on(stream, http)]
fn clients_are_answered_at_once_while_a_second_reload_fails(on: Subsystem) {
    for address in ADDRESSES {
        let site = Site::new();
        let busy = "127.0.0.1:9999";
        let _holder = TcpListener::bind(busy).expect("the port is free in a new namespace");
        let conf = |word: &str| on.listen(&format!("{address} {word}")).workers(3);
        let nginx = site.start_under(&WITHOUT_NETWORK_CAPABILITIES, &conf(""));
        nginx.begin_reload(&conf("mptcp"));
        site.write(&conf("mptcp").with_text(&on.server(busy)));
        let mark = nginx.log().len();
        nginx.signal(libc::SIGHUP);
        // nginx tries the busy port for two seconds.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            for transport in [Transport::Tcp, Transport::Mptcp] {
                let asked = Instant::now();
                on.request_answer(transport, address).expect("it is served");
                assert!(
                    asked.elapsed() < AT_ONCE,
                    "{transport:?}: {:?}",
                    asked.elapsed()
                );
            }
        }
        nginx.reloaded(mark).expect_err("the port is busy");
        wait_until("the new socket alone", || listening_on(8080) == 1);
        on.serves(address, true);
    }
}

#[test_on(stream, http)]
fn no_loss_is_logged_if_there_is_none(on: Subsystem) {
    for address in ADDRESSES {
        let site = Site::new();
        let conf = |word: &str| on.listen(&format!("{address} {word}")).workers(3);
        let nginx = site.start_under(&WITHOUT_NETWORK_CAPABILITIES, &conf(""));
        let clients = Steady::start(on, address);
        for word in ["mptcp", ""] {
            nginx.reload(&conf(word));
            wait_until("the new socket alone", || listening_on(8080) == 1);
            clients.wait_for_more(50);
        }
        let tally = clients.stop();
        assert!(tally.lost.is_empty(), "{:?}", tally.lost);
        let log = nginx.log();
        assert!(
            !log.contains("lost") && !log.contains("setsockopt"),
            "{log}"
        );
    }
}
