//! What is known of a connection that is queried several times. A value that the
//! kernel no longer reports keeps its last value.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU8;

use super::answer::Kernel;
use super::{Connection, Figures, HAS, Kind, Query, Querying, Subflow};
use crate::error::Error;

/// Paths that are remembered, those that are open before those that have ended.
const PATHS: usize = 16;

/// A value that can be written as text, as in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Value {
    /// `on` for MPTCP, `fallback` after one.
    Kind = 0,
    /// [`Connection::subflows`]
    Subflows = 1,
    /// [`Connection::subflows_total`]; from Linux 5.16 to 6.4 the number of
    /// subflows that were open at one of the queries.
    SubflowsTotal = 2,
    /// The other host's address of each path, in the order in which they were
    /// seen first; as all values of paths, separated by commas.
    SubflowAddrs = 3,
    /// [`Connection::token`], in hexadecimal.
    Token = 4,
    /// [`Connection::bytes_sent`]
    BytesSent = 5,
    /// [`Connection::bytes_received`]
    BytesReceived = 6,
    /// [`Connection::retransmits`]
    Retransmits = 7,
    /// [`Figures::bytes_sent`] of each path.
    SubflowBytesSent = 8,
    /// [`Figures::bytes_received`] of each path.
    SubflowBytesReceived = 9,
    /// [`Figures::rtt`] of each path, in milliseconds with three decimals.
    SubflowRtt = 10,
    /// [`Figures::retransmits`] of each path.
    SubflowRetransmits = 11,
}

impl Value {
    const ALL: [Self; 12] = [
        Self::Kind,
        Self::Subflows,
        Self::SubflowsTotal,
        Self::SubflowAddrs,
        Self::Token,
        Self::BytesSent,
        Self::BytesReceived,
        Self::Retransmits,
        Self::SubflowBytesSent,
        Self::SubflowBytesReceived,
        Self::SubflowRtt,
        Self::SubflowRetransmits,
    ];

    /// The value of this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// A set of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values(u32);

impl Values {
    /// From one bit for each value; None if there is another one.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits >> Value::ALL.len() == 0).then_some(Self(bits))
    }

    fn any(self, values: &[Value]) -> bool {
        values.iter().any(|&value| self.0 & 1 << value as u32 != 0)
    }
}

/// What is known of a connection. Of plain TCP that is nothing but its kind.
#[derive(Clone, Debug, Default)]
pub struct History {
    known: Option<Connection>,
    paths: Vec<Path>,
    /// Paths that are no longer remembered.
    forgotten: u32,
}

#[derive(Clone, Debug)]
struct Path {
    id: Option<u32>,
    local: Option<SocketAddr>,
    remote: SocketAddr,
    figures: Figures,
}

impl Path {
    fn is(&self, subflow: &Subflow) -> bool {
        match (self.id, subflow.id) {
            (Some(mine), Some(other)) => mine == other,
            _ => {
                self.remote == subflow.remote
                    && self.local.is_none_or(|local| local == subflow.local)
            }
        }
    }
}

impl History {
    /// Nothing is known yet. `peer` is the other host's address if it is known,
    /// as from accept(2): that of the first path.
    pub fn new(peer: Option<SocketAddr>) -> Self {
        let first = peer.map(|remote| Path {
            id: None,
            local: None,
            remote,
            figures: Figures::default(),
        });
        Self {
            known: None,
            paths: first.into_iter().collect(),
            forgotten: 0,
        }
    }

    /// Queries the kernel for as much as these values need, and returns the kind
    /// of connection.
    ///
    /// The first query takes two system calls for MPTCP, one for TCP, and three
    /// after a fallback; later queries take one less. With Linux 5.16 to 6.4 the
    /// first query does not report addresses, and from the second one on the
    /// figures of paths take one system call more.
    ///
    /// # Errors
    /// [`Error::Syscall`]: `fd` is no socket.
    pub fn query(&mut self, fd: BorrowedFd<'_>, values: Values) -> Result<Kind, Error> {
        self.query_kernel(&fd, &HAS, values)
    }

    pub(super) fn query_kernel(
        &mut self,
        kernel: &impl Kernel,
        has: &AtomicU8,
        values: Values,
    ) -> Result<Kind, Error> {
        use Value::*;
        let before = self.known.as_ref().map(|known| known.kind);
        let figures = values.any(&[
            SubflowBytesSent,
            SubflowBytesReceived,
            SubflowRtt,
            SubflowRetransmits,
        ]);
        let query = Query {
            subflows: figures || values.any(&[Subflows, SubflowsTotal, SubflowAddrs]),
            figures,
            sparing: true,
            mptcp_only: true,
            before,
        };
        let querying = Querying { kernel, has, query };
        let (now, subflows) = querying.all()?;
        Ok(self.take_in(now, subflows))
    }

