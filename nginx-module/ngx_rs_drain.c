
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_listen.h"

#include <poll.h>
#include <sys/syscall.h>


/*
 * How long a handshake may take, in milliseconds, when other handshakes at the
 * address hide whether it is over: two packets in a row may get lost, of which
 * the second is sent again after 3 seconds.
 */

#define NGX_RS_DRAIN_TIME  5000

/*
 * How often to look whether all is done.  The workers of the old cycle have
 * closed their descriptors before the first look: the master tells them to
 * after 100 milliseconds.
 */

#define NGX_RS_DRAIN_TICK  500

/* descriptors that a worker opens for itself, and for its first clients */

#define NGX_RS_DRAIN_ROOM  16


/*
 * Sockets that have been replaced.  The listeners are in no cycle's array, so
 * that nginx neither pairs them with those of the next configuration nor hands
 * them to a new binary.
 */

struct ngx_rs_drain_s {
    ngx_listening_t            *listening;
    ngx_rs_open_t               open;       /* inherited: the same sockets */
    ngx_msec_t                 *since;      /* when each was replaced */
    ngx_uint_t                  left;       /* that are not closed yet */

    ngx_rs_listen_conf_t       *conf;

    /* the master of the old binary, as long as it may go on with them */
    ngx_pid_t                   lender;

    ngx_msec_t                  end;
    ngx_event_t                 timer;
    ngx_connection_t            dumb;       /* for nginx's debug log */
    ngx_log_t                   log;
};


static ngx_uint_t ngx_rs_drain_has_room(ngx_cycle_t *cycle,
    ngx_core_conf_t *ccf);
static ngx_rs_drain_t *ngx_rs_drain_create(ngx_cycle_t *cycle,
    ngx_rs_listen_conf_t *rlcf, ngx_uint_t n);
static void ngx_rs_drain_take_over(ngx_cycle_t *cycle, ngx_rs_drain_t *drain,
    ngx_rs_drain_t *old);
static void ngx_rs_drain_take(ngx_cycle_t *cycle, ngx_rs_drain_t *drain,
    ngx_listening_t *old, ngx_rs_inherited_t *inherited, ngx_msec_t since,
    ngx_uint_t *start);
static void ngx_rs_drain_steer(ngx_rs_drain_t *drain, ngx_log_t *log);
static ngx_uint_t ngx_rs_drain_lent(ngx_rs_drain_t *drain);
static ngx_uint_t ngx_rs_drain_has_exited(ngx_pid_t pid);
static ngx_int_t ngx_rs_drain_look(ngx_rs_drain_t *drain, ngx_uint_t now,
    ngx_log_t *log);
static ngx_uint_t ngx_rs_drain_listens(ngx_socket_t fd);
static void ngx_rs_drain_add(ngx_cycle_t *cycle, ngx_rs_drain_t *drain,
    ngx_listening_t *ls);
static void ngx_rs_drain_accept(ngx_event_t *ev);
static void ngx_rs_drain_tick(ngx_event_t *ev);
static void ngx_rs_drain_close(ngx_rs_drain_t *drain, ngx_uint_t i);
static void ngx_rs_drain_cleanup(void *data);


/* in the master: those of the running cycle, for each subsystem */

static ngx_rs_drain_t  *ngx_rs_drains[NGX_RS_SUBSYSTEM_MAIL + 1];


/*
 * The new cycle has succeeded, and its sockets listen: those that they replace
 * become ours, and the workers of the new cycle accept from both.  The flags
 * are for ngx_rs_drain_begin.
 */

