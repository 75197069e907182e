
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"


static ngx_command_t *ngx_rsm_core_command(ngx_module_t *core);
static ngx_int_t ngx_rsm_request(ngx_conf_t *cf, ngx_rsm_conf_t *rmcf,
    ngx_rs_listen_t *listen);
static char *ngx_rsm_call_core(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf, ngx_rs_listen_t *listen, u_char *owners);


/* the arguments are passed without a copy, so both types must be the same */

typedef char  ngx_rsm_str_is_ngx_str[
    sizeof(ngx_rs_str_t) == sizeof(ngx_str_t)
    && offsetof(ngx_rs_str_t, len) == offsetof(ngx_str_t, len)
    && offsetof(ngx_rs_str_t, data) == offsetof(ngx_str_t, data) ? 1 : -1];


/*
 * The handler of "listen": reads and removes the parameters of the module, and
 * calls nginx's own handler with the others.  Without parameters of the module
 * the arguments are unchanged.
 */

char *
ngx_rsm_directive(ngx_conf_t *cf, void *conf, void *core_conf)
{
    ngx_rsm_conf_t  *rmcf = conf;

    char             *rv;
    u_char           *owners;
    ngx_str_t        *value;
    ngx_uint_t        i, n, ours;
    ngx_command_t    *cmd;
    ngx_rs_error_t    error = NGX_RS_ERROR_INIT;
    ngx_rs_rules_t    rules = NGX_RS_RULES_INIT;
    ngx_rs_listen_t  *listen;

    cmd = ngx_rsm_core_command(rmcf->subsystem->core);
    if (cmd == NULL) {
        return "is not known to this nginx";
    }

    value = cf->args->elts;
    n = cf->args->nelts - 1;

    owners = ngx_pnalloc(cf->temp_pool, n);
    if (owners == NULL) {
        return NGX_CONF_ERROR;
    }

    rules.subsystem = rmcf->subsystem->subsystem;
    rules.flags = NGX_RS_RULES_OURS_ONLY;

    if (ngx_rs_listen_classify((ngx_rs_str_t *) &value[1], n, &rules, owners,
                               &error)
        != NGX_RS_OK)
    {
        goto failed;
    }

    ours = 0;

    for (i = 0; i < n; i++) {
        ours |= (owners[i] == NGX_RS_WORD_OURS);
    }

    if (!ours) {
        return cmd->set(cf, cmd, core_conf);
    }

    if (ngx_rs_listen_parse((ngx_rs_str_t *) &value[1], n, &rules, &listen,
                            &error)
        != NGX_RS_OK)
    {
        goto failed;
    }

    rv = NGX_CONF_ERROR;

    if (ngx_rsm_request(cf, rmcf, listen) == NGX_OK) {
        rv = ngx_rsm_call_core(cf, cmd, core_conf, listen, owners);
    }

    ngx_rs_listen_free(listen);

    return rv;

failed:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, error.os_errno, "%s", error.message);

    return NGX_CONF_ERROR;
}


static ngx_command_t *
ngx_rsm_core_command(ngx_module_t *core)
{
    ngx_command_t  *cmd;

    for (cmd = core->commands; cmd->name.len; cmd++) {
        if (ngx_strcmp(cmd->name.data, "listen") == 0) {
            return cmd;
        }
    }

    return NULL;
}


/* stores the requested protocol for each address of the directive */

static ngx_int_t
ngx_rsm_request(ngx_conf_t *cf, ngx_rsm_conf_t *rmcf,
    ngx_rs_listen_t *listen)
{
    size_t               n;
    ngx_uint_t           i;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    ngx_rsm_request_t   *request;
    ngx_rs_listening_t  *sockets;

    if (ngx_rs_listen_sockets(listen, sizeof(ngx_rs_listening_t), &sockets,
                              &n, &error)
        != NGX_RS_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, error.os_errno,
                           "%s", error.message);
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {

        if (sockets[i].type != SOCK_STREAM
            || sockets[i].sockaddr->sa_family == AF_UNIX)
        {
            continue;
        }

        request = ngx_array_push(&rmcf->requests);
        if (request == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(&request->u, sockets[i].sockaddr, sockets[i].socklen);
        request->protocol = sockets[i].protocol;
        request->flags = sockets[i].flags & NGX_RS_LISTENING_FALLBACK;
        request->file = cf->conf_file->file.name.data;
        request->line = cf->conf_file->line;
    }

    return NGX_OK;
}


/*
 * A host name may have several addresses, and another query may return others.
 * So nginx's handler is called for each address that the library has found,
 * and does not get the name.
 */

static char *
ngx_rsm_call_core(ngx_conf_t *cf, ngx_command_t *cmd, void *conf,
    ngx_rs_listen_t *listen, u_char *owners)
{
    char                *rv;
    size_t               n;
    ngx_str_t           *value;
    ngx_uint_t           i, left;
    ngx_rs_error_t       error = NGX_RS_ERROR_INIT;
    const ngx_rs_str_t  *words;

    if (ngx_rs_listen_addresses(listen, &words, &n, &error) != NGX_RS_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, error.os_errno,
                           "%s", error.message);
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;
    left = 1;

    for (i = 1; i < cf->args->nelts; i++) {
        if (owners[i - 1] != NGX_RS_WORD_OURS) {
            value[left++] = value[i];
        }
    }

    cf->args->nelts = left;

    if (n == 0) {
        return cmd->set(cf, cmd, conf);
    }

    rv = NGX_CONF_OK;

    for (i = 0; i < n && rv == NGX_CONF_OK; i++) {

        value[1].len = words[i].len;
        value[1].data = ngx_pnalloc(cf->pool, words[i].len + 1);
        if (value[1].data == NULL) {
            return NGX_CONF_ERROR;
        }

        (void) ngx_cpystrn(value[1].data, (u_char *) words[i].data,
                           words[i].len + 1);

        rv = cmd->set(cf, cmd, conf);
    }

    return rv;
}
