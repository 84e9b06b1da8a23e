/* virtio-balloon before a fake driver: what it takes, when it answers, and what it keeps in a move. */
#include "dev/virtio_balloon.h"
#include "mem/discard.h"
#include "virtio_driver.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define BUF UINT64_C(0x200000) /* page numbers, statistics */
#define HEAP (16 * MIB)        /* what the guest gives back */

#define BIT(n) (UINT64_C(1) << (n))
#define BASIC                                                                \
    (BIT(VIRTIO_BALLOON_F_MUST_TELL_HOST) | BIT(VIRTIO_BALLOON_F_STATS_VQ) | \
     BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | BIT(VIRTIO_BALLOON_F_REPORTING))
#define REPORTS 3 /* its queue as Linux numbers it, with statistics accepted */

static struct mem mem;
static struct loop loop;
static struct driver d;
static unsigned changes;
static uint64_t told_target, told_actual;

static void on_change(void *ctx, uint64_t target, uint64_t actual)
{
    assert_ptr_equal(ctx, &changes);
    changes++;
    told_target = target;
    told_actual = actual;
}

static struct dev *make(void)
{
    struct dev *dev;
    struct err err = { 0 };
    assert_int_equal(virtio_balloon_create(&dev, 5, &mem, &loop, on_change, &changes, &err), 0);
    return dev;
}

static int setup(void **state)
{
    struct err err = { 0 };
    (void)state;
    assert_int_equal(mem_init(&mem, DRIVER_MEM_BYTES, MEM_PAGES_SMALL, &err), 0);
    assert_int_equal(loop_init(&loop), 0);
    d = (struct driver){ .dev = make(), .mem = &mem, .loop = &loop };
    d.dev->ops->resume(d.dev);
    changes = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    d.dev->ops->free(d.dev);
    loop_fini(&loop);
    mem_fini(&mem);
    return 0;
}

static struct virtio_balloon_info info(void)
{
    struct virtio_balloon_info info;
    virtio_balloon_info(d.dev, &info);
    return info;
}

static uint32_t config(uint64_t offset)
{
    return driver_read32(&d, VIRTIO_MMIO_CONFIG + offset);
}

static void fill(uint64_t gpa, uint64_t bytes)
{
    memset(driver_mem(&d, gpa), 0x5a, bytes);
}

/* Pages of [gpa, gpa+bytes) that hold memory; asked of the kernel, since a look would make them. */
static uint64_t resident(uint64_t gpa, uint64_t bytes)
{
    uint64_t from, to, pages = 0, end = (gpa + bytes) / PAGE_BYTES;
    for (uint64_t at = gpa / PAGE_BYTES; at < end && !mem_next_touched(&mem, at, &from, &to);
         at = to)
        pages += from < end ? MIN(to, end) - from : 0;
    return pages;
}

static void submit_pfns(unsigned queue, const uint32_t *pfn, uint32_t count)
{
    memcpy(driver_mem(&d, BUF), pfn, count * sizeof(*pfn));
    driver_submit(&d, queue, &(struct driver_seg){ BUF, count * 4, false }, 1);
    driver_kick(&d, queue);
}

static void used_up(unsigned queue)
{
    uint32_t len;
    driver_wait(&d, queue, 1);
    (void)driver_used(&d, queue, &len);
    assert_int_equal(len, 0);
}

