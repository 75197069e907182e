//! The modules of stream, http and mail in one nginx.

use std::net::TcpListener;
use std::path::PathBuf;

use crate::harness::{Host, Site, wait_until};
use crate::server::Conf;
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};
use crate::upgrade::{retire, upgrade};

/// A server of each subsystem, each at its own address and with the same parameters.
fn conf(words: &str) -> Conf {
    Subsystem::ALL
        .map(|on| on.listen(&format!("{} {words}", address(on))))
        .into_iter()
        .reduce(Conf::with_blocks_of)
        .expect("there are three")
}

const fn address(on: Subsystem) -> &'static str {
    match on {
        Subsystem::Stream => "127.0.0.1:8081",
        Subsystem::Http => "127.0.0.1:8082",
        Subsystem::Mail => "127.0.0.1:8083",
    }
}

fn all_serve(mptcp: bool) {
    Subsystem::ALL
        .iter()
        .for_each(|on| on.serves(address(*on), mptcp));
}

/// Clients of all three servers.
fn steady() -> [Steady; 3] {
    Subsystem::ALL.map(|on| Steady::start(on, address(on)))
}

/// Orders of nginx's modules and those of this project. A module of this project comes after
/// nginx's module of the same subsystem: directly, or after all of nginx's modules.
fn orders() -> Vec<Vec<PathBuf>> {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let modules = Subsystem::ALL.map(|on| Host::get().modules(on));
    let own = |order: [usize; 3]| order.map(|index| modules[index].own.clone());
    let ours = |order: [usize; 3]| order.map(|index| modules[index].ours.clone());
    let pairs = |order: [usize; 3]| {
        order.map(|index| [modules[index].own.clone(), modules[index].ours.clone()])
    };
    let mut orders = Vec::new();
    for order in ORDERS {
        let one_by_one = pairs(order).into_iter().flatten().flatten();
        let own_first = own(ORDERS[0]).into_iter().chain(ours(order)).flatten();
        let own_reversed = own(ORDERS[5]).into_iter().chain(ours(order)).flatten();
        orders.push(one_by_one.collect());
        orders.push(own_first.collect());
        orders.push(own_reversed.collect());
    }
    orders
}

#[test]
fn the_modules_may_be_loaded_in_any_order() {
    let site = Site::new();
    for order in orders() {
        let nginx = site.start(&conf("mptcp").with_modules(order));
        assert_eq!(nginx.listeners().len(), 3);
        all_serve(true);
        nginx.quit();
    }
}

#[test]
fn a_reload_may_change_the_order_of_the_modules() {
    let site = Site::new();
    let nginx = site.start(&conf("mptcp"));
    let listeners = nginx.listeners();
    for order in orders() {
        nginx.reload(&conf("mptcp").with_modules(order));
        assert_eq!(nginx.listeners(), listeners);
    }
    all_serve(true);
}

#[test]
fn a_reload_changes_the_protocol_of_all_at_once() {
    let site = Site::new();
    let nginx = site.start(&conf(""));
    let descriptors = nginx.descriptors().len();
    for word in ["mptcp", "", "mptcp=auto", "mptcp=off"] {
        nginx.reload(&conf(word));
        wait_until("the new sockets alone", || {
            let alone = |on: &Subsystem| {
                let port = address(*on).rsplit(':').next();
                listening_on(port.and_then(|port| port.parse().ok()).unwrap_or(0)) == 1
            };
            nginx.listeners().len() == 3 && Subsystem::ALL.iter().all(alone)
        });
        all_serve(word == "mptcp" || word == "mptcp=auto");
        // This reload makes the master close the superseded sockets.
        nginx.reload(&conf(word));
        wait_until("descriptors as before", || {
            nginx.descriptors().len() == descriptors
        });
    }
}

#[test]
fn an_unchanged_reload_and_an_upgrade_keep_the_sockets_of_all() {
    let site = Site::new();
    let old = site.start(&conf("mptcp"));
    let listeners = old.listeners();
    let clients = steady();
    old.reload(&conf("mptcp"));
    assert_eq!(old.listeners(), listeners);
    let new = upgrade(&site, &old, 1);
    assert_eq!(new.listeners(), listeners);
    retire(&old);
    clients.iter().for_each(|clients| clients.wait_for_more(50));
    assert_eq!(new.listeners(), listeners);
    clients.into_iter().for_each(Steady::all_were_served);
    all_serve(true);
}

