/* Memory given back by the guest: what becomes a hole, what a mover is told, and what waits. */
#include "kvm/fake.h"
#include "mem/dirty.h"
#include "mem/discard.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)

static struct mem mem;
static struct hv *hv;
static struct dirty dirty;

static int setup(void **state)
{
    (void)state;
    assert_int_equal(mem_init(&mem, 4096 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(hv_fake_open(&hv), 0);
    for (unsigned i = 0; i < mem.region_count; i++)
        assert_int_equal(hv->ops->slot_set(hv, i, gpa_of(mem.region[i].gpa),
                                           mem_page(&mem, mem.region[i].page_index),
                                           mem.region[i].bytes, false),
                         0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    dirty_stop(&dirty);
    hv->ops->close(hv);
    mem_fini(&mem);
    return 0;
}

static void fill(uint64_t first, uint64_t count)
{
    memset(mem_page(&mem, first), 0x5a, count * PAGE_BYTES);
}

/* Tracks from here on, with nothing pending. */
static void track(void)
{
    uint64_t pages, bits[1024];
    assert_int_equal(dirty_start(&dirty, &mem, hv), 0);
    assert_int_equal(dirty_fetch(&dirty, &pages), 0);
    for (uint64_t at = 0; at < mem.pages; at += MIN(mem.pages - at, UINT64_C(65536)))
        assert_int_equal(dirty_take(&dirty, at, 1024, bits), 0);
}

static uint64_t pending(void)
{
    uint64_t pages;
    assert_int_equal(dirty_fetch(&dirty, &pages), 0);
    return pages;
}

static void only_whole_pages_go(void **state)
{
    (void)state;
    fill(10, 10);
    assert_int_equal(mem_discard(&mem, gpa_of(10 * PAGE_BYTES + 1), PAGE_BYTES, false), 0);
    assert_int_equal(mem_discard(&mem, gpa_of(10 * PAGE_BYTES + 1), 2 * PAGE_BYTES - 2, false), 0);
    assert_int_equal(mem_discard(&mem, gpa_of(12 * PAGE_BYTES), 0, false), 0);
    assert_int_equal(mem_discard(&mem, gpa_of(12 * PAGE_BYTES), PAGE_BYTES - 1, false), 0);
    assert_int_equal(mem_resident_pages(&mem), 10);
    assert_int_equal(mem_discard(&mem, gpa_of(13 * PAGE_BYTES - 1), 3 * PAGE_BYTES, false), 0);
    assert_int_equal(mem_resident_pages(&mem), 8);
    assert_int_equal(*mem_page(&mem, 12), 0x5a);
    assert_int_equal(mem_freed_among(&mem, 0, UINT64_MAX), UINT64_C(3) << 13);
    assert_int_equal(*mem_page(&mem, 13), 0);
    assert_int_equal(*mem_page(&mem, 15), 0x5a);
}

static void ranges_outside_are_refused(void **state)
{
    (void)state;
    fill(0, 4);
    assert_int_equal(mem_discard(&mem, gpa_of(MEM_LOW_MAX), PAGE_BYTES, false), -EFAULT);
    assert_int_equal(mem_discard(&mem, gpa_of(MEM_LOW_MAX - PAGE_BYTES), 2 * PAGE_BYTES, true),
                     -EFAULT);
    assert_int_equal(mem_discard(&mem, gpa_of(0), UINT64_MAX, false), -EFAULT);
    assert_int_equal(mem_discard(&mem, gpa_of(UINT64_MAX), 2, false), -EFAULT);
    assert_int_equal(mem_discard(&mem, gpa_of(MEM_HIGH_GPA), mem.region[1].bytes + 1, false),
                     -EFAULT);
    mem_reclaim(&mem, gpa_of(UINT64_MAX), 2);
    assert_int_equal(mem_resident_pages(&mem), 4);
}

/* The log does not see a hole being made, so the mover must be told; where nothing was, there is
 * nothing to tell. */
static void tracker_hears_of_it(void **state)
{
    (void)state;
    uint64_t high = mem.region[1].page_index + 3, first = 1000, bits = 0;
    fill(first, 2000);
    fill(high, 1);
    track();
    assert_int_equal(pending(), 0);
    assert_int_equal(mem_discard(&mem, gpa_of(500 * MIB), 8 * MIB, false), 0);
    assert_int_equal(pending(), 0);
    assert_int_equal(mem_discard(&mem, gpa_of(first * PAGE_BYTES), 2000 * PAGE_BYTES, false), 0);
    assert_int_equal(pending(), 2000);
    assert_int_equal(mem_discard(&mem, gpa_of(MEM_HIGH_GPA + 3 * PAGE_BYTES), PAGE_BYTES, false),
                     0);
    assert_int_equal(pending(), 2001);
    assert_int_equal(mem_resident_pages(&mem), 0);

    /* Looking does not make them exist again, and finds those that do. */
    uint64_t word = high / 64 * 64;
    assert_int_equal(dirty_take(&dirty, word, 1, &bits), 0);
    assert_int_equal(bits, UINT64_C(1) << high % 64);
    assert_int_equal(mem_freed_holes(&mem, word, UINT64_MAX), bits);
    assert_int_equal(mem_freed_holes(&mem, word, ~bits), 0);
    assert_int_equal(mem_resident_pages(&mem), 0);
    fill(1024, 1);
    fill(1024 + 30, 2);
    fill(1024 + 63, 1);
    uint64_t there = UINT64_C(1) | UINT64_C(3) << 30 | UINT64_C(1) << 63;
    assert_int_equal(mem_freed_holes(&mem, 1024, UINT64_MAX), ~there);
    assert_int_equal(mem_freed_among(&mem, 1024, UINT64_MAX), ~there);
    assert_int_equal(mem_discard(&mem, gpa_of(1024 * PAGE_BYTES), PAGE_BYTES, false), 0);
    assert_int_equal(mem_freed_holes(&mem, 1024, UINT64_MAX), ~there | 1);
}

/* While held nothing becomes a hole; on release what the guest still leaves alone does. */
static void held_ones_wait(void **state)
{
    (void)state;
    fill(0, 4096);
    assert_int_equal(mem_discard_hold(&mem), 0);
    assert_int_equal(mem_discard(&mem, gpa_of(0), 100 * PAGE_BYTES, false), 0); /* reported */
    assert_int_equal(mem_discard(&mem, gpa_of(200 * PAGE_BYTES), 3000 * PAGE_BYTES, true), 0);
    mem_reclaim(&mem, gpa_of(1000 * PAGE_BYTES), 100 * PAGE_BYTES);
    assert_int_equal(mem_resident_pages(&mem), 4096);
    fill(1000, 100);
    track();
    assert_int_equal(mem_discard_release(&mem), 0);
    assert_int_equal(mem_resident_pages(&mem), 4096 - 2900);
    assert_int_equal(pending(), 2900);
    for (uint64_t page = 0; page < 4096; page++) {
        bool gone = page >= 200 && page < 3200 && !(page >= 1000 && page < 1100);
        uint64_t freed = mem_freed_among(&mem, page / 64 * 64, UINT64_C(1) << page % 64);
        assert_int_equal(freed != 0, gone);
        assert_int_equal(*mem_page(&mem, page), gone ? 0 : 0x5a);
    }
    /* And from then on at once again. */
    assert_int_equal(mem_discard(&mem, gpa_of(3500 * PAGE_BYTES), PAGE_BYTES, true), 0);
    assert_int_equal(mem_freed_holes(&mem, 3500 / 64 * 64, UINT64_MAX), UINT64_C(1) << 3500 % 64);
    assert_int_equal(mem_discard_release(&mem), 0); /* nothing holds */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_whole_pages_go, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_outside_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(tracker_hears_of_it, setup, teardown),
        cmocka_unit_test_setup_teardown(held_ones_wait, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
