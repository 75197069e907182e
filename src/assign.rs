//! Which protocol each listening socket gets. Several listen directives may share
//! one socket.

use crate::address::{AddressMap, SocketAddress};
use crate::error::Error;
use crate::listen::Listening;
use crate::protocol::{Protocol, Request};

/// The protocol that one listen directive requests at one address.
#[derive(Clone, Debug)]
pub struct Requested {
    /// The address.
    pub address: SocketAddress,
    /// The protocol.
    pub request: Request,
}

impl Requested {
    /// The request of a parsed directive at one of its addresses. None if the
    /// directive requests no protocol, or if the socket is not a stream socket
    /// of IPv4 or IPv6.
    pub fn of(socket: Listening) -> Option<Self> {
        let request = socket.request.filter(|_| socket.is_inet_stream())?;
        let address = socket.address;
        Some(Self { address, request })
    }
}

/// The request and the socket of an address.
#[derive(Default)]
struct Known {
    request: Option<Request>,
    has_socket: bool,
}

/// Sets the request of every socket to that of its address. The wildcard socket of
/// the same family and port serves an address without its own socket, so both
/// must request the same protocol. Linear in the number of both.
///
/// # Errors
/// [`Error::Conflict`], with the index of the later directive in `requested`.
pub fn protocols(sockets: &mut [Listening], requested: &[Requested]) -> Result<(), Error> {
    let mut known: AddressMap<&SocketAddress, Known> = AddressMap::default();
    known.reserve(requested.len());
    for (index, Requested { address, request }) in requested.iter().enumerate() {
        match known.entry(address).or_default().request.replace(*request) {
            Some(earlier) if earlier != *request => {
                let message = format!("\"{request}\" for {address} contradicts \"{earlier}\"");
                return Err(conflict(index, message));
            }
            _ => {}
        }
    }
    for Listening {
        address, request, ..
    } in sockets.iter_mut().filter(|socket| socket.is_inet_stream())
    {
        let known = known.entry(address).or_default();
        known.has_socket = true;
        *request = known.request;
    }
    if known.values().all(|known| known.has_socket) {
        return Ok(());
    }
    for (index, Requested { address, request }) in requested.iter().enumerate() {
        if known[address].has_socket {
            continue;
        }
        let wildcard = address.wildcard();
        let shared = wildcard
            .as_ref()
            .and_then(|wildcard| known.get_key_value(wildcard));
        let message = match shared.filter(|(_, shared)| shared.has_socket) {
            Some((_, shared)) if shared.request.unwrap_or(PLAIN) == *request => continue,
            Some((wildcard, _)) => {
                format!(
                    "nginx uses one socket for {wildcard} and {address}: \
                     add \"{request}\" to both"
                )
            }
            None => format!("no listening socket for \"{request}\" on {address}"),
        };
        return Err(conflict(index, message));
    }
    Ok(())
}

const PLAIN: Request = Request::only(Protocol::Tcp);

fn conflict(request: usize, message: String) -> Error {
    Error::Conflict { request, message }
}
