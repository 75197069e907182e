//! The calls that socket2 lacks.

use std::ffi::{CString, c_int};
use std::io::{self, Read};
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{Domain, Socket, Type};

use crate::connection::linux::{MPTCP_FULL_INFO, SOL_MPTCP, mptcp_info, tcp_info};
use crate::protocol::Protocol;

/// socket(2), and nothing else: no close-on-exec, which would break nginx's
/// binary upgrade.
pub(crate) fn socket(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    let protocol = protocol.map(|protocol| protocol.number().into());
    Socket::new_raw(domain, kind, protocol)
}

/// setsockopt(2) with an integer.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    let size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` lives through the call, and `size` is its size.
    let failed = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            size,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// getsockopt(2): returns the length of the answer, at most that of `value`.
pub(crate) fn get_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &mut [u8],
) -> io::Result<usize> {
    let mut length = value.len() as libc::socklen_t;
    let place = value.as_mut_ptr().cast();
    // SAFETY: `value` has room for `length` bytes, and both live through the call.
    let failed = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, place, &mut length) };
    match failed {
        0 => Ok(value.len().min(length as usize)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// getsockopt(2) of an integer.
pub(crate) fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value = [0; size_of::<c_int>()];
    get_option(fd, level, name, &mut value).map(|_| c_int::from_ne_bytes(value))
}

/// setsockopt(2) with SO_ATTACH_REUSEPORT_CBPF: the program chooses a socket of
/// the group of `fd` for each connection that begins, by its index.
pub(crate) fn choose_by(fd: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    let place = ptr::from_ref(&program).cast();
    // SAFETY: `program` has `size` bytes and names an array of its length; both
    // live through the call, which only reads them.
    let failed = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, place, size) };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many connections wait in the queue of a listening socket.
pub(crate) fn waiting(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0; tcp_info::UNACKED + size_of::<u32>()];
    get_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let count = info.last_chunk().copied().unwrap_or_default();
    Ok(u32::from_ne_bytes(count))
}

/// `struct mptcp_full_info` of linux/mptcp.h. Its names are the kernel's.
#[repr(C)]
pub(crate) struct FullInfo {
    size_tcpinfo_kernel: u32,
    pub(crate) size_tcpinfo_user: u32,
    size_sfinfo_kernel: u32,
    pub(crate) size_sfinfo_user: u32,
    pub(crate) num_subflows: u32,
    pub(crate) size_arrays_user: u32,
    subflow_info: u64,
    tcp_info: u64,
    pub(crate) mptcp_info: [u8; mptcp_info::SIZE],
}

impl FullInfo {
    /// Bytes before `mptcp_info`.
    pub(crate) const HEAD: usize = offset_of!(Self, mptcp_info);

    /// Asks for that many subflows, with so many bytes of each in both arrays.
    pub(crate) fn new(room: usize, subflow: usize, tcp: usize) -> Self {
        Self {
            size_tcpinfo_kernel: 0,
            size_tcpinfo_user: tcp as u32,
            size_sfinfo_kernel: 0,
            size_sfinfo_user: subflow as u32,
            num_subflows: 0,
            size_arrays_user: room as u32,
            subflow_info: 0,
            tcp_info: 0,
            mptcp_info: [0; mptcp_info::SIZE],
        }
    }
}

