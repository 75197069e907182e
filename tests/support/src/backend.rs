//! Servers behind nginx.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread::JoinHandle;

use socket2::SockRef;

use crate::client::Transport;

/// A server in threads of its own, which stops when it is dropped.
pub struct Backend {
    /// Where it listens, on the loopback of the calling thread's namespace.
    pub address: String,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// A server that sends back all it receives.
    pub fn echo() -> Self {
        Self::new(echo)
    }

    /// The same, once it has agreed to an HTTP client's request to go on with
    /// another protocol.
    pub fn upgraded_echo() -> Self {
        Self::new(|mut connection| {
            let head = read_head(&mut connection)?;
            if !head.contains("Upgrade: echo\r\n") {
                return connection.write_all(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n");
            }
            connection
                .write_all(b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")?;
            echo(connection)
        })
    }

    /// An HTTP server that takes uploads of [`block`]s, and answers how many
    /// blocks have come, all of them right.
    pub fn uploads() -> Self {
        Self::new(|mut connection| {
            let head = read_head(&mut connection)?;
            let blocks = content_length(&head)? / BLOCK;
            let mut bytes = vec![0; BLOCK];
            for index in 0..blocks {
                connection.read_exact(&mut bytes)?;
                if bytes != block(index) {
                    let text = format!("block {index} differs");
                    write!(connection, "HTTP/1.1 400 {text}\r\n\r\n")?;
                    return Ok(());
                }
            }
            let text = format!("{blocks} blocks");
            let length = text.len();
            write!(
                connection,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"
            )
        })
    }

    /// A server that greets with a line and answers each line that a client
    /// says, where `reply` has an answer.
    pub fn lines(
        greeting: &'static str,
        reply: impl Fn(&str) -> Option<String> + Copy + Send + 'static,
    ) -> Self {
        Self::new(move |mut connection| {
            write!(connection, "{greeting}\r\n")?;
            let lines = BufReader::new(connection.try_clone()?).lines();
            for line in lines {
                if let Some(answer) = reply(&line?) {
                    write!(connection, "{answer}\r\n")?;
                }
            }
            Ok(())
        })
    }

    /// A server that sends `size` bytes of [`Noise`] and closes.
    pub fn noise(size: usize) -> Self {
        Self::new(move |mut connection| {
            let mut noise = Noise::new();
            let mut bytes = vec![0; 64 * 1024];
            let mut left = size;
            while left > 0 {
                let count = left.min(bytes.len());
                noise.fill(&mut bytes[..count]);
                connection.write_all(&bytes[..count])?;
                left -= count;
            }
            Ok(())
        })
    }

    /// A server on TCP that lets `answer` have each connection.
    pub fn new(answer: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static) -> Self {
        Self::at(Transport::Tcp, "127.0.0.1:0", answer)
    }

    /// The same at an address, of the calling thread's namespace.
    pub fn at(
        transport: Transport,
        address: &str,
        answer: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static,
    ) -> Self {
        let listener = transport.listen(address).expect("a backend can listen");
        let address = listener
            .local_addr()
            .expect("a listener has an address")
            .to_string();
        let accepting = listener
            .try_clone()
            .expect("a descriptor can be duplicated");
        let thread = std::thread::spawn(move || {
            while let Ok((connection, _)) = accepting.accept() {
                // A client that leaves early is the test's affair.
                std::thread::spawn(move || answer(connection));
            }
        });
        Self {
            address,
            listener,
            thread: Some(thread),
        }
    }
}

/// Sends back all that comes.
fn echo(mut connection: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match connection.read(&mut bytes)? {
            0 => return Ok(()),
            count => connection.write_all(&bytes[..count])?,
        }
    }
}

/// Reads the head of an HTTP request, and nothing of what follows it.
pub fn read_head(connection: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// The `Content-Length` in a head.
pub fn content_length(head: &str) -> io::Result<usize> {
    let mut lines = head.lines();
    lines
        .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no length: {head}")))
}

/// The size of a [`block`].
pub const BLOCK: usize = 64 * 1024;

/// One of many blocks of bytes, each another one and quickly made.
pub fn block(index: usize) -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut bytes = vec![0; BLOCK];
        Noise::new().fill(&mut bytes);
        bytes
    });
    let mut block = bytes.clone();
    block.rotate_left(index % BLOCK);
    block[..8].copy_from_slice(&index.to_le_bytes());
    block
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Makes the thread's accept() fail, and so ends it.
        let stopped = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take()) {
            // It does not panic, and there is nothing left to report.
            let _ = thread.join();
        }
    }
}

/// The same pseudo-random bytes each time, however they are cut.
pub struct Noise {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Noise {
    /// Begins at the first byte.
    pub fn new() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            word: [0; 8],
            used: 8,
        }
    }

    /// Writes the next bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.byte());
    }

    /// The next byte, from Marsaglia's xorshift64.
    fn byte(&mut self) -> u8 {
        if self.used == self.word.len() {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.word = self.state.to_ne_bytes();
            self.used = 0;
        }
        self.used += 1;
        self.word[self.used - 1]
    }
}
