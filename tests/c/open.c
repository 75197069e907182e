/* Opening, inheriting, committing and rolling back as in nginx. */

#define _DEFAULT_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "check.h"

#define OLD 3

static ngx_rs_error_t error = NGX_RS_ERROR_INIT;

/* The reports, each as one letter. */
static char reports[32];
static int holder = -1;

static void report(void *data, uint32_t event, const ngx_rs_error_t *said)
{
    char *next = data;

    next += strlen(next);
    switch (event) {
    case NGX_RS_REPORT_IN_USE:
        *next = 'u';
        CHECK(said->status == NGX_RS_ERR_SYSCALL);
        CHECK(said->os_errno == EADDRINUSE);
        CHECK(strcmp(said->message, "bind() to 127.0.0.1:80 failed") == 0);
        break;
    case NGX_RS_REPORT_WAITING:
        *next = 'w';
        CHECK(said->status == NGX_RS_OK && said->os_errno == 0);
        CHECK(strcmp(said->message, "try again to bind() after 10ms") == 0);
        if (holder != -1 && strlen(reports) == 4) {
            CHECK(close(holder) == 0);
            holder = -1;
        }
        break;
    case NGX_RS_REPORT_KEPT:
        *next = 'k';
        CHECK(said->status == NGX_RS_OK && said->os_errno == 0);
        CHECK(strstr(said->message, "\"mptcp\" for 127.0.0.1:80 has no effect")
              == said->message);
        break;
    case NGX_RS_REPORT_DRAIN_ENDED:
        *next = 'd';
        CHECK(said->status == NGX_RS_OK && said->os_errno == 0);
        CHECK(strstr(said->message, "the old socket on 127.0.0.1:80 ") != NULL);
        break;
    case NGX_RS_REPORT_FALLBACK:
        *next = 'f';
        CHECK(said->status == NGX_RS_ERR_UNSUPPORTED);
        CHECK(strstr(said->message, "net.mptcp.enabled=1") != NULL);
        break;
    default:
        CHECK(!"a known event");
    }
}

static void opens_mptcp_and_tcp(void)
{
    struct sockaddr_in address[2] = { inet4("127.0.0.1", 80),
                                      inet4("127.0.0.1", 81) };
    ngx_rs_listening_t sockets[2] = { to_open(&address[0], 262),
                                      to_open(&address[1], 0) };
    int i;

    WORKS(ngx_rs_open_listening(sockets, 2, NULL, &error));
    for (i = 0; i < 2; i++) {
        int wanted = i == 0 ? NGX_RS_IPPROTO_MPTCP : IPPROTO_TCP;

        CHECK(sockets[i].outcome == NGX_RS_OPENED);
        CHECK(sockets[i].opened_protocol == wanted);
        CHECK(option(sockets[i].fd, SO_PROTOCOL) == wanted);
        CHECK(option(sockets[i].fd, SO_ACCEPTCONN) == 1);
        CHECK(fcntl(sockets[i].fd, F_GETFL) & O_NONBLOCK);
        CHECK((fcntl(sockets[i].fd, F_GETFD) & FD_CLOEXEC) == 0);
    }
    WORKS(ngx_rs_listening_rollback(sockets, 2, NULL, &error));
    for (i = 0; i < 2; i++) {
        CHECK(sockets[i].fd == -1);
        CHECK(sockets[i].outcome == NGX_RS_UNTOUCHED);
    }
}

static void retries_and_reports(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t held = to_open(&address, 0);
    ngx_rs_listening_t socket = to_open(&address, 262);
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;

    WORKS(ngx_rs_open_listening(&held, 1, NULL, &error));
    FAILS(ngx_rs_open_listening(&socket, 1, NULL, &error), NGX_RS_ERR_SYSCALL,
          "bind() to 127.0.0.1:80 failed");
    CHECK(error.os_errno == EADDRINUSE && socket.fd == -1);

    how.tries = 5;
    how.delay_ms = 10;
    how.report = report;
    how.data = reports;
    holder = held.fd;
    WORKS(ngx_rs_open_listening(&socket, 1, &how, &error));
    CHECK(strcmp(reports, "uwuw") == 0 && socket.outcome == NGX_RS_OPENED);
    CHECK(close(socket.fd) == 0);
}

