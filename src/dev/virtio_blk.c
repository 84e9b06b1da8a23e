/*
 * A request is a chain (header, data, status byte) with at most one io_uring operation in flight:
 *
 *     chain popped -> begin() -> submit() <-> on completion: advance() -> finish() -> used ring
 *
 * advance() continues a short read or write, falls back from "punch a hole" to "zero the range" to
 * writing zeroes where the file system cannot, and, for a driver that did not accept FLUSH, appends
 * a sync to everything that changes the disk (5.2.6.2).
 *
 * Requests in flight are counted; quiesce() reaps completions itself until there are none, on
 * whatever thread pauses or resets, with the lock held: the ring is only touched under it. The loop
 * watches the ring's descriptor. A request without a free slot stays in the guest's ring.
 *
 * A read that fails leaves its data zeroed, so that the length in the used ring stays true.
 */
#include "dev/virtio_blk.h"
#include "base/fd.h"
#include "base/log.h"
#include "dev/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

SCHEMA_DEFINE(virtio_blk_state, 1, VIRTIO_BLK_STATE)

#define SLOTS 128u                     /* requests in flight; a number fits a byte */
#define BUDGET 256                     /* requests begun before other devices have their turn */
#define SEGMENTS (VIRTQ_SEGS_MAX - 4u) /* of data; plus header and status */
#define RANGE_SECTORS_MAX (UINT32_C(16) << 20 >> 9) /* of one discard or write-zeroes */
#define ZEROES_BYTES (64u << 10)

enum blk_op { BLK_READ = 1, BLK_WRITE, BLK_SYNC, BLK_PUNCH, BLK_ZERO_RANGE, BLK_ZERO_WRITE };

/* A kind's requests, answered in whatever way, and `+ BYTES_OF` its bytes. */
enum { READS, WRITES, DISCARDS, ZEROES, BYTES_OF, FLUSHES = 2 * BYTES_OF, FAILED, UNCOUNTED };

struct blk_request {
    enum blk_op op;
    unsigned counted;      /* READS, ... */
    bool discard;          /* may not fall back to writing */
    uint64_t offset, left; /* bytes of the disk still to go */
    uint32_t written;      /* for the used ring: all writable bytes */
    gpa_t status_gpa;
    struct iovec zeroes;
    struct virtq_chain chain;
};

struct blk {
    struct virtio_dev vd; /* first */
    int fd;
    bool read_only;
    bool starved; /* stopped popping for want of a slot */
    char serial[VIRTIO_BLK_ID_BYTES];
    uint64_t sectors;
    struct virtio_blk_config config;
    struct io_uring ring;
    struct loop_source ring_source;
    unsigned in_flight;
    struct blk_request *slots;
    unsigned free_count; /* a stack of slot numbers: slots never needed cost no memory */
    uint8_t free[SLOTS];
    void *zeroes; /* ZEROES_BYTES of them */
};

static struct blk *blk_of(struct virtio_dev *vd)
{
    return CONTAINER_OF(vd, struct blk, vd);
}

static bool changes_disk(enum blk_op op)
{
    return op != BLK_READ && op != BLK_SYNC;
}

/* Puts the request's next operation into the ring; flush_ring() hands it to the kernel. */
static void submit(struct blk *blk, struct blk_request *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&blk->ring);
    ASSERT(sqe); /* the ring has an entry for each slot */
    struct virtq_chain *c = &r->chain;
    switch (r->op) {
    case BLK_READ:
        io_uring_prep_readv(sqe, blk->fd, c->iov + c->out_count, c->in_count, r->offset);
        break;
    case BLK_WRITE:
        io_uring_prep_writev(sqe, blk->fd, c->iov, c->out_count, r->offset);
        break;
    case BLK_SYNC:
        io_uring_prep_fsync(sqe, blk->fd, IORING_FSYNC_DATASYNC);
        break;
    case BLK_PUNCH:
        io_uring_prep_fallocate(sqe, blk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                (off_t)r->offset, (off_t)r->left);
        break;
    case BLK_ZERO_RANGE:
        io_uring_prep_fallocate(sqe, blk->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                (off_t)r->offset, (off_t)r->left);
        break;
    case BLK_ZERO_WRITE:
        r->zeroes = (struct iovec){ blk->zeroes, (size_t)MIN(r->left, (uint64_t)ZEROES_BYTES) };
        io_uring_prep_writev(sqe, blk->fd, &r->zeroes, 1, r->offset);
        break;
    }
    io_uring_sqe_set_data(sqe, r);
}

