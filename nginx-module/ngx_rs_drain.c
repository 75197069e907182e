
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"


/* the descriptors that a worker needs for itself and for its first clients */

#define NGX_RSM_DRAIN_SPARE  16


/*
 * The draining sockets of a subsystem.  Their listeners are not in the array
 * of a cycle, so that nginx neither matches them with listeners of the next
 * configuration nor passes them to a new binary.
 */

typedef struct {
    ngx_rs_drain_t      *handle;

    ngx_rs_draining_t   *sockets;
    ngx_listening_t     *listening;     /* for each socket; fd -1: closed */
    size_t               n;
    uint32_t             delay;         /* milliseconds to the next poll */

    ngx_uint_t           subsystem;
    ngx_listening_t    **successors;    /* for each socket */

    ngx_event_t          timer;
    ngx_connection_t     dumb;          /* for nginx's debug log */
    ngx_log_t            log;
} ngx_rsm_drain_t;


static ngx_rsm_drain_t *ngx_rsm_drain_create(ngx_cycle_t *cycle,
    ngx_uint_t subsystem, ngx_uint_t n);
static void ngx_rsm_drain_fill(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf,
    ngx_rsm_drain_t *drain);
static void ngx_rsm_drain_poll(ngx_rsm_drain_t *drain, ngx_log_t *log);
static void ngx_rsm_drain_watch(ngx_cycle_t *cycle, ngx_rsm_drain_t *drain,
    ngx_listening_t *ls);
static void ngx_rsm_drain_accept(ngx_event_t *ev);
static ngx_uint_t ngx_rsm_drain_listens(ngx_socket_t fd);
static void ngx_rsm_drain_timer(ngx_event_t *ev);
static void ngx_rsm_drain_end(ngx_rsm_drain_t *drain);
static void ngx_rsm_drain_close(ngx_listening_t *ls);
static void ngx_rsm_drain_cleanup(void *data);


/* the drain of each subsystem; in the master that of the running cycle */

static ngx_rsm_drain_t  *ngx_rsm_drains[NGX_RS_SUBSYSTEM_MAIL + 1];


/*
 * Called before a reload: closes the sockets that have ended, so that their
 * descriptors are free.
 */

ngx_rs_drain_t *
ngx_rsm_drain_running(ngx_uint_t subsystem, ngx_log_t *log)
{
    ngx_rsm_drain_t  *drain;

    drain = ngx_rsm_drains[subsystem];

    if (drain == NULL) {
        return NULL;
    }

    ngx_rsm_drain_poll(drain, log);

    return drain->handle;
}


/*
 * Called when the new cycle has succeeded and its sockets listen: takes over
 * the superseded sockets.  The workers of the new cycle accept from these and
 * from the new sockets.
 */

void
ngx_rsm_drain_begin(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf)
{
    uint32_t             spare, limit;
    ngx_uint_t           i, n;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    ngx_listening_t     *ls;
    ngx_core_conf_t     *ccf;
    ngx_rsm_drain_t     *drain, *old;
    ngx_rs_inherited_t  *inherited;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    old = ngx_rsm_drains[conf->subsystem->subsystem];
    n = old ? old->n : 0;

    inherited = conf->open.inherited;

    for (i = 0; i < conf->open.inherited_count; i++) {
        if (inherited[i].disposition == NGX_RS_SUPERSEDED) {
            n++;
        }
    }

    /* without a master there are no workers to accept from the sockets */

    if (n == 0 || !ccf->master) {
        return;
    }

    /*
     * On failure nginx closes the superseded sockets, and the old drain ends
     * with its cycle.
     */

    drain = ngx_rsm_drain_create(cycle, conf->subsystem->subsystem, n);
    if (drain == NULL) {
        return;
    }

    if (old) {
        drain->handle = old->handle;
        old->n = 0;
    }

    ngx_rsm_drains[drain->subsystem] = drain;

    /* the descriptors, also those of sockets that nginx has opened */

    ls = cycle->listening.elts;

    for (i = 0; i < conf->nsockets; i++) {
        conf->sockets[i].fd = ls[conf->indices[i]].fd;
    }

    /* for the channels to the workers, and for what each worker opens */

    spare = 2 * ccf->worker_processes + NGX_RSM_DRAIN_SPARE;
    limit = (ccf->rlimit_nofile == NGX_CONF_UNSET) ? 0 : ccf->rlimit_nofile;

    if (ngx_rs_drain_begin(&drain->handle, conf->sockets, conf->nsockets,
                           &conf->open, spare, limit, &error)
        != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_NOTICE, cycle->log, &error);
    }

    /* the drain owns these descriptors now, so nginx must not close them */

    ls = cycle->old_cycle->listening.elts;

    for (i = 0; i < conf->open.inherited_count; i++) {
        if (inherited[i].disposition == NGX_RS_DRAINING) {
            ls[conf->old_indices[i]].fd = (ngx_socket_t) -1;
        }
    }

    ngx_rsm_drain_fill(cycle, conf, drain);
}


