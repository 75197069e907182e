//! The first word of the directive.
//!
//! Source: nginx ngx_parse_url(), ngx_inet_addr(), ngx_inet6_addr().

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::subsystem::Subsystem;
use super::value::number;
use crate::listen::{Address, Host};

/// Whether it is the address of a unix domain socket.
pub(super) fn is_unix(word: &[u8]) -> bool {
    word.get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"unix:"))
}

/// Reads the first word of the directive; the error is nginx's `u.err`.
pub(super) fn read(word: &[u8], subsystem: Subsystem) -> Result<Address, &'static str> {
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

/// A path with a 0 is refused: nginx would cut it there, and listen elsewhere
/// than the directive says; a 0 in front would be an abstract name of Linux.
fn unix(path: &[u8]) -> Result<Address, &'static str> {
    // sizeof(sockaddr_un.sun_path), with its closing 0.
    const LONGEST: usize = 108;
    match path.len() {
        0 => Err("no path in the unix domain socket"),
        LONGEST.. => Err("too long path in the unix domain socket"),
        _ if path.contains(&0) => Err("invalid path in the unix domain socket"),
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
    let host = inet6_addr(host).ok_or("invalid IPv6 address")?;
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

/// ngx_inet6_addr(): a colon too many in front is forgiven, and nothing behind
/// the last colon is a group of 0 where there is a `::`. So a `::` at the end,
/// unlike elsewhere, is two groups at least.
fn inet6_addr(text: &[u8]) -> Option<Ipv6Addr> {
    const GROUPS: usize = 8;
    let text = text.strip_prefix(b":").unwrap_or(text);
    let mut groups = [0_u16; GROUPS];
    let (mut count, mut gap) = (0, None);
    let mut push = |count: &mut usize, group| {
        *groups.get_mut(*count)? = group;
        *count += 1;
        Some(())
    };

    let (front, last) = match text.iter().rposition(|&byte| byte == b':') {
        Some(colon) => (Some(&text[..colon]), &text[colon + 1..]),
        None => (None, text),
    };
    for part in front
        .into_iter()
        .flat_map(|front| front.split(|&byte| byte == b':'))
    {
        if !part.is_empty() {
            push(&mut count, group(part)?)?;
        } else if gap.replace(count).is_some() {
            return None;
        }
    }
    match last.iter().position(|&byte| byte == b'.') {
        Some(dot) => {
            // Only behind a colon, and the first octet has to pass for a group.
            front?;
            group(&last[..dot])?;
            let [a, b, c, d] = dotted_quad(last)?.octets();
            push(&mut count, u16::from_be_bytes([a, b]))?;
            push(&mut count, u16::from_be_bytes([c, d]))?;
        }
        None if last.is_empty() => {
            gap?;
            push(&mut count, 0)?;
        }
        None => push(&mut count, group(last)?)?,
    }

    match gap {
        Some(gap) if count < GROUPS => {
            groups[gap..].rotate_right(GROUPS - count);
        }
        None if count == GROUPS => {}
        _ => return None,
    }
    Some(groups.into())
}

/// One to four hexadecimal digits.
fn group(text: &[u8]) -> Option<u16> {
    let digits = matches!(text.len(), 1..=4).then_some(text)?;
    digits.iter().try_fold(0, |group, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        Some(group << 4 | digit as u16)
    })
}
