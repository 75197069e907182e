
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_variables.h"
#include "../include/ngx_rs_listen.h"


/* the last queried state of a connection, allocated in its pool */

typedef struct {
    ngx_rs_connection_t  *handle;
    uint32_t              values;
    uint32_t              kind;
    ngx_msec_t            time;         /* of the last query */

    ngx_event_t           timer;
    ngx_msec_t            interval;

    unsigned              fresh:1;
} ngx_rsm_connection_t;


/*
 * The milliseconds to the second query, and the longest interval between two
 * queries.  Each interval is twice as long as the one before.
 */

#define NGX_RSM_WATCH_FIRST    500
#define NGX_RSM_WATCH_LONGEST  60000

/* the longest text that ngx_rs_connection_text() can write */

#define NGX_RSM_TEXT_SIZE      1024


static ngx_rsm_connection_t *ngx_rsm_connection_find(ngx_connection_t *c);
static ngx_rsm_connection_t *ngx_rsm_connection_get(ngx_connection_t *c);
static void ngx_rsm_connection_watch(ngx_event_t *ev);
static void ngx_rsm_connection_cleanup(void *data);
static ngx_rsm_connection_t *ngx_rsm_connection_query(ngx_connection_t *c,
    uint32_t values);


ngx_rsm_variable_t  ngx_rsm_variables[] = {

    { ngx_string("mptcp"), NGX_RS_VALUE_KIND },
    { ngx_string("mptcp_subflows"), NGX_RS_VALUE_SUBFLOWS },
    { ngx_string("mptcp_subflows_total"), NGX_RS_VALUE_SUBFLOWS_TOTAL },
    { ngx_string("mptcp_subflow_addrs"), NGX_RS_VALUE_SUBFLOW_ADDRS },
    { ngx_string("mptcp_token"), NGX_RS_VALUE_TOKEN },
    { ngx_string("mptcp_bytes_sent"), NGX_RS_VALUE_BYTES_SENT },
    { ngx_string("mptcp_bytes_received"), NGX_RS_VALUE_BYTES_RECEIVED },
    { ngx_string("mptcp_retrans"), NGX_RS_VALUE_RETRANS },
    { ngx_string("mptcp_subflow_bytes_sent"),
      NGX_RS_VALUE_SUBFLOW_BYTES_SENT },
    { ngx_string("mptcp_subflow_bytes_received"),
      NGX_RS_VALUE_SUBFLOW_BYTES_RECEIVED },
    { ngx_string("mptcp_subflow_rtt"), NGX_RS_VALUE_SUBFLOW_RTT },
    { ngx_string("mptcp_subflow_retrans"), NGX_RS_VALUE_SUBFLOW_RETRANS },

    { ngx_null_string, 0 }
};


void *
ngx_rsm_variables_create_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_rsm_variables_conf_t));
}


/* called after the configuration is read: finds the variables used in it */

ngx_int_t
ngx_rsm_variables_used(ngx_conf_t *cf, ngx_rsm_variables_conf_t *rvcf,
    ngx_array_t *variables)
{
    ngx_str_t           *name;
    ngx_uint_t           i, *index;
    ngx_rsm_variable_t  *v;

    rvcf->indices = ngx_array_create(cf->pool, 8, sizeof(ngx_uint_t));
    if (rvcf->indices == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < variables->nelts; i++) {

        /* ngx_http_variable_t and ngx_stream_variable_t begin with the name */

        name = (ngx_str_t *) ((u_char *) variables->elts
                              + i * variables->size);

        for (v = ngx_rsm_variables; v->name.len; v++) {

            if (name->len != v->name.len
                || ngx_strncmp(name->data, v->name.data, name->len) != 0)
            {
                continue;
            }

            index = ngx_array_push(rvcf->indices);
            if (index == NULL) {
                return NGX_ERROR;
            }

            *index = i;
            rvcf->values |= 1 << v->data;
        }
    }

    return NGX_OK;
}


/*
 * Queries a new connection, and queries it periodically while it is MPTCP.
 * When the client resets the connection, the kernel discards the subflows, so
 * nginx can only log those of an earlier query.
 */

void
ngx_rsm_variables_begin(ngx_rsm_variables_conf_t *rvcf, ngx_connection_t *c)
{
    ngx_rsm_connection_t  *rc;

    if (ngx_rsm_connection_find(c)) {
        return;
    }

    rc = ngx_rsm_connection_query(c, rvcf->values);

    if (rc == NULL || rc->kind != NGX_RS_CONNECTION_MPTCP) {
        return;
    }

    rc->interval = NGX_RSM_WATCH_FIRST;

    rc->timer.handler = ngx_rsm_connection_watch;
    rc->timer.data = c;
    rc->timer.log = c->log;

    /* an exiting worker does not wait for this timer */
    rc->timer.cancelable = 1;

    ngx_add_timer(&rc->timer, rc->interval);
}


