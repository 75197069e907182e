//! The words of a `listen` directive -> [`Listen`].
//!
//! Pure: no system call, no clock. The grammar is that of nginx 1.18 to 1.31,
//! all versions together; sources: nginx ngx_stream_core_listen(),
//! ngx_http_core_listen(), ngx_mail_core_listen(), ngx_parse_url(),
//! ngx_parse_size(), ngx_parse_time().
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::error::Error;
use crate::listen::{Address, Host, Listen, Options, flag};
use crate::protocol::{Protocol, Wish};

/// The part of nginx whose grammar holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subsystem {
    /// `stream { server { listen …; } }`
    #[default]
    Stream,
    /// `http { server { listen …; } }`
    Http,
    /// `mail { server { listen …; } }`
    Mail,
}

/// How to read a directive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Which words there are.
    pub subsystem: Subsystem,
    /// Leave every word that is not ours to the caller, unread: for callers
    /// that hand the directive on to nginx.
    pub ours_only: bool,
}

/// Whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// `mptcp`, `multipath`, `protocol=`: not known to an old nginx.
    Ours,
    /// nginx's.
    Nginx,
    /// Nobody's.
    Unknown,
}

/// Reads the words that follow `listen`: an address, then parameters.
///
/// # Errors
/// [`Error::Syntax`] with nginx's message and the index of the word.
pub fn listen(words: &[&[u8]], rules: &Rules) -> Result<Listen, Error> {
    let Some((first, parameters)) = words.split_first() else {
        return Err(Error::syntax(0, "no address in the \"listen\" directive"));
    };
    let address = address(first, rules.subsystem).map_err(|why| {
        Error::syntax(
            0,
            format!("{why} in {} of the \"listen\" directive", quoted(first)),
        )
    })?;

    let mut draft = Draft::default();
    for (parameter, index) in parameters.iter().zip(1..) {
        draft
            .take(parameter, index, rules)
            .map_err(|message| Error::syntax(index, message))?;
    }
    if !rules.ours_only {
        draft.check_datagram(words)?;
    }
    draft.check_wish(words)?;
    Ok(Listen {
        address,
        options: draft.options,
        wish: draft.wish.map(|(wish, _)| wish),
    })
}

/// Says whose a parameter is, whether its value is right or not.
pub fn owner(word: &[u8], subsystem: Subsystem) -> Owner {
    match find(word, subsystem) {
        Some((Meaning::Mptcp | Meaning::Protocol, _)) => Owner::Ours,
        Some(_) => Owner::Nginx,
        None => Owner::Unknown,
    }
}

/// What a parameter does.
#[derive(Clone, Copy)]
enum Meaning {
    Flag(u32),
    Ignored,
    Unsupported,
    Backlog,
    Rcvbuf,
    Sndbuf,
    Fastopen,
    Ipv6only,
    Keepalive,
    Mptcp,
    Protocol,
}

const STREAM: u8 = 1 << Subsystem::Stream as u8;
const HTTP: u8 = 1 << Subsystem::Http as u8;
const MAIL: u8 = 1 << Subsystem::Mail as u8;
const ALL: u8 = STREAM | HTTP | MAIL;

/// Every parameter: how it begins (with a value after `=`, whole otherwise),
/// where it is known, what it does.
const PARAMETERS: &[(&[u8], u8, Meaning)] = &[
    (b"mptcp", ALL, Meaning::Mptcp),
    (b"mptcp=", ALL, Meaning::Mptcp),
    (b"multipath", ALL, Meaning::Mptcp),
    (b"protocol=", ALL, Meaning::Protocol),
    (b"ssl", ALL, Meaning::Flag(flag::SSL)),
    (b"udp", STREAM, Meaning::Flag(flag::UDP)),
    (b"quic", HTTP, Meaning::Flag(flag::QUIC)),
    (b"http2", HTTP, Meaning::Flag(flag::HTTP2)),
    (
        b"default_server",
        STREAM | HTTP,
        Meaning::Flag(flag::DEFAULT_SERVER),
    ),
    (b"default", HTTP, Meaning::Flag(flag::DEFAULT_SERVER)),
    (b"proxy_protocol", ALL, Meaning::Flag(flag::PROXY_PROTOCOL)),
    (b"bind", ALL, Meaning::Flag(flag::BIND)),
    (
        b"reuseport",
        STREAM | HTTP,
        Meaning::Flag(flag::BIND | flag::REUSEPORT),
    ),
    (
        b"deferred",
        STREAM | HTTP,
        Meaning::Flag(flag::BIND | flag::DEFERRED),
    ),
    (b"backlog=", ALL, Meaning::Backlog),
    (b"rcvbuf=", ALL, Meaning::Rcvbuf),
    (b"sndbuf=", ALL, Meaning::Sndbuf),
    (b"fastopen=", STREAM | HTTP, Meaning::Fastopen),
    // Sic: nginx calls `ipv6only=yes` an invalid parameter, not an invalid flag.
    (b"ipv6only=o", ALL, Meaning::Ipv6only),
    (b"so_keepalive=", ALL, Meaning::Keepalive),
    // Of FreeBSD. On Linux nginx goes on without the first, and refuses the
    // second as it refuses any unknown word.
    (b"accept_filter=", STREAM | HTTP, Meaning::Ignored),
    (b"setfib=", STREAM | HTTP, Meaning::Unsupported),
];

