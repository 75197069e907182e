//! Features that only http has: server names, HTTP/2, several requests on one connection.

use std::io::{self, BufReader, Read};

use crate::backend::{content_length, read_head};
use crate::client::{Connection, Transport};
use crate::harness::{Host, Site};
use crate::mptcp_log::{LOG, log_format, logged, nothing};
use crate::server::Nginx;
use crate::subsystem::{Subsystem, test_on};
use crate::talk::Talk;
use crate::tls::{CERTIFICATE, make_certificate, mptcp_bridge, tls_client};

const ADDRESS: &str = "127.0.0.1:8080";

/// A server that answers with its server name.
fn named(words: &str, name: &str) -> String {
    Subsystem::Http.server_with(words, &format!("server_name {name};"), name)
}

/// Reads one response: its head and its body.
pub fn response(connection: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let head = read_head(connection)?;
    let mut body = vec![0; content_length(&head)?];
    connection.read_exact(&mut body)?;
    Ok((head, body))
}

/// The answer of the server that has this name.
fn answer_of(transport: Transport, name: &str) -> String {
    let mut connection = Connection::open(transport, ADDRESS).expect("http takes connections");
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
    connection
        .send(request.as_bytes())
        .expect("a request can be sent");
    let (head, _) = response(&mut connection).expect("http answers");
    let mut lines = head.lines();
    let answer = lines.find_map(|line| Subsystem::Http.answer_in(line));
    answer.unwrap_or_else(|| panic!("no answer: {head}")).into()
}

#[test_on(http)]
fn servers_with_names_share_one_mptcp_listener(_: Subsystem) {
    let cases = [
        ["mptcp", "mptcp default_server", "mptcp"],
        ["", "mptcp default_server", ""],
        ["multipath", "default_server", "mptcp"],
        ["", "default_server", "mptcp"],
        ["default_server", "mptcp=auto", "mptcp=auto"],
    ];
    let site = Site::new();
    for words in cases {
        let names = ["one.example", "two.example", "three.example"];
        let default = words.iter().position(|words| words.contains("default"));
        let default = names[default.expect("one is the default server")];
        let servers = words
            .iter()
            .zip(names)
            .map(|(words, name)| named(&format!("{ADDRESS} {words}"), name));
        let nginx = site.start(&Subsystem::Http.conf(&servers.collect::<String>()));
        assert!(nginx.listener().is_mptcp(), "{words:?}");
        for transport in [Transport::Mptcp, Transport::Tcp] {
            for name in names {
                assert_eq!(answer_of(transport, name), name, "{words:?}");
            }
            assert_eq!(answer_of(transport, "four.example"), default, "{words:?}");
        }
        nginx.quit();
    }
}

#[test_on(http)]
fn two_default_servers_are_refused_with_the_error_of_nginx(_: Subsystem) {
    let site = Site::new();
    let words = format!("{ADDRESS} mptcp default_server");
    let text = site
        .check(&Subsystem::Http.servers(&[&words, &words]))
        .fails();
    let message = "a duplicate default server for 127.0.0.1:8080";
    assert!(text.contains(message), "{text}");
}

#[test_on(http)]
fn an_address_without_a_port_is_port_80(_: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&Subsystem::Http.servers(&["127.0.0.1 mptcp", "[::1] multipath"]));
    assert!(nginx.listeners().iter().all(|one| one.is_mptcp()));
    Subsystem::Http.serves("127.0.0.1:80", true);
    Subsystem::Http.serves("[::1]:80", true);
}

#[test_on(http)]
fn mptcp_with_quic_is_refused(_: Subsystem) {
    let site = Site::new();
    for words in ["mptcp quic", "quic mptcp", "quic reuseport mptcp"] {
        let words = format!("{ADDRESS} {words}");
        let text = site.check(&Subsystem::Http.listen(&words)).fails();
        let message = "\"mptcp\" parameter is incompatible with \"quic\"";
        assert!(text.contains(message), "{text}");
        assert!(text.contains(&site.place_of(&words)), "{text}");
    }
}

#[test_on(http)]
fn one_mptcp_connection_carries_many_requests(_: Subsystem) {
    let site = Site::new();
    let _nginx = site.start(&Subsystem::Http.listen("127.0.0.1:8080 mptcp"));
    let mut connection =
        Connection::open(Transport::Mptcp, ADDRESS).expect("http takes connections");
    for number in 0..50 {
        connection
            .send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap_or_else(|error| panic!("request {number}: {error}"));
        let (head, body) = response(&mut connection).expect("http answers");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(body.starts_with(b"GIF89a"), "{body:?}");
    }
    assert!(connection.is_mptcp());
}