static ngx_rsm_drain_t *
ngx_rsm_drain_create(ngx_cycle_t *cycle, ngx_uint_t subsystem, ngx_uint_t n)
{
    ngx_uint_t           i;
    ngx_rsm_drain_t     *drain;
    ngx_rs_draining_t    init = NGX_RS_DRAINING_INIT;
    ngx_pool_cleanup_t  *cln;

    drain = ngx_pcalloc(cycle->pool, sizeof(ngx_rsm_drain_t));
    if (drain == NULL) {
        return NULL;
    }

    drain->subsystem = subsystem;
    drain->n = n;
    drain->sockets = ngx_palloc(cycle->pool, n * sizeof(ngx_rs_draining_t));
    drain->listening = ngx_palloc(cycle->pool, n * sizeof(ngx_listening_t));
    drain->successors = ngx_pcalloc(cycle->pool,
                                    n * sizeof(ngx_listening_t *));
    cln = ngx_pool_cleanup_add(cycle->pool, 0);

    if (drain->sockets == NULL || drain->listening == NULL
        || drain->successors == NULL || cln == NULL)
    {
        return NULL;
    }

    for (i = 0; i < n; i++) {
        drain->sockets[i] = init;
        drain->listening[i].fd = (ngx_socket_t) -1;
        drain->listening[i].connection = NULL;
    }

    cln->handler = ngx_rsm_drain_cleanup;
    cln->data = drain;

    return drain;
}


/* the listener of a draining socket is a copy of that of its successor */

static void
ngx_rsm_drain_fill(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf,
    ngx_rsm_drain_t *drain)
{
    ngx_uint_t        i;
    ngx_listening_t  *ls, *new;

    if (drain->handle == NULL) {
        drain->n = 0;
        return;
    }

    ngx_rsm_drain_poll(drain, cycle->log);

    new = cycle->listening.elts;

    for (i = 0; i < drain->n; i++) {
        ls = &drain->listening[i];

        if (!drain->sockets[i].ended) {
            drain->successors[i] =
                           &new[conf->indices[drain->sockets[i].successor]];

            *ls = *drain->successors[i];
            ls->connection = NULL;
            ls->previous = NULL;

            ngx_rsm_set_handler(ls, conf, drain->sockets[i].protocol);

#if (NGX_HAVE_REUSEPORT)
            /* prevents nginx from adding the event again for fairness */
            ls->reuseport = 1;
#endif
        }

        ls->fd = drain->sockets[i].fd;

        if (drain->sockets[i].ended) {
            ngx_rsm_drain_close(ls);
        }
    }
}


