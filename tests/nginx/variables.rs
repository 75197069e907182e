//! `$mptcp` and the `$mptcp_...` variables: their values, the time of the query, and its system
//! calls.

use std::io::Read;
use std::process::Command;

use crate::client::{Connection, Transport, counter};
use crate::harness::{Site, wait_until};
use crate::linux;
use crate::mptcp_log::{LOG, counted, log_format, logged, nothing, token_in_ss};
use crate::namespace::ip;
use crate::server::{Conf, Nginx};
use crate::strace::Strace;
use crate::subsystem::{Subsystem, test_on};

const ADDRESS: &str = "127.0.0.1:8080";

/// Servers that log the variables.
fn conf(on: Subsystem, words: &[&str]) -> Conf {
    let servers = words
        .iter()
        .map(|words| on.server_with(words, LOG, on.answer()));
    on.conf(&(log_format() + &servers.collect::<String>()))
}

#[test_on(stream, http)]
fn variables_distinguish_mptcp_clients_from_others(on: Subsystem) {
    let site = Site::new();
    let words = [
        "127.0.0.1:8080 mptcp",
        "[::1]:8080 mptcp",
        "[::]:8081 mptcp ipv6only=off",
        "127.0.0.1:8082",
    ];
    let _nginx = site.start(&conf(on, &words));
    let mut count = 0;
    let mut log_request = |transport, address: &str| {
        let (_, mptcp) = on.request_answer(transport, address).expect("it answers");
        count += 1;
        (logged(&site, count), mptcp)
    };
    for (address, begin) in [
        (ADDRESS, "127.0.0.1:"),
        ("[::1]:8080", "[::1]:"),
        ("127.0.0.1:8081", "[::ffff:127.0.0.1]:"),
        ("[::1]:8081", "[::1]:"),
    ] {
        assert_eq!(
            log_request(Transport::Tcp, address),
            (nothing(), false),
            "{address}"
        );
        let (line, mptcp) = log_request(Transport::Mptcp, address);
        assert!(mptcp);
        for (name, value) in [
            ("mptcp", "on"),
            ("mptcp_subflows", "1"),
            ("mptcp_subflows_total", "1"),
            ("mptcp_retrans", counted("0")),
        ] {
            assert_eq!(line[name], value, "{address}: {line:?}");
        }
        assert!(line["mptcp_subflow_addrs"].starts_with(begin), "{line:?}");
    }
    // The server answers the SYN without MPTCP, so the connection is plain TCP.
    let line = log_request(Transport::Mptcp, "127.0.0.1:8082");
    assert_eq!(line, (nothing(), false));
}

#[test_on(stream, http)]
fn variables_have_the_values_of_the_kernel(on: Subsystem) {
    let site = Site::new();
    let _nginx = site.start(&conf(on, &["127.0.0.1:8080 mptcp"]));
    // In http the connection stays open for another request.
    let mut connection = Connection::open(Transport::Mptcp, ADDRESS).expect("it takes connections");
    let port = connection.local().port();
    let request = match on {
        Subsystem::Http => "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        _ => "",
    };
    let mut sent = 0;
    for count in 1..3 {
        connection
            .send(request.as_bytes())
            .expect("bytes can be sent");
        let mut answer = vec![0; 4096];
        sent += match on {
            Subsystem::Http => {
                let (head, body) = crate::http::response(&mut connection).expect("http answers");
                head.len() + body.len()
            }
            _ => connection.read(&mut answer).expect("it answers"),
        };
        let line = logged(&site, count);
        assert_eq!(line["mptcp_token"], token_in_ss(port));
        assert_eq!(line["mptcp_subflow_addrs"], format!("127.0.0.1:{port}"));
        let received = count * request.len();
        for (name, count) in [
            ("mptcp_bytes_sent", sent),
            ("mptcp_bytes_received", received),
        ] {
            assert_eq!(line[name], counted(&count.to_string()), "{name}");
        }
        if on != Subsystem::Http {
            break;
        }
    }
}

/// Counts the getsockopt(2) calls of a worker by strace.
struct Queries<'site>(Strace<'site>);

impl<'site> Queries<'site> {
    fn of(site: &'site Site, nginx: &Nginx) -> Self {
        let calls = "trace=getsockopt,getsockname,getpeername";
        Self(Strace::record(site, nginx.workers()[0], calls))
    }

