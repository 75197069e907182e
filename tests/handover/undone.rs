//! A handover that fails or is rolled back restores the old sockets.

use std::os::fd::{AsFd, AsRawFd};

use ngx_rs_listen::drain::Room;
use ngx_rs_listen::{
    Disposition, Drain, Inherited, Listening, Open, Outcome, Protocol, flag, open,
};
use socket2::{Domain, Socket, Type};

use test_support::listening::*;
use test_support::namespace;
use test_support::seccomp::{self, Argument};

fn prepared(sockets: &mut [Listening], inherited: &mut [Inherited<'_>]) {
    let mut how = Open {
        prepare: true,
        ..Open::default()
    };
    open::listening(sockets, inherited, &mut how).expect("both protocols are there");
}

/// Whether a socket with SO_REUSEPORT could be bound beside this address.
fn can_be_joined(text: &str) -> bool {
    bound(text, Protocol::Tcp, true).is_ok()
}

#[test]
fn rollback_restores_the_old_socket() {
    namespace::run(|| {
        for text in ["127.0.0.1:80", "[::1]:80"] {
            for (number, request) in [(Protocol::Tcp, MPTCP), (Protocol::Mptcp, OFF)] {
                let old = listener(text, number, false);
                let before = namespace::descriptors();
                let mut inherited = [Inherited::new(&old)];
                let mut sockets = [stream(text, Some(request))];
                prepared(&mut sockets, &mut inherited);
                assert!(shares(&old) && can_be_joined(text));

                drop(sockets);
                open::rollback(&mut inherited);
                assert!(!shares(&old), "{text} {number}");
                assert_eq!(namespace::descriptors(), before);
                let _clients = connect(text, 100);
                assert_eq!(waiting(&old), 100);
                // A second rollback changes nothing.
                open::rollback(&mut inherited);
                assert!(!shares(&old));
            }
        }
    });
}

#[test]
fn a_socket_that_was_shared_before_stays_so() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = listener(text, Protocol::Tcp, true);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [mptcp(text)];
        prepared(&mut sockets, &mut inherited);
        drop(sockets);
        open::rollback(&mut inherited);
        assert!(shares(&old));
    });
}

#[test]
fn a_failure_rolls_back_all_earlier_sockets() {
    namespace::run(|| {
        let texts = ["127.0.0.1:80", "127.0.0.1:81", "[::1]:80", "127.0.0.1:82"];
        let protocols = [
            Protocol::Tcp,
            Protocol::Mptcp,
            Protocol::Tcp,
            Protocol::Mptcp,
        ];
        let old: Vec<Socket> = texts
            .iter()
            .zip(protocols)
            .map(|(text, protocol)| listener(text, protocol, false))
            .collect();
        let _holder = listener("127.0.0.1:99", Protocol::Tcp, false);
        for prepare in [true, false] {
            let before = namespace::descriptors();
            let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
            // Two inherited sockets are superseded, one is kept, and one is unused.
            let mut sockets = vec![
                mptcp("127.0.0.1:80"),
                mptcp("127.0.0.1:81"),
                mptcp("[::1]:80"),
                mptcp("127.0.0.1:98"),
                mptcp("127.0.0.1:99"),
            ];
            let mut how = Open {
                prepare,
                ..Open::default()
            };
            let error = open::listening(&mut sockets, &mut inherited, &mut how);
            assert!(error.expect_err("port 99 is taken").is_address_in_use());
            assert_eq!(namespace::descriptors(), before);
            assert!(sockets.iter().all(|socket| socket.fd.is_none()));
            assert!(
                inherited
                    .iter()
                    .all(|old| old.disposition() == Disposition::Unused)
            );
            for (old, text) in old.iter().zip(texts) {
                assert!(!shares(old) && listens(old), "{text}");
                let _clients = connect(text, 100);
                assert_eq!(waiting(old), 100, "{text}");
            }
            assert!(is_free("127.0.0.1:98"));
        }
    });
}

#[test]
fn rollback_restores_all_sockets_of_a_group() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [(); 3].map(|()| listener(text, Protocol::Tcp, true));
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        let mut sockets = [(); 2].map(|()| {
            let mut socket = mptcp(text);
            socket.options.flags |= flag::REUSEPORT;
            socket
        });
        prepared(&mut sockets, &mut inherited);
        drop(sockets);
        open::rollback(&mut inherited);
        assert!(old.iter().all(shares));
        let _clients = connect(text, 100);
        assert_eq!(old.iter().map(waiting).sum::<usize>(), 100);
    });
}

