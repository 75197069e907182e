//! Numbers and offsets of linux/mptcp.h and linux/tcp.h: newer than the headers
//! of many a system that this is built on.

use std::ffi::c_int;

/// The level of the options below.
pub const SOL_MPTCP: c_int = 284;
/// `struct mptcp_info`; Linux 5.16.
pub const MPTCP_INFO: c_int = 1;
/// `struct mptcp_subflow_data` and an array of `struct tcp_info`; Linux 5.16.
pub const MPTCP_TCPINFO: c_int = 2;
/// `struct mptcp_subflow_data` and an array; Linux 5.16.
pub const MPTCP_SUBFLOW_ADDRS: c_int = 3;
/// `struct mptcp_full_info`; Linux 6.5.
pub const MPTCP_FULL_INFO: c_int = 4;

/// `struct mptcp_info`
pub mod mptcp_info {
    /// All but the first one.
    pub const SUBFLOWS: usize = 0;
    /// Addresses of the other host that this one has connected to.
    pub const ADD_ADDR_ACCEPTED: usize = 2;
    pub const FLAGS: usize = 8;
    pub const FLAG_FALLBACK: u32 = 1;
    pub const TOKEN: usize = 12;
    /// Further addresses of this host that it has connected from.
    pub const LOCAL_ADDR_USED: usize = 40;
    /// Linux 6.5, up to BYTES_RECEIVED.
    pub const BYTES_RETRANS: usize = 48;
    pub const BYTES_SENT: usize = 56;
    pub const BYTES_RECEIVED: usize = 64;
    /// In milliseconds; Linux 6.10, up to LAST_ACK_RECV.
    pub const LAST_DATA_SENT: usize = 84;
    pub const LAST_DATA_RECV: usize = 88;
    pub const LAST_ACK_RECV: usize = 92;
    /// All of that.
    pub const SIZE: usize = 96;
}

/// `struct mptcp_subflow_data`: before the array.
pub mod mptcp_subflow_data {
    pub const SIZE_SUBFLOW_DATA: usize = 0;
    pub const NUM_SUBFLOWS: usize = 4;
    pub const SIZE_USER: usize = 12;
    pub const SIZE: usize = 16;
}

/// `struct mptcp_subflow_addrs`: each has room for any family.
pub mod mptcp_subflow_addrs {
    pub const LOCAL: usize = 0;
    pub const REMOTE: usize = 128;
    pub const SIZE: usize = 256;
}

/// `struct mptcp_subflow_info`
pub mod mptcp_subflow_info {
    use super::mptcp_subflow_addrs;

    pub const ID: usize = 0;
    pub const ADDRS: usize = 8;
    pub const SIZE: usize = ADDRS + mptcp_subflow_addrs::SIZE;
}

/// `struct tcp_info`
pub mod tcp_info {
    pub const STATE: usize = 0;
    pub const SND_MSS: usize = 16;
    /// Segments under way. Of a listening socket: how many wait for accept(2).
    pub const UNACKED: usize = 24;
    pub const LAST_DATA_SENT: usize = 44;
    pub const LAST_DATA_RECV: usize = 52;
    pub const LAST_ACK_RECV: usize = 56;
    /// In microseconds.
    pub const RTT: usize = 68;
    pub const SND_CWND: usize = 80;
    pub const TOTAL_RETRANS: usize = 100;
    pub const BYTES_ACKED: usize = 120;
    pub const BYTES_RECEIVED: usize = 128;
    pub const BYTES_SENT: usize = 200;
    pub const BYTES_RETRANS: usize = 208;
    /// All of that.
    pub const SIZE: usize = 216;
}

/// `tcpi_state`; the kernel's include/net/tcp_states.h.
pub mod tcp_state {
    pub const SYN_SENT: u8 = 2;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const CLOSING: u8 = 11;
}
