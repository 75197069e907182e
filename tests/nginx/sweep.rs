//! Makes each system call of the module fail in turn: the first call of a name, the second one,
//! and so on until there are no more.
//!
//! This also makes calls of nginx itself fail. The requirement is the same for both: either
//! nginx reports an error and the old configuration stays in use, or nginx continues and logs
//! what does not work. Clients are served throughout, no descriptor leaks, and the same step
//! succeeds without the fault.
//!
//! close(2) is not tested: strace would skip the call, but on Linux close(2) always closes the
//! descriptor, even if it returns an error.

use std::net::TcpListener;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::harness::{Site, send_signal, wait_for_ok, wait_until};
use crate::server::{Conf, Nginx};
use crate::sockets::{Listener, listening_on};
use crate::steady::{Lost, Steady};
use crate::strace::{self, Fault, Strace};
use crate::subsystem::Subsystem;
use crate::upgrade::{retire, upgrade};

/// Generates two tests for each call: one with the first errno, and one with every errno for
/// `make sweep`.
macro_rules! sweeps {
    ($($name:ident: $sweep:ident($on:ident, $call:ident) [$($errno:ident)+];)+) => {$(
        mod $name {
            use crate::subsystem::Subsystem::$on;

            const CALL: &str = stringify!($call);
            const ERRNOS: &[i32] = &[$(libc::$errno),+];

            #[test]
            fn each_with_one_errno() {
                super::$sweep($on, CALL, &ERRNOS[..1]);
            }

            #[test]
            #[ignore = "takes minutes: make sweep"]
            fn each_with_every_errno() {
                super::$sweep($on, CALL, ERRNOS);
            }
        }
    )+};
}
pub(crate) use sweeps;

sweeps! {
    start_socket: starts(Http, socket) [EMFILE ENFILE ENOBUFS ENOMEM EACCES EINVAL EPROTONOSUPPORT];
    start_setsockopt: starts(Stream, setsockopt) [ENOMEM EPERM ENOPROTOOPT EINVAL];
    start_bind: starts(Mail, bind) [EACCES EADDRNOTAVAIL ENOMEM EINVAL EADDRINUSE];
    start_listen: starts(Http, listen) [EADDRINUSE EACCES ENOBUFS];

    reload_socket: reloads(Http, socket) [EMFILE ENFILE ENOBUFS ENOMEM EACCES EINVAL EPROTONOSUPPORT];
    reload_getsockopt: reloads(Stream, getsockopt) [EPERM ENOPROTOOPT EOPNOTSUPP EINVAL];
    reload_setsockopt: reloads(Http, setsockopt) [EPERM ENOMEM ENOPROTOOPT EINVAL];
    reload_bind: reloads(Stream, bind) [EADDRINUSE EACCES EADDRNOTAVAIL ENOMEM EINVAL];
    reload_listen: reloads(Http, listen) [EADDRINUSE EACCES ENOBUFS];
    reload_fcntl: reloads(Stream, fcntl) [EPERM EINVAL];

    upgrade_socket: upgrades(Stream, socket) [EMFILE ENOMEM EACCES];
    upgrade_setsockopt: upgrades(Stream, setsockopt) [EPERM ENOMEM];

    drain_socket: drains(Stream, socket) [EMFILE EAFNOSUPPORT EPROTONOSUPPORT EPERM];
    drain_sendto: drains(Stream, sendto) [ENOBUFS EPERM EINTR];
    drain_recvfrom: drains(Stream, recvfrom) [ENOBUFS EINTR ENOMEM];
    drain_getsockopt: drains(Stream, getsockopt) [EPERM ENOPROTOOPT];
    drain_setsockopt: drains(Stream, setsockopt) [EPERM ENOMEM];
    drain_shutdown: drains(Stream, shutdown) [EPERM ENOBUFS];
    drain_epoll_ctl: drains(Stream, epoll_ctl) [ENOMEM EPERM];
}

/// This is a separate test, because nginx itself makes most of these calls.
#[test]
#[ignore = "takes minutes: make sweep"]
fn upgrade_getsockopt() {
    let errnos = [libc::EPERM, libc::ENOPROTOOPT];
    upgrades(Subsystem::Http, "getsockopt", &errnos);
}

