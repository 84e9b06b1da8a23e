/* The transport, with virtio-rng as the device behind it. */
#include "dev/virtio_rng.h"
#include "virtio_driver.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include <cmocka.h>

#define BUF 0x200000u

static struct mem mem;
static struct loop loop;
static struct driver d;

static struct dev *make(void)
{
    struct dev *dev;
    struct err err = { 0 };
    assert_int_equal(virtio_rng_create(&dev, 7, &mem, &loop, &err), 0);
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

static bool all_zero(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i])
            return false;
    return true;
}

static void ask(uint32_t len)
{
    memset(driver_mem(&d, BUF), 0, len);
    driver_submit(&d, 0, &(struct driver_seg){ BUF, len, true }, 1);
}

static void test_identity(void **state)
{
    (void)state;
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_VERSION), 2);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_DEVICE_ID), 4);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_QUEUE_NUM_MAX), 0); /* there is no queue 1 */
    driver_write32(&d, VIRTIO_MMIO_QUEUE_SEL, 0);
    assert_true(driver_read32(&d, VIRTIO_MMIO_QUEUE_NUM_MAX) > 0);
    uint64_t wide = 1;
    d.dev->ops->read(d.dev, VIRTIO_MMIO_MAGIC_VALUE, &wide, 8); /* registers are 32 bits */
    assert_int_equal(wide, 0);
    d.dev->ops->read(d.dev, VIRTIO_MMIO_CONFIG, &wide, 8); /* no configuration space */
    assert_int_equal(wide, 0);
    d.dev->ops->read(d.dev, UINT64_MAX - 3, &wide, 4);
    d.dev->ops->write(d.dev, UINT64_MAX - 3, &wide, 4);
    d.dev->ops->write(d.dev, VIRTIO_MMIO_CONFIG, &wide, 8);
}

static void test_negotiation(void **state)
{
    (void)state;
    uint64_t offered = driver_offered(&d);
    assert_true(offered >> VIRTIO_F_VERSION_1 & 1);
    assert_true(offered >> VIRTIO_RING_F_EVENT_IDX & 1);
    assert_true(driver_negotiate(&d, offered) & VIRTIO_CONFIG_S_FEATURES_OK);
    /* A feature that was not offered, and a driver of before 1.0, are turned down. */
    assert_false(driver_negotiate(&d, UINT64_C(1) << VIRTIO_F_RING_PACKED) &
                 VIRTIO_CONFIG_S_FEATURES_OK);
    driver_ready(&d);
    assert_false(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK);
    driver_write32(&d, VIRTIO_MMIO_STATUS, 0);
    driver_write32(&d, VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_STATUS), 3);
    /* What was agreed cannot be changed afterwards. */
    assert_true(driver_negotiate(&d, 0) & VIRTIO_CONFIG_S_FEATURES_OK);
    driver_write32(&d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    driver_write32(&d, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
    assert_false(virtio_mmio_has(virtio_dev_of(d.dev), VIRTIO_RING_F_EVENT_IDX));
}

static void test_queue_is_not_set_up_early(void **state)
{
    (void)state;
    driver_queue_setup(&d, 0, 8, 0x100000); /* before FEATURES_OK */
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_QUEUE_READY), 0);
    (void)driver_negotiate(&d, 0);
    driver_queue_setup(&d, 0, 8, 0x100000);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_QUEUE_READY), 1);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_NUM, 16); /* ready: nothing changes any more */
    assert_int_equal(virtio_dev_of(d.dev)->queue[0].size, 8);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_READY, 0);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_QUEUE_READY), 0);
}

static void test_traffic_by_register_and_by_eventfd(void **state)
{
    uint32_t len;
    (void)state;
    driver_start(&d, UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX, 8);
    ask(64);
    driver_kick(&d, 0);
    driver_wait(&d, 0, 1);
    assert_int_equal(driver_used(&d, 0, &len), 0);
    assert_int_equal(len, 64);
    assert_false(all_zero(driver_mem(&d, BUF), 64));
    assert_int_equal(driver_interrupts(&d), 1);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    driver_write32(&d, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);

    ask(1);
    assert_int_equal(eventfd_write(virtio_dev_of(d.dev)->notify_fd[0], 1), 0);
    driver_wait(&d, 0, 1);
    driver_kick(&d, 99); /* no such queue */
    driver_settle(&d);
}

static void test_requests_without_room_or_with_much(void **state)
{
    uint32_t len;
    (void)state;
    driver_start(&d, 0, 8);
    driver_submit(&d, 0, &(struct driver_seg){ BUF, 16, false }, 1);
    ask(1 << 20);
    driver_kick(&d, 0);
    driver_wait(&d, 0, 2);
    (void)driver_used(&d, 0, &len);
    assert_int_equal(len, 0);
    (void)driver_used(&d, 0, &len);
    assert_in_range(len, 1, 1 << 20);
}

