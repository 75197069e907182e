//! Short answers, dead subflows, the end of a connection, and errors.

use super::*;
use crate::sys::linux::tcp_state::*;

/// tcp_rcv_nxt_update() counts the peer's FIN as a byte.
#[test]
fn the_end_of_the_stream_is_no_byte() {
    for (state, received) in [
        (ESTABLISHED, 700),
        (TIME_WAIT, 699),
        (CLOSE_WAIT, 699),
        (LAST_ACK, 699),
        (CLOSING, 699),
        // Nobody knows.
        (CLOSE, 700),
    ] {
        let (connection, ..) = query(&plain_tcp(state), UNTRIED, NO_ADDRESSES);
        assert_eq!(connection.bytes_received, Some(received), "{state}");
        assert_eq!(connection.subflows, None, "{state}");
        let kernel = fallback(libc::EOPNOTSUPP, state);
        let (connection, ..) = query(&kernel, UNTRIED, NO_ADDRESSES);
        assert_eq!(connection.bytes_received, Some(received), "{state}");
        assert_eq!(connection.subflows, Some(u32::from(state != CLOSE)));
    }
}

/// The kernel counts a segment again that this host's own queue has dropped.
#[test]
fn no_more_bytes_were_sent_than_are_acknowledged_or_under_way() {
    use linux::tcp_info::{BYTES_ACKED, SND_MSS, UNACKED};
    for (acked, segments, sent) in [
        // The kernel has counted 900 bytes, and 100 of them as sent again.
        (800_u64, 0_u32, 800),
        (500, 3, 800),
        (500, 2, 700),
        (500, 0, 500),
        // With a SYN or FIN.
        (801, 0, 800),
        (u64::MAX, u32::MAX, 800),
    ] {
        let mut kernel = plain_tcp(ESTABLISHED);
        let info = kernel.tcp_info.as_mut().expect("set above");
        put(info, BYTES_ACKED, &acked.to_ne_bytes());
        put(info, UNACKED, &segments.to_ne_bytes());
        put(info, SND_MSS, &100_u32.to_ne_bytes());
        let (connection, ..) = query(&kernel, UNTRIED, NO_ADDRESSES);
        assert_eq!(connection.bytes_sent, Some(sent), "{acked} and {segments}");
    }
}

/// This host's own subflows get a number before it is known whether they will
/// be: where there may be such, only those of now are counted.
#[test]
fn subflows_that_never_came_are_not_counted() {
    use linux::mptcp_info::{ADD_ADDR_ACCEPTED, LOCAL_ADDR_USED};
    for (used, total) in [
        (None, 5),
        (Some(LOCAL_ADDR_USED), 2),
        (Some(ADD_ADDR_ACCEPTED), 2),
    ] {
        let mut kernel = full(96);
        kernel.paths[1].id = 5;
        let info = kernel.mptcp_info.as_mut().expect("set above");
        put(info, LOCAL_ADDR_USED, &[0]);
        put(info, ADD_ADDR_ACCEPTED, &[0]);
        used.map(|at| put(info, at, &[1]));
        let (connection, ..) = query(&kernel, FULL_INFO, NO_ADDRESSES);
        assert_eq!(connection.subflows, Some(2));
        assert_eq!(connection.subflows_total, Some(total), "{used:?}");
    }
}

/// TCP stays TCP, and a fallback is one for ever.
#[test]
fn what_it_was_before_saves_questions() {
    let cases = [
        (full(96), Kind::Mptcp, &["MPTCP_FULL_INFO"][..]),
        (v5_16(), Kind::Mptcp, &["MPTCP_FULL_INFO", "MPTCP_INFO"]),
        (
            fallback(libc::EOPNOTSUPP, ESTABLISHED),
            Kind::Fallback,
            &["TCP_INFO"],
        ),
        (plain_tcp(ESTABLISHED), Kind::Tcp, &[]),
        (full(96), Kind::Other, &[]),
    ];
    for (kernel, kind, asked) in cases {
        let again = Query {
            before: Some(kind),
            ..MPTCP_ONLY
        };
        let (connection, ..) = query(&kernel, UNTRIED, again);
        assert_eq!(connection.kind, kind);
        assert_eq!(*kernel.queried.borrow(), asked, "{kind:?}");
    }
}

