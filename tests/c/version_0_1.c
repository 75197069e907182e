/* A program that is compiled with the header of version 0.1, and calls every
 * function of the current library. */

#define _DEFAULT_SOURCE

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ngx_rs_listen-0.1.h"

/* Prevents that the current header is read too. */
#define NGX_RS_LISTEN_H
#include "check.h"

static ngx_rs_error_t error = NGX_RS_ERROR_INIT;

static void reported(void *data, uint32_t event, const ngx_rs_error_t *said)
{
    CHECK(event == NGX_RS_REPORT_DRAIN_ENDED && said->message[0] != '\0');
    ++*(int *) data;
}

/* Uses structs that are 0 except their size, with and without initializers. */
static void parses(ngx_rs_listen_t **listen, ngx_rs_listening_t **sockets)
{
    ngx_rs_str_t words[] = { NGX_RS_STR("127.0.0.1:80-81"),
                             NGX_RS_STR("mptcp"), NGX_RS_STR("backlog=64") };
    ngx_rs_rules_t rules = NGX_RS_RULES_INIT;
    const ngx_rs_str_t *addresses;
    uint8_t owners[3];
    size_t count, i;

    WORKS(ngx_rs_listen_classify(words, 3, &rules, owners, &error));
    CHECK(owners[1] == NGX_RS_WORD_OURS && owners[2] == NGX_RS_WORD_NGINX);
    WORKS(ngx_rs_listen_parse(words, 3, &rules, listen, &error));
    WORKS(ngx_rs_listen_addresses(*listen, &addresses, &count, &error));
    CHECK(count == 0);
    WORKS(ngx_rs_listen_sockets(*listen, sizeof(**sockets), sockets, &count,
                                &error));
    CHECK(count == 2);
    for (i = 0; i < count; i++) {
        CHECK((*sockets)[i].size == sizeof(**sockets));
        CHECK((*sockets)[i].backlog == 64 && (*sockets)[i].fd == -1);
    }
}

/* Connects a client, which waits in the queue: a socket that is not idle drains
 * for longer. */
static int waiting_client(int listening)
{
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK(fd != -1);
    CHECK(getsockname(listening, (struct sockaddr *) &address, &size) == 0);
    CHECK(connect(fd, (struct sockaddr *) &address, size) == 0);
    return fd;
}

/* Changes from TCP to MPTCP, then back, and rolls the last change back. */
static void hands_over(ngx_rs_listening_t *sockets)
{
    ngx_rs_listening_t before[2], again[2];
    ngx_rs_inherited_t init = NGX_RS_INHERITED_INIT, old[2], second[2];
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    ngx_rs_draining_t draining[2] = { NGX_RS_DRAINING_INIT };
    ngx_rs_drain_t *drain = NULL;
    uint32_t delay = 0;
    size_t count = 0, i;
    int reports = 0, clients[2];

    memcpy(before, sockets, sizeof(before));
    WORKS(ngx_rs_listening_assign(before, 2, NULL, 0, &error));
    CHECK(before[0].protocol == 0 && sockets[0].protocol == 262);
    WORKS(ngx_rs_open_listening(before, 2, NULL, &error));
    for (i = 0; i < 2; i++) {
        old[i] = second[i] = init;
        old[i].fd = before[i].fd;
        clients[i] = waiting_client(old[i].fd);
    }
    how.flags = NGX_RS_OPEN_PREPARE;
    how.inherited = old;
    how.inherited_count = 2;
    how.report = reported;
    how.data = &reports;
    WORKS(ngx_rs_open_listening(sockets, 2, &how, &error));
    for (i = 0; i < 2; i++) {
        CHECK(sockets[i].outcome == NGX_RS_SUCCESSOR);
        CHECK(sockets[i].opened_protocol == NGX_RS_IPPROTO_MPTCP);
        CHECK(old[i].disposition == NGX_RS_SUPERSEDED);
    }
    WORKS(ngx_rs_listening_commit(sockets, 2, &how, &error));
    WORKS(ngx_rs_drain_begin(&drain, sockets, 2, &how, 0, 0, &error));
    CHECK(old[0].disposition == NGX_RS_DRAINING);
    WORKS(ngx_rs_drain_poll(drain, draining, 2, &count, &delay, &error));
    CHECK(count == 2 && delay > 0);
    for (i = 0; i < 2; i++) {
        CHECK(draining[i].size == sizeof(draining[i]));
        CHECK(draining[i].fd == old[i].fd && draining[i].successor == i);
        CHECK(draining[i].protocol == IPPROTO_TCP);
        second[i].fd = sockets[i].fd;
    }

    memcpy(again, before, sizeof(again));
    again[0].protocol = again[1].protocol = IPPROTO_TCP;
    how.inherited = second;
    how.drain = drain;
    WORKS(ngx_rs_open_listening(again, 2, &how, &error));
    CHECK(again[1].outcome == NGX_RS_SUCCESSOR && reports == 2);
    WORKS(ngx_rs_listening_rollback(again, 2, &how, &error));
    CHECK(again[1].fd == -1 && second[1].disposition == NGX_RS_UNUSED);
    ngx_rs_drain_free(drain);
    CHECK(close(old[0].fd) == 0 && close(old[1].fd) == 0);
    CHECK(close(clients[0]) == 0 && close(clients[1]) == 0);
}

