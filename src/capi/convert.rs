//! C structs <-> the Rust API.

use std::ffi::{CString, OsStr};
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use socket2::{SockAddr, Type};

use super::memory::{Array, Versioned, field, known_flags, slice_of};
use super::opening;
use super::types::*;
use crate::address::SocketAddress;
use crate::connection::Kind;
use crate::error::Error;
use crate::listen::Listen;
use crate::parse::{Rules, Subsystem};
use crate::protocol::Protocol;
use crate::resolve;

/// # Safety
/// `rules` is NULL or points to its `size` bytes.
pub(super) unsafe fn rules(rules: *const ngx_rs_rules_t) -> Result<Rules, Error> {
    // SAFETY: our caller's contract.
    let rules = unsafe { Array::optional("rules", rules.cast_mut()) }?;
    let Some(rules) = rules.iter().next().transpose()? else {
        return Ok(Rules::default());
    };
    let unknown = || field::<ngx_rs_rules_t>("subsystem", "has an unknown value");
    let subsystem = subsystem(rules.subsystem).ok_or_else(unknown)?;
    known_flags::<ngx_rs_rules_t>(rules.flags, NGX_RS_RULES_OURS_ONLY)?;
    Ok(Rules {
        subsystem,
        ours_only: rules.flags & NGX_RS_RULES_OURS_ONLY != 0,
    })
}

pub(super) fn subsystem(number: u32) -> Option<Subsystem> {
    match number {
        NGX_RS_SUBSYSTEM_STREAM => Some(Subsystem::Stream),
        NGX_RS_SUBSYSTEM_HTTP => Some(Subsystem::Http),
        NGX_RS_SUBSYSTEM_MAIL => Some(Subsystem::Mail),
        _ => None,
    }
}

/// The words of a directive.
///
/// # Safety
/// `words` is NULL or points to `count` words, which live for `'a`.
pub(super) unsafe fn words<'a>(
    words: *const ngx_rs_str_t,
    count: usize,
) -> Result<impl Iterator<Item = Result<&'a [u8], Error>> + Clone, Error> {
    // SAFETY: our caller's contract.
    let words = unsafe { slice_of("words", words, count) }?;
    // SAFETY: our caller's contract.
    Ok(words
        .iter()
        .map(|word| unsafe { slice_of("data", word.data, word.len) }))
}

/// # Safety
/// `address` is NULL or points to `length` bytes.
pub(super) unsafe fn sockaddr<T: Versioned>(
    address: *const libc::sockaddr,
    length: u32,
) -> Result<SocketAddress, Error> {
    let length = length as usize;
    let short = "is too small";
    if address.is_null() {
        return Err(field::<T>("sockaddr", "is NULL"));
    }
    if length < size_of::<libc::sa_family_t>() {
        return Err(field::<T>("socklen", short));
    }
    // SAFETY: not NULL, long enough for the family, which is its first field.
    let family = unsafe { address.cast::<libc::sa_family_t>().read_unaligned() };
    match i32::from(family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family and the length say that it is one.
            let inet = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(inet.sin_addr.s_addr));
            let port = u16::from_be(inet.sin_port);
            Ok(SocketAddr::V4(SocketAddrV4::new(ip, port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: the family and the length say that it is one.
            let inet6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(inet6.sin6_addr.s6_addr);
            let port = u16::from_be(inet6.sin6_port);
            let (flow, scope) = (inet6.sin6_flowinfo, inet6.sin6_scope_id);
            Ok(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)).into())
        }
        libc::AF_UNIX => {
            let start = offset_of!(libc::sockaddr_un, sun_path);
            let first = address.cast::<u8>().wrapping_add(start);
            // SAFETY: the part of `length` bytes that follows the family.
            let bytes = unsafe { slice_of("sun_path", first, length.saturating_sub(start)) }?;
            let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            let name = Path::new(OsStr::from_bytes(bytes));
            // Without an end in 0 it may be longer than a path can be.
            match SockAddr::unix(name) {
                Ok(_) if !bytes.is_empty() => Ok(SocketAddress::Unix(name.into())),
                _ => Err(field::<T>("sockaddr", "has an invalid path")),
            }
        }
        libc::AF_INET | libc::AF_INET6 => Err(field::<T>("socklen", short)),
        _ => Err(field::<T>("sockaddr", "has an unknown address family")),
    }
}

