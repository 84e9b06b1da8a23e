/*
 * virtio-blk (virtio 1.2, 5.2) on a raw file or block device, through io_uring.
 *
 * A write is durable once a later FLUSH completed; when the driver did not accept FLUSH, once the
 * write itself completed. pause() waits for all requests in flight, at most
 * VIRTIO_BLK_PAUSE_MAX_NS; what it has then written may still be in this host's page cache.
 */
#pragma once
#include "base/clock.h"
#include "dev/virtio_mmio.h"

#define VIRTIO_BLK_PAUSE_MAX_NS (10 * CLOCK_SECOND)

struct virtio_blk_options {
    const char *serial; /* at most 20 bytes (longer is cut); NULL = none */
    bool read_only;     /* else fd must be open for writing */
};

#define VIRTIO_BLK_STATE(F, T)             \
    F(T, list, transport, virtio_state, 1) \
    F(T, u64, sectors)
SCHEMA_STRUCT(virtio_blk_state, VIRTIO_BLK_STATE);

/* `fd` is taken, also on failure; the size is the file's and does not change while the device
 * lives. */
int virtio_blk_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                      int fd, const struct virtio_blk_options *options, struct err *err) MUST_CHECK;
