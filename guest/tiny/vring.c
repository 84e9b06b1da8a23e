/*
 * Virtio: requests in flight are done once each, with the right bytes, whatever moves meanwhile.
 *
 * Drives one virtio-mmio device (virtio 1.2, chapters 2.7 and 4.2) through one split virtqueue,
 * with every slot's request in flight all the time, polling the used ring. Slot n owns descriptors
 * 3n to 3n+2.
 *   rng (device id 4): bytes come, no more than asked for, nothing beyond them is touched.
 *   blk (device id 2): slot n walks over the blocks n, n + SLOTS, ...: it reads one, compares it
 *   with what was written there last (or read there first), and writes new contents unless the disk
 *   is read-only.
 *   balloon (device id 5): slot n walks over runs of free memory in the same way. One that is in use
 *   must hold what was written there; it is zeroed, reported free, and left alone for a lap. One that
 *   is free must be zero, whatever it held before and wherever the guest is now; it is used again.
 *
 * Parameters: mmio = address of the device's registers; blocks = how many 4 KiB blocks of the disk
 * or 64 KiB runs of memory to use (256, at most what there is).
 */
#include "tiny.h"

enum {
    REG_MAGIC = 0x00,
    REG_VERSION = 0x04,
    REG_DEVICE_ID = 0x08,
    REG_DEVICE_FEATURES = 0x10,
    REG_DEVICE_FEATURES_SEL = 0x14,
    REG_DRIVER_FEATURES = 0x20,
    REG_DRIVER_FEATURES_SEL = 0x24,
    REG_QUEUE_SEL = 0x30,
    REG_QUEUE_NUM_MAX = 0x34,
    REG_QUEUE_NUM = 0x38,
    REG_QUEUE_READY = 0x44,
    REG_QUEUE_NOTIFY = 0x50,
    REG_STATUS = 0x70,
    REG_QUEUE_DESC = 0x80,
    REG_QUEUE_DRIVER = 0x90,
    REG_QUEUE_DEVICE = 0xa0,
    REG_CONFIG = 0x100,

    MAGIC = 0x74726976,
    ID_BLK = 2,
    ID_RNG = 4,
    ID_BALLOON = 5,
    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 0x40,
    FEATURE_BLK_RO = 1 << 5,
    FEATURE_PAGE_POISON = 1 << 4, /* what free pages hold is told: the register's 0, so zeroes */
    FEATURE_REPORTING = 1 << 5,
    REPORTING_QUEUE = 2,        /* without a statistics queue */
    FEATURE_VERSION_1 = 1 << 0, /* bit 32: the first of the second word */
    DESC_NEXT = 1,
    DESC_WRITE = 2, /* by the device */
    AVAIL_NO_INTERRUPT = 1,
    USED_NO_NOTIFY = 1,
    BLK_IN = 0,
    BLK_OUT = 1,
    SECTORS_PER_BLOCK = 8,

    QUEUE_SIZE = 32,
    SLOTS = 8,
    BLOCKS_MAX = 4096,
    RNG_BYTES = 256,
    RUN_PAGES = 16,
    OK_INTERVAL_MS = 1000,
    LOST_MS = 10000, /* a request not done after so long, and ... */
    LOST_POLLS = 1000000,
};

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

/* Laid out as the device sees it. */
static struct {
    struct desc desc[QUEUE_SIZE];
    struct {
        uint16_t flags, idx, ring[QUEUE_SIZE];
    } avail;
    struct {
        uint16_t flags, idx;
        struct {
            uint32_t id, len;
        } ring[QUEUE_SIZE];
    } used __attribute__((aligned(4096)));
} volatile queue __attribute__((aligned(4096)));

struct slot {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
    bool in_flight, last_lap, finished;
    uint64_t block;
    uint64_t last; /* rng: hash of the last bytes */
};

static struct slot slots[SLOTS];
static uint64_t data[SLOTS][TINY_PAGE_WORDS] __attribute__((aligned(4096)));
/* Hash of what a block holds, 0 = not known yet; of a run, the number its contents are made of, 0 = free. */
static uint64_t known[BLOCKS_MAX];

struct vring {
    volatile uint32_t *mmio;
    uint32_t id, queue;
    bool read_only;
    uint64_t blocks, generation;
    uint16_t used_seen;
    uint64_t requests, ok_tsc;
    uint64_t done_tsc, polls; /* since the last request was done */
    bool finishing;
};

static uint32_t reg_read(const struct vring *v, unsigned reg)
{
    return v->mmio[reg / 4];
}

static void reg_write(const struct vring *v, unsigned reg, uint32_t value)
{
    v->mmio[reg / 4] = value;
}

