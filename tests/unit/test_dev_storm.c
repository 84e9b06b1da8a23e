/*
 * Seeded nonsense: a driver that writes random registers, fills its rings with random descriptors
 * and kicks, mixed with pauses, moves and resets. Whatever it does, the monitor survives, nothing
 * stays in flight, and after a reset the device serves a well-behaved driver. Prints its seed;
 * argv[1] sets it.
 */
#include "base/clock.h"
#include "base/log.h"
#include "dev/disk.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "virtio_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define ROUNDS 1000
#define STEPS 60
#define SECTORS 2048u
#define BUF 0x200000u

static struct mem mem;
static struct loop loop;
static struct driver d;
static int wire, near_end, disk;
static uint64_t seed;

static uint64_t next_random(void) /* splitmix64 */
{
    uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t below(uint64_t n)
{
    return next_random() % n;
}

static struct dev *make_rng(void)
{
    struct dev *dev;
    struct err err = { 0 };
    assert_int_equal(virtio_rng_create(&dev, 0, &mem, &loop, &err), 0);
    return dev;
}

static struct dev *make_balloon(void)
{
    struct dev *dev;
    struct err err = { 0 };
    assert_int_equal(virtio_balloon_create(&dev, 0, &mem, &loop, NULL, NULL, &err), 0);
    return dev;
}

static struct dev *make_blk(void)
{
    struct dev *dev;
    struct err err = { 0 };
    struct virtio_blk_options options = { .serial = "storm" };
    assert_int_equal(virtio_blk_create(&dev, 0, &mem, &loop, dup(disk), &options, &err), 0);
    return dev;
}

static struct dev *make_net(void)
{
    static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };
    struct dev *dev;
    struct err err = { 0 };
    assert_int_equal(virtio_net_create(&dev, 0, &mem, &loop, dup(near_end), mac, &err), 0);
    return dev;
}

/* Mostly RAM, at times the rings themselves, its end, or nothing at all. */
static uint64_t random_gpa(void)
{
    switch (below(60)) { /* seldom: each such address ends the round's traffic */
    case 0:
        return next_random();
    case 1:
        return MEM_MIN_BYTES - below(64);
    case 2:
        return 0x100000 + below(0x30000);
    default:
        return BUF + below(0x100000);
    }
}

static uint32_t random_len(void)
{
    switch (below(8)) {
    case 0:
        return (uint32_t)(below(10) ? below(100000) : next_random());
    case 1:
        return 1 + (uint32_t)below(3);
    case 2:
        return 16;
    case 3:
        return 512 * (1 + (uint32_t)below(64));
    default:
        return 1 + (uint32_t)below(4096);
    }
}

static void random_chain(unsigned queue)
{
    struct driver_queue *q = &d.queue[queue];
    if (q->size == 0 || (driver_used_waiting(&d, queue) + q->size <= q->avail_idx && below(50)))
        return;
    uint16_t head = (uint16_t)below(q->size), index = head;
    unsigned n = 2 + (unsigned)below(4), writable = 1 + (unsigned)below(n - 1);
    if (below(50) == 0)
        writable = (unsigned)below(n + 1);
    for (unsigned i = 0; i < n; i++) {
        unsigned flags = (i >= writable ? VRING_DESC_F_WRITE : 0u) |
                         (i + 1 < n ? VRING_DESC_F_NEXT : 0u) |
                         (below(100) == 0 ? (unsigned)below(8) : 0u);
        uint16_t next = (uint16_t)(below(100) ? (index + 1u) % q->size : next_random());
        uint64_t gpa = random_gpa();
        if (i == 0 && gpa < MEM_MIN_BYTES - 64) /* a header that blk and net can make sense of */
            *(uint32_t *)driver_mem(&d, gpa & ~UINT64_C(7)) = (uint32_t)below(14);
        driver_desc(&d, queue, index, gpa & ~UINT64_C(7), i ? random_len() : 16, (uint16_t)flags,
                    next);
        if (next >= q->size)
            break;
        index = next;
    }
    driver_offer(&d, queue, below(100) ? head : (uint16_t)next_random());
}

