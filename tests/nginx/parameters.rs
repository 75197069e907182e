//! The protocol that a listener has because of the parameters, and the clients that it serves.

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use crate::harness::Site;
use crate::server::Nginx;
use crate::subsystem::{Subsystem, test_on};

/// Checks that nginx listens at exactly these addresses, and that all listeners are MPTCP.
fn all_mptcp(nginx: &Nginx, addresses: &[&str]) {
    let expected: BTreeSet<String> = addresses.iter().map(|&address| address.into()).collect();
    let listeners = nginx.listeners();
    let found: BTreeSet<String> = listeners
        .iter()
        .map(|listener| listener.address.to_string())
        .collect();
    assert_eq!(found, expected);
    assert_eq!(
        listeners.len(),
        addresses.len(),
        "each address once: {listeners:#?}"
    );
    assert!(
        listeners.iter().all(|listener| listener.is_mptcp()),
        "{listeners:#?}"
    );
}

#[test_on(stream, http, mail)]
fn mptcp_listener_serves_mptcp_and_tcp_clients(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    all_mptcp(&nginx, &["127.0.0.1:8080"]);
    on.serves("127.0.0.1:8080", true);
}

#[test_on(stream, http, mail)]
fn every_parameter_for_mptcp_makes_an_mptcp_listener(on: Subsystem) {
    for words in [
        "multipath",
        "mptcp=on",
        "mptcp=auto",
        "protocol=mptcp",
        "protocol=262",
    ] {
        let site = Site::new();
        let nginx = site.start(&on.listen(&format!("127.0.0.1:8080 {words}")));
        assert!(
            nginx.listener().is_mptcp(),
            "{words}: {:#?}",
            nginx.listener()
        );
        on.serves("127.0.0.1:8080", true);
    }
}

#[test_on(stream, http, mail)]
fn every_parameter_for_tcp_makes_a_tcp_listener(on: Subsystem) {
    for words in ["", "mptcp=off", "protocol=tcp", "protocol=6"] {
        let site = Site::new();
        let nginx = site.start(&on.listen(&format!("127.0.0.1:8080 {words}")));
        assert_eq!(nginx.listener().protocol, libc::IPPROTO_TCP, "{words}");
        on.serves("127.0.0.1:8080", false);
    }
}

#[test_on(stream, http, mail)]
fn the_parameter_may_have_any_position(on: Subsystem) {
    let site = Site::new();
    for words in [
        "mptcp backlog=77 bind",
        "backlog=77 mptcp bind",
        "bind backlog=77 mptcp",
    ] {
        let nginx = site.start(&on.listen(&format!("127.0.0.1:8080 {words}")));
        let listener = nginx.listener();
        assert!(
            listener.is_mptcp() && listener.backlog == 77,
            "{words}: {listener:#?}"
        );
        nginx.quit();
    }
}

#[test_on(stream, http, mail)]
fn every_form_of_address_becomes_an_mptcp_listener(on: Subsystem) {
    let site = Site::new();
    let forms: [(&str, &[&str]); 6] = [
        ("127.0.0.1:8080", &["127.0.0.1:8080"]),
        ("8080", &["0.0.0.0:8080"]),
        ("*:8080", &["0.0.0.0:8080"]),
        ("[::1]:8080", &["[::1]:8080"]),
        ("[::]:8080", &["[::]:8080"]),
        (
            "127.0.0.1:8080-8083",
            &[
                "127.0.0.1:8080",
                "127.0.0.1:8081",
                "127.0.0.1:8082",
                "127.0.0.1:8083",
            ],
        ),
    ];
    for (form, addresses) in forms {
        let nginx = site.start(&on.listen(&format!("{form} mptcp")));
        all_mptcp(&nginx, addresses);
        for address in addresses {
            let reachable = address
                .replace("0.0.0.0", "127.0.0.1")
                .replace("[::]", "[::1]");
            on.serves(&reachable, true);
        }
        nginx.quit();
    }
}

#[test_on(stream, http, mail)]
fn ipv6_listener_with_ipv6only_off_serves_ipv4_over_mptcp(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("[::]:8080 ipv6only=off mptcp"));
    all_mptcp(&nginx, &["[::]:8080"]);
    assert_eq!(nginx.listener().option("IPV6_V6ONLY"), 0);
    on.serves("127.0.0.1:8080", true);
    on.serves("[::1]:8080", true);
}

#[test_on(stream, http, mail)]
fn a_host_name_becomes_an_mptcp_listener_at_each_of_its_addresses(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("localhost:8080 mptcp"));
    let resolved = "localhost:8080"
        .to_socket_addrs()
        .expect("this machine knows its localhost");
    let addresses: BTreeSet<SocketAddr> = resolved.collect();
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    all_mptcp(
        &nginx,
        &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    addresses
        .iter()
        .for_each(|address| on.serves(address, true));
}

