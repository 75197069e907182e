
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"


/* the state of a counted client connection, allocated in its pool */

typedef struct {
    ngx_connection_t   *connection;
    uint32_t            row;
    uint32_t            kind;
    unsigned            ended:1;
} ngx_rsm_counted_t;


static ngx_shm_zone_t *ngx_rsm_count_zone(ngx_cycle_t *cycle);
static ngx_int_t ngx_rsm_count_init_zone(ngx_shm_zone_t *shm_zone, void *data);
static void ngx_rsm_count_begin_cycle(ngx_cycle_t *cycle);
static uint32_t ngx_rsm_count_row(ngx_rsm_subsystem_t *subsystem,
    ngx_listening_t *ls);
static ngx_int_t ngx_rsm_count_del_conn(ngx_connection_t *c,
    ngx_uint_t flags);
static void ngx_rsm_count_cleanup(void *data);
static void ngx_rsm_count_end(ngx_rsm_counted_t *counted, ngx_socket_t fd);


static ngx_str_t  ngx_rsm_count_name = ngx_string("ngx_rs_counters");


/* the counters of the running cycle, or NULL if connections are not counted */

static ngx_rs_counters_t  *ngx_rsm_counters;
static ngx_cycle_t        *ngx_rsm_count_cycle;
static uint32_t           *ngx_rsm_count_rows;  /* one for each listener */
static uint32_t            ngx_rsm_count_seat;

static ngx_int_t         (*ngx_rsm_next_del_conn)(ngx_connection_t *c,
                                                  ngx_uint_t flags);


/*
 * The stream, http and mail modules share one zone.  Its tag is a module of
 * nginx, because any of the three may be missing.
 */

ngx_int_t
ngx_rsm_count_add_zone(ngx_conf_t *cf)
{
    size_t           size;
    ngx_shm_zone_t  *shm_zone;

    /* ngx_slab.c needs additional memory to describe each page */

    size = ngx_rs_counters_size();
    size += size / 64 + 16 * ngx_pagesize;

    shm_zone = ngx_shared_memory_add(cf, &ngx_rsm_count_name,
                                     ngx_align(size, ngx_pagesize),
                                     &ngx_core_module);
    if (shm_zone == NULL) {
        return NGX_ERROR;
    }

    shm_zone->init = ngx_rsm_count_init_zone;

    return NGX_OK;
}


static ngx_int_t
ngx_rsm_count_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_slab_pool_t  *shpool;

    if (data) {
        shm_zone->data = data;
        return NGX_OK;
    }

    /* new pages are filled with 0, so the counters need no initialization */

    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    shm_zone->data = ngx_slab_alloc(shpool, ngx_rs_counters_size());

    return shm_zone->data ? NGX_OK : NGX_ERROR;
}


ngx_uint_t
ngx_rsm_count_wanted(ngx_cycle_t *cycle)
{
    return ngx_rsm_count_zone(cycle) != NULL;
}


static ngx_shm_zone_t *
ngx_rsm_count_zone(ngx_cycle_t *cycle)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_shm_zone_t   *shm_zone;

    for (part = &cycle->shared_memory.part; part; part = part->next) {
        shm_zone = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (shm_zone[i].tag == &ngx_core_module
                && shm_zone[i].shm.name.len == ngx_rsm_count_name.len
                && ngx_strncmp(shm_zone[i].shm.name.data,
                               ngx_rsm_count_name.data,
                               ngx_rsm_count_name.len)
                   == 0)
            {
                return &shm_zone[i];
            }
        }
    }

    return NULL;
}


/*
 * Called in init_module: assigns a row to each listener of the new cycle.
 * Modules that are linked into nginx share the static variables, so only the
 * first module of a cycle initializes them.
 */

void
ngx_rsm_count_commit(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf)
{
    uint32_t        *packed;
    ngx_uint_t       i;
    ngx_rs_error_t   error = NGX_RS_ERROR_INIT;

    if (ngx_rsm_count_cycle != cycle) {
        ngx_rsm_count_begin_cycle(cycle);
    }

    if (ngx_rsm_counters == NULL) {
        return;
    }

    packed = ngx_palloc(cycle->pool, conf->nsockets * sizeof(uint32_t));
    if (packed == NULL) {
        return;
    }

    if (ngx_rs_counters_rows(ngx_rsm_counters, conf->subsystem->subsystem,
                             conf->sockets, conf->nsockets, packed, &error)
        != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_ALERT, cycle->log, &error);
        return;
    }

    for (i = 0; i < conf->nsockets; i++) {
        ngx_rsm_count_rows[conf->indices[i]] = packed[i];
    }
}


