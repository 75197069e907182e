//! Replaced sockets go on until what they have begun is done: what waits for
//! accept(2), and handshakes that are under way.
//!
//! New connections have to find the new sockets alone from the first moment.
//! Both are in one SO_REUSEPORT group, over which the kernel spreads them, as
//! long as a listener that the kernel's search meets has SO_REUSEPORT. So the
//! new ones lose it for that time. On IPv4 the newest listener is met first.
//! On IPv6 an old one may be: bound to an interface that does not exist, it is
//! passed over, and its handshakes, which the kernel finds without it, go on.
//! That it is bound so says to any process that it drains. A new handshake that
//! the kernel gives it all the same, since both are in one group, gets no answer:
//! so it must not be bound while old and new share what comes.
//!
//! After a change from MPTCP to TCP, where MPTCP connections live on, the group
//! stays and a program (src/joins.rs) chooses instead: further subflows of these join
//! through the old socket, and whatever else begins goes to a new one.
//! SO_BROADCAST, which means nothing to TCP, says to any process that it is so.
//! Source: kernel net/ipv4/inet_hashtables.c, __inet_hash() and
//! inet_lhash2_lookup(); net/ipv6/inet6_hashtables.c.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use libc::SOL_SOCKET;
use socket2::{Domain, SockRef};

use crate::address::{AddressMap, SocketAddress};
use crate::error::Error;
use crate::handover;
use crate::joins;
use crate::listen::{Fate, Inherited, Listening, Outcome, flag};
use crate::open::identify;
use crate::protocol::Protocol;
use crate::sys;

/// No interface has this number.
const NOWHERE: i32 = i32::MAX;

/// How long others may drain: nginx-module/ngx_rs_drain.c, with some to spare.
const LONGEST: Duration = Duration::from_secs(6);

/// How often to look whether they do.
const AGAIN: Duration = Duration::from_millis(100);

/// Every interface.
const ANYWHERE: i32 = 0;

/// How to [`begin`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Begin {
    /// Subflows can join the MPTCP connections of an old socket whose place TCP
    /// takes; the old socket goes on until [`end`] is told to end it now. Where
    /// that cannot be, none can join: where old sockets of TCP drain at the
    /// address, too, or more than there are new ones, or somebody else shares it.
    pub join: bool,
    /// [`handover::commit`] has just succeeded, so of what it left the kernel
    /// need not be asked.
    pub committed: bool,
}

