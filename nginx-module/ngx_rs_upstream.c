
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"
#include "ngx_rs_upstream.h"


/* nginx's own callbacks of a peer, which ours call */

typedef struct {
    ngx_event_get_peer_pt           get;
    ngx_event_free_peer_pt          free;
    ngx_event_notify_peer_pt        notify;
#if (NGX_SSL || NGX_COMPAT)
    ngx_event_set_peer_session_pt   set_session;
    ngx_event_save_peer_session_pt  save_session;
#endif
    void                           *data;

    ngx_rsm_upstream_conf_t        *conf;
    ngx_rsm_upstream_ctx_t         *ctx;    /* NULL: nobody reads the kinds */
} ngx_rsm_upstream_peer_t;


static void ngx_rsm_upstream_cleanup(void *data);
static ngx_int_t ngx_rsm_upstream_get(ngx_peer_connection_t *pc, void *data);
static ngx_int_t ngx_rsm_upstream_connect(ngx_peer_connection_t *pc,
    ngx_uint_t protocol);
static void ngx_rsm_upstream_set_options(ngx_peer_connection_t *pc,
    ngx_socket_t s);
static ngx_int_t ngx_rsm_upstream_bind(ngx_peer_connection_t *pc,
    ngx_socket_t s);
static ngx_int_t ngx_rsm_upstream_set_transparent(ngx_peer_connection_t *pc,
    ngx_socket_t s);
static ngx_int_t ngx_rsm_upstream_add_events(ngx_connection_t *c);
static void ngx_rsm_upstream_free(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t state);
static void ngx_rsm_upstream_notify(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t type);
#if (NGX_SSL || NGX_COMPAT)
static ngx_int_t ngx_rsm_upstream_set_session(ngx_peer_connection_t *pc,
    void *data);
static void ngx_rsm_upstream_save_session(ngx_peer_connection_t *pc,
    void *data);
#endif
static void ngx_rsm_upstream_query(ngx_rsm_upstream_ctx_t *ctx);
static ngx_uint_t ngx_rsm_upstream_has_name(ngx_array_t *states, ngx_uint_t i,
    size_t name);
static u_char *ngx_rsm_upstream_write_kind(u_char *p,
    ngx_rsm_upstream_ctx_t *ctx, ngx_uint_t i);


/* "mptcp [on|auto|off]" in "upstream" */

char *
ngx_rsm_upstream_directive(ngx_conf_t *cf, ngx_rsm_upstream_conf_t *conf)
{
    ngx_str_t       *value;
    ngx_rs_error_t   error = NGX_RS_ERROR_INIT;

    static ngx_cycle_t  *warned;

    if (conf->protocol != (ngx_uint_t) NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 1 || ngx_strcmp(value[1].data, "on") == 0) {
        conf->protocol = NGX_RSM_UPSTREAM_ON;

    } else if (ngx_strcmp(value[1].data, "auto") == 0) {
        conf->protocol = NGX_RSM_UPSTREAM_AUTO;

    } else if (ngx_strcmp(value[1].data, "off") == 0) {
        conf->protocol = NGX_RSM_UPSTREAM_OFF;
        return NGX_CONF_OK;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_process == NGX_PROCESS_SIGNALLER
        || ngx_rs_protocol_check(NGX_RS_IPPROTO_MPTCP, &error) == NGX_RS_OK)
    {
        return NGX_CONF_OK;
    }

    if (conf->protocol == NGX_RSM_UPSTREAM_ON
        || error.status != NGX_RS_ERR_UNSUPPORTED)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, error.os_errno,
                           "%s", error.message);
        return NGX_CONF_ERROR;
    }

    if (warned != cf->cycle) {
        warned = cf->cycle;
        ngx_conf_log_error(NGX_LOG_WARN, cf, error.os_errno,
                           "\"mptcp auto\" falls back to TCP: %s",
                           error.message);
    }

    return NGX_CONF_OK;
}


/*
 * It is kept in the pool, since an internal redirect clears the contexts of
 * modules, but not nginx's states.  Subrequests share the pool.
 */

ngx_rsm_upstream_ctx_t *
ngx_rsm_upstream_find_ctx(ngx_pool_t *pool, ngx_array_t *states)
{
    ngx_pool_cleanup_t      *cln;
    ngx_rsm_upstream_ctx_t  *ctx;

    for (cln = pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_rsm_upstream_cleanup) {
            ctx = cln->data;

            if (ctx->states == states) {
                return ctx;
            }
        }
    }

    return NULL;
}


ngx_rsm_upstream_ctx_t *
ngx_rsm_upstream_create_ctx(ngx_pool_t *pool, ngx_array_t *states,
    size_t connect_time)
{
    ngx_pool_cleanup_t      *cln;
    ngx_rsm_upstream_ctx_t  *ctx;

    ctx = ngx_rsm_upstream_find_ctx(pool, states);
    if (ctx) {
        return ctx;
    }

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_rsm_upstream_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_rsm_upstream_ctx_t));

    if (ngx_array_init(&ctx->kinds, pool, 2, sizeof(uint32_t)) != NGX_OK) {
        return NULL;
    }

    ctx->states = states;
    ctx->connect_time = connect_time;

    cln->handler = ngx_rsm_upstream_cleanup;

    return ctx;
}


