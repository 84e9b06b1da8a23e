/*
 * virtio-vsock (virtio 1.2, 5.10): stream sockets between guest and host, without a network.
 *
 * The host's side is Unix stream sockets. A host program connects to the listening socket that
 * virtio_vsock_attach() was given, writes "CONNECT PORT\n" and gets "OK PORT\n" once a guest
 * program has accepted on that port; from there on bytes flow. A guest program that connects to
 * CID 2, port P reaches a service of the monitor, or else whoever listens on the Unix socket
 * VSOCK_SOCKET "_P" in the directory given to it.
 *
 * Connections do not survive a move: the state that is saved has none, the peers at the source see
 * the end of file when the device is freed, and a loaded device tells its driver TRANSPORT_RESET,
 * upon which the guest's sockets fail with ECONNRESET. Listening sockets of the guest stay.
 *
 * Bounded whatever guest and clients do: VSOCK_CONNS_MAX connections, each with at most
 * VSOCK_BUFFER_BYTES from the guest waiting for its host program; nothing waits in the other
 * direction, where bytes are read from the host's socket only when the guest has a buffer and
 * credit for them.
 */
#pragma once
#include "dev/virtio_mmio.h"

#define VSOCK_SOCKET "vsock.sock"
#define VSOCK_CID_HOST 2u
#define VSOCK_CID_GUEST_MIN 3u
#define VSOCK_CID_GUEST_MAX UINT32_C(0xfffffffe)
#define VSOCK_CONNS_MAX 128
#define VSOCK_BUFFER_BYTES (UINT32_C(64) << 10)
#define VSOCK_TICKET_MAX 40

/* `ticket`: virtio_vsock_set_ticket(). */
#define VIRTIO_VSOCK_STATE(F, T)           \
    F(T, list, transport, virtio_state, 1) \
    F(T, u32, cid)                         \
    F(T, text, ticket, VSOCK_TICKET_MAX)
SCHEMA_STRUCT(virtio_vsock_state, VIRTIO_VSOCK_STATE);

/* A service of the monitor on a port of CID 2. `accept` runs on the loop's thread with the device's
 * lock held, so it must not call the device; `fd` (a connected stream socket, non-blocking) is the
 * service's. Guest ports below 1024 belong to privileged guest programs. */
struct vsock_service {
    uint32_t port;
    void (*accept)(void *ctx, int fd, uint32_t guest_port);
    void *ctx;
};

struct vsock_host {
    int listen_fd; /* for host programs; non-blocking; -1 = none */
    int dir_fd;    /* where host programs listen for the guest; -1 = nowhere */
    struct vsock_service service;
};

int virtio_vsock_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                        uint32_t cid, struct err *err) MUST_CHECK;

/* Gives the device its host side; before that every connection is refused. Once, on the loop's
 * thread. Both descriptors are taken, also on failure. */
int virtio_vsock_attach(struct dev *dev, const struct vsock_host *host) MUST_CHECK;

/* Begins a connection of the monitor's own to a port of the guest. *ret_fd (a stream socket,
 * non-blocking, the caller's) takes bytes at once; end of file: refused, not answered, or ended.
 * -ENOTCONN: the guest has no driver, or stands still; -ENFILE: too many connections. Loop's
 * thread. */
int virtio_vsock_connect(struct dev *dev, uint32_t guest_port, int *ret_fd) MUST_CHECK;

/* A note that goes with the guest, so that the monitor at the target knows what the one before it
 * had promised; "" = none. Any thread. */
void virtio_vsock_set_ticket(struct dev *dev, const char *ticket);
void virtio_vsock_ticket(struct dev *dev, char ret[VSOCK_TICKET_MAX]);
