//! Reloads that succeed: which sockets nginx keeps, which it replaces, and that no descriptor
//! leaks.

use crate::client::{Connection, Transport};
use crate::harness::{Host, Site, wait_for_ok, wait_until};
use crate::namespace::set_sysctl;
use crate::server::{Conf, Nginx};
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};
use crate::talk::Talk;

const ADDRESS: &str = "127.0.0.1:8080";

/// Reloads without a change, and waits until the master has exactly as many descriptors as
/// before. The extra reload is needed because the master closes the superseded sockets, which
/// no longer listen, only in the next reload.
fn nothing_is_left_over(nginx: &Nginx, conf: &Conf, before: usize) {
    nginx.reload(conf);
    wait_for_ok(|| {
        let now = nginx.descriptors();
        if now.len() == before {
            Ok(())
        } else {
            Err(format!("{before} descriptors before, now {now:#?}"))
        }
    });
}

/// Waits until exactly one socket listens and it is not `old`. Returns its inode.
fn replaced(nginx: &Nginx, old: u64, mptcp: bool) -> u64 {
    wait_until("the old socket to go", || {
        let listeners = nginx.listeners();
        listeners.len() == 1 && listeners[0].inode != old && listening_on(8080) == 1
    });
    assert_eq!(nginx.listener().is_mptcp(), mptcp);
    nginx.listener().inode
}

#[test_on(stream, http, mail)]
fn reload_without_a_change_keeps_the_sockets_and_every_client(on: Subsystem) {
    let site = Site::new();
    for words in [
        "127.0.0.1:8080 mptcp",
        "127.0.0.1:8080 mptcp=auto",
        "127.0.0.1:8080",
    ] {
        let conf = on.servers(&[words, "127.0.0.1:8081-8083 mptcp", "[::1]:8080 multipath"]);
        let nginx = site.start(&conf);
        let (listeners, descriptors) = (nginx.listeners(), nginx.descriptors().len());
        let clients = Steady::start(on, ADDRESS);
        for _ in 0..5 {
            nginx.reload(&conf);
            assert_eq!(nginx.listeners(), listeners, "{words}");
            clients.wait_for_more(20);
        }
        clients.all_were_served();
        nothing_is_left_over(&nginx, &conf, descriptors);
        nginx.quit();
    }
}

#[test_on(stream, http, mail)]
fn another_parameter_for_the_same_protocol_keeps_the_socket(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    let listener = nginx.listener();
    for words in ["multipath", "protocol=mptcp", "mptcp=auto", "mptcp=on"] {
        nginx.reload(&on.listen(&format!("127.0.0.1:8080 {words}")));
        assert_eq!(nginx.listener(), listener, "{words}");
    }
}

#[test_on(stream, http, mail)]
fn reload_changes_the_protocol_and_changes_it_back(on: Subsystem) {
    let site = Site::new();
    let (tcp, mptcp) = (
        on.listen("127.0.0.1:8080"),
        on.listen("127.0.0.1:8080 mptcp"),
    );
    let nginx = site.start(&tcp);
    let descriptors = nginx.descriptors().len();
    let mut inode = nginx.listener().inode;
    for round in 0..6 {
        let to_mptcp = round % 2 == 0;
        let conf = if to_mptcp { &mptcp } else { &tcp };
        nginx.reload(conf);
        inode = replaced(&nginx, inode, to_mptcp);
        (0..20).for_each(|_| on.serves(ADDRESS, to_mptcp));
        nothing_is_left_over(&nginx, conf, descriptors);
    }
}

#[test_on(stream, http, mail)]
fn a_changed_protocol_keeps_the_other_listeners_and_options(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| {
        on.servers(&[
            &format!("127.0.0.1:8080 backlog=77 rcvbuf=32k {word}"),
            "127.0.0.1:8081 mptcp",
            "127.0.0.1:8082",
        ])
    };
    let nginx = site.start(&conf(""));
    let others = || {
        nginx
            .listeners()
            .into_iter()
            .filter(|one| one.address.port() != 8080)
            .collect::<Vec<_>>()
    };
    let before = others();
    for word in ["mptcp", "", "multipath"] {
        nginx.reload(&conf(word));
        wait_until("the old socket to go", || nginx.listeners().len() == 3);
        assert_eq!(others(), before);
        let listeners = nginx.listeners();
        let changed = listeners
            .iter()
            .find(|one| one.address.port() == 8080)
            .expect("it listens");
        assert_eq!(changed.is_mptcp(), !word.is_empty());
        assert_eq!(
            (changed.backlog, changed.option("SO_RCVBUF")),
            (77, 2 * 32 * 1024)
        );
    }
}

#[test_on(stream, http, mail)]
fn a_wildcard_on_ipv6_changes_its_protocol(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("[::]:8080 ipv6only=off"));
    let inode = nginx.listener().inode;
    nginx.reload(&on.listen("[::]:8080 ipv6only=off mptcp"));
    let inode = replaced(&nginx, inode, true);
    on.serves("[::1]:8080", true);
    on.serves(ADDRESS, true);
    nginx.reload(&on.listen("[::]:8080 ipv6only=off"));
    replaced(&nginx, inode, false);
    on.serves("[::1]:8080", false);
    on.serves(ADDRESS, false);
}

#[test_on(stream, http, mail)]
fn a_superseded_socket_leaves_no_option_behind(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080"));
    let before = nginx.listener();
    for word in ["mptcp", ""] {
        let inode = nginx.listener().inode;
        nginx.reload(&on.listen(&format!("127.0.0.1:8080 {word}")));
        replaced(&nginx, inode, !word.is_empty());
        let name = "SO_REUSEPORT";
        assert_eq!(
            nginx.listener().option(name),
            before.option(name),
            "{name} is not in the configuration"
        );
    }
}

