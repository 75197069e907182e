/*
 * Opens 10,000 MPTCP listeners by ngx_rs_open_listening(), and compares the
 * time with that of a bare loop of socket(), setsockopt(), bind() and listen()
 * on the same addresses. Both run alternately in one process in a new network
 * namespace. Fails if the ratio exceeds the documented limit.
 */

#define _GNU_SOURCE

#include <err.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "ngx_rs_listen.h"

#define COUNT 10000
#define FIRST_PORT 10000
#define ROUNDS 41
#define LIMIT 1.05

static struct sockaddr_in addresses[COUNT];
static ngx_rs_listening_t sockets[COUNT];
static int fds[COUNT];

static void prepare(void)
{
    struct rlimit files = { COUNT + 64, COUNT + 64 };
    ngx_rs_listening_t init = NGX_RS_LISTENING_INIT;
    struct ifreq lo;
    int fd, i;

    if (setrlimit(RLIMIT_NOFILE, &files) == -1) {
        err(1, "%d descriptors are needed", COUNT + 64);
    }
    if (unshare(CLONE_NEWNET) == -1) {
        err(1, "a network namespace is needed, run as root");
    }
    memset(&lo, 0, sizeof(lo));
    strcpy(lo.ifr_name, "lo");
    lo.ifr_flags = IFF_UP;
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd == -1 || ioctl(fd, SIOCSIFFLAGS, &lo) == -1) {
        err(1, "lo");
    }
    close(fd);

    for (i = 0; i < COUNT; i++) {
        addresses[i].sin_family = AF_INET;
        addresses[i].sin_port = htons((uint16_t) (FIRST_PORT + i));
        addresses[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        sockets[i] = init;
        sockets[i].sockaddr = (const struct sockaddr *) &addresses[i];
        sockets[i].socklen = sizeof(addresses[i]);
        sockets[i].protocol = NGX_RS_IPPROTO_MPTCP;
    }
}

static void open_bare(void)
{
    int i, on = 1;

    for (i = 0; i < COUNT; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK,
                        NGX_RS_IPPROTO_MPTCP);
        if (fds[i] == -1
            || setsockopt(fds[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on))
               == -1
            || bind(fds[i], (const struct sockaddr *) &addresses[i],
                    sizeof(addresses[i])) == -1
            || listen(fds[i], 511) == -1)
        {
            err(1, "port %d", FIRST_PORT + i);
        }
    }
}

static void open_ours(void)
{
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    int i;

    if (ngx_rs_open_listening(sockets, COUNT, NULL, &error) != NGX_RS_OK) {
        errno = error.os_errno;
        err(1, "%s", error.message);
    }
    for (i = 0; i < COUNT; i++) {
        fds[i] = sockets[i].fd;
    }
}

/* Opens and closes all sockets, and measures only the opening. */
static double milliseconds(void (*open)(void))
{
    struct timespec start, end;
    int i;

    clock_gettime(CLOCK_MONOTONIC, &start);
    open();
    clock_gettime(CLOCK_MONOTONIC, &end);
    for (i = 0; i < COUNT; i++) {
        close(fds[i]);
    }
    return (double) (end.tv_sec - start.tv_sec) * 1e3
           + (double) (end.tv_nsec - start.tv_nsec) / 1e6;
}

static int compare(const void *one, const void *other)
{
    double a = *(const double *) one, b = *(const double *) other;

    return (a > b) - (a < b);
}

static double median(double *times)
{
    qsort(times, ROUNDS, sizeof(times[0]), compare);
    return times[ROUNDS / 2];
}

int main(void)
{
    double ours[ROUNDS], bare[ROUNDS], ratios[ROUNDS], ratio;
    int i;

    prepare();
    milliseconds(open_ours);
    milliseconds(open_bare);
    for (i = 0; i < ROUNDS; i++) {
        /* Each side is the first in half of the rounds. */
        if (i % 2) {
            ours[i] = milliseconds(open_ours);
            bare[i] = milliseconds(open_bare);
        } else {
            bare[i] = milliseconds(open_bare);
            ours[i] = milliseconds(open_ours);
        }
        /* The ratio of consecutive runs: a busy machine slows both down. */
        ratios[i] = ours[i] / bare[i];
    }
    ratio = median(ratios);
    printf("open %d mptcp listeners: ours %.1f ms, bare loop %.1f ms, "
           "ratio %.3f (at most %.2f)\n",
           COUNT, median(ours), median(bare), ratio, LIMIT);
    return ratio > LIMIT;
}
