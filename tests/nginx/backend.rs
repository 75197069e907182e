//! Servers behind the stream proxy.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

use socket2::SockRef;

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
        Self::new(|mut connection| {
            let mut bytes = [0; 4096];
            loop {
                match connection.read(&mut bytes)? {
                    0 => return Ok(()),
                    count => connection.write_all(&bytes[..count])?,
                }
            }
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

    fn new(answer: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static) -> Self {
        let listener =
            TcpListener::bind("127.0.0.1:0").expect("a backend can listen on the loopback");
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