const ADDRESSES: [&str; 2] = ["127.0.0.1:8080", "[::1]:8080"];

/// One socket on IPv4, and on IPv6 one socket for each of two workers.
fn conf(on: Subsystem, word: &str) -> Conf {
    let more = if on.knows("reuseport") {
        "reuseport"
    } else {
        ""
    };
    let [v4, v6] = ADDRESSES;
    let words = [format!("{v4} {word}"), format!("{v6} {more} {word}")];
    on.servers(&words.each_ref().map(String::as_str)).workers(2)
}

/// The listeners of the current configuration, without draining sockets.
fn in_force(nginx: &Nginx) -> Vec<Listener> {
    let mut listeners = nginx.listeners();
    let all = listeners.clone();
    // On IPv4 only draining sockets have SO_REUSEPORT.
    let shares = |one: &Listener| one.option("SO_REUSEPORT") == 1;
    let replaced = |than: &Listener| {
        let alone = |one: &Listener| one.address == than.address && !shares(one);
        than.address.is_ipv4() && shares(than) && all.iter().any(alone)
    };
    listeners.retain(|one| !one.hidden && !replaced(one));
    // The worker that ends a drain changes SO_REUSEPORT of the new sockets at any time, so the
    // option is not compared.
    for one in &mut listeners {
        one.options.remove("SO_REUSEPORT");
    }
    listeners.sort_by_key(|listener| listener.inode);
    listeners
}

/// Waits until only the sockets of the configuration listen.
fn wait_for_protocol(nginx: &Nginx, count: usize, word: &str) {
    wait_for_ok(|| {
        let listeners = in_force(nginx);
        let right = |one: &Listener| one.is_mptcp() != word.is_empty();
        match listeners.len() == count && listeners.iter().all(right) {
            true => Ok(()),
            false => Err(format!("{word:?} expected: {listeners:#?}")),
        }
    });
}

fn can_be_bound() {
    for address in ADDRESSES {
        let bound = TcpListener::bind(address);
        bound.unwrap_or_else(|error| panic!("{address} is still bound: {error}"));
    }
}

/// Checks that a log has an error with the errno of the failed call.
fn names_the_failed_call(log: &str, fault: Fault) {
    let errno = format!("({}: ", fault.errno);
    let level = |line: &str| line.contains("[emerg]") || line.contains("[crit]");
    let says = |line: &str| level(line) && line.contains(&errno);
    assert!(log.lines().any(says), "{fault:?}: {log}");
}

/// For each errno, calls `one` with the number of the call that has to fail: 1, 2 and so on.
/// `one` returns the failed calls. The sweep of an errno ends when no call fails.
pub fn sweep(
    site: &Site,
    call: &'static str,
    errnos: &[i32],
    mut one: impl FnMut(Fault, &str) -> Vec<String>,
) {
    for &errno in errnos {
        site.provoke(errno);
        let fault = Fault { call, errno };
        let mut count = 0;
        for when in 1.. {
            let failed = one(fault, &when.to_string());
            if failed.is_empty() {
                break;
            }
            count += 1;
        }
        assert!(count > 0, "{fault:?} has never happened");
        if errnos.len() > 1 {
            one(fault, "1+");
            count += 1;
        }
        println!("{call} failed with errno {errno}, {count} cases");
    }
}

/// Starts nginx with each fault.
fn starts(on: Subsystem, call: &'static str, errnos: &[i32]) {
    let site = Site::new();
    sweep(&site, call, errnos, |fault, when| {
        site.write(&conf(on, "mptcp"));
        let strace = fault.strace(when);
        let strace: Vec<&str> = strace.iter().map(String::as_str).collect();
        let outcome = site.run(&mut site.nginx_under(&strace, &[]));
        if outcome.status.success() {
            let nginx = site.running();
            nginx.wait_for_workers(2);
            assert!(nginx.listeners().iter().all(Listener::is_mptcp));
            ADDRESSES
                .iter()
                .for_each(|address| on.serves(address, true));
            nginx.quit();
        } else {
            names_the_failed_call(&outcome.fails(), fault);
        }
        can_be_bound();
        site.injected()
    });
}