/// What a word means, and its value.
fn find(word: &[u8], subsystem: Subsystem) -> Option<(Meaning, &[u8])> {
    let known = PARAMETERS.iter().find(|(name, subsystems, _)| {
        let named = if name.contains(&b'=') {
            word.starts_with(name)
        } else {
            word == *name
        };
        named && subsystems & (1 << subsystem as u8) != 0
    })?;
    let value = word.iter().position(|&byte| byte == b'=');
    Some((known.2, value.map_or(&[][..], |at| &word[at + 1..])))
}

/// What has been read so far.
#[derive(Default)]
struct Draft {
    options: Options,
    wish: Option<(Wish, usize)>,
    seen: Seen,
}

/// Parameters that a datagram socket cannot have and that leave no other trace.
#[derive(Default)]
struct Seen {
    backlog: bool,
}

impl Draft {
    fn take(&mut self, word: &[u8], index: usize, rules: &Rules) -> Result<(), String> {
        let options = &mut self.options;
        let invalid = |name| format!("invalid {name} {}", quoted(word));
        let (meaning, value) = match find(word, rules.subsystem) {
            Some((Meaning::Mptcp, value)) => return self.wish(word, index, mptcp(word, value)?),
            Some((Meaning::Protocol, value)) => {
                return self.wish(word, index, protocol(word, value)?);
            }
            Some((Meaning::Flag(flags), _)) => {
                options.flags |= flags;
                return Ok(());
            }
            _ if rules.ours_only => return Ok(()),
            None | Some((Meaning::Unsupported, _)) => return Err(invalid("parameter")),
            Some(known) => known,
        };
        if !matches!(meaning, Meaning::Ignored) {
            options.flags |= flag::BIND;
        }
        match meaning {
            Meaning::Backlog => {
                let backlog = number(value).filter(|&backlog| backlog != 0);
                options.backlog = backlog.ok_or_else(|| invalid("backlog"))?;
                self.seen.backlog = true;
            }
            Meaning::Rcvbuf => {
                options.rcvbuf_bytes = Some(size(value).ok_or_else(|| invalid("rcvbuf"))?)
            }
            Meaning::Sndbuf => {
                options.sndbuf_bytes = Some(size(value).ok_or_else(|| invalid("sndbuf"))?)
            }
            Meaning::Fastopen => {
                options.fastopen = Some(number(value).ok_or_else(|| invalid("fastopen"))?)
            }
            Meaning::Ipv6only => match value {
                b"on" => options.flags &= !flag::IPV6ONLY_OFF,
                b"off" => options.flags |= flag::IPV6ONLY_OFF,
                _ => return Err(format!("invalid ipv6only flags {}", quoted(value))),
            },
            Meaning::Keepalive => keepalive(options, value)
                .ok_or_else(|| format!("invalid so_keepalive value: {}", quoted(value)))?,
            _ => {}
        }
        Ok(())
    }

    /// Takes one of our own parameters: there may be one.
    fn wish(&mut self, word: &[u8], index: usize, wish: Wish) -> Result<(), String> {
        match self.wish.replace((wish, index)) {
            None => Ok(()),
            Some((earlier, _)) if earlier == wish => {
                Err(format!("duplicate {} parameter", quoted(word)))
            }
            Some((earlier, _)) => Err(format!(
                "{} parameter is incompatible with \"{earlier}\"",
                quoted(word)
            )),
        }
    }

