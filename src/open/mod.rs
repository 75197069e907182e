//! Opens many listening sockets, or none.
//!
//! Source: nginx ngx_init_cycle() for the matching of inherited sockets, and
//! ngx_open_listening_sockets() for the tries.

mod create;
mod handover;
mod support;

use std::ffi::c_int;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Type};

use crate::address::{AddressMap, SocketAddress};
use crate::drain::Drain;
use crate::error::Error;
use crate::listen::{Disposition, Inherited, Listening, Outcome, flag};
use crate::protocol::{Protocol, Request};
use crate::sys;
use create::{Vrf, bind, create, listen, may_bind, unlink};
pub use handover::{commit, rollback};
pub use support::{TcpOption, check, check_option};

/// How to open.
#[derive(Default)]
pub struct Open<'a> {
    /// Do not open new sockets of plain TCP, UDP and unix domain, which the
    /// caller opens ([`Outcome::Left`]).
    pub leave_tcp: bool,
    /// Bind new sockets beside inherited ones, but let them listen only in
    /// [`commit`]: until then everything can be undone.
    pub prepare: bool,
    /// Open no socket, only check that the kernel supports the protocols.
    pub check: bool,
    /// How often to try while an address is in use; 0 is once.
    pub tries: u32,
    /// How long to wait between two tries.
    pub delay: Duration,
    /// The sockets that drain: those end at an address where a new socket must
    /// be bound.
    pub drain: Option<&'a mut Drain>,
    /// Called for each event.
    pub report: Option<&'a mut dyn FnMut(Report<'_>)>,
}

