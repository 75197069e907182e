//! Superseded sockets drain until their queues are empty and no handshake is in progress.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use ngx_rs_listen::drain::{Draining, Room};
use ngx_rs_listen::open::Report;
use ngx_rs_listen::{
    Disposition, Drain, Inherited, Listening, Open, Outcome, Protocol, Request, flag, open,
};
use socket2::{Domain, Socket, Type};

use test_support::child;
use test_support::listening::*;
use test_support::namespace;
use test_support::seccomp::{Argument, SOCKET_DOMAIN, refuse};

const CLIENTS: usize = 60;

/// The longest time of a drain, as documented in docs/nginx.md.
const TIME: Duration = Duration::from_secs(5);

/// A little more than the time after which a poll may end a drain.
const INTERVAL: Duration = Duration::from_millis(550);

fn new() -> Drain {
    Drain::new().expect("shared memory")
}

/// `count` sockets to open at one address. If there are several, they share it by SO_REUSEPORT.
fn requested(text: &str, request: Request, count: usize) -> Vec<Listening> {
    let socket = |_| {
        let mut socket = stream(text, Some(request));
        if count > 1 {
            socket.options.flags |= flag::REUSEPORT;
        }
        socket
    };
    (0..count).map(socket).collect()
}

/// Opens and commits. Returns the addresses at which a drain ended.
fn hand_over(
    drain: &mut Drain,
    sockets: &mut [Listening],
    inherited: &mut [Inherited<'_>],
) -> Vec<String> {
    let mut ended = Vec::new();
    let mut report = |report: Report<'_>| match report {
        Report::DrainEnded(address) => ended.push(address.to_string()),
        other => panic!("{other:?}"),
    };
    let mut how = Open {
        prepare: true,
        drain: Some(drain),
        report: Some(&mut report),
        ..Open::default()
    };
    open::listening(sockets, inherited, &mut how).expect("both protocols are there");
    open::commit(sockets, inherited).expect("all can listen");
    ended
}

/// Changes the protocol of an address, and begins to drain the superseded sockets.
fn supersede(
    drain: &mut Drain,
    text: &str,
    old: &[Socket],
    request: Request,
    count: usize,
) -> Vec<Listening> {
    let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
    let mut sockets = requested(text, request, count);
    hand_over(drain, &mut sockets, &mut inherited);
    let begun = drain.begin(&sockets, &mut inherited, Room::default());
    begun.expect("new connections can be directed");
    for old in &inherited {
        assert_eq!(old.disposition(), Disposition::Draining);
    }
    sockets
}

fn poll(drain: &mut Drain) -> Vec<Draining> {
    drain.poll().expect("sockets can be ended");
    drain.sockets().collect()
}

/// Whether each socket of the drain has ended.
fn ended(drain: &mut Drain) -> Vec<bool> {
    poll(drain).iter().map(|socket| socket.ended).collect()
}

fn served(sockets: &[Listening]) -> Vec<usize> {
    sockets.iter().map(|socket| waiting(fd(socket))).collect()
}

fn all_share(sockets: &[Listening]) -> bool {
    sockets.iter().all(|socket| shares(fd(socket)))
}

fn duplicate(socket: &Listening) -> Socket {
    fd(socket).try_clone().expect("a descriptor").into()
}

