//! Sockets to open with the library, and queries of opened sockets.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use ngx_rs_listen::{Error, Inherited, Listening, Open, Protocol, Request, SocketAddress, open};
use socket2::{Domain, SockRef, Socket, Type};

pub const MPTCP: Request = Request::only(Protocol::Mptcp);
pub const OFF: Request = Request::only(Protocol::Tcp);

/// `127.0.0.1:80`, `[::1]:80` or `unix:PATH`.
pub fn address(text: &str) -> SocketAddress {
    match text.strip_prefix("unix:") {
        Some(path) => SocketAddress::Unix(path.into()),
        None => inet(text).into(),
    }
}

pub fn inet(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A stream socket to open.
pub fn stream(text: &str, request: Option<Request>) -> Listening {
    let mut socket = Listening::new(address(text), Type::STREAM);
    socket.request = request;
    socket
}

pub fn mptcp(text: &str) -> Listening {
    stream(text, Some(MPTCP))
}

pub fn tcp(text: &str) -> Listening {
    stream(text, None)
}

pub fn udp(text: &str) -> Listening {
    Listening::new(address(text), Type::DGRAM)
}

/// Opens without inheriting and without retrying.
pub fn open(sockets: &mut [Listening]) -> Result<(), Error> {
    open::listening(sockets, &mut [], &mut Open::default())
}

/// Opens sockets, and inherits those that exist already.
pub fn open_beside(
    sockets: &mut [Listening],
    inherited: &mut [Inherited<'_>],
) -> Result<(), Error> {
    open::listening(sockets, inherited, &mut Open::default())
}

/// The descriptor of a socket that was opened.
pub fn fd(socket: &Listening) -> &OwnedFd {
    socket.fd.as_ref().expect("the socket was opened")
}

/// A listener that the library did not open, for tests of inherited sockets.
pub fn listener(text: &str, protocol: Protocol, share: bool) -> Socket {
    bound(text, protocol, share)
        .and_then(|socket| socket.listen(511).map(|()| socket))
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A socket that is bound and does not listen.
pub fn bound(text: &str, protocol: Protocol, share: bool) -> io::Result<Socket> {
    let address = address(text);
    let number = match address.domain() {
        Domain::UNIX => None,
        _ => Some(protocol.number().into()),
    };
    let socket = Socket::new(address.domain(), Type::STREAM, number)?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.domain() == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.to_kernel()?)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The value of a socket option that is an `int`.
pub fn option(fd: &impl AsFd, level: i32, name: i32) -> i32 {
    let mut value = 0;
    let mut size = size_of::<i32>() as libc::socklen_t;
    let place = (&raw mut value).cast();
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `value` has room for `size` bytes, and both live through the call.
    let failed = unsafe { libc::getsockopt(fd, level, name, place, &mut size) };
    let error = io::Error::last_os_error();
    assert_eq!(failed, 0, "getsockopt({level}, {name}): {error}");
    value
}

/// `SO_PROTOCOL`.
pub fn protocol(fd: &impl AsFd) -> i32 {
    option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)
}

/// `SO_ACCEPTCONN`.
pub fn listens(fd: &impl AsFd) -> bool {
    option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == 1
}

/// `SO_REUSEPORT`.
pub fn shares(fd: &impl AsFd) -> bool {
    option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT) == 1
}

/// Connects `count` times over TCP. The handshakes are complete, and the connections wait
/// in the queue of one of the listening sockets.
pub fn connect(text: &str, count: usize) -> Vec<TcpStream> {
    let wait = Duration::from_secs(5);
    let connect = |_| TcpStream::connect_timeout(&inet(text), wait).expect("somebody listens");
    (0..count).map(connect).collect()
}

/// Accepts and closes all connections in the queue of a non-blocking listener, and returns
/// their number.
pub fn waiting(fd: &impl AsFd) -> usize {
    let listener = SockRef::from(fd);
    std::iter::from_fn(|| listener.accept_raw().ok()).count()
}

/// Whether another socket could be bound to the address with the options that nginx sets.
pub fn is_free(text: &str) -> bool {
    bound(text, Protocol::Tcp, false).is_ok()
}

/// `SO_COOKIE`, which is the same for all descriptors of one socket.
pub fn cookie(fd: &impl AsFd) -> u64 {
    let mut value = 0;
    let mut size = size_of::<u64>() as libc::socklen_t;
    let place = (&raw mut value).cast();
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `value` has room for `size` bytes, and both live through the call.
    let failed =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_COOKIE, place, &mut size) };
    let error = io::Error::last_os_error();
    assert_eq!(failed, 0, "getsockopt(SO_COOKIE): {error}");
    value
}

/// Sets a socket option that is an `int`.
pub fn set(fd: &impl AsFd, level: i32, name: i32, value: i32) {
    let size = size_of::<i32>() as libc::socklen_t;
    let place = (&raw const value).cast();
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `value` has `size` bytes, and lives through the call.
    let failed = unsafe { libc::setsockopt(fd, level, name, place, size) };
    let error = io::Error::last_os_error();
    assert_eq!(failed, 0, "setsockopt({level}, {name}, {value}): {error}");
}

/// `FD_CLOEXEC`.
pub fn closes_on_exec(fd: &impl AsFd) -> bool {
    // SAFETY: takes numbers.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFD) };
    assert_ne!(flags, -1, "fcntl: {}", io::Error::last_os_error());
    flags & libc::FD_CLOEXEC != 0
}
