//! Opens arbitrary arrays of sockets on a simulated kernel whose calls fail. The library must
//! open all sockets or none.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::raw::c_int;

use ngx_rs_listen::drain::Room;
use ngx_rs_listen::{
    Disposition, Drain, Inherited, Listening, Open, Outcome, Protocol, Request, SocketAddress,
    flag, open,
};
use socket2::Type;

use super::bytes::Bytes;
use super::simulated_kernel::{Kernel, Socket};

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let switches = bytes.u8();
    let mut kernel = Kernel::default();
    let old: Vec<c_int> = (0..bytes.below(5))
        .map(|_| kernel.add(inherited(&mut bytes)))
        .collect();
    let before = kernel.sockets.clone();
    let mut sockets: Vec<Listening> = (0..bytes.below(6)).map(|_| socket(&mut bytes)).collect();
    // SAFETY: they are open in `kernel`, and stay so.
    let borrow = |&fd: &c_int| unsafe { BorrowedFd::borrow_raw(fd) };
    let marks = bytes.u8();
    let mark = |inherited: Inherited<'static>| match marks & 3 {
        1 => inherited.passed(),
        2 => inherited.in_use(),
        _ => inherited,
    };
    let mut inherited: Vec<_> = old
        .iter()
        .map(borrow)
        .map(Inherited::from)
        .map(mark)
        .collect();
    let room = Room {
        spare: u32::from(marks >> 2 & 3),
        limit: u32::from(marks >> 4 & 1),
    };

    kernel.plan(bytes.0);
    let mut drain = Drain::new().expect("shared memory");
    let result = kernel.run(|| {
        let drain = Some(&mut drain);
        open::listening(
            &mut sockets,
            &mut inherited,
            &mut Open {
                drain,
                ..how(switches)
            },
        )
    });
    match result {
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            for socket in &sockets {
                assert!(socket.fd.is_none() && socket.outcome == Outcome::Untouched);
            }
            undone(&kernel, &before);
        }
        Ok(()) => {
            opened(&kernel, &sockets, &before, &how(switches));
            if how(switches).prepare && switches & 0x20 != 0 {
                commit(&mut kernel, &mut sockets, &mut inherited, &old);
                drains(&mut kernel, drain, &sockets, &mut inherited, &old, room);
            } else {
                kernel.run(|| open::rollback(&mut inherited));
            }
            kernel.run(|| drop(sockets));
            if !how(switches).prepare || switches & 0x20 == 0 {
                undone(&kernel, &before);
            }
            assert!(kernel.sockets.keys().eq(before.keys()), "a leak");
        }
    }
    assert!(!kernel.closed_twice);
}

fn how<'a>(switches: u8) -> Open<'a> {
    Open {
        leave_tcp: switches & 1 != 0,
        prepare: switches & 2 != 0,
        check: switches & 4 != 0,
        tries: u32::from(switches >> 3 & 3),
        ..Open::default()
    }
}

/// Checks that the sockets of the kernel are the same as before.
fn undone(kernel: &Kernel, before: &std::collections::BTreeMap<c_int, Socket>) {
    assert!(kernel.sockets.keys().eq(before.keys()), "a leak");
    assert!(kernel.stuck || kernel.sockets == *before, "not undone");
}

fn opened(
    kernel: &Kernel,
    sockets: &[Listening],
    before: &std::collections::BTreeMap<c_int, Socket>,
    how: &Open<'_>,
) {
    let mut used = BTreeSet::new();
    let mut fds: BTreeSet<c_int> = before.keys().copied().collect();
    for socket in sockets {
        let stream = socket.socket_type == Type::STREAM;
        let inet = socket.address.as_path().is_none();
        let wait = match socket.outcome {
            Outcome::Opened => false,
            Outcome::Successor | Outcome::Joined => how.prepare,
            Outcome::Inherited(index) => {
                assert!(index < before.len() && used.insert(index), "{socket:?}");
                assert!(socket.fd.is_none());
                continue;
            }
            Outcome::Left => {
                assert!(socket.fd.is_none() && (how.leave_tcp || how.check));
                continue;
            }
            _ => panic!("{socket:?}"),
        };
        assert!(!how.check, "{socket:?}");
        let fd = socket.fd.as_ref().expect("it was opened").as_raw_fd();
        assert!(fds.insert(fd), "{socket:?}");
        let real = &kernel.sockets[&fd];
        let address = socket.address.to_kernel().expect("it was bound");
        assert_eq!(real.address.len(), address.len() as usize);
        assert_eq!(real.listens, stream && !wait, "{socket:?}");
        let number = match socket.protocol {
            Protocol::Tcp => 0,
            other => other.number(),
        };
        assert!(!(stream && inet) || real.protocol == number, "{socket:?}");
    }
    assert!(kernel.sockets.keys().eq(fds.iter()), "a leak");
}

