
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#ifndef _NGX_RS_UPSTREAM_H_INCLUDED_
#define _NGX_RS_UPSTREAM_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>


#pragma GCC visibility push(hidden)


/* main configuration of "mptcp" in "upstream", the same in http and stream */

typedef struct {
    ngx_uint_t   used;          /* whether $upstream_mptcp is used */
    ngx_uint_t   warned;        /* that "auto" falls back to TCP */
} ngx_rsm_upstream_main_conf_t;


typedef struct {
    ngx_uint_t   protocol;      /* NGX_RSM_UPSTREAM_* */
    void        *init;          /* the original us->peer.init */

    ngx_rsm_upstream_main_conf_t  *main;
} ngx_rsm_upstream_conf_t;


#define NGX_RSM_UPSTREAM_OFF   0
#define NGX_RSM_UPSTREAM_ON    1
#define NGX_RSM_UPSTREAM_AUTO  2


/* whether nginx's state of a server shows that the server has answered */

typedef ngx_uint_t (*ngx_rsm_upstream_connected_pt)(void *state);


/* the kind of the connection to each server that a request has tried */

typedef struct {
    ngx_array_t            *states;     /* nginx's states of the servers */
    ngx_array_t             kinds;      /* of uint32_t */
    ngx_peer_connection_t  *peer;       /* to the last server */

    ngx_rsm_upstream_connected_pt  connected;
} ngx_rsm_upstream_ctx_t;


/* ngx_rs_upstream.c */

void *ngx_rsm_upstream_create_main_conf(ngx_conf_t *cf);
void *ngx_rsm_upstream_create_srv_conf(ngx_conf_t *cf);
char *ngx_rsm_upstream_directive(ngx_conf_t *cf,
    ngx_rsm_upstream_conf_t *conf, ngx_rsm_upstream_main_conf_t *main);
ngx_uint_t ngx_rsm_upstream_wrapped(ngx_rsm_upstream_conf_t *conf);
void ngx_rsm_upstream_set_used(ngx_rsm_upstream_main_conf_t *main,
    ngx_array_t *variables);
ngx_rsm_upstream_ctx_t *ngx_rsm_upstream_create_ctx(ngx_pool_t *pool,
    ngx_array_t *states, ngx_rsm_upstream_connected_pt connected);
ngx_int_t ngx_rsm_upstream_wrap(ngx_pool_t *pool, ngx_peer_connection_t *pc,
    ngx_rsm_upstream_conf_t *conf, ngx_rsm_upstream_ctx_t *ctx);
ngx_int_t ngx_rsm_upstream_variable(ngx_pool_t *pool, ngx_array_t *states,
    size_t name, ngx_variable_value_t *v);

/* ngx_rs_connect.c */

ngx_int_t ngx_rsm_upstream_connect(ngx_peer_connection_t *pc,
    ngx_rsm_upstream_conf_t *conf);


extern ngx_str_t  ngx_rsm_upstream_name;


#pragma GCC visibility pop


#endif /* _NGX_RS_UPSTREAM_H_INCLUDED_ */
