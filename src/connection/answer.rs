//! The kernel's answers: structs that are longer on newer kernels.

use std::ffi::c_int;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use socket2::SockRef;

use super::state::{Connection, Figures, Kind, Subflow};
use crate::sys::linux::{
    MPTCP_INFO, MPTCP_SUBFLOW_ADDRS, MPTCP_TCPINFO, SOL_MPTCP, mptcp_info, mptcp_subflow_addrs,
    mptcp_subflow_data, mptcp_subflow_info, tcp_info, tcp_state,
};
use crate::sys::{self, FullInfo};

/// How many subflows are queried: the first, and the eight more that Linux's
/// own path manager makes at most, and some that are about to close.
pub(super) const ROOM: usize = 16;

/// The kernel, or in tests the answers of another one.
pub(super) trait Kernel {
    /// getsockopt(2): returns how long the answer is.
    fn option(&self, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize>;

    /// getsockopt(2) with MPTCP_FULL_INFO; the arrays are pointed to.
    fn full_info(
        &self,
        info: &mut FullInfo,
        subflows: &mut [u8],
        tcp: &mut [u8],
    ) -> io::Result<usize>;

    /// getsockname(2) and getpeername(2); None when the connection is over.
    fn addresses(&self) -> io::Result<Option<(SocketAddr, SocketAddr)>>;
}

impl Kernel for BorrowedFd<'_> {
    fn option(&self, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
        sys::get_option(*self, level, name, value)
    }

    fn full_info(
        &self,
        info: &mut FullInfo,
        subflows: &mut [u8],
        tcp: &mut [u8],
    ) -> io::Result<usize> {
        sys::full_info(*self, info, subflows, tcp)
    }

    fn addresses(&self) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        let socket = SockRef::from(self);
        let remote = match socket.peer_addr() {
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => return Ok(None),
            remote => remote?.as_socket(),
        };
        Ok(socket.local_addr()?.as_socket().zip(remote))
    }
}

/// An option that is an `int`.
pub(super) fn int(kernel: &impl Kernel, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value = [0; size_of::<c_int>()];
    kernel.option(level, name, &mut value)?;
    Ok(c_int::from_ne_bytes(value))
}

/// An answer, cut to the length that the kernel reports.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn u8(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u16::from_ne_bytes(*bytes))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
    }

    /// Of a `struct tcp_info`: one of [`tcp_state`].
    fn state(&self) -> Option<u8> {
        self.u8(tcp_info::STATE)
    }

    /// How much of `tcpi_bytes_received` is the peer's FIN. Once both ends are
    /// closed it cannot be told any more whether there was one.
    fn fin(&self) -> u64 {
        use tcp_state::*;
        matches!(
            self.state(),
            Some(CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT)
        )
        .into()
    }

    fn milliseconds(&self, at: usize) -> Option<Duration> {
        self.u32(at)
            .map(|count| Duration::from_millis(count.into()))
    }

    /// `struct sockaddr_in` or `sockaddr_in6`; None without a port, as of a
    /// subflow that is closed already.
    fn address(&self, at: usize) -> Option<SocketAddr> {
        let port = u16::from_be(self.u16(at + 2)?);
        let address: SocketAddr = match c_int::from(self.u16(at)?) {
            libc::AF_INET => {
                let ip: [u8; 4] = *self.0.get(at + 4..)?.first_chunk()?;
                (Ipv4Addr::from(ip), port).into()
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = *self.0.get(at + 8..)?.first_chunk()?;
                let scope = self.u32(at + 24)?;
                SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into()
            }
            _ => return None,
        };
        (port != 0).then_some(address)
    }

    /// `struct mptcp_subflow_addrs`
    fn subflow(&self, at: usize, id: Option<u32>, figures: Figures) -> Option<Subflow> {
        Some(Subflow {
            id,
            local: self.address(at + mptcp_subflow_addrs::LOCAL)?,
            remote: self.address(at + mptcp_subflow_addrs::REMOTE)?,
            figures,
        })
    }

    /// Of a `struct tcp_info`. The kernel counts what it sent again, and a segment
    /// that this host's own queue dropped as often as TCP offered it. But no more
    /// bytes were sent than those that are acknowledged and those under way.
    ///
    /// Source: kernel net/ipv4/tcp_output.c, __tcp_transmit_skb().
    fn bytes_sent(&self) -> Option<u64> {
        use tcp_info::*;
        let sent = self
            .u64(BYTES_SENT)?
            .saturating_sub(self.u64(BYTES_RETRANS)?);
        let under_way = u64::from(self.u32(UNACKED)?) * u64::from(self.u32(SND_MSS)?);
        Some(sent.min(self.u64(BYTES_ACKED)?.saturating_add(under_way)))
    }

    /// Of a `struct tcp_info`.
    fn figures(&self) -> Figures {
        use tcp_info::*;
        let received = self.u64(BYTES_RECEIVED);
        let rtt = self.u32(RTT).filter(|&rtt| rtt > 0);
        Figures {
            bytes_sent: self.bytes_sent(),
            bytes_received: received.map(|received| received.saturating_sub(self.fin())),
            retransmits: self.u32(TOTAL_RETRANS).map(u64::from),
            rtt: rtt.map(|rtt| Duration::from_micros(rtt.into())),
            congestion_window: self.u32(SND_CWND),
            state: self.state(),
        }
    }
}

