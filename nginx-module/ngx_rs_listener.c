
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"


static ngx_uint_t ngx_rsm_ignored(ngx_rsm_conf_t *conf, ngx_listening_t *ls,
    int protocol, uint32_t option);


/* plain TCP keeps nginx's own handler unless connections are counted */

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


/* clears options that the protocol lacks, so that nginx does not set them */

void
ngx_rsm_ignore_options(ngx_rsm_conf_t *conf, ngx_listening_t *ls, int protocol)
{
    if (protocol == IPPROTO_TCP) {
        return;
    }

#if (NGX_HAVE_DEFERRED_ACCEPT)
    if (ls->deferred_accept
        && ngx_rsm_ignored(conf, ls, protocol, NGX_RS_OPTION_DEFERRED))
    {
        ls->deferred_accept = 0;
    }
#endif

#if (NGX_HAVE_TCP_FASTOPEN)
    if (ls->fastopen != -1
        && ngx_rsm_ignored(conf, ls, protocol, NGX_RS_OPTION_FASTOPEN))
    {
        ls->fastopen = -1;
    }
#endif

#if (NGX_HAVE_KEEPALIVE_TUNABLE)
    if ((ls->keepidle || ls->keepintvl || ls->keepcnt)
        && ngx_rsm_ignored(conf, ls, protocol, NGX_RS_OPTION_KEEPALIVE_TIMES))
    {
        ls->keepidle = 0;
        ls->keepintvl = 0;
        ls->keepcnt = 0;
    }
#endif
}


static ngx_uint_t
ngx_rsm_ignored(ngx_rsm_conf_t *conf, ngx_listening_t *ls, int protocol,
    uint32_t option)
{
    ngx_uint_t      level;
    ngx_rs_error_t  error = NGX_RS_ERROR_INIT;

    if (ngx_rs_option_check(protocol, option, &error)
        != NGX_RS_ERR_UNSUPPORTED)
    {
        return 0;
    }

    level = NGX_LOG_WARN;

    if (protocol == NGX_RS_IPPROTO_MPTCP) {

        /* a newer kernel has the option, so one notice for all is enough */

        if (conf->ignored & (1 << option)) {
            return 1;
        }

        conf->ignored |= 1 << option;
        level = NGX_LOG_NOTICE;
    }

    ngx_log_error(level, conf->cycle->log, 0, "%s, ignored for %V",
                  error.message, &ls->addr_text);

    return 1;
}


/*
 * SCTP has neither TCP_NODELAY nor TCP_CORK, and nginx closes a connection if
 * it cannot set them, so both are disabled.  SMC has the options of TCP.
 */

void
ngx_rsm_prepare_other(ngx_connection_t *c)
{
    int        protocol;
    socklen_t  len;

    len = sizeof(int);

    if (getsockopt(c->fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0
        && protocol == NGX_RS_IPPROTO_SMC)
    {
        return;
    }

    c->tcp_nodelay = NGX_TCP_NODELAY_DISABLED;
    c->tcp_nopush = NGX_TCP_NOPUSH_DISABLED;

    ngx_rsm_set_sctp_recv(c);
}


/* a panic is a defect of the library, so it is logged as an alert at least */

void
ngx_rsm_log_error(ngx_uint_t level, ngx_log_t *log, ngx_rs_error_t *error)
{
    if (error->status == NGX_RS_ERR_PANIC) {
        level = ngx_min(level, NGX_LOG_ALERT);
    }

    ngx_log_error(level, log, error->os_errno, "%s", error->message);
}