/// An event, for [`Open::report`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// This address is in use; another try follows.
    InUse(&'a Error),
    /// Waiting before the next try.
    Waiting(Duration),
    /// Plain TCP is used instead of the protocol: once for all sockets.
    Fallback(&'a Error),
    /// An inherited socket that another process may use keeps its protocol,
    /// though another one is requested: once for all sockets.
    Kept {
        /// Its address.
        address: &'a SocketAddress,
        /// Its protocol.
        protocol: Protocol,
        /// The requested protocol.
        request: Request,
    },
    /// `mptcp=off` has no effect, because a preloaded library or a BPF program
    /// turns every TCP socket of this process into an MPTCP socket: once for all
    /// sockets.
    NotTcp(&'a SocketAddress),
    /// The sockets that drained at this address ended early, because a new one
    /// must be bound there.
    DrainEnded(&'a SocketAddress),
}

/// Opens, binds and listens on every socket, or on none: on failure everything
/// that was opened is closed, and the inherited sockets are as before.
///
/// As in nginx, requested sockets are matched with inherited ones of the same
/// address and type, in the order of both. An inherited socket of the requested
/// protocol is kept, one of another protocol is superseded. Linear in the number
/// of both.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Syscall`].
pub fn listening(
    sockets: &mut [Listening],
    inherited: &mut [Inherited<'_>],
    how: &mut Open<'_>,
) -> Result<(), Error> {
    let mut opening = Opening::new(inherited, how)?;
    let result = opening.all(sockets);
    match result {
        Ok(()) => opening.done = true,
        Err(_) => close(sockets),
    }
    result
}

/// Inherited sockets of one address and type, chained by [`Opening::behind`].
struct Group {
    first: usize,
    last: usize,
    /// The first one that was not compared with a requested socket yet.
    next: Option<usize>,
    /// Whether one of them is superseded.
    superseded: bool,
    /// Whether all of them have SO_REUSEPORT.
    shared: bool,
}

struct Opening<'a, 'fd, 'how, 'report> {
    inherited: &'a mut [Inherited<'fd>],
    groups: Vec<Group>,
    /// The group of each address and type.
    known: AddressMap<(SocketAddress, c_int), usize>,
    /// For each inherited socket the next one of its group.
    behind: Vec<Option<usize>>,
    /// Whether the kernel supports a protocol, for those that were queried.
    available: Vec<(Domain, Protocol, bool)>,
    /// Whether socket(2) makes TCP sockets, if that was queried.
    real_tcp: Option<bool>,
    vrf: Vrf,
    reported: Reported,
    how: &'how mut Open<'report>,
    /// Whether everything is open.
    done: bool,
}

/// Restores the inherited sockets unless everything is open, after a panic as
/// well.
impl Drop for Opening<'_, '_, '_, '_> {
    fn drop(&mut self) {
        if !self.done {
            rollback(self.inherited);
        }
    }
}

/// The reports that are made once for all sockets.
#[derive(Default)]
struct Reported {
    fallback: bool,
    kept: bool,
    not_tcp: bool,
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
        for socket in inherited.iter_mut() {
            socket.disposition = Disposition::Unused;
        }
        for (index, socket) in inherited.iter_mut().enumerate() {
            let Some(key) = socket.identify(index)? else {
                continue;
            };
            let group = *known.entry(key).or_insert(groups.len());
            let Some(group) = groups.get_mut(group) else {
                groups.push(Group {
                    first: index,
                    last: index,
                    next: Some(index),
                    superseded: false,
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
            available: Vec::new(),
            real_tcp: None,
            vrf: Vrf::default(),
            reported: Reported::default(),
            how,
            done: false,
        })
    }

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

    /// Finds the inherited socket of a requested one, or opens a new socket.
    fn one(&mut self, socket: &mut Listening) -> Result<(), Error> {
        let group = self.group(socket);
        socket.protocol = self.choose(socket, group)?;
        if let Some(index) = self.match_inherited(socket, group)? {
            let kept = &mut self.inherited[index];
            kept.disposition = Disposition::Kept;
            socket.outcome = Outcome::Inherited(index);
            // nginx will set SO_REUSEPORT on this socket, and the kernel would
            // then spread new connections over the draining socket as well.
            if kept.alone && socket.options.has(flag::REUSEPORT) && !self.how.check {
                self.end_drain(&socket.address)?;
            }
        } else if self.how.check {
            self.supports(socket, socket.protocol)?;
            socket.outcome = Outcome::Left;
        } else {
            self.open(socket, group)?;
        }
        if socket.request.is_some_and(Request::is_plain_tcp) && !self.has_real_tcp() {
            self.report_not_tcp(&socket.address);
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
        if !socket.is_inet_stream() {
            return Ok(Protocol::Tcp);
        }
        let next = self.next(group);
        // Further sockets of the address get the protocol of the first one.
        let model = next.or_else(|| group.map(|group| self.groups[group].first));
        if let Some(model) = model.filter(|&model| self.inherited[model].in_use) {
            let protocol = self.inherited[model].protocol()?;
            self.report_kept(socket, protocol);
            return Ok(protocol);
        }
        let Some(request) = socket.request else {
            let passed = model.filter(|&model| self.inherited[model].passed);
            return passed.map_or(Ok(Protocol::Tcp), |model| self.inherited[model].protocol());
        };
        if !request.fallback {
            return Ok(request.protocol);
        }
        if let Some(next) = next {
            if self.inherited[next].protocol()? == request.protocol {
                return Ok(request.protocol);
            }
        }
        let domain = socket.address.domain();
        if self.available.contains(&(domain, request.protocol, false)) {
            return Ok(Protocol::Tcp);
        }
        match self.supports(socket, request.protocol) {
            Ok(()) => {}
            Err(error @ Error::Unsupported { .. }) => {
                self.available.push((domain, request.protocol, false));
                self.report_fallback(&error);
                return Ok(Protocol::Tcp);
            }
            Err(error) => return Err(error),
        }
        // An inherited socket cannot be kept any more once it is superseded.
        match group.map_or(Ok(()), |_| may_bind(socket, request.protocol)) {
            Ok(()) => Ok(request.protocol),
            Err(error) => {
                self.report_fallback(&error);
                Ok(Protocol::Tcp)
            }
        }
    }

    fn report_fallback(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.reported.fallback, true) {
            self.report(Report::Fallback(error));
        }
    }

    fn report_kept(&mut self, socket: &Listening, protocol: Protocol) {
        let Some(request) = socket
            .request
            .filter(|request| request.protocol != protocol)
        else {
            return;
        };
        let enough = request.fallback && protocol == Protocol::Tcp;
        if !enough && !std::mem::replace(&mut self.reported.kept, true) {
            let address = &socket.address;
            self.report(Report::Kept {
                address,
                protocol,
                request,
            });
        }
    }

    fn report_not_tcp(&mut self, address: &SocketAddress) {
        if !std::mem::replace(&mut self.reported.not_tcp, true) {
            self.report(Report::NotTcp(address));
        }
    }

    /// Checks that the kernel supports the protocol; queries it once per family.
    fn supports(&mut self, socket: &Listening, protocol: Protocol) -> Result<(), Error> {
        let domain = socket.address.domain();
        if protocol == Protocol::Tcp || self.available.contains(&(domain, protocol, true)) {
            return Ok(());
        }
        let opened = sys::socket(domain, Type::STREAM.cloexec(), Some(protocol));
        opened.map_err(|source| {
            let error = Error::socket(protocol, format!("socket() {}", socket.address), source);
            error.refused(protocol, || bind(socket, Protocol::Tcp))
        })?;
        self.available.push((domain, protocol, true));
        Ok(())
    }

    /// Whether socket(2) makes TCP sockets where TCP is requested: `mptcpize`
    /// preloads a library that makes MPTCP sockets, and a BPF program can.
    fn has_real_tcp(&mut self) -> bool {
        *self.real_tcp.get_or_insert_with(|| {
            let opened = sys::socket(Domain::IPV4, Type::STREAM.cloexec(), None);
            let protocol = opened.and_then(|socket| sys::protocol(socket.as_fd()));
            protocol.map_or(true, |protocol| protocol == Some(Protocol::Tcp))
        })
    }

    /// The next inherited socket of the group.
    fn next(&self, group: Option<usize>) -> Option<usize> {
        group.and_then(|group| self.groups[group].next)
    }

    /// Takes the next inherited socket of the right protocol; those of another
    /// protocol before it are superseded.
    fn match_inherited(
        &mut self,
        socket: &Listening,
        group: Option<usize>,
    ) -> Result<Option<usize>, Error> {
        let Some(group) = group else { return Ok(None) };
        while let Some(index) = self.groups[group].next {
            let right = !socket.is_inet_stream() || self.is_right(index, socket.protocol)?;
            self.groups[group].next = self.behind[index];
            if right {
                return Ok(Some(index));
            }
            self.groups[group].superseded = true;
            self.inherited[index].disposition = Disposition::Superseded;
        }
        Ok(None)
    }

    /// Whether an inherited socket has the protocol, or was created as if it had.
    fn is_right(&mut self, index: usize, protocol: Protocol) -> Result<bool, Error> {
        let has = self.inherited[index].protocol()?;
        let as_tcp = has == Protocol::Mptcp && protocol == Protocol::Tcp;
        Ok(has == protocol || as_tcp && !self.has_real_tcp())
    }

    fn open(&mut self, socket: &mut Listening, group: Option<usize>) -> Result<(), Error> {
        let outcome = match group {
            None => Outcome::Opened,
            Some(group) if self.groups[group].superseded => Outcome::Successor,
            Some(_) => Outcome::Joined,
        };
        if group.is_some() {
            self.end_drain(&socket.address)?;
        }
        let plain = socket.protocol == Protocol::Tcp;
        if self.how.leave_tcp && plain && outcome != Outcome::Successor {
            socket.outcome = Outcome::Left;
            return Ok(());
        }
        if let Some(group) = group {
            self.share(group)?;
        }
        socket.fd = match create(socket, outcome == Outcome::Successor, &mut self.vrf) {
            Err(error @ Error::Unsupported { .. })
                if group.is_none() && socket.request.is_some_and(|request| request.fallback) =>
            {
                self.report_fallback(&error);
                socket.protocol = Protocol::Tcp;
                return self.open(socket, group);
            }
            new => Some(new?),
        };
        socket.outcome = outcome;
        // The kernel gives new connections to this socket once it listens, and
        // a rollback would reset them.
        let wait = self.how.prepare && outcome != Outcome::Opened;
        if !wait {
            // Another try must be able to bind the address.
            listen(socket)
                .and_then(|()| handover::unshare(socket))
                .inspect_err(|_| close_one(socket))?;
        }
        Ok(())
    }

    /// Ends the drain of an address where a new socket must be bound: while it
    /// drains, its successors lack SO_REUSEPORT, and bind(2) would fail.
    fn end_drain(&mut self, address: &SocketAddress) -> Result<(), Error> {
        let Some(drain) = &mut self.how.drain else {
            return Ok(());
        };
        if drain.end_at(address)? {
            self.report(Report::DrainEnded(address));
        }
        Ok(())
    }

    /// An SMC socket consists of a TCP socket that the kernel binds and of one that
    /// the process sees: SO_REUSEPORT of a bound one has no effect.
    /// Source: kernel net/smc/af_smc.c, smc_bind().
    fn refuse_beside_smc(&mut self, index: usize) -> Result<(), Error> {
        let inherited = &mut self.inherited[index];
        if inherited.protocol()? != Protocol::Smc {
            return Ok(());
        }
        let superseded = inherited.disposition == Disposition::Superseded;
        if !superseded && handover::is_shared(inherited)? {
            return Ok(());
        }
        let address = inherited.address.as_ref().map(ToString::to_string);
        Err(Error::Unchangeable {
            address: address.unwrap_or_default(),
        })
    }

    /// Lets other sockets be bound beside the inherited ones of a group.
    fn share(&mut self, group: usize) -> Result<(), Error> {
        if self.groups[group].shared {
            return Ok(());
        }
        let mut member = Some(self.groups[group].first);
        while let Some(index) = member {
            self.refuse_beside_smc(index)?;
            handover::share(&mut self.inherited[index])?;
            member = self.behind[index];
        }
        self.groups[group].shared = true;
        Ok(())
    }
}

/// Closes the new sockets.
pub(crate) fn close(sockets: &mut [Listening]) {
    sockets.iter_mut().for_each(close_one);
}

fn close_one(socket: &mut Listening) {
    if socket.fd.take().is_some() {
        unlink(socket);
    }
    socket.outcome = Outcome::Untouched;
}
