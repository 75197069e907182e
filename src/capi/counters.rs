//! The exports that count connections.

use super::convert;
use super::guard::guard;
use super::memory::{Array, Out, bytes_out};
use super::opening;
use super::types::*;
use crate::connection::Kind;
use crate::counters::{Counted, Counters, Format};
use crate::error::Error;

/// How much memory counters need. A page of it that is never written takes none.
///
/// Returns a number of bytes: a constant, and no status.
/// Any thread. Source: mmap(2).
#[unsafe(no_mangle)]
pub extern "C" fn ngx_rs_counters_size() -> usize {
    size_of::<Counters>()
}

/// Gives a row to each listener, which it keeps: one of the same address and
/// subsystem has the same row.
///
/// counters in,out  ngx_rs_counters_size() bytes that all processes share, 0 at
///                  first and aligned to 8; borrowed for the call
/// subsystem in     NGX_RS_SUBSYSTEM_*
/// sockets  in      `count` elements of which `sockaddr` is read, borrowed for the
///                  call
/// rows     out     `count` numbers: rows, or NGX_RS_NO_ROW of an address that is
///                  neither IPv4 nor IPv6, and when there are more than 16384;
///                  borrowed for the call
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// Any thread; one process at a time. Linear in the number of listeners.
/// Source: the `mptcp_status` directive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_counters_rows(
    counters: *mut ngx_rs_counters_t,
    subsystem: u32,
    sockets: *const ngx_rs_listening_t,
    count: usize,
    rows: *mut u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let counters = unsafe { memory(counters) }?;
        counters.check()?;
        let unknown = || Error::Argument("argument \"subsystem\" has an unknown value".into());
        let subsystem = convert::subsystem(subsystem).ok_or_else(unknown)?;
        // SAFETY: our caller's contract.
        let sockets = unsafe { Array::new("sockets", sockets.cast_mut(), count) }?;
        let sockets = opening::read(&sockets)?;
        if count == 0 {
            return Ok(());
        }
        // SAFETY: our caller's contract.
        unsafe { Out::new("rows", rows) }?;
        let addresses = sockets.iter().map(|socket| socket.address.as_socket());
        for (index, row) in counters.rows(subsystem, addresses).enumerate() {
            let row = row.map_or(NGX_RS_NO_ROW, |row| row as u32);
            // SAFETY: not NULL, and there are `count` of them.
            unsafe { rows.wrapping_add(index).write_unaligned(row) };
        }
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Takes a seat for this process, where its open connections are counted.
///
/// counters in,out  as for ngx_rs_counters_rows; borrowed for the call
/// pid      in      of this process
/// seat     out     a number, the same if the process has one; borrowed for the
///                  call
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// Any thread. Source: the `mptcp_status` directive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_counters_enter(
    counters: *mut ngx_rs_counters_t,
    pid: u32,
    seat: *mut u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let seat = unsafe { Out::new("seat", seat) }?;
        // SAFETY: our caller's contract.
        let counters = unsafe { memory(counters) }?;
        counters.check()?;
        seat.write(counters.enter(pid) as u32);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Leaves the seat: the connections that are still open are open no longer.
///
/// counters in,out  as for ngx_rs_counters_rows; borrowed for the call
/// seat     in      from ngx_rs_counters_enter
/// pid      in      of this process
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// Any thread. Source: the `mptcp_status` directive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_counters_leave(
    counters: *mut ngx_rs_counters_t,
    seat: u32,
    pid: u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        unsafe { memory(counters) }?.leave(seat as usize, pid);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Counts a connection that begins. Unless the listener is TCP, this is one
/// system call.
///
/// counters in,out  as for ngx_rs_counters_rows; borrowed for the call
/// seat     in      from ngx_rs_counters_enter
/// row      in      from ngx_rs_counters_rows, and not NGX_RS_NO_ROW
/// protocol in      IPPROTO_* of the listener
/// fd       in      the connection, borrowed for the call
/// kind     out     for ngx_rs_counters_end; borrowed for the call
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
/// Any thread. Source: the `mptcp_status` directive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_counters_begin(
    counters: *mut ngx_rs_counters_t,
    seat: u32,
    row: u32,
    protocol: i32,
    fd: i32,
    kind: *mut u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let kind = unsafe { Out::new("kind", kind) }?;
        // SAFETY: our caller's contract.
        let counters = unsafe { memory(counters) }?;
        let protocol = convert::protocol_argument(protocol)?;
        // SAFETY: our caller's contract.
        let fd = unsafe { convert::descriptor(fd) }?;
        let counted = counters.begin(seat as usize, row as usize, protocol, fd)?;
        kind.write(convert::kind(counted.kind));
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Counts a connection that ends, before its descriptor is closed. For MPTCP
/// this is one system call, and two after a fallback.
///
/// counters in,out  as for ngx_rs_counters_rows; borrowed for the call
/// seat     in      as for ngx_rs_counters_begin
/// row      in      likewise
/// kind     in      from ngx_rs_counters_begin
/// fd       in      the connection, borrowed for the call; -1 if it is closed
///                  already: then its paths and bytes are not counted
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// Any thread. Source: the `mptcp_status` directive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_counters_end(
    counters: *mut ngx_rs_counters_t,
    seat: u32,
    row: u32,
    kind: u32,
    fd: i32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let counters = unsafe { memory(counters) }?;
        let (seat, row) = (seat as usize, row as usize);
        let kind = match kind {
            NGX_RS_CONNECTION_TCP => Kind::Tcp,
            NGX_RS_CONNECTION_MPTCP => Kind::Mptcp,
            _ => Kind::Other,
        };
        // SAFETY: our caller's contract.
        let fd = unsafe { convert::descriptor(fd) }.ok();
        counters.end(Counted { seat, row, kind }, fd);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Writes all counters as text.
///
/// counters in      as for ngx_rs_counters_rows; borrowed for the call
/// format   in      NGX_RS_FORMAT_*
/// text     out     room for `room` bytes, borrowed for the call; nothing is
///                  written if the text is longer, and no 0 at its end
/// room     in      length of `text` in bytes
/// length   out     length of the text, which may be another one the next time;
///                  borrowed for the call
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// Any thread. One system call for each process that has a seat.
/// Source: RFC 8259; Prometheus' text format, version 0.0.4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_counters_text(
    counters: *mut ngx_rs_counters_t,
    format: u32,
    text: *mut u8,
    room: usize,
    length: *mut usize,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let length = unsafe { Out::new("length", length) }?;
        // SAFETY: our caller's contract.
        let counters = unsafe { memory(counters) }?;
        counters.check()?;
        let format = match format {
            NGX_RS_FORMAT_JSON => Format::Json,
            NGX_RS_FORMAT_PROMETHEUS => Format::Prometheus,
            _ => return Err(Error::Argument("argument \"format\" is unknown".into())),
        };
        let found = counters.text(format);
        // SAFETY: our caller's contract.
        unsafe { bytes_out("text", text, room, found.as_bytes()) }?;
        length.write(found.len());
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// # Safety
/// `counters` is NULL, or as ngx_rs_counters_rows describes it, for `'a`.
unsafe fn memory<'a>(counters: *mut ngx_rs_counters_t) -> Result<&'a Counters, Error> {
    let counters = counters.cast::<Counters>();
    match counters.is_aligned() {
        // SAFETY: aligned, our caller's contract, and all bytes may be anything.
        true => unsafe { counters.as_ref() }
            .ok_or_else(|| Error::Argument("pointer \"counters\" is NULL".into())),
        false => Err(Error::Argument(
            "pointer \"counters\" is not aligned".into(),
        )),
    }
}
