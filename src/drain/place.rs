//! One address: the superseded sockets, and their successors.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use libc::SOL_SOCKET;
use socket2::{Domain, SockRef};

use crate::address::SocketAddress;
use crate::error::Error;
use crate::listen::{Inherited, Listening, Outcome, flag};
use crate::protocol::{Protocol, Request};
use crate::sys::{self, Watched};

/// How long a superseded socket drains at most: two packets in a row of a
/// handshake may get lost, of which the second is sent again after 3 seconds.
pub const TIME: Duration = Duration::from_secs(5);

/// The time between two calls of [`crate::Drain::poll`]. No socket ends earlier:
/// processes of the old configuration may still accept from it.
const INTERVAL: Duration = TIME.checked_div(10).expect("10 is not 0");

/// One superseded socket, as [`crate::Drain::sockets`] lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Draining {
    /// Its descriptor.
    pub fd: i32,
    /// Its protocol.
    pub protocol: Protocol,
    /// Index of the first requested socket of its address in the latest
    /// [`crate::Drain::begin`]; meaningless if the socket has ended.
    pub successor: usize,
    /// Whether the caller must close it: nothing is under way any more, or its
    /// time is over.
    pub ended: bool,
}

/// No interface has this number.
const NO_INTERFACE: i32 = i32::MAX;

#[derive(Debug)]
pub(super) struct Place {
    pub(super) address: SocketAddress,
    superseded: Vec<Superseded>,
    /// Index of the first successor.
    successor: Option<usize>,
    /// The successors, if they are to share connections after the drain.
    sharing: Vec<Watched>,
    /// Whether a successor is an SMC socket.
    has_smc: bool,
    /// Whether all new connections reach the successors.
    directed: bool,
    began: Instant,
}

#[derive(Debug)]
struct Superseded {
    socket: Watched,
    protocol: Protocol,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Draining,
    Ended,
    /// Ended, and listed as such.
    Reported,
}

impl Place {
    pub(super) fn new(address: SocketAddress) -> Self {
        Self {
            address,
            superseded: Vec::new(),
            successor: None,
            sharing: Vec::new(),
            has_smc: false,
            directed: false,
            began: Instant::now(),
        }
    }

    /// Ends the sockets that drain already, before others are added.
    pub(super) fn restart(&mut self) -> Result<(), Error> {
        self.began = Instant::now();
        self.directed = false;
        self.end()
    }

    /// Adds a superseded socket.
    pub(super) fn add_superseded(&mut self, old: &Inherited<'_>) -> Result<(), Error> {
        let socket = Watched::new(old.fd).map_err(|source| {
            self.failed("getsockopt(SO_COOKIE)", source)
                .with_consequence("not draining the old socket, connections may be lost")
        })?;
        self.superseded.push(Superseded {
            socket,
            protocol: old.protocol.unwrap_or(Protocol::Tcp),
            state: State::Draining,
        });
        Ok(())
    }

    /// A new binary must not inherit a superseded socket.
    pub(super) fn set_close_on_exec(&self, old: &Inherited<'_>) -> Result<(), Error> {
        sys::set_close_on_exec(old.fd).map_err(|source| {
            self.failed("fcntl(FD_CLOEXEC)", source)
                .with_consequence("do not upgrade the binary while the old socket drains")
        })
    }

    fn failed(&self, call: &str, source: io::Error) -> Error {
        Error::syscall(format!("{call} {}", self.address), source)
    }

    pub(super) fn forget_successors(&mut self) {
        self.successor = None;
        self.has_smc = false;
        self.sharing.clear();
    }

    pub(super) fn add_successor(
        &mut self,
        index: usize,
        socket: &Listening,
        inherited: &[Inherited<'_>],
    ) {
        self.successor.get_or_insert(index);
        let is_smc = |request: Request| request.protocol == Protocol::Smc;
        self.has_smc |= socket.request.is_some_and(is_smc);
        if socket.options.has(flag::REUSEPORT) {
            let kept = match socket.outcome {
                Outcome::Inherited(kept) => inherited.get(kept).map(|kept| kept.fd),
                _ => None,
            };
            let fd = socket.fd.as_ref().map(AsFd::as_fd).or(kept);
            self.sharing.extend(fd.and_then(|fd| Watched::new(fd).ok()));
        }
    }

    /// The first draining socket that this process has not closed.
    pub(super) fn first(&self) -> Option<BorrowedFd<'_>> {
        self.draining().find_map(Result::ok)
    }

