
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_rs_upstream.h"


static ngx_int_t ngx_http_rs_upstream_add_variable(ngx_conf_t *cf);
static ngx_int_t ngx_http_rs_upstream_init(ngx_conf_t *cf);
static char *ngx_http_rs_upstream(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_rs_upstream_init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us);
static ngx_uint_t ngx_http_rs_upstream_connected(void *state);
static ngx_int_t ngx_http_rs_upstream_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


static ngx_command_t  ngx_http_rs_upstream_commands[] = {

    { ngx_string("mptcp"),
      NGX_HTTP_UPS_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_rs_upstream,
      NGX_HTTP_SRV_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_rs_upstream_module_ctx = {
    ngx_http_rs_upstream_add_variable,     /* preconfiguration */
    ngx_http_rs_upstream_init,             /* postconfiguration */

    ngx_rsm_upstream_create_main_conf,     /* create main configuration */
    NULL,                                  /* init main configuration */

    ngx_rsm_upstream_create_srv_conf,      /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_rs_upstream_module = {
    NGX_MODULE_V1,
    &ngx_http_rs_upstream_module_ctx,      /* module context */
    ngx_http_rs_upstream_commands,         /* module directives */
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
ngx_http_rs_upstream_add_variable(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var;

    var = ngx_http_add_variable(cf, &ngx_rsm_upstream_name,
                                 NGX_HTTP_VAR_NOCACHEABLE);
    if (var == NULL) {
        return NGX_ERROR;
    }

    var->get_handler = ngx_http_rs_upstream_variable;

    return NGX_OK;
}


/*
 * All other modules have set the init functions of their upstreams, so the
 * function of this module calls theirs.
 */

static ngx_int_t
ngx_http_rs_upstream_init(ngx_conf_t *cf)
{
    ngx_uint_t                      i;
    ngx_rsm_upstream_conf_t        *conf;
    ngx_http_core_main_conf_t      *cmcf;
    ngx_rsm_upstream_main_conf_t   *main;
    ngx_http_upstream_srv_conf_t  **us;
    ngx_http_upstream_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf,
                                              ngx_http_upstream_module);
    us = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        /* an implicit upstream without an "upstream" block */

        if (us[i]->srv_conf == NULL) {
            continue;
        }

        conf = ngx_http_conf_upstream_srv_conf(us[i],
                                               ngx_http_rs_upstream_module);

        if (ngx_rsm_upstream_wrapped(conf)) {
            conf->init = us[i]->peer.init;
            us[i]->peer.init = ngx_http_rs_upstream_init_peer;
        }
    }

    main = ngx_http_conf_get_module_main_conf(cf,
                                              ngx_http_rs_upstream_module);
    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    ngx_rsm_upstream_set_used(main, &cmcf->variables);

    return NGX_OK;
}


static char *
ngx_http_rs_upstream(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_rsm_upstream_main_conf_t  *main;

    main = ngx_http_conf_get_module_main_conf(cf,
                                              ngx_http_rs_upstream_module);

    return ngx_rsm_upstream_directive(cf, conf, main);
}


static ngx_int_t
ngx_http_rs_upstream_init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us)
{
    ngx_rsm_upstream_ctx_t          *ctx;
    ngx_rsm_upstream_conf_t         *conf;
    ngx_http_upstream_init_peer_pt   init;

    conf = ngx_http_conf_upstream_srv_conf(us, ngx_http_rs_upstream_module);
    init = conf->init;

    if (init(r, us) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx = NULL;

    if (conf->main->used) {
        ctx = ngx_rsm_upstream_create_ctx(r->pool, r->upstream_states,
                                           ngx_http_rs_upstream_connected);
        if (ctx == NULL) {
            return NGX_ERROR;
        }
    }

    return ngx_rsm_upstream_wrap(r->pool, &r->upstream->peer, conf, ctx);
}


/* nginx sets connect_time before it knows whether connect() has succeeded */

static ngx_uint_t
ngx_http_rs_upstream_connected(void *state)
{
    ngx_http_upstream_state_t  *u = state;

    return u->bytes_received != 0;
}


static ngx_int_t
ngx_http_rs_upstream_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    return ngx_rsm_upstream_variable(r->pool, r->upstream_states,
                                 offsetof(ngx_http_upstream_state_t, peer), v);
}
