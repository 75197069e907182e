//! `mptcp` in `upstream` together with nginx's balancers, keep-alive connections, TLS and errors.

use crate::backend::Backend;
use crate::client::{Connection, Transport, counter};
use crate::harness::{Site, wait_until};
use crate::http::response;
use crate::namespace::switch_mptcp_off;
use crate::server::Conf;
use crate::strace::Strace;
use crate::subsystem::{Subsystem, subsystem_tests};
use crate::tls::{CERTIFICATE, make_certificate};
use crate::without_mptcp;

subsystem_tests! {
    (stream, http):
        the_backend_is_reached_over_mptcp,
        every_balancer_chooses_the_server,
        tls_to_the_backend_goes_over_mptcp,
        a_backend_that_speaks_tcp_only_is_a_fallback,
        a_dead_server_is_skipped,
        unix_sockets_are_left_to_nginx,
        options_of_the_proxy_are_set,
        auto_falls_back_and_on_is_rejected_without_mptcp,
        wrong_directives_are_rejected;
    (http):
        connections_are_kept_alive;
    (stream):
        udp_is_left_to_nginx;
}

pub const FRONT: &str = "127.0.0.1:8080";
pub const BACK: &str = "127.0.0.1:8081";
/// Nothing listens here.
pub const DEAD: &str = "127.0.0.1:1";

/// A backend that answers with a line with the value of `$mptcp`.
pub fn back(on: Subsystem, words: &str, more: &str) -> String {
    let answer = match on {
        Subsystem::Stream => "return \"$mptcp\\n\";",
        _ => "location / {\n        return 200 \"$mptcp\\n\";\n    }",
    };
    format!("server {{\n    listen {words};\n    {more}\n    {answer}\n}}\n")
}

/// A server that proxies to the upstream `b`. Each request uses a new connection, unless `more`
/// sets a version of HTTP. The version 1.0 is needed for this, because nginx 1.29.7 and later keep
/// connections alive by default.
pub fn front(on: Subsystem, scheme: &str, more: &str) -> String {
    let version = match more.contains("proxy_http_version") {
        true => "",
        false => "proxy_http_version 1.0;",
    };
    let pass = match on {
        Subsystem::Stream => format!("proxy_pass b;\n    {more}"),
        _ => format!(
            "location / {{\n        proxy_pass {scheme}://b;\n        {version}\n        {more}\n    }}"
        ),
    };
    format!("server {{\n    listen {FRONT};\n    access_log up.log up;\n    {pass}\n}}\n")
}

pub const FORMAT: &str = "log_format up '$upstream_addr|$upstream_mptcp';\n";

pub fn upstream(lines: &str) -> String {
    format!("upstream b {{\n    {lines}\n}}\n")
}

pub fn conf(on: Subsystem, lines: &str) -> Conf {
    let servers = front(on, "http", "") + &back(on, &format!("{BACK} mptcp"), "");
    on.conf(&(FORMAT.to_owned() + &upstream(lines) + &servers))
}

/// The answer of the backend through the proxy: the value of `$mptcp` for its connection.
pub fn reply(on: Subsystem) -> String {
    reply_for(on, "/")
}

pub fn reply_for(on: Subsystem, path: &str) -> String {
    let mut connection = Connection::open(Transport::Tcp, FRONT).expect("the proxy listens");
    if on == Subsystem::Http {
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        connection.send(request.as_bytes()).expect("it can be sent");
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut connection, &mut text).expect("it answers");
    text.lines().last().unwrap_or_default().to_owned()
}

