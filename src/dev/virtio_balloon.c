/*
 * Queues: inflate 0, deflate 1, then those of accepted features. Where a feature was not accepted, drivers
 * disagree on whether its queue keeps its number (5.5.2 says so) or the next one moves up (as Linux's
 * does), so the number tells the kind only together with the features: see kind_of().
 *
 * What a request gives back is worked on in slices, so that neither pausing nor other devices wait long:
 * after a slice the chain goes back into the ring, and `done` remembers how far it got. Pausing in between
 * forgets that; the request is done once more from its start, which changes nothing, since its pages are
 * the device's until it is answered. So pause never finds anything in flight, and an answer means that all
 * its pages are holes.
 *
 * Contents: without PAGE_POISON a page reported may become zero; with it, its driver says what free pages
 * hold, and may rely on it (5.5.6.7). A hole is right for a poison of zero; for any other one reports are
 * answered, and the pages stay. Pages of the balloon are the guest's to initialise in any case.
 *
 * The statistics buffer stays with the device until it asks for new figures; "stays" means in the ring,
 * not popped, so that it need not be saved.
 *
 * MUST_TELL_HOST is offered so that pages of the balloon are known to rest until the guest was answered:
 * discards may then be put off (mem_discard_hold()).
 */
#include "dev/virtio_balloon.h"
#include "base/clock.h"
#include "mem/discard.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <string.h>

SCHEMA_DEFINE(virtio_balloon_state, 1, VIRTIO_BALLOON_STATE)
static_assert(VIRTIO_BALLOON_TAGS == VIRTIO_BALLOON_S_NR, "one figure a tag");

#define FEATURES                                                                                 \
    (UINT64_C(1) << VIRTIO_BALLOON_F_MUST_TELL_HOST | UINT64_C(1) << VIRTIO_BALLOON_F_STATS_VQ | \
     UINT64_C(1) << VIRTIO_BALLOON_F_DEFLATE_ON_OOM |                                            \
     UINT64_C(1) << VIRTIO_BALLOON_F_PAGE_POISON | UINT64_C(1) << VIRTIO_BALLOON_F_REPORTING)

#define QUEUES 5
#define SLICE_BYTES (UINT64_C(2) << 20) /* given back before others have their turn */
#define PFN_SHIFT VIRTIO_BALLOON_PFN_SHIFT
#define PFNS_MAX 256u /* of an inflate or deflate request looked at together */
#define BUDGET 64     /* requests that give nothing back, before others have their turn */
#define STATS_MAX 64u /* entries of a statistics buffer looked at */

enum queue_kind { INFLATE, DEFLATE, STATS, REPORTING, NOTHING };
enum { COUNT_INFLATED, COUNT_DEFLATED, COUNT_REPORTED }; /* bytes */

struct balloon {
    struct virtio_dev vd;                /* first */
    struct virtio_balloon_config config; /* little-endian, as the guest reads it */
    uint64_t done[QUEUES]; /* bytes of the first chain that is waiting, already worked off */
    uint16_t head[QUEUES]; /* of that chain */
    uint32_t stats;
    uint64_t stat[VIRTIO_BALLOON_TAGS], stats_ns;
    virtio_balloon_changed_fn *changed;
    void *ctx;
    struct virtq_chain chain;
};

static struct balloon *balloon_of(struct virtio_dev *vd)
{
    return CONTAINER_OF(vd, struct balloon, vd);
}

static enum queue_kind kind_of(const struct virtio_dev *vd, unsigned queue)
{
    bool stats = virtio_mmio_has(vd, VIRTIO_BALLOON_F_STATS_VQ);
    if (queue < 2)
        return queue;
    if (queue == 2 && stats)
        return STATS;
    return virtio_mmio_has(vd, VIRTIO_BALLOON_F_REPORTING) ? REPORTING : NOTHING;
}

static uint64_t bytes_of(uint32_t le_pages)
{
    return (uint64_t)le32toh(le_pages) << PFN_SHIFT;
}

static void tell(struct balloon *balloon)
{
    if (balloon->changed)
        balloon->changed(balloon->ctx, bytes_of(balloon->config.num_pages),
                         bytes_of(balloon->config.actual));
}

/* ----------------------------------------------------------------------------- inflate and deflate */

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int give_back(struct balloon *balloon, enum queue_kind kind, gpa_t gpa, uint64_t bytes)
{
    if (!mem_get(balloon->vd.mem, gpa, bytes))
        return -EPROTO;
    if (kind == DEFLATE) {
        balloon->vd.count[COUNT_DEFLATED] += bytes;
        mem_reclaim(balloon->vd.mem, gpa, bytes);
        return 0;
    }
    bool kept = virtio_mmio_has(&balloon->vd, VIRTIO_BALLOON_F_MUST_TELL_HOST);
    balloon->vd.count[COUNT_INFLATED] += bytes;
    return mem_discard(balloon->vd.mem, gpa, bytes, kept);
}