/* Three old sockets: one is kept, one superseded, one unused. */
static void hands_over(int commit)
{
    struct sockaddr_in address[OLD + 1];
    ngx_rs_listening_t before[OLD], after[OLD];
    ngx_rs_inherited_t old[OLD];
    ngx_rs_inherited_t init = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    int i;

    for (i = 0; i <= OLD; i++) {
        address[i] = inet4("127.0.0.1", 80 + i);
    }
    for (i = 0; i < OLD; i++) {
        before[i] = to_open(&address[i], i == 0 ? 262 : 0);
    }
    WORKS(ngx_rs_open_listening(before, OLD, NULL, &error));
    for (i = 0; i < OLD; i++) {
        old[i] = init;
        old[i].fd = before[i].fd;
    }
    /* The library does not query values that the caller passes. */
    old[1].sockaddr = before[1].sockaddr;
    old[1].socklen = before[1].socklen;
    old[1].type = SOCK_STREAM;
    old[1].protocol = IPPROTO_TCP;
    old[1].flags = NGX_RS_INHERITED_ALONE;

    after[0] = to_open(&address[OLD], 262);
    after[1] = to_open(&address[1], 262);
    after[2] = to_open(&address[0], 262);
    how.flags = NGX_RS_OPEN_PREPARE;
    how.inherited = old;
    how.inherited_count = OLD;
    WORKS(ngx_rs_open_listening(after, OLD, &how, &error));
    CHECK(after[0].outcome == NGX_RS_OPENED);
    CHECK(after[1].outcome == NGX_RS_SUCCESSOR);
    CHECK(after[2].outcome == NGX_RS_INHERITED && after[2].inherited == 0);
    CHECK(after[2].fd == before[0].fd);
    CHECK(old[0].disposition == NGX_RS_KEPT && old[0].shared == 0);
    CHECK(old[1].disposition == NGX_RS_SUPERSEDED && old[1].shared == 1);
    CHECK(old[2].disposition == NGX_RS_UNUSED && old[2].shared == 0);
    CHECK(option(after[0].fd, SO_ACCEPTCONN) == 1);
    CHECK(option(after[1].fd, SO_ACCEPTCONN) == 0);

    if (commit) {
        WORKS(ngx_rs_listening_commit(after, OLD, &how, &error));
        CHECK(option(after[1].fd, SO_ACCEPTCONN) == 1);
        CHECK(close(after[0].fd) == 0 && close(after[1].fd) == 0);
    } else {
        WORKS(ngx_rs_listening_rollback(after, OLD, &how, &error));
        CHECK(option(before[1].fd, SO_REUSEPORT) == 0);
        CHECK(old[1].shared == 0 && old[1].disposition == NGX_RS_UNUSED);
    }
    for (i = 0; i < OLD; i++) {
        CHECK(option(before[i].fd, SO_ACCEPTCONN) == 1);
        CHECK(close(before[i].fd) == 0);
    }
}

static int client(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK(fd != -1);
    CHECK(connect(fd, (const struct sockaddr *) address, sizeof(*address))
          == 0);
    return fd;
}

static void is_served_by(int listening)
{
    int fd = accept(listening, NULL, NULL);

    CHECK(fd != -1 && close(fd) == 0);
}

/* Opens a TCP socket, and lets an MPTCP socket supersede it. */
static void supersedes(ngx_rs_listening_t *before, ngx_rs_listening_t *after,
                       ngx_rs_inherited_t *old, ngx_rs_open_t *how)
{
    WORKS(ngx_rs_open_listening(before, 1, NULL, &error));
    old->fd = before->fd;
    how->flags = NGX_RS_OPEN_PREPARE;
    how->inherited = old;
    how->inherited_count = 1;
    WORKS(ngx_rs_open_listening(after, 1, how, &error));
    CHECK(after->outcome == NGX_RS_SUCCESSOR);
    CHECK(old->disposition == NGX_RS_SUPERSEDED);
}

