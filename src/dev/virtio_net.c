/*
 * All packets move on the loop's thread, one read or write of the tap each.
 *
 * Receive: a frame is read into one buffer of ours (its size is not known before) and copied to as
 * many of the driver's as it needs. When they do not suffice it is held there, and the tap is not
 * watched, until the driver kicks with more. Transmit: written straight from the driver's buffers;
 * when the tap is full the chain is put back and the tap watched for room. So no chain is ever in
 * flight between two callbacks, and pausing means no more than not being called: the tap is not
 * watched while paused. A held frame stays with the device that read it; a network may lose frames,
 * and a move may lose one.
 *
 * What a driver may expect of a frame's checksum and size is told to the tap, which sees to it.
 */
#include "dev/virtio_net.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "dev/tap.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

SCHEMA_DEFINE(virtio_net_state, 1, VIRTIO_NET_STATE)

enum { RX, TX, CTRL, QUEUES };

/* As the guest sees it; without headers of ours, and without what announces the guest after a move. */
enum {
    RECEIVED_FRAMES,
    RECEIVED_BYTES,
    RECEIVED_DROPPED, /* fit into no buffers, or were held when the driver reset the device */
    SENT_FRAMES,
    SENT_BYTES,
    SENT_DROPPED, /* were no frames, or the tap refused them */
};

#define FRAME_MAX (TAP_HEADER_BYTES + 14u + 65535u) /* Ethernet head and the largest IP packet */
#define MERGE_MAX 64u                               /* buffers of one received frame */
#define BUDGET 128 /* frames before other devices have their turn */
#define ROUNDS 5u  /* of announcement, the later the further apart */
#define ROUND_FIRST_NS (50 * CLOCK_MSEC)
#define ROUND_STEP_NS (100 * CLOCK_MSEC)

#define BIT(n) (UINT64_C(1) << (n))
#define FEATURES                                                                      \
    (BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MRG_RXBUF) | \
     BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE))
#define TAP_FEATURES                                                                      \
    (BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) | \
     BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6))

struct net {
    struct virtio_dev vd; /* first */
    int fd;
    bool is_tap;
    bool rx_starved; /* the held frame waits for buffers */
    bool tx_blocked; /* the tap was full */
    struct loop_source tap, timer;
    unsigned rounds_left;
    struct virtio_net_config config;
    struct announce_state known;
    uint8_t *frame; /* FRAME_MAX bytes, of which `held` wait to be delivered */
    size_t held;
    struct virtq_chain first, chain;
};

static struct net *net_of(struct virtio_dev *vd)
{
    return CONTAINER_OF(vd, struct net, vd);
}

/* Watches the tap for what can be dealt with now. */
static void watch(struct net *net)
{
    bool live = !net->vd.paused && virtio_mmio_live(&net->vd);
    uint32_t events =
        (live && !net->rx_starved ? EPOLLIN : 0u) | (live && net->tx_blocked ? EPOLLOUT : 0u);
    if (net->tap.fd >= 0 && loop_change(&net->tap, events))
        LOG_RATED(LOG_WARN, "net.watch", "virtio-net %u: cannot watch its tap",
                  net->vd.dev.instance);
}

/* The next frame, with num_buffers as of one buffer; false when there is none. */
static bool read_frame(struct net *net)
{
    ssize_t n = read(net->fd, net->frame, FRAME_MAX);
    if (n <= (ssize_t)TAP_HEADER_BYTES)
        return false; /* nothing there, an error (the loop reports a lasting one), or a runt */
    if (!net->is_tap)
        memset(net->frame, 0, TAP_HEADER_BYTES); /* no offload was agreed with this peer */
    struct virtio_net_hdr_mrg_rxbuf header;
    memcpy(&header, net->frame, sizeof(header));
    header.num_buffers = 1;
    memcpy(net->frame, &header, sizeof(header));
    net->held = (size_t)n;
    return true;
}