/// Supersedes sockets at the address `text` while clients connect to `client`, and checks that
/// none is lost.
fn drains(text: &str, client: &str, from: Protocol, old: usize, new_count: usize) {
    let share = new_count > 1;
    let to = match from {
        Protocol::Tcp => MPTCP,
        _ => OFF,
    };
    let old: Vec<_> = (0..old).map(|_| listener(text, from, old > 1)).collect();
    let before = connect(client, CLIENTS);
    let mut drain = new();
    let sockets = supersede(&mut drain, text, &old, to, new_count);
    let during = connect(client, CLIENTS);
    assert_eq!(served(&sockets).iter().sum::<usize>(), CLIENTS, "{text}");
    assert!(drain.delay().is_some_and(|delay| delay <= TIME / 10));
    assert_eq!(drain.len(), old.len());

    thread::sleep(INTERVAL);
    assert!(!ended(&mut drain).contains(&true), "connections wait");
    assert!(old.iter().all(listens));
    assert_eq!(old.iter().map(waiting).sum::<usize>(), CLIENTS);

    let report = poll(&mut drain);
    for (socket, old) in report.iter().zip(&old) {
        assert_eq!(socket.fd, old.as_raw_fd());
        assert_eq!((socket.successor, socket.ended), (0, true));
    }
    assert_eq!(report.len(), old.len());
    assert_eq!(drain.delay(), None);
    assert!(!old.iter().any(listens), "nothing is under way");
    assert!(sockets.iter().all(|socket| shares(fd(socket)) == share));
    let after = connect(client, CLIENTS);
    let served = served(&sockets);
    assert_eq!(served.iter().sum::<usize>(), CLIENTS, "{text}");
    assert!(served.iter().all(|&count| count > 0), "{served:?}");
    drop((before, during, after));
}

#[test]
fn new_connections_reach_the_successors_and_waiting_ones_are_not_lost() {
    let places = [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("[::]:80", "[::1]:80"),
    ];
    thread::scope(|scope| {
        for (text, client) in places {
            for from in [Protocol::Tcp, Protocol::Mptcp] {
                scope.spawn(move || {
                    for (old, new) in [(1, 1), (1, 3), (3, 1), (3, 2)] {
                        namespace::run(|| drains(text, client, from, old, new));
                    }
                });
            }
        }
    });
}

#[test]
fn nothing_ends_before_processes_of_the_old_configuration_have_stopped_accepting() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = new();
        let _sockets = supersede(&mut drain, text, &old, MPTCP, 1);
        assert_eq!(ended(&mut drain), [false]);
        thread::sleep(INTERVAL);
        assert_eq!(ended(&mut drain), [true]);
        assert_eq!(ended(&mut drain), [true], "until the next begin forgets it");
        let begun = drain.begin(&[], &mut [], Room::default());
        begun.expect("there is nothing to do");
        assert!(drain.is_empty() && drain.delay().is_none());
    });
}

/// An IPv6 listener that also accepts IPv4.
fn dual_stack(text: &str) -> Socket {
    let address = inet(text);
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("IPv6");
    socket.set_only_v6(false).expect("both");
    socket.set_reuse_address(true).expect("an option");
    socket.set_nonblocking(true).expect("a flag");
    socket.bind(&address.into()).expect("the port is free");
    socket.listen(511).expect("it is bound");
    socket
}

#[test]
fn a_drain_waits_for_a_handshake_in_progress() {
    namespace::run(|| {
        for (text, client) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[::]:81", "127.0.0.1:81"),
        ] {
            let old = [match text {
                "[::]:81" => dual_stack(text),
                _ => listener(text, Protocol::Tcp, false),
            }];
            // TCP_DEFER_ACCEPT delays the end of the handshake until the client sends data.
            set(&old[0], libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 60);
            let mut client = connect(client, 1).remove(0);
            let mut drain = new();
            let mut sockets = requested(text, MPTCP, 1);
            sockets[0].options.flags |= match text {
                "[::]:81" => flag::IPV6ONLY_OFF,
                _ => 0,
            };
            let mut inherited = [Inherited::new(&old[0])];
            hand_over(&mut drain, &mut sockets, &mut inherited);
            let begun = drain.begin(&sockets, &mut inherited, Room::default());
            begun.expect("new connections can be directed");
            thread::sleep(INTERVAL);
            assert_eq!(ended(&mut drain), [false], "{text}: a handshake");
            client.write_all(b"x").expect("the handshake goes on");
            assert_eq!(ended(&mut drain), [false], "{text}: a connection waits");
            assert_eq!(waiting(&old[0]), 1, "{text}");
            assert_eq!(ended(&mut drain), [true]);
            assert!(!listens(&old[0]));
        }
    });
}

