//! nginx's own listen parameters on an MPTCP socket, read back from it.

use crate::client::{Connection, Over};
use crate::harness::{Host, Site};
use crate::parameters::serves;
use crate::server::Conf;
use crate::sockets::Listener;

/// Starts nginx with the words beside `mptcp`, checks that the listener is
/// MPTCP and serves, and returns it.
fn listener(words: &str) -> Listener {
    let site = Site::new();
    let nginx = site.start(&Conf::listen(&format!("127.0.0.1:8080 mptcp {words}")));
    let listener = nginx.listener();
    assert!(listener.is_mptcp(), "{listener:#?}");
    serves("127.0.0.1:8080", true);
    listener
}

#[test]
fn backlog_is_the_length_of_the_mptcp_queue() {
    assert_eq!(listener("backlog=77").backlog, 77);
    // nginx's own default.
    assert_eq!(listener("").backlog, 511);
}

#[test]
fn buffer_sizes_are_set_on_the_mptcp_socket() {
    let listener = listener("rcvbuf=32k sndbuf=48k");
    // The kernel doubles what is asked for, socket(7).
    assert_eq!(listener.option("SO_RCVBUF"), 2 * 32 * 1024);
    assert_eq!(listener.option("SO_SNDBUF"), 2 * 48 * 1024);
}

#[test]
fn keepalive_is_set_on_the_mptcp_socket() {
    assert_eq!(listener("so_keepalive=on").option("SO_KEEPALIVE"), 1);
    assert_eq!(listener("so_keepalive=off").option("SO_KEEPALIVE"), 0);

    let listener = listener("so_keepalive=600:20:3");
    assert_eq!(listener.option("SO_KEEPALIVE"), 1);
    assert_eq!(listener.option("TCP_KEEPIDLE"), 600);
    assert_eq!(listener.option("TCP_KEEPINTVL"), 20);
    assert_eq!(listener.option("TCP_KEEPCNT"), 3);
}

#[test]
fn fastopen_is_set_on_the_mptcp_socket() {
    assert_eq!(listener("fastopen=23").option("TCP_FASTOPEN"), 23);
}

#[test]
fn deferred_is_set_on_the_mptcp_socket_where_stream_knows_it() {
    let site = Site::new();
    let conf = Conf::stream(
        "server { listen 127.0.0.1:8080 mptcp deferred; return \"served over stream\\n\"; }\n",
    );
    if !Host::get().merges_stream_servers() {
        let text = site.check(&conf).fails();
        assert!(text.contains("invalid \"deferred\" parameter"), "{text}");
        return;
    }
    let nginx = site.start(&conf);
    let listener = nginx.listener();
    assert!(listener.is_mptcp(), "{listener:#?}");
    assert!(listener.option("TCP_DEFER_ACCEPT") > 0, "{listener:#?}");
}

#[test]
fn ipv6only_is_set_on_the_mptcp_socket() {
    let site = Site::new();
    for (words, value) in [("", 1), ("ipv6only=on", 1), ("ipv6only=off", 0)] {
        let nginx = site.start(&Conf::listen(&format!("[::]:8080 mptcp {words}")));
        assert_eq!(nginx.listener().option("IPV6_V6ONLY"), value, "{words}");
        nginx.quit();
    }
}

#[test]
fn proxy_protocol_is_read_from_mptcp_connections() {
    let site = Site::new();
    let _nginx = site.start(&Conf::stream(
        "server { listen 127.0.0.1:8080 mptcp proxy_protocol; return \"$proxy_protocol_addr $proxy_protocol_port\\n\"; }\n",
    ));
    for over in [Over::Mptcp, Over::Tcp] {
        let mut connection =
            Connection::open(over, "127.0.0.1:8080").expect("the listener takes connections");
        connection
            .send(b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n")
            .expect("the header can be sent");
        let answer = connection.receive_all().expect("the server answers");
        assert_eq!(answer, "192.0.2.7 4711\n", "{over:?}");
        assert_eq!(connection.is_mptcp(), over == Over::Mptcp);
    }
}
