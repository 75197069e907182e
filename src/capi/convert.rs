//! C structs <-> the Rust API.

use std::ffi::{CString, OsStr};
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use socket2::{SockAddr, Type};

use super::guard::{Report, outside, read_sized, slice_of};
use super::types::*;
use crate::address::SocketAddress;
use crate::error::Error;
use crate::listen::{self, Disposition, Inherited, Listen, Listening, Options};
use crate::open::{self, Open};
use crate::parse::{Rules, Subsystem};
use crate::protocol::{Protocol, Wish};
use crate::resolve;

/// # Safety
/// `rules` is NULL or points to its `size` bytes.
pub(super) unsafe fn rules(rules: *const ngx_rs_rules_t) -> Result<Rules, Error> {
    if rules.is_null() {
        return Ok(Rules::default());
    }
    // SAFETY: not NULL, and our caller's contract; all its bytes may be 0.
    let rules = unsafe { read_sized(rules, size_of::<ngx_rs_rules_t>()) }?;
    let subsystem = match rules.subsystem {
        NGX_RS_SUBSYSTEM_STREAM => Subsystem::Stream,
        NGX_RS_SUBSYSTEM_HTTP => Subsystem::Http,
        NGX_RS_SUBSYSTEM_MAIL => Subsystem::Mail,
        _ => return Err(Error::Argument("no such subsystem")),
    };
    known_flags(rules.flags, NGX_RS_RULES_OURS_ONLY)?;
    Ok(Rules {
        subsystem,
        ours_only: rules.flags & NGX_RS_RULES_OURS_ONLY != 0,
    })
}

fn known_flags(flags: u32, known: u32) -> Result<(), Error> {
    match flags & !known {
        0 => Ok(()),
        _ => Err(Error::Argument("an unknown flag is set")),
    }
}

/// # Safety
/// `word` is as its type says, for as long as `'a`.
pub(super) unsafe fn bytes<'a>(word: &ngx_rs_str_t) -> Result<&'a [u8], Error> {
    // SAFETY: our caller's contract.
    unsafe { slice_of(word.data, word.len) }
}

/// # Safety
/// `how` is NULL or points to its `size` bytes.
pub(super) unsafe fn open(how: *const ngx_rs_open_t) -> Result<ngx_rs_open_t, Error> {
    if how.is_null() {
        return Ok(ngx_rs_open_t {
            size: size_of::<ngx_rs_open_t>() as u32,
            flags: 0,
            tries: 0,
            delay_ms: 0,
            inherited: ptr::null_mut(),
            inherited_count: 0,
            report: None,
            data: ptr::null_mut(),
            drain: ptr::null_mut(),
        });
    }
    // SAFETY: not NULL, and our caller's contract; all its bytes may be 0.
    let how = unsafe { read_sized(how, size_of::<ngx_rs_open_t>()) }?;
    known_flags(
        how.flags,
        NGX_RS_OPEN_LEAVE_TCP | NGX_RS_OPEN_PREPARE | NGX_RS_OPEN_CHECK,
    )?;
    Ok(how)
}

/// # Safety
/// `how.drain` is NULL, or from ngx_rs_drain_begin and not used elsewhere for
/// `'a`.
pub(super) unsafe fn how<'a>(how: &ngx_rs_open_t) -> Open<'a> {
    let has = |flag| how.flags & flag != 0;
    // SAFETY: our caller's contract.
    let drain = unsafe { how.drain.as_mut() };
    Open {
        leave_tcp: has(NGX_RS_OPEN_LEAVE_TCP),
        prepare: has(NGX_RS_OPEN_PREPARE),
        check: has(NGX_RS_OPEN_CHECK),
        tries: how.tries,
        delay: Duration::from_millis(how.delay_ms.into()),
        drain: drain.map(|drain| &mut drain.drain),
        report: None,
    }
}

