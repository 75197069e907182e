//! The C ABI: every export of `include/ngx_rs_listen.h`.
//!
//! No logic: pointers are read, the Rust API is called, results are written.
//! The comments here are the text of the header; what they say of the
//! pointers is the safety contract.
#![allow(clippy::missing_safety_doc)]

#[cfg(panic = "abort")]
compile_error!("the panic guard of the C ABI needs panic = \"unwind\"");

mod array;
mod connection;
mod convert;
mod drain;
mod guard;
mod types;

#[cfg(test)]
mod tests;

use std::ptr;

use crate::assign;
use crate::error::Error;
use crate::open;
use crate::parse;
use crate::resolve;
pub use drain::*;
use guard::{guard, out, slice_of, writable};
pub use types::*;

const LISTEN_IS_NULL: Error = Error::Argument("listen is NULL");

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

/// Says of each parameter of a listen directive whose it is.
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
        let words = unsafe { slice_of(words, count) }?;
        for word in words {
            // SAFETY: our caller's contract.
            unsafe { convert::bytes(word) }?;
        }
        // Nothing can fail any more but the first of the results.
        for (index, word) in words.iter().enumerate() {
            // SAFETY: our caller's contract.
            let word = unsafe { convert::bytes(word) }?;
            let owner = match index {
                // The address.
                0 => NGX_RS_WORD_NGINX,
                _ => match parse::owner(word, rules.subsystem) {
                    parse::Owner::Ours => NGX_RS_WORD_OURS,
                    parse::Owner::Nginx => NGX_RS_WORD_NGINX,
                    parse::Owner::Unknown => NGX_RS_WORD_UNKNOWN,
                },
            };
            // SAFETY: our caller's contract.
            unsafe { out(owners.wrapping_add(index), owner as u8) }?;
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
        let words = unsafe { slice_of(words, count) }?;
        let mut bytes = array::room(count)?;
        for word in words {
            // SAFETY: our caller's contract.
            bytes.push(unsafe { convert::bytes(word) }?);
        }
        writable(listen)?;
        let parsed = parse::listen(&bytes, &rules)?;
        let addresses = resolve::addresses(&parsed)?;
        let parsed = Box::new(ngx_rs_listen_t::new(parsed, addresses));
        // SAFETY: our caller's contract.
        unsafe { out(listen, Box::into_raw(parsed)) }
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// The sockets that a listen directive asks for: of each address all ports.
///
/// listen   in      from ngx_rs_listen_parse; borrowed for the call
/// sockets  out     `count` elements with `fd` -1, ready for
///                  ngx_rs_open_listening; owned by `listen`, released with
///                  ngx_rs_listen_free, and the same ones at every call
/// count    out     how many
/// error    out     optional, may be NULL
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
/// One thread at a time for one `listen`.
/// Source: nginx ngx_parse_url(), ngx_stream_core_listen() and its kin.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listen_sockets(
    listen: *mut ngx_rs_listen_t,
    sockets: *mut *mut ngx_rs_listening_t,
    count: *mut usize,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        writable(sockets)?;
        // SAFETY: our caller's contract.
        let listen = unsafe { listen.as_mut() }.ok_or(LISTEN_IS_NULL)?;
        let found = listen.sockets()?;
        // SAFETY: our caller's contract.
        unsafe { out(count, found.len()) }?;
        // SAFETY: our caller's contract.
        unsafe { out(sockets, found.as_mut_ptr()) }
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// The addresses of a host name, as words for nginx's own parser: they take the
/// place of the first word of the directive, and have the same ports.
///
/// listen   in      from ngx_rs_listen_parse; borrowed for the call
/// words    out     `count` words, each followed by a 0; owned by `listen`,
///                  released with ngx_rs_listen_free; none where the first
///                  word is no host name and can be used as it is
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
        writable(words)?;
        // SAFETY: our caller's contract.
        let listen = unsafe { listen.as_mut() }.ok_or(LISTEN_IS_NULL)?;
        let found = listen.words();
        // SAFETY: our caller's contract.
        unsafe { out(count, found.len()) }?;
        // SAFETY: our caller's contract.
        unsafe { out(words, found.as_ptr()) }
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Releases what ngx_rs_listen_parse made. The descriptors of its sockets stay
/// open.
///
/// listen   in      from ngx_rs_listen_parse, or NULL, which does nothing;
///                  what it owns goes with it
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

/// Gives listening sockets the protocols that listen directives ask for, where
/// several directives may end up on one socket: as in nginx, an address without
/// a socket of its own is served by the wildcard of its family and port.
///
/// sockets  in,out  `count` elements, borrowed for the call; `protocol` and the
///                  flag NGX_RS_LISTENING_FALLBACK are written
/// asked    in      `asked_count` elements of which `sockaddr`, `type`,
///                  `protocol` and NGX_RS_LISTENING_FALLBACK are read; those
///                  with `protocol` 0 ask for nothing; borrowed for the call
/// error    out     optional, may be NULL; `arg_index` is the later of the two
///                  elements of `asked` that contradict each other
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,CONFLICT,PANIC}.
/// Any thread. Linear in both counts.
/// Source: nginx ngx_http_init_listening(), ngx_stream_optimize_servers(),
/// ngx_mail_optimize_servers().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_listening_assign(
    sockets: *mut ngx_rs_listening_t,
    count: usize,
    asked: *const ngx_rs_listening_t,
    asked_count: usize,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let array = unsafe { array::Array::new(sockets, count) }?;
        // SAFETY: our caller's contract.
        let asked = unsafe { array::Array::new(asked.cast_mut(), asked_count) }?;
        let mut sockets = array.read()?;
        let (mut places, mut wishes) = (array::room(asked_count)?, array::room(asked_count)?);
        for (place, asked) in asked.iter().enumerate() {
            if let Some(wish) = assign::Asked::of(asked?) {
                places.push(place);
                wishes.push(wish);
            }
        }
        assign::wishes(&mut sockets, &wishes).map_err(|error| error.placed(&places))?;
        array.write_wishes(&sockets);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Opens, binds and listens on every socket of an array, or on none: on failure