static void balloon_takes_and_returns(void **state)
{
    (void)state;
    uint32_t pfn[256];
    driver_start(&d, BASIC, 64);
    assert_int_equal(config(0), 0);
    (void)driver_interrupts(&d);
    uint32_t generation = driver_read32(&d, VIRTIO_MMIO_CONFIG_GENERATION);
    assert_int_equal(virtio_balloon_set(d.dev, MIB + 4095), 0);
    assert_int_equal(driver_interrupts(&d), 1);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    assert_int_not_equal(driver_read32(&d, VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_int_equal(config(0), 256);

    /* In any order, twice, with a page between that stays. */
    fill(HEAP, 2 * MIB);
    for (uint32_t i = 0; i < 256; i++)
        pfn[i] = (uint32_t)(HEAP / PAGE_BYTES) + (i * 37 % 256) + (i * 37 % 256 >= 100);
    submit_pfns(0, pfn, 256);
    used_up(0);
    assert_int_equal(resident(HEAP, 2 * MIB), 512 - 256);
    assert_int_equal(*(uint8_t *)driver_mem(&d, HEAP + 100 * PAGE_BYTES), 0x5a);
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 4, 256);
    assert_int_equal(told_target, MIB);
    assert_int_equal(told_actual, MIB);
    struct virtio_balloon_info now = info();
    assert_int_equal(now.actual_bytes, MIB);
    assert_int_equal(now.inflated_bytes, MIB);
    assert_true(now.driver && now.reporting && now.deflate_on_oom);

    fill(HEAP, PAGE_BYTES);
    submit_pfns(1, pfn, 10);
    used_up(1);
    assert_int_equal(driver_count(&d, "inflated_bytes"), MIB);
    assert_int_equal(driver_count(&d, "deflated_bytes"), 10 * PAGE_BYTES);
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 4, 246);
    assert_int_equal(info().actual_bytes, 246 * PAGE_BYTES);
    assert_int_equal(*(uint8_t *)driver_mem(&d, HEAP), 0x5a); /* nothing is done to what it takes */

    assert_int_equal(virtio_balloon_set(d.dev, DRIVER_MEM_BYTES), 0);
    assert_int_equal(virtio_balloon_set(d.dev, DRIVER_MEM_BYTES + PAGE_BYTES), -EINVAL);
    assert_int_equal(virtio_balloon_set(d.dev, UINT64_MAX), -EINVAL);
    assert_int_equal(info().target_bytes, DRIVER_MEM_BYTES);
}

static void configuration_is_guarded(void **state)
{
    (void)state;
    driver_start(&d, BASIC, 64);
    assert_int_equal(virtio_balloon_set(d.dev, MIB), 0);
    driver_write32(&d, VIRTIO_MMIO_CONFIG, 7); /* the host's */
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 2, 7);
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 8, 7);  /* a feature not offered */
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 12, 7); /* one not accepted */
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 16, 7);
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 0xf00, 7);
    uint64_t wide = UINT64_MAX;
    d.dev->ops->write(d.dev, VIRTIO_MMIO_CONFIG + 4, &wide, 8);
    d.dev->ops->write(d.dev, VIRTIO_MMIO_CONFIG + 4, &wide, 1);
    assert_int_equal(config(0), 256);
    for (unsigned at = 4; at < 20; at += 4)
        assert_int_equal(config(at), 0);
    assert_int_equal(info().actual_bytes, 0);
}

static void report(const struct driver_seg *segs, unsigned count)
{
    driver_submit(&d, REPORTS, segs, count);
    driver_kick(&d, REPORTS);
    driver_wait(&d, REPORTS, 1);
    uint32_t len;
    (void)driver_used(&d, REPORTS, &len);
}

static void reports_are_holes_when_answered(void **state)
{
    (void)state;
    driver_start(&d, BASIC, 64);
    fill(HEAP, 24 * MIB);
    report((struct driver_seg[]){ { HEAP, 9 * MIB, true },                   /* many slices */
                                  { HEAP + 10 * MIB + 5, 5 * MIB, true },    /* no whole pages */
                                  { HEAP + 20 * MIB + 100, 2 * 4096, true }, /* one whole page */
                                  { HEAP + 21 * MIB, 4095, true },           /* none */
                                  { HEAP + 22 * MIB, 1, true } },
           5);
    assert_int_equal(resident(HEAP, 9 * MIB), 0);
    assert_int_equal(resident(HEAP + 9 * MIB, MIB), 256);
    assert_int_equal(resident(HEAP + 10 * MIB, 5 * MIB), 1);
    assert_int_equal(resident(HEAP + 15 * MIB, 5 * MIB), 1280);
    assert_int_equal(resident(HEAP + 20 * MIB, 4 * MIB), 1024 - 1);
    assert_true(info().reported_bytes >= 14 * MIB);
    assert_int_equal(driver_count(&d, "reported_bytes"), info().reported_bytes);
    assert_true(driver_interrupts(&d) > 0);
}

