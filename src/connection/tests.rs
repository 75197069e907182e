//! The answers of kernels that we do not have.
//!
//! Layouts and behaviour: kernel include/uapi/linux/mptcp.h and
//! net/mptcp/sockopt.c as of the version that a test names.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::slice;
use std::time::Duration;

use super::*;
use crate::sys::linux;

mod fake;

use fake::{Fake, Path, put};

/// `tcpi_state`
const ESTABLISHED: u8 = 1;

/// `sizeof(struct tcp_info)`, Linux 6.5.
const TCP_INFO: usize = 240;

const MPTCP: i32 = 262;
const TCP: i32 = libc::IPPROTO_TCP;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// `struct mptcp_info` of the given size: padding is 0, what a later version
/// adds is not.
fn mptcp_info(size: usize) -> Vec<u8> {
    use linux::mptcp_info::*;
    let mut bytes = vec![0; 96];
    bytes.resize(size.max(96), 0xee);
    put(&mut bytes, SUBFLOWS, &[1]);
    // MPTCP_INFO_FLAG_REMOTE_KEY_RECEIVED
    put(&mut bytes, FLAGS, &2_u32.to_ne_bytes());
    put(&mut bytes, TOKEN, &0xabcd_ef01_u32.to_ne_bytes());
    put(&mut bytes, BYTES_RETRANS, &30_u64.to_ne_bytes());
    put(&mut bytes, BYTES_SENT, &1000_u64.to_ne_bytes());
    put(&mut bytes, BYTES_RECEIVED, &(1_u64 << 40).to_ne_bytes());
    if size >= 96 {
        put(&mut bytes, LAST_DATA_SENT, &11_u32.to_ne_bytes());
        put(&mut bytes, LAST_DATA_RECV, &22_u32.to_ne_bytes());
        put(&mut bytes, LAST_ACK_RECV, &33_u32.to_ne_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// `struct tcp_info`, with 5 segments sent again.
fn tcp_info(state: u8) -> Vec<u8> {
    use linux::tcp_info::*;
    let mut bytes = vec![0xee; TCP_INFO];
    put(&mut bytes, STATE, &[state]);
    put(&mut bytes, LAST_DATA_SENT, &44_u32.to_ne_bytes());
    put(&mut bytes, LAST_DATA_RECV, &55_u32.to_ne_bytes());
    put(&mut bytes, LAST_ACK_RECV, &66_u32.to_ne_bytes());
    put(&mut bytes, RTT, &20_345_u32.to_ne_bytes());
    put(&mut bytes, SND_CWND, &10_u32.to_ne_bytes());
    put(&mut bytes, TOTAL_RETRANS, &5_u32.to_ne_bytes());
    put(&mut bytes, BYTES_RECEIVED, &700_u64.to_ne_bytes());
    put(&mut bytes, BYTES_SENT, &900_u64.to_ne_bytes());
    put(&mut bytes, BYTES_RETRANS, &100_u64.to_ne_bytes());
    bytes
}

/// A subflow from the peer's given address.
fn path(id: u32, remote: &str, state: u8) -> Path {
    let remote = at(remote);
    let local = if remote.is_ipv4() {
        "10.0.0.1:443"
    } else {
        "[fd00::1]:443"
    };
    Path {
        id,
        local: at(local),
        remote,
        tcp_info: tcp_info(state),
    }
}

fn two_paths() -> Vec<Path> {
    vec![
        path(1, "10.0.0.2:5000", ESTABLISHED),
        path(2, "[fd00::2]:5001", ESTABLISHED),
    ]
}

/// From Linux 6.5: `struct mptcp_info` of the given size, MPTCP_FULL_INFO.
fn full(size: usize) -> Fake {
    Fake {
        protocol: Ok(MPTCP),
        mptcp_info: Ok(mptcp_info(size)),
        full_info: Ok(()),
        subflow_addrs: Ok(()),
        tcp_info: Ok(tcp_info(ESTABLISHED)),
        maxseg: Ok(vec![0; 4]),
        paths: two_paths(),
        sizes: (linux::mptcp_subflow_info::SIZE, TCP_INFO),
        addresses: Some((at("10.0.0.1:443"), at("10.0.0.2:5000"))),
        queried: RefCell::default(),
    }
}

/// Linux 5.16 to 6.4: 48 bytes, which end in `mptcpi_csum_enabled` and padding;
/// mptcp_getsockopt_sol_mptcp() knows no MPTCP_FULL_INFO.
fn v5_16() -> Fake {
    Fake {
        full_info: Err(libc::EOPNOTSUPP),
        maxseg: Err(libc::EOPNOTSUPP),
        ..full(48)
    }
}

/// Linux 5.13 to 5.15: mptcp_getsockopt() knows no SOL_MPTCP, but
/// mptcp_getsockopt_sol_tcp() hands TCP_INFO on to the first subflow.
fn v5_13() -> Fake {
    Fake {
        mptcp_info: Err(libc::EOPNOTSUPP),
        subflow_addrs: Err(libc::EOPNOTSUPP),
        ..v5_16()
    }
}

/// Linux 5.6 to 5.12: mptcp_getsockopt() knows nothing.
fn v5_6() -> Fake {
    Fake {
        tcp_info: Err(libc::EOPNOTSUPP),
        ..v5_13()
    }
}

/// After a fallback every version hands all options on to TCP, where those of
/// MPTCP end in ip_getsockopt() with EOPNOTSUPP, or in ipv6_getsockopt() with
/// ENOPROTOOPT.
fn fallback(errno: i32, state: u8) -> Fake {
    Fake {
        mptcp_info: Err(errno),
        full_info: Err(errno),
        subflow_addrs: Err(errno),
        tcp_info: Ok(tcp_info(state)),
        ..full(96)
    }
}

fn plain_tcp(state: u8) -> Fake {
    Fake {
        protocol: Ok(TCP),
        ..fallback(libc::EOPNOTSUPP, state)
    }
}

/// Asks in a process that knows so much already; gives back what it knows then.
fn query(kernel: &Fake, has: u8, query: Query) -> (Connection, Vec<Subflow>, u8) {
    let has = AtomicU8::new(has);
    kernel.queried.borrow_mut().clear();
    let querying = Querying {
        kernel,
        has: &has,
        query,
    };
    let (connection, subflows) = querying.all().expect("the kernel answers");
    (connection, subflows, has.into_inner())
}

const NO_ADDRESSES: Query = Query {
    subflows: false,
    figures: false,
    sparing: false,
    mptcp_only: false,
    before: None,
};
const ADDRESSES: Query = Query {
    subflows: true,
    figures: true,
    ..NO_ADDRESSES
};
const MPTCP_ONLY: Query = Query {
    mptcp_only: true,
    ..NO_ADDRESSES
};

/// What every kernel from 5.16 says.
fn basic() -> Connection {
    Connection {
        token: Some(0xabcd_ef01),
        subflows: Some(2),
        ..Connection::new(Kind::Mptcp)
    }
}

/// From 6.5.
fn counted() -> Connection {
    Connection {
        subflows_total: Some(2),
        bytes_sent: Some(1000),
        bytes_received: Some(1 << 40),
        bytes_retransmitted: Some(30),
        retransmits: Some(10),
        ..basic()
    }
}

/// From 6.10.
fn timed() -> Connection {
    Connection {
        last_data_sent: Some(Duration::from_millis(11)),
        last_data_received: Some(Duration::from_millis(22)),
        last_ack_received: Some(Duration::from_millis(33)),
        ..counted()
    }
}

/// From `struct tcp_info`.
fn of_tcp(kind: Kind) -> Connection {
    let mut connection = Connection::new(kind);
    connection.bytes_sent = Some(800);
    connection.bytes_received = Some(700);
    connection.bytes_retransmitted = Some(100);
    connection.retransmits = Some(5);
    connection.last_data_sent = Some(Duration::from_millis(44));
    connection.last_data_received = Some(Duration::from_millis(55));
    connection.last_ack_received = Some(Duration::from_millis(66));
    connection.figures = Some(figures());
    if kind == Kind::Fallback {
        connection.subflows = Some(1);
        connection.subflows_total = Some(1);
    }
    connection
}

fn subflow(id: Option<u32>, path: &Path) -> Subflow {
    Subflow {
        id,
        local: path.local,
        remote: path.remote,
        figures: figures(),
    }
}

/// Of tcp_info().
fn figures() -> Figures {
    Figures {
        bytes_sent: Some(800),
        bytes_received: Some(700),
        retransmits: Some(5),
        rtt: Some(Duration::from_micros(20_345)),
        congestion_window: Some(10),
        state: Some(ESTABLISHED),
    }
}

fn numbered(paths: &[Path]) -> Vec<Subflow> {
    paths
        .iter()
        .map(|path| subflow(Some(path.id), path))
        .collect()
}

/// The first query of a process to each version, and all later ones.
#[test]
fn every_version_says_what_it_knows() {
    let unnumbered: Vec<Subflow> = two_paths().iter().map(|path| subflow(None, path)).collect();
    let future = Fake {
        // Bigger elements than ours.
        sizes: (400, TCP_INFO),
        ..full(200)
    };
    let unknown = Connection::new(Kind::Mptcp);
    let full_info = vec!["SO_PROTOCOL", "MPTCP_FULL_INFO"];
    let info = vec!["SO_PROTOCOL", "MPTCP_INFO"];
    let neither = vec!["SO_PROTOCOL", "TCP_MAXSEG"];
    // Name, kernel, what it says, addresses, what is learnt, later queries.
    let versions = [
        ("5.6", v5_6(), &unknown, vec![], NEITHER, &neither),
        ("5.13", v5_13(), &unknown, vec![], NEITHER, &neither),
        ("5.16", v5_16(), &basic(), unnumbered, INFO, &info),
        // With bytes, and without `mptcpi_subflows_total`.
        (
            "6.5",
            full(80),
            &counted(),
            numbered(&two_paths()),
            FULL_INFO,
            &full_info,
        ),
        // With `mptcpi_subflows_total` and 7 bytes of padding.
        (
            "6.8",
            full(88),
            &counted(),
            numbered(&two_paths()),
            FULL_INFO,
            &full_info,
        ),
        // With `mptcpi_last_*` in that padding and after it.
        (
            "6.10",
            full(96),
            &timed(),
            numbered(&two_paths()),
            FULL_INFO,
            &full_info,
        ),
        (
            "future",
            future,
            &timed(),
            numbered(&two_paths()),
            FULL_INFO,
            &full_info,
        ),
    ];
    for (version, kernel, said, addresses, learnt, later) in versions {
        let (connection, subflows, has) = query(&kernel, UNTRIED, NO_ADDRESSES);
        assert_eq!((&connection, has), (said, learnt), "{version}");
        assert_eq!(subflows, [], "{version}");

        let (connection, _, has) = query(&kernel, learnt, MPTCP_ONLY);
        assert_eq!((&connection, has), (said, learnt), "{version}");
        assert_eq!(*kernel.queried.borrow(), *later, "{version}");

        let (connection, subflows, _) = query(&kernel, learnt, ADDRESSES);
        assert_eq!((&connection, subflows), (said, addresses), "{version}");
        let more = if learnt == INFO { 2 } else { 0 };
        assert_eq!(kernel.queried.borrow().len(), 2 + more, "{version}");
    }
}

/// At first only: the most that a process ever asks.
#[test]
fn the_first_question_tries_what_the_kernel_has() {
    let all = [
        "SO_PROTOCOL",
        "MPTCP_FULL_INFO",
        "MPTCP_INFO",
        "TCP_MAXSEG",
        "TCP_INFO",
    ];
    let kernels = [(full(96), 2), (v5_16(), 3), (v5_13(), 4), (v5_6(), 4)];
    for (kernel, count) in kernels {
        query(&kernel, UNTRIED, NO_ADDRESSES);
        assert_eq!(*kernel.queried.borrow(), all[..count]);
    }
    let kernel = fallback(libc::EOPNOTSUPP, ESTABLISHED);
    let (_, _, has) = query(&kernel, UNTRIED, NO_ADDRESSES);
    assert_eq!(*kernel.queried.borrow(), all);
    // It might be any kernel.
    assert_eq!(has, UNTRIED);
}

#[test]
fn tells_a_fallback() {
    let (local, remote) = (at("10.0.0.1:443"), at("10.0.0.2:5000"));
    let one = Subflow {
        id: None,
        local,
        remote,
        figures: figures(),
    };
    for errno in [libc::EOPNOTSUPP, libc::ENOPROTOOPT] {
        for has in [UNTRIED, FULL_INFO, INFO, NEITHER] {
            let kernel = fallback(errno, ESTABLISHED);
            let (connection, subflows, after) = query(&kernel, has, NO_ADDRESSES);
            assert_eq!(connection, of_tcp(Kind::Fallback), "{errno} {has}");
            assert_eq!((subflows, after), (vec![], has), "{errno} {has}");
            let count = if has == UNTRIED { 5 } else { 3 };
            assert_eq!(kernel.queried.borrow().len(), count, "{errno} {has}");
            let (_, subflows, _) = query(&kernel, has, ADDRESSES);
            assert_eq!(subflows, slice::from_ref(&one), "{errno} {has}");
        }
    }
    // MPTCP itself answers when the one subflow has been taken away.
    let mut kernel = full(96);
    kernel.paths.clear();
    let info = kernel.mptcp_info.as_mut().expect("set above");
    put(info, linux::mptcp_info::FLAGS, &3_u32.to_ne_bytes());
    let (connection, subflows, _) = query(&kernel, FULL_INFO, ADDRESSES);
    assert_eq!((connection.kind, subflows), (Kind::Fallback, vec![]));
    assert_eq!(connection.bytes_sent, Some(1000));
}

#[test]
fn of_plain_tcp_as_much_as_asked_for() {
    let kernel = plain_tcp(ESTABLISHED);
    let (connection, subflows, has) = query(&kernel, UNTRIED, NO_ADDRESSES);
    assert_eq!(connection, of_tcp(Kind::Tcp));
    assert_eq!((subflows, has), (vec![], UNTRIED));
    assert_eq!(*kernel.queried.borrow(), ["SO_PROTOCOL", "TCP_INFO"]);

    let (_, subflows, _) = query(&kernel, UNTRIED, ADDRESSES);
    assert_eq!(subflows[0].remote, at("10.0.0.2:5000"));

    let both = Query {
        mptcp_only: true,
        ..ADDRESSES
    };
    let (connection, subflows, _) = query(&kernel, UNTRIED, both);
    assert_eq!((connection, subflows), (Connection::new(Kind::Tcp), vec![]));
    assert_eq!(*kernel.queried.borrow(), ["SO_PROTOCOL"]);
}

#[test]
fn of_other_sockets_nothing() {
    for protocol in [0, libc::IPPROTO_UDP, libc::IPPROTO_SCTP] {
        let mut kernel = full(96);
        kernel.protocol = Ok(protocol);
        let (connection, subflows, _) = query(&kernel, UNTRIED, ADDRESSES);
        assert_eq!(
            (connection, subflows),
            (Connection::new(Kind::Other), vec![])
        );
        assert_eq!(*kernel.queried.borrow(), ["SO_PROTOCOL"]);
    }
}

mod details;
mod history;
