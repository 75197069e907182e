//! The life of a superseded socket: it drains until nothing is under way on it,
//! for [`TIME`] at most.
//!
//! From the commit on, new connections must reach its successors only. Both are
//! in one SO_REUSEPORT group. The kernel spreads new connections over the group
//! if the listener that its search finds first has SO_REUSEPORT, so the
//! successors lose that option while the old socket drains. On IPv4 the search
//! finds the newest listener first. On IPv6 it may find the superseded socket
//! first. This module therefore binds that socket to an interface that does not
//! exist: the search skips it, and the handshakes that it has begun continue.
//! Source: kernel net/ipv4/inet_hashtables.c, __inet_hash() and
//! inet_lhash2_lookup(); net/ipv6/inet6_hashtables.c.

mod place;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::address::{AddressMap, SocketAddress};
use crate::error::Error;
use crate::listen::{Disposition, Inherited, Listening};
use crate::sys::{self, SharedCounter};
pub use place::{Draining, TIME};
use place::{Handshakes, Place};

/// The superseded sockets that drain. The caller keeps the ownership of their
/// descriptors, and closes those that have ended.
///
/// fork(2) copies the state. Every process that has a copy may
/// [`poll`](Self::poll), and acts only on descriptors that it has not closed.
/// Shared memory counts the calls of [`begin`](Self::begin). A copy from before
/// the latest call is stale: it only notices which sockets have ended.
#[derive(Debug)]
pub struct Drain {
    places: Vec<Place>,
    /// Where an address is in `places`.
    known: AddressMap<SocketAddress, usize>,
    begun: SharedCounter,
    /// The value of `begun` that belongs to this state.
    own: u32,
}

/// The descriptors that the new configuration needs beside draining sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Number of descriptors that this process must still be able to open.
    pub spare: u32,
    /// RLIMIT_NOFILE of the processes that this one forks; 0 if it is the same.
    pub limit: u32,
}

impl Drain {
    /// A state without sockets.
    ///
    /// # Errors
    /// [`Error::Syscall`] if there is no shared memory.
    pub fn new() -> Result<Self, Error> {
        let begun = SharedCounter::new().map_err(|source| Error::syscall("mmap()", source))?;
        Ok(Self {
            places: Vec::new(),
            known: AddressMap::default(),
            begun,
            own: 0,
        })
    }

