//! Reloads that succeed: what stays, what changes, what is left over.

use crate::backend::Backend;
use crate::client::{Connection, Over};
use crate::harness::{Site, wait_or_say, wait_until};
use crate::namespace::set_sysctl;
use crate::parameters::serves;
use crate::server::{Conf, Nginx};
use crate::sockets::listening_on;
use crate::steady::Steady;

const ADDRESS: &str = "127.0.0.1:8080";

/// Waits until the master has exactly as many descriptors as before.
fn nothing_is_left_over(nginx: &Nginx, before: usize) {
    wait_or_say(|| {
        let now = nginx.descriptors();
        if now.len() == before {
            Ok(())
        } else {
            Err(format!("{before} descriptors before, now {now:#?}"))
        }
    });
}

/// Waits until one socket listens, neither `old` nor beside it.
fn replaced(nginx: &Nginx, old: u64, mptcp: bool) -> u64 {
    wait_until("the old socket to go", || {
        let listeners = nginx.listeners();
        listeners.len() == 1 && listeners[0].inode != old && listening_on(8080) == 1
    });
    assert_eq!(nginx.listener().is_mptcp(), mptcp);
    nginx.listener().inode
}

#[test]
fn reload_without_a_change_keeps_the_sockets_and_every_client() {
    let site = Site::new();
    for words in [
        "127.0.0.1:8080 mptcp",
        "127.0.0.1:8080 mptcp=auto",
        "127.0.0.1:8080",
    ] {
        let conf = Conf::servers(&[words, "127.0.0.1:8081-8083 mptcp", "[::1]:8080 multipath"]);
        let nginx = site.start(&conf);
        let (listeners, descriptors) = (nginx.listeners(), nginx.descriptors().len());
        let clients = Steady::start(ADDRESS);
        for _ in 0..5 {
            nginx.reload(&conf);
            assert_eq!(nginx.listeners(), listeners, "{words}");
            clients.wait_for_more(20);
        }
        clients.all_were_served();
        nothing_is_left_over(&nginx, descriptors);
        nginx.quit();
    }
}

#[test]
fn another_word_for_the_same_protocol_keeps_the_socket() {
    let site = Site::new();
    let nginx = site.start(&Conf::listen("127.0.0.1:8080 mptcp"));
    let listener = nginx.listener();
    for words in ["multipath", "protocol=mptcp", "mptcp=auto", "mptcp=on"] {
        nginx.reload(&Conf::listen(&format!("127.0.0.1:8080 {words}")));
        assert_eq!(nginx.listener(), listener, "{words}");
    }
}

#[test]
fn reload_changes_the_protocol_and_changes_it_back() {
    let site = Site::new();
    let (tcp, mptcp) = (
        Conf::listen("127.0.0.1:8080"),
        Conf::listen("127.0.0.1:8080 mptcp"),
    );
    let nginx = site.start(&tcp);
    let descriptors = nginx.descriptors().len();
    let mut inode = nginx.listener().inode;
    for round in 0..6 {
        let to_mptcp = round % 2 == 0;
        nginx.reload(if to_mptcp { &mptcp } else { &tcp });
        inode = replaced(&nginx, inode, to_mptcp);
        (0..20).for_each(|_| serves(ADDRESS, to_mptcp));
        nothing_is_left_over(&nginx, descriptors);
    }
}

