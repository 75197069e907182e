/*
 * An echo server. Its arguments are the words of a listen directive:
 *
 *     echo 127.0.0.1:7000-7003 mptcp=auto backlog=64
 *
 * At the end of each connection it prints whether it was MPTCP, and a line for
 * each path: the addresses, the bytes, the retransmitted segments, and the
 * round trip time. SIGINT and SIGTERM end it.
 *
 * A service manager can pass sockets to it, as sd_listen_fds(3) describes. One
 * of the right address and protocol is used, one of another protocol is
 * replaced, and one that no word asks for is closed.
 */

#define _DEFAULT_SOURCE

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <ngx_rs_listen.h>

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */
#define CLIENTS 1000
#define PATHS 16

/* What a client has sent, and how much of it has gone back; what the kernel
   has said of its connection, last. */
typedef struct {
    size_t sent, filled, count;
    ngx_rs_connection_info_t info;
    ngx_rs_subflow_t paths[PATHS];
    char data[4096];
} echo_t;

static const char *why(const ngx_rs_error_t *error)
{
    static char buffer[512];

    snprintf(buffer, sizeof(buffer), "%s%s%s", error->message,
             error->os_errno == 0 ? "" : ": ",
             error->os_errno == 0 ? "" : strerror(error->os_errno));
    return buffer;
}