/// getsockopt(2) with MPTCP_FULL_INFO: returns the length of the answer. Both
/// arrays are as long as `info` says.
pub(crate) fn full_info(
    fd: BorrowedFd<'_>,
    info: &mut FullInfo,
    subflows: &mut [u8],
    tcp: &mut [u8],
) -> io::Result<usize> {
    let room = info.size_arrays_user as usize;
    let fits = |array: &[u8], size: u32| room.checked_mul(size as usize) == Some(array.len());
    assert!(fits(subflows, info.size_sfinfo_user) && fits(tcp, info.size_tcpinfo_user));
    info.subflow_info = subflows.as_mut_ptr().expose_provenance() as u64;
    info.tcp_info = tcp.as_mut_ptr().expose_provenance() as u64;
    let mut length = size_of::<FullInfo>() as libc::socklen_t;
    let (level, name) = (SOL_MPTCP, MPTCP_FULL_INFO);
    let place = ptr::from_mut(info).cast();
    // SAFETY: `info` has room for `length` bytes, and its arrays for as many
    // elements as it says; all of them live through the call.
    let failed = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, place, &mut length) };
    match failed {
        0 => Ok(size_of::<FullInfo>().min(length as usize)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `TCP_SYN_RECV` of linux/tcp_states.h: a handshake that waits for its last
/// packet.
pub(crate) const SYN_RECV: u32 = 3;

/// `TCP_LISTEN`.
pub(crate) const LISTEN: u32 = 10;

/// `TCP_ESTABLISHED`.
pub(crate) const ESTABLISHED: u32 = 1;

/// The local addresses of all sockets of an address family and a protocol in a
/// state, as the kernel's sock_diag(7) tells them. For TCP, an MPTCP socket is
/// those inside it.
pub(crate) fn in_state(
    domain: Domain,
    protocol: Protocol,
    state: u32,
) -> io::Result<Vec<SocketAddr>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const INET_DIAG_REQ_PROTOCOL: u16 = 3;
    const HEADER: usize = 16;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    // struct nlmsghdr, struct inet_diag_req_v2, struct nlattr with a number
    let mut request = [0u8; HEADER + 56 + 8];
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[HEADER] = i32::from(domain) as u8;
    // Eight bits are too few for the number of MPTCP, which the attribute has.
    request[HEADER + 1] = protocol.number() as u8;
    request[HEADER + 4..HEADER + 8].copy_from_slice(&(1u32 << state).to_ne_bytes());
    let attribute = &mut request[HEADER + 56..];
    attribute[..2].copy_from_slice(&8u16.to_ne_bytes());
    attribute[2..4].copy_from_slice(&INET_DIAG_REQ_PROTOCOL.to_ne_bytes());
    attribute[4..].copy_from_slice(&protocol.number().to_ne_bytes());

    let protocol = Some(libc::NETLINK_SOCK_DIAG.into());
    let mut socket = Socket::new_raw(
        Domain::from(libc::AF_NETLINK),
        Type::RAW.cloexec(),
        protocol,
    )?;
    socket.send(&request)?;
    let (mut addresses, mut answer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let size = socket.read(&mut answer)?;
        let mut rest = &answer[..size];
        while let Some(header) = rest.get(..HEADER) {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let message = rest.get(..length as usize).unwrap_or_default();
            match c_int::from(u16::from_ne_bytes([header[4], header[5]])) {
                libc::NLMSG_DONE => return Ok(addresses),
                // struct inet_diag_msg has the port at 4, and the address at 8.
                kind if kind == SOCK_DIAG_BY_FAMILY.into() && message.len() >= HEADER + 24 => {
                    let (port, address) = (&message[HEADER + 4..], &message[HEADER + 8..]);
                    let ip = match domain {
                        Domain::IPV6 => bytes::<16>(address).into(),
                        _ => IpAddr::from(bytes::<4>(address)),
                    };
                    addresses.push(SocketAddr::new(ip, u16::from_be_bytes(bytes(port))));
                }
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
            let next = (length as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[next..];
        }
        if size == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
    }
}

/// The first bytes; `from` has as many.
fn bytes<const SIZE: usize>(from: &[u8]) -> [u8; SIZE] {
    from.first_chunk().copied().unwrap_or([0; SIZE])
}

/// The addresses of a name, as nginx's ngx_inet_resolve_host() gets them: in
/// getaddrinfo(3)'s order, without those of a family that this host lacks.
pub(crate) fn resolve(name: &[u8]) -> Option<Vec<IpAddr>> {
    let name = CString::new(name).ok()?;
    // SAFETY: all fields of `addrinfo` may be zero.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = libc::AF_UNSPEC;
    hints.ai_socktype = libc::SOCK_STREAM;
    hints.ai_flags = libc::AI_ADDRCONFIG;
    let mut list = ptr::null_mut();
    // SAFETY: the name ends in 0, and all three pointers live through the call.
    let failed = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &hints, &mut list) };
    if failed != 0 {
        return None;
    }

    let mut addresses = Vec::new();
    let mut next = list;
    // SAFETY: getaddrinfo() made the list, and it is freed below only.
    while let Some(entry) = unsafe { next.as_ref() } {
        match entry.ai_family {
            libc::AF_INET => {
                let address = entry.ai_addr.cast::<libc::sockaddr_in>();
                // SAFETY: ai_addr has the type that ai_family says.
                let address = unsafe { (*address).sin_addr.s_addr };
                addresses.push(Ipv4Addr::from(u32::from_be(address)).into());
            }
            libc::AF_INET6 => {
                let address = entry.ai_addr.cast::<libc::sockaddr_in6>();
                // SAFETY: as above.
                let address = unsafe { (*address).sin6_addr.s6_addr };
                addresses.push(Ipv6Addr::from(address).into());
            }
            _ => {}
        }
        next = entry.ai_next;
    }
    // SAFETY: `list` came from getaddrinfo(), and nothing borrows from it now.
    unsafe { libc::freeaddrinfo(list) };
    Some(addresses).filter(|addresses| !addresses.is_empty())
}
