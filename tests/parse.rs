//! The grammar of the listen directive: the cases of tests/data/accepted.txt and
//! tests/data/rejected.txt, and cases that cannot be written as one line.

use std::net::{IpAddr, SocketAddr};

use ngx_rs_listen::parse::{self, Owner, Rules, Subsystem};
use ngx_rs_listen::{Address, Error, Host, Listen, Options, resolve};
use test_support::table::{self, Line};
use test_support::words;

const ACCEPTED: &str = include_str!("data/accepted.txt");
const REJECTED: &str = include_str!("data/rejected.txt");

const OURS: [&str; 10] = [
    "mptcp",
    "mptcp=on",
    "mptcp=auto",
    "mptcp=off",
    "multipath",
    "protocol=tcp",
    "protocol=mptcp",
    "protocol=sctp",
    "protocol=6",
    "protocol=262",
];

fn is_plain(word: &str) -> bool {
    ["mptcp=off", "protocol=tcp", "protocol=6"].contains(&word)
}

fn rules(subsystem: Subsystem) -> Rules {
    Rules {
        subsystem,
        ..Rules::default()
    }
}

fn parse(words: &[&str], subsystem: Subsystem) -> Result<Listen, Error> {
    let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
    parse::listen(&words, &rules(subsystem))
}

fn refusal(words: &[&str], subsystem: Subsystem) -> String {
    match parse(words, subsystem) {
        Ok(listen) => format!("accepted: {listen:?}"),
        Err(error) => error.to_string(),
    }
}

/// A directive in the format of accepted.txt.
fn print(listen: &Listen) -> String {
    let mut words = Vec::new();
    match &listen.address {
        Address::Unix(path) => words.push(format!("unix:{}", String::from_utf8_lossy(path))),
        Address::Inet { host, ports, .. } => {
            words.push(match host {
                Host::Ip(ip) => ip.to_string(),
                Host::Name(name) => format!("name({})", String::from_utf8_lossy(name)),
            });
            words.push(match ports.start() == ports.end() {
                true => ports.start().to_string(),
                false => format!("{}-{}", ports.start(), ports.end()),
            });
        }
    }
    words.extend(words::options(&listen.options));
    words.extend(listen.request.map(|request| request.to_string()));
    words.join(" ")
}

fn check(text: &str, outcome: impl Fn(&Line, Subsystem) -> String) {
    let mut lines = 0;
    for line in table::lines(text) {
        for &subsystem in &line.subsystems {
            let found = outcome(&line, subsystem);
            assert_eq!(found, line.outcome, "{:?} in {subsystem:?}", line.words);
        }
        lines += 1;
    }
    assert!(lines > 100, "{lines} lines only");
}

#[test]
fn accepts_what_nginx_accepts() {
    check(ACCEPTED, |line, subsystem| {
        match parse(&line.words(), subsystem) {
            Ok(listen) => print(&listen),
            Err(error) => format!("refused: {error}"),
        }
    });
}

#[test]
fn rejects_what_nginx_rejects() {
    check(REJECTED, |line, subsystem| {
        match parse(&line.words(), subsystem) {
            Err(error @ Error::Syntax { word, .. }) => format!("{word}: {error}"),
            other => format!("{other:?}"),
        }
    });
}

#[test]
fn every_accepted_directive_keeps_its_meaning_when_it_is_printed() {
    for line in table::lines(ACCEPTED) {
        for &subsystem in &line.subsystems {
            let listen = parse(&line.words(), subsystem).expect("accepted");
            let words = words::of(&listen);
            let words: Vec<_> = words
                .iter()
                .map(|word| std::str::from_utf8(word).expect("the lines are UTF-8"))
                .collect();
            let again = parse(&words, subsystem).expect("accepted again");
            assert_eq!(print(&again), print(&listen), "{words:?}");
        }
    }
}

#[test]
fn each_parameter_is_accepted_only_by_its_subsystems() {
    const STREAM: &[&str] = &["udp"];
    const HTTP: &[&str] = &["quic", "http2", "default", "spdy"];
    const STREAM_AND_HTTP: &[&str] = &[
        "default_server",
        "reuseport",
        "deferred",
        "fastopen=1",
        "accept_filter=x",
        "setfib=1",
    ];
    const ALL: &[&str] = &[
        "ssl",
        "bind",
        "proxy_protocol",
        "backlog=nonsense",
        "rcvbuf=",
        "sndbuf=1",
        "ipv6only=on",
        "ipv6only=oh",
        "so_keepalive=",
    ];
    let nowhere = ["", "foo", "SSL", "sslx", "backlog", "ipv6only=yes", "Mptcp"];
    let owner = |word: &str, subsystem| parse::owner(word.as_bytes(), subsystem);
    for subsystem in table::SUBSYSTEMS {
        let known = |words: &[&str], here: bool| {
            let wanted = if here { Owner::Nginx } else { Owner::Unknown };
            for word in words {
                assert_eq!(owner(word, subsystem), wanted, "{word} in {subsystem:?}");
            }
        };
        known(STREAM, subsystem == Subsystem::Stream);
        known(HTTP, subsystem == Subsystem::Http);
        known(STREAM_AND_HTTP, subsystem != Subsystem::Mail);
        known(ALL, true);
        known(&nowhere, false);
        for word in OURS.iter().chain(&["mptcp=", "mptcp=maybe", "protocol=x"]) {
            assert_eq!(owner(word, subsystem), Owner::Ours, "{word}");
        }
    }
}