/* The current ngx_rs_subflow_t may be longer. The library must use the size of
 * version 0.1 as the stride of this array, and write nothing behind it. */
static void lists_paths(int fd)
{
    const ngx_rs_subflow_t init = NGX_RS_SUBFLOW_INIT;
    struct {
        ngx_rs_subflow_t paths[2];
        uint8_t behind[512];
    } memory;
    size_t count = 0, room, i;
    int tries;

    CHECK(sizeof(ngx_rs_subflow_t) == 272);
    for (tries = 0; count < 2 && tries < 20000; tries++) {
        WORKS(ngx_rs_connection_subflows(fd, NULL, 0, &count, NULL, &error));
        poll(NULL, 0, 1);
    }
    for (room = 1; room <= 2; room++) {
        memset(&memory, 0xee, sizeof(memory));
        memory.paths[0] = init;
        WORKS(ngx_rs_connection_subflows(fd, memory.paths, room, &count, NULL,
                                         &error));
        CHECK(count == 2);
        for (i = 0; i < room; i++) {
            CHECK(memory.paths[i].size == sizeof(init));
            CHECK(memory.paths[i].reserved == 0);
            CHECK(memory.paths[i].local.ss_family == AF_INET);
            CHECK(memory.paths[i].remote.ss_family == AF_INET);
        }
        for (i = room * sizeof(init); i < sizeof(memory); i++) {
            CHECK(((uint8_t *) &memory)[i] == 0xee);
        }
    }
}

static void connects(int fd, int *client, int *server)
{
    struct sockaddr_in address = inet4("127.0.0.1", 80);

    *client = socket(AF_INET, SOCK_STREAM, NGX_RS_IPPROTO_MPTCP);
    CHECK(connect(*client, (struct sockaddr *) &address, sizeof(address))
          == 0);
    do {
        *server = accept(fd, NULL, NULL);
    } while (*server == -1);
}

static void queries(int fd)
{
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    ngx_rs_subflow_t paths[2] = { NGX_RS_SUBFLOW_INIT };
    int client, server;
    size_t count = 0;

    connects(fd, &client, &server);
    WORKS(ngx_rs_connection_info(server, &info, &error));
    CHECK(info.kind == NGX_RS_CONNECTION_MPTCP && info.token > 0);
    CHECK(info.size == sizeof(info) && info.bytes_sent == counted(0));
    WORKS(ngx_rs_connection_subflows(server, paths, 2, &count, &info, &error));
    CHECK(count == 1 && paths[1].size == 0);
    CHECK(paths[0].id == counted(1));
    CHECK(paths[0].size == sizeof(paths[0]));
    CHECK(paths[0].remote.ss_family == AF_INET);
    CHECK(close(client) == 0 && close(server) == 0);

    /* From now on clients open a second path after the first answer. */
    CHECK(system("ip mptcp limits set subflow 2 add_addr_accepted 2") == 0);
    CHECK(system("ip mptcp endpoint add 127.0.0.2 dev lo subflow") == 0);
    connects(fd, &client, &server);
    CHECK(send(client, "x", 1, 0) == 1);
    lists_paths(server);
    CHECK(close(client) == 0 && close(server) == 0);
}