#[test]
fn a_changed_protocol_keeps_the_other_listeners_and_options() {
    let site = Site::new();
    let conf = |word: &str| {
        Conf::servers(&[
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

#[test]
fn a_wildcard_on_ipv6_changes_its_protocol() {
    let site = Site::new();
    let nginx = site.start(&Conf::listen("[::]:8080 ipv6only=off"));
    let inode = nginx.listener().inode;
    nginx.reload(&Conf::listen("[::]:8080 ipv6only=off mptcp"));
    let inode = replaced(&nginx, inode, true);
    serves("[::1]:8080", true);
    serves(ADDRESS, true);
    nginx.reload(&Conf::listen("[::]:8080 ipv6only=off"));
    replaced(&nginx, inode, false);
    serves("[::1]:8080", false);
    serves(ADDRESS, false);
}

#[test]
fn a_replaced_socket_leaves_no_option_behind() {
    let site = Site::new();
    let nginx = site.start(&Conf::listen("127.0.0.1:8080"));
    let before = nginx.listener();
    for word in ["mptcp", ""] {
        let inode = nginx.listener().inode;
        nginx.reload(&Conf::listen(&format!("127.0.0.1:8080 {word}")));
        replaced(&nginx, inode, !word.is_empty());
        let name = "SO_REUSEPORT";
        assert_eq!(
            nginx.listener().option(name),
            before.option(name),
            "{name} is not in the configuration"
        );
    }
}

#[test]
fn a_running_mptcp_listener_is_kept_when_mptcp_is_switched_off() {
    let site = Site::new();
    let conf = Conf::servers(&["127.0.0.1:8080 mptcp", "127.0.0.1:8081 mptcp=auto"]);
    let nginx = site.start(&conf);
    let listeners = nginx.listeners();
    set_sysctl("mptcp/enabled", "0");
    nginx.reload(&conf);
    assert_eq!(nginx.listeners(), listeners);
    set_sysctl("mptcp/enabled", "1");
    serves(ADDRESS, true);
    serves("127.0.0.1:8081", true);
}

#[test]
fn an_address_moves_between_http_and_stream() {
    let site = Site::new();
    let http = Conf::listen("127.0.0.1:8081 mptcp")
        .main("http { access_log off; server { listen 127.0.0.1:8080; } }");
    let stream = Conf::servers(&["127.0.0.1:8081 mptcp", "127.0.0.1:8080 mptcp"]);
    let nginx = site.start(&http);
    let descriptors = nginx.descriptors().len();
    for _ in 0..2 {
        nginx.reload(&stream);
        wait_until("the http socket to go", || listening_on(8080) == 1);
        serves(ADDRESS, true);
        nginx.reload(&http);
        let mut connection = Connection::open(Over::Tcp, ADDRESS).expect("http listens");
        connection
            .send(b"GET / HTTP/1.0\r\n\r\n")
            .expect("a request can be sent");
        let answer = connection.receive_all().expect("http answers");
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        nothing_is_left_over(&nginx, descriptors);
    }
}

#[test]
fn a_connection_outlives_reloads_and_changes_of_protocol() {
    let site = Site::new();
    let backend = Backend::echo();
    let conf = |word: &str| {
        Conf::stream(&format!(
            "server {{ listen 127.0.0.1:8080 {word}; proxy_pass {}; }}\n",
            backend.address
        ))
    };
    let nginx = site.start(&conf("mptcp"));
    let mut connection = Connection::open(Over::Mptcp, ADDRESS).expect("the listener serves");
    connection.echo(b"before").expect("the connection works");
    for word in ["mptcp", "", "mptcp"] {
        let log = nginx.try_reload(&conf(word));
        log.unwrap_or_else(|log| panic!("the reload failed: {log}"));
        connection
            .echo(b"after a reload")
            .expect("the connection outlives the reload");
    }
    assert!(connection.is_mptcp());
    drop(connection);
    nginx.wait_for_workers(1);
}

#[test]
fn listeners_come_and_go_by_reload() {
    let site = Site::new();
    let nginx = site.start(&Conf::listen("127.0.0.1:8080 mptcp"));
    let descriptors = nginx.descriptors().len();
    nginx.reload(&Conf::servers(&[
        "127.0.0.1:8080 mptcp",
        "127.0.0.1:8081 mptcp",
        "[::1]:8082 mptcp",
    ]));
    serves(ADDRESS, true);
    serves("127.0.0.1:8081", true);
    serves("[::1]:8082", true);
    nginx.reload(&Conf::listen("[::1]:8082 mptcp"));
    serves("[::1]:8082", true);
    let refused = Connection::open(Over::Tcp, ADDRESS).map(|_| ());
    assert!(
        refused.is_err(),
        "nobody listens at a listener that was removed"
    );
    nothing_is_left_over(&nginx, descriptors);
}

#[test]
fn without_the_module_nginx_goes_on_and_with_it_again_mptcp_is_back() {
    let site = Site::new();
    let with = Conf::listen("127.0.0.1:8080 mptcp");
    let without = Conf::listen("127.0.0.1:8080").without_module();
    let nginx = site.start(&with);
    for _ in 0..3 {
        nginx.reload(&without);
        // nginx knows no protocols, and keeps the socket that it has.
        let mptcp = nginx.listener().is_mptcp();
        serves(ADDRESS, mptcp);
        nginx.reload(&without);
        serves(ADDRESS, mptcp);
        nginx.reload(&with);
        wait_until("the MPTCP listener", || {
            nginx.listeners().len() == 1 && nginx.listener().is_mptcp()
        });
        serves(ADDRESS, true);
    }
}

#[test]
fn the_module_can_be_loaded_by_a_reload() {
    let site = Site::new();
    let nginx = site.start(&Conf::listen("127.0.0.1:8080").without_module());
    let inode = nginx.listener().inode;
    nginx.reload(&Conf::listen("127.0.0.1:8080"));
    assert_eq!(nginx.listener().inode, inode);
    nginx.reload(&Conf::listen("127.0.0.1:8080 mptcp"));
    replaced(&nginx, inode, true);
    serves(ADDRESS, true);
    nginx.reload(&Conf::listen("127.0.0.1:8080").without_module());
    assert_eq!(nginx.listeners().len(), 1);
}