#[test]
fn two_protocol_parameters_are_rejected() {
    for subsystem in table::SUBSYSTEMS {
        for first in OURS {
            for second in OURS {
                let message = match first == second {
                    true => format!("duplicate \"{first}\" parameter"),
                    false => {
                        format!("\"{second}\" parameter is incompatible with \"{first}\"")
                    }
                };
                assert_eq!(refusal(&["80", first, second], subsystem), message);
                assert_eq!(refusal(&["80", first, "ssl", second], subsystem), message);
            }
        }
    }
}

#[test]
fn other_protocols_need_an_inet_stream_socket() {
    let cases = [
        (Subsystem::Stream, "80", "udp", "udp"),
        (Subsystem::Http, "80", "quic", "quic"),
        (Subsystem::Stream, "unix:/x", "bind", "unix:/x"),
        (Subsystem::Http, "unix:/x", "bind", "unix:/x"),
        (Subsystem::Mail, "unix:/x", "bind", "unix:/x"),
    ];
    for (subsystem, address, other, blamed) in cases {
        for word in OURS {
            for words in [[address, other, word], [address, word, other]] {
                if is_plain(word) {
                    assert!(parse(&words, subsystem).is_ok(), "{words:?}");
                } else {
                    let message = format!("\"{word}\" parameter is incompatible with \"{blamed}\"");
                    assert_eq!(refusal(&words, subsystem), message);
                }
            }
        }
    }
}

#[test]
fn protocol_parameters_do_not_imply_bind() {
    for word in OURS {
        let listen = parse(&["80", word], Subsystem::Stream).expect("accepted");
        assert_eq!(listen.options, Options::default(), "{word}");
    }
}

#[test]
fn ours_only_leaves_other_parameters_unread() {
    let ours_only = Rules {
        ours_only: true,
        ..Rules::default()
    };
    let parse = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        parse::listen(&words, &ours_only).map_err(|error| error.to_string())
    };
    let left = ["80", "foo", "backlog=x", "setfib=1", "", "mptcp", "rcvbuf="];
    let listen = parse(&left).expect("other words are not ours to judge");
    assert_eq!(print(&listen), "0.0.0.0 80 mptcp");
    // The library accepts this, because nginx checks its own parameters.
    let listen = parse(&["80", "udp", "ssl", "backlog=1"]).expect("nginx's to judge");
    assert_eq!(listen.options.socket_type(), socket2::Type::DGRAM);

    let refused = |words: &[&str]| parse(words).err().unwrap_or_default();
    assert_eq!(
        refused(&["80", "foo", "udp", "mptcp"]),
        "\"mptcp\" parameter is incompatible with \"udp\""
    );
    assert_eq!(
        refused(&["80", "foo", "mptcp", "mptcp"]),
        "duplicate \"mptcp\" parameter"
    );
    assert_eq!(
        refused(&["*:x", "mptcp"]),
        "invalid port in \"*:x\" of the \"listen\" directive"
    );
}

#[test]
fn a_directive_without_arguments_has_no_address() {
    let error = parse(&[], Subsystem::Stream).expect_err("no words");
    assert_eq!(error.to_string(), "no address in the \"listen\" directive");
}

#[test]
fn arguments_may_contain_any_bytes() {
    let long = vec![b'x'; 100_000];
    let odd: [&[u8]; 6] = [b"\xff", b"\0", b"mptcp\0", b"mptcp=\xff", b"=", &long];
    for word in odd {
        for words in [[b"80".as_slice(), word], [word, b"mptcp"]] {
            for subsystem in table::SUBSYSTEMS {
                let _ = parse::listen(&words, &rules(subsystem));
            }
        }
        let error = parse::listen(&[b"80", word], &Rules::default());
        assert!(
            matches!(error, Err(Error::Syntax { word: 1, .. })),
            "{word:?}"
        );
    }
    let error = parse::listen(&[b"80", b"a\xffb"], &Rules::default());
    let message = error.expect_err("unknown").to_string();
    assert_eq!(message, "invalid parameter \"a\u{fffd}b\"");
}

#[test]
fn ranges_become_one_socket_per_address_and_port() {
    let listen = parse(&["[::1]:1-65535", "mptcp", "backlog=9"], Subsystem::Stream);
    let sockets = resolve::sockets(&listen.expect("accepted")).expect("no name");
    assert_eq!(sockets.len(), 65535);
    for (socket, port) in sockets.iter().zip(1..=65535) {
        let wanted = SocketAddr::new(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), port);
        assert_eq!(socket.address.as_socket(), Some(wanted));
        assert_eq!(socket.options.backlog, 9);
    }
}

#[test]
fn names_become_their_addresses_each_once() {
    let listen = parse(&["localhost:80-81"], Subsystem::Stream).expect("accepted");
    let addresses = resolve::addresses(&listen).expect("localhost has an address");
    assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    let sockets = resolve::sockets(&listen).expect("localhost has an address");
    let found: Vec<_> = sockets
        .iter()
        .filter_map(|socket| socket.address.as_socket())
        .collect();
    let wanted: Vec<_> = addresses
        .iter()
        .flat_map(|&ip| [80, 81].map(|port| SocketAddr::new(ip, port)))
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn names_without_an_address_are_not_found() {
    // Without a network the resolver queries no name server, so the test does not wait.
    test_support::namespace::run(|| {
        for name in ["no-such-name.invalid:80", "a b", "\0", "255.255.255.256"] {
            let listen = parse(&[name, "mptcp"], Subsystem::Http).expect("it is a name");
            let error = resolve::sockets(&listen).expect_err("there is no such name");
            let message = format!("host not found in \"{name}\" of the \"listen\" directive");
            assert_eq!(error.to_string(), message);
        }
    });
}
