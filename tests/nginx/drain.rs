//! What is under way when a listener changes its protocol: connections that
//! nobody has accepted yet, and handshakes on a long path.

use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::{Connection, Over, counter};
use crate::harness::{Host, Site, send_signal, wait_until};
use crate::namespace::ip;
use crate::server::{Conf, Nginx};
use crate::slow_path::{HERE, SlowPath};
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, subsystem_tests};
use crate::upgrade::upgrade;

subsystem_tests! {
    (stream, http, mail):
        what_waits_for_a_worker_that_stands_still_is_served,
        what_an_upgrade_takes_over_is_served;
    (http):
        subflows_join_after_a_change_to_tcp_for_a_while,
        subflows_cannot_join_once_the_module_is_gone;
    (stream):
        handshakes_under_way_on_a_long_path_are_served,
        an_upgrade_while_the_old_socket_drains_loses_nobody,
        a_new_binary_that_quits_leaves_the_old_socket_listening;
}

const ADDRESS: &str = "127.0.0.1:8080";

/// Clients that have connected and asked, and whom nobody has answered.
fn waiting(on: Subsystem) -> Vec<Connection> {
    let connect = |number: usize| {
        let over = [Over::Tcp, Over::Mptcp][number % 2];
        let mut connection = Connection::open(over, ADDRESS).expect("somebody listens");
        let request = on.request().as_bytes();
        connection.send(request).expect("the connection is there");
        connection
    };
    (0..20).map(connect).collect()
}

fn all_are_answered(on: Subsystem, clients: Vec<Connection>) {
    for client in clients {
        let (answer, _) = on.receive_answer(client).expect("every client is served");
        assert_eq!(answer, on.answer());
    }
}

fn stop(nginx: &Nginx) -> Vec<i32> {
    let workers = nginx.workers();
    workers
        .iter()
        .for_each(|&pid| send_signal(pid, libc::SIGSTOP));
    for pid in &workers {
        let state = format!("/proc/{pid}/stat");
        wait_until("a worker to stand still", || {
            std::fs::read_to_string(&state).is_ok_and(|state| state.contains(") T "))
        });
    }
    workers
}

fn go_on(workers: Vec<i32>) {
    workers
        .iter()
        .for_each(|&pid| send_signal(pid, libc::SIGCONT));
}

fn what_waits_for_a_worker_that_stands_still_is_served(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("{ADDRESS} {word}")).workers(2);
    let nginx = site.start(&conf(""));
    for word in ["mptcp", ""] {
        let workers = stop(&nginx);
        let clients = waiting(on);
        nginx.try_reload(&conf(word)).expect("the reload succeeds");
        go_on(workers);
        all_are_answered(on, clients);
        nginx.wait_for_workers(2);
        on.serves(ADDRESS, !word.is_empty());
    }
}

fn what_an_upgrade_takes_over_is_served(on: Subsystem) {
    let site = Site::new();
    let old = site.start(&on.listen(ADDRESS).without_module());
    let workers = stop(&old);
    let clients = waiting(on);
    site.write(&on.listen(&format!("{ADDRESS} mptcp")));
    let new = upgrade(&site, &old, 1);
    all_are_answered(on, clients);
    old.signal(libc::SIGQUIT);
    go_on(workers);
    old.wait_for_end();
    on.serves(ADDRESS, true);
    wait_until("the old socket to go", || {
        new.listeners().len() == 1 && listening_on(8080) == 1
    });
}

/// A connection over MPTCP at each of these addresses of an nginx, which no
/// other listener is at, and which plain TCP takes now.
fn switched(on: Subsystem, nginx: &Nginx, conf: &dyn Fn(&str) -> Conf) -> Vec<Connection> {
    ip("mptcp limits set subflow 8 add_addr_accepted 8");
    for number in 2..6 {
        ip(&format!("address add fd00::{number}/128 dev lo"));
    }
    let connect = |address| {
        let mut connection = Connection::open(Over::Mptcp, address).expect("somebody listens");
        // Only what has carried data can be joined.
        connection
            .send(&on.request().as_bytes()[..1])
            .expect("it is there");
        connection
    };
    let connections = [ADDRESS, "[::1]:8080"].map(connect).into();
    wait_until("both to be accepted", || counter("MPCapableACKRX") == 2);
    nginx.try_reload(&conf("")).expect("the reload succeeds");
    connections
}

/// Two more addresses of the client, one for each connection.
fn join(number: usize) {
    ip(&format!(
        "mptcp endpoint add 127.0.0.{number} dev lo subflow"
    ));
    ip(&format!("mptcp endpoint add fd00::{number} dev lo subflow"));
}

fn joined() -> u64 {
    counter("MPJoinAckRx")
}

