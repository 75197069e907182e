/*
 * Parses a typical listen directive. The argument is the number of rounds.
 * Without an argument the program runs long enough to measure the nanoseconds
 * for one directive.
 */

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ngx_rs_listen.h"

#define DEFAULT_COUNT 200000
#define ROUNDS 11

static void parse(long count)
{
    static const ngx_rs_str_t words[] = {
        NGX_RS_STR("127.0.0.1:8443"), NGX_RS_STR("ssl"), NGX_RS_STR("mptcp"),
        NGX_RS_STR("backlog=512"), NGX_RS_STR("rcvbuf=64k"),
        NGX_RS_STR("so_keepalive=30m::10")
    };
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    ngx_rs_listen_t *listen;

    while (count-- > 0) {
        if (ngx_rs_listen_parse(words, sizeof(words) / sizeof(words[0]), NULL,
                                &listen, &error) != NGX_RS_OK)
        {
            errx(1, "%s", error.message);
        }
        ngx_rs_listen_free(listen);
    }
}

static double seconds(void)
{
    return (double) clock() / CLOCKS_PER_SEC;
}

int main(int argc, char **argv)
{
    double best = 1e9;
    int round;

    if (argc > 1) {
        parse(strtol(argv[1], NULL, 10));
        return 0;
    }
    for (round = 0; round < ROUNDS; round++) {
        double start = seconds(), taken;

        parse(DEFAULT_COUNT);
        taken = seconds() - start;
        best = taken < best ? taken : best;
    }
    printf("%.0f\n", best / DEFAULT_COUNT * 1e9);
    return 0;
}
