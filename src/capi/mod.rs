//! The C ABI: every export of `include/ngx_rs_listen.h`.
//!
//! No logic: an export reads its arguments, calls the Rust API, and writes the
//! results. The comments here are the text of the header; the lines about the
//! pointers are the safety contract, "our caller's contract" below.
#![allow(clippy::missing_safety_doc)]

#[cfg(panic = "abort")]
compile_error!("the panic guard of the C ABI needs panic = \"unwind\"");

mod connect;
mod connection;
mod convert;
mod counters;
mod drain;
mod guard;
mod history;
mod memory;
mod opening;
mod types;

#[cfg(test)]
mod tests;

use std::ptr;

use crate::assign;
use crate::error::Error;
use crate::open::{self, TcpOption};
use crate::parse;
use crate::resolve;
pub use connect::*;
pub use counters::*;
pub use drain::*;
use guard::guard;
pub use history::*;
use memory::{Array, Out, handle, room};
use opening::Opening;
pub use types::*;

/// The ABI of the library that is running: equal to NGX_RS_ABI_VERSION of the
/// header that a program was compiled with, or the two do not fit together.
///
/// Returns that number: a constant, and no status.
/// Any thread. Source: the version of the package: of 0.x it is x, and of
/// later ones 1000 times the first number.
#[unsafe(no_mangle)]
pub extern "C" fn ngx_rs_abi_version() -> u32 {
    ABI_VERSION
}

/// Classifies each parameter of a listen directive: nginx's own, the library's,
/// or unknown.
///
/// words    in      `count` words: an address, then parameters; borrowed for
///                  the call
/// rules    in      the grammar, or NULL for that of stream; borrowed for the
///                  call
/// owners   out     `count` bytes: NGX_RS_WORD_*; the address is nginx's;
///                  borrowed for the call
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// Any thread. Allocates nothing.
/// Source: nginx ngx_stream_core_listen(), ngx_http_core_listen(),
/// ngx_mail_core_listen().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listen_classify(
    words: *const ngx_rs_str_t,
    count: usize,
    rules: *const ngx_rs_rules_t,
    owners: *mut u8,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let rules = unsafe { convert::rules(rules) }?;
        // SAFETY: our caller's contract.
        let words = unsafe { convert::words(words, count) }?;
        for word in words.clone() {
            word?;
        }
        if count == 0 {
            return Ok(());
        }
        // SAFETY: our caller's contract.
        let first = unsafe { Out::new("owners", owners) }?;
        // The address.
        first.write(NGX_RS_WORD_NGINX as u8);
        for (index, word) in words.enumerate().skip(1) {
            let owner = match parse::owner(word?, rules.subsystem) {
                parse::Owner::Ours => NGX_RS_WORD_OURS,
                parse::Owner::Nginx => NGX_RS_WORD_NGINX,
                parse::Owner::Unknown => NGX_RS_WORD_UNKNOWN,
            };
            let place = owners.wrapping_add(index);
            // SAFETY: our caller's contract; not NULL.
            unsafe { place.write(owner as u8) };
        }
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Parses the words of a listen directive, without the word "listen" itself,
/// and resolves the host name if there is one.
///
/// words    in      `count` words: an address, then parameters; borrowed for
///                  the call; they need not end in 0
/// rules    in      the grammar, or NULL for that of stream; borrowed for the
///                  call
/// listen   out     owned by the caller, released with ngx_rs_listen_free
/// error    out     optional, may be NULL; `arg_index` is the offending word
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYNTAX,HOST_NOT_FOUND,PANIC}.
/// Any thread; may wait for a name server.
/// Source: nginx ngx_stream_core_listen() and its kin, ngx_parse_url().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listen_parse(
    words: *const ngx_rs_str_t,
    count: usize,
    rules: *const ngx_rs_rules_t,
    listen: *mut *mut ngx_rs_listen_t,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let rules = unsafe { convert::rules(rules) }?;
        // SAFETY: our caller's contract.
        let words = unsafe { convert::words(words, count) }?;
        let mut bytes = room("words", count)?;
        for word in words {
            bytes.push(word?);
        }
        // SAFETY: our caller's contract.
        let listen = unsafe { Out::new("listen", listen) }?;
        let parsed = parse::listen(&bytes, &rules)?;
        let addresses = resolve::addresses(&parsed)?;
        let parsed = Box::new(ngx_rs_listen_t::new(parsed, addresses));
        listen.write(Box::into_raw(parsed));
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Returns one element for each socket that a listen directive requests: one
/// for each port of each address.
///
/// listen   in      from ngx_rs_listen_parse; borrowed for the call
/// size     in      sizeof(ngx_rs_listening_t), the distance of the elements;
///                  the same in all calls for one `listen`
/// sockets  out     `count` elements with `fd` -1, ready for
///                  ngx_rs_open_listening; owned by `listen`, released with
///                  ngx_rs_listen_free, and the same ones in every call
/// count    out     how many
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// One thread at a time for one `listen`.
/// Source: nginx ngx_parse_url(), ngx_stream_core_listen() and its kin.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listen_sockets(
    listen: *mut ngx_rs_listen_t,
    size: usize,
    sockets: *mut *mut ngx_rs_listening_t,
    count: *mut usize,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let sockets = unsafe { Out::new("sockets", sockets) }?;
        // SAFETY: our caller's contract.
        let count = unsafe { Out::new("count", count) }?;
        // SAFETY: our caller's contract.
        let listen = unsafe { handle("listen", listen) }?;
        let (first, found) = listen.sockets(size)?;
        count.write(found);
        sockets.write(first);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Returns the addresses of a host name as words for nginx's own parser. Each
