#include "base/fd.h"
#include "mem/dirty.h"
#include "mem/discard.h"
#include "mem/mem.h"
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* 4 GiB of RAM, so that there is a hole; nothing is touched that a test does not touch. */
#define SIZE (4 * GIB)
#define HIGH_END (MEM_HIGH_GPA + SIZE - MEM_LOW_MAX)

static int make(void **state)
{
    static struct mem mem;
    struct err err = { 0 };
    if (mem_init(&mem, SIZE, MEM_PAGES_SMALL, &err))
        return -1;
    *state = &mem;
    return 0;
}

static int drop(void **state)
{
    mem_fini(*state);
    return 0;
}

/* Large pages are a matter of speed: where the host has them, a touch brings one; elsewhere all is as with small ones. */
static void large_pages_are_used(void **state)
{
    (void)state;
    struct mem mem;
    assert_int_equal(mem_init(&mem, 64 * MIB, MEM_PAGES_LARGE, NULL), 0);
    assert_int_equal((uintptr_t)mem.host % MEM_LARGE_BYTES, 0);
    uint64_t first, end;
    assert_int_equal(mem_next_touched(&mem, 0, &first, &end), -ENXIO);
    mem.host[5 * MIB] = 1;
    uint64_t pages = mem_resident_pages(&mem);
    if (mem.page_size == MEM_PAGES_SMALL || pages == 1)
        print_message("this host has no large page to give\n");
    else
        assert_int_equal(pages, MEM_LARGE_BYTES / PAGE_BYTES);
    assert_int_equal(mem_next_touched(&mem, 0, &first, &end), 0);
    assert_true(first <= 5 * MIB / PAGE_BYTES && end > 5 * MIB / PAGE_BYTES);
    assert_true(end - first <= MEM_LARGE_BYTES / PAGE_BYTES);
    mem_fini(&mem);
}

/* Whatever the host's setting for memfds is. */
static void small_pages_stay_small(void **state)
{
    (void)state;
    struct mem mem;
    assert_int_equal(mem_init(&mem, 64 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(mem.page_size, MEM_PAGES_SMALL);
    mem.host[5 * MIB] = 1;
    assert_int_equal(mem_resident_pages(&mem), 1);
    mem_fini(&mem);
}

static void sizes_are_checked(void **state)
{
    (void)state;
    static const uint64_t bad[] = { 0,
                                    1,
                                    2 * MIB,
                                    64 * MIB - 1,
                                    64 * MIB + 1,
                                    65 * MIB,
                                    62 * MIB,
                                    (UINT64_C(1) << 40) + 2 * MIB,
                                    UINT64_MAX,
                                    UINT64_MAX - 2 * MIB + 1 };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct mem mem;
        struct err err = { 0 };
        assert_int_equal(mem_init(&mem, bad[i], MEM_PAGES_SMALL, &err), -EINVAL);
        assert_int_equal(err.fault, ERR_CALLER);
        mem_fini(&mem);
    }
}

/* Around the hole: the last page below, the first above, and how many regions there are. */
static void sizes_around_the_hole(void **state)
{
    (void)state;
    static const uint64_t sizes[] = { 64 * MIB, MEM_LOW_MAX - 2 * MIB, MEM_LOW_MAX,
                                      MEM_LOW_MAX + 2 * MIB, 64 * GIB };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct mem mem;
        uint64_t index;
        assert_int_equal(mem_init(&mem, sizes[i], MEM_PAGES_SMALL, NULL), 0);
        assert_int_equal(mem.region_count, sizes[i] > MEM_LOW_MAX ? 2 : 1);
        uint64_t sum = 0;
        for (unsigned r = 0; r < mem.region_count; r++) {
            assert_int_equal(mem.region[r].page_index * PAGE_BYTES, sum);
            sum += mem.region[r].bytes;
        }
        assert_int_equal(sum, sizes[i]);
        assert_int_equal(mem.pages * PAGE_BYTES, sizes[i]);
        if (sizes[i] > MEM_LOW_MAX) {
            assert_int_equal(mem_page_index(&mem, gpa_of(MEM_HIGH_GPA), &index), 0);
            assert_int_equal(index, MEM_LOW_MAX / PAGE_BYTES);
        } else {
            assert_null(mem_get(&mem, gpa_of(sizes[i]), 1));
            assert_null(mem_get(&mem, gpa_of(MEM_HIGH_GPA), 0));
            assert_int_equal(mem_page_index(&mem, gpa_of(sizes[i]), &index), -EFAULT);
        }
        mem_fini(&mem);
        mem_fini(&mem); /* harmless twice */
    }
}

