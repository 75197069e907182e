/* ngx_rs_connect_socket(): sockets of clients, and mistakes of callers. */

#define _DEFAULT_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"

static ngx_rs_error_t error = NGX_RS_ERROR_INIT;

/* Opens a socket as the module does. */
static ngx_rs_status_t open_for(const void *address, size_t size,
                                int32_t protocol, uint32_t flags, int *fd,
                                int32_t *opened)
{
    return ngx_rs_connect_socket(address, (uint32_t) size, protocol, flags, fd,
                                 opened, &error);
}

static int protocol_of(int fd)
{
    return option(fd, SO_PROTOCOL);
}

/* Checks the documented properties of a socket. */
static void is_ready(int fd, int domain, int protocol)
{
    CHECK(option(fd, SO_DOMAIN) == domain);
    CHECK(option(fd, SO_TYPE) == SOCK_STREAM);
    CHECK(protocol_of(fd) == protocol);
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
}

static void opens(void)
{
    struct sockaddr_in v4 = inet4("127.0.0.1", 80);
    struct sockaddr_in6 v6 = { 0 };
    int protocols[] = { NGX_RS_IPPROTO_MPTCP, IPPROTO_TCP };
    int32_t opened;
    size_t i;
    int fd;

    v6.sin6_family = AF_INET6;
    v6.sin6_addr = in6addr_loopback;
    for (i = 0; i < 2; i++) {
        WORKS(open_for(&v4, sizeof(v4), protocols[i], 0, &fd, &opened));
        CHECK(opened == protocols[i]);
        is_ready(fd, AF_INET, protocols[i]);
        CHECK(close(fd) == 0);
        WORKS(open_for(&v6, sizeof(v6), protocols[i], NGX_RS_CONNECT_FALLBACK,
                       &fd, &opened));
        CHECK(opened == protocols[i]);
        is_ready(fd, AF_INET6, protocols[i]);
        CHECK(close(fd) == 0);
    }
}

/* Connects to an MPTCP listener: the connection is MPTCP on both sides. */
static void connects(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t listener = to_open(&address, NGX_RS_IPPROTO_MPTCP);
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    struct pollfd polled = { 0 };
    char byte = 'x';
    int32_t opened;
    int fd, peer;

    WORKS(ngx_rs_open_listening(&listener, 1, NULL, &error));
    WORKS(open_for(&address, sizeof(address), NGX_RS_IPPROTO_MPTCP, 0, &fd,
                   &opened));
    CHECK(connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0
          || errno == EINPROGRESS);
    polled.fd = fd;
    polled.events = POLLOUT;
    CHECK(poll(&polled, 1, 10000) == 1);
    CHECK(option(fd, SO_ERROR) == 0);
    CHECK(write(fd, &byte, 1) == 1);
    polled.fd = listener.fd;
    polled.events = POLLIN;
    CHECK(poll(&polled, 1, 10000) == 1);
    peer = accept(listener.fd, NULL, NULL);
    CHECK(peer != -1);
    WORKS(ngx_rs_connection_info(fd, &info, &error));
    CHECK(info.kind == NGX_RS_CONNECTION_MPTCP);
    CHECK(close(fd) == 0 && close(peer) == 0 && close(listener.fd) == 0);
}

/* The call fails, opens no socket, and writes no result. */
static void refused(const void *address, size_t size, int32_t protocol,
                    uint32_t flags, ngx_rs_status_t status, const char *text)
{
    int32_t opened = 77;
    int fd = 77;
    int next = dup(0), after;

    CHECK(next != -1 && close(next) == 0);
    FAILS(open_for(address, size, protocol, flags, &fd, &opened), status,
          text);
    CHECK(fd == 77 && opened == 77);
    CHECK(ngx_rs_connect_socket(address, (uint32_t) size, protocol, flags, &fd,
                                &opened, NULL)
          == status);
    CHECK(fd == 77 && opened == 77);
    after = dup(0);
    CHECK(after == next && close(after) == 0);
}

