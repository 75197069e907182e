//! Counts connections by listener and by kind, in memory that the processes of a
//! server share.
//!
//! Each listener has a row, which it keeps for good. Each process has a seat,
//! where it counts the connections that are open: a process that was killed
//! takes them along, and the next one takes its seat.

mod text;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::connection::{self, Kind, Query};
use crate::error::Error;
use crate::parse::Subsystem;
use crate::protocol::Protocol;
use crate::sys;
pub use text::Format;

/// Listeners that can be counted.
pub const ROWS: usize = 16384;

/// Processes that can have a seat of their own at the same time.
const SEATS: usize = 128;

/// Of the layout of [`Counters`].
const VERSION: u32 = 1;

/// The memory. All of it is 0 at first, and a page that is never written takes
/// no memory: a listener has 120 bytes, and 12 for each process.
#[repr(C)]
pub struct Counters {
    version: AtomicU32,
    rows_used: AtomicU32,
    rows: [Row; ROWS],
    seats: [Seat; SEATS],
}

#[repr(C)]
struct Row {
    /// Family, port and subsystem; 0 if there is no listener.
    head: AtomicU64,
    ip: [AtomicU64; 2],
    accepted: AtomicU64,
    closed: [AtomicU64; KINDS.len()],
    /// MPTCP connections that had 1, 2, 3 or more paths.
    paths: [AtomicU64; 3],
    /// Of MPTCP and of fallbacks.
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
}

#[repr(C)]
struct Seat {
    /// 0: nobody's.
    pid: AtomicU32,
    open: [[AtomicU32; OPEN_KINDS]; ROWS],
}

/// Of an open connection it is not known whether it has fallen back.
const OPEN_KINDS: usize = 3;
const KINDS: [Kind; OPEN_KINDS + 1] = [Kind::Tcp, Kind::Mptcp, Kind::Other, Kind::Fallback];

fn place(kind: Kind) -> usize {
    match kind {
        Kind::Tcp => 0,
        Kind::Mptcp => 1,
        Kind::Other => 2,
        Kind::Fallback => 3,
    }
}

/// A connection that is counted as open.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// The seat of the process.
    pub seat: usize,
    /// The row of the listener.
    pub row: usize,
    /// As it was when it began.
    pub kind: Kind,
}

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    head: u64,
    ip: [u64; 2],
}

impl Key {
    fn new(subsystem: Subsystem, address: SocketAddr) -> Self {
        let (family, ip) = match address.ip() {
            IpAddr::V4(ip) => (4, u128::from(u32::from(ip))),
            IpAddr::V6(ip) => (6, u128::from(ip)),
        };
        let subsystem = match subsystem {
            Subsystem::Stream => 1,
            Subsystem::Http => 2,
            Subsystem::Mail => 3,
        };
        Self {
            head: family << 32 | subsystem << 16 | u64::from(address.port()),
            ip: [(ip >> 64) as u64, ip as u64],
        }
    }

    fn subsystem(self) -> &'static str {
        match self.head >> 16 & 0xffff {
            1 => "stream",
            2 => "http",
            _ => "mail",
        }
    }

    fn address(self) -> SocketAddr {
        let ip = u128::from(self.ip[0]) << 64 | u128::from(self.ip[1]);
        let ip: IpAddr = match self.head >> 32 {
            4 => Ipv4Addr::from(ip as u32).into(),
            _ => Ipv6Addr::from(ip).into(),
        };
        SocketAddr::new(ip, self.head as u16)
    }
}

impl Row {
    fn key(&self) -> Key {
        Key {
            head: self.head.load(Relaxed),
            ip: [self.ip[0].load(Relaxed), self.ip[1].load(Relaxed)],
        }
    }
}

impl Counters {
    /// Checks that the memory is that of this version of the library.
    ///
    /// # Errors
    /// [`Error::Argument`] if another version has begun to use it.
    pub fn check(&self) -> Result<(), Error> {
        let found = self.version.compare_exchange(0, VERSION, Relaxed, Relaxed);
        match found {
            Ok(_) | Err(VERSION) => Ok(()),
            Err(_) => Err(Error::Argument(
                "the counters are those of another version of the library".into(),
            )),
        }
    }

