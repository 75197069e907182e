//! Connections that no worker has accepted yet, and handshakes on a slow path, when a listener
//! changes its protocol.

use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::{Connection, Transport};
use crate::forbidden::start_without;
use crate::harness::{Site, send_signal, wait_until};
use crate::seccomp::SOCKET_DOMAIN;
use crate::server::Nginx;
use crate::slow_path::{HERE, SlowPath};
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::strace::wait_for_sleep;
use crate::subsystem::{Subsystem, test_on};
use crate::upgrade::upgrade;
use crate::without_mptcp;

const ADDRESS: &str = "127.0.0.1:8080";

/// Clients that have connected and sent a request, while all workers are stopped.
fn waiting(on: Subsystem) -> Vec<Connection> {
    let connect = |number: usize| {
        let transport = [Transport::Tcp, Transport::Mptcp][number % 2];
        let mut connection = Connection::open(transport, ADDRESS).expect("somebody listens");
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

fn resume(workers: Vec<i32>) {
    workers
        .iter()
        .for_each(|&pid| send_signal(pid, libc::SIGCONT));
}

#[test_on(stream, http, mail)]
fn clients_that_wait_for_a_stopped_worker_are_served(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("{ADDRESS} {word}")).workers(2);
    let nginx = site.start(&conf(""));
    for word in ["mptcp", ""] {
        let workers = stop(&nginx);
        let clients = waiting(on);
        nginx.try_reload(&conf(word)).expect("the reload succeeds");
        resume(workers);
        all_are_answered(on, clients);
        nginx.wait_for_workers(2);
        on.serves(ADDRESS, !word.is_empty());
    }
}

#[test_on(stream, http, mail)]
fn clients_that_wait_during_an_upgrade_are_served(on: Subsystem) {
    let site = Site::new();
    let old = site.start(&on.listen(ADDRESS).without_module());
    let workers = stop(&old);
    let clients = waiting(on);
    let conf = on.listen(&format!("{ADDRESS} mptcp"));
    site.write(&conf);
    let new = upgrade(&site, &old, 1);
    all_are_answered(on, clients);
    old.signal(libc::SIGQUIT);
    resume(workers);
    old.wait_for_end();
    on.serves(ADDRESS, false);
    new.reload(&conf);
    on.serves(ADDRESS, true);
    wait_until("the old socket to go", || {
        new.listeners().len() == 1 && listening_on(8080) == 1
    });
}

/// Starts clients on the far host in short intervals.
fn far_clients(
    on: Subsystem,
    path: &SlowPath,
    address: String,
) -> Vec<JoinHandle<Result<(), String>>> {
    path.peer.run(move || {
        let start = |number: usize| {
            let address = address.clone();
            let transport = [Transport::Tcp, Transport::Mptcp][number % 2];
            let connect = move || match on.request_answer(transport, &address) {
                Ok((answer, _)) if answer == on.answer() => Ok(()),
                other => Err(format!("client {number} over {transport:?}: {other:?}")),
            };
            std::thread::sleep(Duration::from_millis(10));
            std::thread::spawn(connect)
        };
        (0..60).map(start).collect()
    })
}

#[test_on(stream)]
fn handshakes_under_way_on_a_long_path_are_served(on: Subsystem) {
    without_mptcp::end_if_expected();
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
                // After 300 ms the first handshakes are complete, and later ones are in progress.
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

#[test_on(stream)]
fn an_upgrade_while_the_old_socket_drains_loses_no_client(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen(&format!("{ADDRESS} mptcp")).workers(2);
    let old = site.start(&on.listen(ADDRESS).workers(2));
    let clients = Steady::start(on, ADDRESS);
    old.try_reload(&conf).expect("the reload succeeds");
    let new = upgrade(&site, &old, 2);
    clients.wait_for_more(50);
    wait_until("one socket", || listening_on(8080) == 1);
    old.quit();
    clients.wait_for_more(50);
    let tally = clients.stop();
    assert!(tally.lost.is_empty(), "{:?}", tally.lost);
    assert_eq!(new.listeners().len(), 1);
    on.serves(ADDRESS, true);
}

#[test_on(stream)]
fn a_new_binary_that_quits_leaves_the_old_socket_listening(on: Subsystem) {
    for address in [ADDRESS, "[::1]:8080"] {
        let site = Site::new();
        let old = site.start(&on.listen(address));
        let listener = old.listener();
        site.write(&on.listen(&format!("{address} mptcp")));
        let new = upgrade(&site, &old, 1);
        // Long enough for a drain that wrongly ended here.
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

#[test_on(stream, http, mail)]
fn a_reload_without_listeners_ends_a_drain(on: Subsystem) {
    let site = Site::new();
    let conf = |words: &str| on.listen(words);
    let nginx = start_without(&site, &conf(ADDRESS), SOCKET_DOMAIN, libc::AF_NETLINK);
    nginx.reload(&conf(&format!("{ADDRESS} mptcp")));
    assert_eq!(listening_on(8080), 2);
    nginx.reload(&on.conf(""));
    assert_eq!(listening_on(8080), 0);
    nginx.reload(&conf(&format!("{ADDRESS} mptcp")));
    on.serves(ADDRESS, true);
}

#[test_on(stream, http, mail)]
fn an_address_that_moves_to_another_subsystem_stops_draining(on: Subsystem) {
    let (to, words) = (on.other(), format!("{ADDRESS} mptcp"));
    let more = match on.knows("reuseport") && to.knows("reuseport") {
        true => " reuseport",
        false => "",
    };
    let site = Site::new();
    let conf = |one: Subsystem, words: &str| {
        let other = if one == on { to } else { on };
        one.listen(&format!("{words}{more}"))
            .workers(2)
            .with_blocks_of(other.conf("# nothing\n"))
    };
    let begin = conf(on, ADDRESS);
    let nginx = start_without(&site, &begin, SOCKET_DOMAIN, libc::AF_NETLINK);
    nginx.reload(&conf(on, &words));
    let count = if more.is_empty() { 1 } else { 2 };
    assert_eq!(listening_on(8080), 2 * count);
    nginx.reload(&conf(to, &words));
    assert_eq!(listening_on(8080), count);
    let shares = i32::from(!more.is_empty());
    for listener in nginx.listeners() {
        assert!(listener.is_mptcp());
        assert_eq!(listener.option("SO_REUSEPORT"), shares);
    }
    (0..20).for_each(|_| to.serves(ADDRESS, true));
}

/// When the old socket has ended, an idle worker makes no system calls.
#[test_on(stream, http)]
fn workers_sleep_when_no_socket_drains(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("{ADDRESS} {word}"));
    let nginx = site.start(&conf(""));
    nginx.reload(&conf("mptcp"));
    wait_until("the end of the drain", || listening_on(8080) == 1);
    let worker = nginx.workers()[0].to_string();
    wait_for_sleep(&site, &worker);
}
