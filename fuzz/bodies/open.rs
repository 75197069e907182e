//! Arbitrary arrays against a kernel whose calls fail: all or nothing.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::raw::c_int;

use ngx_rs_listen::{
    Inherited, Listening, Open, Outcome, Protocol, SocketAddress, Wish, flag, handover, open,
};
use socket2::Type;

use super::bytes::Bytes;
use super::kernel::{Kernel, Socket};

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let switches = bytes.u8();
    let how = || Open {
        leave_tcp: switches & 1 != 0,
        prepare: switches & 2 != 0,
        check: switches & 4 != 0,
        tries: u32::from(switches >> 3 & 3),
        ..Open::default()
    };
    let mut kernel = Kernel::default();
    let old: Vec<c_int> = (0..bytes.below(5))
        .map(|_| kernel.add(inherited(&mut bytes)))
        .collect();
    let before = kernel.sockets.clone();
    let mut sockets: Vec<Listening> = (0..bytes.below(6)).map(|_| socket(&mut bytes)).collect();
    // SAFETY: they are open in `kernel`, and stay so.
    let borrow = |&fd: &c_int| unsafe { BorrowedFd::borrow_raw(fd) };
    let mut inherited: Vec<_> = old.iter().map(borrow).map(Inherited::from).collect();

    kernel.plan(bytes.0);
    let result = kernel.run(|| open::listening(&mut sockets, &mut inherited, &mut how()));
    match result {
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            for socket in &sockets {
                assert!(socket.fd.is_none() && socket.outcome == Outcome::Untouched);
            }
            undone(&kernel, &before);
        }
        Ok(()) => {
            opened(&kernel, &sockets, &before, &how());
            if how().prepare && switches & 0x20 != 0 {
                commit(&mut kernel, &mut sockets);
            } else {
                kernel.run(|| handover::rollback(&mut inherited));
            }
            kernel.run(|| drop(sockets));
            if !how().prepare || switches & 0x20 == 0 {
                undone(&kernel, &before);
            }
            assert!(kernel.sockets.keys().eq(before.keys()), "a leak");
        }
    }
    assert!(!kernel.closed_twice);
}

/// Whether the kernel has what it had before.
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
            Outcome::Replaced | Outcome::Joined => how.prepare,
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

fn commit(kernel: &mut Kernel, sockets: &mut [Listening]) {
    let result = kernel.run(|| handover::commit(sockets));
    let failed = |socket: &Listening| socket.outcome == Outcome::Failed;
    assert_eq!(result.is_err(), sockets.iter().any(failed));
    for socket in sockets {
        let Some(fd) = &socket.fd else { continue };
        let listens = kernel.sockets[&fd.as_raw_fd()].listens;
        let stream = socket.socket_type == Type::STREAM;
        assert_eq!(listens, stream && !failed(socket), "{socket:?}");
    }
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
        // One that is not bound has a family at least.
        address: bytes_of.map_or_else(|| vec![1, 0], <[u8]>::to_vec),
        listens: true,
        shared: bytes.bool(),
    }
}

fn socket(bytes: &mut Bytes<'_>) -> Listening {
    let mut socket = Listening::new(address(bytes), kind(bytes));
    let wish = bytes.below(PROTOCOLS.len() + 2);
    socket.wish = match PROTOCOLS.get(wish) {
        Some(&protocol) => Some(Wish::only(protocol)),
        None => bytes.bool().then_some(Wish::AUTO),
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
