//! The protocol of a socket that several listen directives share.

use std::net::SocketAddr;

use ngx_rs_listen::assign::{Requested, protocols};
use ngx_rs_listen::{Error, Listening, Options, Protocol, Request, SocketAddress};
use socket2::Type;

const MPTCP: Request = Request::only(Protocol::Mptcp);
const OFF: Request = Request::only(Protocol::Tcp);
const SCTP: Request = Request::only(Protocol::Sctp);

fn address(text: &str) -> SocketAddress {
    match text.strip_prefix("unix:") {
        Some(path) => SocketAddress::Unix(path.into()),
        None => text.parse::<SocketAddr>().expect("an address").into(),
    }
}

fn sockets(addresses: &[&str]) -> Vec<Listening> {
    let socket = |text: &&str| Listening::new(address(text), Type::STREAM);
    addresses.iter().map(socket).collect()
}

fn requested(requests: &[(&str, Request)]) -> Vec<Requested> {
    let requested = requests.iter().map(|&(text, request)| Requested {
        address: address(text),
        request,
    });
    requested.collect()
}

/// The requests that the sockets get, or the index and the text of the error.
fn assign(
    at: &[&str],
    requests: &[(&str, Request)],
) -> Result<Vec<Option<Request>>, (usize, String)> {
    let mut sockets = sockets(at);
    match protocols(&mut sockets, &requested(requests)) {
        Ok(()) => Ok(sockets.iter().map(|socket| socket.request).collect()),
        Err(error @ Error::Conflict { request, .. }) => Err((request, error.to_string())),
        Err(error) => panic!("no conflict: {error}"),
    }
}

#[test]
fn sockets_get_the_requests_of_their_addresses() {
    let at = ["127.0.0.1:80", "127.0.0.1:81", "[::1]:80", "127.0.0.2:80"];
    let requests = [
        ("[::1]:80", Request::AUTO),
        ("127.0.0.1:80", MPTCP),
        ("127.0.0.2:80", OFF),
    ];
    let wanted = vec![Some(MPTCP), None, Some(Request::AUTO), Some(OFF)];
    assert_eq!(assign(&at, &requests), Ok(wanted));
    assert_eq!(assign(&at, &[]), Ok(vec![None; 4]));
    assert_eq!(assign(&[], &[]), Ok(vec![]));
}

#[test]
fn one_directive_is_enough_and_many_may_agree() {
    let requests = [("0.0.0.0:80", MPTCP); 3];
    assert_eq!(assign(&["0.0.0.0:80"], &requests), Ok(vec![Some(MPTCP)]));
}

#[test]
fn the_socket_of_each_worker_gets_the_request_of_its_address() {
    let at = ["127.0.0.1:80"; 4];
    let wanted = vec![Some(MPTCP); 4];
    assert_eq!(assign(&at, &[("127.0.0.1:80", MPTCP)]), Ok(wanted));
}

#[test]
fn an_address_without_a_socket_shares_that_of_the_wildcard() {
    for (wildcard, specific) in [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80")] {
        let both = [(specific, MPTCP), (wildcard, MPTCP)];
        assert_eq!(assign(&[wildcard], &both), Ok(vec![Some(MPTCP)]));
        let first = [(wildcard, MPTCP)];
        assert_eq!(assign(&[wildcard], &first), Ok(vec![Some(MPTCP)]));

        let alone = assign(&[wildcard], &[(specific, MPTCP)]);
        let message =
            format!("nginx uses one socket for {wildcard} and {specific}: add \"mptcp\" to both");
        assert_eq!(alone, Err((0, message)));
        // A wildcard without a request is plain TCP.
        assert_eq!(assign(&[wildcard], &[(specific, OFF)]), Ok(vec![None]));
    }
}

#[test]
fn an_address_with_a_socket_of_its_own_does_not_share() {
    let at = ["0.0.0.0:80", "127.0.0.1:80"];
    let requests = [("127.0.0.1:80", MPTCP)];
    assert_eq!(assign(&at, &requests), Ok(vec![None, Some(MPTCP)]));
    let requests = [("0.0.0.0:80", OFF), ("127.0.0.1:80", MPTCP)];
    assert_eq!(assign(&at, &requests), Ok(vec![Some(OFF), Some(MPTCP)]));
}

#[test]
fn rejects_an_address_that_contradicts_its_wildcard() {
    let disagree = [
        (MPTCP, OFF, "mptcp=off"),
        (OFF, MPTCP, "mptcp"),
        (MPTCP, Request::AUTO, "mptcp=auto"),
        (MPTCP, SCTP, "protocol=sctp"),
    ];
    for (wildcard, specific, word) in disagree {
        let requests = [("0.0.0.0:80", wildcard), ("127.0.0.1:80", specific)];
        let message = format!(
            "nginx uses one socket for 0.0.0.0:80 and 127.0.0.1:80: add \"{word}\" to both"
        );
        assert_eq!(assign(&["0.0.0.0:80"], &requests), Err((1, message)));
    }
}

