//! Clients behind a router that strips the MPTCP option. nginx serves them over TCP.

use std::io;
use std::sync::Arc;

use libc::{ENOPROTOOPT, EOPNOTSUPP, IPPROTO_MPTCP, IPPROTO_TCP};

use crate::backend::block;
use crate::client::{Accepted, Connection, Transport};
use crate::harness::Site;
use crate::middlebox::{Middlebox, SERVER, Strips};
use crate::sockets::{accepted_from, is_mptcp, protocol};
use crate::subsystem::{Subsystem, test_on};
use crate::talk::Talk;

/// The errno of a query for MPTCP on a connection without it, at each of [`SERVER`].
const NO_MPTCP: [Option<i32>; 2] = [Some(EOPNOTSUPP), Some(ENOPROTOOPT)];

/// Connects through a router to each of [`SERVER`] and exchanges data. Checks that the socket
/// that nginx accepted has the protocol `expected`, and that a query for MPTCP returns the
/// errno in `errors`, or succeeds for None.
fn serves_through(strips: Strips, on: Subsystem, expected: i32, errors: [Option<i32>; 2]) {
    let site = Site::new();
    let network = Middlebox::new(strips);
    let talk = Arc::new(Talk::new(on));
    let servers = SERVER.map(|address| talk.server(&format!("{address}:8080 mptcp")));
    let nginx = site.start(&on.conf(&servers.concat()));
    for (address, error) in SERVER.into_iter().zip(errors) {
        let before = Accepted::now().handshakes;
        let talk = Arc::clone(&talk);
        let connection = network
            .client
            .run(move || exchange_data(on, &talk, address));
        let connection = connection.unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(connection.is_mptcp(), error.is_none(), "{address}");

        let worker = nginx.workers()[0];
        let socket = accepted_from(worker, connection.local());
        let socket = socket.expect("the worker has the connection");
        let protocol = protocol(&socket).expect("a socket has a protocol");
        assert_eq!(protocol, expected, "{address}");
        let handshakes = Accepted::now().handshakes - before;
        let expected = u64::from(expected == IPPROTO_MPTCP);
        assert_eq!(handshakes, expected, "{address} as the kernel counts");
        let reason = is_mptcp(&socket).err();
        let reason = reason.and_then(|error| error.raw_os_error());
        assert_eq!(reason, error, "{address}");
    }
}

/// A connection that has sent data to nginx and received the same amount.
fn exchange_data(on: Subsystem, talk: &Talk, address: &str) -> io::Result<Connection> {
    let mut connection = talk.begin(Transport::Mptcp, &format!("{address}:8080"))?;
    for index in 0..8 {
        match on {
            Subsystem::Mail => talk.exchange(&mut connection)?,
            _ => connection.echo(&block(index))?,
        }
    }
    Ok(connection)
}

#[test_on(stream, http, mail)]
fn a_router_that_strips_nothing_lets_mptcp_through(on: Subsystem) {
    serves_through(Strips::Nothing, on, IPPROTO_MPTCP, [None, None]);
}

#[test_on(stream, http, mail)]
fn a_stripped_syn_ends_in_plain_tcp(on: Subsystem) {
    serves_through(Strips::Syn, on, IPPROTO_TCP, NO_MPTCP);
}

#[test_on(stream, http, mail)]
fn an_option_stripped_later_makes_the_connection_fall_back(on: Subsystem) {
    serves_through(Strips::AfterHandshake, on, IPPROTO_MPTCP, NO_MPTCP);
}
