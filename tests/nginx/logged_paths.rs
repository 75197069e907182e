//! The values of the variables for connections that have several paths, fall back to TCP or end
//! early.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, read_head};
use crate::client::{Connection, Transport, counter};
use crate::harness::{Site, wait_for, wait_until};
use crate::hosts::{FAR, Hosts, NEAR, announce_second_address};
use crate::http::response;
use crate::linux;
use crate::middlebox::{Middlebox, SERVER, Strips};
use crate::mptcp_log::{LOG, Line, log_format, logged, nothing, token_in_ss};
use crate::namespace::ip;
use crate::server::Nginx;
use crate::subsystem::{Subsystem, test_on};
use crate::talk::Talk;

const ADDRESS: &str = "127.0.0.1:8080";

/// How many bytes a server sends. They do not fit into the buffers between nginx and a client
/// that does not read, so the connection stays busy.
const LARGE: usize = 64 << 20;

/// Starts nginx with a server that sends [`LARGE`] bytes and logs the variables.
fn start_large<'site>(site: &'site Site, on: Subsystem, words: &str) -> (Nginx<'site>, Backend) {
    let backend = Backend::noise(LARGE);
    let sends = match on {
        Subsystem::Http => {
            let file = File::create(site.path("large"));
            let sized = file.and_then(|file| file.set_len(LARGE as u64));
            sized.expect("there is room for a sparse file");
            "root .;".to_owned()
        }
        _ => format!("proxy_pass {};", backend.address),
    };
    let server = format!("server {{\n    listen {words} mptcp;\n    {LOG}\n    {sends}\n}}\n");
    (site.start(&on.conf(&(log_format() + &server))), backend)
}

/// Connects to the server of [`start_large`] and receives the first bytes, which in http are the
/// head. Returns how many they were.
fn begin_large(on: Subsystem, address: &str) -> (Connection, usize) {
    let mut connection = Connection::open(Transport::Mptcp, address).expect("it takes connections");
    if on == Subsystem::Http {
        let request = connection.send(b"GET /large HTTP/1.0\r\n\r\n");
        request.expect("a request can be sent");
        let head = read_head(&mut connection).expect("http answers");
        return (connection, head.len());
    }
    connection.read_exact(&mut [0; 1]).expect("it sends");
    (connection, 1)
}

/// The client addresses of the paths in a line, without their ports.
fn hosts(line: &Line) -> Vec<&str> {
    let addresses = line["mptcp_subflow_addrs"].split(',');
    let hosts = addresses.map(|address| address.rsplit_once(':').expect("a port").0);
    hosts.collect()
}

fn has_values(line: &Line, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(line[*name], *value, "{name} of {line:?}");
    }
}

#[test_on(stream, http)]
fn both_paths_of_a_download_are_logged(on: Subsystem) {
    let site = Site::new();
    let network = Hosts::new();
    let _large = start_large(&site, on, "8080");
    let received = network.client.run(move || {
        let (mut connection, mut received) = begin_large(on, &format!("{}:8080", NEAR[0]));
        wait_until("a second subflow", || counter("MPJoinSynAckRx") == 1);
        let mut bytes = vec![0; 1 << 20];
        while received < LARGE {
            received += connection.read(&mut bytes).expect("the rest comes");
        }
        (connection, received)
    });
    let (mut connection, mut received) = received;
    let mut rest = Vec::new();
    received += connection.read_to_end(&mut rest).expect("it ends");
    let line = logged(&site, 1);
    has_values(
        &line,
        &[
            ("mptcp", "on"),
            ("mptcp_subflows", "2"),
            ("mptcp_subflows_total", "2"),
        ],
    );
    assert_eq!(hosts(&line), FAR);
    if !linux::counts_mptcp() {
        has_values(&line, &[("mptcp_bytes_sent", "-")]);
        return;
    }
    // nginx logged the line while the rest was still in the kernel's buffer.
    let sent: usize = line["mptcp_bytes_sent"].parse().expect("a number");
    assert!(
        (LARGE / 2..=received).contains(&sent),
        "{sent} of {received}"
    );
}

