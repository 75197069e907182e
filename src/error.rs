//! What can go wrong, in nginx's words where nginx has words.

use std::io;

use crate::protocol::Protocol;

/// Why a call failed.
///
/// The text never contains that of `errno`: whoever logs it appends it, as
/// nginx does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller broke the contract of the function.
    #[error("{0}")]
    Argument(String),

    /// The directive is wrong.
    #[error("{message}")]
    Syntax {
        /// Index of the offending word.
        word: usize,
        /// nginx's message, with the offending word in it.
        message: String,
    },

    /// The host name has no address.
    #[error("host not found in \"{address}\" of the \"listen\" directive")]
    HostNotFound {
        /// The address as written.
        address: String,
    },

    /// Two listen directives request different protocols for one socket.
    #[error("{message}")]
    Conflict {
        /// Index of the later of the two, among those that were given.
        request: usize,
        /// Names both addresses and the protocols that they request.
        message: String,
    },

    /// The running kernel cannot open sockets of this protocol.
    #[error("{call} failed: {}", why_not(*protocol, source))]
    Unsupported {
        /// The call and the socket: `socket() 127.0.0.1:80`.
        call: String,
        /// The requested protocol.
        protocol: Protocol,
        /// What socket(2) answered.
        source: io::Error,
    },

    /// No other socket can be bound to the address of an SMC socket.
    #[error(
        "the kernel binds no other socket beside the SMC socket on {address}: restart the \
         server, or remove the listener and reload, then add it and reload"
    )]
    Unchangeable {
        /// The address.
        address: String,
    },

    /// The kernel gives new connections to the old socket at this address, too.
    #[error(
        "the kernel spreads new connections over the old socket on {0} and its SMC successor: \
         some may be lost until the old socket is closed"
    )]
    NotDirected(String),

    /// Sockets of the protocol do not have an option of TCP.
    #[error("{0}")]
    NoOption(String),

    /// A system call failed.
    #[error("{call} failed{consequence}")]
    Syscall {
        /// The call and the socket: `bind() to 127.0.0.1:80`.
        call: String,
        /// Empty, or a comma and what happens now.
        consequence: String,
        /// Its errno.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn syntax(word: usize, message: impl Into<String>) -> Self {
        Self::Syntax {
            word,
            message: message.into(),
        }
    }

    pub(crate) fn syscall(call: impl Into<String>, source: io::Error) -> Self {
        Self::Syscall {
            call: call.into(),
            consequence: String::new(),
            source,
        }
    }

    /// The error of a socket(2) that failed for this protocol.
    pub(crate) fn socket(protocol: Protocol, call: String, source: io::Error) -> Self {
        let unsupported = [libc::EINVAL, libc::EPROTONOSUPPORT, libc::ENOPROTOOPT];
        match source.raw_os_error() {
            Some(errno) if protocol != Protocol::Tcp && unsupported.contains(&errno) => {
                Self::Unsupported {
                    call,
                    protocol,
                    source,
                }
            }
            _ => Self::syscall(call, source),
        }
    }

    /// The error of a socket(2) or bind(2) that failed for this protocol: a
    /// policy or a sandbox may refuse the protocol. It does not if `tcp`, the
    /// same call for plain TCP, fails as well: on a privileged port, for example.
    pub(crate) fn refused(self, protocol: Protocol, tcp: impl FnOnce() -> io::Result<()>) -> Self {
        let refusals = [
            libc::EPERM,
            libc::EACCES,
            libc::EAFNOSUPPORT,
            libc::EOPNOTSUPP,
            libc::ENOSYS,
        ];
        let works = |result: io::Result<()>| match result {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::EADDRINUSE),
        };
        let refused = protocol != Protocol::Tcp && refusals.contains(&self.os_errno());
        match self {
            Self::Syscall { call, source, .. } if refused && works(tcp()) => Self::Unsupported {
                call,
                protocol,
                source,
            },
            other => other,
        }
    }

    /// With what the caller does about a failed call.
    pub(crate) fn with_consequence(self, consequence: &str) -> Self {
        match self {
            Self::Syscall { call, source, .. } => Self::Syscall {
                call,
                consequence: format!(", {consequence}"),
                source,
            },
            other => other,
        }
    }

    /// With the index of a conflicting request as its place in a longer list.
    pub(crate) fn placed(self, places: &[usize]) -> Self {
        match self {
            Self::Conflict { request, message } => Self::Conflict {
                request: places.get(request).copied().unwrap_or(request),
                message,
            },
            other => other,
        }
    }

    /// The errno behind it, or 0.
    pub fn os_errno(&self) -> i32 {
        match self {
            Self::Unsupported { source, .. } | Self::Syscall { source, .. } => {
                source.raw_os_error().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Whether another process holds the address.
    pub fn is_address_in_use(&self) -> bool {
        matches!(self, Self::Syscall { .. }) && self.os_errno() == libc::EADDRINUSE
    }

    /// Index of the word (or of the request, for a conflict) that is to blame.
    pub fn argument(&self) -> Option<usize> {
        match self {
            Self::Syntax { word, .. } => Some(*word),
            Self::Conflict { request, .. } => Some(*request),
            _ => None,
        }
    }
}

/// What the errno of socket(2) or bind(2) means for a protocol.
fn why_not(protocol: Protocol, source: &io::Error) -> String {
    let name = match protocol {
        Protocol::Mptcp => "MPTCP".into(),
        other => other.to_string(),
    };
    match (protocol, source.raw_os_error()) {
        (_, Some(libc::EPERM | libc::EACCES)) => {
            format!("a security policy forbids {name} (SELinux, seccomp or BPF)")
        }
        (_, Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::ENOSYS)) => {
            format!("{name} is not supported by this kernel, container or sandbox")
        }
        (Protocol::Mptcp, Some(libc::ENOPROTOOPT)) => {
            "MPTCP is switched off, set sysctl net.mptcp.enabled=1".into()
        }
        (Protocol::Mptcp, Some(libc::EINVAL)) => {
            "this kernel is too old for MPTCP, Linux 5.6 is needed".into()
        }
        (Protocol::Mptcp, _) => {
            "this kernel was built without MPTCP, CONFIG_MPTCP is needed".into()
        }
        (Protocol::Smc, _) => {
            format!("{name} is not supported by this kernel, Linux 6.11 and module smc are needed")
        }
        (Protocol::Sctp, _) => {
            format!("{name} is not supported by this kernel, module sctp is needed")
        }
        _ => format!("{name} is not supported by this kernel"),
    }
}
