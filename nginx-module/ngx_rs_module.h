
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#ifndef _NGX_RS_MODULE_H_INCLUDED_
#define _NGX_RS_MODULE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "../include/ngx_rs_listen.h"


/*
 * Each of the modules contains its own copy of the functions and variables
 * declared here.  nginx loads modules with RTLD_GLOBAL, so the symbols are
 * hidden: otherwise one module would use the copy of another.
 */

#pragma GCC visibility push(hidden)


/* the description of a subsystem: stream, http or mail */

typedef struct {
    ngx_uint_t                  subsystem;  /* NGX_RS_SUBSYSTEM_* */

    /* the module that has the "listen" directive of the subsystem */
    ngx_module_t               *core;

    /* nginx's handler, which identifies the listeners of the subsystem */
    ngx_connection_handler_pt   handler;

    /*
     * replace nginx's handler: for TCP listeners if connections are counted,
     * for MPTCP listeners, and for listeners of other protocols
     */
    ngx_connection_handler_pt   tcp_handler;
    ngx_connection_handler_pt   mptcp_handler;
    ngx_connection_handler_pt   other_handler;
} ngx_rsm_subsystem_t;


/* a requested protocol, its address, and the place of the directive */

typedef struct {
    union {
        struct sockaddr         sockaddr;
        struct sockaddr_in      sockaddr_in;
#if (NGX_HAVE_INET6)
        struct sockaddr_in6     sockaddr_in6;
#endif
    } u;

    int                         protocol;
    uint32_t                    flags;

    u_char                     *file;
    ngx_uint_t                  line;
} ngx_rsm_request_t;


/* the configuration of one of the core modules, one for each cycle */

typedef struct {
    ngx_rsm_subsystem_t        *subsystem;

    ngx_array_t                 requests;   /* of ngx_rsm_request_t */

    /* the listeners of the subsystem, and their indices in the cycle */
    ngx_cycle_t                *cycle;
    ngx_rs_listening_t         *sockets;
    ngx_uint_t                 *indices;
    ngx_uint_t                  nsockets;

    /* open.inherited: the listeners of the old cycle, with their indices */
    ngx_rs_open_t               open;
    ngx_uint_t                 *old_indices;
    ngx_uint_t                  nold;       /* listeners of the old cycle */

    ngx_uint_t                  ignored;    /* bits of the logged options */

    unsigned                    opened:1;
    unsigned                    waiting:1;  /* sockets wait for the commit */
    unsigned                    committed:1;
    unsigned                    counted:1;  /* connections are counted */
} ngx_rsm_conf_t;


/* ngx_http_rs_listen_module.c */

extern ngx_rsm_subsystem_t  ngx_http_rs_subsystem;

/* ngx_rs_directive.c */

char *ngx_rsm_directive(ngx_conf_t *cf, void *conf, void *core_conf);

/* ngx_rs_cycle.c */

ngx_rsm_conf_t *ngx_rsm_create_conf(ngx_cycle_t *cycle,
    ngx_rsm_subsystem_t *subsystem);
char *ngx_rsm_prepare(ngx_cycle_t *cycle, void *conf);
ngx_int_t ngx_rsm_commit(ngx_cycle_t *cycle, void *conf);
ngx_int_t ngx_rsm_init_process(ngx_cycle_t *cycle,
    ngx_rsm_subsystem_t *subsystem);

/* ngx_rs_listener.c */

void ngx_rsm_set_handler(ngx_listening_t *ls, ngx_rsm_conf_t *conf,
    int protocol);
void ngx_rsm_ignore_options(ngx_rsm_conf_t *conf, ngx_listening_t *ls,
    int protocol);
void ngx_rsm_prepare_other(ngx_connection_t *c);
void ngx_rsm_log_error(ngx_uint_t level, ngx_log_t *log,
    ngx_rs_error_t *error);

/* ngx_rs_recv.c */

void ngx_rsm_set_mptcp_recv(ngx_connection_t *c);
void ngx_rsm_set_sctp_recv(ngx_connection_t *c);

/* ngx_rs_drain.c */

ngx_rs_drain_t *ngx_rsm_drain_running(ngx_uint_t subsystem, ngx_log_t *log);
void ngx_rsm_drain_begin(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf);
ngx_listening_t *ngx_rsm_drain_successor(ngx_rsm_subsystem_t *subsystem,
    ngx_listening_t *ls);
ngx_int_t ngx_rsm_drain_init_process(ngx_cycle_t *cycle,
    ngx_rsm_subsystem_t *subsystem);

/* ngx_rs_count.c */

ngx_int_t ngx_rsm_count_add_zone(ngx_conf_t *cf);
ngx_uint_t ngx_rsm_count_wanted(ngx_cycle_t *cycle);
void ngx_rsm_count_commit(ngx_cycle_t *cycle, ngx_rsm_conf_t *conf);
ngx_int_t ngx_rsm_count_init_process(ngx_cycle_t *cycle);
void ngx_rsm_count(ngx_connection_t *c, ngx_rsm_subsystem_t *subsystem,
    int protocol);
ngx_rs_counters_t *ngx_rsm_count_get(void);
void ngx_rsm_exit_process(ngx_cycle_t *cycle);


#pragma GCC visibility pop


#endif /* _NGX_RS_MODULE_H_INCLUDED_ */
