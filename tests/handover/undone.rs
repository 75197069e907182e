//! A handover that does not come to its end leaves everything as it was.

use std::os::fd::AsFd;

use ngx_rs_listen::{Fate, Inherited, Listening, Open, Outcome, Protocol, flag, handover, open};
use socket2::Socket;

use crate::common::namespace;
use crate::common::seccomp::{self, Argument};
use crate::common::socket::*;

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
fn rolling_back_makes_the_old_socket_what_it_was() {
    namespace::run(|| {
        for text in ["127.0.0.1:80", "[::1]:80"] {
            for (number, wish) in [(Protocol::Tcp, MPTCP), (Protocol::Mptcp, OFF)] {
                let old = listener(text, number, false);
                let before = namespace::descriptors();
                let mut inherited = [Inherited::new(&old)];
                let mut sockets = [stream(text, Some(wish))];
                prepared(&mut sockets, &mut inherited);
                assert!(shares(&old) && can_be_joined(text));

                drop(sockets);
                handover::rollback(&mut inherited);
                assert!(!shares(&old), "{text} {number}");
                assert_eq!(namespace::descriptors(), before);
                let _clients = connect(text, 100);
                assert_eq!(waiting(&old), 100);
                // Once more changes nothing.
                handover::rollback(&mut inherited);
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
        handover::rollback(&mut inherited);
        assert!(shares(&old));
    });
}

#[test]
fn a_later_failure_undoes_what_came_before() {
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
            // Two change their protocol, one goes on, one is not asked for.
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
            assert!(inherited.iter().all(|old| old.fate() == Fate::Unused));
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
fn a_group_of_workers_is_undone_as_a_whole() {
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
        handover::rollback(&mut inherited);
        assert!(old.iter().all(shares));
        let _clients = connect(text, 100);
        assert_eq!(old.iter().map(waiting).sum::<usize>(), 100);
    });
}

#[test]
fn a_commit_that_fails_says_which_socket() {
    namespace::run(|| {
        let texts = ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"];
        let old = texts.map(|text| listener(text, Protocol::Tcp, false));
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        let mut sockets = texts.map(mptcp);
        sockets[1].options.backlog = 77;
        prepared(&mut sockets, &mut inherited);
        seccomp::refuse(seccomp::LISTEN_BACKLOG, 77, libc::EADDRINUSE);
        let error = handover::commit(&mut sockets).expect_err("the address is in use");
        assert_eq!(
            error.to_string(),
            "listen() to 127.0.0.1:81, backlog 77 failed"
        );
        assert_eq!(error.os_errno(), libc::EADDRINUSE);
        let listening = sockets.each_ref().map(|socket| listens(fd(socket)));
        assert_eq!(listening, [true, false, true], "the others go on");
        assert_eq!(sockets[1].outcome, Outcome::Failed);
    });
}

#[test]
fn a_commit_that_leaves_an_address_shared_says_so() {
    const OPTION: Argument = (libc::SYS_setsockopt, 2);
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = listener(text, Protocol::Tcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [mptcp(text)];
        prepared(&mut sockets, &mut inherited);
        seccomp::refuse(OPTION, libc::SO_REUSEPORT, libc::EPERM);
        let error = handover::commit(&mut sockets).expect_err("it is refused");
        let message = "setsockopt(SO_REUSEPORT) 127.0.0.1:80 failed";
        assert_eq!(error.to_string(), message);
        assert_eq!(error.os_errno(), libc::EPERM);
        assert_eq!(sockets[0].outcome, Outcome::Replaced);
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
            handover::rollback(&mut inherited);
            assert!(same(&old) && listens(&old));
        }
    });
}