static void
ngx_rsm_drain_poll(ngx_rsm_drain_t *drain, ngx_log_t *log)
{
    ngx_uint_t      i;
    ngx_rs_error_t  error = NGX_RS_ERROR_INIT;

    if (ngx_rs_drain_poll(drain->handle, drain->sockets, drain->n, &drain->n,
                          &drain->delay, &error)
        != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_ALERT, log, &error);
    }

    for (i = 0; i < drain->n; i++) {
        if (drain->sockets[i].ended) {
            ngx_rsm_drain_close(&drain->listening[i]);
        }
    }
}


ngx_listening_t *
ngx_rsm_drain_successor(ngx_rsm_subsystem_t *subsystem, ngx_listening_t *ls)
{
    ngx_rsm_drain_t  *drain;

    drain = ngx_rsm_drains[subsystem->subsystem];

    if (drain == NULL || ls < drain->listening
        || ls >= drain->listening + drain->n)
    {
        return NULL;
    }

    return drain->successors[ls - drain->listening];
}


/* makes a worker accept from the draining sockets, too */

ngx_int_t
ngx_rsm_drain_init_process(ngx_cycle_t *cycle, ngx_rsm_subsystem_t *subsystem)
{
    ngx_uint_t        i;
    ngx_rsm_drain_t  *drain;

    drain = ngx_rsm_drains[subsystem->subsystem];

    if (drain == NULL) {
        return NGX_OK;
    }

    if (ngx_process != NGX_PROCESS_WORKER) {

        /* the cache manager does not accept, so it closes its descriptors */

        for (i = 0; i < drain->n; i++) {
            ngx_rsm_drain_close(&drain->listening[i]);
        }

        ngx_rsm_drains[subsystem->subsystem] = NULL;

        return NGX_OK;
    }

    drain->log = *cycle->log;
    drain->log.log_level = NGX_LOG_EMERG;

    ngx_rsm_drain_poll(drain, cycle->log);

    for (i = 0; i < drain->n; i++) {
        if (drain->listening[i].fd != (ngx_socket_t) -1) {
            ngx_rsm_drain_watch(cycle, drain, &drain->listening[i]);
        }
    }

    drain->dumb.fd = (ngx_socket_t) -1;
    drain->dumb.data = drain;

    drain->timer.handler = ngx_rsm_drain_timer;
    drain->timer.data = &drain->dumb;
    drain->timer.log = cycle->log;
    drain->timer.cancelable = 1;

    if (drain->delay) {
        ngx_time_update();
        ngx_add_timer(&drain->timer, drain->delay);
    }

    return NGX_OK;
}


static void
ngx_rsm_drain_watch(ngx_cycle_t *cycle, ngx_rsm_drain_t *drain,
    ngx_listening_t *ls)
{
    ngx_event_t       *rev;
    ngx_connection_t  *c;

    /* leaves most of the free connections for clients */

    if (cycle->free_connection_n < cycle->connection_n / 4) {
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "worker_connections are not enough to watch the "
                      "draining socket on %V; other workers accept from it",
                      &ls->addr_text);
        return;
    }

    c = ngx_get_connection(ls->fd, cycle->log);
    if (c == NULL) {
        return;
    }

    c->type = SOCK_STREAM;
    c->log = &ls->log;
    c->listening = ls;
    c->data = drain;

    /* nginx calls the handler of idle connections when the worker quits */
    c->idle = 1;

    ls->connection = c;

    rev = c->read;

    /*
     * Another process may end the socket between the check and accept(), so
     * the log of the drain suppresses the error.
     */
    rev->log = &drain->log;

    rev->accept = 1;
    rev->handler = ngx_rsm_drain_accept;

#if (NGX_HAVE_DEFERRED_ACCEPT)
    rev->deferred_accept = ls->deferred_accept;
#endif

    if (ngx_add_event(rev, NGX_READ_EVENT, 0) != NGX_OK) {
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "could not watch the draining socket on %V; "
                      "other workers accept from it", &ls->addr_text);

        ngx_free_connection(c);

        c->fd = (ngx_socket_t) -1;
        ls->connection = NULL;
    }
}


