//! Replaced sockets that go on for a while.

use super::array::{Array, InheritedArray};
use super::guard::guard;
use super::*;
use crate::drain;
use crate::listen::{Inherited, Listening};

/// After ngx_rs_listening_commit: new connections go to the new sockets only,
/// from now on, while those that they replace still listen. Accept from both,
/// in any process, until ngx_rs_drain_end has ended the old ones. Until then
/// one of several sockets that share an address by NGX_RS_LISTENING_REUSEPORT
/// gets all new connections of that address. With NGX_RS_OPEN_LET_JOIN, where
/// MPTCP connections of an old socket live and TCP takes its place, subflows can
/// join them until ngx_rs_drain_end is told to end the old socket now.
///
/// sockets  in      `count` elements as ngx_rs_listening_commit left them,
///                  borrowed for the call; the caller may have set `fd` of
///                  those with NGX_RS_LEFT
/// how      in      as it was passed to ngx_rs_open_listening, borrowed for the
///                  call: its inherited sockets with fate NGX_RS_SUPERSEDED are
///                  drained; the caller may have added some that drain already,
///                  and removed others
/// error    out     optional, may be NULL; that of the first that failed
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}, or NGX_RS_ERR_SYSCALL
/// where new connections may still go to an old socket, and be lost with it, or
/// where subflows cannot join.
/// Any thread; needs no privilege. Linear in the number of sockets, and with
/// NGX_RS_OPEN_LET_JOIN of MPTCP connections.
/// Source: kernel net/ipv4/inet_hashtables.c, net/ipv6/inet6_hashtables.c,
/// net/core/sock_reuseport.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_drain_begin(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    how: *const ngx_rs_open_t,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        unsafe {
            with(sockets, count, how, |new, old, flags| {
                let has = |flag| flags & flag != 0;
                let how = drain::Begin {
                    join: has(NGX_RS_OPEN_LET_JOIN),
                    committed: has(NGX_RS_OPEN_COMMITTED),
                };
                drain::begin(new, old, how)
            })
        }
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Before the next change at these addresses: old and new sockets share new
/// connections again, and further ones can be bound beside them. Until
/// ngx_rs_drain_begin, for the sockets that listen after that change or after
/// its rollback, ngx_rs_drain_end ends nothing there.
///
/// sockets  in      as for ngx_rs_drain_begin, borrowed for the call
/// how      in      as for ngx_rs_drain_begin, borrowed for the call
/// error    out     optional, may be NULL; that of the first that failed
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}, or NGX_RS_ERR_SYSCALL
/// where clients may have to wait until an old socket ends, or where nothing
/// can be bound beside the sockets of an address.
/// Any thread. Linear in the number of sockets.
/// Source: kernel net/core/sock_reuseport.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_drain_pause(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    how: *const ngx_rs_open_t,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        unsafe { with(sockets, count, how, |new, old, _| drain::pause(new, old)) }
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Ends the listening of sockets that drain, in every process that has them,
/// where nothing is under way any more: no handshake, nothing that waits for
/// accept(2), and no subflow that may join. None is ended that shares new
/// connections with the new ones, as before ngx_rs_drain_begin and after
/// ngx_rs_drain_pause. Those that have ended, here or in another process, have
/// fate NGX_RS_ENDED afterwards: close them.
///
/// sockets  in      as for ngx_rs_drain_begin, borrowed for the call
/// how      in,out  likewise, borrowed for the call; `fate` of its inherited
///                  sockets is written, and their descriptors stay open
/// now      in      not 0: end them at once, whatever is under way
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}, or NGX_RS_ERR_SYSCALL
/// where an old socket listens on until all have closed it, or where one new
/// socket goes on to get all connections that several were to share.
/// Any thread; needs no privilege. Linear in the number of sockets.
/// Source: shutdown(2), sock_diag(7).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_drain_end(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    how: *const ngx_rs_open_t,
    now: u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        let end = |new: &[Listening], old: &mut [Inherited<'_>], _| drain::end(new, old, now != 0);
        // SAFETY: our caller's contract.
        unsafe { with(sockets, count, how, end) }
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// # Safety
/// The pointers are what the exports above say.
unsafe fn with(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    how: *const ngx_rs_open_t,
    work: impl FnOnce(&[Listening], &mut [Inherited<'_>], u32) -> Result<(), Error>,
) -> Result<(), Error> {
    // SAFETY: our caller's contract.
    let array = unsafe { Array::new(sockets, count) }?;
    // SAFETY: our caller's contract.
    let how = unsafe { convert::open(how) }?;
    // SAFETY: our caller's contract.
    let old = unsafe { InheritedArray::new(&how) }?;
    let mut sockets = array.read()?;
    let mut inherited = old.read()?;
    // SAFETY: our caller's contract; they are given back just below.
    unsafe { array.adopt_all(&mut sockets) };
    let result = work(&sockets, &mut inherited, how.flags);
    array.write_committed(sockets);
    old.write(&inherited);
    result
}