/* A size of one byte less than that of version 0.1 is an error. */
static void sizes(ngx_rs_listen_t *listen, int fd)
{
    ngx_rs_listening_t socket = NGX_RS_LISTENING_INIT, *sockets;
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    ngx_rs_rules_t rules = NGX_RS_RULES_INIT;
    ngx_rs_draining_t draining = NGX_RS_DRAINING_INIT;
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    ngx_rs_subflow_t path = NGX_RS_SUBFLOW_INIT;
    ngx_rs_drain_t *drain = NULL;
    ngx_rs_str_t word = NGX_RS_STR("80");
    uint8_t owner;
    size_t count;

    socket.size--;
    FAILS(ngx_rs_open_listening(&socket, 1, NULL, &error),
          NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_listening_t));
    FAILS(ngx_rs_listen_sockets(listen, sizeof(*sockets) - 8, &sockets, &count,
                                &error),
          NGX_RS_ERR_ARGUMENT, "argument \"size\" is not ");
    how.inherited = &old;
    how.inherited_count = 1;
    old.size--;
    FAILS(ngx_rs_open_listening(NULL, 0, &how, &error), NGX_RS_ERR_ARGUMENT,
          NOT_SET(ngx_rs_inherited_t));
    how.size--;
    FAILS(ngx_rs_open_listening(NULL, 0, &how, &error), NGX_RS_ERR_ARGUMENT,
          NOT_SET(ngx_rs_open_t));
    rules.size--;
    FAILS(ngx_rs_listen_classify(&word, 1, &rules, &owner, &error),
          NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_rules_t));
    draining.size--;
    WORKS(ngx_rs_drain_begin(&drain, NULL, 0, NULL, 0, 0, &error));
    FAILS(ngx_rs_drain_poll(drain, &draining, 1, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_draining_t));
    ngx_rs_drain_free(drain);
    info.size--;
    FAILS(ngx_rs_connection_info(fd, &info, &error), NGX_RS_ERR_ARGUMENT,
          NOT_SET(ngx_rs_connection_info_t));
    path.size--;
    FAILS(ngx_rs_connection_subflows(fd, &path, 1, &count, NULL, &error),
          NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_subflow_t));
}

/* Structs that are 0 except `size` and fields without a default. */
static void zeros(void)
{
    struct sockaddr_in address = inet4("127.0.0.1", 90);
    ngx_rs_listening_t init = NGX_RS_LISTENING_INIT, socket;
    ngx_rs_open_t how;

    memset(&socket, 0, sizeof(socket));
    memset(&how, 0, sizeof(how));
    socket.size = sizeof(socket);
    how.size = sizeof(how);
    socket.sockaddr = (const struct sockaddr *) &address;
    socket.socklen = sizeof(address);
    WORKS(ngx_rs_open_listening(&socket, 1, &how, &error));
    init.sockaddr = socket.sockaddr;
    init.socklen = socket.socklen;
    CHECK(option(socket.fd, SO_PROTOCOL) == IPPROTO_TCP);
    CHECK(option(socket.fd, SO_ACCEPTCONN) == 1);
    CHECK(close(socket.fd) == 0);
    WORKS(ngx_rs_open_listening(&init, 1, NULL, &error));
    CHECK(close(init.fd) == 0);
}

int main(void)
{
    ngx_rs_listen_t *listen;
    ngx_rs_listening_t *sockets;

    CHECK(ngx_rs_abi_version() == NGX_RS_ABI_VERSION);
    WORKS(ngx_rs_protocol_check(NGX_RS_IPPROTO_MPTCP, &error));
    parses(&listen, &sockets);
    hands_over(sockets);
    queries(sockets[0].fd);
    sizes(listen, sockets[0].fd);
    zeros();
    CHECK(close(sockets[0].fd) == 0 && close(sockets[1].fd) == 0);
    ngx_rs_listen_free(listen);
    return 0;
}