#[test_on(stream, http, mail)]
fn only_listeners_that_request_mptcp_get_it(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.servers(&[
        "127.0.0.1:8080 mptcp",
        "127.0.0.1:8081",
        "127.0.0.1:8082 multipath",
    ]));
    assert_eq!(nginx.listeners().len(), 3);
    on.serves("127.0.0.1:8080", true);
    on.serves("127.0.0.1:8081", false);
    on.serves("127.0.0.1:8082", true);
}

#[test_on(stream)]
fn udp_may_share_the_port_of_an_mptcp_listener(on: Subsystem) {
    let site = Site::new();
    let conf = on.servers(&[
        "127.0.0.1:8080 udp",
        "127.0.0.1:8080 mptcp",
        "8081 mptcp",
        "8081 udp",
    ]);
    let nginx = site.start(&conf);
    all_mptcp(&nginx, &["127.0.0.1:8080", "0.0.0.0:8081"]);
    nginx.reload(&conf);
    for address in ["127.0.0.1:8080", "127.0.0.1:8081"] {
        on.serves(address, true);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free in a new namespace");
        socket
            .send_to(b"?", address)
            .expect("a datagram can be sent");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time limit can be set");
        let mut answer = [0; 64];
        let count = socket.recv(&mut answer).expect("the listener serves UDP");
        assert_eq!(&answer[..count], format!("{}\n", on.answer()).as_bytes());
    }
}

#[test_on(stream, http, mail)]
fn an_address_inside_a_wildcard_shares_its_mptcp_listener(on: Subsystem) {
    let site = Site::new();
    for words in [
        ["8080 mptcp", "127.0.0.1:8080 mptcp"],
        ["8080 mptcp", "127.0.0.1:8080"],
    ] {
        for words in [words, [words[1], words[0]]] {
            let nginx = site.start(&on.servers(&words));
            all_mptcp(&nginx, &["0.0.0.0:8080"]);
            on.serves("127.0.0.1:8080", true);
            on.serves("127.0.0.2:8080", true);
            nginx.quit();
        }
    }
}

#[test_on(stream, http, mail)]
fn an_address_inside_a_wildcard_may_be_in_the_same_server(on: Subsystem) {
    let site = Site::new();
    let server = on.server("8080 multipath;\n    listen 127.0.0.1:8080 multipath");
    let nginx = site.start(&on.conf(&server));
    all_mptcp(&nginx, &["0.0.0.0:8080"]);
    on.serves("127.0.0.1:8080", true);
}

#[test_on(stream, http, mail)]
fn an_address_with_bind_keeps_its_protocol_beside_a_wildcard_elsewhere(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.servers(&["127.0.0.1:8080 mptcp bind", "[::]:8080"]));
    let protocols: Vec<_> = nginx
        .listeners()
        .into_iter()
        .map(|one| (one.address.to_string(), one.is_mptcp()))
        .collect();
    assert_eq!(protocols.len(), 2, "{protocols:?}");
    on.serves("127.0.0.1:8080", true);
    on.serves("[::1]:8080", false);
}

#[test_on(stream, http, mail)]
fn one_address_in_two_servers_is_one_mptcp_listener_if_nginx_allows_it(on: Subsystem) {
    let site = Site::new();
    for words in [
        ["127.0.0.1:8080 mptcp", "127.0.0.1:8080 mptcp"],
        ["127.0.0.1:8080", "127.0.0.1:8080 mptcp"],
    ] {
        let names = ["one.example", "two.example"];
        let server =
            |(words, name)| on.server_with(words, &format!("server_name {name};"), on.answer());
        if on.merges_servers() {
            let servers: String = words.into_iter().zip(names).map(server).collect();
            let nginx = site.start(&on.conf(&servers));
            all_mptcp(&nginx, &["127.0.0.1:8080"]);
            on.serves("127.0.0.1:8080", true);
            nginx.quit();
        } else {
            let text = site.check(&on.servers(&words)).fails();
            assert!(
                text.contains("duplicate \"127.0.0.1:8080\" address and port pair"),
                "{text}"
            );
        }
    }
}

#[test_on(stream, http, mail)]
fn one_address_with_mptcp_and_with_mptcp_off_is_refused(on: Subsystem) {
    let site = Site::new();
    let text = site
        .check(&on.servers(&["127.0.0.1:8080 mptcp", "127.0.0.1:8080 mptcp=off"]))
        .fails();
    let expected = if on.merges_servers() {
        "\"mptcp=off\" for 127.0.0.1:8080 contradicts \"mptcp\""
    } else {
        "duplicate \"127.0.0.1:8080\" address and port pair"
    };
    assert!(text.contains(expected), "{text}");
    let place = site.place_of("127.0.0.1:8080 mptcp=off");
    assert!(text.contains(&place), "{text}");
}