static void mistakes(void)
{
    struct sockaddr_in home = inet4("127.0.0.1", 80);
    const char *family = "argument \"address\" is neither an IPv4 nor an IPv6 "
                         "address";
    struct sockaddr_un local = { 0 };
    int32_t opened;
    int fd;

    local.sun_family = AF_UNIX;
    refused(NULL, sizeof(home), NGX_RS_IPPROTO_MPTCP, 0, NGX_RS_ERR_ARGUMENT,
            "pointer \"address\" is NULL");
    refused(&local, sizeof(local), NGX_RS_IPPROTO_MPTCP, 0,
            NGX_RS_ERR_ARGUMENT, family);
    refused(&home, 0, NGX_RS_IPPROTO_MPTCP, 0, NGX_RS_ERR_ARGUMENT, family);
    refused(&home, 1, NGX_RS_IPPROTO_MPTCP, 0, NGX_RS_ERR_ARGUMENT, family);
    refused(&home, sizeof(home) - 9, NGX_RS_IPPROTO_MPTCP, 0,
            NGX_RS_ERR_ARGUMENT, family);
    refused(&home, sizeof(home), NGX_RS_IPPROTO_MPTCP, 2, NGX_RS_ERR_ARGUMENT,
            "argument \"flags\" has an unknown flag");
    refused(&home, sizeof(home), NGX_RS_IPPROTO_MPTCP, 0x80000001,
            NGX_RS_ERR_ARGUMENT, "argument \"flags\" has an unknown flag");
    refused(&home, sizeof(home), -1, 0, NGX_RS_ERR_ARGUMENT, "protocol");
    refused(&home, sizeof(home), IPPROTO_UDP, 0, NGX_RS_ERR_UNSUPPORTED, "");

    FAILS(open_for(&home, sizeof(home), NGX_RS_IPPROTO_MPTCP, 0, NULL,
                   &opened),
          NGX_RS_ERR_ARGUMENT, "output pointer \"fd\" is NULL");
    FAILS(open_for(&home, sizeof(home), NGX_RS_IPPROTO_MPTCP, 0, &fd, NULL),
          NGX_RS_ERR_ARGUMENT, "output pointer \"opened_protocol\" is NULL");
}

/* Without free descriptors the call does not fall back to TCP. */
static void without_descriptors(void)
{
    struct sockaddr_in home = inet4("127.0.0.1", 80);
    struct rlimit old, low;
    int32_t opened = 77;
    int fd = 77;

    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    low = old;
    low.rlim_cur = 3;
    CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0);
    FAILS(open_for(&home, sizeof(home), NGX_RS_IPPROTO_MPTCP,
                   NGX_RS_CONNECT_FALLBACK, &fd, &opened),
          NGX_RS_ERR_SYSCALL, "socket() failed");
    CHECK(error.os_errno == EMFILE && fd == 77 && opened == 77);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
}

/* This switches MPTCP off in the network namespace, so it has to be last. */
static void without_mptcp(void)
{
    struct sockaddr_in home = inet4("127.0.0.1", 80);
    FILE *enabled = fopen("/proc/sys/net/mptcp/enabled", "w");
    int32_t opened;
    int fd;

    CHECK(enabled != NULL && fputs("0", enabled) > 0 && fclose(enabled) == 0);
    refused(&home, sizeof(home), NGX_RS_IPPROTO_MPTCP, 0,
            NGX_RS_ERR_UNSUPPORTED,
            "MPTCP is switched off, set sysctl net.mptcp.enabled=1");
    WORKS(open_for(&home, sizeof(home), NGX_RS_IPPROTO_MPTCP,
                   NGX_RS_CONNECT_FALLBACK, &fd, &opened));
    CHECK(opened == IPPROTO_TCP);
    is_ready(fd, AF_INET, IPPROTO_TCP);
    CHECK(close(fd) == 0);
}

int main(void)
{
    opens();
    connects();
    mistakes();
    without_descriptors();
    without_mptcp();
    return 0;
}
