//! Opens many listening sockets, or none.
//!
//! Source: nginx ngx_init_cycle() for the matching of inherited sockets, and
//! ngx_open_listening_sockets() for the tries.

use std::ffi::c_int;
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Type};

use crate::address::{AddressMap, SocketAddress};
use crate::create::{create, listen, unlink};
use crate::drain;
use crate::error::Error;
use crate::handover;
use crate::listen::{Fate, Inherited, Listening, Outcome};
use crate::protocol::Protocol;
use crate::sys;

/// How to open.
#[derive(Default)]
pub struct Open<'a> {
    /// Leave fresh sockets of plain TCP, UDP and unix domain to the caller
    /// ([`Outcome::Left`]).
    pub leave_tcp: bool,
    /// Stop before the point of no return: sockets beside inherited ones are
    /// bound and do not listen until [`handover::commit`].
    pub prepare: bool,
    /// Open nothing, only make sure that the kernel has the protocols; every
    /// socket is left to the caller.
    pub check: bool,
    /// The inherited sockets come from a process that may still drain others of
    /// their addresses: wait until these have ended, for some seconds at most.
    pub await_drains: bool,
    /// How often to try while an address is in use; 0 is once.
    pub tries: u32,
    /// How long to wait between two tries.
    pub delay: Duration,
    /// Told of what goes on.
    pub report: Option<&'a mut dyn FnMut(Report<'_>)>,
}

