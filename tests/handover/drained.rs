//! Sockets that were replaced go on until nothing is under way on them.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ngx_rs_listen::drain::Begin;
use ngx_rs_listen::open::Report;
use ngx_rs_listen::{
    Fate, Inherited, Listening, Open, Protocol, Wish, drain, flag, handover, open,
};
use socket2::{Domain, Socket, Type};

use crate::common::namespace;
use crate::common::seccomp::{Argument, SOCKET_DOMAIN, refuse};
use crate::common::socket::*;

const CLIENTS: usize = 60;

const JOIN: Begin = Begin {
    join: true,
    committed: false,
};

/// Just after the commit.
const COMMITTED: Begin = Begin {
    join: false,
    committed: true,
};

const COMMITTED_JOIN: Begin = Begin {
    join: true,
    committed: true,
};

/// Replaces listeners of one address, as far as they drain.
fn replace<'a>(
    text: &str,
    old: &'a [Socket],
    wish: Wish,
    count: usize,
    share: bool,
) -> (Vec<Listening>, Vec<Inherited<'a>>) {
    let mut inherited: Vec<_> = old.iter().map(Inherited::new).collect();
    let mut sockets: Vec<_> = (0..count).map(|_| stream(text, Some(wish))).collect();
    if share {
        let shared = |socket: &mut Listening| socket.options.flags |= flag::REUSEPORT;
        sockets.iter_mut().for_each(shared);
    }
    let mut how = Open {
        prepare: true,
        ..Open::default()
    };
    open::listening(&mut sockets, &mut inherited, &mut how).expect("both protocols are there");
    handover::commit(&mut sockets).expect("all can listen");
    (sockets, inherited)
}

fn served(sockets: &[Listening]) -> Vec<usize> {
    sockets.iter().map(|socket| waiting(fd(socket))).collect()
}

/// Old and new sockets at `text`, where clients come to `client`.
fn drains(text: &str, client: &str, from: Protocol, old: usize, new: usize) {
    let share = new > 1;
    let to = match from {
        Protocol::Tcp => MPTCP,
        _ => OFF,
    };
    let old: Vec<_> = (0..old).map(|_| listener(text, from, old > 1)).collect();
    let before = connect(client, CLIENTS);
    let (sockets, mut inherited) = replace(text, &old, to, new, share);
    drain::begin(&sockets, &mut inherited, COMMITTED).expect("they can be steered");
    let during = connect(client, CLIENTS);
    assert_eq!(served(&sockets).iter().sum::<usize>(), CLIENTS, "{text}");
    assert!(old.iter().all(listens), "the old ones go on");

    drain::end(&sockets, &mut inherited, false).expect("sockets");
    assert!(old.iter().all(listens), "what waits is not lost");
    assert_eq!(old.iter().map(waiting).sum::<usize>(), CLIENTS);

    drain::end(&sockets, &mut inherited, false).expect("sockets");
    assert!(!old.iter().any(listens), "nothing is under way");
    assert!(inherited.iter().all(|old| old.fate() == Fate::Ended));
    assert!(sockets.iter().all(|socket| shares(fd(socket)) == share));
    let after = connect(client, CLIENTS);
    let served = served(&sockets);
    assert_eq!(served.iter().sum::<usize>(), CLIENTS, "{text}");
    assert!(served.iter().all(|&count| count > 0), "{served:?}");
    drop((before, during, after));
}

#[test]
fn new_connections_go_to_the_new_sockets_and_old_ones_are_not_lost() {
    for (text, client) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("[::]:80", "[::1]:80"),
    ] {
        for from in [Protocol::Tcp, Protocol::Mptcp] {
            for (old, new) in [(1, 1), (1, 3), (3, 1), (3, 2)] {
                namespace::run(|| drains(text, client, from, old, new));
            }
        }
    }
}

#[test]
fn a_handshake_that_is_under_way_is_waited_for() {
    namespace::run(|| {
        for text in ["127.0.0.1:80", "[::1]:80"] {
            let old = [listener(text, Protocol::Tcp, false)];
            // Holds the handshake until the client has sent something.
            let (level, name, second) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 60);
            set(&old[0], level, name, second);
            let mut client = connect(text, 1).remove(0);
            let (sockets, mut inherited) = replace(text, &old, MPTCP, 1, false);
            drain::begin(&sockets, &mut inherited, COMMITTED).expect("it can be steered");
            drain::end(&sockets, &mut inherited, false).expect("sockets");
            assert!(listens(&old[0]), "{text}: a handshake is under way");
            client.write_all(b"x").expect("the handshake goes on");
            assert_eq!(waiting(&old[0]), 1, "{text}");
            drain::end(&sockets, &mut inherited, false).expect("sockets");
            assert!(!listens(&old[0]));
        }
    });
}