static void test_broken_ring_needs_reset(void **state)
{
    (void)state;
    driver_start(&d, 0, 8);
    (void)driver_interrupts(&d);
    driver_desc(&d, 0, 0, UINT64_MAX, 64, VRING_DESC_F_WRITE, 0);
    driver_offer(&d, 0, 0);
    driver_kick(&d, 0);
    driver_settle(&d);
    assert_true(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(driver_interrupts(&d), 1);
    driver_kick(&d, 0);
    driver_settle(&d);
    assert_int_equal(driver_interrupts(&d), 0);
    /* Writing the status back does not mend it; a reset does. */
    driver_write32(&d, VIRTIO_MMIO_STATUS, 15);
    assert_true(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    driver_start(&d, 0, 8);
    ask(64);
    driver_kick(&d, 0);
    driver_wait(&d, 0, 1);
}

static void test_bad_queue_address_needs_reset(void **state)
{
    (void)state;
    (void)driver_negotiate(&d, 0);
    driver_queue_setup(&d, 0, 8, 0x100000);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_READY, 0);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_NUM, 8);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffffffff);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_true(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void test_a_flood_leaves_others_their_turn(void **state)
{
    (void)state;
    driver_start(&d, 0, 64);
    struct virtq *q = &virtio_dev_of(d.dev)->queue[0];
    for (unsigned i = 0; i < 64; i++)
        ask(4096);
    driver_kick(&d, 0);
    assert_int_equal(loop_once(&loop, 0), 0);
    /* Its budget; the rest of an endless ring waits for the next turn. */
    assert_int_equal(q->next_used, 64);
    driver_settle(&d);
}

static void test_paused_device_leaves_its_queue_alone(void **state)
{
    (void)state;
    driver_start(&d, UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX, 8);
    driver_settle(&d);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    assert_int_equal(d.dev->ops->pause(d.dev), 0); /* twice is once */
    ask(64);
    driver_kick(&d, 0);
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, 0), 0);
    assert_true(all_zero(driver_mem(&d, BUF), 64));
    d.dev->ops->resume(d.dev);
    driver_wait(&d, 0, 1);
}

static void test_move_with_a_request_waiting(void **state)
{
    struct err err = { 0 };
    (void)state;
    driver_start(&d, UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX, 8);
    for (unsigned i = 0; i < 11; i++) {
        ask(8);
        driver_kick(&d, 0);
        driver_wait(&d, 0, 1);
        (void)driver_used(&d, 0, NULL);
    }
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    ask(64);
    driver_kick(&d, 0);

    struct dev *target = make();
    assert_int_equal(driver_transplant(d.dev, target, &err), 0);
    d.dev->ops->free(d.dev);
    d.dev = target;
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, 0), 0);
    target->ops->resume(target);
    driver_wait(&d, 0, 1);
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, 0), 1);
    assert_true(driver_interrupts(&d) > 0); /* also for those acknowledged never */
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_STATUS), 15);
}

