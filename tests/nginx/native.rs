//! The `multipath` parameter of nginx 1.29.7 and later, and that of the module.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use crate::client::{Connection, Transport};
use crate::harness::{Host, Site, wait_until};
use crate::server::Conf;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};
use crate::upgrade::{retire, upgrade};

const ADDRESS: &str = "127.0.0.1:8080";

/// A configuration with `multipath` that does not load the module. A module that is linked into
/// nginx is used all the same.
fn native(on: Subsystem) -> Conf {
    on.listen("127.0.0.1:8080 multipath").without_module()
}

/// A configuration with `multipath` of nginx, or of the module if nginx has no `multipath`.
fn native_or_ours(on: Subsystem) -> Conf {
    match is_known(on) {
        true => native(on),
        false => on.listen("127.0.0.1:8080 multipath"),
    }
}

fn is_known(on: Subsystem) -> bool {
    let host = Host::get();
    host.knows_protocols() || host.modules(on).ours.is_none()
}

#[test_on(stream, http, mail)]
fn multipath_works_without_the_module_if_nginx_has_it(on: Subsystem) {
    let site = Site::new();
    if !is_known(on) {
        let text = site.check(&native(on)).fails();
        assert!(
            text.contains("[emerg]") && text.contains("invalid") && text.contains("\"multipath\""),
            "{text}"
        );
        return;
    }
    let nginx = site.start(&native(on));
    assert!(nginx.listener().is_mptcp());
    on.serves(ADDRESS, true);
}

#[test_on(stream, http, mail)]
fn a_listener_changes_between_multipath_of_nginx_and_of_the_module(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    let listener = nginx.listener();
    let clients = Steady::start(on, ADDRESS);
    for ours in ["multipath", "mptcp"] {
        if is_known(on) {
            nginx.reload(&native(on));
        } else {
            let log = nginx.try_reload(&native(on)).expect_err("an unknown word");
            assert!(log.contains("\"multipath\""), "{log}");
        }
        assert_eq!(nginx.listener(), listener);
        nginx.reload(&on.listen(&format!("127.0.0.1:8080 {ours}")));
        assert_eq!(nginx.listener(), listener);
        clients.wait_for_more(50);
    }
    clients.all_were_served();
    on.serves(ADDRESS, true);
}

#[test_on(stream, http, mail)]
fn a_listener_changes_from_multipath_of_nginx_to_tcp_of_the_module(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&native_or_ours(on));
    for (word, mptcp) in [("", false), ("mptcp", true), ("mptcp=off", false)] {
        nginx.reload(&on.listen(&format!("127.0.0.1:8080 {word}")));
        wait_until("the new socket alone", || nginx.listeners().len() == 1);
        assert_eq!(nginx.listener().is_mptcp(), mptcp, "{word:?}");
        on.serves(ADDRESS, mptcp);
    }
}

#[test_on(stream, http, mail)]
fn an_upgrade_that_adds_the_module_keeps_a_multipath_socket_of_nginx(on: Subsystem) {
    let site = Site::new();
    let old = site.start(&native_or_ours(on));
    let listener = old.listener();
    site.write(&on.listen("127.0.0.1:8080 mptcp"));
    let new = upgrade(&site, &old, 1);
    assert_eq!(new.listener(), listener);
    retire(&old);
    assert_eq!(new.listener(), listener);
    on.serves(ADDRESS, true);
}

/// Changes the protocol under load and makes reloads fail. The module loses no client. The test
/// prints how many clients nginx's own `multipath` loses.
#[test]
#[ignore = "nginx 1.29.7 or later, and a minute: make native"]
fn the_module_loses_no_client_where_native_multipath_does() {
    assert!(Host::get().knows_protocols(), "nginx has no multipath");
    let lost = [true, false].map(|native| {
        let conf = |mptcp| match (native, mptcp) {
            (true, true) => self::native(Subsystem::Stream),
            (true, false) => Subsystem::Stream.listen(ADDRESS).without_module(),
            (false, true) => Subsystem::Stream.listen("127.0.0.1:8080 mptcp"),
            (false, false) => Subsystem::Stream.listen(ADDRESS),
        };
        (lost_in_changes(&conf), hanging_after_a_failed_reload(&conf))
    });
    let [native, ours] = lost;
    println!(
        "lost in {CHANGES} changes: native {}, ours {}",
        native.0, ours.0
    );
    println!(
        "of {AFTER} clients after a failed reload hang: native {}, ours {}",
        native.1, ours.1
    );
    assert_eq!(ours, (0, 0));
}

const CHANGES: usize = 40;
const AFTER: usize = 100;

/// How many clients are lost while the protocol changes back and forth.
fn lost_in_changes(conf: &dyn Fn(bool) -> Conf) -> usize {
    let site = Site::alone();
    let nginx = site.start(&conf(false));
    let clients = Steady::many(Subsystem::Stream, &[ADDRESS], 8, Duration::ZERO);
    for change in 1..=CHANGES {
        nginx.begin_reload(&conf(change % 2 == 1));
        clients.wait_for_more(200);
    }
    clients.stop().lost.len()
}

/// How many TCP clients get no answer after a failed change of protocol.
fn hanging_after_a_failed_reload(conf: &dyn Fn(bool) -> Conf) -> usize {
    let site = Site::alone();
    let nginx = site.start(&conf(false));
    let _holder = TcpListener::bind("127.0.0.1:9999").expect("the port is free in a new namespace");
    let in_use = Subsystem::Stream.server("127.0.0.1:9999");
    let reload = nginx.try_reload(&conf(true).with_text(&in_use));
    reload.expect_err("the port is in use");
    let answers = |_: &usize| {
        let mut connection = Connection::open(Transport::Tcp, ADDRESS).ok()?;
        connection.wait_at_most(Duration::from_secs(1)).ok()?;
        let mut byte = [0];
        connection.read_exact(&mut byte).ok()
    };
    (0..AFTER)
        .filter(|client| answers(client).is_none())
        .count()
}