static void
ngx_rsm_count_begin_cycle(ngx_cycle_t *cycle)
{
    ngx_uint_t       i;
    ngx_shm_zone_t  *shm_zone;

    ngx_rsm_count_cycle = cycle;
    ngx_rsm_counters = NULL;

    shm_zone = ngx_rsm_count_zone(cycle);
    if (shm_zone == NULL) {
        return;
    }

    ngx_rsm_count_rows = ngx_palloc(cycle->pool,
                                 cycle->listening.nelts * sizeof(uint32_t));
    if (ngx_rsm_count_rows == NULL) {
        return;
    }

    for (i = 0; i < cycle->listening.nelts; i++) {
        ngx_rsm_count_rows[i] = NGX_RS_NO_ROW;
    }

    ngx_rsm_counters = shm_zone->data;
}


/*
 * The kind of a connection is queried again before it is closed.  del_conn()
 * of the event method is the last callback that nginx calls before close(), so
 * it is replaced.
 */

ngx_int_t
ngx_rsm_count_init_process(ngx_cycle_t *cycle)
{
    ngx_rs_error_t  error = NGX_RS_ERROR_INIT;

    if (ngx_rsm_counters == NULL
        || (ngx_process != NGX_PROCESS_WORKER
            && ngx_process != NGX_PROCESS_SINGLE))
    {
        return NGX_OK;
    }

    if (ngx_rs_counters_enter(ngx_rsm_counters, ngx_pid, &ngx_rsm_count_seat,
                              &error)
        != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_ALERT, cycle->log, &error);
        ngx_rsm_counters = NULL;
        return NGX_OK;
    }

    if (ngx_event_actions.del_conn
        && ngx_event_actions.del_conn != ngx_rsm_count_del_conn)
    {
        ngx_rsm_next_del_conn = ngx_event_actions.del_conn;
        ngx_event_actions.del_conn = ngx_rsm_count_del_conn;
    }

    return NGX_OK;
}


void
ngx_rsm_exit_process(ngx_cycle_t *cycle)
{
    if (ngx_rsm_counters) {
        (void) ngx_rs_counters_leave(ngx_rsm_counters, ngx_rsm_count_seat,
                                     ngx_pid, NULL);
    }
}


/* called in the handler of a listener for each accepted connection */

void
ngx_rsm_count(ngx_connection_t *c, ngx_rsm_subsystem_t *subsystem,
    int protocol)
{
    uint32_t             row;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    ngx_pool_cleanup_t  *cln;
    ngx_rsm_counted_t   *counted;

    if (ngx_rsm_counters == NULL) {
        return;
    }

    row = ngx_rsm_count_row(subsystem, c->listening);
    if (row == NGX_RS_NO_ROW) {
        return;
    }

    cln = ngx_pool_cleanup_add(c->pool, sizeof(ngx_rsm_counted_t));
    if (cln == NULL) {
        return;
    }

    counted = cln->data;
    counted->connection = c;
    counted->row = row;
    counted->ended = 0;

    if (ngx_rs_counters_begin(ngx_rsm_counters, ngx_rsm_count_seat, row,
                              protocol, c->fd, &counted->kind, &error)
        != NGX_RS_OK)
    {
        ngx_rsm_log_error(NGX_LOG_ERR, c->log, &error);
        return;
    }

    cln->handler = ngx_rsm_count_cleanup;
}


/* connections of a draining socket are counted for its successor */

static uint32_t
ngx_rsm_count_row(ngx_rsm_subsystem_t *subsystem, ngx_listening_t *ls)
{
    ngx_array_t  *listening;

    listening = &ngx_rsm_count_cycle->listening;

    if (ls < (ngx_listening_t *) listening->elts
        || ls >= (ngx_listening_t *) listening->elts + listening->nelts)
    {
        ls = ngx_rsm_drain_successor(subsystem, ls);
    }

    if (ls == NULL) {
        return NGX_RS_NO_ROW;
    }

    return ngx_rsm_count_rows[ls - (ngx_listening_t *) listening->elts];
}


static ngx_int_t
ngx_rsm_count_del_conn(ngx_connection_t *c, ngx_uint_t flags)
{
    ngx_pool_cleanup_t  *cln;

    if ((flags & NGX_CLOSE_EVENT) && c->listening && c->pool) {

        for (cln = c->pool->cleanup; cln; cln = cln->next) {
            if (cln->handler == ngx_rsm_count_cleanup) {
                ngx_rsm_count_end(cln->data, c->fd);
                break;
            }
        }
    }

    return ngx_rsm_next_del_conn(c, flags);
}


static void
ngx_rsm_count_cleanup(void *data)
{
    ngx_rsm_count_end(data, (ngx_socket_t) -1);
}


static void
ngx_rsm_count_end(ngx_rsm_counted_t *counted, ngx_socket_t fd)
{
    if (counted->ended) {
        return;
    }

    counted->ended = 1;

    (void) ngx_rs_counters_end(ngx_rsm_counters, ngx_rsm_count_seat,
                               counted->row, counted->kind, fd, NULL);
}


ngx_rs_counters_t *
ngx_rsm_count_get(void)
{
    return ngx_rsm_counters;
}
