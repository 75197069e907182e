//! A running nginx that has too few descriptors, or for which system calls are forbidden or
//! MPTCP is switched off.

use std::io;
use std::net::TcpListener;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Connection, Transport};
use crate::forbidden::{OPTION, start_without};
use crate::harness::{Site, send_signal, wait_until};
use crate::namespace::set_sysctl;
use crate::seccomp::SOCKET_DOMAIN;
use crate::server::Nginx;
use crate::sockets::{Listener, listening_on};
use crate::steady::Steady;
use crate::strace::{Fault, Strace};
use crate::subsystem::{Subsystem, test_on};

const ADDRESS: &str = "127.0.0.1:8080";

/// An address that a test itself listens on.
const BUSY: &str = "127.0.0.1:9999";

/// Sets how many descriptors the master may have open. The hard limit does not change.
fn limit_descriptors(nginx: &Nginx, count: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let (pid, which) = (nginx.pid, libc::RLIMIT_NOFILE);
    // SAFETY: `limit` has room for the answer.
    let asked = unsafe { libc::prlimit(pid, which, ptr::null(), &raw mut limit) };
    assert_eq!(asked, 0, "{}", io::Error::last_os_error());
    limit.rlim_cur = count;
    // SAFETY: `limit` lives through the call.
    let set = unsafe { libc::prlimit(pid, which, &raw const limit, ptr::null_mut()) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

fn count(number: usize) -> u64 {
    number.try_into().expect("a small number")
}

/// Repeats a reload with a few more descriptors each time, until it succeeds and loses no
/// client.
#[test_on(stream, http)]
fn a_reload_without_enough_descriptors_changes_nothing_or_succeeds(on: Subsystem) {
    let site = Site::new();
    let words = |word: &str| format!("127.0.0.1:8080-8099 {word}");
    let conf = |word: &str| on.listen(&words(word)).workers(2);
    let nginx = site.start(&conf(""));
    let (mut refused, mut second_best) = (0, 0);
    let mut limit = count(nginx.descriptors().len());
    loop {
        nginx.reload(&conf(""));
        wait_until("the TCP sockets alone", || {
            nginx.listeners().len() == 20 && nginx.listeners().iter().all(|one| !one.is_mptcp())
        });
        nginx.reload(&conf(""));
        let (listeners, descriptors) = (nginx.listeners(), nginx.descriptors());
        limit_descriptors(&nginx, limit);
        let outcome = nginx.try_reload(&conf("mptcp"));
        limit_descriptors(&nginx, 4096);
        nginx.wait_for_workers(2);
        match outcome {
            Err(log) => {
                let emerg = |line: &str| line.contains("[emerg]") && line.contains("(24: ");
                assert!(log.lines().any(emerg), "{limit}: {log}");
                let now = (nginx.listeners(), nginx.descriptors());
                assert_eq!(now, (listeners, descriptors), "{limit}");
                on.serves(ADDRESS, false);
                refused += 1;
            }
            Ok(log) => {
                on.serves(ADDRESS, true);
                on.serves("127.0.0.1:8099", true);
                if !log.contains("not enough descriptors to drain old listening sockets") {
                    break;
                }
                second_best += 1;
            }
        }
        limit += 5;
    }
    assert!(refused > 0, "some were refused");
    assert!(second_best > 0, "some could not drain");
}

#[test_on(stream, http, mail)]
fn mptcp_listeners_keep_serving_when_mptcp_is_switched_off(on: Subsystem) {
    let site = Site::new();
    let conf = |more: &[&str]| on.servers(&[&["127.0.0.1:8080 mptcp"], more].concat());
    let nginx = site.start(&conf(&[]));
    let listener = nginx.listener();
    let asks = |address: &str| {
        let (answer, _) = on
            .request_answer(Transport::Tcp, address)
            .expect("TCP is served");
        assert_eq!(answer, on.answer());
    };
    set_sysctl("mptcp/enabled", "0");
    asks(ADDRESS);
    nginx.reload(&conf(&[]));
    assert_eq!(nginx.listener(), listener, "it needs no new socket");
    let descriptors = nginx.descriptors();

    let log = nginx.try_reload(&conf(&["127.0.0.1:8081 mptcp"]));
    let log = log.expect_err("the reload fails");
    let message =
        "socket() 127.0.0.1:8081 failed: MPTCP is switched off, set sysctl net.mptcp.enabled=1";
    assert!(log.contains("[emerg]") && log.contains(message), "{log}");
    assert_eq!(
        (nginx.listener(), nginx.descriptors()),
        (listener.clone(), descriptors)
    );
    asks(ADDRESS);

    let auto = conf(&["127.0.0.1:8081-8082 mptcp=auto"]);
    let log = nginx.try_reload(&auto).expect("it falls back");
    assert_eq!(log.matches("[warn]").count(), 1, "{log}");
    assert!(log.contains("\"mptcp=auto\" falls back to TCP"), "{log}");
    nginx.wait_for_workers(1);
    let listeners = nginx.listeners();
    assert_eq!(listeners.len(), 3);
    assert!(listeners.contains(&listener), "it goes on");
    assert_eq!(listeners.iter().filter(|one| one.is_mptcp()).count(), 1);
    [ADDRESS, "127.0.0.1:8081", "127.0.0.1:8082"]
        .into_iter()
        .for_each(asks);

    set_sysctl("mptcp/enabled", "1");
    nginx.reload(&auto);
    wait_until("MPTCP sockets alone", || {
        let listeners = nginx.listeners();
        listeners.len() == 3 && listeners.iter().all(Listener::is_mptcp)
    });
    on.serves("127.0.0.1:8081", true);
    on.serves(ADDRESS, true);
}

#[test_on(stream, http)]
fn a_kernel_that_cannot_direct_clients_is_logged_and_nginx_serves(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("[::1]:8080 {word}"));
    let nginx = start_without(&site, &conf(""), OPTION, libc::SO_BINDTOIFINDEX);
    for word in ["mptcp", "", "mptcp"] {
        let mark = nginx.log().len();
        nginx.reload(&conf(word));
        let notice = "setsockopt(SO_BINDTOIFINDEX) [::1]:8080 failed, new connections may be lost \
                      until the old socket is closed (1: Operation not permitted)";
        let log = nginx.log()[mark..].to_owned();
        let notices = log.lines().filter(|line| line.contains(notice));
        assert_eq!(
            notices.filter(|line| line.contains("[notice]")).count(),
            1,
            "{log}"
        );
        wait_until("the new socket alone", || listening_on(8080) == 1);
        on.serves("[::1]:8080", !word.is_empty());
        nginx.reload(&conf(word));
        assert_eq!(nginx.listener().is_mptcp(), !word.is_empty());
    }
}

#[test_on(stream, http)]
fn a_kernel_that_cannot_share_an_address_changes_nothing(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("127.0.0.1:8080 {word}"));
    let nginx = start_without(&site, &conf(""), OPTION, libc::SO_REUSEPORT);
    let (listener, descriptors) = (nginx.listener(), nginx.descriptors());
    let log = nginx.try_reload(&conf("mptcp"));
    let log = log.expect_err("the reload fails");
    let message = "setsockopt(SO_REUSEPORT) 127.0.0.1:8080 failed (1: Operation not permitted)";
    assert!(log.contains("[emerg]") && log.contains(message), "{log}");
    assert_eq!(
        (nginx.listener(), nginx.descriptors()),
        (listener, descriptors)
    );
    on.serves(ADDRESS, false);
    nginx.reload(&conf("").with_text(&on.server("127.0.0.1:8081 mptcp")));
    on.serves("127.0.0.1:8081", true);
}

