//! Where a socket is bound, as nginx sees it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr};

/// The address of a socket: of IPv4, IPv6 or the unix domain.
///
/// Two are equal where nginx thinks so: the scope and the flow label of IPv6 do
/// not count. Source: nginx ngx_cmp_sockaddr().
#[derive(Clone, Debug, Eq)]
pub enum SocketAddress {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A path.
    Unix(PathBuf),
}

impl SocketAddress {
    /// Converts an address that the kernel reports; None for any other family,
    /// and for a unix domain socket without a path.
    pub fn from_kernel(address: &SockAddr) -> Option<Self> {
        let unix = || address.as_pathname().map(|path| Self::Unix(path.into()));
        address.as_socket().map(Self::Inet).or_else(unix)
    }

    /// As the kernel takes it.
    ///
    /// # Errors
    /// A path may be too long, or hold a 0.
    pub fn to_kernel(&self) -> io::Result<SockAddr> {
        match self {
            Self::Inet(address) => Ok((*address).into()),
            Self::Unix(path) if path.as_os_str().as_bytes().contains(&0) => {
                Err(io::Error::from_raw_os_error(libc::EINVAL))
            }
            Self::Unix(path) => SockAddr::unix(path),
        }
    }

    /// The address family.
    pub fn domain(&self) -> Domain {
        match self {
            Self::Inet(address) => Domain::for_address(*address),
            Self::Unix(_) => Domain::UNIX,
        }
    }

    /// The path of a unix domain socket.
    pub fn as_path(&self) -> Option<&Path> {
        match self {
            Self::Inet(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Address and port of IPv4 and IPv6.
    pub fn as_socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The wildcard of the same family and port.
    pub(crate) fn wildcard(&self) -> Option<Self> {
        let address = self.as_socket()?;
        let any = match address.ip() {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        Some(SocketAddr::new(any, address.port()).into())
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl PartialEq for SocketAddress {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inet(one), Self::Inet(two)) => one.ip() == two.ip() && one.port() == two.port(),
            (Self::Unix(one), Self::Unix(two)) => one.as_os_str() == two.as_os_str(),
            _ => false,
        }
    }
}

impl Hash for SocketAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Inet(address) => (address.ip(), address.port()).hash(state),
            Self::Unix(path) => path.as_os_str().hash(state),
        }
    }
}

/// As nginx writes it.
impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(SocketAddr::V4(address)) => address.fmt(f),
            Self::Inet(SocketAddr::V6(address)) => {
                write!(f, "[{}]:{}", address.ip(), address.port())
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A map from addresses, which come from the operator: nobody can choose them
/// to collide, and so a simple hash will do.
pub(crate) type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// Multiplies and rotates, as the one of the Rust compiler.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0xf135_7aea_2e62_a9c5);
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
