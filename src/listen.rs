//! A parsed listen directive, and the sockets that it requests.

use std::ffi::c_int;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{SockRef, Type};

use crate::address::SocketAddress;
use crate::error::Error;
use crate::protocol::{Protocol, Request};
use crate::sys;

/// `NGX_LISTEN_BACKLOG` of nginx on Linux.
pub const BACKLOG: i32 = 511;

/// Bits of [`Options::flags`], one per parameter that has no value.
pub mod flag {
    /// `ssl`
    pub const SSL: u32 = 1 << 0;
    /// `http2`
    pub const HTTP2: u32 = 1 << 1;
    /// `quic`
    pub const QUIC: u32 = 1 << 2;
    /// `udp`
    pub const UDP: u32 = 1 << 3;
    /// `default_server`, `default`
    pub const DEFAULT_SERVER: u32 = 1 << 4;
    /// `proxy_protocol`
    pub const PROXY_PROTOCOL: u32 = 1 << 5;
    /// `bind`, or any parameter that implies it
    pub const BIND: u32 = 1 << 6;
    /// `reuseport`
    pub const REUSEPORT: u32 = 1 << 7;
    /// `deferred`
    pub const DEFERRED: u32 = 1 << 8;
    /// `ipv6only=off`
    pub const IPV6ONLY_OFF: u32 = 1 << 9;
    /// `so_keepalive=on`, or with times
    pub const KEEPALIVE_ON: u32 = 1 << 10;
    /// `so_keepalive=off`
    pub const KEEPALIVE_OFF: u32 = 1 << 11;
}

/// A parsed listen directive.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Listen {
    /// Where to listen.
    pub address: Address,
    /// How.
    pub options: Options,
    /// The requested protocol, if a parameter of this library is there.
    pub request: Option<Request>,
}

/// The first word of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:PATH`, with the path as written.
    Unix(Vec<u8>),
    /// Everything else.
    Inet {
        /// The addresses.
        host: Host,
        /// The ports, of each address; one if no range was given.
        ports: RangeInclusive<u16>,
        /// The word as written.
        text: Vec<u8>,
    },
}

/// The host part of an address, before the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, to be resolved.
    Name(Vec<u8>),
}

impl Host {
    /// `*`, or a port alone.
    pub const ANY: Self = Self::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

/// The parameters of nginx's own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Those without a value: see [`flag`].
    pub flags: u32,
    /// `backlog=`
    pub backlog: i32,
    /// `rcvbuf=`
    pub rcvbuf_bytes: Option<i32>,
    /// `sndbuf=`
    pub sndbuf_bytes: Option<i32>,
    /// `fastopen=`: how many connections may be in handshake.
    pub fastopen: Option<i32>,
    /// `so_keepalive=IDLE::`
    pub keepidle_sec: Option<i32>,
    /// `so_keepalive=:INTERVAL:`
    pub keepintvl_sec: Option<i32>,
    /// `so_keepalive=::COUNT`
    pub keepcnt: Option<i32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flags: 0,
            backlog: BACKLOG,
            rcvbuf_bytes: None,
            sndbuf_bytes: None,
            fastopen: None,
            keepidle_sec: None,
            keepintvl_sec: None,
            keepcnt: None,
        }
    }
}

impl Options {
    /// Whether `flag` (of [`flag`]) is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The type of socket, for socket(2).
    pub fn socket_type(&self) -> Type {
        if self.has(flag::UDP | flag::QUIC) {
            Type::DGRAM
        } else {
            Type::STREAM
        }
    }
}

/// One socket to open.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listening {
    /// Where.
    pub address: SocketAddress,
    /// `SOCK_STREAM` or `SOCK_DGRAM`.
    pub socket_type: Type,
    /// Which protocol; without a request, plain TCP (or UDP).
    pub request: Option<Request>,
    /// How.
    pub options: Options,

    /// The new socket: non-blocking, and kept across exec.
    pub fd: Option<OwnedFd>,
    /// What opening did for it.
    pub outcome: Outcome,
    /// The protocol that it has, or that the caller should give it.
    pub protocol: Protocol,
}

/// What opening did for a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing yet.
    #[default]
    Untouched,
    /// A new socket, on an address that had none.
    Opened,
    /// The inherited socket of this index is kept.
    Inherited(usize),
    /// A new socket, successor of inherited ones of another protocol.
    Successor,
    /// A new socket beside inherited ones of the same protocol.
    Joined,
    /// A successor, or one that joined, for which listen(2) failed in the
    /// commit: its descriptor is a duplicate of the inherited socket of this
    /// index, which is kept.
    Failed(usize),
    /// The caller opens it: see [`crate::Open::leave_tcp`].
    Left,
}

