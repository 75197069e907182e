//! [`Listen`] -> one [`Listening`] per address and port.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::address::SocketAddress;
use crate::error::Error;
use crate::listen::{Address, Host, Listen, Listening};
use crate::protocol::Protocol;
use crate::sys;

/// The IP addresses that the directive names, each once; none for `unix:`.
/// Queries the name servers if the address is a host name.
///
/// # Errors
/// [`Error::HostNotFound`].
pub fn addresses(listen: &Listen) -> Result<Vec<IpAddr>, Error> {
    let Address::Inet { host, text, .. } = &listen.address else {
        return Ok(Vec::new());
    };
    match host {
        Host::Ip(ip) => Ok(vec![*ip]),
        Host::Name(name) => {
            let mut found = sys::resolve(name).ok_or_else(|| Error::HostNotFound {
                address: String::from_utf8_lossy(text).into_owned(),
            })?;
            let mut seen = BTreeSet::new();
            found.retain(|ip| seen.insert(*ip));
            Ok(found)
        }
    }
}

/// The sockets that the directive requests: of each address all ports, in
/// nginx's order.
///
/// ```
/// use ngx_rs_listen::{parse, resolve};
///
/// let listen = parse::listen(&[b"[::1]:7000-7003"], &parse::Rules::default())?;
/// let sockets = resolve::sockets(&listen)?;
/// assert_eq!(sockets.len(), 4);
/// assert_eq!(sockets[3].address.to_string(), "[::1]:7003");
/// # Ok::<(), ngx_rs_listen::Error>(())
/// ```
///
/// # Errors
/// [`Error::HostNotFound`]; [`Error::Argument`] for a path that no socket can
/// have.
pub fn sockets(listen: &Listen) -> Result<Vec<Listening>, Error> {
    sockets_at(listen, &addresses(listen)?)
}

/// The same, with the addresses known already.
pub(crate) fn sockets_at(listen: &Listen, addresses: &[IpAddr]) -> Result<Vec<Listening>, Error> {
    let socket = |address| Listening {
        options: listen.options.clone(),
        request: listen.request,
        protocol: listen
            .request
            .map_or(Protocol::Tcp, |request| request.protocol),
        ..Listening::new(address, listen.options.socket_type())
    };
    match &listen.address {
        Address::Unix(path) => {
            let path = Path::new(OsStr::from_bytes(path));
            let address = SocketAddress::Unix(path.into());
            match address.to_kernel() {
                Ok(_) => Ok(vec![socket(address)]),
                Err(_) => Err(Error::Argument(
                    "invalid path of a unix domain socket".into(),
                )),
            }
        }
        Address::Inet { ports, .. } => Ok(addresses
            .iter()
            .flat_map(|&ip| ports.clone().map(move |port| SocketAddr::new(ip, port)))
            .map(|address| socket(address.into()))
            .collect()),
    }
}

/// The words for nginx in the place of a host name, one for each of its
/// addresses; none where the word can be used as it is.
pub(crate) fn words(listen: &Listen, addresses: &[IpAddr]) -> Vec<CString> {
    let Address::Inet {
        host: Host::Name(name),
        text,
        ..
    } = &listen.address
    else {
        return Vec::new();
    };
    let word = |ip: &IpAddr| {
        let host = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        CString::new([host.as_bytes(), &text[name.len()..]].concat()).ok()
    };
    addresses.iter().filter_map(word).collect()
}
