//! The subsystems of nginx: how to configure a server of each, and how a client gets an
//! answer from it. A test function with a `Subsystem` parameter runs once for each subsystem
//! that its attribute [`test_on`] names.

use std::io::{self, BufRead, BufReader};

pub use test_on::test_on;

use crate::client::{Accepted, Connection, Transport};
use crate::harness::Host;
use crate::server::Conf;
use crate::without_mptcp;

/// A subsystem of nginx for which this project has a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsystem {
    /// `stream { … }`
    Stream,
    /// `http { … }`
    Http,
    /// `mail { … }`. Most tests use SMTP.
    Mail,
}

impl Subsystem {
    /// All subsystems, in nginx's order.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Http, Self::Mail];

    /// Its name in file names and configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Http => "http",
            Self::Mail => "mail",
        }
    }

    /// Another subsystem than this one.
    pub const fn other(self) -> Self {
        match self {
            Self::Stream => Self::Http,
            Self::Http => Self::Mail,
            Self::Mail => Self::Stream,
        }
    }

    /// Whether several servers may listen on one address. stream allows this since nginx
    /// 1.25.5.
    pub fn merges_servers(self) -> bool {
        match self {
            Self::Stream => Host::get().version >= (1, 25, 5),
            Self::Http => true,
            Self::Mail => false,
        }
    }

    /// Whether its listen directive accepts all of these parameters of nginx.
    pub fn knows(self, words: &str) -> bool {
        let mut names = words
            .split_whitespace()
            .filter_map(|word| word.split('=').next());
        names.all(|name| self.knows_name(name))
    }

    /// Whether its listen directive accepts a parameter of nginx. nginx's CHANGES lists the
    /// parameters that only some subsystems or versions accept.
    fn knows_name(self, name: &str) -> bool {
        let host = Host::get();
        match (name, self) {
            ("udp", _) => self == Self::Stream,
            ("http2", _) => self == Self::Http,
            ("quic", _) => self == Self::Http && host.has("--with-http_v3_module"),
            ("reuseport", _) => self != Self::Mail,
            ("fastopen", Self::Stream) => host.version >= (1, 21, 0),
            ("fastopen", _) => self == Self::Http,
            ("deferred" | "default_server", _) => self != Self::Mail && self.merges_servers(),
            ("proxy_protocol", Self::Mail) => host.version >= (1, 19, 8),
            _ => true,
        }
    }

    /// The answer of the servers of most tests. A mail server answers with its name, which
    /// cannot contain spaces.
    pub const fn answer(self) -> &'static str {
        match self {
            Self::Stream => "served over stream",
            Self::Http => "served over http",
            Self::Mail => "served.over.mail",
        }
    }

    /// A server whose `listen` directive has the arguments `words`, with more directives
    /// and with an answer. It uses only modules that every nginx has.
    pub fn server_with(self, words: &str, more: &str, answer: &str) -> String {
        let answers = match self {
            Self::Stream => format!("return \"{answer}\\n\";"),
            Self::Http => {
                format!(
                    "location / {{\n        add_header Answer \"{answer}\";\n        empty_gif;\n    }}"
                )
            }
            Self::Mail => format!("protocol smtp;\n    server_name {answer};"),
        };
        format!("server {{\n    listen {words};\n    {more}\n    {answers}\n}}\n")
    }

    /// A server whose `listen` directive has the arguments `words`, and that answers
    /// [`Self::answer`].
    pub fn server(self, words: &str) -> String {
        self.server_with(words, "", self.answer())
    }

    /// A configuration with this text in the subsystem's block.
    pub fn conf(self, text: &str) -> Conf {
        Conf::new(self, text)
    }

    /// A configuration with one [`Self::server`].
    pub fn listen(self, words: &str) -> Conf {
        self.conf(&self.server(words))
    }

    /// A configuration with a [`Self::server`] for each element of `words`.
    pub fn servers(self, words: &[&str]) -> Conf {
        let servers = words.iter().map(|words| self.server(words));
        self.conf(&servers.collect::<String>())
    }

    /// The directives that the subsystem's block has to begin with.
    pub const fn preamble(self) -> &'static str {
        match self {
            Self::Stream => "",
            Self::Http => {
                "access_log off;\nclient_body_temp_path temp;\nproxy_temp_path temp;\nfastcgi_temp_path temp;\nuwsgi_temp_path temp;\nscgi_temp_path temp;\n"
            }
            Self::Mail => "auth_http 127.0.0.1:1/;\n",
        }
    }

    /// A directive for the block that names a log file. nginx opens this file after its
    /// sockets, so a wrong file name makes a reload fail late.
    pub fn log_to(self, file: &str) -> String {
        match self {
            Self::Stream => format!("log_format short $status; access_log {file} short;"),
            Self::Http => format!("access_log {file};"),
            Self::Mail => format!("error_log {file};"),
        }
    }

    /// What a client sends to get an answer, after which the server closes the connection.
    pub const fn request(self) -> &'static str {
        match self {
            Self::Stream => "",
            Self::Http => "GET / HTTP/1.0\r\n\r\n",
            Self::Mail => "QUIT\r\n",
        }
    }

    /// The answer within a line from a server, or None if the line has no answer.
    pub fn answer_in(self, line: &str) -> Option<&str> {
        let line = line.trim_end();
        match self {
            Self::Stream => Some(line),
            Self::Http => line.strip_prefix("Answer: "),
            Self::Mail => line.strip_prefix("220 ")?.strip_suffix(" ESMTP ready"),
        }
    }

    /// Connects, and returns the server's answer and whether the connection was MPTCP.
    ///
    /// This does not wait until the server has closed the connection. If an MPTCP client
    /// falls back and the server closes at once, Linux 6.18 sometimes loses the end of the
    /// connection: about once in ten thousand connections, with any server.
    pub fn request_answer(self, transport: Transport, address: &str) -> io::Result<(String, bool)> {
        let mut connection = Connection::open(transport, address)?;
        connection.send(self.request().as_bytes())?;
        self.receive_answer(connection)
    }

    /// Reads the answer on a connection that has sent its request.
    pub fn receive_answer(self, connection: Connection) -> io::Result<(String, bool)> {
        let mut connection = BufReader::new(connection);
        let mut text = String::new();
        loop {
            let begin = text.len();
            if connection.read_line(&mut text)? == 0 {
                return Err(io::Error::other(format!("no answer, but {text:?}")));
            }
            if let Some(answer) = self.answer_in(&text[begin..]) {
                return Ok((answer.into(), connection.get_ref().is_mptcp()));
            }
        }
    }

    /// Requests an answer over TCP and over MPTCP. Checks both answers, and checks by the
    /// kernel's counters which connections were MPTCP.
    pub fn serves(self, address: &str, mptcp: bool) {
        let request = |transport| {
            let answer = self.request_answer(transport, address);
            answer.unwrap_or_else(|error| panic!("{address} does not serve {transport:?}: {error}"))
        };
        let before = Accepted::now();
        let expected = (self.answer().to_owned(), false);
        assert_eq!(request(Transport::Tcp), expected, "{address} over TCP");
        assert_eq!(
            Accepted::now(),
            before,
            "a TCP client's connection at {address} is TCP"
        );

        if !mptcp && without_mptcp::is_expected() {
            return;
        }
        let expected = (self.answer().to_owned(), mptcp);
        assert_eq!(request(Transport::Mptcp), expected, "{address} over MPTCP");
        let more = u64::from(mptcp);
        let after = Accepted {
            requests: before.requests + more,
            handshakes: before.handshakes + more,
        };
        assert_eq!(
            Accepted::now(),
            after,
            "an MPTCP client's connection at {address}"
        );
    }
}

/// The table form of [`test_on`], for a list at the beginning of a file.
#[macro_export]
macro_rules! subsystem_tests {
    ($($subsystems:tt: $($test:ident),+;)+) => {$($(
        mod $test {
            $crate::tests_of_one! { $test $subsystems }
        }
    )+)+};
}
pub use subsystem_tests;

/// The tests of one function.
#[doc(hidden)]
#[macro_export]
macro_rules! tests_of_one {
    ($test:ident ($($subsystem:ident),+)) => {$(
        #[test]
        fn $subsystem() {
            $crate::without_mptcp::run(|| {
                super::$test($crate::subsystem!($subsystem));
            });
        }
    )+};
}

/// The subsystem of this name.
#[doc(hidden)]
#[macro_export]
macro_rules! subsystem {
    (stream) => {
        $crate::subsystem::Subsystem::Stream
    };
    (http) => {
        $crate::subsystem::Subsystem::Http
    };
    (mail) => {
        $crate::subsystem::Subsystem::Mail
    };
}
