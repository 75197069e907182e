//! `#[repr(C)]` types and constants.
#![allow(non_camel_case_types)]

use std::ffi::{CString, c_char, c_void};
use std::net::IpAddr;

use socket2::SockAddr;

use crate::connection::History;
use crate::drain::Drain;
use crate::error::Error;
use crate::listen::Listen;

/// A word: the layout of nginx's `ngx_str_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_str_t {
    /// Bytes.
    pub len: usize,
    /// Not NULL unless `len` is 0; need not end in 0.
    pub data: *const u8,
}

/// How a call ended.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ngx_rs_status_t {
    /// The call succeeded.
    NGX_RS_OK = 0,
    /// An argument is wrong: `message` names it.
    NGX_RS_ERR_ARGUMENT = 1,
    /// The directive is wrong.
    NGX_RS_ERR_SYNTAX = 2,
    /// The host name has no address.
    NGX_RS_ERR_HOST_NOT_FOUND = 3,
    /// Two directives request different protocols for one socket.
    NGX_RS_ERR_CONFLICT = 4,
    /// The running kernel does not support or allow what was requested: a protocol,
    /// an option, or another protocol at the address of an SMC socket.
    NGX_RS_ERR_UNSUPPORTED = 5,
    /// A system call failed: see `os_errno`.
    NGX_RS_ERR_SYSCALL = 6,
    /// A defect of this library.
    NGX_RS_ERR_PANIC = 7,
}

impl From<&Error> for ngx_rs_status_t {
    fn from(error: &Error) -> Self {
        match error {
            Error::Argument(_) => Self::NGX_RS_ERR_ARGUMENT,
            Error::Syntax { .. } => Self::NGX_RS_ERR_SYNTAX,
            Error::HostNotFound { .. } => Self::NGX_RS_ERR_HOST_NOT_FOUND,
            Error::Conflict { .. } => Self::NGX_RS_ERR_CONFLICT,
            Error::Unsupported { .. }
            | Error::Unchangeable { .. }
            | Error::NotDirected(_)
            | Error::NoOption(_) => Self::NGX_RS_ERR_UNSUPPORTED,
            Error::Syscall { .. } => Self::NGX_RS_ERR_SYSCALL,
        }
    }
}

/// Why a call failed; written only if it did. Begin with NGX_RS_ERROR_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_error_t {
    /// sizeof(ngx_rs_error_t), set by the caller.
    pub size: u32,
    /// The status that the call returned.
    pub status: i32,
    /// errno of the system call that failed, or 0.
    pub os_errno: i32,
    /// Index of the wrong word or directive, if the call has several; otherwise 0.
    pub arg_index: u32,
    /// Without the text of errno and without a final dot; ends in 0.
    pub message: [c_char; 256],
}

/// The grammar is that of nginx's stream module.
pub const NGX_RS_SUBSYSTEM_STREAM: u32 = 0;
/// The grammar is that of nginx's http module.
pub const NGX_RS_SUBSYSTEM_HTTP: u32 = 1;
/// The grammar is that of nginx's mail module.
pub const NGX_RS_SUBSYSTEM_MAIL: u32 = 2;

/// Read only the library's own words, and ignore all others.
pub const NGX_RS_RULES_OURS_ONLY: u32 = 1;

/// How to read a directive. Begin with NGX_RS_RULES_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_rules_t {
    /// sizeof(ngx_rs_rules_t), set by the caller.
    pub size: u32,
    /// NGX_RS_SUBSYSTEM_*
    pub subsystem: u32,
    /// NGX_RS_RULES_*
    pub flags: u32,
}

/// Not a parameter of the listen directive.
pub const NGX_RS_WORD_UNKNOWN: u32 = 0;
/// A parameter of nginx's own.
pub const NGX_RS_WORD_NGINX: u32 = 1;
/// A parameter of this library: `mptcp`, `mptcp=`, `multipath`, `protocol=`.
pub const NGX_RS_WORD_OURS: u32 = 2;

/// `IPPROTO_MPTCP`: Multipath TCP, RFC 8684; Linux 5.6.
pub const NGX_RS_IPPROTO_MPTCP: i32 = 262;
/// `IPPROTO_SMC`: RFC 7609; Linux 6.11.
pub const NGX_RS_IPPROTO_SMC: i32 = 256;

