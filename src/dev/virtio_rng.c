#include "dev/virtio_rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define CHUNK_BYTES 4096u /* the most one request gets: less than asked for is allowed (5.4.6.1) */
#define BUDGET 64         /* requests before other devices have their turn */

enum { COUNT_BYTES };

struct rng {
    struct virtio_dev vd; /* first */
    struct virtq_chain chain;
};

SCHEMA_DEFINE(virtio_rng_state, 1, VIRTIO_RNG_STATE)

static bool serve(struct virtio_dev *vd, unsigned queue)
{
    struct rng *rng = CONTAINER_OF(vd, struct rng, vd);
    struct virtq *q = &vd->queue[queue];
    bool interrupt = false, more = false;
    int budget = BUDGET, popped = 0;

    virtq_kicks_off(q);
    do {
        while (budget > 0 && (popped = virtq_pop(q, &rng->chain)) > 0) {
            uint8_t bytes[CHUNK_BYTES];
            /* Never short for so few bytes, and never blocking once the host has booted; a chain
             * without a writable byte gets none. */
            ssize_t got =
                getrandom(bytes, MIN(sizeof(bytes), (size_t)rng->chain.in_bytes), GRND_NONBLOCK);
            size_t written = got > 0 ? virtq_write(q, &rng->chain, 0, bytes, (size_t)got) : 0;
            virtq_stage(q, rng->chain.head, (uint32_t)written);
            vd->count[COUNT_BYTES] += written;
            interrupt |= virtq_publish(q);
            budget--;
        }
        more = budget == 0;
    } while (!more && popped == 0 && virtq_kicks_on(q, 0));
    if (interrupt)
        virtio_mmio_interrupt(vd);
    return more;
}

static void save(struct dev *dev, void *object)
{
    struct virtio_dev *vd = virtio_dev_of(dev);
    struct virtio_rng_state *state = object;
    pthread_mutex_lock(&vd->lock);
    *state = (struct virtio_rng_state){ .transport_count = 1 };
    virtio_mmio_save(vd, &state->transport[0]);
    pthread_mutex_unlock(&vd->lock);
}

static int load(struct dev *dev, const void *object, struct err *err)
{
    struct virtio_dev *vd = virtio_dev_of(dev);
    const struct virtio_rng_state *state = object;
    if (state->transport_count != 1)
        return err_set(err, ERR_PEER, EBADMSG, "virtio-rng %u: no transport state", dev->instance);
    pthread_mutex_lock(&vd->lock);
    int rc = virtio_mmio_load(vd, &state->transport[0], err);
    pthread_mutex_unlock(&vd->lock);
    return rc;
}

static void rng_free(struct dev *dev)
{
    struct rng *rng = CONTAINER_OF(virtio_dev_of(dev), struct rng, vd);
    virtio_mmio_fini(&rng->vd);
    free(rng);
}

static const struct virtio_ops rng_vops = {
    .device_id = VIRTIO_ID_RNG,
    .queue_count = 1,
    .queue_size = { 64 },
    .count_name = { [COUNT_BYTES] = "bytes" },
    .serve = serve,
};

static const struct dev_ops rng_ops = {
    .name = "virtio-rng",
    .section = SECTION_VIRTIO_RNG,
    .schema = &virtio_rng_state_schema,
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .reset = virtio_mmio_reset,
    .pause = virtio_mmio_pause,
    .resume = virtio_mmio_resume,
    .save = save,
    .load = load,
    .free = rng_free,
};

int virtio_rng_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                      struct err *err)
{
    struct rng *rng = calloc(1, sizeof(*rng));
    if (!rng)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create virtio-rng %u", instance);
    int rc = virtio_mmio_init(&rng->vd, &rng_ops, &rng_vops, instance, mem, loop, 0, err);
    if (rc) {
        free(rng);
        return rc;
    }
    *ret = &rng->vd.dev;
    return 0;
}
