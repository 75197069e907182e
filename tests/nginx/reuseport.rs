//! `mptcp` with `reuseport`: one socket for each worker.

use std::collections::BTreeMap;

use crate::client::Transport;
use crate::harness::{Site, wait_until};
use crate::server::{Conf, Nginx};
use crate::sockets::Listener;
use crate::subsystem::{Subsystem, test_on};

const ADDRESS: &str = "127.0.0.1:8080";

/// A server that answers with the process id of its worker.
fn conf(on: Subsystem, words: &str, workers: usize) -> Conf {
    let server = on.server_with(&format!("127.0.0.1:8080 {words}"), "", "$pid");
    on.conf(&server).workers(workers)
}

/// How many of `count` clients each worker has served.
fn served_by(on: Subsystem, count: usize) -> BTreeMap<i32, usize> {
    let mut served = BTreeMap::new();
    for number in 0..count {
        let transport = if number % 2 == 0 {
            Transport::Mptcp
        } else {
            Transport::Tcp
        };
        let (answer, _) = on
            .request_answer(transport, ADDRESS)
            .expect("every client is served");
        *served
            .entry(answer.trim().parse().expect("the answer is a process id"))
            .or_default() += 1;
    }
    served
}

/// Waits until nginx has `count` sockets of the protocol and as many workers,
/// and checks that each worker gets its share of the clients.
fn each_worker_serves(on: Subsystem, nginx: &Nginx, count: usize, mptcp: bool) {
    nginx.wait_for_workers(count);
    // The new sockets share the address when the old sockets have ended.
    wait_until("one socket for each worker", || {
        let listeners = nginx.listeners();
        let expected = |one: &Listener| one.is_mptcp() == mptcp && one.option("SO_REUSEPORT") == 1;
        listeners.len() == count && listeners.iter().all(expected)
    });

    let served = served_by(on, 160);
    let workers: Vec<i32> = served.keys().copied().collect();
    assert_eq!(workers, nginx.workers(), "each worker serves: {served:?}");
    // The kernel selects a socket by a hash, so the shares differ. A quarter of an even
    // share is far below the least share that is likely.
    assert!(
        served.values().all(|&clients| clients > 160 / count / 4),
        "{served:?}"
    );
}

#[test_on(stream, http)]
fn four_workers_have_four_mptcp_sockets_and_all_serve(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&conf(on, "mptcp reuseport", 4));
    each_worker_serves(on, &nginx, 4, true);
}

#[test_on(stream, http)]
fn the_number_of_workers_changes_by_reload(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&conf(on, "mptcp reuseport", 4));
    let descriptors = nginx.descriptors().len();
    for workers in [2, 4, 1, 4] {
        nginx.reload(&conf(on, "mptcp reuseport", workers));
        each_worker_serves(on, &nginx, workers, true);
    }
    wait_until("descriptors as before", || {
        nginx.descriptors().len() == descriptors
    });
}

#[test_on(stream, http)]
fn an_unchanged_reload_keeps_all_sockets(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&conf(on, "mptcp reuseport", 4));
    let listeners = nginx.listeners();
    nginx.reload(&conf(on, "mptcp reuseport", 4));
    assert_eq!(nginx.listeners(), listeners);
    each_worker_serves(on, &nginx, 4, true);
}

#[test_on(stream, http)]
fn the_protocol_changes_with_reuseport(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&conf(on, "reuseport", 2));
    each_worker_serves(on, &nginx, 2, false);
    let descriptors = nginx.descriptors().len();
    for word in ["mptcp", "", "multipath"] {
        let conf = conf(on, &format!("{word} reuseport"), 2);
        nginx.reload(&conf);
        each_worker_serves(on, &nginx, 2, !word.is_empty());
        // This reload makes the master close the superseded sockets.
        nginx.reload(&conf);
        wait_until("descriptors as before", || {
            nginx.descriptors().len() == descriptors
        });
    }
}

#[test_on(stream, http)]
fn protocol_and_number_of_workers_change_together(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&conf(on, "reuseport", 2));
    nginx.reload(&conf(on, "mptcp reuseport", 4));
    each_worker_serves(on, &nginx, 4, true);
    nginx.reload(&conf(on, "reuseport", 3));
    each_worker_serves(on, &nginx, 3, false);
}

#[test_on(stream, http)]
fn reuseport_is_added_and_removed_by_reload(on: Subsystem) {
    for word in ["", "mptcp"] {
        let site = Site::new();
        let nginx = site.start(&conf(on, word, 2));
        nginx.reload(&conf(on, "mptcp reuseport", 2));
        each_worker_serves(on, &nginx, 2, true);
        nginx.reload(&conf(on, word, 2));
        wait_until("one socket", || {
            nginx.listeners().len() == 1 && nginx.listener().is_mptcp() != word.is_empty()
        });
        assert_eq!(served_by(on, 20).values().sum::<usize>(), 20);
    }
}