/// `deferred`: TCP_DEFER_ACCEPT
pub const NGX_RS_OPTION_DEFERRED: u32 = 0;
/// `fastopen=`: TCP_FASTOPEN
pub const NGX_RS_OPTION_FASTOPEN: u32 = 1;
/// The times of `so_keepalive=`: TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT
pub const NGX_RS_OPTION_KEEPALIVE_TIMES: u32 = 2;

/// `ssl`
pub const NGX_RS_LISTENING_SSL: u32 = 0x1;
/// `http2`
pub const NGX_RS_LISTENING_HTTP2: u32 = 0x2;
/// `quic`
pub const NGX_RS_LISTENING_QUIC: u32 = 0x4;
/// `udp`
pub const NGX_RS_LISTENING_UDP: u32 = 0x8;
/// `default_server`
pub const NGX_RS_LISTENING_DEFAULT_SERVER: u32 = 0x10;
/// `proxy_protocol`
pub const NGX_RS_LISTENING_PROXY_PROTOCOL: u32 = 0x20;
/// `bind`, or any parameter that implies it
pub const NGX_RS_LISTENING_BIND: u32 = 0x40;
/// `reuseport`: SO_REUSEPORT
pub const NGX_RS_LISTENING_REUSEPORT: u32 = 0x80;
/// `deferred`: TCP_DEFER_ACCEPT of one second
pub const NGX_RS_LISTENING_DEFERRED: u32 = 0x100;
/// `ipv6only=off`; without it IPV6_V6ONLY is set on IPv6 sockets
pub const NGX_RS_LISTENING_IPV6ONLY_OFF: u32 = 0x200;
/// `so_keepalive=on`, or with times: SO_KEEPALIVE 1
pub const NGX_RS_LISTENING_KEEPALIVE_ON: u32 = 0x400;
/// `so_keepalive=off`: SO_KEEPALIVE 0
pub const NGX_RS_LISTENING_KEEPALIVE_OFF: u32 = 0x800;
/// `mptcp=auto`: use plain TCP if the kernel does not support `protocol`
pub const NGX_RS_LISTENING_FALLBACK: u32 = 0x10000;

/// `rcvbuf=0`: set SO_RCVBUF to 0, which the kernel raises to its minimum
pub const NGX_RS_LISTENING_RCVBUF_0: u32 = 0x20000;
/// `sndbuf=0`: set SO_SNDBUF to 0, which the kernel raises to its minimum
pub const NGX_RS_LISTENING_SNDBUF_0: u32 = 0x40000;
/// `fastopen=0`: set TCP_FASTOPEN to 0
pub const NGX_RS_LISTENING_FASTOPEN_0: u32 = 0x80000;

/// All of them that set to 0 what a field of 0 leaves alone.
pub(super) const ZERO_FLAGS: u32 =
    NGX_RS_LISTENING_RCVBUF_0 | NGX_RS_LISTENING_SNDBUF_0 | NGX_RS_LISTENING_FASTOPEN_0;

/// All of them that are an option of nginx's own.
pub(super) const LISTENING_FLAGS: u32 = NGX_RS_LISTENING_SSL
    | NGX_RS_LISTENING_HTTP2
    | NGX_RS_LISTENING_QUIC
    | NGX_RS_LISTENING_UDP
    | NGX_RS_LISTENING_DEFAULT_SERVER
    | NGX_RS_LISTENING_PROXY_PROTOCOL
    | NGX_RS_LISTENING_BIND
    | NGX_RS_LISTENING_REUSEPORT
    | NGX_RS_LISTENING_DEFERRED
    | NGX_RS_LISTENING_IPV6ONLY_OFF
    | NGX_RS_LISTENING_KEEPALIVE_ON
    | NGX_RS_LISTENING_KEEPALIVE_OFF;