/* Works on up to PFNS_MAX page numbers from byte `done` on, neighbours together. Returns how many bytes of
 * the request it used up, or -EPROTO for a page that is not RAM. */
static int64_t work_on_pfns(struct balloon *balloon, enum queue_kind kind, uint64_t done)
{
    uint32_t pfn[PFNS_MAX];
    size_t count = virtq_read(&balloon->chain, done, pfn, sizeof(pfn)) / sizeof(*pfn);
    for (size_t i = 0; i < count; i++)
        pfn[i] = le32toh(pfn[i]);
    qsort(pfn, count, sizeof(*pfn), compare);
    for (size_t i = 0, run; i < count; i += run) {
        for (run = 1; i + run < count && pfn[i + run] == pfn[i] + run;)
            run++;
        int rc = give_back(balloon, kind, gpa_of((uint64_t)pfn[i] << PFN_SHIFT),
                           (uint64_t)run << PFN_SHIFT);
        if (rc == -EPROTO)
            return rc;
        /* Any other failure is the host's: the page then stays, and nothing is wrong but its cost. */
    }
    return count ? (int64_t)(count * sizeof(*pfn)) : (int64_t)balloon->chain.out_bytes;
}

/* ----------------------------------------------------------------------------------- free page reports */

static bool takes_reports(const struct balloon *balloon)
{
    return !virtio_mmio_has(&balloon->vd, VIRTIO_BALLOON_F_PAGE_POISON) ||
           balloon->config.poison_val == 0;
}

/* Gives back up to SLICE_BYTES of the reported memory from byte `done` on; returns how many it got on. A
 * slice ends where a segment does, or at the end of a page, so that no page is cut in two. */
static int64_t work_on_report(struct balloon *balloon, uint64_t done)
{
    const struct virtq_chain *chain = &balloon->chain;
    uint64_t before = 0, used = 0;
    for (unsigned i = chain->out_count; i < chain->out_count + chain->in_count; i++) {
        uint64_t len = chain->iov[i].iov_len;
        if (done < before + len && used < SLICE_BYTES) {
            uint64_t skip = done - before, gpa = chain->gpa[i].raw + skip;
            uint64_t part = len - skip;
            if (part > SLICE_BYTES)
                part = SLICE_BYTES - gpa % PAGE_BYTES;
            /* What the host fails to take stays as it is. */
            if (takes_reports(balloon) &&
                mem_discard(balloon->vd.mem, gpa_of(gpa), part, false) == 0)
                balloon->vd.count[COUNT_REPORTED] += part;
            used += part;
            done += part;
            if (skip + part < len)
                break;
        }
        before += len;
    }
    return (int64_t)used;
}

/* -------------------------------------------------------------------------------------- statistics */

/* Reads the figures of the buffer that is waiting, and leaves it there. False: none is. */
static bool read_stats(struct balloon *balloon, struct virtq *q)
{
    struct virtio_balloon_stat stat[STATS_MAX];
    if (virtq_pop(q, &balloon->chain) <= 0)
        return false;
    size_t count = virtq_read(&balloon->chain, 0, stat, sizeof(stat)) / sizeof(*stat);
    virtq_rewind(q, 1);
    balloon->stats = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned tag = le16toh((uint16_t)stat[i].tag);
        if (tag >= VIRTIO_BALLOON_TAGS || stat[i].val == UINT64_MAX)
            continue; /* unknown to us, or to the guest */
        balloon->stats |= 1u << tag;
        balloon->stat[tag] = le64toh((uint64_t)stat[i].val);
    }
    balloon->stats_ns = clock_now_ns();
    tell(balloon);
    return true;
}

/* Waits for a buffer when there is none, else for nothing: a second one is of no use. */
static void serve_stats(struct balloon *balloon, struct virtq *q)
{
    while (!read_stats(balloon, q) && virtq_kicks_on(q, 0))
        ;
}

/* Gives the buffer back: the driver fills it anew. */
static void ask_for_stats(struct balloon *balloon)
{
    struct virtio_dev *vd = &balloon->vd;
    struct virtq *q = &vd->queue[STATS];
    if (vd->paused || !virtio_mmio_live(vd) || kind_of(vd, STATS) != STATS || !q->ready)
        return;
    if (virtq_pop(q, &balloon->chain) > 0) {
        if (virtq_push(q, &balloon->chain, 0))
            virtio_mmio_interrupt(vd);
        virtio_mmio_kick(vd, STATS); /* to wait for it to come back */
    }
    if (q->broken)
        virtio_mmio_broken(vd, "ring");
}

