//! The exports for connections that are queried several times.

use std::ptr;

use super::convert;
use super::guard::guard;
use super::memory::{self, Out, bytes_out};
use super::types::*;
use crate::connection::{History, Value, Values};
use crate::error::Error;

/// Queries the kernel about a connection, and remembers: totals never decrease,
/// a path that has ended keeps its last figures, and a fallback stays one. Of a
/// connection that is neither MPTCP nor a fallback only the kind is queried.
///
/// handle   in,out  points to NULL at first, and afterwards to the value that
///                  an earlier call wrote for the same connection; written only
///                  on success; owned by the caller, released with
///                  ngx_rs_connection_free
/// fd       in      a connected socket, borrowed for the call
/// values   in      what to query for: the sum of 1 << NGX_RS_VALUE_*, the same
///                  in all calls for a connection
/// peer     in      optional, may be NULL: the other host's address as accept(2)
///                  wrote it, for the first path; only the first call reads it;
///                  borrowed for the call
/// socklen  in      size of `peer` in bytes
/// kind     out     NGX_RS_CONNECTION_*; borrowed for the call
/// error    out     optional, may be NULL
///
/// Two system calls the first time and one later; for TCP one and none, for a
/// fallback three and two; one or two more until the process has met MPTCP. From
/// Linux 5.16 to 6.4 figures of paths cost one more, and are queried with the
/// addresses from the second call on.
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
/// Any thread; one at a time for one `handle`.
/// Source: RFC 8684; kernel net/mptcp/sockopt.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_connection_query(
    handle: *mut *mut ngx_rs_connection_t,
    fd: i32,
    values: u32,
    peer: *const libc::sockaddr,
    socklen: u32,
    kind: *mut u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let place = unsafe { Out::new("handle", handle) }?;
        // SAFETY: our caller's contract.
        let kind = unsafe { Out::new("kind", kind) }?;
        let unknown = || Error::Argument("argument \"values\" has an unknown value".into());
        let values = Values::from_bits(values).ok_or_else(unknown)?;
        // SAFETY: our caller's contract.
        let fd = unsafe { convert::descriptor(fd) }?;
        // SAFETY: not NULL, and our caller's contract.
        let earlier = unsafe { handle.read_unaligned() };
        // SAFETY: from an earlier call, or NULL.
        let found = match unsafe { earlier.as_mut() } {
            Some(connection) => connection.history.query(fd, values)?,
            None => {
                // SAFETY: our caller's contract.
                let peer = unsafe { convert::inet("peer", peer, socklen) }?;
                let mut history = History::new(peer);
                let found = history.query(fd, values)?;
                place.write(Box::into_raw(Box::new(ngx_rs_connection_t { history })));
                found
            }
        };
        kind.write(convert::kind(found));
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Writes a value of a connection as text, as for a log.
///
/// handle   in      from ngx_rs_connection_query, borrowed for the call
/// value    in      NGX_RS_VALUE_*
/// text     out     room for `room` bytes, borrowed for the call; nothing is
///                  written if the text is longer, and no 0 at its end; 1024
///                  bytes are enough for every value
/// room     in      length of `text` in bytes
/// length   out     length of the text, 0 if the value is not known; borrowed for
///                  the call
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// Any thread; one at a time for one `handle`.
/// Source: the variables of nginx that begin with `$mptcp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_connection_text(
    handle: *mut ngx_rs_connection_t,
    value: u32,
    text: *mut u8,
    room: usize,
    length: *mut usize,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let length = unsafe { Out::new("length", length) }?;
        // SAFETY: our caller's contract.
        let connection = unsafe { memory::handle("handle", handle) }?;
        let unknown = || Error::Argument("argument \"value\" is unknown".into());
        let value = Value::from_number(value).ok_or_else(unknown)?;
        let found = connection.history.text(value).unwrap_or_default();
        // SAFETY: our caller's contract.
        unsafe { bytes_out("text", text, room, found.as_bytes()) }?;
        length.write(found.len());
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Releases what ngx_rs_connection_query made.
///
/// handle   in      from ngx_rs_connection_query, or NULL, which does nothing;
///                  the memory that it owns is released
///
/// Returns nothing.
/// Any thread, when no other uses `handle`. Source: free(3), for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_connection_free(handle: *mut ngx_rs_connection_t) {
    let body = || {
        if !handle.is_null() {
            // SAFETY: our caller's contract.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(())
    };
    // SAFETY: NULL is allowed.
    unsafe { guard(ptr::null_mut(), body) };
}