#[test_on(stream, http, mail)]
fn a_fault_in_one_subsystem_changes_nothing_in_the_others(on: Subsystem) {
    let site = Site::new();
    let _holder = TcpListener::bind("127.0.0.1:9999").expect("the port is free in a new namespace");
    let fault = |words: &str| {
        let servers =
            on.server(&format!("{} {words}", address(on))) + &on.server("127.0.0.1:9999 mptcp");
        let (one, another) = (on.other(), on.other().other());
        let listen = |on: Subsystem| on.listen(&format!("{} {words}", address(on)));
        on.conf(&servers)
            .with_blocks_of(listen(one))
            .with_blocks_of(listen(another))
    };
    let nginx = site.start(&conf(""));
    let (listeners, descriptors) = (nginx.listeners(), nginx.descriptors());
    let clients = steady();
    let log = nginx
        .try_reload(&fault("mptcp"))
        .expect_err("the reload fails");
    assert!(log.contains("bind() to 127.0.0.1:9999 failed"), "{log}");
    clients.iter().for_each(|clients| clients.wait_for_more(50));
    clients.into_iter().for_each(Steady::all_were_served);
    assert_eq!(nginx.listeners(), listeners);
    assert_eq!(nginx.descriptors(), descriptors);
    all_serve(false);
    nginx.reload(&conf("mptcp"));
    wait_until("the new sockets alone", || nginx.listeners().len() == 3);
    all_serve(true);
}

#[test_on(stream, http, mail)]
fn a_fault_while_an_address_moves_changes_nothing(on: Subsystem) {
    const MOVING: &str = "127.0.0.1:8080";
    let site = Site::new();
    for (word, there) in [("", "mptcp"), ("mptcp", ""), ("mptcp", "mptcp")] {
        let here = on.listen(&format!("{MOVING} {word}"));
        let moved = || on.other().listen(&format!("{MOVING} {there}"));
        let nginx = site.start(&here);
        let (listeners, descriptors) = (nginx.listeners(), nginx.descriptors());
        let clients = Steady::start(on, MOVING);
        // nginx notices this fault after it has opened the sockets.
        let fault = moved().main("error_log missing/error.log;");
        nginx.try_reload(&fault).expect_err("the reload fails");
        clients.wait_for_more(50);
        clients.all_were_served();
        assert_eq!(nginx.listeners(), listeners);
        assert_eq!(nginx.descriptors(), descriptors);
        on.serves(MOVING, !word.is_empty());
        nginx.reload(&moved());
        wait_until("the new socket alone", || listening_on(8080) == 1);
        on.other().serves(MOVING, !there.is_empty());
        nginx.quit();
    }
}

#[test_on(stream, http, mail)]
fn a_subsystem_is_removed_and_added_while_the_others_serve(on: Subsystem) {
    let site = Site::new();
    let listen = |on: Subsystem| on.listen(&format!("{} mptcp", address(on)));
    let others = || listen(on.other()).with_blocks_of(listen(on.other().other()));
    let nginx = site.start(&conf("mptcp"));
    let (listeners, descriptors) = (nginx.listeners(), nginx.descriptors().len());
    for _ in 0..2 {
        // The block of the subsystem and both of its modules are removed.
        nginx.reload(&others());
        wait_until("one listener less", || nginx.listeners().len() == 2);
        assert!(nginx.listeners().iter().all(|one| listeners.contains(one)));
        on.other().serves(address(on.other()), true);
        nginx.reload(&others().with_blocks_of(listen(on)));
        all_serve(true);
        wait_until("descriptors as before", || {
            nginx.descriptors().len() == descriptors
        });
    }
}

#[test_on(stream, http, mail)]
fn an_address_in_two_subsystems_is_refused_as_by_nginx(on: Subsystem) {
    let site = Site::new();
    let other = on.other().listen("127.0.0.1:8080 mptcp");
    let Err(outcome) = site.try_start(&on.listen("127.0.0.1:8080 mptcp").with_blocks_of(other))
    else {
        panic!("nginx started");
    };
    let text = outcome.fails();
    let message = "bind() to 127.0.0.1:8080 failed (98: Address already in use)";
    assert!(text.contains(message), "{text}");
    assert!(site.processes().is_empty());
}
