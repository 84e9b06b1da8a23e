/*
 * Registers are read and written by vCPU threads, queues are served by the loop's thread when a
 * notify eventfd becomes readable, whoever wrote it: KVM for an ioeventfd, the register's emulation
 * here, or a device that wants to go on later. One lock a device covers all of it.
 *
 *     reset -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> (queues) -> DRIVER_OK = live
 *       ^                                                             |
 *       +---------------- status = 0 <---- NEEDS_RESET <--------------+  broken ring
 *
 * While paused the notify eventfds are only drained: resume kicks every queue once. It also raises
 * the interrupt again when one is unacknowledged, since the edge may have been lost in a save (an
 * irqfd's edge may be still on its way when the interrupt controllers are saved); one too many does
 * no harm.
 */
#include "dev/virtio_mmio.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

SCHEMA_DEFINE(virtio_state, 1, VIRTIO_STATE)

#define MAGIC 0x74726976u  /* "virt" */
#define VENDOR 0x54574447u /* "GDWT" */
#define MMIO_VERSION 2u
#define COMMON_FEATURES                                                               \
    (UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC | \
     UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)
#define STATUS_DRIVER_BITS                                                                \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | \
     VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)

static void on_notify(struct loop_source *source, uint32_t events)
{
    struct virtio_notify *notify = CONTAINER_OF(source, struct virtio_notify, source);
    struct virtio_dev *vd = notify->vd;
    struct virtq *q = &vd->queue[notify->queue];
    (void)events;

    (void)loop_drain(source->fd);
    pthread_mutex_lock(&vd->lock);
    if (!vd->paused && virtio_mmio_live(vd) && q->ready) {
        if (vd->vops->serve(vd, notify->queue))
            virtio_mmio_kick(vd, notify->queue);
        if (q->broken)
            virtio_mmio_broken(vd, "ring");
    }
    pthread_mutex_unlock(&vd->lock);
}

static int open_fds(struct virtio_dev *vd)
{
    vd->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vd->irq_fd < 0)
        return -errno;
    for (unsigned i = 0; i < vd->queue_count; i++) {
        vd->notify[i].vd = vd;
        vd->notify[i].queue = i;
        vd->notify_fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (vd->notify_fd[i] < 0)
            return -errno;
        int rc = loop_add(vd->loop, &vd->notify[i].source, vd->notify_fd[i], EPOLLIN, on_notify);
        if (rc)
            return rc;
    }
    return 0;
}

int virtio_mmio_init(struct virtio_dev *vd, const struct dev_ops *ops,
                     const struct virtio_ops *vops, uint16_t instance, struct mem *mem,
                     struct loop *loop, uint64_t features, struct err *err)
{
    ASSERT(vops->queue_count <= VIRTIO_QUEUES_MAX);
    vd->dev = (struct dev){ .ops = ops, .instance = instance };
    vd->vops = vops;
    vd->mem = mem;
    vd->loop = loop;
    vd->offered = features | COMMON_FEATURES;
    vd->paused = true;
    vd->queue_count = vops->queue_count;
    vd->irq_fd = -1;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        vd->notify_fd[i] = vd->notify[i].source.fd = -1;
        virtq_init(&vd->queue[i], mem, vops->queue_size[i]);
    }
    (void)pthread_mutex_init(&vd->lock, NULL); /* cannot fail with default attributes */
    int rc = open_fds(vd);
    if (rc) {
        virtio_mmio_fini(vd);
        return err_errno(err, ERR_HOST, -rc, "cannot create %s %u", ops->name, instance);
    }
    return 0;
}

void virtio_mmio_fini(struct virtio_dev *vd)
{
    for (unsigned i = 0; i < vd->queue_count; i++) {
        loop_remove(&vd->notify[i].source);
        fd_close(&vd->notify_fd[i]);
    }
    fd_close(&vd->irq_fd);
    (void)pthread_mutex_destroy(&vd->lock);
}

bool virtio_mmio_live(const struct virtio_dev *vd)
{
    return (vd->status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET |
                          VIRTIO_CONFIG_S_FAILED)) == VIRTIO_CONFIG_S_DRIVER_OK;
}

static void raise_interrupt(struct virtio_dev *vd, uint32_t reason)
{
    vd->interrupt |= reason;
    (void)eventfd_write(vd->irq_fd, 1); /* full = an edge is pending anyway */
}

