//! The properties of a new socket.

use std::fs;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use ngx_rs_listen::{Listening, Outcome, Protocol, parse, resolve};
use socket2::{Domain, SockRef, Socket, Type};

use test_support::listening::*;
use test_support::namespace;

fn flags(fd: &impl AsFd, command: i32) -> i32 {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: these commands of fcntl(2) take no argument.
    let flags = unsafe { libc::fcntl(fd, command) };
    assert!(flags >= 0, "fcntl({command}) of an open descriptor");
    flags
}

/// Whether the socket is non-blocking and inherited across exec.
fn is_as_nginx_wants_it(fd: &impl AsFd) -> bool {
    flags(fd, libc::F_GETFL) & libc::O_NONBLOCK != 0
        && flags(fd, libc::F_GETFD) & libc::FD_CLOEXEC == 0
}

#[test]
fn mptcp_sockets_listen_on_all_kinds_of_addresses() {
    namespace::run(|| {
        let addresses = ["127.0.0.1:80", "[::1]:80", "0.0.0.0:81", "[::]:82"];
        let mut sockets = addresses.map(mptcp);
        open(&mut sockets).expect("MPTCP is there, and the ports are free");
        for (socket, text) in sockets.iter().zip(addresses) {
            let fd = fd(socket);
            assert_eq!(protocol(fd), 262, "{text}");
            assert!(listens(fd), "{text}");
            assert!(is_as_nginx_wants_it(fd), "{text}");
            let bound = SockRef::from(fd).local_addr().expect("it is bound");
            assert_eq!(bound.as_socket(), Some(inet(text)));
            assert_eq!(socket.outcome, Outcome::Opened);
            assert_eq!(socket.protocol, Protocol::Mptcp);
        }
    });
}

#[test]
fn clients_of_both_kinds_are_accepted() {
    namespace::run(|| {
        let mut sockets = [mptcp("127.0.0.1:80")];
        open(&mut sockets).expect("MPTCP is there, and the port is free");
        let _plain = TcpStream::connect("127.0.0.1:80").expect("a TCP client");
        let listener = SockRef::from(fd(&sockets[0]));
        let (accepted, _) = listener.accept_raw().expect("a connection waits");
        assert_eq!(protocol(&accepted), 6);

        let number = Protocol::Mptcp.number().into();
        let client = Socket::new(Domain::IPV4, Type::STREAM, Some(number)).expect("MPTCP");
        client
            .connect(&inet("127.0.0.1:80").into())
            .expect("an MPTCP client");
        let (accepted, _) = listener.accept_raw().expect("a connection waits");
        assert_eq!(protocol(&accepted), 262);
    });
}

#[test]
fn without_a_requested_protocol_a_socket_is_plain_tcp() {
    namespace::run(|| {
        let mut sockets = [tcp("127.0.0.1:80"), stream("[::1]:80", Some(OFF))];
        open(&mut sockets).expect("the ports are free");
        for socket in &sockets {
            assert_eq!(protocol(fd(socket)), 6);
            assert!(listens(fd(socket)));
            assert!(is_as_nginx_wants_it(fd(socket)));
            assert_eq!(socket.protocol, Protocol::Tcp);
        }
    });
}

#[test]
fn udp_sockets_are_bound_and_need_no_listen() {
    namespace::run(|| {
        // A TCP socket may be on the same port.
        let mut sockets = [udp("127.0.0.1:53"), udp("[::1]:53"), mptcp("127.0.0.1:53")];
        open(&mut sockets).expect("the ports are free");
        assert_eq!(protocol(fd(&sockets[0])), libc::IPPROTO_UDP);
        assert_eq!(protocol(fd(&sockets[1])), libc::IPPROTO_UDP);
        assert_eq!(protocol(fd(&sockets[2])), 262);
        assert!(
            sockets
                .iter()
                .all(|socket| is_as_nginx_wants_it(fd(socket)))
        );
    });
}

#[test]
fn unix_sockets_are_open_to_everybody() {
    namespace::run(|| {
        let path = std::env::temp_dir().join(format!("ngx-rs-fresh-{}", std::process::id()));
        let mut sockets = [tcp(&format!("unix:{}", path.display()))];
        open(&mut sockets).expect("the path is free");
        let file = fs::metadata(&path).expect("the socket is there");
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, 0o666);
        assert!(listens(fd(&sockets[0])));
        assert!(is_as_nginx_wants_it(fd(&sockets[0])));
        fs::remove_file(&path).expect("it is ours");
    });
}

#[test]
fn a_parsed_directive_can_be_opened_without_changes() {
    namespace::run(|| {
        let words = [b"[::1]:7000-7009".as_slice(), b"mptcp", b"backlog=64"];
        let listen = parse::listen(&words, &parse::Rules::default()).expect("it is right");
        let mut sockets = resolve::sockets(&listen).expect("no name");
        open(&mut sockets).expect("MPTCP is there, and the ports are free");
        let ports = sockets.iter().map(|socket| {
            let bound = SockRef::from(fd(socket)).local_addr().expect("it is bound");
            bound.as_socket().expect("IPv6").port()
        });
        assert!(ports.eq(7000..=7009));
    });
}

#[test]
fn opening_no_socket_succeeds() {
    namespace::run(|| {
        let before = namespace::descriptors();
        open(&mut []).expect("nothing can fail");
        assert_eq!(namespace::descriptors(), before);
    });
}

#[test]
fn one_call_opens_a_thousand_sockets() {
    namespace::run(|| {
        let before = namespace::descriptors();
        let mut sockets: Vec<Listening> = (1..=1000)
            .map(|port| mptcp(&format!("127.0.0.1:{port}")))
            .collect();
        open(&mut sockets).expect("MPTCP is there, and the ports are free");
        assert_eq!(namespace::descriptors(), before + 1000);
        drop(sockets);
        assert_eq!(namespace::descriptors(), before);
    });
}
