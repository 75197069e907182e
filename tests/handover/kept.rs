//! Inherited sockets that are kept, because a requested socket has the same address, type and
//! protocol.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use ngx_rs_listen::open::Report;
use ngx_rs_listen::{
    Disposition, Inherited, Listening, Open, Outcome, Protocol, Request, flag, open,
};
use socket2::{Domain, Socket, Type};

use test_support::library;
use test_support::listening::*;
use test_support::namespace;

fn datagram(text: &str) -> Socket {
    let address = address(text);
    let socket = Socket::new(address.domain(), Type::DGRAM, None).expect("UDP");
    let address = address.to_kernel().expect("an address");
    socket.bind(&address).expect("the port is free");
    socket
}

fn with_reuseport(mut socket: Listening) -> Listening {
    socket.options.flags |= flag::REUSEPORT;
    socket
}

/// Opens sockets together with inherited ones, and returns the reports.
fn reported(sockets: &mut [Listening], inherited: &mut [Inherited<'_>]) -> Vec<String> {
    let mut said = Vec::new();
    let mut report = |report: Report<'_>| {
        said.push(match report {
            Report::Kept {
                address,
                protocol,
                request,
            } => format!("{address} is {protocol}, not {request}"),
            Report::NotTcp(address) => format!("{address} is not TCP"),
            other => format!("{other:?}"),
        });
    };
    let mut how = Open {
        report: Some(&mut report),
        ..Open::default()
    };
    open::listening(sockets, inherited, &mut how).expect("they are kept");
    said
}

fn protocols(sockets: &[Listening]) -> Vec<Protocol> {
    sockets.iter().map(|socket| socket.protocol).collect()
}

fn outcomes(sockets: &[Listening]) -> Vec<Outcome> {
    sockets.iter().map(|socket| socket.outcome).collect()
}

fn dispositions(inherited: &[Inherited<'_>]) -> Vec<Disposition> {
    inherited.iter().map(Inherited::disposition).collect()
}

#[test]
fn a_socket_of_the_same_protocol_is_kept_unchanged() {
    namespace::run(|| {
        for (text, request, number) in [
            ("127.0.0.1:80", MPTCP, Protocol::Mptcp),
            ("[::1]:80", MPTCP, Protocol::Mptcp),
            ("0.0.0.0:81", OFF, Protocol::Tcp),
            ("[::]:81", Request::AUTO, Protocol::Mptcp),
        ] {
            let old = listener(text, number, false);
            let clients = connect(
                &text
                    .replace("0.0.0.0", "127.0.0.1")
                    .replace("[::]", "[::1]"),
                3,
            );
            let before = namespace::descriptors();
            let mut sockets = [stream(text, Some(request))];
            let mut inherited = [Inherited::new(&old)];
            open_beside(&mut sockets, &mut inherited).expect("it goes on");
            assert_eq!(outcomes(&sockets), [Outcome::Inherited(0)]);
            assert_eq!(dispositions(&inherited), [Disposition::Kept]);
            assert!(sockets[0].fd.is_none());
            assert_eq!(sockets[0].protocol, number);
            assert_eq!(namespace::descriptors(), before);
            assert!(!shares(&old) && listens(&old));
            assert_eq!(waiting(&old), 3);
            drop(clients);
        }
    });
}

#[test]
fn tcp_without_a_requested_protocol_stays_tcp() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Tcp, false);
        let mut sockets = [tcp("127.0.0.1:80")];
        let mut inherited = [Inherited::new(&old)];
        open_beside(&mut sockets, &mut inherited).expect("it goes on");
        assert_eq!(outcomes(&sockets), [Outcome::Inherited(0)]);
    });
}

#[test]
fn addresses_find_their_own_socket_in_any_order() {
    namespace::run(|| {
        let texts = ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.2:80", "[::1]:80"];
        let old = texts.map(|text| listener(text, Protocol::Mptcp, false));
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        let mut sockets = ["[::1]:80", "127.0.0.1:82", "127.0.0.2:80", "127.0.0.1:80"].map(mptcp);
        open_beside(&mut sockets, &mut inherited).expect("three go on, one is new");
        let (new, old) = (Outcome::Opened, Outcome::Inherited);
        assert_eq!(outcomes(&sockets), [old(3), new, old(2), old(0)]);
        let (kept, unused) = (Disposition::Kept, Disposition::Unused);
        assert_eq!(dispositions(&inherited), [kept, unused, kept, kept]);
    });
}