/* marks what is ours in the pool */

static void
ngx_rsm_upstream_cleanup(void *data)
{
}


/*
 * When all others have set their callbacks: ours has to see what they have
 * chosen, a server or a connection that is kept alive.
 */

ngx_int_t
ngx_rsm_upstream_wrap(ngx_pool_t *pool, ngx_peer_connection_t *pc,
    ngx_rsm_upstream_conf_t *conf, ngx_rsm_upstream_ctx_t *ctx)
{
    ngx_rsm_upstream_peer_t  *peer;

    peer = ngx_palloc(pool, sizeof(ngx_rsm_upstream_peer_t));
    if (peer == NULL) {
        return NGX_ERROR;
    }

    peer->get = pc->get;
    peer->free = pc->free;
    peer->notify = pc->notify;
    peer->data = pc->data;
    peer->conf = conf;
    peer->ctx = ctx;

    pc->get = ngx_rsm_upstream_get;
    pc->free = pc->free ? ngx_rsm_upstream_free : NULL;
    pc->notify = pc->notify ? ngx_rsm_upstream_notify : NULL;
    pc->data = peer;

#if (NGX_SSL || NGX_COMPAT)
    peer->set_session = pc->set_session;
    peer->save_session = pc->save_session;

    pc->set_session = pc->set_session ? ngx_rsm_upstream_set_session : NULL;
    pc->save_session = pc->save_session ? ngx_rsm_upstream_save_session : NULL;
#endif

    return NGX_OK;
}


static ngx_int_t
ngx_rsm_upstream_get(ngx_peer_connection_t *pc, void *data)
{
    ngx_rsm_upstream_peer_t  *peer = data;

    uint32_t                *kind;
    ngx_int_t                rc;
    ngx_rsm_upstream_ctx_t  *ctx;

    rc = peer->get(pc, peer->data);

    ctx = peer->ctx;

    if (ctx) {
        ctx->peer = pc;

        while (ctx->kinds.nelts < ctx->states->nelts) {
            kind = ngx_array_push(&ctx->kinds);
            if (kind == NULL) {
                return NGX_ERROR;
            }

            *kind = NGX_RS_CONNECTION_UNQUERIED;
        }
    }

    /* a connection that is kept alive, or no server at all */

    if (rc != NGX_OK
        || (pc->type && pc->type != SOCK_STREAM)
        || (pc->sockaddr->sa_family != AF_INET
            && pc->sockaddr->sa_family != AF_INET6))
    {
        return rc;
    }

    return ngx_rsm_upstream_connect(pc, peer->conf->protocol);
}


/*
 * As ngx_event_connect_peer(), which does not let others open the socket.  It
 * returns what this function returns, as long as that is not NGX_OK.
 */