    /// After a commit: takes the superseded sockets
    /// ([`Disposition::Draining`] from now on) and directs new connections to
    /// their successors. A socket that drains already continues if `sockets` has
    /// its address, and ends otherwise. Linear in the number of sockets.
    ///
    /// # Errors
    /// [`Error::Syscall`] of dup(2) if there is no room: no socket is added, and
    /// every drain ends. Otherwise [`Error::Syscall`] of the first call that
    /// failed: new connections may reach a superseded socket, and be lost with
    /// it.
    pub fn begin(
        &mut self,
        sockets: &[Listening],
        inherited: &mut [Inherited<'_>],
        room: Room,
    ) -> Result<(), Error> {
        self.own = self.begun.advance();
        let mut result = self.prune(sockets);
        if let Err(error) = self.make_room(inherited, room) {
            self.find_successors(sockets, inherited);
            for place in &mut self.places {
                let _ = place.end();
            }
            return Err(error);
        }
        let mut changed = BTreeSet::new();
        for (index, old) in inherited.iter_mut().enumerate() {
            if old.disposition != Disposition::Superseded {
                continue;
            }
            let added = match old.identify(index) {
                Ok(Some((address, _))) => {
                    let index = self.place(address);
                    let place = &mut self.places[index];
                    if changed.insert(index) {
                        result = result.and(place.restart());
                    }
                    let added = place.add_superseded(old);
                    result = result.and(place.set_close_on_exec(old));
                    added
                }
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            if added.is_ok() {
                old.disposition = Disposition::Draining;
            }
            result = result.and(added);
        }
        self.find_successors(sockets, inherited);
        for place in changed {
            result = result.and(self.places[place].direct());
        }
        result
    }

    /// Forgets the sockets that were reported as ended. Ends those at addresses
    /// that no requested socket has.
    fn prune(&mut self, sockets: &[Listening]) -> Result<(), Error> {
        self.places.retain_mut(Place::forget_ended);
        self.index();
        let mut gone: BTreeSet<usize> = (0..self.places.len()).collect();
        self.at_places(sockets, |_, place, _| _ = gone.remove(&place));
        let mut result = Ok(());
        for place in gone {
            result = result.and(self.places[place].end());
        }
        result
    }

    fn index(&mut self) {
        let places = self.places.iter().enumerate();
        self.known = places
            .map(|(index, place)| (place.address.clone(), index))
            .collect();
    }

    fn place(&mut self, address: SocketAddress) -> usize {
        let count = self.places.len();
        let place = *self.known.entry(address.clone()).or_insert(count);
        if place == count {
            self.places.push(Place::new(address));
        }
        place
    }

    fn find_successors(&mut self, sockets: &[Listening], inherited: &[Inherited<'_>]) {
        self.places.iter_mut().for_each(Place::forget_successors);
        self.at_places(sockets, |drain, place, index| {
            drain.places[place].add_successor(index, &sockets[index], inherited);
        });
    }

    /// Calls `visit` with the index of each requested socket that is at a place,
    /// and that place.
    fn at_places(&mut self, sockets: &[Listening], mut visit: impl FnMut(&mut Self, usize, usize)) {
        if self.places.is_empty() {
            return;
        }
        for (index, socket) in sockets.iter().enumerate() {
            let place = self.known.get(&socket.address).copied();
            if let Some(place) = place.filter(|_| socket.is_inet_stream()) {
                visit(self, place, index);
            }
        }
    }

    /// Checks that the new configuration can open as many descriptors as it
    /// needs beside those that drain.
    fn make_room(&self, inherited: &[Inherited<'_>], room: Room) -> Result<(), Error> {
        let superseded = |old: &&Inherited<'_>| old.disposition == Disposition::Superseded;
        let first = inherited.iter().find(superseded).map(|old| old.fd);
        let first = first.or_else(|| self.places.iter().find_map(Place::first));
        match first {
            Some(fd) => sys::has_room(fd, room.spare, room.limit).map_err(|source| {
                Error::syscall("dup()", source).with_consequence(
                    "not enough descriptors to drain old listening sockets, \
                     connections in their queues may be lost",
                )
            }),
            None => Ok(()),
        }
    }

    /// Ends the sockets that drain at an address. Returns whether there were any.
    ///
    /// # Errors
    /// [`Error::Syscall`] if one of them still listens.
    pub fn end_at(&mut self, address: &SocketAddress) -> Result<bool, Error> {
        let place = self.known.get(address).copied();
        let Some(place) = place.and_then(|place| self.places.get_mut(place)) else {
            return Ok(false);
        };
        place.notice_ended();
        let drained = !place.has_ended();
        place.end().map(|()| drained)
    }

    /// Ends each superseded socket that is idle, or whose [`TIME`] is over, in
    /// every process. Notices which ones another process has ended. A socket is
    /// idle if no handshake is under way and no connection waits for accept(2).
    ///
    /// # Errors
    /// [`Error::Syscall`] of the first call that failed. Either a socket that has
    /// [`Draining::ended`] listens until every process has closed it, or one
    /// successor gets all connections that several were to share.
    pub fn poll(&mut self) -> Result<(), Error> {
        let stale = self.is_stale();
        let mut handshakes = Handshakes::default();
        let mut result = Ok(());
        for place in self.places.iter_mut().filter(|place| !place.is_new()) {
            place.notice_ended();
            if !place.has_ended() && !stale && place.is_done(&mut handshakes) {
                result = result.and(place.end());
            } else if place.has_ended() && !stale {
                result = result.and(place.spread());
            }
        }
        result
    }

    /// When to poll again; None if every socket has ended.
    pub fn delay(&self) -> Option<Duration> {
        self.places.iter().filter_map(Place::delay).min()
    }

    /// The number of [`Drain::sockets`].
    pub fn len(&self) -> usize {
        self.places.iter().map(Place::len).sum()
    }

    /// Whether [`Drain::sockets`] has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The superseded sockets, in an order that only [`Drain::begin`] changes.
    /// The next [`Drain::begin`] forgets those that were listed as ended.
    pub fn sockets(&mut self) -> impl Iterator<Item = Draining> {
        self.places.iter_mut().flat_map(Place::report)
    }

    fn is_stale(&self) -> bool {
        self.begun.get() != self.own
    }
}

/// Ends all sockets, unless the state is stale: the server quits.
impl Drop for Drain {
    fn drop(&mut self) {
        if !self.is_stale() {
            for place in &mut self.places {
                // A destructor cannot report an error. The process closes the
                // socket in any case.
                let _ = place.end();
            }
        }
    }
}