#[test_on(stream, http)]
fn a_reset_connection_is_logged_with_its_last_state(on: Subsystem) {
    let site = Site::new();
    let _large = start_large(&site, on, ADDRESS);
    let (connection, _) = begin_large(on, ADDRESS);
    let port = connection.local().port();
    let token = token_in_ss(port);
    connection.reset();
    let line = logged(&site, 1);
    has_values(
        &line,
        &[
            ("mptcp", "on"),
            ("mptcp_subflows", "1"),
            ("mptcp_subflows_total", "1"),
            ("mptcp_subflow_addrs", &format!("127.0.0.1:{port}")),
            ("mptcp_token", &token),
        ],
    );
    assert_ne!(line["mptcp_bytes_sent"], "0");
}

/// The client opens its second path after the connection has begun, and then resets both.
#[test_on(stream, http)]
fn both_paths_of_a_reset_connection_are_logged(on: Subsystem) {
    let site = Site::new();
    let network = Hosts::new();
    let (nginx, _backend) = start_large(&site, on, "8080");
    let connection = network.client.run(move || {
        let (connection, _) = begin_large(on, &format!("{}:8080", NEAR[0]));
        wait_until("a second subflow", || counter("MPJoinSynAckRx") == 1);
        connection
    });
    // The module queries the kernel again half a second after the connection began.
    std::thread::sleep(Duration::from_millis(1000));
    connection.reset();
    let line = logged(&site, 1);
    has_values(&line, &[("mptcp", "on"), ("mptcp_subflows_total", "2")]);
    assert_eq!(hosts(&line), FAR);
    nginx.quit();
}

/// Exchanges data with nginx through a router, at each of its addresses. Returns the client's
/// addresses and the logged lines.
fn talk_through(strips: Strips, on: Subsystem) -> Vec<(String, Line)> {
    let site = Site::new();
    let network = Middlebox::new(strips);
    let talk = Arc::new(Talk::new(on));
    let servers = SERVER.map(|address| {
        let server = talk.server(&format!("{address}:8080 mptcp"));
        server.replacen("server {\n", &format!("server {{\n    {LOG}\n"), 1)
    });
    let _nginx = site.start(&on.conf(&(log_format() + &servers.concat())));
    let lines = SERVER.into_iter().enumerate().map(|(index, address)| {
        let talk = Arc::clone(&talk);
        let client = network.client.run(move || {
            let connection = talk.begin(Transport::Mptcp, &format!("{address}:8080"));
            let mut connection = connection.expect("it takes connections");
            for _ in 0..4 {
                talk.exchange(&mut connection).expect("bytes go both ways");
            }
            connection.local().to_string()
        });
        (client, logged(&site, index + 1))
    });
    lines.collect()
}

#[test_on(stream, http)]
fn a_connection_that_falls_back_is_logged_as_such(on: Subsystem) {
    for (client, line) in talk_through(Strips::AfterHandshake, on) {
        has_values(
            &line,
            &[
                ("mptcp", "fallback"),
                ("mptcp_subflows", "1"),
                ("mptcp_subflows_total", "1"),
                ("mptcp_subflow_addrs", &client),
            ],
        );
        assert_ne!(line["mptcp_bytes_sent"], "0", "{line:?}");
        assert_ne!(line["mptcp_bytes_received"], "0", "{line:?}");
    }
}

#[test_on(stream, http)]
fn a_connection_that_was_never_mptcp_is_logged_as_tcp(on: Subsystem) {
    for (_, line) in talk_through(Strips::Syn, on) {
        assert_eq!(line, nothing());
    }
}

/// The module could not query the subflows, so the line has no number of subflows rather than 0.
#[test_on(http)]
fn http_logs_no_subflow_count_of_a_connection_reset_before_its_request(_: Subsystem) {
    let site = Site::new();
    let quiet = "location = /quiet {\n        access_log off;\n        return 200;\n    }";
    let more = format!("{LOG}\n    {quiet}");
    let server = Subsystem::Http.server_with(&format!("{ADDRESS} mptcp"), &more, "x");
    let _nginx = site.start(&Subsystem::Http.conf(&(log_format() + &server)));
    let connect = || Connection::open(Transport::Mptcp, ADDRESS).expect("http takes connections");
    let mut connection = connect();
    let sent = connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n");
    sent.expect("a part of a request can be sent");
    // nginx does not log a connection that is reset before nginx has read from it. There
    // is one worker, so it has read from this connection when it answers a later client.
    let mut later = connect();
    let sent = later.send(b"GET /quiet HTTP/1.1\r\nHost: x\r\n\r\n");
    sent.expect("a request can be sent");
    response(&mut later).expect("http answers");
    connection.reset();
    let line = logged(&site, 1);
    has_values(&line, &[("mptcp", "on"), ("mptcp_subflows_total", "-")]);
}

