/*
 * The device: packets out of and into the guest's queues, and its life.
 *
 * To the guest nothing is queued but resets of connections that exist no more (a short ring). What
 * else it shall be sent is a state of its connection ("owes a RESPONSE", "its socket is readable"),
 * and is made into a packet only when there is a buffer for it. So a guest that posts no receive
 * buffers stops its own traffic and costs nothing. From the guest, packets are taken only while
 * there is room for the resets they might cause.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "dev/vsock_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SCHEMA_DEFINE(virtio_vsock_state, 1, VIRTIO_VSOCK_STATE)

enum { RX, TX, EVENT, QUEUES };

#define VIRTIO_VSOCK_F_STREAM 0 /* 5.10.3 */
#define BUDGET 64               /* packets before other devices have their turn */
#define HEADER_BYTES sizeof(struct virtio_vsock_hdr)

static struct vsock *vsock_of(struct virtio_dev *vd)
{
    return CONTAINER_OF(vd, struct vsock, vd);
}

/* ---------------------------------------------------------------------------- towards the guest */

void vsock_reset(struct vsock *vsock, uint64_t from_cid, uint32_t from_port, uint32_t to_port,
                 uint16_t type)
{
    if (vsock->reset_count == VSOCK_RESETS_MAX)
        return;
    unsigned slot = (vsock->reset_first + vsock->reset_count++) % VSOCK_RESETS_MAX;
    vsock->reset[slot] = (struct vsock_reset){ from_cid, from_port, to_port, type };
    vsock_wants_room(vsock);
}

void vsock_wants_room(struct vsock *vsock)
{
    if (vsock->vd.queue[RX].ready)
        virtio_mmio_kick(&vsock->vd, RX);
}

static struct vsock_conn *next_ready(struct vsock *vsock)
{
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
        struct vsock_conn *conn = &vsock->conn[(vsock->next + i) % VSOCK_CONNS_MAX];
        if (vsock_conn_ready(conn))
            return conn;
    }
    return NULL;
}

/* Fills the header of the next packet, and scratch with its data. False: there is none. */
static bool next_packet(struct vsock *vsock, struct virtio_vsock_hdr *h, uint32_t room)
{
    struct vsock_conn *conn;
    *h = (struct virtio_vsock_hdr){ .dst_cid = vsock->config.guest_cid };
    if (vsock->reset_count > 0) {
        const struct vsock_reset *reset = &vsock->reset[vsock->reset_first];
        h->src_cid = reset->from_cid;
        h->src_port = reset->from_port;
        h->dst_port = reset->to_port;
        h->type = reset->type;
        h->op = VIRTIO_VSOCK_OP_RST;
        vsock->reset_first = (vsock->reset_first + 1) % VSOCK_RESETS_MAX;
        if (vsock->reset_count-- == VSOCK_RESETS_MAX / 2)
            virtio_mmio_kick(&vsock->vd, TX); /* it was stopped for that */
        return true;
    }
    h->src_cid = VSOCK_CID_HOST;
    h->type = VIRTIO_VSOCK_TYPE_STREAM;
    while ((conn = next_ready(vsock))) {
        h->src_port = conn->host_port;
        h->dst_port = conn->guest_port;
        vsock->next = (unsigned)(conn - vsock->conn + 1) % VSOCK_CONNS_MAX;
        if (vsock_conn_take(conn, h, room))
            return true;
    }
    return false;
}

static bool wants_room(struct vsock *vsock)
{
    return vsock->reset_count > 0 || next_ready(vsock);
}

static bool serve_rx(struct vsock *vsock)
{
    struct virtq *q = &vsock->vd.queue[RX];
    int budget = BUDGET, popped = 1;

    virtq_kicks_off(q);
    do {
        while (budget > 0 && wants_room(vsock) && (popped = virtq_pop(q, &vsock->chain)) > 0) {
            struct virtio_vsock_hdr h;
            if (vsock->chain.in_bytes <= HEADER_BYTES) {
                virtq_rewind(q, 1);
                virtio_mmio_broken(&vsock->vd, "receive buffer without room for data");
                break;
            }
            uint32_t room =
                (uint32_t)MIN(vsock->chain.in_bytes - HEADER_BYTES, (uint64_t)VSOCK_PACKET_BYTES);
            if (!next_packet(vsock, &h, room)) {
                virtq_rewind(q, 1);
                break;
            }
            (void)virtq_write(q, &vsock->chain, 0, &h, HEADER_BYTES);
            (void)virtq_write(q, &vsock->chain, HEADER_BYTES, vsock->scratch, h.len);
            virtq_stage(q, vsock->chain.head, (uint32_t)HEADER_BYTES + h.len);
            budget--;
        }
    } while (budget > 0 && popped == 0 && virtq_kicks_on(q, 0));
    if (virtq_publish(q))
        virtio_mmio_interrupt(&vsock->vd);
    return budget == 0;
}