#[test]
fn time_is_up_for_those_that_do_not_end() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let _waits = connect(text, 1);
        let (sockets, mut inherited) = replace(text, &old, MPTCP, 1, false);
        drain::end(&sockets, &mut inherited, true).expect("sockets");
        assert!(!listens(&old[0]));
        assert_eq!(inherited[0].fate(), Fate::Ended);
    });
}

#[test]
fn a_socket_is_replaced_again_while_another_drains() {
    for text in ["127.0.0.1:80", "[::1]:80"] {
        namespace::run(|| {
            let first = [listener(text, Protocol::Tcp, false)];
            let (new_second, mut drains_first) = replace(text, &first, MPTCP, 1, false);
            drain::begin(&new_second, &mut drains_first, COMMITTED).expect("it can be steered");
            let second = [Socket::from(
                fd(&new_second[0]).try_clone().expect("a descriptor"),
            )];
            let (third, mut drains_second) = replace(text, &second, OFF, 1, false);
            drain::begin(&third, &mut drains_second, COMMITTED).expect("it can be steered");
            let _clients = connect(text, CLIENTS);
            assert_eq!(served(&third), [CLIENTS], "{text}");
            // On IPv4 nothing says that the second drains by now: it might share.
            let unknown = text.starts_with("127.");
            for now in [false, true] {
                drain::end(&new_second, &mut drains_first, now).expect("sockets");
                assert_eq!(listens(&first[0]), unknown);
            }
            drain::end(&third, &mut drains_first, false).expect("sockets");
            drain::end(&third, &mut drains_second, false).expect("sockets");
            assert!(!listens(&first[0]) && !listens(&second[0]));
            assert!(!shares(fd(&third[0])));
        });
    }
}

#[test]
fn whoever_prepares_to_replace_the_new_socket_stops_the_end() {
    namespace::run(|| {
        let text = "[::1]:80";
        let old = [listener(text, Protocol::Tcp, false)];
        let (sockets, mut inherited) = replace(text, &old, MPTCP, 1, false);
        drain::begin(&sockets, &mut inherited, COMMITTED).expect("it can be steered");
        let new = fd(&sockets[0]);
        set(new, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
        drain::end(&sockets, &mut inherited, false).expect("sockets");
        assert!(listens(&old[0]), "both get connections now");
        set(new, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, i32::MAX);
        drain::end(&sockets, &mut inherited, false).expect("sockets");
        assert!(!listens(&old[0]));
    });
}

#[test]
fn old_and_new_answer_while_another_change_is_prepared() {
    for text in ["127.0.0.1:80", "[::1]:80"] {
        for count in [1, 3] {
            namespace::run(|| paused(text, count));
        }
    }
}

fn paused(text: &str, count: usize) {
    let old = [listener(text, Protocol::Tcp, false)];
    let (sockets, mut inherited) = replace(text, &old, MPTCP, count, count > 1);
    drain::begin(&sockets, &mut inherited, COMMITTED).expect("they can be steered");
    drain::pause(&sockets, &mut inherited).expect("they can share");
    let beside = listener(text, Protocol::Tcp, true);
    let begin = Instant::now();
    let _clients = connect(text, CLIENTS);
    // Linux sends a SYN again after a second.
    assert!(begin.elapsed() < Duration::from_millis(900));
    let others = waiting(&old[0]) + waiting(&beside);
    let all = others + served(&sockets).iter().sum::<usize>();
    assert_eq!(all, CLIENTS, "{text}");
    for now in [false, true] {
        drain::end(&sockets, &mut inherited, now).expect("sockets");
        assert!(listens(&old[0]), "it gets connections");
    }

    drop(beside);
    let before = served(&sockets).iter().sum::<usize>();
    drain::begin(&sockets, &mut inherited, Begin::default()).expect("they can be steered");
    let _more = connect(text, CLIENTS);
    let after = served(&sockets).iter().sum::<usize>();
    assert_eq!(after - before, CLIENTS, "{text}: steered again");
    drain::end(&sockets, &mut inherited, true).expect("sockets");
    assert!(!listens(&old[0]));
    let share = |socket: &Listening| shares(fd(socket)) == (count > 1);
    assert!(sockets.iter().all(share));
}

/// Opens beside a socket while `others` listen at its address, and returns what
/// was said of that.
fn awaits(text: &str, protocol: Protocol, others: Vec<Socket>) -> Vec<String> {
    let old = [listener(text, protocol, true)];
    let mut inherited = vec![Inherited::new(&old[0])];
    let mut sockets = [stream(text, Some(MPTCP))];
    let mut said = Vec::new();
    let mut report = |report: Report<'_>| {
        said.push(format!("{report:?}"));
        // They end, as those that drain do.
        let end = |other: &Socket| other.shutdown(std::net::Shutdown::Both);
        others
            .iter()
            .for_each(|other| end(other).expect("it listens"));
    };
    let mut how = Open {
        await_drains: true,
        report: Some(&mut report),
        ..Open::default()
    };
    open::listening(&mut sockets, &mut inherited, &mut how).expect("the address is shared");
    said
}