static void reg_write_address(const struct vring *v, unsigned reg, const volatile void *at)
{
    reg_write(v, reg, (uint32_t)(uint64_t)at);
    reg_write(v, reg + 4, (uint32_t)((uint64_t)at >> 32));
}

/* Virtio 1.2, 3.1.1, with VERSION_1 and, for a read-only disk, RO. */
static void device_start(struct vring *v)
{
    if (reg_read(v, REG_MAGIC) != MAGIC || reg_read(v, REG_VERSION) != 2)
        tiny_bad("no virtio-mmio device of version 2 at 0x%x", (uint64_t)v->mmio);
    v->id = reg_read(v, REG_DEVICE_ID);
    if (v->id != ID_BLK && v->id != ID_RNG && v->id != ID_BALLOON)
        tiny_bad("device id %u is neither blk nor rng nor balloon", (uint64_t)v->id);
    reg_write(v, REG_STATUS, 0);
    while (reg_read(v, REG_STATUS))
        ;
    reg_write(v, REG_STATUS, STATUS_ACKNOWLEDGE);
    reg_write(v, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);

    reg_write(v, REG_DEVICE_FEATURES_SEL, 1);
    if (!(reg_read(v, REG_DEVICE_FEATURES) & FEATURE_VERSION_1))
        tiny_bad("device without VERSION_1");
    reg_write(v, REG_DEVICE_FEATURES_SEL, 0);
    uint32_t wanted = v->id == ID_BLK       ? FEATURE_BLK_RO
                      : v->id == ID_BALLOON ? FEATURE_PAGE_POISON | FEATURE_REPORTING
                                            : 0;
    uint32_t features = reg_read(v, REG_DEVICE_FEATURES) & wanted;
    v->read_only = v->id == ID_BLK && features;
    if (v->id == ID_BALLOON && features != wanted)
        tiny_bad("balloon without reporting");
    reg_write(v, REG_DRIVER_FEATURES_SEL, 0);
    reg_write(v, REG_DRIVER_FEATURES, features);
    reg_write(v, REG_DRIVER_FEATURES_SEL, 1);
    reg_write(v, REG_DRIVER_FEATURES, FEATURE_VERSION_1);
    uint32_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    reg_write(v, REG_STATUS, status);
    if (!(reg_read(v, REG_STATUS) & STATUS_FEATURES_OK))
        tiny_bad("features refused");

    v->queue = v->id == ID_BALLOON ? REPORTING_QUEUE : 0;
    reg_write(v, REG_QUEUE_SEL, v->queue);
    if (reg_read(v, REG_QUEUE_NUM_MAX) < QUEUE_SIZE)
        tiny_bad("queue too small");
    reg_write(v, REG_QUEUE_NUM, QUEUE_SIZE);
    reg_write_address(v, REG_QUEUE_DESC, queue.desc);
    reg_write_address(v, REG_QUEUE_DRIVER, &queue.avail);
    reg_write_address(v, REG_QUEUE_DEVICE, &queue.used);
    queue.avail.flags = AVAIL_NO_INTERRUPT;
    reg_write(v, REG_QUEUE_READY, 1);
    reg_write(v, REG_STATUS, status | STATUS_DRIVER_OK);
    if (v->id == ID_BLK) {
        uint64_t sectors = reg_read(v, REG_CONFIG) | (uint64_t)reg_read(v, REG_CONFIG + 4) << 32;
        v->blocks = tiny_arg("blocks", 256);
        if (v->blocks > sectors / SECTORS_PER_BLOCK)
            v->blocks = sectors / SECTORS_PER_BLOCK;
        if (v->blocks < SLOTS || v->blocks > BLOCKS_MAX)
            tiny_bad("%u blocks cannot be used", v->blocks);
    } else if (v->id == ID_BALLOON) {
        v->blocks = tiny_arg("blocks", 256);
        if (v->blocks < 2 * SLOTS || v->blocks > BLOCKS_MAX || v->blocks > tiny_pages() / RUN_PAGES)
            tiny_bad("%u runs cannot be used", v->blocks);
    }
}

static void desc_set(unsigned i, const volatile void *at, uint32_t len, uint16_t flags)
{
    queue.desc[i].addr = (uint64_t)at;
    queue.desc[i].len = len;
    queue.desc[i].flags = flags;
    queue.desc[i].next = (uint16_t)(i + 1);
}

static void submit(struct vring *v, unsigned n)
{
    slots[n].in_flight = true;
    queue.avail.ring[queue.avail.idx % QUEUE_SIZE] = (uint16_t)(3 * n);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    queue.avail.idx++;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* idx first, then flags: 2.7.13.4.1 */
    if (!(queue.used.flags & USED_NO_NOTIFY))
        reg_write(v, REG_QUEUE_NOTIFY, v->queue);
}

