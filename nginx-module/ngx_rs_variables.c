
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_variables.h"
#include "../include/ngx_rs_listen.h"


/* what is known of a connection; it lives as long as the connection */

typedef struct {
    ngx_rs_connection_info_t  info;
    ngx_str_t                 addrs;
    size_t                    addrs_size;
    ngx_msec_t                time;

    ngx_event_t               timer;
    ngx_msec_t                interval;

    unsigned                  fresh:1;
    unsigned                  fresh_addrs:1;
    unsigned                  watch_addrs:1;
} ngx_rsm_connection_t;


/*
 * When to ask again for the first time, in milliseconds, and the longest time
 * between two questions: each is twice as long as the one before.
 */

#define NGX_RS_WATCH_FIRST     500
#define NGX_RS_WATCH_LONGEST   60000


#define NGX_RS_MPTCP           0
#define NGX_RS_SUBFLOW_ADDRS   1
#define NGX_RS_TOKEN           2

/* the others are numbers, which stand there in the struct */

#define NGX_RS_NUMBER(field)  offsetof(ngx_rs_connection_info_t, field)


/* all that Linux makes by itself */

#define NGX_RS_MAX_SUBFLOWS  16

#define NGX_RS_ADDR_STRLEN                                                    \
    (NGX_INET6_ADDRSTRLEN + sizeof("[]:65535,") - 1)


static ngx_rsm_connection_t *ngx_rsm_connection_find(ngx_connection_t *c);
static ngx_rsm_connection_t *ngx_rsm_connection_get(ngx_connection_t *c);
static void ngx_rsm_connection_watch(ngx_event_t *ev);
static void ngx_rsm_connection_cleanup(void *data);
static ngx_rsm_connection_t *ngx_rsm_connection_query(ngx_connection_t *c,
    ngx_uint_t addrs);
static ngx_rs_status_t ngx_rsm_connection_query_addrs(ngx_connection_t *c,
    ngx_rsm_connection_t *rc, ngx_rs_error_t *error);


ngx_rsm_variable_t  ngx_rsm_variables[] = {

    { ngx_string("mptcp"), NGX_RS_MPTCP },
    { ngx_string("mptcp_subflows"), NGX_RS_NUMBER(subflows) },
    { ngx_string("mptcp_subflows_total"), NGX_RS_NUMBER(subflows_total) },
    { ngx_string("mptcp_subflow_addrs"), NGX_RS_SUBFLOW_ADDRS },
    { ngx_string("mptcp_token"), NGX_RS_TOKEN },
    { ngx_string("mptcp_bytes_sent"), NGX_RS_NUMBER(bytes_sent) },
    { ngx_string("mptcp_bytes_received"), NGX_RS_NUMBER(bytes_received) },
    { ngx_string("mptcp_retrans"), NGX_RS_NUMBER(retransmits) },

    { ngx_null_string, 0 }
};


void *
ngx_rsm_variables_create_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_rsm_variables_conf_t));
}


/* after the configuration has been read: which of our variables are in it */

ngx_int_t
ngx_rsm_variables_used(ngx_conf_t *cf, ngx_rsm_variables_conf_t *rvcf,
    ngx_array_t *variables)
{
    ngx_str_t          *name;
    ngx_uint_t          i, *index;
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

            if (v->data == NGX_RS_SUBFLOW_ADDRS) {
                rvcf->addrs = 1;
            }
        }
    }

    return NGX_OK;
}


/*
 * When a connection begins, and then at times as long as it is MPTCP: the
 * kernel forgets the subflows of one that the client resets, and they are to be
 * logged all the same.
 */

void
ngx_rsm_variables_begin(ngx_rsm_variables_conf_t *rvcf, ngx_connection_t *c)
{
    ngx_rsm_connection_t  *rc;

    if (ngx_rsm_connection_find(c)) {
        return;
    }

    rc = ngx_rsm_connection_query(c, rvcf->addrs);

    if (rc == NULL || rc->info.kind != NGX_RS_CONNECTION_MPTCP) {
        return;
    }

    rc->watch_addrs = rvcf->addrs;
    rc->interval = NGX_RS_WATCH_FIRST;

    rc->timer.handler = ngx_rsm_connection_watch;
    rc->timer.data = c;
    rc->timer.log = c->log;

    /* a worker that is exiting does not wait for it */
    rc->timer.cancelable = 1;

    ngx_add_timer(&rc->timer, rc->interval);
}


static void
ngx_rsm_connection_watch(ngx_event_t *ev)
{
    ngx_connection_t     *c;
    ngx_rsm_connection_t  *rc;

    c = ev->data;
    rc = (ngx_rsm_connection_t *) ((u_char *) ev
                                  - offsetof(ngx_rsm_connection_t, timer));

    (void) ngx_rsm_connection_query(c, rc->watch_addrs);

    if (rc->info.kind == NGX_RS_CONNECTION_MPTCP) {
        rc->interval = ngx_min(2 * rc->interval, NGX_RS_WATCH_LONGEST);
        ngx_add_timer(ev, rc->interval);
    }
}


/* before a request or session is logged: the values are to be those of now */