    /// Refuses what UDP and QUIC cannot have, in nginx's order.
    fn check_datagram(&self, words: &[&[u8]]) -> Result<(), Error> {
        let options = &self.options;
        let datagram = match (options.has(flag::QUIC), options.has(flag::UDP)) {
            (true, _) => "quic",
            (_, true) => "udp",
            _ => return Ok(()),
        };
        let refused: [(&[u8], bool); 7] = [
            (b"fastopen", options.fastopen.is_some()),
            (b"backlog", self.seen.backlog),
            (b"deferred", options.has(flag::DEFERRED)),
            (b"ssl", options.has(flag::SSL)),
            (b"http2", options.has(flag::HTTP2)),
            (
                b"so_keepalive",
                options.has(flag::KEEPALIVE_ON | flag::KEEPALIVE_OFF),
            ),
            (b"proxy_protocol", options.has(flag::PROXY_PROTOCOL)),
        ];
        let Some((name, _)) = refused.iter().find(|row| row.1) else {
            return Ok(());
        };
        let index = words.iter().position(|word| word.starts_with(name));
        let message = format!(
            "{} parameter is incompatible with \"{datagram}\"",
            quoted(name)
        );
        Err(Error::syntax(index.unwrap_or(0), message))
    }

    /// Refuses another protocol where there is no choice.
    fn check_wish(&self, words: &[&[u8]]) -> Result<(), Error> {
        let Some((_, index)) = self.wish.filter(|(wish, _)| !wish.is_plain_tcp()) else {
            return Ok(());
        };
        let other: &[u8] = match () {
            () if self.options.has(flag::QUIC) => b"quic",
            () if self.options.has(flag::UDP) => b"udp",
            () if is_unix(words[0]) => words[0],
            () => return Ok(()),
        };
        let message = format!(
            "{} parameter is incompatible with {}",
            quoted(words[index]),
            quoted(other)
        );
        Err(Error::syntax(index, message))
    }
}

fn mptcp(word: &[u8], value: &[u8]) -> Result<Wish, String> {
    match value {
        b"" if !word.ends_with(b"=") => Ok(Wish::only(Protocol::Mptcp)),
        b"on" => Ok(Wish::only(Protocol::Mptcp)),
        b"auto" => Ok(Wish::AUTO),
        b"off" => Ok(Wish::only(Protocol::Tcp)),
        _ => Err(format!(
            "invalid mptcp {}, it must be \"on\", \"off\" or \"auto\"",
            quoted(word)
        )),
    }
}

fn protocol(word: &[u8], value: &[u8]) -> Result<Wish, String> {
    Protocol::from_name(value)
        .or_else(|| number(value).and_then(Protocol::from_number))
        .map(Wish::only)
        .ok_or_else(|| {
            format!(
                "invalid protocol {}, it must be \"tcp\", \"mptcp\", \"sctp\", \"smc\" or a number from 1 to 65535",
                quoted(word)
            )
        })
}

/// `on`, `off`, or `[idle]:[interval]:[count]` with at least one of them.
fn keepalive(options: &mut Options, value: &[u8]) -> Option<()> {
    options.flags &= !(flag::KEEPALIVE_ON | flag::KEEPALIVE_OFF);
    match value {
        b"on" => options.flags |= flag::KEEPALIVE_ON,
        b"off" => options.flags |= flag::KEEPALIVE_OFF,
        _ => {
            let given = |part: &[u8], read: fn(&[u8]) -> Option<i32>| match part {
                b"" => Some(None),
                part => read(part).map(|read| Some(read).filter(|&read| read != 0)),
            };
            let mut parts = value.splitn(3, |&byte| byte == b':');
            let mut next = || parts.next().unwrap_or_default();
            options.keepidle_sec = given(next(), seconds)?;
            options.keepintvl_sec = given(next(), seconds)?;
            options.keepcnt = given(next(), number)?;
            let any = [options.keepidle_sec, options.keepintvl_sec, options.keepcnt];
            any.iter().flatten().next()?;
            options.flags |= flag::KEEPALIVE_ON;
        }
    }
    Some(())
}

fn is_unix(word: &[u8]) -> bool {
    word.get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"unix:"))
}

fn address(word: &[u8], subsystem: Subsystem) -> Result<Address, &'static str> {
    if is_unix(word) {
        return unix(&word[5..]);
    }
    let default_port = if subsystem == Subsystem::Http { 80 } else { 0 };
    let (host, ports) = match word.strip_prefix(b"[") {
        Some(rest) => inet6(rest, default_port)?,
        None => inet(word, default_port)?,
    };
    Ok(Address::Inet {
        host,
        ports,
        text: word.to_vec(),
    })
}

fn unix(path: &[u8]) -> Result<Address, &'static str> {
    // sizeof(sockaddr_un.sun_path), with its closing 0.
    const LONGEST: usize = 108;
    match path.len() {
        0 => Err("no path in the unix domain socket"),
        LONGEST.. => Err("too long path in the unix domain socket"),
        _ => Ok(Address::Unix(path.to_vec())),
    }
}

type Ports = RangeInclusive<u16>;

