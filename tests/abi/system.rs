//! The numbers and structs of the kernel and of libc that this crate takes from
//! the libc crate, or writes down itself, against the headers of this machine.

use std::mem::{offset_of, size_of};

use ngx_rs_listen::Protocol;

use super::clang::{self, Facts};

/// The headers of the kernel. Of linux/mptcp.h this crate declares nothing yet.
const LINUX: &str = "
#include <linux/in.h>
#include <linux/tcp.h>
#include <asm/socket.h>
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
                // Linux 6.11, and glibc 2.41.
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
fn what_libc_alone_defines_has_its_numbers() {
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
    // The longest path that src/parse/address.rs lets pass, and its final 0.
    let path = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);
    assert_eq!(path, 108);
}
