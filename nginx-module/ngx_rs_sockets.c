
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_listen.h"


static ngx_int_t ngx_rs_listen_collect(ngx_cycle_t *cycle,
    ngx_rs_listen_conf_t *rlcf);
static ngx_int_t ngx_rs_listen_collect_old(ngx_cycle_t *cycle,
    ngx_rs_listen_conf_t *rlcf);
static ngx_int_t ngx_rs_listen_assign(ngx_cycle_t *cycle,
    ngx_rs_listen_conf_t *rlcf);
static void ngx_rs_listen_hand_over(ngx_cycle_t *cycle,
    ngx_rs_listen_conf_t *rlcf);
static void ngx_rs_listen_pair(ngx_listening_t *ls, ngx_listening_t *old);
static void ngx_rs_listen_ignore_old(ngx_rs_listen_conf_t *rlcf,
    ngx_uint_t ignore);
static void ngx_rs_listen_hide_old(ngx_rs_listen_conf_t *rlcf);
static void ngx_rs_listen_show_old(ngx_rs_listen_conf_t *rlcf);
static void ngx_rs_listen_keep_paired(ngx_rs_listen_conf_t *rlcf);
static void ngx_rs_listen_report(void *data, uint32_t event,
    const ngx_rs_error_t *error);
static void ngx_rs_listen_keep_old(ngx_cycle_t *cycle,
    ngx_rs_listen_conf_t *rlcf, ngx_uint_t n);
static void ngx_rs_listen_rollback(void *data);


ngx_rs_listen_conf_t *
ngx_rs_listen_create_conf(ngx_cycle_t *cycle, ngx_rs_subsystem_t *subsystem)
{
    ngx_uint_t             n;
    ngx_rs_listen_conf_t  *rlcf;

    if (ngx_rs_abi_version() != NGX_RS_ABI_VERSION) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "ngx_rs_listen library has ABI version %uD "
                      "instead of %d",
                      ngx_rs_abi_version(), NGX_RS_ABI_VERSION);
        return NULL;
    }

    rlcf = ngx_pcalloc(cycle->pool, sizeof(ngx_rs_listen_conf_t));
    if (rlcf == NULL) {
        return NULL;
    }

    rlcf->subsystem = subsystem;
    rlcf->cycle = cycle;

    /* there will be about as many again */

    n = ngx_max(cycle->old_cycle->listening.nelts, 4);

    if (ngx_array_init(&rlcf->asked, cycle->pool, n, sizeof(ngx_rs_asked_t))
        != NGX_OK)
    {
        return NULL;
    }

    return rlcf;
}


/*
 * After the whole configuration has been read, before nginx opens its sockets:
 * opens those that nginx would not open, or not with the right protocol.
 */