static void flush_ring(struct blk *blk)
{
    /* A kernel short of memory takes them later: the kick has the loop come back here. */
    if (io_uring_sq_ready(&blk->ring) && io_uring_submit(&blk->ring) < 0)
        virtio_mmio_kick(&blk->vd, 0);
}

/* Stages the answer; publish() shows it. */
static void finish(struct blk *blk, struct blk_request *r, uint8_t status)
{
    struct virtq *q = &blk->vd.queue[0];
    virtq_zero(q, &r->chain, 0, r->chain.in_bytes); /* what a failed read did not fill */
    int rc = mem_write(blk->vd.mem, r->status_gpa, &status, 1);
    ASSERT(rc == 0); /* the address was checked when the chain was popped */
    virtq_stage(q, r->chain.head, r->written);
    blk->free[blk->free_count++] = (uint8_t)(r - blk->slots);
    if (r->counted != UNCOUNTED)
        blk->vd.count[r->counted]++;
    blk->vd.count[FAILED] += status != VIRTIO_BLK_S_OK;
}

static void publish(struct blk *blk)
{
    if (virtq_publish(&blk->vd.queue[0]))
        virtio_mmio_interrupt(&blk->vd);
}

/* Takes the result of an operation; true when another one has to follow. */
static bool advance(struct blk *blk, struct blk_request *r, int res, uint8_t *ret_status)
{
    *ret_status = VIRTIO_BLK_S_OK;
    if (res == -EINTR || res == -EAGAIN)
        return true;
    if (res == -EOPNOTSUPP && r->op == BLK_PUNCH && !r->discard) {
        r->op = BLK_ZERO_RANGE;
        return true;
    }
    if (res == -EOPNOTSUPP && r->op == BLK_ZERO_RANGE) {
        r->op = BLK_ZERO_WRITE;
        return true;
    }
    if (res < 0) {
        *ret_status = res == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
        LOG_RATED(LOG_WARN, "blk.error", "virtio-blk %u: request at byte %llu failed: %s",
                  blk->vd.dev.instance, (unsigned long long)r->offset, strerror(-res));
        return false;
    }

    uint64_t done = r->left;
    if (r->op == BLK_READ || r->op == BLK_WRITE || r->op == BLK_ZERO_WRITE) {
        if (res == 0) { /* the file was made shorter behind our back */
            *ret_status = VIRTIO_BLK_S_IOERR;
            return false;
        }
        done = MIN((uint64_t)res, r->left);
    }
    if (r->op == BLK_READ) {
        virtq_mark(&blk->vd.queue[0], &r->chain, done);
        virtq_trim_in(&r->chain, done);
    } else if (r->op == BLK_WRITE) {
        virtq_trim_out(&r->chain, done);
    }
    if (r->op != BLK_SYNC)
        blk->vd.count[r->counted + BYTES_OF] += done;
    r->offset += done;
    r->left -= done;
    if (r->left == 0 && changes_disk(r->op) && !virtio_mmio_has(&blk->vd, VIRTIO_BLK_F_FLUSH)) {
        r->op = BLK_SYNC;
        return true;
    }
    return r->left > 0;
}

static void reap(struct blk *blk)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&blk->ring, &cqe) == 0) {
        struct blk_request *r = io_uring_cqe_get_data(cqe);
        int res = cqe->res;
        uint8_t status;
        io_uring_cqe_seen(&blk->ring, cqe);
        if (advance(blk, r, res, &status)) {
            submit(blk, r);
            continue;
        }
        blk->in_flight--;
        finish(blk, r, status);
    }
    publish(blk);
    flush_ring(blk);
}

static void on_ring(struct loop_source *source, uint32_t events)
{
    struct blk *blk = CONTAINER_OF(source, struct blk, ring_source);
    (void)events;
    pthread_mutex_lock(&blk->vd.lock);
    reap(blk);
    if (blk->starved && blk->free_count) {
        blk->starved = false;
        virtio_mmio_kick(&blk->vd, 0);
    }
    pthread_mutex_unlock(&blk->vd.lock);
}

