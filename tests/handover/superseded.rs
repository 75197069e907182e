//! An address changes its protocol: the old socket serves until the commit, and the successor
//! afterwards.

use ngx_rs_listen::{
    Disposition, Inherited, Listening, Open, Outcome, Protocol, Request, flag, open,
};
use socket2::Socket;

use test_support::listening::*;
use test_support::namespace;

const CLIENTS: usize = 100;

fn prepare(sockets: &mut [Listening], inherited: &mut [Inherited<'_>]) {
    let mut how = Open {
        prepare: true,
        ..Open::default()
    };
    open::listening(sockets, inherited, &mut how).expect("both protocols are there");
}

/// Changes the protocol of one address, and checks which socket accepts the clients before and
/// after the commit.
fn switch(text: &str, old: Socket, request: Request) -> Listening {
    let mut inherited = [Inherited::new(&old)];
    let mut sockets = [stream(text, Some(request))];
    prepare(&mut sockets, &mut inherited);
    let [mut socket] = sockets;
    assert_eq!(socket.outcome, Outcome::Successor);
    assert_eq!(inherited[0].disposition(), Disposition::Superseded);
    assert_eq!(protocol(fd(&socket)), request.protocol.number());
    assert!(listens(&old) && !listens(fd(&socket)));

    let clients = connect(text, CLIENTS);
    assert_eq!(
        waiting(&old),
        CLIENTS,
        "the old one serves until the commit"
    );
    drop(clients);

    open::commit(std::slice::from_mut(&mut socket), &mut inherited).expect("it can listen");
    assert!(listens(fd(&socket)));
    drop(old);
    let _clients = connect(text, CLIENTS);
    assert_eq!(
        waiting(fd(&socket)),
        CLIENTS,
        "the new one serves from now on"
    );
    socket
}

#[test]
fn from_tcp_to_mptcp_and_back() {
    namespace::run(|| {
        for text in ["127.0.0.1:80", "[::1]:80"] {
            let before = namespace::descriptors();
            let mut socket: Socket = listener(text, Protocol::Tcp, false);
            for request in [MPTCP, OFF, MPTCP, OFF] {
                let new = switch(text, socket, request);
                socket = new.fd.expect("it was opened").into();
            }
            drop(socket);
            assert_eq!(namespace::descriptors(), before);
            assert!(is_free(text));
        }
    });
}

#[test]
fn only_the_successor_has_the_address_after_the_commit() {
    namespace::run(|| {
        for share in [false, true] {
            let old = listener("127.0.0.1:80", Protocol::Tcp, share);
            let mut inherited = [Inherited::new(&old)];
            let mut sockets = [mptcp("127.0.0.1:80")];
            if share {
                sockets[0].options.flags |= flag::REUSEPORT;
            }
            prepare(&mut sockets, &mut inherited);
            assert!(shares(fd(&sockets[0])));
            open::commit(&mut sockets, &mut inherited).expect("it can listen");
            assert_eq!(shares(fd(&sockets[0])), share);
        }
    });
}

#[test]
fn auto_supersedes_tcp_if_the_kernel_has_mptcp() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Tcp, false);
        let socket = switch("127.0.0.1:80", old, Request::AUTO);
        assert_eq!(socket.protocol, Protocol::Mptcp);
    });
}

#[test]
fn mptcp_without_a_requested_protocol_becomes_tcp() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Mptcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [tcp("127.0.0.1:80")];
        prepare(&mut sockets, &mut inherited);
        assert_eq!(sockets[0].outcome, Outcome::Successor);
        assert_eq!(protocol(fd(&sockets[0])), 6);
    });
}

#[test]
fn without_prepare_the_successor_listens_at_once() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Tcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [mptcp("127.0.0.1:80"), mptcp("127.0.0.1:81")];
        open_beside(&mut sockets, &mut inherited).expect("it is superseded");
        assert_eq!(sockets[0].outcome, Outcome::Successor);
        assert_eq!(sockets[1].outcome, Outcome::Opened);
        assert!(listens(fd(&sockets[0])) && listens(fd(&sockets[1])) && listens(&old));
        open::commit(&mut sockets, &mut inherited).expect("to listen twice is no error");
    });
}