/// word can replace the first word of the directive, and has the same ports.
///
/// listen   in      from ngx_rs_listen_parse; borrowed for the call
/// words    out     `count` words, each followed by a 0; owned by `listen`,
///                  released with ngx_rs_listen_free; none if the first word
///                  is not a host name
/// count    out     how many
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// One thread at a time for one `listen`.
/// Source: nginx ngx_parse_url(), ngx_inet_resolve_host().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listen_addresses(
    listen: *mut ngx_rs_listen_t,
    words: *mut *const ngx_rs_str_t,
    count: *mut usize,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let words = unsafe { Out::new("words", words) }?;
        // SAFETY: our caller's contract.
        let count = unsafe { Out::new("count", count) }?;
        // SAFETY: our caller's contract.
        let listen = unsafe { handle("listen", listen) }?;
        let found = listen.words();
        count.write(found.len());
        words.write(found.as_ptr());
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Releases what ngx_rs_listen_parse made. The descriptors of its sockets stay
/// open.
///
/// listen   in      from ngx_rs_listen_parse, or NULL, which does nothing;
///                  the memory that it owns is released
///
/// Returns nothing.
/// Any thread, when no other uses `listen`. Source: free(3), for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listen_free(listen: *mut ngx_rs_listen_t) {
    let body = || {
        if !listen.is_null() {
            // SAFETY: our caller's contract.
            drop(unsafe { Box::from_raw(listen) });
        }
        Ok(())
    };
    // SAFETY: NULL is allowed.
    unsafe { guard(ptr::null_mut(), body) };
}

/// Sets the protocols of listening sockets to those that listen directives
/// request. Several directives may share one socket: as in nginx, the wildcard
/// socket of the same family and port serves an address without its own socket.
///
/// sockets  in,out  `count` elements, borrowed for the call; `protocol` and the
///                  flag NGX_RS_LISTENING_FALLBACK are written
/// requested in     `requested_count` elements of which `sockaddr`, `type`,
///                  `protocol` and NGX_RS_LISTENING_FALLBACK are read; those
///                  with `protocol` 0 request none; borrowed for the call
/// error    out     optional, may be NULL; `arg_index` is the later of the two
///                  elements of `requested` that contradict each other
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,CONFLICT,PANIC}.
/// Any thread. Linear in both counts.
/// Source: nginx ngx_http_init_listening(), ngx_stream_optimize_servers(),
/// ngx_mail_optimize_servers().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listening_assign(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    requested: *const ngx_rs_listening_t,
    requested_count: usize,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let array = unsafe { Array::new("sockets", sockets, count) }?;
        // SAFETY: our caller's contract.
        let requested = unsafe { Array::new("requested", requested.cast_mut(), requested_count) }?;
        let mut sockets = opening::read(&array)?;
        let (mut places, mut requests) = (
            room("requested", requested_count)?,
            room("requested", requested_count)?,
        );
        for (place, requested) in requested.iter().enumerate() {
            if let Some(request) = assign::Requested::of(opening::listening(&requested?)?) {
                places.push(place);
                requests.push(request);
            }
        }
        assign::protocols(&mut sockets, &requests).map_err(|error| error.placed(&places))?;
        opening::write_requests(&array, &sockets);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Opens, binds and listens on every socket of an array, or on none. On failure
