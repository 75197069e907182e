//! ngx_rs_connection_info_t and ngx_rs_subflow_t <-> the Rust API.

use std::time::Duration;

use super::convert;
use super::memory::{Array, Versioned, field, known_flags};
use super::types::*;
use crate::connection::{Connection, Kind, Query, Subflow};
use crate::error::Error;

/// The caller's struct, if there is one, with what it said before.
pub(super) struct About {
    place: Array<ngx_rs_connection_info_t>,
    before: Option<Connection>,
    flags: u32,
}

impl About {
    pub(super) fn new(place: Array<ngx_rs_connection_info_t>) -> Result<Self, Error> {
        let info = place.iter().next().transpose()?;
        let info = info.unwrap_or_else(ngx_rs_connection_info_t::new);
        known_flags::<ngx_rs_connection_info_t>(info.flags, NGX_RS_CONNECTION_MPTCP_ONLY)?;
        if info.reserved != 0 {
            return Err(field::<ngx_rs_connection_info_t>("reserved", "is not 0"));
        }
        Ok(Self {
            place,
            before: from_c(&info)?,
            flags: info.flags,
        })
    }

    pub(super) fn query(&self, subflows: bool) -> Query {
        Query {
            subflows,
            figures: subflows,
            sparing: false,
            mptcp_only: self.flags & NGX_RS_CONNECTION_MPTCP_ONLY != 0,
            before: self.before.as_ref().map(|before| before.kind),
        }
    }

    /// Writes what is known now.
    pub(super) fn write(self, now: Connection) {
        let known = match self.before {
            Some(mut before) => {
                before.update(now);
                before
            }
            None => now,
        };
        if self.place.len() == 1 {
            self.place.write(0, &to_c(&known, self.flags));
        }
    }
}

/// Writes as many subflows as there is room for.
pub(super) fn write_subflows(array: &Array<ngx_rs_subflow_t>, subflows: &[Subflow]) {
    for (index, subflow) in subflows.iter().take(array.len()).enumerate() {
        let element = ngx_rs_subflow_t {
            id: subflow.id.map_or(NGX_RS_UNKNOWN, i64::from),
            local: convert::storage(subflow.local),
            remote: convert::storage(subflow.remote),
            bytes_sent: number(subflow.figures.bytes_sent),
            bytes_received: number(subflow.figures.bytes_received),
            retransmits: number(subflow.figures.retransmits),
            rtt_us: number(subflow.figures.rtt.map(|rtt| rtt.as_micros())),
            congestion_window: number(subflow.figures.congestion_window),
            tcp_state: number(subflow.figures.state),
            ..Versioned::new()
        };
        array.write(index, &element);
    }
}

/// None before the first query.
fn from_c(info: &ngx_rs_connection_info_t) -> Result<Option<Connection>, Error> {
    let kind = match info.kind {
        NGX_RS_CONNECTION_UNQUERIED => return Ok(None),
        NGX_RS_CONNECTION_OTHER => Kind::Other,
        NGX_RS_CONNECTION_TCP => Kind::Tcp,
        NGX_RS_CONNECTION_MPTCP => Kind::Mptcp,
        NGX_RS_CONNECTION_FALLBACK => Kind::Fallback,
        _ => {
            let problem = "has an unknown value";
            return Err(field::<ngx_rs_connection_info_t>("kind", problem));
        }
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
        figures: None,
    }))
}

fn duration(milliseconds: i64) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

fn to_c(connection: &Connection, flags: u32) -> ngx_rs_connection_info_t {
    let milliseconds = |time: Option<Duration>| number(time.map(|time| time.as_millis()));
    ngx_rs_connection_info_t {
        flags,
        kind: convert::kind(connection.kind),
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
        ..Versioned::new()
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