static uint64_t hash_of(const uint64_t *words, unsigned count)
{
    uint64_t hash = count;
    for (unsigned i = 0; i < count; i++)
        hash = tiny_mix(hash ^ words[i]);
    return hash | 1; /* 0 means not known */
}

static void words_zero(uint64_t *words, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        words[i] = 0;
}

static void rng_submit(struct vring *v, unsigned n)
{
    words_zero(data[n], TINY_PAGE_WORDS);
    desc_set(3 * n, data[n], RNG_BYTES, DESC_WRITE);
    submit(v, n);
}

static void rng_done(struct vring *v, unsigned n, uint32_t len)
{
    const uint8_t *bytes = (const uint8_t *)data[n];
    if (!len || len > RNG_BYTES)
        tiny_bad("slot %u: %u random bytes of %u", (uint64_t)n, (uint64_t)len, (uint64_t)RNG_BYTES);
    for (unsigned i = len; i < TINY_PAGE_BYTES; i++)
        if (bytes[i])
            tiny_bad("slot %u: byte %u written, after only %u", (uint64_t)n, (uint64_t)i,
                     (uint64_t)len);
    if (len >= 16) { /* fewer might be equal by chance */
        uint64_t hash = hash_of(data[n], TINY_PAGE_WORDS);
        if (!(data[n][0] | data[n][1]) || hash == slots[n].last)
            tiny_bad("slot %u: no new random bytes", (uint64_t)n);
        slots[n].last = hash;
    }
    slots[n].finished = v->finishing;
    if (!slots[n].finished)
        rng_submit(v, n);
}

static void blk_submit(struct vring *v, unsigned n, uint32_t type)
{
    struct slot *s = &slots[n];
    s->header.type = type;
    s->header.sector = s->block * SECTORS_PER_BLOCK;
    s->status = 0xff;
    if (type == BLK_IN) {
        words_zero(data[n], TINY_PAGE_WORDS);
    } else {
        for (unsigned i = 0; i < TINY_PAGE_WORDS; i++)
            data[n][i] = tiny_mix(v->generation << 32 ^ s->block << 12 ^ i);
        known[s->block] = hash_of(data[n], TINY_PAGE_WORDS);
    }
    desc_set(3 * n, &s->header, sizeof(s->header), DESC_NEXT);
    desc_set(3 * n + 1, data[n], TINY_PAGE_BYTES, DESC_NEXT | (type == BLK_IN ? DESC_WRITE : 0));
    desc_set(3 * n + 2, &s->status, 1, DESC_WRITE);
    submit(v, n);
}

/* The slot's next block, or its first one again. When finishing, one more whole lap of reading. */
static void blk_next(struct vring *v, unsigned n)
{
    slots[n].block += SLOTS;
    if (slots[n].block >= v->blocks) {
        slots[n].block = n;
        slots[n].finished = slots[n].last_lap;
        slots[n].last_lap = v->finishing;
        v->generation += n == 0;
    }
    if (!slots[n].finished)
        blk_submit(v, n, BLK_IN);
}

static void blk_done(struct vring *v, unsigned n, uint32_t len)
{
    struct slot *s = &slots[n];
    uint32_t most = s->header.type == BLK_IN ? TINY_PAGE_BYTES + 1 : 1;
    if (s->status || len > most)
        tiny_bad("block %u: status %u, length %u of %u", s->block, (uint64_t)s->status,
                 (uint64_t)len, (uint64_t)most);
    if (s->header.type == BLK_OUT) {
        blk_next(v, n);
        return;
    }
    uint64_t hash = hash_of(data[n], TINY_PAGE_WORDS);
    if (known[s->block] && hash != known[s->block])
        tiny_bad("block %u: not what it held before", s->block);
    known[s->block] = hash;
    if (v->read_only || v->finishing)
        blk_next(v, n);
    else
        blk_submit(v, n, BLK_OUT);
}

static uint64_t run_word(uint64_t run, unsigned page, unsigned i)
{
    return known[run] ? tiny_mix(known[run] << 32 ^ run << 16 ^ page << 9 ^ i) : 0;
}

static void run_check(uint64_t run)
{
    for (unsigned page = 0; page < RUN_PAGES; page++) {
        const volatile uint64_t *words = tiny_page(run * RUN_PAGES + page);
        for (unsigned i = 0; i < TINY_PAGE_WORDS; i++)
            if (words[i] != run_word(run, page, i))
                tiny_bad("run %u, %s: page %u, word %u is 0x%x", run,
                         known[run] ? "in use" : "free", (uint64_t)page, (uint64_t)i, words[i]);
    }
}