/* A guest that fills its free pages gets them back as it left them: zero, or not taken at all. */
static void poison_is_respected(void **state)
{
    (void)state;
    static const struct {
        bool accepted;
        uint32_t value;
        bool taken;
    } cases[] = { { false, 0, true }, { true, 0, true }, { true, 0xaaaaaaaa, false } };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_true(
            driver_negotiate(&d,
                             BASIC | (cases[i].accepted ? BIT(VIRTIO_BALLOON_F_PAGE_POISON) : 0)) &
            VIRTIO_CONFIG_S_FEATURES_OK);
        driver_write32(&d, VIRTIO_MMIO_CONFIG + 12, cases[i].value);
        driver_queue_setup(&d, REPORTS, 64, 0x130000);
        driver_queue_setup(&d, 0, 64, 0x140000);
        driver_ready(&d);
        fill(HEAP, 2 * MIB);
        report(&(struct driver_seg){ HEAP, MIB, true }, 1);
        assert_int_equal(resident(HEAP, MIB), cases[i].taken ? 0 : 256);
        assert_int_equal(info().reporting, cases[i].taken);
        uint32_t pfn = (uint32_t)((HEAP + MIB) / PAGE_BYTES);
        submit_pfns(0, &pfn, 1); /* the balloon's pages hold nothing */
        used_up(0);
        assert_int_equal(resident(HEAP + MIB, MIB), 255);
    }
}

/* Queue numbers move up when a feature was not accepted, or stay: both kinds of driver exist. */
static void queues_as_drivers_number_them(void **state)
{
    (void)state;
    static const struct {
        uint64_t features;
        unsigned reports;
    } cases[] = { { BASIC, 3 },
                  { BASIC, 4 },
                  { BIT(VIRTIO_BALLOON_F_REPORTING), 2 },
                  { BIT(VIRTIO_BALLOON_F_REPORTING), 4 } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        driver_start(&d, cases[i].features, 16);
        fill(HEAP, MIB);
        driver_submit(&d, cases[i].reports, &(struct driver_seg){ HEAP, MIB, true }, 1);
        driver_kick(&d, cases[i].reports);
        used_up(cases[i].reports);
        assert_int_equal(resident(HEAP, MIB), 0);
    }
    /* Without the feature such a queue is nobody's. */
    driver_start(&d, 0, 16);
    fill(HEAP, MIB);
    driver_submit(&d, 3, &(struct driver_seg){ HEAP, MIB, true }, 1);
    driver_kick(&d, 3);
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, 3), 0);
    assert_int_equal(resident(HEAP, MIB), 256);
}

static void offer_stats(uint64_t free_bytes)
{
    struct virtio_balloon_stat stat[] = {
        { VIRTIO_BALLOON_S_MEMFREE, free_bytes },
        { 999, 1 },
        { VIRTIO_BALLOON_S_MEMTOT, 64 * MIB },
        { VIRTIO_BALLOON_S_CACHES, UINT64_MAX }, /* not known to the guest */
    };
    memcpy(driver_mem(&d, BUF), stat, sizeof(stat));
    driver_submit(&d, 2, &(struct driver_seg){ BUF, sizeof(stat) + 3, false }, 1);
    driver_kick(&d, 2);
    driver_settle(&d);
}

static void statistics_come_when_asked(void **state)
{
    (void)state;
    driver_start(&d, BASIC, 16);
    driver_settle(&d);
    assert_int_equal(info().stats, 0);
    changes = 0;
    for (unsigned i = 1; i <= 40; i++) { /* more often than the ring is long */
        offer_stats(i * MIB);
        assert_int_equal(driver_used_waiting(&d, 2), 0); /* it stays there */
        struct virtio_balloon_info now = info();         /* and goes back for new figures */
        assert_int_equal(now.stats, 1u << VIRTIO_BALLOON_S_MEMFREE | 1u << VIRTIO_BALLOON_S_MEMTOT);
        assert_int_equal(now.stat[VIRTIO_BALLOON_S_MEMFREE], i * MIB);
        used_up(2);
        driver_settle(&d);
    }
    assert_int_equal(changes, 40);
    /* A driver that offers more buffers than there is use for. */
    for (unsigned i = 0; i < 5; i++)
        offer_stats(i);
    assert_int_equal(info().stat[VIRTIO_BALLOON_S_MEMFREE], 4);
    driver_settle(&d);
}

