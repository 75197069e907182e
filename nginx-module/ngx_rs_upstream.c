
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"
#include "ngx_rs_upstream.h"


/* the original callbacks of a peer, which those of this module call */

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
    ngx_rsm_upstream_ctx_t         *ctx;    /* NULL if no variable is used */
} ngx_rsm_upstream_peer_t;


static ngx_rsm_upstream_ctx_t *ngx_rsm_upstream_find_ctx(ngx_pool_t *pool,
    ngx_array_t *states);
static void ngx_rsm_upstream_cleanup(void *data);
static ngx_int_t ngx_rsm_upstream_get(ngx_peer_connection_t *pc, void *data);
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
static ngx_uint_t ngx_rsm_upstream_connected(ngx_rsm_upstream_ctx_t *ctx,
    ngx_connection_t *c);
static ngx_uint_t ngx_rsm_upstream_has_name(ngx_array_t *states, ngx_uint_t i,
    size_t name);
static u_char *ngx_rsm_upstream_write_kind(u_char *p,
    ngx_rsm_upstream_ctx_t *ctx, ngx_uint_t i);


#define ngx_rsm_upstream_state(states, i)                                     \
    ((u_char *) (states)->elts + (i) * (states)->size)


ngx_str_t  ngx_rsm_upstream_name = ngx_string("upstream_mptcp");


void *
ngx_rsm_upstream_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_rsm_upstream_main_conf_t));
}


void *
ngx_rsm_upstream_create_srv_conf(ngx_conf_t *cf)
{
    ngx_rsm_upstream_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_rsm_upstream_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->protocol = NGX_CONF_UNSET_UINT;

    return conf;
}


/* "mptcp [on|auto|off]" in "upstream" */

char *
ngx_rsm_upstream_directive(ngx_conf_t *cf, ngx_rsm_upstream_conf_t *conf,
    ngx_rsm_upstream_main_conf_t *main)
{
    ngx_str_t       *value;
    ngx_rs_error_t   error = NGX_RS_ERROR_INIT;

    if (conf->protocol != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    conf->main = main;
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
                           "invalid value \"%V\" in \"%V\" directive, "
                           "it must be \"on\", \"auto\" or \"off\"",
                           &value[1], &value[0]);
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

    if (!main->warned) {
        main->warned = 1;
        ngx_conf_log_error(NGX_LOG_WARN, cf, error.os_errno,
                           "\"mptcp auto\" falls back to TCP: %s",
                           error.message);
    }

    return NGX_CONF_OK;
}


ngx_uint_t
ngx_rsm_upstream_wrapped(ngx_rsm_upstream_conf_t *conf)
{
    return conf->protocol == NGX_RSM_UPSTREAM_ON
           || conf->protocol == NGX_RSM_UPSTREAM_AUTO;
}


/* called after the configuration is read: is $upstream_mptcp used in it? */

void
ngx_rsm_upstream_set_used(ngx_rsm_upstream_main_conf_t *main,
    ngx_array_t *variables)
{
    ngx_str_t   *name;
    ngx_uint_t   i;

    for (i = 0; i < variables->nelts; i++) {

        /* ngx_http_variable_t and ngx_stream_variable_t begin with the name */

        name = (ngx_str_t *) ngx_rsm_upstream_state(variables, i);

        if (name->len == ngx_rsm_upstream_name.len
            && ngx_strncmp(name->data, ngx_rsm_upstream_name.data, name->len)
               == 0)
        {
            main->used = 1;
        }
    }
}


/*
 * The context is stored in the pool, because an internal redirect clears the
 * contexts of modules but not nginx's array of states.  Subrequests share the
 * pool, so the array identifies the context.
 */

static ngx_rsm_upstream_ctx_t *
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
    ngx_rsm_upstream_connected_pt connected)
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
    ctx->connected = connected;

    cln->handler = ngx_rsm_upstream_cleanup;

    return ctx;
}


/* has no effect; its address identifies the context in the pool */

static void
ngx_rsm_upstream_cleanup(void *data)
{
}


/*
 * Called after all other modules have set their callbacks, because "get" of
 * this module needs their choice: a server or a keep-alive connection.
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

    /* nginx has a keep-alive connection or no server, or this is not TCP */

    if (rc != NGX_OK
        || (pc->type && pc->type != SOCK_STREAM)
        || (pc->sockaddr->sa_family != AF_INET
            && pc->sockaddr->sa_family != AF_INET6))
    {
        return rc;
    }

    return ngx_rsm_upstream_connect(pc, peer->conf);
}


/* queries the connection before nginx closes it or keeps it alive */

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


/* stores the kind of the connection to the last server, if it was made */

static void
ngx_rsm_upstream_query(ngx_rsm_upstream_ctx_t *ctx)
{
    uint32_t                  *kinds;
    ngx_rs_error_t             error = NGX_RS_ERROR_INIT;
    ngx_connection_t          *c;
    ngx_rs_connection_info_t   info = NGX_RS_CONNECTION_INFO_INIT;

    if (ctx->peer == NULL || ctx->kinds.nelts == 0) {
        return;
    }

    c = ctx->peer->connection;

    if (c == NULL || c->fd == (ngx_socket_t) -1
        || !ngx_rsm_upstream_connected(ctx, c))
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


/* needed because the kernel also reports a kind for refused connections */

static ngx_uint_t
ngx_rsm_upstream_connected(ngx_rsm_upstream_ctx_t *ctx, ngx_connection_t *c)
{
    if (c->sent || c->requests > 1) {
        return 1;
    }

#if (NGX_SSL || NGX_COMPAT)
    if (c->ssl) {
        return 1;
    }
#endif

    return ctx->connected(ngx_rsm_upstream_state(ctx->states,
                                                 ctx->kinds.nelts - 1));
}


/*
 * Writes values in the format of ngx_http_upstream_addr_variable().  "name" is
 * the offset of the server's name in a state.
 */

ngx_int_t
ngx_rsm_upstream_variable(ngx_pool_t *pool, ngx_array_t *states, size_t name,
    ngx_variable_value_t *v)
{
    u_char                  *p;
    ngx_uint_t               i;
    ngx_rsm_upstream_ctx_t  *ctx;

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    if (states == NULL || states->nelts == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    ctx = ngx_rsm_upstream_find_ctx(pool, states);

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


/*
 * A state has no name if it separates two upstreams, or if no socket could be
 * opened.
 */

static ngx_uint_t
ngx_rsm_upstream_has_name(ngx_array_t *states, ngx_uint_t i, size_t name)
{
    return *(ngx_str_t **) (ngx_rsm_upstream_state(states, i) + name) != NULL;
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
