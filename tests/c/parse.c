/* Parsing: results, and errors for mistakes of callers. */

#include "check.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static ngx_rs_error_t error = NGX_RS_ERROR_INIT;
static ngx_rs_str_t good[] = { NGX_RS_STR("127.0.0.1:80"),
                               NGX_RS_STR("mptcp") };

static void right_directives(void)
{
    ngx_rs_str_t words[] = { NGX_RS_STR("[::1]:7000-7003"), NGX_RS_STR("ssl"),
                             NGX_RS_STR("mptcp=auto"),
                             NGX_RS_STR("backlog=64"),
                             NGX_RS_STR("rcvbuf=64k"),
                             NGX_RS_STR("so_keepalive=30m::10") };
    ngx_rs_str_t name[] = { NGX_RS_STR("localhost:80-81") };
    const ngx_rs_str_t *addresses;
    ngx_rs_listening_t *sockets, *again;
    ngx_rs_listen_t *listen;
    uint8_t owners[COUNT(words)];
    size_t count, i;

    WORKS(ngx_rs_listen_classify(words, COUNT(words), NULL, owners, &error));
    CHECK(owners[0] == NGX_RS_WORD_NGINX && owners[1] == NGX_RS_WORD_NGINX);
    CHECK(owners[2] == NGX_RS_WORD_OURS && owners[3] == NGX_RS_WORD_NGINX);

    WORKS(ngx_rs_listen_parse(words, COUNT(words), NULL, &listen, &error));
    WORKS(ngx_rs_listen_sockets(listen, sizeof(*sockets), &sockets, &count,
                                &error));
    CHECK(count == 4);
    for (i = 0; i < count; i++) {
        const struct sockaddr_in6 *address = (const void *) sockets[i].sockaddr;

        CHECK(sockets[i].size == sizeof(ngx_rs_listening_t));
        CHECK(sockets[i].socklen == sizeof(struct sockaddr_in6));
        CHECK(address->sin6_family == AF_INET6);
        CHECK(IN6_IS_ADDR_LOOPBACK(&address->sin6_addr));
        CHECK(address->sin6_port == htons((uint16_t) (7000 + i)));
        CHECK(sockets[i].type == SOCK_STREAM);
        CHECK(sockets[i].flags
              == (NGX_RS_LISTENING_SSL | NGX_RS_LISTENING_BIND
                  | NGX_RS_LISTENING_KEEPALIVE_ON
                  | NGX_RS_LISTENING_FALLBACK));
        CHECK(sockets[i].protocol == NGX_RS_IPPROTO_MPTCP);
        CHECK(sockets[i].backlog == 64 && sockets[i].rcvbuf == 65536);
        CHECK(sockets[i].sndbuf == 0 && sockets[i].fastopen == 0);
        CHECK(sockets[i].keepidle == 1800 && sockets[i].keepintvl == 0);
        CHECK(sockets[i].keepcnt == 10 && sockets[i].fd == -1);
        CHECK(sockets[i].outcome == NGX_RS_UNTOUCHED);
    }
    WORKS(ngx_rs_listen_sockets(listen, sizeof(*again), &again, &count,
                                &error));
    CHECK(again == sockets);
    ngx_rs_listen_free(listen);

    WORKS(ngx_rs_listen_parse(name, 1, NULL, &listen, &error));
    WORKS(ngx_rs_listen_addresses(listen, &addresses, &count, &error));
    CHECK(count >= 1);
    for (i = 0; i < count; i++) {
        CHECK(memcmp(addresses[i].data + addresses[i].len - 6, ":80-81", 7)
              == 0);
    }
    ngx_rs_listen_free(listen);
    ngx_rs_listen_free(NULL);
}