/// it has closed all that it opened, and inherited sockets are what they were.
///
/// sockets  in,out  `count` elements, borrowed for the call; `fd`, `outcome`,
///                  `inherited` and `opened_protocol` are written only on
///                  success; each new `fd` is non-blocking, owned by the
///                  caller, released with close(2), and kept across exec
/// how      in,out  what to inherit and how to retry, or NULL for nothing
///                  and not at all; borrowed for the call
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
        let array = unsafe { array::Array::new(sockets, count) }?;
        // SAFETY: our caller's contract.
        let how = unsafe { convert::open(how) }?;
        // SAFETY: our caller's contract.
        let old = unsafe { array::InheritedArray::new(&how) }?;
        let mut sockets = array.read()?;
        let mut inherited = old.read()?;
        let mut report = |report: open::Report<'_>| convert::report(&how, report);
        // SAFETY: our caller's contract.
        let mut options = unsafe { convert::how(&how) };
        options.report = Some(&mut report);
        open::listening(&mut sockets, &mut inherited, &mut options)?;
        old.write(&inherited);
        array.write_opened(sockets, &inherited);
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
        let array = unsafe { array::Array::new(sockets, count) }?;
        // SAFETY: our caller's contract.
        let how = unsafe { convert::open(how) }?;
        // SAFETY: our caller's contract.
        let old = unsafe { array::InheritedArray::new(&how) }?;
        // SAFETY: our caller's contract.
        let mut sockets = unsafe { array.borrow(array::is_new) }?;
        let mut inherited = old.read()?;
        let result = open::commit(&mut sockets, &mut inherited);
        array.write_committed(&sockets);
        old.write(&inherited);
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
        let array = unsafe { array::Array::new(sockets, count) }?;
        // SAFETY: our caller's contract.
        let how = unsafe { convert::open(how) }?;
        // SAFETY: our caller's contract.
        let old = unsafe { array::InheritedArray::new(&how) }?;
        // SAFETY: our caller's contract.
        let mut sockets = unsafe { array.borrow(array::is_new) }?;
        let mut inherited = old.read()?;
        open::close(&mut sockets);
        open::rollback(&mut inherited);
        old.write(&inherited);
        array.write_closed();
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Asks the running kernel whether it opens stream sockets of a protocol, by
/// opening one.
///
/// protocol in      IPPROTO_*, or NGX_RS_IPPROTO_*
/// error    out     optional, may be NULL; `message` says what is missing
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,SYSCALL,PANIC}.
/// Any thread. Source: socket(2); RFC 8684; kernel net/mptcp/ctrl.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_protocol_check(
    protocol: i32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || open::check(convert::protocol(protocol)?);
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Asks the kernel about a connection: whether it is MPTCP, and how it fares.
///
/// fd       in      a connected socket, borrowed for the call
/// info     in,out  borrowed for the call; NGX_RS_UNKNOWN where the kernel does
///                  not say, as in all that is behind the fields of this
///                  version; when it is passed again for the same connection,
///                  totals only grow, and what the kernel no longer says stays
///                  what it was, as after a reset; a fallback is for ever
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
        let about = unsafe { connection::About::read(info) }?;
        // SAFETY: our caller's contract.
        let fd = unsafe { convert::descriptor(fd) }?;
        let (now, _) = crate::connection::ask(fd, about.question(false))?;
        about.write(now);
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}

/// Asks the kernel for the addresses of a connection's subflows, the first one
/// first as long as it is there. Of plain TCP, and after a fallback, they are
/// those of the one path; there are none when the connection is over.
///
/// fd       in      a connected socket, borrowed for the call
/// subflows in,out  `room` elements, borrowed for the call; the first ones are
///                  written, with NGX_RS_UNKNOWN in all that is behind the
///                  fields of this version
/// room     in      how many there is room for; 16 are enough for all that Linux
///                  makes by itself
/// count    out     how many subflows there are, which may be more than `room`
/// info     in,out  optional, may be NULL: as of ngx_rs_connection_info, without
///                  any further system call; borrowed for the call
/// error    out     optional, may be NULL
///
/// No system call more than ngx_rs_connection_info for MPTCP from Linux 6.5,
/// one more from 5.16; before that the kernel does not tell. Two more for TCP
/// and after a fallback.
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
        writable(count)?;
        // SAFETY: our caller's contract.
        let array = unsafe { array::SubflowArray::new(subflows, room) }?;
        // SAFETY: our caller's contract.
        let about = unsafe { connection::About::read_optional(info) }?;
        // SAFETY: our caller's contract.
        let fd = unsafe { convert::descriptor(fd) }?;
        let (now, found) = crate::connection::ask(fd, about.question(true))?;
        array.write(&found);
        about.write(now);
        // SAFETY: our caller's contract.
        unsafe { out(count, found.len()) }
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}
