//! The state of a connection, as far as the kernel reports it.

use std::net::SocketAddr;
use std::time::Duration;

/// How data goes to and fro.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Neither TCP nor MPTCP: UDP, a unix domain socket.
    Other,
    /// Plain TCP, from the beginning.
    Tcp,
    /// MPTCP.
    Mptcp,
    /// Begun as MPTCP, fallen back to plain TCP (RFC 8684, section 3.7).
    Fallback,
}

/// What the kernel reports about a connection; None: it does not report the value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// How data goes to and fro.
    pub kind: Kind,
    /// Identifies an MPTCP connection on this host, as `ss -M` prints it; None
    /// after a reset. Linux 5.16.
    pub token: Option<u32>,
    /// Number of subflows now: before Linux 6.5 with the first one, though it may
    /// be closed, and with those that are still being made. Linux 5.16.
    pub subflows: Option<u32>,
    /// Number of subflows that the connection has had, those of now included;
    /// where this host opens subflows itself, at least that many. Linux 6.5 for
    /// MPTCP; after a fallback it is 1.
    pub subflows_total: Option<u32>,
    /// Payload, each byte counted once. Linux 6.5 for MPTCP.
    pub bytes_sent: Option<u64>,
    /// Payload. Linux 6.5 for MPTCP. Of TCP it may be one byte too many once both
    /// ends are closed: the kernel counts the end of the stream.
    pub bytes_received: Option<u64>,
    /// Payload that was sent again; for MPTCP only what it sent again itself, as
    /// a rule on another subflow, not what the subflows did. Linux 6.5 for MPTCP.
    pub bytes_retransmitted: Option<u64>,
    /// Segments that were sent again: for MPTCP by the subflows of now, and by
    /// the first one unless it was reset. Linux 6.5 for MPTCP.
    pub retransmits: Option<u64>,
    /// Since data was last sent. Linux 6.10 for MPTCP.
    pub last_data_sent: Option<Duration>,
    /// Since data was last received. Linux 6.10 for MPTCP.
    pub last_data_received: Option<Duration>,
    /// Since an acknowledgement was last received. Linux 6.10 for MPTCP.
    pub last_ack_received: Option<Duration>,
    /// Of the one path that TCP has, and MPTCP after a fallback.
    pub figures: Option<Figures>,
}

/// One path of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subflow {
    /// Counts the subflows of a connection, from 1, as
    /// [`Connection::subflows_total`] does. Linux 6.5.
    pub id: Option<u32>,
    /// This host's address.
    pub local: SocketAddr,
    /// The other host's address.
    pub remote: SocketAddr,
    /// What TCP counts and measures on this path. Linux 5.16 for MPTCP.
    pub figures: Figures,
}

/// What TCP counts and measures on one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Payload that took this path, without what TCP sent again on it.
    pub bytes_sent: Option<u64>,
    /// Payload that came by this path.
    pub bytes_received: Option<u64>,
    /// Segments that were sent again.
    pub retransmits: Option<u64>,
    /// Smoothed round trip time; None before it was measured.
    pub rtt: Option<Duration>,
    /// Congestion window, in segments.
    pub congestion_window: Option<u32>,
    /// A state of TCP: one of those of `tcp_states.h`.
    pub state: Option<u8>,
}

impl Figures {
    /// Takes in the figures of now: totals only grow, and what is no longer
    /// known stays.
    pub(super) fn update(&mut self, now: Self) {
        *self = Self {
            bytes_sent: now.bytes_sent.max(self.bytes_sent),
            bytes_received: now.bytes_received.max(self.bytes_received),
            retransmits: now.retransmits.max(self.retransmits),
            rtt: now.rtt.or(self.rtt),
            congestion_window: now.congestion_window.or(self.congestion_window),
            state: now.state.or(self.state),
        };
    }
}

impl Connection {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            token: None,
            subflows: None,
            subflows_total: None,
            bytes_sent: None,
            bytes_received: None,
            bytes_retransmitted: None,
            retransmits: None,
            last_data_sent: None,
            last_data_received: None,
            last_ack_received: None,
            figures: None,
        }
    }

    /// Merges a later report about the same connection: totals only grow, and a
    /// value that the kernel no longer reports, as after a reset, keeps its last
    /// state. A fallback is final.
    pub fn update(&mut self, now: Self) {
        *self = Self {
            kind: match self.kind {
                Kind::Fallback => Kind::Fallback,
                _ => now.kind,
            },
            token: now.token.or(self.token),
            subflows: now.subflows.filter(|&count| count > 0).or(self.subflows),
            subflows_total: now.subflows_total.max(self.subflows_total),
            bytes_sent: now.bytes_sent.max(self.bytes_sent),
            bytes_received: now.bytes_received.max(self.bytes_received),
            bytes_retransmitted: now.bytes_retransmitted.max(self.bytes_retransmitted),
            retransmits: now.retransmits.max(self.retransmits),
            last_data_sent: now.last_data_sent.or(self.last_data_sent),
            last_data_received: now.last_data_received.or(self.last_data_received),
            last_ack_received: now.last_ack_received.or(self.last_ack_received),
            figures: now.figures.or(self.figures),
        };
    }
}