static void wrong_directives(void)
{
    static uint8_t long_word[100000];
    ngx_rs_str_t odd[][2] = {
        { NGX_RS_STR("80"), NGX_RS_STR("mptcp=maybe") },
        { NGX_RS_STR("80"), NGX_RS_STR("a\xff\xfe") },
        { NGX_RS_STR("80"), NGX_RS_STR("mptcp\0") },
        { NGX_RS_STR("80"), NGX_RS_STR("\0") },
        { NGX_RS_STR("80"), { 0, NULL } },
        { NGX_RS_STR("80"), { sizeof(long_word), long_word } },
    };
    ngx_rs_str_t conflict[] = { NGX_RS_STR("80"), NGX_RS_STR("mptcp"),
                                NGX_RS_STR("udp") };
    ngx_rs_str_t address[] = { { sizeof(long_word), long_word } };
    ngx_rs_listen_t *listen = NULL;
    size_t i;

    memset(long_word, 'x', sizeof(long_word));
    for (i = 0; i < COUNT(odd); i++) {
        FAILS(ngx_rs_listen_parse(odd[i], 2, NULL, &listen, &error),
              NGX_RS_ERR_SYNTAX, "invalid ");
        CHECK(error.arg_index == 1 && error.os_errno == 0);
    }
    FAILS(ngx_rs_listen_parse(conflict, 3, NULL, &listen, &error),
          NGX_RS_ERR_SYNTAX,
          "\"mptcp\" parameter is incompatible with \"udp\"");
    CHECK(error.arg_index == 1);
    FAILS(ngx_rs_listen_parse(NULL, 0, NULL, &listen, &error),
          NGX_RS_ERR_SYNTAX, "no address in the \"listen\" directive");

    /* A message that is too long is cut, and still ends in 0. */
    FAILS(ngx_rs_listen_parse(odd[5], 2, NULL, &listen, &error),
          NGX_RS_ERR_SYNTAX, "invalid parameter \"xxx");
    FAILS(ngx_rs_listen_parse(address, 1, NULL, &listen, &error),
          NGX_RS_ERR_HOST_NOT_FOUND, "host not found in \"xxx");
    CHECK(listen == NULL);

    CHECK(ngx_rs_listen_parse(conflict, 3, NULL, &listen, NULL)
          == NGX_RS_ERR_SYNTAX);
}

/* nginx would end the path at the 0, and listen on "a". */
static void zeros_in_paths(void)
{
    ngx_rs_str_t words[] = { NGX_RS_STR("unix:a\0b"), NGX_RS_STR("unix:\0zz"),
                             NGX_RS_STR("unix:a\0") };
    ngx_rs_listen_t *listen = NULL;
    size_t i;

    for (i = 0; i < COUNT(words); i++) {
        FAILS(ngx_rs_listen_parse(&words[i], 1, NULL, &listen, &error),
              NGX_RS_ERR_SYNTAX,
              i == 0 ? "invalid path in the unix domain socket in \"unix:a?b\" "
                       "of the \"listen\" directive"
                     : "invalid path in the unix domain socket in \"unix:");
        CHECK(listen == NULL);
    }
}