#[test]
fn tcp_and_udp_on_one_port_are_told_apart() {
    namespace::run(|| {
        let text = "127.0.0.1:53";
        let (old_udp, old_tcp) = (datagram(text), listener(text, Protocol::Mptcp, false));
        let mut inherited = [Inherited::new(&old_udp), Inherited::new(&old_tcp)];
        let mut sockets = [mptcp(text), udp(text)];
        open_beside(&mut sockets, &mut inherited).expect("both go on");
        assert_eq!(
            outcomes(&sockets),
            [Outcome::Inherited(1), Outcome::Inherited(0)]
        );

        // A UDP socket is not used in place of a missing TCP socket.
        drop(old_tcp);
        let mut inherited = [Inherited::new(&old_udp)];
        let mut sockets = [mptcp(text)];
        open_beside(&mut sockets, &mut inherited).expect("the TCP port is free");
        assert_eq!(outcomes(&sockets), [Outcome::Opened]);
        assert_eq!(dispositions(&inherited), [Disposition::Unused]);
    });
}

#[test]
fn unix_sockets_are_kept_with_their_file() {
    namespace::run(|| {
        let path = std::env::temp_dir().join(format!("ngx-rs-kept-{}", std::process::id()));
        let text = format!("unix:{}", path.display());
        let old = listener(&text, Protocol::Tcp, false);
        let mut sockets = [tcp(&text), tcp("unix:/no-such-directory/x")];
        let mut inherited = [Inherited::new(&old)];
        open_beside(&mut sockets, &mut inherited).expect_err("the second cannot be bound");
        assert!(path.exists(), "it is not ours to remove");
        assert_eq!(dispositions(&inherited), [Disposition::Unused]);

        let mut sockets = [tcp(&text)];
        open_beside(&mut sockets, &mut inherited).expect("it goes on");
        assert_eq!(outcomes(&sockets), [Outcome::Inherited(0)]);
        std::fs::remove_file(path).expect("it is there");
    });
}

#[test]
fn four_workers_become_two() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [(); 4].map(|()| listener(text, Protocol::Mptcp, true));
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        let mut sockets = [(); 2].map(|()| with_reuseport(mptcp(text)));
        open_beside(&mut sockets, &mut inherited).expect("two go on");
        assert_eq!(outcomes(&sockets), [0, 1].map(Outcome::Inherited));
        let (kept, unused) = (Disposition::Kept, Disposition::Unused);
        assert_eq!(dispositions(&inherited), [kept, kept, unused, unused]);
    });
}

#[test]
fn two_workers_become_four() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [(); 2].map(|()| listener(text, Protocol::Mptcp, true));
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        let mut sockets = [(); 4].map(|()| with_reuseport(mptcp(text)));
        open_beside(&mut sockets, &mut inherited).expect("two go on, two are new");
        let (kept, new) = (Outcome::Inherited, Outcome::Joined);
        assert_eq!(outcomes(&sockets), [kept(0), kept(1), new, new]);
        let _clients = connect(text, 200);
        let served = [
            waiting(&old[0]),
            waiting(&old[1]),
            waiting(fd(&sockets[2])),
            waiting(fd(&sockets[3])),
        ];
        assert_eq!(served.iter().sum::<usize>(), 200);
        assert!(served.iter().all(|&count| count > 0), "{served:?}");
    });
}

#[test]
fn sockets_added_to_a_group_listen_after_the_commit() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = listener(text, Protocol::Mptcp, true);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [(); 2].map(|()| with_reuseport(mptcp(text)));
        let mut how = Open {
            prepare: true,
            ..Open::default()
        };
        open::listening(&mut sockets, &mut inherited, &mut how).expect("one is new");
        let clients = connect(text, 100);
        assert_eq!(waiting(&old), 100, "the old one serves until the commit");
        drop(clients);

        open::commit(&mut sockets, &mut inherited).expect("it can listen");
        assert!(shares(&old) && shares(fd(&sockets[1])));
        let _clients = connect(text, 100);
        let served = [waiting(&old), waiting(fd(&sockets[1]))];
        assert_eq!(served.iter().sum::<usize>(), 100);
        assert!(served.iter().all(|&count| count > 0), "{served:?}");
    });
}

#[test]
fn reuseport_can_be_added_to_a_running_socket() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = listener(text, Protocol::Mptcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [(); 2].map(|()| with_reuseport(mptcp(text)));
        open_beside(&mut sockets, &mut inherited).expect("one goes on, one is new");
        assert_eq!(outcomes(&sockets), [Outcome::Inherited(0), Outcome::Joined]);
        assert!(shares(&old));
    });
}

