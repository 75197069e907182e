/* Mistakes of callers that open sockets: each is an error, and the library
 * opens and writes nothing. */

#define _DEFAULT_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"

static ngx_rs_error_t error = NGX_RS_ERROR_INIT;
static struct sockaddr_in home;

static ngx_rs_listening_t good(void)
{
    return to_open(&home, NGX_RS_IPPROTO_MPTCP);
}

/* Every function with an array of sockets fails, and does not change it. */
static void refused(ngx_rs_listening_t *sockets, size_t count,
                    const char *text)
{
    ngx_rs_listening_t before = sockets[0];
    ngx_rs_drain_t *drain = NULL;

    FAILS(ngx_rs_open_listening(sockets, count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, text);
    FAILS(ngx_rs_listening_commit(sockets, count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, text);
    FAILS(ngx_rs_listening_rollback(sockets, count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, text);
    FAILS(ngx_rs_drain_begin(&drain, sockets, count, NULL, 0, 0, &error),
          NGX_RS_ERR_ARGUMENT, text);
    CHECK(drain == NULL);
    FAILS(ngx_rs_listening_assign(sockets, count, NULL, 0, &error),
          NGX_RS_ERR_ARGUMENT, text);
    FAILS(ngx_rs_listening_assign(NULL, 0, sockets, count, &error),
          NGX_RS_ERR_ARGUMENT, text);
    CHECK(memcmp(&before, sockets, sizeof(before)) == 0);
}

static void wrong_arrays(void)
{
    ngx_rs_listening_t sockets[2] = { good(), good() };
    size_t i;

    FAILS(ngx_rs_open_listening(NULL, 1, NULL, &error), NGX_RS_ERR_ARGUMENT,
          "array \"sockets\" is NULL");
    FAILS(ngx_rs_listening_assign(NULL, 0, NULL, 1, &error),
          NGX_RS_ERR_ARGUMENT, "array \"requested\" is NULL");
    refused(sockets, (size_t) -1, "\" is too long");
    refused(sockets, (size_t) -1 / sizeof(sockets[0]), "\" is too long");
    sockets[1].size = sizeof(sockets[1]) + 8;
    refused(sockets, 2, "\" has elements of different sizes");
    sockets[1].size = 0;
    refused(sockets, 2, "\" has elements of different sizes");
    sockets[0].size = 0;
    refused(sockets, 1, NOT_SET(ngx_rs_listening_t));
    sockets[0].size = 4;
    refused(sockets, 1, NOT_SET(ngx_rs_listening_t));
    sockets[0].size = LISTENING_SIZE_V1 - 1;
    refused(sockets, 1, NOT_SET(ngx_rs_listening_t));
    for (i = 0; i < TOO_LARGE; i++) {
        sockets[0].size = too_large[i];
        refused(sockets, 1, NOT_SET(ngx_rs_listening_t));
    }
    WORKS(ngx_rs_open_listening(NULL, 0, NULL, &error));
}

static void wrong_rules(void)
{
    ngx_rs_str_t word = NGX_RS_STR("80");
    ngx_rs_rules_t rules = NGX_RS_RULES_INIT;
    ngx_rs_listen_t *listen = NULL;
    uint8_t owner = 99;
    size_t i;

    for (i = 0; i < TOO_LARGE; i++) {
        rules.size = too_large[i];
        FAILS(ngx_rs_listen_parse(&word, 1, &rules, &listen, &error),
              NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_rules_t));
        FAILS(ngx_rs_listen_classify(&word, 1, &rules, &owner, &error),
              NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_rules_t));
    }
    CHECK(listen == NULL && owner == 99);
}

/* Structs of the greatest allowed size: the library checks all bytes. */
static void longest(void)
{
    ngx_rs_listening_t *socket = calloc(1, 4096);
    ngx_rs_open_t *how = calloc(1, 4096);

    CHECK(socket != NULL && how != NULL);
    *socket = good();
    socket->size = how->size = 4096;
    WORKS(ngx_rs_open_listening(socket, 1, how, &error));
    WORKS(ngx_rs_listening_rollback(socket, 1, how, &error));
    ((uint8_t *) how)[4095] = 1;
    FAILS(ngx_rs_open_listening(socket, 1, how, &error), NGX_RS_ERR_ARGUMENT,
          "ngx_rs_open_t: a field that this version does not know is set");
    free(socket);
    free(how);
}

#define LISTENING(field) "ngx_rs_listening_t: field \"" field "\" "
#define INHERITED(field) "ngx_rs_inherited_t: field \"" field "\" "

static void wrong_elements(void)
{
    struct sockaddr_in odd = inet4("127.0.0.1", 80);
    struct sockaddr_un path;
    ngx_rs_listening_t socket = good();

    socket.sockaddr = NULL;
    refused(&socket, 1, LISTENING("sockaddr") "is NULL");
    socket = good();
    socket.socklen = 1;
    refused(&socket, 1, LISTENING("socklen") "is too small");
    socket.socklen = sizeof(home) - 1;
    refused(&socket, 1, LISTENING("socklen") "is too small");
    socket = good();
    odd.sin_family = AF_PACKET;
    socket.sockaddr = (const struct sockaddr *) &odd;
    refused(&socket, 1, LISTENING("sockaddr") "has an unknown address family");
    socket = good();
    socket.type = SOCK_RAW;
    refused(&socket, 1, LISTENING("type") "is neither SOCK_STREAM nor "
            "SOCK_DGRAM");
    socket = good();
    socket.flags = 0x80000000;
    refused(&socket, 1, LISTENING("flags") "has an unknown flag");
    socket = good();
    socket.protocol = -1;
    refused(&socket, 1, LISTENING("protocol") "is not a protocol number");
    socket.protocol = 70000;
    refused(&socket, 1, LISTENING("protocol") "is not a protocol number");
    socket = good();
    socket.type = SOCK_DGRAM;
    refused(&socket, 1, LISTENING("protocol") "needs a stream socket");
    socket = good();
    socket.rcvbuf = -1;
    refused(&socket, 1, LISTENING("rcvbuf") "is negative");
    socket = good();
    socket.sndbuf = 1;
    socket.flags = NGX_RS_LISTENING_SNDBUF_0;
    refused(&socket, 1, LISTENING("sndbuf") "is not 0 as its flag says");
    socket = good();
    socket.fastopen = -2;
    socket.flags = NGX_RS_LISTENING_FASTOPEN_0;
    refused(&socket, 1, LISTENING("fastopen") "is negative");

    memset(&path, 0, sizeof(path));
    path.sun_family = AF_UNIX;
    socket = good();
    socket.protocol = 0;
    socket.sockaddr = (const struct sockaddr *) &path;
    socket.socklen = sizeof(path);
    refused(&socket, 1, LISTENING("sockaddr") "has an invalid path");
    socket.socklen = sizeof(path.sun_family);
    refused(&socket, 1, LISTENING("sockaddr") "has an invalid path");
    memset(path.sun_path, 'x', sizeof(path.sun_path));
    socket.socklen = sizeof(path);
    refused(&socket, 1, LISTENING("sockaddr") "has an invalid path");
}

/* A program of a later version, with longer structs. */
static void later_versions(void)
{
    struct {
        ngx_rs_listening_t known;
        uint64_t unknown;
    } sockets[2];
    struct sockaddr_in second = inet4("127.0.0.1", 81);
    int i;

    memset(sockets, 0, sizeof(sockets));
    sockets[0].known = good();
    sockets[1].known = to_open(&second, NGX_RS_IPPROTO_MPTCP);
    for (i = 0; i < 2; i++) {
        sockets[i].known.size = sizeof(sockets[i]);
    }
    WORKS(ngx_rs_open_listening(&sockets[0].known, 2, NULL, &error));
    for (i = 0; i < 2; i++) {
        CHECK(option(sockets[i].known.fd, SO_PROTOCOL) == 262);
        CHECK(sockets[i].unknown == 0);
        CHECK(close(sockets[i].known.fd) == 0);
    }
    sockets[1].unknown = 1;
    refused(&sockets[0].known, 2,
            "ngx_rs_listening_t: a field that this version does not know is set");
}

static void wrong_ways(void)
{
    ngx_rs_listening_t socket = good();
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    int closed = dup(1), file = open("/dev/null", O_RDONLY);
    size_t i;

    CHECK(closed >= 0 && file >= 0 && close(closed) == 0);
    how.size = 0;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_ARGUMENT,
          NOT_SET(ngx_rs_open_t));
    for (i = 0; i < TOO_LARGE; i++) {
        how.size = too_large[i];
        FAILS(ngx_rs_open_listening(&socket, 1, &how, &error),
              NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_open_t));
        FAILS(ngx_rs_listening_rollback(&socket, 1, &how, &error),
              NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_open_t));
    }
    how.size = sizeof(how);
    how.flags = 0x80;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_ARGUMENT,
          "ngx_rs_open_t: field \"flags\" has an unknown flag");
    how.flags = 0;
    how.inherited_count = 1;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_ARGUMENT,
          "array \"inherited\" is NULL");
    how.inherited = &old;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_ARGUMENT,
          INHERITED("fd") "is negative");
    FAILS(ngx_rs_listening_rollback(&socket, 1, &how, &error),
          NGX_RS_ERR_ARGUMENT, INHERITED("fd") "is negative");
    how.inherited_count = (size_t) -1;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_ARGUMENT,
          "array \"inherited\" is too long");
    how.inherited_count = 1;
    old.fd = closed;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_SYSCALL,
          "getsockname() of the inherited socket #0 failed");
    CHECK(error.os_errno == EBADF);
    old.fd = file;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_SYSCALL,
          "getsockname() of the inherited socket #0 failed");
    CHECK(error.os_errno == ENOTSOCK);
    for (i = 0; i < 3; i++) {
        const int32_t none[] = { 70000, -1, 65536 };

        old.protocol = none[i];
        FAILS(ngx_rs_open_listening(&socket, 1, &how, &error),
              NGX_RS_ERR_ARGUMENT, INHERITED("protocol") "is not a ");
        FAILS(ngx_rs_listening_rollback(&socket, 1, &how, &error),
              NGX_RS_ERR_ARGUMENT, INHERITED("protocol") "is not a ");
    }
    old.protocol = 0;
    old.flags = 8;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_ARGUMENT,
          INHERITED("flags") "has an unknown flag");
    old.flags = 0;
    old.size = 0;
    FAILS(ngx_rs_open_listening(&socket, 1, &how, &error), NGX_RS_ERR_ARGUMENT,
          NOT_SET(ngx_rs_inherited_t));
    for (i = 0; i < TOO_LARGE; i++) {
        old.size = too_large[i];
        FAILS(ngx_rs_open_listening(&socket, 1, &how, &error),
              NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_inherited_t));
    }
    CHECK(old.disposition == NGX_RS_UNUSED && socket.fd == -1);
    CHECK(close(file) == 0);
}