    fn take_in(&mut self, now: Connection, subflows: Vec<Subflow>) -> Kind {
        for subflow in &subflows {
            self.see(subflow, &subflows);
        }
        self.correct_first(&subflows);
        let known = match self.known.take() {
            Some(mut known) => {
                known.update(now);
                known
            }
            None => now,
        };
        if let (Some(figures), Some(path)) = (known.figures, self.paths.first_mut()) {
            path.figures.update(figures);
        }
        let kind = known.kind;
        self.known = Some(known);
        kind
    }

    /// Finds the path of a subflow, or adds it.
    fn see(&mut self, subflow: &Subflow, open: &[Subflow]) {
        let place = match self.paths.iter().position(|path| path.is(subflow)) {
            Some(place) => place,
            None => {
                if self.paths.len() >= PATHS && !self.forget(open) {
                    return;
                }
                self.paths.push(Path {
                    id: None,
                    local: None,
                    remote: subflow.remote,
                    figures: Figures::default(),
                });
                self.paths.len() - 1
            }
        };
        let path = &mut self.paths[place];
        path.id = subflow.id.or(path.id);
        path.local = Some(subflow.local);
        path.figures.update(subflow.figures);
    }

    /// Removes the path that the caller's address stands for if the kernel reports
    /// another address for the first subflow: nginx's realip module replaces the
    /// address of a connection, for example.
    fn correct_first(&mut self, open: &[Subflow]) {
        let reported = |subflow: &Subflow| subflow.id.is_none_or(|id| id == 1);
        let unseen = |path: &Path| path.local.is_none();
        if open.iter().any(reported) && self.paths.first().is_some_and(unseen) {
            self.paths.remove(0);
        }
    }

    /// Forgets the oldest path that is not open; false if all are open.
    fn forget(&mut self, open: &[Subflow]) -> bool {
        let has_ended = |path: &Path| !open.iter().any(|subflow| path.is(subflow));
        let Some(place) = self.paths.iter().position(has_ended) else {
            return false;
        };
        self.paths.remove(place);
        self.forgotten += 1;
        true
    }

    /// A value as text; None if it is not known.
    pub fn text(&self, value: Value) -> Option<String> {
        let known = self.known.as_ref()?;
        if !matches!(known.kind, Kind::Mptcp | Kind::Fallback) {
            return None;
        }
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string());
        match value {
            Value::Kind => match known.kind {
                Kind::Mptcp => Some("on".into()),
                _ => Some("fallback".into()),
            },
            Value::Subflows => known.subflows.map(|count| count.to_string()),
            Value::SubflowsTotal => self.total(known).map(|count| count.to_string()),
            Value::Token => known.token.map(|token| format!("{token:x}")),
            Value::BytesSent => bytes(known.bytes_sent),
            Value::BytesReceived => bytes(known.bytes_received),
            Value::Retransmits => bytes(known.retransmits),
            Value::SubflowAddrs => self.each(|path| Some(address(path.remote))),
            Value::SubflowBytesSent => self.each(|path| bytes(path.figures.bytes_sent)),
            Value::SubflowBytesReceived => self.each(|path| bytes(path.figures.bytes_received)),
            Value::SubflowRetransmits => self.each(|path| bytes(path.figures.retransmits)),
            Value::SubflowRtt => self.each(|path| {
                let rtt = path.figures.rtt?.as_micros();
                Some(format!("{}.{:03}", rtt / 1000, rtt % 1000))
            }),
        }
    }

    /// The kernel counts from Linux 6.5 on. Before it, from 5.16 on, it lists
    /// subflows: then their number is known.
    fn total(&self, known: &Connection) -> Option<u32> {
        let seen = self.paths.len() as u32 + self.forgotten;
        let listed = known.subflows.filter(|&now| now > 0);
        known.subflows_total.or(listed.map(|now| now.max(seen)))
    }

    /// The values of all paths, `-` for those that are not known; None if none
    /// is.
    fn each(&self, value: impl Fn(&Path) -> Option<String>) -> Option<String> {
        let values: Vec<_> = self.paths.iter().map(value).collect();
        if values.iter().all(Option::is_none) {
            return None;
        }
        let values = values.into_iter().map(|value| value.unwrap_or("-".into()));
        Some(values.collect::<Vec<_>>().join(","))
    }
}

/// As nginx writes it: without the scope of a link-local address.
fn address(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.to_string(),
        SocketAddr::V6(address) => format!("[{}]:{}", address.ip(), address.port()),
    }
}