/// Not opened.
pub const NGX_RS_UNTOUCHED: u32 = 0;
/// A new socket, on an address that had none.
pub const NGX_RS_OPENED: u32 = 1;
/// The inherited socket of index `inherited` is kept: `fd` is its descriptor,
/// and its owner stays the same.
pub const NGX_RS_INHERITED: u32 = 2;
/// A new socket, successor of inherited ones of another protocol.
pub const NGX_RS_SUCCESSOR: u32 = 3;
/// Not opened, because of NGX_RS_OPEN_LEAVE_TCP or NGX_RS_OPEN_CHECK: `fd` is -1.
pub const NGX_RS_LEFT: u32 = 4;
/// A new socket beside inherited ones of the same protocol.
pub const NGX_RS_JOINED: u32 = 5;
/// The socket had NGX_RS_SUCCESSOR or NGX_RS_JOINED, and listen() failed in
/// ngx_rs_listening_commit: `fd` is now a duplicate of the inherited socket of
/// index `inherited`, which is kept; the caller still owns `fd`.
pub const NGX_RS_FAILED: u32 = 6;

/// A listening socket. Begin with NGX_RS_LISTENING_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_listening_t {
    /// in: sizeof(ngx_rs_listening_t), the same in all elements of an array.
    pub size: u32,
    /// in: NGX_RS_LISTENING_*
    pub flags: u32,
    /// in: where to listen: AF_INET, AF_INET6 or AF_UNIX; borrowed for the call;
    /// from ngx_rs_listen_sockets, it is owned by `listen`.
    pub sockaddr: *const libc::sockaddr,
    /// in: its size in bytes.
    pub socklen: u32,
    /// in: SOCK_STREAM, which 0 means as well, or SOCK_DGRAM.
    pub r#type: i32,
    /// in: IPPROTO_* of a stream socket; 0 is TCP.
    pub protocol: i32,
    /// in: how many connections may wait for accept(2); 0 is 511.
    pub backlog: i32,
    /// in: SO_RCVBUF in bytes; 0 keeps the kernel's default.
    pub rcvbuf: i32,
    /// in: SO_SNDBUF in bytes; 0 keeps the kernel's default.
    pub sndbuf: i32,
    /// in: TCP_FASTOPEN, connections in handshake; 0 keeps the kernel's default.
    pub fastopen: i32,
    /// in: TCP_KEEPIDLE in seconds; 0 keeps the kernel's default.
    pub keepidle: i32,
    /// in: TCP_KEEPINTVL in seconds; 0 keeps the kernel's default.
    pub keepintvl: i32,
    /// in: TCP_KEEPCNT, probes; 0 keeps the kernel's default.
    pub keepcnt: i32,
    /// out: the socket, or -1.
    pub fd: i32,
    /// out: NGX_RS_OPENED and so on.
    pub outcome: u32,
    /// out: with NGX_RS_INHERITED and NGX_RS_FAILED, the index of the inherited
    /// socket.
    pub inherited: u32,
    /// out: IPPROTO_* that the socket has or, with NGX_RS_LEFT, that the caller
    /// should open; 0 for datagram and unix domain sockets.
    pub opened_protocol: i32,
}

/// No socket was requested at its address.
pub const NGX_RS_UNUSED: u32 = 0;
/// It stays in use.
pub const NGX_RS_KEPT: u32 = 1;
/// New sockets of another protocol replace it at its address: after the commit,
/// close it, or let it drain with ngx_rs_drain_begin.
pub const NGX_RS_SUPERSEDED: u32 = 2;
/// A superseded socket that ngx_rs_drain_begin has taken.
pub const NGX_RS_DRAINING: u32 = 3;

/// A socket that the caller already has. Begin with NGX_RS_INHERITED_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_inherited_t {
    /// in: sizeof(ngx_rs_inherited_t), the same in all elements of an array.
    pub size: u32,
    /// in: a bound socket, borrowed for the call.
    pub fd: i32,
    /// in: its address, or NULL to query the kernel; borrowed for the call.
    pub sockaddr: *const libc::sockaddr,
    /// in: size of the address in bytes.
    pub socklen: u32,
    /// in: SOCK_STREAM or SOCK_DGRAM, or 0 to query the kernel.
    pub r#type: i32,
    /// in: IPPROTO_*, or 0 to query the kernel, which the library does only if the
    /// protocol matters.
    pub protocol: i32,
    /// out: NGX_RS_UNUSED, NGX_RS_KEPT, NGX_RS_SUPERSEDED, NGX_RS_DRAINING; read
    /// by ngx_rs_listening_commit and ngx_rs_drain_begin.
    pub disposition: u32,
    /// in,out: 0; then 1 if the library set SO_REUSEPORT on it, for the rollback.
    pub shared: u32,
    /// in: NGX_RS_INHERITED_ALONE and so on, or 0.
    pub flags: u32,
}

