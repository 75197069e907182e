//! The calls that socket2 lacks.

use std::ffi::{CString, c_int};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{Domain, Socket, Type};

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
