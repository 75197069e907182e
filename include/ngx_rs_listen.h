/*
 * ngx-rs-listen: listening sockets with Multipath TCP, and with any other
 * protocol that the kernel has.
 *
 * Generated from src/capi by cbindgen: change it there, then "make header".
 */

#ifndef NGX_RS_LISTEN_H
#define NGX_RS_LISTEN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/** The version of the library that this header belongs to. */
#define NGX_RS_VERSION "0.1.0"

/** To be compared with ngx_rs_abi_version(). */
#define NGX_RS_ABI_VERSION 1

/** A word from a string literal, as an initializer. */
#define NGX_RS_STR(text)                                                      \
    { sizeof(text) - 1, (const uint8_t *) (text) }

/**
 * Initializers: `size`, and 0 in every other input, which is the default. The
 * struct may be that of an older or a newer header than the library's. An older
 * one lacks fields, which are 0 for the library, and nothing is written beyond
 * its size. A newer one may be longer, up to 4096 bytes, if the fields that the
 * library does not know are 0; in results they are 0, unless the function says
 * otherwise. Any other `size` is NGX_RS_ERR_ARGUMENT. Of ngx_rs_error_t every
 * size is accepted, and as much is written.
 */
#define NGX_RS_ERROR_INIT                                                     \
    { (uint32_t) sizeof(ngx_rs_error_t), 0, 0, 0, "" }
#define NGX_RS_RULES_INIT                                                     \
    { (uint32_t) sizeof(ngx_rs_rules_t), NGX_RS_SUBSYSTEM_STREAM, 0 }
#define NGX_RS_LISTENING_INIT                                                 \
    { (uint32_t) sizeof(ngx_rs_listening_t), 0, NULL, 0, SOCK_STREAM, 0, 0,   \
      0, 0, 0, 0, 0, 0, -1, NGX_RS_UNTOUCHED, 0, 0 }
#define NGX_RS_INHERITED_INIT                                                 \
    { (uint32_t) sizeof(ngx_rs_inherited_t), -1, NULL, 0, 0, 0,               \
      NGX_RS_UNUSED, 0, 0 }
#define NGX_RS_OPEN_INIT                                                      \
    { (uint32_t) sizeof(ngx_rs_open_t), 0, 0, 0, NULL, 0, NULL, NULL, NULL }
#define NGX_RS_DRAINING_INIT                                                  \
    { (uint32_t) sizeof(ngx_rs_draining_t), -1, 0, 0, 0 }
