//! An access log with all variables of the module.

use std::collections::BTreeMap;
use std::process::Command;

use crate::harness::{Site, wait_for};
use crate::linux;

/// The names of the variables.
const NAMES: [&str; 12] = [
    "mptcp",
    "mptcp_subflows",
    "mptcp_subflows_total",
    "mptcp_subflow_addrs",
    "mptcp_token",
    "mptcp_bytes_sent",
    "mptcp_bytes_received",
    "mptcp_retrans",
    "mptcp_subflow_bytes_sent",
    "mptcp_subflow_bytes_received",
    "mptcp_subflow_rtt",
    "mptcp_subflow_retrans",
];

/// A directive for a server: logs all variables, one line for each request or session.
pub const LOG: &str = "access_log mptcp.log mptcp;";

/// The `log_format` directive that [`LOG`] needs before any server.
pub fn log_format() -> String {
    let fields = NAMES.map(|name| format!("{name}=${name}"));
    format!("log_format mptcp '{}';\n", fields.join(" "))
}

/// The value of each variable in one line of the log.
pub type Line = BTreeMap<String, String>;

/// Waits until the log has `count` lines, and returns the last line.
pub fn logged(site: &Site, count: usize) -> Line {
    let text = wait_for(&format!("line {count} of the log"), || {
        let text = site.read("mptcp.log");
        (text.lines().count() >= count && text.ends_with('\n')).then_some(text)
    });
    assert_eq!(text.lines().count(), count, "{text}");
    let fields = text.lines().last().unwrap_or_default().split(' ');
    let fields = fields.filter_map(|field| field.split_once('='));
    let line: Line = fields
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    assert_eq!(line.len(), NAMES.len(), "{text}");
    line
}

/// The line of a connection that is not MPTCP.
pub fn nothing() -> Line {
    let nothing = |name: &str| (name.to_owned(), "-".to_owned());
    NAMES.into_iter().map(nothing).collect()
}

/// `value` if the kernel has MPTCP_FULL_INFO. Otherwise `-`, which is logged for an unknown value.
pub fn counted(value: &str) -> &str {
    linux::counted(value).unwrap_or("-")
}

/// The token of the connection that has this port, as `ss` prints it.
pub fn token_in_ss(port: u16) -> String {
    let output = Command::new("ss").args(["-nMi", "state", "all"]).output();
    let output = output.expect("ss is missing: install iproute2");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.split_whitespace().nth(4) == Some(&format!("127.0.0.1:{port}")));
    let at = at.unwrap_or_else(|| panic!("no connection from port {port}: {text}"));
    // Depending on its version, ss prints the token on the same or on the next line.
    let words = lines[at..].iter().flat_map(|line| line.split_whitespace());
    let mut tokens = words.filter_map(|word| word.strip_prefix("token:"));
    tokens.next().expect("ss shows tokens").to_owned()
}
