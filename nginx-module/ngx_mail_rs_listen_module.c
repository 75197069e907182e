
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_mail.h>
#include "ngx_rs_module.h"


static void *ngx_mail_rs_sockets_create_conf(ngx_cycle_t *cycle);
static ngx_int_t ngx_mail_rs_sockets_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_mail_rs_sockets_init_process(ngx_cycle_t *cycle);
static char *ngx_mail_rs_listen(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static void ngx_mail_rs_init_tcp_connection(ngx_connection_t *c);
static void ngx_mail_rs_init_mptcp_connection(ngx_connection_t *c);
static void ngx_mail_rs_init_other_connection(ngx_connection_t *c);


static ngx_rsm_subsystem_t  ngx_mail_rs_subsystem = {
    NGX_RS_SUBSYSTEM_MAIL,
    &ngx_mail_core_module,
    ngx_mail_init_connection,
    ngx_mail_rs_init_tcp_connection,
    ngx_mail_rs_init_mptcp_connection,
    ngx_mail_rs_init_other_connection
};


static ngx_core_module_t  ngx_mail_rs_sockets_module_ctx = {
    ngx_string("mail_rs_sockets"),
    ngx_mail_rs_sockets_create_conf,
    ngx_rsm_prepare
};


/* opens the sockets; must be loaded after ngx_events_module */

ngx_module_t  ngx_mail_rs_sockets_module = {
    NGX_MODULE_V1,
    &ngx_mail_rs_sockets_module_ctx,       /* module context */
    NULL,                                  /* module directives */
    NGX_CORE_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_mail_rs_sockets_init_module,       /* init module */
    ngx_mail_rs_sockets_init_process,      /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_rsm_exit_process,                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_command_t  ngx_mail_rs_listen_commands[] = {

    { ngx_string("listen"),
      NGX_MAIL_SRV_CONF|NGX_CONF_1MORE,
      ngx_mail_rs_listen,
      NGX_MAIL_SRV_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_mail_module_t  ngx_mail_rs_listen_module_ctx = {
    NULL,                                  /* protocol */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL                                   /* merge server configuration */
};


/* handles "listen"; must be loaded before ngx_mail_core_module */

ngx_module_t  ngx_mail_rs_listen_module = {
    NGX_MODULE_V1,
    &ngx_mail_rs_listen_module_ctx,        /* module context */
    ngx_mail_rs_listen_commands,           /* module directives */
    NGX_MAIL_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_mail_rs_sockets_create_conf(ngx_cycle_t *cycle)
{
    return ngx_rsm_create_conf(cycle, &ngx_mail_rs_subsystem);
}


static ngx_int_t
ngx_mail_rs_sockets_init_module(ngx_cycle_t *cycle)
{
    return ngx_rsm_commit(cycle, ngx_get_conf(cycle->conf_ctx,
                                              ngx_mail_rs_sockets_module));
}


static ngx_int_t
ngx_mail_rs_sockets_init_process(ngx_cycle_t *cycle)
{
    return ngx_rsm_init_process(cycle, &ngx_mail_rs_subsystem);
}


static char *
ngx_mail_rs_listen(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    void  *core_conf;

    core_conf = ngx_mail_conf_get_module_srv_conf(cf, ngx_mail_core_module);

    return ngx_rsm_directive(cf, ngx_get_conf(cf->cycle->conf_ctx,
                                              ngx_mail_rs_sockets_module),
                             core_conf);
}


static void
ngx_mail_rs_init_tcp_connection(ngx_connection_t *c)
{
    ngx_rsm_count(c, &ngx_mail_rs_subsystem, IPPROTO_TCP);
    ngx_mail_init_connection(c);
}


static void
ngx_mail_rs_init_mptcp_connection(ngx_connection_t *c)
{
    ngx_rsm_count(c, &ngx_mail_rs_subsystem, NGX_RS_IPPROTO_MPTCP);
    ngx_rsm_set_mptcp_recv(c);
    ngx_mail_init_connection(c);
}


static void
ngx_mail_rs_init_other_connection(ngx_connection_t *c)
{
    ngx_rsm_count(c, &ngx_mail_rs_subsystem, IPPROTO_SCTP);
    ngx_rsm_prepare_other(c);
    ngx_mail_init_connection(c);
}