/// The answer of the backend through the proxy, or an error.
pub fn try_reply(on: Subsystem) -> std::io::Result<String> {
    let mut connection = Connection::open(Transport::Tcp, FRONT)?;
    if on == Subsystem::Http {
        connection.send(b"GET / HTTP/1.0\r\n\r\n")?;
    }
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut connection, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for a number of lines in the log, and returns the last one.
pub fn logged(site: &Site, count: usize) -> String {
    wait_until(&format!("{count} lines"), || {
        site.read("up.log").lines().count() == count
    });
    let text = site.read("up.log");
    text.lines().last().unwrap_or_default().to_owned()
}

fn the_backend_is_reached_over_mptcp(on: Subsystem) {
    let site = Site::new();
    for (word, said, expected) in [
        ("mptcp;", "on", "on"),
        ("mptcp on;", "on", "on"),
        ("mptcp auto;", "on", "on"),
        ("mptcp off;", "-", "-"),
        ("", "-", "-"),
    ] {
        let nginx = site.start(&conf(on, &format!("server {BACK};\n    {word}")));
        let before = counter("MPCapableSYNTX");
        let answer = reply(on);
        assert_eq!(answer.trim_matches('-'), said.trim_matches('-'), "{word}");
        let mptcp = u64::from(expected == "on");
        assert_eq!(counter("MPCapableSYNTX") - before, mptcp, "{word}");
        assert_eq!(logged(&site, 1), format!("{BACK}|{expected}"), "{word}");
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
    }
}

/// `mptcp` may precede or follow the directive of the balancer.
fn every_balancer_chooses_the_server(on: Subsystem) {
    let site = Site::new();
    let key = "$remote_addr";
    let mut lines = vec![
        format!("mptcp;\n    zone z 64k;\n    server {BACK};"),
        format!("zone z 64k;\n    server {BACK} max_fails=1;\n    mptcp;"),
        format!("mptcp;\n    hash {key};\n    server {BACK};"),
        format!("hash {key} consistent;\n    server {BACK};\n    mptcp;"),
        format!("least_conn;\n    server {BACK};\n    mptcp;"),
        format!("mptcp;\n    random two;\n    server {BACK};\n    server {BACK};"),
        format!("server {DEAD} down;\n    server {BACK} backup;\n    mptcp;"),
    ];
    if on == Subsystem::Http {
        lines.push(format!("mptcp;\n    ip_hash;\n    server {BACK};"));
    }
    for lines in lines {
        let nginx = site.start(&conf(on, &lines));
        assert_eq!(reply(on), "on", "{lines}");
        assert_eq!(logged(&site, 1), format!("{BACK}|on"), "{lines}");
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
    }
}

fn tls_to_the_backend_goes_over_mptcp(on: Subsystem) {
    let site = Site::new();
    make_certificate(&site);
    let more = match on {
        Subsystem::Stream => "proxy_ssl on;",
        _ => "",
    };
    let servers = front(on, "https", more) + &back(on, &format!("{BACK} ssl mptcp"), CERTIFICATE);
    let upstream = upstream(&format!("server {BACK};\n    mptcp;"));
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &servers)));
    for count in 1..3 {
        assert_eq!(reply(on), "on");
        assert_eq!(logged(&site, count), format!("{BACK}|on"));
    }
}

fn a_backend_that_speaks_tcp_only_is_a_fallback(on: Subsystem) {
    let site = Site::new();
    let servers = front(on, "http", "") + &back(on, BACK, "");
    let upstream = upstream(&format!("server {BACK};\n    mptcp;"));
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &servers)));
    assert_eq!(reply(on).trim_matches('-'), "");
    assert_eq!(logged(&site, 1), format!("{BACK}|fallback"));
}

fn a_dead_server_is_skipped(on: Subsystem) {
    let site = Site::new();
    // Every second request begins with the dead server.
    let lines = format!("mptcp;\n    server {DEAD} max_fails=0;\n    server {BACK};");
    let nginx = site.start(&conf(on, &lines));
    let mut lines: Vec<_> = (1..=2)
        .map(|count| {
            assert_eq!(reply(on), "on");
            logged(&site, count)
        })
        .collect();
    lines.sort_unstable();
    let both = format!("{DEAD}, {BACK}|-, on");
    assert_eq!(lines, [both, format!("{BACK}|on")]);
    let message = "connect() failed (111: Connection refused) while connecting to upstream";
    assert_eq!(nginx.log().matches(message).count(), 1, "{}", nginx.log());
}

fn unix_sockets_are_left_to_nginx(on: Subsystem) {
    let site = Site::new();
    let path = site.path("back.sock").display().to_string();
    let servers = front(on, "http", "") + &back(on, &format!("unix:{path}"), "");
    let upstream = upstream(&format!("server unix:{path};\n    mptcp;"));
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &servers)));
    assert_eq!(reply(on).trim_matches('-'), "");
    assert_eq!(logged(&site, 1), format!("unix:{path}|-"));
}

fn udp_is_left_to_nginx(on: Subsystem) {
    let site = Site::new();
    let text = "upstream b {\n    server 127.0.0.1:8082;\n    mptcp;\n}\n\
         server {\n    listen 127.0.0.1:8080 udp;\n    proxy_pass b;\n    proxy_responses 1;\n}\n\
         server {\n    listen 127.0.0.1:8082 udp;\n    return \"over udp\";\n}\n";
    let _nginx = site.start(&on.conf(text));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.send_to(b"x", FRONT).expect("it can be sent");
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes).expect("it answers");
    assert_eq!(&bytes[..length], b"over udp");
}

