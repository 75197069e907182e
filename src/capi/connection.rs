//! What the kernel says of a connection, as a C struct.

use std::mem::size_of;
use std::ptr;
use std::time::Duration;

use super::guard::size_at;
use super::types::*;
use crate::connection::{Connection, Kind, Question};
use crate::error::Error;

/// The caller's struct: what it said before, and where it goes.
pub(super) struct About {
    place: *mut ngx_rs_connection_info_t,
    size: usize,
    before: Option<Connection>,
    flags: u32,
}

impl About {
    /// # Safety
    /// `info` is NULL or points to its `size` bytes, writable for as long as
    /// the result lives.
    pub(super) unsafe fn read(info: *mut ngx_rs_connection_info_t) -> Result<Self, Error> {
        if info.is_null() {
            return Err(Error::Argument("info is NULL"));
        }
        // SAFETY: not NULL, and our caller's contract.
        let size = unsafe { size_at(info, size_of::<ngx_rs_connection_info_t>()) }?;
        // SAFETY: not NULL, and long enough.
        let before = unsafe { info.read_unaligned() };
        if before.flags & !NGX_RS_CONNECTION_MPTCP_ONLY != 0 {
            return Err(Error::Argument("an unknown flag is set"));
        }
        if before.reserved != 0 {
            return Err(Error::Argument("a reserved field is not 0"));
        }
        Ok(Self {
            place: info,
            size,
            before: from_c(&before)?,
            flags: before.flags,
        })
    }

    /// # Safety
    /// As of [`About::read`].
    pub(super) unsafe fn read_optional(info: *mut ngx_rs_connection_info_t) -> Result<Self, Error> {
        if info.is_null() {
            return Ok(Self {
                place: info,
                size: 0,
                before: None,
                flags: 0,
            });
        }
        // SAFETY: our caller's contract.
        unsafe { Self::read(info) }
    }

    pub(super) fn question(&self, subflows: bool) -> Question {
        Question {
            subflows,
            mptcp_only: self.flags & NGX_RS_CONNECTION_MPTCP_ONLY != 0,
            before: self.before.as_ref().map(|before| before.kind),
        }
    }

    /// Writes what is known now.
    pub(super) fn write(self, now: Connection) {
        if self.place.is_null() {
            return;
        }
        let known = match self.before {
            Some(mut before) => {
                before.update(now);
                before
            }
            None => now,
        };
        let known = to_c(&known, self.size, self.flags);
        // SAFETY: not NULL, and read() has found it long enough.
        unsafe { self.place.write_unaligned(known) };
        // What only a newer version of the struct has is unknown.
        let tail = self.size - size_of::<ngx_rs_connection_info_t>();
        // SAFETY: the rest of its `size` bytes.
        unsafe { ptr::write_bytes(self.place.wrapping_add(1).cast::<u8>(), 0xff, tail) };
    }
}

/// None if nothing was asked yet.
fn from_c(info: &ngx_rs_connection_info_t) -> Result<Option<Connection>, Error> {
    let kind = match info.kind {
        NGX_RS_CONNECTION_UNASKED => return Ok(None),
        NGX_RS_CONNECTION_OTHER => Kind::Other,
        NGX_RS_CONNECTION_TCP => Kind::Tcp,
        NGX_RS_CONNECTION_MPTCP => Kind::Mptcp,
        NGX_RS_CONNECTION_FALLBACK => Kind::Fallback,
        _ => return Err(Error::Argument("no such kind of connection")),
    };
    Ok(Some(Connection {
        kind,
        token: u32::try_from(info.token).ok(),
        subflows: u32::try_from(info.subflows).ok(),
        subflows_total: u32::try_from(info.subflows_total).ok(),
        bytes_sent: u64::try_from(info.bytes_sent).ok(),
        bytes_received: u64::try_from(info.bytes_received).ok(),
        bytes_retransmitted: u64::try_from(info.bytes_retransmitted).ok(),
        retransmits: u64::try_from(info.retransmits).ok(),
        last_data_sent: duration(info.last_data_sent_ms),
        last_data_received: duration(info.last_data_received_ms),
        last_ack_received: duration(info.last_ack_received_ms),
    }))
}

fn duration(milliseconds: i64) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

fn to_c(connection: &Connection, size: usize, flags: u32) -> ngx_rs_connection_info_t {
    let milliseconds = |time: Option<Duration>| number(time.map(|time| time.as_millis()));
    ngx_rs_connection_info_t {
        size: size as u32,
        flags,
        kind: match connection.kind {
            Kind::Other => NGX_RS_CONNECTION_OTHER,
            Kind::Tcp => NGX_RS_CONNECTION_TCP,
            Kind::Mptcp => NGX_RS_CONNECTION_MPTCP,
            Kind::Fallback => NGX_RS_CONNECTION_FALLBACK,
        },
        reserved: 0,
        token: number(connection.token),
        subflows: number(connection.subflows),
        subflows_total: number(connection.subflows_total),
        bytes_sent: number(connection.bytes_sent),
        bytes_received: number(connection.bytes_received),
        bytes_retransmitted: number(connection.bytes_retransmitted),
        retransmits: number(connection.retransmits),
        last_data_sent_ms: milliseconds(connection.last_data_sent),
        last_data_received_ms: milliseconds(connection.last_data_received),
        last_ack_received_ms: milliseconds(connection.last_ack_received),
    }
}

fn number<T>(value: Option<T>) -> i64
where
    i64: TryFrom<T>,
{
    value.map_or(NGX_RS_UNKNOWN, |value| {
        i64::try_from(value).unwrap_or(i64::MAX)
    })
}