void
ngx_rsm_variables_end(ngx_rsm_variables_conf_t *rvcf, ngx_connection_t *c,
    ngx_variable_value_t *values)
{
    ngx_uint_t            i, *index;
    ngx_rsm_connection_t  *rc;

    rc = ngx_rsm_connection_find(c);

    if (rc) {
        rc->fresh = 0;
        rc->fresh_addrs = 0;
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
    u_char               *p;
    int64_t               number;
    ngx_rsm_connection_t  *rc;

    rc = ngx_rsm_connection_query(c, rvcf->addrs || data == NGX_RS_SUBFLOW_ADDRS);

    if (rc == NULL || rc->info.kind < NGX_RS_CONNECTION_MPTCP) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    switch (data) {

    case NGX_RS_MPTCP:

        if (rc->info.kind == NGX_RS_CONNECTION_MPTCP) {
            ngx_str_set(v, "on");

        } else {
            ngx_str_set(v, "fallback");
        }

        return NGX_OK;

    case NGX_RS_SUBFLOW_ADDRS:

        if (rc->addrs.len == 0) {
            v->not_found = 1;
            return NGX_OK;
        }

        /* the text of the connection may change while the request lives */

        v->data = ngx_pstrdup(pool, &rc->addrs);
        if (v->data == NULL) {
            return NGX_ERROR;
        }

        v->len = rc->addrs.len;

        return NGX_OK;

    case NGX_RS_TOKEN:
        number = rc->info.token;
        break;

    default:
        number = *(int64_t *) ((u_char *) &rc->info + data);
    }

    if (number == NGX_RS_UNKNOWN) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(pool, NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->data = p;
    v->len = ngx_sprintf(p, data == NGX_RS_TOKEN ? "%xL" : "%L", number) - p;

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
    ngx_pool_cleanup_t        *cln;
    ngx_rsm_connection_t       *rc;
    ngx_rs_connection_info_t   init = NGX_RS_CONNECTION_INFO_INIT;

    rc = ngx_rsm_connection_find(c);
    if (rc) {
        return rc;
    }

    cln = ngx_pool_cleanup_add(c->pool, sizeof(ngx_rsm_connection_t));
    if (cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_rsm_connection_cleanup;

    /* it also marks what is ours in the pool */

    rc = cln->data;

    ngx_memzero(rc, sizeof(ngx_rsm_connection_t));

    rc->info = init;
    rc->info.flags = NGX_RS_CONNECTION_MPTCP_ONLY;

    return rc;
}


static void
ngx_rsm_connection_cleanup(void *data)
{
    ngx_rsm_connection_t  *rc = data;

    if (rc->timer.timer_set) {
        ngx_del_timer(&rc->timer);
    }
}


/*
 * Several variables of one line cost one question, as do several lines that
 * are written in the same moment.
 */

static ngx_rsm_connection_t *
ngx_rsm_connection_query(ngx_connection_t *c, ngx_uint_t addrs)
{
    ngx_rs_error_t        error = NGX_RS_ERROR_INIT;
    ngx_rs_status_t       status;
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

    if (rc->time != ngx_current_msec) {
        rc->fresh = 0;
        rc->fresh_addrs = 0;
    }

    if (addrs ? rc->fresh_addrs : rc->fresh) {
        return rc;
    }

    status = addrs ? ngx_rsm_connection_query_addrs(c, rc, &error)
                   : ngx_rs_connection_info(c->fd, &rc->info, &error);

    if (status != NGX_RS_OK) {
        ngx_log_error(NGX_LOG_ERR, c->log, error.os_errno,
                      "%s", error.message);
    }

    rc->time = ngx_current_msec;
    rc->fresh = 1;
    rc->fresh_addrs = addrs;

    return rc;
}


/* the addresses stay what they were when the kernel knows none any more */

static ngx_rs_status_t
ngx_rsm_connection_query_addrs(ngx_connection_t *c, ngx_rsm_connection_t *rc,
    ngx_rs_error_t *error)
{
    u_char            *p;
    size_t             i, n, size;
    ngx_rs_status_t    status;
    ngx_rs_subflow_t   subflows[NGX_RS_MAX_SUBFLOWS] = {
                                                      NGX_RS_SUBFLOW_INIT };

    status = ngx_rs_connection_subflows(c->fd, subflows, NGX_RS_MAX_SUBFLOWS,
                                        &n, &rc->info, error);

    if (status != NGX_RS_OK || n == 0) {
        return status;
    }

    n = ngx_min(n, NGX_RS_MAX_SUBFLOWS);
    size = n * NGX_RS_ADDR_STRLEN;

    if (size > rc->addrs_size) {

        rc->addrs.len = 0;
        rc->addrs_size = 0;

        rc->addrs.data = ngx_pnalloc(c->pool, size);
        if (rc->addrs.data == NULL) {
            return status;
        }

        rc->addrs_size = size;
    }

    p = rc->addrs.data;

    for (i = 0; i < n; i++) {

        if (i) {
            *p++ = ',';
        }

        p += ngx_sock_ntop((struct sockaddr *) &subflows[i].remote,
                           sizeof(subflows[i].remote), p,
                           NGX_RS_ADDR_STRLEN - 1, 1);
    }

    rc->addrs.len = p - rc->addrs.data;

    return status;
}