/* Descriptors that the caller has closed, or that are no such sockets. */
static void wrong_descriptors(void)
{
    ngx_rs_listening_t socket = good();
    int file = open("/dev/null", O_RDONLY);

    WORKS(ngx_rs_open_listening(&socket, 1, NULL, &error));
    CHECK(close(socket.fd) == 0);
    socket.outcome = NGX_RS_SUCCESSOR;
    FAILS(ngx_rs_listening_commit(&socket, 1, NULL, &error), NGX_RS_ERR_SYSCALL,
          "listen() to 127.0.0.1:80, backlog 511 failed");
    CHECK(error.os_errno == EBADF);
    WORKS(ngx_rs_listening_rollback(&socket, 1, NULL, &error));
    CHECK(socket.fd == -1 && socket.outcome == NGX_RS_UNTOUCHED);
    /* A second rollback, and a commit after it, do nothing. */
    WORKS(ngx_rs_listening_rollback(&socket, 1, NULL, &error));
    WORKS(ngx_rs_listening_commit(&socket, 1, NULL, &error));

    socket.fd = file;
    socket.outcome = NGX_RS_SUCCESSOR;
    FAILS(ngx_rs_listening_commit(&socket, 1, NULL, &error), NGX_RS_ERR_SYSCALL,
          "listen() to 127.0.0.1:80");
    CHECK(error.os_errno == ENOTSOCK);
    /* The library does not own this descriptor, so it does not close it. */
    socket.outcome = NGX_RS_INHERITED;
    WORKS(ngx_rs_listening_rollback(&socket, 1, NULL, &error));
    CHECK(socket.fd == -1 && close(file) == 0);
}