static void wrong_arrays(void)
{
    ngx_rs_str_t null_word[] = { { 5, NULL } };
    ngx_rs_str_t null_last[] = { NGX_RS_STR("80"), NGX_RS_STR("mptcp"),
                                 { 5, NULL } };
    ngx_rs_str_t endless[] = { { (size_t) -1, (const uint8_t *) "80" } };
    ngx_rs_listen_t *listen = NULL;
    const size_t lengths[] = { (size_t) -1, (size_t) -2, (size_t) -1 / 2,
                               (size_t) -1 / sizeof(ngx_rs_str_t) };
    uint8_t owners[3] = { 99, 99, 99 };
    size_t i;

    FAILS(ngx_rs_listen_parse(NULL, 1, NULL, &listen, &error),
          NGX_RS_ERR_ARGUMENT, "array \"words\" is NULL");
    FAILS(ngx_rs_listen_parse(null_word, 1, NULL, &listen, &error),
          NGX_RS_ERR_ARGUMENT, "array \"data\" is NULL");
    FAILS(ngx_rs_listen_parse(endless, 1, NULL, &listen, &error),
          NGX_RS_ERR_ARGUMENT, "array \"data\" is too long");
    FAILS(ngx_rs_listen_parse((const ngx_rs_str_t *) ((char *) good + 1), 1,
                              NULL, &listen, &error),
          NGX_RS_ERR_ARGUMENT, "array \"words\" is not aligned");
    FAILS(ngx_rs_listen_parse(good, 2, NULL, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"listen\" is NULL");
    for (i = 0; i < COUNT(lengths); i++) {
        FAILS(ngx_rs_listen_parse(good, lengths[i], NULL, &listen, &error),
              NGX_RS_ERR_ARGUMENT, "array \"words\" is too long");
        FAILS(ngx_rs_listen_classify(good, lengths[i], NULL, owners, &error),
              NGX_RS_ERR_ARGUMENT, "array \"words\" is too long");
    }
    FAILS(ngx_rs_listen_classify(NULL, 1, NULL, owners, &error),
          NGX_RS_ERR_ARGUMENT, "array \"words\" is NULL");
    FAILS(ngx_rs_listen_classify(good, 1, NULL, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"owners\" is NULL");
    FAILS(ngx_rs_listen_classify(null_last, 3, NULL, owners, &error),
          NGX_RS_ERR_ARGUMENT, "array \"data\" is NULL");
    CHECK(listen == NULL);
    CHECK(owners[0] == 99 && owners[1] == 99 && owners[2] == 99);
}

static void wrong_rules(void)
{
    struct {
        ngx_rs_rules_t known;
        uint32_t unknown;
    } later = { NGX_RS_RULES_INIT, 0 };
    ngx_rs_rules_t rules = NGX_RS_RULES_INIT;
    ngx_rs_listen_t *listen = NULL;
    uint8_t owners[2];

    rules.size = 0;
    FAILS(ngx_rs_listen_parse(good, 2, &rules, &listen, &error),
          NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_rules_t));
    rules.size = sizeof(rules) - 1;
    FAILS(ngx_rs_listen_classify(good, 2, &rules, owners, &error),
          NGX_RS_ERR_ARGUMENT, NOT_SET(ngx_rs_rules_t));
    rules.size = sizeof(rules);
    rules.subsystem = 3;
    FAILS(ngx_rs_listen_parse(good, 2, &rules, &listen, &error),
          NGX_RS_ERR_ARGUMENT, "ngx_rs_rules_t: field \"subsystem\" has an "
          "unknown value");
    rules.subsystem = NGX_RS_SUBSYSTEM_HTTP;
    rules.flags = NGX_RS_RULES_OURS_ONLY | 0x80;
    FAILS(ngx_rs_listen_parse(good, 2, &rules, &listen, &error),
          NGX_RS_ERR_ARGUMENT, "ngx_rs_rules_t: field \"flags\" has an unknown "
          "flag");

    /* A program of a later version, without and with a new feature. */
    later.known.size = sizeof(later);
    WORKS(ngx_rs_listen_parse(good, 2, &later.known, &listen, &error));
    ngx_rs_listen_free(listen);
    later.unknown = 1;
    FAILS(ngx_rs_listen_parse(good, 2, &later.known, &listen, &error),
          NGX_RS_ERR_ARGUMENT, "ngx_rs_rules_t: a field that this version "
          "does not know is set");
}

static void wrong_results(void)
{
    const ngx_rs_str_t *words = NULL;
    const size_t size = sizeof(ngx_rs_listening_t);
    const size_t sizes[] = { 0, LISTENING_SIZE_V1 - 1, 4,
                             size + 1, 4104,
                             (size_t) -1 };
    ngx_rs_listening_t *sockets = NULL;
    ngx_rs_listen_t *listen;
    size_t count = 77, i;

    WORKS(ngx_rs_listen_parse(good, 2, NULL, &listen, &error));
    FAILS(ngx_rs_listen_sockets(NULL, size, &sockets, &count, &error),
          NGX_RS_ERR_ARGUMENT, "pointer \"listen\" is NULL");
    FAILS(ngx_rs_listen_sockets(listen, size, NULL, &count, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"sockets\" is NULL");
    FAILS(ngx_rs_listen_sockets(listen, size, &sockets, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"count\" is NULL");
    for (i = 0; i < COUNT(sizes); i++) {
        FAILS(ngx_rs_listen_sockets(listen, sizes[i], &sockets, &count, &error),
              NGX_RS_ERR_ARGUMENT,
              "argument \"size\" is not the size of ngx_rs_listening_t");
    }
    FAILS(ngx_rs_listen_addresses(NULL, &words, &count, &error),
          NGX_RS_ERR_ARGUMENT, "pointer \"listen\" is NULL");
    FAILS(ngx_rs_listen_addresses(listen, NULL, &count, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"words\" is NULL");
    FAILS(ngx_rs_listen_addresses(listen, &words, NULL, &error),
          NGX_RS_ERR_ARGUMENT, "output pointer \"count\" is NULL");
    CHECK(sockets == NULL && words == NULL && count == 77);
    WORKS(ngx_rs_listen_sockets(listen, size, &sockets, &count, &error));
    FAILS(ngx_rs_listen_sockets(listen, size + 8, &sockets, &count, &error),
          NGX_RS_ERR_ARGUMENT,
          "argument \"size\" is not that of the first call");
    ngx_rs_listen_free(listen);
}

/* A program of a later version: a longer element for each socket. */
static void longer_elements(void)
{
    typedef struct {
        ngx_rs_listening_t known;
        uint64_t unknown;
    } longer_t;
    ngx_rs_str_t words[] = { NGX_RS_STR("127.0.0.1:80-82"),
                             NGX_RS_STR("rcvbuf=0"), NGX_RS_STR("sndbuf=0"),
                             NGX_RS_STR("fastopen=0") };
    ngx_rs_listening_t *sockets;
    ngx_rs_listen_t *listen;
    const longer_t *longer;
    size_t count, i;

    WORKS(ngx_rs_listen_parse(words, COUNT(words), NULL, &listen, &error));
    WORKS(ngx_rs_listen_sockets(listen, sizeof(longer_t), &sockets, &count,
                                &error));
    CHECK(count == 3);
    longer = (const void *) sockets;
    for (i = 0; i < count; i++) {
        const struct sockaddr_in *address
            = (const void *) longer[i].known.sockaddr;

        CHECK(longer[i].known.size == sizeof(longer_t));
        CHECK(longer[i].unknown == 0 && longer[i].known.fd == -1);
        CHECK(address->sin_port == htons((uint16_t) (80 + i)));
        CHECK(longer[i].known.flags
              == (NGX_RS_LISTENING_BIND | NGX_RS_LISTENING_RCVBUF_0
                  | NGX_RS_LISTENING_SNDBUF_0 | NGX_RS_LISTENING_FASTOPEN_0));
        CHECK(longer[i].known.rcvbuf == 0 && longer[i].known.fastopen == 0);
    }
    ngx_rs_listen_free(listen);
}

/* An error struct is filled up to its size. With size 0 it is ignored. */
static void short_errors(void)
{
    ngx_rs_error_t small = NGX_RS_ERROR_INIT;
    ngx_rs_listen_t *listen = NULL;

    small.size = 0;
    CHECK(ngx_rs_listen_parse(NULL, 1, NULL, &listen, &small)
          == NGX_RS_ERR_ARGUMENT);
    CHECK(small.size == 0 && small.status == 0 && small.message[0] == 0);
    small.size = 16;
    small.arg_index = 7;
    CHECK(ngx_rs_listen_parse(NULL, 1, NULL, &listen, &small)
          == NGX_RS_ERR_ARGUMENT);
    CHECK(small.size == 16 && small.status == NGX_RS_ERR_ARGUMENT);
    CHECK(small.arg_index == 0 && small.message[0] == 0);
}

int main(void)
{
    CHECK(ngx_rs_abi_version() == NGX_RS_ABI_VERSION);
    right_directives();
    wrong_directives();
    zeros_in_paths();
    wrong_arrays();
    wrong_rules();
    wrong_results();
    longer_elements();
    short_errors();
    return 0;
}