/// It does not have SO_REUSEPORT, so the library does not query the option.
pub const NGX_RS_INHERITED_ALONE: u32 = 0x1;
/// Another process passed it: it is kept, whatever its protocol, unless a
/// protocol is requested at its address.
pub const NGX_RS_INHERITED_PASSED: u32 = 0x2;
/// Another process may use it: it keeps its protocol in any case.
pub const NGX_RS_INHERITED_IN_USE: u32 = 0x4;

/// Do not open new sockets of plain TCP, UDP and unix domain, which the caller
/// opens.
pub const NGX_RS_OPEN_LEAVE_TCP: u32 = 0x1;
/// New sockets beside inherited ones are bound, and listen only after
/// ngx_rs_listening_commit.
pub const NGX_RS_OPEN_PREPARE: u32 = 0x2;
/// Open no socket, only check that the kernel supports the protocols.
pub const NGX_RS_OPEN_CHECK: u32 = 0x4;

/// An address is in use and will be tried again; `error` is that of bind(2).
pub const NGX_RS_REPORT_IN_USE: u32 = 0;
/// Waiting before the next try; `error` has status NGX_RS_OK and the message.
pub const NGX_RS_REPORT_WAITING: u32 = 1;
/// Plain TCP is used instead of MPTCP; `error` has the reason. Once for all sockets.
pub const NGX_RS_REPORT_FALLBACK: u32 = 2;
/// An inherited socket that another process may use keeps its protocol, though
/// another one is requested; `error` has status NGX_RS_OK and names the first
/// one. Once for all sockets.
pub const NGX_RS_REPORT_KEPT: u32 = 3;
/// Plain TCP is requested, but a preloaded library or a BPF program turns every
/// TCP socket of this process into an MPTCP socket; `error` has status NGX_RS_OK.
/// Once for all sockets.
pub const NGX_RS_REPORT_NOT_TCP: u32 = 4;
/// The sockets that drained at an address ended early, because a new socket must
/// be bound there; `error` has status NGX_RS_OK and names the address.
pub const NGX_RS_REPORT_DRAIN_ENDED: u32 = 5;

/// Called for each event while sockets are opened; must return.
pub type ngx_rs_report_pt =
    Option<unsafe extern "C" fn(data: *mut c_void, event: u32, error: *const ngx_rs_error_t)>;

/// How to open. Begin with NGX_RS_OPEN_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_open_t {
    /// sizeof(ngx_rs_open_t), set by the caller.
    pub size: u32,
    /// NGX_RS_OPEN_*
    pub flags: u32,
    /// How many times to try while an address is in use; 0 is once.
    pub tries: u32,
    /// How long to wait between two tries, in milliseconds.
    pub delay_ms: u32,
    /// Sockets that the caller already has; borrowed for the call.
    pub inherited: *mut ngx_rs_inherited_t,
    /// Number of elements of `inherited`.
    pub inherited_count: usize,
    /// Called for each event, or NULL.
    pub report: ngx_rs_report_pt,
    /// First argument of `report`.
    pub data: *mut c_void,
    /// From ngx_rs_drain_begin, or NULL: its sockets end at an address where a
    /// new socket must be bound; borrowed for the call.
    pub drain: *mut ngx_rs_drain_t,
}

/// How long a superseded socket drains at most, in milliseconds.
pub const NGX_RS_DRAIN_MS: u32 = 5000;

const _: () = assert!(NGX_RS_DRAIN_MS as u128 == crate::drain::TIME.as_millis());

/// The sockets that drain, in this process and in those that it forks.
pub struct ngx_rs_drain_t {
    pub(super) drain: Drain,
}

