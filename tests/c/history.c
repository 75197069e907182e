/* Connections that are queried several times, and mistakes of callers. */

#define _DEFAULT_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "check.h"

#define ALL ((1u << (NGX_RS_VALUE_SUBFLOW_RETRANS + 1)) - 1)
#define ROOM 1024

static ngx_rs_error_t error = NGX_RS_ERROR_INIT;

/* A client, the accepted socket, and the client's address. */
static void connected(int protocol, int fds[2], struct sockaddr_in *peer)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t listener = to_open(&address, NGX_RS_IPPROTO_MPTCP);
    socklen_t length = sizeof(*peer);
    char text[1000] = { 0 };

    WORKS(ngx_rs_open_listening(&listener, 1, NULL, &error));
    CHECK(fcntl(listener.fd, F_SETFL, 0) == 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, protocol);
    CHECK(connect(fds[0], (struct sockaddr *) &address, sizeof(address)) == 0);
    fds[1] = accept(listener.fd, (struct sockaddr *) peer, &length);
    CHECK(fds[1] != -1 && close(listener.fd) == 0);
    CHECK(write(fds[0], text, sizeof(text)) == sizeof(text));
    CHECK(recv(fds[1], text, sizeof(text), MSG_WAITALL) == sizeof(text));
}

static void closed(int fds[2])
{
    CHECK(close(fds[0]) == 0 && close(fds[1]) == 0);
}

/* The text of a value, with a 0 at its end. */
static const char *text(ngx_rs_connection_t *handle, uint32_t value)
{
    static char buffer[ROOM + 1];
    size_t length = 77;

    memset(buffer, 0, sizeof(buffer));
    WORKS(ngx_rs_connection_text(handle, value, (uint8_t *) buffer, ROOM,
                                 &length, &error));
    CHECK(length == strlen(buffer));
    return buffer;
}

static void tells_mptcp(void)
{
    ngx_rs_connection_t *handle = NULL, *first;
    struct sockaddr_in peer, nobody = inet4("127.0.0.9", 9);
    char address[32];
    uint32_t kind = 0;
    int fds[2];

    connected(NGX_RS_IPPROTO_MPTCP, fds, &peer);
    snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(peer.sin_port));
    WORKS(ngx_rs_connection_query(&handle, fds[1], ALL,
                                  (struct sockaddr *) &peer, sizeof(peer),
                                  &kind, &error));
    CHECK(handle != NULL && kind == NGX_RS_CONNECTION_MPTCP);
    CHECK(strcmp(text(handle, NGX_RS_VALUE_KIND), "on") == 0);
    CHECK(strcmp(text(handle, NGX_RS_VALUE_SUBFLOW_ADDRS), address) == 0);

    /* Only the first call reads the address. */
    first = handle;
    WORKS(ngx_rs_connection_query(&handle, fds[1], ALL,
                                  (struct sockaddr *) &nobody, 1, &kind,
                                  &error));
    CHECK(handle == first && kind == NGX_RS_CONNECTION_MPTCP);
    CHECK(strcmp(text(handle, NGX_RS_VALUE_SUBFLOW_ADDRS), address) == 0);
    CHECK(strcmp(text(handle, NGX_RS_VALUE_SUBFLOW_BYTES_SENT), "0") == 0);
    CHECK(strcmp(text(handle, NGX_RS_VALUE_SUBFLOW_BYTES_RECEIVED), "1000")
          == 0);
    CHECK(strcmp(text(handle, NGX_RS_VALUE_SUBFLOW_RETRANS), "0") == 0);
    CHECK(strchr(text(handle, NGX_RS_VALUE_SUBFLOW_RTT), '.') != NULL);

    /* The handle keeps its values after the socket is closed. */
    closed(fds);
    CHECK(strcmp(text(handle, NGX_RS_VALUE_SUBFLOW_ADDRS), address) == 0);
    ngx_rs_connection_free(handle);
}

static void tells_no_more_of_others(void)
{
    ngx_rs_connection_t *tcp = NULL, *other = NULL;
    struct sockaddr_in peer;
    uint32_t kind = 0, value;
    int fds[2], pair[2];

    connected(IPPROTO_TCP, fds, &peer);
    WORKS(ngx_rs_connection_query(&tcp, fds[1], ALL, NULL, 0, &kind, &error));
    CHECK(kind == NGX_RS_CONNECTION_TCP);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    WORKS(ngx_rs_connection_query(&other, pair[1], 0, NULL, 0, &kind, &error));
    CHECK(kind == NGX_RS_CONNECTION_OTHER);
    for (value = 0; value <= NGX_RS_VALUE_SUBFLOW_RETRANS; value++) {
        CHECK(text(tcp, value)[0] == '\0' && text(other, value)[0] == '\0');
    }
    ngx_rs_connection_free(tcp);
    ngx_rs_connection_free(other);
    ngx_rs_connection_free(NULL);
    closed(fds);
    closed(pair);
}

/* The call fails, and writes only the error. */
static void refused(int fd, uint32_t values, const void *peer, socklen_t size,
                    ngx_rs_status_t status, const char *message)
{
    ngx_rs_connection_t *handle = NULL;
    uint32_t kind = 77;

    FAILS(ngx_rs_connection_query(&handle, fd, values, peer, size, &kind,
                                  &error), status, message);
    CHECK(handle == NULL && kind == 77);
    CHECK(ngx_rs_connection_query(&handle, fd, values, peer, size, &kind, NULL)
          == status);
}

