//! nginx under `ip vrf exec`, where the kernel binds its sockets to a VRF.

use std::process::Command;

use crate::client::Transport;
use crate::harness::Site;
use crate::lacking::left_out;
use crate::namespace::{Peer, ip, join, set_up_end};
use crate::server::WITHOUT_NETWORK_CAPABILITIES;
use crate::subsystem::{Subsystem, test_on};

#[test_on(stream, http, mail)]
fn listeners_of_either_protocol_are_in_the_vrf(on: Subsystem) {
    let site = Site::new();
    // Each test uses another VRF name, because the cgroup of a VRF has its name and all tests
    // share the cgroups.
    let vrf = on.name();
    let mut link = Command::new("ip");
    link.args(["link", "add", vrf, "type", "vrf", "table", "10"]);
    if !site.run(&mut link).status.success() {
        left_out("vrf", "not tested");
        return;
    }
    let peer = Peer::new();
    join("near", "far", peer.thread_id);
    ip(&format!("link set {vrf} up"));
    ip(&format!("link set near master {vrf}"));
    set_up_end("near", &["10.9.0.1/24", "fd09::1/64"]);
    peer.run(|| set_up_end("far", &["10.9.0.2/24", "fd09::2/64"]));

    let listen = [
        "8080",
        "[::]:8080 ipv6only=on",
        "10.9.0.1:8081",
        "[fd09::1]:8081",
    ];
    let conf = |word: &str| {
        let words = listen.map(|address| format!("{address} {word}"));
        on.servers(&words.each_ref().map(String::as_str))
    };
    let serves = |mptcp: bool| {
        let addresses = [
            "10.9.0.1:8080",
            "[fd09::1]:8080",
            "10.9.0.1:8081",
            "[fd09::1]:8081",
        ];
        for (transport, expected) in [(Transport::Tcp, false), (Transport::Mptcp, mptcp)] {
            for address in addresses {
                let answer = peer.run(move || on.request_answer(transport, address));
                let (answer, is_mptcp) =
                    answer.unwrap_or_else(|error| panic!("{address} over {transport:?}: {error}"));
                assert_eq!((answer.as_str(), is_mptcp), (on.answer(), expected));
            }
        }
    };
    let runner = ["ip", "vrf", "exec", vrf];
    let nginx = site.start_under(&runner, &conf("mptcp"));
    serves(true);
    nginx.quit();
    let confined = [&runner[..], &WITHOUT_NETWORK_CAPABILITIES].concat();
    let nginx = site.start_under(&confined, &conf("mptcp"));
    serves(true);
    nginx.quit();
    let nginx = site.start_under(&runner, &conf(""));
    for (word, mptcp) in [("mptcp", true), ("", false), ("mptcp", true)] {
        nginx.reload(&conf(word));
        serves(mptcp);
    }
}
