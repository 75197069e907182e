//! System calls that socket2 lacks.

mod checkpoint;
mod full_info;
pub(crate) mod linux;
mod netlink;
mod option;
mod resolver;
mod shared;
mod watched;

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{Domain, SockRef, Socket, Type};

use crate::protocol::Protocol;
use checkpoint::checkpoint;
#[cfg(test)]
pub(crate) use checkpoint::panic_at;
pub(crate) use full_info::{FullInfo, full_info};
pub(crate) use netlink::ports_in_handshake;
pub(crate) use option::{get_option, option, set_option};
pub(crate) use resolver::resolve;
pub(crate) use shared::SharedCounter;
pub(crate) use watched::Watched;

/// socket(2) without close-on-exec, which would break nginx's binary upgrade.
pub(crate) fn socket(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    checkpoint();
    let protocol = protocol.map(|protocol| protocol.number().into());
    Socket::new_raw(domain, kind, protocol)
}

/// The protocol that a socket was created with; None for a number that is not a
/// protocol.
pub(crate) fn protocol(fd: BorrowedFd<'_>) -> io::Result<Option<Protocol>> {
    option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).map(Protocol::from_number)
}

/// kill(2) with signal 0.
pub(crate) fn process_exists(pid: u32) -> bool {
    // SAFETY: it takes numbers, and sends nothing.
    let failed = unsafe { libc::kill(pid as libc::pid_t, 0) };
    failed == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// listen(2).
pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: c_int) -> io::Result<()> {
    checkpoint();
    SockRef::from(&fd).listen(backlog)
}

/// Ends the listening of a socket in every process that has it open.
pub(crate) fn stop_listening(fd: BorrowedFd<'_>, protocol: Protocol) -> io::Result<()> {
    checkpoint();
    if protocol == Protocol::Sctp {
        // net/sctp/socket.c, sctp_inet_listen()
        return listen(fd, 0);
    }
    match SockRef::from(&fd).shutdown(Shutdown::Both) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        ended => ended,
    }
}

/// dup2(2): the descriptor `to` refers to the socket `from` afterwards.
pub(crate) fn redirect(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    checkpoint();
    // SAFETY: both are open, and the owner of the number `to` stays the same.
    match unsafe { libc::dup2(from.as_raw_fd(), to.as_raw_fd()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// fcntl(2): execve(2) closes the descriptor.
pub(crate) fn set_close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    checkpoint();
    // SAFETY: takes no pointer, and changes a flag of the descriptor.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Checks that `spare` more descriptors can be opened, all below `limit` unless
/// that is 0.
pub(crate) fn has_room(fd: BorrowedFd<'_>, spare: u32, limit: u32) -> io::Result<()> {
    checkpoint();
    let mut copies = Vec::new();
    for _ in 0..spare {
        let copy = fd.try_clone_to_owned()?;
        if limit != 0 && copy.as_raw_fd() as u32 >= limit {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        copies.push(copy);
    }
    Ok(())
}

/// How many connections wait for accept(2) in the queue of a listening socket.
pub(crate) fn queued(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0; linux::tcp_info::UNACKED + size_of::<u32>()];
    get_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let count = info.last_chunk().copied().unwrap_or_default();
    Ok(u32::from_ne_bytes(count))
}
