//! Which protocol each listening socket gets, when several listen directives
//! end up on one socket.

use crate::address::{AddressMap, SocketAddress};
use crate::error::Error;
use crate::listen::Listening;
use crate::protocol::{Protocol, Wish};

/// What one listen directive asks for, at one address.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The address.
    pub address: SocketAddress,
    /// The protocol.
    pub wish: Wish,
}

impl Asked {
    /// What a parsed directive asks for at one of its addresses, if anything:
    /// elsewhere than on a stream socket of IPv4 or IPv6 there is no choice,
    /// and `mptcp=off` says nothing.
    pub fn of(socket: Listening) -> Option<Self> {
        let wish = socket.wish.filter(|_| socket.is_inet_stream())?;
        let address = socket.address;
        Some(Self { address, wish })
    }
}

/// What is known of an address.
#[derive(Default)]
struct Known {
    wish: Option<Wish>,
    has_socket: bool,
}

/// Gives every socket the wish of its address. An address without a socket of
/// its own is served by the wildcard of its family and port, and has to agree
/// with it. Linear in the number of both.
///
/// # Errors
/// [`Error::Conflict`], with the index of the later directive in `asked`.
pub fn wishes(sockets: &mut [Listening], asked: &[Asked]) -> Result<(), Error> {
    let mut known: AddressMap<&SocketAddress, Known> = AddressMap::default();
    known.reserve(asked.len());
    for (index, Asked { address, wish }) in asked.iter().enumerate() {
        match known.entry(address).or_default().wish.replace(*wish) {
            Some(earlier) if earlier != *wish => {
                let message = format!("\"{wish}\" for {address} contradicts \"{earlier}\"");
                return Err(conflict(index, message));
            }
            _ => {}
        }
    }
    for Listening { address, wish, .. } in
        sockets.iter_mut().filter(|socket| socket.is_inet_stream())
    {
        let known = known.entry(address).or_default();
        known.has_socket = true;
        *wish = known.wish;
    }
    if known.values().all(|known| known.has_socket) {
        return Ok(());
    }
    for (index, Asked { address, wish }) in asked.iter().enumerate() {
        if known[address].has_socket {
            continue;
        }
        let wildcard = address.wildcard();
        let shared = wildcard
            .as_ref()
            .and_then(|wildcard| known.get_key_value(wildcard));
        let message = match shared.filter(|(_, shared)| shared.has_socket) {
            Some((_, shared)) if shared.wish.unwrap_or(PLAIN) == *wish => continue,
            Some((wildcard, _)) => {
                format!("{address} shares the socket of {wildcard}, which needs \"{wish}\" too")
            }
            None => format!("no listening socket for \"{wish}\" on {address}"),
        };
        return Err(conflict(index, message));
    }
    Ok(())
}

const PLAIN: Wish = Wish::only(Protocol::Tcp);

fn conflict(wish: usize, message: String) -> Error {
    Error::Conflict { wish, message }
}
