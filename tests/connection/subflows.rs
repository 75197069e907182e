//! Subflows and fallbacks, with a client in another network namespace.

use std::io::Read;
use std::net::Ipv4Addr;

use ngx_rs_listen::Protocol;
use ngx_rs_listen::connection::{Connection, Kind};
use socket2::Socket;

use crate::connected::{accept, inet, info, listen, run, subflows, until};
use crate::peer::Peer;
use test_support::{linux, listening};

/// Waits until the subflows come from these addresses 10.0.0.x, and have these address ids.
fn until_from(socket: &Socket, wanted: &[(u8, u32)]) {
    until(&format!("{wanted:?}"), || {
        let found = subflows(socket);
        let found = found.iter().map(|path| (path.remote.ip(), path.id));
        let address = |last: u8| Ipv4Addr::new(10, 0, 0, last).into();
        let wanted = wanted
            .iter()
            .map(|&(last, id)| (address(last), linux::counted(id)));
        found.eq(wanted).then_some(())
    });
}

#[test]
fn subflows_come_and_go() {
    Peer::with(|peer| {
        run("ip mptcp limits set subflow 8 add_addr_accepted 8");
        peer.does("ip mptcp limits set subflow 8 add_addr_accepted 8");
        peer.does("ip mptcp endpoint add 10.0.0.3 id 3 dev cable subflow");
        // New subflows arrive at the listener, so it stays open.
        let listener = listen("10.0.0.1:80");
        let server = peer.connects(&listener, "10.0.0.1:80");
        until_from(&server, &[(2, 1), (3, 2)]);
        let mut known = info(&server);
        let total = linux::counted(2);
        assert_eq!((known.subflows, known.subflows_total), (Some(2), total));
        assert_eq!(known.bytes_received, linux::counted(1000));
        for path in subflows(&server) {
            assert_eq!(path.local, listening::inet("10.0.0.1:80"));
        }

        peer.does("ip mptcp endpoint delete id 3");
        until_from(&server, &[(2, 1)]);
        let now = info(&server);
        assert_eq!(now.subflows, Some(1));
        assert_eq!(now.subflows_total, linux::counted(1));
        known.update(now);
        assert_eq!((known.subflows, known.subflows_total), (Some(1), total));

        // The kernel keeps the first subflow in its list after it is closed.
        peer.does("ip mptcp endpoint add 10.0.0.3 id 3 dev cable subflow");
        until_from(&server, &[(2, 1), (3, 3)]);
        peer.does("ip mptcp endpoint delete id 0 10.0.0.2");
        match linux::counts_mptcp() {
            true => until_from(&server, &[(3, 3)]),
            // Older kernels list the first subflow even when it is closed.
            false => until_from(&server, &[(2, 1), (3, 3)]),
        }
        peer.sends(&server);
        let now = info(&server);
        let subflows = linux::counted(1).or(Some(2));
        let total = linux::counted(3);
        assert_eq!((now.subflows, now.subflows_total), (subflows, total));
        assert_eq!(now.retransmits, linux::counted(0));
        known.update(now);
        assert_eq!((known.subflows, known.subflows_total), (subflows, total));
        assert_eq!(known.bytes_received, linux::counted(2000));
    });
}

/// A middlebox strips the MPTCP options from the packets after the handshake. This needs a
/// second namespace: on the loopback the kernel passes the options together with the packet, so
/// stripping has no effect.
#[test]
fn detects_a_fallback() {
    Peer::with(|peer| {
        for (here, there) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[::]:80", "10.0.0.1:80"),
        ] {
            let listener = listen(here);
            peer.does(there);
            let server = accept(&listener);
            let mut known = info(&server);
            assert_eq!(known.kind, Kind::Mptcp, "{here}");
            run(
                "nft add table inet box { chain in { type filter hook input priority 0; \
                 reset tcp option mptcp; } ; }",
            );
            peer.sends(&server);
            is_fallback(&server, &mut known);
            peer.does("close");
            assert_eq!((&server).read(&mut [0]).expect("the end"), 0);
            is_fallback(&server, &mut known);
            run("nft flush ruleset");
        }
    });
}

/// Checks that the connection has fallen back after it received 1,000 bytes.
fn is_fallback(server: &Socket, known: &mut Connection) {
    assert_eq!(listening::protocol(server), Protocol::Mptcp.number());
    let now = info(server);
    assert_eq!((now.kind, now.token), (Kind::Fallback, None));
    assert_eq!((now.subflows, now.subflows_total), (Some(1), Some(1)));
    assert_eq!((now.bytes_sent, now.bytes_received), (Some(0), Some(1000)));
    assert_eq!(
        (now.bytes_retransmitted, now.retransmits),
        (Some(0), Some(0))
    );
    let paths = subflows(server);
    let path = &paths[0];
    assert_eq!((paths.len(), path.id), (1, None));
    assert_eq!(path.local, inet(server.local_addr()));
    assert_eq!(path.remote, inet(server.peer_addr()));
    let token = known.token;
    known.update(now);
    assert_eq!((known.kind, known.token), (Kind::Fallback, token));
    assert_eq!(known.subflows_total, Some(1));
}
