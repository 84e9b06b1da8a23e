/* Holding vCPUs of the fake hypervisor: who is to be held is, nobody else, a pause is not held up, and
 * nothing stays behind. Threads run here; nothing depends on how fast. */
#include "vm/throttle.h"

#include "base/clock.h"
#include "kvm/fake.h"
#include "mem/mem.h"
#include "test.h"

#include <sched.h>
#include <stdlib.h>

#define VCPUS 2

struct rig {
    struct mem mem;
    struct hv *hv;
    struct meter meter;
    struct vcpu_group group;
};

static void on_access(void *ctx, const struct hv_exit *exit)
{
    (void)ctx;
    (void)exit;
}

static void on_ended(void *ctx, unsigned id, enum vcpu_end how, const char *why)
{
    (void)ctx;
    (void)id;
    (void)how;
    fail_msg("a vCPU ended: %s", why);
}

static int make(void **state)
{
    static struct hv_cpuid cpuid[VCPUS];
    struct rig *rig = calloc(1, sizeof(*rig));
    struct vcpu_handlers handlers = { .ctx = rig, .access = on_access, .ended = on_ended };
    struct err err;
    if (!rig || mem_init(&rig->mem, UINT64_C(64) << 20, MEM_PAGES_SMALL, &err) ||
        hv_fake_open(&rig->hv) ||
        rig->hv->ops->slot_set(rig->hv, 0, gpa_of(0), rig->mem.host, rig->mem.bytes, false))
        return -1;
    meter_init(&rig->meter);
    if (vcpu_group_init(&rig->group, rig->hv, &rig->meter, VCPUS, cpuid, &handlers, &err) ||
        vcpu_group_start(&rig->group, &err))
        return -1;
    vcpu_group_resume(&rig->group);
    *state = rig;
    return 0;
}

static int drop(void **state)
{
    struct rig *rig = *state;
    vcpu_group_fini(&rig->group);
    meter_fini(&rig->meter);
    rig->hv->ops->close(rig->hv);
    mem_fini(&rig->mem);
    free(rig);
    return 0;
}

static uint64_t writes(struct rig *rig, unsigned id)
{
    uint64_t count;
    assert_int_equal(rig->hv->ops->vcpu_faults(rig->group.vcpu[id].hv, &count), 0);
    return count;
}

static void wait_for_writes(struct rig *rig, unsigned id)
{
    uint64_t from = writes(rig, id);
    while (writes(rig, id) < from + 1000)
        (void)sched_yield();
}

static void wait_until_held(struct rig *rig, unsigned id)
{
    uint64_t from = throttle_held_ns(&rig->group, id);
    while (throttle_held_ns(&rig->group, id) == from)
        (void)sched_yield();
}

static void test_holds_whom_it_should(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(throttle_set(&rig->group, (const uint32_t[]){ 900, 0 }), 0);
    wait_until_held(rig, 0);
    wait_for_writes(rig, 0); /* held, but not for ever */
    wait_for_writes(rig, 1);
    assert_int_equal(throttle_held_ns(&rig->group, 1), 0);
    assert_int_equal(throttle_set(&rig->group, (const uint32_t[]){ 0, 5000 }), 0);
    assert_int_equal(rig->group.hold_permille[1], THROTTLE_HOLD_MAX);
    wait_until_held(rig, 1);
    wait_for_writes(rig, 1);
    throttle_stop(&rig->group);
    assert_false(rig->group.throttling);
}

static void test_nothing_stays_behind(void **state)
{
    struct rig *rig = *state;
    throttle_stop(&rig->group); /* of nobody */
    assert_int_equal(throttle_set(&rig->group, (const uint32_t[]){ 900, 900 }), 0);
    wait_until_held(rig, 0);
    assert_int_equal(throttle_set(&rig->group, (const uint32_t[]){ 0, 0 }), 0);
    assert_false(rig->group.throttling);
    wait_for_writes(rig, 0);
    wait_for_writes(rig, 1);
    uint64_t held = throttle_held_ns(&rig->group, 0);
    wait_for_writes(rig, 0);
    assert_int_equal(throttle_held_ns(&rig->group, 0), held);
}

static void test_a_pause_is_not_held_up(void **state)
{
    struct rig *rig = *state;
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(throttle_set(&rig->group, (const uint32_t[]){ 900, 500 }), 0);
        if (i % 2)
            wait_until_held(rig, i / 2 % VCPUS);
        vcpu_group_pause(&rig->group);
        uint64_t before[VCPUS] = { writes(rig, 0), writes(rig, 1) };
        if (i % 4 == 0)
            throttle_stop(&rig->group); /* while paused */
        for (unsigned id = 0; id < VCPUS; id++)
            assert_int_equal(writes(rig, id), before[id]);
        vcpu_group_resume(&rig->group);
        wait_for_writes(rig, 0);
    }
    throttle_stop(&rig->group);
    wait_for_writes(rig, 1);
}

static void wait_until_told(struct rig *rig, unsigned id, uint64_t count)
{
    while (hv_fake_stood_still(rig->group.vcpu[id].hv) < count)
        (void)sched_yield();
}

/* A guest is told of each time in which it could not run, also when it is held or paused meanwhile, and goes on. */
static void test_tells_who_stood_still(void **state)
{
    struct rig *rig = *state;
    for (unsigned i = 1; i <= 50; i++) {
        uint64_t before[VCPUS];
        for (unsigned id = 0; id < VCPUS; id++)
            before[id] = hv_fake_stood_still(rig->group.vcpu[id].hv);
        if (i % 3 == 0)
            assert_int_equal(throttle_set(&rig->group, (const uint32_t[]){ 500, 0 }), 0);
        vcpu_group_stood_still(&rig->group);
        if (i % 2) {
            vcpu_group_pause(&rig->group);
            vcpu_group_stood_still(&rig->group); /* nothing to do: it will be resumed */
            vcpu_group_resume(&rig->group);
        }
        for (unsigned id = 0; id < VCPUS; id++) {
            wait_until_told(rig, id, before[id] + 1);
            wait_for_writes(rig, id);
        }
        throttle_stop(&rig->group);
    }
}

/* Ending the group ends it too: drop() does, with two vCPUs held. */
static void test_ends_with_the_group(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(throttle_set(&rig->group, (const uint32_t[]){ 900, 900 }), 0);
    wait_until_held(rig, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_holds_whom_it_should, make, drop),
        cmocka_unit_test_setup_teardown(test_nothing_stays_behind, make, drop),
        cmocka_unit_test_setup_teardown(test_a_pause_is_not_held_up, make, drop),
        cmocka_unit_test_setup_teardown(test_tells_who_stood_still, make, drop),
        cmocka_unit_test_setup_teardown(test_ends_with_the_group, make, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