#[test]
fn rejects_two_protocols_for_one_address() {
    let cases = [
        (
            "127.0.0.1:80",
            MPTCP,
            OFF,
            "\"mptcp=off\" for 127.0.0.1:80 contradicts \"mptcp\"",
        ),
        (
            "127.0.0.1:80",
            OFF,
            MPTCP,
            "\"mptcp\" for 127.0.0.1:80 contradicts \"mptcp=off\"",
        ),
        (
            "[::]:80",
            MPTCP,
            Request::AUTO,
            "\"mptcp=auto\" for [::]:80 contradicts \"mptcp\"",
        ),
        (
            "[fe80::1]:8080",
            SCTP,
            Request::only(Protocol::Other(7)),
            "\"protocol=7\" for [fe80::1]:8080 contradicts \"protocol=sctp\"",
        ),
    ];
    for (at, first, second, message) in cases {
        let requests = [
            ("127.0.0.9:9", MPTCP),
            (at, first),
            (at, first),
            (at, second),
        ];
        let found = assign(&["127.0.0.9:9", at], &requests);
        assert_eq!(found, Err((3, message.into())));
    }
}

#[test]
fn an_address_of_another_family_or_port_shares_no_socket() {
    let message = "no listening socket for \"mptcp\" on ";
    for (socket, request) in [
        ("[::]:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("0.0.0.0:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
    ] {
        let found = assign(&[socket], &[(request, MPTCP)]);
        assert_eq!(found, Err((0, format!("{message}{request}"))));
    }
    let at = ["0.0.0.0:80", "[::]:80"];
    let requests = [("[::]:80", MPTCP)];
    assert_eq!(assign(&at, &requests), Ok(vec![None, Some(MPTCP)]));
}

#[test]
fn datagram_and_unix_sockets_get_no_request() {
    let mut sockets = vec![
        Listening::new(address("127.0.0.1:53"), Type::DGRAM),
        Listening::new(address("127.0.0.1:53"), Type::STREAM),
        Listening::new(address("unix:/run/x"), Type::STREAM),
    ];
    protocols(&mut sockets, &requested(&[("127.0.0.1:53", MPTCP)])).expect("there is a socket");
    let found: Vec<_> = sockets.iter().map(|socket| socket.request).collect();
    assert_eq!(found, [None, Some(MPTCP), None]);
}

#[test]
fn explicit_plain_tcp_for_udp_or_unix_requests_nothing() {
    let mut udp = Listening::new(address("127.0.0.1:53"), Type::DGRAM);
    udp.request = Some(OFF);
    assert!(Requested::of(udp).is_none());
    let mut unix = Listening::new(address("unix:/run/x"), Type::STREAM);
    unix.request = Some(OFF);
    assert!(Requested::of(unix).is_none());
    let mut tcp = Listening::new(address("127.0.0.1:53"), Type::STREAM);
    assert!(Requested::of(Listening::new(address("127.0.0.1:53"), Type::STREAM)).is_none());
    tcp.request = Some(OFF);
    assert_eq!(
        Requested::of(tcp).map(|requested| requested.request),
        Some(OFF)
    );
}

#[test]
fn only_the_request_is_changed() {
    let mut sockets = sockets(&["127.0.0.1:80"]);
    sockets[0].options.backlog = 7;
    protocols(&mut sockets, &requested(&[("127.0.0.1:80", MPTCP)])).expect("there is a socket");
    let mut options = Options::default();
    options.backlog = 7;
    assert_eq!(sockets[0].options, options);
    assert_eq!(sockets[0].request, Some(MPTCP));
}

/// An algorithm with quadratic time would take minutes here, and so would colliding hashes.
#[test]
fn large_configurations_are_assigned_in_linear_time() {
    const PORTS: u16 = 60_000;
    let hosts = [
        [127, 0, 0, 1],
        [127, 0, 1, 0],
        [127, 1, 0, 0],
        [10, 0, 0, 1],
    ];
    let mut addresses: Vec<SocketAddress> = Vec::new();
    for host in hosts {
        let ports = (1..=PORTS).map(|port| SocketAddr::from((host, port)).into());
        addresses.extend(ports);
    }
    for high in 0..=255 {
        let hosts = (0..=255).map(|low| SocketAddr::from(([172, 16, high, low], 80)).into());
        addresses.extend(hosts);
    }
    let mut sockets: Vec<_> = addresses
        .iter()
        .map(|address| Listening::new(address.clone(), Type::STREAM))
        .collect();
    let requests: Vec<_> = addresses
        .into_iter()
        .rev()
        .map(|address| Requested {
            address,
            request: MPTCP,
        })
        .collect();
    protocols(&mut sockets, &requests).expect("every address has a socket");
    assert_eq!(sockets.len(), 4 * 60_000 + 65_536);
    assert!(sockets.iter().all(|socket| socket.request == Some(MPTCP)));
}
