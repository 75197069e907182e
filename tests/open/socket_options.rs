//! The socket has every option of its listen directive.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

use libc::{IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
use ngx_rs_listen::open::{TcpOption, check_option};
use ngx_rs_listen::{Error, Listening, Protocol, Request, parse, resolve};

use test_support::listening::*;
use test_support::{linux, namespace};

/// Parses a directive and opens its sockets.
fn opened(directive: &str) -> Vec<Listening> {
    try_open(directive).unwrap_or_else(|error| panic!("{directive}: {error}"))
}

fn try_open(directive: &str) -> Result<Vec<Listening>, Error> {
    let words: Vec<_> = directive.split(' ').map(str::as_bytes).collect();
    let listen = parse::listen(&words, &parse::Rules::default()).expect("it is right");
    let mut sockets = resolve::sockets(&listen).expect("no name");
    open(&mut sockets)?;
    Ok(sockets)
}

/// The limit of a listener's queue, which the kernel reports as `tcpi_sacked`.
fn backlog(fd: &impl AsFd) -> u32 {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    let place = info.as_mut_ptr().cast();
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `info` has room for `size` bytes, and both live through the call.
    let failed = unsafe { libc::getsockopt(fd, IPPROTO_TCP, libc::TCP_INFO, place, &mut size) };
    assert_eq!(failed, 0, "TCP_INFO: {}", io::Error::last_os_error());
    // SAFETY: all bytes may be zero, and the kernel wrote the first ones.
    unsafe { info.assume_init() }.tcpi_sacked
}

#[test]
fn options_are_on_the_socket_of_either_protocol() {
    // The kernel doubles the sizes of buffers to have room for its own data.
    let cases = [
        ("bind", SOL_SOCKET, libc::SO_REUSEADDR, 1),
        ("bind", SOL_SOCKET, libc::SO_REUSEPORT, 0),
        ("reuseport", SOL_SOCKET, libc::SO_REUSEPORT, 1),
        ("rcvbuf=64k", SOL_SOCKET, libc::SO_RCVBUF, 2 * 65536),
        ("sndbuf=96k", SOL_SOCKET, libc::SO_SNDBUF, 2 * 98304),
        ("so_keepalive=on", SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        ("so_keepalive=off", SOL_SOCKET, libc::SO_KEEPALIVE, 0),
        ("so_keepalive=30m", SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        ("so_keepalive=30m", IPPROTO_TCP, libc::TCP_KEEPIDLE, 1800),
        ("so_keepalive=:21", IPPROTO_TCP, libc::TCP_KEEPINTVL, 21),
        ("so_keepalive=::7", IPPROTO_TCP, libc::TCP_KEEPCNT, 7),
        ("so_keepalive=60:5:3", IPPROTO_TCP, libc::TCP_KEEPIDLE, 60),
        ("so_keepalive=60:5:3", IPPROTO_TCP, libc::TCP_KEEPINTVL, 5),
        ("so_keepalive=60:5:3", IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
        ("fastopen=16", IPPROTO_TCP, libc::TCP_FASTOPEN, 16),
        ("deferred", IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 1),
        ("bind", IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 0),
    ];
    namespace::run(|| {
        for request in ["mptcp", "mptcp=auto", "mptcp=off"] {
            for address in ["127.0.0.1:80", "[::1]:80"] {
                for (words, level, name, value) in cases {
                    let directive = format!("{address} {words} {request}");
                    let is_fastopen = name == libc::TCP_FASTOPEN && level == IPPROTO_TCP;
                    if is_fastopen && request != "mptcp=off" && !linux::has_mptcp_fastopen() {
                        let error = try_open(&directive).expect_err("the kernel lacks it");
                        let message = format!("setsockopt(TCP_FASTOPEN, 16) {address} failed");
                        assert_eq!(error.to_string(), message);
                        continue;
                    }
                    let sockets = opened(&directive);
                    assert_eq!(option(fd(&sockets[0]), level, name), value, "{directive}");
                }
            }
        }
    });
}

#[test]
fn ipv6_sockets_accept_no_ipv4_by_default() {
    let cases = [("bind", 1), ("ipv6only=on", 1), ("ipv6only=off", 0)];
    namespace::run(|| {
        for request in ["mptcp", "mptcp=off"] {
            for (words, value) in cases {
                let sockets = opened(&format!("[::]:80 {words} {request}"));
                let found = option(fd(&sockets[0]), IPPROTO_IPV6, libc::IPV6_V6ONLY);
                assert_eq!(found, value, "{words} {request}");
                assert_eq!(is_free("0.0.0.0:80"), value == 1, "{words} {request}");
            }
        }
    });
}

#[test]
fn both_families_can_have_their_wildcard() {
    namespace::run(|| {
        let mut sockets = [mptcp("0.0.0.0:80"), mptcp("[::]:80")];
        open(&mut sockets).expect("IPV6_V6ONLY keeps them apart");
    });
}

#[test]
fn the_backlog_reaches_the_kernel() {
    namespace::run(|| {
        for request in ["mptcp", "mptcp=off"] {
            for (words, length) in [("bind", 511), ("backlog=64", 64), ("backlog=1024", 1024)] {
                let sockets = opened(&format!("127.0.0.1:80 {words} {request}"));
                assert_eq!(backlog(fd(&sockets[0])), length, "{words} {request}");
            }
        }
    });
}

#[test]
fn four_workers_can_have_a_socket_each() {
    namespace::run(|| {
        let mut sockets = [(); 4].map(|()| {
            let mut socket = mptcp("127.0.0.1:80");
            socket.options.flags |= ngx_rs_listen::flag::REUSEPORT;
            socket
        });
        open(&mut sockets).expect("they share the port");
        let _clients = connect("127.0.0.1:80", 100);
        let served: Vec<_> = sockets.iter().map(|socket| waiting(fd(socket))).collect();
        assert_eq!(served.iter().sum::<usize>(), 100);
        assert!(served.iter().all(|&count| count > 0), "{served:?}");
    });
}

#[test]
fn an_option_that_the_kernel_refuses_is_an_error() {
    namespace::run(|| {
        let before = namespace::descriptors();
        for request in [MPTCP, OFF, Request::AUTO] {
            let mut socket = stream("127.0.0.1:80", Some(request));
            socket.options.keepcnt = Some(1_000_000);
            let error = open(&mut [socket]).expect_err("no kernel sends so many probes");
            let message = "setsockopt(TCP_KEEPCNT, 1000000) 127.0.0.1:80 failed";
            assert_eq!(error.to_string(), message);
            assert_eq!(error.os_errno(), libc::EINVAL);
        }
        assert_eq!(namespace::descriptors(), before);
    });
}

#[test]
fn options_that_a_protocol_lacks_are_found_without_a_listener() {
    namespace::run(|| {
        let before = namespace::descriptors();
        for option in [
            TcpOption::Deferred,
            TcpOption::FastOpen,
            TcpOption::KeepaliveTimes,
        ] {
            check_option(Protocol::Tcp, option).expect("TCP has all");
            for _ in 0..2 {
                let checked = check_option(Protocol::Mptcp, option);
                if option == TcpOption::FastOpen && !linux::has_mptcp_fastopen() {
                    let error = checked.expect_err("the kernel lacks it");
                    let message = "MPTCP sockets have no \"fastopen\" before Linux 6.2";
                    assert_eq!(error.to_string(), message);
                } else {
                    checked.unwrap_or_else(|error| panic!("{option:?}: {error}"));
                }
            }
        }
        let error = check_option(Protocol::Smc, TcpOption::FastOpen).expect_err("none has it");
        assert_eq!(error.to_string(), "smc sockets have no \"fastopen\"");
        assert_eq!(namespace::descriptors(), before);
    });
}