void
ngx_rs_listen_drain(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf,
    uint32_t flags)
{
    ngx_uint_t           i, n;
    ngx_rs_drain_t      *drain, *old;
    ngx_core_conf_t     *ccf;
    ngx_rs_inherited_t  *inherited;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    old = ngx_rs_drains[rlcf->subsystem->subsystem];
    n = old ? old->left : 0;

    inherited = rlcf->open.inherited;

    for (i = 0; i < rlcf->open.inherited_count; i++) {
        if (inherited[i].fate == NGX_RS_SUPERSEDED) {
            n++;
        }
    }

    /* a single process starts no workers */

    if (n == 0 || !ccf->master) {
        return;
    }

    if (!ngx_rs_drain_has_room(cycle, ccf)) {
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "no descriptors are left to keep %ui old sockets open, "
                      "connections that have begun on them may be lost", n);
        drain = NULL;

    } else {
        drain = ngx_rs_drain_create(cycle, rlcf, n);
    }

    if (drain == NULL) {

        if (old && !ngx_rs_drain_lent(old)) {
            /* they end now: nothing new is to come to them */
            ngx_rs_drain_steer(old, cycle->log);
            (void) ngx_rs_drain_look(old, 1, cycle->log);
        }

        return;
    }

    ngx_rs_drain_take_over(cycle, drain, old);

    rlcf->drain = drain;
    ngx_rs_drains[rlcf->subsystem->subsystem] = drain;

    if (ngx_inherited && getppid() == ngx_parent) {
        drain->lender = ngx_parent;

    } else {
        drain->open.flags |= flags;
        ngx_rs_drain_steer(drain, cycle->log);
        drain->open.flags &= ~flags;
    }
}


/*
 * nginx closes old sockets before it starts workers.  Where they stay open,
 * descriptors must be left for the channels to the workers and for what each
 * of these opens: otherwise nginx would go on without a worker.
 */

static ngx_uint_t
ngx_rs_drain_has_room(ngx_cycle_t *cycle, ngx_core_conf_t *ccf)
{
    ngx_fd_t         *fds;
    ngx_uint_t        i, n, room;
    ngx_listening_t  *ls;

    ls = cycle->listening.elts;
    n = 2 * ccf->worker_processes + NGX_RS_DRAIN_ROOM;

    fds = ngx_palloc(cycle->pool, n * sizeof(ngx_fd_t));
    if (fds == NULL) {
        return 0;
    }

    for (i = 0; i < n; i++) {
        fds[i] = dup(ls->fd);

        if (fds[i] == NGX_INVALID_FILE) {
            break;
        }

        /* workers may have "worker_rlimit_nofile" */

        if (ccf->rlimit_nofile != NGX_CONF_UNSET
            && fds[i] >= ccf->rlimit_nofile)
        {
            (void) ngx_close_file(fds[i]);
            break;
        }
    }

    room = (i == n);

    while (i--) {
        (void) ngx_close_file(fds[i]);
    }

    return room;
}


static ngx_rs_drain_t *
ngx_rs_drain_create(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf,
    ngx_uint_t n)
{
    ngx_rs_open_t        init = NGX_RS_OPEN_INIT;
    ngx_rs_drain_t      *drain;
    ngx_pool_cleanup_t  *cln;

    drain = ngx_pcalloc(cycle->pool, sizeof(ngx_rs_drain_t));
    if (drain == NULL) {
        return NULL;
    }

    /* nginx's clock stands still while it reloads, which may take long */

    ngx_time_update();

    drain->conf = rlcf;
    drain->open = init;
    drain->open.flags = NGX_RS_OPEN_LET_JOIN;
    drain->end = ngx_current_msec + NGX_RS_DRAIN_TIME;
    drain->open.inherited = ngx_palloc(cycle->pool,
                                       n * sizeof(ngx_rs_inherited_t));
    drain->listening = ngx_palloc(cycle->pool, n * sizeof(ngx_listening_t));
    drain->since = ngx_palloc(cycle->pool, n * sizeof(ngx_msec_t));
    cln = ngx_pool_cleanup_add(cycle->pool, 0);

    if (drain->open.inherited == NULL || drain->listening == NULL
        || drain->since == NULL || cln == NULL)
    {
        return NULL;
    }

    cln->handler = ngx_rs_drain_cleanup;
    cln->data = drain;

    return drain;
}


