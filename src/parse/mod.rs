//! The words of a `listen` directive -> [`Listen`].
//!
//! Pure: no system call, no clock. The grammar is that of nginx 1.18 to 1.31,
//! all versions together; sources: nginx ngx_stream_core_listen(),
//! ngx_http_core_listen(), ngx_mail_core_listen(), ngx_parse_url(),
//! ngx_parse_size(), ngx_parse_time().
#![forbid(unsafe_code)]

mod address;
mod subsystem;
mod value;

use crate::error::Error;
use crate::listen::{Listen, Options, flag};
use crate::protocol::{Protocol, Request};
use address::is_unix;
pub use subsystem::Subsystem;
use value::{number, seconds, size};

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
/// ```
/// use ngx_rs_listen::parse::{self, Rules};
/// use ngx_rs_listen::{Protocol, Request, flag};
///
/// let listen = parse::listen(&[b"443", b"ssl", b"mptcp"], &Rules::default())?;
/// assert_eq!(listen.request, Some(Request::only(Protocol::Mptcp)));
/// assert!(listen.options.has(flag::SSL));
///
/// let wrong = parse::listen(&[b"443", b"udp", b"mptcp"], &Rules::default());
/// let error = wrong.expect_err("MPTCP takes the place of TCP");
/// assert_eq!(
///     error.to_string(),
///     r#""mptcp" parameter is incompatible with "udp""#
/// );
/// # Ok::<(), ngx_rs_listen::Error>(())
/// ```
///
/// # Errors
/// [`Error::Syntax`] with nginx's message and the index of the word.
pub fn listen(words: &[&[u8]], rules: &Rules) -> Result<Listen, Error> {
    let Some(first) = words.first() else {
        return Err(Error::syntax(0, "no address in the \"listen\" directive"));
    };
    let address = address::read(first, rules.subsystem).map_err(|why| {
        Error::syntax(
            0,
            format!("{why} in {} of the \"listen\" directive", quoted(first)),
        )
    })?;

    let mut draft = Draft::default();
    for index in 1..words.len() {
        draft
            .parse_word(words, index, rules)
            .map_err(|message| Error::syntax(index, message))?;
    }
    if !rules.ours_only {
        draft.check_datagram(words)?;
    }
    draft.check_request(words)?;
    Ok(Listen {
        address,
        options: draft.options,
        request: draft.request.map(|(request, _)| request),
    })
}

