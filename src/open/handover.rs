//! An address changes its protocol.
//!
//! Linux binds two sockets of different protocols to one address only if both
//! have SO_REUSEPORT; the old one may get that option while it listens. The
//! successor is bound beside the old socket, and listens only in the commit:
//! until then the kernel gives no connection to the successor.
//! Source: kernel net/ipv4/inet_connection_sock.c, inet_csk_get_port().

use std::io;
use std::os::fd::AsFd;

use libc::{SO_REUSEPORT, SOL_SOCKET};

use super::create::listen;
use crate::error::Error;
use crate::listen::{Disposition, Inherited, Listening, Outcome, flag};
use crate::sys;

/// Whether an inherited socket has SO_REUSEPORT.
pub(super) fn is_shared(inherited: &Inherited<'_>) -> Result<bool, Error> {
    if inherited.alone {
        return Ok(false);
    }
    sys::option(inherited.fd, SOL_SOCKET, SO_REUSEPORT)
        .map(|value| value != 0)
        .map_err(|source| failed("getsockopt", inherited, source))
}

/// Lets other sockets be bound to the address of an inherited one.
pub(super) fn share(inherited: &mut Inherited<'_>) -> Result<(), Error> {
    if !inherited.shared && !is_shared(inherited)? {
        let set = sys::set_option(inherited.fd, SOL_SOCKET, SO_REUSEPORT, 1);
        set.map_err(|source| failed("setsockopt", inherited, source))?;
        inherited.shared = true;
    }
    Ok(())
}

fn failed(call: &str, inherited: &Inherited<'_>, source: io::Error) -> Error {
    let address = inherited.address.as_ref().map(ToString::to_string);
    let address = address.unwrap_or_default();
    Error::syscall(format!("{call}(SO_REUSEPORT) {address}"), source)
}

/// Restores the inherited sockets after an opening that is not committed.
pub fn rollback(inherited: &mut [Inherited<'_>]) {
    for socket in inherited {
        socket.disposition = Disposition::Unused;
        unshare_inherited(socket);
    }
}

fn unshare_inherited(socket: &mut Inherited<'_>) {
    if std::mem::take(&mut socket.shared) {
        // If this fails, the socket still serves, but other sockets of this
        // user can be bound to its address.
        let _ = sys::set_option(socket.fd, SOL_SOCKET, SO_REUSEPORT, 0);
    }
}

/// Lets the prepared sockets listen. The sockets that they supersede listen as
/// well: let them drain ([`crate::Drain`]), or close them now.
///
/// # Errors
/// [`Error::Syscall`] of the first one that failed. All others listen. Instead of
/// one that cannot listen, an inherited socket of its address is kept:
/// [`Outcome::Failed`].
pub fn commit(sockets: &mut [Listening], inherited: &mut [Inherited<'_>]) -> Result<(), Error> {
    let mut result = Ok(());
    for socket in sockets {
        if socket.waits_for_commit() {
            let one = match listen(socket) {
                Ok(()) => unshare(socket),
                Err(error) => Err(keep_inherited(socket, inherited, error)),
            };
            result = result.and(one);
        }
    }
    result
}

/// A commit cannot be undone. The descriptor of a socket that cannot listen
/// therefore becomes a duplicate of an inherited socket of its address: of a
/// superseded one, if there is one that is not kept yet. Returns the error of
/// listen(2) with this consequence.
fn keep_inherited(socket: &mut Listening, inherited: &mut [Inherited<'_>], error: Error) -> Error {
    let key = (socket.address.clone(), socket.socket_type.into());
    let (mut superseded, mut any) = (None, None);
    for (index, old) in inherited.iter_mut().enumerate() {
        if matches!(old.identify(index), Ok(Some(found)) if found == key) {
            any.get_or_insert(index);
            if old.disposition == Disposition::Superseded {
                superseded.get_or_insert(index);
            }
        }
    }
    let (Some(index), Some(fd)) = (superseded.or(any), &socket.fd) else {
        return error;
    };
    let old = &mut inherited[index];
    if let Err(source) = sys::redirect(old.fd, fd.as_fd()) {
        return Error::syscall(
            format!("dup2() of the old socket {}", socket.address),
            source,
        );
    }
    unshare_inherited(old);
    old.disposition = Disposition::Kept;
    socket.outcome = Outcome::Failed(index);
    if let Ok(protocol) = old.protocol() {
        socket.protocol = protocol;
    }
    error.with_consequence("keeping the old socket")
}

/// Prevents other sockets from being bound to the address of a successor that
/// listens.
pub(super) fn unshare(socket: &Listening) -> Result<(), Error> {
    let alone = socket.outcome == Outcome::Successor && !socket.options.has(flag::REUSEPORT);
    let Some(fd) = socket.fd.as_ref().filter(|_| alone) else {
        return Ok(());
    };
    sys::set_option(fd.as_fd(), SOL_SOCKET, SO_REUSEPORT, 0).map_err(|source| {
        let call = format!("setsockopt(SO_REUSEPORT) {}", socket.address);
        Error::syscall(call, source)
            .with_consequence("new connections may be lost until the old socket is closed")
    })
}