fn commit(
    kernel: &mut Kernel,
    sockets: &mut [Listening],
    inherited: &mut [Inherited<'_>],
    old: &[c_int],
) {
    let open: Vec<c_int> = kernel.sockets.keys().copied().collect();
    let result = kernel.run(|| open::commit(sockets, inherited));
    assert!(kernel.sockets.keys().eq(&open), "commit closes nothing");
    for socket in sockets {
        let Some(fd) = &socket.fd else { continue };
        let now = &kernel.sockets[&fd.as_raw_fd()];
        if let Outcome::Failed(kept) = socket.outcome {
            assert!(result.is_err(), "{socket:?}");
            assert_eq!(now.cookie, kernel.sockets[&old[kept]].cookie);
            assert_eq!(inherited[kept].disposition(), Disposition::Kept);
        }
        let stream = socket.socket_type == Type::STREAM;
        assert!(now.listens == stream || result.is_err(), "{socket:?}");
    }
}

/// Drains sockets. Checks that the library closes no descriptor, and that no ended socket
/// listens.
fn drains(
    kernel: &mut Kernel,
    mut drain: Drain,
    sockets: &[Listening],
    inherited: &mut [Inherited<'_>],
    old: &[c_int],
    room: Room,
) {
    let open: Vec<c_int> = kernel.sockets.keys().copied().collect();
    let begun = kernel.run(|| drain.begin(sockets, inherited, room));
    let draining = || inherited.iter().zip(old).filter(is_draining);
    let polled = kernel.run(|| drain.poll());
    assert_eq!(drain.len(), draining().count());
    let report: Vec<_> = drain.sockets().collect();
    for socket in report {
        assert!(old.contains(&socket.fd));
        assert!(!sockets.is_empty() && socket.successor < sockets.len());
        let listens = kernel.sockets[&socket.fd].listens;
        assert!(!socket.ended || !listens || begun.is_err() || polled.is_err());
    }
    kernel.plan(&[]);
    kernel.run(|| drop(drain));
    if begun.is_ok() && polled.is_ok() {
        for (_, fd) in draining() {
            assert!(!kernel.sockets[fd].listens);
        }
    }
    assert!(kernel.sockets.keys().eq(&open), "draining closes nothing");
}

fn is_draining((inherited, _): &(&Inherited<'_>, &c_int)) -> bool {
    inherited.disposition() == Disposition::Draining
}

const PROTOCOLS: [Protocol; 4] = [
    Protocol::Tcp,
    Protocol::Mptcp,
    Protocol::Sctp,
    Protocol::Other(17),
];

fn address(bytes: &mut Bytes<'_>) -> SocketAddress {
    match bytes.below(8) {
        6 => SocketAddress::Unix("/x".into()),
        7 => SocketAddress::Unix("x".repeat(200).into()),
        index => {
            let text = [
                "127.0.0.1:80",
                "0.0.0.0:80",
                "127.0.0.1:81",
                "[::1]:80",
                "[::]:80",
                "[::1]:81",
            ];
            let address: std::net::SocketAddr = text[index].parse().expect("an address");
            address.into()
        }
    }
}

fn kind(bytes: &mut Bytes<'_>) -> Type {
    bytes.one_of(&[Type::STREAM, Type::STREAM, Type::STREAM, Type::DGRAM])
}

/// A socket of an earlier configuration.
fn inherited(bytes: &mut Bytes<'_>) -> Socket {
    let address = address(bytes);
    let kernel = address.to_kernel().ok();
    let length = kernel.as_ref().map_or(0, |address| address.len() as usize);
    let pointer = kernel.as_ref().map(|address| address.as_ptr().cast::<u8>());
    // SAFETY: an address has so many bytes.
    let bytes_of = pointer.map(|at| unsafe { std::slice::from_raw_parts(at, length) });
    Socket {
        domain: address.domain().into(),
        kind: kind(bytes).into(),
        protocol: bytes.one_of(&PROTOCOLS).number(),
        // A socket that is not bound still has an address family.
        address: bytes_of.map_or_else(|| vec![1, 0], <[u8]>::to_vec),
        listens: true,
        shared: bytes.bool(),
        cookie: 0,
    }
}

fn socket(bytes: &mut Bytes<'_>) -> Listening {
    let mut socket = Listening::new(address(bytes), kind(bytes));
    let request = bytes.below(PROTOCOLS.len() + 2);
    socket.request = match PROTOCOLS.get(request) {
        Some(&protocol) => Some(Request::only(protocol)),
        None => bytes.bool().then_some(Request::AUTO),
    };
    let options = &mut socket.options;
    let switches = bytes.u8();
    for (bit, flag) in [
        flag::REUSEPORT,
        flag::DEFERRED,
        flag::IPV6ONLY_OFF,
        flag::KEEPALIVE_ON,
    ]
    .into_iter()
    .enumerate()
    {
        if switches >> bit & 1 != 0 {
            options.flags |= flag;
        }
    }
    if switches & 0x80 != 0 {
        options.backlog = bytes.int() as i32;
        options.rcvbuf_bytes = Some(bytes.int() as i32);
        options.fastopen = Some(bytes.int() as i32);
        options.keepidle_sec = Some(bytes.int() as i32);
    }
    socket
}
