/*
 * Split virtqueues (virtio 1.2, 2.7) as the device sees them. All of a ring and all it points to is
 * a hostile input: every address passes mem_get(), every walk is bounded, every value is read once.
 *
 *     pop -> [copy, or I/O on the chain's iovec] -> stage ... -> publish   (push = both at once)
 *
 * A ring that breaks the rules is reported by virtq_pop() as -EPROTO and stays broken until it is
 * set up anew; the transport then sets DEVICE_NEEDS_RESET.
 *
 * Not thread-safe: the device's lock covers its queues.
 */
#pragma once
#include "base/compiler.h"
#include "mem/mem.h"
#include "state/schema.h"
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VIRTQ_SIZE_MAX 256 /* entries; what QueueNumMax may say at most */
#define VIRTQ_SEGS_MAX 130 /* descriptors of a chain, indirect ones included */

/* Saved only while nothing is in flight, so one index serves both rings. */
#define VIRTQ_STATE(F, T) \
    F(T, u16, size)       \
    F(T, u8, ready)       \
    F(T, u16, index)      \
    F(T, u64, desc_gpa)   \
    F(T, u64, avail_gpa)  \
    F(T, u64, used_gpa)
SCHEMA_STRUCT(virtq_state, VIRTQ_STATE);

struct virtq {
    struct mem *mem;
    uint16_t size_max;

    /* Set by the driver while !ready. */
    uint16_t size;
    gpa_t desc_gpa, avail_gpa, used_gpa;

    bool ready;               /* the rings below are in guest memory and may be used */
    bool broken;              /* the driver broke the rules; nothing more is popped */
    bool indirect, event_idx; /* negotiated features */
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t next_avail; /* next entry of the available ring to pop */
    uint16_t next_used;  /* next entry of the used ring to publish */
    uint16_t staged;     /* entries written behind next_used, not yet published */
    uint16_t in_flight;  /* popped, and neither rewound nor published: also the staged */
    bool signal_all;     /* the next publication interrupts whatever the driver asked for */
};

/* A popped chain: first the segments the device may read, then those it may write. The iovec may be
 * trimmed by the device before I/O, leaving empty segments; all below counts what is left. */
struct virtq_chain {
    uint16_t head;
    unsigned out_count, in_count;
    uint64_t out_bytes, in_bytes; /* each at most UINT32_MAX */
    struct iovec iov[VIRTQ_SEGS_MAX];
    gpa_t gpa[VIRTQ_SEGS_MAX]; /* of each iov */
};

void virtq_init(struct virtq *q, struct mem *mem, uint16_t size_max);

/* Back to the state after virtq_init(). */
void virtq_reset(struct virtq *q);

/* Checks size, alignment and that the three rings are RAM, then makes the queue ready with both
 * rings at `index`. -EINVAL: refused. */
int virtq_start(struct virtq *q, uint16_t index) MUST_CHECK;

/* 1: *chain holds the next chain; 0: none is waiting; -EPROTO: the ring is broken. */
int virtq_pop(struct virtq *q, struct virtq_chain *chain) MUST_CHECK;

/* Gives back the last `count` popped chains, none of them staged. */
void virtq_rewind(struct virtq *q, uint16_t count);

/* Writes a used element for a popped chain; the driver sees it only after virtq_publish(). */
void virtq_stage(struct virtq *q, uint16_t head, uint32_t written);

/* Shows all staged elements to the driver. True: it wants an interrupt. */
bool virtq_publish(struct virtq *q) MUST_CHECK;

/* For a chain whose first `written` writable bytes I/O has filled: marks, stages, publishes. */
bool virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written) MUST_CHECK;

/* Asks the driver for no kicks while the device is serving anyway. */
void virtq_kicks_off(struct virtq *q);

/* Asks for a kick at the next chain, or at the next but `known` when so many were popped and
 * rewound since they did not suffice. True: it is there already, so serve on. */
bool virtq_kicks_on(struct virtq *q, uint16_t known) MUST_CHECK;

/* Marks the first `bytes` writable bytes as written by the monitor; after they are in place. */
void virtq_mark(struct virtq *q, const struct virtq_chain *chain, uint64_t bytes);

/* Copies out of the readable or into the writable segments, from byte `offset` on; returns how many
 * bytes there were. Writing marks. */
size_t virtq_read(const struct virtq_chain *chain, uint64_t offset, void *buf, size_t len);
size_t virtq_write(struct virtq *q, const struct virtq_chain *chain, uint64_t offset,
                   const void *buf, size_t len);

/* As virtq_write(), of zeroes. */
void virtq_zero(struct virtq *q, const struct virtq_chain *chain, uint64_t offset, uint64_t len);

/* Cuts bytes off the start of the readable or writable segments, which must have them. */
void virtq_trim_out(struct virtq_chain *chain, uint64_t bytes);
void virtq_trim_in(struct virtq_chain *chain, uint64_t bytes);
/* Cuts off the last writable byte, which must exist, and returns where it is. Before other cuts. */
gpa_t virtq_trim_in_last(struct virtq_chain *chain);

void virtq_save(const struct virtq *q, struct virtq_state *state);
/* Checks and applies to a queue fresh from virtq_init(); its features are the caller's to set. */
int virtq_load(struct virtq *q, const struct virtq_state *state, struct err *err) MUST_CHECK;
