/* Queries of connections, and mistakes of callers. */

#define _DEFAULT_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "check.h"

/* The struct of a newer program, with a field that this version lacks. */
typedef struct {
    ngx_rs_connection_info_t known;
    int64_t newer;
} newer_info_t;

typedef struct {
    ngx_rs_subflow_t known;
    int64_t newer;
} newer_subflow_t;

static ngx_rs_error_t error = NGX_RS_ERROR_INIT;

/* A client and the accepted socket, on the loopback. */
static void connected(int protocol, int fds[2])
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t listener = to_open(&address, NGX_RS_IPPROTO_MPTCP);
    char text[1000] = { 0 };

    WORKS(ngx_rs_open_listening(&listener, 1, NULL, &error));
    CHECK(fcntl(listener.fd, F_SETFL, 0) == 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, protocol);
    CHECK(connect(fds[0], (struct sockaddr *) &address, sizeof(address)) == 0);
    fds[1] = accept(listener.fd, NULL, NULL);
    CHECK(fds[1] != -1 && close(listener.fd) == 0);
    CHECK(write(fds[0], text, sizeof(text)) == sizeof(text));
    CHECK(recv(fds[1], text, sizeof(text), MSG_WAITALL) == sizeof(text));
}

static void closed(int fds[2])
{
    CHECK(close(fds[0]) == 0 && close(fds[1]) == 0);
}

static int same(const struct sockaddr_storage *one,
                const struct sockaddr_in *other)
{
    const struct sockaddr_in *address = (const struct sockaddr_in *) one;

    return address->sin_family == AF_INET
           && address->sin_port == other->sin_port
           && address->sin_addr.s_addr == other->sin_addr.s_addr;
}

/* Checks the values of a path that has received 1,000 bytes. */
static void has_figures(const ngx_rs_subflow_t *path)
{
    CHECK(path->bytes_sent == 0 && path->bytes_received == 1000);
    CHECK(path->retransmits == 0);
    CHECK(path->rtt_us > 0 && path->rtt_us < 1000000);
    CHECK(path->congestion_window > 0);
    CHECK(path->tcp_state == 1); /* TCP_ESTABLISHED */
}

/* Checks the only path of an accepted socket. */
static void has_one_path(int fd, ngx_rs_connection_info_t *info, int64_t id)
{
    ngx_rs_subflow_t paths[16] = { NGX_RS_SUBFLOW_INIT };
    struct sockaddr_in address;
    socklen_t length = sizeof(address);
    size_t count = 0;

    WORKS(ngx_rs_connection_subflows(fd, paths, 16, &count, info, &error));
    CHECK(count == 1 && paths[0].id == id);
    CHECK(paths[0].size == sizeof(paths[0]) && paths[1].size == 0);
    has_figures(&paths[0]);
    CHECK(getsockname(fd, (struct sockaddr *) &address, &length) == 0);
    CHECK(same(&paths[0].local, &address));
    CHECK(getpeername(fd, (struct sockaddr *) &address, &length) == 0);
    CHECK(same(&paths[0].remote, &address));
}

static void tells_mptcp(void)
{
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    ngx_rs_connection_info_t again = info, last;
    int fds[2], times;

    connected(NGX_RS_IPPROTO_MPTCP, fds);
    WORKS(ngx_rs_connection_info(fds[1], &info, &error));
    CHECK(info.size == sizeof(info) && info.flags == 0 && info.reserved == 0);
    CHECK(info.kind == NGX_RS_CONNECTION_MPTCP);
    CHECK(info.token > 0 && info.token <= UINT32_MAX);
    CHECK(info.subflows == 1 && info.subflows_total == counted(1));
    CHECK(info.bytes_sent == counted(0));
    CHECK(info.bytes_received == counted(1000));
    CHECK(info.bytes_retransmitted == counted(0));
    CHECK(info.retransmits == counted(0));
    times = kernel_is_at_least(6, 10);
    CHECK((info.last_data_sent_ms != NGX_RS_UNKNOWN) == times);
    CHECK((info.last_data_received_ms != NGX_RS_UNKNOWN) == times);
    CHECK((info.last_ack_received_ms != NGX_RS_UNKNOWN) == times);

    has_one_path(fds[1], &again, counted(1));
    CHECK(again.token == info.token && again.bytes_received == counted(1000));
    has_one_path(fds[1], NULL, counted(1));

    /* A query never lowers a counter that the struct already has. */
    info.bytes_sent = 5000;
    info.bytes_received = 999;
    info.retransmits = NGX_RS_UNKNOWN;
    WORKS(ngx_rs_connection_info(fds[1], &info, &error));
    CHECK(info.bytes_sent == 5000);
    CHECK(info.bytes_received == (counted(1000) == 1000 ? 1000 : 999));
    CHECK(info.retransmits == counted(0));

    /* A connection that has fallen back never becomes MPTCP again. */
    last = info;
    last.kind = NGX_RS_CONNECTION_FALLBACK;
    WORKS(ngx_rs_connection_info(fds[1], &last, &error));
    CHECK(last.kind == NGX_RS_CONNECTION_FALLBACK);
    closed(fds);
}

