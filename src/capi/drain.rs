//! The exports for superseded sockets that drain.

use std::ptr;
use std::time::Duration;

use super::guard::guard;
use super::memory::{Array, Out, Versioned, handle};
use super::opening::Opening;
use super::types::*;
use crate::drain::{Drain, Room};
use crate::error::Error;

/// After ngx_rs_listening_commit: directs new connections to the successors,
/// while the superseded sockets still listen. Accept from both, in any process,
/// and call ngx_rs_drain_poll until all superseded sockets have ended. Until then
/// one of several successors that share an address by NGX_RS_LISTENING_REUSEPORT
/// gets all new connections of that address. A socket that drains already
/// continues if `sockets` has its address, and ends otherwise.
///
/// drain    in,out  points to NULL at first, and afterwards to the value that an
///                  earlier call wrote, in this process or in its parent before
///                  fork(2); with NGX_RS_ERR_SYSCALL written as well, unless
///                  mmap() failed; owned by the caller, released with
///                  ngx_rs_drain_free
/// sockets  in      `count` elements as ngx_rs_listening_commit left them,
///                  borrowed for the call; the caller may have set `fd` of
///                  those with NGX_RS_LEFT
/// how      in,out  as it was passed to ngx_rs_listening_commit, borrowed for the
///                  call: its inherited sockets with NGX_RS_SUPERSEDED are
///                  taken and have NGX_RS_DRAINING afterwards; the caller still
///                  owns their descriptors, which get close-on-exec, and closes
///                  them when ngx_rs_drain_poll reports that they have ended
/// spare    in      number of descriptors that this process must still be able
///                  to open
/// limit    in      RLIMIT_NOFILE of the processes that this one forks, or 0
///                  if it is the same
/// error    out     optional, may be NULL; that of the first that failed
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}, or NGX_RS_ERR_SYSCALL. If
/// `spare` descriptors cannot be opened, no socket is taken, and every drain
/// ends: close the superseded sockets now. Otherwise new connections may reach a
/// superseded socket, and be lost with it.
/// One thread at a time for one `drain`; needs no privilege. Linear in the number
/// of sockets.
/// Source: kernel net/ipv4/inet_hashtables.c, net/ipv6/inet6_hashtables.c,
/// net/core/sock_reuseport.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_drain_begin(
    drain: *mut *mut ngx_rs_drain_t,
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    how: *const ngx_rs_open_t,
    spare: u32,
    limit: u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let place = unsafe { Out::new("drain", drain) }?;
        // SAFETY: our caller's contract.
        let opening = unsafe { Opening::new(sockets, count, how) }?;
        // SAFETY: our caller's contract.
        let sockets = unsafe { opening.borrow(|_| true) }?;
        let mut inherited = opening.inherited()?;
        // SAFETY: not NULL, and our caller's contract.
        let mut earlier = unsafe { drain.read_unaligned() };
        if earlier.is_null() {
            let drain = Drain::new()?;
            earlier = Box::into_raw(Box::new(ngx_rs_drain_t { drain }));
        }
        place.write(earlier);
        // SAFETY: from an earlier call, or made above.
        let drain = unsafe { &mut *earlier };
        let result = drain
            .drain
            .begin(&sockets, &mut inherited, Room { spare, limit });
        opening.write_inherited(&inherited);
        result
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Ends each superseded socket that is idle, or whose NGX_RS_DRAIN_MS are over,
/// in every process. Notices which ones another process has ended. A socket is
/// idle if no handshake is under way and no connection waits for accept(2). In a
/// process that was forked before the latest ngx_rs_drain_begin, the call only
/// notices.
///
/// drain    in,out  from ngx_rs_drain_begin, borrowed for the call; fork(2)
///                  copies it, and every process can use its copy
/// sockets  out     `room` elements, borrowed for the call: all that drain, in an
///                  order that only ngx_rs_drain_begin changes; those that have
///                  ended are listed until the next ngx_rs_drain_begin
/// room     in      at least the number of sockets that drain
/// count    out     how many there are
/// delay_ms out     optional, may be NULL: when to call again, in milliseconds;
///                  0 if every socket has ended; borrowed for the call
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}, or NGX_RS_ERR_SYSCALL with
/// all results written: either a socket that has ended listens until every
/// process has closed it, or one successor gets all connections that several
/// were to share.
/// One thread at a time for one `drain`; needs no privilege.
/// Source: shutdown(2), sock_diag(7).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_drain_poll(
    drain: *mut ngx_rs_drain_t,
    sockets: *mut ngx_rs_draining_t,
    room: usize,
    count: *mut usize,
    delay_ms: *mut u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let count = unsafe { Out::new("count", count) }?;
        // SAFETY: our caller's contract.
        let array = unsafe { Array::<ngx_rs_draining_t>::new("sockets", sockets, room) }?;
        // SAFETY: our caller's contract.
        let drain = unsafe { handle("drain", drain) }?;
        if room < drain.drain.len() {
            let message = "argument \"room\" is less than the number of sockets that drain";
            return Err(Error::Argument(message.into()));
        }
        let result = drain.drain.poll();
        let mut found = 0;
        for socket in drain.drain.sockets() {
            let element = ngx_rs_draining_t {
                fd: socket.fd,
                successor: socket.successor as u32,
                ended: socket.ended.into(),
                protocol: socket.protocol.number(),
                ..Versioned::new()
            };
            array.write(found, &element);
            found += 1;
        }
        count.write(found);
        let delay = drain.drain.delay().unwrap_or(Duration::ZERO);
        // SAFETY: our caller's contract.
        if let Ok(delay_ms) = unsafe { Out::new("delay_ms", delay_ms) } {
            delay_ms.write(delay.as_millis() as u32);
        }
        result
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Releases the state in this process, and ends the sockets that drain in every
/// process, unless another process called ngx_rs_drain_begin later. A process
/// that quits calls it while the descriptors are open.
///
/// drain    in      from ngx_rs_drain_begin, or NULL, which does nothing; the
///                  memory that it owns is released, and the caller still owns
///                  the descriptors
///
/// Returns nothing.
/// Any thread, when no other uses `drain`. Source: free(3), for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_drain_free(drain: *mut ngx_rs_drain_t) {
    let body = || {
        if !drain.is_null() {
            // SAFETY: our caller's contract.
            std::mem::drop(unsafe { Box::from_raw(drain) });
        }
        Ok(())
    };
    // SAFETY: NULL is allowed.
    unsafe { guard(ptr::null_mut(), body) };
}