/// `struct mptcp_info`, of Linux 5.16 or of any later one.
pub(super) struct Info {
    bytes: [u8; mptcp_info::SIZE],
    length: usize,
}

impl Info {
    pub(super) fn query(kernel: &impl Kernel) -> io::Result<Self> {
        let mut bytes = [0; mptcp_info::SIZE];
        let length = kernel.option(SOL_MPTCP, MPTCP_INFO, &mut bytes)?;
        Ok(Self { bytes, length })
    }

    pub(super) fn connection(&self) -> Connection {
        use mptcp_info::*;
        let answer = Answer(&self.bytes[..self.length]);
        let mut connection = Connection::new(match answer.u32(FLAGS) {
            Some(flags) if flags & FLAG_FALLBACK != 0 => Kind::Fallback,
            _ => Kind::Mptcp,
        });
        connection.token = answer.u32(TOKEN).filter(|&token| token != 0);
        let first = u32::from(connection.token.is_some());
        connection.subflows = answer.u8(SUBFLOWS).map(|others| u32::from(others) + first);
        connection.bytes_retransmitted = answer.u64(BYTES_RETRANS);
        connection.bytes_sent = answer.u64(BYTES_SENT);
        connection.bytes_received = answer.u64(BYTES_RECEIVED);
        // Before there were all three, the first was padding.
        if self.length >= SIZE {
            connection.last_data_sent = answer.milliseconds(LAST_DATA_SENT);
            connection.last_data_received = answer.milliseconds(LAST_DATA_RECV);
            connection.last_ack_received = answer.milliseconds(LAST_ACK_RECV);
        }
        connection
    }

    /// Whether this host opens subflows, or tries to.
    fn opens_subflows(&self) -> bool {
        let answer = Answer(&self.bytes[..self.length]);
        let some = |at| answer.u8(at).is_some_and(|count| count > 0);
        some(mptcp_info::LOCAL_ADDR_USED) || some(mptcp_info::ADD_ADDR_ACCEPTED)
    }
}

/// As much of `struct tcp_info` as is of use beside MPTCP's own figures.
const SHORT_TCP: usize = tcp_info::TOTAL_RETRANS + size_of::<u32>();

/// `struct mptcp_full_info` and the arrays that it points to.
pub(super) struct Full {
    header: FullInfo,
    length: usize,
    subflows: Vec<u8>,
    tcp: Vec<u8>,
}

impl Full {
    /// `paths`: with the addresses and figures of the subflows.
    pub(super) fn query(kernel: &impl Kernel, room: usize, paths: bool) -> io::Result<Self> {
        let (subflow, tcp) = match paths {
            true => (mptcp_subflow_info::SIZE, tcp_info::SIZE),
            false => (size_of::<u32>(), SHORT_TCP),
        };
        let mut header = FullInfo::new(room, subflow, tcp);
        let (mut subflows, mut tcp) = (vec![0; room * subflow], vec![0; room * tcp]);
        let length = kernel.full_info(&mut header, &mut subflows, &mut tcp)?;
        Ok(Self {
            header,
            length,
            subflows,
            tcp,
        })
    }

    /// How many subflows there are, even if there was no room for them.
    pub(super) fn count(&self) -> usize {
        self.header.num_subflows as usize
    }

    pub(super) fn connection(&self) -> Connection {
        let info = Info {
            bytes: self.header.mptcp_info,
            length: self.length.saturating_sub(FullInfo::HEAD),
        };
        let mut connection = info.connection();
        connection.subflows = Some(self.rows().filter(Row::is_open).count() as u32);
        // Subflows of the other host get their numbers when they have joined,
        // those of this one before they are tried.
        let last = self.rows().filter(Row::has_joined).map(|row| row.id).max();
        connection.subflows_total = match info.opens_subflows() {
            true => last.and(connection.subflows),
            false => last,
        };
        let retransmits: Option<u64> = self.rows().map(|row| row.retransmits()).sum();
        connection.retransmits = last.and(retransmits);
        connection
    }

    pub(super) fn subflows(&self) -> Vec<Subflow> {
        let open = self.rows().filter(Row::is_open);
        let subflow = |row: Row<'_>| {
            let (id, figures) = (Some(row.id), row.tcp.figures());
            row.info.subflow(mptcp_subflow_info::ADDRS, id, figures)
        };
        open.filter_map(subflow).collect()
    }

    /// The first subflow stays in the kernel's list when it is closed; when it
    /// was reset it has lost its number, its figures and the peer's port.
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let subflows = elements(&self.subflows, self.header.size_sfinfo_user);
        let tcp = elements(&self.tcp, self.header.size_tcpinfo_user);
        let count = self.count().min(self.header.size_arrays_user as usize);
        let rows = subflows.zip(tcp).take(count);
        rows.filter_map(|(info, tcp)| {
            let id = info.u32(mptcp_subflow_info::ID).filter(|&id| id != 0)?;
            Some(Row { id, info, tcp })
        })
    }
}