#[test]
fn a_socket_that_cannot_listen_is_replaced_by_the_old_one() {
    namespace::run(|| {
        let texts = ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"];
        // A UDP socket on the same port is not used in place of the TCP socket.
        let udp_socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("UDP");
        let bound = udp_socket.bind(&inet(texts[1]).into());
        bound.expect("the port is free");
        let old = texts.map(|text| listener(text, Protocol::Tcp, false));
        let mut inherited = vec![Inherited::new(&udp_socket)];
        inherited.extend(old.iter().map(Inherited::new));
        let mut sockets = texts.map(mptcp);
        sockets[1].options.backlog = 77;
        prepared(&mut sockets, &mut inherited);
        let before = namespace::descriptors();
        let numbers = sockets.each_ref().map(|socket| fd(socket).as_raw_fd());
        seccomp::refuse(seccomp::LISTEN_BACKLOG, 77, libc::EADDRINUSE);
        let error = open::commit(&mut sockets, &mut inherited).expect_err("the address is in use");
        assert_eq!(
            error.to_string(),
            "listen() to 127.0.0.1:81, backlog 77 failed, keeping the old socket"
        );
        assert_eq!(error.os_errno(), libc::EADDRINUSE);
        assert_eq!(namespace::descriptors(), before);
        assert!(sockets.iter().all(|socket| listens(fd(socket))));
        assert_eq!(sockets[1].outcome, Outcome::Failed(2));
        assert_eq!(sockets[1].protocol, Protocol::Tcp);
        let now = sockets.each_ref().map(|socket| fd(socket).as_raw_fd());
        assert_eq!(now, numbers);
        assert_eq!(cookie(fd(&sockets[1])), cookie(&old[1]));
        assert!(!shares(&old[1]), "the address is its own again");
        assert!(listens(&old[1]) && !closes_on_exec(fd(&sockets[1])));
        let dispositions: Vec<_> = inherited.iter().map(Inherited::disposition).collect();
        let (unused, superseded) = (Disposition::Unused, Disposition::Superseded);
        assert_eq!(
            dispositions,
            [unused, superseded, Disposition::Kept, superseded]
        );

        // The other two superseded sockets drain. The old socket that was kept does not.
        let mut drain = Drain::new().expect("shared memory");
        let begun = drain.begin(&sockets, &mut inherited, Room::default());
        begun.expect("new connections can be directed");
        assert_eq!(drain.len(), 2);
        let _clients = connect(texts[1], 100);
        drop(drain);
        assert_eq!(waiting(fd(&sockets[1])), 100);
    });
}

#[test]
fn a_group_of_workers_of_which_none_can_listen_keeps_the_old_ones() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [(); 2].map(|()| listener(text, Protocol::Tcp, true));
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        let mut sockets = [(); 3].map(|()| {
            let mut socket = mptcp(text);
            socket.options.flags |= flag::REUSEPORT;
            socket.options.backlog = 77;
            socket
        });
        prepared(&mut sockets, &mut inherited);
        seccomp::refuse(seccomp::LISTEN_BACKLOG, 77, libc::EADDRINUSE);
        open::commit(&mut sockets, &mut inherited).expect_err("the address is in use");
        let outcomes = sockets.each_ref().map(|socket| socket.outcome);
        assert_eq!(outcomes, [0, 1, 0].map(Outcome::Failed));
        let _clients = connect(text, 100);
        assert_eq!(old.iter().map(waiting).sum::<usize>(), 100);
    });
}

#[test]
fn a_new_socket_of_a_group_that_cannot_listen_is_replaced_by_an_old_one() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = listener(text, Protocol::Mptcp, true);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [(); 2].map(|()| {
            let mut socket = mptcp(text);
            socket.options.flags |= flag::REUSEPORT;
            socket.options.backlog = 77;
            socket
        });
        prepared(&mut sockets, &mut inherited);
        seccomp::refuse(seccomp::LISTEN_BACKLOG, 77, libc::EADDRINUSE);
        open::commit(&mut sockets, &mut inherited).expect_err("the address is in use");
        let outcomes = sockets.each_ref().map(|socket| socket.outcome);
        assert_eq!(outcomes, [Outcome::Inherited(0), Outcome::Failed(0)]);
        assert_eq!(cookie(fd(&sockets[1])), cookie(&old));
        assert!(shares(&old));
    });
}

#[test]
fn a_commit_that_leaves_an_address_shared_reports_an_error() {
    const OPTION: Argument = (libc::SYS_setsockopt, 2);
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = listener(text, Protocol::Tcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [mptcp(text)];
        prepared(&mut sockets, &mut inherited);
        seccomp::refuse(OPTION, libc::SO_REUSEPORT, libc::EPERM);
        let error = open::commit(&mut sockets, &mut inherited).expect_err("it is refused");
        let message = "setsockopt(SO_REUSEPORT) 127.0.0.1:80 failed, new connections may be \
                       lost until the old socket is closed";
        assert_eq!(error.to_string(), message);
        assert_eq!(error.os_errno(), libc::EPERM);
        assert_eq!(sockets[0].outcome, Outcome::Successor);
        assert!(listens(fd(&sockets[0])));
    });
}

#[test]
fn descriptors_of_the_caller_are_never_closed() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Tcp, false);
        let same = |fd: &Socket| fd.as_fd().try_clone_to_owned().is_ok();
        for _ in 0..3 {
            let mut inherited = [Inherited::new(&old)];
            let mut sockets = [mptcp("127.0.0.1:80")];
            prepared(&mut sockets, &mut inherited);
            drop(sockets);
            open::rollback(&mut inherited);
            assert!(same(&old) && listens(&old));
        }
    });
}