static void wrong_queries(int fd)
{
    const char *values = "argument \"values\" has an unknown value";
    const char *peer = "argument \"peer\" is neither an IPv4 nor an IPv6 address";
    const char *asked = "getsockopt(SO_PROTOCOL) failed";
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    int null = open("/dev/null", O_RDONLY);
    ngx_rs_connection_t *handle = NULL;
    uint32_t kind = 77;

    FAILS(ngx_rs_connection_query(NULL, fd, ALL, NULL, 0, &kind, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"handle\" is NULL");
    FAILS(ngx_rs_connection_query(&handle, fd, ALL, NULL, 0, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"kind\" is NULL");
    CHECK(handle == NULL && kind == 77);
    refused(fd, ALL + 1, NULL, 0, NGX_RS_ERR_ARGUMENT, values);
    refused(fd, 0xffffffff, NULL, 0, NGX_RS_ERR_ARGUMENT, values);
    refused(-1, ALL, NULL, 0, NGX_RS_ERR_ARGUMENT,
            "argument \"fd\" is negative");
    refused(fd, ALL, &address, 0, NGX_RS_ERR_ARGUMENT, peer);
    refused(fd, ALL, &address, sizeof(address) - 1, NGX_RS_ERR_ARGUMENT, peer);
    address.sin_family = AF_INET6;
    refused(fd, ALL, &address, sizeof(address), NGX_RS_ERR_ARGUMENT, peer);
    address.sin_family = AF_UNIX;
    refused(fd, ALL, &address, sizeof(address), NGX_RS_ERR_ARGUMENT, peer);
    address.sin_family = AF_UNSPEC;
    refused(fd, ALL, &address, sizeof(address), NGX_RS_ERR_ARGUMENT, peer);
    refused(null, ALL, NULL, 0, NGX_RS_ERR_SYSCALL, asked);
    CHECK(error.os_errno == ENOTSOCK && close(null) == 0);
    refused(null, ALL, NULL, 0, NGX_RS_ERR_SYSCALL, asked);
    CHECK(error.os_errno == EBADF);
}

/* A failed query does not change the handle. */
static void wrong_later_queries(int fd)
{
    ngx_rs_connection_t *handle = NULL, *first;
    uint32_t kind = 77;
    int closed_fd = dup(1);

    CHECK(close(closed_fd) == 0);
    WORKS(ngx_rs_connection_query(&handle, fd, ALL, NULL, 0, &kind, &error));
    first = handle;
    kind = 77;
    FAILS(ngx_rs_connection_query(&handle, fd, ALL + 1, NULL, 0, &kind,
                                  &error), NGX_RS_ERR_ARGUMENT, "\"values\"");
    FAILS(ngx_rs_connection_query(&handle, -1, ALL, NULL, 0, &kind, &error),
          NGX_RS_ERR_ARGUMENT, "argument \"fd\" is negative");
    FAILS(ngx_rs_connection_query(&handle, closed_fd, ALL, NULL, 0, &kind,
                                  &error), NGX_RS_ERR_SYSCALL, "getsockopt(");
    CHECK(error.os_errno == EBADF && handle == first && kind == 77);
    CHECK(strcmp(text(handle, NGX_RS_VALUE_KIND), "on") == 0);
    ngx_rs_connection_free(handle);
}

static void wrong_texts(int fd)
{
    ngx_rs_connection_t *handle = NULL;
    uint8_t buffer[2] = { 7, 7 };
    size_t length = 77;
    uint32_t kind;

    WORKS(ngx_rs_connection_query(&handle, fd, 1 << NGX_RS_VALUE_KIND, NULL, 0,
                                  &kind, &error));
    FAILS(ngx_rs_connection_text(NULL, NGX_RS_VALUE_KIND, buffer, 2, &length,
                                 &error),
          NGX_RS_ERR_ARGUMENT, "pointer \"handle\" is NULL");
    FAILS(ngx_rs_connection_text(handle, NGX_RS_VALUE_SUBFLOW_RETRANS + 1,
                                 buffer, 2, &length, &error),
          NGX_RS_ERR_ARGUMENT, "argument \"value\" is unknown");
    FAILS(ngx_rs_connection_text(handle, 0xffffffff, buffer, 2, &length,
                                 &error),
          NGX_RS_ERR_ARGUMENT, "argument \"value\" is unknown");
    FAILS(ngx_rs_connection_text(handle, NGX_RS_VALUE_KIND, NULL, 2, &length,
                                 &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"text\" is NULL");
    FAILS(ngx_rs_connection_text(handle, NGX_RS_VALUE_KIND, buffer, 2, NULL,
                                 &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"length\" is NULL");
    CHECK(length == 77 && buffer[0] == 7);

    /* If the buffer is too short, only the needed length is returned. */
    WORKS(ngx_rs_connection_text(handle, NGX_RS_VALUE_KIND, buffer, 1, &length,
                                 &error));
    CHECK(length == 2 && buffer[0] == 7);
    WORKS(ngx_rs_connection_text(handle, NGX_RS_VALUE_KIND, buffer, 2, &length,
                                 &error));
    CHECK(length == 2 && memcmp(buffer, "on", 2) == 0);
    ngx_rs_connection_free(handle);
}

int main(void)
{
    int before = dup(1), after, fds[2];
    struct sockaddr_in peer;

    close(before);
    tells_mptcp();
    tells_no_more_of_others();
    connected(NGX_RS_IPPROTO_MPTCP, fds, &peer);
    wrong_queries(fds[1]);
    wrong_later_queries(fds[1]);
    wrong_texts(fds[1]);
    closed(fds);
    after = dup(1);
    CHECK(before == after && close(after) == 0);
    return 0;
}