/// Passes an event to the caller's function.
pub(super) fn report(how: &ngx_rs_open_t, report: open::Report<'_>) {
    let Some(function) = how.report else { return };
    let notice = |event, text| (event, Report::notice(text));
    let (event, report) = match report {
        open::Report::InUse(error) => (NGX_RS_REPORT_IN_USE, Report::from(error)),
        open::Report::Waiting(delay) => {
            let text = format!("try again to bind() after {}ms", delay.as_millis());
            notice(NGX_RS_REPORT_WAITING, text)
        }
        open::Report::Fallback(error) => {
            let report = Report::from(error);
            let prefix = "\"mptcp=auto\" falls back to TCP: ";
            (NGX_RS_REPORT_FALLBACK, report.prefixed(prefix))
        }
        open::Report::Kept {
            address,
            protocol,
            wish,
        } => {
            let text = format!(
                "\"{wish}\" for {address} has no effect: the process that passed the {protocol} \
                 socket may still use it; reload after that process has quit, or set \
                 SocketProtocol= in the systemd socket unit"
            );
            notice(NGX_RS_REPORT_KEPT, text)
        }
        open::Report::NotTcp(address) => {
            let text = format!(
                "\"mptcp=off\" for {address} has no effect: a preloaded library or a BPF program \
                 turns all TCP sockets into MPTCP sockets"
            );
            notice(NGX_RS_REPORT_NOT_TCP, text)
        }
        open::Report::DrainEnded(address) => {
            let text = format!(
                "closing the old socket on {address} early, because a new one must be bound; \
                 connections in its queue are reset"
            );
            notice(NGX_RS_REPORT_DRAIN_ENDED, text)
        }
    };
    let report = report.to_c();
    // SAFETY: the caller that set `report` says that it may be called so.
    outside(|| unsafe { function(how.data, event, &report) });
}

/// # Safety
/// `address` is NULL or points to `length` bytes.
unsafe fn sockaddr(address: *const libc::sockaddr, length: u32) -> Result<SocketAddress, Error> {
    let length = length as usize;
    if address.is_null() || length < size_of::<libc::sa_family_t>() {
        return Err(Error::Argument("an address is NULL or too short"));
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
            let path = address.cast::<u8>().wrapping_add(start);
            // SAFETY: the part of `length` bytes that follows the family.
            let path = unsafe { slice_of(path, length.saturating_sub(start)) }?;
            let end = path
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(path.len());
            let path = Path::new(OsStr::from_bytes(&path[..end]));
            // Without an end in 0 it may be longer than a path can be.
            let valid = SockAddr::unix(path).is_ok() && end > 0;
            valid
                .then(|| SocketAddress::Unix(path.into()))
                .ok_or(Error::Argument("invalid path of a unix domain socket"))
        }
        libc::AF_INET | libc::AF_INET6 => Err(Error::Argument("an address is too short")),
        _ => Err(Error::Argument("unknown address family")),
    }
}

