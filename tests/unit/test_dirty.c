/* Dirty tracking over the fake hypervisor: a copy made round by round while a vCPU and a device write
 * must be exact once they have stopped. */
#include "base/clock.h"
#include "kvm/fake.h"
#include "mem/dirty.h"
#include "test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BYTES (UINT64_C(64) << 20)
#define DEVICE_PAGE UINT64_C(9000) /* its word is at the page's end, the vCPUs' are at its start */
#define DEVICE_OFFSET (PAGE_BYTES - sizeof(uint64_t))

struct rig {
    struct mem mem;
    struct hv *hv;
    struct hv_vcpu *vcpu;
    struct dirty dirty;
    uint8_t *copy;
    _Atomic bool stop;
    uint64_t device_count;
};

static int make(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    if (!rig || mem_init(&rig->mem, BYTES, MEM_PAGES_SMALL, NULL) || hv_fake_open(&rig->hv) ||
        rig->hv->ops->slot_set(rig->hv, 0, gpa_of(0), rig->mem.host, BYTES, false) ||
        rig->hv->ops->vcpu_open(rig->hv, 0, NULL, &rig->vcpu))
        return -1;
    rig->copy = calloc(1, BYTES);
    *state = rig;
    return rig->copy ? 0 : -1;
}

static int drop(void **state)
{
    struct rig *rig = *state;
    dirty_stop(&rig->dirty);
    rig->hv->ops->vcpu_close(rig->vcpu);
    rig->hv->ops->close(rig->hv);
    mem_fini(&rig->mem);
    free(rig->copy);
    free(rig);
    return 0;
}

static uint64_t take_all(struct rig *rig)
{
    uint64_t taken = 0, fetched = 0;
    assert_int_equal(dirty_fetch(&rig->dirty, &fetched), 0);
    for (uint64_t at = dirty_next(&rig->dirty, 0); at < rig->mem.pages;
         at = dirty_next(&rig->dirty, at + 64)) {
        uint64_t bits;
        assert_int_equal(dirty_take(&rig->dirty, at, 1, &bits), 0);
        assert_true(bits != 0);
        for (unsigned b = 0; b < 64; b++) {
            if (!(bits >> b & 1))
                continue;
            memcpy(rig->copy + (at + b) * PAGE_BYTES, mem_page(&rig->mem, at + b), PAGE_BYTES);
            taken++;
        }
    }
    assert_int_equal(taken, fetched);
    return taken;
}

static void starts_with_every_page(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(dirty_start(&rig->dirty, &rig->mem, rig->hv), 0);
    assert_int_equal(take_all(rig), rig->mem.pages);
    assert_int_equal(take_all(rig), 0);
    assert_int_equal(dirty_next(&rig->dirty, 0), rig->mem.pages);
    /* A second life, as after a move that failed, is like the first. */
    dirty_stop(&rig->dirty);
    dirty_stop(&rig->dirty);
    assert_int_equal(dirty_start(&rig->dirty, &rig->mem, rig->hv), 0);
    assert_int_equal(take_all(rig), rig->mem.pages);
}

static void marks_are_fetched_once(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(dirty_start(&rig->dirty, &rig->mem, rig->hv), 0);
    (void)take_all(rig);
    uint64_t word = 1;
    assert_int_equal(mem_write(&rig->mem, gpa_of(3 * PAGE_BYTES - 4), &word, sizeof(word)), 0);
    assert_int_equal(take_all(rig), 2);
    assert_int_equal(take_all(rig), 0);
}

static void *run_vcpu(void *arg)
{
    struct rig *rig = arg;
    struct hv_exit why;
    return (void *)(intptr_t)rig->hv->ops->vcpu_run(rig->vcpu, &why);
}

static void *run_device(void *arg)
{
    struct rig *rig = arg;
    while (!atomic_load(&rig->stop)) {
        rig->device_count++;
        if (mem_write(&rig->mem, gpa_of(DEVICE_PAGE * PAGE_BYTES + DEVICE_OFFSET),
                      &rig->device_count, sizeof(rig->device_count)))
            return (void *)1;
    }
    return NULL;
}

static void no_write_is_missed(void **state)
{
    struct rig *rig = *state;
    pthread_t vcpu, device;
    void *rc = (void *)1;
    assert_int_equal(pthread_create(&vcpu, NULL, run_vcpu, rig), 0);
    assert_int_equal(pthread_create(&device, NULL, run_device, rig), 0);
    assert_int_equal(dirty_start(&rig->dirty, &rig->mem, rig->hv), 0);
    uint64_t rounds = 0, until = clock_now_ns() + 300 * CLOCK_MSEC;
    while (clock_now_ns() < until || rounds < 20) {
        (void)take_all(rig);
        rounds++;
    }
    rig->hv->ops->vcpu_kick(rig->vcpu);
    atomic_store(&rig->stop, true);
    assert_int_equal(pthread_join(vcpu, &rc), 0);
    assert_null(rc);
    assert_int_equal(pthread_join(device, &rc), 0);
    assert_null(rc);
    (void)take_all(rig);

    struct hv_vcpu_state *vcpu_state = calloc(1, sizeof(*vcpu_state));
    uint64_t wrong = 0, device_count;
    assert_non_null(vcpu_state);
    assert_int_equal(rig->hv->ops->vcpu_save(rig->vcpu, vcpu_state, NULL), 0);
    assert_true(vcpu_state->gpr[0] > 0);
    assert_true(hv_fake_verify(rig->copy, rig->mem.pages, 0, vcpu_state->gpr[0], &wrong));
    free(vcpu_state);
    memcpy(&device_count, rig->copy + DEVICE_PAGE * PAGE_BYTES + DEVICE_OFFSET,
           sizeof(device_count));
    assert_int_equal(device_count, rig->device_count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(starts_with_every_page, make, drop),
        cmocka_unit_test_setup_teardown(marks_are_fetched_once, make, drop),
        cmocka_unit_test_setup_teardown(no_write_is_missed, make, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