/// Polls until the drain of the only socket ends, and returns the time since `begin`.
fn time_until_end(drain: &mut Drain, begin: Instant) -> Duration {
    loop {
        let now = ended(drain);
        let took = begin.elapsed();
        if now == [true] {
            return took;
        }
        assert!(took < 2 * TIME, "it never ends");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_socket_that_is_never_idle_ends_when_its_time_is_up() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let _waits = connect(text, 1);
        let mut drain = new();
        let begin = Instant::now();
        let _sockets = supersede(&mut drain, text, &old, MPTCP, 1);
        assert!(time_until_end(&mut drain, begin) >= TIME);
        assert!(!listens(&old[0]));
    });
}

#[test]
fn a_later_begin_does_not_extend_the_time() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let _waits = connect(text, 1);
        let mut drain = new();
        let begin = Instant::now();
        let sockets = supersede(&mut drain, text, &old, MPTCP, 1);
        thread::sleep(TIME / 2);
        // A reload that does not change this address.
        let mut inherited = [Inherited::new(fd(&sockets[0]))];
        let mut again = requested(text, MPTCP, 1);
        let ended = hand_over(&mut drain, &mut again, &mut inherited);
        assert!(ended.is_empty() && again[0].outcome == Outcome::Inherited(0));
        let begun = drain.begin(&again, &mut inherited, Room::default());
        begun.expect("it goes on");
        let took = time_until_end(&mut drain, begin);
        assert!(took >= TIME && took < TIME + INTERVAL, "{took:?}");
    });
}

#[test]
fn without_netlink_a_socket_ends_when_its_time_is_up() {
    namespace::run(|| {
        let text = "[::1]:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = new();
        let begin = Instant::now();
        let _sockets = supersede(&mut drain, text, &old, MPTCP, 1);
        refuse(SOCKET_DOMAIN, libc::AF_NETLINK, libc::EPERM);
        assert!(time_until_end(&mut drain, begin) >= TIME);
    });
}

#[test]
fn an_address_that_must_be_bound_again_ends_its_drain() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = new();
        let sockets = supersede(&mut drain, text, &old, MPTCP, 3);
        assert!(!all_share(&sockets));
        let mut end = |text| drain.end_at(&address(text)).expect("it can be ended");
        assert!(!end("127.0.0.1:81"));
        assert!(listens(&old[0]));
        assert!(end(text));
        assert!(!listens(&old[0]) && all_share(&sockets));
        assert!(!end(text), "once");
        assert_eq!(ended(&mut drain), [true]);
    });
}

#[test]
fn an_address_that_is_no_longer_requested_ends_its_drain() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = new();
        let sockets = supersede(&mut drain, text, &old, MPTCP, 3);
        assert!(!all_share(&sockets));
        let mut other = [mptcp("127.0.0.1:81")];
        open(&mut other).expect("the port is free");
        let begun = drain.begin(&other, &mut [], Room::default());
        begun.expect("there is nothing to do");
        assert!(!listens(&old[0]) && all_share(&sockets));
        assert_eq!(ended(&mut drain), [true]);
    });
}

#[test]
fn dropping_the_drain_ends_its_sockets() {
    namespace::run(|| {
        let text = "[::1]:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let _waits = connect(text, 1);
        let mut drain = new();
        let sockets = supersede(&mut drain, text, &old, MPTCP, 2);
        drop(drain);
        assert!(!listens(&old[0]) && all_share(&sockets));
    });
}

#[test]
fn a_process_ends_a_socket_for_all() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = new();
        let sockets = supersede(&mut drain, text, &old, MPTCP, 2);
        let mut worker = new();
        std::mem::swap(&mut drain, &mut worker);
        let child = child::fork(|| {
            thread::sleep(INTERVAL);
            assert_eq!(ended(&mut worker), [true]);
            assert!(all_share(&sockets));
        });
        child.finish();
        assert!(!listens(&old[0]));
        // The process that did not end the socket notices the end soon.
        assert!(worker.delay().is_some_and(|delay| delay <= TIME / 10));
        assert_eq!(ended(&mut worker), [true]);
        assert_eq!(worker.delay(), None);
    });
}

#[test]
fn a_worker_that_quits_with_the_server_ends_a_socket_for_all() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = Some(new());
        let current = drain.as_mut().expect("it is there");
        let _sockets = supersede(current, text, &old, MPTCP, 1);
        child::fork(|| drop(drain.take())).finish();
        assert!(!listens(&old[0]));
    });
}

