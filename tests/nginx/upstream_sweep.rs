//! Makes each system call of a worker for a backend over MPTCP fail in turn. nginx serves the
//! client or logs the reason, and no descriptor leaks.

use std::io::{self, Write};
use std::net::TcpStream;

use crate::backend::{Backend, read_head};
use crate::client::Transport;
use crate::harness::{Site, wait_until};
use crate::server::Conf;
use crate::strace::Strace;
use crate::subsystem::Subsystem;
use crate::sweep::{sweep, sweeps};
use crate::upstream::{FORMAT, front, try_reply, upstream};
use crate::upstream_faults::descriptors;

sweeps! {
    http_socket: backends(Http, socket) [EMFILE ENFILE ENOBUFS ENOMEM EACCES EINVAL EPROTONOSUPPORT];
    http_setsockopt: backends(Http, setsockopt) [ENOPROTOOPT EOPNOTSUPP EPERM ENOMEM EINVAL];
    http_getsockopt: backends(Http, getsockopt) [ENOPROTOOPT EOPNOTSUPP EPERM EINVAL];
    http_bind: backends(Http, bind) [EADDRNOTAVAIL EADDRINUSE EACCES ENOMEM EINVAL];
    http_connect: backends(Http, connect) [ECONNREFUSED ENETUNREACH EHOSTUNREACH EAGAIN EACCES EADDRNOTAVAIL ETIMEDOUT];
    http_epoll_ctl: backends(Http, epoll_ctl) [ENOMEM ENOSPC EPERM];

    stream_socket: backends(Stream, socket) [EMFILE ENFILE ENOBUFS ENOMEM EACCES EINVAL EPROTONOSUPPORT];
    stream_setsockopt: backends(Stream, setsockopt) [ENOPROTOOPT EOPNOTSUPP EPERM ENOMEM EINVAL];
    stream_getsockopt: backends(Stream, getsockopt) [ENOPROTOOPT EOPNOTSUPP EPERM EINVAL];
    stream_bind: backends(Stream, bind) [EADDRNOTAVAIL EADDRINUSE EACCES ENOMEM EINVAL];
    stream_connect: backends(Stream, connect) [ECONNREFUSED ENETUNREACH EHOSTUNREACH EAGAIN EACCES EADDRNOTAVAIL ETIMEDOUT];
    stream_epoll_ctl: backends(Stream, epoll_ctl) [ENOMEM ENOSPC EPERM];
}

/// The answer of the servers.
const ANSWER: &str = "answer";

/// Answers HTTP requests until the client closes the connection.
fn http(mut connection: TcpStream) -> io::Result<()> {
    loop {
        read_head(&mut connection)?;
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer")?;
    }
}

/// Answers, and waits until the client closes the connection.
fn line(mut connection: TcpStream) -> io::Result<()> {
    connection.write_all(ANSWER.as_bytes())?;
    connection.shutdown(std::net::Shutdown::Write)?;
    io::copy(&mut connection, &mut io::sink()).map(drop)
}

/// An upstream with two servers. nginx tries the second server as it would without MPTCP. In http
/// nginx keeps the connection for a second request.
fn conf(on: Subsystem, [first, second]: [&str; 2]) -> Conf {
    let (keepalive, kept) = match on {
        Subsystem::Http => (
            "keepalive 1;\n    keepalive_requests 2;",
            "proxy_http_version 1.1;\n        proxy_set_header Connection \"\";",
        ),
        _ => ("", ""),
    };
    let lines = format!(
        "server {first} max_fails=0;\n    server {second} max_fails=0 backup;\n    \
         {keepalive}\n    mptcp auto;"
    );
    let more = format!("proxy_bind 127.0.0.9;\n    proxy_socket_keepalive on;\n    {kept}");
    on.conf(&(FORMAT.to_owned() + &upstream(&lines) + &front(on, "http", &more)))
}

/// Checks that nginx serves a client or logs the reason.
fn backends(on: Subsystem, call: &'static str, errnos: &[i32]) {
    let site = Site::new();
    let answers = match on {
        Subsystem::Http => http,
        _ => line,
    };
    let servers = [(); 2].map(|()| Backend::at(Transport::Mptcp, "127.0.0.1:0", answers));
    let nginx = site.start(&conf(
        on,
        servers.each_ref().map(|one| one.address.as_str()),
    ));
    let worker = nginx.workers()[0];
    let serve = || {
        let answer = try_reply(on).expect("it answers");
        assert!(answer.ends_with(ANSWER), "{answer}");
    };
    // The second request uses, and so closes, the connection of the first one.
    (0..2).for_each(|_| serve());
    let before = descriptors(worker);
    sweep(&site, call, errnos, |fault, when| {
        let mark = nginx.log().len();
        let strace = Strace::attach(&site, worker, fault, when);
        let answer = try_reply(on);
        let failed = strace.end();
        let log = nginx.log()[mark..].to_owned();
        let case = format!("{fault:?} {when}: {failed:?}: {answer:?}: {log}");
        let is_served = answer.is_ok_and(|answer| answer.ends_with(ANSWER));
        let errno = format!("({}: ", fault.errno);
        assert!(is_served || log.contains(&errno), "{case}");
        assert_eq!(nginx.workers(), [worker], "{case}");
        wait_until(&format!("{before} descriptors after {case}"), || {
            serve();
            descriptors(worker) == before
        });
        failed
    });
    nginx.quit();
}