/// # Safety
/// `fd` is a descriptor of our caller's, borrowed for the call, or none at all.
pub(super) unsafe fn descriptor<'a>(fd: i32) -> Result<BorrowedFd<'a>, Error> {
    if fd < 0 {
        return Err(Error::Argument("a descriptor is negative"));
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

fn socket_type(number: i32) -> Result<Type, Error> {
    match number {
        libc::SOCK_STREAM => Ok(Type::STREAM),
        libc::SOCK_DGRAM => Ok(Type::DGRAM),
        _ => Err(Error::Argument(
            "a socket type is neither SOCK_STREAM nor SOCK_DGRAM",
        )),
    }
}

pub(super) fn protocol(number: i32) -> Result<Protocol, Error> {
    Protocol::from_number(number).ok_or(Error::Argument("no such protocol number"))
}

pub(super) fn listening(from: &ngx_rs_listening_t) -> Result<Listening, Error> {
    known_flags(from.flags, LISTENING_FLAGS | NGX_RS_LISTENING_FALLBACK)?;
    // SAFETY: the contract of Array::new() covers the address.
    let address = unsafe { sockaddr(from.sockaddr, from.socklen) }?;
    let mut socket = Listening::new(address, socket_type(from.r#type)?);
    let some = |value: i32| (value >= 0).then_some(value);
    let nonzero = |value: i32| (value != 0).then_some(value);
    socket.options = Options {
        flags: from.flags & !NGX_RS_LISTENING_FALLBACK,
        backlog: nonzero(from.backlog).unwrap_or(listen::BACKLOG),
        rcvbuf_bytes: some(from.rcvbuf),
        sndbuf_bytes: some(from.sndbuf),
        fastopen: some(from.fastopen),
        keepidle_sec: nonzero(from.keepidle),
        keepintvl_sec: nonzero(from.keepintvl),
        keepcnt: nonzero(from.keepcnt),
    };
    if from.protocol != 0 {
        let protocol = protocol(from.protocol)?;
        let fallback = from.flags & NGX_RS_LISTENING_FALLBACK != 0;
        let wish = Wish { protocol, fallback };
        if !wish.is_plain_tcp() && !socket.is_inet_stream() {
            return Err(Error::Argument(
                "a protocol is asked for on a datagram or unix domain socket",
            ));
        }
        socket.wish = Some(wish);
    }
    Ok(socket)
}

pub(super) fn wish_number(wish: Option<Wish>) -> i32 {
    wish.map_or(0, |wish| wish.protocol.number())
}

pub(super) fn wish_flag(wish: Option<Wish>) -> u32 {
    match wish {
        Some(wish) if wish.fallback => NGX_RS_LISTENING_FALLBACK,
        _ => 0,
    }
}

pub(super) fn inherited<'a>(from: &ngx_rs_inherited_t) -> Result<Inherited<'a>, Error> {
    if from.fd < 0 {
        return Err(Error::Argument("an inherited descriptor is negative"));
    }
    known_flags(
        from.flags,
        NGX_RS_INHERITED_ALONE | NGX_RS_INHERITED_PASSED | NGX_RS_INHERITED_IN_USE,
    )?;
    let has = |flag| from.flags & flag != 0;
    // SAFETY: not -1, and borrowed by our caller for the call.
    let fd = unsafe { BorrowedFd::borrow_raw(from.fd) };
    let mut socket = Inherited::from(fd);
    if !from.sockaddr.is_null() {
        // SAFETY: the contract of InheritedArray::new() covers the address.
        socket.address = Some(unsafe { sockaddr(from.sockaddr, from.socklen) }?);
    }
    if from.r#type != 0 {
        socket.socket_type = Some(socket_type(from.r#type)?);
    }
    if from.protocol != 0 {
        socket.protocol = Some(protocol(from.protocol)?);
    }
    socket.alone = has(NGX_RS_INHERITED_ALONE);
    socket.passed = has(NGX_RS_INHERITED_PASSED);
    socket.in_use = has(NGX_RS_INHERITED_IN_USE);
    socket.shared = from.shared != 0;
    socket.disposition = match from.disposition {
        NGX_RS_KEPT => Disposition::Kept,
        NGX_RS_SUPERSEDED => Disposition::Superseded,
        NGX_RS_DRAINING => Disposition::Draining,
        _ => Disposition::Unused,
    };
    Ok(socket)
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

    /// One C struct per socket, made once: they point to the addresses.
    pub(super) fn sockets(&mut self) -> Result<&mut Vec<ngx_rs_listening_t>, Error> {
        if self.sockets.is_none() {
            let sockets = resolve::sockets_at(&self.listen, &self.addresses)?;
            let mut addresses = Vec::with_capacity(sockets.len());
            for socket in &sockets {
                let address = socket.address.to_kernel();
                let invalid = Error::Argument("invalid path of a unix domain socket");
                addresses.push(address.map_err(|_| invalid)?);
            }
            let structs = sockets
                .iter()
                .zip(&addresses)
                .map(|(socket, address)| to_c(socket, address));
            let structs = structs.collect();
            self.sockets = Some((addresses, structs));
        }
        let sockets = self.sockets.as_mut().map(|sockets| &mut sockets.1);
        sockets.ok_or(Error::Argument("no sockets"))
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

fn to_c(socket: &Listening, address: &SockAddr) -> ngx_rs_listening_t {
    let options = &socket.options;
    ngx_rs_listening_t {
        size: size_of::<ngx_rs_listening_t>() as u32,
        flags: options.flags | wish_flag(socket.wish),
        sockaddr: address.as_ptr().cast(),
        socklen: address.len(),
        r#type: socket.socket_type.into(),
        protocol: wish_number(socket.wish),
        backlog: options.backlog,
        rcvbuf: options.rcvbuf_bytes.unwrap_or(-1),
        sndbuf: options.sndbuf_bytes.unwrap_or(-1),
        fastopen: options.fastopen.unwrap_or(-1),
        keepidle: options.keepidle_sec.unwrap_or(0),
        keepintvl: options.keepintvl_sec.unwrap_or(0),
        keepcnt: options.keepcnt.unwrap_or(0),
        fd: -1,
        outcome: NGX_RS_UNTOUCHED,
        inherited: 0,
        opened_protocol: 0,
    }
}
