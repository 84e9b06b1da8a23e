#include "base/loop.h"
#include "dev/serial.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct dev *dev;
    char out[256];
    size_t out_len;
};

static void out(void *ctx, const uint8_t *bytes, size_t len)
{
    struct fixture *f = ctx;
    assert_true(f->out_len + len <= sizeof(f->out));
    memcpy(f->out + f->out_len, bytes, len);
    f->out_len += len;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err err = { 0 };
    assert_non_null(f);
    assert_int_equal(serial_create(&f->dev, 0, out, f, &err), 0);
    f->dev->ops->resume(f->dev);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    f->dev->ops->free(f->dev);
    free(f);
    return 0;
}

static uint8_t in8(struct fixture *f, unsigned reg)
{
    uint8_t value;
    f->dev->ops->read(f->dev, reg, &value, 1);
    return value;
}

static void out8(struct fixture *f, unsigned reg, unsigned value)
{
    uint8_t byte = (uint8_t)value;
    f->dev->ops->write(f->dev, reg, &byte, 1);
}

static uint64_t interrupts(struct fixture *f)
{
    return loop_drain(serial_irq_fd(f->dev));
}

static bool room(struct fixture *f)
{
    return loop_drain(serial_room_fd(f->dev)) > 0;
}

static void test_output_reaches_the_sink_at_once(void **state)
{
    struct fixture *f = *state;
    for (const char *p = "hello"; *p; p++)
        out8(f, 0, (uint8_t)*p);
    assert_int_equal(f->out_len, 5);
    assert_memory_equal(f->out, "hello", 5);
    assert_int_equal(in8(f, 5), 0x60);
}

static void test_transmitter_interrupts_when_enabled_and_after_each_byte(void **state)
{
    struct fixture *f = *state;
    out8(f, 0, 'a');
    assert_int_equal(interrupts(f), 0);
    out8(f, 1, 2);
    assert_int_equal(interrupts(f), 1);
    assert_int_equal(in8(f, 2), 0x02);
    assert_int_equal(in8(f, 2), 0x01); /* reading it withdrew it */
    out8(f, 0, 'b');
    assert_int_equal(interrupts(f), 1);
    out8(f, 0, 'c'); /* not served yet, but a new edge all the same */
    assert_int_equal(interrupts(f), 1);
    out8(f, 1, 0);
    assert_int_equal(in8(f, 2), 0x01);
    out8(f, 1, 2);
    assert_int_equal(interrupts(f), 1);
}

static void test_input_is_taken_as_far_as_it_fits(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[40];
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)('A' + i);

    assert_int_equal(serial_input(f->dev, bytes, 2), 1); /* no FIFO yet */
    assert_int_equal(in8(f, 0), 'A');
    out8(f, 2, 1);
    assert_int_equal(in8(f, 2), 0xc1);
    (void)room(f);
    out8(f, 1, 1);
    assert_int_equal(serial_input(f->dev, bytes, sizeof(bytes)), 16);
    assert_true(interrupts(f) > 0);
    assert_int_equal(in8(f, 2), 0xc4);
    assert_int_equal(serial_input(f->dev, bytes, 1), 0);
    assert_false(room(f));
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(in8(f, 5) & 1, 1);
        assert_int_equal(in8(f, 0), bytes[i]);
    }
    assert_int_equal(in8(f, 5) & 3, 0); /* empty, and nothing was overrun */
    assert_true(room(f));
    assert_int_equal(in8(f, 2), 0xc1);
    assert_int_equal(serial_input(f->dev, bytes, 3), 3);
    assert_false(room(f)); /* nobody was refused since */
    out8(f, 2, 3);         /* clears the receiver */
    assert_int_equal(in8(f, 5) & 1, 0);
}

static void test_loopback_as_a_driver_probes_it(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in8(f, 6) & 0xf0, 0xb0);
    out8(f, 4, 0x10 | 0x08 | 0x02);
    assert_int_equal(in8(f, 6) & 0xf0, 0x90); /* OUT2 -> DCD, RTS -> CTS */
    assert_int_equal(in8(f, 6) & 0x0f, 0);    /* reading cleared the changes */
    out8(f, 0, 'x');
    assert_int_equal(f->out_len, 0);
    assert_int_equal(in8(f, 5) & 1, 1);
    assert_int_equal(serial_input(f->dev, (const uint8_t *)"y", 1), 0);
    out8(f, 0, 'z'); /* no FIFO: overruns */
    assert_int_equal(in8(f, 5) & 2, 2);
    assert_int_equal(in8(f, 5) & 2, 0);
    assert_int_equal(in8(f, 0), 'x');
    (void)room(f);
    out8(f, 1, 8);
    out8(f, 4, 0);
    assert_int_equal(in8(f, 2), 0);
    assert_int_equal(in8(f, 6) & 0x0f, 2); /* DSR came back */
    assert_int_equal(in8(f, 2), 1);
    assert_int_equal(serial_input(f->dev, (const uint8_t *)"y", 1), 1);
}