static void count_frame(struct net *net, unsigned frames, uint64_t bytes)
{
    net->vd.count[frames]++;
    net->vd.count[frames + 1] += bytes - TAP_HEADER_BYTES;
}

/* Hands the held frame to the driver. 1: gone (delivered, or too large for what it offers);
 * 0: too few buffers, *ret_known of them there; -EPROTO: broken ring. */
static int deliver(struct net *net, uint16_t *ret_known)
{
    struct virtq *q = &net->vd.queue[RX];
    struct vring_used_elem taken[MERGE_MAX];
    const unsigned max = virtio_mmio_has(&net->vd, VIRTIO_NET_F_MRG_RXBUF) ? MERGE_MAX : 1;
    size_t done = 0;
    uint16_t buffers = 0;

    while (done < net->held && buffers < max) {
        struct virtq_chain *chain = buffers ? &net->chain : &net->first;
        int rc = virtq_pop(q, chain);
        if (rc <= 0) {
            virtq_rewind(q, buffers);
            *ret_known = buffers;
            return rc;
        }
        size_t part = virtq_write(q, chain, 0, net->frame + done, net->held - done);
        taken[buffers++] = (struct vring_used_elem){ .id = chain->head, .len = (uint32_t)part };
        done += part;
    }
    if (done < net->held) {
        virtq_rewind(q, buffers);
        net->vd.count[RECEIVED_DROPPED]++;
        return 1;
    }
    if (buffers > 1)
        (void)virtq_write(q, &net->first, offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers),
                          &buffers, sizeof(buffers));
    for (unsigned i = 0; i < buffers; i++)
        virtq_stage(q, (uint16_t)taken[i].id, taken[i].len);
    count_frame(net, RECEIVED_FRAMES, net->held);
    return 1;
}

/* True: stopped on budget. */
static bool receive(struct net *net)
{
    struct virtq *q = &net->vd.queue[RX];
    int budget = BUDGET;

    net->rx_starved = !q->ready; /* a driver without a receive queue: wait for one */
    if (net->rx_starved) {
        watch(net);
        return false;
    }
    virtq_kicks_off(q);
    while (budget > 0 && (net->held || read_frame(net))) {
        uint16_t known;
        int rc = deliver(net, &known);
        budget--;
        if (rc == 1) {
            net->held = 0;
        } else if (rc < 0 || !virtq_kicks_on(q, known)) {
            net->rx_starved = true;
            break;
        }
    }
    if (virtq_publish(q))
        virtio_mmio_interrupt(&net->vd);
    if (q->broken)
        virtio_mmio_broken(&net->vd, "receive ring");
    watch(net);
    return budget == 0;
}

static void snoop(struct net *net, const struct virtq_chain *chain)
{
    uint8_t head[ANNOUNCE_SNOOP_BYTES];
    size_t len = virtq_read(chain, TAP_HEADER_BYTES, head, 24);
    if (!announce_wants(head, len))
        return;
    len = virtq_read(chain, TAP_HEADER_BYTES, head, sizeof(head));
    announce_snoop(&net->known, net->config.mac, head, len);
}

/* False: the tap is full. A frame that the tap refuses, or that is none, is lost. */
static bool send_frame(struct net *net, const struct virtq_chain *chain)
{
    bool sent = chain->out_bytes > TAP_HEADER_BYTES && chain->out_bytes <= FRAME_MAX;
    if (sent && writev(net->fd, chain->iov, (int)chain->out_count) < 0) {
        if (errno == EAGAIN || errno == ENOBUFS)
            return false;
        sent = false;
    }
    if (!sent) {
        net->vd.count[SENT_DROPPED]++;
        return true;
    }
    count_frame(net, SENT_FRAMES, chain->out_bytes);
    snoop(net, chain);
    return true;
}

