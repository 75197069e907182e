//! One socket: socket(2), its options, bind(2), listen(2).
//!
//! Source: nginx ngx_open_listening_sockets() and
//! ngx_configure_listening_sockets() for the order of the calls.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use libc::{IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
use socket2::{Domain, Type};

use crate::address::SocketAddress;
use crate::error::Error;
use crate::listen::{Listening, flag};
use crate::protocol::Protocol;
use crate::sys;

/// The interface that the kernel binds every new socket of this process to, if
/// that was queried: `ip vrf exec` runs a program so, by way of its cgroup.
#[derive(Default)]
pub(super) struct Vrf(Option<i32>);

impl Vrf {
    /// Binds a new MPTCP socket to the interface. The kernel does so with the
    /// socket that this process sees, and not with the TCP socket inside of it,
    /// which the kernel binds and which listens; this sets both.
    /// Source: kernel net/mptcp/subflow.c, mptcp_subflow_create_socket().
    fn enter(&mut self, new: BorrowedFd<'_>, address: &SocketAddress) -> Result<(), Error> {
        const NAME: i32 = libc::SO_BINDTOIFINDEX;
        let failed =
            |call, source| Error::syscall(format!("{call}(SO_BINDTOIFINDEX) {address}"), source);
        let interface = match self.0 {
            Some(interface) => interface,
            None => {
                sys::option(new, SOL_SOCKET, NAME).map_err(|source| failed("getsockopt", source))?
            }
        };
        self.0 = Some(interface);
        match interface {
            0 => Ok(()),
            _ => sys::set_option(new, SOL_SOCKET, NAME, interface)
                .map_err(|source| failed("setsockopt", source)),
        }
    }
}

/// socket(2), its options, bind(2).
pub(super) fn create(socket: &Listening, share: bool, vrf: &mut Vrf) -> Result<OwnedFd, Error> {
    let failed = |call: &str| format!("{call} {}", socket.address);
    let protocol = socket.is_inet_stream().then_some(socket.protocol);
    let protocol = protocol.filter(|&protocol| protocol != Protocol::Tcp);
    let domain = socket.address.domain();
    let new =
        sys::socket(domain, socket.socket_type.nonblocking(), protocol).map_err(|source| {
            let error = Error::socket(socket.protocol, failed("socket()"), source);
            error.refused(socket.protocol, || bind(socket, Protocol::Tcp))
        })?;
    if protocol == Some(Protocol::Mptcp) {
        vrf.enter(new.as_fd(), &socket.address)?;
    }
    for (option, value) in OPTIONS.iter().zip(values(socket, share)) {
        let Some(value) = value else { continue };
        sys::set_option(new.as_fd(), option.level, option.name, value).map_err(|source| {
            let call = match option.shown {
                true => format!("setsockopt({}, {value})", option.text),
                false => format!("setsockopt({})", option.text),
            };
            Error::syscall(failed(&call), source)
        })?;
    }
    socket
        .address
        .to_kernel()
        .and_then(|address| new.bind(&address))
        .map_err(|source| {
            let error = Error::syscall(failed("bind() to"), source);
            error.refused(socket.protocol, || bind(socket, Protocol::Tcp))
        })?;
    if let Some(path) = socket.address.as_path() {
        // As nginx: everybody may connect, the directory decides who can.
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(|source| {
            unlink(socket);
            Error::syscall(format!("chmod() \"{}\"", path.display()), source)
        })?;
    }
    Ok(new.into())
}

/// Makes sure that no policy keeps sockets of the protocol from the address;
/// the real bind(2) meets any other error.
pub(super) fn may_bind(socket: &Listening, protocol: Protocol) -> Result<(), Error> {
    let Err(source) = bind(socket, protocol) else {
        return Ok(());
    };
    let error = Error::syscall(format!("bind() to {}", socket.address), source);
    match error.refused(protocol, || bind(socket, Protocol::Tcp)) {
        error @ Error::Unsupported { .. } => Err(error),
        _ => Ok(()),
    }
}