/// A superseded socket. Begin an array with NGX_RS_DRAINING_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_draining_t {
    /// in: sizeof(ngx_rs_draining_t), in the first element of an array; out: in
    /// all that are written.
    pub size: u32,
    /// out: its descriptor, owned by the caller.
    pub fd: i32,
    /// out: index of its first successor in the latest ngx_rs_drain_begin;
    /// meaningless if `ended` is 1.
    pub successor: u32,
    /// out: 1 if the caller must close it: it is idle, or its time is over.
    pub ended: u32,
    /// out: IPPROTO_* that it has.
    pub protocol: i32,
}

/// Not queried yet.
pub const NGX_RS_CONNECTION_UNQUERIED: u32 = 0;
/// Neither TCP nor MPTCP: UDP, a unix domain socket.
pub const NGX_RS_CONNECTION_OTHER: u32 = 1;
/// Plain TCP, from the beginning.
pub const NGX_RS_CONNECTION_TCP: u32 = 2;
/// MPTCP.
pub const NGX_RS_CONNECTION_MPTCP: u32 = 3;
/// Began as MPTCP and fell back to plain TCP: RFC 8684, section 3.7.
pub const NGX_RS_CONNECTION_FALLBACK: u32 = 4;

/// If the connection is plain TCP, query nothing else, which saves system calls.
pub const NGX_RS_CONNECTION_MPTCP_ONLY: u32 = 0x1;

/// Value that the kernel did not report.
pub const NGX_RS_UNKNOWN: i64 = -1;

/// What the kernel reports about a connection. Begin with NGX_RS_CONNECTION_INFO_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_connection_info_t {
    /// in: sizeof(ngx_rs_connection_info_t)
    pub size: u32,
    /// in: 0 or NGX_RS_CONNECTION_MPTCP_ONLY
    pub flags: u32,
    /// in,out: NGX_RS_CONNECTION_*. With NGX_RS_CONNECTION_UNQUERIED the fields below
    /// are only written; otherwise they are read as well.
    pub kind: u32,
    /// 0
    pub reserved: u32,
    /// Identifies an MPTCP connection on this host, as `ss -M` prints it; not
    /// reported after a reset. Linux 5.16.
    pub token: i64,
    /// Number of subflows now. Before Linux 6.5 it includes the first one, even if
    /// that is closed, and those whose handshake is not complete. Linux 5.16.
    pub subflows: i64,
    /// Number of subflows that the connection has had, including the present ones;
    /// a lower bound if this host opens subflows itself. Linux 6.5 for MPTCP;
    /// after a fallback it is 1.
    pub subflows_total: i64,
    /// Payload in bytes, each counted once. Linux 6.5 for MPTCP.
    pub bytes_sent: i64,
    /// Payload in bytes. Linux 6.5 for MPTCP. For TCP it may be one too many after
    /// both ends are closed: the kernel counts the end of the stream.
    pub bytes_received: i64,
    /// Payload in bytes that was sent again. For MPTCP only the bytes that MPTCP
    /// itself sent again, usually on another subflow, without the retransmissions
    /// of the subflows. Linux 6.5 for MPTCP.
    pub bytes_retransmitted: i64,
    /// Segments that were sent again. For MPTCP by the present subflows, and by the
    /// first one unless it was reset. Linux 6.5 for MPTCP.
    pub retransmits: i64,
    /// Milliseconds since data was last sent. Linux 6.10 for MPTCP.
    pub last_data_sent_ms: i64,
    /// Milliseconds since data was last received. Linux 6.10 for MPTCP.
    pub last_data_received_ms: i64,
    /// Milliseconds since an acknowledgement was last received. Linux 6.10 for
    /// MPTCP.
    pub last_ack_received_ms: i64,
}

