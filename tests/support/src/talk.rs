//! Connections that stay open and exchange data as often as a test requests it.

use std::io::{self, BufRead, BufReader};

use crate::backend::Backend;
use crate::client::{Connection, Transport};
use crate::subsystem::Subsystem;

/// A server for long connections. In stream and http a backend echoes the client's data; in
/// http this follows an `Upgrade`, as with a WebSocket. In mail nginx answers itself.
pub struct Talk {
    on: Subsystem,
    backend: Option<Backend>,
}

impl Talk {
    /// Starts the backend, if the subsystem needs one.
    pub fn new(on: Subsystem) -> Self {
        let backend = match on {
            Subsystem::Stream => Some(Backend::echo()),
            Subsystem::Http => Some(Backend::upgraded_echo()),
            Subsystem::Mail => None,
        };
        Self { on, backend }
    }

    /// The server whose `listen` directive has the arguments `words`.
    pub fn server(&self, words: &str) -> String {
        let Some(Backend { address, .. }) = &self.backend else {
            return self.on.server(words);
        };
        let passes = match self.on {
            Subsystem::Http => format!(
                "location / {{\n        proxy_pass http://{address};\n        proxy_http_version 1.1;\n        \
                 proxy_set_header Upgrade $http_upgrade;\n        proxy_set_header Connection upgrade;\n    }}"
            ),
            _ => format!("proxy_pass {address};"),
        };
        format!("server {{\n    listen {words};\n    {passes}\n}}\n")
    }

    /// Connects and does the handshake of the protocol: the `Upgrade` or the `HELO`.
    pub fn begin(&self, transport: Transport, address: &str) -> io::Result<Connection> {
        let mut connection = Connection::open(transport, address)?;
        let (request, last_line) = match self.on {
            Subsystem::Stream => return Ok(connection),
            Subsystem::Http => (
                "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
                "",
            ),
            Subsystem::Mail => ("HELO localhost\r\n", "250 served.over.mail"),
        };
        connection.send(request.as_bytes())?;
        let mut text = String::new();
        // The server sends nothing more until the client sends data, so the reader buffers no
        // bytes that would be lost with it.
        let mut lines = BufReader::new(connection.try_clone()?);
        loop {
            let begin = text.len();
            match lines.read_line(&mut text)? {
                0 => return Err(io::Error::other(format!("it ended after {text:?}"))),
                _ if text[begin..].trim_end() == last_line => return Ok(connection),
                _ => {}
            }
        }
    }

    /// Sends data and waits for the answer.
    pub fn exchange(&self, connection: &mut Connection) -> io::Result<()> {
        match self.on {
            Subsystem::Stream | Subsystem::Http => connection.echo(b"still there?"),
            Subsystem::Mail => connection.exchange(b"NOOP\r\n", b"250 2.0.0 OK\r\n"),
        }
    }
}