/// it closes the sockets that it opened, and restores the inherited sockets.
///
/// sockets  in,out  `count` elements, borrowed for the call; `fd`, `outcome`,
///                  `inherited` and `opened_protocol` are written only on
///                  success; each new `fd` is non-blocking, owned by the
///                  caller, released with close(2), and kept across exec
/// how      in,out  which sockets to inherit and how to retry, or NULL for no
///                  inherited sockets and one try; borrowed for the call
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,SYSCALL,PANIC}.
/// Any thread. Linear in the number of sockets.
/// Source: nginx ngx_open_listening_sockets(), ngx_init_cycle().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_open_listening(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    how: *const ngx_rs_open_t,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let opening = unsafe { Opening::new(sockets, count, how) }?;
        let mut sockets = opening::read(&opening.sockets)?;
        let mut inherited = opening.inherited()?;
        let mut report = |report: open::Report<'_>| opening.report(report);
        let mut options = opening.options();
        options.report = Some(&mut report);
        open::listening(&mut sockets, &mut inherited, &mut options)?;
        opening.write_inherited(&inherited);
        opening.write_opened(sockets, &inherited);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Second half of an opening with NGX_RS_OPEN_PREPARE: the sockets with outcome
/// NGX_RS_SUCCESSOR or NGX_RS_JOINED begin to listen. The sockets that they
/// supersede listen as well: let them drain with ngx_rs_drain_begin, or close
/// them now, which resets the connections that wait in their queues.
///
/// sockets  in,out  `count` elements as ngx_rs_open_listening left them;
///                  borrowed for the call; those that cannot listen have
///                  NGX_RS_FAILED afterwards, and the others listen
/// how      in,out  as it was passed to ngx_rs_open_listening; borrowed for the
///                  call; an inherited socket that takes the place of one with
///                  NGX_RS_FAILED has NGX_RS_KEPT afterwards
/// error    out     optional, may be NULL; that of the first that failed
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
/// Any thread. Source: listen(2); kernel net/ipv4/inet_connection_sock.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listening_commit(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    how: *const ngx_rs_open_t,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let opening = unsafe { Opening::new(sockets, count, how) }?;
        // SAFETY: our caller's contract.
        let mut sockets = unsafe { opening.borrow(opening::is_new) }?;
        let mut inherited = opening.inherited()?;
        let result = open::commit(&mut sockets, &mut inherited);
        opening.write_committed(&sockets);
        opening.write_inherited(&inherited);
        result
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Undoes an opening: closes what it opened, removes the files of its unix
/// domain sockets, and restores the inherited sockets.
///
/// sockets  in,out  `count` elements as ngx_rs_open_listening left them;
///                  borrowed for the call; afterwards every `fd` is -1, and
///                  those that were owned by the caller are closed
/// how      in,out  as it was passed to ngx_rs_open_listening; borrowed for the
///                  call; its inherited sockets stay open, and have disposition
///                  NGX_RS_UNUSED and `shared` 0 afterwards
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// Any thread. Source: nginx ngx_init_cycle(), where a new cycle fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listening_rollback(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    how: *const ngx_rs_open_t,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let opening = unsafe { Opening::new(sockets, count, how) }?;
        // SAFETY: our caller's contract.
        let mut sockets = unsafe { opening.borrow(opening::is_new) }?;
        let mut inherited = opening.inherited()?;
        open::close(&mut sockets);
        open::rollback(&mut inherited);
        opening.write_inherited(&inherited);
        opening.write_closed();
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Checks that the running kernel opens stream sockets of a protocol, by opening
/// one.
///
/// protocol in      IPPROTO_*, or NGX_RS_IPPROTO_*
/// error    out     optional, may be NULL; `message` names what is missing
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,SYSCALL,PANIC}.
/// Any thread. Source: socket(2); RFC 8684; kernel net/mptcp/ctrl.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_protocol_check(
    protocol: i32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || open::check(convert::protocol_argument(protocol)?);
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Checks that listening sockets of a protocol have an option of TCP, by setting
/// it on a socket: once per process, protocol and option.
///
/// protocol in      IPPROTO_*, or NGX_RS_IPPROTO_*
/// option   in      NGX_RS_OPTION_*
/// error    out     optional, may be NULL; `message` names the version of the kernel
///                  has it, if it ever will
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,PANIC}.
/// Any thread. Source: kernel net/mptcp/sockopt.c, mptcp_setsockopt_sol_tcp().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_option_check(
    protocol: i32,
    option: u32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        let option = match option {
            NGX_RS_OPTION_DEFERRED => TcpOption::Deferred,
            NGX_RS_OPTION_FASTOPEN => TcpOption::FastOpen,
            NGX_RS_OPTION_KEEPALIVE_TIMES => TcpOption::KeepaliveTimes,
            _ => return Err(Error::Argument("argument \"option\" is unknown".into())),
        };
        open::check_option(convert::protocol_argument(protocol)?, option)
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Queries the kernel about a connection: its protocol, subflows, bytes and
/// retransmissions.
///
/// fd       in      a connected socket, borrowed for the call
/// info     in,out  borrowed for the call; a value that the kernel does not
///                  report is NGX_RS_UNKNOWN, and so is every field that only a
///                  newer header has; if it is passed again for the same
///                  connection, totals never decrease, a value that the kernel
///                  no longer reports (after a reset) keeps its last value, and
///                  a fallback stays a fallback
/// error    out     optional, may be NULL
///
/// Two system calls for TCP and MPTCP, three after a fallback; two more at most
/// until the process has met MPTCP; one less with an earlier `info`.
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
/// Any thread; one at a time for one `info`.
/// Source: RFC 8684; kernel net/mptcp/sockopt.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_connection_info(
    fd: i32,
    info: *mut ngx_rs_connection_info_t,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        unsafe { Out::new("info", info) }?;
        // SAFETY: our caller's contract.
        let info = unsafe { Array::new("info", info, 1) }?;
        let about = connection::About::new(info)?;
        // SAFETY: our caller's contract.
        let fd = unsafe { convert::descriptor(fd) }?;
        let (now, _) = crate::connection::query(fd, about.query(false))?;
        about.write(now);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Queries the kernel for the addresses of a connection's subflows. The first
