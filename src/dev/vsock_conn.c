/*
 * One connection: bytes between the guest's packets and a host socket, with credit both ways.
 *
 * From the guest: what the socket does not take at once is held in a ring of VSOCK_BUFFER_BYTES,
 * which is also the credit the guest is given; a guest that sends more is reset. Bytes count as
 * passed on when the socket has them, so a slow host program slows its guest program and nothing
 * else. To the guest: bytes are read from the socket straight before they are sent, never more than
 * the guest has credit and a buffer for.
 *
 * Ends. The guest's SHUTDOWN(send) reaches the host program as end of file behind the last byte, and
 * the host program's end of file reaches the guest as SHUTDOWN(send). Once both directions are over,
 * whoever hears of it answers RST (5.10.6.6), and the connection is gone; a guest or host program
 * that does not come to the end has LINGER_NS.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "dev/vsock_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LINGER_NS (10 * CLOCK_SECOND)
#define SHUTDOWN_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

static uint32_t held(const struct vsock_conn *conn)
{
    return conn->received - conn->passed;
}

/* Bytes the guest can still take. Its numbers may be nonsense: then it gets none. */
static uint32_t window(const struct vsock_conn *conn)
{
    uint32_t under_way = conn->sent - conn->peer_passed;
    return under_way < conn->peer_buffer ? conn->peer_buffer - under_way : 0;
}

struct vsock_conn *vsock_conn_find(struct vsock *vsock, uint32_t guest_port, uint32_t host_port)
{
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
        struct vsock_conn *conn = &vsock->conn[i];
        if (conn->state >= VSOCK_REQUESTED && conn->state <= VSOCK_CLOSING &&
            conn->guest_port == guest_port && conn->host_port == host_port)
            return conn;
    }
    return NULL;
}

static void set_timer(struct vsock *vsock)
{
    uint64_t next = CLOCK_NEVER;
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        if (vsock->conn[i].state != VSOCK_FREE)
            next = MIN(next, vsock->conn[i].deadline_ns);
    loop_timer_set(&vsock->timer, next);
}

void vsock_conn_deadline(struct vsock_conn *conn, uint64_t after_ns)
{
    conn->deadline_ns = clock_now_ns() + after_ns;
    set_timer(conn->vsock);
}

void vsock_conn_expire(struct vsock *vsock, uint64_t now_ns)
{
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
        struct vsock_conn *conn = &vsock->conn[i];
        if (conn->state == VSOCK_DEAD || conn->state == VSOCK_KNOCKING) {
            if (conn->state == VSOCK_DEAD || conn->deadline_ns <= now_ns)
                vsock_conn_free(conn);
        } else if (conn->state != VSOCK_FREE && conn->deadline_ns <= now_ns) {
            vsock_conn_reset(conn);
        }
    }
    set_timer(vsock);
}

void vsock_conn_watch(struct vsock_conn *conn)
{
    uint32_t events = 0;
    if (conn->source.fd < 0)
        return;
    if (!conn->vsock->vd.paused) {
        bool open = conn->state == VSOCK_OPEN && !conn->readable && !conn->host_done &&
                    !conn->guest_deaf && window(conn) > 0;
        if (open || conn->state == VSOCK_KNOCKING)
            events |= EPOLLIN;
        if (held(conn) > 0)
            events |= EPOLLOUT;
    }
    if (loop_change(&conn->source, events))
        LOG_RATED(LOG_WARN, "vsock.watch", "virtio-vsock %u: cannot watch a connection",
                  conn->vsock->vd.dev.instance);
}

/* ------------------------------------------------------------------------- from the guest to the host */

/* Hands on what is held, as far as the socket takes it. */
static void flush(struct vsock_conn *conn)
{
    while (held(conn) > 0 && !conn->host_gone) {
        uint32_t at = conn->passed % VSOCK_BUFFER_BYTES;
        size_t part = MIN(held(conn), VSOCK_BUFFER_BYTES - at);
        ssize_t n = send(conn->fd, conn->buffer + at, part, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < 0)
            conn->host_gone = true;
        else
            conn->passed += (uint32_t)n;
    }
    if (conn->host_gone)
        conn->passed = conn->received;
    if (conn->passed - conn->told >= VSOCK_BUFFER_BYTES / 2)
        conn->owes |= VSOCK_OWES_CREDIT;
    if (held(conn) == 0 && conn->guest_done)
        (void)shutdown(conn->fd, SHUT_WR);
}

/* After the guest's end or the host's changed: over? False: it is, and the connection is gone. */
static bool settle(struct vsock_conn *conn)
{
    if (conn->guest_done && conn->guest_deaf && held(conn) == 0) {
        vsock_conn_reset(conn);
        return false;
    }
    if (vsock_conn_ready(conn))
        vsock_wants_room(conn->vsock);
    vsock_conn_watch(conn);
    return true;
}

