
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#ifndef _NGX_RS_LISTEN_H_INCLUDED_
#define _NGX_RS_LISTEN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "../include/ngx_rs_listen.h"


/*
 * Modules are loaded with RTLD_GLOBAL, and each of ours has a copy of what is
 * declared here: hidden, so that one copy is never taken for another.
 */

#pragma GCC visibility push(hidden)


/* what the modules of one subsystem (stream, http, mail) share */

typedef struct {
    ngx_uint_t                  subsystem;  /* NGX_RS_SUBSYSTEM_* */

    /* the module that has the "listen" directive of the subsystem */
    ngx_module_t               *core;

    /* whose listeners are of the subsystem */
    ngx_connection_handler_pt   handler;
} ngx_rs_subsystem_t;


/* which protocol a directive wants, where, and where it stands itself */

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
} ngx_rs_asked_t;


typedef struct ngx_rs_drain_s  ngx_rs_drain_t;


/* the configuration of a core module of ours, one per cycle */

typedef struct {
    ngx_rs_subsystem_t         *subsystem;

    ngx_array_t                 asked;      /* of ngx_rs_asked_t */

    /* the listeners of the subsystem, and where they are in the cycle */
    ngx_cycle_t                *cycle;
    ngx_rs_listening_t         *sockets;
    ngx_uint_t                 *indices;
    ngx_uint_t                  nsockets;

    /* those of the old cycle, likewise */
    ngx_rs_open_t               open;
    ngx_uint_t                 *old_indices;
    ngx_uint_t                  old_nelts;  /* of its array */

    ngx_rs_drain_t             *drain;

    unsigned                    paused:1;   /* the drain of the old cycle */
    unsigned                    opened:1;
    unsigned                    waiting:1;  /* some do not listen yet */
    unsigned                    committed:1;
} ngx_rs_listen_conf_t;


ngx_rs_listen_conf_t *ngx_rs_listen_create_conf(ngx_cycle_t *cycle,
    ngx_rs_subsystem_t *subsystem);
char *ngx_rs_listen_directive(ngx_conf_t *cf, void *conf, void *core_conf);
char *ngx_rs_listen_prepare(ngx_cycle_t *cycle, void *conf);
ngx_int_t ngx_rs_listen_commit(ngx_cycle_t *cycle, void *conf);
ngx_listening_t *ngx_rs_listen_successor(ngx_cycle_t *cycle,
    ngx_rs_listen_conf_t *rlcf, ngx_listening_t *old, ngx_uint_t *start);

void ngx_rs_listen_drain(ngx_cycle_t *cycle, ngx_rs_listen_conf_t *rlcf,
    uint32_t flags);
void ngx_rs_listen_pause(ngx_rs_listen_conf_t *rlcf);
void ngx_rs_listen_resume(ngx_rs_listen_conf_t *rlcf);
ngx_int_t ngx_rs_listen_init_process(ngx_cycle_t *cycle, void *conf);


#pragma GCC visibility pop


#endif /* _NGX_RS_LISTEN_H_INCLUDED_ */
