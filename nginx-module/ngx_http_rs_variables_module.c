
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_rs_variables.h"


static ngx_int_t ngx_http_rs_variables_add(ngx_conf_t *cf);
static ngx_int_t ngx_http_rs_variables_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_rs_variables_push(ngx_conf_t *cf, ngx_uint_t phase,
    ngx_http_handler_pt handler);
static ngx_int_t ngx_http_rs_variables_begin(ngx_http_request_t *r);
static ngx_int_t ngx_http_rs_variables_end(ngx_http_request_t *r);
static ngx_int_t ngx_http_rs_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_connection_t *ngx_http_rs_connection(ngx_http_request_t *r);



static ngx_http_module_t  ngx_http_rs_variables_module_ctx = {
    ngx_http_rs_variables_add,             /* preconfiguration */
    ngx_http_rs_variables_init,            /* postconfiguration */

    ngx_rsm_variables_create_conf,          /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


/*
 * Must be loaded after ngx_http_core_module, which creates the table of
 * variables, and before ngx_http_log_module, so that the values are updated
 * before nginx logs them.
 */

ngx_module_t  ngx_http_rs_variables_module = {
    NGX_MODULE_V1,
    &ngx_http_rs_variables_module_ctx,     /* module context */
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


static ngx_int_t
ngx_http_rs_variables_add(ngx_conf_t *cf)
{
    ngx_rsm_variable_t    *v;
    ngx_http_variable_t  *var;

    for (v = ngx_rsm_variables; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name,
                                    NGX_HTTP_VAR_NOCACHEABLE);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = ngx_http_rs_variable;
        var->data = v->data;
    }

    return NGX_OK;
}


/* no handlers are installed unless the variables are used */

static ngx_int_t
ngx_http_rs_variables_init(ngx_conf_t *cf)
{
    ngx_rsm_variables_conf_t    *rvcf;
    ngx_http_core_main_conf_t  *cmcf;

    rvcf = ngx_http_conf_get_module_main_conf(cf,
                                              ngx_http_rs_variables_module);
    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    if (ngx_rsm_variables_used(cf, rvcf, &cmcf->variables) != NGX_OK) {
        return NGX_ERROR;
    }

    if (rvcf->indices->nelts == 0) {
        return NGX_OK;
    }

    if (ngx_http_rs_variables_push(cf, NGX_HTTP_POST_READ_PHASE,
                                    ngx_http_rs_variables_begin)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_rs_variables_push(cf, NGX_HTTP_LOG_PHASE,
                                       ngx_http_rs_variables_end);
}


static ngx_int_t
ngx_http_rs_variables_push(ngx_conf_t *cf, ngx_uint_t phase,
    ngx_http_handler_pt handler)
{
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[phase].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = handler;

    return NGX_OK;
}


static ngx_int_t
ngx_http_rs_variables_begin(ngx_http_request_t *r)
{
    ngx_rsm_variables_begin(
        ngx_http_get_module_main_conf(r, ngx_http_rs_variables_module),
        ngx_http_rs_connection(r));

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_rs_variables_end(ngx_http_request_t *r)
{
    ngx_rsm_variables_end(
        ngx_http_get_module_main_conf(r, ngx_http_rs_variables_module),
        ngx_http_rs_connection(r), r->variables);

    return NGX_OK;
}


static ngx_int_t
ngx_http_rs_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    return ngx_rsm_variables_get(
        ngx_http_get_module_main_conf(r, ngx_http_rs_variables_module),
        ngx_http_rs_connection(r), r->pool, v, data);
}


/* each HTTP/2 stream has a fake connection; this returns the real one */

static ngx_connection_t *
ngx_http_rs_connection(ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)

    if (r->stream) {
        return r->stream->connection->connection;
    }

#endif

    return r->connection;
}