static bool serve_event(struct vsock *vsock)
{
    struct virtq *q = &vsock->vd.queue[EVENT];
    const struct virtio_vsock_event event = { .id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET };
    int popped = 0;

    while (vsock->tell_reset && !q->broken) {
        popped = virtq_pop(q, &vsock->chain);
        if (popped < 0 || (popped == 0 && !virtq_kicks_on(q, 0)))
            break; /* no buffer yet: the driver kicks when it has posted one */
        if (popped == 0)
            continue;
        if (virtq_write(q, &vsock->chain, 0, &event, sizeof(event)) < sizeof(event)) {
            virtq_rewind(q, 1);
            virtio_mmio_broken(&vsock->vd, "event buffer too small");
            break;
        }
        virtq_stage(q, vsock->chain.head, sizeof(event));
        vsock->tell_reset = false;
    }
    if (virtq_publish(q))
        virtio_mmio_interrupt(&vsock->vd);
    return false;
}

/* --------------------------------------------------------------------------------- from the guest */

static void take_packet(struct vsock *vsock, struct virtq_chain *chain)
{
    struct virtio_vsock_hdr h;
    if (virtq_read(chain, 0, &h, HEADER_BYTES) < HEADER_BYTES ||
        h.src_cid != vsock->config.guest_cid)
        return; /* nobody an answer could be sent to */
    virtq_trim_out(chain, HEADER_BYTES);

    bool ours = h.type == VIRTIO_VSOCK_TYPE_STREAM && h.dst_cid == VSOCK_CID_HOST;
    struct vsock_conn *conn = ours ? vsock_conn_find(vsock, h.src_port, h.dst_port) : NULL;
    if (conn && (h.len <= chain->out_bytes || h.op != VIRTIO_VSOCK_OP_RW))
        vsock_conn_packet(conn, &h, chain);
    else if (conn)
        vsock_conn_reset(conn); /* more data announced than there are */
    else if (ours && h.op == VIRTIO_VSOCK_OP_REQUEST)
        vsock_host_request(vsock, &h);
    else if (h.op != VIRTIO_VSOCK_OP_RST)
        vsock_reset(vsock, h.dst_cid, h.dst_port, h.src_port, h.type);
}

static bool serve_tx(struct vsock *vsock)
{
    struct virtq *q = &vsock->vd.queue[TX];
    int budget = BUDGET, popped = 1;

    virtq_kicks_off(q);
    do {
        while (budget > 0 && vsock->reset_count < VSOCK_RESETS_MAX / 2 &&
               (popped = virtq_pop(q, &vsock->chain)) > 0) {
            uint16_t head = vsock->chain.head;
            take_packet(vsock, &vsock->chain);
            virtq_stage(q, head, 0);
            budget--;
        }
    } while (budget > 0 && popped == 0 && virtq_kicks_on(q, 0));
    if (virtq_publish(q))
        virtio_mmio_interrupt(&vsock->vd);
    return budget == 0;
}

/* ------------------------------------------------------------------------------------- its life */

static bool serve(struct virtio_dev *vd, unsigned queue)
{
    struct vsock *vsock = vsock_of(vd);
    switch (queue) {
    case RX:
        return serve_rx(vsock);
    case TX:
        return serve_tx(vsock);
    default:
        return serve_event(vsock);
    }
}

/* Deadlines stand still while paused, since the guest cannot keep them. Not on the loop's thread, so
 * the timer does what is due. */
static void watch_all(struct vsock *vsock)
{
    vsock_host_watch(vsock);
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        vsock_conn_watch(&vsock->conn[i]);
    loop_timer_set(&vsock->timer, vsock->vd.paused ? CLOCK_NEVER : clock_now_ns());
}

static void start(struct virtio_dev *vd)
{
    watch_all(vsock_of(vd));
}

static void run(struct virtio_dev *vd, bool running)
{
    (void)running;
    watch_all(vsock_of(vd));
}

static void stop(struct virtio_dev *vd)
{
    struct vsock *vsock = vsock_of(vd);
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        if (vsock->conn[i].state != VSOCK_FREE)
            vsock->conn[i].state = VSOCK_DEAD;
    vsock->reset_first = vsock->reset_count = 0;
    vsock->tell_reset = false;
    watch_all(vsock);
    loop_timer_set(&vsock->timer, clock_now_ns()); /* on a vCPU's thread: the loop frees them */
}

static void on_timer(struct loop_source *source, uint32_t events)
{
    struct vsock *vsock = CONTAINER_OF(source, struct vsock, timer);
    (void)events;
    (void)loop_drain(source->fd);
    pthread_mutex_lock(&vsock->vd.lock);
    if (!vsock->vd.paused)
        vsock_conn_expire(vsock, clock_now_ns());
    pthread_mutex_unlock(&vsock->vd.lock);
}

static void save(struct dev *dev, void *object)
{
    struct vsock *vsock = vsock_of(virtio_dev_of(dev));
    struct virtio_vsock_state *state = object;
    pthread_mutex_lock(&vsock->vd.lock);
    *state = (struct virtio_vsock_state){ .transport_count = 1,
                                          .cid = (uint32_t)vsock->config.guest_cid };
    memcpy(state->ticket, vsock->ticket, sizeof(state->ticket));
    virtio_mmio_save(&vsock->vd, &state->transport[0]);
    pthread_mutex_unlock(&vsock->vd.lock);
}