static bool transmit(struct net *net)
{
    struct virtq *q = &net->vd.queue[TX];
    int budget = BUDGET, popped = 0;

    virtq_kicks_off(q);
    net->tx_blocked = false;
    do {
        while (budget > 0 && (popped = virtq_pop(q, &net->chain)) > 0) {
            if (!send_frame(net, &net->chain)) {
                virtq_rewind(q, 1);
                net->tx_blocked = true;
                break;
            }
            virtq_stage(q, net->chain.head, 0);
            budget--;
        }
    } while (!net->tx_blocked && budget > 0 && popped == 0 && virtq_kicks_on(q, 0));
    if (virtq_publish(q))
        virtio_mmio_interrupt(&net->vd);
    watch(net);
    return budget == 0;
}

static uint8_t command(struct net *net, const struct virtio_net_ctrl_hdr *header)
{
    if (header->class != VIRTIO_NET_CTRL_ANNOUNCE || header->cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
        return VIRTIO_NET_ERR;
    net->config.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
    net->vd.generation++;
    return VIRTIO_NET_OK;
}

static bool control(struct net *net)
{
    struct virtq *q = &net->vd.queue[CTRL];
    int budget = BUDGET, popped = 0;

    virtq_kicks_off(q);
    do {
        while (budget > 0 && (popped = virtq_pop(q, &net->chain)) > 0) {
            struct virtio_net_ctrl_hdr header;
            uint32_t written = 0;
            if (virtq_read(&net->chain, 0, &header, sizeof(header)) == sizeof(header) &&
                net->chain.in_bytes > 0) {
                uint8_t ack = command(net, &header);
                written = (uint32_t)virtq_write(q, &net->chain, 0, &ack, 1);
            }
            virtq_stage(q, net->chain.head, written);
            budget--;
        }
    } while (budget > 0 && popped == 0 && virtq_kicks_on(q, 0));
    if (virtq_publish(q))
        virtio_mmio_interrupt(&net->vd);
    return budget == 0;
}

static bool serve(struct virtio_dev *vd, unsigned queue)
{
    struct net *net = net_of(vd);
    switch (queue) {
    case RX:
        return receive(net);
    case TX:
        return transmit(net);
    default:
        return control(net);
    }
}

static void on_tap(struct loop_source *source, uint32_t events)
{
    struct net *net = CONTAINER_OF(source, struct net, tap);
    pthread_mutex_lock(&net->vd.lock);
    if (events & (EPOLLERR | EPOLLHUP)) {
        LOG_RATED(LOG_WARN, "net.gone", "virtio-net %u: its tap is gone", net->vd.dev.instance);
        loop_remove(source);
    } else if (!net->vd.paused && virtio_mmio_live(&net->vd)) {
        if (events & EPOLLIN)
            (void)receive(net); /* the tap stays readable while there is more */
        if ((events & EPOLLOUT) && net->tx_blocked)
            virtio_mmio_kick(&net->vd, TX);
    }
    pthread_mutex_unlock(&net->vd.lock);
}

static void set_offload(struct net *net)
{
    unsigned flags = 0;
    if (!net->is_tap)
        return;
    if (virtio_mmio_live(&net->vd) && virtio_mmio_has(&net->vd, VIRTIO_NET_F_GUEST_CSUM)) {
        flags = TUN_F_CSUM;
        flags |= virtio_mmio_has(&net->vd, VIRTIO_NET_F_GUEST_TSO4) ? TUN_F_TSO4 : 0u;
        flags |= virtio_mmio_has(&net->vd, VIRTIO_NET_F_GUEST_TSO6) ? TUN_F_TSO6 : 0u;
    }
    int rc = tap_set_offload(net->fd, flags);
    if (rc)
        LOG_RATED(LOG_WARN, "net.offload", "virtio-net %u: cannot set offloads 0x%x: %s",
                  net->vd.dev.instance, flags, strerror(-rc));
}

static void start(struct virtio_dev *vd)
{
    set_offload(net_of(vd));
    watch(net_of(vd));
}

static void stop(struct virtio_dev *vd)
{
    struct net *net = net_of(vd);
    net->vd.count[RECEIVED_DROPPED] += net->held > 0;
    net->held = 0;
    net->rx_starved = net->tx_blocked = false;
    net->config.status = VIRTIO_NET_S_LINK_UP;
    net->known = (struct announce_state){ 0 };
    set_offload(net);
    watch(net);
}

static void send_announcement(struct net *net, const uint8_t *frame, size_t len)
{
    uint8_t header[TAP_HEADER_BYTES] = { 0 };
    uint8_t copy[ANNOUNCE_FRAME_MAX];
    memcpy(copy, frame, len);
    struct iovec iov[] = { { header, sizeof(header) }, { copy, len } };
    if (writev(net->fd, iov, 2) < 0)
        LOG_RATED(LOG_DEBUG, "net.announce", "virtio-net %u: a frame was lost: %s",
                  net->vd.dev.instance, strerror(errno)); /* the next round repeats it */
}

static void announce_round(struct net *net)
{
    const uint8_t *mac = net->config.mac;
    uint8_t frame[ANNOUNCE_FRAME_MAX];
    send_announcement(net, frame, announce_rarp(frame, mac));
    for (unsigned i = 0; i < net->known.ip4_count; i++)
        send_announcement(net, frame, announce_arp(frame, mac, net->known.ip4[i].address));
    for (unsigned i = 0; i < net->known.ip6_count; i++)
        send_announcement(net, frame,
                          announce_na(frame, mac, net->known.ip6[i].address, net->known.router));
    net->rounds_left--;
    uint64_t wait_ns = ROUND_FIRST_NS + (ROUNDS - 1 - net->rounds_left) * ROUND_STEP_NS;
    loop_timer_set(&net->timer, net->rounds_left ? clock_now_ns() + wait_ns : CLOCK_NEVER);
}

static void on_timer(struct loop_source *source, uint32_t events)
{
    struct net *net = CONTAINER_OF(source, struct net, timer);
    (void)events;
    (void)loop_drain(source->fd);
    pthread_mutex_lock(&net->vd.lock);
    if (!net->vd.paused && net->rounds_left)
        announce_round(net);
    pthread_mutex_unlock(&net->vd.lock);
}

/* Announced while paused, the rounds begin on resume; a pause ends them, since the guest may go. */
static void net_announce(struct dev *dev)
{
    struct net *net = net_of(virtio_dev_of(dev));
    pthread_mutex_lock(&net->vd.lock);
    net->rounds_left = ROUNDS;
    if (!net->vd.paused)
        announce_round(net);
    if (virtio_mmio_live(&net->vd) && virtio_mmio_has(&net->vd, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
        net->config.status |= VIRTIO_NET_S_ANNOUNCE;
        virtio_mmio_config_changed(&net->vd);
    }
    pthread_mutex_unlock(&net->vd.lock);
}

static void run(struct virtio_dev *vd, bool running)
{
    struct net *net = net_of(vd);
    if (!running)
        net->rounds_left = 0;
    else if (net->rounds_left)
        loop_timer_set(&net->timer, clock_now_ns());
    watch(net);
}

static void save(struct dev *dev, void *object)
{
    struct net *net = net_of(virtio_dev_of(dev));
    struct virtio_net_state *state = object;
    pthread_mutex_lock(&net->vd.lock);
    *state = (struct virtio_net_state){
        .transport_count = 1, .link = net->config.status, .known_count = 1, .known = { net->known }
    };
    memcpy(state->mac, net->config.mac, sizeof(state->mac));
    virtio_mmio_save(&net->vd, &state->transport[0]);
    pthread_mutex_unlock(&net->vd.lock);
}

static int load(struct dev *dev, const void *object, struct err *err)
{
    struct net *net = net_of(virtio_dev_of(dev));
    const struct virtio_net_state *state = object;
    if (state->transport_count != 1 || state->known_count != 1 || state->known[0].router > 1 ||
        (state->link & ~(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE)))
        return err_set(err, ERR_PEER, EBADMSG, "virtio-net %u: saved state is damaged",
                       dev->instance);
    if (memcmp(state->mac, net->config.mac, sizeof(state->mac)) != 0)
        return err_set(err, ERR_PEER, EBADMSG,
                       "virtio-net %u: saved state is of another MAC address", dev->instance);
    pthread_mutex_lock(&net->vd.lock);
    int rc = virtio_mmio_load(&net->vd, &state->transport[0], err);
    if (!rc) {
        net->config.status = state->link;
        net->known = state->known[0];
    }
    pthread_mutex_unlock(&net->vd.lock);
    return rc;
}

static void net_free(struct dev *dev)
{
    struct net *net = net_of(virtio_dev_of(dev));
    loop_remove(&net->tap);
    loop_timer_remove(&net->timer);
    virtio_mmio_fini(&net->vd);
    fd_close(&net->fd);
    free(net->frame);
    free(net);
}

static const struct virtio_ops net_vops = {
    .device_id = VIRTIO_ID_NET,
    .queue_count = QUEUES,
    .queue_size = { [RX] = 256, [TX] = 256, [CTRL] = 64 },
    .count_name = { [RECEIVED_FRAMES] = "received_frames",
                    [RECEIVED_BYTES] = "received_bytes",
                    [RECEIVED_DROPPED] = "received_dropped_frames",
                    [SENT_FRAMES] = "sent_frames",
                    [SENT_BYTES] = "sent_bytes",
                    [SENT_DROPPED] = "sent_dropped_frames" },
    .start = start,
    .serve = serve,
    .run = run,
    .stop = stop,
};

static const struct dev_ops net_ops = {
    .name = "virtio-net",
    .section = SECTION_VIRTIO_NET,
    .schema = &virtio_net_state_schema,
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .reset = virtio_mmio_reset,
    .pause = virtio_mmio_pause,
    .resume = virtio_mmio_resume,
    .save = save,
    .load = load,
    .announce = net_announce,
    .free = net_free,
};

/* Prepares the descriptor and tells whether it is a tap. */
static int prepare(int fd, bool *ret_is_tap)
{
    int rc = tap_set_header(fd);
    *ret_is_tap = rc == 0;
    if (rc == 0)
        rc = tap_set_offload(fd, 0);
    else if (rc == -ENOTTY)
        rc = 0;
    return rc ? rc : fd_set_nonblock(fd);
}

int virtio_net_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                      int fd_, const uint8_t mac[6], struct err *err)
{
    CLEANUP_FD int fd = fd_;
    bool is_tap;
    int rc = prepare(fd, &is_tap);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "virtio-net %u: cannot use its tap", instance);

    struct net *net = calloc(1, sizeof(*net));
    if (!net)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create virtio-net %u", instance);
    net->fd = fd;
    net->is_tap = is_tap;
    net->tap.fd = net->timer.fd = -1;
    net->config.status = VIRTIO_NET_S_LINK_UP;
    memcpy(net->config.mac, mac, sizeof(net->config.mac));
    rc = virtio_mmio_init(&net->vd, &net_ops, &net_vops, instance, mem, loop,
                          FEATURES | (is_tap ? TAP_FEATURES : 0), err);
    if (rc) {
        free(net);
        return rc;
    }
    fd = -1; /* net_free() closes it from here on */
    net->vd.config = &net->config;
    net->vd.config_bytes = offsetof(struct virtio_net_config, max_virtqueue_pairs);
    net->frame = malloc(FRAME_MAX);
    rc = net->frame ? 0 : -ENOMEM;
    if (!rc)
        rc = loop_add(loop, &net->tap, net->fd, 0, on_tap);
    if (!rc)
        rc = loop_timer_add(loop, &net->timer, on_timer);
    if (rc) {
        net_free(&net->vd.dev);
        return err_errno(err, ERR_HOST, -rc, "cannot create virtio-net %u", instance);
    }
    *ret = &net->vd.dev;
    return 0;
}
