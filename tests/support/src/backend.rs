//! Servers behind nginx.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread::JoinHandle;

use socket2::SockRef;

use crate::client::Transport;

/// A server that runs in its own threads and stops when this value is dropped.
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

    /// An HTTP server that switches to the protocol `echo` when a client requests this
    /// with `Upgrade`, and then sends back all it receives.
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

    /// An HTTP server that receives uploads of [`block`]s, checks each block, and answers
    /// with the number of blocks.
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

    /// A server that sends a greeting line, and answers each line of a client for which
    /// `reply` returns an answer.
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

    /// A TCP server that passes each connection to `answer`.
    pub fn new(answer: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static) -> Self {
        Self::at(Transport::Tcp, "127.0.0.1:0", answer)
    }

    /// A server that listens at `address` in the calling thread's namespace and passes
    /// each connection to `answer`.
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
                // The result is ignored: the test itself notices a client that closes early.
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

/// Sends back all received bytes.
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

/// The value of `Content-Length` in the head of a request or response.
pub fn content_length(head: &str) -> io::Result<usize> {
    let mut lines = head.lines();
    lines
        .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no length: {head}")))
}

/// The size of a [`block`].
pub const BLOCK: usize = 64 * 1024;

/// The block of this number. Blocks with different numbers differ; making one is fast.
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
        // shutdown() makes accept() fail in the thread, so the thread ends.
        let stopped = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take()) {
            // The thread does not panic, so join() has nothing to report.
            let _ = thread.join();
        }
    }
}

/// A reproducible sequence of pseudo-random bytes. The sizes of the buffers to fill do
/// not change the sequence.
pub struct Noise {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Noise {
    /// A sequence at its first byte.
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