static void hostile_pages_break_only_the_device(void **state)
{
    (void)state;
    const uint32_t pfns[][2] = { { 5000, (uint32_t)(DRIVER_MEM_BYTES / PAGE_BYTES) },
                                 { UINT32_MAX, 5000 },
                                 { 5000, 0xc0000 } };
    for (size_t i = 0; i < 2 * ARRAY_LEN(pfns); i++) {
        driver_start(&d, BASIC, 16);
        submit_pfns(i % 2, pfns[i / 2], 2);
        driver_settle(&d);
        assert_true(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
        assert_int_equal(driver_used_waiting(&d, i % 2), 0);
        assert_int_equal(d.dev->ops->pause(d.dev), 0);
        d.dev->ops->resume(d.dev);
    }
    /* A report that leaves RAM. */
    driver_start(&d, BASIC, 16);
    driver_submit(&d, REPORTS,
                  &(struct driver_seg){ DRIVER_MEM_BYTES - PAGE_BYTES, 2 * PAGE_BYTES, true }, 1);
    driver_kick(&d, REPORTS);
    driver_settle(&d);
    assert_true(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);

    /* Strange, but within the rules: nothing to read, half a page number, its own ring and buffer. */
    driver_start(&d, BASIC, 16);
    driver_submit(&d, 0, &(struct driver_seg){ BUF, 64, true }, 1);
    driver_kick(&d, 0);
    used_up(0);
    driver_submit(&d, 0, &(struct driver_seg){ BUF, 3, false }, 1);
    driver_kick(&d, 0);
    used_up(0);
    driver_submit(&d, REPORTS, &(struct driver_seg){ BUF, 64, false }, 1);
    driver_kick(&d, REPORTS);
    used_up(REPORTS);
    const uint32_t own[] = { BUF / PAGE_BYTES, (uint32_t)(d.queue[0].used_gpa / PAGE_BYTES),
                             (uint32_t)(d.queue[0].avail_gpa / PAGE_BYTES),
                             (uint32_t)(d.queue[0].desc_gpa / PAGE_BYTES) };
    submit_pfns(0, own, 4);
    driver_settle(&d);
    driver_start(&d, BASIC, 16);
    const uint32_t good = (uint32_t)(HEAP / PAGE_BYTES);
    submit_pfns(0, &good, 1);
    used_up(0);
}

/* Whatever has been done of a long request, a pause finds nothing in flight, and the target does the
 * rest: an answer there still means that all its pages are holes, there. */
static void moves_in_the_middle_of_a_report(void **state)
{
    (void)state;
    struct err err = { 0 };
    driver_start(&d, BASIC | BIT(VIRTIO_BALLOON_F_PAGE_POISON), 64);
    assert_int_equal(virtio_balloon_set(d.dev, 3 * MIB), 0);
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 4, 512);
    driver_write32(&d, VIRTIO_MMIO_CONFIG + 12, 0);
    offer_stats(MIB);
    fill(HEAP, 24 * MIB);
    driver_submit(&d, REPORTS, &(struct driver_seg){ HEAP, 24 * MIB, true }, 1);
    driver_kick(&d, REPORTS);
    for (int i = 0; i < 3; i++)
        assert_int_equal(loop_once(&loop, 0), 0);
    assert_in_range(resident(HEAP, 24 * MIB), 1, 24 * 256 - 1);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    assert_int_equal(virtio_balloon_set(d.dev, 0), -EBUSY);
    assert_int_equal(driver_used_waiting(&d, REPORTS), 0);

    fill(HEAP, MIB); /* had the first part been done to another memory */
    struct dev *there = make();
    assert_int_equal(driver_transplant(d.dev, there, &err), 0);
    d.dev->ops->free(d.dev);
    d.dev = there;
    assert_int_equal(config(0), 768);
    assert_int_equal(config(4), 512);
    d.dev->ops->resume(d.dev);
    used_up(REPORTS);
    assert_int_equal(resident(HEAP, 24 * MIB), 0);
    struct virtio_balloon_info now = info();
    assert_true(now.reporting);
    assert_int_equal(now.stat[VIRTIO_BALLOON_S_MEMFREE], MIB); /* its buffer came along */
    used_up(2);
}