void virtio_mmio_interrupt(struct virtio_dev *vd)
{
    raise_interrupt(vd, VIRTIO_MMIO_INT_VRING);
}

void virtio_mmio_config_changed(struct virtio_dev *vd)
{
    vd->generation++;
    if (vd->status & VIRTIO_CONFIG_S_DRIVER_OK)
        raise_interrupt(vd, VIRTIO_MMIO_INT_CONFIG);
}

void virtio_mmio_broken(struct virtio_dev *vd, const char *what)
{
    if (vd->status & VIRTIO_CONFIG_S_NEEDS_RESET)
        return;
    vd->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    LOG_RATED(LOG_WARN, "virtio.broken", "%s %u: the driver broke the rules (%s); needs a reset",
              vd->dev.ops->name, vd->dev.instance, what);
    if (vd->status & VIRTIO_CONFIG_S_DRIVER_OK) /* 2.1.2 */
        raise_interrupt(vd, VIRTIO_MMIO_INT_CONFIG);
}

void virtio_mmio_kick(struct virtio_dev *vd, unsigned queue)
{
    (void)eventfd_write(vd->notify_fd[queue], 1);
}

static void kick_all(struct virtio_dev *vd)
{
    for (unsigned i = 0; i < vd->queue_count; i++)
        if (vd->queue[i].ready)
            virtio_mmio_kick(vd, i);
}

/* The driver takes back its buffers when the register write that asks for it is done, so this waits
 * for what is in flight, however long the host takes. */
static void quiesce_for_driver(struct virtio_dev *vd)
{
    while (vd->vops->quiesce && vd->vops->quiesce(vd) == -ETIMEDOUT)
        LOG_RATED(LOG_WARN, "virtio.reset", "%s %u: still waiting for requests in flight",
                  vd->dev.ops->name, vd->dev.instance);
}

static void reset(struct virtio_dev *vd)
{
    quiesce_for_driver(vd);
    for (unsigned i = 0; i < vd->queue_count; i++)
        virtq_reset(&vd->queue[i]);
    vd->status = vd->interrupt = 0;
    vd->queue_select = vd->offered_select = vd->accepted_select = 0;
    vd->accepted = 0;
    if (vd->vops->stop)
        vd->vops->stop(vd);
}

void virtio_mmio_reset(struct dev *dev)
{
    struct virtio_dev *vd = virtio_dev_of(dev);
    pthread_mutex_lock(&vd->lock);
    reset(vd);
    pthread_mutex_unlock(&vd->lock);
}

static void write_status(struct virtio_dev *vd, uint32_t value)
{
    if (value == 0) {
        reset(vd);
        return;
    }
    /* A driver clears bits only by a reset. */
    uint32_t fresh = value & STATUS_DRIVER_BITS & ~vd->status;
    bool acceptable = !(vd->accepted & ~vd->offered) && virtio_mmio_has(vd, VIRTIO_F_VERSION_1);
    if (!acceptable)
        fresh &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
    if (!((vd->status | fresh) & VIRTIO_CONFIG_S_FEATURES_OK))
        fresh &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
    vd->status |= fresh;
    if ((fresh & VIRTIO_CONFIG_S_DRIVER_OK) && virtio_mmio_live(vd)) {
        if (vd->vops->start)
            vd->vops->start(vd);
        kick_all(vd);
    }
}

static void set_half(uint64_t *value, bool high, uint32_t half)
{
    *value = high ? (*value & UINT32_MAX) | (uint64_t)half << 32
                  : (*value & ~(uint64_t)UINT32_MAX) | half;
}

static void write_queue_ready(struct virtio_dev *vd, struct virtq *q, uint32_t value)
{
    if (!(value & 1)) {
        quiesce_for_driver(vd);
        virtq_reset(q);
        return;
    }
    if (q->ready)
        return;
    q->indirect = virtio_mmio_has(vd, VIRTIO_RING_F_INDIRECT_DESC);
    q->event_idx = virtio_mmio_has(vd, VIRTIO_RING_F_EVENT_IDX);
    if (virtq_start(q, 0))
        virtio_mmio_broken(vd, "queue addresses");
}

