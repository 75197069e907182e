//! Stream protocols of the kernel: their names and numbers, and what a listen
//! directive requests.

use std::fmt;

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

/// Name, protocol, number: the protocols that have a name here.
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
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|row| row.1 == *self) {
            Some(row) => f.write_str(row.0),
            None => write!(f, "protocol {}", self.number()),
        }
    }
}

/// The protocol that a listen directive requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The protocol.
    pub protocol: Protocol,
    /// `mptcp=auto`: use plain TCP if the kernel does not support the protocol.
    pub fallback: bool,
}

impl Request {
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

    /// Whether it is the protocol of a listener without a parameter of this
    /// library.
    pub fn is_plain_tcp(self) -> bool {
        self.protocol == Protocol::Tcp
    }
}

/// The parameter of the directive, as a user writes it.
impl fmt::Display for Request {
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