/// Whether the module or nginx handles a parameter, whatever its value is.
pub fn owner(word: &[u8], subsystem: Subsystem) -> Owner {
    match find(word, subsystem) {
        Some((meaning, _)) if meaning.is_ours() => Owner::Ours,
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

impl Meaning {
    /// Whether nginx does not know the parameter. Without a default: each new one
    /// must be in one of the two lists.
    fn is_ours(self) -> bool {
        use Meaning::*;
        match self {
            Mptcp | Protocol => true,
            Flag(_) | Ignored | Unsupported | Backlog | Rcvbuf | Sndbuf | Fastopen | Ipv6only
            | Keepalive => false,
        }
    }
}

const STREAM: u8 = 1 << Subsystem::Stream as u8;
const HTTP: u8 = 1 << Subsystem::Http as u8;
const MAIL: u8 = 1 << Subsystem::Mail as u8;
const ALL: u8 = STREAM | HTTP | MAIL;

/// Every parameter: its name, with `=` if it has a value; where it is known;
/// what it does.
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
    (b"ipv6only=", ALL, Meaning::Ipv6only),
    (b"so_keepalive=", ALL, Meaning::Keepalive),
    // Of FreeBSD. On Linux nginx goes on without the first, and refuses the
    // second as it refuses any unknown word.
    (b"accept_filter=", STREAM | HTTP, Meaning::Ignored),
    (b"setfib=", STREAM | HTTP, Meaning::Unsupported),
    // Of nginx 1.18, which goes on without it.
    (b"spdy", HTTP, Meaning::Ignored),
];

/// What a word means, and its value.
fn find(word: &[u8], subsystem: Subsystem) -> Option<(Meaning, &[u8])> {
    let (name, value) = match word.iter().position(|&byte| byte == b'=') {
        Some(at) => word.split_at(at + 1),
        None => (word, &[][..]),
    };
    let subsystem = 1 << subsystem as u8;
    let (_, _, meaning) = PARAMETERS
        .iter()
        .find(|(known, subsystems, _)| *known == name && subsystems & subsystem != 0)?;
    match meaning {
        // Sic: `ipv6only=yes` is an invalid parameter, not an invalid flag.
        Meaning::Ipv6only if !value.starts_with(b"o") => None,
        meaning => Some((*meaning, value)),
    }
}

/// What has been read so far.
#[derive(Default)]
struct Draft {
    options: Options,
    request: Option<(Request, usize)>,
    seen: Seen,
}

/// Parameters that a datagram socket cannot have and that leave no other trace.
#[derive(Default)]
struct Seen {
    backlog: bool,
}

impl Draft {
    fn parse_word(&mut self, words: &[&[u8]], index: usize, rules: &Rules) -> Result<(), String> {
        let options = &mut self.options;
        let word = words[index];
        let invalid = |name| format!("invalid {name} {}", quoted(word));
        let (meaning, value) = match find(word, rules.subsystem) {
            Some((Meaning::Mptcp, value)) => {
                return self.request(words, index, mptcp(word, value)?);
            }
            Some((Meaning::Protocol, value)) => {
                return self.request(words, index, protocol(word, value)?);
            }
            Some((Meaning::Flag(flags), _)) => {
                options.flags |= flags;
                return Ok(());
            }
            Some((meaning, _)) if rules.ours_only && !meaning.is_ours() => return Ok(()),
            None if rules.ours_only => return Ok(()),
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

    /// Stores a parameter of the module: a directive may have one.
    fn request(&mut self, words: &[&[u8]], index: usize, request: Request) -> Result<(), String> {
        let word = words[index];
        match self.request.replace((request, index)) {
            None => Ok(()),
            Some((_, earlier)) if words[earlier] == word => {
                Err(format!("duplicate {} parameter", quoted(word)))
            }
            Some((_, earlier)) => Err(format!(
                "{} parameter is incompatible with {}",
                quoted(word),
                quoted(words[earlier])
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
    fn check_request(&self, words: &[&[u8]]) -> Result<(), Error> {
        let Some((_, index)) = self.request.filter(|(request, _)| !request.is_plain_tcp()) else {
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

fn mptcp(word: &[u8], value: &[u8]) -> Result<Request, String> {
    match value {
        b"" if !word.ends_with(b"=") => Ok(Request::only(Protocol::Mptcp)),
        b"on" => Ok(Request::only(Protocol::Mptcp)),
        b"auto" => Ok(Request::AUTO),
        b"off" => Ok(Request::only(Protocol::Tcp)),
        _ => Err(format!(
            "invalid mptcp {}, it must be \"on\", \"off\" or \"auto\"",
            quoted(word)
        )),
    }
}

fn protocol(word: &[u8], value: &[u8]) -> Result<Request, String> {
    Protocol::from_name(value)
        .or_else(|| number(value).and_then(Protocol::from_number))
        .map(Request::only)
        .ok_or_else(|| {
            format!(
                "invalid protocol {}, it must be \"tcp\", \"mptcp\", \"sctp\", \"smc\" or a number from 1 to 65535",
                quoted(word)
            )
        })
}

type Reader = fn(&[u8]) -> Option<i32>;

/// `on`, `off`, or `[idle]:[interval]:[count]` with at least one of them.
fn keepalive(options: &mut Options, value: &[u8]) -> Option<()> {
    options.flags &= !(flag::KEEPALIVE_ON | flag::KEEPALIVE_OFF);
    match value {
        b"on" => options.flags |= flag::KEEPALIVE_ON,
        b"off" => options.flags |= flag::KEEPALIVE_OFF,
        _ => {
            // What an empty part leaves alone may come from an earlier word.
            let mut parts = value.splitn(3, |&byte| byte == b':');
            let rows = [
                (&mut options.keepidle_sec, seconds as Reader),
                (&mut options.keepintvl_sec, seconds),
                (&mut options.keepcnt, number),
            ];
            let mut any = false;
            for (option, read) in rows {
                let part = parts.next().unwrap_or_default();
                if !part.is_empty() {
                    *option = Some(read(part)?).filter(|&read| read != 0);
                }
                any |= option.is_some();
            }
            if !any {
                return None;
            }
            options.flags |= flag::KEEPALIVE_ON;
        }
    }
    Some(())
}

fn quoted(word: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(word))
}