#[test_on(stream, http)]
fn without_netlink_an_old_socket_ends_when_its_time_is_up(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("127.0.0.1:8080 {word}"));
    let nginx = start_without(&site, &conf(""), SOCKET_DOMAIN, libc::AF_NETLINK);
    nginx.reload(&conf("mptcp"));
    on.serves(ADDRESS, true);
    wait_until("the new socket alone", || listening_on(8080) == 1);
    assert!(nginx.listener().is_mptcp());
    on.serves(ADDRESS, true);
}

/// The workers that end the drain exit after the second reload and have closed the new sockets.
/// So the workers of the second reload have to restore SO_REUSEPORT on these sockets.
#[test_on(stream, http)]
fn all_workers_share_an_address_after_a_reload_ended_a_drain(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("{ADDRESS} reuseport {word}")).workers(2);
    let nginx = start_without(&site, &conf(""), SOCKET_DOMAIN, libc::AF_NETLINK);
    for word in ["mptcp", "mptcp"] {
        nginx.begin_reload(&conf(word));
        // The workers of the first reload need time to watch the old sockets.
        thread::sleep(Duration::from_secs(2));
    }
    all_share(&nginx, 2);
}

/// Less than a second: a client whose SYN gets no answer sends it again after a second, so a
/// client that takes longer has lost a SYN.
const AT_ONCE: Duration = Duration::from_millis(900);