/* A superseded socket listens until its queue is empty. */
static void drains(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t before = to_open(&address, 0);
    ngx_rs_listening_t after = to_open(&address, 262);
    ngx_rs_listening_t third = to_open(&address, 6);
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_inherited_t second = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    ngx_rs_draining_t all[2] = { NGX_RS_DRAINING_INIT };
    ngx_rs_drain_t *drain = NULL;
    int early, late;
    uint32_t delay = 0;
    size_t count = 0;

    supersedes(&before, &after, &old, &how);
    early = client(&address);
    WORKS(ngx_rs_listening_commit(&after, 1, &how, &error));
    WORKS(ngx_rs_drain_begin(&drain, &after, 1, &how, 10, 1000, &error));
    CHECK(drain != NULL && old.disposition == NGX_RS_DRAINING);
    late = client(&address);
    is_served_by(after.fd);

    WORKS(ngx_rs_drain_poll(drain, all, 2, &count, &delay, &error));
    CHECK(count == 1 && all[0].fd == old.fd && all[0].ended == 0);
    CHECK(delay > 0 && delay < 5000);
    CHECK(usleep((delay + 50) * 1000) == 0);
    WORKS(ngx_rs_drain_poll(drain, all, 2, &count, NULL, &error));
    CHECK(count == 1 && all[0].ended == 0);
    CHECK(option(old.fd, SO_ACCEPTCONN) == 1);
    is_served_by(old.fd);
    WORKS(ngx_rs_drain_poll(drain, all, 2, &count, &delay, &error));
    CHECK(count == 1 && all[0].ended == 1 && all[0].successor == 0);
    CHECK(delay == 0 && option(old.fd, SO_ACCEPTCONN) == 0);
    CHECK(close(old.fd) == 0 && close(early) == 0 && close(late) == 0);

    /* The address changes again; a reload that must bind it ends the drain. */
    second.fd = after.fd;
    how.inherited = &second;
    how.drain = drain;
    how.report = report;
    how.data = memset(reports, 0, sizeof(reports));
    WORKS(ngx_rs_open_listening(&third, 1, &how, &error));
    CHECK(reports[0] == '\0');
    WORKS(ngx_rs_listening_commit(&third, 1, &how, &error));
    WORKS(ngx_rs_drain_begin(&drain, &third, 1, &how, 0, 0, &error));
    CHECK(drain == how.drain && second.disposition == NGX_RS_DRAINING);
    old = second;
    second.fd = third.fd;
    after = to_open(&address, 262);
    WORKS(ngx_rs_open_listening(&after, 1, &how, &error));
    CHECK(strcmp(reports, "d") == 0 && option(old.fd, SO_ACCEPTCONN) == 0);
    WORKS(ngx_rs_listening_commit(&after, 1, &how, &error));
    WORKS(ngx_rs_drain_begin(&drain, &after, 1, &how, 0, 0, &error));
    WORKS(ngx_rs_drain_poll(drain, all, 2, &count, &delay, &error));
    CHECK(count == 2 && all[0].fd == old.fd && all[0].ended == 1);
    CHECK(all[1].fd == third.fd && all[1].ended == 0);
    CHECK(close(old.fd) == 0);
    ngx_rs_drain_free(drain);
    CHECK(option(third.fd, SO_ACCEPTCONN) == 0);
    CHECK(option(after.fd, SO_ACCEPTCONN) == 1);
    CHECK(close(third.fd) == 0 && close(after.fd) == 0);
    ngx_rs_drain_free(NULL);
}

/* Without enough free descriptors the caller keeps the superseded socket. */
static void has_no_room(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t before = to_open(&address, 0);
    ngx_rs_listening_t after = to_open(&address, 262);
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    ngx_rs_drain_t *drain = NULL;
    size_t count = 1;

    supersedes(&before, &after, &old, &how);
    WORKS(ngx_rs_listening_commit(&after, 1, &how, &error));
    FAILS(ngx_rs_drain_begin(&drain, &after, 1, &how, 10, 4, &error),
          NGX_RS_ERR_SYSCALL, "dup() failed, not enough descriptors to drain");
    CHECK(drain != NULL && old.disposition == NGX_RS_SUPERSEDED);
    WORKS(ngx_rs_drain_poll(drain, NULL, 0, &count, NULL, &error));
    CHECK(count == 0);
    ngx_rs_drain_free(drain);
    CHECK(option(old.fd, SO_ACCEPTCONN) == 1);
    CHECK(close(old.fd) == 0 && close(after.fd) == 0);
}

static uint64_t cookie(int fd)
{
    uint64_t value = 0;
    socklen_t size = sizeof(value);

    CHECK(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &value, &size) == 0);
    return value;
}