/// Changes the protocol by a reload with each fault, alternately to MPTCP and to TCP.
fn reloads(on: Subsystem, call: &'static str, errnos: &[i32]) {
    let site = Site::new();
    let nginx = site.start(&conf(on, ""));
    let (count, descriptors) = (nginx.listeners().len(), nginx.descriptors().len());
    let clients = Steady::many(on, &ADDRESSES, 2, Duration::from_millis(5));
    let mut announced = Vec::new();
    sweep(&site, call, errnos, |fault, when| {
        let mut failed = Vec::new();
        for word in ["mptcp", ""] {
            let (mark, began) = (nginx.log().len(), Instant::now());
            failed.extend(reload(&site, &nginx, &conf(on, word), word, fault, when));
            clients.wait_for_more(8);
            nginx.reload(&conf(on, word));
            wait_for_protocol(&nginx, count, word);
            clients.wait_for_more(8);
            let log = nginx.log()[mark..].to_owned();
            let announces = ["may be lost", "connections in its queue are reset"];
            if announces.iter().any(|text| log.contains(text)) {
                announced.push(began..Instant::now());
            }
        }
        failed
    });
    let mut lost = clients.stop().lost;
    lost.retain(|Lost { time, .. }| {
        let during = |when: &Range<Instant>| time.start < when.end && when.start < time.end;
        !announced.iter().any(during)
    });
    assert!(lost.is_empty(), "lost without a word of it: {lost:?}");
    wait_until("descriptors as before", || {
        nginx.reload(&conf(on, ""));
        nginx.descriptors().len() == descriptors
    });
    ADDRESSES
        .iter()
        .for_each(|address| on.serves(address, false));
    nginx.quit();
    can_be_bound();
}

/// Reloads once with a fault, and returns the failed calls.
fn reload(
    site: &Site,
    nginx: &Nginx,
    conf: &Conf,
    word: &str,
    fault: Fault,
    when: &str,
) -> Vec<String> {
    let (before, held) = (in_force(nginx), nginx.descriptors());
    let strace = Strace::attach(site, nginx.pid, fault, when);
    let outcome = nginx.try_reload(conf);
    let failed = strace.end();
    let case = format!("{fault:?} {when} to {word:?}: {failed:?}");
    match outcome {
        Err(log) => {
            names_the_failed_call(&log, fault);
            assert_eq!(in_force(nginx), before, "{case}: the old sockets go on");
            let mut now = nginx.descriptors();
            now.retain(|fd, target| held.get(fd) != Some(target));
            assert!(now.is_empty(), "{case}: leaked {now:?}");
        }
        Ok(log) => {
            // The call of nginx itself that starts a worker has failed, so nginx has no
            // such worker.
            if log.contains("while spawning") {
                return Vec::new();
            }
            nginx.wait_for_workers(2);
            const DIRECT: [&str; 3] = ["SO_BINDTOIFINDEX", "SO_COOKIE", "SO_REUSEPORT, [0]"];
            let directs = |call: &String| DIRECT.iter().any(|option| call.contains(option));
            let unmarked = failed.iter().any(directs);
            for one in in_force(nginx) {
                let kept = format!("keeping the old socket on {}", one.address);
                assert!(
                    one.is_mptcp() != word.is_empty() || unmarked || log.contains(&kept),
                    "{case}: {one:?}: {log}"
                );
            }
        }
    }
    failed
}