static int quiesce(struct virtio_dev *vd)
{
    struct blk *blk = blk_of(vd);
    const uint64_t deadline_ns = clock_now_ns() + VIRTIO_BLK_PAUSE_MAX_NS;
    for (;;) {
        reap(blk);
        if (blk->in_flight == 0)
            return 0;
        uint64_t now_ns = clock_now_ns();
        if (now_ns >= deadline_ns)
            return -ETIMEDOUT;
        uint64_t left_ns = deadline_ns - now_ns;
        struct __kernel_timespec left = { .tv_sec = (long long)(left_ns / CLOCK_SECOND),
                                          .tv_nsec = (long long)(left_ns % CLOCK_SECOND) };
        struct io_uring_cqe *cqe;
        /* Whatever it says, reap() sees. */
        (void)io_uring_wait_cqe_timeout(&blk->ring, &cqe, &left);
    }
}

static bool in_disk(const struct blk *blk, uint64_t sector, uint64_t sectors)
{
    return sector <= blk->sectors && sectors <= blk->sectors - sector;
}

static int begin_io(struct blk *blk, struct blk_request *r, uint64_t sector, uint64_t bytes)
{
    if (bytes == 0 || bytes % DISK_SECTOR_BYTES || !in_disk(blk, sector, bytes / DISK_SECTOR_BYTES))
        return VIRTIO_BLK_S_IOERR;
    r->offset = sector * DISK_SECTOR_BYTES;
    r->left = bytes;
    return -1;
}

/* Discard and write-zeroes: one range a request, as the configuration says. */
static int begin_range(struct blk *blk, struct blk_request *r, bool discard)
{
    struct virtio_blk_discard_write_zeroes range;
    unsigned feature = discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;
    if (!virtio_mmio_has(&blk->vd, feature) || r->chain.out_bytes != sizeof(range) ||
        virtq_read(&r->chain, 0, &range, sizeof(range)) != sizeof(range))
        return VIRTIO_BLK_S_UNSUPP;
    bool unmap = range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    if ((range.flags & ~VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) || (discard && unmap))
        return VIRTIO_BLK_S_UNSUPP;
    if (range.num_sectors > RANGE_SECTORS_MAX)
        return VIRTIO_BLK_S_IOERR;
    r->counted = discard ? DISCARDS : ZEROES;
    r->op = discard || unmap ? BLK_PUNCH : BLK_ZERO_RANGE;
    r->discard = discard;
    return begin_io(blk, r, range.sector, (uint64_t)range.num_sectors * DISK_SECTOR_BYTES);
}