#[test]
fn whoever_inherits_waits_for_what_others_drain() {
    for text in ["127.0.0.1:80", "0.0.0.0:80", "[::1]:80", "[::]:80"] {
        for protocol in [Protocol::Tcp, Protocol::Mptcp] {
            namespace::run(|| {
                let at = |text: &str| listener(text, protocol, true);
                assert!(awaits(text, protocol, Vec::new()).is_empty(), "its own");
                let elsewhere = vec![at("127.0.0.2:80"), at("[::1]:81")];
                assert!(awaits(text, protocol, elsewhere).is_empty());
                let said = awaits(text, protocol, vec![at(text), at(text)]);
                assert_eq!(said, [format!("Drains(Inet({text}))")]);
            });
        }
    }
}

#[test]
fn others_that_do_not_end_are_awaited_for_seconds() {
    namespace::run(|| {
        let text = "127.0.0.1:80";
        let _other = listener(text, Protocol::Tcp, true);
        let begin = Instant::now();
        let said = awaits(text, Protocol::Tcp, Vec::new());
        assert_eq!(said.len(), 1);
        let took = begin.elapsed();
        assert!(
            took > Duration::from_secs(5) && took < Duration::from_secs(8),
            "{took:?}"
        );

        // A kernel that does not say is not waited for.
        refuse(SOCKET_DOMAIN, libc::AF_NETLINK, libc::EPERM);
        assert!(awaits(text, Protocol::Tcp, Vec::new()).is_empty());
    });
}

#[test]
fn a_kernel_that_cannot_steer_is_reported() {
    const OPTION: Argument = (libc::SYS_setsockopt, 2);
    namespace::run(|| {
        let old = [listener("[::1]:80", Protocol::Tcp, false)];
        let (sockets, mut inherited) = replace("[::1]:80", &old, MPTCP, 1, false);
        refuse(OPTION, libc::SO_BINDTOIFINDEX, libc::ENOPROTOOPT);
        let error = drain::begin(&sockets, &mut inherited, COMMITTED).expect_err("it is refused");
        let message = "setsockopt(SO_BINDTOIFINDEX) [::1]:80 failed";
        assert_eq!(error.to_string(), message);
        assert_eq!(error.os_errno(), libc::ENOPROTOOPT);
        let _clients = connect("[::1]:80", CLIENTS);
        let both = waiting(&old[0]) + served(&sockets)[0];
        assert_eq!(both, CLIENTS, "both serve");
    });
}

fn set(fd: &impl AsRawFd, level: i32, name: i32, value: i32) {
    let (size, place) = (
        size_of::<i32>() as libc::socklen_t,
        (&raw const value).cast(),
    );
    // SAFETY: `value` has `size` bytes, and lives through the call.
    let failed = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, place, size) };
    assert_eq!(failed, 0, "setsockopt({level}, {name}, {value})");
}

/// The client of an MPTCP connection at an old listener; nobody accepts it.
fn mptcp_client(text: &str) -> Socket {
    let address = inet(text);
    let domain = Domain::for_address(address);
    let protocol = Some(Protocol::Mptcp.number().into());
    let client = Socket::new(domain, Type::STREAM, protocol).expect("MPTCP");
    client.connect(&address.into()).expect("somebody listens");
    client
}

fn marked(sockets: &[Listening]) -> bool {
    let marked = |socket| option(fd(socket), libc::SOL_SOCKET, libc::SO_BROADCAST) == 1;
    sockets.iter().any(marked)
}