/// From now on new connections go to the new sockets only, while those that
/// they replace ([`Fate::Replaced`]) still listen: accept from both until
/// [`end`]. Where several sockets share an address by `reuseport`, one of them
/// gets all until then.
///
/// # Errors
/// [`Error::Syscall`] of the first that failed: some new connections may go to
/// the old socket of its address, and be lost at the end, or no subflow can join
/// its connections. All others are safe.
pub fn begin(sockets: &[Listening], old: &mut [Inherited<'_>], how: Begin) -> Result<(), Error> {
    let mut result = Ok(());
    let mut known = Known::default();
    for place in places(sockets, old)? {
        // Where one could not listen, an old one may have to go on for good.
        let failed = |new: &&Listening| new.outcome == Outcome::Failed;
        if !place.new.iter().any(failed) {
            result = result.and(match how.join {
                true if place.can_join(old, &mut known) => place.steer_but_joins(old),
                true => place.steer(old, how.committed),
                false => place.steer(old, how.committed).and(place.refuse_joins()),
            });
        }
    }
    result
}

/// Before the next change at these addresses: old and new sockets share new
/// connections, so that further ones can be bound beside them. Until [`begin`],
/// for the sockets that listen by then, [`end`] ends nothing.
///
/// # Errors
/// [`Error::Syscall`] of the first that failed: the next change may fail, too.
pub fn pause(sockets: &[Listening], old: &mut [Inherited<'_>]) -> Result<(), Error> {
    let mut result = Ok(());
    for place in places(sockets, old)? {
        result = result.and(place.refuse_joins());
        // In this order: one that is bound gets nothing as long as it is alone.
        result = result.and(place.bind_old(old, ANYWHERE));
        result = result.and(place.share_new(true));
    }
    result
}

/// Ends the listening of sockets that drain, in every process that has them:
/// with `now` whatever is under way, otherwise where nothing is any more. Those
/// that have ended, here or before, are [`Fate::Ended`]: close them. A process
/// that has closed the new sockets gives none, and ends nothing without `now`.
/// Where old and new share new connections, none is ended.
///
/// # Errors
/// [`Error::Syscall`] of the first that failed: an old socket listens on, and
/// whoever has it open has to close it; or one new socket goes on to get all
/// connections where several were to share them.
pub fn end(sockets: &[Listening], old: &mut [Inherited<'_>], now: bool) -> Result<(), Error> {
    let mut known = Known::default();
    let mut result = Ok(());
    for place in places(sockets, old)? {
        let mut ended = Ok(());
        let joins = place.lets_join();
        if place.listens(old) {
            let busy = match now {
                true => place.shares(false),
                false => joins || place.is_busy(old, &mut known),
            };
            if busy {
                continue;
            }
            ended = place.shut_down(old);
        }
        // One that listens on would get its share.
        result = result.and(ended.and_then(|()| place.spread(joins)));
        for &index in &place.old {
            old[index].fate = Fate::Ended;
        }
    }
    result
}

/// Waits until no others listen at the addresses of inherited sockets: those that
/// whoever had these before still drains. Not longer than that may take, and not
/// at all where the kernel does not say. Told of the first address once.
pub(crate) fn await_others(
    inherited: &mut [Inherited<'_>],
    mut report: impl FnMut(&SocketAddress),
) -> Result<(), Error> {
    let mut own: HashMap<SocketAddr, usize> = HashMap::new();
    for (index, socket) in inherited.iter_mut().enumerate() {
        if let Some((address, libc::SOCK_STREAM)) = identify(index, socket)?
            && let Some(address) = address.as_socket()
        {
            *own.entry(without_scope(address)).or_default() += 1;
        }
    }
    let end = Instant::now() + LONGEST;
    let mut reported = false;
    while let Some(address) = others(&own) {
        if !std::mem::replace(&mut reported, true) {
            report(&SocketAddress::Inet(address));
        }
        if Instant::now() >= end {
            break;
        }
        thread::sleep(AGAIN);
    }
    Ok(())
}

/// An address where more sockets listen than these.
fn others(own: &HashMap<SocketAddr, usize>) -> Option<SocketAddr> {
    let mut left = own.clone();
    for domain in [Domain::IPV4, Domain::IPV6] {
        if !own
            .keys()
            .any(|&address| Domain::for_address(address) == domain)
        {
            continue;
        }
        let listening = sys::in_state(domain, Protocol::Tcp, sys::LISTEN);
        for address in listening.unwrap_or_default() {
            match left.get_mut(&address) {
                Some(0) => return Some(address),
                Some(count) => *count -= 1,
                None => {}
            }
        }
    }
    None
}

/// As the kernel lists it.
fn without_scope(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// One address: the sockets that drain, and those that have taken over.
struct Place<'a> {
    address: SocketAddress,
    new: Vec<&'a Listening>,
    old: Vec<usize>,
}

/// Every address where a socket drains.
fn places<'a>(
    sockets: &'a [Listening],
    old: &mut [Inherited<'_>],
) -> Result<Vec<Place<'a>>, Error> {
    let mut places = Vec::new();
    let mut known: AddressMap<SocketAddress, usize> = AddressMap::default();
    for (index, socket) in old.iter_mut().enumerate() {
        if socket.fate != Fate::Replaced {
            continue;
        }
        let Some((address, _)) = identify(index, socket)? else {
            continue;
        };
        let place = *known.entry(address.clone()).or_insert_with(|| {
            let (new, old) = (Vec::new(), Vec::new());
            places.push(Place { address, new, old });
            places.len() - 1
        });
        places[place].old.push(index);
    }
    for socket in sockets.iter().filter(|socket| socket.is_inet_stream()) {
        if let Some(&place) = known.get(&socket.address) {
            places[place].new.push(socket);
        }
    }
    Ok(places)
}

impl Place<'_> {
    fn steer(&self, old: &[Inherited<'_>], committed: bool) -> Result<(), Error> {
        let alone = match committed && self.new.iter().all(|new| handover::is_alone(new)) {
            true => Ok(()),
            false => self.share_new(false),
        };
        alone.and(self.bind_old(old, NOWHERE))
    }

    /// Whether subflows could join through the old sockets, and somebody may
    /// want to. The index of a socket in the group is known only if nobody else
    /// is in it. When an old one leaves it the last one gets its index: with at
    /// least as many new ones, the first of these keeps its own for long enough.
    fn can_join(&self, old: &[Inherited<'_>], known: &mut Known) -> bool {
        let has = |fd: BorrowedFd<'_>, protocol: Protocol| {
            let number = sys::option(fd, SOL_SOCKET, libc::SO_PROTOCOL);
            number.is_ok_and(|number| number == protocol.number())
        };
        let listens = |fd: BorrowedFd<'_>| SockRef::from(&fd).is_listener().unwrap_or(false);
        let mut old = self.old.iter().map(|&index| old[index].fd);
        let mut new = self.new.iter().filter_map(|new| new.fd.as_ref());
        // In this order: what asks of all sockets once comes before what asks each.
        self.old.len() <= self.new.len()
            && known.has_mptcp_at(&self.address)
            && new.all(|fd| has(fd.as_fd(), Protocol::Tcp))
            && old.all(|fd| has(fd, Protocol::Mptcp) && listens(fd))
            && self.successors().count() == self.new.len()
            && known.listeners_at(&self.address) == Some(self.old.len() + self.new.len())
    }

    fn steer_but_joins(&self, old: &[Inherited<'_>]) -> Result<(), Error> {
        let chosen = self.let_join(old);
        if chosen.is_err() {
            let _ = self.stop_joins();
            self.steer(old, false)?;
        }
        chosen
    }

    fn let_join(&self, old: &[Inherited<'_>]) -> Result<(), Error> {
        let Some(fd) = self.successors().next() else {
            return Ok(());
        };
        let mut program = joins::program(self.old.len() as u32);
        self.bind_old(old, ANYWHERE)?;
        self.share_new(true)?;
        sys::choose_by(fd, &mut program).map_err(|source| {
            let call = "setsockopt(SO_ATTACH_REUSEPORT_CBPF)";
            Error::syscall(format!("{call} {}", self.address), source)
        })?;
        self.mark_joins(true)
    }

    fn mark_joins(&self, join: bool) -> Result<(), Error> {
        self.set_new(libc::SO_BROADCAST, join, "SO_BROADCAST")
    }

    /// Whether subflows can join through the old sockets.
    fn lets_join(&self) -> bool {
        self.successors().any(lets_join)
    }

    /// No subflow can join from now on; the group stays as it is.
    fn refuse_joins(&self) -> Result<(), Error> {
        match self.lets_join() {
            true => self.stop_joins(),
            false => Ok(()),
        }
    }

    fn stop_joins(&self) -> Result<(), Error> {
        let marked = self.mark_joins(false);
        marked.and(self.stop_choosing().map(drop))
    }

    /// Whether the group had a program: of several processes that take it away
    /// only one is told so.
    fn stop_choosing(&self) -> Result<bool, Error> {
        let Some(fd) = self.successors().next() else {
            return Ok(false);
        };
        match self.set(
            fd,
            libc::SO_DETACH_REUSEPORT_BPF,
            0,
            "SO_DETACH_REUSEPORT_BPF",
        ) {
            Err(error) if error.os_errno() == libc::ENOENT => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Whether the new sockets are in the group of those of their address.
    fn share_new(&self, share: bool) -> Result<(), Error> {
        self.set_new(libc::SO_REUSEPORT, share, "SO_REUSEPORT")
    }

    /// Where it is not so yet: to ask costs less, of MPTCP by far.
    fn set_new(&self, name: i32, value: bool, text: &str) -> Result<(), Error> {
        let value = i32::from(value);
        let is_set = |&fd: &BorrowedFd<'_>| {
            sys::option(fd, SOL_SOCKET, name).is_ok_and(|before| before == value)
        };
        let mut result = Ok(());
        for fd in self.successors().filter(|fd| !is_set(fd)) {
            result = result.and(self.set(fd, name, value, text));
        }
        result
    }

    /// On IPv6: which interface the old sockets are bound to.
    fn bind_old(&self, old: &[Inherited<'_>], interface: i32) -> Result<(), Error> {
        if self.address.domain() != Domain::IPV6 {
            return Ok(());
        }
        let mut result = Ok(());
        for &index in &self.old {
            let (fd, name) = (old[index].fd, libc::SO_BINDTOIFINDEX);
            result = result.and(self.set(fd, name, interface, "SO_BINDTOIFINDEX"));
        }
        result
    }

    fn set(&self, fd: BorrowedFd<'_>, name: i32, value: i32, text: &str) -> Result<(), Error> {
        sys::set_option(fd, SOL_SOCKET, name, value).map_err(|source| {
            Error::syscall(format!("setsockopt({text}) {}", self.address), source)
        })
    }

    /// The new sockets, but for those that are known to drain themselves by now.
    fn successors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fds = self.new.iter().filter_map(|new| new.fd.as_ref());
        let marked = self.address.domain() == Domain::IPV6;
        let bound = |fd| sys::option(fd, SOL_SOCKET, libc::SO_BINDTOIFINDEX);
        fds.map(AsFd::as_fd)
            .filter(move |&fd| !(marked && bound(fd).is_ok_and(|interface| interface == NOWHERE)))
    }

    /// Whether an old socket does still listen: another process may have been
    /// faster.
    fn listens(&self, old: &[Inherited<'_>]) -> bool {
        let listens = |&index: &usize| SockRef::from(&old[index].fd).is_listener();
        self.old.iter().any(|index| listens(index).unwrap_or(true))
    }

    /// SO_REUSEPORT of the new ones stays: who replaces them just now needs it.
    fn shut_down(&self, old: &[Inherited<'_>]) -> Result<(), Error> {
        let mut result = Ok(());
        for &index in &self.old {
            match SockRef::from(&old[index].fd).shutdown(Shutdown::Both) {
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                ended => result = result.and(ended),
            }
        }
        result.map_err(|source| Error::syscall(format!("shutdown() {}", self.address), source))
    }

    /// Whether old and new share what comes, as it is while the new ones are
    /// about to be replaced.
    fn shares(&self, unknown: bool) -> bool {
        let shares = |fd| SockRef::from(&fd).reuse_port().unwrap_or(unknown);
        self.successors().any(|fd| shares(fd) && !lets_join(fd))
    }

    /// Whether the old sockets may still have, or get, connections.
    fn is_busy(&self, old: &[Inherited<'_>], known: &mut Known) -> bool {
        let waits = |&index: &usize| sys::waiting(old[index].fd).map_or(true, |count| count > 0);
        // In this order: what leaves the handshake waits.
        self.new.is_empty()
            || self.shares(true)
            || known.is_half_open_at(&self.address)
            || self.old.iter().any(waits)
    }

    /// Gives the new sockets SO_REUSEPORT back where they are to share, and
    /// takes it away where they share no more, as after subflows could join.
    fn spread(&self, joins: bool) -> Result<(), Error> {
        let share = self.new.iter().any(|new| new.options.has(flag::REUSEPORT));
        if !joins {
            return match share {
                true => self.share_new(true),
                false => Ok(()),
            };
        }
        if !self.stop_choosing()? {
            // Another process was faster.
            return Ok(());
        }
        self.share_new(share)?;
        match self.lets_join() {
            true => self.mark_joins(false),
            // The next change is being prepared by now.
            false => self.share_new(true),
        }
    }
}

fn lets_join(fd: BorrowedFd<'_>) -> bool {
    let marked = sys::option(fd, SOL_SOCKET, libc::SO_BROADCAST);
    marked.is_ok_and(|marked| marked != 0)
}

/// Ports, or None where the kernel does not say.
type Ports = Option<HashSet<u16>>;

/// What the kernel says of all sockets of an address family, asked once.
#[derive(Default)]
struct Known {
    half_open: HashMap<i32, Ports>,
    mptcp: HashMap<i32, Ports>,
    listeners: HashMap<i32, Option<HashMap<SocketAddr, usize>>>,
}

impl Known {
    /// Whether handshakes are under way at this port.
    fn is_half_open_at(&mut self, address: &SocketAddress) -> bool {
        any_at(&mut self.half_open, address, |domain| {
            sys::in_state(domain, Protocol::Tcp, sys::SYN_RECV)
        })
    }

    /// Whether MPTCP connections are there, or may come to be.
    fn has_mptcp_at(&mut self, address: &SocketAddress) -> bool {
        let connected = any_at(&mut self.mptcp, address, |domain| {
            sys::in_state(domain, Protocol::Mptcp, sys::ESTABLISHED)
        });
        connected || self.is_half_open_at(address)
    }

    /// How many listen at this address.
    fn listeners_at(&mut self, address: &SocketAddress) -> Option<usize> {
        let (domain, address) = (address.domain(), address.as_socket()?);
        let listeners = self.listeners.entry(domain.into()).or_insert_with(|| {
            let mut counts = HashMap::new();
            for address in sys::in_state(domain, Protocol::Tcp, sys::LISTEN).ok()? {
                *counts.entry(address).or_default() += 1;
            }
            Some(counts)
        });
        listeners.as_ref()?.get(&without_scope(address)).copied()
    }
}

fn any_at(
    known: &mut HashMap<i32, Ports>,
    address: &SocketAddress,
    ask: impl FnOnce(Domain) -> io::Result<Vec<SocketAddr>>,
) -> bool {
    let Some(port) = address.as_socket().map(|address| address.port()) else {
        return false;
    };
    let domain = address.domain();
    let ports = known.entry(domain.into()).or_insert_with(|| {
        let addresses = ask(domain).ok()?;
        Some(addresses.iter().map(SocketAddr::port).collect())
    });
    ports.as_ref().is_none_or(|ports| ports.contains(&port))
}
