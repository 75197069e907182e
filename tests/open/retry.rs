//! Opening an address that is in use is retried, because the address may become free.

use std::time::{Duration, Instant};

use ngx_rs_listen::open::Report;
use ngx_rs_listen::{Open, Outcome, Protocol, open};

use test_support::listening::*;
use test_support::namespace;
use test_support::seccomp;

const DELAY: Duration = Duration::from_millis(20);

/// A short text for a report.
fn brief(report: &Report<'_>) -> String {
    match report {
        Report::InUse(error) => format!("{error}, {}", error.os_errno()),
        Report::Waiting(delay) => format!("waiting {}ms", delay.as_millis()),
        other => format!("{other:?}"),
    }
}

#[test]
fn succeeds_when_the_address_becomes_free() {
    namespace::run(|| {
        let mut holder = Some(listener("127.0.0.1:81", Protocol::Tcp, false));
        let mut said = Vec::new();
        let mut report = |report: Report<'_>| {
            said.push(brief(&report));
            if said.len() == 4 {
                holder = None;
            }
        };
        let addresses = ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"];
        let mut sockets = addresses.map(mptcp);
        let mut how = Open {
            tries: 5,
            delay: DELAY,
            report: Some(&mut report),
            ..Open::default()
        };
        open::listening(&mut sockets, &mut [], &mut how).expect("the holder leaves");
        for socket in &sockets {
            assert_eq!(socket.outcome, Outcome::Opened);
            assert!(listens(fd(socket)));
            assert_eq!(protocol(fd(socket)), 262);
        }
        let in_use = format!("bind() to 127.0.0.1:81 failed, {}", libc::EADDRINUSE);
        let once = [in_use.as_str(), "waiting 20ms"];
        assert_eq!(said, [once, once].concat());
    });
}

#[test]
fn gives_up_in_the_end_and_leaves_nothing_open() {
    namespace::run(|| {
        let _holder = listener("127.0.0.1:81", Protocol::Tcp, false);
        let before = namespace::descriptors();
        let mut said = Vec::new();
        let mut report = |report: Report<'_>| said.push(brief(&report));
        let mut how = Open {
            tries: 3,
            delay: DELAY,
            report: Some(&mut report),
            ..Open::default()
        };
        let mut sockets = ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"].map(mptcp);
        let start = Instant::now();
        let error = open::listening(&mut sockets, &mut [], &mut how).expect_err("in use");
        assert!(start.elapsed() >= 2 * DELAY);
        assert_eq!(error.to_string(), "bind() to 127.0.0.1:81 failed");
        assert!(error.is_address_in_use());
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(namespace::descriptors(), before);
        assert!(is_free("127.0.0.1:80") && is_free("127.0.0.1:82"));
    });
}

#[test]
fn every_address_in_use_is_reported_before_a_wait() {
    namespace::run(|| {
        let addresses = ["127.0.0.1:80", "127.0.0.1:81"];
        let mut holders = addresses.map(|at| Some(listener(at, Protocol::Mptcp, false)));
        let mut said = Vec::new();
        let mut report = |report: Report<'_>| {
            said.push(brief(&report));
            if matches!(report, Report::Waiting(_)) {
                // One address becomes free before the second try, and one before the third.
                let next = holders.iter_mut().find(|holder| holder.is_some());
                drop(next.and_then(Option::take));
            }
        };
        let mut how = Open {
            tries: 3,
            report: Some(&mut report),
            ..Open::default()
        };
        let mut sockets = addresses.map(mptcp);
        open::listening(&mut sockets, &mut [], &mut how).expect("both leave");
        let in_use = |at| format!("bind() to {at} failed, {}", libc::EADDRINUSE);
        let [first, second] = addresses.map(in_use);
        let waiting = "waiting 0ms".to_owned();
        assert_eq!(
            said,
            [&first, &second, &waiting, &second, &waiting].map(String::clone)
        );
    });
}

#[test]
fn once_is_the_default_and_other_errors_are_never_retried() {
    namespace::run(|| {
        let _holder = listener("127.0.0.1:81", Protocol::Tcp, false);
        let mut reports = 0;
        for (tries, address) in [
            (0, "127.0.0.1:81"),
            (1, "127.0.0.1:81"),
            (9, "192.0.2.1:80"),
        ] {
            let mut report = |_: Report<'_>| reports += 1;
            let mut how = Open {
                tries,
                delay: Duration::from_secs(600),
                report: Some(&mut report),
                ..Open::default()
            };
            let error = open::listening(&mut [mptcp(address)], &mut [], &mut how);
            let message = error.expect_err("it cannot be bound").to_string();
            assert_eq!(message, format!("bind() to {address} failed"));
        }
        assert_eq!(reports, 0);
    });
}

#[test]
fn an_address_that_is_in_use_at_listen_is_bound_anew() {
    namespace::run(|| {
        // listen() can fail so after a virtual machine was suspended. nginx's
        // ngx_open_listening_sockets() has a comment on this case.
        seccomp::refuse(seccomp::LISTEN_BACKLOG, 77, libc::EADDRINUSE);
        let before = namespace::descriptors();
        let mut said = Vec::new();
        let mut report = |report: Report<'_>| said.push(brief(&report));
        let mut how = Open {
            tries: 3,
            report: Some(&mut report),
            ..Open::default()
        };
        let mut sockets = [mptcp("127.0.0.1:80")];
        sockets[0].options.backlog = 77;
        let error = open::listening(&mut sockets, &mut [], &mut how).expect_err("in use");
        let message = "listen() to 127.0.0.1:80, backlog 77 failed";
        assert_eq!(error.to_string(), message);
        let in_use = format!("{message}, {}", libc::EADDRINUSE);
        let once = [in_use.as_str(), "waiting 0ms"];
        assert_eq!(said, [once, once].concat());
        assert_eq!(namespace::descriptors(), before);
    });
}