    /// Ends strace, and returns the number of queries for SO_PROTOCOL and for an option of
    /// SOL_MPTCP. The test fails if there was a query for anything else.
    fn count(self) -> (usize, usize) {
        let text = self.0.end_recording();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        // Older versions of strace print the number of SOL_MPTCP.
        let mptcp = count(", SOL_MPTCP, ") + count(", 0x11c /* SOL_?? */, ");
        let protocol = count("SO_PROTOCOL");
        assert_eq!(text.lines().count(), protocol + mptcp, "{text}");
        (protocol, mptcp)
    }
}

#[test_on(stream, http)]
fn without_variables_the_kernel_is_not_queried(on: Subsystem) {
    let site = Site::new();
    let format = "log_format other '$remote_addr $status';\n".to_owned();
    let log = "access_log other.log other;";
    let server = on.server_with("127.0.0.1:8080 mptcp", log, on.answer());
    let nginx = site.start(&on.conf(&(format + &server)));
    let queries = Queries::of(&site, &nginx);
    for transport in [Transport::Mptcp, Transport::Tcp, Transport::Mptcp] {
        on.request_answer(transport, ADDRESS).expect("it answers");
    }
    wait_until("three lines", || {
        site.read("other.log").lines().count() == 3
    });
    assert_eq!(queries.count(), (0, 0));
}

#[test_on(stream, http)]
fn variables_on_one_log_line_share_one_query(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&conf(on, &["127.0.0.1:8080 mptcp"]));
    // Older kernels fail the first query, which is for all values, and need separate queries.
    let queries = if linux::counts_mptcp() { 2 } else { 4 };
    for (transport, expected) in [
        // One query for the protocol, and one each for the state at the beginning and at the end.
        (Transport::Mptcp, (1, queries)),
        // A TCP connection cannot become MPTCP, so there is no further query.
        (Transport::Tcp, (1, 0)),
    ] {
        let lines = site.read("mptcp.log").lines().count();
        let queries = Queries::of(&site, &nginx);
        on.request_answer(transport, ADDRESS).expect("it answers");
        logged(&site, lines + 1);
        assert_eq!(queries.count(), expected, "{transport:?}");
    }
}

#[test_on(stream, http)]
fn a_variable_of_the_same_name_is_a_duplicate(on: Subsystem) {
    let site = Site::new();
    let map = "map $remote_addr $mptcp_token {\n    default x;\n}\n";
    let conf = on.conf(&(map.to_owned() + &on.server("127.0.0.1:8080")));
    let text = site.check(&conf).fails();
    assert!(
        text.contains("the duplicate \"mptcp_token\" variable"),
        "{text}"
    );
}

/// The fenced block of the manual that begins with this text.
fn manual_block(begin: &str) -> String {
    let manual = include_str!("../../docs/nginx.md");
    let mut blocks = manual.split("```").skip(1).step_by(2);
    let block = blocks.find_map(|block| {
        let (_, text) = block.split_once('\n')?;
        text.starts_with(begin).then(|| text.to_owned())
    });
    block.unwrap_or_else(|| panic!("the manual has a block that begins with {begin}"))
}

