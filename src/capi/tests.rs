//! A panic at any system call leaves the caller's descriptors alone.
//!
//! Each export that takes descriptors is called again and again with a panic at
//! its first checkpoint, its second, and so on, until it makes no more system
//! calls than that: see src/sys/checkpoint.rs.

use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::memory::Versioned;
use super::{
    NGX_RS_CONNECTION_MPTCP, NGX_RS_CONNECTION_TCP, NGX_RS_CONNECTION_UNQUERIED, NGX_RS_DRAINING,
    NGX_RS_FAILED, NGX_RS_OPEN_PREPARE, NGX_RS_SUCCESSOR, NGX_RS_SUPERSEDED,
    NGX_RS_VALUE_SUBFLOW_BYTES_SENT, ngx_rs_connection_free, ngx_rs_connection_info,
    ngx_rs_connection_info_t, ngx_rs_connection_query, ngx_rs_connection_subflows,
    ngx_rs_connection_t, ngx_rs_connection_text, ngx_rs_drain_begin, ngx_rs_drain_free,
    ngx_rs_drain_poll, ngx_rs_drain_t, ngx_rs_draining_t, ngx_rs_error_t, ngx_rs_inherited_t,
    ngx_rs_listening_commit, ngx_rs_listening_rollback, ngx_rs_listening_t, ngx_rs_open_listening,
    ngx_rs_open_t, ngx_rs_status_t, ngx_rs_subflow_t,
};
use crate::protocol::Protocol;
use crate::sys::{self, Watched};

const OK: ngx_rs_status_t = ngx_rs_status_t::NGX_RS_OK;
const PANIC: ngx_rs_status_t = ngx_rs_status_t::NGX_RS_ERR_PANIC;
const ARGUMENT: ngx_rs_status_t = ngx_rs_status_t::NGX_RS_ERR_ARGUMENT;

/// No export makes so many system calls here.
const MANY: u32 = 1000;

/// Calls an export with an error that is there.
macro_rules! call {
    ($function:ident($($argument:expr),+)) => {
        call(|error| {
            // SAFETY: everything is as long as it says.
            unsafe { $function($($argument,)+ error) }
        })
    };
}

/// Sockets that inherit one address each: a TCP and an IPv6 socket that are
/// superseded, an MPTCP socket that is kept, and one that is not requested.
struct Server {
    old: Vec<OwnedFd>,
    addresses: Vec<SockAddr>,
    sockets: Vec<ngx_rs_listening_t>,
    inherited: Vec<ngx_rs_inherited_t>,
    drain: *mut ngx_rs_drain_t,
    /// The sockets of the caller, which no call may close or change.
    watched: Vec<Watched>,
}

fn listener(domain: Domain, protocol: Protocol) -> Socket {
    let number = Some(protocol.number().into());
    let socket = Socket::new(domain, Type::STREAM, number).expect("the protocol is there");
    let address: SocketAddr = match domain {
        Domain::IPV6 => (Ipv6Addr::LOCALHOST, 0).into(),
        _ => (Ipv4Addr::LOCALHOST, 0).into(),
    };
    socket.bind(&address.into()).expect("some port is free");
    socket.listen(16).expect("it is bound");
    socket
}

fn address_of(fd: &impl AsFd) -> SockAddr {
    SockRef::from(fd).local_addr().expect("it is bound")
}

fn requested(address: &SockAddr, protocol: i32) -> ngx_rs_listening_t {
    ngx_rs_listening_t {
        sockaddr: address.as_ptr().cast(),
        socklen: address.len(),
        protocol,
        fd: -1,
        ..Versioned::new()
    }
}

fn inherited(fd: &OwnedFd) -> ngx_rs_inherited_t {
    ngx_rs_inherited_t {
        fd: fd.as_raw_fd(),
        ..Versioned::new()
    }
}

fn watch(fd: i32) -> Watched {
    // SAFETY: the caller of the library has it open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Watched::new(fd).expect("a socket")
}

