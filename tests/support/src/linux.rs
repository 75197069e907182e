//! What the running kernel supports.

use std::path::Path;
use std::sync::OnceLock;

/// Whether this is Linux `major.minor` or newer.
fn is_at_least(major: u32, minor: u32) -> bool {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    let version = VERSION.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        let text = text.expect("/proc is mounted");
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        let mut next = || {
            numbers
                .next()
                .flatten()
                .expect("a version begins with x.y.")
        };
        (next(), next())
    });
    *version >= (major, minor)
}

/// Whether the kernel was built with MPTCP.
pub fn has_mptcp() -> bool {
    Path::new("/proc/sys/net/mptcp").exists()
}

/// Whether the kernel has MPTCP_FULL_INFO: it then reports how many bytes an MPTCP
/// connection has carried, how many segments it has retransmitted, and how many subflows it
/// has had.
pub fn counts_mptcp() -> bool {
    is_at_least(6, 5)
}

/// `value` if the kernel has MPTCP_FULL_INFO, and None otherwise.
pub fn counted<T>(value: T) -> Option<T> {
    counts_mptcp().then_some(value)
}

/// Whether MPTCP sockets have the option TCP_FASTOPEN.
pub fn has_mptcp_fastopen() -> bool {
    is_at_least(6, 2)
}

/// Whether MPTCP sockets have the option IP_BIND_ADDRESS_NO_PORT.
pub fn has_mptcp_bind_address_no_port() -> bool {
    is_at_least(6, 8)
}

/// Whether the kernel reports when an MPTCP connection last sent data, received data and
/// received an acknowledgement.
pub fn reports_times() -> bool {
    is_at_least(6, 10)
}