#[test_on(http)]
fn the_command_of_the_manual_counts_clients_by_number_of_paths(_: Subsystem) {
    const FILE: &str = "/var/log/nginx/access.log";
    let site = Site::new();
    let format = manual_block("log_format").replace(FILE, "readme.log");
    let (format, log) = format.split_once("access_log").expect("both directives");
    let server = Subsystem::Http.server_with(
        "8080 mptcp",
        &format!("access_log{log}"),
        Subsystem::Http.answer(),
    );
    let _nginx = site.start(&Subsystem::Http.conf(&(format.to_owned() + &server)));
    ip("mptcp limits set subflow 2 add_addr_accepted 2");
    let mut lines = 0;
    let mut log_request = |connection: &mut Connection| {
        connection
            .send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("a request can be sent");
        crate::http::response(connection).expect("http answers");
        lines += 1;
        wait_until("the log", || {
            site.read("readme.log").lines().count() == lines
        });
    };
    let connect = |transport, from| {
        Connection::open_from(transport, from, ADDRESS).expect("http takes connections")
    };
    for (transport, from) in [
        (Transport::Tcp, "127.0.0.1"),
        (Transport::Tcp, "127.0.0.2"),
        (Transport::Mptcp, "127.0.0.2"),
        (Transport::Tcp, "127.0.0.3"),
        (Transport::Mptcp, "127.0.0.4"),
        (Transport::Mptcp, "127.0.0.4"),
    ] {
        log_request(&mut connect(transport, from));
    }
    ip("mptcp endpoint add 127.0.0.9 dev lo subflow");
    for (count, from) in [(1, "127.0.0.4"), (2, "127.0.0.5"), (3, "127.0.0.6")] {
        let mut connection = connect(Transport::Mptcp, from);
        log_request(&mut connection);
        wait_until("a second subflow", || counter("MPJoinAckRx") == count);
        log_request(&mut connection);
    }
    // Older kernels do not report the number of subflows, so a line without it is added.
    let text = site.read("readme.log");
    let alone = text.lines().find(|line| line.starts_with("127.0.0.4 "));
    let alone = alone
        .expect("it is logged")
        .replace("127.0.0.4", "127.0.0.7");
    let begin = " on 1 ";
    let words = alone.split(begin).next().expect("its beginning");
    let text = format!("{text}{words} on - - -\n");
    std::fs::write(site.path("readme.log"), text).expect("a line can be added");
    let command = manual_block("awk").replace(FILE, "readme.log");
    let said = site
        .run(Command::new("sh").args(["-c", &command]))
        .succeeds();
    let mut said: Vec<_> = said.lines().collect();
    said.sort_unstable();
    let expected = [
        "2 with MPTCP, paths: 1",
        "2 with TCP",
        "3 with MPTCP, paths: 2",
    ];
    assert_eq!(said, expected, "{}", site.read("readme.log"));
}

/// A stream server returns the values of the variables to each client.
#[test_on(stream)]
fn stream_uses_variables_in_map_and_return(_: Subsystem) {
    let site = Site::new();
    let text = "map $mptcp $kind {\n    default plain;\n    on multipath;\n}\n\
                server {\n    listen 127.0.0.1:8080 mptcp;\n    \
                return \"$kind $mptcp $mptcp_subflows\\n\";\n}\n";
    let _nginx = site.start(&Subsystem::Stream.conf(text));
    for (transport, expected) in [
        (Transport::Mptcp, "multipath on 1"),
        (Transport::Tcp, "plain  "),
    ] {
        let mut connection = Connection::open(transport, ADDRESS).expect("it takes connections");
        let mut answer = vec![0; expected.len()];
        connection.read_exact(&mut answer).expect("it answers");
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    }
}

/// The head and the body of an http response.
fn get(transport: Transport, path: &str) -> (String, String) {
    let mut connection = Connection::open(transport, ADDRESS).expect("http takes connections");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    connection
        .send(request.as_bytes())
        .expect("a request can be sent");
    let (head, body) = crate::http::response(&mut connection).expect("http answers");
    (head, String::from_utf8(body).expect("text"))
}

#[test_on(http)]
fn http_uses_variables_in_map_if_return_and_headers(_: Subsystem) {
    let site = Site::new();
    let text = "map $mptcp $kind {\n    default plain;\n    on multipath;\n}\n\
        server {\n    listen 127.0.0.1:8080 mptcp;\n    \
        location / {\n        if ($mptcp) {\n            return 200 \"if $kind\";\n        }\n        \
        return 200 \"else $kind [$mptcp]\";\n    }\n    \
        location /header {\n        add_header Mptcp $mptcp;\n        return 200 \"\";\n    }\n    \
        location /proxy {\n        proxy_set_header Mptcp \"$mptcp $mptcp_subflows\";\n        \
        proxy_set_header Token $mptcp_token;\n        proxy_pass http://127.0.0.1:8081;\n    }\n}\n\
        server {\n    listen 127.0.0.1:8081;\n    return 200 \"$http_mptcp/$http_token\";\n}\n";
    let _nginx = site.start(&Subsystem::Http.conf(text));
    assert_eq!(get(Transport::Mptcp, "/").1, "if multipath");
    assert_eq!(get(Transport::Tcp, "/").1, "else plain []");
    assert!(
        get(Transport::Mptcp, "/header")
            .0
            .contains("\r\nMptcp: on\r\n")
    );
    assert!(!get(Transport::Tcp, "/header").0.contains("\r\nMptcp:"));
    let (_, body) = get(Transport::Mptcp, "/proxy");
    let token = body
        .strip_prefix("on 1/")
        .unwrap_or_else(|| panic!("{body}"));
    assert!(u32::from_str_radix(token, 16).is_ok(), "{token}");
    assert_eq!(get(Transport::Tcp, "/proxy").1, "/");
}

