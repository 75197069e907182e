//! Features that only mail has: three protocols, STARTTLS, and sessions that nginx proxies to the
//! backend that an HTTP server names.

use std::io::{BufRead, BufReader, Write};

use crate::backend::{Backend, read_head};
use crate::client::{Accepted, Connection, Transport};
use crate::harness::Site;
use crate::subsystem::{Subsystem, test_on};
use crate::tls::{CERTIFICATE, make_certificate, mptcp_bridge, tls_client};

const ADDRESS: &str = "127.0.0.1:2525";

/// A mail protocol and a session in it.
#[derive(Clone, Copy)]
struct Protocol {
    name: &'static str,
    /// The greeting of nginx.
    greeting: &'static str,
    /// The command that ends a session, and nginx's answer.
    leave: [&'static str; 2],
    /// A session through nginx: each command of the client, and how the answer begins. The
    /// last answer comes from the backend.
    session: &'static [[&'static str; 2]],
    /// The greeting of the backend, and its answer to a line from nginx or the client.
    backend: (&'static str, fn(&str) -> Option<String>),
}

const PROTOCOLS: [Protocol; 3] = [
    Protocol {
        name: "smtp",
        greeting: "220 served.over.mail ESMTP ready",
        leave: ["QUIT\r\n", "221 2.0.0 Bye"],
        session: &[
            ["HELO client", "250 served.over.mail"],
            ["AUTH PLAIN AGpvZQBzZWNyZXQ=", "235 2.0.0 OK"],
            ["NOOP", "250 backend: NOOP"],
        ],
        backend: ("220 ready", |line| Some(format!("250 backend: {line}"))),
    },
    Protocol {
        name: "imap",
        greeting: "* OK IMAP4 ready",
        leave: ["a LOGOUT\r\n", "a OK completed"],
        session: &[
            ["a LOGIN joe secret", "a OK backend"],
            ["b NOOP", "b OK backend: NOOP"],
        ],
        backend: ("* OK ready", imap),
    },
    Protocol {
        name: "pop3",
        greeting: "+OK POP3 ready",
        leave: ["QUIT\r\n", "+OK"],
        session: &[
            ["USER joe", "+OK"],
            ["PASS secret", "+OK backend: PASS secret"],
            ["STAT", "+OK backend: STAT"],
        ],
        backend: ("+OK ready", |line| Some(format!("+OK backend: {line}"))),
    },
];

/// The answer of an IMAP server to a line. nginx sends the name and the password as literals,
/// each in a separate line that the line before announces.
fn imap(line: &str) -> Option<String> {
    match line.split_once(' ') {
        _ if line.ends_with('}') => Some("+ go on".into()),
        Some((tag, command)) => Some(format!("{tag} OK backend: {command}")),
        None => Some("a OK backend".into()),
    }
}

impl Protocol {
    /// A server of this protocol over MPTCP.
    fn server(&self, more: &str) -> String {
        format!(
            "server {{\n    listen {ADDRESS} mptcp;\n    protocol {};\n    server_name served.over.mail;\n    {more}\n}}\n",
            self.name
        )
    }
}

/// An HTTP server for `auth_http` that accepts each client and names the backend.
fn lets_in(backend: &Backend) -> Backend {
    let port = backend.address.rsplit(':').next().expect("it has a port");
    let port: u16 = port.parse().expect("a port is a number");
    Backend::new(move |mut connection| {
        let head = read_head(&mut connection)?;
        let knows =
            head.contains("Auth-User: joe\r\n") && head.contains("Client-IP: 127.0.0.1\r\n");
        let status = if knows { "OK" } else { "who is that?" };
        write!(
            connection,
            "HTTP/1.0 200 OK\r\nAuth-Status: {status}\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {port}\r\n\r\n"
        )
    })
}

#[test_on(mail)]
fn every_protocol_greets_over_mptcp_and_over_tcp(_: Subsystem) {
    let site = Site::new();
    for protocol in PROTOCOLS {
        let nginx = site.start(&Subsystem::Mail.conf(&protocol.server("")));
        assert!(nginx.listener().is_mptcp());
        for transport in [Transport::Mptcp, Transport::Tcp] {
            let mut connection =
                Connection::open(transport, ADDRESS).expect("mail takes connections");
            let greeting = format!("{}\r\n", protocol.greeting);
            let said = connection.exchange(b"", greeting.as_bytes());
            said.unwrap_or_else(|error| panic!("{}: {error}", protocol.name));
            assert_eq!(connection.is_mptcp(), transport == Transport::Mptcp);
        }
        nginx.quit();
    }
}

#[test_on(mail)]
fn starttls_works_over_mptcp_and_over_tcp(_: Subsystem) {
    let site = Site::new();
    make_certificate(&site);
    for protocol in PROTOCOLS {
        let server = protocol.server(&format!("starttls on;\n    {CERTIFICATE}"));
        let nginx = site.start(&Subsystem::Mail.conf(&server));
        let before = Accepted::now().handshakes;
        for address in [ADDRESS, &mptcp_bridge(ADDRESS)] {
            let [leave, bye] = protocol.leave;
            let options = format!("-quiet -starttls {}", protocol.name);
            let text = tls_client(&site, address, &options, leave);
            assert!(text.contains(bye), "{}: {text}", protocol.name);
        }
        assert_eq!(Accepted::now().handshakes, before + 1, "over the bridge");
        nginx.quit();
    }
}

#[test_on(mail)]
fn every_protocol_is_proxied_over_mptcp_and_over_tcp(_: Subsystem) {
    let site = Site::new();
    for protocol in PROTOCOLS {
        let (greeting, reply) = protocol.backend;
        let backend = Backend::lines(greeting, reply);
        let http = lets_in(&backend);
        let server = protocol.server(&format!("auth_http {}/;", http.address));
        let nginx = site.start(&Subsystem::Mail.conf(&server));
        for transport in [Transport::Mptcp, Transport::Tcp] {
            let mut connection =
                Connection::open(transport, ADDRESS).expect("mail takes connections");
            let lines = connection.try_clone().expect("it can be duplicated");
            let mut lines = BufReader::new(lines).lines();
            let mut hear = |expected: &str| {
                let line = lines.next().and_then(Result::ok);
                let line = line.unwrap_or_else(|| panic!("\"{expected}\" never came"));
                assert!(
                    line.starts_with(expected),
                    "\"{expected}\" expected: {line}"
                );
            };
            hear(protocol.greeting);
            for [line, answer] in protocol.session {
                let line = format!("{line}\r\n");
                connection
                    .send(line.as_bytes())
                    .expect("a line can be sent");
                hear(answer);
            }
            assert_eq!(connection.is_mptcp(), transport == Transport::Mptcp);
        }
        nginx.quit();
    }
}