/* Decides what a request needs: -1 = an operation, else its status. */
static int begin(struct blk *blk, struct blk_request *r, const struct virtio_blk_outhdr *header)
{
    struct virtq_chain *c = &r->chain;
    r->counted = UNCOUNTED;
    bool changes = header->type == VIRTIO_BLK_T_OUT || header->type == VIRTIO_BLK_T_DISCARD ||
                   header->type == VIRTIO_BLK_T_WRITE_ZEROES;
    if (changes && blk->read_only)
        return VIRTIO_BLK_S_IOERR;
    r->offset = r->left = 0;
    switch (header->type) {
    case VIRTIO_BLK_T_IN:
        r->op = BLK_READ;
        r->counted = READS;
        return begin_io(blk, r, header->sector, c->in_bytes);
    case VIRTIO_BLK_T_OUT:
        r->op = BLK_WRITE;
        r->counted = WRITES;
        return begin_io(blk, r, header->sector, c->out_bytes);
    case VIRTIO_BLK_T_FLUSH:
        r->op = BLK_SYNC;
        r->counted = FLUSHES;
        return blk->read_only ? VIRTIO_BLK_S_OK : -1;
    case VIRTIO_BLK_T_GET_ID: {
        size_t id_bytes = virtq_write(&blk->vd.queue[0], c, 0, blk->serial, sizeof(blk->serial));
        virtq_trim_in(c, id_bytes);
        return VIRTIO_BLK_S_OK;
    }
    case VIRTIO_BLK_T_DISCARD:
        return begin_range(blk, r, true);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return begin_range(blk, r, false);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* Starts the request popped into the topmost free slot, or answers at once. -EPROTO: it has no
 * header or no place for a status. */
static int start_request(struct blk *blk, struct blk_request *r)
{
    struct virtq_chain *c = &r->chain;
    struct virtio_blk_outhdr header;
    if (virtq_read(c, 0, &header, sizeof(header)) != sizeof(header) || c->in_bytes == 0) {
        virtq_stage(&blk->vd.queue[0], c->head, 0);
        return -EPROTO;
    }
    r->written = (uint32_t)c->in_bytes;
    r->status_gpa = virtq_trim_in_last(c);
    virtq_trim_out(c, sizeof(header));
    blk->free_count--;

    int status = begin(blk, r, &header);
    if (status >= 0) {
        finish(blk, r, (uint8_t)status);
    } else {
        blk->in_flight++;
        submit(blk, r);
    }
    return 0;
}

static bool serve(struct virtio_dev *vd, unsigned queue)
{
    struct blk *blk = blk_of(vd);
    struct virtq *q = &vd->queue[queue];
    int budget = BUDGET, popped = 0;

    virtq_kicks_off(q);
    do {
        while (blk->free_count && budget > 0) {
            struct blk_request *r = &blk->slots[blk->free[blk->free_count - 1]];
            popped = virtq_pop(q, &r->chain);
            if (popped <= 0)
                break;
            budget--;
            if (start_request(blk, r)) {
                virtio_mmio_broken(vd, "request without header or status");
                popped = -EPROTO;
                break;
            }
        }
        blk->starved = blk->free_count == 0;
    } while (!blk->starved && budget > 0 && popped == 0 && virtq_kicks_on(q, 0));
    flush_ring(blk);
    publish(blk);
    return budget == 0;
}

static void save(struct dev *dev, void *object)
{
    struct blk *blk = blk_of(virtio_dev_of(dev));
    struct virtio_blk_state *state = object;
    pthread_mutex_lock(&blk->vd.lock);
    *state = (struct virtio_blk_state){ .transport_count = 1, .sectors = blk->sectors };
    virtio_mmio_save(&blk->vd, &state->transport[0]);
    pthread_mutex_unlock(&blk->vd.lock);
}

static int load(struct dev *dev, const void *object, struct err *err)
{
    struct blk *blk = blk_of(virtio_dev_of(dev));
    const struct virtio_blk_state *state = object;
    if (state->transport_count != 1)
        return err_set(err, ERR_PEER, EBADMSG, "virtio-blk %u: no transport state", dev->instance);
    if (state->sectors != blk->sectors)
        return err_set(err, ERR_HOST, EINVAL,
                       "virtio-blk %u: the guest's disk has %llu sectors, this host's has %llu",
                       dev->instance, (unsigned long long)state->sectors,
                       (unsigned long long)blk->sectors);
    pthread_mutex_lock(&blk->vd.lock);
    int rc = virtio_mmio_load(&blk->vd, &state->transport[0], err);
    pthread_mutex_unlock(&blk->vd.lock);
    return rc;
}

static void blk_free(struct dev *dev)
{
    struct blk *blk = blk_of(virtio_dev_of(dev));
    loop_remove(&blk->ring_source);
    if (blk->ring.ring_fd >= 0)
        io_uring_queue_exit(&blk->ring);
    virtio_mmio_fini(&blk->vd);
    fd_close(&blk->fd);
    free(blk->slots);
    free(blk->zeroes);
    free(blk);
}

static const struct virtio_ops blk_vops = {
    .device_id = VIRTIO_ID_BLOCK,
    .queue_count = 1,
    .queue_size = { 256 },
    .count_name = { [READS] = "read_requests",
                    [WRITES] = "write_requests",
                    [DISCARDS] = "discard_requests",
                    [ZEROES] = "write_zeroes_requests",
                    [READS + BYTES_OF] = "read_bytes",
                    [WRITES + BYTES_OF] = "written_bytes",
                    [DISCARDS + BYTES_OF] = "discarded_bytes",
                    [ZEROES + BYTES_OF] = "zeroed_bytes",
                    [FLUSHES] = "flush_requests",
                    [FAILED] = "failed_requests" },
    .serve = serve,
    .quiesce = quiesce,
};

static const struct dev_ops blk_ops = {
    .name = "virtio-blk",
    .section = SECTION_VIRTIO_BLK,
    .schema = &virtio_blk_state_schema,
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .reset = virtio_mmio_reset,
    .pause = virtio_mmio_pause,
    .resume = virtio_mmio_resume,
    .save = save,
    .load = load,
    .free = blk_free,
};

/* Whether the file system can give back the space of a hole: asked beyond the end, so nothing
 * changes. Block devices are left out: what they do with a discard is known only once tried. */
static bool can_punch(int fd, uint64_t sectors)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
           fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)(sectors * DISK_SECTOR_BYTES), 4096) == 0;
}