/* The drain takes no socket, and does not change the inherited ones. */
static void not_drained(ngx_rs_listening_t *socket, const ngx_rs_open_t *how,
                        ngx_rs_status_t status, const char *text, int errnum)
{
    ngx_rs_inherited_t before = how->inherited[0];
    ngx_rs_drain_t *drain = NULL;

    FAILS(ngx_rs_drain_begin(&drain, socket, 1, how, 0, 0, &error), status,
          text);
    CHECK(error.os_errno == errnum);
    CHECK((drain != NULL) == (status == NGX_RS_ERR_SYSCALL));
    CHECK(memcmp(&before, how->inherited, sizeof(before)) == 0);
    ngx_rs_drain_free(drain);
}

static void wrong_drains(void)
{
    ngx_rs_listening_t socket = good();
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    ngx_rs_drain_t *drain = NULL;
    const char *text = "getsockname() of the inherited socket #0 failed";
    int closed = dup(1), file = open("/dev/null", O_RDONLY);

    CHECK(closed >= 0 && file >= 0 && close(closed) == 0);
    /* There is nothing to drain. */
    WORKS(ngx_rs_drain_begin(&drain, NULL, 0, NULL, 0, 0, &error));
    WORKS(ngx_rs_drain_begin(&drain, &socket, 1, NULL, 0, 0, &error));
    FAILS(ngx_rs_drain_begin(&drain, NULL, 1, NULL, 0, 0, &error),
          NGX_RS_ERR_ARGUMENT, "array \"sockets\" is NULL");
    FAILS(ngx_rs_drain_begin(NULL, &socket, 1, NULL, 0, 0, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"drain\" is NULL");
    ngx_rs_drain_free(drain);

    old.disposition = NGX_RS_SUPERSEDED;
    how.inherited = &old;
    how.inherited_count = 1;
    not_drained(&socket, &how, NGX_RS_ERR_ARGUMENT,
                INHERITED("fd") "is negative", 0);
    how.inherited_count = (size_t) -1;
    not_drained(&socket, &how, NGX_RS_ERR_ARGUMENT,
                "array \"inherited\" is too long", 0);
    how.inherited_count = 1;
    old.fd = file;
    not_drained(&socket, &how, NGX_RS_ERR_SYSCALL, text, ENOTSOCK);
    old.fd = closed;
    not_drained(&socket, &how, NGX_RS_ERR_SYSCALL, text, EBADF);
    old.flags = 8;
    not_drained(&socket, &how, NGX_RS_ERR_ARGUMENT,
                INHERITED("flags") "has an unknown flag", 0);
    old.flags = 0;
    old.size = 0;
    not_drained(&socket, &how, NGX_RS_ERR_ARGUMENT,
                NOT_SET(ngx_rs_inherited_t), 0);
    old.size = sizeof(old);
    how.flags = 0x80;
    not_drained(&socket, &how, NGX_RS_ERR_ARGUMENT,
                "ngx_rs_open_t: field \"flags\" has an unknown flag", 0);
    how.size = 4097;
    not_drained(&socket, &how, NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_open_t),
                0);
    CHECK(close(file) == 0);
}