static void get_knows_the_edges(void **state)
{
    const struct mem *mem = *state;
    const struct {
        uint64_t gpa, len;
        bool ram;
    } cases[] = {
        { 0, 0, true },
        { 0, MEM_LOW_MAX, true },
        { 0, MEM_LOW_MAX + 1, false },
        { MEM_LOW_MAX - 1, 1, true },
        { MEM_LOW_MAX - 1, 2, false },
        { MEM_LOW_MAX - 4, 8, false },
        { MEM_LOW_MAX, 0, false },
        { MEM_LOW_MAX, 1, false },
        { 0xfee00000, 4, false },
        { MEM_HIGH_GPA - 1, 1, false },
        { MEM_HIGH_GPA - 1, 2, false },
        { MEM_HIGH_GPA, 0, true },
        { MEM_HIGH_GPA, SIZE - MEM_LOW_MAX, true },
        { MEM_HIGH_GPA, SIZE - MEM_LOW_MAX + 1, false },
        { HIGH_END - 1, 1, true },
        { HIGH_END - 1, 2, false },
        { HIGH_END, 0, false },
        { HIGH_END, 1, false },
        { 0, UINT64_MAX, false },
        { 1, UINT64_MAX, false },
        { 4096, UINT64_MAX - 4095, false },
        { 4096, UINT64_MAX - 4094, false },
        { UINT64_MAX, 0, false },
        { UINT64_MAX, 1, false },
        { UINT64_MAX, 2, false },
        { UINT64_MAX - 4095, 4096, false },
        { UINT64_MAX - 4095, 8192, false },
        { HIGH_END - 1, UINT64_MAX, false },
        { MEM_HIGH_GPA + 1, UINT64_MAX - MEM_HIGH_GPA, false },
        { UINT64_C(1) << 63, UINT64_C(1) << 63, false },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        void *at = mem_get(mem, gpa_of(cases[i].gpa), cases[i].len);
        uint64_t low =
            cases[i].gpa < MEM_LOW_MAX ? cases[i].gpa : cases[i].gpa - MEM_HIGH_GPA + MEM_LOW_MAX;
        if (cases[i].ram)
            assert_ptr_equal(at, mem->host + low);
        else
            assert_null(at);
    }
}

static void copies_are_checked(void **state)
{
    struct mem *mem = *state;
    uint8_t out[16] = "0123456789abcde", in[16] = { 0 };
    assert_int_equal(mem_write(mem, gpa_of(MEM_LOW_MAX - 16), out, 16), 0);
    assert_int_equal(mem_read(mem, gpa_of(MEM_LOW_MAX - 16), in, 16), 0);
    assert_memory_equal(in, out, 16);
    assert_int_equal(mem_write(mem, gpa_of(MEM_LOW_MAX - 8), out, 16), -EFAULT);
    assert_int_equal(mem_read(mem, gpa_of(MEM_LOW_MAX - 8), in, 16), -EFAULT);
    assert_int_equal(mem_read(mem, gpa_of(UINT64_MAX - 7), in, 16), -EFAULT);
    /* What spills over the low region's end must not show up at the start of the high one. */
    assert_int_equal(mem_read(mem, gpa_of(MEM_HIGH_GPA), in, 16), 0);
    for (size_t i = 0; i < sizeof(in); i++)
        assert_int_equal(in[i], 0);
}

static void marks_cover_exactly_the_pages_written(void **state)
{
    struct mem *mem = *state;
    static _Atomic(uint64_t) marks[SIZE / PAGE_BYTES / 64];
    static const struct {
        uint64_t gpa, len, first, pages;
    } cases[] = {
        { 0, 1, 0, 1 },
        { 4095, 1, 0, 1 },
        { 4095, 2, 0, 2 },
        { 4096, 4096, 1, 1 },
        { 4096, 4097, 1, 2 },
        { 63 * 4096, 2 * 4096, 63, 2 },
        { 10, 200 * 4096, 0, 201 },
        { MEM_LOW_MAX - 1, 1, MEM_LOW_MAX / 4096 - 1, 1 },
        { MEM_HIGH_GPA, 1, MEM_LOW_MAX / 4096, 1 },
        { HIGH_END - 1, 1, SIZE / 4096 - 1, 1 },
        { 0, 0, 0, 0 },
        { MEM_LOW_MAX, 1, 0, 0 }, /* no RAM: nothing, and no crash */
        { MEM_LOW_MAX - 1, 2, 0, 0 },
        { UINT64_MAX, UINT64_MAX, 0, 0 },
    };
    mem_mark(mem, gpa_of(0), 4096); /* nobody is tracking */
    mem_track(mem, marks);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t w = 0; w < ARRAY_LEN(marks); w++)
            atomic_store(&marks[w], 0);
        mem_mark(mem, gpa_of(cases[i].gpa), cases[i].len);
        uint64_t found = 0;
        for (uint64_t w = 0; w < ARRAY_LEN(marks); w++)
            found += (uint64_t)__builtin_popcountll(marks[w]);
        assert_int_equal(found, cases[i].pages);
        for (uint64_t p = cases[i].first; p < cases[i].first + cases[i].pages; p++)
            assert_true(marks[p / 64] >> (p % 64) & 1);
    }
    mem_untrack(mem);
}