/// # Safety
/// `address` is NULL or points to `length` bytes.
pub(super) unsafe fn inet(
    argument: &str,
    address: *const libc::sockaddr,
    length: u32,
) -> Result<Option<SocketAddr>, Error> {
    if address.is_null() {
        return Ok(None);
    }
    // SAFETY: our caller's contract.
    let address = unsafe { sockaddr::<ngx_rs_listening_t>(address, length) };
    match address.ok().and_then(|address| address.as_socket()) {
        Some(address) => Ok(Some(address)),
        None => {
            let message = "is neither an IPv4 nor an IPv6 address";
            Err(Error::Argument(format!(
                "argument \"{argument}\" {message}"
            )))
        }
    }
}

/// # Safety
/// `fd` is a descriptor of our caller's, borrowed for the call, or none at all.
pub(super) unsafe fn descriptor<'a>(fd: i32) -> Result<BorrowedFd<'a>, Error> {
    if fd < 0 {
        return Err(Error::Argument("argument \"fd\" is negative".into()));
    }
    // SAFETY: not -1, and borrowed by our caller for the call.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// As the kernel has it.
pub(super) fn storage(address: SocketAddr) -> libc::sockaddr_storage {
    let address = SockAddr::from(address);
    // SAFETY: a SockAddr begins with all of a sockaddr_storage.
    unsafe { address.as_ptr().cast::<libc::sockaddr_storage>().read() }
}

pub(super) fn socket_type<T: Versioned>(number: i32) -> Result<Type, Error> {
    match number {
        libc::SOCK_STREAM => Ok(Type::STREAM),
        libc::SOCK_DGRAM => Ok(Type::DGRAM),
        _ => Err(field::<T>("type", "is neither SOCK_STREAM nor SOCK_DGRAM")),
    }
}

pub(super) fn protocol_argument(number: i32) -> Result<Protocol, Error> {
    let none = || Error::Argument("argument \"protocol\" is not a protocol number".into());
    Protocol::from_number(number).ok_or_else(none)
}

pub(super) fn kind(kind: Kind) -> u32 {
    match kind {
        Kind::Other => NGX_RS_CONNECTION_OTHER,
        Kind::Tcp => NGX_RS_CONNECTION_TCP,
        Kind::Mptcp => NGX_RS_CONNECTION_MPTCP,
        Kind::Fallback => NGX_RS_CONNECTION_FALLBACK,
    }
}

pub(super) fn protocol<T: Versioned>(number: i32) -> Result<Protocol, Error> {
    let none = || field::<T>("protocol", "is not a protocol number");
    Protocol::from_number(number).ok_or_else(none)
}

impl ngx_rs_listen_t {
    pub(super) fn new(listen: Listen, addresses: Vec<IpAddr>) -> Self {
        Self {
            listen,
            addresses,
            sockets: None,
            words: None,
        }
    }

    /// One C struct of `size` bytes per socket, made once: they point to the
    /// addresses.
    pub(super) fn sockets(
        &mut self,
        size: usize,
    ) -> Result<(*mut ngx_rs_listening_t, usize), Error> {
        if self.sockets.is_none() {
            let sockets = resolve::sockets_at(&self.listen, &self.addresses)?;
            let (memory, array) = Array::<ngx_rs_listening_t>::allocate(size, sockets.len())?;
            let mut addresses = Vec::with_capacity(sockets.len());
            for (index, socket) in sockets.iter().enumerate() {
                let address = socket.address.to_kernel();
                let invalid = |_| Error::Argument("invalid path of a unix domain socket".into());
                let address = address.map_err(invalid)?;
                // It stays where it is when the vector grows: its capacity is enough.
                addresses.push(address);
                array.write_whole(index, &opening::to_c(socket, &addresses[index]))?;
            }
            self.sockets = Some(Structs {
                addresses,
                memory,
                size,
            });
        }
        match &mut self.sockets {
            Some(structs) if structs.size == size => {
                let first = structs.memory.as_mut_ptr().cast();
                Ok((first, structs.addresses.len()))
            }
            _ => {
                let message = "argument \"size\" is not that of the first call";
                Err(Error::Argument(message.into()))
            }
        }
    }

    /// The words for nginx, made once.
    pub(super) fn words(&mut self) -> &[ngx_rs_str_t] {
        let (listen, addresses) = (&self.listen, &self.addresses);
        let (_, structs) = self.words.get_or_insert_with(|| {
            let words: Vec<CString> = resolve::words(listen, addresses);
            let word = |word: &CString| ngx_rs_str_t {
                len: word.as_bytes().len(),
                data: word.as_ptr().cast(),
            };
            let structs = words.iter().map(word).collect();
            (words, structs)
        });
        structs
    }
}