/* ------------------------------------------------------------------------------------------ serving */

/* A slice of the first chain waiting. 1: it is done; 0: none waits; -EAGAIN: more of it is to be done. */
static int serve_slice(struct balloon *balloon, unsigned queue, enum queue_kind kind,
                       bool *interrupt)
{
    struct virtq *q = &balloon->vd.queue[queue];
    int rc = virtq_pop(q, &balloon->chain);
    if (rc <= 0)
        return 0; /* or broken: the transport sees to it */
    if (balloon->head[queue] != balloon->chain.head)
        balloon->done[queue] = 0;
    balloon->head[queue] = balloon->chain.head;

    uint64_t total = kind == REPORTING ? balloon->chain.in_bytes : balloon->chain.out_bytes;
    uint64_t done = balloon->done[queue];
    int64_t used = 0;
    if (done < total)
        used =
            kind == REPORTING ? work_on_report(balloon, done) : work_on_pfns(balloon, kind, done);
    if (used < 0) {
        virtq_rewind(q, 1);
        virtio_mmio_broken(&balloon->vd, "page number");
        return 0;
    }
    balloon->done[queue] = done + (uint64_t)used;
    if (balloon->done[queue] < total) {
        virtq_rewind(q, 1);
        return -EAGAIN;
    }
    balloon->done[queue] = 0;
    virtq_stage(q, balloon->chain.head, 0);
    *interrupt |= virtq_publish(q);
    return used > 0 && kind != DEFLATE ? -EAGAIN : 1;
}

static bool serve(struct virtio_dev *vd, unsigned queue)
{
    struct balloon *balloon = balloon_of(vd);
    struct virtq *q = &vd->queue[queue];
    enum queue_kind kind = kind_of(vd, queue);
    bool interrupt = false;
    int rc;

    if (kind == NOTHING)
        return false;
    virtq_kicks_off(q);
    if (kind == STATS) {
        serve_stats(balloon, q);
        return false;
    }
    int budget = BUDGET;
    do
        while ((rc = serve_slice(balloon, queue, kind, &interrupt)) > 0 && --budget > 0)
            ;
    while (rc == 0 && virtio_mmio_live(vd) && virtq_kicks_on(q, 0));
    if (interrupt)
        virtio_mmio_interrupt(vd);
    return rc != 0;
}

static void forget_progress(struct balloon *balloon)
{
    memset(balloon->done, 0, sizeof(balloon->done));
}

static void run(struct virtio_dev *vd, bool running)
{
    if (!running)
        forget_progress(balloon_of(vd));
}

/* The driver has let go of the device: what the balloon held is the guest's again (5.5.5). */
static void stop(struct virtio_dev *vd)
{
    struct balloon *balloon = balloon_of(vd);
    forget_progress(balloon);
    balloon->config.actual = balloon->config.poison_val = 0;
    balloon->stats = 0;
    mem_reclaim(vd->mem, gpa_of(vd->mem->region[0].gpa), vd->mem->region[0].bytes);
    if (vd->mem->region_count > 1)
        mem_reclaim(vd->mem, gpa_of(vd->mem->region[1].gpa), vd->mem->region[1].bytes);
    tell(balloon);
}

/* The driver may write `actual` and `poison_val`, whole. */
static void write_config(struct virtio_dev *vd, uint64_t offset, const void *data, unsigned len)
{
    struct balloon *balloon = balloon_of(vd);
    if (len != sizeof(uint32_t))
        return;
    if (offset == offsetof(struct virtio_balloon_config, actual)) {
        memcpy(&balloon->config.actual, data, len);
        tell(balloon);
    } else if (offset == offsetof(struct virtio_balloon_config, poison_val) &&
               virtio_mmio_has(vd, VIRTIO_BALLOON_F_PAGE_POISON)) {
        memcpy(&balloon->config.poison_val, data, len);
    }
}

/* ------------------------------------------------------------------------------------ save and load */

static void save(struct dev *dev, void *object)
{
    struct balloon *balloon = balloon_of(virtio_dev_of(dev));
    struct virtio_balloon_state *state = object;
    pthread_mutex_lock(&balloon->vd.lock);
    *state = (struct virtio_balloon_state){ .num_pages = le32toh(balloon->config.num_pages),
                                            .actual = le32toh(balloon->config.actual),
                                            .poison_val = le32toh(balloon->config.poison_val),
                                            .transport_count = 1 };
    virtio_mmio_save(&balloon->vd, &state->transport[0]);
    pthread_mutex_unlock(&balloon->vd.lock);
}