/// Connects repeatedly over TCP and MPTCP, and checks that each client is answered at once.
fn is_answered_at_once(on: Subsystem, address: &str, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        for transport in [Transport::Tcp, Transport::Mptcp] {
            let asked = Instant::now();
            on.request_answer(transport, address).expect("it is served");
            let took = asked.elapsed();
            assert!(took < AT_ONCE, "{address}, {transport:?}: {took:?}");
        }
    }
}

/// Old sockets drain for 5 seconds, because the kernel does not report when their handshakes
/// have ended.
#[test_on(stream, http)]
fn clients_are_answered_at_once_while_the_next_change_fails(on: Subsystem) {
    for address in [ADDRESS, "[::1]:8080"] {
        let site = Site::new();
        let _holder = TcpListener::bind(BUSY).expect("the port is free in a new namespace");
        let conf = |word: &str| on.listen(&format!("{address} {word}")).workers(2);
        let nginx = start_without(&site, &conf(""), SOCKET_DOMAIN, libc::AF_NETLINK);
        nginx.begin_reload(&conf("mptcp"));
        site.write(&conf("").with_text(&on.server(BUSY)));
        let mark = nginx.log().len();
        nginx.signal(libc::SIGHUP);
        // nginx tries the busy port for two seconds.
        is_answered_at_once(on, address, Duration::from_secs(2));
        nginx.reloaded(mark).expect_err("the port is busy");
        is_answered_at_once(on, address, Duration::from_millis(300));
        wait_until("the new socket alone", || listening_on(8080) == 1);
        assert_eq!(nginx.listener().option("SO_REUSEPORT"), 0);
        on.serves(address, true);
    }
}

/// Waits until the sockets of all workers have SO_REUSEPORT and so share new connections.
fn all_share(nginx: &Nginx, workers: usize) {
    wait_until("connections for all workers", || {
        let listeners = nginx.listeners();
        listeners.len() == workers && listeners.iter().all(|one| one.option("SO_REUSEPORT") == 1)
    });
}

const REUSEPORT: [&str; 2] = ["127.0.0.1:8080 reuseport", "[::1]:8080 reuseport"];

#[test_on(stream, http)]
fn all_workers_get_clients_when_a_failed_reload_outlasts_a_drain(on: Subsystem) {
    for words in REUSEPORT {
        let site = Site::new();
        let _holder = TcpListener::bind(BUSY).expect("the port is free in a new namespace");
        let conf = |word: &str| on.listen(&format!("{words} {word}")).workers(2);
        let nginx = start_without(&site, &conf(""), SOCKET_DOMAIN, libc::AF_NETLINK);
        nginx.begin_reload(&conf("mptcp"));
        thread::sleep(Duration::from_millis(3500));
        let clients = Steady::start(on, words.split(' ').next().expect("an address"));
        let log = nginx.try_reload(&conf("").with_text(&on.server(BUSY)));
        log.expect_err("the port is busy");
        all_share(&nginx, 2);
        clients.all_were_served();
    }
}

#[test_on(stream, http)]
fn all_workers_get_clients_when_some_are_added_during_a_drain(on: Subsystem) {
    for words in REUSEPORT {
        for word in ["mptcp", ""] {
            let site = Site::new();
            let before = if word.is_empty() { "mptcp" } else { "" };
            let conf =
                |word: &str, workers: usize| on.listen(&format!("{words} {word}")).workers(workers);
            let nginx = start_without(&site, &conf(before, 2), SOCKET_DOMAIN, libc::AF_NETLINK);
            let clients = Steady::start(on, words.split(' ').next().expect("an address"));
            // An old worker may accept before it learns that it has to quit. Its listener
            // does not listen any more, so accept() fails.
            site.provoke(libc::EINVAL);
            nginx.begin_reload(&conf(word, 2));
            nginx.wait_for_workers(2);
            let log = nginx.begin_reload(&conf(word, 4));
            let notice = "early, because a new one must be bound";
            assert_eq!(log.matches(notice).count(), 1, "{log}");
            all_share(&nginx, 4);
            clients.wait_for_more(50);
        }
    }
}

#[test_on(stream, http)]
fn all_workers_get_clients_when_the_module_is_removed_after_a_change(on: Subsystem) {
    for words in REUSEPORT {
        let site = Site::new();
        let conf = |word: &str| on.listen(&format!("{words} {word}")).workers(2);
        let nginx = site.start(&conf("mptcp"));
        nginx.begin_reload(&conf(""));
        nginx.begin_reload(&conf("").without_module());
        all_share(&nginx, 2);
        wait_until("the old sockets to go", || listening_on(8080) == 2);
    }
}