/* Output arrays that are missing or too short. */
static void wrong_polls(void)
{
    ngx_rs_listening_t before = to_open(&home, 0), after = good();
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    ngx_rs_draining_t all[2] = { NGX_RS_DRAINING_INIT };
    ngx_rs_drain_t *drain = NULL;
    size_t count = 77, i;

    WORKS(ngx_rs_open_listening(&before, 1, NULL, &error));
    old.fd = before.fd;
    how.flags = NGX_RS_OPEN_PREPARE;
    how.inherited = &old;
    how.inherited_count = 1;
    WORKS(ngx_rs_open_listening(&after, 1, &how, &error));
    WORKS(ngx_rs_listening_commit(&after, 1, &how, &error));
    WORKS(ngx_rs_drain_begin(&drain, &after, 1, &how, 0, 0, &error));
    FAILS(ngx_rs_drain_poll(NULL, all, 1, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "pointer \"drain\" is NULL");
    FAILS(ngx_rs_drain_poll(drain, all, 1, NULL, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"count\" is NULL");
    FAILS(ngx_rs_drain_poll(drain, NULL, 1, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "array \"sockets\" is NULL");
    FAILS(ngx_rs_drain_poll(drain, NULL, 0, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "argument \"room\" is less than the number");
    FAILS(ngx_rs_drain_poll(drain, all, (size_t) -1, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "array \"sockets\" is too long");
    for (i = 0; i < TOO_LARGE; i++) {
        all[0].size = too_large[i];
        FAILS(ngx_rs_drain_poll(drain, all, 1, &count, NULL, &error),
              NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_draining_t));
    }
    all[0].size = 4;
    FAILS(ngx_rs_drain_poll(drain, all, 1, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_draining_t));
    CHECK(count == 77 && all[0].fd == -1);
    all[0].size = sizeof(all[0]);

    /* Both sockets are closed before the drain has ended. */
    CHECK(close(after.fd) == 0 && close(old.fd) == 0);
    CHECK(usleep(5000 * 110) == 0);
    WORKS(ngx_rs_drain_poll(drain, all, 2, &count, NULL, &error));
    CHECK(count == 1 && all[0].ended == 1 && all[0].fd == old.fd);
    ngx_rs_drain_free(drain);
}

static void wrong_protocols(void)
{
    FAILS(ngx_rs_protocol_check(0, &error), NGX_RS_ERR_ARGUMENT,
          "argument \"protocol\" is not a protocol number");
    FAILS(ngx_rs_protocol_check(-1, &error), NGX_RS_ERR_ARGUMENT,
          "argument \"protocol\" is not a protocol number");
    FAILS(ngx_rs_protocol_check(65536, &error), NGX_RS_ERR_ARGUMENT,
          "argument \"protocol\" is not a protocol number");
    FAILS(ngx_rs_protocol_check(IPPROTO_UDP, &error), NGX_RS_ERR_UNSUPPORTED,
          "socket() failed: protocol 17 is not supported by this kernel");
    CHECK(ngx_rs_protocol_check(IPPROTO_UDP, NULL) == NGX_RS_ERR_UNSUPPORTED);
    FAILS(ngx_rs_option_check(0, NGX_RS_OPTION_FASTOPEN, &error),
          NGX_RS_ERR_ARGUMENT,
          "argument \"protocol\" is not a protocol number");
    FAILS(ngx_rs_option_check(IPPROTO_TCP, 3, &error), NGX_RS_ERR_ARGUMENT,
          "argument \"option\" is unknown");
}

/* Every port of several addresses: more sockets than a process can open. */
static void too_many_sockets(void)
{
    ngx_rs_str_t beyond[] = { NGX_RS_STR("0-65535"), NGX_RS_STR("1-65536") };
    ngx_rs_str_t words[] = { NGX_RS_STR("127.0.0.1:1-65535"),
                             NGX_RS_STR("127.0.0.2:1-65535"),
                             NGX_RS_STR("[::1]:1-65535") };
    ngx_rs_listening_t *all, *sockets;
    ngx_rs_listen_t *listen[3];
    struct rlimit before, few;
    size_t total = 0, count, i;

    for (i = 0; i < 2; i++) {
        FAILS(ngx_rs_listen_parse(&beyond[i], 1, NULL, listen, &error),
              NGX_RS_ERR_SYNTAX, "invalid port in ");
    }
    all = malloc(3 * 65535 * sizeof(*all));
    CHECK(all != NULL);
    for (i = 0; i < 3; i++) {
        WORKS(ngx_rs_listen_parse(&words[i], 1, NULL, &listen[i], &error));
        WORKS(ngx_rs_listen_sockets(listen[i], sizeof(*sockets), &sockets,
                                    &count, &error));
        memcpy(all + total, sockets, count * sizeof(*all));
        total += count;
    }
    CHECK(total == 3 * 65535);
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
    few = before;
    few.rlim_cur = 64;
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    FAILS(ngx_rs_open_listening(all, total, NULL, &error), NGX_RS_ERR_SYSCALL,
          "socket() 127.0.0.1:");
    CHECK(error.os_errno == EMFILE);
    CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
    for (i = 0; i < total; i++) {
        CHECK(all[i].fd == -1 && all[i].outcome == NGX_RS_UNTOUCHED);
    }
    for (i = 0; i < 3; i++) {
        ngx_rs_listen_free(listen[i]);
    }
    free(all);
}

int main(void)
{
    int before = dup(1), after;

    home = inet4("127.0.0.1", 80);
    close(before);
    wrong_arrays();
    wrong_rules();
    longest();
    wrong_elements();
    later_versions();
    wrong_ways();
    wrong_descriptors();
    wrong_drains();
    wrong_polls();
    wrong_protocols();
    too_many_sockets();
    /* The lowest free descriptor is the same as before, so none leaked. */
    after = dup(1);
    CHECK(before == after && close(after) == 0);
    return 0;
}
