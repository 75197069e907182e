//! `quic` of http and an MPTCP listener on the same port, if nginx was built with HTTP/3.

use std::process::Command;

use crate::harness::{Host, Site, wait_until};
use crate::mptcp_log::{LOG, log_format, logged, nothing};
use crate::server::{Conf, Nginx};
use crate::subsystem::{Subsystem, test_on};
use crate::tls::{CERTIFICATE, make_certificate, mptcp_bridge, tls_client};

const HTTP: Subsystem = Subsystem::Http;

/// HTTP over TLS and over QUIC at one address. `words` are parameters of the TLS listener.
fn conf(words: &str) -> Conf {
    let listen = format!("127.0.0.1:8443 quic;\n    listen 127.0.0.1:8443 ssl {words}");
    let more = format!("{CERTIFICATE}\n    {LOG}");
    HTTP.conf(&(log_format() + &HTTP.server_with(&listen, &more, HTTP.answer())))
}

/// Checks the error for `quic` of an nginx without HTTP/3.
fn refuses_quic(site: &Site) {
    let text = site.check(&conf("mptcp")).fails();
    let reason = match Host::get().version >= (1, 25, 0) {
        true => "the \"quic\" parameter requires ngx_http_v3_module",
        false => "invalid parameter \"quic\"",
    };
    assert!(text.contains("[emerg]") && text.contains(reason), "{text}");
}

/// Checks that clients over TLS and over QUIC are served, and that the TLS listener is MPTCP if
/// `mptcp` is true.
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

#[test_on(http)]
fn quic_is_served_beside_an_mptcp_listener_of_the_same_port(_: Subsystem) {
    let site = Site::new();
    if !HTTP.knows("quic") {
        return refuses_quic(&site);
    }
    make_certificate(&site);
    let nginx = site.start(&conf("mptcp"));
    serves(&site, &nginx, true);
}

#[test_on(http)]
fn quic_is_served_while_the_mptcp_listener_changes_its_protocol(_: Subsystem) {
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

/// Needs a curl with HTTP/3. Each Debian release whose nginx has HTTP/3 has such a curl.
#[test_on(http)]
fn quic_requests_have_no_mptcp_values_in_the_log(_: Subsystem) {
    let site = Site::new();
    if !HTTP.knows("quic") {
        return refuses_quic(&site);
    }
    make_certificate(&site);
    let nginx = site.start(&conf("mptcp"));
    for count in [1, 2] {
        let mut curl = Command::new("curl");
        curl.args([
            "--http3-only",
            "--cacert",
            "cert.pem",
            "--silent",
            "--show-error",
        ]);
        curl.args([
            "--resolve",
            "localhost:8443:127.0.0.1",
            "--output",
            "answer",
        ]);
        curl.args(["--write-out", "%{http_version} %{http_code}"]);
        curl.arg("https://localhost:8443/");
        assert_eq!(site.run(&mut curl).succeeds(), "3 200");
        assert_eq!(logged(&site, count), nothing());
    }
    assert!(!nginx.log().contains("[error]"), "{}", nginx.log());
}
