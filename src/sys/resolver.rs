//! getaddrinfo(3).

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

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