static int load(struct dev *dev, const void *object, struct err *err)
{
    struct balloon *balloon = balloon_of(virtio_dev_of(dev));
    const struct virtio_balloon_state *state = object;
    if (state->transport_count != 1)
        return err_set(err, ERR_PEER, EBADMSG, "virtio-balloon %u: no transport state",
                       dev->instance);
    if (state->num_pages > balloon->vd.mem->pages)
        return err_set(err, ERR_PEER, EBADMSG,
                       "virtio-balloon %u: %u pages are wanted, and the guest has %llu",
                       dev->instance, state->num_pages, (unsigned long long)balloon->vd.mem->pages);
    pthread_mutex_lock(&balloon->vd.lock);
    balloon->config.num_pages = htole32(state->num_pages);
    balloon->config.actual = htole32(state->actual);
    balloon->config.poison_val = htole32(state->poison_val);
    int rc = virtio_mmio_load(&balloon->vd, &state->transport[0], err);
    pthread_mutex_unlock(&balloon->vd.lock);
    return rc;
}

/* ------------------------------------------------------------------------------------ for the monitor */

void virtio_balloon_info(struct dev *dev, struct virtio_balloon_info *ret)
{
    struct balloon *balloon = balloon_of(virtio_dev_of(dev));
    struct virtio_dev *vd = &balloon->vd;
    pthread_mutex_lock(&vd->lock);
    bool live = virtio_mmio_live(vd);
    *ret = (struct virtio_balloon_info){
        .target_bytes = bytes_of(balloon->config.num_pages),
        .actual_bytes = bytes_of(balloon->config.actual),
        .inflated_bytes = vd->count[COUNT_INFLATED],
        .reported_bytes = vd->count[COUNT_REPORTED],
        .driver = live,
        .reporting =
            live && virtio_mmio_has(vd, VIRTIO_BALLOON_F_REPORTING) && takes_reports(balloon),
        .deflate_on_oom = live && virtio_mmio_has(vd, VIRTIO_BALLOON_F_DEFLATE_ON_OOM),
        .stats = balloon->stats,
        .stats_ns = balloon->stats_ns,
    };
    memcpy(ret->stat, balloon->stat, sizeof(ret->stat));
    ask_for_stats(balloon);
    pthread_mutex_unlock(&vd->lock);
}

int virtio_balloon_set(struct dev *dev, uint64_t bytes)
{
    struct balloon *balloon = balloon_of(virtio_dev_of(dev));
    uint64_t pages = bytes >> PFN_SHIFT;
    if (pages > MIN(balloon->vd.mem->pages, (uint64_t)UINT32_MAX))
        return -EINVAL;
    pthread_mutex_lock(&balloon->vd.lock);
    bool paused = balloon->vd.paused; /* an interrupt now could be lost between save and load */
    if (!paused) {
        balloon->config.num_pages = htole32((uint32_t)pages);
        virtio_mmio_config_changed(&balloon->vd);
    }
    pthread_mutex_unlock(&balloon->vd.lock);
    return paused ? -EBUSY : 0;
}

static void balloon_free(struct dev *dev)
{
    struct balloon *balloon = balloon_of(virtio_dev_of(dev));
    virtio_mmio_fini(&balloon->vd);
    free(balloon);
}

static const struct virtio_ops balloon_vops = {
    .device_id = VIRTIO_ID_BALLOON,
    .queue_count = QUEUES,
    .queue_size = { 128, 128, 128, 128, 128 }, /* Linux reports 32 ranges at a time */
    .count_name = { [COUNT_INFLATED] = "inflated_bytes",
                    [COUNT_DEFLATED] = "deflated_bytes",
                    [COUNT_REPORTED] = "reported_bytes" },
    .serve = serve,
    .run = run,
    .stop = stop,
    .write_config = write_config,
};

static const struct dev_ops balloon_ops = {
    .name = "virtio-balloon",
    .section = SECTION_VIRTIO_BALLOON,
    .schema = &virtio_balloon_state_schema,
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .reset = virtio_mmio_reset,
    .pause = virtio_mmio_pause,
    .resume = virtio_mmio_resume,
    .save = save,
    .load = load,
    .free = balloon_free,
};

int virtio_balloon_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                          virtio_balloon_changed_fn *changed, void *ctx, struct err *err)
{
    struct balloon *balloon = calloc(1, sizeof(*balloon));
    if (!balloon)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create virtio-balloon %u", instance);
    balloon->changed = changed;
    balloon->ctx = ctx;
    balloon->vd.config = &balloon->config;
    balloon->vd.config_bytes = sizeof(balloon->config);
    int rc = virtio_mmio_init(&balloon->vd, &balloon_ops, &balloon_vops, instance, mem, loop,
                              FEATURES, err);
    if (rc) {
        free(balloon);
        return rc;
    }
    *ret = &balloon->vd.dev;
    return 0;
}
