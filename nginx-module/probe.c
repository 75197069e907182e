
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include <ngx_config.h>
#include <ngx_core.h>


/* an empty module, with which build.sh checks whether nginx would load it */

ngx_module_t  ngx_rs_probe_module = {
    NGX_MODULE_V1,
    NULL,                                  /* module context */
    NULL,                                  /* module directives */
    0,                                     /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


ngx_module_t  *ngx_modules[] = { &ngx_rs_probe_module, NULL };
char          *ngx_module_names[] = { "ngx_rs_probe_module", NULL };
char          *ngx_module_order[] = { NULL };
