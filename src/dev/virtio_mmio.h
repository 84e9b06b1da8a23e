/*
 * The virtio-mmio transport, version 2 (virtio 1.2, 4.2), and what all virtio devices share.
 *
 * A device file embeds `struct virtio_dev` as its first member, fills `struct virtio_ops` and
 * points its dev_ops at the virtio_mmio_*() functions below; it then sees only feature bits, queues
 * and hooks.
 *
 * The machine gives a device its window of VIRTIO_MMIO_BYTES and wires it up:
 *   - notify_fd[q], for each q < queue_count: an ioeventfd at window + VIRTIO_MMIO_NOTIFY, 4 bytes,
 *     value q. Optional: a write that arrives at the register does the same;
 *   - irq_fd: an irqfd of the device's GSI, edge-triggered.
 *
 * Every hook is called with the device's lock held.
 */
#pragma once
#include "base/loop.h"
#include "dev/dev.h"
#include "dev/virtq.h"
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>
#include <pthread.h>

#define VIRTIO_MMIO_BYTES 0x200u
#define VIRTIO_MMIO_NOTIFY VIRTIO_MMIO_QUEUE_NOTIFY
#define VIRTIO_QUEUES_MAX 5
#define VIRTIO_COUNTS_MAX 10

/* Transport state; each device's schema holds one as `F(T, list, transport, virtio_state, 1)`. */
#define VIRTIO_STATE(F, T)     \
    F(T, u32, status)          \
    F(T, u32, interrupt)       \
    F(T, u32, generation)      \
    F(T, u32, queue_select)    \
    F(T, u32, offered_select)  \
    F(T, u32, accepted_select) \
    F(T, u64, offered)         \
    F(T, u64, accepted)        \
    F(T, list, queue, virtq_state, VIRTIO_QUEUES_MAX)
SCHEMA_STRUCT(virtio_state, VIRTIO_STATE);

struct virtio_dev;

struct virtio_ops {
    uint32_t device_id; /* VIRTIO_ID_* */
    unsigned queue_count;
    uint16_t queue_size[VIRTIO_QUEUES_MAX];
    const char *count_name[VIRTIO_COUNTS_MAX]; /* of virtio_dev.count; ends with the first NULL */

    /* The driver is ready (or such a state was loaded): `accepted` is final. May be NULL. */
    void (*start)(struct virtio_dev *vd);
    /* Serves a ready queue on the loop's thread. True: stopped with work left, call again soon. */
    bool (*serve)(struct virtio_dev *vd, unsigned queue);
    /* Blocks until nothing is in flight; NULL when nothing ever is. -ETIMEDOUT: given up. */
    int (*quiesce)(struct virtio_dev *vd);
    /* Paused or resumed: sources of input are switched. May be NULL. */
    void (*run)(struct virtio_dev *vd, bool running);
    /* The driver reset the device: forget what belongs to it. May be NULL. */
    void (*stop)(struct virtio_dev *vd);
    /* The driver writes [offset, offset+len) of the configuration space, all within it. NULL: it is
     * read-only. */
    void (*write_config)(struct virtio_dev *vd, uint64_t offset, const void *data, unsigned len);
};

struct virtio_dev {
    struct dev dev; /* first */

    /* For the machine; fixed after creation. */
    unsigned queue_count;
    int notify_fd[VIRTIO_QUEUES_MAX];
    int irq_fd;

    /* For the device. */
    pthread_mutex_t lock;
    const struct virtio_ops *vops;
    struct mem *mem;
    struct loop *loop;
    const void *config; /* the device's configuration space, owned by it */
    size_t config_bytes;
    uint64_t offered, accepted; /* feature bits; accepted is final once the driver is ready */
    bool paused;
    struct virtq queue[VIRTIO_QUEUES_MAX];

    /* What it has done since it was created. The monitor's figures, not the guest's: neither saved nor reset. */
    uint64_t count[VIRTIO_COUNTS_MAX];

    /* For the transport. */
    uint32_t status, interrupt, generation;
    uint32_t queue_select, offered_select, accepted_select;
    struct virtio_notify {
        struct loop_source source;
        struct virtio_dev *vd;
        unsigned queue;
    } notify[VIRTIO_QUEUES_MAX];
};

static inline struct virtio_dev *virtio_dev_of(struct dev *dev)
{
    return CONTAINER_OF(dev, struct virtio_dev, dev);
}

/* Sets up a zeroed *vd, paused; `features` are the device's own bits. `mem` and `loop` must outlive
 * it. After success virtio_mmio_fini() undoes it, on the loop's thread. */
int virtio_mmio_init(struct virtio_dev *vd, const struct dev_ops *ops,
                     const struct virtio_ops *vops, uint16_t instance, struct mem *mem,
                     struct loop *loop, uint64_t features, struct err *err) MUST_CHECK;
void virtio_mmio_fini(struct virtio_dev *vd);

/* Takes down its counters, as many as `count_name` names. Any thread. */
void virtio_mmio_counts(struct virtio_dev *vd, uint64_t ret[VIRTIO_COUNTS_MAX]);

/* dev_ops of every virtio device. */
void virtio_mmio_read(struct dev *dev, uint64_t offset, void *data, unsigned len);
void virtio_mmio_write(struct dev *dev, uint64_t offset, const void *data, unsigned len);
void virtio_mmio_reset(struct dev *dev);
int virtio_mmio_pause(struct dev *dev);
void virtio_mmio_resume(struct dev *dev);

/* Transport part of a device's save and load, with the device's lock held. Load needs a device
 * fresh from creation (a failed one must be freed) and calls `start` if the driver was ready. */
void virtio_mmio_save(const struct virtio_dev *vd, struct virtio_state *state);
int virtio_mmio_load(struct virtio_dev *vd, const struct virtio_state *state,
                     struct err *err) MUST_CHECK;

/* True once the driver is ready and as long as it kept the rules. Lock held, as for all below. */
bool virtio_mmio_live(const struct virtio_dev *vd);
static inline bool virtio_mmio_has(const struct virtio_dev *vd, unsigned feature)
{
    return vd->accepted >> feature & 1;
}

/* Used-buffer interrupt; configuration changed; the driver broke the rules: logged, needs reset. */
void virtio_mmio_interrupt(struct virtio_dev *vd);
void virtio_mmio_config_changed(struct virtio_dev *vd);
void virtio_mmio_broken(struct virtio_dev *vd, const char *what);

/* Has the queue served again by the loop, as if the driver had kicked. */
void virtio_mmio_kick(struct virtio_dev *vd, unsigned queue);
