//! System calls that fail in the commit, when a reload can no longer fail as a whole.

use crate::harness::{Site, wait_until};
use crate::sockets::Listener;
use crate::steady::Steady;
use crate::strace::{Fault, Strace};
use crate::subsystem::{Subsystem, test_on};

const ADDRESS: &str = "127.0.0.1:8080";

const NO_LISTEN: Fault = Fault {
    call: "listen",
    errno: libc::ENOBUFS,
};

/// Changes the protocol back and forth. The first attempt of each change fails.
fn changes_with_a_fault(on: Subsystem, more: &str, sockets: usize) {
    let site = Site::new();
    site.provoke(NO_LISTEN.errno);
    let conf = |word: &str| on.listen(&format!("{ADDRESS} {more} {word}")).workers(2);
    let nginx = site.start(&conf(""));
    let descriptors = nginx.descriptors().len();
    let nothing_leaks = || {
        wait_until("descriptors as before", || {
            nginx.descriptors().len() == descriptors
        });
    };
    for (old, new) in [("", "mptcp"), ("mptcp", "")] {
        // This reload makes the master close the superseded sockets.
        nginx.reload(&conf(old));
        nothing_leaks();
        let listeners = nginx.listeners();
        let clients = Steady::start(on, ADDRESS);
        let fault = Strace::attach(&site, nginx.pid, NO_LISTEN, "1+");
        nginx.reload(&conf(new));
        fault.end();
        clients.wait_for_more(50);
        clients.all_were_served();
        let message =
            "listen() to 127.0.0.1:8080, backlog 511 failed, keeping the old socket (105: ";
        assert!(nginx.log().contains(message), "{}", nginx.log());
        assert_eq!(nginx.listeners(), listeners, "the old sockets go on");
        nothing_leaks();
        on.serves(ADDRESS, !old.is_empty());
        nginx.reload(&conf(old));
        assert_eq!(nginx.listeners(), listeners, "they are what they were");

        nginx.reload(&conf(new));
        wait_until("the new sockets alone", || {
            nginx.listeners().len() == sockets
        });
        let mptcp = |listener: &Listener| listener.is_mptcp() != new.is_empty();
        assert!(nginx.listeners().iter().all(mptcp), "the next reload works");
        on.serves(ADDRESS, !new.is_empty());
    }
}

#[test_on(stream, http, mail)]
fn a_listen_that_fails_in_the_commit_keeps_the_old_socket(on: Subsystem) {
    changes_with_a_fault(on, "", 1);
}

#[test_on(stream, http)]
fn a_listen_that_fails_in_the_commit_keeps_every_old_socket(on: Subsystem) {
    changes_with_a_fault(on, "reuseport", 2);
}

#[test_on(stream, http)]
fn a_listen_that_fails_in_the_commit_lets_more_workers_share_old_sockets(on: Subsystem) {
    let site = Site::new();
    site.provoke(NO_LISTEN.errno);
    let conf = |word: &str, workers: usize| {
        on.listen(&format!("{ADDRESS} reuseport {word}"))
            .workers(workers)
    };
    let nginx = site.start(&conf("", 2));
    let clients = Steady::start(on, ADDRESS);
    let strace = Strace::attach(&site, nginx.pid, NO_LISTEN, "1+");
    nginx.reload(&conf("mptcp", 4));
    strace.end();
    clients.wait_for_more(50);
    assert!(nginx.listeners().iter().all(|one| !one.is_mptcp()));

    nginx.reload(&conf("mptcp", 4));
    wait_until("the new sockets alone", || {
        let listeners = nginx.listeners();
        listeners.len() == 4 && listeners.iter().all(Listener::is_mptcp)
    });
    clients.wait_for_more(50);
    clients.all_were_served();
    nginx.reload(&conf("mptcp", 4));
    let descriptors = nginx.descriptors().len();
    nginx.reload(&conf("mptcp", 4));
    assert_eq!(nginx.descriptors().len(), descriptors);
    on.serves(ADDRESS, true);
}
