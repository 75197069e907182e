//! Clients over TCP, MPTCP, SCTP and SMC, and the MPTCP counters of the kernel.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::backend::{BLOCK, block};
use crate::sockets;
use crate::without_mptcp;

/// The timeout of a client for connecting, reading and writing.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The protocol of a client's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A plain TCP socket.
    Tcp,
    /// An MPTCP socket, which falls back to TCP if the server does not use MPTCP.
    Mptcp,
    /// A one-to-one SCTP socket.
    Sctp,
    /// An SMC socket.
    Smc,
}

impl Transport {
    /// The protocol number of socket(2).
    const fn protocol(self) -> i32 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP,
            Self::Mptcp => libc::IPPROTO_MPTCP,
            Self::Sctp => libc::IPPROTO_SCTP,
            Self::Smc => 256,
        }
    }

    /// Opens a listening socket of this protocol.
    pub fn listen(self, address: &str) -> io::Result<TcpListener> {
        if self == Self::Mptcp {
            without_mptcp::end_if_expected();
        }
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let protocol = Some(self.protocol().into());
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, protocol)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(128)?;
        Ok(socket.into())
    }

    /// Whether the kernel supports this protocol.
    pub fn is_available(self) -> bool {
        let protocol = Some(self.protocol().into());
        Socket::new(Domain::IPV4, Type::STREAM, protocol).is_ok()
    }
}

/// A client's connection.
pub struct Connection {
    socket: Socket,
}

impl Connection {
    /// Connects to an address, written as in a listen directive.
    pub fn open(transport: Transport, address: &str) -> io::Result<Self> {
        Self::open_with(transport, address, |_| Ok(()))
    }

    /// Connects to `address` from a socket that is bound to `from`.
    pub fn open_from(transport: Transport, from: &str, address: &str) -> io::Result<Self> {
        let from: IpAddr = from.parse().map_err(io::Error::other)?;
        let from = SocketAddr::new(from, 0).into();
        Self::open_with(transport, address, |socket| socket.bind(&from))
    }

    fn open_with(
        transport: Transport,
        address: &str,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        if transport == Transport::Mptcp {
            without_mptcp::end_if_expected();
        }
        let protocol = Some(transport.protocol().into());
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, protocol)?;
        prepare(&socket)?;
        socket.connect_timeout(&address.into(), TIMEOUT)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { socket })
    }

    /// Sends all of `bytes`.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sets the time after which a read fails.
    pub fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(time))
    }

    /// Shuts down the sending direction of the connection.
    pub fn finish(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Sends bytes to an echo server and checks that the same bytes come back.
    pub fn echo(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.exchange(bytes, bytes)
    }

    /// Sends bytes and checks that the server answers with `expected`.
    pub fn exchange(&mut self, bytes: &[u8], expected: &[u8]) -> io::Result<()> {
        self.send(bytes)?;
        let mut back = vec![0; expected.len()];
        self.socket.read_exact(&mut back)?;
        if back == expected {
            return Ok(());
        }
        let back = String::from_utf8_lossy(&back);
        Err(io::Error::other(format!("{back:?} came back")))
    }

    /// A second handle on the same connection.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
        })
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        let lingering = self.socket.set_linger(Some(Duration::ZERO));
        lingering.expect("SO_LINGER can be set");
    }

    /// Whether the connection is MPTCP on both sides.
    pub fn is_mptcp(&self) -> bool {
        sockets::is_mptcp(&self.socket).is_ok()
    }

    /// The client's own address.
    pub fn local(&self) -> SocketAddr {
        let address = self.socket.local_addr();
        let address = address.expect("a connection has an address");
        address.as_socket().expect("an IP address")
    }
}

impl Read for Connection {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.read(bytes)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Sends blocks to an echo server, and checks the echoed blocks at the same time.
pub fn each_way(transport: Transport, address: &str, blocks: usize) {
    // With small buffers SCTP drops packets, and each retransmission takes a second.
    let with_buffers = |socket: &Socket| {
        socket.set_recv_buffer_size(4 << 20)?;
        socket.set_send_buffer_size(4 << 20)
    };
    let connection = Connection::open_with(transport, address, with_buffers);
    let mut connection = connection.expect("it is served");
    let mut sending = connection.try_clone().expect("a descriptor");
    let sender =
        thread::spawn(move || (0..blocks).try_for_each(|index| sending.write_all(&block(index))));
    let mut bytes = vec![0; BLOCK];
    for index in 0..blocks {
        connection.read_exact(&mut bytes).expect("all comes back");
        assert!(bytes == block(index), "block {index} differs");
    }
    sender.join().expect("no panic").expect("all is sent");
}

/// The kernel's counters of MPTCP handshakes on the listening side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// `MPCapableSYNRX`: SYN packets that requested MPTCP from an MPTCP listener.
    pub requests: u64,
    /// `MPCapableACKRX`: handshakes whose third packet had the MPTCP option too.
    pub handshakes: u64,
}

impl Accepted {
    /// The counters of the calling thread's namespace.
    pub fn now() -> Self {
        Self {
            requests: counter("MPCapableSYNRX"),
            handshakes: counter("MPCapableACKRX"),
        }
    }
}

/// One of the kernel's MPTCP counters, in the calling thread's namespace.
pub fn counter(name: &str) -> u64 {
    if without_mptcp::is_expected() {
        return 0;
    }
    let text =
        fs::read_to_string("/proc/thread-self/net/netstat").expect("the kernel shows its counters");
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("MPTcpExt: "));
    let names = lines.next().expect("the kernel counts MPTCP").split(' ');
    let values = lines
        .next()
        .expect("the kernel shows its MPTCP counts")
        .split(' ');
    let value = names.zip(values).find(|(known, _)| *known == name);
    let value = value
        .unwrap_or_else(|| panic!("this kernel has no counter {name}"))
        .1;
    value.parse().expect("a counter is a number")
}