#define NGX_RS_CONNECTION_INFO_INIT                                           \
    { (uint32_t) sizeof(ngx_rs_connection_info_t), 0,                         \
      NGX_RS_CONNECTION_UNQUERIED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#ifdef __cplusplus
#define NGX_RS_SUBFLOW_INIT                                                   \
    { (uint32_t) sizeof(ngx_rs_subflow_t), 0, 0, {}, {}, 0, 0, 0, 0, 0, 0 }
#else
#define NGX_RS_SUBFLOW_INIT                                                   \
    { (uint32_t) sizeof(ngx_rs_subflow_t), 0, 0, { 0 }, { 0 }, 0, 0, 0, 0, \
      0, 0 }
#endif

/**
 * The grammar is that of nginx's stream module.
 */
#define NGX_RS_SUBSYSTEM_STREAM 0

/**
 * The grammar is that of nginx's http module.
 */
#define NGX_RS_SUBSYSTEM_HTTP 1

/**
 * The grammar is that of nginx's mail module.
 */
#define NGX_RS_SUBSYSTEM_MAIL 2

/**
 * Read only the library's own words, and ignore all others.
 */
#define NGX_RS_RULES_OURS_ONLY 1

/**
 * Not a parameter of the listen directive.
 */
#define NGX_RS_WORD_UNKNOWN 0

/**
 * A parameter of nginx's own.
 */
#define NGX_RS_WORD_NGINX 1

/**
 * A parameter of this library: `mptcp`, `mptcp=`, `multipath`, `protocol=`.
 */
#define NGX_RS_WORD_OURS 2

/**
 * `IPPROTO_MPTCP`: Multipath TCP, RFC 8684; Linux 5.6.
 */
#define NGX_RS_IPPROTO_MPTCP 262

/**
 * `IPPROTO_SMC`: RFC 7609; Linux 6.11.
 */
#define NGX_RS_IPPROTO_SMC 256

/**
 * `deferred`: TCP_DEFER_ACCEPT
 */
#define NGX_RS_OPTION_DEFERRED 0

/**
 * `fastopen=`: TCP_FASTOPEN
 */
#define NGX_RS_OPTION_FASTOPEN 1

/**
 * The times of `so_keepalive=`: TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT
 */
#define NGX_RS_OPTION_KEEPALIVE_TIMES 2

/**
 * `ssl`
 */
#define NGX_RS_LISTENING_SSL 1

/**
 * `http2`
 */
#define NGX_RS_LISTENING_HTTP2 2

/**
 * `quic`
 */
#define NGX_RS_LISTENING_QUIC 4

/**
 * `udp`
 */
#define NGX_RS_LISTENING_UDP 8

/**
 * `default_server`
 */
#define NGX_RS_LISTENING_DEFAULT_SERVER 16

/**
 * `proxy_protocol`
 */
#define NGX_RS_LISTENING_PROXY_PROTOCOL 32

/**
 * `bind`, or any parameter that implies it
 */
#define NGX_RS_LISTENING_BIND 64

/**
 * `reuseport`: SO_REUSEPORT
 */
#define NGX_RS_LISTENING_REUSEPORT 128

/**
 * `deferred`: TCP_DEFER_ACCEPT of one second
 */
#define NGX_RS_LISTENING_DEFERRED 256

/**
 * `ipv6only=off`; without it IPV6_V6ONLY is set on IPv6 sockets
 */
#define NGX_RS_LISTENING_IPV6ONLY_OFF 512

/**
 * `so_keepalive=on`, or with times: SO_KEEPALIVE 1
 */
#define NGX_RS_LISTENING_KEEPALIVE_ON 1024

/**
 * `so_keepalive=off`: SO_KEEPALIVE 0
 */
#define NGX_RS_LISTENING_KEEPALIVE_OFF 2048

/**
 * `mptcp=auto`: use plain TCP if the kernel does not support `protocol`
 */
#define NGX_RS_LISTENING_FALLBACK 65536

/**
 * `rcvbuf=0`: set SO_RCVBUF to 0, which the kernel raises to its minimum
 */
#define NGX_RS_LISTENING_RCVBUF_0 131072

/**
 * `sndbuf=0`: set SO_SNDBUF to 0, which the kernel raises to its minimum
 */
#define NGX_RS_LISTENING_SNDBUF_0 262144

/**
 * `fastopen=0`: set TCP_FASTOPEN to 0
 */
#define NGX_RS_LISTENING_FASTOPEN_0 524288

/**
 * Not opened.
 */
#define NGX_RS_UNTOUCHED 0

/**
 * A new socket, on an address that had none.
 */
#define NGX_RS_OPENED 1

/**
 * The inherited socket of index `inherited` is kept: `fd` is its descriptor,
 * and its owner stays the same.
 */
#define NGX_RS_INHERITED 2

/**
 * A new socket, successor of inherited ones of another protocol.
 */
#define NGX_RS_SUCCESSOR 3

/**
 * Not opened, because of NGX_RS_OPEN_LEAVE_TCP or NGX_RS_OPEN_CHECK: `fd` is -1.
 */
#define NGX_RS_LEFT 4

/**
 * A new socket beside inherited ones of the same protocol.
 */
#define NGX_RS_JOINED 5

/**
 * The socket had NGX_RS_SUCCESSOR or NGX_RS_JOINED, and listen() failed in
 * ngx_rs_listening_commit: `fd` is now a duplicate of the inherited socket of
 * index `inherited`, which is kept; the caller still owns `fd`.
 */
#define NGX_RS_FAILED 6

/**
 * No socket was requested at its address.
 */
#define NGX_RS_UNUSED 0

/**
 * It stays in use.
 */
#define NGX_RS_KEPT 1

/**
 * New sockets of another protocol replace it at its address: after the commit,
 * close it, or let it drain with ngx_rs_drain_begin.
 */
#define NGX_RS_SUPERSEDED 2

/**
 * A superseded socket that ngx_rs_drain_begin has taken.
 */
#define NGX_RS_DRAINING 3

/**
 * It does not have SO_REUSEPORT, so the library does not query the option.
 */
#define NGX_RS_INHERITED_ALONE 1

/**
 * Another process passed it: it is kept, whatever its protocol, unless a
 * protocol is requested at its address.
 */
#define NGX_RS_INHERITED_PASSED 2

/**
 * Another process may use it: it keeps its protocol in any case.
 */
#define NGX_RS_INHERITED_IN_USE 4

/**
 * Do not open new sockets of plain TCP, UDP and unix domain, which the caller
 * opens.
 */
#define NGX_RS_OPEN_LEAVE_TCP 1

/**
 * New sockets beside inherited ones are bound, and listen only after
 * ngx_rs_listening_commit.
 */
#define NGX_RS_OPEN_PREPARE 2

/**
 * Open no socket, only check that the kernel supports the protocols.
 */
#define NGX_RS_OPEN_CHECK 4

/**
 * An address is in use and will be tried again; `error` is that of bind(2).
 */
#define NGX_RS_REPORT_IN_USE 0

/**
 * Waiting before the next try; `error` has status NGX_RS_OK and the message.
 */
#define NGX_RS_REPORT_WAITING 1

/**
 * Plain TCP is used instead of MPTCP; `error` has the reason. Once for all sockets.
 */
#define NGX_RS_REPORT_FALLBACK 2

/**
 * An inherited socket that another process may use keeps its protocol, though
 * another one is requested; `error` has status NGX_RS_OK and names the first
 * one. Once for all sockets.
 */
#define NGX_RS_REPORT_KEPT 3

/**
 * Plain TCP is requested, but a preloaded library or a BPF program turns every
 * TCP socket of this process into an MPTCP socket; `error` has status NGX_RS_OK.
 * Once for all sockets.
 */
#define NGX_RS_REPORT_NOT_TCP 4

/**
 * The sockets that drained at an address ended early, because a new socket must
 * be bound there; `error` has status NGX_RS_OK and names the address.
 */
#define NGX_RS_REPORT_DRAIN_ENDED 5

/**
 * How long a superseded socket drains at most, in milliseconds.
 */
#define NGX_RS_DRAIN_MS 5000

/**
 * Not queried yet.
 */
#define NGX_RS_CONNECTION_UNQUERIED 0

/**
 * Neither TCP nor MPTCP: UDP, a unix domain socket.
 */
#define NGX_RS_CONNECTION_OTHER 1

/**
 * Plain TCP, from the beginning.
 */
#define NGX_RS_CONNECTION_TCP 2

/**
 * MPTCP.
 */
#define NGX_RS_CONNECTION_MPTCP 3

/**
 * Began as MPTCP and fell back to plain TCP: RFC 8684, section 3.7.
 */
#define NGX_RS_CONNECTION_FALLBACK 4

/**
 * If the connection is plain TCP, query nothing else, which saves system calls.
 */
#define NGX_RS_CONNECTION_MPTCP_ONLY 1

/**
 * Value that the kernel did not report.
 */
#define NGX_RS_UNKNOWN -1

/**
 * `on` for MPTCP, `fallback` after one; unknown for any other connection, as are
 * all values.
 */
#define NGX_RS_VALUE_KIND 0

/**
 * Number of subflows now.
 */
#define NGX_RS_VALUE_SUBFLOWS 1

/**
 * Number of subflows that the connection has had. From Linux 5.16 to 6.4 it
 * counts those that were open at one of the queries.
 */
#define NGX_RS_VALUE_SUBFLOWS_TOTAL 2

/**
 * The other host's address of each path that the connection has had, the oldest
 * first; as all values of paths, separated by commas.
 */
#define NGX_RS_VALUE_SUBFLOW_ADDRS 3

/**
 * The token, in hexadecimal.
 */
#define NGX_RS_VALUE_TOKEN 4

/**
 * Payload in bytes that was sent.
 */
#define NGX_RS_VALUE_BYTES_SENT 5

/**
 * Payload in bytes that was received.
 */
#define NGX_RS_VALUE_BYTES_RECEIVED 6

/**
 * Segments that were sent again.
 */
#define NGX_RS_VALUE_RETRANS 7

/**
 * Payload in bytes that took each path.
 */
#define NGX_RS_VALUE_SUBFLOW_BYTES_SENT 8

/**
 * Payload in bytes that came by each path.
 */
#define NGX_RS_VALUE_SUBFLOW_BYTES_RECEIVED 9

/**
 * Smoothed round trip time of each path, in milliseconds with three decimals.
 */
#define NGX_RS_VALUE_SUBFLOW_RTT 10

/**
 * Segments that were sent again on each path.
 */
#define NGX_RS_VALUE_SUBFLOW_RETRANS 11

/**
 * Open a TCP socket if the kernel does not support the protocol.
 */
#define NGX_RS_CONNECT_FALLBACK 1

/**
 * The listener is not counted.
 */
#define NGX_RS_NO_ROW UINT32_MAX

/**
 * JSON.
 */
#define NGX_RS_FORMAT_JSON 0

/**
 * Prometheus' text format, version 0.0.4.
 */
#define NGX_RS_FORMAT_PROMETHEUS 1

/**
 * How a call ended.
 */
enum ngx_rs_status_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The call succeeded.
     */
    NGX_RS_OK = 0,
    /**
     * An argument is wrong: `message` names it.
     */
    NGX_RS_ERR_ARGUMENT = 1,
    /**
     * The directive is wrong.
     */
    NGX_RS_ERR_SYNTAX = 2,
    /**
     * The host name has no address.
     */
    NGX_RS_ERR_HOST_NOT_FOUND = 3,
    /**
     * Two directives request different protocols for one socket.
     */
    NGX_RS_ERR_CONFLICT = 4,
    /**
     * The running kernel does not support or allow what was requested: a protocol,
     * an option, or another protocol at the address of an SMC socket.
     */
    NGX_RS_ERR_UNSUPPORTED = 5,
    /**
     * A system call failed: see `os_errno`.
     */
    NGX_RS_ERR_SYSCALL = 6,
    /**
     * A defect of this library.
     */
    NGX_RS_ERR_PANIC = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ngx_rs_status_t ngx_rs_status_t;
#else
typedef int32_t ngx_rs_status_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What is known of a connection that is queried several times.
 */
typedef struct ngx_rs_connection_t ngx_rs_connection_t;

/**
 * Counters of connections, in memory that processes share.
 */
typedef struct ngx_rs_counters_t ngx_rs_counters_t;

/**
 * The sockets that drain, in this process and in those that it forks.
 */
typedef struct ngx_rs_drain_t ngx_rs_drain_t;

/**
 * A parsed listen directive.
 */
typedef struct ngx_rs_listen_t ngx_rs_listen_t;

/**
 * A word: the layout of nginx's `ngx_str_t`.
 */
typedef struct {
    /**
     * Bytes.
     */
    size_t len;
    /**
     * Not NULL unless `len` is 0; need not end in 0.
     */
    const uint8_t *data;
} ngx_rs_str_t;

/**
 * How to read a directive. Begin with NGX_RS_RULES_INIT.
 */
typedef struct {
    /**
     * sizeof(ngx_rs_rules_t), set by the caller.
     */
    uint32_t size;
    /**
     * NGX_RS_SUBSYSTEM_*
     */
    uint32_t subsystem;
    /**
     * NGX_RS_RULES_*
     */
    uint32_t flags;
} ngx_rs_rules_t;

/**
 * Why a call failed; written only if it did. Begin with NGX_RS_ERROR_INIT.
 */
typedef struct {
    /**
     * sizeof(ngx_rs_error_t), set by the caller.
     */
    uint32_t size;
    /**
     * The status that the call returned.
     */
    int32_t status;
    /**
     * errno of the system call that failed, or 0.
     */
    int32_t os_errno;
    /**
     * Index of the wrong word or directive, if the call has several; otherwise 0.
     */
    uint32_t arg_index;
    /**
     * Without the text of errno and without a final dot; ends in 0.
     */
    char message[256];
} ngx_rs_error_t;

/**
 * A listening socket. Begin with NGX_RS_LISTENING_INIT.
 */
typedef struct {
    /**
     * in: sizeof(ngx_rs_listening_t), the same in all elements of an array.
     */
    uint32_t size;
    /**
     * in: NGX_RS_LISTENING_*
     */
    uint32_t flags;
    /**
     * in: where to listen: AF_INET, AF_INET6 or AF_UNIX; borrowed for the call;
     * from ngx_rs_listen_sockets, it is owned by `listen`.
     */
    const struct sockaddr *sockaddr;
    /**
     * in: its size in bytes.
     */
    uint32_t socklen;
    /**
     * in: SOCK_STREAM, which 0 means as well, or SOCK_DGRAM.
     */
    int32_t type;
    /**
     * in: IPPROTO_* of a stream socket; 0 is TCP.
     */
    int32_t protocol;
    /**
     * in: how many connections may wait for accept(2); 0 is 511.
     */
    int32_t backlog;
    /**
     * in: SO_RCVBUF in bytes; 0 keeps the kernel's default.
     */
    int32_t rcvbuf;
    /**
     * in: SO_SNDBUF in bytes; 0 keeps the kernel's default.
     */
    int32_t sndbuf;
    /**
     * in: TCP_FASTOPEN, connections in handshake; 0 keeps the kernel's default.
     */
    int32_t fastopen;
    /**
     * in: TCP_KEEPIDLE in seconds; 0 keeps the kernel's default.
     */
    int32_t keepidle;
    /**
     * in: TCP_KEEPINTVL in seconds; 0 keeps the kernel's default.
     */
    int32_t keepintvl;
    /**
     * in: TCP_KEEPCNT, probes; 0 keeps the kernel's default.
     */
    int32_t keepcnt;
    /**
     * out: the socket, or -1.
     */
    int32_t fd;
    /**
     * out: NGX_RS_OPENED and so on.
     */
    uint32_t outcome;
    /**
     * out: with NGX_RS_INHERITED and NGX_RS_FAILED, the index of the inherited
     * socket.
     */
    uint32_t inherited;
    /**
     * out: IPPROTO_* that the socket has or, with NGX_RS_LEFT, that the caller
     * should open; 0 for datagram and unix domain sockets.
     */
    int32_t opened_protocol;
} ngx_rs_listening_t;

/**
 * A socket that the caller already has. Begin with NGX_RS_INHERITED_INIT.
 */
typedef struct {
    /**
     * in: sizeof(ngx_rs_inherited_t), the same in all elements of an array.
     */
    uint32_t size;
    /**
     * in: a bound socket, borrowed for the call.
     */
    int32_t fd;
    /**
     * in: its address, or NULL to query the kernel; borrowed for the call.
     */
    const struct sockaddr *sockaddr;
    /**
     * in: size of the address in bytes.
     */
    uint32_t socklen;
    /**
     * in: SOCK_STREAM or SOCK_DGRAM, or 0 to query the kernel.
     */
    int32_t type;
    /**
     * in: IPPROTO_*, or 0 to query the kernel, which the library does only if the
     * protocol matters.
     */
    int32_t protocol;
    /**
     * out: NGX_RS_UNUSED, NGX_RS_KEPT, NGX_RS_SUPERSEDED, NGX_RS_DRAINING; read
     * by ngx_rs_listening_commit and ngx_rs_drain_begin.
     */
    uint32_t disposition;
    /**
     * in,out: 0; then 1 if the library set SO_REUSEPORT on it, for the rollback.
     */
    uint32_t shared;
    /**
     * in: NGX_RS_INHERITED_ALONE and so on, or 0.
     */
    uint32_t flags;
} ngx_rs_inherited_t;

/**
 * Called for each event while sockets are opened; must return.
 */
typedef void (*ngx_rs_report_pt)(void *data,
                                 uint32_t event,
                                 const ngx_rs_error_t *error);

/**
 * How to open. Begin with NGX_RS_OPEN_INIT.
 */
typedef struct {
    /**
     * sizeof(ngx_rs_open_t), set by the caller.
     */
    uint32_t size;
    /**
     * NGX_RS_OPEN_*
     */
    uint32_t flags;
    /**
     * How many times to try while an address is in use; 0 is once.
     */
    uint32_t tries;
    /**
     * How long to wait between two tries, in milliseconds.
     */
    uint32_t delay_ms;
    /**
     * Sockets that the caller already has; borrowed for the call.
     */
    ngx_rs_inherited_t *inherited;
    /**
     * Number of elements of `inherited`.
     */
    size_t inherited_count;
    /**
     * Called for each event, or NULL.
     */
    ngx_rs_report_pt report;
    /**
     * First argument of `report`.
     */
    void *data;
    /**
     * From ngx_rs_drain_begin, or NULL: its sockets end at an address where a
     * new socket must be bound; borrowed for the call.
     */
    ngx_rs_drain_t *drain;
} ngx_rs_open_t;

/**
 * What the kernel reports about a connection. Begin with NGX_RS_CONNECTION_INFO_INIT.
 */
typedef struct {
    /**
     * in: sizeof(ngx_rs_connection_info_t)
     */
    uint32_t size;
    /**
     * in: 0 or NGX_RS_CONNECTION_MPTCP_ONLY
     */
    uint32_t flags;
    /**
     * in,out: NGX_RS_CONNECTION_*. With NGX_RS_CONNECTION_UNQUERIED the fields below
     * are only written; otherwise they are read as well.
     */
    uint32_t kind;
    /**
     * 0
     */
    uint32_t reserved;
    /**
     * Identifies an MPTCP connection on this host, as `ss -M` prints it; not
     * reported after a reset. Linux 5.16.
     */
    int64_t token;
    /**
     * Number of subflows now. Before Linux 6.5 it includes the first one, even if
     * that is closed, and those whose handshake is not complete. Linux 5.16.
     */
    int64_t subflows;
    /**
     * Number of subflows that the connection has had, including the present ones;
     * a lower bound if this host opens subflows itself. Linux 6.5 for MPTCP;
     * after a fallback it is 1.
     */
    int64_t subflows_total;
    /**
     * Payload in bytes, each counted once. Linux 6.5 for MPTCP.
     */
    int64_t bytes_sent;
    /**
     * Payload in bytes. Linux 6.5 for MPTCP. For TCP it may be one too many after
     * both ends are closed: the kernel counts the end of the stream.
     */
    int64_t bytes_received;
    /**
     * Payload in bytes that was sent again. For MPTCP only the bytes that MPTCP
     * itself sent again, usually on another subflow, without the retransmissions
     * of the subflows. Linux 6.5 for MPTCP.
     */
    int64_t bytes_retransmitted;
    /**
     * Segments that were sent again. For MPTCP by the present subflows, and by the
     * first one unless it was reset. Linux 6.5 for MPTCP.
     */
    int64_t retransmits;
    /**
     * Milliseconds since data was last sent. Linux 6.10 for MPTCP.
     */
    int64_t last_data_sent_ms;
    /**
     * Milliseconds since data was last received. Linux 6.10 for MPTCP.
     */
    int64_t last_data_received_ms;
    /**
     * Milliseconds since an acknowledgement was last received. Linux 6.10 for
     * MPTCP.
     */
    int64_t last_ack_received_ms;
} ngx_rs_connection_info_t;

/**
 * One path of a connection. Begin an array with NGX_RS_SUBFLOW_INIT.
 */
typedef struct {
    /**
     * in: sizeof(ngx_rs_subflow_t), in the first element of an array; out: in
     * all that are written.
     */
    uint32_t size;
    /**
     * 0
     */
    uint32_t reserved;
    /**
     * out: number of the subflow within the connection, from 1 on, or
     * NGX_RS_UNKNOWN. Linux 6.5.
     */
    int64_t id;
    /**
     * out: this host's address: AF_INET or AF_INET6.
     */
    struct sockaddr_storage local;
    /**
     * out: the other host's address.
     */
    struct sockaddr_storage remote;
    /**
     * out: payload in bytes that took this path, without what TCP sent again.
     * This field and those below: Linux 5.16 for MPTCP.
     */
    int64_t bytes_sent;
    /**
     * out: payload in bytes that came by this path.
     */
    int64_t bytes_received;
    /**
     * out: segments that were sent again.
     */
    int64_t retransmits;
    /**
     * out: smoothed round trip time in microseconds; not reported before it was
     * measured.
     */
    int64_t rtt_us;
    /**
     * out: congestion window in segments.
     */
    int64_t congestion_window;
    /**
     * out: state of TCP: TCP_ESTABLISHED and so on, of netinet/tcp.h.
     */
    int64_t tcp_state;
} ngx_rs_subflow_t;

/**
 * A superseded socket. Begin an array with NGX_RS_DRAINING_INIT.
 */
typedef struct {
    /**
     * in: sizeof(ngx_rs_draining_t), in the first element of an array; out: in
     * all that are written.
     */
    uint32_t size;
    /**
     * out: its descriptor, owned by the caller.
     */
    int32_t fd;
    /**
     * out: index of its first successor in the latest ngx_rs_drain_begin;
     * meaningless if `ended` is 1.
     */
    uint32_t successor;
    /**
     * out: 1 if the caller must close it: it is idle, or its time is over.
     */
    uint32_t ended;
    /**
     * out: IPPROTO_* that it has.
     */
    int32_t protocol;
} ngx_rs_draining_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The ABI of the library that is running: equal to NGX_RS_ABI_VERSION of the
 * header that a program was compiled with, or the two do not fit together.
 *
 * Returns that number: a constant, and no status.
 * Any thread. Source: the version of the package: of 0.x it is x, and of
 * later ones 1000 times the first number.
 */
uint32_t ngx_rs_abi_version(void);

/**
 * Classifies each parameter of a listen directive: nginx's own, the library's,
 * or unknown.
 *
 * words    in      `count` words: an address, then parameters; borrowed for
 *                  the call
 * rules    in      the grammar, or NULL for that of stream; borrowed for the
 *                  call
 * owners   out     `count` bytes: NGX_RS_WORD_*; the address is nginx's;
 *                  borrowed for the call
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * Any thread. Allocates nothing.
 * Source: nginx ngx_stream_core_listen(), ngx_http_core_listen(),
 * ngx_mail_core_listen().
 */
ngx_rs_status_t ngx_rs_listen_classify(const ngx_rs_str_t *words,
                                       size_t count,
                                       const ngx_rs_rules_t *rules,
                                       uint8_t *owners,
                                       ngx_rs_error_t *error);

/**
 * Parses the words of a listen directive, without the word "listen" itself,
 * and resolves the host name if there is one.
 *
 * words    in      `count` words: an address, then parameters; borrowed for
 *                  the call; they need not end in 0
 * rules    in      the grammar, or NULL for that of stream; borrowed for the
 *                  call
 * listen   out     owned by the caller, released with ngx_rs_listen_free
 * error    out     optional, may be NULL; `arg_index` is the offending word
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYNTAX,HOST_NOT_FOUND,PANIC}.
 * Any thread; may wait for a name server.
 * Source: nginx ngx_stream_core_listen() and its kin, ngx_parse_url().
 */
ngx_rs_status_t ngx_rs_listen_parse(const ngx_rs_str_t *words,
                                    size_t count,
                                    const ngx_rs_rules_t *rules,
                                    ngx_rs_listen_t **listen,
                                    ngx_rs_error_t *error);

/**
 * Returns one element for each socket that a listen directive requests: one
 * for each port of each address.
 *
 * listen   in      from ngx_rs_listen_parse; borrowed for the call
 * size     in      sizeof(ngx_rs_listening_t), the distance of the elements;
 *                  the same in all calls for one `listen`
 * sockets  out     `count` elements with `fd` -1, ready for
 *                  ngx_rs_open_listening; owned by `listen`, released with
 *                  ngx_rs_listen_free, and the same ones in every call
 * count    out     how many
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * One thread at a time for one `listen`.
 * Source: nginx ngx_parse_url(), ngx_stream_core_listen() and its kin.
 */
ngx_rs_status_t ngx_rs_listen_sockets(ngx_rs_listen_t *listen,
                                      size_t size,
                                      ngx_rs_listening_t **sockets,
                                      size_t *count,
                                      ngx_rs_error_t *error);

/**
 * Returns the addresses of a host name as words for nginx's own parser. Each
 * word can replace the first word of the directive, and has the same ports.
 *
 * listen   in      from ngx_rs_listen_parse; borrowed for the call
 * words    out     `count` words, each followed by a 0; owned by `listen`,
 *                  released with ngx_rs_listen_free; none if the first word
 *                  is not a host name
 * count    out     how many
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * One thread at a time for one `listen`.
 * Source: nginx ngx_parse_url(), ngx_inet_resolve_host().
 */
ngx_rs_status_t ngx_rs_listen_addresses(ngx_rs_listen_t *listen,
                                        const ngx_rs_str_t **words,
                                        size_t *count,
                                        ngx_rs_error_t *error);

/**
 * Releases what ngx_rs_listen_parse made. The descriptors of its sockets stay
 * open.
 *
 * listen   in      from ngx_rs_listen_parse, or NULL, which does nothing;
 *                  the memory that it owns is released
 *
 * Returns nothing.
 * Any thread, when no other uses `listen`. Source: free(3), for NULL.
 */
void ngx_rs_listen_free(ngx_rs_listen_t *listen);

/**
 * Sets the protocols of listening sockets to those that listen directives
 * request. Several directives may share one socket: as in nginx, the wildcard
 * socket of the same family and port serves an address without its own socket.
 *
 * sockets  in,out  `count` elements, borrowed for the call; `protocol` and the
 *                  flag NGX_RS_LISTENING_FALLBACK are written
 * requested in     `requested_count` elements of which `sockaddr`, `type`,
 *                  `protocol` and NGX_RS_LISTENING_FALLBACK are read; those
 *                  with `protocol` 0 request none; borrowed for the call
 * error    out     optional, may be NULL; `arg_index` is the later of the two
 *                  elements of `requested` that contradict each other
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,CONFLICT,PANIC}.
 * Any thread. Linear in both counts.
 * Source: nginx ngx_http_init_listening(), ngx_stream_optimize_servers(),
 * ngx_mail_optimize_servers().
 */
ngx_rs_status_t ngx_rs_listening_assign(ngx_rs_listening_t *sockets,
                                        size_t count,
                                        const ngx_rs_listening_t *requested,
                                        size_t requested_count,
                                        ngx_rs_error_t *error);

/**
 * Opens, binds and listens on every socket of an array, or on none. On failure
 * it closes the sockets that it opened, and restores the inherited sockets.
 *
 * sockets  in,out  `count` elements, borrowed for the call; `fd`, `outcome`,
 *                  `inherited` and `opened_protocol` are written only on
 *                  success; each new `fd` is non-blocking, owned by the
 *                  caller, released with close(2), and kept across exec
 * how      in,out  which sockets to inherit and how to retry, or NULL for no
 *                  inherited sockets and one try; borrowed for the call
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,SYSCALL,PANIC}.
 * Any thread. Linear in the number of sockets.
 * Source: nginx ngx_open_listening_sockets(), ngx_init_cycle().
 */
ngx_rs_status_t ngx_rs_open_listening(ngx_rs_listening_t *sockets,
                                      size_t count,
                                      const ngx_rs_open_t *how,
                                      ngx_rs_error_t *error);

/**
 * Second half of an opening with NGX_RS_OPEN_PREPARE: the sockets with outcome
 * NGX_RS_SUCCESSOR or NGX_RS_JOINED begin to listen. The sockets that they
 * supersede listen as well: let them drain with ngx_rs_drain_begin, or close
 * them now, which resets the connections that wait in their queues.
 *
 * sockets  in,out  `count` elements as ngx_rs_open_listening left them;
 *                  borrowed for the call; those that cannot listen have
 *                  NGX_RS_FAILED afterwards, and the others listen
 * how      in,out  as it was passed to ngx_rs_open_listening; borrowed for the
 *                  call; an inherited socket that takes the place of one with
 *                  NGX_RS_FAILED has NGX_RS_KEPT afterwards
 * error    out     optional, may be NULL; that of the first that failed
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
 * Any thread. Source: listen(2); kernel net/ipv4/inet_connection_sock.c.
 */
ngx_rs_status_t ngx_rs_listening_commit(ngx_rs_listening_t *sockets,
                                        size_t count,
                                        const ngx_rs_open_t *how,
                                        ngx_rs_error_t *error);

/**
 * Undoes an opening: closes what it opened, removes the files of its unix
 * domain sockets, and restores the inherited sockets.
 *
 * sockets  in,out  `count` elements as ngx_rs_open_listening left them;
 *                  borrowed for the call; afterwards every `fd` is -1, and
 *                  those that were owned by the caller are closed
 * how      in,out  as it was passed to ngx_rs_open_listening; borrowed for the
 *                  call; its inherited sockets stay open, and have disposition
 *                  NGX_RS_UNUSED and `shared` 0 afterwards
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * Any thread. Source: nginx ngx_init_cycle(), where a new cycle fails.
 */
ngx_rs_status_t ngx_rs_listening_rollback(ngx_rs_listening_t *sockets,
                                          size_t count,
                                          const ngx_rs_open_t *how,
                                          ngx_rs_error_t *error);

/**
 * Checks that the running kernel opens stream sockets of a protocol, by opening
 * one.
 *
 * protocol in      IPPROTO_*, or NGX_RS_IPPROTO_*
 * error    out     optional, may be NULL; `message` names what is missing
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,SYSCALL,PANIC}.
 * Any thread. Source: socket(2); RFC 8684; kernel net/mptcp/ctrl.c.
 */
ngx_rs_status_t ngx_rs_protocol_check(int32_t protocol,
                                      ngx_rs_error_t *error);

/**
 * Checks that listening sockets of a protocol have an option of TCP, by setting
 * it on a socket: once per process, protocol and option.
 *
 * protocol in      IPPROTO_*, or NGX_RS_IPPROTO_*
 * option   in      NGX_RS_OPTION_*
 * error    out     optional, may be NULL; `message` names the version of the kernel
 *                  has it, if it ever will
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,PANIC}.
 * Any thread. Source: kernel net/mptcp/sockopt.c, mptcp_setsockopt_sol_tcp().
 */
ngx_rs_status_t ngx_rs_option_check(int32_t protocol,
                                    uint32_t option,
                                    ngx_rs_error_t *error);

/**
 * Queries the kernel about a connection: its protocol, subflows, bytes and
 * retransmissions.
 *
 * fd       in      a connected socket, borrowed for the call
 * info     in,out  borrowed for the call; a value that the kernel does not
 *                  report is NGX_RS_UNKNOWN, and so is every field that only a
 *                  newer header has; if it is passed again for the same
 *                  connection, totals never decrease, a value that the kernel
 *                  no longer reports (after a reset) keeps its last value, and
 *                  a fallback stays a fallback
 * error    out     optional, may be NULL
 *
 * Two system calls for TCP and MPTCP, three after a fallback; two more at most
 * until the process has met MPTCP; one less with an earlier `info`.
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
 * Any thread; one at a time for one `info`.
 * Source: RFC 8684; kernel net/mptcp/sockopt.c.
 */
ngx_rs_status_t ngx_rs_connection_info(int32_t fd,
                                       ngx_rs_connection_info_t *info,
                                       ngx_rs_error_t *error);

/**
 * Queries the kernel for the addresses of a connection's subflows. The first
 * subflow comes first as long as it exists. Plain TCP, and MPTCP after a
 * fallback, have one path. A connection that has ended has none.
 *
 * fd       in      a connected socket, borrowed for the call
 * subflows in,out  `room` elements, borrowed for the call; as many as there are
 *                  subflows are written, with NGX_RS_UNKNOWN in every field
 *                  that only a newer header has
 * room     in      length of `subflows`; 16 are enough for all subflows that
 *                  Linux creates by itself
 * count    out     how many subflows there are, which may be more than `room`
 * info     in,out  optional, may be NULL; written as by ngx_rs_connection_info,
 *                  without further system calls; borrowed for the call
 * error    out     optional, may be NULL
 *
 * For MPTCP as many system calls as ngx_rs_connection_info from Linux 6.5 on,
 * and one more from 5.16 on; an older kernel does not report subflows. Two more
 * for TCP and after a fallback.
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
 * Any thread; one at a time for one `info`.
 * Source: RFC 8684; kernel net/mptcp/sockopt.c.
 */
ngx_rs_status_t ngx_rs_connection_subflows(int32_t fd,
                                           ngx_rs_subflow_t *subflows,
                                           size_t room,
                                           size_t *count,
                                           ngx_rs_connection_info_t *info,
                                           ngx_rs_error_t *error);

/**
 * Opens a stream socket for connect(2), with a requested protocol.
 *
 * address  in      the destination, AF_INET or AF_INET6; borrowed for the call
 * socklen  in      its size in bytes
 * protocol in      IPPROTO_*, or NGX_RS_IPPROTO_*
 * flags    in      0, or NGX_RS_CONNECT_FALLBACK: open a TCP socket if the
 *                  kernel does not support the protocol, or a policy forbids it
 * fd       out     the socket: non-blocking, closed on exec, owned by the
 *                  caller, released with close(2); written only on success;
 *                  the pointer is borrowed for the call
 * opened_protocol out  IPPROTO_* that it has; borrowed for the call
 * error    out     optional, may be NULL; `message` names what is missing
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,UNSUPPORTED,SYSCALL,PANIC}.
 * Any thread. One system call; after a fallback three.
 * Source: socket(2); RFC 8684.
 */
ngx_rs_status_t ngx_rs_connect_socket(const struct sockaddr *address,
                                      uint32_t socklen,
                                      int32_t protocol,
                                      uint32_t flags,
                                      int32_t *fd,
                                      int32_t *opened_protocol,
                                      ngx_rs_error_t *error);

/**
 * How much memory counters need. A page of it that is never written takes none.
 *
 * Returns a number of bytes: a constant, and no status.
 * Any thread. Source: mmap(2).
 */
size_t ngx_rs_counters_size(void);

/**
 * Gives a row to each listener, which it keeps: one of the same address and
 * subsystem has the same row.
 *
 * counters in,out  ngx_rs_counters_size() bytes that all processes share, 0 at
 *                  first and aligned to 8; borrowed for the call
 * subsystem in     NGX_RS_SUBSYSTEM_*
 * sockets  in      `count` elements of which `sockaddr` is read, borrowed for the
 *                  call
 * rows     out     `count` numbers: rows, or NGX_RS_NO_ROW of an address that is
 *                  neither IPv4 nor IPv6, and when there are more than 16384;
 *                  borrowed for the call
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * Any thread; one process at a time. Linear in the number of listeners.
 * Source: the `mptcp_status` directive.
 */
ngx_rs_status_t ngx_rs_counters_rows(ngx_rs_counters_t *counters,
                                     uint32_t subsystem,
                                     const ngx_rs_listening_t *sockets,
                                     size_t count,
                                     uint32_t *rows,
                                     ngx_rs_error_t *error);

/**
 * Takes a seat for this process, where its open connections are counted.
 *
 * counters in,out  as for ngx_rs_counters_rows; borrowed for the call
 * pid      in      of this process
 * seat     out     a number, the same if the process has one; borrowed for the
 *                  call
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * Any thread. Source: the `mptcp_status` directive.
 */
ngx_rs_status_t ngx_rs_counters_enter(ngx_rs_counters_t *counters,
                                      uint32_t pid,
                                      uint32_t *seat,
                                      ngx_rs_error_t *error);

/**
 * Leaves the seat: the connections that are still open are open no longer.
 *
 * counters in,out  as for ngx_rs_counters_rows; borrowed for the call
 * seat     in      from ngx_rs_counters_enter
 * pid      in      of this process
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * Any thread. Source: the `mptcp_status` directive.
 */
ngx_rs_status_t ngx_rs_counters_leave(ngx_rs_counters_t *counters,
                                      uint32_t seat,
                                      uint32_t pid,
                                      ngx_rs_error_t *error);

/**
 * Counts a connection that begins. Unless the listener is TCP, this is one
 * system call.
 *
 * counters in,out  as for ngx_rs_counters_rows; borrowed for the call
 * seat     in      from ngx_rs_counters_enter
 * row      in      from ngx_rs_counters_rows, and not NGX_RS_NO_ROW
 * protocol in      IPPROTO_* of the listener
 * fd       in      the connection, borrowed for the call
 * kind     out     for ngx_rs_counters_end; borrowed for the call
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
 * Any thread. Source: the `mptcp_status` directive.
 */
ngx_rs_status_t ngx_rs_counters_begin(ngx_rs_counters_t *counters,
                                      uint32_t seat,
                                      uint32_t row,
                                      int32_t protocol,
                                      int32_t fd,
                                      uint32_t *kind,
                                      ngx_rs_error_t *error);

/**
 * Counts a connection that ends, before its descriptor is closed. For MPTCP
 * this is one system call, and two after a fallback.
 *
 * counters in,out  as for ngx_rs_counters_rows; borrowed for the call
 * seat     in      as for ngx_rs_counters_begin
 * row      in      likewise
 * kind     in      from ngx_rs_counters_begin
 * fd       in      the connection, borrowed for the call; -1 if it is closed
 *                  already: then its paths and bytes are not counted
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * Any thread. Source: the `mptcp_status` directive.
 */
ngx_rs_status_t ngx_rs_counters_end(ngx_rs_counters_t *counters,
                                    uint32_t seat,
                                    uint32_t row,
                                    uint32_t kind,
                                    int32_t fd,
                                    ngx_rs_error_t *error);

/**
 * Writes all counters as text.
 *
 * counters in      as for ngx_rs_counters_rows; borrowed for the call
 * format   in      NGX_RS_FORMAT_*
 * text     out     room for `room` bytes, borrowed for the call; nothing is
 *                  written if the text is longer, and no 0 at its end
 * room     in      length of `text` in bytes
 * length   out     length of the text, which may be another one the next time;
 *                  borrowed for the call
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * Any thread. One system call for each process that has a seat.
 * Source: RFC 8259; Prometheus' text format, version 0.0.4.
 */
ngx_rs_status_t ngx_rs_counters_text(ngx_rs_counters_t *counters,
                                     uint32_t format,
                                     uint8_t *text,
                                     size_t room,
                                     size_t *length,
                                     ngx_rs_error_t *error);

/**
 * After ngx_rs_listening_commit: directs new connections to the successors,
 * while the superseded sockets still listen. Accept from both, in any process,
 * and call ngx_rs_drain_poll until all superseded sockets have ended. Until then
 * one of several successors that share an address by NGX_RS_LISTENING_REUSEPORT
 * gets all new connections of that address. A socket that drains already
 * continues if `sockets` has its address, and ends otherwise.
 *
 * drain    in,out  points to NULL at first, and afterwards to the value that an
 *                  earlier call wrote, in this process or in its parent before
 *                  fork(2); with NGX_RS_ERR_SYSCALL written as well, unless
 *                  mmap() failed; owned by the caller, released with
 *                  ngx_rs_drain_free
 * sockets  in      `count` elements as ngx_rs_listening_commit left them,
 *                  borrowed for the call; the caller may have set `fd` of
 *                  those with NGX_RS_LEFT
 * how      in,out  as it was passed to ngx_rs_listening_commit, borrowed for the
 *                  call: its inherited sockets with NGX_RS_SUPERSEDED are
 *                  taken and have NGX_RS_DRAINING afterwards; the caller still
 *                  owns their descriptors, which get close-on-exec, and closes
 *                  them when ngx_rs_drain_poll reports that they have ended
 * spare    in      number of descriptors that this process must still be able
 *                  to open
 * limit    in      RLIMIT_NOFILE of the processes that this one forks, or 0
 *                  if it is the same
 * error    out     optional, may be NULL; that of the first that failed
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}, or NGX_RS_ERR_SYSCALL. If
 * `spare` descriptors cannot be opened, no socket is taken, and every drain
 * ends: close the superseded sockets now. Otherwise new connections may reach a
 * superseded socket, and be lost with it.
 * One thread at a time for one `drain`; needs no privilege. Linear in the number
 * of sockets.
 * Source: kernel net/ipv4/inet_hashtables.c, net/ipv6/inet6_hashtables.c,
 * net/core/sock_reuseport.c.
 */
ngx_rs_status_t ngx_rs_drain_begin(ngx_rs_drain_t **drain,
                                   ngx_rs_listening_t *sockets,
                                   size_t count,
                                   const ngx_rs_open_t *how,
                                   uint32_t spare,
                                   uint32_t limit,
                                   ngx_rs_error_t *error);

/**
 * Ends each superseded socket that is idle, or whose NGX_RS_DRAIN_MS are over,
 * in every process. Notices which ones another process has ended. A socket is
 * idle if no handshake is under way and no connection waits for accept(2). In a
 * process that was forked before the latest ngx_rs_drain_begin, the call only
 * notices.
 *
 * drain    in,out  from ngx_rs_drain_begin, borrowed for the call; fork(2)
 *                  copies it, and every process can use its copy
 * sockets  out     `room` elements, borrowed for the call: all that drain, in an
 *                  order that only ngx_rs_drain_begin changes; those that have
 *                  ended are listed until the next ngx_rs_drain_begin
 * room     in      at least the number of sockets that drain
 * count    out     how many there are
 * delay_ms out     optional, may be NULL: when to call again, in milliseconds;
 *                  0 if every socket has ended; borrowed for the call
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}, or NGX_RS_ERR_SYSCALL with
 * all results written: either a socket that has ended listens until every
 * process has closed it, or one successor gets all connections that several
 * were to share.
 * One thread at a time for one `drain`; needs no privilege.
 * Source: shutdown(2), sock_diag(7).
 */
ngx_rs_status_t ngx_rs_drain_poll(ngx_rs_drain_t *drain,
                                  ngx_rs_draining_t *sockets,
                                  size_t room,
                                  size_t *count,
                                  uint32_t *delay_ms,
                                  ngx_rs_error_t *error);

/**
 * Releases the state in this process, and ends the sockets that drain in every
 * process, unless another process called ngx_rs_drain_begin later. A process
 * that quits calls it while the descriptors are open.
 *
 * drain    in      from ngx_rs_drain_begin, or NULL, which does nothing; the
 *                  memory that it owns is released, and the caller still owns
 *                  the descriptors
 *
 * Returns nothing.
 * Any thread, when no other uses `drain`. Source: free(3), for NULL.
 */
void ngx_rs_drain_free(ngx_rs_drain_t *drain);

/**
 * Queries the kernel about a connection, and remembers: totals never decrease,
 * a path that has ended keeps its last figures, and a fallback stays one. Of a
 * connection that is neither MPTCP nor a fallback only the kind is queried.
 *
 * handle   in,out  points to NULL at first, and afterwards to the value that
 *                  an earlier call wrote for the same connection; written only
 *                  on success; owned by the caller, released with
 *                  ngx_rs_connection_free
 * fd       in      a connected socket, borrowed for the call
 * values   in      what to query for: the sum of 1 << NGX_RS_VALUE_*, the same
 *                  in all calls for a connection
 * peer     in      optional, may be NULL: the other host's address as accept(2)
 *                  wrote it, for the first path; only the first call reads it;
 *                  borrowed for the call
 * socklen  in      size of `peer` in bytes
 * kind     out     NGX_RS_CONNECTION_*; borrowed for the call
 * error    out     optional, may be NULL
 *
 * Two system calls the first time and one later; for TCP one and none, for a
 * fallback three and two; one or two more until the process has met MPTCP. From
 * Linux 5.16 to 6.4 figures of paths cost one more, and are queried with the
 * addresses from the second call on.
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,SYSCALL,PANIC}.
 * Any thread; one at a time for one `handle`.
 * Source: RFC 8684; kernel net/mptcp/sockopt.c.
 */
ngx_rs_status_t ngx_rs_connection_query(ngx_rs_connection_t **handle,
                                        int32_t fd,
                                        uint32_t values,
                                        const struct sockaddr *peer,
                                        uint32_t socklen,
                                        uint32_t *kind,
                                        ngx_rs_error_t *error);

/**
 * Writes a value of a connection as text, as for a log.
 *
 * handle   in      from ngx_rs_connection_query, borrowed for the call
 * value    in      NGX_RS_VALUE_*
 * text     out     room for `room` bytes, borrowed for the call; nothing is
 *                  written if the text is longer, and no 0 at its end; 1024
 *                  bytes are enough for every value
 * room     in      length of `text` in bytes
 * length   out     length of the text, 0 if the value is not known; borrowed for
 *                  the call
 * error    out     optional, may be NULL
 *
 * Returns NGX_RS_OK or NGX_RS_ERR_{ARGUMENT,PANIC}.
 * Any thread; one at a time for one `handle`.
 * Source: the variables of nginx that begin with `$mptcp`.
 */
ngx_rs_status_t ngx_rs_connection_text(ngx_rs_connection_t *handle,
                                       uint32_t value,
                                       uint8_t *text,
                                       size_t room,
                                       size_t *length,
                                       ngx_rs_error_t *error);

/**
 * Releases what ngx_rs_connection_query made.
 *
 * handle   in      from ngx_rs_connection_query, or NULL, which does nothing;
 *                  the memory that it owns is released
 *
 * Returns nothing.
 * Any thread, when no other uses `handle`. Source: free(3), for NULL.
 */
void ngx_rs_connection_free(ngx_rs_connection_t *handle);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NGX_RS_LISTEN_H */