impl Listening {
    /// A socket at `address` with nginx's defaults.
    pub fn new(address: SocketAddress, socket_type: Type) -> Self {
        Self {
            address,
            socket_type,
            request: None,
            options: Options::default(),
            fd: None,
            outcome: Outcome::Untouched,
            protocol: Protocol::Tcp,
        }
    }

    /// Whether the socket's protocol can be requested.
    pub(crate) fn is_inet_stream(&self) -> bool {
        self.socket_type == Type::STREAM && self.address.as_path().is_none()
    }

    /// Whether it is bound beside inherited sockets and listens only after the
    /// commit.
    pub(crate) fn waits_for_commit(&self) -> bool {
        matches!(self.outcome, Outcome::Successor | Outcome::Joined)
    }
}

/// A socket that the caller already has: of its running configuration, of its
/// previous process, or of a service manager.
#[derive(Debug)]
pub struct Inherited<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) address: Option<SocketAddress>,
    pub(crate) socket_type: Option<Type>,
    pub(crate) protocol: Option<Protocol>,
    /// Whether it lacks SO_REUSEPORT, according to the caller.
    pub(crate) alone: bool,
    /// Whether it is kept, whatever its protocol, if none is requested.
    pub(crate) passed: bool,
    /// Whether another process may use it.
    pub(crate) in_use: bool,
    /// Whether opening has set SO_REUSEPORT on it.
    pub(crate) shared: bool,
    pub(crate) disposition: Disposition,
}

/// What opening means for an inherited socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// No socket was requested at its address.
    #[default]
    Unused,
    /// It stays in use.
    Kept,
    /// New sockets of another protocol take its address over: after the commit
    /// close it, or let it drain: see [`crate::Drain`].
    Superseded,
    /// A superseded socket that a [`crate::Drain`] has taken.
    Draining,
}

impl<'a> Inherited<'a> {
    /// The socket `fd`; opening queries everything else from the kernel.
    pub fn new(fd: &'a impl AsFd) -> Self {
        Self::from(fd.as_fd())
    }

    /// Another process passed it, so it is kept, whatever its protocol, unless
    /// a protocol is requested at its address.
    pub fn passed(mut self) -> Self {
        self.passed = true;
        self
    }

    /// Another process may use it: it keeps its protocol in any case.
    pub fn in_use(mut self) -> Self {
        self.in_use = true;
        self
    }

    /// What opening means for it.
    pub fn disposition(&self) -> Disposition {
        self.disposition
    }

    /// Its address and type, queried from the kernel if the caller did not give
    /// them; None if nothing can be listening there. `index` is for the message.
    pub(crate) fn identify(
        &mut self,
        index: usize,
    ) -> Result<Option<(SocketAddress, c_int)>, Error> {
        let kernel = SockRef::from(&self.fd);
        let failed = |call, source| {
            let call = format!("{call} of the inherited socket #{index}");
            Error::syscall(call, source)
        };
        if self.address.is_none() {
            let address = kernel.local_addr();
            let address = address.map_err(|source| failed("getsockname()", source))?;
            self.address = SocketAddress::from_kernel(&address);
        }
        if self.socket_type.is_none() {
            let kind = kernel.r#type();
            let kind = kind.map_err(|source| failed("getsockopt(SO_TYPE)", source))?;
            self.socket_type = Some(kind);
        }
        let kind = self.socket_type.map(c_int::from);
        Ok(self.address.clone().zip(kind))
    }

    /// Its protocol, queried from the kernel if the caller did not give it.
    pub(crate) fn protocol(&mut self) -> Result<Protocol, Error> {
        if let Some(protocol) = self.protocol {
            return Ok(protocol);
        }
        let protocol = sys::protocol(self.fd).map_err(|source| {
            let address = self.address.as_ref().map(ToString::to_string);
            let call = format!("getsockopt(SO_PROTOCOL) {}", address.unwrap_or_default());
            Error::syscall(call, source)
        })?;
        Ok(*self.protocol.insert(protocol.unwrap_or(Protocol::Tcp)))
    }
}

impl<'a> From<BorrowedFd<'a>> for Inherited<'a> {
    fn from(fd: BorrowedFd<'a>) -> Self {
        Self {
            fd,
            address: None,
            socket_type: None,
            protocol: None,
            alone: false,
            passed: false,
            in_use: false,
            shared: false,
            disposition: Disposition::Unused,
        }
    }
}
