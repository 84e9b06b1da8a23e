/*
 * The driver's side of virtio for tests: a device's registers and rings used as a guest would, and
 * the loop turned until the device has answered. Everything fails the running test when it goes
 * wrong.
 */
#pragma once
#include "base/loop.h"
#include "dev/virtio_mmio.h"
#include "mem/mem.h"

#define DRIVER_MEM_BYTES MEM_MIN_BYTES

struct driver_queue {
    uint16_t size, next_desc, avail_idx, seen_used;
    uint64_t desc_gpa, avail_gpa, used_gpa;
};

struct driver {
    struct dev *dev;
    struct mem *mem;
    struct loop *loop;
    struct driver_queue queue[VIRTIO_QUEUES_MAX];
};

/* A segment of a chain: guest address, length, written by the device or read. */
struct driver_seg {
    uint64_t gpa;
    uint32_t len;
    bool in;
};

uint32_t driver_read32(struct driver *d, uint64_t offset);
void driver_write32(struct driver *d, uint64_t offset, uint32_t value);
uint64_t driver_offered(struct driver *d);

/* Reset, then negotiates `features` (plus VERSION_1); the status register afterwards. */
uint32_t driver_negotiate(struct driver *d, uint64_t features);

/* Sets a queue up at `gpa` (64 KiB are used). */
void driver_queue_setup(struct driver *d, unsigned queue, uint16_t size, uint64_t gpa);
/* As that, with the used ring `used` bytes behind `gpa`, within the 64 KiB. */
void driver_queue_setup_used(struct driver *d, unsigned queue, uint16_t size, uint64_t gpa,
                             uint64_t used);
void driver_ready(struct driver *d);

/* negotiate, queues at 1 MiB onwards with `size` entries (or as many as they may have), ready. */
void driver_start(struct driver *d, uint64_t features, uint16_t size);

/* Raw ring access for hostile tests. */
void driver_desc(struct driver *d, unsigned queue, uint16_t index, uint64_t gpa, uint32_t len,
                 uint16_t flags, uint16_t next);
void driver_offer(struct driver *d, unsigned queue, uint16_t head);

/* Makes a chain of `count` segments from the next free descriptors and offers it; returns its head.
 * driver_kick() tells the device. */
uint16_t driver_submit(struct driver *d, unsigned queue, const struct driver_seg *segs,
                       unsigned count);
void driver_kick(struct driver *d, unsigned queue);

/* Turns the loop until `count` more chains than seen so far are used (5 s at most, else fails). */
void driver_wait(struct driver *d, unsigned queue, uint16_t count);
/* Turns the loop until nothing is ready. */
void driver_settle(struct driver *d);
/* How many used chains wait to be taken by driver_used(). */
uint16_t driver_used_waiting(struct driver *d, unsigned queue);
/* The next used chain: its head, and its length in *ret_len. */
uint16_t driver_used(struct driver *d, unsigned queue, uint32_t *ret_len);

/* Interrupts raised since last asked. */
uint64_t driver_interrupts(struct driver *d);

/* From driver_track() on, until driver_check_marks(), only the device may write: afterwards every
 * page that changed must be marked, as a move relies on. */
struct driver_track {
    _Atomic(uint64_t) *marks;
    uint8_t *before;
};
void driver_track(struct driver *d, struct driver_track *track);
void driver_check_marks(struct driver *d, struct driver_track *track);

/* Saves `from` (paused), passes the state through its bytes, loads it into `to`; returns load's
 * result. */
int driver_transplant(struct dev *from, struct dev *to, struct err *err);

static inline void *driver_mem(struct driver *d, uint64_t gpa)
{
    return d->mem->host + gpa; /* tests have low memory only */
}

/* What the device has counted by that name; it must have such a counter. */
uint64_t driver_count(const struct driver *d, const char *name);