/// Binds another socket to the address, and closes it.
pub(super) fn bind(socket: &Listening, protocol: Protocol) -> io::Result<()> {
    let protocol = Some(protocol).filter(|&protocol| protocol != Protocol::Tcp);
    let kind = socket.socket_type.cloexec();
    let new = sys::socket(socket.address.domain(), kind, protocol)?;
    new.set_reuse_address(true)?;
    new.bind(&socket.address.to_kernel()?)
}

/// An option that nginx sets. An error shows the value if the user chose it.
struct SocketOption {
    level: i32,
    name: i32,
    text: &'static str,
    shown: bool,
}

const fn row(level: i32, name: i32, text: &'static str, shown: bool) -> SocketOption {
    SocketOption {
        level,
        name,
        text,
        shown,
    }
}

/// All options, in nginx's order.
const OPTIONS: [SocketOption; 11] = [
    row(SOL_SOCKET, libc::SO_REUSEADDR, "SO_REUSEADDR", false),
    row(SOL_SOCKET, libc::SO_REUSEPORT, "SO_REUSEPORT", false),
    row(IPPROTO_IPV6, libc::IPV6_V6ONLY, "IPV6_V6ONLY", false),
    row(SOL_SOCKET, libc::SO_RCVBUF, "SO_RCVBUF", true),
    row(SOL_SOCKET, libc::SO_SNDBUF, "SO_SNDBUF", true),
    row(SOL_SOCKET, libc::SO_KEEPALIVE, "SO_KEEPALIVE", true),
    row(IPPROTO_TCP, libc::TCP_KEEPIDLE, "TCP_KEEPIDLE", true),
    row(IPPROTO_TCP, libc::TCP_KEEPINTVL, "TCP_KEEPINTVL", true),
    row(IPPROTO_TCP, libc::TCP_KEEPCNT, "TCP_KEEPCNT", true),
    row(IPPROTO_TCP, libc::TCP_FASTOPEN, "TCP_FASTOPEN", true),
    row(
        IPPROTO_TCP,
        libc::TCP_DEFER_ACCEPT,
        "TCP_DEFER_ACCEPT",
        true,
    ),
];

/// The values of [`OPTIONS`]; None for those that are not set.
fn values(socket: &Listening, share: bool) -> [Option<i32>; OPTIONS.len()] {
    let options = &socket.options;
    let on = |set: bool| set.then_some(1);
    let ipv6 = socket.address.domain() == Domain::IPV6;
    let v6only = || i32::from(!options.has(flag::IPV6ONLY_OFF));
    let keepalive_off = options.has(flag::KEEPALIVE_OFF).then_some(0);
    [
        on(socket.address.as_path().is_none()),
        on(share || options.has(flag::REUSEPORT)),
        ipv6.then(v6only),
        options.rcvbuf_bytes,
        options.sndbuf_bytes,
        on(options.has(flag::KEEPALIVE_ON)).or(keepalive_off),
        options.keepidle_sec,
        options.keepintvl_sec,
        options.keepcnt,
        options.fastopen,
        // nginx's choice of one second: ngx_configure_listening_sockets().
        on(options.has(flag::DEFERRED)),
    ]
}

/// listen(2), on a stream socket.
pub(super) fn listen(socket: &Listening) -> Result<(), Error> {
    let Some(fd) = socket
        .fd
        .as_ref()
        .filter(|_| socket.socket_type == Type::STREAM)
    else {
        return Ok(());
    };
    let backlog = socket.options.backlog;
    let address = &socket.address;
    sys::listen(fd.as_fd(), backlog).map_err(|source| {
        Error::syscall(format!("listen() to {address}, backlog {backlog}"), source)
    })
}

/// Removes the file of a unix domain socket that was bound here.
pub(super) fn unlink(socket: &Listening) {
    if let Some(path) = socket.address.as_path() {
        // Another process may have removed it.
        let _ = fs::remove_file(path);
    }
}