/* The address gets another listener between bind() and listen(). */
static void cannot_listen(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t before = to_open(&address, 0);
    ngx_rs_listening_t after = to_open(&address, 262);
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    int fd;

    supersedes(&before, &after, &old, &how);
    fd = after.fd;
    /* listen() fails on a connected socket. */
    CHECK(connect(fd, (const struct sockaddr *) &address, sizeof(address)) == 0
          || errno == EINPROGRESS);
    FAILS(ngx_rs_listening_commit(&after, 1, &how, &error),
          NGX_RS_ERR_SYSCALL,
          "listen() to 127.0.0.1:80, backlog 511 failed, "
          "keeping the old socket");
    CHECK(after.outcome == NGX_RS_FAILED && after.inherited == 0);
    CHECK(after.fd == fd && after.opened_protocol == IPPROTO_TCP);
    CHECK(old.disposition == NGX_RS_KEPT && old.shared == 0);
    CHECK(cookie(after.fd) == cookie(old.fd));
    CHECK(option(after.fd, SO_ACCEPTCONN) == 1);
    /* The caller owns both descriptors. */
    CHECK(close(old.fd) == 0);
    WORKS(ngx_rs_listening_rollback(&after, 1, NULL, &error));
    CHECK(after.fd == -1 && close(fd) == -1);
}

/* Another process uses the socket too. */
static void keeps_what_is_in_use(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t before = to_open(&address, 0);
    ngx_rs_listening_t after = to_open(&address, 262);
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;

    WORKS(ngx_rs_open_listening(&before, 1, NULL, &error));
    old.fd = before.fd;
    old.flags = NGX_RS_INHERITED_IN_USE;
    how.inherited = &old;
    how.inherited_count = 1;
    how.report = report;
    how.data = memset(reports, 0, sizeof(reports));
    WORKS(ngx_rs_open_listening(&after, 1, &how, &error));
    CHECK(after.outcome == NGX_RS_INHERITED && strcmp(reports, "k") == 0);
    CHECK(after.opened_protocol == IPPROTO_TCP);
    old.flags = NGX_RS_INHERITED_PASSED;
    WORKS(ngx_rs_open_listening(&after, 1, &how, &error));
    CHECK(after.outcome == NGX_RS_SUCCESSOR && strcmp(reports, "k") == 0);
    CHECK(close(after.fd) == 0 && close(old.fd) == 0);
}

static void leaves_and_checks(void)
{
    struct sockaddr_in address[2] = { inet4("127.0.0.1", 80),
                                      inet4("127.0.0.1", 81) };
    ngx_rs_listening_t sockets[2] = { to_open(&address[0], 262),
                                      to_open(&address[1], 0) };
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;

    how.flags = NGX_RS_OPEN_CHECK;
    WORKS(ngx_rs_open_listening(sockets, 2, &how, &error));
    CHECK(sockets[0].fd == -1 && sockets[0].outcome == NGX_RS_LEFT);
    CHECK(sockets[1].fd == -1 && sockets[1].outcome == NGX_RS_LEFT);
    CHECK(sockets[0].opened_protocol == NGX_RS_IPPROTO_MPTCP);
    CHECK(sockets[1].opened_protocol == IPPROTO_TCP);

    how.flags = NGX_RS_OPEN_LEAVE_TCP;
    WORKS(ngx_rs_open_listening(sockets, 2, &how, &error));
    CHECK(sockets[0].fd >= 0 && sockets[0].outcome == NGX_RS_OPENED);
    CHECK(sockets[1].fd == -1 && sockets[1].outcome == NGX_RS_LEFT);
    CHECK(close(sockets[0].fd) == 0);
}

static void assigns(void)
{
    struct sockaddr_in any = inet4("0.0.0.0", 80);
    struct sockaddr_in home = inet4("127.0.0.1", 80);
    ngx_rs_listening_t socket = to_open(&any, 0);
    ngx_rs_listening_t requested[3] = { to_open(&home, 0), to_open(&any, 262),
                                    to_open(&home, 262) };

    requested[1].flags = requested[2].flags = NGX_RS_LISTENING_FALLBACK;
    WORKS(ngx_rs_listening_assign(&socket, 1, requested, 3, &error));
    CHECK(socket.protocol == NGX_RS_IPPROTO_MPTCP);
    CHECK(socket.flags == NGX_RS_LISTENING_FALLBACK);

    /* The index also counts elements that request no protocol. */
    requested[2].flags = 0;
    FAILS(ngx_rs_listening_assign(&socket, 1, requested, 3, &error),
          NGX_RS_ERR_CONFLICT,
          "nginx uses one socket for 0.0.0.0:80 and 127.0.0.1:80: "
          "add \"mptcp\" to both");
    CHECK(error.arg_index == 2);
    CHECK(socket.protocol == NGX_RS_IPPROTO_MPTCP);
    WORKS(ngx_rs_listening_assign(&socket, 1, NULL, 0, &error));
    CHECK(socket.protocol == 0 && socket.flags == 0);
}

