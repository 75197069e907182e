//! The export for sockets of clients.

use std::os::fd::IntoRawFd;

use super::convert;
use super::guard::guard;
use super::memory::Out;
use super::types::*;
use crate::connect;
use crate::error::Error;
use crate::protocol::Request;

/// Opens a stream socket for connect(2), with a requested protocol.
///
/// address  in      the destination, AF_INET or AF_INET6; borrowed for the call
/// socklen  in      its size in bytes
/// protocol in      IPPROTO_*, or NGX_RS_IPPROTO_*
/// flags    in      0, or NGX_RS_CONNECT_FALLBACK: open a TCP socket if the
///                  kernel does not support the protocol, or a policy forbids it
/// fd       out     the socket: non-blocking, closed on exec, owned by the
///                  caller, released with close(2); written only on success;
///                  the pointer is borrowed for the call
/// opened_protocol out  IPPROTO_* that it has; borrowed for the call
/// error    out     optional, may be NULL; `message` names what is missing
///
/// Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,SYSCALL,PANIC}.
/// Any thread. One system call; after a fallback three.
/// Source: socket(2); RFC 8684.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_rs_connect_socket(
    address: *const libc::sockaddr,
    socklen: u32,
    protocol: i32,
    flags: u32,
    fd: *mut i32,
    opened_protocol: *mut i32,
    error: *mut ngx_rs_error_t,
) -> ngx_rs_status_t {
    let body = || {
        // SAFETY: our caller's contract.
        let fd = unsafe { Out::new("fd", fd) }?;
        // SAFETY: our caller's contract.
        let opened_protocol = unsafe { Out::new("opened_protocol", opened_protocol) }?;
        // SAFETY: our caller's contract.
        let address = unsafe { convert::inet("address", address, socklen) }?;
        let address =
            address.ok_or_else(|| Error::Argument("pointer \"address\" is NULL".into()))?;
        if flags & !NGX_RS_CONNECT_FALLBACK != 0 {
            let message = "argument \"flags\" has an unknown flag";
            return Err(Error::Argument(message.into()));
        }
        let request = Request {
            protocol: convert::protocol_argument(protocol)?,
            fallback: flags & NGX_RS_CONNECT_FALLBACK != 0,
        };
        let (socket, protocol) = connect::socket(address, request)?;
        opened_protocol.write(protocol.number());
        fd.write(socket.into_raw_fd());
        Ok(())
    };
    // SAFETY: our caller's contract.
    unsafe { guard(error, body) }
}