/* those that are replaced now, and those that still drain */

static void
ngx_rs_drain_take_over(ngx_cycle_t *cycle, ngx_rs_drain_t *drain,
    ngx_rs_drain_t *old)
{
    ngx_uint_t             i, start;
    ngx_listening_t       *ls;
    ngx_rs_inherited_t    *inherited;
    ngx_rs_listen_conf_t  *rlcf;

    rlcf = drain->conf;

    /* all that listen at an address now take over, whoever opened them */

    ls = cycle->listening.elts;

    for (i = 0; i < rlcf->nsockets; i++) {
        rlcf->sockets[i].fd = ls[rlcf->indices[i]].fd;
    }

    inherited = rlcf->open.inherited;
    ls = cycle->old_cycle->listening.elts;
    start = 0;

    for (i = 0; i < rlcf->open.inherited_count; i++) {
        if (inherited[i].fate == NGX_RS_SUPERSEDED) {
            ngx_rs_drain_take(cycle, drain, &ls[rlcf->old_indices[i]],
                              &inherited[i], ngx_current_msec, &start);
        }
    }

    if (old == NULL) {
        return;
    }

    start = 0;

    for (i = 0; i < old->open.inherited_count; i++) {
        if (old->listening[i].fd != (ngx_socket_t) -1) {
            ngx_rs_drain_take(cycle, drain, &old->listening[i],
                              &old->open.inherited[i], old->since[i], &start);
        }
    }
}


static void
ngx_rs_drain_take(ngx_cycle_t *cycle, ngx_rs_drain_t *drain,
    ngx_listening_t *old, ngx_rs_inherited_t *inherited, ngx_msec_t since,
    ngx_uint_t *start)
{
    ngx_listening_t  *ls, *new;

    new = ngx_rs_listen_successor(cycle, drain->conf, old, start);

    if (new == NULL) {
        return;
    }

    ls = &drain->listening[drain->left];

    *ls = *new;
    ls->fd = old->fd;
    ls->connection = NULL;
    ls->previous = NULL;
    ls->deferred_accept = old->deferred_accept;

#if (NGX_HAVE_REUSEPORT)
    /* nginx is not to add it to the event loop anew for fairness */
    ls->reuseport = 1;
#endif

    drain->since[drain->left] = since;
    drain->open.inherited[drain->left] = *inherited;
    drain->open.inherited[drain->left].sockaddr = ls->sockaddr;
    drain->open.inherited_count = ++drain->left;

    /* whoever had it would close it */
    old->fd = (ngx_socket_t) -1;

    /* a new binary is not told of it */

    if (fcntl(ls->fd, F_SETFD, FD_CLOEXEC) == -1) {
        ngx_log_error(NGX_LOG_ALERT, cycle->log, ngx_errno,
                      "fcntl(FD_CLOEXEC) %V failed", &ls->addr_text);
    }
}


static void
ngx_rs_drain_steer(ngx_rs_drain_t *drain, ngx_log_t *log)
{
    ngx_rs_error_t         error = NGX_RS_ERROR_INIT;
    ngx_rs_listen_conf_t  *rlcf;

    rlcf = drain->conf;

    if (ngx_rs_drain_begin(rlcf->sockets, rlcf->nsockets, &drain->open, &error)
        != NGX_RS_OK)
    {
        ngx_log_error(NGX_LOG_NOTICE, log, error.os_errno,
                      "%s, connections and subflows that begin before the old "
                      "socket ends may be lost", error.message);
    }
}


static ngx_uint_t
ngx_rs_drain_lent(ngx_rs_drain_t *drain)
{
    if (drain->lender && ngx_rs_drain_has_exited(drain->lender)) {
        drain->lender = 0;
    }

    return drain->lender != 0;
}


