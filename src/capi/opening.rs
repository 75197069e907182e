//! The arguments of ngx_rs_open_listening and of the functions that follow it.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use socket2::{SockAddr, Type};

use super::convert;
use super::guard::{Report, outside};
use super::memory::{Array, Versioned, field, known_flags, room};
use super::types::*;
use crate::error::Error;
use crate::listen::{self, Disposition, Inherited, Listening, Options, Outcome};
use crate::open::{self, Open};
use crate::protocol::{Protocol, Request};

/// The caller's arrays, and how to open them.
pub(super) struct Opening {
    pub(super) sockets: Array<ngx_rs_listening_t>,
    inherited: Array<ngx_rs_inherited_t>,
    how: ngx_rs_open_t,
}

impl Opening {
    /// # Safety
    /// The pointers are NULL or as the header says, for as long as the result
    /// lives. `how->drain` is not used elsewhere meanwhile.
    pub(super) unsafe fn new(
        sockets: *mut ngx_rs_listening_t,
        count: usize,
        how: *const ngx_rs_open_t,
    ) -> Result<Self, Error> {
        // SAFETY: our caller's contract.
        let sockets = unsafe { Array::new("sockets", sockets, count) }?;
        // SAFETY: our caller's contract.
        let how = unsafe { Array::optional("how", how.cast_mut()) }?;
        let how = how.iter().next().transpose()?;
        let how = how.unwrap_or_else(ngx_rs_open_t::new);
        known_flags::<ngx_rs_open_t>(
            how.flags,
            NGX_RS_OPEN_LEAVE_TCP | NGX_RS_OPEN_PREPARE | NGX_RS_OPEN_CHECK,
        )?;
        // SAFETY: our caller's contract.
        let inherited = unsafe { Array::new("inherited", how.inherited, how.inherited_count) }?;
        Ok(Self {
            sockets,
            inherited,
            how,
        })
    }

    pub(super) fn options<'a>(&self) -> Open<'a> {
        let has = |flag| self.how.flags & flag != 0;
        // SAFETY: the contract of new().
        let drain = unsafe { self.how.drain.as_mut() };
        Open {
            leave_tcp: has(NGX_RS_OPEN_LEAVE_TCP),
            prepare: has(NGX_RS_OPEN_PREPARE),
            check: has(NGX_RS_OPEN_CHECK),
            tries: self.how.tries,
            delay: Duration::from_millis(self.how.delay_ms.into()),
            drain: drain.map(|drain| &mut drain.drain),
            report: None,
        }
    }

    pub(super) fn inherited<'a>(&self) -> Result<Vec<Inherited<'a>>, Error> {
        let elements = self.inherited.iter();
        elements.map(|element| inherited(&element?)).collect()
    }

    /// Passes an event to the caller's function.
    pub(super) fn report(&self, report: open::Report<'_>) {
        let Some(function) = self.how.report else {
            return;
        };
        let notice = |event, text| (event, Report::notice(text));
        let (event, report) = match report {
            open::Report::InUse(error) => (NGX_RS_REPORT_IN_USE, Report::from(error)),
            open::Report::Waiting(delay) => {
                let text = format!("try again to bind() after {}ms", delay.as_millis());
                notice(NGX_RS_REPORT_WAITING, text)
            }
            open::Report::Fallback(error) => {
                let report = Report::from(error);
                let prefix = "\"mptcp=auto\" falls back to TCP: ";
                (NGX_RS_REPORT_FALLBACK, report.prefixed(prefix))
            }
            open::Report::Kept {
                address,
                protocol,
                request,
            } => {
                let text = format!(
                    "\"{request}\" for {address} has no effect: the process that passed the {protocol} \
                     socket may still use it; reload after that process has quit, or set \
                     SocketProtocol= in the systemd socket unit"
                );
                notice(NGX_RS_REPORT_KEPT, text)
            }
            open::Report::NotTcp(address) => {
                let text = format!(
                    "\"mptcp=off\" for {address} has no effect: a preloaded library or a BPF program \
                     turns all TCP sockets into MPTCP sockets"
                );
                notice(NGX_RS_REPORT_NOT_TCP, text)
            }
            open::Report::DrainEnded(address) => {
                let text = format!(
                    "closing the old socket on {address} early, because a new one must be bound; \
                     connections in its queue are reset"
                );
                notice(NGX_RS_REPORT_DRAIN_ENDED, text)
            }
        };
        let report = report.to_c();
        // SAFETY: the caller that set `report` says that it may be called so.
        outside(|| unsafe { function(self.how.data, event, &report) });
    }

