/*
 * The fixed set of a round (section 5.4 of the 2005 paper), over the fake hypervisor: rounds made of it
 * bring a memory across exactly, what is written again is left for later, and the order is none.
 */
#include "kvm/fake.h"
#include "move/round_set.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BYTES (UINT64_C(64) << 20)
#define PAGES (BYTES / PAGE_BYTES)

struct rig {
    struct mem mem;
    struct hv *hv;
    struct dirty dirty;
    struct round_set set;
    uint8_t *copy;
};

static int make(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    if (!rig || mem_init(&rig->mem, BYTES, MEM_PAGES_SMALL, NULL) || hv_fake_open(&rig->hv) ||
        rig->hv->ops->slot_set(rig->hv, 0, gpa_of(0), rig->mem.host, BYTES, false) ||
        dirty_start(&rig->dirty, &rig->mem, rig->hv) ||
        round_set_init(&rig->set, &rig->mem, &rig->dirty))
        return -1;
    rig->copy = calloc(1, BYTES);
    *state = rig;
    return rig->copy ? 0 : -1;
}

static int drop(void **state)
{
    struct rig *rig = *state;
    round_set_fini(&rig->set);
    dirty_stop(&rig->dirty);
    rig->hv->ops->close(rig->hv);
    mem_fini(&rig->mem);
    free(rig->copy);
    free(rig);
    return 0;
}

static void write_page(struct rig *rig, uint64_t page, uint8_t value)
{
    memset(mem_page(&rig->mem, page), value, PAGE_BYTES);
    mem_mark(&rig->mem, gpa_of(page * PAGE_BYTES), PAGE_BYTES);
}

static void begin(struct rig *rig, bool first, uint64_t seed)
{
    uint64_t pages;
    assert_int_equal(dirty_fetch(&rig->dirty, &pages), 0);
    assert_int_equal(round_set_begin(&rig->set, first, seed), 0);
}

static uint64_t copy_word(struct rig *rig, uint64_t first, uint64_t bits)
{
    uint64_t pages = (uint64_t)__builtin_popcountll(bits);
    for (; bits; bits &= bits - 1) {
        uint64_t page = first + (uint64_t)__builtin_ctzll(bits);
        memcpy(rig->copy + page * PAGE_BYTES, mem_page(&rig->mem, page), PAGE_BYTES);
    }
    return pages;
}

static void test_untouched_and_order(void **state)
{
    struct rig *rig = *state;
    uint64_t first, bits, sent = 0, words = 0, near = 0, last = 0;
    uint8_t seen[PAGES / 64] = { 0 };
    for (uint64_t page = 0; page < PAGES / 2; page++)
        write_page(rig, page, 1);
    begin(rig, true, 12345);
    assert_int_equal(rig->set.untouched, PAGES / 2);
    while (round_set_next(&rig->set, &first, &bits) == 0 && bits) {
        assert_true(first % 64 == 0 && first < PAGES / 2);
        assert_int_equal(seen[first / 64]++, 0);
        near += words++ && (first > last ? first - last : last - first) <= 64 * 4;
        last = first;
        sent += copy_word(rig, first, bits);
    }
    assert_int_equal(sent, PAGES / 2);
    assert_in_range(near, 0, words / 20); /* neighbours are far apart */
    assert_memory_equal(rig->copy, rig->mem.host, BYTES);
}

static void test_written_again_is_left_for_later(void **state)
{
    struct rig *rig = *state;
    uint64_t first, bits, sent = 0, pages;
    for (uint64_t page = 0; page < PAGES; page++)
        write_page(rig, page, 1);
    begin(rig, true, 7);
    for (uint64_t page = 0; page < PAGES; page += 2)
        write_page(rig, page, 2); /* before the round came to any page */
    while (round_set_next(&rig->set, &first, &bits) == 0 && bits)
        sent += copy_word(rig, first, bits);
    assert_int_equal(sent, PAGES / 2);
    assert_int_equal(rig->set.skipped, PAGES / 2);
    assert_int_equal(dirty_fetch(&rig->dirty, &pages), 0);
    assert_int_equal(pages, PAGES / 2);
    begin(rig, false, 8);
    while (round_set_next(&rig->set, &first, &bits) == 0 && bits)
        sent += copy_word(rig, first, bits);
    assert_int_equal(sent, PAGES);
    assert_memory_equal(rig->copy, rig->mem.host, BYTES);
}

/* Writes at any point of any round: the last round, with nobody writing, completes the copy. */
static void test_exact_whatever_is_written_when(void **state)
{
    struct rig *rig = *state;
    uint64_t random = 42, first, bits;
    for (unsigned round = 0; round < 20; round++) {
        begin(rig, round == 0, random);
        for (;;) {
            assert_int_equal(round_set_next(&rig->set, &first, &bits), 0);
            if (!bits)
                break;
            /* The page as it was, or as it is after a write in between: both are right. */
            for (unsigned i = 0; round < 19 && i < 3; i++) {
                random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
                write_page(rig, (random >> 40) % PAGES, (uint8_t)random);
            }
            copy_word(rig, first, bits);
        }
        for (unsigned i = 0; round < 18 && i < 500; i++) {
            random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
            write_page(rig, (random >> 40) % PAGES, (uint8_t)random);
        }
    }
    assert_memory_equal(rig->copy, rig->mem.host, BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_untouched_and_order, make, drop),
        cmocka_unit_test_setup_teardown(test_written_again_is_left_for_later, make, drop),
        cmocka_unit_test_setup_teardown(test_exact_whatever_is_written_when, make, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