/* a zombie has: in a container it may be that nobody ever waits for it */

static ngx_uint_t
ngx_rs_drain_has_exited(ngx_pid_t pid)
{
    ngx_uint_t     exited;
    struct pollfd  pidfd;

#ifdef SYS_pidfd_open
    pidfd.fd = syscall(SYS_pidfd_open, pid, 0);
#else
    pidfd.fd = -1;
#endif

    if (pidfd.fd == -1) {
        return kill(pid, 0) == -1 && ngx_errno == NGX_ESRCH;
    }

    pidfd.events = POLLIN;
    exited = (poll(&pidfd, 1, 0) == 1);

    (void) close(pidfd.fd);

    return exited;
}


/*
 * Before a reload: those that have ended, or can end now, only take up
 * descriptors, and those that go on must not be in its way.  Reloads may come
 * faster than workers look.
 */

void
ngx_rs_listen_pause(ngx_rs_listen_conf_t *rlcf)
{
    ngx_uint_t           i, lent;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    ngx_rs_drain_t      *drain;
    ngx_rs_inherited_t  *inherited;

    drain = ngx_rs_drains[rlcf->subsystem->subsystem];

    if (drain == NULL) {
        return;
    }

    lent = ngx_rs_drain_lent(drain);
    inherited = drain->open.inherited;

    ngx_time_update();

    for (i = 0; i < drain->open.inherited_count; i++) {

        if (drain->listening[i].fd == (ngx_socket_t) -1) {
            continue;
        }

        if (!ngx_rs_drain_listens(drain->listening[i].fd)) {
            ngx_rs_drain_close(drain, i);

        } else if (lent
                   || ngx_current_msec - drain->since[i] < NGX_RS_DRAIN_TICK)
        {
            /* others may have it as a listener of their own */
            inherited[i].fate = NGX_RS_UNUSED;
        }
    }

    (void) ngx_rs_drain_look(drain, 0, rlcf->cycle->log);

    for (i = 0; i < drain->open.inherited_count; i++) {
        if (inherited[i].fate == NGX_RS_UNUSED) {
            inherited[i].fate = NGX_RS_SUPERSEDED;
        }
    }

    if (drain->left == 0 || lent) {
        return;
    }

    rlcf->paused = 1;

    if (ngx_rs_drain_pause(drain->conf->sockets, drain->conf->nsockets,
                           &drain->open, &error)
        != NGX_RS_OK)
    {
        ngx_log_error(NGX_LOG_NOTICE, rlcf->cycle->log, error.os_errno,
                      "%s, connections that begin during this reload may have "
                      "to wait", error.message);
    }
}


/* a reload has failed */

void
ngx_rs_listen_resume(ngx_rs_listen_conf_t *rlcf)
{
    ngx_rs_drain_t  *drain;

    if (!rlcf->paused) {
        return;
    }

    drain = ngx_rs_drains[rlcf->subsystem->subsystem];

    ngx_rs_drain_steer(drain, ngx_cycle->log);

    /* a worker may have ended some in the meantime */

    (void) ngx_rs_drain_look(drain, 0, ngx_cycle->log);
}


/* a worker accepts from the old sockets, too */

ngx_int_t
ngx_rs_listen_init_process(ngx_cycle_t *cycle, void *conf)
{
    ngx_rs_listen_conf_t  *rlcf = conf;

    ngx_uint_t       i;
    ngx_rs_drain_t  *drain;

    drain = rlcf->drain;

    if (drain == NULL) {
        return NGX_OK;
    }

    if (ngx_process != NGX_PROCESS_WORKER) {
        ngx_rs_drain_cleanup(drain);
        return NGX_OK;
    }

    drain->log = *cycle->log;
    drain->log.log_level = NGX_LOG_EMERG;

    for (i = 0; i < drain->open.inherited_count; i++) {

        if (drain->listening[i].fd == (ngx_socket_t) -1) {
            continue;
        }

        ngx_rs_drain_add(cycle, drain, &drain->listening[i]);
    }

    drain->dumb.fd = (ngx_socket_t) -1;
    drain->dumb.data = drain;

    drain->timer.handler = ngx_rs_drain_tick;
    drain->timer.data = &drain->dumb;
    drain->timer.log = cycle->log;

    if (drain->left) {
        ngx_time_update();
        ngx_add_timer(&drain->timer, NGX_RS_DRAIN_TICK);
    }

    return NGX_OK;
}


