#include "base/loop.h"
#include "dev/button.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct dev *dev;
    unsigned poweroffs, resets;
};

static void on_poweroff(void *ctx)
{
    ((struct fixture *)ctx)->poweroffs++;
}

static void on_reset(void *ctx)
{
    ((struct fixture *)ctx)->resets++;
}

static void make(struct fixture *f)
{
    struct err err = { 0 };
    *f = (struct fixture){ 0 };
    struct button_calls calls = { on_poweroff, on_reset, f };
    assert_int_equal(button_create(&f->dev, 0, &calls, &err), 0);
    f->dev->ops->resume(f->dev);
}

static uint8_t in8(struct fixture *f, unsigned port)
{
    uint8_t value = 0xee;
    f->dev->ops->read(f->dev, port - BUTTON_PORT, &value, 1);
    return value;
}

static void out8(struct fixture *f, unsigned port, unsigned value)
{
    uint8_t byte = (uint8_t)value;
    f->dev->ops->write(f->dev, port - BUTTON_PORT, &byte, 1);
}

static void test_power_and_reset(void **state)
{
    struct fixture f;
    (void)state;
    make(&f);
    out8(&f, 0x604, 0x14); /* type without enable */
    out8(&f, 0x604, 0x20); /* another sleep type */
    out8(&f, 0x605, 0x34);
    out8(&f, 0x600, 0x34);
    assert_int_equal(f.poweroffs + f.resets, 0);
    out8(&f, 0x604, 0x34);
    assert_int_equal(f.poweroffs, 1);
    out8(&f, 0x600, 1);
    assert_int_equal(f.resets, 1);
    assert_int_equal(in8(&f, 0x605), 0);
    f.dev->ops->free(f.dev);
}

static void test_press_is_seen_once(void **state)
{
    struct fixture f;
    (void)state;
    make(&f);
    assert_int_equal(in8(&f, BUTTON_EVENT_PORT), 0);
    button_press(f.dev);
    assert_int_equal(loop_drain(button_irq_fd(f.dev)), 1);
    uint8_t wide[7];
    f.dev->ops->read(f.dev, 0, wide, 6); /* does not reach the event register */
    f.dev->ops->read(f.dev, 3, wide, 4);
    assert_int_equal(wide[3], BUTTON_EVENT_POWER);
    assert_int_equal(in8(&f, BUTTON_EVENT_PORT), 0);
    f.dev->ops->free(f.dev);
}

static void test_press_survives_a_move(void **state)
{
    struct fixture a, b;
    struct button_state s = { 0 };
    struct err err = { 0 };
    (void)state;
    make(&a);
    make(&b);
    assert_int_equal(a.dev->ops->pause(a.dev), 0);
    assert_int_equal(b.dev->ops->pause(b.dev), 0);
    button_press(a.dev);
    assert_int_equal(loop_drain(button_irq_fd(a.dev)), 0);
    a.dev->ops->save(a.dev, &s);
    assert_int_equal(b.dev->ops->load(b.dev, &s, &err), 0);
    b.dev->ops->resume(b.dev);
    assert_int_equal(loop_drain(button_irq_fd(b.dev)), 1);
    assert_int_equal(in8(&b, BUTTON_EVENT_PORT), BUTTON_EVENT_POWER);
    s.events = 0x80;
    assert_true(a.dev->ops->load(a.dev, &s, &err) < 0);
    a.dev->ops->free(a.dev);
    b.dev->ops->free(b.dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_and_reset),
        cmocka_unit_test(test_press_is_seen_once),
        cmocka_unit_test(test_press_survives_a_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