/* Opens with net.mptcp.enabled=0. */
static void falls_back(void)
{
    struct sockaddr_in address[2] = { inet4("127.0.0.1", 80),
                                      inet4("127.0.0.1", 81) };
    ngx_rs_listening_t sockets[2] = { to_open(&address[0], 262),
                                      to_open(&address[1], 262) };
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    FILE *sysctl = fopen("/proc/sys/net/mptcp/enabled", "w");

    CHECK(sysctl != NULL && fputs("0", sysctl) >= 0 && fclose(sysctl) == 0);
    FAILS(ngx_rs_protocol_check(NGX_RS_IPPROTO_MPTCP, &error),
          NGX_RS_ERR_UNSUPPORTED, "net.mptcp.enabled=1");
    CHECK(error.os_errno == ENOPROTOOPT);
    FAILS(ngx_rs_open_listening(sockets, 2, NULL, &error),
          NGX_RS_ERR_UNSUPPORTED,
          "socket() 127.0.0.1:80 failed: MPTCP is switched off, "
          "set sysctl net.mptcp.enabled=1");

    sockets[0].flags = sockets[1].flags = NGX_RS_LISTENING_FALLBACK;
    memset(reports, 0, sizeof(reports));
    how.report = report;
    how.data = reports;
    WORKS(ngx_rs_open_listening(sockets, 2, &how, &error));
    CHECK(strcmp(reports, "f") == 0);
    CHECK(sockets[0].opened_protocol == IPPROTO_TCP);
    CHECK(option(sockets[1].fd, SO_PROTOCOL) == IPPROTO_TCP);
    WORKS(ngx_rs_listening_rollback(sockets, 2, &how, &error));
}

/* The kernel may lack SMC, so the caller passes SMC as the protocol of a
 * socket of another protocol. */
static void leaves_smc(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t held = to_open(&address, 0);
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    int i;

    WORKS(ngx_rs_open_listening(&held, 1, NULL, &error));
    old.fd = held.fd;
    old.protocol = NGX_RS_IPPROTO_SMC;
    how.tries = 5;
    how.delay_ms = 1000;
    how.report = report;
    how.data = reports;
    how.inherited = &old;
    how.inherited_count = 1;
    memset(reports, 0, sizeof(reports));
    for (i = 0; i < 2; i++) {
        ngx_rs_listening_t socket = to_open(&address, i == 0 ? 0 : 262);

        FAILS(ngx_rs_open_listening(&socket, 1, &how, &error),
              NGX_RS_ERR_UNSUPPORTED,
              "the kernel binds no other socket beside the SMC socket on "
              "127.0.0.1:80: restart the server, or remove the listener and "
              "reload, then add it and reload");
        CHECK(error.os_errno == 0 && socket.fd == -1);
        CHECK(old.disposition == NGX_RS_UNUSED && old.shared == 0);
        CHECK(option(held.fd, SO_REUSEPORT) == 0);
    }
    CHECK(reports[0] == 0);
    CHECK(close(held.fd) == 0);
}

int main(void)
{
    int before = dup(1), after;

    close(before);
    WORKS(ngx_rs_protocol_check(NGX_RS_IPPROTO_MPTCP, &error));
    WORKS(ngx_rs_protocol_check(IPPROTO_TCP, &error));
    WORKS(ngx_rs_option_check(NGX_RS_IPPROTO_MPTCP,
                              NGX_RS_OPTION_KEEPALIVE_TIMES, &error));
    WORKS(ngx_rs_option_check(IPPROTO_TCP, NGX_RS_OPTION_FASTOPEN, &error));
    FAILS(ngx_rs_option_check(NGX_RS_IPPROTO_SMC, NGX_RS_OPTION_FASTOPEN,
                              &error),
          NGX_RS_ERR_UNSUPPORTED, "smc sockets have no \"fastopen\"");
    opens_mptcp_and_tcp();
    retries_and_reports();
    hands_over(1);
    hands_over(0);
    drains();
    has_no_room();
    cannot_listen();
    keeps_what_is_in_use();
    leaves_and_checks();
    assigns();
    leaves_smc();
    falls_back();
    after = dup(1);
    CHECK(before == after && close(after) == 0);
    return 0;
}