char *
ngx_rs_listen_prepare(ngx_cycle_t *cycle, void *conf)
{
    ngx_rs_listen_conf_t  *rlcf = conf;

    ngx_rs_open_t       *open;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    ngx_rs_open_t        init = NGX_RS_OPEN_INIT;
    ngx_pool_cleanup_t  *cln;

    if (ngx_rs_listen_collect(cycle, rlcf) != NGX_OK
        || ngx_rs_listen_assign(cycle, rlcf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_CONF_OK;
    }

    open = &rlcf->open;
    *open = init;

    open->flags = NGX_RS_OPEN_LEAVE_TCP|NGX_RS_OPEN_PREPARE;
    open->tries = 5;
    open->delay_ms = 500;
    open->report = ngx_rs_listen_report;
    open->data = cycle->log;

    if (ngx_test_config) {
        open->flags |= NGX_RS_OPEN_CHECK;

    } else if (ngx_rs_listen_collect_old(cycle, rlcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    cln = ngx_pool_cleanup_add(cycle->pool, 0);
    if (cln == NULL) {
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_rs_listen_rollback;
    cln->data = rlcf;

    ngx_rs_listen_pause(rlcf);

    if (ngx_is_init_cycle(cycle->old_cycle)) {
        /* an upgrade: the old binary may not be done with its last reload */
        open->flags |= NGX_RS_OPEN_AWAIT_DRAINS;
    }

    if (rlcf->asked.nelts == 0 && open->inherited_count == 0) {
        rlcf->nsockets = 0;
        return NGX_CONF_OK;
    }

    if (ngx_rs_open_listening(rlcf->sockets, rlcf->nsockets, open, &error)
        != NGX_RS_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, error.os_errno,
                      "%s", error.message);

        if (error.os_errno == NGX_EADDRINUSE) {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                          "still could not bind()");
        }

        return NGX_CONF_ERROR;
    }

    rlcf->opened = 1;

    ngx_rs_listen_hand_over(cycle, rlcf);
    ngx_rs_listen_ignore_old(rlcf, 1);
    ngx_rs_listen_hide_old(rlcf);

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_rs_listen_collect(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf)
{
    ngx_uint_t           i, n;
    ngx_listening_t     *ls;
    ngx_rs_listening_t  *socket;
    ngx_rs_listening_t   init = NGX_RS_LISTENING_INIT;

    n = cycle->listening.nelts;

    rlcf->sockets = ngx_palloc(cycle->pool, n * sizeof(ngx_rs_listening_t));
    rlcf->indices = ngx_palloc(cycle->pool, n * sizeof(ngx_uint_t));

    if (rlcf->sockets == NULL || rlcf->indices == NULL) {
        return NGX_ERROR;
    }

    ls = cycle->listening.elts;

    for (i = 0; i < n; i++) {

        if (ls[i].handler != rlcf->subsystem->handler
            || ls[i].type != SOCK_STREAM
            || ls[i].sockaddr->sa_family == AF_UNIX)
        {
            continue;
        }

        rlcf->indices[rlcf->nsockets] = i;
        socket = &rlcf->sockets[rlcf->nsockets++];

        /* all other options are set by ngx_configure_listening_sockets() */

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


/* the sockets of the running configuration, or of the previous binary */

static ngx_int_t
ngx_rs_listen_collect_old(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf)
{
    ngx_uint_t           i, n;
    ngx_array_t         *listening;
    ngx_rs_open_t       *open;
    ngx_listening_t     *ls;
    ngx_rs_inherited_t  *old;
    ngx_rs_inherited_t   init = NGX_RS_INHERITED_INIT;

    open = &rlcf->open;
    listening = &cycle->old_cycle->listening;
    n = listening->nelts;

    if (n == 0 || rlcf->nsockets == 0) {
        return NGX_OK;
    }

    open->inherited = ngx_palloc(cycle->pool, n * sizeof(ngx_rs_inherited_t));
    rlcf->old_indices = ngx_palloc(cycle->pool, n * sizeof(ngx_uint_t));

    if (open->inherited == NULL || rlcf->old_indices == NULL) {
        return NGX_ERROR;
    }

    ls = listening->elts;

    for (i = 0; i < n; i++) {

        if (ls[i].ignore || ls[i].fd == (ngx_socket_t) -1
            || ls[i].type != SOCK_STREAM
            || ls[i].sockaddr->sa_family == AF_UNIX)
        {
            continue;
        }

        rlcf->old_indices[open->inherited_count] = i;
        old = &open->inherited[open->inherited_count++];

        *old = init;

        old->fd = ls[i].fd;
        old->sockaddr = ls[i].sockaddr;
        old->socklen = ls[i].socklen;
        old->type = ls[i].type;

#if (NGX_HAVE_REUSEPORT)
        if (!ls[i].reuseport) {
            old->flags = NGX_RS_INHERITED_ALONE;
        }
#endif
    }

    return NGX_OK;
}


static ngx_int_t
ngx_rs_listen_assign(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf)
{
    ngx_uint_t           i, n;
    ngx_rs_asked_t      *asked;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    ngx_rs_status_t      status;
    ngx_rs_listening_t  *places;
    ngx_rs_listening_t   init = NGX_RS_LISTENING_INIT;

    asked = rlcf->asked.elts;
    n = rlcf->asked.nelts;

    if (n == 0) {
        return NGX_OK;
    }

    places = ngx_alloc(n * sizeof(ngx_rs_listening_t), cycle->log);
    if (places == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {
        places[i] = init;
        places[i].sockaddr = &asked[i].u.sockaddr;
        places[i].socklen = sizeof(asked[i].u);
        places[i].protocol = asked[i].protocol;
        places[i].flags = asked[i].flags;
    }

    status = ngx_rs_listening_assign(rlcf->sockets, rlcf->nsockets, places, n,
                                     &error);

    ngx_free(places);

    if (status == NGX_RS_OK) {
        return NGX_OK;
    }

    if (error.status == NGX_RS_ERR_CONFLICT) {
        asked += error.arg_index;
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0, "%s in %s:%ui",
                      error.message, asked->file, asked->line);

    } else {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0, "%s", error.message);
    }

    return NGX_ERROR;
}


/* gives nginx the sockets that we have opened */

static void
ngx_rs_listen_hand_over(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf)
{
    ngx_uint_t           i;
    ngx_listening_t     *ls, *old;
    ngx_rs_listening_t  *socket;

    for (i = 0; i < rlcf->nsockets; i++) {
        socket = &rlcf->sockets[i];

        ls = cycle->listening.elts;
        ls += rlcf->indices[i];

#if (NGX_RS_HAVE_LISTENING_PROTOCOL)
        ls->protocol = (socket->opened_protocol == IPPROTO_TCP)
                       ? 0 : socket->opened_protocol;
#endif

        switch (socket->outcome) {

        case NGX_RS_OPENED:
            break;

        case NGX_RS_JOINED:
        case NGX_RS_REPLACED:
            rlcf->waiting = 1;
            break;

        case NGX_RS_INHERITED:
            old = cycle->old_cycle->listening.elts;
            ngx_rs_listen_pair(ls, &old[rlcf->old_indices[socket->inherited]]);
            continue;

        default:
            continue;
        }

        ls->fd = socket->fd;

#if (NGX_HAVE_DEFERRED_ACCEPT && defined TCP_DEFER_ACCEPT)

        /* nginx sets this only for sockets that it opens itself */

        if (ls->deferred_accept) {
            ls->add_deferred = 1;
        }
#endif
    }
}


/*
 * what ngx_init_cycle() does with an old and a new listener of one address,
 * for which it would compare each of the new ones with all of the old ones
 */

static void
ngx_rs_listen_pair(ngx_listening_t *ls, ngx_listening_t *old)
{
    ls->fd = old->fd;
    ls->inherited = old->inherited;
    ls->previous = old;

    if (ls->backlog != old->backlog) {
        ls->listen = 1;
    }

#if (NGX_HAVE_DEFERRED_ACCEPT && defined TCP_DEFER_ACCEPT)

    if (old->deferred_accept && !ls->deferred_accept) {
        ls->delete_deferred = 1;

    } else if (old->deferred_accept != ls->deferred_accept) {
        ls->add_deferred = 1;
    }

#endif

#if (NGX_HAVE_REUSEPORT)

    if (ls->reuseport && !old->reuseport) {
        ls->add_reuseport = 1;
    }

#endif
}


/*
 * nginx pairs old and new sockets by address alone; it does not see those
 * that are ignored, which are paired already, or replaced.
 */

static void
ngx_rs_listen_ignore_old(ngx_rs_listen_conf_t *rlcf, ngx_uint_t ignore)
{
    ngx_uint_t        i, start;
    ngx_cycle_t      *cycle;
    ngx_listening_t  *ls;

    start = 0;
    cycle = rlcf->cycle;

    for (i = 0; i < rlcf->open.inherited_count; i++) {
        ls = cycle->old_cycle->listening.elts;
        ls += rlcf->old_indices[i];

        /* of several that share an address, fewer may be needed now */

        if (rlcf->open.inherited[i].fate == NGX_RS_UNUSED
#if (NGX_HAVE_REUSEPORT)
            && !(ls->reuseport
                 && ngx_rs_listen_successor(cycle, rlcf, ls, &start))
#endif
           )
        {
            continue;
        }

        ls->ignore = ignore;
        ls->remain = 0;
    }
}


/*
 * For each new socket nginx walks over those that are ignored, so it does not
 * get to see the last ones at all; an array without any would be a first start.
 */

static void
ngx_rs_listen_hide_old(ngx_rs_listen_conf_t *rlcf)
{
    ngx_array_t      *listening;
    ngx_listening_t  *ls;

    listening = &rlcf->cycle->old_cycle->listening;
    rlcf->old_nelts = listening->nelts;

    ls = listening->elts;

    while (listening->nelts > 1 && ls[listening->nelts - 1].ignore) {
        listening->nelts--;
    }
}


/* several subsystems may have hidden some */

static void
ngx_rs_listen_show_old(ngx_rs_listen_conf_t *rlcf)
{
    ngx_array_t  *listening;

    listening = &rlcf->cycle->old_cycle->listening;

    if (listening->nelts < rlcf->old_nelts) {
        listening->nelts = rlcf->old_nelts;
    }
}


/* nginx closes those that do not remain when the new cycle has succeeded */

static void
ngx_rs_listen_keep_paired(ngx_rs_listen_conf_t *rlcf)
{
    ngx_uint_t           i;
    ngx_listening_t     *ls;
    ngx_rs_inherited_t  *inherited;

    ls = rlcf->cycle->old_cycle->listening.elts;
    inherited = rlcf->open.inherited;

    for (i = 0; i < rlcf->open.inherited_count; i++) {
        if (inherited[i].fate == NGX_RS_KEPT) {
            ls[rlcf->old_indices[i]].remain = 1;
        }
    }
}


static void
ngx_rs_listen_report(void *data, uint32_t event, const ngx_rs_error_t *error)
{
    ngx_log_t  *log = data;

    switch (event) {

    case NGX_RS_REPORT_IN_USE:
        ngx_log_error(NGX_LOG_EMERG, log, error->os_errno,
                      "%s", error->message);
        break;

    case NGX_RS_REPORT_FALLBACK:
        ngx_log_error(NGX_LOG_WARN, log, error->os_errno,
                      "\"mptcp=auto\" falls back to TCP: %s", error->message);
        break;

    default: /* NGX_RS_REPORT_WAITING, NGX_RS_REPORT_DRAINS */
        ngx_log_error(NGX_LOG_NOTICE, log, 0, "%s", error->message);
    }
}


/* in init_module: nothing of the new cycle can fail any more */

ngx_int_t
ngx_rs_listen_commit(ngx_cycle_t *cycle, void *conf)
{
    ngx_rs_listen_conf_t  *rlcf = conf;

    uint32_t        flags;
    ngx_uint_t      i;
    ngx_rs_error_t  error = NGX_RS_ERROR_INIT;

    flags = NGX_RS_OPEN_COMMITTED;
    rlcf->committed = 1;

    ngx_rs_listen_show_old(rlcf);
    ngx_rs_listen_keep_paired(rlcf);

    if (rlcf->waiting
        && ngx_rs_listening_commit(rlcf->sockets, rlcf->nsockets, &error)
           != NGX_RS_OK)
    {
        ngx_log_error(NGX_LOG_ALERT, cycle->log, error.os_errno,
                      "%s", error.message);

        flags = 0;

        for (i = 0; i < rlcf->nsockets; i++) {
            if (rlcf->sockets[i].outcome == NGX_RS_FAILED) {
                ngx_rs_listen_keep_old(cycle, rlcf, i);
            }
        }
    }

    ngx_rs_listen_drain(cycle, rlcf, flags);

    return NGX_OK;
}


/*
 * It is too late to fail, so the old socket of the address goes on in the
 * place of one that does not listen: nginx closes its own descriptor of it.
 */

static void
ngx_rs_listen_keep_old(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf,
    ngx_uint_t n)
{
    ngx_uint_t           i;
    ngx_rs_open_t        open;
    ngx_listening_t     *ls, *old, *olds;
    ngx_rs_inherited_t  *inherited, *found;

    ls = cycle->listening.elts;
    ls += rlcf->indices[n];

    olds = cycle->old_cycle->listening.elts;
    inherited = rlcf->open.inherited;
    found = NULL;

    /* one that no other listener has got, if there is any */

    for (i = 0; i < rlcf->open.inherited_count; i++) {
        old = &olds[rlcf->old_indices[i]];

        if (ngx_cmp_sockaddr(old->sockaddr, old->socklen,
                             ls->sockaddr, ls->socklen, 1)
            != NGX_OK)
        {
            continue;
        }

        if (found == NULL
            || (inherited[i].fate == NGX_RS_SUPERSEDED
                && found->fate != NGX_RS_SUPERSEDED))
        {
            found = &inherited[i];
        }
    }

    if (found == NULL) {
        return;
    }

    if (found->fate == NGX_RS_SUPERSEDED) {

        if (ngx_close_socket(ls->fd) == -1) {
            ngx_log_error(NGX_LOG_ALERT, cycle->log, ngx_socket_errno,
                          ngx_close_socket_n " %V failed", &ls->addr_text);
        }

        ls->fd = found->fd;
        olds[rlcf->old_indices[found - inherited]].remain = 1;

    } else if (dup2(found->fd, ls->fd) == -1) {
        ngx_log_error(NGX_LOG_ALERT, cycle->log, ngx_errno,
                      "dup2() of the old socket of %V failed",
                      &ls->addr_text);

        /* other workers accept from the others; a reload opens it anew */

#if (NGX_HAVE_REUSEPORT)
        ls->worker = NGX_MAX_INT_T_VALUE;
#endif
        ls->ignore = 1;

        return;
    }

    found->fate = NGX_RS_KEPT;

#if (NGX_RS_HAVE_LISTENING_PROTOCOL)
    ls->protocol = olds[rlcf->old_indices[found - inherited]].protocol;
#endif

    /* nothing is beside it any more */

    open = rlcf->open;
    open.inherited = found;
    open.inherited_count = 1;

    (void) ngx_rs_listening_rollback(NULL, 0, &open, NULL);

    ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                  "the old socket of %V goes on", &ls->addr_text);
}


/*
 * The listener that takes over from an old one of the same address; both are
 * mostly in the same order, so the search goes on where it ended before.
 */

ngx_listening_t *
ngx_rs_listen_successor(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf,
    ngx_listening_t *old, ngx_uint_t *start)
{
    ngx_uint_t        i, n;
    ngx_listening_t  *ls;

    for (i = 0; i < rlcf->nsockets; i++) {
        n = (*start + i) % rlcf->nsockets;

        ls = cycle->listening.elts;
        ls += rlcf->indices[n];

        if (ngx_cmp_sockaddr(ls->sockaddr, ls->socklen,
                             old->sockaddr, old->socklen, 1)
            == NGX_OK)
        {
            *start = n;
            return ls;
        }
    }

    return NULL;
}


/* the pool of a cycle goes: of one that has failed, or of one long served */

static void
ngx_rs_listen_rollback(void *data)
{
    ngx_rs_listen_conf_t  *rlcf = data;

    ngx_uint_t        i;
    ngx_listening_t  *ls;

    if (rlcf->committed) {
        return;
    }

    if (!rlcf->opened) {
        ngx_rs_listen_resume(rlcf);
        return;
    }

    ls = rlcf->cycle->listening.elts;

    for (i = 0; i < rlcf->nsockets; i++) {

        /* ngx_init_cycle() has closed these */

        if (ls[rlcf->indices[i]].open) {
            rlcf->sockets[i].outcome = NGX_RS_UNTOUCHED;
        }
    }

    ngx_rs_listen_show_old(rlcf);
    ngx_rs_listen_ignore_old(rlcf, 0);

    (void) ngx_rs_listening_rollback(rlcf->sockets, rlcf->nsockets,
                                     &rlcf->open, NULL);

    ngx_rs_listen_resume(rlcf);
}
