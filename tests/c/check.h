/* Helpers for the programs of tests/c. */

#ifndef CHECK_H
#define CHECK_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "ngx_rs_listen.h"

#define CHECK(condition)                                                      \
    check((condition) != 0, #condition, __FILE__, __LINE__)

/* The call must fail with this status and with this text in the message. */
#define FAILS(call, wanted, text)                                             \
    fails((call), (wanted), &error, (text), #call, __FILE__, __LINE__)

/* The call must succeed. */
#define WORKS(call)                                                           \
    fails((call), NGX_RS_OK, &error, "", #call, __FILE__, __LINE__)

/* Sizes that no struct will have. The library must neither read nor write what
 * follows the size. */
static const uint32_t too_large[] = { 4097, 65536, 0x7fffffff, 0xffffffff };
#define TOO_LARGE (sizeof(too_large) / sizeof(too_large[0]))
/* The size of version 0.1, which remains the least accepted size. */
#define LISTENING_SIZE_V1                                                     \
    (offsetof(ngx_rs_listening_t, opened_protocol) + sizeof(int32_t))
#define NOT_SET(type) #type ": size is not initialised"

static inline void check(int holds, const char *text, const char *file,
                         int line)
{
    if (!holds) {
        printf("%s:%d: %s\n", file, line, text);
        exit(1);
    }
}

static inline void fails(ngx_rs_status_t status, ngx_rs_status_t wanted,
                         ngx_rs_error_t *error, const char *text,
                         const char *call, const char *file, int line)
{
    if (status != wanted
        || (wanted != NGX_RS_OK
            && (error->status != wanted
                || strstr(error->message, text) == NULL)))
    {
        printf("%s:%d: %s: status %d instead of %d: \"%s\"\n", file, line, call,
               (int) status, (int) wanted, error->message);
        exit(1);
    }
    memset(error->message, 0, sizeof(error->message));
    error->status = 0;
}

static inline struct sockaddr_in inet4(const char *text, unsigned port)
{
    struct sockaddr_in address;

    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t) port);
    CHECK(inet_pton(AF_INET, text, &address.sin_addr) == 1);
    return address;
}

/* A socket to open: MPTCP, or another protocol. */
static inline ngx_rs_listening_t to_open(const struct sockaddr_in *address,
                                         int32_t protocol)
{
    ngx_rs_listening_t socket = NGX_RS_LISTENING_INIT;

    socket.sockaddr = (const struct sockaddr *) address;
    socket.socklen = sizeof(*address);
    socket.protocol = protocol;
    return socket;
}

static inline int option(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);

    CHECK(getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0);
    return value;
}

static inline int kernel_is_at_least(int major, int minor)
{
    struct utsname name;
    int has_major, has_minor;

    CHECK(uname(&name) == 0);
    CHECK(sscanf(name.release, "%d.%d", &has_major, &has_minor) == 2);
    return has_major > major || (has_major == major && has_minor >= minor);
}

/* The value of an MPTCP counter, or unknown before Linux 6.5. */
static inline int64_t counted(int64_t value)
{
    return kernel_is_at_least(6, 5) ? value : NGX_RS_UNKNOWN;
}

#endif