static void foreign_state_is_refused(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct virtio_balloon_state good, bad;
    driver_start(&d, BASIC, 64);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->save(d.dev, &good);
    struct dev *there = make();
    bad = good;
    bad.num_pages = (uint32_t)(DRIVER_MEM_BYTES / PAGE_BYTES) + 1;
    assert_int_equal(there->ops->load(there, &bad, &err), -EBADMSG);
    bad = good;
    bad.transport_count = 0;
    assert_int_equal(there->ops->load(there, &bad, &err), -EBADMSG);
    bad = good;
    bad.transport[0].queue_count = 4;
    assert_int_equal(there->ops->load(there, &bad, &err), -EBADMSG);
    assert_int_equal(there->ops->load(there, &good, &err), 0);
    there->ops->free(there);
}

/* While pages still arrive (mem_discard_hold()), a report is answered and its pages stay; the balloon's
 * go when the hold ends, unless the guest took them back. */
static void waits_while_memory_arrives(void **state)
{
    (void)state;
    uint32_t pfn[64];
    driver_start(&d, BASIC, 64);
    fill(HEAP, 4 * MIB);
    assert_int_equal(mem_discard_hold(&mem), 0);
    report(&(struct driver_seg){ HEAP + 2 * MIB, MIB, true }, 1);
    for (uint32_t i = 0; i < 64; i++)
        pfn[i] = (uint32_t)(HEAP / PAGE_BYTES) + i;
    submit_pfns(0, pfn, 64);
    used_up(0);
    submit_pfns(1, pfn, 10);
    used_up(1);
    assert_int_equal(resident(HEAP, 4 * MIB), 1024);
    assert_int_equal(mem_discard_release(&mem), 0);
    assert_int_equal(resident(HEAP, 4 * MIB), 1024 - 54);
    assert_int_equal(resident(HEAP, 10 * PAGE_BYTES), 10);

    /* A driver that does not say when it takes pages back: they stay. */
    driver_start(&d, BASIC & ~BIT(VIRTIO_BALLOON_F_MUST_TELL_HOST), 64);
    assert_int_equal(mem_discard_hold(&mem), 0);
    submit_pfns(0, pfn, 10);
    used_up(0);
    assert_int_equal(mem_discard_release(&mem), 0);
    assert_int_equal(resident(HEAP, 10 * PAGE_BYTES), 10);

    /* And after a reset all are the guest's again. */
    driver_start(&d, BASIC, 64);
    assert_int_equal(mem_discard_hold(&mem), 0);
    submit_pfns(0, pfn, 10);
    used_up(0);
    driver_write32(&d, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(mem_discard_release(&mem), 0);
    assert_int_equal(resident(HEAP, 10 * PAGE_BYTES), 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(balloon_takes_and_returns, setup, teardown),
        cmocka_unit_test_setup_teardown(configuration_is_guarded, setup, teardown),
        cmocka_unit_test_setup_teardown(reports_are_holes_when_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(poison_is_respected, setup, teardown),
        cmocka_unit_test_setup_teardown(queues_as_drivers_number_them, setup, teardown),
        cmocka_unit_test_setup_teardown(statistics_come_when_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_pages_break_only_the_device, setup, teardown),
        cmocka_unit_test_setup_teardown(moves_in_the_middle_of_a_report, setup, teardown),
        cmocka_unit_test_setup_teardown(foreign_state_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(waits_while_memory_arrives, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
