/*
 * Eight threads parse, assign, open, query connections, supersede, drain and
 * close at the same time.
 */

#define _DEFAULT_SOURCE

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"

#define THREADS 8
#define ROUNDS 40
#define PORTS 10

static pthread_barrier_t together;

/* All threads make their first query at the same time, because the library
 * then stores which queries the kernel has, for all threads. */
static void queries(const ngx_rs_listening_t *listener,
                    const struct sockaddr_in *address)
{
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    int client = socket(AF_INET, SOCK_STREAM, NGX_RS_IPPROTO_MPTCP), fd, round;
    size_t count;

    CHECK(client != -1 && fcntl(listener->fd, F_SETFL, 0) == 0);
    CHECK(connect(client, (const struct sockaddr *) address, sizeof(*address))
          == 0);
    fd = accept(listener->fd, NULL, NULL);
    CHECK(fd != -1);
    pthread_barrier_wait(&together);
    for (round = 0; round < ROUNDS; round++) {
        ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
        ngx_rs_subflow_t paths[16] = { NGX_RS_SUBFLOW_INIT };

        WORKS(ngx_rs_connection_info(fd, &info, &error));
        CHECK(info.kind == NGX_RS_CONNECTION_MPTCP);
        WORKS(ngx_rs_connection_subflows(fd, paths, 16, &count, &info,
                                         &error));
        CHECK(count == 1);
    }
    CHECK(close(client) == 0 && close(fd) == 0);
}

/* Changes the protocol of an address of this thread back and forth. */
static void replaces(int thread)
{
    struct sockaddr_in address = inet4("127.0.0.1", 20000 + (unsigned) thread);
    ngx_rs_listening_t first = to_open(&address, 0);
    ngx_rs_listening_t request = to_open(&address, NGX_RS_IPPROTO_MPTCP);
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    int fd, round;

    WORKS(ngx_rs_listening_assign(&first, 1, &request, 1, &error));
    CHECK(first.protocol == NGX_RS_IPPROTO_MPTCP);
    WORKS(ngx_rs_open_listening(&first, 1, NULL, &error));
    queries(&first, &address);
    fd = first.fd;
    for (round = 0; round < ROUNDS; round++) {
        ngx_rs_listening_t next = to_open(&address, round % 2 ? 262 : 6);
        ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
        ngx_rs_open_t how = NGX_RS_OPEN_INIT;
        ngx_rs_draining_t draining = NGX_RS_DRAINING_INIT;
        ngx_rs_drain_t *drain = NULL;
        uint32_t delay;
        size_t count;

        old.fd = fd;
        how.inherited = &old;
        how.inherited_count = 1;
        how.flags = NGX_RS_OPEN_PREPARE;
        WORKS(ngx_rs_open_listening(&next, 1, &how, &error));
        CHECK(next.outcome == NGX_RS_SUCCESSOR);
        WORKS(ngx_rs_listening_commit(&next, 1, &how, &error));
        WORKS(ngx_rs_drain_begin(&drain, &next, 1, &how, 4, 0, &error));
        CHECK(old.disposition == NGX_RS_DRAINING);
        WORKS(ngx_rs_drain_poll(drain, &draining, 1, &count, &delay, &error));
        CHECK(count == 1 && draining.fd == old.fd && !draining.ended);
        CHECK(delay > 0 && delay <= 5000);
        ngx_rs_drain_free(drain);
        CHECK(option(old.fd, SO_ACCEPTCONN) == 0 && close(old.fd) == 0);
        fd = next.fd;
    }
    CHECK(close(fd) == 0);
}

static void *work(void *data)
{
    int thread = *(int *) data, first = 10000 + thread * 100, round;
    size_t count, i;
    char text[64];
    ngx_rs_str_t words[3] = { { 0, NULL }, NGX_RS_STR("mptcp"),
                              NGX_RS_STR("backlog=16") };
    ngx_rs_str_t wrong[2] = { NGX_RS_STR("80"), NGX_RS_STR("mptcp=maybe") };
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    ngx_rs_listening_t *sockets;
    ngx_rs_listen_t *listen;
    uint8_t owners[3];

    words[0].len = (size_t) snprintf(text, sizeof(text), "127.0.0.1:%d-%d",
                                     first, first + PORTS - 1);
    words[0].data = (const uint8_t *) text;
    replaces(thread);
    for (round = 0; round < ROUNDS; round++) {
        WORKS(ngx_rs_listen_classify(words, 3, NULL, owners, &error));
        CHECK(owners[1] == NGX_RS_WORD_OURS);
        WORKS(ngx_rs_listen_parse(words, 3, NULL, &listen, &error));
        WORKS(ngx_rs_listen_sockets(listen, sizeof(*sockets), &sockets, &count,
                                    &error));
        CHECK(count == PORTS);
        WORKS(ngx_rs_open_listening(sockets, count, NULL, &error));
        for (i = 0; i < count; i++) {
            CHECK(option(sockets[i].fd, SO_PROTOCOL) == 262);
            if (round % 2) {
                CHECK(close(sockets[i].fd) == 0);
            }
        }
        if (round % 2 == 0) {
            WORKS(ngx_rs_listening_rollback(sockets, count, NULL, &error));
        }
        ngx_rs_listen_free(listen);
        FAILS(ngx_rs_listen_parse(wrong, 2, NULL, &listen, &error),
              NGX_RS_ERR_SYNTAX, "invalid mptcp \"mptcp=maybe\"");
        WORKS(ngx_rs_protocol_check(NGX_RS_IPPROTO_MPTCP, &error));
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    int numbers[THREADS], i;

    CHECK(pthread_barrier_init(&together, NULL, THREADS) == 0);
    for (i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    return 0;
}