/* a worker that cannot accept from an old socket does so from all others */

static void
ngx_rs_drain_add(ngx_cycle_t *cycle, ngx_rs_drain_t *drain,
    ngx_listening_t *ls)
{
    ngx_event_t       *rev;
    ngx_connection_t  *c;

    /* clients come first */

    if (cycle->free_connection_n < cycle->connection_n / 4) {
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "worker_connections are not enough to accept from the "
                      "old socket of %V", &ls->addr_text);
        return;
    }

    c = ngx_get_connection(ls->fd, cycle->log);
    if (c == NULL) {
        return;
    }

    c->type = SOCK_STREAM;
    c->log = &ls->log;
    c->listening = ls;
    ls->connection = c;

    rev = c->read;

    /* another worker may end it between the look and accept() */
    rev->log = &drain->log;

    rev->accept = 1;
    rev->handler = ngx_rs_drain_accept;

#if (NGX_HAVE_DEFERRED_ACCEPT)
    rev->deferred_accept = ls->deferred_accept;
#endif

    if (ngx_add_event(rev, NGX_READ_EVENT, 0) != NGX_OK) {
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "this worker does not accept from the old socket of %V",
                      &ls->addr_text);

        ngx_free_connection(c);

        c->fd = (ngx_socket_t) -1;
        ls->connection = NULL;
    }
}


static void
ngx_rs_drain_accept(ngx_event_t *ev)
{
    ngx_rs_drain_t    *drain;
    ngx_connection_t  *c;

    c = ev->data;

    if (ngx_rs_drain_listens(c->fd)) {

        if (ev->timedout && !ev->active
            && ngx_add_event(ev, NGX_READ_EVENT, 0) != NGX_OK)
        {
            return;
        }

        ngx_event_accept(ev);

        /* without descriptors nginx lets its own listeners wait for a timer */

        if (ev->timer_set && ev->active) {
            (void) ngx_del_event(ev, NGX_READ_EVENT, 0);
        }

        return;
    }

    if (!ngx_exiting) {

        /*
         * the next look closes it: whoever has ended it may not have the new
         * sockets of the address, which are to be seen to, then
         */

        if (ev->active) {
            (void) ngx_del_event(ev, NGX_READ_EVENT, 0);
        }

        return;
    }

    drain = (ngx_rs_drain_t *) ((u_char *) ev->log
                                - offsetof(ngx_rs_drain_t, log));

    ngx_rs_drain_close(drain, c->listening - drain->listening);

    /* a worker that is exiting waits for its timers */

    if (drain->left == 0 && drain->timer.timer_set) {
        ngx_del_timer(&drain->timer);
    }
}


static ngx_uint_t
ngx_rs_drain_listens(ngx_socket_t fd)
{
    int        listens;
    socklen_t  len;

    len = sizeof(int);

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == -1
           || listens;
}


/*
 * Each worker ends what nothing is under way on, or what has had its time; one
 * that is exiting only leaves it to those that go on.
 */