/// Changes the protocol by a binary upgrade and a reload with each fault, alternately to MPTCP
/// and to TCP.
fn upgrades(on: Subsystem, call: &'static str, errnos: &[i32]) {
    let site = Site::new();
    let mut nginx = site.start(&conf(on, ""));
    let (count, descriptors) = (nginx.listeners().len(), nginx.descriptors().len());
    sweep(&site, call, errnos, |fault, when| {
        let mut failed = Vec::new();
        for word in ["mptcp", "mptcp=off"] {
            let before = in_force(&nginx);
            site.write(&conf(on, word));
            let strace = Strace::follow(&site, nginx.pid, fault, when);
            let outcome = try_upgrade(&site, &nginx);
            failed.extend(strace.end());
            let new = outcome.unwrap_or_else(|log| {
                names_the_failed_call(&log, fault);
                assert_eq!(in_force(&nginx), before, "{fault:?} {when}");
                ADDRESSES
                    .iter()
                    .for_each(|address| on.serves(address, word != "mptcp"));
                upgrade(&site, &nginx, 2)
            });
            retire(&nginx);
            nginx = new;
            nginx.reload(&conf(on, word));
            wait_for_protocol(&nginx, count, if word == "mptcp" { word } else { "" });
            ADDRESSES
                .iter()
                .for_each(|address| on.serves(address, word == "mptcp"));
        }
        failed
    });
    wait_until("descriptors as before", || {
        nginx.reload(&conf(on, ""));
        nginx.descriptors().len() == descriptors
    });
    nginx.quit();
    can_be_bound();
}

/// Makes the running master start a second one. The error contains what was logged.
fn try_upgrade<'site>(site: &'site Site, old: &Nginx) -> Result<Nginx<'site>, String> {
    let mark = old.log().len();
    old.signal(libc::SIGUSR2);
    let log = || old.log()[mark..].to_owned();
    wait_for_ok(|| {
        if log().contains("exited with code 1") {
            // The old master has restored its pid file, so the upgrade has failed.
            let back = site.read("nginx.pid").trim() == old.pid.to_string();
            return if back { Ok(Err(log())) } else { Err(log()) };
        }
        match site.read("nginx.pid").trim().parse::<i32>() {
            Ok(pid) if pid != old.pid && log().contains("start worker process") => {
                let new = site.running();
                new.wait_for_workers(2);
                Ok(Ok(new))
            }
            _ => Err(log()),
        }
    })
}

/// Makes the calls fail by which a worker ends superseded sockets, after reloads to MPTCP and
/// to TCP alternately.
fn drains(on: Subsystem, call: &'static str, errnos: &[i32]) {
    let site = Site::new();
    let conf = |word: &str| conf(on, word).workers(1);
    let nginx = site.start(&conf(""));
    let (count, descriptors) = (nginx.listeners().len(), nginx.descriptors().len());
    sweep(&site, call, errnos, |fault, when| {
        let mut failed = Vec::new();
        for word in ["mptcp", ""] {
            let serve = || {
                let serve = |address: &&str| on.serves(address, !word.is_empty());
                ADDRESSES.iter().for_each(serve);
            };
            let mark = nginx.log().len();
            let strace = loop {
                nginx.begin_reload(&conf(word));
                if let Some(strace) = catch_drain(&site, &nginx, count, fault, when) {
                    break strace;
                }
                nginx.reload(&conf(if word.is_empty() { "mptcp" } else { "" }));
                wait_until("the new sockets alone", || listening_on(8080) == count);
            };
            let unending = || nginx.log()[mark..].contains("[alert]");
            wait_until("the end", || listening_on(8080) == count || unending());
            failed.extend(strace.end());
            serve();
            nginx.reload(&conf(word));
            wait_until("the new sockets alone", || listening_on(8080) == count);
            wait_for_protocol(&nginx, count, word);
            serve();
        }
        failed
    });
    nginx.reload(&conf(""));
    wait_until("descriptors as before", || {
        nginx.reload(&conf(""));
        nginx.descriptors().len() == descriptors
    });
    nginx.quit();
    can_be_bound();
}

/// Makes calls of the worker fail. Returns None if it has ended the old sockets already.
fn catch_drain<'site>(
    site: &'site Site,
    nginx: &Nginx,
    count: usize,
    fault: Fault,
    when: &str,
) -> Option<Strace<'site>> {
    wait_until("one worker", || nginx.workers().len() == 1);
    let worker = nginx.workers()[0];
    strace::stop(worker);
    let strace = Strace::attach(site, worker, fault, when);
    let in_time = listening_on(8080) > count;
    send_signal(worker, libc::SIGCONT);
    in_time.then_some(strace)
}