/// Old sockets whose place TCP takes, while an MPTCP connection lives.
fn joined(text: &str, old: usize, new: usize) {
    let share = new > 1;
    let old: Vec<_> = (0..old)
        .map(|_| listener(text, Protocol::Mptcp, old > 1))
        .collect();
    let client = mptcp_client(text);
    let (sockets, mut inherited) = replace(text, &old, OFF, new, share);
    drain::begin(&sockets, &mut inherited, COMMITTED_JOIN).expect("they can be steered");
    assert!(marked(&sockets));
    let _clients = connect(text, CLIENTS);
    assert_eq!(served(&sockets).iter().sum::<usize>(), CLIENTS, "{text}");

    // What waits is the one connection.
    assert_eq!(old.iter().map(waiting).sum::<usize>(), 1);
    drain::end(&sockets, &mut inherited, false).expect("sockets");
    assert!(old.iter().all(listens), "a subflow may join");

    drain::pause(&sockets, &mut inherited).expect("they can share");
    assert!(!marked(&sockets));
    drain::end(&sockets, &mut inherited, true).expect("sockets");
    assert!(old.iter().all(listens), "they get connections");
    drop(connect(text, CLIENTS));

    drain::begin(&sockets, &mut inherited, JOIN).expect("they can be steered");
    drop(client);
    drain::end(&sockets, &mut inherited, true).expect("sockets");
    assert!(!old.iter().any(listens) && !marked(&sockets));
    assert!(sockets.iter().all(|socket| shares(fd(socket)) == share));
    let _clients = connect(text, CLIENTS);
    let served = served(&sockets);
    assert!(served.iter().all(|&count| count > 0), "{served:?}");
    // Another process finds that all has been done.
    let mut again: Vec<_> = old.iter().map(Inherited::new).collect();
    drain::end(&sockets, &mut again, true).expect("sockets");
}

#[test]
fn subflows_may_join_until_the_end() {
    for text in ["127.0.0.1:80", "[::1]:80"] {
        for (old, new) in [(1, 1), (1, 3), (3, 3)] {
            namespace::run(|| joined(text, old, new));
        }
    }
}

#[test]
fn no_subflow_may_join_where_there_is_no_connection_or_no_safe_way() {
    let text = "127.0.0.1:80";
    let marks = |old: &[Socket], how| {
        let (sockets, mut inherited) = replace(text, old, OFF, 1, false);
        drain::begin(&sockets, &mut inherited, how).expect("they can be steered");
        let _clients = connect(text, CLIENTS);
        assert_eq!(served(&sockets).iter().sum::<usize>(), CLIENTS);
        marked(&sockets)
    };
    let mptcp = |share| listener(text, Protocol::Mptcp, share);
    namespace::run(|| {
        let marked = marks(&[mptcp(false)], COMMITTED_JOIN);
        assert!(!marked, "no connection");
    });
    for (old, how) in [(1, COMMITTED), (2, COMMITTED_JOIN)] {
        namespace::run(|| {
            let old: Vec<_> = (0..old).map(|_| mptcp(old > 1)).collect();
            let _client = mptcp_client(text);
            assert!(!marks(&old, how));
        });
    }
    namespace::run(|| {
        let old = [mptcp(true)];
        let _client = mptcp_client(text);
        let foreign = listener(text, Protocol::Tcp, true);
        let (sockets, mut inherited) = replace(text, &old, OFF, 1, false);
        drain::begin(&sockets, &mut inherited, COMMITTED_JOIN).expect("they can be steered");
        assert!(!marked(&sockets), "somebody else is in the group");
        drop(foreign);
    });
}

#[test]
fn a_kernel_that_cannot_choose_is_reported_and_steers_as_it_can() {
    const OPTION: Argument = (libc::SYS_setsockopt, 2);
    for (name, text) in [
        (libc::SO_ATTACH_REUSEPORT_CBPF, "SO_ATTACH_REUSEPORT_CBPF"),
        (libc::SO_BROADCAST, "SO_BROADCAST"),
    ] {
        namespace::run(|| {
            let old = [listener("[::1]:80", Protocol::Mptcp, false)];
            let _client = mptcp_client("[::1]:80");
            let (sockets, mut inherited) = replace("[::1]:80", &old, OFF, 1, false);
            refuse(OPTION, name, libc::EPERM);
            let error =
                drain::begin(&sockets, &mut inherited, COMMITTED_JOIN).expect_err("it is refused");
            assert_eq!(
                error.to_string(),
                format!("setsockopt({text}) [::1]:80 failed")
            );
            let _clients = connect("[::1]:80", CLIENTS);
            assert_eq!(served(&sockets), [CLIENTS]);
            assert_eq!(waiting(&old[0]), 1);
            drain::end(&sockets, &mut inherited, false).expect("sockets");
            assert!(!listens(&old[0]) && !shares(fd(&sockets[0])));
        });
    }
}