    /// Writes the results of opening. The caller owns the descriptors from here.
    pub(super) fn write_opened(&self, sockets: Vec<Listening>, inherited: &[Inherited<'_>]) {
        for (index, socket) in sockets.into_iter().enumerate() {
            let chosen = socket.is_inet_stream().then_some(socket.protocol);
            let (outcome, source) = match socket.outcome {
                Outcome::Untouched => (NGX_RS_UNTOUCHED, None),
                Outcome::Opened => (NGX_RS_OPENED, None),
                Outcome::Inherited(source) => (NGX_RS_INHERITED, Some(source)),
                Outcome::Successor => (NGX_RS_SUCCESSOR, None),
                Outcome::Left => (NGX_RS_LEFT, None),
                Outcome::Joined => (NGX_RS_JOINED, None),
                Outcome::Failed(source) => (NGX_RS_FAILED, Some(source)),
            };
            let kept = source.and_then(|source| inherited.get(source));
            let kept = kept.map_or(-1, |kept| kept.fd.as_raw_fd());
            self.sockets.update(index, |element| {
                element.fd = socket.fd.map_or(kept, IntoRawFd::into_raw_fd);
                element.outcome = outcome;
                element.inherited = source.unwrap_or(0) as u32;
                element.opened_protocol = chosen.map_or(0, Protocol::number);
            });
        }
    }

    /// Writes which sockets could not listen.
    pub(super) fn write_committed(&self, sockets: &[Listening]) {
        for (index, socket) in sockets.iter().enumerate() {
            if let Outcome::Failed(kept) = socket.outcome {
                self.sockets.update(index, |element| {
                    element.outcome = NGX_RS_FAILED;
                    element.inherited = kept as u32;
                    element.opened_protocol = socket.protocol.number();
                });
            }
        }
    }

    /// After a rollback.
    pub(super) fn write_closed(&self) {
        for index in 0..self.sockets.len() {
            self.sockets.update(index, |element| {
                element.fd = -1;
                element.outcome = NGX_RS_UNTOUCHED;
            });
        }
    }

    pub(super) fn write_inherited(&self, sockets: &[Inherited<'_>]) {
        for (index, socket) in sockets.iter().enumerate() {
            self.inherited.update(index, |element| {
                element.shared = socket.shared.into();
                element.disposition = match socket.disposition {
                    Disposition::Unused => NGX_RS_UNUSED,
                    Disposition::Kept => NGX_RS_KEPT,
                    Disposition::Superseded => NGX_RS_SUPERSEDED,
                    Disposition::Draining => NGX_RS_DRAINING,
                };
            });
        }
    }

    /// The sockets with the descriptors of those whose outcome is wanted.
    ///
    /// # Safety
    /// These descriptors are open.
    pub(super) unsafe fn borrow(&self, wanted: fn(u32) -> bool) -> Result<Borrowed, Error> {
        let mut sockets = Borrowed(read(&self.sockets)?);
        for (element, socket) in self.sockets.iter().zip(&mut sockets.0) {
            let element = element?;
            socket.outcome = match element.outcome {
                NGX_RS_OPENED => Outcome::Opened,
                NGX_RS_SUCCESSOR => Outcome::Successor,
                NGX_RS_JOINED => Outcome::Joined,
                NGX_RS_FAILED => Outcome::Failed(element.inherited as usize),
                _ => Outcome::Untouched,
            };
            if element.fd >= 0 && wanted(element.outcome) {
                // SAFETY: our caller's contract; `Borrowed` never closes it.
                socket.fd = Some(unsafe { OwnedFd::from_raw_fd(element.fd) });
            }
        }
        Ok(sockets)
    }
}

/// Whether an earlier call gave the caller a descriptor with this outcome.
pub(super) fn is_new(outcome: u32) -> bool {
    matches!(
        outcome,
        NGX_RS_OPENED | NGX_RS_SUCCESSOR | NGX_RS_JOINED | NGX_RS_FAILED
    )
}

/// Sockets whose descriptors the caller owns: dropping this never closes them,
/// not even after a panic.
pub(super) struct Borrowed(Vec<Listening>);

impl Drop for Borrowed {
    fn drop(&mut self) {
        for socket in &mut self.0 {
            let _ = socket.fd.take().map(IntoRawFd::into_raw_fd);
        }
    }
}

impl Deref for Borrowed {
    type Target = [Listening];

    fn deref(&self) -> &[Listening] {
        &self.0
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut [Listening] {
        &mut self.0
    }
}

pub(super) fn read(sockets: &Array<ngx_rs_listening_t>) -> Result<Vec<Listening>, Error> {
    let mut read = room("sockets", sockets.len())?;
    for socket in sockets.iter() {
        read.push(listening(&socket?)?);
    }
    Ok(read)
}

/// Writes the protocols that ngx_rs_listening_assign has found.
pub(super) fn write_requests(array: &Array<ngx_rs_listening_t>, sockets: &[Listening]) {
    for (index, socket) in sockets.iter().enumerate() {
        array.update(index, |element| {
            element.protocol = request_number(socket.request);
            element.flags &= !NGX_RS_LISTENING_FALLBACK;
            element.flags |= request_flag(socket.request);
        });
    }
}

pub(super) fn listening(from: &ngx_rs_listening_t) -> Result<Listening, Error> {
    const FLAGS: u32 = LISTENING_FLAGS | ZERO_FLAGS | NGX_RS_LISTENING_FALLBACK;
    known_flags::<ngx_rs_listening_t>(from.flags, FLAGS)?;
    // SAFETY: the contract of Array::new() covers the address.
    let address = unsafe { convert::sockaddr::<ngx_rs_listening_t>(from.sockaddr, from.socklen) }?;
    let socket_type = match from.r#type {
        0 => Type::STREAM,
        number => convert::socket_type::<ngx_rs_listening_t>(number)?,
    };
    let mut socket = Listening::new(address, socket_type);
    let nonzero = |value: i32| (value != 0).then_some(value);
    let zero = |name, value, flag| match (value, from.flags & flag != 0) {
        (0, false) => Ok(None),
        (0, true) => Ok(Some(0)),
        (1.., false) => Ok(Some(value)),
        (1.., true) => Err(field::<ngx_rs_listening_t>(
            name,
            "is not 0 as its flag says",
        )),
        _ => Err(field::<ngx_rs_listening_t>(name, "is negative")),
    };
    socket.options = Options {
        flags: from.flags & LISTENING_FLAGS,
        backlog: nonzero(from.backlog).unwrap_or(listen::BACKLOG),
        rcvbuf_bytes: zero("rcvbuf", from.rcvbuf, NGX_RS_LISTENING_RCVBUF_0)?,
        sndbuf_bytes: zero("sndbuf", from.sndbuf, NGX_RS_LISTENING_SNDBUF_0)?,
        fastopen: zero("fastopen", from.fastopen, NGX_RS_LISTENING_FASTOPEN_0)?,
        keepidle_sec: nonzero(from.keepidle),
        keepintvl_sec: nonzero(from.keepintvl),
        keepcnt: nonzero(from.keepcnt),
    };
    if from.protocol != 0 {
        let protocol = convert::protocol::<ngx_rs_listening_t>(from.protocol)?;
        let fallback = from.flags & NGX_RS_LISTENING_FALLBACK != 0;
        let request = Request { protocol, fallback };
        if !request.is_plain_tcp() && !socket.is_inet_stream() {
            let problem = "needs a stream socket of IPv4 or IPv6";
            return Err(field::<ngx_rs_listening_t>("protocol", problem));
        }
        socket.request = Some(request);
    }
    Ok(socket)
}

fn request_number(request: Option<Request>) -> i32 {
    request.map_or(0, |request| request.protocol.number())
}

fn request_flag(request: Option<Request>) -> u32 {
    match request {
        Some(request) if request.fallback => NGX_RS_LISTENING_FALLBACK,
        _ => 0,
    }
}

fn inherited<'a>(from: &ngx_rs_inherited_t) -> Result<Inherited<'a>, Error> {
    if from.fd < 0 {
        return Err(field::<ngx_rs_inherited_t>("fd", "is negative"));
    }
    known_flags::<ngx_rs_inherited_t>(
        from.flags,
        NGX_RS_INHERITED_ALONE | NGX_RS_INHERITED_PASSED | NGX_RS_INHERITED_IN_USE,
    )?;
    let has = |flag| from.flags & flag != 0;
    // SAFETY: not -1, and borrowed by our caller for the call.
    let fd = unsafe { BorrowedFd::borrow_raw(from.fd) };
    let mut socket = Inherited::from(fd);
    if !from.sockaddr.is_null() {
        // SAFETY: the contract of Array::new() covers the address.
        socket.address =
            Some(unsafe { convert::sockaddr::<ngx_rs_inherited_t>(from.sockaddr, from.socklen) }?);
    }
    if from.r#type != 0 {
        socket.socket_type = Some(convert::socket_type::<ngx_rs_inherited_t>(from.r#type)?);
    }
    if from.protocol != 0 {
        socket.protocol = Some(convert::protocol::<ngx_rs_inherited_t>(from.protocol)?);
    }
    socket.alone = has(NGX_RS_INHERITED_ALONE);
    socket.passed = has(NGX_RS_INHERITED_PASSED);
    socket.in_use = has(NGX_RS_INHERITED_IN_USE);
    socket.shared = from.shared != 0;
    socket.disposition = match from.disposition {
        NGX_RS_KEPT => Disposition::Kept,
        NGX_RS_SUPERSEDED => Disposition::Superseded,
        NGX_RS_DRAINING => Disposition::Draining,
        _ => Disposition::Unused,
    };
    Ok(socket)
}

pub(super) fn to_c(socket: &Listening, address: &SockAddr) -> ngx_rs_listening_t {
    let options = &socket.options;
    let zero = |value, flag| if value == Some(0) { flag } else { 0 };
    ngx_rs_listening_t {
        flags: options.flags
            | request_flag(socket.request)
            | zero(options.rcvbuf_bytes, NGX_RS_LISTENING_RCVBUF_0)
            | zero(options.sndbuf_bytes, NGX_RS_LISTENING_SNDBUF_0)
            | zero(options.fastopen, NGX_RS_LISTENING_FASTOPEN_0),
        sockaddr: address.as_ptr().cast(),
        socklen: address.len(),
        r#type: socket.socket_type.into(),
        protocol: request_number(socket.request),
        backlog: options.backlog,
        rcvbuf: options.rcvbuf_bytes.unwrap_or(0),
        sndbuf: options.sndbuf_bytes.unwrap_or(0),
        fastopen: options.fastopen.unwrap_or(0),
        keepidle: options.keepidle_sec.unwrap_or(0),
        keepintvl: options.keepintvl_sec.unwrap_or(0),
        keepcnt: options.keepcnt.unwrap_or(0),
        fd: -1,
        ..Versioned::new()
    }
}
