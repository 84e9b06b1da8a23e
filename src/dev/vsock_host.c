/*
 * How connections come about on the host's side: clients of the listening socket that name a guest
 * port, connections of the monitor itself, and the guest's own, which go to a service of the
 * monitor or to a Unix socket in the directory.
 *
 * A client is answered "OK PORT" only once a guest program has accepted; one that names no port, or
 * whose guest does not answer, is closed.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "dev/vsock_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define KNOCK_NS (5 * CLOCK_SECOND)  /* for a client's CONNECT line */
#define ANSWER_NS (5 * CLOCK_SECOND) /* for the guest to accept */
#define FIRST_PORT (UINT32_C(1) << 30)

uint32_t vsock_host_port(struct vsock *vsock, uint32_t guest_port)
{
    uint32_t port;
    do {
        port = vsock->next_port++;
        if (vsock->next_port == UINT32_MAX)
            vsock->next_port = FIRST_PORT;
    } while (vsock_conn_find(vsock, guest_port, port)); /* ends: connections are few */
    return port;
}

static void request(struct vsock_conn *conn, uint32_t guest_port)
{
    conn->guest_port = guest_port;
    conn->host_port = vsock_host_port(conn->vsock, guest_port);
    conn->state = VSOCK_REQUESTED;
    conn->owes = VSOCK_OWES_REQUEST;
    vsock_conn_deadline(conn, ANSWER_NS);
    vsock_wants_room(conn->vsock);
    vsock_conn_watch(conn);
}

/* ------------------------------------------------------------------------------------- host programs */

/* "CONNECT PORT\n", strictly. False: it is something else. */
static bool parse_knock(const char *line, uint32_t *ret_port)
{
    static const char word[] = "CONNECT ";
    uint64_t port = 0;
    if (strncmp(line, word, sizeof(word) - 1) != 0)
        return false;
    line += sizeof(word) - 1;
    size_t digits = strspn(line, "0123456789");
    if (digits == 0 || digits > 10 || line[digits] != '\n')
        return false;
    for (; digits > 0; digits--, line++)
        port = port * 10 + (uint64_t)(*line - '0');
    *ret_port = (uint32_t)port;
    return port < UINT32_MAX;
}

void vsock_host_knock(struct vsock_conn *conn)
{
    uint32_t port;
    char byte = 0;
    /* Byte by byte: what follows the line is for the guest. */
    while (byte != '\n') {
        ssize_t n = recv(conn->fd, &byte, 1, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0 || conn->knock_len == VSOCK_KNOCK_BYTES - 1) {
            vsock_conn_free(conn);
            return;
        }
        conn->knock[conn->knock_len++] = byte; /* a NUL follows: the slot began as zeroes */
    }
    if (!parse_knock(conn->knock, &port) || !virtio_mmio_live(&conn->vsock->vd)) {
        vsock_conn_free(conn);
        return;
    }
    conn->greet = true;
    request(conn, port);
}

static unsigned count(const struct vsock *vsock, enum vsock_conn_state state)
{
    unsigned n = 0;
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        n += vsock->conn[i].state == state;
    return n;
}

void vsock_host_watch(struct vsock *vsock)
{
    bool room = count(vsock, VSOCK_FREE) > 0 && count(vsock, VSOCK_KNOCKING) < VSOCK_KNOCKS_MAX;
    if (vsock->listener.fd >= 0 &&
        loop_change(&vsock->listener, room && !vsock->vd.paused ? EPOLLIN : 0))
        LOG_RATED(LOG_WARN, "vsock.watch", "virtio-vsock %u: cannot watch its socket",
                  vsock->vd.dev.instance);
}

static void on_client(struct loop_source *source, uint32_t events)
{
    struct vsock *vsock = CONTAINER_OF(source, struct vsock, listener);
    (void)events;
    pthread_mutex_lock(&vsock->vd.lock);
    if (!vsock->vd.paused) {
        int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct vsock_conn *conn = fd >= 0 ? vsock_conn_new(vsock, VSOCK_KNOCKING, fd) : NULL;
        if (conn) {
            vsock_conn_deadline(conn, KNOCK_NS);
            vsock_conn_watch(conn);
        }
        vsock_host_watch(vsock);
    }
    pthread_mutex_unlock(&vsock->vd.lock);
}

int vsock_host_begin(struct vsock *vsock, const struct vsock_host *host)
{
    ASSERT(vsock->host.listen_fd < 0 && vsock->host.dir_fd < 0);
    vsock->host = *host;
    int rc = 0;
    if (host->listen_fd >= 0)
        rc = loop_add(vsock->vd.loop, &vsock->listener, host->listen_fd, 0, on_client);
    vsock_host_watch(vsock);
    return rc;
}

int virtio_vsock_connect(struct dev *dev, uint32_t guest_port, int *ret_fd)
{
    struct vsock *vsock = CONTAINER_OF(virtio_dev_of(dev), struct vsock, vd);
    int pair[2], rc = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    CLEANUP_FD int ours = pair[0], theirs = pair[1];
    pthread_mutex_lock(&vsock->vd.lock);
    if (vsock->vd.paused || !virtio_mmio_live(&vsock->vd)) {
        rc = -ENOTCONN;
    } else {
        struct vsock_conn *conn = vsock_conn_new(vsock, VSOCK_REQUESTED, TAKE_FD(theirs));
        if (conn)
            request(conn, guest_port);
        else
            rc = -ENFILE;
    }
    pthread_mutex_unlock(&vsock->vd.lock);
    if (!rc)
        *ret_fd = TAKE_FD(ours);
    return rc;
}

/* --------------------------------------------------------------------------------- the guest's own */

/* A descriptor connected to whoever serves the port, or -errno. */
static int reach(struct vsock *vsock, uint32_t port)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (vsock->host.dir_fd < 0)
        return -ECONNREFUSED;
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)snprintf(address.sun_path, sizeof(address.sun_path),
                   "/proc/self/fd/%d/" VSOCK_SOCKET "_%u", vsock->host.dir_fd, port);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    return TAKE_FD(fd);
}

void vsock_host_request(struct vsock *vsock, const struct virtio_vsock_hdr *h)
{
    const struct vsock_service *service = &vsock->host.service;
    bool builtin = service->accept && service->port == h->dst_port;
    int fd, pair[2] = { -1, -1 };

    if (builtin)
        fd = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 ? -errno
                                                                                          : pair[0];
    else
        fd = reach(vsock, h->dst_port);
    struct vsock_conn *conn = fd >= 0 ? vsock_conn_new(vsock, VSOCK_OPEN, fd) : NULL;
    if (!conn) {
        fd_close(&pair[1]);
        vsock_reset(vsock, VSOCK_CID_HOST, h->dst_port, h->src_port, h->type);
        return;
    }
    conn->guest_port = h->src_port;
    conn->host_port = h->dst_port;
    conn->peer_buffer = h->buf_alloc;
    conn->peer_passed = h->fwd_cnt;
    conn->owes = VSOCK_OWES_RESPONSE;
    vsock_wants_room(vsock);
    vsock_conn_watch(conn);
    vsock_host_watch(vsock);
    if (builtin)
        service->accept(service->ctx, pair[1], h->src_port);
}
