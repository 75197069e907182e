//! The subsystems of nginx: how a server of each is configured, and how a
//! client requests something of it. A test that takes one runs on those that
//! its attribute [`test_on`] names.

use std::io::{self, BufRead, BufReader};

pub use test_on::test_on;

use crate::client::{Accepted, Connection, Transport};
use crate::harness::Host;
use crate::server::Conf;
use crate::without_mptcp;

/// A subsystem of nginx that one of our modules is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsystem {
    /// `stream { … }`
    Stream,
    /// `http { … }`
    Http,
    /// `mail { … }`, where most tests speak SMTP.
    Mail,
}

impl Subsystem {
    /// All of them, in nginx's order.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Http, Self::Mail];

    /// Its name, in files and in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Http => "http",
            Self::Mail => "mail",
        }
    }

    /// Another one.
    pub const fn other(self) -> Self {
        match self {
            Self::Stream => Self::Http,
            Self::Http => Self::Mail,
            Self::Mail => Self::Stream,
        }
    }

    /// Whether servers may share an address: in stream that is from nginx
    /// 1.25.5 on.
    pub fn merges_servers(self) -> bool {
        match self {
            Self::Stream => Host::get().version >= (1, 25, 5),
            Self::Http => true,
            Self::Mail => false,
        }
    }

    /// Whether its listen directive knows all of these words of nginx.
    pub fn knows(self, words: &str) -> bool {
        let mut names = words
            .split_whitespace()
            .filter_map(|word| word.split('=').next());
        names.all(|name| self.knows_name(name))
    }

    /// The words that nginx has not everywhere or not in every version, by
    /// its CHANGES.
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

    /// What the servers of most tests answer; as a mail server's name it can
    /// only be one word.
    pub const fn answer(self) -> &'static str {
        match self {
            Self::Stream => "served over stream",
            Self::Http => "served over http",
            Self::Mail => "served.over.mail",
        }
    }

    /// A server that listens as `words` say, with further directives, and
    /// that gives an answer. It needs no module that nginx can do without.
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

    /// A server that listens as `words` say and gives [`Self::answer`].
    pub fn server(self, words: &str) -> String {
        self.server_with(words, "", self.answer())
    }

    /// A configuration with this text in the subsystem's block.
    pub fn conf(self, text: &str) -> Conf {
        Conf::new(self, text)
    }

    /// A configuration of one [`Self::server`].
    pub fn listen(self, words: &str) -> Conf {
        self.conf(&self.server(words))
    }

    /// A configuration of a [`Self::server`] for each of the words.
    pub fn servers(self, words: &[&str]) -> Conf {
        let servers = words.iter().map(|words| self.server(words));
        self.conf(&servers.collect::<String>())
    }

    /// What has to stand at the beginning of the subsystem's block.
    pub const fn preamble(self) -> &'static str {
        match self {
            Self::Stream => "",
            Self::Http => {
                "access_log off;\nclient_body_temp_path temp;\nproxy_temp_path temp;\nfastcgi_temp_path temp;\nuwsgi_temp_path temp;\nscgi_temp_path temp;\n"
            }
            Self::Mail => "auth_http 127.0.0.1:1/;\n",
        }
    }

    /// A directive for the block: a log file, of those that nginx opens after
    /// it has opened its sockets.
    pub fn log_to(self, file: &str) -> String {
        match self {
            Self::Stream => format!("log_format short $status; access_log {file} short;"),
            Self::Http => format!("access_log {file};"),
            Self::Mail => format!("error_log {file};"),
        }
    }

    /// What a client sends before it is answered, so that the server closes
    /// once it has answered.
    pub const fn request(self) -> &'static str {
        match self {
            Self::Stream => "",
            Self::Http => "GET / HTTP/1.0\r\n\r\n",
            Self::Mail => "QUIT\r\n",
        }
    }

    /// The answer within a line that a server has sent, if it is there.
    pub fn answer_in(self, line: &str) -> Option<&str> {
        let line = line.trim_end();
        match self {
            Self::Stream => Some(line),
            Self::Http => line.strip_prefix("Answer: "),
            Self::Mail => line.strip_prefix("220 ")?.strip_suffix(" ESMTP ready"),
        }
    }

    /// Connects and returns what the server answers, and whether that went
    /// over MPTCP.
    ///
    /// It does not wait for the end of the connection: where a client's MPTCP
    /// falls back and the server closes at once, Linux 6.18 loses the end,
    /// once in some ten thousand connections, with any server.
    pub fn request_answer(self, transport: Transport, address: &str) -> io::Result<(String, bool)> {
        let mut connection = Connection::open(transport, address)?;
        connection.send(self.request().as_bytes())?;
        self.receive_answer(connection)
    }

    /// Reads the answer from a connection that has asked already.
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

    /// Asks at an address over TCP and over MPTCP, and checks the answers and
    /// what the kernel's counters say of the connections.
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

/// The older form of [`test_on`]: a table at the head of the file.
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

/// A subsystem by its name.
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