static void write_queue(struct virtio_dev *vd, uint64_t offset, uint32_t value)
{
    /* Queues are set up between FEATURES_OK and DRIVER_OK, and never while ready (4.2.3.2). */
    if (vd->queue_select >= vd->queue_count || !(vd->status & VIRTIO_CONFIG_S_FEATURES_OK))
        return;
    struct virtq *q = &vd->queue[vd->queue_select];
    if (offset == VIRTIO_MMIO_QUEUE_READY) {
        write_queue_ready(vd, q, value);
        return;
    }
    if (q->ready)
        return;
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
        q->size = (uint16_t)MIN(value, (uint32_t)UINT16_MAX);
        break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
        set_half(&q->desc_gpa.raw, false, value);
        break;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
        set_half(&q->desc_gpa.raw, true, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
        set_half(&q->avail_gpa.raw, false, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
        set_half(&q->avail_gpa.raw, true, value);
        break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
        set_half(&q->used_gpa.raw, false, value);
        break;
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        set_half(&q->used_gpa.raw, true, value);
        break;
    }
}

static void write_register(struct virtio_dev *vd, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        vd->offered_select = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        vd->accepted_select = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        if (!(vd->status & VIRTIO_CONFIG_S_FEATURES_OK) && vd->accepted_select < 2)
            set_half(&vd->accepted, vd->accepted_select == 1, value);
        break;
    case VIRTIO_MMIO_QUEUE_SEL:
        vd->queue_select = value;
        break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
        if (value < vd->queue_count)
            virtio_mmio_kick(vd, value);
        break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
        vd->interrupt &= ~value;
        break;
    case VIRTIO_MMIO_STATUS:
        write_status(vd, value);
        break;
    default:
        write_queue(vd, offset, value);
    }
}

static uint32_t read_register(const struct virtio_dev *vd, uint64_t offset)
{
    const struct virtq *q = NULL;
    if (vd->queue_select < vd->queue_count)
        q = &vd->queue[vd->queue_select];
    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
        return MAGIC;
    case VIRTIO_MMIO_VERSION:
        return MMIO_VERSION;
    case VIRTIO_MMIO_DEVICE_ID:
        return vd->vops->device_id;
    case VIRTIO_MMIO_VENDOR_ID:
        return VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return vd->offered_select < 2 ? (uint32_t)(vd->offered >> (32 * vd->offered_select)) : 0;
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
        return q ? q->size_max : 0;
    case VIRTIO_MMIO_QUEUE_READY:
        return q ? q->ready : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
        return vd->interrupt;
    case VIRTIO_MMIO_STATUS:
        return vd->status;
    case VIRTIO_MMIO_CONFIG_GENERATION:
        return vd->generation;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
        return UINT32_MAX; /* no shared memory regions (4.2.2) */
    default:
        return 0;
    }
}

void virtio_mmio_read(struct dev *dev, uint64_t offset, void *data, unsigned len)
{
    struct virtio_dev *vd = virtio_dev_of(dev);
    memset(data, 0, len);
    pthread_mutex_lock(&vd->lock);
    if (offset >= VIRTIO_MMIO_CONFIG) {
        offset -= VIRTIO_MMIO_CONFIG;
        if (offset < vd->config_bytes && len <= vd->config_bytes - offset)
            memcpy(data, (const uint8_t *)vd->config + offset, len);
    } else if (len == 4) {
        uint32_t value = read_register(vd, offset);
        memcpy(data, &value, 4);
    }
    pthread_mutex_unlock(&vd->lock);
}

static void write_configuration(struct virtio_dev *vd, uint64_t offset, const void *data,
                                unsigned len)
{
    if (!vd->vops->write_config || offset >= vd->config_bytes || len > vd->config_bytes - offset)
        return;
    pthread_mutex_lock(&vd->lock);
    vd->vops->write_config(vd, offset, data, len);
    pthread_mutex_unlock(&vd->lock);
}

void virtio_mmio_write(struct dev *dev, uint64_t offset, const void *data, unsigned len)
{
    struct virtio_dev *vd = virtio_dev_of(dev);
    if (offset >= VIRTIO_MMIO_CONFIG) {
        write_configuration(vd, offset - VIRTIO_MMIO_CONFIG, data, len);
        return;
    }
    if (len != 4)
        return; /* registers are 32 bits wide */
    uint32_t value;
    memcpy(&value, data, 4);
    pthread_mutex_lock(&vd->lock);
    write_register(vd, offset, value);
    pthread_mutex_unlock(&vd->lock);
}