#[test_on(http)]
fn http_counts_subflows_that_come_and_go(_: Subsystem) {
    let site = Site::new();
    let network = Hosts::new();
    let server = Subsystem::Http.server_with("8080 mptcp", LOG, Subsystem::Http.answer());
    let _nginx = site.start(&Subsystem::Http.conf(&(log_format() + &server)));
    let connect = || Connection::open(Transport::Mptcp, &format!("{}:8080", NEAR[0]));
    let connection = network.client.run(connect);
    let mut connection = connection.expect("http takes connections");
    let mut count = 0;
    let mut log_request = || {
        connection
            .send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("a request can be sent");
        response(&mut connection).expect("http answers");
        count += 1;
        logged(&site, count)
    };
    let mut expect = |now: &str, total: &str, expected: &[&str]| {
        let line = wait_for(&format!("{now} subflows of {total}"), || {
            Some(log_request()).filter(|line| line["mptcp_subflows"] == now)
        });
        assert_eq!(line["mptcp_subflows_total"], total, "{line:?}");
        assert_eq!(hosts(&line), expected, "{line:?}");
    };
    expect("2", "2", &FAR);
    ip("mptcp endpoint flush");
    expect("1", "2", &FAR);
    announce_second_address();
    let all = [FAR[0], FAR[1], FAR[1]];
    expect("2", "3", &all);
    let first = format!("mptcp endpoint delete id 0 {}", FAR[0]);
    network.client.run(move || ip(&first));
    match linux::counts_mptcp() {
        true => expect("1", "3", &all),
        // Older kernels list the first subflow even when it is closed.
        false => expect("2", "3", &all),
    }
}

#[test_on(http)]
fn http_logs_the_addresses_of_paths_and_not_those_of_realip(_: Subsystem) {
    let site = Site::new();
    let on = Subsystem::Http;
    let more = format!("{LOG}\n    set_real_ip_from 127.0.0.0/8;\n    real_ip_header X-Real-IP;");
    let server = on.server_with(&format!("{ADDRESS} mptcp"), &more, on.answer());
    let _nginx = site.start(&on.conf(&(log_format() + &server)));
    let mut connection = Connection::open(Transport::Mptcp, ADDRESS).expect("it takes connections");
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Real-IP: 192.0.2.7\r\n\r\n";
    for count in 1..3 {
        connection.send(request).expect("a request can be sent");
        response(&mut connection).expect("http answers");
        let line = logged(&site, count);
        assert_eq!(hosts(&line), ["127.0.0.1"], "{line:?}");
        has_values(&line, &[("mptcp_subflows_total", "1")]);
    }
}

/// The frame of a GET request for / on the HTTP/2 stream of this number.
fn http2_request(stream: u8) -> Vec<u8> {
    const HEADERS: u8 = 1;
    const END_STREAM_AND_HEADERS: u8 = 5;
    // :method GET, :scheme http, :path /, :authority x
    let block = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
    let length = block.len() as u8;
    let head = [
        0,
        0,
        length,
        HEADERS,
        END_STREAM_AND_HEADERS,
        0,
        0,
        0,
        stream,
    ];
    [&head[..], &block].concat()
}

/// Each stream of HTTP/2 is a request. All streams log the state of their one connection, which
/// stays open when nginx has closed its streams.
#[test_on(http)]
fn http2_streams_are_logged_as_their_connection(_: Subsystem) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let site = Site::new();
    let on = Subsystem::Http;
    let server = on.server_with(&format!("{ADDRESS} mptcp http2"), LOG, on.answer());
    let _nginx = site.start(&on.conf(&(log_format() + &server)));
    let mut connection = Connection::open(Transport::Mptcp, ADDRESS).expect("it takes connections");
    let token = token_in_ss(connection.local().port());
    connection.send(PREFACE).expect("it can be sent");
    for (count, stream) in [1, 3, 5].into_iter().enumerate() {
        let request = http2_request(stream);
        connection.send(&request).expect("a request can be sent");
        let line = logged(&site, count + 1);
        has_values(
            &line,
            &[
                ("mptcp", "on"),
                ("mptcp_subflows", "1"),
                ("mptcp_token", &token),
            ],
        );
        // The module queries the kernel again in this time.
        std::thread::sleep(Duration::from_millis(700));
    }
}
