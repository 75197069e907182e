// Compiles the header in C++11, and uses the library from C++.

#include "ngx_rs_listen.h"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

static_assert(std::is_standard_layout<ngx_rs_listening_t>::value, "plain C");
static_assert(std::is_standard_layout<ngx_rs_connection_info_t>::value, "C");
static_assert(std::is_standard_layout<ngx_rs_error_t>::value, "plain C");
static_assert(sizeof(ngx_rs_status_t) == 4, "as in C");

int main()
{
    const std::vector<std::string> text = { "127.0.0.1:7000", "mptcp",
                                            "backlog=64" };
    std::vector<ngx_rs_str_t> words;
    for (const std::string &word : text) {
        words.push_back({ word.size(),
                          reinterpret_cast<const uint8_t *>(word.data()) });
    }

    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    ngx_rs_rules_t rules = NGX_RS_RULES_INIT;
    ngx_rs_open_t how = NGX_RS_OPEN_INIT;
    ngx_rs_listening_t plain = NGX_RS_LISTENING_INIT;
    ngx_rs_inherited_t old = NGX_RS_INHERITED_INIT;
    ngx_rs_draining_t draining = NGX_RS_DRAINING_INIT;
    ngx_rs_drain_t *drain = nullptr;
    ngx_rs_listen_t *listen = nullptr;
    ngx_rs_listening_t *sockets = nullptr;
    std::size_t count = 0;

    if (plain.fd != -1 || old.fd != -1
        || ngx_rs_listen_parse(words.data(), words.size(), &rules, &listen,
                               &error) != NGX_RS_OK
        || ngx_rs_listen_sockets(listen, sizeof(*sockets), &sockets, &count,
                                 &error) != NGX_RS_OK
        || ngx_rs_open_listening(sockets, count, &how, &error) != NGX_RS_OK)
    {
        std::printf("%s\n", error.message);
        return 1;
    }
    ngx_rs_connection_info_t info = NGX_RS_CONNECTION_INFO_INIT;
    ngx_rs_subflow_t paths[16] = { NGX_RS_SUBFLOW_INIT };
    std::size_t none = 1;

    // A listening socket has no subflows.
    if (ngx_rs_connection_subflows(sockets[0].fd, paths, 16, &none, &info,
                                   &error) != NGX_RS_OK)
    {
        std::printf("%s\n", error.message);
        return 1;
    }
    std::uint32_t delay = 1;
    std::size_t drained = 1;
    if (ngx_rs_drain_begin(&drain, sockets, count, &how, 0, 0, &error)
            != NGX_RS_OK
        || ngx_rs_drain_poll(drain, &draining, 1, &drained, &delay, &error)
               != NGX_RS_OK)
    {
        std::printf("%s\n", error.message);
        return 1;
    }
    ngx_rs_drain_free(drain);
    bool right = count == 1 && none == 0 && drained == 0 && delay == 0
                 && info.kind == NGX_RS_CONNECTION_MPTCP
                 && sockets[0].opened_protocol == NGX_RS_IPPROTO_MPTCP
                 && close(sockets[0].fd) == 0;
    ngx_rs_listen_free(listen);
    return right ? 0 : 1;
}