/// nginx logs the last value, even if the request used an earlier value before.
#[test_on(http)]
fn http_logs_the_last_state_even_if_an_earlier_one_was_used(_: Subsystem) {
    let site = Site::new();
    let text = format!(
        "{}server {{\n    listen 127.0.0.1:8080 mptcp;\n    {LOG}\n    \
         return 200 \"$mptcp_bytes_sent\";\n}}\n",
        log_format()
    );
    let _nginx = site.start(&Subsystem::Http.conf(&text));
    let (head, body) = get(Transport::Mptcp, "/");
    assert_eq!(body, linux::counted("0").unwrap_or_default());
    let sent = (head.len() + body.len()).to_string();
    assert_eq!(logged(&site, 1)["mptcp_bytes_sent"], counted(&sent));
}

/// nginx rejects a malformed request before it processes it. This is the first or a later
/// request of a connection.
#[test_on(http)]
fn http_logs_variables_for_bad_requests(_: Subsystem) {
    let site = Site::new();
    // Without lingering_close nginx logs the request before the client has closed.
    let more = format!("{LOG}\n    lingering_close off;");
    let server = Subsystem::Http.server_with("127.0.0.1:8080 mptcp", &more, "");
    let _nginx = site.start(&Subsystem::Http.conf(&(log_format() + &server)));
    let mut lines = 0;
    const GOOD: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for requests in [&[GOOD, "?\r\n\r\n"][..], &["?\r\n\r\n"]] {
        let mut connection =
            Connection::open(Transport::Mptcp, ADDRESS).expect("it takes connections");
        for request in requests {
            let sent = connection.send(request.as_bytes());
            sent.expect("a request can be sent");
            let (head, _) = crate::http::response(&mut connection).expect("http answers");
            let bad = request.starts_with('?');
            assert_eq!(head.starts_with("HTTP/1.1 400 "), bad, "{head}");
            lines += 1;
        }
        let line = logged(&site, lines);
        assert_eq!(line["mptcp"], "on");
        let address = connection.local().to_string();
        assert_eq!(line["mptcp_subflow_addrs"], address);
    }
}

/// A subrequest has the values of the connection of its request.
#[test_on(http)]
fn http_logs_variables_for_subrequests(_: Subsystem) {
    let site = Site::new();
    let more = format!("{LOG}\n    log_subrequest on;\n    mirror /mirror;");
    let http = Subsystem::Http;
    let server = http.server_with("127.0.0.1:8080 mptcp", &more, http.answer());
    let _nginx = site.start(&http.conf(&(log_format() + &server)));
    for (transport, lines) in [(Transport::Mptcp, 2), (Transport::Tcp, 4)] {
        http.request_answer(transport, ADDRESS)
            .expect("http answers");
        logged(&site, lines);
        let text = site.read("mptcp.log");
        let on = text.lines().filter(|line| line.starts_with("mptcp=on "));
        assert_eq!(on.count(), 2, "{text}");
    }
}

#[test_on(stream)]
fn unix_and_udp_clients_have_no_values(_: Subsystem) {
    let site = Site::new();
    let text = format!(
        "{}{LOG}\nserver {{\n    listen unix:socket;\n    return $mptcp.;\n}}\n\
         server {{\n    listen 127.0.0.1:8080 udp;\n    return $mptcp.;\n}}\n",
        log_format()
    );
    let _nginx = site.start(&Subsystem::Stream.conf(&text));
    let mut client =
        std::os::unix::net::UnixStream::connect(site.path("socket")).expect("it takes connections");
    client.read_exact(&mut [0; 1]).expect("it answers");
    assert_eq!(logged(&site, 1), nothing());
    let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
    client
        .send_to(b"?", ADDRESS)
        .expect("a datagram can be sent");
    client.recv(&mut [0; 1]).expect("it answers");
    assert_eq!(logged(&site, 2), nothing());
}