    /// The row of each address: that which it has already, or a new one; None if
    /// there is no room. For one process at a time. Linear in the number of
    /// addresses and rows.
    pub fn rows<'a>(
        &'a self,
        subsystem: Subsystem,
        addresses: impl Iterator<Item = Option<SocketAddr>> + 'a,
    ) -> impl Iterator<Item = Option<usize>> + 'a {
        let used = self.rows_used.load(Relaxed) as usize;
        let keys = self.rows[..used.min(ROWS)].iter().map(Row::key);
        let mut known: HashMap<Key, usize> = keys.zip(0..).collect();
        addresses.map(move |address| {
            let key = Key::new(subsystem, address?);
            let next = known.len();
            let row = *known.entry(key).or_insert(next);
            if row == next && next < ROWS {
                self.rows[row].ip[0].store(key.ip[0], Relaxed);
                self.rows[row].ip[1].store(key.ip[1], Relaxed);
                self.rows[row].head.store(key.head, Relaxed);
                self.rows_used.store(next as u32 + 1, Relaxed);
            }
            (row < ROWS).then_some(row)
        })
    }

    /// Takes a seat for this process, which it has afterwards.
    pub fn enter(&self, pid: u32) -> usize {
        let mine = |seat: &Seat| seat.pid.load(Relaxed) == pid;
        if let Some(seat) = self.seats.iter().position(mine) {
            return seat;
        }
        for (index, seat) in self.seats.iter().enumerate() {
            let holder = seat.pid.load(Relaxed);
            if holder != 0 && sys::process_exists(holder) {
                continue;
            }
            if seat
                .pid
                .compare_exchange(holder, pid, Relaxed, Relaxed)
                .is_ok()
            {
                self.clear(seat);
                return index;
            }
        }
        // Too many processes share the last one.
        SEATS - 1
    }

    /// Leaves the seat, with the connections that are open.
    pub fn leave(&self, seat: usize, pid: u32) {
        if let Some(seat) = self.seats.get(seat) {
            if seat.pid.load(Relaxed) == pid {
                self.clear(seat);
                seat.pid.store(0, Relaxed);
            }
        }
    }

    fn clear(&self, seat: &Seat) {
        let used = self.rows_used.load(Relaxed) as usize;
        for open in seat.open[..used.min(ROWS)].iter().flatten() {
            // A page that is never written takes no memory.
            if open.load(Relaxed) != 0 {
                open.store(0, Relaxed);
            }
        }
    }

    /// A connection begins. Unless the listener is TCP, this is a system call.
    ///
    /// # Errors
    /// [`Error::Syscall`]: `fd` is no socket.
    pub fn begin(
        &self,
        seat: usize,
        row: usize,
        protocol: Protocol,
        fd: BorrowedFd<'_>,
    ) -> Result<Counted, Error> {
        let kind = match protocol {
            Protocol::Tcp => Kind::Tcp,
            _ => connection::made_for(fd)?,
        };
        let (seat, row) = (seat.min(SEATS - 1), row.min(ROWS - 1));
        self.rows[row].accepted.fetch_add(1, Relaxed);
        self.seats[seat].open[row][place(kind)].fetch_add(1, Relaxed);
        Ok(Counted { seat, row, kind })
    }

    /// A connection ends. If `fd` is still open, paths and bytes of MPTCP and of
    /// fallbacks are counted: a system call, or two after a fallback.
    pub fn end(&self, counted: Counted, fd: Option<BorrowedFd<'_>>) {
        let (seat, row) = (counted.seat.min(SEATS - 1), counted.row.min(ROWS - 1));
        let open = &self.seats[seat].open[row][place(counted.kind)];
        // It may be no longer there if this process has lost its seat.
        let _ = open.fetch_update(Relaxed, Relaxed, |open| open.checked_sub(1));
        let row = &self.rows[row];
        let last = fd.filter(|_| counted.kind == Kind::Mptcp).map(|fd| {
            let query = Query {
                before: Some(Kind::Mptcp),
                ..Query::default()
            };
            connection::query(fd, query)
        });
        let Some(Ok((now, _))) = last else {
            row.closed[place(counted.kind)].fetch_add(1, Relaxed);
            return;
        };
        row.closed[place(now.kind)].fetch_add(1, Relaxed);
        // Of one that the client has reset none is left.
        let paths = now.subflows_total.max(now.subflows);
        if let (Kind::Mptcp, Some(paths @ 1..)) = (now.kind, paths) {
            row.paths[paths.min(3) as usize - 1].fetch_add(1, Relaxed);
        }
        let place = usize::from(now.kind == Kind::Fallback);
        row.sent[place].fetch_add(now.bytes_sent.unwrap_or(0), Relaxed);
        row.received[place].fetch_add(now.bytes_received.unwrap_or(0), Relaxed);
    }

    /// All rows as text.
    pub fn text(&self, format: Format) -> String {
        let used = self.rows_used.load(Relaxed) as usize;
        let seats: Vec<&Seat> = self.seats.iter().filter(|seat| seat.is_taken()).collect();
        let rows = self.rows[..used.min(ROWS)].iter().enumerate();
        let rows = rows.map(|(index, row)| text::Row::new(index, row, &seats));
        text::write(format, &rows.collect::<Vec<_>>())
    }
}

impl Seat {
    /// By a process that has not been killed.
    fn is_taken(&self) -> bool {
        match self.pid.load(Relaxed) {
            0 => false,
            pid => sys::process_exists(pid),
        }
    }
}

#[cfg(test)]
mod tests;
