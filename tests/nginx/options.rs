//! nginx's own listen parameters with `mptcp`. The tests query the options of the MPTCP socket.

use crate::client::{Connection, Transport};
use crate::harness::{Host, Site};
use crate::linux;
use crate::sockets::Listener;
use crate::strace::Fault;
use crate::subsystem::{Subsystem, test_on};

/// Starts nginx with the parameters `words` and `mptcp`, checks that the listener is MPTCP and
/// serves, and returns it.
fn listener(on: Subsystem, words: &str) -> Listener {
    let site = Site::new();
    let nginx = site.start(&on.listen(&format!("127.0.0.1:8080 mptcp {words}")));
    let listener = nginx.listener();
    assert!(listener.is_mptcp(), "{listener:#?}");
    on.serves("127.0.0.1:8080", true);
    listener
}

#[test_on(stream, http, mail)]
fn backlog_is_the_length_of_the_mptcp_queue(on: Subsystem) {
    assert_eq!(listener(on, "backlog=77").backlog, 77);
    // nginx's own default.
    assert_eq!(listener(on, "").backlog, 511);
}

#[test_on(stream, http, mail)]
fn buffer_sizes_are_set_on_the_mptcp_socket(on: Subsystem) {
    let listener = listener(on, "rcvbuf=32k sndbuf=48k");
    // The kernel doubles the requested sizes, see socket(7).
    assert_eq!(listener.option("SO_RCVBUF"), 2 * 32 * 1024);
    assert_eq!(listener.option("SO_SNDBUF"), 2 * 48 * 1024);
}

#[test_on(stream, http, mail)]
fn keepalive_is_set_on_the_mptcp_socket(on: Subsystem) {
    assert_eq!(listener(on, "so_keepalive=on").option("SO_KEEPALIVE"), 1);
    assert_eq!(listener(on, "so_keepalive=off").option("SO_KEEPALIVE"), 0);

    let listener = listener(on, "so_keepalive=600:20:3");
    assert_eq!(listener.option("SO_KEEPALIVE"), 1);
    assert_eq!(listener.option("TCP_KEEPIDLE"), 600);
    assert_eq!(listener.option("TCP_KEEPINTVL"), 20);
    assert_eq!(listener.option("TCP_KEEPCNT"), 3);
}

#[test_on(stream, http)]
fn fastopen_is_set_on_the_mptcp_socket(on: Subsystem) {
    if !on.knows("fastopen") {
        let text = Site::new()
            .check(&on.listen("127.0.0.1:8080 mptcp fastopen=23"))
            .fails();
        assert!(
            text.contains("[emerg]") && text.contains("\"fastopen=23\""),
            "{text}"
        );
        return;
    }
    if linux::has_mptcp_fastopen() {
        assert_eq!(listener(on, "fastopen=23").option("TCP_FASTOPEN"), 23);
        return;
    }
    // Dropping `site` checks that nginx has logged no alert.
    let site = Site::new();
    let conf = on.listen("127.0.0.1:8080 mptcp fastopen=23");
    let nginx = site.start(&conf);
    is_logged_once(&site.read("output"), NO_FASTOPEN);
    on.serves("127.0.0.1:8080", true);
    is_logged_once(&nginx.begin_reload(&conf), NO_FASTOPEN);
    on.serves("127.0.0.1:8080", true);
}

const NO_FASTOPEN: &str =
    "MPTCP sockets have no \"fastopen\" before Linux 6.2, ignored for 127.0.0.1:8080";
const NO_DEFERRED: &str =
    "MPTCP sockets have no \"deferred\" before Linux 5.19, ignored for 127.0.0.1:8080";
const NO_TIMES: &str =
    "MPTCP sockets have no times of \"so_keepalive\" before Linux 6.10, ignored for 127.0.0.1:8080";

/// Checks that a log contains a message exactly once, with the level `notice`.
fn is_logged_once(log: &str, message: &str) {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(message)).collect();
    assert_eq!(lines.len(), 1, "{message}: {log}");
    assert!(lines[0].contains("[notice]"), "{log}");
}

