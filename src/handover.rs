//! A bound address changes its protocol.
//!
//! Linux binds two sockets of different protocols to one address only if both
//! have SO_REUSEPORT, and the old one may get it while it listens. The new
//! socket is bound beside the old one and listens once nothing can fail any
//! more: until then it gets no connection, and the old one loses none.
//! Source: kernel net/ipv4/inet_connection_sock.c, inet_csk_get_port().

use socket2::SockRef;

use crate::create;
use crate::error::Error;
use crate::listen::{Fate, Inherited, Listening, Outcome, flag};

/// Lets other sockets be bound to the address of an inherited one.
pub(crate) fn share(inherited: &mut Inherited<'_>) -> Result<(), Error> {
    if inherited.shared {
        return Ok(());
    }
    let failed = |call: &str, source| {
        let address = inherited.address.as_ref().map(ToString::to_string);
        let address = address.unwrap_or_default();
        Error::syscall(format!("{call}(SO_REUSEPORT) {address}"), source)
    };
    let kernel = SockRef::from(&inherited.fd);
    let before = match inherited.alone {
        true => Ok(false),
        false => kernel.reuse_port(),
    };
    if !before.map_err(|source| failed("getsockopt", source))? {
        let set = kernel.set_reuse_port(true);
        set.map_err(|source| failed("setsockopt", source))?;
        inherited.shared = true;
    }
    Ok(())
}

/// Makes the inherited sockets what they were before.
pub fn rollback(inherited: &mut [Inherited<'_>]) {
    for socket in inherited {
        socket.fate = Fate::Unused;
        if std::mem::take(&mut socket.shared) {
            // If this fails, other sockets of this user could be bound to the
            // address; it serves all the same.
            let _ = SockRef::from(&socket.fd).set_reuse_port(false);
        }
    }
}

/// Lets the prepared sockets listen. Those that they replace still do:
/// [`crate::drain`] them, or close them now.
///
/// # Errors
/// [`Error::Syscall`] of the first that failed. All the others listen; those
/// that do not have [`Outcome::Failed`], and those that they were to replace
/// had better go on.
pub fn commit(sockets: &mut [Listening]) -> Result<(), Error> {
    let mut result = Ok(());
    for socket in sockets {
        if !matches!(socket.outcome, Outcome::Replaced | Outcome::Joined) {
            continue;
        }
        if let Err(error) = create::listen(socket) {
            socket.outcome = Outcome::Failed;
            result = result.and(Err(error));
        } else {
            result = result.and(unshare(socket));
        }
    }
    result
}

/// Makes the address the socket's own again, once it listens.
pub(crate) fn unshare(socket: &Listening) -> Result<(), Error> {
    let Some(fd) = socket.fd.as_ref().filter(|_| is_alone(socket)) else {
        return Ok(());
    };
    SockRef::from(fd).set_reuse_port(false).map_err(|source| {
        let call = format!("setsockopt(SO_REUSEPORT) {}", socket.address);
        Error::syscall(call, source)
    })
}

/// Whether the commit leaves the socket without SO_REUSEPORT.
pub(crate) fn is_alone(socket: &Listening) -> bool {
    socket.outcome == Outcome::Replaced && !socket.options.has(flag::REUSEPORT)
}
