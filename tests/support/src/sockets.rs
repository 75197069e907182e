//! Queries the sockets of nginx directly, and not what nginx reports of them.
//!
//! `pidfd_getfd()` duplicates a descriptor of nginx, and the duplicate is queried.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use socket2::SockRef;

/// The state of a listening socket of nginx at the time of the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its local address.
    pub address: SocketAddr,
    /// `IPPROTO_TCP` or `IPPROTO_MPTCP`.
    pub protocol: i32,
    /// The inode, which identifies the socket.
    pub inode: u64,
    /// The limit of its queue.
    pub backlog: u32,
    /// Whether it is bound to an interface that does not exist. The library binds a
    /// draining IPv6 socket so.
    pub hidden: bool,
    /// The values that getsockopt() returns for the options of a listen directive.
    pub options: BTreeMap<&'static str, i32>,
}

impl Listener {
    /// Whether it is an MPTCP socket.
    pub fn is_mptcp(&self) -> bool {
        self.protocol == libc::IPPROTO_MPTCP
    }

    /// The value of an option of [`OPTIONS`].
    pub fn option(&self, name: &str) -> i32 {
        *self
            .options
            .get(name)
            .unwrap_or_else(|| panic!("{name} cannot be read from {self:?}"))
    }
}

/// The socket options that a listen directive can set, with their names in C.
pub const OPTIONS: [(&str, i32, i32); 10] = [
    ("SO_RCVBUF", libc::SOL_SOCKET, libc::SO_RCVBUF),
    ("SO_SNDBUF", libc::SOL_SOCKET, libc::SO_SNDBUF),
    ("SO_KEEPALIVE", libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    ("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT),
    ("TCP_KEEPIDLE", libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    ("TCP_KEEPINTVL", libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    ("TCP_KEEPCNT", libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    ("TCP_FASTOPEN", libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (
        "TCP_DEFER_ACCEPT",
        libc::IPPROTO_TCP,
        libc::TCP_DEFER_ACCEPT,
    ),
    ("IPV6_V6ONLY", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
];

/// The descriptors of a process, each with the target of its link in `/proc`.
pub fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd"));
    let folder = folder
        .unwrap_or_else(|error| panic!("cannot list the descriptors of process {pid}: {error}"));
    folder
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                target.to_string_lossy().into_owned(),
            ))
        })
        .collect()
}

/// The listening stream sockets that a process has open, in the order of their descriptors.
pub fn listeners(pid: i32) -> Vec<Listener> {
    let sockets = sockets(pid).into_iter();
    sockets
        .filter_map(|(socket, inode)| listener(&socket, inode))
        .collect()
}

/// Duplicates of all sockets of a process, with their inodes.
pub fn sockets(pid: i32) -> Vec<(OwnedFd, u64)> {
    let process =
        open_process(pid).unwrap_or_else(|error| panic!("cannot open process {pid}: {error}"));
    descriptors(pid)
        .iter()
        .filter_map(|(&fd, target)| {
            let inode = target
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()?;
            // The process may have closed the descriptor since it was listed.
            Some((duplicate(&process, fd).ok()?, inode))
        })
        .collect()
}

/// A duplicate of the socket that a worker has accepted from the client with this address,
/// or None if the worker has no such socket.
pub fn accepted_from(pid: i32, client: SocketAddr) -> Option<OwnedFd> {
    let process =
        open_process(pid).unwrap_or_else(|error| panic!("cannot open process {pid}: {error}"));
    descriptors(pid)
        .keys()
        .filter_map(|&fd| duplicate(&process, fd).ok())
        .find(|socket| {
            let peer = SockRef::from(socket).peer_addr();
            peer.is_ok_and(|address| address.as_socket() == Some(client))
        })
}

/// The protocol with which a socket was created: `IPPROTO_TCP` or `IPPROTO_MPTCP`.
pub fn protocol(socket: &impl AsFd) -> io::Result<i32> {
    number(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)
}

/// Fails with the errno of the kernel if a connection is not MPTCP. The protocol of the
/// socket does not show this, because a fallback does not change it.
pub fn is_mptcp(socket: &impl AsFd) -> io::Result<()> {
    /// From linux/mptcp.h.
    const SOL_MPTCP: i32 = 284;
    const MPTCP_INFO: i32 = 1;
    number(socket, SOL_MPTCP, MPTCP_INFO).map(drop)
}

/// How many sockets of any process listen on a TCP port in the calling thread's namespace.
/// An MPTCP listener counts once, because it contains one TCP socket.
pub fn listening_on(port: u16) -> usize {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    let listens = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(LISTEN)
    };
    ["tcp", "tcp6"]
        .iter()
        .map(|table| {
            let path = format!("/proc/thread-self/net/{table}");
            let text = fs::read_to_string(path).expect("the kernel shows its sockets");
            text.lines().filter(|line| listens(line)).count()
        })
        .sum()
}

/// Queries a socket, or returns None if it does not listen on an IP address.
fn listener(socket: &OwnedFd, inode: u64) -> Option<Listener> {
    if number(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).ok()? == 0 {
        return None;
    }
    let address = SockRef::from(socket).local_addr().ok()?.as_socket()?;
    let protocol = protocol(socket).ok()?;
    let interface = number(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX).ok()?;
    let options = OPTIONS
        .iter()
        .filter_map(|&(name, level, option)| Some((name, number(socket, level, option).ok()?)));
    Some(Listener {
        address,
        protocol,
        inode,
        backlog: backlog(socket)?,
        hidden: interface != 0 && !interface_exists(interface),
        options: options.collect(),
    })
}

fn interface_exists(index: i32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: `name` has room for the longest name.
    let found = unsafe { libc::if_indextoname(index.unsigned_abs(), name.as_mut_ptr()) };
    !found.is_null()
}

/// The limit of a listener's queue, which `tcp_info` contains as `tcpi_sacked`.
pub fn backlog(socket: &impl AsFd) -> Option<u32> {
    const AT: usize = offset_of!(libc::tcp_info, tcpi_sacked);
    let info = option::<{ size_of::<libc::tcp_info>() }>(socket, libc::IPPROTO_TCP, libc::TCP_INFO)
        .ok()?;
    Some(u32::from_ne_bytes(info[AT..AT + 4].try_into().ok()?))
}

/// The value of a socket option that is a number.
pub fn number(socket: &impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    Ok(i32::from_ne_bytes(option::<4>(socket, level, name)?))
}

/// The value of a socket option, followed by zeros if the kernel's value is shorter.
pub fn option<const SIZE: usize>(
    socket: &impl AsFd,
    level: i32,
    name: i32,
) -> io::Result<[u8; SIZE]> {
    let mut value = [0u8; SIZE];
    let mut length = libc::socklen_t::try_from(SIZE).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `fd` is open while `socket` is borrowed, and the kernel writes
    // at most `length` bytes to `value`, which has as many.
    let result =
        unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens a descriptor that refers to a process.
fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open() takes two numbers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A duplicate of a descriptor of a process.
fn duplicate(process: &OwnedFd, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd() takes three numbers; `process` is open.
    own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// Takes ownership of the descriptor that a system call has returned.
fn own(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a new descriptor that the call above returned, and
    // nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
