//! Which protocol each listening socket gets, when several listen directives
//! end up on one socket.

use socket2::SockAddr;

use crate::error::Error;
use crate::listen::{Key, KeyMap, Listening, address_text};
use crate::protocol::{Protocol, Wish};

/// What one listen directive asks for, at one address.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The address.
    pub address: SockAddr,
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
    let mut known: KeyMap<Key, Known> = KeyMap::default();
    known.reserve(asked.len());
    for (index, Asked { address, wish }) in asked.iter().enumerate() {
        let key = Key::of(address).ok_or(Error::Argument("unknown address family"))?;
        match known.entry(key).or_default().wish.replace(*wish) {
            Some(earlier) if earlier != *wish => {
                let text = address_text(address);
                return Err(conflict(
                    index,
                    format!("\"{wish}\" for {text} contradicts \"{earlier}\""),
                ));
            }
            _ => {}
        }
    }
    for socket in sockets.iter_mut().filter(|socket| socket.is_inet_stream()) {
        if let Some(key) = Key::of(&socket.address) {
            let known = known.entry(key).or_default();
            known.has_socket = true;
            socket.wish = known.wish;
        }
    }
    if known.values().all(|known| known.has_socket) {
        return Ok(());
    }
    for (index, Asked { address, wish }) in asked.iter().enumerate() {
        let key = Key::of(address);
        if key.as_ref().is_some_and(|key| known[key].has_socket) {
            continue;
        }
        let wildcard = key.and_then(|key| key.wildcard());
        let shared = wildcard.as_ref().and_then(|key| known.get(key));
        let plain = Wish::only(Protocol::Tcp);
        match shared.filter(|shared| shared.has_socket) {
            Some(shared) if shared.wish.unwrap_or(plain) == *wish => {}
            Some(_) => return Err(conflict(index, shares(address, &wildcard, *wish))),
            None => {
                let text = address_text(address);
                return Err(conflict(
                    index,
                    format!("no listening socket for \"{wish}\" on {text}"),
                ));
            }
        }
    }
    Ok(())
}

fn shares(address: &SockAddr, wildcard: &Option<Key>, wish: Wish) -> String {
    let wildcard = match wildcard {
        Some(Key::Inet(ip, port)) => address_text(&std::net::SocketAddr::new(*ip, *port).into()),
        _ => String::new(),
    };
    let address = address_text(address);
    format!("{address} shares the socket of {wildcard}, which needs \"{wish}\" too")
}

fn conflict(wish: usize, message: String) -> Error {
    Error::Conflict { wish, message }
}
