/*
 * A device's three threads at once, as in the monitor: the loop serves the queue, a vCPU submits
 * and polls, a mover pauses, saves and resumes. Meant for the thread sanitizer as well.
 */
#include "base/fd.h"
#include "dev/disk.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_rng.h"
#include "virtio_driver.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define SECTORS 4096u
#define PAUSES 300
#define HEADERS 0x200000u
#define STATUS 0x210000u
#define DATA 0x300000u
#define BATCH 32u

static struct mem mem;
static struct loop loop;
static struct driver d;
static _Atomic bool stop;

static void *run_loop(void *arg)
{
    return loop_run(arg) ? arg : NULL;
}

static uint16_t used_index(void)
{
    const struct vring_used *used = driver_mem(&d, d.queue[0].used_gpa);
    return __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE);
}

/* Returns the number of pauses in which something moved: none. */
static void *run_mover(void *arg)
{
    struct dev *dev = arg;
    void *state = calloc(1, dev->ops->schema->size);
    uintptr_t wrong = 0;
    for (int i = 0; state && i < PAUSES; i++) {
        wrong += dev->ops->pause(dev) != 0;
        uint16_t before = used_index();
        dev->ops->save(dev, state);
        sched_yield();
        wrong += used_index() != before;
        dev->ops->resume(dev);
        sched_yield();
    }
    free(state);
    atomic_store(&stop, true);
    return (void *)wrong; // NOLINT: a number, not an address
}

/* Fills the ring in batches and waits for each, until the mover is done; returns how many. */
static unsigned run_driver(void (*submit)(unsigned slot))
{
    unsigned batches = 0;
    while (!atomic_load(&stop)) {
        for (unsigned i = 0; i < BATCH; i++) {
            submit(i);
            if (i % 5 == 0)
                driver_kick(&d, 0);
        }
        driver_kick(&d, 0);
        while (driver_used_waiting(&d, 0) < BATCH) {
            (void)driver_read32(&d, VIRTIO_MMIO_INTERRUPT_STATUS);
            sched_yield();
        }
        bool seen[256] = { 0 };
        for (unsigned i = 0; i < BATCH; i++) {
            uint16_t head = driver_used(&d, 0, NULL);
            assert_false(seen[head]); /* exactly once */
            seen[head] = true;
        }
        assert_int_equal(driver_used_waiting(&d, 0), 0);
        batches++;
    }
    return batches;
}

static void run_all(struct dev *dev, uint64_t features, void (*submit)(unsigned slot))
{
    pthread_t looper, mover;
    void *wrong, *loop_failed;
    d = (struct driver){ .dev = dev, .mem = &mem, .loop = &loop };
    dev->ops->resume(dev);
    driver_start(&d, features, 128);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&looper, NULL, run_loop, &loop), 0);
    assert_int_equal(pthread_create(&mover, NULL, run_mover, dev), 0);
    assert_true(run_driver(submit) > 0);
    assert_int_equal(pthread_join(mover, &wrong), 0);
    loop_quit(&loop);
    assert_int_equal(pthread_join(looper, &loop_failed), 0);
    assert_null(wrong);
    assert_null(loop_failed);
    assert_false(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_int_equal(dev->ops->pause(dev), 0);
    dev->ops->free(dev);
}

static void submit_read(unsigned slot)
{
    struct virtio_blk_outhdr *header = driver_mem(&d, HEADERS + slot * 16);
    *header = (struct virtio_blk_outhdr){ .type = slot % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
                                          .sector = slot * 8 };
    driver_submit(&d, 0,
                  (struct driver_seg[]){ { HEADERS + slot * 16, 16, false },
                                         { DATA + slot * 4096, 4096, slot % 2 },
                                         { STATUS + slot, 1, true } },
                  3);
}

static void submit_random(unsigned slot)
{
    driver_submit(&d, 0, &(struct driver_seg){ DATA + slot * 64, 64, true }, 1);
}

/* Lends a page that holds something, in a chain whose answer means that it is gone. */
static void submit_page(unsigned slot)
{
    uint32_t *pfn = driver_mem(&d, HEADERS + slot * 16);
    *pfn = (DATA + slot * 4096) / 4096;
    memset(driver_mem(&d, DATA + slot * 4096), 1, 64);
    driver_submit(&d, 0, &(struct driver_seg){ HEADERS + slot * 16, 4, false }, 1);
}

static int setup(void **state)
{
    struct err err = { 0 };
    (void)state;
    assert_int_equal(mem_init(&mem, DRIVER_MEM_BYTES, MEM_PAGES_SMALL, &err), 0);
    assert_int_equal(loop_init(&loop), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_fini(&loop);
    mem_fini(&mem);
    return 0;
}

static void test_blk(void **state)
{
    struct dev *dev;
    struct err err = { 0 };
    struct virtio_blk_options options = { 0 };
    (void)state;
    int fd = memfd_create("disk", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, SECTORS * DISK_SECTOR_BYTES), 0);
    assert_int_equal(virtio_blk_create(&dev, 0, &mem, &loop, fd, &options, &err), 0);
    run_all(dev, UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX, submit_read);
}

static void test_rng(void **state)
{
    struct dev *dev;
    struct err err = { 0 };
    (void)state;
    assert_int_equal(virtio_rng_create(&dev, 0, &mem, &loop, &err), 0);
    run_all(dev, 0, submit_random);
}

static void test_balloon(void **state)
{
    struct dev *dev;
    struct err err = { 0 };
    (void)state;
    assert_int_equal(virtio_balloon_create(&dev, 0, &mem, &loop, NULL, NULL, &err), 0);
    run_all(dev, 0, submit_page);
    uint64_t from, to;
    assert_int_equal(mem_next_touched(&mem, DATA / 4096, &from, &to), -ENXIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_blk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rng, setup, teardown),
        cmocka_unit_test_setup_teardown(test_balloon, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
