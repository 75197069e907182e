//! sock_diag(7): the states of all sockets.

use std::collections::BTreeSet;
use std::io::{self, Read};

use socket2::{Domain, Socket, Type};

use super::checkpoint::checkpoint;

/// `TCP_SYN_RECV` of linux/tcp_states.h: the last packet of a handshake is
/// missing.
const SYN_RECV: u32 = 3;

const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// Bytes of `struct nlmsghdr` and of `struct inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = 56;

/// The local ports of an address family where TCP handshakes are under way.
/// An MPTCP handshake is a TCP handshake.
pub(crate) fn ports_in_handshake(domain: Domain) -> io::Result<BTreeSet<u16>> {
    checkpoint();
    let mut socket = Socket::new_raw(
        Domain::from(libc::AF_NETLINK),
        Type::RAW.cloexec(),
        Some(libc::NETLINK_SOCK_DIAG.into()),
    )?;
    socket.send(&request(domain))?;
    let (mut ports, mut answer) = (BTreeSet::new(), [0; 16 * 1024]);
    loop {
        let size = socket.read(&mut answer)?;
        let mut rest = &answer[..size];
        if size == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        while let Some(header) = rest.get(..HEADER) {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let message = rest.get(..length as usize).unwrap_or_default();
            match u16::from_ne_bytes([header[4], header[5]]) {
                done if i32::from(done) == libc::NLMSG_DONE => return Ok(ports),
                // The local port of struct inet_diag_msg is at 4.
                SOCK_DIAG_BY_FAMILY if message.len() >= HEADER + 6 => {
                    let port = [message[HEADER + 4], message[HEADER + 5]];
                    ports.insert(u16::from_be_bytes(port));
                }
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
            let next = (length as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[next..];
        }
    }
}

fn request(domain: Domain) -> [u8; HEADER + REQUEST] {
    let mut request = [0; HEADER + REQUEST];
    let length = request.len() as u32;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[HEADER] = i32::from(domain) as u8;
    request[HEADER + 1] = libc::IPPROTO_TCP as u8;
    request[HEADER + 4..HEADER + 8].copy_from_slice(&(1u32 << SYN_RECV).to_ne_bytes());
    request
}
