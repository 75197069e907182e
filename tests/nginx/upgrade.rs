//! Binary upgrades: a second master inherits the sockets, or fails to start.

use crate::harness::{Site, reap, wait_for, wait_until};
use crate::server::{Conf, Nginx};
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};

const ADDRESS: &str = "127.0.0.1:8080";

/// Makes the running master start a second one, and returns the second master.
pub fn upgrade<'site>(site: &'site Site, old: &Nginx, workers: usize) -> Nginx<'site> {
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
pub fn retire(old: &Nginx) {
    old.signal(libc::SIGWINCH);
    old.wait_for_workers(0);
    old.quit();
}

#[test_on(stream, http, mail)]
fn upgrade_inherits_the_mptcp_listener_and_serves_throughout(on: Subsystem) {
    let site = Site::new();
    let conf = on.servers(&[
        "127.0.0.1:8080 mptcp",
        "[::1]:8080 multipath",
        "127.0.0.1:8081",
    ]);
    let old = site.start(&conf);
    let (listeners, descriptors) = (old.listeners(), old.descriptors().len());
    let clients = Steady::start(on, ADDRESS);

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
    on.serves(ADDRESS, true);
    on.serves("[::1]:8080", true);
    on.serves("127.0.0.1:8081", false);
    wait_until("descriptors as before", || {
        new.descriptors().len() == descriptors
    });
}

#[test_on(stream, http, mail)]
fn upgrade_can_be_rolled_back(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen("127.0.0.1:8080 mptcp");
    let old = site.start(&conf);
    let (listener, descriptors) = (old.listener(), old.descriptors().len());
    let clients = Steady::start(on, ADDRESS);

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
    on.serves(ADDRESS, true);
    wait_until("descriptors as before", || {
        old.descriptors().len() == descriptors
    });
}

#[test_on(stream, http)]
fn upgrade_with_reuseport_inherits_every_socket(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen("127.0.0.1:8080 mptcp reuseport").workers(3);
    let old = site.start(&conf);
    let listeners = old.listeners();
    let new = upgrade(&site, &old, 3);
    assert_eq!(new.listeners(), listeners);
    retire(&old);
    assert_eq!(new.listeners(), listeners);
    (0..20).for_each(|_| on.serves(ADDRESS, true));
}

/// Changes the configuration by an upgrade. The socket keeps its protocol until the old master
/// has exited, and a later reload changes it.
fn upgrade_changes(on: Subsystem, before: &Conf, after: &Conf, mptcp: bool) {
    let site = Site::new();
    let old = site.start(before);
    let listener = old.listener();
    let mark = old.log().len();
    site.write(after);
    let new = upgrade(&site, &old, 1);
    let warnings = || {
        let log = new.log()[mark..].to_owned();
        let warns = |line: &&str| line.contains("[warn]") && line.contains("has no effect");
        log.lines().filter(warns).count()
    };
    assert_eq!(warnings(), 1, "{}", new.log());
    assert!(new.log().contains("reload after that process has quit"));
    assert_eq!(new.listener(), listener);
    on.serves(ADDRESS, !mptcp);
    new.reload(after);
    assert_eq!((new.listener(), warnings()), (listener, 2));

    let clients = Steady::start(on, ADDRESS);
    retire(&old);
    new.reload(after);
    assert_eq!(warnings(), 2);
    wait_until("the new socket alone", || {
        new.listeners().len() == 1 && listening_on(8080) == 1
    });
    clients.all_were_served();
    assert_eq!(new.listener().is_mptcp(), mptcp);
    on.serves(ADDRESS, mptcp);
    let inode = new.listener().inode;
    new.reload(after);
    assert_eq!(new.listener().inode, inode);
    (0..20).for_each(|_| on.serves(ADDRESS, mptcp));
}

#[test_on(stream, http, mail)]
fn upgrade_keeps_the_protocol_and_a_later_reload_changes_it(on: Subsystem) {
    let [tcp, off, mptcp] =
        ["", "mptcp=off", "mptcp"].map(|word| on.listen(&format!("127.0.0.1:8080 {word}")));
    upgrade_changes(on, &tcp, &mptcp, true);
    upgrade_changes(on, &mptcp, &off, false);
}

/// The old master stays a zombie, as in a container whose first process does not reap processes.
#[test_on(stream, http, mail)]
fn reload_changes_the_protocol_while_the_old_master_is_a_zombie(on: Subsystem) {
    let site = Site::new();
    let old = site.start(&on.listen(ADDRESS));
    let conf = on.listen("127.0.0.1:8080 mptcp");
    site.write(&conf);
    let new = upgrade(&site, &old, 1);
    old.signal(libc::SIGQUIT);
    wait_until("a zombie", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", old.pid));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    });
    new.reload(&conf);
    wait_until("the new socket alone", || listening_on(8080) == 1);
    on.serves(ADDRESS, true);
    assert!(reap(old.pid));
}

#[test_on(stream, http, mail)]
fn upgrade_can_add_the_module(on: Subsystem) {
    let (without, with) = (
        on.listen("127.0.0.1:8080"),
        on.listen("127.0.0.1:8080 mptcp"),
    );
    upgrade_changes(on, &without.without_module(), &with, true);
}

/// The parameter is removed after an upgrade, when the new binary has opened none of the sockets.
#[test_on(stream, http, mail)]
fn a_reload_without_the_parameter_after_an_upgrade_changes_to_tcp(on: Subsystem) {
    let site = Site::new();
    let old = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    let new = upgrade(&site, &old, 1);
    retire(&old);
    new.reload(&on.listen(ADDRESS));
    wait_until("the TCP socket alone", || {
        new.listeners().len() == 1 && !new.listener().is_mptcp()
    });
    on.serves(ADDRESS, false);
}

#[test_on(stream, http, mail)]
fn upgrade_that_is_to_change_the_protocol_can_be_rolled_back(on: Subsystem) {
    let site = Site::new();
    let old = site.start(&on.listen("127.0.0.1:8080"));
    let listener = old.listener();
    site.write(&on.listen("127.0.0.1:8080 mptcp"));
    let new = upgrade(&site, &old, 1);
    new.quit();
    let pid = old.pid.to_string();
    wait_until("nginx.pid of the old master", || {
        site.read("nginx.pid").trim() == pid
    });
    assert_eq!(old.listener(), listener);
    old.wait_for_workers(1);
    (0..20).for_each(|_| on.serves(ADDRESS, false));
    old.reload(&on.listen("127.0.0.1:8080 mptcp"));
    wait_until("the MPTCP socket alone", || old.listeners().len() == 1);
    on.serves(ADDRESS, true);
}

#[test_on(stream, http, mail)]
fn upgrade_to_a_broken_configuration_leaves_the_old_master_serving(on: Subsystem) {
    let site = Site::new();
    let old = site.start(&on.listen("127.0.0.1:8080"));
    let (listeners, descriptors) = (old.listeners(), old.descriptors());
    let clients = Steady::start(on, ADDRESS);
    site.write(
        &on.listen("127.0.0.1:8080 mptcp")
            .with_text(&on.log_to("missing/access.log")),
    );
    old.signal(libc::SIGUSR2);
    wait_until("the new master to fail", || {
        old.log().contains("exited with code 1")
    });
    clients.wait_for_more(50);
    clients.all_were_served();
    assert_eq!(old.listeners(), listeners);
    wait_until("descriptors as before", || old.descriptors() == descriptors);
    on.serves(ADDRESS, false);
}