    /// The draining sockets that this process has not closed.
    fn draining(&self) -> impl Iterator<Item = io::Result<BorrowedFd<'_>>> {
        let draining = |old: &&Superseded| old.state == State::Draining;
        let sockets = self.superseded.iter().filter(draining);
        sockets.filter_map(|old| old.socket.get().transpose())
    }

    /// Directs new connections to the successors. The commit has removed
    /// SO_REUSEPORT from successors that do not share an address.
    pub(super) fn direct(&mut self) -> Result<(), Error> {
        if self.has_ended() {
            // No superseded socket could be added.
            return Ok(());
        }
        if self.has_smc {
            // SO_REUSEPORT of a bound one has no effect: net/smc/af_smc.c, smc_bind().
            return Err(Error::NotDirected(self.address.to_string()));
        }
        let alone = self.share(false);
        let excluded = alone.and_then(|()| self.exclude_from_search());
        self.directed = excluded.is_ok();
        excluded.map_err(|error| {
            error.with_consequence("new connections may be lost until the old socket is closed")
        })
    }

    fn exclude_from_search(&self) -> Result<(), Error> {
        if self.address.domain() != Domain::IPV6 {
            return Ok(());
        }
        let mut result = Ok(());
        for fd in self.draining() {
            let (name, text) = (libc::SO_BINDTOIFINDEX, "SO_BINDTOIFINDEX");
            let fd = fd.map_err(|source| self.failed("getsockopt(SO_COOKIE)", source));
            result = result.and(fd.and_then(|fd| self.set(fd, name, NO_INTERFACE, text)));
        }
        result
    }

    /// Sets SO_REUSEPORT of the successors that share an address.
    fn share(&self, share: bool) -> Result<(), Error> {
        let value = i32::from(share);
        let sockets = self.sharing.iter();
        let sockets = sockets.filter_map(|socket| socket.get().ok().flatten());
        let differs = |fd: &BorrowedFd<'_>| {
            // A query is cheaper than a change, much cheaper for MPTCP.
            let now = sys::option(*fd, SOL_SOCKET, libc::SO_REUSEPORT);
            now.is_ok_and(|now| now != value)
        };
        let mut result = Ok(());
        for fd in sockets.filter(differs) {
            result = result.and(self.set(fd, libc::SO_REUSEPORT, value, "SO_REUSEPORT"));
        }
        result
    }

    fn set(&self, fd: BorrowedFd<'_>, name: i32, value: i32, text: &str) -> Result<(), Error> {
        sys::set_option(fd, SOL_SOCKET, name, value)
            .map_err(|source| self.failed(&format!("setsockopt({text})"), source))
    }

    /// Whether it is too early for anything to have ended.
    pub(super) fn is_new(&self) -> bool {
        self.began.elapsed() < INTERVAL
    }

    /// Marks the sockets that another process ended, or this process closed.
    pub(super) fn notice_ended(&mut self) {
        for old in &mut self.superseded {
            let ended = |fd| {
                SockRef::from(&fd)
                    .is_listener()
                    .is_ok_and(|listens| !listens)
            };
            let ended = |found: Option<_>| found.is_none_or(ended);
            if old.state == State::Draining && old.socket.get().is_ok_and(ended) {
                old.state = State::Ended;
            }
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        let draining = |old: &Superseded| old.state == State::Draining;
        !self.superseded.iter().any(draining)
    }

    /// Whether the sockets must end: the time is over, or they are idle.
    pub(super) fn is_done(&self, handshakes: &mut Handshakes) -> bool {
        let age = self.began.elapsed();
        age >= TIME || age >= INTERVAL && self.directed && !self.is_busy(handshakes)
    }

    /// The time until the next poll; None if every socket has ended. Never zero.
    pub(super) fn delay(&self) -> Option<Duration> {
        let age = self.began.elapsed();
        let first = INTERVAL.saturating_sub(age);
        let next = if first.is_zero() { INTERVAL } else { first };
        let next = next.min(TIME.saturating_sub(age));
        (!self.has_ended()).then_some(next.max(Duration::from_millis(1)))
    }

    /// Whether handshakes are under way, or connections wait in a queue. In this
    /// order, because a handshake that ends in between puts one in the queue.
    fn is_busy(&self, handshakes: &mut Handshakes) -> bool {
        let waits = |fd: io::Result<_>| fd.and_then(sys::queued).map_or(true, |count| count > 0);
        handshakes.are_under_way_at(&self.address) || self.draining().any(waits)
    }

    /// Ends the superseded sockets in every process. If one of them cannot be
    /// ended, the successors do not share new connections: the kernel would give
    /// some to that socket.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for old in &mut self.superseded {
            if old.state == State::Draining {
                old.state = State::Ended;
                let stop = |fd| sys::stop_listening(fd, old.protocol);
                result = result.and(old.socket.get().and_then(|fd| fd.map_or(Ok(()), stop)));
            }
        }
        if let Err(source) = result {
            self.sharing.clear();
            return Err(self.failed("shutdown() of the old socket", source));
        }
        self.spread()
    }

    /// Lets the successors share new connections again.
    pub(super) fn spread(&mut self) -> Result<(), Error> {
        let result = self.share(true);
        self.sharing.clear();
        result
    }

    /// Lists the superseded sockets: the caller closes those that have ended.
    pub(super) fn report(&mut self) -> impl Iterator<Item = Draining> {
        let successor = self.successor.unwrap_or(0);
        self.superseded.iter_mut().map(move |old| {
            let ended = old.state != State::Draining;
            if ended {
                old.state = State::Reported;
            }
            Draining {
                fd: old.socket.number(),
                protocol: old.protocol,
                successor,
                ended,
            }
        })
    }

    pub(super) fn len(&self) -> usize {
        self.superseded.len()
    }

    /// Forgets the sockets that were listed as ended; false if none is left.
    pub(super) fn forget_ended(&mut self) -> bool {
        self.superseded.retain(|old| old.state != State::Reported);
        !self.superseded.is_empty()
    }
}

/// The ports where handshakes are under way, queried once per address family;
/// None if the query failed.
#[derive(Default)]
pub(super) struct Handshakes(BTreeMap<i32, Option<BTreeSet<u16>>>);

impl Handshakes {
    fn are_under_way_at(&mut self, address: &SocketAddress) -> bool {
        let Some(port) = address.as_socket().map(|address| address.port()) else {
            return false;
        };
        let domain = address.domain();
        let query = || sys::ports_in_handshake(domain).ok();
        let ports = self.0.entry(domain.into()).or_insert_with(query);
        ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}
