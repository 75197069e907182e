
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_rs_module.h"


typedef struct {
    uint32_t  format;           /* NGX_RS_FORMAT_* */
} ngx_http_rs_status_loc_conf_t;


static void *ngx_http_rs_status_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_rs_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_rs_status_handler(ngx_http_request_t *r);
static ngx_buf_t *ngx_http_rs_status_text(ngx_http_request_t *r,
    uint32_t format);


static ngx_command_t  ngx_http_rs_status_commands[] = {

    { ngx_string("mptcp_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_rs_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_rs_status_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_rs_status_create_loc_conf,    /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_rs_status_module = {
    NGX_MODULE_V1,
    &ngx_http_rs_status_module_ctx,        /* module context */
    ngx_http_rs_status_commands,           /* module directives */
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


static ngx_str_t  ngx_http_rs_status_types[] = {
    ngx_string("application/json"),
    ngx_string("text/plain; version=0.0.4")
};


static void *
ngx_http_rs_status_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_rs_status_loc_conf_t));
}


static char *
ngx_http_rs_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_rs_status_loc_conf_t  *rslcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler == ngx_http_rs_status_handler) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 1 || ngx_strcmp(value[1].data, "json") == 0) {
        rslcf->format = NGX_RS_FORMAT_JSON;

    } else if (ngx_strcmp(value[1].data, "prometheus") == 0) {
        rslcf->format = NGX_RS_FORMAT_PROMETHEUS;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    clcf->handler = ngx_http_rs_status_handler;

    if (ngx_rsm_count_add_zone(cf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_rs_status_handler(ngx_http_request_t *r)
{
    ngx_int_t                       rc;
    ngx_buf_t                      *b;
    ngx_chain_t                     out;
    ngx_http_rs_status_loc_conf_t  *rslcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    rslcf = ngx_http_get_module_loc_conf(r, ngx_http_rs_status_module);

    b = ngx_http_rs_status_text(r, rslcf->format);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = b->last - b->pos;
    r->headers_out.content_type = ngx_http_rs_status_types[rslcf->format];
    r->headers_out.content_type_len = r->headers_out.content_type.len;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


/* other workers may make the numbers longer meanwhile, so this repeats */

static ngx_buf_t *
ngx_http_rs_status_text(ngx_http_request_t *r, uint32_t format)
{
    size_t              len, size;
    ngx_buf_t          *b;
    ngx_rs_error_t      error = NGX_RS_ERROR_INIT;
    ngx_rs_counters_t  *counters;

    counters = ngx_rsm_count_get();
    size = 4096;

    for ( ;; ) {
        b = ngx_create_temp_buf(r->pool, size);
        if (b == NULL) {
            return NULL;
        }

        if (ngx_rs_counters_text(counters, format, b->pos, size, &len, &error)
            != NGX_RS_OK)
        {
            ngx_rsm_log_error(NGX_LOG_ERR, r->connection->log, &error);
            return NULL;
        }

        if (len <= size) {
            b->last = b->pos + len;
            return b;
        }

        size = len + len / 8;
    }
}
