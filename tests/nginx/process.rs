//! Killed workers, and nginx without a master or in the foreground.

use crate::harness::{Site, send_signal, wait_until};
use crate::server::Nginx;
use crate::subsystem::{Subsystem, test_on};

const ADDRESS: &str = "127.0.0.1:8080";

/// Kills the only worker, and waits until the master has started another one.
fn kill_worker(nginx: &Nginx) {
    let killed = nginx.workers()[0];
    send_signal(killed, libc::SIGKILL);
    wait_until(
        "another worker",
        || matches!(nginx.workers()[..], [pid] if pid != killed),
    );
}

#[test_on(stream, http, mail)]
fn a_worker_that_is_killed_is_replaced_and_the_new_one_serves(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    let listener = nginx.listener();
    for _ in 0..3 {
        kill_worker(&nginx);
        assert_eq!(nginx.listener(), listener);
        on.serves(ADDRESS, true);
    }
}

#[test_on(stream, http, mail)]
fn a_worker_that_is_killed_after_a_change_of_protocol_is_replaced(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080"));
    for word in ["mptcp", ""] {
        nginx.reload(&on.listen(&format!("127.0.0.1:8080 {word}")));
        kill_worker(&nginx);
        wait_until("one listener", || nginx.listeners().len() == 1);
        on.serves(ADDRESS, !word.is_empty());
    }
}

#[test_on(stream, http, mail)]
fn a_single_process_in_the_foreground_serves(on: Subsystem) {
    let site = Site::new();
    let second = match on.knows("reuseport") {
        true => "[::1]:8080 mptcp reuseport",
        false => "[::1]:8080 mptcp",
    };
    let conf = on
        .servers(&["127.0.0.1:8080 mptcp", second])
        .main("master_process off;")
        .foreground();
    site.write(&conf);
    let mut child = site.nginx(&[]).spawn().expect("nginx can be run");
    let nginx = site.running();
    assert_eq!(nginx.pid.unsigned_abs(), child.id());
    wait_until("its listeners", || nginx.listeners().len() == 2);
    assert!(nginx.listeners().iter().all(|one| one.is_mptcp()));
    on.serves(ADDRESS, true);
    on.serves("[::1]:8080", true);
    nginx.signal(libc::SIGQUIT);
    assert!(child.wait().expect("nginx ends").success());
}

#[test_on(stream, http, mail)]
fn a_master_in_the_foreground_serves_and_reloads(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("127.0.0.1:8080 {word}")).foreground();
    site.write(&conf("mptcp"));
    let mut child = site.nginx(&[]).spawn().expect("nginx can be run");
    let nginx = site.running();
    nginx.wait_for_workers(1);
    on.serves(ADDRESS, true);
    nginx.reload(&conf(""));
    on.serves(ADDRESS, false);
    nginx.signal(libc::SIGQUIT);
    assert!(child.wait().expect("nginx ends").success());
}

#[test_on(stream, http, mail)]
fn many_workers_share_one_mptcp_listener(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp").workers(4));
    assert!(nginx.listener().is_mptcp());
    (0..50).for_each(|_| on.serves(ADDRESS, true));
    nginx.quit();
    assert!(site.processes().is_empty(), "nothing is left running");
}

#[test_on(stream, http, mail)]
fn sockets_are_not_closed_on_exec(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    let inode = format!("socket:[{}]", nginx.listener().inode);
    let descriptors = nginx.descriptors();
    let (fd, _) = descriptors
        .iter()
        .find(|(_, target)| **target == inode)
        .expect("the master holds the socket");
    let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", nginx.pid))
        .expect("it can be looked at");
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .expect("it has flags");
    let flags = i32::from_str_radix(flags.trim(), 8).expect("flags are octal");
    assert_eq!(
        flags & libc::O_CLOEXEC,
        0,
        "a binary upgrade must inherit it"
    );
    assert_ne!(
        flags & libc::O_NONBLOCK,
        0,
        "a worker must not block in accept()"
    );
}
