//! What the kernel reports about a connection.
//!
//! That depends on the version of the kernel. Linux 5.16 added MPTCP_INFO, and
//! Linux 6.5 MPTCP_FULL_INFO; both have grown since. An older kernel reports only
//! whether MPTCP has fallen back. A value that the kernel does not report is None,
//! never 0.
//!
//! Source: RFC 8684; kernel net/mptcp/sockopt.c, include/uapi/linux/mptcp.h.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::Error;
use crate::protocol::Protocol;

mod answer;
mod history;
mod state;
#[cfg(test)]
mod tests;

use answer::{Full, Info, Kernel, PerSubflow, TcpInfo};
pub use history::{History, Value, Values};
pub use state::{Connection, Figures, Kind, Subflow};

/// What to query.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// The addresses of the subflows.
    pub subflows: bool,
    /// And their figures.
    pub figures: bool,
    /// Save system calls: Linux 5.16 to 6.4 needs one for the state and one for
    /// the addresses. Query only the state first, and only the addresses and the
    /// number of subflows if `before` is known. After a fallback, do not query
    /// the addresses of the one path.
    pub sparing: bool,
    /// If the connection is plain TCP, query nothing else, which saves system
    /// calls.
    pub mptcp_only: bool,
    /// The kind that an earlier query found, which saves a system call: plain TCP
    /// never becomes MPTCP, and a fallback is final.
    pub before: Option<Kind>,
}

/// Queries a connection's state: two system calls for TCP and MPTCP, three
/// after a fallback; two more at most until the process has met MPTCP.
///
/// ```
/// use std::io::Write;
/// use std::net::{TcpListener, TcpStream};
/// use std::os::fd::AsFd;
///
/// use ngx_rs_listen::connection::{self, Kind};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// client.write_all(b"hello")?;
///
/// let connection = connection::info(client.as_fd())?;
/// assert_eq!(connection.kind, Kind::Tcp); // this client does not use MPTCP
/// assert_eq!(connection.token, None);
/// assert_eq!(connection.bytes_sent, Some(5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Syscall`]: `fd` is no socket.
pub fn info(fd: BorrowedFd<'_>) -> Result<Connection, Error> {
    query(fd, Query::default()).map(|(connection, _)| connection)
}

/// Queries a connection's state and its subflows, the first subflow first as long
/// as it exists. Plain TCP and a fallback have one pair of addresses: that takes
/// two system calls more than [`info`]. MPTCP takes no more from Linux 6.5 on, and
/// two more from 5.16 on; an older kernel does not report the addresses.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::os::fd::AsFd;
///
/// use ngx_rs_listen::connection;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let client = TcpStream::connect(listener.local_addr()?)?;
/// let (server, _) = listener.accept()?;
///
/// let (_, paths) = connection::subflows(server.as_fd())?;
/// assert_eq!(paths.len(), 1);
/// assert_eq!(paths[0].local, listener.local_addr()?);
/// assert_eq!(paths[0].remote, client.local_addr()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Syscall`]: `fd` is no socket.
pub fn subflows(fd: BorrowedFd<'_>) -> Result<(Connection, Vec<Subflow>), Error> {
    let all = Query {
        subflows: true,
        figures: true,
        ..Query::default()
    };
    query(fd, all)
}

/// Queries no more than `query` needs.
///
/// # Errors
/// [`Error::Syscall`]: `fd` is no socket.
pub fn query(fd: BorrowedFd<'_>, query: Query) -> Result<(Connection, Vec<Subflow>), Error> {
    Querying {
        kernel: &fd,
        has: &HAS,
        query,
    }
    .all()
}

/// The protocol that the socket was created with, in one system call: a fallback
/// is still MPTCP.
///
/// # Errors
/// [`Error::Syscall`]: `fd` is no socket.
pub fn made_for(fd: BorrowedFd<'_>) -> Result<Kind, Error> {
    Querying {
        kernel: &fd,
        has: &HAS,
        query: Query::default(),
    }
    .made_for()
}

/// Of the running kernel.
static HAS: AtomicU8 = AtomicU8::new(UNTRIED);

/// What the running kernel has, found out once to save system calls.
const UNTRIED: u8 = 0;
/// MPTCP_FULL_INFO: Linux 6.5.
const FULL_INFO: u8 = 1;
/// MPTCP_INFO: Linux 5.16.
const INFO: u8 = 2;
/// None of the two.
const NEITHER: u8 = 3;

struct Querying<'a, K> {
    kernel: &'a K,
    has: &'a AtomicU8,
    query: Query,
}

