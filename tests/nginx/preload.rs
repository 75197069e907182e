//! `mptcpize run nginx`: a preloaded library opens an MPTCP socket for each TCP socket.

use crate::harness::Site;
use crate::sockets::Listener;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};
use crate::without_mptcp;

const MPTCPIZE: [&str; 2] = ["mptcpize", "run"];

#[test_on(stream, http, mail)]
fn reloads_keep_the_sockets_of_a_preloaded_nginx(on: Subsystem) {
    let site = Site::new();
    let conf = on.servers(&[
        "127.0.0.1:8080",
        "127.0.0.1:8081 mptcp=off",
        "127.0.0.1:8082 mptcp",
        "[::1]:8080 mptcp=off",
    ]);
    let nginx = site.start_under(&MPTCPIZE, &conf);
    let listeners = nginx.listeners();
    assert!(listeners.iter().all(Listener::is_mptcp));
    let clients = Steady::start(on, "127.0.0.1:8080");
    for _ in 0..2 {
        let log = nginx.begin_reload(&conf);
        let message = "\"mptcp=off\" for 127.0.0.1:8081 has no effect: ";
        let warnings = log.lines().filter(|line| line.contains("[warn]"));
        let warnings: Vec<_> = warnings.collect();
        assert_eq!(warnings.len(), 1, "{log}");
        assert!(warnings[0].contains(message), "{log}");
        nginx.wait_for_workers(1);
        assert_eq!(nginx.listeners(), listeners);
    }
    clients.all_were_served();
    on.serves("127.0.0.1:8080", true);
}

#[test_on(stream, http, mail)]
fn the_module_can_be_added_to_a_preloaded_nginx(on: Subsystem) {
    without_mptcp::end_if_expected();
    let site = Site::new();
    let conf = on.listen("127.0.0.1:8080");
    let nginx = site.start_under(&MPTCPIZE, &conf.clone().without_module());
    let listeners = nginx.listeners();
    nginx.reload(&conf);
    assert_eq!(nginx.listeners(), listeners);
}