static ngx_int_t
ngx_rsm_upstream_connect(ngx_peer_connection_t *pc, ngx_uint_t protocol)
{
    int                s, opened, rc;
    uint32_t           flags;
    ngx_err_t          err;
    ngx_uint_t         level;
    ngx_rs_error_t     error = NGX_RS_ERROR_INIT;
    ngx_connection_t  *c;

    flags = (protocol == NGX_RSM_UPSTREAM_AUTO) ? NGX_RS_CONNECT_FALLBACK : 0;

    if (ngx_rs_connect_socket(pc->sockaddr, pc->socklen, NGX_RS_IPPROTO_MPTCP,
                              flags, &s, &opened, &error)
        != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_ALERT, pc->log, &error);
        return NGX_ERROR;
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

    c->recv = ngx_recv;
    c->send = ngx_send;
    c->recv_chain = ngx_recv_chain;
    c->send_chain = ngx_send_chain;

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

    if (ngx_add_conn == NULL && ngx_rsm_upstream_add_events(c) != NGX_OK) {
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


/* "proxy_bind" and its kin */

static ngx_int_t
ngx_rsm_upstream_bind(ngx_peer_connection_t *pc, ngx_socket_t s)
{
    if (pc->transparent && ngx_rsm_upstream_set_transparent(pc, s) != NGX_OK) {
        return NGX_ERROR;
    }

#if (NGX_HAVE_IP_BIND_ADDRESS_NO_PORT)

    if (ngx_inet_get_port(pc->local->sockaddr) == 0) {
        int        value;
        ngx_err_t  err;

        value = 1;

        if (setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT,
                       (const void *) &value, sizeof(int))
            == -1)
        {
            err = ngx_socket_errno;

            if (err != NGX_EOPNOTSUPP && err != NGX_ENOPROTOOPT) {
                ngx_log_error(NGX_LOG_ALERT, pc->log, err,
                              "setsockopt(IP_BIND_ADDRESS_NO_PORT) "
                              "failed, ignored");
            }
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


/* methods of events that cannot add both at once: select, poll */

static ngx_int_t
ngx_rsm_upstream_add_events(ngx_connection_t *c)
{
    ngx_int_t  event;

    event = (ngx_event_flags & NGX_USE_CLEAR_EVENT) ? NGX_CLEAR_EVENT
                                                    : NGX_LEVEL_EVENT;

    if (ngx_add_event(c->read, NGX_READ_EVENT, event) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_add_event(c->write, NGX_WRITE_EVENT, event);
}


/* the connection may be closed next, or kept alive for another request */

static void
ngx_rsm_upstream_free(ngx_peer_connection_t *pc, void *data, ngx_uint_t state)
{
    ngx_rsm_upstream_peer_t  *peer = data;

    if (peer->ctx) {
        ngx_rsm_upstream_query(peer->ctx);
        peer->ctx->peer = NULL;
    }

    peer->free(pc, peer->data, state);
}


static void
ngx_rsm_upstream_notify(ngx_peer_connection_t *pc, void *data, ngx_uint_t type)
{
    ngx_rsm_upstream_peer_t  *peer = data;

    peer->notify(pc, peer->data, type);
}


#if (NGX_SSL || NGX_COMPAT)

static ngx_int_t
ngx_rsm_upstream_set_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_rsm_upstream_peer_t  *peer = data;

    return peer->set_session(pc, peer->data);
}


static void
ngx_rsm_upstream_save_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_rsm_upstream_peer_t  *peer = data;

    peer->save_session(pc, peer->data);
}

#endif


/* what the connection to the last server is now, if it was ever made */

static void
ngx_rsm_upstream_query(ngx_rsm_upstream_ctx_t *ctx)
{
    u_char                    *state;
    uint32_t                  *kinds;
    ngx_rs_error_t             error = NGX_RS_ERROR_INIT;
    ngx_connection_t          *c;
    ngx_rs_connection_info_t   info = NGX_RS_CONNECTION_INFO_INIT;

    if (ctx->peer == NULL || ctx->kinds.nelts == 0) {
        return;
    }

    c = ctx->peer->connection;
    state = (u_char *) ctx->states->elts
            + (ctx->kinds.nelts - 1) * ctx->states->size;

    if (c == NULL || c->fd == (ngx_socket_t) -1
        || *(ngx_msec_t *) (state + ctx->connect_time) == (ngx_msec_t) -1)
    {
        return;
    }

    info.flags = NGX_RS_CONNECTION_MPTCP_ONLY;

    if (ngx_rs_connection_info(c->fd, &info, &error) != NGX_RS_OK) {
        ngx_rsm_log_error(NGX_LOG_ERR, c->log, &error);
        return;
    }

    kinds = ctx->kinds.elts;
    kinds[ctx->kinds.nelts - 1] = info.kind;
}


/* as ngx_http_upstream_addr_variable() */

ngx_int_t
ngx_rsm_upstream_variable(ngx_rsm_upstream_ctx_t *ctx, ngx_array_t *states,
    size_t name, ngx_pool_t *pool, ngx_variable_value_t *v)
{
    u_char      *p;
    ngx_uint_t   i;

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    if (states == NULL || states->nelts == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    if (ctx) {
        ngx_rsm_upstream_query(ctx);
    }

    p = ngx_pnalloc(pool, states->nelts * (sizeof("fallback : ") - 1));
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->data = p;

    i = 0;

    for ( ;; ) {

        if (ngx_rsm_upstream_has_name(states, i, name)) {
            p = ngx_rsm_upstream_write_kind(p, ctx, i);
        }

        if (++i == states->nelts) {
            break;
        }

        if (ngx_rsm_upstream_has_name(states, i, name)) {
            p = ngx_cpymem(p, ", ", 2);
            continue;
        }

        p = ngx_cpymem(p, " : ", 3);

        if (++i == states->nelts) {
            break;
        }
    }

    v->len = p - v->data;

    return NGX_OK;
}


/* none: a separator between two upstreams, or no socket could be opened */

static ngx_uint_t
ngx_rsm_upstream_has_name(ngx_array_t *states, ngx_uint_t i, size_t name)
{
    u_char  *state;

    state = (u_char *) states->elts + i * states->size;

    return *(ngx_str_t **) (state + name) != NULL;
}


static u_char *
ngx_rsm_upstream_write_kind(u_char *p, ngx_rsm_upstream_ctx_t *ctx,
    ngx_uint_t i)
{
    uint32_t  *kinds;

    if (ctx && i < ctx->kinds.nelts) {
        kinds = ctx->kinds.elts;

        switch (kinds[i]) {

        case NGX_RS_CONNECTION_MPTCP:
            return ngx_cpymem(p, "on", 2);

        case NGX_RS_CONNECTION_FALLBACK:
            return ngx_cpymem(p, "fallback", 8);
        }
    }

    *p++ = '-';

    return p;
}