fn options_of_the_proxy_are_set(on: Subsystem) {
    let site = Site::new();
    let backend = Backend::echo();
    let more = "proxy_bind 127.0.0.7;\n    proxy_socket_keepalive on;";
    let lines = format!("mptcp;\n    server {};", backend.address);
    let servers = front(on, "http", more);
    let text = FORMAT.to_owned() + &upstream(&lines) + &servers;
    let nginx = site.start(&on.conf(&text));
    let worker = nginx.workers()[0];
    let strace = Strace::record(&site, worker, "trace=socket,bind,setsockopt,connect");
    let mut connection = Connection::open(Transport::Tcp, FRONT).expect("the proxy listens");
    connection
        .send(b"GET / HTTP/1.0\r\n\r\n")
        .expect("it can be sent");
    let expected = [
        "IPPROTO_MPTCP|0x106",
        "SO_KEEPALIVE",
        "127.0.0.7",
        "connect(",
    ];
    wait_until("the calls of a connection", || {
        let calls = strace.calls();
        expected
            .iter()
            .all(|call| call.split('|').any(|call| calls.contains(call)))
    });
}

fn auto_falls_back_and_on_is_rejected_without_mptcp(on: Subsystem) {
    let site = Site::new();
    let reason = switch_mptcp_off();
    let conf = |word: &str| {
        let servers = front(on, "http", "") + &back(on, BACK, "");
        let lines = format!("server {BACK};\n    mptcp {word};");
        let two = upstream(&lines) + &lines_of_another(&lines);
        on.conf(&(FORMAT.to_owned() + &two + &servers))
    };
    let text = site.check(&conf("on")).fails();
    assert!(text.contains("[emerg]") && text.contains(reason), "{text}");
    let text = site.check(&conf("auto")).succeeds();
    let warning = format!("\"mptcp auto\" falls back to TCP: socket() failed: {reason}");
    assert_eq!(text.matches(&warning).count(), 1, "{text}");
    let _nginx = site.start(&conf("auto"));
    assert_eq!(reply(on).trim_matches('-'), "");
    assert_eq!(logged(&site, 1), format!("{BACK}|-"));
}

fn lines_of_another(lines: &str) -> String {
    format!("upstream other {{\n    {lines}\n}}\n")
}

fn wrong_directives_are_rejected(on: Subsystem) {
    without_mptcp::end_if_expected();
    let site = Site::new();
    for (lines, message) in [
        (
            "mptcp yes;",
            "invalid value \"yes\" in \"mptcp\" directive, it must be \"on\", \"auto\" or \"off\"",
        ),
        ("mptcp; mptcp off;", "\"mptcp\" directive is duplicate"),
        (
            "mptcp on auto;",
            "invalid number of arguments in \"mptcp\" directive",
        ),
    ] {
        let text = site
            .check(&conf(on, &format!("server {BACK}; {lines}")))
            .fails();
        assert!(text.contains(message), "{text}");
    }
    let text = site.check(&on.conf("mptcp;")).fails();
    assert!(
        text.contains("\"mptcp\" directive is not allowed here"),
        "{text}"
    );
}

/// nginx uses one connection for 100 requests, wherever `mptcp` is in the block.
fn connections_are_kept_alive(on: Subsystem) {
    let site = Site::new();
    for lines in ["mptcp;\n    keepalive 4;", "keepalive 4;\n    mptcp;"] {
        let answer = "server {\n    listen 127.0.0.1:8081 mptcp;\n    location / {\n        \
                      return 200 \"$mptcp $connection_requests\\n\";\n    }\n}\n";
        let more = "proxy_http_version 1.1;\n        proxy_set_header Connection \"\";";
        let servers = front(on, "http", more) + answer;
        let upstream = upstream(&format!("server {BACK};\n    {lines}"));
        let nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &servers)));
        let before = counter("MPCapableSYNTX");
        let mut connection = Connection::open(Transport::Tcp, FRONT).expect("the proxy listens");
        for count in 1..=100 {
            let request = connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            request.expect("it can be sent");
            let (_, body) = response(&mut connection).expect("http answers");
            let expected = format!("on {count}\n");
            assert_eq!(String::from_utf8_lossy(&body), expected, "{lines}");
        }
        assert_eq!(counter("MPCapableSYNTX") - before, 1, "{lines}");
        assert_eq!(logged(&site, 100), format!("{BACK}|on"), "{lines}");
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
    }
}