impl Server {
    fn new() -> Self {
        let old: Vec<OwnedFd> = [
            listener(Domain::IPV4, Protocol::Tcp),
            listener(Domain::IPV6, Protocol::Tcp),
            listener(Domain::IPV4, Protocol::Mptcp),
            listener(Domain::IPV4, Protocol::Tcp),
        ]
        .map(OwnedFd::from)
        .into();
        let mut addresses: Vec<_> = old.iter().map(address_of).collect();
        // The last one is a new socket, at any port.
        addresses[3] = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
        Self {
            sockets: addresses.iter().map(|at| requested(at, 262)).collect(),
            inherited: old.iter().map(inherited).collect(),
            watched: old.iter().map(|fd| watch(fd.as_raw_fd())).collect(),
            old,
            addresses,
            drain: ptr::null_mut(),
        }
    }

    fn how(&mut self) -> ngx_rs_open_t {
        ngx_rs_open_t {
            flags: NGX_RS_OPEN_PREPARE,
            inherited: self.inherited.as_mut_ptr(),
            inherited_count: self.inherited.len(),
            drain: self.drain,
            ..Versioned::new()
        }
    }

    fn open(&mut self) -> ngx_rs_status_t {
        let how = self.how();
        let (sockets, count) = (self.sockets.as_mut_ptr(), self.sockets.len());
        call!(ngx_rs_open_listening(sockets, count, &how))
    }

    /// After an opening: the new descriptors are the caller's as well.
    fn opened() -> Self {
        let mut server = Self::new();
        assert_eq!(server.open(), OK);
        let outcomes: Vec<_> = server.sockets.iter().map(|socket| socket.outcome).collect();
        assert_eq!(outcomes[..2], [NGX_RS_SUCCESSOR; 2]);
        let new = server.sockets.iter().filter(|socket| socket.fd >= 0);
        let new: Vec<_> = new.map(|socket| watch(socket.fd)).collect();
        server.watched.extend(new);
        server
    }

    fn commit(&mut self) -> ngx_rs_status_t {
        let how = self.how();
        let (sockets, count) = (self.sockets.as_mut_ptr(), self.sockets.len());
        call!(ngx_rs_listening_commit(sockets, count, &how))
    }

    fn begin(&mut self) -> ngx_rs_status_t {
        let how = self.how();
        let (sockets, count) = (self.sockets.as_mut_ptr(), self.sockets.len());
        let drain = &raw mut self.drain;
        call!(ngx_rs_drain_begin(drain, sockets, count, &how, 3, 0))
    }

    fn draining() -> Self {
        let mut server = Self::opened();
        assert_eq!((server.commit(), server.begin()), (OK, OK));
        assert_eq!(server.inherited[0].disposition, NGX_RS_DRAINING);
        server
    }