#[test_on(stream, http, mail)]
fn an_option_that_the_kernel_lacks_is_tried_once_and_logged(on: Subsystem) {
    for (words, option, message) in [
        ("fastopen=23", "TCP_FASTOPEN", NO_FASTOPEN),
        ("deferred", "TCP_DEFER_ACCEPT", NO_DEFERRED),
        ("so_keepalive=600:20:3", "TCP_KEEPIDLE", NO_TIMES),
    ] {
        if !on.knows(words) {
            continue;
        }
        let site = Site::new();
        let listen = ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"];
        let listen = listen.map(|address| format!("{address} mptcp {words}"));
        site.write(&on.servers(&listen.each_ref().map(String::as_str)));
        // The library makes the first of these calls, before nginx opens its sockets.
        let fault = Fault {
            call: "setsockopt",
            errno: libc::EOPNOTSUPP,
        };
        let strace = fault.strace("1");
        let strace: Vec<&str> = strace.iter().map(String::as_str).collect();
        let text = site.run(&mut site.nginx_under(&strace, &["-t"])).succeeds();
        // nginx 1.18 prints no notices with `-t`.
        if Host::get().version >= (1, 19, 0) {
            is_logged_once(&text, message);
        }
        let injected = site.injected();
        assert!(
            injected.len() == 1 && injected[0].contains(option),
            "{injected:?}"
        );
        let calls = site.read("strace.out");
        assert_eq!(calls.matches(option).count(), 1, "{calls}");
    }
}

#[test_on(stream, http, mail)]
fn deferred_is_set_on_the_mptcp_socket(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen("127.0.0.1:8080 mptcp deferred");
    if !on.knows("deferred") {
        let text = site.check(&conf).fails();
        // tests/nginx/errors.rs checks the text of nginx's error.
        assert!(
            text.contains("[emerg]") && text.contains("\"deferred\""),
            "{text}"
        );
        return;
    }
    let nginx = site.start(&conf);
    let listener = nginx.listener();
    assert!(listener.is_mptcp(), "{listener:#?}");
    assert!(listener.option("TCP_DEFER_ACCEPT") > 0, "{listener:#?}");
    if !on.request().is_empty() {
        on.serves("127.0.0.1:8080", true);
    }
}

#[test_on(stream, http, mail)]
fn ipv6only_is_set_on_the_mptcp_socket(on: Subsystem) {
    let site = Site::new();
    for (words, value) in [("", 1), ("ipv6only=on", 1), ("ipv6only=off", 0)] {
        let nginx = site.start(&on.listen(&format!("[::]:8080 mptcp {words}")));
        assert_eq!(nginx.listener().option("IPV6_V6ONLY"), value, "{words}");
        nginx.quit();
    }
}

#[test_on(stream, http, mail)]
fn proxy_protocol_is_read_from_mptcp_connections(on: Subsystem) {
    let site = Site::new();
    // mail has no variables. Its greeting shows that it has read the header.
    let (answer, expected) = match on {
        Subsystem::Stream | Subsystem::Http => (
            "$proxy_protocol_addr $proxy_protocol_port",
            "192.0.2.7 4711",
        ),
        Subsystem::Mail => (on.answer(), on.answer()),
    };
    let server = on.server_with("127.0.0.1:8080 mptcp proxy_protocol", "", answer);
    if !on.knows("proxy_protocol") {
        let text = site.check(&on.conf(&server)).fails();
        assert!(
            text.contains("[emerg]") && text.contains("\"proxy_protocol\""),
            "{text}"
        );
        return;
    }
    let _nginx = site.start(&on.conf(&server));
    for transport in [Transport::Mptcp, Transport::Tcp] {
        let mut connection =
            Connection::open(transport, "127.0.0.1:8080").expect("the listener takes connections");
        let header = b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n";
        let request = [header, on.request().as_bytes()].concat();
        connection.send(&request).expect("the header can be sent");
        let (answer, mptcp) = on.receive_answer(connection).expect("the server answers");
        assert_eq!(
            (answer.as_str(), mptcp),
            (expected, transport == Transport::Mptcp)
        );
    }
}