static void test_unacknowledged_interrupt_is_raised_again(void **state)
{
    struct err err = { 0 };
    (void)state;
    driver_start(&d, 0, 8);
    ask(8);
    driver_kick(&d, 0);
    driver_wait(&d, 0, 1);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    struct dev *target = make();
    assert_int_equal(driver_transplant(d.dev, target, &err), 0);
    d.dev->ops->free(d.dev);
    d.dev = target;
    target->ops->resume(target);
    driver_settle(&d);
    assert_int_equal(driver_interrupts(&d), 1);
    driver_write32(&d, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_int_equal(target->ops->pause(target), 0);
    target->ops->resume(target);
    driver_settle(&d);
    assert_int_equal(driver_interrupts(&d), 0);
}

/* Also where the used ring's index, or its avail_event, is alone in its page. */
static void test_all_that_is_written_is_marked(void **state)
{
    static const struct {
        uint16_t size, used;
    } places[] = { { 8, 0x8ffc }, { 64, 0x8dfc } };
    struct driver_track track;
    (void)state;
    for (unsigned i = 0; i < 2 * ARRAY_LEN(places); i++) {
        (void)driver_negotiate(&d, (uint64_t)(i % 2) << VIRTIO_RING_F_EVENT_IDX);
        driver_queue_setup_used(&d, 0, places[i / 2].size, 0x100000, places[i / 2].used);
        driver_ready(&d);
        ask(4096);
        driver_track(&d, &track);
        driver_kick(&d, 0);
        driver_wait(&d, 0, 1);
        driver_settle(&d);
        driver_check_marks(&d, &track);
    }
}

static void refuse(const struct virtio_rng_state *good, void (*spoil)(struct virtio_state *))
{
    struct virtio_rng_state bad = *good;
    struct err err = { 0 };
    struct dev *dev = make();
    spoil(&bad.transport[0]);
    assert_true(dev->ops->load(dev, &bad, &err) < 0);
    assert_int_not_equal(err.code, 0);
    assert_non_null(strstr(err.text, "virtio-rng 7"));
    dev->ops->free(dev);
}

static void spoil_status(struct virtio_state *s)
{
    s->status |= 0x20;
}
static void spoil_order(struct virtio_state *s)
{
    s->status &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
}
static void spoil_interrupt(struct virtio_state *s)
{
    s->interrupt = 4;
}
static void spoil_count(struct virtio_state *s)
{
    s->queue_count = 2;
}
static void spoil_accepted(struct virtio_state *s)
{
    s->accepted |= 1;
}
static void spoil_legacy(struct virtio_state *s)
{
    s->accepted = 0;
}
static void spoil_size(struct virtio_state *s)
{
    s->queue[0].size = 1024;
}
static void spoil_ready(struct virtio_state *s)
{
    s->queue[0].ready = 2;
}
static void spoil_ring(struct virtio_state *s)
{
    s->queue[0].avail_gpa = MEM_MIN_BYTES;
}
static void spoil_offer(struct virtio_state *s)
{
    s->offered = s->accepted |= 2;
}

/* What a device has done here is no part of the guest: a driver's reset leaves it, a move does not carry it. */
static void test_counters_stay(void **state)
{
    struct virtio_rng_state saved;
    struct err err = { 0 };
    (void)state;
    driver_start(&d, 0, 8);
    ask(100);
    ask(28);
    driver_kick(&d, 0);
    driver_wait(&d, 0, 2);
    assert_int_equal(driver_count(&d, "bytes"), 128);
    driver_start(&d, 0, 8);
    assert_int_equal(driver_count(&d, "bytes"), 128);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->save(d.dev, &saved);
    struct driver there = { .dev = make(), .mem = &mem, .loop = &loop };
    assert_int_equal(there.dev->ops->load(there.dev, &saved, &err), 0);
    assert_int_equal(driver_count(&there, "bytes"), 0);
    there.dev->ops->free(there.dev);
}

static void test_damaged_state_is_refused(void **state)
{
    struct virtio_rng_state good;
    struct err err = { 0 };
    (void)state;
    driver_start(&d, 0, 8);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->save(d.dev, &good);
    void (*const spoils[])(struct virtio_state *) = {
        spoil_status, spoil_order, spoil_interrupt, spoil_count, spoil_accepted,
        spoil_legacy, spoil_size,  spoil_ready,     spoil_ring,  spoil_offer,
    };
    for (unsigned i = 0; i < ARRAY_LEN(spoils); i++)
        refuse(&good, spoils[i]);
    struct virtio_rng_state none = { 0 };
    struct dev *dev = make();
    assert_true(dev->ops->load(dev, &none, &err) < 0);
    assert_int_equal(dev->ops->load(dev, &good, &err), 0);
    dev->ops->free(dev);
}

static void test_selectors_out_of_range(void **state)
{
    (void)state;
    driver_write32(&d, VIRTIO_MMIO_QUEUE_SEL, UINT32_MAX);
    driver_write32(&d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    driver_write32(&d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, UINT32_MAX);
    driver_write32(&d, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_READY, 1);
    driver_write32(&d, VIRTIO_MMIO_QUEUE_NUM, UINT32_MAX);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_DEVICE_FEATURES), 0);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    assert_int_equal(virtio_dev_of(d.dev)->accepted, 0);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_identity),
        CASE(test_negotiation),
        CASE(test_queue_is_not_set_up_early),
        CASE(test_traffic_by_register_and_by_eventfd),
        CASE(test_requests_without_room_or_with_much),
        CASE(test_broken_ring_needs_reset),
        CASE(test_bad_queue_address_needs_reset),
        CASE(test_a_flood_leaves_others_their_turn),
        CASE(test_paused_device_leaves_its_queue_alone),
        CASE(test_move_with_a_request_waiting),
        CASE(test_unacknowledged_interrupt_is_raised_again),
        CASE(test_all_that_is_written_is_marked),
        CASE(test_counters_stay),
        CASE(test_damaged_state_is_refused),
        CASE(test_selectors_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