/// What follows `[`.
fn inet6(rest: &[u8], default_port: u16) -> Result<(Host, Ports), &'static str> {
    let end = rest
        .iter()
        .position(|&byte| byte == b']')
        .ok_or("invalid host")?;
    let (host, rest) = (&rest[..end], &rest[end + 1..]);
    let ports = match rest.split_first() {
        None => default_port..=default_port,
        Some((b':', text)) if !text.contains(&b'/') => ports(text)?,
        Some(_) => return Err("invalid host"),
    };
    if host.is_empty() {
        return Err("no host");
    }
    let host = std::str::from_utf8(host)
        .ok()
        .and_then(|host| host.parse::<Ipv6Addr>().ok());
    let host = host.ok_or("invalid IPv6 address")?;
    Ok((Host::Ip(IpAddr::V6(host)), ports))
}

fn inet(word: &[u8], default_port: u16) -> Result<(Host, Ports), &'static str> {
    if word.iter().any(|byte| b"/?".contains(byte)) {
        return Err("invalid host");
    }
    let (host, ports) = match word.iter().position(|&byte| byte == b':') {
        Some(colon) => (&word[..colon], ports(&word[colon + 1..])?),
        None if is_port(word) => return Ok((Host::ANY, ports(word)?)),
        None => (word, default_port..=default_port),
    };
    let host = match host {
        b"" => return Err("no host"),
        b"*" => Host::ANY,
        host => {
            dotted_quad(host).map_or_else(|| Host::Name(host.to_vec()), |ip| Host::Ip(ip.into()))
        }
    };
    Ok((host, ports))
}

/// Whether the whole word is a port or a range of them, valid or not.
fn is_port(word: &[u8]) -> bool {
    word.splitn(2, |&byte| byte == b'-')
        .all(|port| number::<i64>(port).is_some())
}

/// `PORT` or `FIRST-LAST`.
fn ports(text: &[u8]) -> Result<Ports, &'static str> {
    let port = |text| {
        number::<u16>(text)
            .filter(|&port| port != 0)
            .ok_or("invalid port")
    };
    match text.iter().position(|&byte| byte == b'-') {
        None => port(text).map(|only| only..=only),
        Some(dash) => {
            let last = port(&text[dash + 1..])?;
            let first = port(&text[..dash])?;
            if first > last {
                Err("invalid port range")
            } else {
                Ok(first..=last)
            }
        }
    }
}

/// ngx_inet_addr(): an empty octet is 0, and the broadcast address is a name.
fn dotted_quad(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split(|&byte| byte == b'.');
    for octet in &mut octets {
        let part = parts.next()?;
        if !part.is_empty() {
            *octet = number(part)?;
        }
    }
    let ip = Ipv4Addr::from(octets);
    (parts.next().is_none() && !ip.is_broadcast()).then_some(ip)
}

/// ngx_atoi(): decimal digits, at least one.
fn number<T: TryFrom<i64>>(text: &[u8]) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    let value = text.iter().try_fold(0_i64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })?;
    T::try_from(value).ok()
}

/// ngx_parse_size(): bytes, or with `k` or `m`.
fn size(text: &[u8]) -> Option<i32> {
    let (digits, scale) = match text.split_last()? {
        (b'k' | b'K', digits) => (digits, 1024),
        (b'm' | b'M', digits) => (digits, 1024 * 1024),
        _ => (text, 1),
    };
    number::<i32>(digits)?.checked_mul(scale)
}

/// ngx_parse_time(): seconds, or `1d 2h 30m` and the like, each unit once and
/// from the largest to the smallest.
fn seconds(text: &[u8]) -> Option<i32> {
    const UNITS: [(u8, i64); 8] = [
        (b'y', 60 * 60 * 24 * 365),
        (b'M', 60 * 60 * 24 * 30),
        (b'w', 60 * 60 * 24 * 7),
        (b'd', 60 * 60 * 24),
        (b'h', 60 * 60),
        (b'm', 60),
        (b's', 1),
        (b' ', 1),
    ];
    let mut units = UNITS.iter();
    let (mut total, mut value, mut any) = (0_i64, 0_i64, false);
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte.is_ascii_digit() {
            value = value.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
            any = true;
            continue;
        }
        let scale = units.find(|unit| unit.0 == byte)?.1;
        match (byte, rest.first()) {
            // `ms`, which is not for whole seconds.
            (b'm', Some(b's')) => return None,
            (b's', _) => units = [].iter(),
            _ => {}
        }
        total = total.checked_add(value.checked_mul(scale)?)?;
        value = 0;
        let blanks = rest.iter().take_while(|&&byte| byte == b' ').count();
        rest = &rest[blanks..];
    }
    let total = total.checked_add(value)?;
    i32::try_from(total).ok().filter(|_| any)
}

fn quoted(word: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(word))
}