static void
ngx_rsm_drain_accept(ngx_event_t *ev)
{
    ngx_connection_t  *c;

    c = ev->data;

    if (c->close) {
        ngx_rsm_drain_end(c->data);
        return;
    }

    if (!ngx_rsm_drain_listens(c->fd)) {

        /* the socket has ended, and the next poll closes it */

        if (ev->active) {
            (void) ngx_del_event(ev, NGX_READ_EVENT, 0);
        }

        return;
    }

    if (ev->timedout && !ev->active
        && ngx_add_event(ev, NGX_READ_EVENT, 0) != NGX_OK)
    {
        return;
    }

    ngx_event_accept(ev);

    /*
     * Without free descriptors ngx_event_accept() disables nginx's own
     * listeners until a timer expires, but not this one.
     */

    if (ev->timer_set && ev->active) {
        (void) ngx_del_event(ev, NGX_READ_EVENT, 0);
    }
}


static ngx_uint_t
ngx_rsm_drain_listens(ngx_socket_t fd)
{
    int        listens;
    socklen_t  len;

    len = sizeof(int);

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == -1
           || listens;
}


static void
ngx_rsm_drain_timer(ngx_event_t *ev)
{
    ngx_connection_t  *c;
    ngx_rsm_drain_t   *drain;

    c = ev->data;
    drain = c->data;

    if (ngx_exiting) {
        ngx_rsm_drain_end(drain);
        return;
    }

    ngx_rsm_drain_poll(drain, ev->log);

    if (drain->delay) {
        ngx_add_timer(ev, drain->delay);
    }
}


/* called when the process quits or the module is removed */

static void
ngx_rsm_drain_end(ngx_rsm_drain_t *drain)
{
    ngx_uint_t  i;

    ngx_rs_drain_free(drain->handle);

    for (i = 0; i < drain->n; i++) {
        ngx_rsm_drain_close(&drain->listening[i]);
    }

    if (drain->timer.timer_set) {
        ngx_del_timer(&drain->timer);
    }

    ngx_rsm_drains[drain->subsystem] = NULL;
}


static void
ngx_rsm_drain_close(ngx_listening_t *ls)
{
    ngx_uint_t         waits;
    ngx_event_t       *rev;
    ngx_connection_t  *c;

    if (ls->fd == (ngx_socket_t) -1) {
        return;
    }

    c = ls->connection;

    if (c) {
        rev = c->read;

        if (rev->posted) {
            ngx_delete_posted_event(rev);
        }

        /* nginx's own listeners are disabled until this timer expires */

        waits = (rev->timer_set || rev->timedout);

        if (rev->timer_set) {
            ngx_del_timer(rev);
        }

        /* epoll reports the socket as long as any process has it open */

        if (rev->active) {
            (void) ngx_del_event(rev, NGX_READ_EVENT, 0);
        }

        ngx_free_connection(c);

        c->fd = (ngx_socket_t) -1;
        ls->connection = NULL;

        if (waits && !ngx_exiting && !ngx_terminate) {
            (void) ngx_enable_accept_events((ngx_cycle_t *) ngx_cycle);
        }
    }

    if (ngx_close_socket(ls->fd) == -1) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_socket_errno,
                      ngx_close_socket_n " draining socket #%d failed",
                      ls->fd);
    }

    ls->fd = (ngx_socket_t) -1;
}


/*
 * Called when nginx destroys the pool of a cycle.  A later cycle may own the
 * draining sockets already.
 */

static void
ngx_rsm_drain_cleanup(void *data)
{
    ngx_rsm_drain_t  *drain = data;

    if (ngx_rsm_drains[drain->subsystem] != drain) {
        return;
    }

    /* when SIGTERM ends one worker, the others keep the sockets draining */

    if (ngx_process == NGX_PROCESS_WORKER && !ngx_exiting) {
        return;
    }

    ngx_rsm_drain_end(drain);
}
