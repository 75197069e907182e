//! System calls that fail while nginx connects to a backend. With `mptcp` nginx behaves and
//! logs as it does without.

use crate::backend::Backend;
use crate::harness::{Site, wait_until};
use crate::linux;
use crate::server::{Conf, Nginx};
use crate::strace::{Fault, Strace};
use crate::subsystem::{Subsystem, subsystem_tests};
use crate::upstream::{BACK, FORMAT, back, front, reply, try_reply, upstream};

subsystem_tests! {
    (stream, http):
        a_failing_call_has_the_same_effect_as_without_mptcp,
        without_free_connections_nginx_logs_it_and_leaks_nothing,
        mptcp_that_is_switched_off_later_is_logged;
}

/// The visible effect of a fault: the answers to clients and the messages in the log.
#[derive(Debug, PartialEq)]
struct Effect {
    answer: Result<String, std::io::ErrorKind>,
    tried: String,
    log: Vec<String>,
}

/// How many descriptors the worker has.
pub fn descriptors(worker: i32) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{worker}/fd"));
    folder.expect("the worker runs").count()
}

/// The messages of a log with their level, but without times and process ids.
fn messages(log: &str) -> Vec<String> {
    let message = |line: &str| {
        let (level, rest) = line.split_once(" [")?.1.split_once("] ")?;
        let (_, text) = rest.split_once(": ")?;
        let matters = ["alert", "crit", "error", "warn"].contains(&level);
        matters.then(|| format!("{level}: {text}"))
    };
    log.lines().filter_map(message).collect()
}

/// An answer without its date, or the kind of the error.
fn undated_answer(on: Subsystem) -> Result<String, std::io::ErrorKind> {
    let answer = try_reply(on).map_err(|error| error.kind())?;
    let lines = answer.lines();
    Ok(lines.filter(|line| !line.starts_with("Date: ")).collect())
}

/// The effect of a call that fails for one client, and of the next client without the fault.
fn effect(site: &Site, on: Subsystem, conf: &Conf, fault: Fault, when: &str) -> Effect {
    let nginx = site.start(conf);
    let worker = nginx.workers()[0];
    // A first client lets nginx open the descriptors that stay open.
    let answer = undated_answer(on);
    let before = descriptors(worker);
    let (mark, lines) = (nginx.log().len(), site.read("up.log").lines().count());
    let strace = Strace::attach(site, worker, fault, when);
    let failing = undated_answer(on);
    wait_until("the log", || site.read("up.log").lines().count() > lines);
    assert!(!strace.end().is_empty(), "{fault:?} has not happened");
    let log = nginx.log()[mark..].to_owned();
    let tried = site.read("up.log").lines().last().unwrap_or("").to_owned();
    wait_until("descriptors as before", || descriptors(worker) == before);
    assert!(answer.is_ok());
    assert_eq!(undated_answer(on), answer);
    assert_eq!(nginx.workers(), [worker]);
    nginx.quit();
    for file in ["error.log", "up.log"] {
        std::fs::remove_file(site.path(file)).expect("it is there");
    }
    Effect {
        answer: failing,
        tried,
        log: messages(&log),
    }
}

/// A backend for stream and http that answers with a line.
fn backend() -> Backend {
    Backend::new(|mut connection| {
        use std::io::Write;
        connection.write_all(b"HTTP/1.0 200 OK\r\n\r\nanswer\n")?;
        connection.shutdown(std::net::Shutdown::Write)?;
        std::io::copy(&mut connection, &mut std::io::sink()).map(drop)
    })
}