struct marking {
    struct mem *mem;
    _Atomic bool stop;
};

static void *mark_on(void *arg)
{
    struct marking *m = arg;
    while (!atomic_load(&m->stop))
        mem_mark(m->mem, gpa_of(0), 64 * PAGE_BYTES);
    return NULL;
}

/* Marks come and go under a busy marker: after mem_untrack() the memory may be freed. */
static void untrack_waits_for_markers(void **state)
{
    struct marking m = { .mem = *state };
    pthread_t thread[2];
    for (size_t i = 0; i < ARRAY_LEN(thread); i++)
        assert_int_equal(pthread_create(&thread[i], NULL, mark_on, &m), 0);
    for (int i = 0; i < 2000; i++) {
        _Atomic(uint64_t) *marks = calloc(m.mem->pages / 64, sizeof(*marks));
        assert_non_null(marks);
        mem_track(m.mem, marks);
        mem_untrack(m.mem);
        free((void *)(uintptr_t)marks);
    }
    atomic_store(&m.stop, true);
    for (size_t i = 0; i < ARRAY_LEN(thread); i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
}

/* Runs of touched pages, found in order; a page that is only read counts as touched (shmem then has a
 * page there), a page never looked at does not. */
static void next_touched_walks_the_runs(void **state)
{
    (void)state;
    static const uint64_t touched[] = { 0, 1, 2, 700, 16383 };
    struct mem mem;
    uint64_t first, end, at = 0;
    assert_int_equal(mem_init(&mem, 64 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(mem_next_touched(&mem, 0, &first, &end), -ENXIO);
    for (size_t i = 0; i < ARRAY_LEN(touched); i++)
        *mem_page(&mem, touched[i]) = 1;
    size_t seen = 0;
    while (!mem_next_touched(&mem, at, &first, &end)) {
        assert_true(first >= at && end > first && end <= mem.pages);
        while (seen < ARRAY_LEN(touched) && touched[seen] < end)
            assert_true(touched[seen++] >= first);
        at = end;
    }
    assert_int_equal(seen, ARRAY_LEN(touched));
    assert_int_equal(mem_resident_pages(&mem), ARRAY_LEN(touched));
    assert_int_equal(mem_next_touched(&mem, 701, &first, &end), 0);
    assert_int_equal(first, 16383);
    assert_int_equal(end, 16384);
    assert_int_equal(mem_next_touched(&mem, 16384, &first, &end), -ENXIO);
    assert_int_equal(mem_next_touched(&mem, UINT64_MAX, &first, &end), -ENXIO);
    assert_int_equal(mem_next_touched(&mem, UINT64_MAX / PAGE_BYTES, &first, &end), -ENXIO);
    mem_fini(&mem);
}

/* Small pages are provided one by one, and are whole when all are there; a large one is whole at once, where the host
 * has one to give. */
static void what_is_provided_is_there(void **state)
{
    (void)state;
    struct mem mem;
    assert_int_equal(mem_init(&mem, 64 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(mem_provide(&mem, MEM_LARGE_PAGES - 1, 3), 0); /* of two large pages' worth */
    assert_int_equal(mem_resident_pages(&mem), 3);
    assert_false(mem_is_whole(&mem, 0));
    assert_false(mem_is_whole(&mem, MEM_LARGE_PAGES));
    assert_int_equal(mem_provide(&mem, 0, MEM_LARGE_PAGES), 0);
    assert_true(mem_is_whole(&mem, 7));
    assert_false(mem_is_whole(&mem, MEM_LARGE_PAGES));
    assert_int_equal(mem_punch(&mem, 7, 1), 0);
    assert_false(mem_is_whole(&mem, 0));
    mem_fini(&mem);

    assert_int_equal(mem_init(&mem, 64 * MIB, MEM_PAGES_LARGE, NULL), 0);
    assert_int_equal(mem_provide(&mem, 3 * MEM_LARGE_PAGES + 5, 1), 0);
    assert_true(mem_is_whole(&mem, 3 * MEM_LARGE_PAGES) ==
                (mem_resident_pages(&mem) == MEM_LARGE_PAGES));
    assert_false(mem_is_whole(&mem, 2 * MEM_LARGE_PAGES));
    mem_fini(&mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_pages_are_used),
        cmocka_unit_test(small_pages_stay_small),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(sizes_around_the_hole),
        cmocka_unit_test(get_knows_the_edges),
        cmocka_unit_test(copies_are_checked),
        cmocka_unit_test(marks_cover_exactly_the_pages_written),
        cmocka_unit_test(untrack_waits_for_markers),
        cmocka_unit_test(next_touched_walks_the_runs),
        cmocka_unit_test(what_is_provided_is_there),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