#[test]
fn a_worker_of_an_earlier_configuration_only_notices() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = Some(new());
        let current = drain.as_mut().expect("it is there");
        let sockets = supersede(current, text, &old, MPTCP, 1);
        let polls = child::fork(|| {
            let drain = drain.as_mut().expect("it is there");
            assert_eq!(ended(drain), [false], "nothing is under way, but stale");
        });
        let quits = child::fork(|| drop(drain.take()));
        let notices = child::fork(|| {
            let drain = drain.as_mut().expect("it is there");
            assert_eq!(ended(drain), [true]);
        });

        let current = drain.as_mut().expect("it is there");
        let begun = current.begin(&sockets, &mut [], Room::default());
        begun.expect("it goes on");
        thread::sleep(INTERVAL);
        polls.finish();
        assert!(listens(&old[0]));
        quits.finish();
        assert!(listens(&old[0]));
        assert_eq!(ended(current), [true]);
        notices.finish();
    });
}

/// Makes a descriptor number refer to another socket, as if the program had closed the
/// descriptor and then opened another socket with this number.
fn reuse(number: i32, with: &Socket) {
    // SAFETY: takes numbers. The owner of `number` still owns the descriptor.
    let result = unsafe { libc::dup2(with.as_raw_fd(), number) };
    assert_eq!(result, number);
}

#[test]
fn a_descriptor_that_was_closed_and_opened_again_is_never_touched() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let stranger = listener("127.0.0.1:81", Protocol::Tcp, false);
        let mut drain = new();
        let sockets = supersede(&mut drain, text, &old, MPTCP, 2);
        reuse(old[0].as_raw_fd(), &stranger);
        reuse(fd(&sockets[0]).as_raw_fd(), &stranger);
        thread::sleep(INTERVAL);
        let report = poll(&mut drain);
        assert!(report[0].ended, "not here any more");
        assert!(listens(&stranger) && !shares(&stranger));
        assert!(shares(fd(&sockets[1])), "the other one has it again");

        let old = [listener("127.0.0.1:82", Protocol::Tcp, false)];
        let _sockets = supersede(&mut drain, "127.0.0.1:82", &old, MPTCP, 1);
        reuse(old[0].as_raw_fd(), &stranger);
        drop(drain);
        assert!(listens(&stranger));
    });
}

#[test]
fn draining_sockets_are_closed_on_exec() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        old[0].set_cloexec(false).expect("a flag");
        let mut drain = new();
        let sockets = supersede(&mut drain, text, &old, MPTCP, 1);
        assert!(closes_on_exec(&old[0]) && !closes_on_exec(fd(&sockets[0])));
    });
}

fn refused(room: Room) {
    let text = "127.0.0.1:80";
    let first = [listener(text, Protocol::Tcp, false)];
    let mut drain = new();
    let first_successor = supersede(&mut drain, text, &first, MPTCP, 1);

    let second = [listener("127.0.0.1:81", Protocol::Tcp, false)];
    let mut inherited = vec![
        Inherited::new(fd(&first_successor[0])),
        Inherited::new(&second[0]),
    ];
    let mut sockets = [mptcp(text), mptcp("127.0.0.1:81")];
    hand_over(&mut drain, &mut sockets, &mut inherited);
    let before = namespace::descriptors();
    let error = drain.begin(&sockets, &mut inherited, room);
    let error = error.expect_err("there is no room");
    let message = "dup() failed, not enough descriptors to drain old listening sockets, \
                   connections in their queues may be lost";
    assert_eq!(error.to_string(), message);
    assert_eq!(error.os_errno(), libc::EMFILE);
    assert_eq!(namespace::descriptors(), before);
    assert_eq!(inherited[1].disposition(), Disposition::Superseded);
    assert!(listens(&second[0]), "it is the caller's to close");
    assert!(!listens(&first[0]), "what drained has ended");
    assert_eq!(ended(&mut drain), [true]);
}

