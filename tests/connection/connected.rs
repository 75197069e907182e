//! Opens connections and queries them.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ngx_rs_listen::Protocol;
use ngx_rs_listen::connection::{self, Connection, Subflow};
use socket2::{Domain, SockAddr, Socket, Type};

use test_support::{library, linux, listening};

/// The address of the listener, and the address to which the client connects.
pub const IPV4: (&str, &str) = ("127.0.0.1:80", "127.0.0.1:80");
pub const IPV6: (&str, &str) = ("[::1]:80", "[::1]:80");
pub const MAPPED: (&str, &str) = ("[::]:80", "127.0.0.1:80");

pub fn new(address: &SockAddr, protocol: Protocol) -> Socket {
    let protocol = Some(protocol.number().into());
    let socket = Socket::new(address.domain(), Type::STREAM, protocol);
    socket.expect("the tests need a kernel with MPTCP")
}

/// An MPTCP listener. An IPv6 listener accepts IPv4 too.
pub fn listen(text: &str) -> Socket {
    let address = listening::inet(text).into();
    let listener = new(&address, Protocol::Mptcp);
    listener.set_reuse_address(true).expect("any socket");
    if address.domain() == Domain::IPV6 {
        listener.set_only_v6(false).expect("an IPv6 socket");
    }
    listener.bind(&address).expect("the network is ours");
    listener.listen(8).expect("it is bound");
    listener
}

pub fn connect(text: &str, protocol: Protocol) -> Socket {
    let address = listening::inet(text).into();
    let client = new(&address, protocol);
    client.connect(&address).expect("somebody listens");
    client
}

pub fn accept(listener: &Socket) -> Socket {
    listener.accept().expect("somebody connects").0
}

/// The socket of a client and the accepted socket.
pub fn pair((here, there): (&str, &str), protocol: Protocol) -> (Socket, Socket) {
    let listener = listen(here);
    let client = connect(there, protocol);
    (client, accept(&listener))
}

/// Sends `count` bytes, and waits until the peer has received all.
pub fn send(mut from: &Socket, mut to: &Socket, count: usize) {
    from.write_all(&vec![1; count]).expect("it is connected");
    to.read_exact(&mut vec![0; count]).expect("it is connected");
}

pub fn info(socket: &Socket) -> Connection {
    let fd = socket.as_fd();
    connection::info(fd).expect("it is a socket")
}

pub fn subflows(socket: &Socket) -> Vec<Subflow> {
    let fd = socket.as_fd();
    let (said, subflows) = connection::subflows(fd).expect("it is a socket");
    if let Some(count) = said.subflows {
        let count = count as usize;
        // A kernel that does not count subflows includes the first subflow even if it is
        // closed.
        let closed = count - subflows.len();
        assert!(closed == 0 || closed == 1 && !linux::counts_mptcp());
    }
    subflows
}

/// Calls `is` until it returns a value, because the kernel works asynchronously.
pub fn until<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(result) = is() {
            return result;
        }
        assert!(Instant::now() < end, "{what} does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn inet(address: io::Result<SockAddr>) -> SocketAddr {
    let address = address.expect("it is connected").as_socket();
    address.expect("IPv4 or IPv6")
}

pub fn run(words: &str) -> String {
    let mut words = words.split_whitespace();
    library::run(Command::new(words.next().expect("a program")).args(words))
}
