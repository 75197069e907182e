//! `mptcp` in `upstream` if MPTCP, a server or a TLS handshake is not available.

use crate::harness::Site;
use crate::namespace::{set_sysctl, switch_mptcp_off};
use crate::server::Conf;
use crate::subsystem::{Subsystem, subsystem_tests};
use crate::upstream::{BACK, FORMAT, back, front, logged, reply, try_reply, upstream};

subsystem_tests! {
    (stream, http):
        each_configuration_warns_once_that_auto_falls_back,
        a_worker_warns_once_that_auto_falls_back,
        a_server_that_failed_is_not_tried_for_a_while;
    (http):
        a_failed_tls_handshake_was_over_mptcp;
}

/// A configuration with these upstreams and a plain TCP backend.
fn tcp_backend(on: Subsystem, upstreams: &str) -> Conf {
    let servers = front(on, "http", "") + &back(on, BACK, "");
    on.conf(&(FORMAT.to_owned() + upstreams + &servers))
}

fn auto() -> String {
    upstream(&format!("server {BACK};\n    mptcp auto;"))
}

fn warnings(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("[warn]")).collect()
}

/// Fails the test unless there is exactly one warning and it contains these texts.
fn is_warned(log: &str, texts: &[&str]) {
    let [warning] = warnings(log)[..] else {
        panic!("one warning expected: {log}");
    };
    for text in texts {
        assert!(warning.contains(text), "{text}: {warning}");
    }
}

/// There are two upstreams, and workers fall back for each connection, but nginx warns only once.
fn each_configuration_warns_once_that_auto_falls_back(on: Subsystem) {
    let site = Site::new();
    let conf = tcp_backend(on, &(auto() + &auto().replace("upstream b", "upstream c")));
    let reason = switch_mptcp_off();
    let text = site.check(&conf).succeeds();
    let place = site.place_of("mptcp auto;");
    let fallback = format!("\"mptcp auto\" falls back to TCP: socket() failed: {reason}");
    is_warned(&text, &[&fallback, &place]);

    // nginx writes the warning of its start to standard error, and not to the log.
    let nginx = site.start(&conf);
    reply(on);
    assert!(warnings(&nginx.log()).is_empty(), "{}", nginx.log());
    nginx.reload(&conf);
    for count in 2..=4 {
        reply(on);
        assert_eq!(logged(&site, count), format!("{BACK}|-"));
    }
    is_warned(&nginx.log(), &[&fallback, &place]);
}

/// The kernel has MPTCP when nginx reads the configuration, and loses it later.
fn a_worker_warns_once_that_auto_falls_back(on: Subsystem) {
    crate::without_mptcp::end_if_expected();
    let site = Site::new();
    let nginx = site.start(&tcp_backend(on, &auto()));
    reply(on);
    assert_eq!(logged(&site, 1), format!("{BACK}|fallback"));
    assert!(warnings(&nginx.log()).is_empty(), "{}", nginx.log());
    let reason = switch_mptcp_off();
    for count in 2..=4 {
        reply(on);
        assert_eq!(logged(&site, count), format!("{BACK}|-"));
    }
    let fallback = format!("\"mptcp auto\" falls back to TCP: socket() failed: {reason}");
    is_warned(&nginx.log(), &[&fallback, " while connecting to upstream"]);
    set_sysctl("mptcp/enabled", "1");
    reply(on);
    assert_eq!(logged(&site, 5), format!("{BACK}|fallback"));
}

fn a_server_that_failed_is_not_tried_for_a_while(on: Subsystem) {
    let site = Site::new();
    let dead = "127.0.0.1:1";
    let lines =
        format!("server {dead} max_fails=2 fail_timeout=100s;\n    server {BACK};\n    mptcp;");
    let servers = front(on, "http", "") + &back(on, &format!("{BACK} mptcp"), "");
    let nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream(&lines) + &servers)));
    let lines: Vec<_> = (1..=6)
        .map(|count| {
            assert_eq!(reply(on), "on");
            logged(&site, count)
        })
        .collect();
    let both = format!("{dead}, {BACK}|-, on");
    let failed = lines.iter().filter(|line| **line == both).count();
    assert_eq!(failed, 2, "{lines:?}");
    assert_eq!(lines[5], format!("{BACK}|on"));
    nginx.quit();
}

/// The server answers the TLS handshake in clear text.
fn a_failed_tls_handshake_was_over_mptcp(on: Subsystem) {
    let site = Site::new();
    let lines = format!("server {BACK};\n    mptcp;");
    let servers = front(on, "https", "") + &back(on, &format!("{BACK} mptcp"), "");
    let nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream(&lines) + &servers)));
    let head = try_reply(on).expect("http answers");
    assert!(head.contains(" 502 "), "{head}");
    assert_eq!(logged(&site, 1), format!("{BACK}|on"));
    let message = "SSL_do_handshake() failed";
    assert!(nginx.log().contains(message), "{}", nginx.log());
}