    /// Whether all descriptors of the caller are open, and the same sockets.
    fn is_whole(&self) -> bool {
        self.watched
            .iter()
            .all(|socket| matches!(socket.get(), Ok(Some(_))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: from ngx_rs_drain_begin, or NULL.
        unsafe { ngx_rs_drain_free(self.drain) };
        let old: Vec<_> = self.old.iter().map(AsRawFd::as_raw_fd).collect();
        for socket in &self.sockets {
            if socket.fd >= 0 && !old.contains(&socket.fd) {
                // SAFETY: the caller owns it, and that is this test.
                drop(unsafe { OwnedFd::from_raw_fd(socket.fd) });
            }
        }
    }
}

fn call(function: impl FnOnce(*mut ngx_rs_error_t) -> ngx_rs_status_t) -> ngx_rs_status_t {
    let mut error = ngx_rs_error_t::new();
    let status = function(&mut error);
    assert_eq!(error.status, status as i32);
    if status == PANIC {
        let message = error.message.map(|letter| letter as u8);
        assert!(message.starts_with(b"internal error: injected\0"));
    }
    status
}

/// Calls a function with a panic at each of its checkpoints, and returns how
/// many there are.
fn at_each_checkpoint<T>(
    prepare: impl Fn() -> T,
    function: impl Fn(&mut T) -> ngx_rs_status_t,
    check: impl Fn(&T),
) -> u32 {
    for number in 1..MANY {
        let mut state = prepare();
        sys::panic_at(number);
        let status = function(&mut state);
        let left = sys::panic_at(0);
        if left != 0 {
            assert_eq!(status, OK, "checkpoint {number}");
            check(&state);
            return number - 1;
        }
        assert_eq!(status, PANIC, "checkpoint {number}");
        check(&state);
    }
    panic!("there is no end to them");
}

fn is_whole(server: &Server) {
    assert!(server.is_whole());
}

#[test]
fn opening_closes_nothing_of_the_caller() {
    let count = at_each_checkpoint(Server::new, Server::open, |server| {
        is_whole(server);
        let opened = server.sockets.iter().any(|socket| socket.fd >= 0);
        let done = server.sockets.iter().all(|socket| socket.outcome != 0);
        assert_eq!(opened, done, "written only on success");
        let shared = |fd: &OwnedFd| SockRef::from(fd).reuse_port().expect("a socket");
        assert_eq!(server.old.iter().any(shared), done, "restored");
    });
    assert!(count > 15, "{count}");
}

#[test]
fn committing_closes_nothing_of_the_caller() {
    let count = at_each_checkpoint(Server::opened, Server::commit, is_whole);
    assert!(count >= 4, "{count}");
}

#[test]
fn a_commit_that_cannot_listen_closes_nothing_but_what_it_replaces() {
    let connected = || {
        let mut server = Server::opened();
        // listen(2) fails on a socket that is connected.
        let fd = server.sockets[0].fd;
        // SAFETY: the test has it open.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let other = address_of(&server.old[3]);
        // It does not wait.
        let _ = SockRef::from(&socket).connect(&other);
        server.watched.retain(|watched| watched.number() != fd);
        server
    };
    let commit = |server: &mut Server| match server.commit() {
        ngx_rs_status_t::NGX_RS_ERR_SYSCALL => OK,
        other => other,
    };
    let count = at_each_checkpoint(connected, commit, |server| {
        is_whole(server);
        // The descriptor stays open in any case.
        let number = watch(server.sockets[0].fd);
        assert!(matches!(number.get(), Ok(Some(_))));
        if server.sockets[0].outcome == NGX_RS_FAILED {
            // SAFETY: the test has it open.
            let now = unsafe { BorrowedFd::borrow_raw(server.sockets[0].fd) };
            assert_eq!(
                address_of(&now).as_socket(),
                server.addresses[0].as_socket()
            );
            assert!(SockRef::from(&now).is_listener().expect("a socket"));
        }
    });
    assert!(count >= 5, "{count}");
}

#[test]
fn a_rollback_closes_what_it_was_asked_to_and_nothing_else() {
    let opened = || {
        let mut server = Server::opened();
        let old: Vec<_> = server.old.iter().map(AsRawFd::as_raw_fd).collect();
        server
            .watched
            .retain(|watched| old.contains(&watched.number()));
        server
    };
    let rollback = |server: &mut Server| {
        let how = server.how();
        let (sockets, count) = (server.sockets.as_mut_ptr(), server.sockets.len());
        let status = call!(ngx_rs_listening_rollback(sockets, count, &how));
        // Which ones are closed after a panic is unknown.
        server.sockets.clear();
        status
    };
    let count = at_each_checkpoint(opened, rollback, is_whole);
    assert!(count >= 2, "{count}");
}

#[test]
fn beginning_to_drain_closes_nothing() {
    let committed = || {
        let mut server = Server::opened();
        assert_eq!(server.commit(), OK);
        server
    };
    let count = at_each_checkpoint(committed, Server::begin, |server| {
        is_whole(server);
        let dispositions = server.inherited[..2].iter().map(|old| old.disposition);
        let known = [NGX_RS_SUPERSEDED, NGX_RS_DRAINING];
        assert!(dispositions.into_iter().all(|one| known.contains(&one)));
    });
    assert!(count >= 5, "{count}");
}

#[test]
fn draining_closes_nothing() {
    let poll = |server: &mut Server| {
        let mut places = [ngx_rs_draining_t::new(); 4];
        let (drain, mut count) = (server.drain, 0);
        let places = places.as_mut_ptr();
        call!(ngx_rs_drain_poll(
            drain,
            places,
            4,
            &mut count,
            ptr::null_mut()
        ))
    };
    let count = at_each_checkpoint(Server::draining, poll, is_whole);
    assert_eq!(
        count, 0,
        "nothing is queried of a drain that has just begun"
    );

    // Somewhat later it queries the kernel, and ends them.
    let later = || {
        let server = Server::draining();
        std::thread::sleep(std::time::Duration::from_millis(510));
        server
    };
    let later = at_each_checkpoint(later, poll, is_whole);
    assert!(later > 4, "{later}");
}

#[test]
fn the_end_of_a_drain_closes_nothing() {
    let free = |server: &mut Server| {
        let drain = std::mem::replace(&mut server.drain, ptr::null_mut());
        // SAFETY: from ngx_rs_drain_begin.
        unsafe { ngx_rs_drain_free(drain) };
        // It has no status to return.
        let left = sys::panic_at(0);
        sys::panic_at(left);
        match left {
            0 => PANIC,
            _ => OK,
        }
    };
    let count = at_each_checkpoint(Server::draining, free, is_whole);
    assert!(count >= 2, "{count}");
}

/// A client and its connection, and the socket that accepted it.
fn connection(protocol: Protocol) -> (OwnedFd, OwnedFd) {
    let listener = listener(Domain::IPV4, protocol);
    let address = address_of(&listener);
    let number = Some(protocol.number().into());
    let client = Socket::new(Domain::IPV4, Type::STREAM, number).expect("the protocol is there");
    client.connect(&address).expect("it listens");
    let (server, _) = listener.accept().expect("a client");
    (client.into(), server.into())
}

#[test]
fn questions_about_a_connection_close_nothing() {
    for protocol in [Protocol::Tcp, Protocol::Mptcp] {
        let state = || {
            let (client, server) = connection(protocol);
            let watched = [&client, &server].map(|fd| watch(fd.as_raw_fd()));
            (client, server, watched)
        };
        let is_open = |state: &(OwnedFd, OwnedFd, [Watched; 2])| {
            assert!(
                state
                    .2
                    .iter()
                    .all(|socket| matches!(socket.get(), Ok(Some(_))))
            );
        };
        let info = ngx_rs_connection_info_t::new();
        let count = at_each_checkpoint(
            state,
            |state| {
                let (fd, mut info) = (state.1.as_raw_fd(), info);
                call!(ngx_rs_connection_info(fd, &mut info))
            },
            is_open,
        );
        assert!(count >= 2, "{count}");

        let path = ngx_rs_subflow_t::new();
        let count = at_each_checkpoint(
            state,
            |state| {
                let fd = state.1.as_raw_fd();
                let (mut paths, mut found, mut info) = ([path; 4], 0, info);
                let paths = paths.as_mut_ptr();
                let status = call!(ngx_rs_connection_subflows(
                    fd, paths, 4, &mut found, &mut info
                ));
                assert!(status == PANIC || info.kind != NGX_RS_CONNECTION_UNQUERIED);
                status
            },
            is_open,
        );
        assert!(count >= 2, "{count}");
    }
}

/// A connection that is queried, and what is known of it.
struct Queried {
    _client: OwnedFd,
    server: OwnedFd,
    watched: [Watched; 2],
    handle: *mut ngx_rs_connection_t,
    kind: u32,
}

impl Queried {
    fn new(protocol: Protocol) -> Self {
        let (client, server) = connection(protocol);
        Self {
            watched: [&client, &server].map(|fd| watch(fd.as_raw_fd())),
            _client: client,
            server,
            handle: ptr::null_mut(),
            kind: u32::MAX,
        }
    }

    fn query(&mut self) -> ngx_rs_status_t {
        let values = 1 << NGX_RS_VALUE_SUBFLOW_BYTES_SENT;
        let (fd, handle, kind) = (
            self.server.as_raw_fd(),
            &raw mut self.handle,
            &raw mut self.kind,
        );
        let none = ptr::null();
        call!(ngx_rs_connection_query(handle, fd, values, none, 0, kind))
    }

    fn is_whole(&self) -> bool {
        let is_open = |socket: &Watched| matches!(socket.get(), Ok(Some(_)));
        self.watched.iter().all(is_open)
    }
}

impl Drop for Queried {
    fn drop(&mut self) {
        // SAFETY: from ngx_rs_connection_query, or NULL.
        unsafe { ngx_rs_connection_free(self.handle) };
    }
}

#[test]
fn queries_close_nothing_and_a_panic_spoils_no_handle() {
    for (protocol, kind) in [
        (Protocol::Tcp, NGX_RS_CONNECTION_TCP),
        (Protocol::Mptcp, NGX_RS_CONNECTION_MPTCP),
    ] {
        let first = || Queried::new(protocol);
        let count = at_each_checkpoint(first, Queried::query, |queried| {
            assert!(queried.is_whole());
            let done = queried.kind == kind;
            assert!(done || queried.kind == u32::MAX, "written only on success");
            assert_eq!(!queried.handle.is_null(), done);
        });
        assert!(count >= 1, "{count}");

        let later = || {
            let mut queried = Queried::new(protocol);
            assert_eq!(queried.query(), OK);
            queried
        };
        let again = |queried: &mut Queried| {
            let handle = queried.handle;
            let status = queried.query();
            assert_eq!(queried.handle, handle);
            let (mut text, mut length) = ([0; 64], usize::MAX);
            let (value, to) = (NGX_RS_VALUE_SUBFLOW_BYTES_SENT, text.as_mut_ptr());
            let known = call!(ngx_rs_connection_text(handle, value, to, 64, &mut length));
            assert!(known == OK && length <= text.len());
            status
        };
        at_each_checkpoint(later, again, |queried| {
            assert!(queried.is_whole() && queried.kind == kind);
        });
    }
}

/// Rust cannot fail to allocate without an abort, unless it is asked to first:
/// a count that no memory can hold is an error.
#[test]
fn arrays_that_are_too_long_are_an_error() {
    let mut server = Server::new();
    let element = size_of::<ngx_rs_listening_t>();
    let sockets = server.sockets.as_mut_ptr();
    for count in [
        usize::MAX,
        isize::MAX as usize,
        isize::MAX as usize / element + 1,
    ] {
        let how = server.how();
        assert_eq!(call!(ngx_rs_open_listening(sockets, count, &how)), ARGUMENT);
        assert_eq!(
            call!(ngx_rs_listening_commit(sockets, count, &how)),
            ARGUMENT
        );
        assert_eq!(
            call!(ngx_rs_listening_rollback(sockets, count, &how)),
            ARGUMENT
        );
        let mut drain = ptr::null_mut();
        assert_eq!(
            call!(ngx_rs_drain_begin(&mut drain, sockets, count, &how, 0, 0)),
            ARGUMENT
        );
        assert!(drain.is_null());

        let mut long = server.how();
        long.inherited_count = count;
        assert_eq!(call!(ngx_rs_open_listening(sockets, 4, &long)), ARGUMENT);
    }
    is_whole(&server);
}
