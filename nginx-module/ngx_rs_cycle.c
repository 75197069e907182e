
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"


static ngx_int_t ngx_rsm_collect(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf);
static ngx_int_t ngx_rsm_collect_old(ngx_cycle_t *cycle,
    ngx_rsm_conf_t *conf);
static ngx_int_t ngx_rsm_assign(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf);
static void ngx_rsm_apply(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf);
static void ngx_rsm_detach_superseded(ngx_rsm_conf_t *conf);
static void ngx_rsm_restore_superseded(ngx_rsm_conf_t *conf,
    ngx_uint_t ignore);
static void ngx_rsm_report(void *data, uint32_t event,
    const ngx_rs_error_t *error);
static void ngx_rsm_rollback(void *data);


/* the configuration of the running cycle, for each subsystem */

static ngx_rsm_conf_t  *ngx_rsm_running[NGX_RS_SUBSYSTEM_MAIL + 1];


ngx_rsm_conf_t *
ngx_rsm_create_conf(ngx_cycle_t *cycle, ngx_rsm_subsystem_t *subsystem)
{
    ngx_uint_t       n;
    ngx_rsm_conf_t  *conf;

    if (ngx_rs_abi_version() != NGX_RS_ABI_VERSION) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "ngx_rs_listen library has ABI version %uD "
                      "instead of %d",
                      ngx_rs_abi_version(), NGX_RS_ABI_VERSION);
        return NULL;
    }

    conf = ngx_pcalloc(cycle->pool, sizeof(ngx_rsm_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->subsystem = subsystem;
    conf->cycle = cycle;

    /* the new configuration has about as many listeners as the old one */

    n = ngx_max(cycle->old_cycle->listening.nelts, 4);

    if (ngx_array_init(&conf->requests, cycle->pool, n,
                       sizeof(ngx_rsm_request_t))
        != NGX_OK)
    {
        return NULL;
    }

    return conf;
}


/*
 * Called after nginx has read the configuration and before nginx opens its
 * sockets: opens the sockets that nginx cannot open with the requested
 * protocol.
 */

char *
ngx_rsm_prepare(ngx_cycle_t *cycle, void *data)
{
    ngx_rsm_conf_t  *conf = data;

    ngx_rs_open_t       *open;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    ngx_rs_open_t        init = NGX_RS_OPEN_INIT;
    ngx_pool_cleanup_t  *cln;

    if (ngx_rsm_collect(cycle, conf) != NGX_OK
        || ngx_rsm_assign(cycle, conf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_CONF_OK;
    }

    open = &conf->open;
    *open = init;

    open->flags = NGX_RS_OPEN_LEAVE_TCP|NGX_RS_OPEN_PREPARE;
    open->tries = 5;
    open->delay_ms = 500;
    open->report = ngx_rsm_report;
    open->data = cycle->log;

    if (ngx_test_config) {
        open->flags |= NGX_RS_OPEN_CHECK;

    } else if (ngx_rsm_collect_old(cycle, conf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    cln = ngx_pool_cleanup_add(cycle->pool, 0);
    if (cln == NULL) {
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_rsm_rollback;
    cln->data = conf;

    open->drain = ngx_rsm_drain_running(conf->subsystem->subsystem,
                                        cycle->log);

    if (ngx_rs_open_listening(conf->sockets, conf->nsockets, open, &error)
        != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_EMERG, cycle->log, &error);

        if (error.os_errno == NGX_EADDRINUSE) {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                          "still could not bind()");
        }

        return NGX_CONF_ERROR;
    }

    conf->opened = 1;
    conf->counted = ngx_rsm_count_wanted(cycle);

    ngx_rsm_apply(cycle, conf);
    ngx_rsm_detach_superseded(conf);

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_rsm_collect(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf)
{
    ngx_uint_t           i, n;
    ngx_listening_t     *ls;
    ngx_rs_listening_t  *socket;
    ngx_rs_listening_t   init = NGX_RS_LISTENING_INIT;

    n = cycle->listening.nelts;

    conf->sockets = ngx_palloc(cycle->pool, n * sizeof(ngx_rs_listening_t));
    conf->indices = ngx_palloc(cycle->pool, n * sizeof(ngx_uint_t));

    if (conf->sockets == NULL || conf->indices == NULL) {
        return NGX_ERROR;
    }

    ls = cycle->listening.elts;

    for (i = 0; i < n; i++) {

        if (ls[i].handler != conf->subsystem->handler
            || ls[i].type != SOCK_STREAM
            || ls[i].sockaddr->sa_family == AF_UNIX)
        {
            continue;
        }

        conf->indices[conf->nsockets] = i;
        socket = &conf->sockets[conf->nsockets++];

        /* ngx_configure_listening_sockets() sets all other options */

        *socket = init;

        socket->sockaddr = ls[i].sockaddr;
        socket->socklen = ls[i].socklen;
        socket->backlog = ls[i].backlog;

#if (NGX_HAVE_REUSEPORT)
        if (ls[i].reuseport) {
            socket->flags |= NGX_RS_LISTENING_REUSEPORT;
        }
#endif

#if (NGX_HAVE_INET6)
        if (!ls[i].ipv6only) {
            socket->flags |= NGX_RS_LISTENING_IPV6ONLY_OFF;
        }
#endif
    }

    return NGX_OK;
}


/* the sockets of the running cycle, or those passed by another process */

static ngx_int_t
ngx_rsm_collect_old(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf)
{
    ngx_uint_t            i, n;
    ngx_rs_open_t        *open;
    ngx_rsm_conf_t       *running;
    ngx_listening_t      *ls;
    ngx_rs_inherited_t   *old;
    ngx_rs_inherited_t    init = NGX_RS_INHERITED_INIT;
    ngx_rs_listening_t  **known;

    open = &conf->open;
    n = cycle->old_cycle->listening.nelts;
    conf->nold = n;

    if (n == 0) {
        return NGX_OK;
    }

    open->inherited = ngx_palloc(cycle->pool, n * sizeof(ngx_rs_inherited_t));
    conf->old_indices = ngx_palloc(cycle->pool, n * sizeof(ngx_uint_t));
    known = ngx_pcalloc(cycle->pool, n * sizeof(ngx_rs_listening_t *));

    if (open->inherited == NULL || conf->old_indices == NULL || known == NULL)
    {
        return NGX_ERROR;
    }

    running = ngx_rsm_running[conf->subsystem->subsystem];

    if (running) {
        for (i = 0; i < running->nsockets; i++) {
            known[running->indices[i]] = &running->sockets[i];
        }
    }

    ls = cycle->old_cycle->listening.elts;

    for (i = 0; i < n; i++) {

        if (ls[i].ignore || ls[i].fd == (ngx_socket_t) -1
            || ls[i].type != SOCK_STREAM
            || ls[i].sockaddr->sa_family == AF_UNIX)
        {
            continue;
        }

        conf->old_indices[open->inherited_count] = i;
        old = &open->inherited[open->inherited_count++];

        *old = init;

        old->fd = ls[i].fd;
        old->sockaddr = ls[i].sockaddr;
        old->socklen = ls[i].socklen;
        old->type = ls[i].type;

        if (known[i]) {
            old->protocol = known[i]->opened_protocol;
        }

#if (NGX_HAVE_REUSEPORT)
        if (!ls[i].reuseport) {
            old->flags |= NGX_RS_INHERITED_ALONE;
        }
#endif

        /* nginx before 1.19.1 does not set this for inherited sockets */

        if (ngx_is_init_cycle(cycle->old_cycle)) {
            ls[i].inherited = 1;
        }

        if (!ls[i].inherited) {
            continue;
        }

        if (known[i] == NULL || known[i]->protocol == 0) {
            old->flags |= NGX_RS_INHERITED_PASSED;
        }

        if (ngx_inherited && getppid() == ngx_parent) {
            old->flags |= NGX_RS_INHERITED_IN_USE;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_rsm_assign(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf)
{
    ngx_uint_t           i, n;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    ngx_rs_status_t      status;
    ngx_rsm_request_t   *request;
    ngx_rs_listening_t  *requested;
    ngx_rs_listening_t   init = NGX_RS_LISTENING_INIT;

    request = conf->requests.elts;
    n = conf->requests.nelts;

    if (n == 0) {
        return NGX_OK;
    }

    requested = ngx_alloc(n * sizeof(ngx_rs_listening_t), cycle->log);
    if (requested == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {
        requested[i] = init;
        requested[i].sockaddr = &request[i].u.sockaddr;
        requested[i].socklen = sizeof(request[i].u);
        requested[i].protocol = request[i].protocol;
        requested[i].flags = request[i].flags;
    }

    status = ngx_rs_listening_assign(conf->sockets, conf->nsockets, requested,
                                     n, &error);

    ngx_free(requested);

    if (status == NGX_RS_OK) {
        return NGX_OK;
    }

    if (error.status == NGX_RS_ERR_CONFLICT) {
        request += error.arg_index;
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0, "%s in %s:%ui",
                      error.message, request->file, request->line);

    } else {
        ngx_rsm_log_error(NGX_LOG_EMERG, cycle->log, &error);
    }

    return NGX_ERROR;
}


/* stores the opened and the kept sockets in the listeners of the cycle */

static void
ngx_rsm_apply(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf)
{
    ngx_uint_t           i;
    ngx_listening_t     *ls, *old;
    ngx_rs_listening_t  *socket;

    for (i = 0; i < conf->nsockets; i++) {
        socket = &conf->sockets[i];

        ls = cycle->listening.elts;
        ls += conf->indices[i];

        ngx_rsm_set_handler(ls, conf, socket->opened_protocol);

        ngx_rsm_ignore_options(conf, ls, socket->opened_protocol);

#if (NGX_RS_HAVE_LISTENING_PROTOCOL)
        ls->protocol = (socket->opened_protocol == IPPROTO_TCP)
                       ? 0 : socket->opened_protocol;
#endif

#if (NGX_RS_HAVE_LISTENING_MULTIPATH)
        ls->multipath = (socket->opened_protocol == NGX_RS_IPPROTO_MPTCP);
#endif

        switch (socket->outcome) {

        case NGX_RS_OPENED:
            break;

        case NGX_RS_JOINED:
        case NGX_RS_SUCCESSOR:
            conf->waiting = 1;
            break;

        case NGX_RS_INHERITED:

            /*
             * ngx_init_cycle() keeps the old socket only if the protocols of
             * both listeners are equal.
             */

            old = cycle->old_cycle->listening.elts;
            old += conf->old_indices[socket->inherited];

            ls->inherited = old->inherited;

#if (NGX_RS_HAVE_LISTENING_PROTOCOL)
            ls->protocol = old->protocol;
#endif

#if (NGX_RS_HAVE_LISTENING_MULTIPATH)
            ls->multipath = old->multipath;
#endif
            continue;

        default:
            continue;
        }

        ls->fd = socket->fd;

#if (NGX_HAVE_DEFERRED_ACCEPT && defined TCP_DEFER_ACCEPT)

        /* nginx sets this only for sockets that nginx itself opens */

        if (ls->deferred_accept) {
            ls->add_deferred = 1;
        }
#endif
    }
}


/*
 * nginx matches old and new sockets by address and type only, so superseded
 * sockets are marked as ignored.  nginx skips ignored sockets again for each
 * new listener, so the array is shortened if they are at its end.
 */

static void
ngx_rsm_detach_superseded(ngx_rsm_conf_t *conf)
{
    ngx_array_t      *listening;
    ngx_listening_t  *ls;

    ngx_rsm_restore_superseded(conf, 1);

    listening = &conf->cycle->old_cycle->listening;
    ls = listening->elts;

    while (listening->nelts && ls[listening->nelts - 1].ignore) {
        listening->nelts--;
    }
}


static void
ngx_rsm_restore_superseded(ngx_rsm_conf_t *conf, ngx_uint_t ignore)
{
    ngx_uint_t        i;
    ngx_array_t      *listening;
    ngx_listening_t  *ls;

    listening = &conf->cycle->old_cycle->listening;
    listening->nelts = ngx_max(listening->nelts, conf->nold);

    ls = listening->elts;

    for (i = 0; i < conf->open.inherited_count; i++) {
        if (conf->open.inherited[i].disposition == NGX_RS_SUPERSEDED) {
            ls[conf->old_indices[i]].ignore = ignore;
            ls[conf->old_indices[i]].remain = 0;
        }
    }
}


static void
ngx_rsm_report(void *data, uint32_t event, const ngx_rs_error_t *error)
{
    ngx_log_t  *log = data;

    ngx_uint_t  level;

    switch (event) {

    case NGX_RS_REPORT_IN_USE:
        level = NGX_LOG_EMERG;
        break;

    case NGX_RS_REPORT_FALLBACK:
    case NGX_RS_REPORT_KEPT:
    case NGX_RS_REPORT_NOT_TCP:
        level = NGX_LOG_WARN;
        break;

    default: /* NGX_RS_REPORT_WAITING, NGX_RS_REPORT_DRAIN_ENDED */
        level = NGX_LOG_NOTICE;
    }

    ngx_log_error(level, log, error->os_errno, "%s", error->message);
}


/* called in init_module, when the new cycle can no longer fail */

ngx_int_t
ngx_rsm_commit(ngx_cycle_t *cycle, void *data)
{
    ngx_rsm_conf_t  *conf = data;

    ngx_uint_t        i;
    ngx_rs_error_t    error = NGX_RS_ERROR_INIT;
    ngx_listening_t  *ls;

    conf->committed = 1;

    ngx_rsm_restore_superseded(conf, 1);

    if (conf->waiting
        && ngx_rs_listening_commit(conf->sockets, conf->nsockets, &conf->open,
                                   &error)
           != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_ALERT, cycle->log, &error);
        ngx_rsm_apply(cycle, conf);

        ls = cycle->listening.elts;

        for (i = 0; i < conf->nsockets; i++) {
            if (conf->sockets[i].outcome == NGX_RS_FAILED) {
                ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                              "keeping the old socket on %V",
                              &ls[conf->indices[i]].addr_text);
            }
        }
    }

    ngx_rsm_count_commit(cycle, conf);
    ngx_rsm_drain_begin(cycle, conf);

    ngx_rsm_running[conf->subsystem->subsystem] = conf;

    return NGX_OK;
}


ngx_int_t
ngx_rsm_init_process(ngx_cycle_t *cycle, ngx_rsm_subsystem_t *subsystem)
{
    if (ngx_rsm_drain_init_process(cycle, subsystem) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_rsm_count_init_process(cycle);
}


/* called when nginx destroys the pool of a failed or of an old cycle */

static void
ngx_rsm_rollback(void *data)
{
    ngx_rsm_conf_t  *conf = data;

    ngx_uint_t        i;
    ngx_rsm_conf_t  **running;
    ngx_listening_t  *ls;

    running = &ngx_rsm_running[conf->subsystem->subsystem];

    if (*running == conf) {
        *running = NULL;
    }

    if (conf->committed || !conf->opened) {
        return;
    }

    ls = conf->cycle->listening.elts;

    for (i = 0; i < conf->nsockets; i++) {

        /* ngx_init_cycle() has closed this socket */

        if (ls[conf->indices[i]].open) {
            conf->sockets[i].outcome = NGX_RS_UNTOUCHED;
        }
    }

    ngx_rsm_restore_superseded(conf, 0);

    (void) ngx_rs_listening_rollback(conf->sockets, conf->nsockets,
                                     &conf->open, NULL);
}