/// One path of a connection. Begin an array with NGX_RS_SUBFLOW_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ngx_rs_subflow_t {
    /// in: sizeof(ngx_rs_subflow_t), in the first element of an array; out: in
    /// all that are written.
    pub size: u32,
    /// 0
    pub reserved: u32,
    /// out: number of the subflow within the connection, from 1 on, or
    /// NGX_RS_UNKNOWN. Linux 6.5.
    pub id: i64,
    /// out: this host's address: AF_INET or AF_INET6.
    pub local: libc::sockaddr_storage,
    /// out: the other host's address.
    pub remote: libc::sockaddr_storage,
    /// out: payload in bytes that took this path, without what TCP sent again.
    /// This field and those below: Linux 5.16 for MPTCP.
    pub bytes_sent: i64,
    /// out: payload in bytes that came by this path.
    pub bytes_received: i64,
    /// out: segments that were sent again.
    pub retransmits: i64,
    /// out: smoothed round trip time in microseconds; not reported before it was
    /// measured.
    pub rtt_us: i64,
    /// out: congestion window in segments.
    pub congestion_window: i64,
    /// out: state of TCP: TCP_ESTABLISHED and so on, of netinet/tcp.h.
    pub tcp_state: i64,
}

/// `on` for MPTCP, `fallback` after one; unknown for any other connection, as are
/// all values.
pub const NGX_RS_VALUE_KIND: u32 = 0;
/// Number of subflows now.
pub const NGX_RS_VALUE_SUBFLOWS: u32 = 1;
/// Number of subflows that the connection has had. From Linux 5.16 to 6.4 it
/// counts those that were open at one of the queries.
pub const NGX_RS_VALUE_SUBFLOWS_TOTAL: u32 = 2;
/// The other host's address of each path that the connection has had, the oldest
/// first; as all values of paths, separated by commas.
pub const NGX_RS_VALUE_SUBFLOW_ADDRS: u32 = 3;
/// The token, in hexadecimal.
pub const NGX_RS_VALUE_TOKEN: u32 = 4;
/// Payload in bytes that was sent.
pub const NGX_RS_VALUE_BYTES_SENT: u32 = 5;
/// Payload in bytes that was received.
pub const NGX_RS_VALUE_BYTES_RECEIVED: u32 = 6;
/// Segments that were sent again.
pub const NGX_RS_VALUE_RETRANS: u32 = 7;
/// Payload in bytes that took each path.
pub const NGX_RS_VALUE_SUBFLOW_BYTES_SENT: u32 = 8;
/// Payload in bytes that came by each path.
pub const NGX_RS_VALUE_SUBFLOW_BYTES_RECEIVED: u32 = 9;
/// Smoothed round trip time of each path, in milliseconds with three decimals.
pub const NGX_RS_VALUE_SUBFLOW_RTT: u32 = 10;
/// Segments that were sent again on each path.
pub const NGX_RS_VALUE_SUBFLOW_RETRANS: u32 = 11;

/// What is known of a connection that is queried several times.
pub struct ngx_rs_connection_t {
    pub(super) history: History,
}

/// Open a TCP socket if the kernel does not support the protocol.
pub const NGX_RS_CONNECT_FALLBACK: u32 = 1;

/// The listener is not counted.
pub const NGX_RS_NO_ROW: u32 = u32::MAX;

/// JSON.
pub const NGX_RS_FORMAT_JSON: u32 = 0;
/// Prometheus' text format, version 0.0.4.
pub const NGX_RS_FORMAT_PROMETHEUS: u32 = 1;

/// Counters of connections, in memory that processes share.
pub struct ngx_rs_counters_t {
    _memory: [u8; 0],
}

/// A parsed listen directive.
pub struct ngx_rs_listen_t {
    pub(super) listen: Listen,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) sockets: Option<Structs>,
    pub(super) words: Option<(Vec<CString>, Vec<ngx_rs_str_t>)>,
}

/// The sockets of a listen directive, as C structs of `size` bytes.
pub(super) struct Structs {
    pub(super) addresses: Vec<SockAddr>,
    pub(super) memory: Vec<u64>,
    pub(super) size: usize,
}

/// Major version, or for 0 the minor one: what a change of the ABI changes.
pub(super) const ABI_VERSION: u32 = match part(env!("CARGO_PKG_VERSION_MAJOR")) {
    0 => part(env!("CARGO_PKG_VERSION_MINOR")),
    major => major * 1000,
};

const fn part(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(part) => part,
        Err(_) => panic!("a version is three numbers"),
    }
}
