
/*
 * Copyright (C) the ngx-rs-listen authors
 */


#include "ngx_rs_module.h"


static ssize_t ngx_rsm_mptcp_recv(ngx_connection_t *c, u_char *buf,
    size_t size);
static ssize_t ngx_rsm_mptcp_recv_chain(ngx_connection_t *c, ngx_chain_t *in,
    off_t limit);
static void ngx_rsm_mptcp_received(ngx_connection_t *c, int available,
    ssize_t n);
static ssize_t ngx_rsm_sctp_recv(ngx_connection_t *c, u_char *buf,
    size_t size);
static ssize_t ngx_rsm_sctp_recv_chain(ngx_connection_t *c, ngx_chain_t *in,
    off_t limit);
static void ngx_rsm_sctp_received(ngx_connection_t *c, ssize_t n);


/*
 * nginx reads as many bytes as FIONREAD has told, and takes it for granted that
 * an event follows if there are more.  That does not hold for MPTCP: recv()
 * itself moves data of the subflows to the queue that it reads from, and such a
 * move is no event.
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

    ngx_rsm_mptcp_received(c, available, n);

    return n;
}


static ssize_t
ngx_rsm_mptcp_recv_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    int      available;
    ssize_t  n;

    available = c->read->available;

    n = ngx_recv_chain(c, in, limit);

    ngx_rsm_mptcp_received(c, available, n);

    return n;
}


/* "available" is what FIONREAD has told, less what has been read since */

static void
ngx_rsm_mptcp_received(ngx_connection_t *c, int available, ssize_t n)
{
    if (n > 0 && available >= 0 && n >= available) {
        c->read->ready = 1;
        c->read->available = -1;
    }
}


/*
 * One recv() returns one message of SCTP at most, and FIONREAD knows the next
 * message only: nginx takes either for all that there is to read, and waits for
 * an event that does not come.
 */

void
ngx_rsm_set_sctp_recv(ngx_connection_t *c)
{
    c->recv = ngx_rsm_sctp_recv;
    c->recv_chain = ngx_rsm_sctp_recv_chain;
}


static ssize_t
ngx_rsm_sctp_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    ssize_t  n;

    n = ngx_recv(c, buf, size);

    ngx_rsm_sctp_received(c, n);

    return n;
}


static ssize_t
ngx_rsm_sctp_recv_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    ssize_t  n;

    n = ngx_recv_chain(c, in, limit);

    ngx_rsm_sctp_received(c, n);

    return n;
}


static void
ngx_rsm_sctp_received(ngx_connection_t *c, ssize_t n)
{
    if (n > 0) {
        c->read->ready = 1;
        c->read->available = -1;
    }
}