/// An answer that ends anywhere says what is in it, and nothing else.
#[test]
fn answers_may_end_anywhere() {
    for length in 0..=96 {
        let mut kernel = full(96);
        kernel.mptcp_info = Ok(mptcp_info(96)[..length].to_vec());
        let (connection, ..) = query(&kernel, INFO, NO_ADDRESSES);
        let whole = timed();
        let said = Connection {
            kind: Kind::Mptcp,
            token: whole.token.filter(|_| length >= 16),
            // The first subflow is not counted in it: its token tells of it.
            subflows: (length >= 1).then_some(if length >= 16 { 2 } else { 1 }),
            subflows_total: None,
            bytes_sent: whole.bytes_sent.filter(|_| length >= 64),
            bytes_received: whole.bytes_received.filter(|_| length >= 72),
            bytes_retransmitted: whole.bytes_retransmitted.filter(|_| length >= 56),
            retransmits: None,
            last_data_sent: whole.last_data_sent.filter(|_| length >= 96),
            last_data_received: whole.last_data_received.filter(|_| length >= 96),
            last_ack_received: whole.last_ack_received.filter(|_| length >= 96),
            figures: None,
        };
        assert_eq!(connection, said, "{length}");
    }
    for length in 0..=TCP_INFO {
        let mut kernel = plain_tcp(ESTABLISHED);
        kernel.tcp_info = Ok(tcp_info(ESTABLISHED)[..length].to_vec());
        let (connection, ..) = query(&kernel, UNTRIED, NO_ADDRESSES);
        let whole = of_tcp(Kind::Tcp);
        let said = Connection {
            bytes_sent: whole.bytes_sent.filter(|_| length >= 216),
            bytes_received: whole.bytes_received.filter(|_| length >= 136),
            bytes_retransmitted: whole.bytes_retransmitted.filter(|_| length >= 216),
            retransmits: whole.retransmits.filter(|_| length >= 104),
            last_data_sent: whole.last_data_sent.filter(|_| length >= 48),
            last_data_received: whole.last_data_received.filter(|_| length >= 56),
            last_ack_received: whole.last_ack_received.filter(|_| length >= 60),
            figures: Some(Figures {
                bytes_sent: whole.bytes_sent.filter(|_| length >= 216),
                bytes_received: whole.bytes_received.filter(|_| length >= 136),
                retransmits: whole.retransmits.filter(|_| length >= 104),
                rtt: figures().rtt.filter(|_| length >= 72),
                congestion_window: figures().congestion_window.filter(|_| length >= 84),
                state: figures().state.filter(|_| length >= 1),
            }),
            ..whole
        };
        assert_eq!(connection, said, "{length}");
    }
}

/// The kernel has smaller elements than we ask for, and packs them closely.
#[test]
fn elements_may_be_short() {
    for (sizes, addresses, retransmits) in [
        ((264, 104), 2, Some(10)),
        ((264, 103), 2, None),
        // With all of an IPv4 address, and too little of an IPv6 one.
        ((8 + 128 + 8, 104), 1, Some(10)),
        ((8, 104), 0, Some(10)),
        ((4, 1), 0, None),
    ] {
        let kernel = Fake { sizes, ..full(96) };
        let (connection, subflows, _) = query(&kernel, FULL_INFO, ADDRESSES);
        let said = Connection {
            retransmits,
            ..timed()
        };
        assert_eq!(connection, said, "{sizes:?}");
        let mut expected = numbered(&two_paths())[..addresses].to_vec();
        for subflow in &mut expected {
            subflow.figures.bytes_sent = None;
            subflow.figures.bytes_received = None;
            subflow.figures.retransmits = retransmits.map(|_| 5);
        }
        assert_eq!(subflows, expected, "{sizes:?}");
    }
}

/// Of a first subflow that is closed the kernel keeps the figures
/// (__mptcp_close_ssk() frees all but the first); of one that was reset not
/// even the number (mptcp_subflow_ctx_reset()).
#[test]
fn a_dead_first_subflow_is_none() {
    let mut kernel = full(96);
    kernel.paths[0] = path(1, "10.0.0.2:5000", CLOSE);
    kernel.paths.push(path(7, "10.0.0.3:5002", SYN_SENT));
    let (connection, subflows, _) = query(&kernel, FULL_INFO, ADDRESSES);
    let said = Connection {
        subflows: Some(1),
        retransmits: Some(15),
        ..timed()
    };
    assert_eq!(connection, said);
    assert_eq!(subflows, numbered(&two_paths()[1..]));

    kernel.paths = vec![path(0, "10.0.0.2:0", CLOSE), two_paths().remove(1)];
    let (connection, subflows, _) = query(&kernel, FULL_INFO, ADDRESSES);
    let said = Connection {
        subflows: Some(1),
        retransmits: Some(5),
        ..timed()
    };
    assert_eq!(connection, said);
    assert_eq!(subflows, numbered(&two_paths()[1..]));

    let kernel = Fake {
        paths: kernel.paths,
        ..v5_16()
    };
    let (_, subflows, _) = query(&kernel, INFO, ADDRESSES);
    assert_eq!(subflows, [subflow(None, &two_paths()[1])]);
}

/// Linux 6.18 after the peer's reset: the token is 0, one dead subflow left.
#[test]
fn what_is_over_has_no_token() {
    let mut over = mptcp_info(96);
    put(&mut over, linux::mptcp_info::SUBFLOWS, &[0]);
    put(&mut over, linux::mptcp_info::TOKEN, &[0; 4]);
    let kernel = Fake {
        mptcp_info: Ok(over),
        paths: vec![path(0, "10.0.0.2:0", CLOSE)],
        ..full(96)
    };
    let (connection, subflows, _) = query(&kernel, FULL_INFO, ADDRESSES);
    let said = Connection {
        token: None,
        subflows: Some(0),
        subflows_total: None,
        retransmits: None,
        ..timed()
    };
    assert_eq!((connection, subflows), (said, vec![]));

    let kernel = Fake {
        full_info: Err(libc::EOPNOTSUPP),
        ..kernel
    };
    let (connection, ..) = query(&kernel, INFO, NO_ADDRESSES);
    assert_eq!((connection.token, connection.subflows), (None, Some(0)));
}