#[test]
fn preparing_lets_fresh_sockets_listen() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Tcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [
            mptcp("127.0.0.1:80"),
            mptcp("127.0.0.1:81"),
            udp("127.0.0.1:80"),
        ];
        prepare(&mut sockets, &mut inherited);
        let outcomes = sockets.each_ref().map(|socket| socket.outcome);
        assert_eq!(
            outcomes,
            [Outcome::Successor, Outcome::Opened, Outcome::Opened]
        );
        assert!(!listens(fd(&sockets[0])) && listens(fd(&sockets[1])));
        open::commit(&mut sockets, &mut inherited).expect("UDP is passed over");
    });
}

#[test]
fn leave_tcp_still_opens_a_successor() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Mptcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [tcp("127.0.0.1:80"), tcp("127.0.0.1:81")];
        let mut how = Open {
            leave_tcp: true,
            prepare: true,
            ..Open::default()
        };
        open::listening(&mut sockets, &mut inherited, &mut how).expect("TCP is there");
        assert_eq!(sockets[0].outcome, Outcome::Successor);
        assert_eq!(protocol(fd(&sockets[0])), 6);
        assert_eq!(sockets[1].outcome, Outcome::Left);
    });
}

fn groups(old_count: usize, new_count: usize) {
    let text = "127.0.0.1:80";
    let old: Vec<_> = (0..old_count)
        .map(|_| listener(text, Protocol::Tcp, true))
        .collect();
    let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
    let mut sockets: Vec<_> = (0..new_count).map(|_| mptcp(text)).collect();
    for socket in &mut sockets {
        socket.options.flags |= flag::REUSEPORT;
    }
    prepare(&mut sockets, &mut inherited);
    assert!(
        inherited
            .iter()
            .all(|old| old.disposition() == Disposition::Superseded)
    );
    for socket in &sockets {
        assert_eq!(socket.outcome, Outcome::Successor);
        assert!(!listens(fd(socket)));
    }

    let clients = connect(text, CLIENTS);
    assert_eq!(old.iter().map(waiting).sum::<usize>(), CLIENTS);
    drop(clients);

    open::commit(&mut sockets, &mut inherited).expect("all can listen");
    drop(old);
    let _clients = connect(text, CLIENTS);
    let served: Vec<_> = sockets.iter().map(|socket| waiting(fd(socket))).collect();
    assert_eq!(served.iter().sum::<usize>(), CLIENTS);
    assert!(served.iter().all(|&count| count > 0), "{served:?}");
}

#[test]
fn groups_of_workers_are_superseded_as_a_whole() {
    namespace::run(|| {
        for (old_count, new_count) in [(4, 2), (2, 4), (3, 3)] {
            groups(old_count, new_count);
        }
    });
}

#[test]
fn the_inherited_socket_of_the_requested_protocol_is_kept() {
    namespace::run(|| {
        // The state during an unfinished handover: there are sockets of both protocols.
        let text = "127.0.0.1:80";
        let old = [
            listener(text, Protocol::Tcp, true),
            listener(text, Protocol::Mptcp, true),
        ];
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        let mut sockets = [mptcp(text)];
        prepare(&mut sockets, &mut inherited);
        assert_eq!(sockets[0].outcome, Outcome::Inherited(1));
        assert_eq!(inherited[0].disposition(), Disposition::Superseded);
        assert_eq!(inherited[1].disposition(), Disposition::Kept);
    });
}

#[test]
fn mptcp_that_is_switched_off_supersedes_nothing() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Tcp, false);
        namespace::set_mptcp(false);
        let mut inherited = [Inherited::new(&old)];
        let error = open_beside(&mut [mptcp("127.0.0.1:80")], &mut inherited);
        assert_eq!(error.expect_err("no MPTCP").os_errno(), libc::ENOPROTOOPT);
        assert_eq!(inherited[0].disposition(), Disposition::Unused);
        assert!(!shares(&old) && listens(&old));
    });
}

#[test]
fn many_addresses_change_in_linear_time() {
    namespace::run(|| {
        let texts: Vec<_> = (1..=2000).map(|port| format!("127.0.0.1:{port}")).collect();
        let old: Vec<_> = texts
            .iter()
            .map(|text| listener(text, Protocol::Tcp, false))
            .collect();
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        let mut sockets: Vec<_> = texts.iter().rev().map(|text| mptcp(text)).collect();
        prepare(&mut sockets, &mut inherited);
        assert!(sockets.iter().all(|new| new.outcome == Outcome::Successor));
        open::commit(&mut sockets, &mut inherited).expect("all can listen");
    });
}