/// subflow comes first as long as it exists. Plain TCP, and MPTCP after a
/// fallback, have one path. A connection that has ended has none.
///
/// fd       in      a connected socket, borrowed for the call
/// subflows in,out  `room` elements, borrowed for the call; as many as there are
///                  subflows are written, with NGX_RS_UNKNOWN in every field
///                  that only a newer header has
/// room     in      length of `subflows`; 16 are enough for all subflows that
///                  Linux creates by itself
/// count    out     how many subflows there are, which may be more than `room`
/// info     in,out  optional, may be NULL; written as by ngx_rs_connection_info,
///                  without further system calls; borrowed for the call
/// error    out     optional, may be NULL
///
/// For MPTCP as many system calls as ngx_rs_connection_info from Linux 6.5 on,
/// and one more from 5.16 on; an older kernel does not report subflows. Two more
/// for TCP and after a fallback.
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
/// Any thread; one at a time for one `info`.
/// Source: RFC 8684; kernel net/mptcp/sockopt.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_connection_subflows(
    fd: i32,
    subflows: *mut ngx_rs_subflow_t,
    room: usize,
    count: *mut usize,
    info: *mut ngx_rs_connection_info_t,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let count = unsafe { Out::new("count", count) }?;
        // SAFETY: our caller's contract.
        let array = unsafe { Array::new("subflows", subflows, room) }?;
        // SAFETY: our caller's contract.
        let info = unsafe { Array::optional("info", info) }?;
        let about = connection::About::new(info)?;
        // SAFETY: our caller's contract.
        let fd = unsafe { convert::descriptor(fd) }?;
        let (now, found) = crate::connection::query(fd, about.query(true))?;
        connection::write_subflows(&array, &found);
        about.write(now);
        count.write(found.len());
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}
