
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"
#include "ngx_rs_upstream.h"


static void ngx_rsm_upstream_warn(ngx_rsm_upstream_main_conf_t *main,
    ngx_log_t *log);
static void ngx_rsm_upstream_set_options(ngx_peer_connection_t *pc,
    ngx_socket_t s);
static ngx_int_t ngx_rsm_upstream_bind(ngx_peer_connection_t *pc,
    ngx_socket_t s);
static ngx_int_t ngx_rsm_upstream_set_transparent(ngx_peer_connection_t *pc,
    ngx_socket_t s);
static ngx_int_t ngx_rsm_upstream_add_events(ngx_connection_t *c,
    ngx_uint_t connected);


/*
 * Does the same as ngx_event_connect_peer(), but with an MPTCP socket.
 * ngx_event_connect_peer() cannot use a socket that others have opened.  It
 * calls this in the "get" callback of the peer, and returns the result
 * unchanged unless it is NGX_OK.
 */

ngx_int_t
ngx_rsm_upstream_connect(ngx_peer_connection_t *pc,
    ngx_rsm_upstream_conf_t *conf)
{
    int                s, opened, rc;
    uint32_t           flags;
    ngx_err_t          err;
    ngx_uint_t         level;
    ngx_rs_error_t     error = NGX_RS_ERROR_INIT;
    ngx_connection_t  *c;

    flags = (conf->protocol == NGX_RSM_UPSTREAM_AUTO)
            ? NGX_RS_CONNECT_FALLBACK : 0;

    if (ngx_rs_connect_socket(pc->sockaddr, pc->socklen, NGX_RS_IPPROTO_MPTCP,
                              flags, &s, &opened, &error)
        != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_ALERT, pc->log, &error);
        return NGX_ERROR;
    }

    if (opened != NGX_RS_IPPROTO_MPTCP) {
        ngx_rsm_upstream_warn(conf->main, pc->log);
    }

    c = ngx_get_connection(s, pc->log);

    if (c == NULL) {
        if (ngx_close_socket(s) == -1) {
            ngx_log_error(NGX_LOG_ALERT, pc->log, ngx_socket_errno,
                          ngx_close_socket_n " failed");
        }

        return NGX_ERROR;
    }

    c->type = SOCK_STREAM;

    ngx_rsm_upstream_set_options(pc, s);

    if (pc->local && ngx_rsm_upstream_bind(pc, s) != NGX_OK) {
        goto failed;
    }

    c->send = ngx_send;
    c->send_chain = ngx_send_chain;

    ngx_rsm_set_mptcp_recv(c);

    c->sendfile = 1;

    c->log_error = pc->log_error;

    c->read->log = pc->log;
    c->write->log = pc->log;

    pc->connection = c;

    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);

#if (nginx_version >= 1019010)
    c->start_time = ngx_current_msec;
#endif

    if (ngx_add_conn && ngx_add_conn(c) == NGX_ERROR) {
        goto failed;
    }

    ngx_log_debug3(NGX_LOG_DEBUG_EVENT, pc->log, 0,
                   "connect to %V, fd:%d #%uA", pc->name, s, c->number);

    rc = connect(s, pc->sockaddr, pc->socklen);

    if (rc == -1) {
        err = ngx_socket_errno;

        if (err != NGX_EINPROGRESS) {

            if (err == NGX_ECONNREFUSED
                || err == NGX_EAGAIN
                || err == NGX_ECONNRESET
                || err == NGX_ENETDOWN
                || err == NGX_ENETUNREACH
                || err == NGX_EHOSTDOWN
                || err == NGX_EHOSTUNREACH)
            {
                level = NGX_LOG_ERR;

            } else {
                level = NGX_LOG_CRIT;
            }

            ngx_log_error(level, c->log, err, "connect() to %V failed",
                          pc->name);

            ngx_close_connection(c);
            pc->connection = NULL;

            return NGX_DECLINED;
        }
    }

    if (ngx_add_conn == NULL
        && ngx_rsm_upstream_add_events(c, rc != -1) != NGX_OK)
    {
        goto failed;
    }

    if (rc == -1) {
        return NGX_AGAIN;
    }

    ngx_log_debug0(NGX_LOG_DEBUG_EVENT, pc->log, 0, "connected");

    c->write->ready = 1;

    return NGX_DONE;

failed:

    ngx_close_connection(c);
    pc->connection = NULL;

    return NGX_ERROR;
}


/* warns once in each worker, unless nginx warned when it read the directive */

