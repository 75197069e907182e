//! What the running kernel supports.

use std::ffi::c_int;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use libc::IPPROTO_TCP;
use socket2::{Domain, Type};

use crate::error::Error;
use crate::protocol::Protocol;
use crate::sys;

/// Checks that the running kernel supports stream sockets of a protocol, by
/// opening one (IPv4).
///
/// # Errors
/// [`Error::Unsupported`] with the reason, or [`Error::Syscall`] if the call
/// failed for another reason (no descriptor left).
pub fn check(protocol: Protocol) -> Result<(), Error> {
    let open = |protocol| sys::socket(Domain::IPV4, Type::STREAM.cloexec(), protocol).map(drop);
    open(Some(protocol)).map_err(|source| {
        let error = Error::socket(protocol, "socket()".into(), source);
        error.refused(protocol, || open(None))
    })
}

/// An option of a listening socket that not every protocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpOption {
    /// `deferred`
    Deferred,
    /// `fastopen=`
    FastOpen,
    /// `so_keepalive=` with times
    KeepaliveTimes,
}

impl TcpOption {
    /// Its option, a value to set, what nginx calls it, and since when MPTCP
    /// sockets have it.
    /// Source: kernel net/mptcp/sockopt.c, mptcp_setsockopt_sol_tcp().
    fn facts(self) -> (c_int, c_int, &'static str, &'static str) {
        match self {
            Self::Deferred => (libc::TCP_DEFER_ACCEPT, 1, "\"deferred\"", "5.19"),
            Self::FastOpen => (libc::TCP_FASTOPEN, 1, "\"fastopen\"", "6.2"),
            Self::KeepaliveTimes => {
                let text = "times of \"so_keepalive\"";
                (libc::TCP_KEEPIDLE, 60, text, "6.10")
            }
        }
    }

    /// Whether sockets of the protocol have it; None if that cannot be told: then
    /// setting it fails for the same reason.
    fn is_there(self, protocol: Protocol) -> Option<bool> {
        // On an SMC socket this succeeds, and makes a TCP socket of it.
        if (self, protocol) == (Self::FastOpen, Protocol::Smc) {
            return Some(false);
        }
        let (name, value, ..) = self.facts();
        let new = sys::socket(Domain::IPV4, Type::STREAM.cloexec(), Some(protocol)).ok()?;
        let Err(error) = sys::set_option(new.as_fd(), IPPROTO_TCP, name, value) else {
            return Some(true);
        };
        let lacking = [libc::ENOPROTOOPT, libc::EOPNOTSUPP];
        let is_lacking = |errno| lacking.contains(&errno);
        error
            .raw_os_error()
            .filter(|&errno| is_lacking(errno))
            .map(|_| false)
    }
}

/// Which options the kernel has: that does not change while it runs.
static KNOWN: Mutex<Vec<(Protocol, TcpOption, bool)>> = Mutex::new(Vec::new());

/// Checks that sockets of a protocol have an option of TCP, by setting it on one
/// (IPv4), once per process.
///
/// # Errors
/// [`Error::NoOption`].
pub fn check_option(protocol: Protocol, option: TcpOption) -> Result<(), Error> {
    if protocol == Protocol::Tcp {
        return Ok(());
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let row = known
        .iter()
        .find(|row| (row.0, row.1) == (protocol, option));
    let is_there = match row {
        Some(row) => row.2,
        None => match option.is_there(protocol) {
            Some(is_there) => {
                known.push((protocol, option, is_there));
                is_there
            }
            None => true,
        },
    };
    let (.., text, since) = option.facts();
    match (is_there, protocol) {
        (true, _) => Ok(()),
        (false, Protocol::Mptcp) => {
            let message = format!("MPTCP sockets have no {text} before Linux {since}");
            Err(Error::NoOption(message))
        }
        (false, _) => Err(Error::NoOption(format!(
            "{protocol} sockets have no {text}"
        ))),
    }
}