static void tells_tcp(void)
{
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    ngx_rs_connection_info_t none = NGX_RS_CONNECTION_INFO_INIT;
    int fds[2];

    connected(IPPROTO_TCP, fds);
    WORKS(ngx_rs_connection_info(fds[1], &info, &error));
    CHECK(info.kind == NGX_RS_CONNECTION_TCP);
    CHECK(info.token == NGX_RS_UNKNOWN && info.subflows == NGX_RS_UNKNOWN);
    CHECK(info.subflows_total == NGX_RS_UNKNOWN);
    CHECK(info.bytes_sent == 0 && info.bytes_received == 1000);
    CHECK(info.bytes_retransmitted == 0 && info.retransmits == 0);
    has_one_path(fds[1], &info, NGX_RS_UNKNOWN);

    none.flags = NGX_RS_CONNECTION_MPTCP_ONLY;
    WORKS(ngx_rs_connection_info(fds[1], &none, &error));
    CHECK(none.kind == NGX_RS_CONNECTION_TCP);
    CHECK(none.flags == NGX_RS_CONNECTION_MPTCP_ONLY);
    CHECK(none.token == NGX_RS_UNKNOWN && none.subflows == NGX_RS_UNKNOWN);
    CHECK(none.subflows_total == NGX_RS_UNKNOWN);
    CHECK(none.bytes_sent == NGX_RS_UNKNOWN);
    CHECK(none.bytes_received == NGX_RS_UNKNOWN);
    CHECK(none.bytes_retransmitted == NGX_RS_UNKNOWN);
    CHECK(none.retransmits == NGX_RS_UNKNOWN);
    CHECK(none.last_data_sent_ms == NGX_RS_UNKNOWN);
    CHECK(none.last_data_received_ms == NGX_RS_UNKNOWN);
    CHECK(none.last_ack_received_ms == NGX_RS_UNKNOWN);
    closed(fds);
}