fn a_failing_call_has_the_same_effect_as_without_mptcp(on: Subsystem) {
    let site = Site::new();
    let backends = [backend(), backend()];
    let [first, second] = backends.each_ref().map(|one| &one.address);
    let more = "proxy_bind 127.0.0.9;\n    proxy_socket_keepalive on;";
    let keepalive = match on {
        Subsystem::Http => "keepalive 4;",
        _ => "",
    };
    let conf = |word: &str| {
        let lines = format!(
            "server {first} max_fails=0;\n    server {second} max_fails=0 backup;\n    \
             {keepalive}\n    {word}"
        );
        let format = FORMAT.replace("$upstream_mptcp", "$upstream_bytes_received");
        on.conf(&(format + &upstream(&lines) + &front(on, "http", more)))
    };
    for (call, errno, when) in [
        ("socket", libc::EMFILE, "1"),
        ("socket", libc::ENFILE, "1"),
        ("socket", libc::ENOBUFS, "1"),
        ("setsockopt", libc::ENOMEM, "1"),
        ("setsockopt", libc::ENOMEM, "2"),
        ("bind", libc::EADDRNOTAVAIL, "1"),
        ("bind", libc::EADDRINUSE, "1"),
        ("epoll_ctl", libc::ENOMEM, "2"),
        ("connect", libc::ECONNREFUSED, "1"),
        ("connect", libc::ENETUNREACH, "1"),
        ("connect", libc::ENETUNREACH, "1+"),
        ("connect", libc::EACCES, "1"),
        ("connect", libc::EAGAIN, "1"),
        ("connect", libc::EADDRNOTAVAIL, "1"),
    ] {
        // nginx sets SO_KEEPALIVE, and then an option that older MPTCP sockets lack.
        if (call, when) == ("setsockopt", "2") && !linux::has_mptcp_bind_address_no_port() {
            continue;
        }
        site.provoke(errno);
        let fault = Fault { call, errno };
        let own = effect(&site, on, &conf(""), fault, when);
        assert!(!own.log.is_empty(), "{fault:?} {when}: {own:?}");
        let ours = effect(&site, on, &conf("mptcp;"), fault, when);
        assert_eq!(ours, own, "{fault:?} {when}");
    }
}

/// The listener, the channel to the master and the client each use one of nginx's connections, so
/// none is free for the backend.
fn without_free_connections_nginx_logs_it_and_leaks_nothing(on: Subsystem) {
    let site = Site::new();
    let message = "3 worker_connections are not enough";
    site.provoke_text(message);
    let backend = backend();
    let mut logs = Vec::new();
    for word in ["", "mptcp;"] {
        let lines = format!("server {};\n    {word}", backend.address);
        let text = FORMAT.to_owned() + &upstream(&lines) + &front(on, "http", "");
        let nginx = site.start(&on.conf(&text).connections(3));
        let worker = nginx.workers()[0];
        let before = descriptors(worker);
        for _ in 0..20 {
            let answer = try_reply(on).expect("it answers");
            assert!(!answer.contains("answer"), "{word} {answer}");
            if on == Subsystem::Http {
                assert!(answer.contains(" 500 "), "{word} {answer}");
            }
        }
        assert_eq!(nginx.log().matches(message).count(), 20, "{}", nginx.log());
        wait_until("descriptors as before", || descriptors(worker) == before);
        logs.push(messages(&nginx.log()));
        nginx.quit();
        std::fs::remove_file(site.path("error.log")).expect("it is there");
    }
    assert_eq!(logs[0], logs[1]);
}

/// `mptcp on` logs what is missing, and `mptcp auto` falls back to TCP.
fn mptcp_that_is_switched_off_later_is_logged(on: Subsystem) {
    let site = Site::new();
    let start = |word: &str| -> Nginx<'_> {
        let servers = front(on, "http", "") + &back(on, &format!("{BACK} mptcp"), "");
        let lines = format!("server {BACK};\n    mptcp {word};");
        site.start(&on.conf(&(FORMAT.to_owned() + &upstream(&lines) + &servers)))
    };
    for word in ["auto", "on"] {
        let nginx = start(word);
        assert_eq!(reply(on), "on");
        let reason = crate::namespace::switch_mptcp_off();
        site.provoke_text(reason);
        let answer = try_reply(on);
        match word {
            "auto" => assert!(!answer.expect("it answers").contains(" 500 ")),
            _ => {
                let message = format!("socket() failed: {reason}");
                wait_until("the message", || nginx.log().contains(&message));
            }
        }
        let expected = if word == "on" {
            ""
        } else {
            &format!("{BACK}|-")
        };
        wait_until("the log", || site.read("up.log").lines().count() == 2);
        let line = site.read("up.log");
        let line = line.lines().last().unwrap_or_default();
        match expected {
            "" => assert!(["|", "-|-", "|-"].contains(&line), "{line:?}"),
            _ => assert_eq!(line, expected),
        }
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
        crate::namespace::set_sysctl("mptcp/enabled", "1");
    }
}
