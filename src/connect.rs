//! Sockets of clients: for a destination, with a requested protocol.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

use crate::error::Error;
use crate::protocol::{Protocol, Request};
use crate::sys;

/// Opens a stream socket for connect(2): non-blocking, and closed on exec.
/// Returns it with the protocol that it has. If the request allows a fallback
/// and the kernel does not support the protocol, or a policy forbids it, that is
/// TCP.
///
/// ```
/// use ngx_rs_listen::{Protocol, Request, connect};
///
/// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let (socket, protocol) = connect::socket(server.local_addr()?, Request::AUTO)?;
/// assert!(matches!(protocol, Protocol::Mptcp | Protocol::Tcp));
/// # drop(socket);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Unsupported`] with the reason, or [`Error::Syscall`] if socket(2)
/// failed for another reason (no descriptor left).
pub fn socket(destination: SocketAddr, request: Request) -> Result<(OwnedFd, Protocol), Error> {
    let domain = Domain::for_address(destination);
    match open(domain, request.protocol) {
        Ok(new) => Ok((new.into(), request.protocol)),
        Err(Error::Unsupported { .. }) if request.fallback => {
            open(domain, Protocol::Tcp).map(|new| (new.into(), Protocol::Tcp))
        }
        Err(error) => Err(error),
    }
}

fn open(domain: Domain, protocol: Protocol) -> Result<Socket, Error> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let number = (protocol != Protocol::Tcp).then_some(protocol);
    sys::socket(domain, kind, number).map_err(|source| {
        let error = Error::socket(protocol, "socket()".into(), source);
        error.refused(protocol, || sys::socket(domain, kind, None).map(drop))
    })
}