static void tells_others(void)
{
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    ngx_rs_subflow_t path = NGX_RS_SUBFLOW_INIT;
    size_t count = 7;
    int fds[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    WORKS(ngx_rs_connection_subflows(fds[0], &path, 1, &count, &info, &error));
    CHECK(info.kind == NGX_RS_CONNECTION_OTHER && count == 0);
    CHECK(info.bytes_sent == NGX_RS_UNKNOWN);
    closed(fds);
}

static void rooms(void)
{
    ngx_rs_subflow_t path = NGX_RS_SUBFLOW_INIT;
    newer_subflow_t newer[2];
    size_t count = 0;
    int fds[2];

    connected(NGX_RS_IPPROTO_MPTCP, fds);
    WORKS(ngx_rs_connection_subflows(fds[1], NULL, 0, &count, NULL, &error));
    CHECK(count == 1);
    count = 0;
    WORKS(ngx_rs_connection_subflows(fds[1], &path, 0, &count, NULL, &error));
    CHECK(count == 1 && path.id == 0);

    memset(newer, 0, sizeof(newer));
    newer[0].known.size = sizeof(newer[0]);
    newer[0].newer = newer[1].newer = 77;
    WORKS(ngx_rs_connection_subflows(fds[1], &newer[0].known, 2, &count, NULL,
                                     &error));
    CHECK(count == 1 && newer[0].known.id == counted(1));
    CHECK(newer[0].known.size == sizeof(newer[0]));
    has_figures(&newer[0].known);
    CHECK(newer[0].newer == NGX_RS_UNKNOWN && newer[1].newer == 77);
    closed(fds);
}

static void a_newer_program(void)
{
    newer_info_t info;
    int fds[2], i;

    memset(&info, 0, sizeof(info));
    info.known.size = sizeof(info);
    connected(NGX_RS_IPPROTO_MPTCP, fds);
    for (i = 0; i < 2; i++) {
        WORKS(ngx_rs_connection_info(fds[1], &info.known, &error));
        CHECK(info.known.size == sizeof(info));
        CHECK(info.known.bytes_received == counted(1000));
        CHECK(info.newer == NGX_RS_UNKNOWN);
    }
    info.newer = 1;
    FAILS(ngx_rs_connection_info(fds[1], &info.known, &error),
          NGX_RS_ERR_ARGUMENT, "ngx_rs_connection_info_t: a field that this "
          "version does not know is set");
    closed(fds);
}

/* Both functions fail, and write only the error. */
static void refused(int fd, const ngx_rs_connection_info_t *info,
                    ngx_rs_status_t status, const char *text)
{
    ngx_rs_connection_info_t copy = *info;
    ngx_rs_subflow_t path = NGX_RS_SUBFLOW_INIT;
    ngx_rs_subflow_t before = path;
    size_t count = 7;

    FAILS(ngx_rs_connection_info(fd, &copy, &error), status, text);
    CHECK(memcmp(&copy, info, sizeof(copy)) == 0);
    FAILS(ngx_rs_connection_subflows(fd, &path, 1, &count, &copy, &error),
          status, text);
    CHECK(memcmp(&copy, info, sizeof(copy)) == 0);
    CHECK(memcmp(&path, &before, sizeof(path)) == 0 && count == 7);
    CHECK(ngx_rs_connection_info(fd, &copy, NULL) == status);
}

static void wrong_structs(int fd)
{
    const ngx_rs_connection_info_t good = NGX_RS_CONNECTION_INFO_INIT;
    ngx_rs_connection_info_t info = good;
    size_t i;

    FAILS(ngx_rs_connection_info(fd, NULL, &error), NGX_RS_ERR_ARGUMENT,
          "output pointer \"info\" is NULL");
    info.size = 0;
    refused(fd, &info, NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_connection_info_t));
    info.size = sizeof(info) - 1;
    refused(fd, &info, NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_connection_info_t));
    for (i = 0; i < TOO_LARGE; i++) {
        info.size = too_large[i];
        refused(fd, &info, NGX_RS_ERR_ARGUMENT,
                NOT_SET(ngx_rs_connection_info_t));
    }
    info = good;
    info.flags = 0x80000000 | NGX_RS_CONNECTION_MPTCP_ONLY;
    refused(fd, &info, NGX_RS_ERR_ARGUMENT,
            "ngx_rs_connection_info_t: field \"flags\" has an unknown flag");
    info = good;
    info.reserved = 1;
    refused(fd, &info, NGX_RS_ERR_ARGUMENT,
            "ngx_rs_connection_info_t: field \"reserved\" is not 0");
    info = good;
    info.kind = NGX_RS_CONNECTION_FALLBACK + 1;
    refused(fd, &info, NGX_RS_ERR_ARGUMENT,
            "ngx_rs_connection_info_t: field \"kind\" has an unknown value");
}

static void wrong_arrays(int fd)
{
    ngx_rs_subflow_t path = NGX_RS_SUBFLOW_INIT;
    size_t count = 7, i;

    FAILS(ngx_rs_connection_subflows(fd, NULL, 1, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "array \"subflows\" is NULL");
    FAILS(ngx_rs_connection_subflows(fd, &path, (size_t) -1, &count, NULL,
                                     &error),
          NGX_RS_ERR_ARGUMENT, "array \"subflows\" is too long");
    path.size = 271; /* one byte less than version 0.1 has */
    FAILS(ngx_rs_connection_subflows(fd, &path, 1, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_subflow_t));
    for (i = 0; i < TOO_LARGE; i++) {
        path.size = too_large[i];
        FAILS(ngx_rs_connection_subflows(fd, &path, 1, &count, NULL, &error),
              NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_subflow_t));
    }
    path.size = sizeof(path);
    FAILS(ngx_rs_connection_subflows(fd, &path, 1, NULL, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"count\" is NULL");
    CHECK(count == 7 && path.id == 0);
}

static void wrong_descriptors(int fd)
{
    const ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    const char *text = "getsockopt(SO_PROTOCOL) failed";
    int null = open("/dev/null", O_RDONLY);

    refused(-1, &info, NGX_RS_ERR_ARGUMENT, "argument \"fd\" is negative");
    refused(null, &info, NGX_RS_ERR_SYSCALL, text);
    CHECK(error.os_errno == ENOTSOCK);
    CHECK(close(null) == 0);
    refused(null, &info, NGX_RS_ERR_SYSCALL, text);
    CHECK(error.os_errno == EBADF);
    CHECK(fd != null);
}

int main(void)
{
    int before = dup(1), after, fds[2];

    close(before);
    tells_mptcp();
    tells_tcp();
    tells_others();
    rooms();
    a_newer_program();
    connected(NGX_RS_IPPROTO_MPTCP, fds);
    wrong_structs(fds[1]);
    wrong_arrays(fds[1]);
    wrong_descriptors(fds[1]);
    closed(fds);
    after = dup(1);
    CHECK(before == after && close(after) == 0);
    return 0;
}