static void
ngx_rs_drain_tick(ngx_event_t *ev)
{
    ngx_uint_t         now, lent;
    ngx_rs_drain_t    *drain;
    ngx_connection_t  *c;

    c = ev->data;
    drain = c->data;

    if (drain->lender) {

        lent = ngx_rs_drain_lent(drain);

        if (lent && ngx_exiting) {
            /* the old binary goes on */
            ngx_rs_drain_cleanup(drain);
            return;
        }

        if (lent) {
            ngx_add_timer(ev, NGX_RS_DRAIN_TICK);
            return;
        }

        drain->end = ngx_current_msec + NGX_RS_DRAIN_TIME;

        if (!ngx_exiting) {
            ngx_rs_drain_steer(drain, ev->log);
        }
    }

    now = ((ngx_msec_int_t) (ngx_current_msec - drain->end) >= 0);

    if (now && ngx_exiting) {
        ngx_rs_drain_cleanup(drain);
        return;
    }

    if (ngx_rs_drain_look(drain, now, ev->log) != NGX_OK && now) {
        ngx_rs_drain_cleanup(drain);
        return;
    }

    if (drain->left) {
        ngx_add_timer(ev, NGX_RS_DRAIN_TICK);
    }
}


static ngx_int_t
ngx_rs_drain_look(ngx_rs_drain_t *drain, ngx_uint_t now, ngx_log_t *log)
{
    ngx_int_t              rc;
    ngx_uint_t             i, n;
    ngx_rs_error_t         error = NGX_RS_ERROR_INIT;
    ngx_rs_listen_conf_t  *rlcf;

    rc = NGX_OK;
    rlcf = drain->conf;

    /* a worker that is exiting has closed the new sockets */

    n = ngx_exiting ? 0 : rlcf->nsockets;

    if (ngx_rs_drain_end(rlcf->sockets, n, &drain->open, now, &error)
        != NGX_RS_OK)
    {
        ngx_log_error(NGX_LOG_ALERT, log, error.os_errno,
                      "%s", error.message);
        rc = NGX_ERROR;
    }

    for (i = 0; i < drain->open.inherited_count; i++) {
        if (drain->open.inherited[i].fate == NGX_RS_ENDED) {
            ngx_rs_drain_close(drain, i);
        }
    }

    return rc;
}


static void
ngx_rs_drain_close(ngx_rs_drain_t *drain, ngx_uint_t i)
{
    ngx_uint_t         waits;
    ngx_event_t       *rev;
    ngx_listening_t   *ls;
    ngx_connection_t  *c;

    ls = &drain->listening[i];

    if (ls->fd == (ngx_socket_t) -1) {
        return;
    }

    c = ls->connection;

    if (c) {
        rev = c->read;

        if (rev->posted) {
            ngx_delete_posted_event(rev);
        }

        /* it is this timer that lets nginx's own listeners wait */

        waits = (rev->timer_set || rev->timedout);

        if (rev->timer_set) {
            ngx_del_timer(rev);
        }

        /* other processes may have it open: epoll would go on to report it */

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
                      ngx_close_socket_n " %V failed", &ls->addr_text);
    }

    ls->fd = (ngx_socket_t) -1;
    drain->open.inherited[i].fate = NGX_RS_ENDED;
    drain->left--;
}


/* of the pool of the cycle, too: in the master, and in a worker that exits */

static void
ngx_rs_drain_cleanup(void *data)
{
    ngx_rs_drain_t  *drain = data;

    ngx_uint_t        i;
    ngx_rs_drain_t  **running;

    running = &ngx_rs_drains[drain->conf->subsystem->subsystem];

    if (*running == drain) {
        *running = NULL;

        /* the module was taken away: nobody will look at them again */

        if (ngx_process == NGX_PROCESS_MASTER && !ngx_quit && !ngx_terminate
            && !ngx_rs_drain_lent(drain))
        {
            drain->open.flags = 0;
            ngx_rs_drain_steer(drain, ngx_cycle->log);
            (void) ngx_rs_drain_look(drain, 0, ngx_cycle->log);
        }
    }

    for (i = 0; i < drain->open.inherited_count; i++) {
        ngx_rs_drain_close(drain, i);
    }
}
