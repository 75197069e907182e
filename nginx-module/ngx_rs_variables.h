
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#ifndef _NGX_RS_VARIABLES_H_INCLUDED_
#define _NGX_RS_VARIABLES_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


#pragma GCC visibility push(hidden)


/* what http and stream share of the variables $mptcp and $mptcp_... */

typedef struct {
    ngx_str_t     name;
    uintptr_t     data;         /* NGX_RS_VALUE_* */
} ngx_rsm_variable_t;


/* the main configuration of a module of variables */

typedef struct {
    ngx_array_t  *indices;      /* of ngx_uint_t: the variables in use */
    uint32_t      values;       /* their bits, 1 << NGX_RS_VALUE_* */
} ngx_rsm_variables_conf_t;


void *ngx_rsm_variables_create_conf(ngx_conf_t *cf);
ngx_int_t ngx_rsm_variables_used(ngx_conf_t *cf, ngx_rsm_variables_conf_t *rvcf,
    ngx_array_t *variables);
void ngx_rsm_variables_begin(ngx_rsm_variables_conf_t *rvcf,
    ngx_connection_t *c);
void ngx_rsm_variables_end(ngx_rsm_variables_conf_t *rvcf, ngx_connection_t *c,
    ngx_variable_value_t *values);
ngx_int_t ngx_rsm_variables_get(ngx_rsm_variables_conf_t *rvcf,
    ngx_connection_t *c, ngx_pool_t *pool, ngx_variable_value_t *v,
    uintptr_t data);


extern ngx_rsm_variable_t  ngx_rsm_variables[];


#pragma GCC visibility pop


#endif /* _NGX_RS_VARIABLES_H_INCLUDED_ */
