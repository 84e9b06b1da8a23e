#include "base/cursor.h"
#include "test.h"

#include <errno.h>

static const uint8_t bytes[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

static void reads_little_endian(void **state)
{
    (void)state;
    struct cursor cur = cursor_of(bytes, sizeof(bytes));
    assert_int_equal(cursor_u8(&cur), 0x01);
    assert_int_equal(cursor_u16(&cur), 0x0302);
    assert_int_equal(cursor_u32(&cur), 0x07060504);
    assert_int_equal(cursor_end(&cur), -EBADMSG);
    assert_int_equal(cursor_status(&cur), 0);
    assert_true(cursor_u64(&cur) == 0x0f0e0d0c0b0a0908);
    assert_int_equal(cursor_end(&cur), 0);
}

/* Cut at every byte: the read that crosses the end and all after it give zero, and the cursor is bad. */
static void cut_at_every_byte(void **state)
{
    (void)state;
    for (size_t len = 0; len < sizeof(bytes); len++) {
        struct cursor cur = cursor_of(bytes, len);
        uint64_t got[] = { cursor_u8(&cur), cursor_u16(&cur), cursor_u32(&cur), cursor_u64(&cur) };
        size_t ends[] = { 1, 3, 7, 15 };
        for (size_t i = 0; i < ARRAY_LEN(ends); i++)
            assert_int_equal(got[i] != 0, ends[i] <= len);
        assert_int_equal(cursor_status(&cur), -EBADMSG);
        assert_int_equal(cursor_end(&cur), -EBADMSG);
        assert_int_equal(cursor_u8(&cur), 0);
    }
}

static void take_is_bounded(void **state)
{
    (void)state;
    static const size_t too_long[] = { sizeof(bytes) + 1, SIZE_MAX, SIZE_MAX - 1,
                                       SIZE_MAX / 2 + 1 };
    for (size_t i = 0; i < ARRAY_LEN(too_long); i++) {
        struct cursor cur = cursor_of(bytes, sizeof(bytes));
        assert_null(cursor_take(&cur, too_long[i]));
        assert_int_equal(cursor_status(&cur), -EBADMSG);
        assert_null(cursor_take(&cur, 0)); /* stays bad */
    }
    struct cursor cur = cursor_of(bytes, sizeof(bytes));
    assert_ptr_equal(cursor_take(&cur, 5), bytes);
    assert_ptr_equal(cursor_take(&cur, 0), bytes + 5);
    assert_ptr_equal(cursor_take(&cur, 10), bytes + 5);
    assert_int_equal(cursor_end(&cur), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_little_endian),
        cmocka_unit_test(cut_at_every_byte),
        cmocka_unit_test(take_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
