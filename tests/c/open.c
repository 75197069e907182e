/* Opening, inheriting, committing and rolling back, as nginx does it. */

#define _DEFAULT_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "check.h"

#define OLD 3

static ngx_rs_error_t error = NGX_RS_ERROR_INIT;

/* What was reported, in one letter each. */
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
    case NGX_RS_REPORT_DRAINS:
        *next = 'd';
        CHECK(said->status == NGX_RS_OK && said->os_errno == 0);
        CHECK(strcmp(said->message, "the old socket of 127.0.0.1:80 is still "
                     "in use, waiting for its end") == 0);
        CHECK(close(holder) == 0);
        holder = -1;
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

/* Three old sockets: one goes on, one is replaced, one is not wanted. */
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
    /* What is known already need not be asked. */
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
    CHECK(after[1].outcome == NGX_RS_REPLACED);
    CHECK(after[2].outcome == NGX_RS_INHERITED && after[2].inherited == 0);
    CHECK(after[2].fd == before[0].fd);
    CHECK(old[0].fate == NGX_RS_KEPT && old[0].shared == 0);
    CHECK(old[1].fate == NGX_RS_SUPERSEDED && old[1].shared == 1);
    CHECK(old[2].fate == NGX_RS_UNUSED && old[2].shared == 0);
    CHECK(option(after[0].fd, SO_ACCEPTCONN) == 1);
    CHECK(option(after[1].fd, SO_ACCEPTCONN) == 0);

    if (commit) {
        WORKS(ngx_rs_listening_commit(after, OLD, &error));
        CHECK(option(after[1].fd, SO_ACCEPTCONN) == 1);
        CHECK(close(after[0].fd) == 0 && close(after[1].fd) == 0);
    } else {
        WORKS(ngx_rs_listening_rollback(after, OLD, &how, &error));
        CHECK(option(before[1].fd, SO_REUSEPORT) == 0);
        CHECK(old[1].shared == 0 && old[1].fate == NGX_RS_UNUSED);
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

/* A replaced socket goes on until nothing waits there; with `now` it ends. */
static void drains(uint32_t now)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t before = to_open(&address, 0);
    ngx_rs_listening_t after = to_open(&address, 262);
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    int early, late;

    WORKS(ngx_rs_open_listening(&before, 1, NULL, &error));
    early = client(&address);
    old.fd = before.fd;
    how.flags = NGX_RS_OPEN_PREPARE;
    how.inherited = &old;
    how.inherited_count = 1;
    WORKS(ngx_rs_open_listening(&after, 1, &how, &error));
    WORKS(ngx_rs_listening_commit(&after, 1, &error));
    how.flags = NGX_RS_OPEN_COMMITTED;
    WORKS(ngx_rs_drain_begin(&after, 1, &how, &error));
    how.flags = 0;
    CHECK(old.fate == NGX_RS_SUPERSEDED);
    late = client(&address);
    is_served_by(after.fd);

    /* While both share what comes, nothing is ended. */
    WORKS(ngx_rs_drain_pause(&after, 1, &how, &error));
    CHECK(option(after.fd, SO_REUSEPORT) == 1);
    WORKS(ngx_rs_drain_end(&after, 1, &how, 1, &error));
    CHECK(old.fate == NGX_RS_SUPERSEDED);
    WORKS(ngx_rs_drain_begin(&after, 1, &how, &error));
    CHECK(option(after.fd, SO_REUSEPORT) == 0);

    WORKS(ngx_rs_drain_end(&after, 1, &how, now, &error));
    if (!now) {
        CHECK(old.fate == NGX_RS_SUPERSEDED);
        CHECK(option(old.fd, SO_ACCEPTCONN) == 1);
        is_served_by(old.fd);
        WORKS(ngx_rs_drain_end(&after, 1, &how, 0, &error));
    }
    CHECK(old.fate == NGX_RS_ENDED);
    CHECK(option(old.fd, SO_ACCEPTCONN) == 0);
    CHECK(option(after.fd, SO_ACCEPTCONN) == 1);
    /* Once more does nothing. */
    WORKS(ngx_rs_drain_end(&after, 1, &how, 1, &error));
    CHECK(close(old.fd) == 0 && close(after.fd) == 0);
    CHECK(close(early) == 0 && close(late) == 0);
}

/* Another socket listens at the address of the one that is inherited. */
static void awaits_drains(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);
    ngx_rs_listening_t both[2] = { to_open(&address, 0),
                                   to_open(&address, 0) };
    ngx_rs_listening_t after = to_open(&address, 0);
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;

    both[0].flags = both[1].flags = NGX_RS_LISTENING_REUSEPORT;
    WORKS(ngx_rs_open_listening(both, 2, NULL, &error));
    old.fd = both[0].fd;
    holder = both[1].fd;
    how.inherited = &old;
    how.inherited_count = 1;
    how.flags = NGX_RS_OPEN_AWAIT_DRAINS;
    how.report = report;
    how.data = memset(reports, 0, sizeof(reports));
    WORKS(ngx_rs_open_listening(&after, 1, &how, &error));
    CHECK(after.outcome == NGX_RS_INHERITED && strcmp(reports, "d") == 0);
    CHECK(holder == -1 && close(old.fd) == 0);
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
    ngx_rs_listening_t asked[3] = { to_open(&home, 0), to_open(&any, 262),
                                    to_open(&home, 262) };

    asked[1].flags = asked[2].flags = NGX_RS_LISTENING_FALLBACK;
    WORKS(ngx_rs_listening_assign(&socket, 1, asked, 3, &error));
    CHECK(socket.protocol == NGX_RS_IPPROTO_MPTCP);
    CHECK(socket.flags == NGX_RS_LISTENING_FALLBACK);

    /* The index counts those that ask for nothing. */
    asked[2].flags = 0;
    FAILS(ngx_rs_listening_assign(&socket, 1, asked, 3, &error),
          NGX_RS_ERR_CONFLICT,
          "127.0.0.1:80 shares the socket of 0.0.0.0:80, "
          "which needs \"mptcp\" too");
    CHECK(error.arg_index == 2);
    CHECK(socket.protocol == NGX_RS_IPPROTO_MPTCP);
    WORKS(ngx_rs_listening_assign(&socket, 1, NULL, 0, &error));
    CHECK(socket.protocol == 0 && socket.flags == 0);
}

/* With net.mptcp.enabled=0. */
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

int main(void)
{
    int before = dup(1), after;

    close(before);
    WORKS(ngx_rs_protocol_check(NGX_RS_IPPROTO_MPTCP, &error));
    WORKS(ngx_rs_protocol_check(IPPROTO_TCP, &error));
    opens_mptcp_and_tcp();
    retries_and_reports();
    hands_over(1);
    hands_over(0);
    drains(0);
    drains(1);
    awaits_drains();
    leaves_and_checks();
    assigns();
    falls_back();
    after = dup(1);
    CHECK(before == after && close(after) == 0);
    return 0;
}
