#include "base/buf.h"
#include "test.h"

#include <errno.h>
#include <string.h>

static void puts_little_endian(void **state)
{
    (void)state;
    static const uint8_t want[] = { 0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f,
                                    0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08 };
    CLEANUP_BUF struct buf buf = { 0 };
    buf_put_u8(&buf, 0x01);
    buf_put_u16(&buf, 0x0203);
    buf_put_u32(&buf, 0x04050607);
    buf_put_u64(&buf, 0x08090a0b0c0d0e0f);
    assert_int_equal(buf.len, sizeof(want));
    assert_memory_equal(buf.data, want, sizeof(want));
    assert_int_equal(buf_status(&buf), 0);
}

/* Every size around the growth steps, byte by byte and in one go, with all bytes kept. */
static void grows(void **state)
{
    (void)state;
    for (size_t step = 1; step < 700; step += 37) {
        CLEANUP_BUF struct buf buf = { 0 };
        uint8_t bytes[700];
        for (size_t total = 0; total < 5000; total += step) {
            memset(bytes, (int)(total / step), step);
            buf_put(&buf, bytes, step);
        }
        assert_int_equal(buf_status(&buf), 0);
        for (size_t i = 0; i < buf.len; i++)
            assert_int_equal(buf.data[i], (uint8_t)(i / step));
    }
}

static void empty_put_needs_no_memory(void **state)
{
    (void)state;
    struct buf buf = { 0 };
    buf_put(&buf, NULL, 0);
    assert_null(buf.data);
    assert_int_equal(buf.len, 0);
    buf_free(&buf);
}

/* Sizes that no machine has break the buffer and leave what is in it alone. */
static void impossible_sizes_break_it(void **state)
{
    (void)state;
    static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2, SIZE_MAX / 4 + 1,
                                    SIZE_MAX / 4 };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        CLEANUP_BUF struct buf buf = { 0 };
        buf_put_u32(&buf, 0x11223344);
        assert_null(buf_grow(&buf, sizes[i]));
        assert_int_equal(buf_status(&buf), -ENOMEM);
        assert_int_equal(buf.len, 4);
        buf_put_u8(&buf, 1);
        buf_printf(&buf, "more");
        assert_int_equal(buf.len, 4);
        buf_reset(&buf);
        assert_int_equal(buf_status(&buf), 0);
        buf_put_u8(&buf, 9);
        assert_int_equal(buf.len, 1);
        assert_int_equal(buf.data[0], 9);
    }
}

static void printf_adds_no_nul(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf buf = { 0 };
    buf_printf(&buf, "%s-%d", "x", 7);
    buf_printf(&buf, "%s", "");
    buf_put_u8(&buf, '!');
    assert_int_equal(buf.len, 4);
    assert_memory_equal(buf.data, "x-7!", 4);
    /* Exactly up to the capacity and one beyond it. */
    for (int width = 250; width < 260; width++) {
        buf_reset(&buf);
        buf_printf(&buf, "%*d", width, 5);
        assert_int_equal(buf.len, width);
        assert_int_equal(buf.data[width - 1], '5');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(puts_little_endian),        cmocka_unit_test(grows),
        cmocka_unit_test(empty_put_needs_no_memory), cmocka_unit_test(impossible_sizes_break_it),
        cmocka_unit_test(printf_adds_no_nul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