static const char *text(const struct sockaddr *address, socklen_t size)
{
    static char buffer[NI_MAXHOST + NI_MAXSERV + 4];
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getnameinfo(address, size, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return "?";
    snprintf(buffer, sizeof(buffer),
             address->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    return buffer;
}

/* The sockets that a service manager has passed on; `count` of them. */
static ngx_rs_inherited_t *inherit(size_t *count)
{
    const ngx_rs_inherited_t init = NGX_RS_INHERITED_INIT;
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    ngx_rs_inherited_t *inherited;
    size_t i;

    *count = 0;
    if (pid == NULL || fds == NULL || atol(pid) != (long) getpid()
        || atol(fds) <= 0)
        return NULL;

    inherited = calloc((size_t) atol(fds), sizeof(*inherited));
    if (inherited == NULL)
        err(1, "calloc");
    *count = (size_t) atol(fds);
    for (i = 0; i < *count; i++) {
        inherited[i] = init;
        inherited[i].fd = FIRST_FD + (int) i;
        /* It may be blocking, and a client may be gone before accept(2). */
        if (fcntl(inherited[i].fd, F_SETFL, O_NONBLOCK) == -1)
            err(1, "LISTEN_FDS");
    }
    return inherited;
}

static const char *name(int protocol)
{
    return protocol == NGX_RS_IPPROTO_MPTCP ? "MPTCP"
           : protocol == IPPROTO_TCP        ? "TCP"
           : protocol == IPPROTO_SCTP       ? "SCTP"
                                            : "another protocol";
}

static void warn_of(void *data, uint32_t event, const ngx_rs_error_t *error)
{
    (void) data;
    if (event == NGX_RS_REPORT_FALLBACK)
        warnx("%s; plain TCP is used", error->message);
}

/* Opens the sockets, and closes inherited ones that are not among them. */
static void open_all(ngx_rs_listening_t *sockets, size_t count)
{
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    size_t i;

    how.report = warn_of;
    how.inherited = inherit(&how.inherited_count);
    if (ngx_rs_open_listening(sockets, count, &how, &error) != NGX_RS_OK)
        errx(1, "%s", why(&error));

    for (i = 0; i < count; i++) {
        printf("%s: %s, %s\n", text(sockets[i].sockaddr, sockets[i].socklen),
               name(sockets[i].opened_protocol),
               sockets[i].outcome == NGX_RS_INHERITED   ? "inherited"
               : sockets[i].outcome == NGX_RS_SUCCESSOR ? "replaced"
                                                        : "opened");
    }
    for (i = 0; i < how.inherited_count; i++) {
        if (how.inherited[i].disposition == NGX_RS_KEPT)
            continue;
        /* The service manager has it as well, where it would go on to listen,
           and keep clients from the socket that takes its place. */
        if (how.inherited[i].disposition == NGX_RS_SUPERSEDED)
            shutdown(how.inherited[i].fd, SHUT_RDWR);
        close(how.inherited[i].fd);
    }
    free(how.inherited);
}

/* A connection that its client resets takes its addresses with it: those of
   an earlier time are kept. */
static void ask(int fd, echo_t *echo)
{
    ngx_rs_subflow_t paths[PATHS] = { NGX_RS_SUBFLOW_INIT };
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    size_t count;

    if (ngx_rs_connection_subflows(fd, paths, PATHS, &count, &echo->info,
                                   &error)
        != NGX_RS_OK)
    {
        warnx("%s", why(&error));
        return;
    }
    if (count > 0) {
        memcpy(echo->paths, paths, sizeof(paths));
        echo->count = count < PATHS ? count : PATHS;
    }
}

/* With a decimal point before the last `decimals` digits, 0 or 3. */
static void figure(const char *name, int64_t value, int decimals)
{
    if (value == NGX_RS_UNKNOWN)
        printf(" %s=-", name);
    else
        printf(" %s=%.*f", name, decimals,
               (double) value / (decimals == 3 ? 1000 : 1));
}

static void describe(const echo_t *echo)
{
    size_t i;

    printf("%s", echo->info.kind == NGX_RS_CONNECTION_MPTCP      ? "MPTCP"
                 : echo->info.kind == NGX_RS_CONNECTION_FALLBACK ? "fallback"
                 : echo->info.kind == NGX_RS_CONNECTION_TCP      ? "TCP"
                                                                 : "other");
    for (i = 0; i < echo->count; i++) {
        const ngx_rs_subflow_t *path = &echo->paths[i];

        printf("\n  %s",
               text((const void *) &path->remote, sizeof(path->remote)));
        printf(" -> %s",
               text((const void *) &path->local, sizeof(path->local)));
        figure("sent", path->bytes_sent, 0);
        figure("received", path->bytes_received, 0);
        figure("retransmits", path->retransmits, 0);
        figure("rtt_ms", path->rtt_us, 3);
    }
    putchar('\n');
}

/* Sends back, or else receives; 0 when there is nothing more to do. */
static int echo(struct pollfd *polled, echo_t *echo)
{
    ssize_t size;

    if (echo->sent < echo->filled) {
        size = send(polled->fd, echo->data + echo->sent,
                    echo->filled - echo->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        echo->sent += size > 0 ? (size_t) size : 0;
    } else {
        size = recv(polled->fd, echo->data, sizeof(echo->data), MSG_DONTWAIT);
        echo->filled = size > 0 ? (size_t) size : 0;
        echo->sent = 0;
        if (size > 0 && echo->info.kind == NGX_RS_CONNECTION_UNQUERIED)
            ask(polled->fd, echo);
    }
    polled->events = echo->sent < echo->filled ? POLLOUT : POLLIN;
    return size > 0 || (size == -1 && (errno == EAGAIN || errno == EINTR));
}

/* polled: the signals, the listening sockets, and room for the clients. */
static void serve(struct pollfd *polled, size_t listening, echo_t *echoes)
{
    const ngx_rs_connection_info_t init = NGX_RS_CONNECTION_INFO_INIT;
    struct pollfd *client = polled + 1 + listening;
    size_t clients = 0, i;

    while (polled[0].revents == 0) {
        if (poll(polled, 1 + listening + clients, -1) == -1) {
            if (errno != EINTR)
                err(1, "poll");
            continue;
        }
        for (i = clients; i-- > 0;) {
            if (client[i].revents == 0 || echo(&client[i], &echoes[i]))
                continue;
            ask(client[i].fd, &echoes[i]);
            describe(&echoes[i]);
            close(client[i].fd);
            clients--;
            client[i] = client[clients];
            echoes[i] = echoes[clients];
        }
        for (i = 1; i <= listening; i++) {
            int room = clients < CLIENTS, fd = -1;

            if (room && polled[i].revents != 0)
                fd = accept(polled[i].fd, NULL, NULL);
            polled[i].events = room ? POLLIN : 0;
            if (fd == -1)
                continue;
            client[clients].fd = fd;
            client[clients].events = POLLIN;
            echoes[clients].sent = echoes[clients].filled = 0;
            echoes[clients].count = 0;
            echoes[clients].info = init;
            clients++;
        }
    }
    while (clients > 0)
        close(client[--clients].fd);
}

int main(int argc, char **argv)
{
    size_t words_count = argc > 1 ? (size_t) argc - 1 : 0, count, i;
    ngx_rs_str_t *words = calloc(words_count + 1, sizeof(*words));
    echo_t *echoes = calloc(CLIENTS, sizeof(*echoes));
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    ngx_rs_listening_t *sockets;
    ngx_rs_listen_t *listen;
    struct pollfd *polled;
    sigset_t signals;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (words_count == 0)
        errx(2, "usage: %s address [parameter ...]", argv[0]);
    if (words == NULL || echoes == NULL)
        err(1, "calloc");
    for (i = 0; i < words_count; i++) {
        words[i].len = strlen(argv[i + 1]);
        words[i].data = (const uint8_t *) argv[i + 1];
    }
    if (ngx_rs_listen_parse(words, words_count, NULL, &listen, &error)
            != NGX_RS_OK
        || ngx_rs_listen_sockets(listen, sizeof(*sockets), &sockets, &count,
                                 &error)
               != NGX_RS_OK)
        errx(1, "%s", why(&error));
    open_all(sockets, count);

    polled = calloc(1 + count + CLIENTS, sizeof(*polled));
    if (polled == NULL)
        err(1, "calloc");
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    polled[0].fd = signalfd(-1, &signals, 0);
    for (i = 0; i < count; i++)
        polled[1 + i].fd = sockets[i].fd;
    for (i = 0; i <= count; i++)
        polled[i].events = POLLIN;

    printf("listening on %lu sockets\n", (unsigned long) count);
    serve(polled, count, echoes);
    for (i = 0; i <= count; i++)
        close(polled[i].fd);
    ngx_rs_listen_free(listen);
    free(polled);
    free(echoes);
    free(words);
    return 0;
}