/// The reloads follow each other faster than a worker polls its draining sockets.
#[test_on(stream, http)]
fn old_sockets_do_not_pile_up_under_fast_reloads(on: Subsystem) {
    for address in [ADDRESS, "[::1]:8080"] {
        let site = Site::new();
        let conf = |word: &str| on.listen(&format!("{address} {word}")).workers(2);
        let nginx = site.start(&conf(""));
        let before = nginx.descriptors().len();
        let clients = Steady::start(on, address);
        // An old worker may accept before it learns that it has to quit. Its listener does
        // not listen any more, so accept() fails.
        site.provoke(libc::EINVAL);
        for round in 0..40 {
            nginx.begin_reload(&conf(["mptcp", ""][round % 2]));
        }
        let more = nginx.descriptors().len() - before;
        // If no drain ended, there would be about 200 more descriptors. Workers that have
        // not exited yet account for some.
        assert!(more < 80, "{more} descriptors more");
        clients.wait_for_more(50);
        wait_until("the new socket alone", || listening_on(8080) == 1);
    }
}

#[test_on(stream, http)]
fn old_sockets_end_when_new_workers_have_too_few_descriptors(on: Subsystem) {
    for words in REUSEPORT {
        let site = Site::new();
        // A worker may accept before it learns that it has to quit. Its listener does not
        // listen any more, so accept() fails.
        site.provoke(libc::EINVAL);
        let conf =
            |word: &str, more: &str| on.listen(&format!("{words} {word}")).workers(2).main(more);
        let nginx = start_without(&site, &conf("", ""), SOCKET_DOMAIN, libc::AF_NETLINK);
        nginx.begin_reload(&conf("mptcp", ""));
        let log = nginx.begin_reload(&conf("mptcp", "worker_rlimit_nofile 24;"));
        assert!(log.contains("not enough descriptors to drain"), "{log}");
        all_share(&nginx, 2);
        wait_until("the old sockets to go", || listening_on(8080) == 2);
    }
}

#[test_on(stream, http)]
fn workers_start_with_a_low_limit_of_descriptors(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| {
        let listen = on.listen(&format!("127.0.0.1:8080-8119 {word}"));
        listen.workers(2).main("worker_rlimit_nofile 70;")
    };
    let nginx = site.start(&conf(""));
    let log = nginx.begin_reload(&conf("mptcp"));
    assert!(log.contains("not enough descriptors to drain"), "{log}");
    nginx.wait_for_workers(2);
    on.serves(ADDRESS, true);
}

/// Clients wait on an old socket. A worker accepts from it until the worker has no free
/// descriptors.
#[test_on(stream, http)]
fn a_worker_accepts_again_when_it_has_free_descriptors(on: Subsystem) {
    let site = Site::new();
    // When the worker accepts again, its listener may have ended, so accept() may fail.
    site.provoke(libc::EINVAL);
    let conf = |word: &str| {
        let listen = on.listen(&format!("{ADDRESS} {word}"));
        listen.main("worker_rlimit_nofile 40;")
    };
    let nginx = start_without(&site, &conf(""), SOCKET_DOMAIN, libc::AF_NETLINK);
    let old = nginx.workers()[0];
    send_signal(old, libc::SIGSTOP);
    let clients: Vec<_> = (0..60)
        .map(|_| Connection::open(Transport::Tcp, ADDRESS).expect("it takes connections"))
        .collect();
    nginx.begin_reload(&conf("mptcp"));
    wait_until("the end of the old socket", || listening_on(8080) == 1);
    drop(clients);
    send_signal(old, libc::SIGCONT);
    wait_until("a client that is served", || {
        on.request_answer(Transport::Tcp, ADDRESS).is_ok()
    });
}

#[test_on(stream, http)]
fn a_worker_that_cannot_watch_an_old_socket_serves(on: Subsystem) {
    let site = Site::new();
    let fault = Fault {
        call: "epoll_ctl",
        errno: libc::ENOMEM,
    };
    site.provoke(fault.errno);
    let conf = |word: &str| on.listen(&format!("{ADDRESS} {word}"));
    let nginx = site.start(&conf(""));
    // The fourth call of a worker watches the old socket. The calls before it watch its
    // channel and its own listener.
    let strace = Strace::follow(&site, nginx.pid, fault, "4");
    nginx.begin_reload(&conf("mptcp"));
    wait_until("the old worker to go", || nginx.workers().len() == 1);
    strace.end();
    let notice = "could not watch the draining socket on 127.0.0.1:8080";
    assert!(nginx.log().contains(notice));
    on.serves(ADDRESS, true);
}
