//! Compares the numbers and structs of the kernel and of libc with the headers of this machine.
//! The library takes them from the crate libc or defines them itself.

use std::mem::{offset_of, size_of};

use ngx_rs_listen::Protocol;

use super::clang::{self, Facts};

#[path = "../../src/sys/linux.rs"]
#[allow(dead_code, reason = "not all of it is in every header")]
mod linux;

/// The headers of the kernel.
const LINUX: &str = "
#include <linux/in.h>
#include <linux/tcp.h>
#include <asm/socket.h>
";

/// The kernel's header of MPTCP, which includes headers of libc.
const MPTCP: &str = "
#include <linux/mptcp.h>
#include <linux/tcp.h>
";

/// The headers of libc.
const LIBC: &str = "
#include <sys/socket.h>
#include <sys/un.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netdb.h>
";

fn facts(headers: &str, allowed: &str) -> Facts {
    let builder = bindgen::Builder::default().header_contents("system.h", headers);
    clang::read(builder, allowed).facts
}

#[test]
fn protocols_have_the_kernels_numbers() {
    for headers in [LINUX, LIBC] {
        let facts = facts(headers, "IPPROTO_.*");
        for (name, protocol) in [
            ("IPPROTO_TCP", Protocol::Tcp),
            ("IPPROTO_MPTCP", Protocol::Mptcp),
            ("IPPROTO_SCTP", Protocol::Sctp),
            ("IPPROTO_SMC", Protocol::Smc),
        ] {
            match facts.get(name) {
                Some(&number) => assert_eq!(i64::from(protocol.number()), number, "{name}"),
                // Only the headers of Linux 6.11 and of glibc 2.41 and later have this number.
                None if name == "IPPROTO_SMC" => println!("{name} is not in these headers"),
                None => panic!("{name} is not in the headers: they are too old"),
            }
        }
    }
}

macro_rules! numbers {
    ($($name:ident),+ $(,)?) => { [$((stringify!($name), i64::from(libc::$name))),+] };
}

#[test]
fn options_have_the_numbers_of_the_headers() {
    let ours = numbers![
        SOL_SOCKET,
        SO_REUSEADDR,
        SO_REUSEPORT,
        SO_RCVBUF,
        SO_SNDBUF,
        SO_KEEPALIVE,
        SO_TYPE,
        SO_PROTOCOL,
        SO_ACCEPTCONN,
        TCP_KEEPIDLE,
        TCP_KEEPINTVL,
        TCP_KEEPCNT,
        TCP_FASTOPEN,
        TCP_DEFER_ACCEPT,
    ];
    let allowed = "(SO|SOL|TCP)_.*";
    for facts in [facts(LINUX, allowed), facts(LIBC, allowed)] {
        for (name, number) in ours {
            assert_eq!(facts.get(name), Some(&number), "{name}");
        }
    }
}

#[test]
fn constants_of_libc_have_the_numbers_of_its_headers() {
    let ours = numbers![
        IPPROTO_IPV6,
        IPV6_V6ONLY,
        AF_INET,
        AF_INET6,
        AF_UNIX,
        SOCK_STREAM,
        SOCK_DGRAM,
        AI_ADDRCONFIG,
    ];
    let facts = facts(LIBC, "(IPPROTO|IPV6|PF|AF|SOCK|AI)_.*|__socket_type");
    for (name, number) in ours {
        assert_eq!(facts.get(name), Some(&number), "{name}");
    }
}

macro_rules! structs {
    ($facts:ident: $($name:ident { $($field:ident),+ })+) => {$(
        let name = stringify!($name);
        let size = size_of::<libc::$name>() as i64;
        assert_eq!($facts.get(&format!("Size of {name}")), Some(&size), "{name}");
        $(
            let field = format!("Offset of field: {name}::{}", stringify!($field));
            let offset = offset_of!(libc::$name, $field) as i64;
            assert_eq!($facts.get(&field), Some(&offset), "{field}");
        )+
    )+};
}

#[test]
fn addresses_have_the_layout_of_the_headers() {
    let facts = facts(
        LIBC,
        "sockaddr|sockaddr_in|sockaddr_in6|sockaddr_un|addrinfo",
    );
    structs! { facts:
        sockaddr { sa_family, sa_data }
        sockaddr_in { sin_family, sin_port, sin_addr }
        sockaddr_in6 { sin6_family, sin6_port, sin6_flowinfo, sin6_addr, sin6_scope_id }
        sockaddr_un { sun_family, sun_path }
        addrinfo { ai_flags, ai_family, ai_socktype, ai_protocol, ai_addrlen, ai_addr, ai_next }
    }
    // The longest path that src/parse/address.rs accepts, with its final 0.
    let path = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);
    assert_eq!(path, 108);
}

/// Pairs each field name of the kernel with the offset of the field in this crate.
macro_rules! offsets {
    ($($kernel:ident :: $field:ident = $offset:expr),+ $(,)?) => {
        [$((stringify!($kernel), stringify!($field), $offset as i64)),+]
    };
}