/// What MPTCP_FULL_INFO reports about a subflow.
struct Row<'a> {
    id: u32,
    /// `struct mptcp_subflow_info`
    info: Answer<'a>,
    /// `struct tcp_info`
    tcp: Answer<'a>,
}

impl Row<'_> {
    /// Not one that this host still tries to open.
    fn has_joined(&self) -> bool {
        self.tcp.state() != Some(tcp_state::SYN_SENT)
    }

    fn is_open(&self) -> bool {
        self.has_joined() && self.tcp.state() != Some(tcp_state::CLOSE)
    }

    fn retransmits(&self) -> Option<u64> {
        self.tcp.u32(tcp_info::TOTAL_RETRANS).map(u64::from)
    }
}

/// Elements of the size that the kernel has chosen: its own or ours, whichever
/// is smaller.
fn elements(bytes: &[u8], size: u32) -> impl Iterator<Item = Answer<'_>> {
    bytes.chunks(size.max(1) as usize).map(Answer)
}

/// MPTCP_SUBFLOW_ADDRS or MPTCP_TCPINFO: an array with an element for each
/// subflow, all in the same order.
pub(super) struct PerSubflow {
    /// How many subflows there are, even if there was no room for them.
    pub(super) count: usize,
    bytes: Vec<u8>,
    size: u32,
}

impl PerSubflow {
    pub(super) fn addresses(kernel: &impl Kernel, room: usize) -> io::Result<Self> {
        Self::query(kernel, MPTCP_SUBFLOW_ADDRS, mptcp_subflow_addrs::SIZE, room)
    }

    pub(super) fn tcp_info(kernel: &impl Kernel, room: usize) -> io::Result<Self> {
        Self::query(kernel, MPTCP_TCPINFO, tcp_info::SIZE, room)
    }

    fn query(kernel: &impl Kernel, option: c_int, size: usize, room: usize) -> io::Result<Self> {
        use mptcp_subflow_data::*;
        let mut bytes = vec![0; SIZE + room * size];
        let mut write = |at, size: usize| {
            let value = (size as u32).to_ne_bytes();
            bytes[at..at + value.len()].copy_from_slice(&value);
        };
        write(SIZE_SUBFLOW_DATA, SIZE);
        write(SIZE_USER, size);
        let length = kernel.option(SOL_MPTCP, option, &mut bytes)?;
        bytes.truncate(length);
        let answer = Answer(&bytes);
        Ok(Self {
            count: answer.u32(NUM_SUBFLOWS).unwrap_or(0) as usize,
            size: answer.u32(SIZE_USER).unwrap_or(0),
            bytes,
        })
    }

    fn elements(&self) -> impl Iterator<Item = Answer<'_>> {
        let array = self.bytes.get(mptcp_subflow_data::SIZE..);
        elements(array.unwrap_or(&[]), self.size)
    }

    /// Of addresses, with the figures of `tcp_info` unless a subflow has come or
    /// gone between the two answers.
    pub(super) fn subflows(&self, tcp_info: Option<&Self>) -> Vec<Subflow> {
        let tcp_info = tcp_info.filter(|tcp_info| tcp_info.count == self.count);
        let mut figures = tcp_info.into_iter().flat_map(Self::elements);
        let subflow = |address: Answer<'_>| {
            let figures = figures.next().map(|element| element.figures());
            address.subflow(0, None, figures.unwrap_or_default())
        };
        self.elements().filter_map(subflow).collect()
    }
}

/// `struct tcp_info`.
pub(super) struct TcpInfo {
    bytes: [u8; tcp_info::SIZE],
    length: usize,
}

impl TcpInfo {
    pub(super) fn query(kernel: &impl Kernel) -> io::Result<Self> {
        let mut bytes = [0; tcp_info::SIZE];
        let length = kernel.option(libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)?;
        Ok(Self { bytes, length })
    }

    pub(super) fn connection(&self, kind: Kind) -> Connection {
        use tcp_info::*;
        let answer = Answer(&self.bytes[..self.length]);
        let figures = answer.figures();
        let mut connection = Connection::new(kind);
        let open = answer.state() != Some(tcp_state::CLOSE);
        connection.subflows = (kind == Kind::Fallback).then_some(open.into());
        // Linux lets no connection fall back that has had a second one.
        connection.subflows_total = (kind == Kind::Fallback).then_some(1);
        connection.last_data_sent = answer.milliseconds(LAST_DATA_SENT);
        connection.last_data_received = answer.milliseconds(LAST_DATA_RECV);
        connection.last_ack_received = answer.milliseconds(LAST_ACK_RECV);
        connection.retransmits = figures.retransmits;
        connection.bytes_received = figures.bytes_received;
        connection.bytes_retransmitted = answer.u64(BYTES_RETRANS);
        connection.bytes_sent = figures.bytes_sent;
        connection.figures = Some(figures);
        connection
    }
}