static void
ngx_rsm_upstream_warn(ngx_rsm_upstream_main_conf_t *main, ngx_log_t *log)
{
    ngx_rs_error_t  error = NGX_RS_ERROR_INIT;

    if (main->warned
        || ngx_rs_protocol_check(NGX_RS_IPPROTO_MPTCP, &error) == NGX_RS_OK)
    {
        return;
    }

    main->warned = 1;

    ngx_log_error(NGX_LOG_WARN, log, error.os_errno,
                  "\"mptcp auto\" falls back to TCP: %s", error.message);
}


static void
ngx_rsm_upstream_set_options(ngx_peer_connection_t *pc, ngx_socket_t s)
{
    int  value;

    if (pc->rcvbuf
        && setsockopt(s, SOL_SOCKET, SO_RCVBUF,
                      (const void *) &pc->rcvbuf, sizeof(int))
           == -1)
    {
        ngx_log_error(NGX_LOG_ALERT, pc->log, ngx_socket_errno,
                      "setsockopt(SO_RCVBUF, %d) failed, ignored",
                      pc->rcvbuf);
    }

#if (NGX_RS_HAVE_PEER_SNDBUF)

    if (pc->sndbuf
        && setsockopt(s, SOL_SOCKET, SO_SNDBUF,
                      (const void *) &pc->sndbuf, sizeof(int))
           == -1)
    {
        ngx_log_error(NGX_LOG_ALERT, pc->log, ngx_socket_errno,
                      "setsockopt(SO_SNDBUF, %d) failed, ignored",
                      pc->sndbuf);
    }

#endif

    value = 1;

    if (pc->so_keepalive
        && setsockopt(s, SOL_SOCKET, SO_KEEPALIVE,
                      (const void *) &value, sizeof(int))
           == -1)
    {
        ngx_log_error(NGX_LOG_ALERT, pc->log, ngx_socket_errno,
                      "setsockopt(SO_KEEPALIVE) failed, ignored");
    }
}


/* for "proxy_bind" and similar directives such as "fastcgi_bind" */

static ngx_int_t
ngx_rsm_upstream_bind(ngx_peer_connection_t *pc, ngx_socket_t s)
{
#if (NGX_HAVE_IP_BIND_ADDRESS_NO_PORT)
    ngx_err_t   err;
    static int  bind_address_no_port = 1;
#endif

    if (pc->transparent && ngx_rsm_upstream_set_transparent(pc, s) != NGX_OK) {
        return NGX_ERROR;
    }

#if (NGX_HAVE_IP_BIND_ADDRESS_NO_PORT)

    if (bind_address_no_port && ngx_inet_get_port(pc->local->sockaddr) == 0
        && setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT,
                      (const void *) &bind_address_no_port, sizeof(int))
           == -1)
    {
        err = ngx_socket_errno;

        if (err != NGX_EOPNOTSUPP && err != NGX_ENOPROTOOPT) {
            ngx_log_error(NGX_LOG_ALERT, pc->log, err,
                          "setsockopt(IP_BIND_ADDRESS_NO_PORT) "
                          "failed, ignored");

        } else {
            bind_address_no_port = 0;
        }
    }

#endif

    if (bind(s, pc->local->sockaddr, pc->local->socklen) == -1) {
        ngx_log_error(NGX_LOG_CRIT, pc->log, ngx_socket_errno,
                      "bind(%V) failed", &pc->local->name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_rsm_upstream_set_transparent(ngx_peer_connection_t *pc, ngx_socket_t s)
{
    int  value;

    value = 1;

    if (pc->local->sockaddr->sa_family == AF_INET) {
        if (setsockopt(s, IPPROTO_IP, IP_TRANSPARENT,
                       (const void *) &value, sizeof(int))
            == -1)
        {
            ngx_log_error(NGX_LOG_ALERT, pc->log, ngx_socket_errno,
                          "setsockopt(IP_TRANSPARENT) failed");
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    if (setsockopt(s, IPPROTO_IPV6, IPV6_TRANSPARENT,
                   (const void *) &value, sizeof(int))
        == -1)
    {
        ngx_log_error(NGX_LOG_ALERT, pc->log, ngx_socket_errno,
                      "setsockopt(IPV6_TRANSPARENT) failed");
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* for event methods that cannot add both events at once: select, poll */

static ngx_int_t
ngx_rsm_upstream_add_events(ngx_connection_t *c, ngx_uint_t connected)
{
    ngx_int_t  event;

    event = (ngx_event_flags & NGX_USE_CLEAR_EVENT) ? NGX_CLEAR_EVENT
                                                    : NGX_LEVEL_EVENT;

    if (ngx_add_event(c->read, NGX_READ_EVENT, event) != NGX_OK) {
        return NGX_ERROR;
    }

    if (connected) {
        return NGX_OK;
    }

    return ngx_add_event(c->write, NGX_WRITE_EVENT, event);
}