static void test_registers_hold(void **state)
{
    struct fixture *f = *state;
    out8(f, 7, 0x5a);
    out8(f, 3, 0x83);
    out8(f, 0, 0x01);
    out8(f, 1, 0x02);
    assert_int_equal(in8(f, 0), 1);
    assert_int_equal(in8(f, 1), 2);
    out8(f, 3, 0x03);
    out8(f, 1, 0xff);
    assert_int_equal(in8(f, 1), 0x0f);
    assert_int_equal(in8(f, 3), 0x03);
    assert_int_equal(in8(f, 7), 0x5a);
    uint8_t wide[4] = { 0 };
    f->dev->ops->read(f->dev, 6, wide, 4); /* runs off the end: no register there */
    assert_int_equal(wide[1], 0x5a);
    assert_int_equal(wide[2], 0xff);
    f->dev->ops->reset(f->dev);
    assert_int_equal(in8(f, 7), 0);
    assert_int_equal(f->out_len, 0);
}

static void transplant(struct fixture *from, struct fixture *to, int expected)
{
    struct serial_state s = { 0 }, t = { 0 };
    struct err err = { 0 };
    CLEANUP_BUF struct buf bytes = { 0 };
    from->dev->ops->save(from->dev, &s);
    schema_encode(&serial_state_schema, 1, &s, &bytes);
    struct cursor in = cursor_of(bytes.data, bytes.len);
    assert_int_equal(schema_decode(&serial_state_schema, 1, &in, &t, &err), 0);
    assert_int_equal(to->dev->ops->load(to->dev, &t, &err), expected);
}

static void test_no_byte_is_lost_or_doubled_by_a_move(void **state)
{
    struct fixture *a = *state;
    void *second;
    (void)setup(&second);
    struct fixture *b = second;
    assert_int_equal(b->dev->ops->pause(b->dev), 0);

    out8(a, 2, 1);
    out8(a, 1, 3);
    out8(a, 0, 'o');
    (void)in8(a, 2);
    assert_int_equal(serial_input(a->dev, (const uint8_t *)"0123456789abcdefgh", 18), 16);
    assert_int_equal(in8(a, 0), '0');
    assert_int_equal(a->dev->ops->pause(a->dev), 0);
    assert_int_equal(serial_input(a->dev, (const uint8_t *)"!", 1), 0);
    transplant(a, b, 0);
    (void)interrupts(b);
    b->dev->ops->resume(b->dev);
    assert_int_equal(interrupts(b), 1); /* the edge that may have been lost */
    assert_int_equal(b->out_len, 0);
    assert_int_equal(a->out_len, 1);
    for (const char *p = "123456789abcdef"; *p; p++)
        assert_int_equal(in8(b, 0), *p);
    assert_int_equal(in8(b, 5) & 1, 0);
    assert_int_equal(serial_input(b->dev, (const uint8_t *)"gh", 2), 2);

    (void)interrupts(a);
    a->dev->ops->resume(a->dev); /* the source may also go on */
    assert_int_equal(interrupts(a), 1);
    assert_int_equal(in8(a, 0), '1');
    (void)teardown(&second);
}

static void test_damaged_state_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err err = { 0 };
    const struct serial_state bad[] = {
        { .ier = 0x10 },
        { .mcr = 0x80 },
        { .fcr = 2 },
        { .thr_empty = 2 },
        { .rx_len = 2 },
        { .msr_delta = 0x10 },
        { .fcr = 1, .rx_len = 17 },
        { .overrun = 7 },
    };
    assert_int_equal(f->dev->ops->pause(f->dev), 0);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_true(f->dev->ops->load(f->dev, &bad[i], &err) < 0);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_output_reaches_the_sink_at_once),
        CASE(test_transmitter_interrupts_when_enabled_and_after_each_byte),
        CASE(test_input_is_taken_as_far_as_it_fits),
        CASE(test_loopback_as_a_driver_probes_it),
        CASE(test_registers_hold),
        CASE(test_no_byte_is_lost_or_doubled_by_a_move),
        CASE(test_damaged_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
