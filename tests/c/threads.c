/* Eight threads parse, open and close, all at once. */

#define _DEFAULT_SOURCE

#include <pthread.h>
#include <unistd.h>

#include "check.h"

#define THREADS 8
#define ROUNDS 40
#define PORTS 10

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
    for (round = 0; round < ROUNDS; round++) {
        WORKS(ngx_rs_listen_classify(words, 3, NULL, owners, &error));
        CHECK(owners[1] == NGX_RS_WORD_OURS);
        WORKS(ngx_rs_listen_parse(words, 3, NULL, &listen, &error));
        WORKS(ngx_rs_listen_sockets(listen, &sockets, &count, &error));
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

    for (i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    return 0;
}
