#include <err.h>
#include <stdio.h>
#include <unistd.h>

#include <ngx_rs_listen.h>

int main(void)
{
    ngx_rs_str_t words[] = {
        NGX_RS_STR("127.0.0.1:7000-7003"), NGX_RS_STR("mptcp=auto"), NGX_RS_STR("backlog=64")
    };
    ngx_rs_error_t error = NGX_RS_ERROR_INIT;
    ngx_rs_listen_t *listen;
    ngx_rs_listening_t *sockets;
    size_t count;

    if (ngx_rs_listen_parse(words, 3, NULL, &listen, &error) != NGX_RS_OK
        || ngx_rs_listen_sockets(listen, &sockets, &count, &error) != NGX_RS_OK
        || ngx_rs_open_listening(sockets, count, NULL, &error) != NGX_RS_OK)
        errx(1, "%s", error.message);

    for (size_t i = 0; i < count; i++) {
        printf("socket %d listens, over %s\n", sockets[i].fd,
               sockets[i].opened_protocol == NGX_RS_IPPROTO_MPTCP ? "MPTCP" : "TCP");
        /* accept(2) connections here */
        close(sockets[i].fd);
    }

    ngx_rs_listen_free(listen); /* would leave the sockets open */
    return 0;
}
