//! The kind of a connection, its byte counters, and its state after it has ended.

use std::fs::File;
use std::io::Read;
use std::net::{Shutdown, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use ngx_rs_listen::Protocol;
use ngx_rs_listen::connection::{self, Connection, Kind, Query};
use socket2::Socket;

use crate::connected::{IPV4, IPV6, MAPPED, inet, info, new, pair, send, subflows, until};
use test_support::{library, linux, listening, namespace};

/// Replaces the times and the TCP state by those of another query, because a test cannot
/// predict them.
pub fn timed(mut said: Connection, other: &Connection) -> Connection {
    said.last_data_sent = other.last_data_sent;
    said.last_data_received = other.last_data_received;
    said.last_ack_received = other.last_ack_received;
    said.figures = other.figures;
    said
}

#[test]
fn distinguishes_tcp_from_mptcp_and_counts() {
    for place in [IPV4, IPV6, MAPPED] {
        for protocol in [Protocol::Tcp, Protocol::Mptcp] {
            namespace::run(|| {
                let (client, server) = pair(place, protocol);
                send(&client, &server, 100_000);
                send(&server, &client, 70_000);
                for (socket, sent, received) in
                    [(&client, 100_000, 70_000), (&server, 70_000, 100_000)]
                {
                    let context = format!("{place:?} {protocol:?}");
                    let said = info(socket);
                    let mptcp = protocol == Protocol::Mptcp;
                    let kind = if mptcp { Kind::Mptcp } else { Kind::Tcp };
                    let counted = !mptcp || linux::counts_mptcp();
                    assert_eq!(said.kind, kind, "{context}");
                    assert_eq!(said.token.is_some(), mptcp, "{context}");
                    assert_eq!(said.subflows, mptcp.then_some(1), "{context}");
                    let total = linux::counted(1).filter(|_| mptcp);
                    assert_eq!(said.subflows_total, total, "{context}");
                    assert_eq!(said.bytes_sent, counted.then_some(sent), "{context}");
                    let received = counted.then_some(received);
                    assert_eq!(said.bytes_received, received, "{context}");
                    // On a slow machine the kernel may retransmit some of the data.
                    let again = [said.bytes_retransmitted, said.retransmits];
                    for again in again {
                        assert_eq!(again.is_some(), counted, "{context}");
                        assert!(again.is_none_or(|count| count <= sent), "{context}");
                    }
                    let times = [said.last_data_sent, said.last_data_received];
                    for time in times.into_iter().chain([said.last_ack_received]) {
                        let known = !mptcp || linux::reports_times();
                        assert_eq!(time.is_some(), known, "{context}");
                        let is_short = |time| time < Duration::from_secs(60);
                        assert!(time.is_none_or(is_short), "{context}: {time:?}");
                    }
                    let paths = subflows(socket);
                    assert_eq!(paths.len(), 1, "{context}");
                    assert_eq!(paths[0].id, total, "{context}");
                    assert_eq!(paths[0].local, inet(socket.local_addr()), "{context}");
                    assert_eq!(paths[0].remote, inet(socket.peer_addr()), "{context}");
                }
            });
        }
    }
}

#[test]
fn the_token_is_that_of_ss() {
    namespace::run(|| {
        let (client, server) = pair(IPV4, Protocol::Mptcp);
        send(&client, &server, 1);
        let port = inet(client.local_addr()).port();
        for (socket, port) in [(&server, 80), (&client, port)] {
            let mut ss = Command::new("ss");
            let said = library::run(ss.args(["-HnMi", &format!("sport = :{port}")]));
            let token = info(socket).token.expect("it is MPTCP");
            let words: Vec<&str> = said.split_whitespace().collect();
            assert!(words.contains(&&*format!("token:{token:x}")), "{said}");
        }
    });
}

#[test]
fn other_sockets_have_only_their_kind() {
    namespace::run(|| {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("the network is ours");
        let udp = Socket::from(udp);
        let (unix, _other) = UnixStream::pair().expect("unix sockets are there");
        for socket in [udp, Socket::from(OwnedFd::from(unix))] {
            let said = info(&socket);
            assert_eq!(said.kind, Kind::Other);
            // All other values are unknown.
            let text = format!("{said:?}");
            assert_eq!(text.matches(": None").count(), 11, "{text}");
            assert_eq!(subflows(&socket), []);
        }
    });
}

#[test]
fn sockets_without_a_peer_have_no_subflows() {
    namespace::run(|| {
        let address = listening::inet("127.0.0.1:0").into();
        let said = info(&new(&address, Protocol::Tcp));
        assert_eq!((said.kind, said.bytes_sent), (Kind::Tcp, Some(0)));
        assert_eq!(subflows(&new(&address, Protocol::Tcp)), []);

        let said = info(&new(&address, Protocol::Mptcp));
        assert_eq!((said.kind, said.token), (Kind::Mptcp, None));
        assert_eq!(said.subflows, Some(0));
        assert_eq!(subflows(&new(&address, Protocol::Mptcp)), []);
    });
}

#[test]
fn a_descriptor_of_a_file_is_an_error() {
    let file = File::open("/dev/null").expect("everybody has it");
    let fd = file.as_fd();
    for query in [false, true] {
        let query = Query {
            subflows: query,
            mptcp_only: query,
            ..Query::default()
        };
        let error = connection::query(fd, query).expect_err("it is no socket");
        assert_eq!(error.to_string(), "getsockopt(SO_PROTOCOL) failed");
        assert_eq!(error.os_errno(), libc::ENOTSOCK);
    }
}

#[test]
fn after_a_reset_the_last_state_is_kept() {
    for protocol in [Protocol::Tcp, Protocol::Mptcp] {
        namespace::run(|| {
            let (client, server) = pair(IPV4, protocol);
            send(&client, &server, 1000);
            send(&server, &client, 500);
            let before = info(&server);
            client.set_linger(Some(Duration::ZERO)).expect("a socket");
            drop(client);
            let error = (&server).read(&mut [0]).expect_err("it was reset");
            assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
            until("the end", || subflows(&server).is_empty().then_some(()));
            let now = info(&server);
            assert_eq!(now.token, None);
            if protocol == Protocol::Mptcp {
                assert_eq!((now.subflows, now.subflows_total), (Some(0), None));
                assert_eq!((now.retransmits, now.kind), (None, Kind::Mptcp));
            }
            let counted = protocol == Protocol::Tcp || linux::counts_mptcp();
            assert_eq!(now.bytes_sent, counted.then_some(500));
            assert_eq!(now.bytes_received, counted.then_some(1000));
            let mut known = before.clone();
            known.update(now.clone());
            assert_eq!(known, timed(before, &now), "{protocol:?}");
        });
    }
}

#[test]
fn after_the_end_the_last_state_is_kept() {
    for protocol in [Protocol::Tcp, Protocol::Mptcp] {
        namespace::run(|| {
            let (client, server) = pair(IPV4, protocol);
            send(&client, &server, 1000);
            let mut known = info(&server);
            let before = known.clone();
            client.shutdown(Shutdown::Write).expect("it is connected");
            assert_eq!((&server).read(&mut [0]).expect("the end"), 0);
            let now = info(&server);
            assert_eq!(now, timed(before.clone(), &now), "{protocol:?}");
            known.update(now);

            server.shutdown(Shutdown::Write).expect("it is connected");
            assert_eq!((&client).read(&mut [0]).expect("the end"), 0);
            until("the end", || {
                let gone = subflows(&server).is_empty();
                let transport = server.peer_addr().is_err();
                (gone && transport).then_some(())
            });
            let now = info(&server);
            known.update(now.clone());
            let mut last = timed(before, &now);
            if protocol == Protocol::Tcp {
                // One byte too many, as documented.
                last.bytes_received = Some(1001);
            }
            assert_eq!(known, last, "{protocol:?}");
        });
    }
}