impl<K: Kernel> Querying<'_, K> {
    fn all(&self) -> Result<(Connection, Vec<Subflow>), Error> {
        let kind = match self.query.before {
            Some(kind) => kind,
            None => self.made_for()?,
        };
        match kind {
            Kind::Mptcp => self.mptcp(),
            Kind::Fallback => self.tcp(kind),
            Kind::Tcp if !self.query.mptcp_only => self.tcp(kind),
            Kind::Tcp | Kind::Other => Ok((Connection::new(kind), Vec::new())),
        }
    }

    /// What the socket was made for: the connection may have fallen back since.
    fn made_for(&self) -> Result<Kind, Error> {
        let number = answer::int(self.kernel, libc::SOL_SOCKET, libc::SO_PROTOCOL);
        let number = number.map_err(failed("SO_PROTOCOL"))?;
        Ok(match Protocol::from_number(number) {
            Some(Protocol::Mptcp) => Kind::Mptcp,
            Some(Protocol::Tcp) => Kind::Tcp,
            _ => Kind::Other,
        })
    }

    fn mptcp(&self) -> Result<(Connection, Vec<Subflow>), Error> {
        let has = self.has.load(Ordering::Relaxed);
        let may_have = |option| has == option || has == UNTRIED;
        let learn = |option| self.has.store(option, Ordering::Relaxed);
        if may_have(FULL_INFO) {
            if let Some(full) = self.full_info()? {
                learn(FULL_INFO);
                return Ok((full.connection(), full.subflows()));
            }
        }
        if may_have(INFO) {
            if let Some(answer) = self.info()? {
                learn(INFO);
                return Ok(answer);
            }
        }
        // Fallen back, or before Linux 5.16. TCP_INFO cannot distinguish them:
        // both have it since 5.13. MPTCP sockets got TCP_MAXSEG much later.
        if may_have(NEITHER) {
            let answer = answer::int(self.kernel, libc::IPPROTO_TCP, libc::TCP_MAXSEG);
            if there("TCP_MAXSEG", answer)?.is_none() {
                learn(NEITHER);
                return Ok((Connection::new(Kind::Mptcp), Vec::new()));
            }
        }
        self.tcp(Kind::Fallback)
    }

    /// From Linux 5.16 to 6.4.
    fn info(&self) -> Result<Option<(Connection, Vec<Subflow>)>, Error> {
        let Query {
            subflows,
            sparing,
            before,
            ..
        } = self.query;
        if sparing && subflows && before.is_some() {
            let subflows = self.subflows()?;
            return Ok(subflows.map(|subflows| {
                let mut connection = Connection::new(Kind::Mptcp);
                connection.subflows = Some(subflows.len() as u32);
                (connection, subflows)
            }));
        }
        let Some(info) = there("MPTCP_INFO", Info::query(self.kernel))? else {
            return Ok(None);
        };
        let subflows = match subflows && !sparing {
            true => self.subflows()?.unwrap_or_default(),
            false => Vec::new(),
        };
        Ok(Some((info.connection(), subflows)))
    }

    fn tcp(&self, kind: Kind) -> Result<(Connection, Vec<Subflow>), Error> {
        let answer = TcpInfo::query(self.kernel).map_err(failed("TCP_INFO"))?;
        let connection = answer.connection(kind);
        let path = self.one_path(connection.figures)?;
        Ok((connection, path))
    }

    /// Queries again only if there are more subflows than Linux's own path manager
    /// creates.
    fn full_info(&self) -> Result<Option<Full>, Error> {
        let mut room = answer::ROOM;
        loop {
            let answer = Full::query(self.kernel, room, self.query.subflows);
            match there("MPTCP_FULL_INFO", answer)? {
                Some(full) if full.count() > room => room = full.count(),
                other => return Ok(other),
            }
        }
    }

    /// Queries again only if there are more subflows, as above.
    fn subflows(&self) -> Result<Option<Vec<Subflow>>, Error> {
        let mut room = answer::ROOM;
        loop {
            let answer = PerSubflow::addresses(self.kernel, room);
            let Some(addresses) = there("MPTCP_SUBFLOW_ADDRS", answer)? else {
                return Ok(None);
            };
            if addresses.count > room {
                room = addresses.count;
                continue;
            }
            let tcp_info = match self.query.figures {
                true => there("MPTCP_TCPINFO", PerSubflow::tcp_info(self.kernel, room))?,
                false => None,
            };
            return Ok(Some(addresses.subflows(tcp_info.as_ref())));
        }
    }

    /// The addresses of a connection that has no subflows.
    fn one_path(&self, figures: Option<Figures>) -> Result<Vec<Subflow>, Error> {
        if !self.query.subflows || self.query.sparing {
            return Ok(Vec::new());
        }
        let pair = self.kernel.addresses();
        let pair = pair.map_err(|source| Error::syscall("getpeername()", source))?;
        let subflow = |(local, remote)| Subflow {
            id: None,
            local,
            remote,
            figures: figures.unwrap_or_default(),
        };
        Ok(pair.map(subflow).into_iter().collect())
    }
}

fn failed(option: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::syscall(format!("getsockopt({option})"), source)
}

/// None where the kernel lacks the option, for this connection at least: with
/// EOPNOTSUPP on IPv4, and with ENOPROTOOPT on IPv6.
fn there<T>(option: &'static str, answer: io::Result<T>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT) => Ok(None),
            _ => Err(failed(option)(error)),
        },
    }
}