static uint64_t describe(struct blk *blk)
{
    uint64_t features = UINT64_C(1) << VIRTIO_BLK_F_SEG_MAX | UINT64_C(1) << VIRTIO_BLK_F_FLUSH;
    blk->config = (struct virtio_blk_config){ .capacity = blk->sectors, .seg_max = SEGMENTS };
    if (blk->read_only)
        return features | UINT64_C(1) << VIRTIO_BLK_F_RO;

    blk->config.max_write_zeroes_sectors = RANGE_SECTORS_MAX;
    blk->config.max_write_zeroes_seg = 1;
    features |= UINT64_C(1) << VIRTIO_BLK_F_WRITE_ZEROES;
    if (can_punch(blk->fd, blk->sectors)) {
        blk->config.write_zeroes_may_unmap = 1;
        blk->config.max_discard_sectors = RANGE_SECTORS_MAX;
        blk->config.max_discard_seg = 1;
        blk->config.discard_sector_alignment = 4096 / DISK_SECTOR_BYTES;
        features |= UINT64_C(1) << VIRTIO_BLK_F_DISCARD;
    }
    return features;
}

static int open_ring(struct blk *blk, struct err *err)
{
    int rc = io_uring_queue_init(SLOTS, &blk->ring, 0);
    if (rc) {
        blk->ring.ring_fd = -1;
        return err_errno(err, ERR_HOST, -rc,
                         "io_uring is not available (kernel.io_uring_disabled?)");
    }
    rc = loop_add(blk->vd.loop, &blk->ring_source, blk->ring.ring_fd, EPOLLIN, on_ring);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot watch io_uring") : 0;
}

int virtio_blk_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                      int fd_, const struct virtio_blk_options *options, struct err *err)
{
    CLEANUP_FD int fd = fd_;
    uint64_t sectors;
    int rc = disk_sectors(fd, &sectors);
    if (rc)
        return err_errno(err, ERR_CALLER, -rc, "virtio-blk %u: no usable disk", instance);

    struct blk *blk = calloc(1, sizeof(*blk));
    if (!blk)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create virtio-blk %u", instance);
    blk->fd = fd;
    blk->sectors = sectors;
    blk->read_only = options->read_only;
    blk->ring.ring_fd = -1;
    blk->ring_source.fd = -1;
    if (options->serial) /* padded with NULs, without one when it is full (5.2.6) */
        memcpy(blk->serial, options->serial, strnlen(options->serial, sizeof(blk->serial)));
    rc = virtio_mmio_init(&blk->vd, &blk_ops, &blk_vops, instance, mem, loop, describe(blk), err);
    if (rc) {
        free(blk);
        return rc;
    }
    fd = -1; /* blk_free() closes it from here on */
    blk->vd.config = &blk->config;
    blk->vd.config_bytes = sizeof(blk->config);
    blk->slots = calloc(SLOTS, sizeof(*blk->slots));
    blk->zeroes = calloc(1, ZEROES_BYTES);
    while (blk->free_count < SLOTS) {
        blk->free[blk->free_count] = (uint8_t)(SLOTS - 1 - blk->free_count);
        blk->free_count++;
    }
    if (!blk->slots || !blk->zeroes)
        rc = err_errno(err, ERR_HOST, ENOMEM, "cannot create virtio-blk %u", instance);
    else
        rc = open_ring(blk, err);
    if (rc) {
        blk_free(&blk->vd.dev);
        return err_wrap(err, rc, "virtio-blk %u", instance);
    }
    *ret = &blk->vd.dev;
    return 0;
}