int virtio_mmio_pause(struct dev *dev)
{
    struct virtio_dev *vd = virtio_dev_of(dev);
    int rc = 0;
    pthread_mutex_lock(&vd->lock);
    if (!vd->paused) {
        rc = vd->vops->quiesce ? vd->vops->quiesce(vd) : 0;
        if (!rc) {
            vd->paused = true;
            if (vd->vops->run)
                vd->vops->run(vd, false);
            for (unsigned i = 0; i < vd->queue_count; i++)
                ASSERT(vd->queue[i].in_flight == 0);
        }
    }
    pthread_mutex_unlock(&vd->lock);
    return rc;
}

void virtio_mmio_resume(struct dev *dev)
{
    struct virtio_dev *vd = virtio_dev_of(dev);
    pthread_mutex_lock(&vd->lock);
    if (vd->paused) {
        vd->paused = false;
        if (vd->vops->run)
            vd->vops->run(vd, true);
        if (vd->interrupt)
            raise_interrupt(vd, 0);
        kick_all(vd);
    }
    pthread_mutex_unlock(&vd->lock);
}

void virtio_mmio_counts(struct virtio_dev *vd, uint64_t ret[VIRTIO_COUNTS_MAX])
{
    pthread_mutex_lock(&vd->lock);
    memcpy(ret, vd->count, sizeof(vd->count));
    pthread_mutex_unlock(&vd->lock);
}

void virtio_mmio_save(const struct virtio_dev *vd, struct virtio_state *state)
{
    ASSERT(vd->paused);
    *state = (struct virtio_state){
        .status = vd->status,
        .interrupt = vd->interrupt,
        .generation = vd->generation,
        .queue_select = vd->queue_select,
        .offered_select = vd->offered_select,
        .accepted_select = vd->accepted_select,
        .offered = vd->offered,
        .accepted = vd->accepted,
        .queue_count = vd->queue_count,
    };
    for (unsigned i = 0; i < vd->queue_count; i++)
        virtq_save(&vd->queue[i], &state->queue[i]);
}

static int check(const struct virtio_dev *vd, const struct virtio_state *state, struct err *err)
{
    const char *name = vd->dev.ops->name;
    unsigned instance = vd->dev.instance;
    bool negotiated = state->status & VIRTIO_CONFIG_S_FEATURES_OK;

    if (state->queue_count != vd->queue_count)
        return err_set(err, ERR_PEER, EBADMSG, "%s %u has %u queues, not %u", name, instance,
                       vd->queue_count, state->queue_count);
    if ((state->status & ~(STATUS_DRIVER_BITS | VIRTIO_CONFIG_S_NEEDS_RESET)) ||
        (state->interrupt & ~(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)) ||
        ((state->status & VIRTIO_CONFIG_S_DRIVER_OK) && !negotiated) ||
        (negotiated &&
         ((state->accepted & ~state->offered) || !(state->accepted >> VIRTIO_F_VERSION_1 & 1))))
        return err_set(err, ERR_PEER, EBADMSG, "%s %u: transport state is damaged", name, instance);
    if (negotiated && (state->accepted & ~vd->offered))
        return err_set(err, ERR_HOST, EOPNOTSUPP,
                       "%s %u: this host lacks virtio features that the guest uses (bits 0x%llx)",
                       name, instance, (unsigned long long)(state->accepted & ~vd->offered));
    return 0;
}

int virtio_mmio_load(struct virtio_dev *vd, const struct virtio_state *state, struct err *err)
{
    ASSERT(vd->paused);
    int rc = check(vd, state, err);
    if (rc)
        return rc;
    vd->accepted = state->accepted;
    for (unsigned i = 0; i < vd->queue_count; i++) {
        struct virtq *q = &vd->queue[i];
        q->indirect = virtio_mmio_has(vd, VIRTIO_RING_F_INDIRECT_DESC);
        q->event_idx = virtio_mmio_has(vd, VIRTIO_RING_F_EVENT_IDX);
        rc = virtq_load(q, &state->queue[i], err);
        if (rc)
            return err_wrap(err, rc, "%s %u, queue %u", vd->dev.ops->name, vd->dev.instance, i);
    }
    /* A driver that has not decided yet sees what both hosts offer, as does one after a reset. */
    vd->offered &= state->offered;
    vd->status = state->status;
    vd->interrupt = state->interrupt;
    vd->generation = state->generation;
    vd->queue_select = state->queue_select;
    vd->offered_select = state->offered_select;
    vd->accepted_select = state->accepted_select;
    if (virtio_mmio_live(vd) && vd->vops->start)
        vd->vops->start(vd);
    return 0;
}