/// What [`Open::report`] is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// This address is in use, and will be tried again.
    InUse(&'a Error),
    /// Waiting before the next try.
    Waiting(Duration),
    /// Waiting until the sockets that another process drains at this address,
    /// and maybe at others, have ended: said once.
    Drains(&'a SocketAddress),
    /// Plain TCP takes the place of the protocol: said once for all sockets.
    Fallback(&'a Error),
}

/// Opens, binds and listens on every socket, or on none: on failure all that
/// was opened is closed, and the inherited sockets are what they were.
///
/// Sockets are matched with inherited ones of the same address and type, in
/// the order of both, as nginx does it. One of the same protocol goes on; one
/// of another is replaced. Linear in the number of both.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Syscall`].
pub fn listening(
    sockets: &mut [Listening],
    inherited: &mut [Inherited<'_>],
    how: &mut Open<'_>,
) -> Result<(), Error> {
    if how.await_drains {
        drain::await_others(inherited, |address| {
            if let Some(report) = &mut how.report {
                report(Report::Drains(address));
            }
        })?;
    }
    let result = Opening::new(inherited, how)?.all(sockets);
    if result.is_err() {
        close(sockets);
        handover::rollback(inherited);
    }
    result
}

/// Inherited sockets of one address and type, chained by [`Opening::behind`].
struct Group {
    first: usize,
    last: usize,
    /// The first that no socket has looked at yet.
    next: Option<usize>,
    /// Whether one before that has another protocol.
    replaced: bool,
    /// Whether other sockets can be bound beside them.
    shared: bool,
}

struct Opening<'a, 'fd, 'how, 'report> {
    inherited: &'a mut [Inherited<'fd>],
    groups: Vec<Group>,
    /// Which group is that of an address and type.
    known: AddressMap<(SocketAddress, c_int), usize>,
    /// For each inherited socket the next one of its group.
    behind: Vec<Option<usize>>,
    /// Which protocols the kernel has, as far as that was asked.
    asked: Vec<(Domain, Protocol, bool)>,
    how: &'how mut Open<'report>,
}

impl<'a, 'fd, 'how, 'report> Opening<'a, 'fd, 'how, 'report> {
    fn new(
        inherited: &'a mut [Inherited<'fd>],
        how: &'how mut Open<'report>,
    ) -> Result<Self, Error> {
        let mut groups: Vec<Group> = Vec::with_capacity(inherited.len());
        let mut known = AddressMap::default();
        known.reserve(inherited.len());
        let mut behind = vec![None; inherited.len()];
        for (index, socket) in inherited.iter_mut().enumerate() {
            socket.fate = Fate::Unused;
            let Some(key) = identify(index, socket)? else {
                continue;
            };
            let group = *known.entry(key).or_insert(groups.len());
            let Some(group) = groups.get_mut(group) else {
                groups.push(Group {
                    first: index,
                    last: index,
                    next: Some(index),
                    replaced: false,
                    shared: false,
                });
                continue;
            };
            behind[group.last] = Some(index);
            group.last = index;
        }
        Ok(Self {
            inherited,
            groups,
            known,
            behind,
            asked: Vec::new(),
            how,
        })
    }
}

/// Address and type of an inherited socket, asked from the kernel where the
/// caller did not say; None where nothing can be listening there.
pub(crate) fn identify(
    index: usize,
    socket: &mut Inherited<'_>,
) -> Result<Option<(SocketAddress, c_int)>, Error> {
    let kernel = SockRef::from(&socket.fd);
    let failed = |call, source| {
        let call = format!("{call} of the inherited socket #{index}");
        Error::syscall(call, source)
    };
    if socket.address.is_none() {
        let address = kernel.local_addr();
        let address = address.map_err(|source| failed("getsockname()", source))?;
        socket.address = SocketAddress::from_kernel(&address);
    }
    if socket.socket_type.is_none() {
        let kind = kernel.r#type();
        socket.socket_type = Some(kind.map_err(|source| failed("getsockopt(SO_TYPE)", source))?);
    }
    let kind = socket.socket_type.map(c_int::from);
    Ok(socket.address.clone().zip(kind))
}

impl Opening<'_, '_, '_, '_> {
    fn all(&mut self, sockets: &mut [Listening]) -> Result<(), Error> {
        let mut pending: Vec<usize> = (0..sockets.len()).collect();
        for tries in (0..self.how.tries.max(1)).rev() {
            let mut failed = Vec::new();
            for index in pending {
                match self.one(&mut sockets[index]) {
                    Ok(()) => {}
                    Err(error) if error.is_address_in_use() && tries > 0 => {
                        close_one(&mut sockets[index]);
                        self.report(Report::InUse(&error));
                        failed.push(index);
                    }
                    Err(error) => return Err(error),
                }
            }
            if failed.is_empty() {
                break;
            }
            self.report(Report::Waiting(self.how.delay));
            thread::sleep(self.how.delay);
            pending = failed;
        }
        Ok(())
    }

    fn report(&mut self, report: Report<'_>) {
        if let Some(listener) = &mut self.how.report {
            listener(report);
        }
    }

    /// Finds out what is to become of a socket, and does it.
    fn one(&mut self, socket: &mut Listening) -> Result<(), Error> {
        let group = self.group(socket);
        socket.protocol = self.choose(socket, group)?;
        if let Some(index) = self.take(socket, group)? {
            self.inherited[index].fate = Fate::Kept;
            socket.outcome = Outcome::Inherited(index);
        } else if self.how.check {
            self.supports(socket, socket.protocol)?;
            socket.outcome = Outcome::Left;
        } else {
            self.open(socket, group)?;
        }
        Ok(())
    }

    /// The group of the socket's address and type, if there is one.
    fn group(&self, socket: &Listening) -> Option<usize> {
        if self.groups.is_empty() {
            return None;
        }
        let key = (socket.address.clone(), socket.socket_type.into());
        self.known.get(&key).copied()
    }

    fn choose(&mut self, socket: &Listening, group: Option<usize>) -> Result<Protocol, Error> {
        let Some(wish) = socket.wish.filter(|_| socket.is_inet_stream()) else {
            return Ok(Protocol::Tcp);
        };
        // An inherited socket of the protocol needs no new one.
        if !wish.fallback
            || self
                .next(socket, group)?
                .is_some_and(|(_, protocol)| protocol == wish.protocol)
        {
            return Ok(wish.protocol);
        }
        let domain = socket.address.domain();
        if self.asked.contains(&(domain, wish.protocol, false)) {
            return Ok(Protocol::Tcp);
        }
        match self.supports(socket, wish.protocol) {
            Ok(()) => Ok(wish.protocol),
            Err(error @ Error::Unsupported { .. }) => {
                if self.asked.iter().all(|row| row.2) {
                    self.report(Report::Fallback(&error));
                }
                self.asked.push((domain, wish.protocol, false));
                Ok(Protocol::Tcp)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the kernel has the protocol; asks it once per family.
    fn supports(&mut self, socket: &Listening, protocol: Protocol) -> Result<(), Error> {
        let domain = socket.address.domain();
        if protocol == Protocol::Tcp || self.asked.contains(&(domain, protocol, true)) {
            return Ok(());
        }
        sys::socket(domain, Type::STREAM.cloexec(), Some(protocol)).map_err(|source| {
            protocol.open_error(format!("socket() {}", socket.address), source)
        })?;
        self.asked.push((domain, protocol, true));
        Ok(())
    }

    /// The next inherited socket of the group.
    fn next(
        &mut self,
        socket: &Listening,
        group: Option<usize>,
    ) -> Result<Option<(usize, Protocol)>, Error> {
        match group.and_then(|group| self.groups[group].next) {
            Some(index) => {
                let protocol = protocol_of(&mut self.inherited[index], socket)?;
                Ok(Some((index, protocol)))
            }
            None => Ok(None),
        }
    }

    /// Takes the next inherited socket of the right protocol; those of another
    /// are passed over for good.
    fn take(&mut self, socket: &Listening, group: Option<usize>) -> Result<Option<usize>, Error> {
        while let Some((index, protocol)) = self.next(socket, group)? {
            let right = protocol == socket.protocol || !socket.is_inet_stream();
            let behind = self.behind[index];
            if let Some(group) = group {
                self.groups[group].next = behind;
                self.groups[group].replaced |= !right;
            }
            if right {
                return Ok(Some(index));
            }
            self.inherited[index].fate = Fate::Replaced;
        }
        Ok(None)
    }

    fn open(&mut self, socket: &mut Listening, group: Option<usize>) -> Result<(), Error> {
        let outcome = match group {
            None => Outcome::Opened,
            Some(group) if self.groups[group].replaced => Outcome::Replaced,
            Some(_) => Outcome::Joined,
        };
        let plain = socket.protocol == Protocol::Tcp;
        if self.how.leave_tcp && plain && outcome != Outcome::Replaced {
            socket.outcome = Outcome::Left;
            return Ok(());
        }
        if let Some(group) = group {
            self.share(group)?;
        }
        socket.fd = Some(create(socket, outcome == Outcome::Replaced)?);
        socket.outcome = outcome;
        // Beside others it would take connections away from them.
        let wait = self.how.prepare && outcome != Outcome::Opened;
        if !wait {
            // The address must be free for another try.
            listen(socket)
                .and_then(|()| handover::unshare(socket))
                .inspect_err(|_| close_one(socket))?;
        }
        Ok(())
    }

    /// Makes room beside the inherited sockets of this group.
    fn share(&mut self, group: usize) -> Result<(), Error> {
        if self.groups[group].shared {
            return Ok(());
        }
        let mut member = Some(self.groups[group].first);
        while let Some(index) = member {
            handover::share(&mut self.inherited[index])?;
            member = self.behind[index];
        }
        self.groups[group].shared = true;
        Ok(())
    }
}

/// The protocol of an inherited socket, which matters for TCP and its kin only.
fn protocol_of(inherited: &mut Inherited<'_>, socket: &Listening) -> Result<Protocol, Error> {
    if !socket.is_inet_stream() {
        return Ok(Protocol::Tcp);
    }
    if let Some(protocol) = inherited.protocol {
        return Ok(protocol);
    }
    let asked = SockRef::from(&inherited.fd).protocol();
    let number = asked.map_err(|source| {
        Error::syscall(
            format!("getsockopt(SO_PROTOCOL) {}", socket.address),
            source,
        )
    })?;
    let protocol = number.and_then(|number| Protocol::from_number(number.into()));
    Ok(*inherited.protocol.insert(protocol.unwrap_or(Protocol::Tcp)))
}

/// Closes what was opened.
pub(crate) fn close(sockets: &mut [Listening]) {
    sockets.iter_mut().for_each(close_one);
}

fn close_one(socket: &mut Listening) {
    if socket.fd.take().is_some() {
        unlink(socket);
    }
    socket.outcome = Outcome::Untouched;
}