#[test_on(http)]
fn pipelined_requests_are_answered_over_mptcp_in_their_order(_: Subsystem) {
    const COUNT: usize = 50;
    let site = Site::new();
    let server = Subsystem::Http.server_with("127.0.0.1:8080 mptcp", "", "$request_uri");
    let _nginx = site.start(&Subsystem::Http.conf(&server));
    let mut connection =
        Connection::open(Transport::Mptcp, ADDRESS).expect("http takes connections");
    let request = |number| format!("GET /{number} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let requests: String = (0..COUNT).map(request).collect();
    connection
        .send(requests.as_bytes())
        .expect("requests can be sent");
    let mut answers = BufReader::new(connection.try_clone().expect("it can be duplicated"));
    for number in 0..COUNT {
        let (head, _) = response(&mut answers).expect("http answers each request");
        let line = format!("Answer: /{number}\r\n");
        assert!(head.contains(&line), "{line:?} expected: {head}");
    }
    assert!(connection.is_mptcp());
}

#[test_on(http)]
fn a_websocket_like_upgrade_works_over_mptcp_and_over_tcp(_: Subsystem) {
    let site = Site::new();
    let talk = Talk::new(Subsystem::Http);
    let _nginx = site.start(&Subsystem::Http.conf(&talk.server("127.0.0.1:8080 mptcp")));
    for transport in [Transport::Mptcp, Transport::Tcp] {
        let mut connection = talk.begin(transport, ADDRESS).expect("the backend agrees");
        for _ in 0..20 {
            talk.exchange(&mut connection).expect("bytes go both ways");
        }
        assert_eq!(connection.is_mptcp(), transport == Transport::Mptcp);
    }
}

/// Starts a server with HTTP/2, `mptcp` and the parameters in `words`.
fn start_http2<'site>(site: &'site Site, words: &str) -> Nginx<'site> {
    // nginx 1.25.1 and later warn that the parameter `http2` is deprecated, so the
    // directive is used there.
    let (word, directive) = match Host::get().version >= (1, 25, 1) {
        true => ("", "http2 on;"),
        false => ("http2", ""),
    };
    let more = format!(
        "{directive}\n    {LOG}\n    {}",
        if words.contains("ssl") {
            CERTIFICATE
        } else {
            ""
        }
    );
    let words = format!("{ADDRESS} {words} {word}");
    let server = Subsystem::Http.server_with(&words, &more, Subsystem::Http.answer());
    let nginx = site.start(&Subsystem::Http.conf(&(log_format() + &server)));
    assert!(nginx.listener().is_mptcp());
    nginx
}

#[test_on(http)]
fn http2_is_negotiated_by_tls_over_mptcp(_: Subsystem) {
    let site = Site::new();
    make_certificate(&site);
    let _nginx = start_http2(&site, "mptcp ssl");
    for protocol in ["h2", "http/1.1"] {
        for address in [ADDRESS, &mptcp_bridge(ADDRESS)] {
            let text = tls_client(&site, address, &format!("-alpn {protocol}"), "");
            let line = format!("ALPN protocol: {protocol}\n");
            assert!(text.contains(&line), "{line:?} expected: {text}");
        }
    }
}

/// A frame of HTTP/2: its type, its flags, its stream and its payload.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
    [&head, payload].concat()
}

/// Receives frames until one is of this type and stream; returns its payload.
fn receive_frame(connection: &mut Connection, kind: u8, stream: u8) -> io::Result<Vec<u8>> {
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head)?;
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        connection.read_exact(&mut payload)?;
        if head[3] == kind && head[8] == stream {
            return Ok(payload);
        }
    }
}

#[test_on(http)]
fn http2_requests_are_answered_over_mptcp(_: Subsystem) {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM_AND_HEADERS: u8 = 5;
    // `:method: GET`, `:scheme: http`, `:path: /` and `:authority: localhost`,
    // RFC 7541.
    const GET: &[u8] = b"\x82\x86\x84\x41\x09localhost";

    let site = Site::new();
    let _nginx = start_http2(&site, "mptcp");
    for (transport, lines) in [(Transport::Mptcp, 3), (Transport::Tcp, 6)] {
        let mut connection = Connection::open(transport, ADDRESS).expect("http takes connections");
        let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = frame(SETTINGS, 0, 0, &[]);
        connection
            .send(&[&begin[..], &settings].concat())
            .expect("a connection can begin");
        for stream in [1, 3, 5] {
            connection
                .send(&frame(HEADERS, END_STREAM_AND_HEADERS, stream, GET))
                .expect("a request can be sent");
            let body = receive_frame(&mut connection, DATA, stream).expect("http answers");
            assert!(body.starts_with(b"GIF89a"), "{body:?}");
        }
        assert_eq!(connection.is_mptcp(), transport == Transport::Mptcp);
        let line = logged(&site, lines);
        match transport {
            Transport::Mptcp => {
                assert_eq!(line["mptcp"], "on");
                let address = connection.local().to_string();
                assert_eq!(line["mptcp_subflow_addrs"], address);
            }
            Transport::Tcp | Transport::Sctp | Transport::Smc => assert_eq!(line, nothing()),
        }
    }
}
