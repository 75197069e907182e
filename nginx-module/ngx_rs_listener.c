
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"


static ssize_t ngx_rsm_recv(ngx_connection_t *c, u_char *buf, size_t size);
static ssize_t ngx_rsm_recv_chain(ngx_connection_t *c, ngx_chain_t *in,
    off_t limit);


/* connections of plain TCP cost nothing unless they are counted */

void
ngx_rsm_set_handler(ngx_listening_t *ls, ngx_rsm_conf_t *conf, int protocol)
{
    ngx_rsm_subsystem_t  *subsystem;

    subsystem = conf->subsystem;

    switch (protocol) {

    case 0:
    case IPPROTO_TCP:
        ls->handler = conf->counted ? subsystem->tcp_handler
                                    : subsystem->handler;
        break;

    case NGX_RS_IPPROTO_MPTCP:
        ls->handler = subsystem->mptcp_handler;
        break;

    default:
        ls->handler = subsystem->other_handler;
    }
}


/* what is not TCP lacks these options, so nginx is not to set them */

void
ngx_rsm_ignore_tcp_options(ngx_listening_t *ls, ngx_log_t *log)
{
    ngx_uint_t  ignored;

    ignored = 0;

#if (NGX_HAVE_DEFERRED_ACCEPT)
    ignored |= ls->deferred_accept;
    ls->deferred_accept = 0;
#endif

#if (NGX_HAVE_TCP_FASTOPEN)
    ignored |= (ls->fastopen != -1);
    ls->fastopen = -1;
#endif

#if (NGX_HAVE_KEEPALIVE_TUNABLE)
    ignored |= (ls->keepidle || ls->keepintvl || ls->keepcnt);
    ls->keepidle = 0;
    ls->keepintvl = 0;
    ls->keepcnt = 0;
#endif

    if (ignored) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "\"deferred\", \"fastopen\" and the times of "
                      "\"so_keepalive\" have no effect on %V, "
                      "because its protocol is not TCP", &ls->addr_text);
    }
}


/*
 * SCTP has neither TCP_NODELAY nor TCP_CORK, and nginx closes a connection for
 * which it cannot set them.  One recv() returns one message at most, and nginx
 * takes less than it has room for as a sign that there is no more to read.
 */

void
ngx_rsm_prepare_other(ngx_connection_t *c)
{
    c->tcp_nodelay = NGX_TCP_NODELAY_DISABLED;
    c->tcp_nopush = NGX_TCP_NOPUSH_DISABLED;

    c->recv = ngx_rsm_recv;
    c->recv_chain = ngx_rsm_recv_chain;
}


static ssize_t
ngx_rsm_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    ssize_t  n;

    n = ngx_recv(c, buf, size);

    if (n > 0) {
        c->read->ready = 1;
    }

    return n;
}


static ssize_t
ngx_rsm_recv_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    ssize_t  n;

    n = ngx_recv_chain(c, in, limit);

    if (n > 0) {
        c->read->ready = 1;
    }

    return n;
}


/* a defect of the library is never a mere notice */

void
ngx_rsm_log_error(ngx_uint_t level, ngx_log_t *log, ngx_rs_error_t *error)
{
    if (error->status == NGX_RS_ERR_PANIC) {
        level = ngx_min(level, NGX_LOG_ALERT);
    }

    ngx_log_error(level, log, error->os_errno, "%s", error->message);
}