#[test]
fn auto_keeps_inherited_sockets_when_mptcp_is_switched_off() {
    namespace::run(|| {
        let old = [
            listener("127.0.0.1:80", Protocol::Tcp, false),
            listener("127.0.0.1:81", Protocol::Mptcp, false),
            listener("[::1]:80", Protocol::Tcp, false),
        ];
        namespace::set_mptcp(false);
        let mut said = Vec::new();
        let mut report = |report: Report<'_>| said.push(format!("{report:?}"));
        let mut how = Open {
            report: Some(&mut report),
            ..Open::default()
        };
        let texts = ["127.0.0.1:80", "127.0.0.1:81", "[::1]:80"];
        let mut sockets = texts.map(|text| stream(text, Some(Request::AUTO)));
        let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
        open::listening(&mut sockets, &mut inherited, &mut how).expect("all go on");
        assert_eq!(outcomes(&sockets), [0, 1, 2].map(Outcome::Inherited));
        let protocols = sockets.map(|socket| socket.protocol);
        assert_eq!(protocols, [Protocol::Tcp, Protocol::Mptcp, Protocol::Tcp]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("Fallback"), "{said:?}");
    });
}

#[test]
fn on_keeps_an_mptcp_socket_when_mptcp_is_switched_off() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Mptcp, false);
        namespace::set_mptcp(false);
        let mut sockets = [mptcp("127.0.0.1:80")];
        let mut inherited = [Inherited::new(&old)];
        open_beside(&mut sockets, &mut inherited).expect("it needs no new socket");
        assert_eq!(outcomes(&sockets), [Outcome::Inherited(0)]);
    });
}

#[test]
fn sockets_of_other_families_stay_unused() {
    namespace::run(|| {
        let old = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let pair = Socket::pair(Domain::UNIX, Type::DGRAM, None).expect("a pair");
        let mut inherited = [Inherited::new(&old), Inherited::new(&pair.0)];
        let mut sockets = [mptcp("127.0.0.1:80")];
        open_beside(&mut sockets, &mut inherited).expect("they are no obstacle");
        assert_eq!(outcomes(&sockets), [Outcome::Opened]);
        assert_eq!(dispositions(&inherited), [Disposition::Unused; 2]);
    });
}

#[test]
fn a_descriptor_of_a_file_cannot_be_inherited() {
    namespace::run(|| {
        let old = listener("127.0.0.1:80", Protocol::Mptcp, false);
        let file = File::open("/dev/null").expect("it is everywhere");
        let mut inherited = [Inherited::new(&old), Inherited::from(file.as_fd())];
        let mut sockets = [mptcp("127.0.0.1:80"), mptcp("127.0.0.1:81")];
        let before = namespace::descriptors();
        let error = open_beside(&mut sockets, &mut inherited).expect_err("a file");
        assert_eq!(
            error.to_string(),
            "getsockname() of the inherited socket #1 failed"
        );
        assert_eq!(error.os_errno(), libc::ENOTSOCK);
        assert_eq!(namespace::descriptors(), before);
        assert_eq!(dispositions(&inherited), [Disposition::Unused; 2]);
    });
}

const TCP_AND_MPTCP: [Protocol; 2] = [Protocol::Tcp, Protocol::Mptcp];
const TEXTS: [&str; 2] = ["127.0.0.1:80", "127.0.0.1:81"];

/// A TCP and an MPTCP socket.
fn both() -> [Socket; 2] {
    [
        listener(TEXTS[0], Protocol::Tcp, false),
        listener(TEXTS[1], Protocol::Mptcp, false),
    ]
}

#[test]
fn a_socket_that_was_passed_keeps_any_protocol_unless_one_is_requested() {
    namespace::run(|| {
        let old = both();
        let passed = |old| Inherited::new(old).passed();
        let mut inherited = old.each_ref().map(passed);
        let mut sockets = TEXTS.map(tcp);
        assert!(reported(&mut sockets, &mut inherited).is_empty());
        assert_eq!(outcomes(&sockets), [0, 1].map(Outcome::Inherited));
        assert_eq!(protocols(&sockets), TCP_AND_MPTCP);

        let mut inherited = old.each_ref().map(passed);
        let mut sockets = [mptcp(TEXTS[0]), stream(TEXTS[1], Some(OFF))];
        assert!(reported(&mut sockets, &mut inherited).is_empty());
        assert_eq!(outcomes(&sockets), [Outcome::Successor; 2]);
    });
}