fn subflows_join_after_a_change_to_tcp_for_a_while(on: Subsystem) {
    for (word, workers) in [("", 1), ("reuseport", 2)] {
        let site = Site::new();
        let conf = |protocol: &str| {
            let words = [ADDRESS, "[::1]:8080"].map(|at| format!("{at} {word} {protocol}"));
            on.servers(&[&words[0], &words[1]]).workers(workers)
        };
        let nginx = site.start(&conf("mptcp"));
        let connections = switched(on, &nginx, &conf);
        // Workers have looked more than once.
        std::thread::sleep(Duration::from_millis(1200));
        join(2);
        wait_until("a subflow of each", || joined() == 2);
        // A reload that changes nothing does not end it.
        nginx.try_reload(&conf("")).expect("the reload succeeds");
        join(3);
        wait_until("another subflow of each", || joined() == 4);
        for address in [ADDRESS, "[::1]:8080"] {
            (0..20).for_each(|_| on.serves(address, false));
        }
        let all = 2 * workers;
        wait_until("the old sockets to end", || listening_on(8080) == all);
        join(4);
        let share = i32::from(workers > 1);
        for listener in nginx.listeners().iter().filter(|one| !one.is_mptcp()) {
            assert_eq!(listener.option("SO_REUSEPORT"), share);
            assert_eq!(listener.option("SO_BROADCAST"), 0);
        }
        for address in [ADDRESS, "[::1]:8080"] {
            (0..20).for_each(|_| on.serves(address, false));
        }
        assert_eq!(joined(), 4, "plain TCP cannot be joined");
        drop(connections);
        // Nothing is left where it can bite.
        for word in ["mptcp", ""] {
            nginx.reload(&conf(word));
            on.serves(ADDRESS, !word.is_empty());
        }
        nginx.quit();
        ip("mptcp endpoint flush");
        ip("address flush dev lo to fd00::/64");
    }
}

fn subflows_cannot_join_once_the_module_is_gone(on: Subsystem) {
    if Host::get().modules(on).ours.is_none() {
        // What is linked in stays.
        return;
    }
    let site = Site::new();
    let conf = |word: &str| {
        let words = [ADDRESS, "[::1]:8080"].map(|at| format!("{at} {word}"));
        on.servers(&[&words[0], &words[1]])
    };
    let nginx = site.start(&conf("mptcp"));
    let connections = switched(on, &nginx, &conf);
    let without = conf("").without_module();
    nginx.try_reload(&without).expect("the reload succeeds");
    join(2);
    for listener in nginx.listeners() {
        assert_eq!(listener.option("SO_REUSEPORT"), 0);
        assert_eq!(listener.option("SO_BROADCAST"), 0);
    }
    (0..20).for_each(|_| on.serves(ADDRESS, false));
    assert_eq!(joined(), 0);
    drop(connections);
    nginx.wait_for_workers(1);
}

/// Clients of the other host, one after the other in short time.
fn far_clients(
    on: Subsystem,
    path: &SlowPath,
    address: String,
) -> Vec<JoinHandle<Result<(), String>>> {
    path.peer.run(move || {
        let start = |number: usize| {
            let address = address.clone();
            let over = [Over::Tcp, Over::Mptcp][number % 2];
            let ask = move || match on.ask(over, &address) {
                Ok((answer, _)) if answer == on.answer() => Ok(()),
                other => Err(format!("client {number} over {over:?}: {other:?}")),
            };
            std::thread::sleep(Duration::from_millis(10));
            std::thread::spawn(ask)
        };
        (0..60).map(start).collect()
    })
}

fn handshakes_under_way_on_a_long_path_are_served(on: Subsystem) {
    let site = Site::new();
    let path = SlowPath::new(Duration::from_millis(100));
    for (listen, address) in [
        (format!("{}:8080", HERE[0]), format!("{}:8080", HERE[0])),
        ("8080".into(), format!("{}:8080", HERE[0])),
        (format!("[{}]:8080", HERE[1]), format!("[{}]:8080", HERE[1])),
        ("[::]:8080 reuseport".into(), format!("[{}]:8080", HERE[1])),
    ] {
        let conf = |word: &str| on.listen(&format!("{listen} {word}")).workers(2);
        let nginx = site.start(&conf(""));
        for word in ["mptcp", ""] {
            let clients = std::thread::scope(|scope| {
                // The first of them have come to know each other.
                let reload = scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(300));
                    nginx.try_reload(&conf(word)).expect("the reload succeeds");
                });
                let clients = far_clients(on, &path, address.clone());
                reload.join().expect("the reload succeeds");
                clients
            });
            let served: Vec<_> = clients
                .into_iter()
                .map(|client| client.join().expect("no panic"))
                .collect();
            let lost: Vec<_> = served.into_iter().filter_map(Result::err).collect();
            assert!(
                lost.is_empty(),
                "{listen} {word}: {} lost: {lost:#?}",
                lost.len()
            );
        }
        nginx.quit();
    }
}

fn an_upgrade_while_the_old_socket_drains_loses_nobody(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("{ADDRESS} {word}")).workers(2);
    for word in ["mptcp", ""] {
        let old = site.start(&conf(""));
        let clients = Steady::start(on, ADDRESS);
        old.try_reload(&conf("mptcp")).expect("the reload succeeds");
        site.write(&conf(word));
        let new = upgrade(&site, &old, 2);
        old.quit();
        clients.wait_for_more(50);
        let tally = clients.stop();
        assert!(tally.lost.is_empty(), "{:?}", tally.lost);
        wait_until("one socket", || {
            new.listeners().len() == 1 && listening_on(8080) == 1
        });
        on.serves(ADDRESS, !word.is_empty());
        new.quit();
    }
}

fn a_new_binary_that_quits_leaves_the_old_socket_listening(on: Subsystem) {
    for address in [ADDRESS, "[::1]:8080"] {
        let site = Site::new();
        let old = site.start(&on.listen(address));
        let listener = old.listener();
        site.write(&on.listen(&format!("{address} mptcp")));
        let new = upgrade(&site, &old, 1);
        // Long enough for an end that would be wrong.
        std::thread::sleep(Duration::from_millis(1200));
        assert!(
            new.listeners()
                .iter()
                .any(|one| one.inode == listener.inode)
        );
        new.quit();
        (0..20).for_each(|_| on.serves(address, false));
    }
}
