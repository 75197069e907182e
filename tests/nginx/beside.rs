//! `nginx -t`, `-T` and `-s` while another nginx runs with the same configuration.

use crate::harness::{Outcome, Site};
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};

const ADDRESS: &str = "127.0.0.1:8080";

/// Tests each of the configurations while an nginx runs. This must not change the sockets of
/// the running nginx, and its clients are served throughout.
fn disturbs_nothing(on: Subsystem, running: &str, tested: &[&str], arguments: &[&str]) {
    let site = Site::new();
    let nginx = site.start(&on.listen(&format!("127.0.0.1:8080 {running}")));
    let (listeners, descriptors, workers) =
        (nginx.listeners(), nginx.descriptors(), nginx.workers());
    let clients = Steady::start(on, ADDRESS);
    for words in tested.iter().filter(|words| on.knows(words)) {
        site.write(&on.listen(&format!("127.0.0.1:8080 {words}")));
        let text = site.run(&mut site.nginx(arguments)).succeeds();
        assert!(
            text.contains("syntax is ok") && text.contains("test is successful"),
            "{words}: {text}"
        );
        clients.wait_for_more(50);
    }
    clients.all_were_served();
    assert_eq!(nginx.listeners(), listeners);
    assert_eq!(nginx.descriptors(), descriptors);
    assert_eq!(nginx.workers(), workers);
    on.serves(ADDRESS, running.contains("mptcp"));
}

#[test_on(stream, http, mail)]
fn testing_a_configuration_disturbs_nothing(on: Subsystem) {
    disturbs_nothing(
        on,
        "mptcp",
        &["mptcp", "", "mptcp reuseport", "mptcp=auto"],
        &["-t"],
    );
    disturbs_nothing(on, "", &["mptcp", "", "multipath backlog=5"], &["-t"]);
    if on.knows("reuseport") {
        disturbs_nothing(
            on,
            "mptcp reuseport",
            &["mptcp reuseport", "reuseport", "mptcp"],
            &["-t"],
        );
    }
}

#[test_on(stream, http, mail)]
fn dumping_a_configuration_disturbs_nothing_and_shows_our_parameters(on: Subsystem) {
    disturbs_nothing(on, "mptcp", &["mptcp", ""], &["-T"]);
    let site = Site::new();
    site.write(&on.listen("127.0.0.1:8080 mptcp"));
    let text = site.run(&mut site.nginx(&["-T"])).succeeds();
    assert!(text.contains("listen 127.0.0.1:8080 mptcp;"), "{text}");
}

#[test_on(stream, http, mail)]
fn testing_a_new_listener_leaves_no_socket_open(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    site.check(&on.servers(&["127.0.0.1:8080 mptcp", "127.0.0.1:8081 mptcp"]))
        .succeeds();
    assert_eq!(nginx.listeners().len(), 1);
    std::net::TcpListener::bind("127.0.0.1:8081").expect("nobody listens there");
}

#[test_on(stream, http, mail)]
fn reload_and_quit_by_command_work_and_open_nothing(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080"));
    let command = |signal: &str| -> Outcome {
        let strace = ["strace", "-f", "-o", "trace", "-e", "trace=network"];
        site.run(&mut site.nginx_under(&strace, &["-s", signal]))
    };
    for word in ["mptcp", "", "mptcp"] {
        site.write(&on.listen(&format!("127.0.0.1:8080 {word}")));
        let mark = nginx.log().len();
        command("reload").succeeds();
        let trace = site.read("trace");
        assert!(
            !trace.contains("AF_INET"),
            "the command opens nothing: {trace}"
        );
        nginx
            .reloaded(mark)
            .unwrap_or_else(|log| panic!("the reload failed: {log}"));
        nginx.wait_for_workers(1);
        on.serves(ADDRESS, !word.is_empty());
    }
    command("quit").succeeds();
    nginx.wait_for_end();
}

#[test_on(stream, http, mail)]
fn a_command_does_not_need_mptcp_in_the_kernel(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    crate::namespace::set_sysctl("mptcp/enabled", "0");
    site.run(&mut site.nginx(&["-s", "stop"])).succeeds();
    nginx.wait_for_end();
}