static void take_data(struct vsock_conn *conn, uint32_t len, const struct virtq_chain *chain)
{
    if (conn->guest_done || len > VSOCK_BUFFER_BYTES - held(conn)) {
        vsock_conn_reset(conn); /* beyond its credit, or its own word */
        return;
    }
    if (!conn->buffer)
        conn->buffer = malloc(VSOCK_BUFFER_BYTES);
    if (!conn->buffer) {
        vsock_conn_reset(conn);
        return;
    }
    uint32_t at = conn->received % VSOCK_BUFFER_BYTES;
    uint32_t first = MIN(len, VSOCK_BUFFER_BYTES - at);
    (void)virtq_read(chain, 0, conn->buffer + at, first);
    (void)virtq_read(chain, first, conn->buffer, len - first);
    conn->received += len;
    conn->vsock->vd.count[VSOCK_COUNT_SENT] += len;
    flush(conn);
    (void)settle(conn);
}

static void take_shutdown(struct vsock_conn *conn, uint32_t flags)
{
    conn->guest_done |= (flags & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0;
    if ((flags & VIRTIO_VSOCK_SHUTDOWN_RCV) && !conn->guest_deaf) {
        conn->guest_deaf = true;
        conn->readable = false;
        (void)shutdown(conn->fd, SHUT_RD);
    }
    flush(conn);
    if (settle(conn) && conn->guest_done && conn->guest_deaf)
        vsock_conn_deadline(conn, LINGER_NS); /* for what a slow host program has not taken */
}

static void accepted(struct vsock_conn *conn)
{
    conn->state = VSOCK_OPEN;
    conn->deadline_ns = CLOCK_NEVER;
    if (conn->greet) {
        char line[24];
        int len = snprintf(line, sizeof(line), "OK %u\n", conn->host_port);
        (void)send(conn->fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT); /* or it has gone */
    }
    if (conn->source.fd < 0)
        conn->readable = true; /* its end came before: what it had sent is still to be read */
    (void)settle(conn);
}

void vsock_conn_packet(struct vsock_conn *conn, const struct virtio_vsock_hdr *h,
                       const struct virtq_chain *chain)
{
    conn->peer_buffer = h->buf_alloc;
    conn->peer_passed = h->fwd_cnt;
    bool open = conn->state == VSOCK_OPEN || conn->state == VSOCK_CLOSING;

    if (h->op == VIRTIO_VSOCK_OP_RST) {
        vsock_conn_free(conn);
    } else if (h->op == VIRTIO_VSOCK_OP_RESPONSE && conn->state == VSOCK_REQUESTED &&
               !(conn->owes & VSOCK_OWES_REQUEST)) {
        accepted(conn);
    } else if (h->op == VIRTIO_VSOCK_OP_RW && open) {
        take_data(conn, h->len, chain);
    } else if (h->op == VIRTIO_VSOCK_OP_SHUTDOWN && open && !(h->flags & ~SHUTDOWN_BOTH)) {
        take_shutdown(conn, h->flags);
    } else if (h->op == VIRTIO_VSOCK_OP_CREDIT_UPDATE && open) {
        (void)settle(conn);
    } else if (h->op == VIRTIO_VSOCK_OP_CREDIT_REQUEST && open) {
        conn->owes |= VSOCK_OWES_CREDIT;
        (void)settle(conn);
    } else {
        vsock_conn_reset(conn);
    }
}

/* ------------------------------------------------------------------------- from the host to the guest */

static bool data_ready(const struct vsock_conn *conn)
{
    return conn->state == VSOCK_OPEN && conn->readable && !conn->guest_deaf && window(conn) > 0;
}

bool vsock_conn_ready(const struct vsock_conn *conn)
{
    if (conn->state < VSOCK_REQUESTED || conn->state > VSOCK_CLOSING)
        return false;
    return conn->owes || data_ready(conn);
}

/* The host program's end of file, or its end altogether. */
static void host_ended(struct vsock_conn *conn)
{
    conn->readable = false;
    conn->host_done = true;
    conn->owes |= VSOCK_OWES_SHUTDOWN;
    if (conn->host_gone) {
        conn->state = VSOCK_CLOSING;
        vsock_conn_deadline(conn, LINGER_NS);
    }
}

/* True: *h carries data. */
static bool read_data(struct vsock_conn *conn, struct virtio_vsock_hdr *h, uint32_t room)
{
    ssize_t n = recv(conn->fd, conn->vsock->scratch, MIN(room, window(conn)), MSG_DONTWAIT);
    if (n > 0) {
        h->op = VIRTIO_VSOCK_OP_RW;
        h->len = (uint32_t)n;
        conn->sent += (uint32_t)n;
        conn->vsock->vd.count[VSOCK_COUNT_RECEIVED] += (uint64_t)n;
        if (window(conn) == 0)
            conn->owes |= VSOCK_OWES_QUESTION;
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        conn->readable = false;
        vsock_conn_watch(conn);
        return false;
    }
    conn->host_gone |= n < 0;
    host_ended(conn);
    return false;
}

/* The owed packet that comes first. */
static void pay(struct vsock_conn *conn, struct virtio_vsock_hdr *h)
{
    static const uint16_t ops[] = { VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE,
                                    VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST,
                                    VIRTIO_VSOCK_OP_SHUTDOWN };
    unsigned which = (unsigned)__builtin_ctz(conn->owes);
    conn->owes &= conn->owes - 1;
    h->op = ops[which];
    if (h->op == VIRTIO_VSOCK_OP_SHUTDOWN)
        h->flags = conn->host_gone ? SHUTDOWN_BOTH : VIRTIO_VSOCK_SHUTDOWN_SEND;
}

bool vsock_conn_take(struct vsock_conn *conn, struct virtio_vsock_hdr *h, uint32_t room)
{
    bool data = !conn->owes && read_data(conn, h, room);
    if (!data && !conn->owes)
        return false;
    if (!data)
        pay(conn, h);
    h->buf_alloc = VSOCK_BUFFER_BYTES;
    h->fwd_cnt = conn->told = conn->passed;
    conn->owes &= ~VSOCK_OWES_CREDIT; /* every packet tells it */
    return true;
}

/* ----------------------------------------------------------------------------------- its socket, its life */

/* Closed in both directions: nothing more to watch, only what it had sent to read. */
static void hung_up(struct vsock_conn *conn)
{
    loop_remove(&conn->source);
    conn->host_gone = true;
    flush(conn);
    if (conn->state == VSOCK_KNOCKING)
        vsock_conn_free(conn);
    else if (conn->state == VSOCK_OPEN && (conn->host_done || conn->guest_deaf))
        host_ended(conn);
    else if (conn->state == VSOCK_OPEN)
        conn->readable = true;
}

static void on_socket(struct loop_source *source, uint32_t events)
{
    struct vsock_conn *conn = CONTAINER_OF(source, struct vsock_conn, source);
    struct virtio_dev *vd = &conn->vsock->vd;
    pthread_mutex_lock(&vd->lock);
    if (conn->state == VSOCK_DEAD) {
        vsock_conn_free(conn);
    } else if (conn->state != VSOCK_FREE && !vd->paused) {
        if ((events & EPOLLIN) && conn->state == VSOCK_KNOCKING)
            vsock_host_knock(conn);
        else if ((events & EPOLLIN) && conn->state == VSOCK_OPEN)
            conn->readable = true;
        if ((events & EPOLLOUT) && conn->state == VSOCK_OPEN)
            flush(conn);
        if ((events & (EPOLLHUP | EPOLLERR)) && conn->state != VSOCK_FREE)
            hung_up(conn);
        if (conn->state != VSOCK_FREE)
            (void)settle(conn);
    }
    pthread_mutex_unlock(&vd->lock);
}

struct vsock_conn *vsock_conn_new(struct vsock *vsock, enum vsock_conn_state state, int fd_)
{
    CLEANUP_FD int fd = fd_;
    struct vsock_conn *conn = NULL;
    for (unsigned i = 0; i < VSOCK_CONNS_MAX && !conn; i++)
        if (vsock->conn[i].state == VSOCK_FREE)
            conn = &vsock->conn[i];
    if (!conn)
        return NULL;
    *conn = (struct vsock_conn){ .vsock = vsock, .deadline_ns = CLOCK_NEVER, .fd = -1 };
    if (loop_add(vsock->vd.loop, &conn->source, fd, 0, on_socket))
        return NULL;
    conn->fd = TAKE_FD(fd);
    conn->state = state;
    return conn;
}

void vsock_conn_free(struct vsock_conn *conn)
{
    loop_remove(&conn->source);
    fd_close(&conn->fd);
    free(conn->buffer);
    conn->buffer = NULL;
    conn->owes = 0;
    conn->received = conn->passed = 0;
    conn->state = VSOCK_FREE;
    vsock_host_watch(conn->vsock); /* there is room for another */
}

void vsock_conn_reset(struct vsock_conn *conn)
{
    vsock_reset(conn->vsock, VSOCK_CID_HOST, conn->host_port, conn->guest_port,
                VIRTIO_VSOCK_TYPE_STREAM);
    vsock_conn_free(conn);
}