#[test]
fn nothing_drains_without_enough_free_descriptors() {
    namespace::run(|| {
        // Descriptors 0, 1 and 2 are open, so none is free below this limit.
        refused(Room { spare: 1, limit: 3 });
        let limited = child::fork(|| {
            let limit = libc::rlimit {
                rlim_cur: 100,
                rlim_max: 100,
            };
            // SAFETY: `limit` lives through the call.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
            refused(Room {
                spare: 100,
                limit: 0,
            });
        });
        limited.finish();

        let text = "127.0.0.1:90";
        let old = listener(text, Protocol::Tcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = [mptcp(text)];
        let mut drain = new();
        hand_over(&mut drain, &mut sockets, &mut inherited);
        let room = Room {
            spare: 20,
            limit: 2000,
        };
        drain
            .begin(&sockets, &mut inherited, room)
            .expect("there is room");
    });
}

#[test]
fn an_address_that_changes_again_ends_its_first_drain() {
    for text in ["127.0.0.1:80", "[::1]:80"] {
        namespace::run(|| changes_again(text));
    }
}

fn changes_again(text: &str) {
    let first = [listener(text, Protocol::Tcp, false)];
    let _waits = connect(text, 1);
    let mut drain = new();
    let second = supersede(&mut drain, text, &first, MPTCP, 1);
    let second = [duplicate(&second[0])];

    let mut inherited = [Inherited::new(&second[0])];
    let mut third = requested(text, OFF, 1);
    let said = hand_over(&mut drain, &mut third, &mut inherited);
    assert_eq!(said, [text]);
    assert!(!listens(&first[0]) && listens(&second[0]));
    let begun = drain.begin(&third, &mut inherited, Room::default());
    begun.expect("new connections can be directed");
    let _clients = connect(text, CLIENTS);
    assert_eq!(served(&third), [CLIENTS], "{text}");
    // No poll has reported the end of the first drain to the caller yet.
    assert_eq!(ended(&mut drain), [true, false]);
    thread::sleep(INTERVAL);
    assert_eq!(ended(&mut drain), [true, true]);
    assert!(!listens(&second[0]) && !shares(fd(&third[0])));
}

#[test]
fn an_opening_that_fails_leaves_a_drain_alone() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = new();
        let successor = supersede(&mut drain, text, &old, MPTCP, 1);
        let _holder = listener("127.0.0.1:99", Protocol::Tcp, false);
        let mut inherited = [Inherited::new(fd(&successor[0]))];
        let mut sockets = [mptcp(text), mptcp("127.0.0.1:99")];
        let mut how = Open {
            drain: Some(&mut drain),
            ..Open::default()
        };
        let error = open::listening(&mut sockets, &mut inherited, &mut how);
        error.expect_err("port 99 is taken");
        assert!(listens(&old[0]));
        let _clients = connect(text, CLIENTS);
        assert_eq!(served(&successor), [CLIENTS]);
        thread::sleep(INTERVAL);
        assert_eq!(ended(&mut drain), [true]);
    });
}

#[test]
fn kept_successors_share_their_address_again_after_the_drain() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = new();
        let successors = supersede(&mut drain, text, &old, MPTCP, 3);
        let mut inherited: Vec<_> = successors
            .iter()
            .map(|socket| Inherited::new(fd(socket)))
            .collect();
        let mut sockets = requested(text, MPTCP, 3);
        assert!(hand_over(&mut drain, &mut sockets, &mut inherited).is_empty());
        let begun = drain.begin(&sockets, &mut inherited, Room::default());
        begun.expect("it goes on");
        assert!(!all_share(&successors) && listens(&old[0]));
        thread::sleep(INTERVAL);
        assert_eq!(ended(&mut drain), [true]);
        assert!(all_share(&successors));
    });
}

