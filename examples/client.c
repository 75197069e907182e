/*
 * A client: sends what it reads from standard input to a server, and writes
 * what comes back.
 *
 *     client localhost 7000 < file
 *
 * It connects over MPTCP, or over plain TCP if the kernel does not support
 * MPTCP, and prints on standard error what the connection became.
 */

#define _DEFAULT_SOURCE

#include <err.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <ngx_rs_listen.h>

/* Waits until a socket is connected, or has failed to. */
static int finish_connect(int fd)
{
    struct pollfd polled = { fd, POLLOUT, 0 };
    socklen_t size = sizeof(int);
    int problem = 0;

    while (poll(&polled, 1, -1) == -1) {
        if (errno != EINTR)
            return -1;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size) == -1)
        return -1;
    errno = problem;
    return problem == 0 ? 0 : -1;
}

/* Tries the addresses of a host in turn. */
static int connect_to(const char *host, const char *port)
{
    struct addrinfo hints, *found, *next;
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    int problem, fd = -1;
    int32_t protocol;

    memset(&hints, 0, sizeof(hints));
    hints.ai_socktype = SOCK_STREAM;
    problem = getaddrinfo(host, port, &hints, &found);
    if (problem != 0)
        errx(1, "%s: %s", host, gai_strerror(problem));
    for (next = found; next != NULL; next = next->ai_next) {
        if (ngx_rs_connect_socket(next->ai_addr, next->ai_addrlen,
                                  NGX_RS_IPPROTO_MPTCP,
                                  NGX_RS_CONNECT_FALLBACK, &fd, &protocol,
                                  &error)
            != NGX_RS_OK)
        {
            errno = error.os_errno;
            err(1, "%s", error.message);
        }
        if (connect(fd, next->ai_addr, next->ai_addrlen) == 0
            || (errno == EINPROGRESS && finish_connect(fd) == 0))
            break;
        warn("%s", host);
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

static void describe(int fd)
{
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;

    if (ngx_rs_connection_info(fd, &info, &error) != NGX_RS_OK)
        errx(1, "%s", error.message);
    warnx("%s", info.kind == NGX_RS_CONNECTION_MPTCP      ? "MPTCP"
                : info.kind == NGX_RS_CONNECTION_FALLBACK ? "fallback to TCP"
                                                          : "TCP");
}

/* What read(2) and write(2) have done: 0 if they have to be called later. */
static size_t done(ssize_t size, const char *call)
{
    if (size == -1 && errno != EAGAIN && errno != EINTR)
        err(1, "%s", call);
    return size == -1 ? 0 : (size_t) size;
}

/* Copies both ways, until the server has sent all. */
static void talk(int fd)
{
    struct pollfd server = { fd, POLLIN, 0 }, input = { 0, POLLIN, 0 };
    char data[4096], back[4096];
    size_t filled = 0, sent = 0, got;
    ssize_t size;

    for (;;) {
        struct pollfd polled[2];

        /* poll(2) ignores a negative descriptor. */
        server.events = sent < filled ? POLLIN | POLLOUT : POLLIN;
        polled[0] = server;
        polled[1] = input;
        if (sent < filled)
            polled[1].fd = -1;
        if (poll(polled, 2, -1) == -1)
            continue;
        if (polled[0].revents & (POLLIN | POLLHUP | POLLERR)) {
            size = read(fd, back, sizeof(back));
            if (size == 0)
                return;
            got = done(size, "read");
            if (fwrite(back, 1, got, stdout) != got)
                err(1, "write");
        }
        if (polled[0].revents & POLLOUT)
            sent += done(write(fd, data + sent, filled - sent), "write");
        if (polled[1].fd != -1 && polled[1].revents != 0) {
            size = read(0, data, sizeof(data));
            filled = done(size, "read");
            sent = 0;
            if (size == 0) {
                shutdown(fd, SHUT_WR);
                input.fd = -1;
            }
        }
    }
}

int main(int argc, char **argv)
{
    int fd;

    if (argc != 3)
        errx(2, "usage: %s host port", argv[0]);
    fd = connect_to(argv[1], argv[2]);
    if (fd == -1)
        return 1;
    describe(fd);
    signal(SIGPIPE, SIG_IGN);
    talk(fd);
    close(fd);
    return fflush(stdout) == 0 ? 0 : 1;
}
