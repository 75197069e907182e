
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"


static ssize_t ngx_rsm_mptcp_recv(ngx_connection_t *c, u_char *buf,
    size_t size);
static ssize_t ngx_rsm_mptcp_recv_chain(ngx_connection_t *c, ngx_chain_t *in,
    off_t limit);
static ssize_t ngx_rsm_sctp_recv(ngx_connection_t *c, u_char *buf,
    size_t size);
static ssize_t ngx_rsm_sctp_recv_chain(ngx_connection_t *c, ngx_chain_t *in,
    off_t limit);
static void ngx_rsm_received(ngx_connection_t *c, int available, ssize_t n);


/*
 * nginx reads as many bytes as FIONREAD has reported, and expects an event if
 * more data arrives.  With MPTCP that event may be missing: recv() itself
 * moves data from the subflows to the receive queue, and the kernel reports no
 * event for this data.  So nginx must read until recv() returns EAGAIN.
 */

void
ngx_rsm_set_mptcp_recv(ngx_connection_t *c)
{
    c->recv = ngx_rsm_mptcp_recv;
    c->recv_chain = ngx_rsm_mptcp_recv_chain;
}


static ssize_t
ngx_rsm_mptcp_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    int      available;
    ssize_t  n;

    available = c->read->available;

    n = ngx_recv(c, buf, size);

    ngx_rsm_received(c, available, n);

    return n;
}


static ssize_t
ngx_rsm_mptcp_recv_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    int      available;
    ssize_t  n;

    available = c->read->available;

    n = ngx_recv_chain(c, in, limit);

    ngx_rsm_received(c, available, n);

    return n;
}


/*
 * recv() of SCTP returns at most one message, and FIONREAD reports only the
 * length of the next message.  nginx takes either for all available data, and
 * would wait for an event that does not come.  So nginx must read until recv()
 * returns EAGAIN.
 */

void
ngx_rsm_set_sctp_recv(ngx_connection_t *c)
{
    c->recv = ngx_rsm_sctp_recv;
    c->recv_chain = ngx_rsm_sctp_recv_chain;
}


/* FIONREAD does not count here, so no bytes are known to be available */

static ssize_t
ngx_rsm_sctp_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    ssize_t  n;

    n = ngx_recv(c, buf, size);

    ngx_rsm_received(c, 0, n);

    return n;
}


static ssize_t
ngx_rsm_sctp_recv_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    ssize_t  n;

    n = ngx_recv_chain(c, in, limit);

    ngx_rsm_received(c, 0, n);

    return n;
}


/*
 * Makes nginx read again.  "available" is the value of FIONREAD minus the bytes
 * read since; if nginx has not called FIONREAD, it is -1.
 */

static void
ngx_rsm_received(ngx_connection_t *c, int available, ssize_t n)
{
    if (n > 0 && available >= 0 && n >= available) {
        c->read->ready = 1;
        c->read->available = -1;
    }
}
