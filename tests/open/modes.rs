//! Checking sockets without opening them, and leaving plain TCP sockets to the caller.

use ngx_rs_listen::{Open, Outcome, Protocol, Request, open};

use test_support::listening::*;
use test_support::namespace;

#[test]
fn checking_opens_nothing() {
    namespace::run(|| {
        let before = namespace::descriptors();
        let texts = ["127.0.0.1:80", "[::1]:80", "127.0.0.1:81", "127.0.0.1:82"];
        let requests = [Some(MPTCP), Some(MPTCP), Some(Request::AUTO), None];
        let mut sockets: Vec<_> = texts
            .iter()
            .zip(requests)
            .map(|(text, request)| stream(text, request))
            .collect();
        sockets.push(udp("127.0.0.1:80"));
        sockets.push(tcp("unix:/no-such-directory/x"));
        // A check ignores that an address is in use.
        let _holder = listener("127.0.0.1:80", Protocol::Tcp, false);
        let mut how = Open {
            check: true,
            ..Open::default()
        };
        open::listening(&mut sockets, &mut [], &mut how).expect("MPTCP is there");
        assert_eq!(namespace::descriptors(), before + 1);
        for socket in &sockets {
            assert!(socket.fd.is_none());
            assert_eq!(socket.outcome, Outcome::Left);
        }
        let protocols: Vec<_> = sockets.iter().map(|socket| socket.protocol).collect();
        let (tcp, mptcp) = (Protocol::Tcp, Protocol::Mptcp);
        assert_eq!(protocols, [mptcp, mptcp, mptcp, tcp, tcp, tcp]);
        assert!(texts[1..].iter().all(|text| is_free(text)));
    });
}

#[test]
fn checking_finds_a_protocol_that_is_missing() {
    namespace::run(|| {
        namespace::set_mptcp(false);
        let mut how = Open {
            check: true,
            ..Open::default()
        };
        let mut sockets = [tcp("127.0.0.1:80"), mptcp("127.0.0.1:81")];
        let error = open::listening(&mut sockets, &mut [], &mut how).expect_err("no MPTCP");
        assert_eq!(
            error.to_string(),
            "socket() 127.0.0.1:81 failed: MPTCP is switched off, set sysctl net.mptcp.enabled=1"
        );
    });
}

#[test]
fn plain_sockets_can_be_left_to_the_caller() {
    namespace::run(|| {
        let path = "unix:/no-such-directory/x";
        let mut sockets = [
            tcp("127.0.0.1:80"),
            stream("127.0.0.1:81", Some(OFF)),
            udp("127.0.0.1:82"),
            tcp(path),
            mptcp("127.0.0.1:83"),
            stream("127.0.0.1:84", Some(Request::AUTO)),
        ];
        let before = namespace::descriptors();
        let mut how = Open {
            leave_tcp: true,
            ..Open::default()
        };
        open::listening(&mut sockets, &mut [], &mut how).expect("MPTCP is there");
        assert_eq!(namespace::descriptors(), before + 2);
        for left in &sockets[..4] {
            assert!(left.fd.is_none());
            assert_eq!(left.outcome, Outcome::Left);
            assert_eq!(left.protocol, Protocol::Tcp);
        }
        for opened in &sockets[4..] {
            assert_eq!(protocol(fd(opened)), 262);
            assert_eq!(opened.outcome, Outcome::Opened);
        }
    });
}

#[test]
fn a_socket_that_falls_back_is_left_to_the_caller() {
    namespace::run(|| {
        namespace::set_mptcp(false);
        let mut sockets = [stream("127.0.0.1:80", Some(Request::AUTO))];
        let mut how = Open {
            leave_tcp: true,
            ..Open::default()
        };
        open::listening(&mut sockets, &mut [], &mut how).expect("TCP will do");
        assert_eq!(sockets[0].outcome, Outcome::Left);
        assert_eq!(sockets[0].protocol, Protocol::Tcp);
    });
}
