
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_rs_module.h"


/*
 * With "sendfile" and "tcp_nopush" nginx corks a connection before it sends
 * a file, and closes the connection without removing the cork, because close()
 * of a TCP socket sends the corked data.  close() and shutdown() of an MPTCP
 * socket do not, and Linux then delays the end of the response by 200 ms or
 * more.  So this module removes the cork first.
 */


static ngx_int_t ngx_rsm_push_init(ngx_conf_t *cf);
static ngx_int_t ngx_rsm_push_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_rsm_push_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static void ngx_rsm_push_response(ngx_http_request_t *r);
static ngx_int_t ngx_rsm_push_log_handler(ngx_http_request_t *r);
static void ngx_rsm_push(ngx_connection_t *c);


extern ngx_module_t  ngx_http_rs_sockets_module;


static ngx_http_module_t  ngx_http_rs_push_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_rsm_push_init,                     /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


/*
 * The filters must run directly before those of ngx_http_header_filter_module
 * and ngx_http_write_filter_module.  Filters run in reverse order, so this
 * module is directly after these two in the list of modules.
 */

ngx_module_t  ngx_http_rs_push_module = {
    NGX_MODULE_V1,
    &ngx_http_rs_push_module_ctx,          /* module context */
    NULL,                                  /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


/* the filters are not installed if all listeners request TCP */

static ngx_int_t
ngx_rsm_push_init(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_rsm_conf_t             *rmcf;
    ngx_rsm_request_t          *request;
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    rmcf = (ngx_rsm_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_http_rs_sockets_module);
    request = rmcf->requests.elts;

    for (i = 0; i < rmcf->requests.nelts; i++) {
        if (request[i].protocol != IPPROTO_TCP) {
            break;
        }
    }

    if (i == rmcf->requests.nelts) {
        return NGX_OK;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_LOG_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_rsm_push_log_handler;

    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_rsm_push_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_rsm_push_body_filter;

    return NGX_OK;
}


/*
 * A response without a body ends here.  The connection may still be corked by
 * the previous one of several pipelined requests.
 */

static ngx_int_t
ngx_rsm_push_header_filter(ngx_http_request_t *r)
{
    ngx_int_t  rc;

    rc = ngx_http_next_header_filter(r);

    if (r->header_only && r == r->main) {
        ngx_http_set_ctx(r, r, ngx_http_rs_push_module);

        if (rc == NGX_OK) {
            ngx_rsm_push_response(r);
        }
    }

    return rc;
}


/* a request gets a context when the last buffer of its response arrives */

static ngx_int_t
ngx_rsm_push_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_int_t     rc;
    ngx_chain_t  *cl;

    for (cl = in; cl; cl = cl->next) {
        if (cl->buf->last_buf) {
            ngx_http_set_ctx(r, r, ngx_http_rs_push_module);
        }
    }

    rc = ngx_http_next_body_filter(r, in);

    /* after NGX_AGAIN a part of the response is not sent yet */

    if (rc == NGX_OK
        && ngx_http_get_module_ctx(r, ngx_http_rs_push_module))
    {
        ngx_rsm_push_response(r);
    }

    return rc;
}


/*
 * The whole response has been sent.  If ngx_http_finalize_connection() keeps
 * the connection, nginx itself removes the cork.  If it begins a lingering
 * close, the cork must be removed here, because the log phase runs too late.
 */

static void
ngx_rsm_push_response(ngx_http_request_t *r)
{
    if (!r->keepalive
        || r->reading_body
        || r->connection->read->eof
        || ngx_exiting
        || ngx_terminate)
    {
        ngx_rsm_push(r->connection);
    }
}


/*
 * nginx may also close a keep-alive connection, or close a connection before
 * the end of the response.  When a connection is closed,
 * ngx_http_close_request() runs the log phase with a count of 0.  When it is
 * kept, ngx_http_set_keepalive() runs the log phase with a count of 1.
 */

static ngx_int_t
ngx_rsm_push_log_handler(ngx_http_request_t *r)
{
    if (r == r->main && r->count == 0 && !r->connection->error) {
        ngx_rsm_push(r->connection);
    }

    return NGX_OK;
}


static void
ngx_rsm_push(ngx_connection_t *c)
{
    /* a TCP socket needs no push, because its close() sends corked data */

    if (c->tcp_nopush != NGX_TCP_NOPUSH_SET
        || c->listening->handler != ngx_http_rs_subsystem.mptcp_handler)
    {
        return;
    }

    if (ngx_tcp_push(c->fd) == -1) {
        ngx_connection_error(c, ngx_socket_errno, ngx_tcp_push_n " failed");
        return;
    }

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, c->log, 0, "tcp_push before close");

    c->tcp_nopush = NGX_TCP_NOPUSH_UNSET;
}