#[test]
fn a_socket_that_another_process_may_use_keeps_its_protocol_in_any_case() {
    namespace::run(|| {
        let old = both();
        let in_use = |old| Inherited::new(old).in_use();
        for (requests, wanted) in [
            ([None, None], vec![]),
            ([Some(OFF), Some(MPTCP)], vec![]),
            ([Some(OFF), Some(Request::AUTO)], vec![]),
            // "auto" accepts plain TCP, so there is no report.
            ([Some(Request::AUTO), None], vec![]),
            // One report for all sockets.
            (
                [Some(MPTCP), Some(OFF)],
                vec!["127.0.0.1:80 is tcp, not mptcp"],
            ),
            (
                [None, Some(OFF)],
                vec!["127.0.0.1:81 is mptcp, not mptcp=off"],
            ),
        ] {
            let mut inherited = old.each_ref().map(in_use);
            let mut sockets = [0, 1].map(|index| stream(TEXTS[index], requests[index]));
            assert_eq!(reported(&mut sockets, &mut inherited), wanted);
            assert_eq!(outcomes(&sockets), [0, 1].map(Outcome::Inherited));
            assert_eq!(protocols(&sockets), TCP_AND_MPTCP);
            assert_eq!(dispositions(&inherited), [Disposition::Kept; 2]);
            assert!(!old.iter().any(shares), "nothing was changed");
        }
    });
}

#[test]
fn added_workers_get_the_protocol_of_the_passed_sockets() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [(); 2].map(|()| listener(text, Protocol::Mptcp, true));
        for mark in [Inherited::passed, Inherited::in_use] {
            let mut inherited: Vec<_> = old.iter().map(|old| mark(Inherited::new(old))).collect();
            let mut sockets = [(); 3].map(|()| with_reuseport(tcp(text)));
            assert!(reported(&mut sockets, &mut inherited).is_empty());
            let (kept, new) = (Outcome::Inherited, Outcome::Joined);
            assert_eq!(outcomes(&sockets), [kept(0), kept(1), new]);
            assert_eq!(protocol(fd(&sockets[2])), Protocol::Mptcp.number());
        }
    });
}

/// A library that does the same as libmptcpwrap.so of `mptcpize`.
const WRAPPER: &str = r#"
#define _GNU_SOURCE
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int socket(int family, int type, int protocol)
{
    int inet = family == AF_INET || family == AF_INET6;

    if (inet && (type & 0xf) == SOCK_STREAM
        && (protocol == 0 || protocol == IPPROTO_TCP))
    {
        protocol = 262;
    }
    return syscall(SYS_socket, family, type, protocol);
}
"#;

/// Runs a test of this program again in a process with the preloaded library. Returns true in
/// that process, and false in the first one.
fn is_preloaded(test: &str) -> bool {
    const PRELOADED: &str = "NGX_RS_PRELOADED";
    if std::env::var_os(PRELOADED).is_some() {
        return true;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, wrapper) = (folder.join("wrapper.c"), folder.join("wrapper.so"));
    fs::write(&source, WRAPPER).expect("the folder is ours");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
    library::run(compiler.arg(&wrapper).arg(source));
    let program = std::env::current_exe().expect("this program has a file");
    let mut again = Command::new(program);
    again.args(["--exact", test]).env(PRELOADED, "1");
    let said = library::run(again.env("LD_PRELOAD", wrapper));
    assert!(said.contains("1 passed"), "{said}");
    false
}

#[test]
fn a_socket_that_a_preload_made_mptcp_is_kept_as_tcp() {
    if !is_preloaded("kept::a_socket_that_a_preload_made_mptcp_is_kept_as_tcp") {
        return;
    }
    namespace::run(|| {
        let texts = ["127.0.0.1:80", "[::1]:80", "127.0.0.1:81"];
        let old = texts.map(|text| listener(text, Protocol::Tcp, false));
        for old in &old {
            assert_eq!(protocol(old), Protocol::Mptcp.number());
        }
        // One report for all sockets that request plain TCP, and none if no protocol is
        // requested.
        for (request, said) in [(Some(OFF), "127.0.0.1:80 is not TCP"), (None, "")] {
            let mut inherited = old.each_ref().map(Inherited::new);
            let mut sockets = texts.map(|text| stream(text, request));
            let reports = reported(&mut sockets, &mut inherited);
            assert_eq!(reports.join(", "), said);
            assert_eq!(outcomes(&sockets), [0, 1, 2].map(Outcome::Inherited));
        }
        let mut fresh = [stream("127.0.0.1:90", Some(OFF))];
        let reports = reported(&mut fresh, &mut []);
        assert_eq!(reports, ["127.0.0.1:90 is not TCP"]);
        // A request for MPTCP keeps the same socket.
        let mut inherited = [Inherited::new(&old[0])];
        let mut sockets = [mptcp(texts[0])];
        assert!(reported(&mut sockets, &mut inherited).is_empty());
        assert_eq!(outcomes(&sockets), [Outcome::Inherited(0)]);
    });
}
