#include "base/compiler.h"
#include "base/gpa.h"
#include "mem/zero.h"
#include "move/page_memo.h"
#include "state/pages.h"
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void test_same(void **state)
{
    (void)state;
    static uint8_t page[PAGE_BYTES];
    struct page_memo memo;
    page_memo_init(&memo, 64, 0, 5);
    page_memo_begin(&memo, 1);
    assert_false(page_memo_same(&memo, 3, page)); /* nothing is kept of the first round */
    assert_false(page_memo_same(&memo, 3, page));
    page_memo_begin(&memo, 2);
    assert_false(page_memo_same(&memo, 3, page));
    assert_true(page_memo_same(&memo, 3, page));
    assert_false(page_memo_same(&memo, 4, page));
    for (unsigned i = 0; i < PAGE_BYTES; i++) { /* every single byte counts */
        page[i]++;
        assert_false(page_memo_same(&memo, 3, page));
        assert_true(page_memo_same(&memo, 3, page));
    }
    page_memo_zero(&memo, 3);
    assert_false(page_memo_same(&memo, 3, page));
    page_memo_fini(&memo);
}

static void test_delta(void **state)
{
    (void)state;
    static uint8_t page[PAGE_BYTES], far[PAGE_BYTES], delta[PAGES_DELTA_MAX], target[PAGE_BYTES];
    struct page_memo memo;
    page_memo_init(&memo, 64, 8 * PAGE_BYTES, 5);
    page_memo_begin(&memo, 1);
    assert_int_equal(page_memo_delta(&memo, 3, page, delta), -ENOENT);
    page_memo_begin(&memo, 2);
    assert_int_equal(page_memo_delta(&memo, 3, page, delta), -ENOENT);
    page[100] = 7;
    int length = page_memo_delta(&memo, 3, page, delta);
    assert_int_equal(length, 12);
    pages_delta_apply(target, delta, (uint32_t)length);
    assert_memory_equal(page, target, PAGE_BYTES);

    /* Another page of the same place: the one in use stays, and is forgotten only when it is not used. */
    assert_int_equal(page_memo_delta(&memo, 11, far, delta), -ENOENT);
    assert_int_equal(page_memo_delta(&memo, 11, far, delta), -ENOENT);
    assert_int_equal(page_memo_delta(&memo, 3, page, delta), 0);
    page_memo_begin(&memo, 4);
    assert_int_equal(page_memo_delta(&memo, 11, far, delta), -ENOENT);
    assert_int_equal(page_memo_delta(&memo, 11, far, delta), 0);
    assert_int_equal(page_memo_delta(&memo, 3, page, delta), -ENOENT);

    /* Sent as zeros since: what is kept is not what the target has. */
    page_memo_zero(&memo, 11);
    assert_int_equal(page_memo_delta(&memo, 11, far, delta), -ENOENT);
    /* Too much: but it is the version to compare with from now on. */
    memset(far, 1, sizeof(far));
    assert_int_equal(page_memo_delta(&memo, 11, far, delta), -ENOSPC);
    far[0]++;
    assert_int_equal(page_memo_delta(&memo, 11, far, delta), 12);
    page_memo_fini(&memo);
}

static void test_zero_scans(void **state)
{
    (void)state;
    uint8_t *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
    unsigned tried = 0;
    assert_non_null(mem_zero_pick());
    for (enum mem_zero_kind kind = 0; kind < MEM_ZERO_MAX; kind++) {
        mem_zero_fn *is_zero = mem_zero_get(kind);
        if (!is_zero)
            continue;
        tried++;
        memset(page, 0, PAGE_BYTES);
        assert_true(is_zero(page));
        for (unsigned i = 0; i < PAGE_BYTES; i++) {
            page[i] = (uint8_t)(1u << (i % 8));
            assert_false(is_zero(page));
            page[i] = 0;
        }
        assert_true(is_zero(page));
    }
    print_message("# %u of %u ways on this processor\n", tried, MEM_ZERO_MAX);
    assert_true(tried > 0);
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_delta),
        cmocka_unit_test(test_zero_scans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