#[test]
fn asks_again_for_more_subflows_than_there_was_room_for() {
    let many = |count: usize| {
        let path = |id| path(id as u32, &format!("10.0.0.2:{}", 5000 + id), ESTABLISHED);
        (1..=count).map(path).collect::<Vec<_>>()
    };
    for (count, times) in [(0, 1), (16, 1), (17, 2), (300, 2)] {
        let mut kernel = full(96);
        kernel.paths = many(count);
        let (connection, subflows, _) = query(&kernel, FULL_INFO, ADDRESSES);
        assert_eq!(subflows, numbered(&kernel.paths), "{count}");
        assert_eq!(connection.subflows, Some(count as u32), "{count}");
        let total = (count > 0).then_some(count as u32);
        assert_eq!(connection.subflows_total, total, "{count}");
        assert_eq!(kernel.queried.borrow().len(), 1 + times, "{count}");

        let mut kernel = v5_16();
        kernel.paths = many(count);
        let (_, subflows, _) = query(&kernel, INFO, ADDRESSES);
        let remotes = subflows.iter().map(|subflow| subflow.remote);
        assert!(
            remotes.eq(kernel.paths.iter().map(|path| path.remote)),
            "{count}"
        );
        assert_eq!(kernel.queried.borrow().len(), 3 + times, "{count}");
    }
}

/// EPERM is what a seccomp filter of a container says.
#[test]
fn errors_name_the_option() {
    let fails = |kernel: &Fake, query, errno, text: &str| {
        let has = AtomicU8::new(UNTRIED);
        let querying = Querying {
            kernel,
            has: &has,
            query,
        };
        let error = querying.all().expect_err("it must fail");
        let said = format!("getsockopt({text}) failed");
        assert_eq!((error.to_string(), error.os_errno()), (said, errno));
        assert_eq!(has.into_inner(), UNTRIED);
    };
    let mut kernel = full(96);
    kernel.protocol = Err(libc::ENOTSOCK);
    fails(&kernel, NO_ADDRESSES, libc::ENOTSOCK, "SO_PROTOCOL");
    let mut kernel = full(96);
    kernel.full_info = Err(libc::EPERM);
    fails(&kernel, NO_ADDRESSES, libc::EPERM, "MPTCP_FULL_INFO");
    let mut kernel = v5_16();
    kernel.subflow_addrs = Err(libc::EPERM);
    fails(&kernel, ADDRESSES, libc::EPERM, "MPTCP_SUBFLOW_ADDRS");
    kernel.mptcp_info = Err(libc::EPERM);
    fails(&kernel, NO_ADDRESSES, libc::EPERM, "MPTCP_INFO");
    let mut kernel = v5_6();
    kernel.maxseg = Err(libc::EPERM);
    fails(&kernel, NO_ADDRESSES, libc::EPERM, "TCP_MAXSEG");
    for mut kernel in [
        plain_tcp(ESTABLISHED),
        fallback(libc::ENOPROTOOPT, ESTABLISHED),
    ] {
        kernel.tcp_info = Err(libc::EPERM);
        fails(&kernel, NO_ADDRESSES, libc::EPERM, "TCP_INFO");
    }
}

#[test]
fn totals_only_grow() {
    let before = timed();
    let now = Connection {
        subflows: Some(1),
        subflows_total: Some(1),
        bytes_sent: Some(1001),
        bytes_received: Some(5),
        bytes_retransmitted: Some(29),
        retransmits: Some(11),
        last_data_sent: Some(Duration::from_millis(1)),
        ..timed()
    };
    let mut known = before.clone();
    known.update(now);
    let said = Connection {
        subflows: Some(1),
        bytes_sent: Some(1001),
        retransmits: Some(11),
        last_data_sent: Some(Duration::from_millis(1)),
        ..before
    };
    assert_eq!(known, said);
}

#[test]
fn the_last_state_stays_when_the_kernel_says_no_more() {
    let unknown = Connection::new(Kind::Mptcp);
    let over = Connection {
        subflows: Some(0),
        ..unknown.clone()
    };
    for now in [unknown.clone(), over] {
        let mut known = timed();
        known.update(now);
        assert_eq!(known, timed());
    }
    let mut known = unknown;
    known.update(timed());
    assert_eq!(known, timed());
}

#[test]
fn a_fallback_keeps_the_token_and_is_for_ever() {
    let mut known = timed();
    known.update(of_tcp(Kind::Fallback));
    let said = Connection {
        kind: Kind::Fallback,
        subflows: Some(1),
        bytes_retransmitted: Some(100),
        last_data_sent: Some(Duration::from_millis(44)),
        last_data_received: Some(Duration::from_millis(55)),
        last_ack_received: Some(Duration::from_millis(66)),
        figures: Some(figures()),
        ..timed()
    };
    assert_eq!(known, said);
    known.update(Connection::new(Kind::Mptcp));
    assert_eq!(known, said);
}
