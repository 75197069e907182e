//! Generates listen directives: from the grammar, and then with random changes. The sequence is
//! the same in each run.

use ngx_rs_listen::parse::Subsystem;
use test_support::table::SUBSYSTEMS;

/// A directive and the subsystem of its server.
#[derive(Clone, Debug)]
pub struct Case {
    pub subsystem: Subsystem,
    pub words: Vec<Vec<u8>>,
}

impl Case {
    pub fn words(&self) -> Vec<&[u8]> {
        self.words.iter().map(Vec::as_slice).collect()
    }

    /// The directive as text for nginx.conf.
    pub fn text(&self) -> Vec<u8> {
        let mut text = b"listen".to_vec();
        for word in &self.words {
            text.extend(b" \"");
            for &byte in word {
                if b"\"\\".contains(&byte) {
                    text.push(b'\\');
                }
                text.push(byte);
            }
            text.push(b'"');
        }
        text.push(b';');
        text
    }
}

/// `count` directives, for stream, http and mail in turn.
pub fn cases(count: usize) -> Vec<Case> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..count)
        .map(|index| random.case(SUBSYSTEMS[index % 3]))
        .collect()
}

/// xorshift64*
struct Random(u64);

/// Every name of a parameter without a value, and some names that nginx does not have.
const FLAGS: [&str; 16] = [
    "ssl",
    "bind",
    "proxy_protocol",
    "reuseport",
    "default_server",
    "deferred",
    "http2",
    "udp",
    "default",
    "quic",
    "spdy",
    "accept_filter=httpready",
    "setfib=1",
    "backlog",
    "so_keepalive",
    "foo",
];
const NUMBERS: [&str; 2] = ["backlog=", "fastopen="];
const SIZES: [&str; 2] = ["rcvbuf=", "sndbuf="];
const UNITS: [&str; 9] = ["", "", "s", "m", "h", "d", "ms", "M", "x"];
const HEX: [&str; 8] = ["0", "1", "db8", "2001", "fFfF", "fe80", "64", "12345"];
const INSERTED: &[u8] = b"0159.:[]-*/?=kmsx \\\"\xff";

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn one_of<'a>(&mut self, choice: &[&'a str]) -> &'a str {
        choice[self.below(choice.len())]
    }

    fn case(&mut self, subsystem: Subsystem) -> Case {
        loop {
            let mut words = vec![self.address()];
            for _ in 0..self.below(4) {
                words.push(self.parameter(subsystem));
            }
            let mut words = words.into_iter().map(String::into_bytes).collect();
            if self.below(5) < 2 {
                for _ in 0..=self.below(2) {
                    self.change(&mut words);
                }
            }
            // Only relative paths of Unix domain sockets, so that nginx creates no file
            // outside of the test's folder.
            let unix = words[0].to_ascii_lowercase().starts_with(b"unix:");
            if !unix || !words[0].contains(&b'/') {
                return Case { subsystem, words };
            }
        }
    }

    fn address(&mut self) -> String {
        let host = match self.below(10) {
            0..2 => None,
            2 => Some("*".into()),
            3..6 => Some(self.inet()),
            6..8 => Some(self.inet6()),
            8 => Some("localhost".into()),
            _ => return format!("unix:{}", self.below(100_000)),
        };
        let first = 1 + self.below(65_500);
        let ports = match self.below(12) {
            0 => format!("{first}-{}", first + self.below(4)),
            1 => format!("{first}-{}", first.saturating_sub(self.below(3))),
            _ => first.to_string(),
        };
        match host {
            None => ports,
            // An address without a port gets the default port.
            Some(host) if self.below(60) == 0 => host,
            Some(host) => format!("{host}:{ports}"),
        }
    }

    fn inet(&mut self) -> String {
        let mut octet = || match self.below(30) {
            0 => String::new(),
            1 => "001".into(),
            2 => "256".into(),
            _ => (1 + self.below(223)).to_string(),
        };
        [octet(), octet(), octet(), octet()].join(".")
    }

    fn inet6(&mut self) -> String {
        let mut groups: Vec<_> = (0..8).map(|_| self.one_of(&HEX)).collect();
        if self.below(4) > 0 {
            groups.retain(|group| group.len() < 5);
        }
        let address = match self.below(6) {
            0 => groups.join(":"),
            1 => format!("::{}", self.one_of(&HEX)),
            2 => format!("{}::", groups[..self.below(groups.len())].join(":")),
            3 => format!("64:ff9b::{}", self.inet()),
            4 => format!("::ffff:{}", self.inet()),
            _ => {
                let (front, back) = groups.split_at(self.below(groups.len()));
                format!("{}::{}", front.join(":"), back.join(":"))
            }
        };
        format!("[{address}]")
    }

    /// A parameter. The subsystem usually accepts it.
    fn parameter(&mut self, subsystem: Subsystem) -> String {
        match self.below(10) {
            0..2 => format!("{}{}", self.one_of(&NUMBERS), self.number()),
            2..4 => {
                let unit = self.one_of(&["", "", "k", "K", "m", "g"]);
                format!("{}{}{unit}", self.one_of(&SIZES), self.number())
            }
            4 => format!(
                "ipv6only={}",
                self.one_of(&["on", "off", "on", "off", "o", "yes"])
            ),
            5..7 => format!("so_keepalive={}", self.keepalive()),
            _ if subsystem == Subsystem::Mail => FLAGS[self.below(3)].into(),
            _ => match self.below(3) {
                0 => self.one_of(&FLAGS).into(),
                _ => FLAGS[self.below(8)].into(),
            },
        }
    }

    fn number(&mut self) -> String {
        match self.below(20) {
            0 => String::new(),
            1 => "0".into(),
            2 => "-1".into(),
            3 => "4294967296".into(),
            4 => "0064".into(),
            _ => (1 + self.below(2000)).to_string(),
        }
    }

    fn keepalive(&mut self) -> String {
        match self.below(8) {
            0 => "on".into(),
            1 => "off".into(),
            2 => format!("{}:{}", self.time(), self.time()),
            3 => format!("::{}", self.below(100)),
            4 => format!("{}{}", self.time(), self.time()),
            5 => format!("{} {}", self.time(), self.time()),
            6 => self.time(),
            _ => format!("{}:{}:{}", self.time(), self.time(), 1 + self.below(99)),
        }
    }

    fn time(&mut self) -> String {
        match self.below(8) {
            0 => String::new(),
            _ => format!("{}{}", self.below(300), self.one_of(&UNITS)),
        }
    }

    fn change(&mut self, words: &mut Vec<Vec<u8>>) {
        let index = self.below(words.len());
        let (length, other) = (words[index].len(), self.below(words.len()));
        let byte = INSERTED[self.below(INSERTED.len())];
        match self.below(8) {
            0 => words.push(words[index].clone()),
            1 => words.swap(index, other),
            2 => words[index].truncate(self.below(length + 1)),
            3 => words[index].make_ascii_uppercase(),
            4 if length > 0 => words[index][self.below(length)] = byte,
            5 if length > 0 => drop(words[index].remove(self.below(length))),
            _ => words[index].insert(self.below(length + 1), byte),
        }
    }
}