#[test]
fn more_workers_during_a_drain_end_it() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let mut drain = new();
        let successors = supersede(&mut drain, text, &old, MPTCP, 2);
        let mut inherited: Vec<_> = successors
            .iter()
            .map(|socket| Inherited::new(fd(socket)))
            .collect();
        let mut sockets = requested(text, MPTCP, 3);
        let said = hand_over(&mut drain, &mut sockets, &mut inherited);
        assert_eq!(said, [text]);
        assert_eq!(sockets[2].outcome, Outcome::Joined);
        let begun = drain.begin(&sockets, &mut inherited, Room::default());
        begun.expect("there is nothing to do");
        let _clients = connect(text, 3 * CLIENTS);
        let counts = [
            waiting(fd(&successors[0])),
            waiting(fd(&successors[1])),
            waiting(fd(&sockets[2])),
        ];
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    });
}

/// Gives up all privileges of the process.
fn become_nobody() {
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::setuid(65534) }, 0);
}

#[test]
fn no_privilege_is_needed() {
    for text in ["127.0.0.1:8080", "[::1]:8080"] {
        namespace::run(|| {
            child::fork(|| {
                become_nobody();
                without_privileges(text);
            })
            .finish();
        });
    }
}

fn without_privileges(text: &str) {
    let first = [listener(text, Protocol::Tcp, false)];
    let mut drain = new();
    let second = supersede(&mut drain, text, &first, MPTCP, 1);
    // Without privileges the kernel does not let a process change the interface of a bound
    // socket.
    let mut inherited = [Inherited::new(fd(&second[0]))];
    let mut again = requested(text, MPTCP, 1);
    hand_over(&mut drain, &mut again, &mut inherited);
    let begun = drain.begin(&again, &mut inherited, Room::default());
    begun.expect("it goes on");
    assert!(listens(&first[0]));

    let second = [duplicate(&second[0])];
    let third = supersede(&mut drain, text, &second, OFF, 2);
    let _clients = connect(text, CLIENTS);
    assert_eq!(served(&third).iter().sum::<usize>(), CLIENTS);
    assert_eq!(ended(&mut drain), [true, false]);
    thread::sleep(INTERVAL);
    assert_eq!(ended(&mut drain), [true, true]);
    assert!(all_share(&third));
}

#[test]
fn a_kernel_that_cannot_direct_connections_is_reported() {
    const OPTION: Argument = (libc::SYS_setsockopt, 2);
    namespace::run(|| {
        let text = "[::1]:80";
        let old = listener(text, Protocol::Tcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = requested(text, MPTCP, 1);
        let mut drain = new();
        hand_over(&mut drain, &mut sockets, &mut inherited);
        refuse(OPTION, libc::SO_BINDTOIFINDEX, libc::ENOPROTOOPT);
        let error = drain.begin(&sockets, &mut inherited, Room::default());
        let error = error.expect_err("it is refused");
        let message = "setsockopt(SO_BINDTOIFINDEX) [::1]:80 failed, \
                       new connections may be lost until the old socket is closed";
        assert_eq!(error.to_string(), message);
        assert_eq!(error.os_errno(), libc::ENOPROTOOPT);
        assert_eq!(inherited[0].disposition(), Disposition::Draining);
        thread::sleep(INTERVAL);
        assert_eq!(ended(&mut drain), [false], "more may come at any time");
        let _clients = connect(text, CLIENTS);
        let both = waiting(&old) + served(&sockets)[0];
        assert_eq!(both, CLIENTS, "both serve");
    });
}

#[test]
fn a_socket_that_cannot_be_drained_stays_with_the_caller() {
    const OPTION: Argument = (libc::SYS_getsockopt, 2);
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = listener(text, Protocol::Tcp, false);
        let mut inherited = [Inherited::new(&old)];
        let mut sockets = requested(text, MPTCP, 2);
        let mut drain = new();
        hand_over(&mut drain, &mut sockets, &mut inherited);
        refuse(OPTION, libc::SO_COOKIE, libc::ENOPROTOOPT);
        let error = drain.begin(&sockets, &mut inherited, Room::default());
        let message = "getsockopt(SO_COOKIE) 127.0.0.1:80 failed, not draining the old socket, connections may be lost";
        assert_eq!(error.expect_err("refused").to_string(), message);
        assert_eq!(inherited[0].disposition(), Disposition::Superseded);
        assert!(all_share(&sockets), "nothing would give it back");
        assert!(drain.is_empty() && drain.delay().is_none());
    });
}
