//! The counters as JSON, and in Prometheus' text format.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{KINDS, OPEN_KINDS, Seat};
use crate::connection::Kind;

/// How to write the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
}

/// The values of a row at one moment.
pub(super) struct Row {
    subsystem: &'static str,
    address: String,
    accepted: u64,
    open: [u64; OPEN_KINDS],
    closed: [u64; KINDS.len()],
    paths: [u64; 3],
    sent: [u64; 2],
    received: [u64; 2],
}

fn load<const N: usize>(values: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|index| values[index].load(Relaxed))
}

impl Row {
    pub(super) fn new(index: usize, row: &super::Row, seats: &[&Seat]) -> Self {
        let key = row.key();
        let open = |kind: usize| {
            let open = seats.iter().map(|seat| &seat.open[index][kind]);
            open.map(|open| u64::from(open.load(Relaxed))).sum()
        };
        Self {
            subsystem: key.subsystem(),
            address: key.address().to_string(),
            accepted: row.accepted.load(Relaxed),
            open: std::array::from_fn(open),
            closed: load(&row.closed),
            paths: load(&row.paths),
            sent: load(&row.sent),
            received: load(&row.received),
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tcp => "tcp",
        Kind::Mptcp => "mptcp",
        Kind::Fallback => "fallback",
        Kind::Other => "other",
    }
}

const PATHS: [&str; 3] = ["1", "2", "3+"];
const COUNTED: [Kind; 2] = [Kind::Mptcp, Kind::Fallback];

pub(super) fn write(format: Format, rows: &[Row]) -> String {
    let mut text = String::new();
    let written = match format {
        Format::Json => json(&mut text, rows),
        Format::Prometheus => prometheus(&mut text, rows),
    };
    written.expect("a string can be written to");
    text
}

fn json(text: &mut String, rows: &[Row]) -> fmt::Result {
    text.write_str("{\"listeners\":[")?;
    for (index, row) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(
            text,
            "{comma}\n{{\"listener\":\"{}\",\"subsystem\":\"{}\",\"accepted\":{}",
            row.address, row.subsystem, row.accepted
        )?;
        object(text, "open", KINDS.map(name).into_iter().zip(row.open))?;
        object(text, "closed", KINDS.map(name).into_iter().zip(row.closed))?;
        object(text, "paths", PATHS.into_iter().zip(row.paths))?;
        let counted = COUNTED.map(name);
        object(text, "bytes_sent", counted.into_iter().zip(row.sent))?;
        object(
            text,
            "bytes_received",
            counted.into_iter().zip(row.received),
        )?;
        text.write_str("}")?;
    }
    text.write_str("\n]}\n")
}

/// A member that is an object of numbers.
fn object(
    text: &mut String,
    name: &str,
    values: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    write!(text, ",\"{name}\":{{")?;
    for (index, (name, value)) in values.enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(text, "{comma}\"{name}\":{value}")?;
    }
    text.write_str("}")
}

/// A metric: its name, type and help, its label if it has one, and what a row
/// has of it.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    label: &'static str,
    values: fn(&Row) -> Vec<(&'static str, u64)>,
}

fn labelled<const N: usize>(names: [&'static str; N], values: &[u64]) -> Vec<(&'static str, u64)> {
    names.into_iter().zip(values.iter().copied()).collect()
}

const METRICS: [Metric; 6] = [
    Metric {
        name: "nginx_mptcp_accepted_connections_total",
        kind: "counter",
        help: "Connections accepted from clients.",
        label: "",
        values: |row| vec![("", row.accepted)],
    },
    Metric {
        name: "nginx_mptcp_open_connections",
        kind: "gauge",
        help: "Connections that are open, by what they were when they began.",
        label: "kind",
        values: |row| labelled(KINDS.map(name), &row.open),
    },
    Metric {
        name: "nginx_mptcp_closed_connections_total",
        kind: "counter",
        help: "Connections that have ended, by what they were in the end.",
        label: "kind",
        values: |row| labelled(KINDS.map(name), &row.closed),
    },
    Metric {
        name: "nginx_mptcp_closed_connections_by_paths_total",
        kind: "counter",
        help: "MPTCP connections that have ended, by the number of their paths.",
        label: "paths",
        values: |row| labelled(PATHS, &row.paths),
    },
    Metric {
        name: "nginx_mptcp_sent_bytes_total",
        kind: "counter",
        help: "Payload sent on connections that have ended.",
        label: "kind",
        values: |row| labelled(COUNTED.map(name), &row.sent),
    },
    Metric {
        name: "nginx_mptcp_received_bytes_total",
        kind: "counter",
        help: "Payload received on connections that have ended.",
        label: "kind",
        values: |row| labelled(COUNTED.map(name), &row.received),
    },
];

fn prometheus(text: &mut String, rows: &[Row]) -> fmt::Result {
    for metric in METRICS {
        let Metric {
            name, kind, help, ..
        } = metric;
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for row in rows {
            for (value, number) in (metric.values)(row) {
                write!(
                    text,
                    "{name}{{listener=\"{}\",subsystem=\"{}\"",
                    row.address, row.subsystem
                )?;
                if !metric.label.is_empty() {
                    write!(text, ",{}=\"{value}\"", metric.label)?;
                }
                writeln!(text, "}} {number}")?;
            }
        }
    }
    Ok(())
}