static void run_fill(uint64_t run, uint64_t with)
{
    known[run] = with;
    for (unsigned page = 0; page < RUN_PAGES; page++) {
        uint64_t *words = tiny_page(run * RUN_PAGES + page);
        for (unsigned i = 0; i < TINY_PAGE_WORDS; i++)
            words[i] = run_word(run, page, i);
    }
}

/* Uses free runs again up to the next one that is in use, and reports that one. */
static void balloon_submit(struct vring *v, unsigned n)
{
    struct slot *s = &slots[n];
    for (;;) {
        s->block += SLOTS;
        if (s->block >= v->blocks) {
            s->block = n;
            v->generation += n == 0;
        }
        run_check(s->block);
        if (known[s->block])
            break;
        run_fill(s->block, v->requests + 1);
    }
    run_fill(s->block, 0);
    desc_set(3 * n, tiny_page(s->block * RUN_PAGES), RUN_PAGES * TINY_PAGE_BYTES, DESC_WRITE);
    submit(v, n);
}

static void balloon_done(struct vring *v, unsigned n, uint32_t len)
{
    if (len)
        tiny_bad("run %u: %u bytes written by a report", slots[n].block, (uint64_t)len);
    slots[n].finished = v->finishing;
    if (!slots[n].finished) {
        balloon_submit(v, n);
        return;
    }
    for (uint64_t run = n; run < v->blocks; run += SLOTS)
        run_check(run);
}

/* Every second run of a slot is in use. */
static void balloon_start(struct vring *v)
{
    for (uint64_t run = 0; run < v->blocks; run++)
        if (run / SLOTS % 2)
            run_fill(run, 1);
}

static void lost_check(struct vring *v)
{
    if (++v->polls < LOST_POLLS || tiny_tsc() - v->done_tsc < LOST_MS * tiny_tsc_ms)
        return;
    tiny_bad("no request done after the first %u; device status 0x%x", v->requests,
             (uint64_t)reg_read(v, REG_STATUS));
}

static void poll(struct vring *v)
{
    if (v->used_seen == queue.used.idx) {
        __asm__ volatile("pause");
        lost_check(v);
        return;
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    uint32_t id = queue.used.ring[v->used_seen % QUEUE_SIZE].id;
    uint32_t len = queue.used.ring[v->used_seen % QUEUE_SIZE].len;
    v->used_seen++;
    if (id % 3 || id / 3 >= SLOTS || !slots[id / 3].in_flight)
        tiny_bad("descriptor %u done, which is not in flight", (uint64_t)id);
    slots[id / 3].in_flight = false;
    v->requests++;
    v->polls = 0;
    v->done_tsc = tiny_tsc();
    if (v->id == ID_BALLOON)
        balloon_done(v, id / 3, len);
    else if (v->id == ID_RNG)
        rng_done(v, id / 3, len);
    else
        blk_done(v, id / 3, len);
}

static void start_all(struct vring *v)
{
    if (v->id == ID_BALLOON)
        balloon_start(v);
    for (unsigned n = 0; n < SLOTS; n++) {
        slots[n].block = n;
        if (v->id == ID_BALLOON)
            balloon_submit(v, n);
        else if (v->id == ID_RNG)
            rng_submit(v, n);
        else
            blk_submit(v, n, BLK_IN);
    }
}

static bool all_finished(void)
{
    for (unsigned n = 0; n < SLOTS; n++)
        if (!slots[n].finished)
            return false;
    return true;
}

static void report(struct vring *v)
{
    if (reg_read(v, REG_STATUS) & STATUS_NEEDS_RESET)
        tiny_bad("device needs a reset");
    tiny_ok("requests=%u rounds=%u", v->requests, v->generation);
    v->ok_tsc = tiny_tsc();
}

void guest_main(void)
{
    uint64_t at = tiny_arg("mmio", 0);
    struct vring v = {
        .mmio = (volatile uint32_t *)at,
        .ok_tsc = tiny_tsc(),
        .done_tsc = tiny_tsc(),
    };

    tiny_map_device(at);
    device_start(&v);
    start_all(&v);
    tiny_printf("info device=%u blocks=%u ro=%u\n", (uint64_t)v.id, v.blocks,
                (uint64_t)v.read_only);
    tiny_ready("vring");
    for (enum tiny_command command; (command = tiny_pulse()) != TINY_STOP;) {
        poll(&v);
        if (command == TINY_CHECK || tiny_tsc() - v.ok_tsc > OK_INTERVAL_MS * tiny_tsc_ms)
            report(&v);
    }
    v.finishing = true;
    while (!all_finished())
        poll(&v);
    report(&v);
}