static void random_step(struct dev *(*make)(void))
{
    unsigned queue = (unsigned)below(virtio_dev_of(d.dev)->queue_count);
    struct err err = { 0 };
    if (below(100) == 0) { /* mostly fatal to the traffic, so seldom */
        driver_write32(&d, below(0x80) * 4, (uint32_t)next_random());
        driver_write32(&d, VIRTIO_MMIO_STATUS, (uint32_t)below(256));
        if (d.queue[queue].size) /* the available index jumps */
            *(uint16_t *)driver_mem(&d, d.queue[queue].avail_gpa + 2) += (uint16_t)below(300);
    }
    switch (below(20)) {
    case 1:
        (void)driver_read32(&d, below(0x100));
        break;
    case 4: {
        assert_int_equal(d.dev->ops->pause(d.dev), 0);
        struct dev *target = make();
        assert_int_equal(driver_transplant(d.dev, target, &err), 0);
        d.dev->ops->free(d.dev);
        d.dev = target;
        d.dev->ops->resume(d.dev);
        break;
    }
    case 5:
        (void)send(wire, d.mem->host, 12 + below(3000), MSG_DONTWAIT);
        break;
    case 6:
        if (d.dev->ops->announce)
            d.dev->ops->announce(d.dev);
        break;
    case 7:
        assert_int_equal(loop_once(&loop, 0), 0);
        break;
    case 8:
        driver_kick(&d, queue);
        break;
    default:
        random_chain(queue);
        if (below(2))
            driver_kick(&d, queue);
        if (below(3) == 0)
            assert_int_equal(loop_once(&loop, 0), 0);
    }
}

/* The device still serves one who keeps the rules: its first queue that takes a writable buffer. */
static void check_alive(uint64_t features)
{
    uint8_t drain[4096];
    while (recv(wire, drain, sizeof(drain), MSG_DONTWAIT) >= 0)
        ;
    driver_start(&d, features, 64);
    memset(driver_mem(&d, BUF), 0, 64);
    if (virtio_dev_of(d.dev)->vops->device_id == VIRTIO_ID_BLOCK)
        driver_submit(&d, 0, (struct driver_seg[]){ { BUF, 16, false }, { BUF + 512, 513, true } },
                      2);
    else
        driver_submit(&d, 0, &(struct driver_seg){ BUF, 2048, true }, 1);
    driver_kick(&d, 0);
    (void)send(wire, drain, 100, MSG_DONTWAIT);
    driver_wait(&d, 0, 1);
}

static void storm(struct dev *(*make)(void))
{
    struct err err = { 0 };
    int pair[2];
    const uint64_t first_seed = seed;
    assert_int_equal(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, &err), 0);
    assert_int_equal(loop_init(&loop), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair), 0);
    wire = pair[0];
    near_end = pair[1];
    disk = memfd_create("disk", MFD_CLOEXEC);
    assert_int_equal(ftruncate(disk, SECTORS * DISK_SECTOR_BYTES), 0);
    d = (struct driver){ .dev = make(), .mem = &mem, .loop = &loop };
    d.dev->ops->resume(d.dev);
    unsigned used = 0;
    print_message("seed %llu\n", (unsigned long long)first_seed);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t features = driver_offered(&d) & next_random();
        driver_start(&d, features, (uint16_t)(UINT64_C(1) << (below(5) + (below(4) ? 4 : 0))));
        for (unsigned step = 0; step < STEPS; step++)
            random_step(make);
        assert_int_equal(d.dev->ops->pause(d.dev), 0);
        for (unsigned i = 0; i < virtio_dev_of(d.dev)->queue_count; i++)
            assert_int_equal(virtio_dev_of(d.dev)->queue[i].in_flight, 0);
        d.dev->ops->resume(d.dev);
        for (unsigned i = 0; i < virtio_dev_of(d.dev)->queue_count; i++)
            used += driver_used_waiting(&d, i);
        check_alive(0);
    }
    assert_true(used > ROUNDS); /* nonsense, but not only such as is refused at once */
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->free(d.dev);
    (void)close(wire);
    (void)close(near_end);
    (void)close(disk);
    loop_fini(&loop);
    mem_fini(&mem);
}

static void test_balloon(void **state)
{
    (void)state;
    storm(make_balloon);
}

static void test_rng(void **state)
{
    (void)state;
    storm(make_rng);
}

static void test_blk(void **state)
{
    (void)state;
    storm(make_blk);
}

static void test_net(void **state)
{
    (void)state;
    storm(make_net);
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    log_setup(LOG_ERROR, "storm"); /* the devices complain with reason */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rng),
        cmocka_unit_test(test_balloon),
        cmocka_unit_test(test_blk),
        cmocka_unit_test(test_net),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