static int load(struct dev *dev, const void *object, struct err *err)
{
    struct vsock *vsock = vsock_of(virtio_dev_of(dev));
    const struct virtio_vsock_state *state = object;
    if (state->transport_count != 1)
        return err_set(err, ERR_PEER, EBADMSG, "virtio-vsock %u: no transport state",
                       dev->instance);
    if (state->cid != vsock->config.guest_cid)
        return err_set(err, ERR_PEER, EBADMSG, "virtio-vsock %u: saved state is of CID %u",
                       dev->instance, state->cid);
    pthread_mutex_lock(&vsock->vd.lock);
    int rc = virtio_mmio_load(&vsock->vd, &state->transport[0], err);
    if (!rc) {
        /* Whatever was connected there is not connected here (5.10.6.7). */
        vsock->tell_reset = virtio_mmio_live(&vsock->vd);
        memcpy(vsock->ticket, state->ticket, sizeof(vsock->ticket));
    }
    pthread_mutex_unlock(&vsock->vd.lock);
    return rc;
}

static void vsock_free(struct dev *dev)
{
    struct vsock *vsock = vsock_of(virtio_dev_of(dev));
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        vsock_conn_free(&vsock->conn[i]);
    loop_remove(&vsock->listener);
    loop_timer_remove(&vsock->timer);
    fd_close(&vsock->host.listen_fd);
    fd_close(&vsock->host.dir_fd);
    virtio_mmio_fini(&vsock->vd);
    free(vsock);
}

int virtio_vsock_attach(struct dev *dev, const struct vsock_host *host)
{
    struct vsock *vsock = vsock_of(virtio_dev_of(dev));
    pthread_mutex_lock(&vsock->vd.lock);
    int rc = vsock_host_begin(vsock, host);
    pthread_mutex_unlock(&vsock->vd.lock);
    return rc;
}

void virtio_vsock_set_ticket(struct dev *dev, const char *ticket)
{
    struct vsock *vsock = vsock_of(virtio_dev_of(dev));
    ASSERT(strlen(ticket) < sizeof(vsock->ticket));
    pthread_mutex_lock(&vsock->vd.lock);
    memset(vsock->ticket, 0, sizeof(vsock->ticket));
    memcpy(vsock->ticket, ticket, strlen(ticket));
    pthread_mutex_unlock(&vsock->vd.lock);
}

void virtio_vsock_ticket(struct dev *dev, char ret[VSOCK_TICKET_MAX])
{
    struct vsock *vsock = vsock_of(virtio_dev_of(dev));
    pthread_mutex_lock(&vsock->vd.lock);
    memcpy(ret, vsock->ticket, VSOCK_TICKET_MAX);
    pthread_mutex_unlock(&vsock->vd.lock);
}

static const struct virtio_ops vsock_vops = {
    .device_id = VIRTIO_ID_VSOCK,
    .queue_count = QUEUES,
    .queue_size = { [RX] = 128, [TX] = 128, [EVENT] = 16 },
    .count_name = { [VSOCK_COUNT_SENT] = "sent_bytes", [VSOCK_COUNT_RECEIVED] = "received_bytes" },
    .start = start,
    .serve = serve,
    .run = run,
    .stop = stop,
};

static const struct dev_ops vsock_ops = {
    .name = "virtio-vsock",
    .section = SECTION_VIRTIO_VSOCK,
    .schema = &virtio_vsock_state_schema,
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .reset = virtio_mmio_reset,
    .pause = virtio_mmio_pause,
    .resume = virtio_mmio_resume,
    .save = save,
    .load = load,
    .free = vsock_free,
};

int virtio_vsock_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                        uint32_t cid, struct err *err)
{
    struct vsock *vsock = calloc(1, sizeof(*vsock));
    if (!vsock)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create virtio-vsock %u", instance);
    vsock->config.guest_cid = cid;
    vsock->host.listen_fd = vsock->host.dir_fd = vsock->listener.fd = vsock->timer.fd = -1;
    vsock->next_port = UINT32_C(1) << 30;
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        vsock->conn[i] = (struct vsock_conn){ .vsock = vsock, .fd = -1, .source.fd = -1 };
    int rc = virtio_mmio_init(&vsock->vd, &vsock_ops, &vsock_vops, instance, mem, loop,
                              UINT64_C(1) << VIRTIO_VSOCK_F_STREAM, err);
    if (rc) {
        free(vsock);
        return rc;
    }
    vsock->vd.config = &vsock->config;
    vsock->vd.config_bytes = sizeof(vsock->config);
    rc = loop_timer_add(loop, &vsock->timer, on_timer);
    if (rc) {
        vsock_free(&vsock->vd.dev);
        return err_errno(err, ERR_HOST, -rc, "cannot create virtio-vsock %u", instance);
    }
    *ret = &vsock->vd.dev;
    return 0;
}