/// The kernel adds fields only at the end of these structs. Fields that the installed headers
/// do not have yet are skipped.
#[test]
fn structs_of_connections_have_the_layout_of_the_headers() {
    use linux::{
        mptcp_info, mptcp_subflow_addrs, mptcp_subflow_data, mptcp_subflow_info, tcp_info,
    };
    let facts = facts(
        MPTCP,
        "mptcp_info|mptcp_subflow_data|mptcp_subflow_addrs|mptcp_subflow_info|mptcp_full_info\
         |tcp_info|MPTCP_.*",
    );
    let offsets = offsets! {
        mptcp_info::mptcpi_subflows = mptcp_info::SUBFLOWS,
        mptcp_info::mptcpi_add_addr_accepted = mptcp_info::ADD_ADDR_ACCEPTED,
        mptcp_info::mptcpi_local_addr_used = mptcp_info::LOCAL_ADDR_USED,
        mptcp_info::mptcpi_flags = mptcp_info::FLAGS,
        mptcp_info::mptcpi_token = mptcp_info::TOKEN,
        mptcp_info::mptcpi_bytes_retrans = mptcp_info::BYTES_RETRANS,
        mptcp_info::mptcpi_bytes_sent = mptcp_info::BYTES_SENT,
        mptcp_info::mptcpi_bytes_received = mptcp_info::BYTES_RECEIVED,
        mptcp_info::mptcpi_last_data_sent = mptcp_info::LAST_DATA_SENT,
        mptcp_info::mptcpi_last_data_recv = mptcp_info::LAST_DATA_RECV,
        mptcp_info::mptcpi_last_ack_recv = mptcp_info::LAST_ACK_RECV,
        mptcp_subflow_data::size_subflow_data = mptcp_subflow_data::SIZE_SUBFLOW_DATA,
        mptcp_subflow_data::num_subflows = mptcp_subflow_data::NUM_SUBFLOWS,
        mptcp_subflow_data::size_user = mptcp_subflow_data::SIZE_USER,
        mptcp_subflow_info::id = mptcp_subflow_info::ID,
        mptcp_subflow_info::addrs = mptcp_subflow_info::ADDRS,
        mptcp_full_info::size_tcpinfo_user = 4,
        mptcp_full_info::size_sfinfo_user = 12,
        mptcp_full_info::num_subflows = 16,
        mptcp_full_info::size_arrays_user = 20,
        mptcp_full_info::subflow_info = 24,
        mptcp_full_info::tcp_info = 32,
        mptcp_full_info::mptcp_info = 40,
        tcp_info::tcpi_state = tcp_info::STATE,
        tcp_info::tcpi_snd_mss = tcp_info::SND_MSS,
        tcp_info::tcpi_unacked = tcp_info::UNACKED,
        tcp_info::tcpi_last_data_sent = tcp_info::LAST_DATA_SENT,
        tcp_info::tcpi_last_data_recv = tcp_info::LAST_DATA_RECV,
        tcp_info::tcpi_last_ack_recv = tcp_info::LAST_ACK_RECV,
        tcp_info::tcpi_rtt = tcp_info::RTT,
        tcp_info::tcpi_snd_cwnd = tcp_info::SND_CWND,
        tcp_info::tcpi_total_retrans = tcp_info::TOTAL_RETRANS,
        tcp_info::tcpi_bytes_acked = tcp_info::BYTES_ACKED,
        tcp_info::tcpi_bytes_received = tcp_info::BYTES_RECEIVED,
        tcp_info::tcpi_bytes_sent = tcp_info::BYTES_SENT,
        tcp_info::tcpi_bytes_retrans = tcp_info::BYTES_RETRANS,
    };
    let mut there = 0;
    for (kernel, field, offset) in offsets {
        match facts.get(&format!("Offset of field: {kernel}::{field}")) {
            Some(found) => {
                assert_eq!(*found, offset, "{kernel}::{field}");
                there += 1;
            }
            None => println!("{kernel}::{field} is not in these headers"),
        }
    }
    // The headers must have at least the fields of Linux 5.16 and of TCP.
    assert!(
        there >= 17,
        "only {there} fields are in these headers: they are too old"
    );

    for (name, number) in [
        ("MPTCP_INFO", i64::from(linux::MPTCP_INFO)),
        ("MPTCP_SUBFLOW_ADDRS", linux::MPTCP_SUBFLOW_ADDRS.into()),
        ("MPTCP_FULL_INFO", linux::MPTCP_FULL_INFO.into()),
        (
            "Size of mptcp_subflow_data",
            mptcp_subflow_data::SIZE as i64,
        ),
        (
            "Size of mptcp_subflow_addrs",
            mptcp_subflow_addrs::SIZE as i64,
        ),
        (
            "Size of mptcp_subflow_info",
            mptcp_subflow_info::SIZE as i64,
        ),
    ] {
        if let Some(found) = facts.get(name) {
            assert_eq!(*found, number, "{name}");
        }
    }
}
