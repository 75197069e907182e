//! Binary upgrades: a second master takes the sockets over, or gives up.

use crate::harness::{Site, wait_for, wait_until};
use crate::parameters::serves;
use crate::server::{Conf, Nginx};
use crate::sockets::listening_on;
use crate::steady::Steady;

const ADDRESS: &str = "127.0.0.1:8080";

/// Has the running master start a second one, and returns that.
fn upgrade<'site>(site: &'site Site, old: &Nginx, workers: usize) -> Nginx<'site> {
    old.signal(libc::SIGUSR2);
    let old_pid = old.pid.to_string();
    wait_until("nginx.pid.oldbin", || {
        site.read("nginx.pid.oldbin").trim() == old_pid
    });
    wait_for("a new nginx.pid", || {
        (site.read("nginx.pid").trim().parse::<i32>().ok()? != old.pid).then_some(())
    });
    let new = site.running();
    new.wait_for_workers(workers);
    new
}

/// Ends the old master in two steps, as an administrator does.
fn retire(old: &Nginx) {
    old.signal(libc::SIGWINCH);
    old.wait_for_workers(0);
    old.quit();
}

#[test]
fn upgrade_inherits_the_mptcp_listener_and_serves_throughout() {
    let site = Site::new();
    let conf = Conf::servers(&[
        "127.0.0.1:8080 mptcp",
        "[::1]:8080 multipath",
        "127.0.0.1:8081",
    ]);
    let old = site.start(&conf);
    let (listeners, descriptors) = (old.listeners(), old.descriptors().len());
    let clients = Steady::start(ADDRESS);

    let new = upgrade(&site, &old, 1);
    assert_eq!(new.listeners(), listeners, "inherited, not reopened");
    clients.wait_for_more(50);
    retire(&old);
    clients.wait_for_more(50);
    assert_eq!(new.listeners(), listeners);
    new.reload(&conf);
    assert_eq!(new.listeners(), listeners);
    clients.wait_for_more(50);
    clients.all_were_served();
    serves(ADDRESS, true);
    serves("[::1]:8080", true);
    serves("127.0.0.1:8081", false);
    wait_until("descriptors as before", || {
        new.descriptors().len() == descriptors
    });
}

#[test]
fn upgrade_can_be_rolled_back() {
    let site = Site::new();
    let conf = Conf::listen("127.0.0.1:8080 mptcp");
    let old = site.start(&conf);
    let (listener, descriptors) = (old.listener(), old.descriptors().len());
    let clients = Steady::start(ADDRESS);

    let new = upgrade(&site, &old, 1);
    old.signal(libc::SIGWINCH);
    old.wait_for_workers(0);
    clients.wait_for_more(50);
    old.signal(libc::SIGHUP);
    old.wait_for_workers(1);
    new.quit();
    clients.wait_for_more(50);
    let pid = old.pid.to_string();
    wait_until("nginx.pid of the old master", || {
        site.read("nginx.pid").trim() == pid
    });

    assert_eq!(old.listener(), listener);
    old.reload(&conf);
    assert_eq!(old.listener(), listener);
    clients.wait_for_more(50);
    clients.all_were_served();
    serves(ADDRESS, true);
    wait_until("descriptors as before", || {
        old.descriptors().len() == descriptors
    });
}

#[test]
fn upgrade_with_reuseport_inherits_every_socket() {
    let site = Site::new();
    let conf = Conf::listen("127.0.0.1:8080 mptcp reuseport").workers(3);
    let old = site.start(&conf);
    let listeners = old.listeners();
    let new = upgrade(&site, &old, 3);
    assert_eq!(new.listeners(), listeners);
    retire(&old);
    assert_eq!(new.listeners(), listeners);
    (0..20).for_each(|_| serves(ADDRESS, true));
}

/// Goes from one configuration to another by an upgrade.
fn upgrade_changes(before: &Conf, after: &Conf, mptcp: bool) {
    let site = Site::new();
    let old = site.start(before);
    site.write(after);
    let new = upgrade(&site, &old, 1);
    retire(&old);
    wait_until("the new socket alone", || {
        new.listeners().len() == 1 && listening_on(8080) == 1
    });
    assert_eq!(new.listener().is_mptcp(), mptcp);
    serves(ADDRESS, mptcp);
    let inode = new.listener().inode;
    new.reload(after);
    assert_eq!(new.listener().inode, inode);
    (0..20).for_each(|_| serves(ADDRESS, mptcp));
}

#[test]
fn upgrade_can_change_the_protocol() {
    let (tcp, mptcp) = (
        Conf::listen("127.0.0.1:8080"),
        Conf::listen("127.0.0.1:8080 mptcp"),
    );
    upgrade_changes(&tcp, &mptcp, true);
    upgrade_changes(&mptcp, &tcp, false);
}

#[test]
fn upgrade_can_bring_the_module() {
    let (without, with) = (
        Conf::listen("127.0.0.1:8080"),
        Conf::listen("127.0.0.1:8080 mptcp"),
    );
    upgrade_changes(&without.without_module(), &with, true);
}

#[test]
fn upgrade_that_changes_the_protocol_can_be_rolled_back() {
    let site = Site::new();
    let old = site.start(&Conf::listen("127.0.0.1:8080"));
    let listener = old.listener();
    site.write(&Conf::listen("127.0.0.1:8080 mptcp"));
    let new = upgrade(&site, &old, 1);
    new.quit();
    let pid = old.pid.to_string();
    wait_until("nginx.pid of the old master", || {
        site.read("nginx.pid").trim() == pid
    });
    assert_eq!(old.listener().inode, listener.inode);
    old.wait_for_workers(1);
    (0..20).for_each(|_| serves(ADDRESS, false));
    old.reload(&Conf::listen("127.0.0.1:8080 mptcp"));
    wait_until("the MPTCP socket alone", || old.listeners().len() == 1);
    serves(ADDRESS, true);
}

#[test]
fn upgrade_to_a_broken_configuration_leaves_the_old_master_serving() {
    let site = Site::new();
    let old = site.start(&Conf::listen("127.0.0.1:8080"));
    let (listeners, descriptors) = (old.listeners(), old.descriptors());
    let clients = Steady::start(ADDRESS);
    site.write(&Conf::listen("127.0.0.1:8080 mptcp").and("access_log missing/access.log;"));
    old.signal(libc::SIGUSR2);
    wait_until("the new master to fail", || {
        old.log().contains("exited with code 1")
    });
    clients.wait_for_more(50);
    clients.all_were_served();
    assert_eq!(old.listeners(), listeners);
    wait_until("descriptors as before", || old.descriptors() == descriptors);
    serves(ADDRESS, false);
}
