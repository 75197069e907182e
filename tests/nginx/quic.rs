//! `quic` of http beside an MPTCP listener of the same port, where nginx was
//! built with HTTP/3.

use crate::harness::{Host, Site, wait_until};
use crate::server::{Conf, Nginx};
use crate::subsystem::Subsystem;
use crate::tls::{CERTIFICATE, make_certificate, mptcp_bridge, tls_client};

const HTTP: Subsystem = Subsystem::Http;

/// HTTP over TLS and over QUIC at one address, the former as `words` say.
fn conf(words: &str) -> Conf {
    let listen = format!("127.0.0.1:8443 quic;\n    listen 127.0.0.1:8443 ssl {words}");
    HTTP.conf(&HTTP.server_with(&listen, CERTIFICATE, HTTP.answer()))
}

/// What an nginx without HTTP/3 says of `quic`.
fn refuses_quic(site: &Site) {
    let text = site.check(&conf("mptcp")).fails();
    let reason = match Host::get().version >= (1, 25, 0) {
        true => "the \"quic\" parameter requires ngx_http_v3_module",
        false => "invalid parameter \"quic\"",
    };
    assert!(text.contains("[emerg]") && text.contains(reason), "{text}");
}

/// Both are served, TLS over MPTCP where that is asked for.
fn serves(site: &Site, nginx: &Nginx, mptcp: bool) {
    wait_until("the old socket to go", || nginx.listeners().len() == 1);
    let listener = nginx.listener();
    assert_eq!(listener.is_mptcp(), mptcp, "{listener:#?}");
    for address in ["127.0.0.1:8443", &mptcp_bridge("127.0.0.1:8443")] {
        let text = tls_client(site, address, "-quiet", HTTP.request());
        let mut answers = text.lines().filter_map(|line| HTTP.answer_in(line));
        assert!(answers.any(|answer| answer == HTTP.answer()), "{text}");
    }
    let text = tls_client(site, "127.0.0.1:8443", "-quic -alpn h3", "");
    assert!(text.contains("ALPN protocol: h3\n"), "{text}");
}

#[test]
fn quic_is_served_beside_an_mptcp_listener_of_the_same_port() {
    let site = Site::new();
    if !HTTP.knows("quic") {
        return refuses_quic(&site);
    }
    make_certificate(&site);
    let nginx = site.start(&conf("mptcp"));
    serves(&site, &nginx, true);
}

#[test]
fn quic_goes_on_while_its_neighbour_changes_its_protocol() {
    let site = Site::new();
    if !HTTP.knows("quic") {
        return refuses_quic(&site);
    }
    make_certificate(&site);
    let nginx = site.start(&conf(""));
    for word in ["", "mptcp", "", "mptcp"] {
        nginx.reload(&conf(word));
        serves(&site, &nginx, !word.is_empty());
    }
}