#[test_on(stream, http, mail)]
fn a_running_mptcp_listener_is_kept_when_mptcp_is_switched_off(on: Subsystem) {
    let site = Site::new();
    let conf = on.servers(&["127.0.0.1:8080 mptcp", "127.0.0.1:8081 mptcp=auto"]);
    let nginx = site.start(&conf);
    let listeners = nginx.listeners();
    set_sysctl("mptcp/enabled", "0");
    nginx.reload(&conf);
    assert_eq!(nginx.listeners(), listeners);
    set_sysctl("mptcp/enabled", "1");
    on.serves(ADDRESS, true);
    on.serves("127.0.0.1:8081", true);
}

/// nginx matches old and new sockets by address, also between subsystems. So nginx keeps the
/// socket if the protocol stays the same, and the socket is superseded if the protocol changes.
#[test_on(stream, http, mail)]
fn an_address_moves_to_another_subsystem_and_back(on: Subsystem) {
    let site = Site::new();
    let other = on.other();
    for (word, there) in [("mptcp", "mptcp"), ("mptcp", ""), ("", "mptcp")] {
        let words = |word| format!("127.0.0.1:8080 {word}");
        let stay = ["127.0.0.1:8081 mptcp", "127.0.0.1:8082 mptcp"];
        let here = on
            .servers(&[stay[0], &words(word)])
            .with_blocks_of(other.listen(stay[1]));
        let moved = on
            .listen(stay[0])
            .with_blocks_of(other.servers(&[stay[1], &words(there)]));
        let nginx = site.start(&here);
        let descriptors = nginx.descriptors().len();
        let inode = || {
            let listeners = nginx.listeners().into_iter();
            let mut moving = listeners.filter(|one| one.address.port() == 8080);
            moving.next().expect("it listens").inode
        };
        for _ in 0..2 {
            let before = inode();
            nginx.reload(&moved);
            wait_until("the old socket to go", || listening_on(8080) == 1);
            assert_eq!(inode() == before, word == there, "{word:?} to {there:?}");
            other.serves(ADDRESS, !there.is_empty());
            nginx.reload(&here);
            wait_until("the old socket to go", || listening_on(8080) == 1);
            on.serves(ADDRESS, !word.is_empty());
            nothing_is_left_over(&nginx, &here, descriptors);
        }
        nginx.quit();
    }
}

#[test_on(stream, http, mail)]
fn a_connection_outlives_reloads_and_changes_of_protocol(on: Subsystem) {
    let site = Site::new();
    let talk = Talk::new(on);
    let nginx = site.start(&on.conf(&talk.server("127.0.0.1:8080 mptcp")));
    let mut connection = talk
        .begin(Transport::Mptcp, ADDRESS)
        .expect("the listener serves");
    talk.exchange(&mut connection)
        .expect("the connection works");
    for word in ["mptcp", "", "mptcp"] {
        let conf = on.conf(&talk.server(&format!("127.0.0.1:8080 {word}")));
        nginx.begin_reload(&conf);
        talk.exchange(&mut connection)
            .expect("the connection outlives the reload");
    }
    assert!(connection.is_mptcp());
    drop(connection);
    nginx.wait_for_workers(1);
}

#[test_on(stream, http, mail)]
fn listeners_come_and_go_by_reload(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    let descriptors = nginx.descriptors().len();
    nginx.reload(&on.servers(&[
        "127.0.0.1:8080 mptcp",
        "127.0.0.1:8081 mptcp",
        "[::1]:8082 mptcp",
    ]));
    on.serves(ADDRESS, true);
    on.serves("127.0.0.1:8081", true);
    on.serves("[::1]:8082", true);
    let conf = on.listen("[::1]:8082 mptcp");
    nginx.reload(&conf);
    on.serves("[::1]:8082", true);
    let refused = Connection::open(Transport::Tcp, ADDRESS).map(|_| ());
    assert!(
        refused.is_err(),
        "nobody listens at a listener that was removed"
    );
    nothing_is_left_over(&nginx, &conf, descriptors);
}

#[test_on(stream, http, mail)]
fn nginx_serves_without_the_module_and_restores_mptcp_with_it(on: Subsystem) {
    let site = Site::new();
    let with = on.listen("127.0.0.1:8080 mptcp");
    let without = on.listen("127.0.0.1:8080").without_module();
    let nginx = site.start(&with);
    for _ in 0..3 {
        nginx.reload(&without);
        // nginx before 1.29.7 does not compare protocols, so it keeps the inherited socket.
        let host = Host::get();
        let mptcp = !host.knows_protocols() && host.modules(on).ours.is_some();
        wait_until("one listener", || nginx.listeners().len() == 1);
        assert_eq!(nginx.listener().is_mptcp(), mptcp);
        on.serves(ADDRESS, mptcp);
        nginx.reload(&without);
        on.serves(ADDRESS, mptcp);
        nginx.reload(&with);
        wait_until("the MPTCP listener", || {
            nginx.listeners().len() == 1 && nginx.listener().is_mptcp()
        });
        on.serves(ADDRESS, true);
    }
}

#[test_on(stream, http, mail)]
fn the_module_can_be_loaded_by_a_reload(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080").without_module());
    let inode = nginx.listener().inode;
    nginx.reload(&on.listen("127.0.0.1:8080"));
    assert_eq!(nginx.listener().inode, inode);
    nginx.reload(&on.listen("127.0.0.1:8080 mptcp"));
    replaced(&nginx, inode, true);
    on.serves(ADDRESS, true);
    nginx.reload(&on.listen("127.0.0.1:8080").without_module());
    wait_until("one listener", || nginx.listeners().len() == 1);
}
