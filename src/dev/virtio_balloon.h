/*
 * virtio-balloon (virtio 1.2, 5.5): memory the guest gives back to the host, in two ways.
 *
 *   balloon      the host asks for pages (virtio_balloon_set()), the guest hands over those it can spare,
 *                and takes them back when asked to, or by itself when it runs out (deflate on OOM)
 *   reporting    the guest tells, unasked, which of its pages are free; it may use them again at any time
 *
 * Either way they become holes of the guest's memory before the guest gets its answer (mem/discard.h).
 * The guest's own figures about its memory come with it (statistics queue).
 */
#pragma once
#include "dev/virtio_mmio.h"

#define VIRTIO_BALLOON_STATE(F, T)                                                      \
    F(T, u32, num_pages)  /* wanted in the balloon */                                   \
    F(T, u32, actual)     /* in it, as the driver says */                               \
    F(T, u32, poison_val) /* what the guest's free pages hold: reports are void then */ \
    F(T, list, transport, virtio_state, 1)
SCHEMA_STRUCT(virtio_balloon_state, VIRTIO_BALLOON_STATE);

#define VIRTIO_BALLOON_TAGS 10 /* VIRTIO_BALLOON_S_*: figures that are passed on */

struct virtio_balloon_info {
    uint64_t target_bytes, actual_bytes;
    uint64_t inflated_bytes, reported_bytes; /* given back since the VM came to this host */
    bool driver;                             /* the guest drives the device */
    bool reporting;                          /* and reports free pages, which are taken */
    bool deflate_on_oom;
    uint32_t stats;                     /* which of `stat` are known, one bit each */
    uint64_t stat[VIRTIO_BALLOON_TAGS]; /* by VIRTIO_BALLOON_S_*; bytes, or counts */
    uint64_t stats_ns;                  /* CLOCK_MONOTONIC when they came */
};

/* Called when the driver changed the balloon's size or new figures came, with the device's lock held and
 * from any thread: it may only take note. */
typedef void virtio_balloon_changed_fn(void *ctx, uint64_t target_bytes, uint64_t actual_bytes);

/* `changed` may be NULL. */
int virtio_balloon_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                          virtio_balloon_changed_fn *changed, void *ctx,
                          struct err *err) MUST_CHECK;

/* What is known of the balloon; the guest is asked for new figures. Any thread. */
void virtio_balloon_info(struct dev *dev, struct virtio_balloon_info *ret);

/* Asks the guest to have `bytes` in the balloon, rounded down to pages. -EINVAL: more than it has.
 * -EBUSY: the machine is paused. Any thread. */
int virtio_balloon_set(struct dev *dev, uint64_t bytes) MUST_CHECK;
