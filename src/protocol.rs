//! Protocols of the kernel: their names, and whether the kernel has them.

use std::fmt;
use std::io;

use socket2::{Domain, Type};

use crate::error::Error;
use crate::sys;

/// A stream protocol, as in the third argument of socket(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// `IPPROTO_TCP`.
    Tcp,
    /// `IPPROTO_MPTCP`: Multipath TCP, RFC 8684.
    Mptcp,
    /// `IPPROTO_SCTP`: RFC 9260.
    Sctp,
    /// `IPPROTO_SMC`: RFC 7609, Linux 6.11.
    Smc,
    /// Any other, by its number.
    Other(u16),
}

/// `IPPROTO_SMC`, which libc lacks.
pub(crate) const IPPROTO_SMC: i32 = 256;

/// Name, protocol, number: the one table of the protocols we have a name for.
const NAMES: [(&str, Protocol, i32); 4] = [
    ("tcp", Protocol::Tcp, libc::IPPROTO_TCP),
    ("mptcp", Protocol::Mptcp, libc::IPPROTO_MPTCP),
    ("sctp", Protocol::Sctp, libc::IPPROTO_SCTP),
    ("smc", Protocol::Smc, IPPROTO_SMC),
];

impl Protocol {
    /// Its number in `linux/in.h`.
    pub fn number(self) -> i32 {
        match self {
            Self::Other(number) => i32::from(number),
            named => NAMES
                .iter()
                .find(|row| row.1 == named)
                .map_or(0, |row| row.2),
        }
    }

    /// The protocol of this number; the kernel keeps it in 16 bits, and 0 is
    /// "whatever the socket type means".
    pub fn from_number(number: i32) -> Option<Self> {
        let number = u16::try_from(number).ok().filter(|&number| number != 0)?;
        let named = NAMES.iter().find(|row| row.2 == i32::from(number));
        Some(named.map_or(Self::Other(number), |row| row.1))
    }

    /// The protocol of this name, as in `protocol=NAME`.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let named = NAMES.iter().find(|row| row.0.as_bytes() == name);
        named.map(|row| row.1)
    }

    /// Asks the running kernel whether it opens stream sockets of this
    /// protocol, by opening one (IPv4).
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the reason, or [`Error::Syscall`] where the
    /// call failed for another one (no descriptor left, forbidden by seccomp).
    pub fn check(self) -> Result<(), Error> {
        let opened = sys::socket(Domain::IPV4, Type::STREAM.cloexec(), Some(self));
        match opened {
            Ok(_) => Ok(()),
            Err(source) => Err(self.open_error("socket()".into(), source)),
        }
    }

    /// The error for a failed socket(2).
    pub(crate) fn open_error(self, call: String, source: io::Error) -> Error {
        let unsupported = [libc::EINVAL, libc::EPROTONOSUPPORT, libc::ENOPROTOOPT];
        match source.raw_os_error() {
            Some(errno) if self != Self::Tcp && unsupported.contains(&errno) => {
                Error::Unsupported {
                    call,
                    protocol: self,
                    source,
                }
            }
            _ => Error::syscall(call, source),
        }
    }

    /// What the errno of socket(2) means for this protocol.
    pub(crate) fn why_not(self, source: &io::Error) -> String {
        match (self, source.raw_os_error()) {
            (Self::Mptcp, Some(libc::ENOPROTOOPT)) => {
                "MPTCP is switched off, set sysctl net.mptcp.enabled=1".into()
            }
            (Self::Mptcp, Some(libc::EINVAL)) => {
                "this kernel is too old for MPTCP, Linux 5.6 is needed".into()
            }
            (Self::Mptcp, _) => {
                "this kernel was built without MPTCP, CONFIG_MPTCP is needed".into()
            }
            _ => format!("{self} is not supported by this kernel"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|row| row.1 == *self) {
            Some(row) => f.write_str(row.0),
            None => write!(f, "protocol {}", self.number()),
        }
    }
}

/// What a listen directive asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The protocol.
    pub protocol: Protocol,
    /// `mptcp=auto`: plain TCP will do where the kernel lacks the protocol.
    pub fallback: bool,
}

impl Wish {
    /// `protocol` and nothing else.
    pub const fn only(protocol: Protocol) -> Self {
        Self {
            protocol,
            fallback: false,
        }
    }

    /// `mptcp=auto`.
    pub const AUTO: Self = Self {
        protocol: Protocol::Mptcp,
        fallback: true,
    };

    /// Whether it is what a listener without any parameter of ours is.
    pub fn is_plain_tcp(self) -> bool {
        self.protocol == Protocol::Tcp
    }
}

/// The parameter that asks for it, as a user would write it.
impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.protocol, self.fallback) {
            (Protocol::Mptcp, true) => f.write_str("mptcp=auto"),
            (Protocol::Mptcp, false) => f.write_str("mptcp"),
            (Protocol::Tcp, _) => f.write_str("mptcp=off"),
            (Protocol::Other(number), _) => write!(f, "protocol={number}"),
            (named, _) => write!(f, "protocol={named}"),
        }
    }
}