static void
ngx_rsm_connection_watch(ngx_event_t *ev)
{
    ngx_connection_t      *c;
    ngx_rsm_connection_t  *rc;

    c = ev->data;
    rc = ngx_rsm_connection_find(c);

    (void) ngx_rsm_connection_query(c, rc->values);

    if (rc->kind == NGX_RS_CONNECTION_MPTCP) {
        rc->interval = ngx_min(2 * rc->interval, NGX_RSM_WATCH_LONGEST);
        ngx_add_timer(ev, rc->interval);
    }
}


/* updates the values before nginx logs a request or session */

void
ngx_rsm_variables_end(ngx_rsm_variables_conf_t *rvcf, ngx_connection_t *c,
    ngx_variable_value_t *values)
{
    ngx_uint_t             i, *index;
    ngx_rsm_connection_t  *rc;

    rc = ngx_rsm_connection_find(c);

    if (rc) {
        rc->fresh = 0;
    }

    index = rvcf->indices->elts;

    for (i = 0; i < rvcf->indices->nelts; i++) {
        values[index[i]].valid = 0;
        values[index[i]].not_found = 0;
    }
}


ngx_int_t
ngx_rsm_variables_get(ngx_rsm_variables_conf_t *rvcf, ngx_connection_t *c,
    ngx_pool_t *pool, ngx_variable_value_t *v, uintptr_t data)
{
    u_char                 text[NGX_RSM_TEXT_SIZE];
    size_t                 len;
    ngx_rs_error_t         error = NGX_RS_ERROR_INIT;
    ngx_rsm_connection_t  *rc;

    v->not_found = 1;

    rc = ngx_rsm_connection_query(c, rvcf->values | 1 << data);

    if (rc == NULL || rc->handle == NULL) {
        return NGX_OK;
    }

    if (ngx_rs_connection_text(rc->handle, data, text, NGX_RSM_TEXT_SIZE,
                               &len, &error)
        != NGX_RS_OK)
    {
        ngx_log_error(NGX_LOG_ALERT, c->log, error.os_errno,
                      "%s", error.message);
        return NGX_ERROR;
    }

    if (len == 0 || len > NGX_RSM_TEXT_SIZE) {
        return NGX_OK;
    }

    v->data = ngx_pnalloc(pool, len);
    if (v->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(v->data, text, len);

    v->len = len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_rsm_connection_t *
ngx_rsm_connection_find(ngx_connection_t *c)
{
    ngx_pool_cleanup_t  *cln;

    for (cln = c->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_rsm_connection_cleanup) {
            return cln->data;
        }
    }

    return NULL;
}


static ngx_rsm_connection_t *
ngx_rsm_connection_get(ngx_connection_t *c)
{
    ngx_pool_cleanup_t    *cln;
    ngx_rsm_connection_t  *rc;

    rc = ngx_rsm_connection_find(c);
    if (rc) {
        return rc;
    }

    cln = ngx_pool_cleanup_add(c->pool, sizeof(ngx_rsm_connection_t));
    if (cln == NULL) {
        return NULL;
    }

    rc = cln->data;
    ngx_memzero(rc, sizeof(ngx_rsm_connection_t));

    /* its address also identifies the state in the pool */
    cln->handler = ngx_rsm_connection_cleanup;

    return rc;
}


static void
ngx_rsm_connection_cleanup(void *data)
{
    ngx_rsm_connection_t  *rc = data;

    if (rc->timer.timer_set) {
        ngx_del_timer(&rc->timer);
    }

    ngx_rs_connection_free(rc->handle);
}


/*
 * All variables of one log line share one query, as do several lines that are
 * written in the same millisecond.
 */

static ngx_rsm_connection_t *
ngx_rsm_connection_query(ngx_connection_t *c, uint32_t values)
{
    ngx_rs_error_t         error = NGX_RS_ERROR_INIT;
    ngx_rsm_connection_t  *rc;

    if (c->fd == (ngx_socket_t) -1 || c->type != SOCK_STREAM
        || c->sockaddr->sa_family == AF_UNIX)
    {
        return NULL;
    }

    rc = ngx_rsm_connection_get(c);
    if (rc == NULL) {
        return NULL;
    }

    if (rc->fresh && rc->time == ngx_current_msec
        && (values & ~rc->values) == 0)
    {
        return rc;
    }

    rc->values |= values;

    if (ngx_rs_connection_query(&rc->handle, c->fd, rc->values, c->sockaddr,
                                c->socklen, &rc->kind, &error)
        != NGX_RS_OK)
    {
        ngx_log_error(NGX_LOG_ERR, c->log, error.os_errno,
                      "%s", error.message);
    }

    rc->time = ngx_current_msec;
    rc->fresh = 1;

    return rc;
}
