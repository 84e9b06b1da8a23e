#include "base/clock.h"
#include "base/fd.h"
#include "dev/disk.h"
#include "dev/virtio_blk.h"
#include "virtio_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cmocka.h>

#define SECTORS 8192u /* 4 MiB */
#define HEADERS 0x200000u
#define STATUS 0x280000u
#define DATA 0x300000u
#define SYS_CACHESTAT 451 /* Linux 6.5; unknown to older headers */
#define BIT(n) (UINT64_C(1) << (n))
#define ALL_FEATURES                                                                             \
    (BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_BLK_F_FLUSH) | \
     BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES) | BIT(VIRTIO_BLK_F_SEG_MAX))

static struct mem mem;
static struct loop loop;
static struct driver d;
static char path[64];
static int disk; /* our own view of the file */

static struct dev *make(bool read_only)
{
    struct dev *dev;
    struct err err = { 0 };
    uint64_t sectors;
    int fd;
    assert_int_equal(disk_open(path, read_only, &fd, &sectors, &err), 0);
    assert_int_equal(sectors, SECTORS);
    struct virtio_blk_options options = { .serial = "disk-0123456789-abcdef",
                                          .read_only = read_only };
    assert_int_equal(virtio_blk_create(&dev, 1, &mem, &loop, fd, &options, &err), 0);
    return dev;
}

static uint8_t pattern(uint64_t byte)
{
    return (uint8_t)(byte / 512 * 7 + byte % 251);
}

static int setup(void **state)
{
    static uint8_t image[SECTORS * 512];
    struct err err = { 0 };
    (void)state;
    (void)snprintf(path, sizeof(path), "/var/tmp/godwit-test-blk-XXXXXX");
    disk = mkstemp(path);
    assert_true(disk >= 0);
    for (size_t i = 0; i < sizeof(image); i++)
        image[i] = pattern(i);
    assert_int_equal(fd_write_full(disk, image, sizeof(image)), 0);
    assert_int_equal(mem_init(&mem, DRIVER_MEM_BYTES, MEM_PAGES_SMALL, &err), 0);
    assert_int_equal(loop_init(&loop), 0);
    d = (struct driver){ .dev = make(false), .mem = &mem, .loop = &loop };
    d.dev->ops->resume(d.dev);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->free(d.dev);
    loop_fini(&loop);
    mem_fini(&mem);
    (void)close(disk);
    (void)unlink(path);
    return 0;
}

/* Offers request number `slot` with its own header and status byte, its data split in two. */
static uint16_t request(unsigned slot, uint32_t type, uint64_t sector, uint64_t data, uint32_t len,
                        bool in)
{
    struct virtio_blk_outhdr *header = driver_mem(&d, HEADERS + slot * 16);
    *header = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
    *(uint8_t *)driver_mem(&d, STATUS + slot) = 0xee;
    struct driver_seg segs[4] = { { HEADERS + slot * 16, 16, false } };
    unsigned n = 1;
    uint32_t first = len / 3;
    if (first)
        segs[n++] = (struct driver_seg){ data, first, in };
    if (len)
        segs[n++] = (struct driver_seg){ data + first, len - first, in };
    segs[n++] = (struct driver_seg){ STATUS + slot, 1, true };
    return driver_submit(&d, 0, segs, n);
}

static uint8_t status_of(unsigned slot)
{
    return *(uint8_t *)driver_mem(&d, STATUS + slot);
}

static uint8_t ask(uint32_t type, uint64_t sector, uint64_t data, uint32_t len, bool in)
{
    request(0, type, sector, data, len, in);
    driver_kick(&d, 0);
    driver_wait(&d, 0, 1);
    uint32_t used_len;
    (void)driver_used(&d, 0, &used_len);
    assert_int_equal(used_len, in ? len + 1 : 1);
    return status_of(0);
}

static uint8_t range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes *r = driver_mem(&d, DATA);
    *r = (struct virtio_blk_discard_write_zeroes){ .sector = sector,
                                                   .num_sectors = sectors,
                                                   .flags = flags };
    return ask(type, 0, DATA, sizeof(*r), false);
}

static bool disk_holds(uint64_t byte, uint64_t len, bool zero)
{
    uint8_t *bytes = malloc(len);
    assert_non_null(bytes);
    assert_int_equal(fd_pread_full(disk, bytes, len, (off_t)byte), 0);
    bool right = true;
    for (uint64_t i = 0; i < len; i++)
        right = right && bytes[i] == (zero ? 0 : pattern(byte + i));
    free(bytes);
    return right;
}

static void test_configuration(void **state)
{
    (void)state;
    struct virtio_blk_config c;
    for (unsigned i = 0; i < sizeof(c); i++)
        d.dev->ops->read(d.dev, VIRTIO_MMIO_CONFIG + i, (uint8_t *)&c + i, 1);
    assert_int_equal(c.capacity, SECTORS);
    assert_true(c.seg_max > 0 && c.seg_max + 2 <= VIRTQ_SEGS_MAX);
    uint64_t capacity = 0;
    d.dev->ops->read(d.dev, VIRTIO_MMIO_CONFIG, &capacity, 8);
    assert_int_equal(capacity, SECTORS);
    uint32_t past = 1;
    /* Half outside: nothing. */
    d.dev->ops->read(d.dev, VIRTIO_MMIO_CONFIG + sizeof(c) - 2, &past, 4);
    assert_int_equal(past, 0);
    assert_false(driver_offered(&d) & BIT(VIRTIO_BLK_F_RO));
}

static void test_read_and_write(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 64);
    assert_int_equal(ask(VIRTIO_BLK_T_IN, 5, DATA, 4096, true), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < 4096; i++)
        assert_int_equal(((uint8_t *)driver_mem(&d, DATA))[i], pattern(5 * 512 + i));
    memset(driver_mem(&d, DATA), 0, 8192);
    assert_int_equal(ask(VIRTIO_BLK_T_OUT, SECTORS - 16, DATA, 8192, false), VIRTIO_BLK_S_OK);
    assert_int_equal(ask(VIRTIO_BLK_T_FLUSH, 0, 0, 0, false), VIRTIO_BLK_S_OK);
    assert_true(disk_holds((SECTORS - 16) * 512, 8192, true));
    assert_true(disk_holds(0, (SECTORS - 16) * 512, false));
    assert_int_equal(driver_count(&d, "read_requests"), 1);
    assert_int_equal(driver_count(&d, "read_bytes"), 4096);
    assert_int_equal(driver_count(&d, "write_requests"), 1);
    assert_int_equal(driver_count(&d, "written_bytes"), 8192);
    assert_int_equal(driver_count(&d, "flush_requests"), 1);
    assert_int_equal(driver_count(&d, "failed_requests"), 0);
    driver_start(&d, BIT(VIRTIO_BLK_F_SEG_MAX), 64); /* a write that is made durable counts once */
    assert_int_equal(ask(VIRTIO_BLK_T_OUT, 0, DATA, 512, false), VIRTIO_BLK_S_OK);
    assert_int_equal(driver_count(&d, "write_requests"), 2);
    assert_int_equal(driver_count(&d, "written_bytes"), 8704);
    assert_int_equal(driver_count(&d, "flush_requests"), 1);
}

static void test_header_and_status_anywhere(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 64);
    /* Header in two pieces, the second with the data; the status byte at the end of the data. */
    struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_OUT, .sector = 3 };
    memcpy(driver_mem(&d, HEADERS), &header, 5);
    memcpy(driver_mem(&d, HEADERS + 100), (uint8_t *)&header + 5, 11);
    memset(driver_mem(&d, HEADERS + 111), 0, 512);
    driver_submit(&d, 0,
                  (struct driver_seg[]){ { HEADERS, 5, false },
                                         { HEADERS + 100, 11 + 512, false },
                                         { STATUS, 1, true } },
                  3);
    header = (struct virtio_blk_outhdr){ .type = VIRTIO_BLK_T_IN, .sector = 9 };
    memcpy(driver_mem(&d, HEADERS + 0x1000), &header, 16);
    memset(driver_mem(&d, DATA), 0xee, 513);
    driver_submit(&d, 0,
                  (struct driver_seg[]){ { HEADERS + 0x1000, 16, false }, { DATA, 513, true } }, 2);
    driver_kick(&d, 0);
    driver_wait(&d, 0, 2);
    assert_true(disk_holds(3 * 512, 512, true));
    assert_int_equal(status_of(0), VIRTIO_BLK_S_OK);
    assert_int_equal(((uint8_t *)driver_mem(&d, DATA))[511], pattern(9 * 512 + 511));
    assert_int_equal(((uint8_t *)driver_mem(&d, DATA))[512], VIRTIO_BLK_S_OK);
}

static void test_identifier(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 64);
    assert_int_equal(ask(VIRTIO_BLK_T_GET_ID, 0, DATA, 20, true), VIRTIO_BLK_S_OK);
    assert_memory_equal(driver_mem(&d, DATA), "disk-0123456789-abcd", 20);
}

/* Reads (also one that fails half-way), their status bytes and the identifier, each in pages of
 * their own, and the used ring. */
static void test_all_that_is_written_is_marked(void **state)
{
    (void)state;
    struct driver_track track;
    driver_start(&d, ALL_FEATURES, 64);
    assert_int_equal(ftruncate(disk, 1000 * 512), 0);
    for (unsigned slot = 0; slot < 3 * 4096; slot += 4096) /* status bytes in different pages */
        request(slot, VIRTIO_BLK_T_IN, slot < 2 * 4096 ? 8 : 992, DATA + slot * 16, 20480, true);
    request(3 * 4096, VIRTIO_BLK_T_GET_ID, 0, DATA + 0x60000, 20, true);
    request(4 * 4096, 77, 0, DATA + 0x70000, 20, true);
    driver_track(&d, &track);
    driver_kick(&d, 0);
    driver_wait(&d, 0, 5);
    driver_check_marks(&d, &track);
    assert_int_equal(status_of(0), VIRTIO_BLK_S_OK);
    assert_int_equal(status_of(2 * 4096), VIRTIO_BLK_S_IOERR);
}

/* Bytes of the file that the host's cache has not written back; -1: this kernel cannot tell. */
static long long dirty_pages(void)
{
    struct {
        uint64_t offset, len;
    } range = { 0, 0 };
    struct {
        uint64_t cache, dirty, writeback, evicted, recently_evicted;
    } stat = { 0 };
    if (syscall(SYS_CACHESTAT, disk, &range, &stat, 0) < 0)
        return -1;
    return (long long)(stat.dirty + stat.writeback);
}

static void test_durability(void **state)
{
    (void)state;
    if (dirty_pages() < 0) {
        print_message("cachestat(2) is missing: what reached the disk cannot be seen\n");
        skip();
    }
    driver_start(&d, ALL_FEATURES, 64);
    assert_int_equal(ask(VIRTIO_BLK_T_OUT, 0, DATA, 65536, false), VIRTIO_BLK_S_OK);
    assert_int_equal(ask(VIRTIO_BLK_T_FLUSH, 0, 0, 0, false), VIRTIO_BLK_S_OK);
    assert_int_equal(dirty_pages(), 0);
    /* A driver that does not know FLUSH finds each write durable when it is done. */
    driver_start(&d, BIT(VIRTIO_BLK_F_WRITE_ZEROES), 64);
    assert_int_equal(ask(VIRTIO_BLK_T_OUT, 64, DATA, 65536, false), VIRTIO_BLK_S_OK);
    assert_int_equal(dirty_pages(), 0);
    assert_int_equal(range(VIRTIO_BLK_T_WRITE_ZEROES, 3, 5, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(dirty_pages(), 0);
}

static void test_refusals(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 64);
    memset(driver_mem(&d, DATA), 0xcc, 4096);
    const struct {
        uint32_t type, len;
        uint64_t sector;
        bool in;
        uint8_t status;
    } bad[] = {
        { VIRTIO_BLK_T_IN, 1024, SECTORS - 1, true, VIRTIO_BLK_S_IOERR },
        { VIRTIO_BLK_T_IN, 512, UINT64_MAX, true, VIRTIO_BLK_S_IOERR },
        { VIRTIO_BLK_T_IN, 512, UINT64_MAX / 512, true, VIRTIO_BLK_S_IOERR },
        { VIRTIO_BLK_T_IN, 511, 0, true, VIRTIO_BLK_S_IOERR },
        { VIRTIO_BLK_T_IN, 0, 0, true, VIRTIO_BLK_S_IOERR },
        { VIRTIO_BLK_T_OUT, 512, SECTORS, false, VIRTIO_BLK_S_IOERR },
        { VIRTIO_BLK_T_OUT, 100, 0, false, VIRTIO_BLK_S_IOERR },
        { VIRTIO_BLK_T_OUT, 512, 0, true, VIRTIO_BLK_S_IOERR }, /* wrong direction */
        { VIRTIO_BLK_T_IN, 512, 0, false, VIRTIO_BLK_S_IOERR },
        { VIRTIO_BLK_T_DISCARD, 15, 0, false, VIRTIO_BLK_S_UNSUPP },
        { VIRTIO_BLK_T_WRITE_ZEROES, 48, 0, false, VIRTIO_BLK_S_UNSUPP },
        { 77, 512, 0, true, VIRTIO_BLK_S_UNSUPP },
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(ask(bad[i].type, bad[i].sector, DATA, bad[i].len, bad[i].in),
                         bad[i].status);
    assert_int_equal(range(VIRTIO_BLK_T_WRITE_ZEROES, SECTORS - 1, 2, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(range(VIRTIO_BLK_T_WRITE_ZEROES, UINT64_MAX, 1, 1), VIRTIO_BLK_S_IOERR);
    assert_int_equal(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(range(VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(driver_count(&d, "failed_requests"), ARRAY_LEN(bad) + 5);
    assert_int_equal(driver_count(&d, "read_requests"), 6);
    assert_int_equal(driver_count(&d, "read_bytes") + driver_count(&d, "written_bytes"), 0);
    assert_true(disk_holds(0, SECTORS * 512, false));
    assert_false(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void needs_reset_after(const struct driver_seg *segs, unsigned count)
{
    driver_start(&d, ALL_FEATURES, 64);
    driver_submit(&d, 0, segs, count);
    driver_kick(&d, 0);
    driver_settle(&d);
    assert_true(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void test_requests_that_are_none(void **state)
{
    (void)state;
    memset(driver_mem(&d, HEADERS), 0, 16);
    needs_reset_after((struct driver_seg[]){ { HEADERS, 15, false }, { STATUS, 1, true } }, 2);
    needs_reset_after((struct driver_seg[]){ { HEADERS, 16, false } }, 1);
    needs_reset_after((struct driver_seg[]){ { STATUS, 1, true } }, 1);
    needs_reset_after((struct driver_seg[]){ { HEADERS, 16, false },
                                             { UINT64_MAX - 511, 512, true },
                                             { STATUS, 1, true } },
                      3);
    driver_start(&d, ALL_FEATURES, 64);
    assert_int_equal(ask(VIRTIO_BLK_T_IN, 0, DATA, 512, true), VIRTIO_BLK_S_OK);
}

static void test_discard_and_write_zeroes(void **state)
{
    (void)state;
    bool discards = driver_offered(&d) & BIT(VIRTIO_BLK_F_DISCARD);
    driver_start(&d, ALL_FEATURES & driver_offered(&d), 64);
    struct stat before, after;
    assert_int_equal(fsync(disk) | fstat(disk, &before), 0);
    assert_int_equal(range(VIRTIO_BLK_T_WRITE_ZEROES, 3, 100, 0), VIRTIO_BLK_S_OK);
    assert_true(disk_holds(3 * 512, 100 * 512, true));
    assert_int_equal(range(VIRTIO_BLK_T_WRITE_ZEROES, 4096, 1024,
                           VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
                     VIRTIO_BLK_S_OK);
    assert_true(disk_holds(4096 * 512, 1024 * 512, true));
    assert_int_equal(driver_count(&d, "write_zeroes_requests"), 2);
    assert_int_equal(driver_count(&d, "zeroed_bytes"), 1124 * 512);
    if (!discards) {
        print_message("no discard on this file system: that half is not tested\n");
        return;
    }
    assert_int_equal(range(VIRTIO_BLK_T_DISCARD, 1024, 2048, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(driver_count(&d, "discard_requests"), 1);
    assert_int_equal(driver_count(&d, "discarded_bytes"), 2048 * 512);
    assert_int_equal(fsync(disk) | fstat(disk, &after), 0);
    assert_true(after.st_blocks + 2048 <= before.st_blocks);
    assert_int_equal(after.st_size, before.st_size);
    assert_true(disk_holds(0, 3 * 512, false));
    assert_true(disk_holds(5120 * 512, (SECTORS - 5120) * 512, false));
}

/* tmpfs cannot zero a range in place: the device falls back to writing. */
static void test_write_zeroes_where_it_must_be_written(void **state)
{
    (void)state;
    struct err err = { 0 };
    int fd = memfd_create("disk", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SECTORS * 512), 0);
    static uint8_t full[1 << 20];
    memset(full, 0xaa, sizeof(full));
    assert_int_equal(fd_write_full(fd, full, sizeof(full)), 0);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->free(d.dev);
    struct virtio_blk_options options = { 0 };
    assert_int_equal(virtio_blk_create(&d.dev, 1, &mem, &loop, dup(fd), &options, &err), 0);
    d.dev->ops->resume(d.dev);
    driver_start(&d, ALL_FEATURES, 64);
    assert_int_equal(range(VIRTIO_BLK_T_WRITE_ZEROES, 1, 1000, 0), VIRTIO_BLK_S_OK);
    static uint8_t now[1 << 20];
    assert_int_equal(fd_pread_full(fd, now, sizeof(now), 0), 0);
    for (unsigned i = 0; i < sizeof(now); i++)
        assert_int_equal(now[i], i / 512 >= 1 && i / 512 < 1001 ? 0 : 0xaa);
    (void)close(fd);
}

static void test_read_only(void **state)
{
    (void)state;
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->free(d.dev);
    d.dev = make(true);
    d.dev->ops->resume(d.dev);
    assert_true(driver_offered(&d) & BIT(VIRTIO_BLK_F_RO));
    assert_false(driver_offered(&d) & (BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES)));
    driver_start(&d, BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_FLUSH), 64);
    assert_int_equal(ask(VIRTIO_BLK_T_OUT, 0, DATA, 512, false), VIRTIO_BLK_S_IOERR);
    assert_int_equal(range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ask(VIRTIO_BLK_T_IN, 0, DATA, 512, true), VIRTIO_BLK_S_OK);
    assert_int_equal(ask(VIRTIO_BLK_T_FLUSH, 0, 0, 0, false), VIRTIO_BLK_S_OK);
    assert_true(disk_holds(0, SECTORS * 512, false));
}

static void test_file_that_shrank(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 64);
    assert_int_equal(ftruncate(disk, 1000 * 512), 0);
    memset(driver_mem(&d, DATA), 0xdd, 8192);
    assert_int_equal(ask(VIRTIO_BLK_T_IN, 992, DATA, 8192, true), VIRTIO_BLK_S_IOERR);
    assert_int_equal(((uint8_t *)driver_mem(&d, DATA))[8191], 0);
    assert_int_equal(ask(VIRTIO_BLK_T_IN, 992, DATA, 4096, true), VIRTIO_BLK_S_OK);
}

/* Many requests over all slots, some without a driver that accepts FLUSH (each then synced). */
static void many(uint64_t features, unsigned rounds)
{
    driver_start(&d, features, 256);
    unsigned count = 0;
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < 60; i++) {
            bool in = (i + round) % 3;
            uint64_t sector = (uint64_t)i * 64, data = DATA + i * 32768u;
            for (unsigned k = 0; !in && k < 16384; k++)
                ((uint8_t *)driver_mem(&d, data))[k] = pattern(sector * 512 + k);
            request(i, in ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, sector, data, 16384, in);
            if (i % 7 == 0)
                driver_kick(&d, 0);
        }
        driver_kick(&d, 0);
        driver_wait(&d, 0, 60);
        for (unsigned i = 0; i < 60; i++) {
            (void)driver_used(&d, 0, NULL);
            assert_int_equal(status_of(i), VIRTIO_BLK_S_OK);
            count++;
        }
    }
    assert_int_equal(driver_used_waiting(&d, 0), 0);
    assert_int_equal(count, rounds * 60);
    assert_true(disk_holds(0, SECTORS * 512, false));
}

static void test_many_requests(void **state)
{
    (void)state;
    many(ALL_FEATURES, 20);
    many(0, 3);
}

static void test_more_requests_than_slots(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 256);
    /* 200 chains of one indirect descriptor each. */
    for (unsigned i = 0; i < 200; i++) {
        struct vring_desc *table = driver_mem(&d, 0x400000 + i * 64);
        struct virtio_blk_outhdr *header = driver_mem(&d, HEADERS + i * 16);
        *header = (struct virtio_blk_outhdr){ .type = VIRTIO_BLK_T_IN, .sector = i };
        *(uint8_t *)driver_mem(&d, STATUS + i) = 0xee;
        table[0] = (struct vring_desc){ HEADERS + i * 16, 16, VRING_DESC_F_NEXT, 1 };
        table[1] =
            (struct vring_desc){ DATA + i * 512, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2 };
        table[2] = (struct vring_desc){ STATUS + i, 1, VRING_DESC_F_WRITE, 0 };
        driver_desc(&d, 0, (uint16_t)i, 0x400000 + i * 64, 48, VRING_DESC_F_INDIRECT, 0);
        driver_offer(&d, 0, (uint16_t)i);
    }
    driver_kick(&d, 0);
    driver_wait(&d, 0, 200);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(status_of(i), VIRTIO_BLK_S_OK);
        assert_int_equal(*(uint8_t *)driver_mem(&d, DATA + i * 512), pattern(i * 512));
    }
}

/* Requests in flight at the pause are done when it returns; those not begun wait for the target. */
static void test_move_with_requests_in_flight(void **state)
{
    (void)state;
    struct err err = { 0 };
    driver_start(&d, ALL_FEATURES, 256);
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned i = 0; i < 40; i++) {
            memset(driver_mem(&d, DATA + i * 65536u), (int)(round + 1), 65536);
            request(i, VIRTIO_BLK_T_OUT, i * 128u, DATA + i * 65536u, 65536, false);
        }
        driver_kick(&d, 0);
        assert_int_equal(loop_once(&loop, 0), 0);
        struct virtq *q = &virtio_dev_of(d.dev)->queue[0];
        assert_int_equal(q->next_avail, d.queue[0].avail_idx); /* all begun */
        assert_int_equal(d.dev->ops->pause(d.dev), 0);
        assert_int_equal(q->in_flight, 0);
        assert_int_equal(driver_used_waiting(&d, 0), 40);
        for (unsigned i = 40; i < 60; i++)
            request(i, VIRTIO_BLK_T_IN, (i - 40) * 128u, DATA + i * 65536u, 65536, true);
        driver_kick(&d, 0);
        driver_settle(&d);
        assert_int_equal(driver_used_waiting(&d, 0), 40);

        struct dev *target = make(false);
        assert_int_equal(driver_transplant(d.dev, target, &err), 0);
        d.dev->ops->free(d.dev);
        d.dev = target;
        target->ops->resume(target);
        driver_wait(&d, 0, 60);
        driver_settle(&d);
        assert_int_equal(driver_used_waiting(&d, 0), 60);
        for (unsigned i = 0; i < 60; i++) {
            (void)driver_used(&d, 0, NULL);
            assert_int_equal(status_of(i), VIRTIO_BLK_S_OK);
        }
        for (unsigned i = 40; i < 60; i++)
            assert_int_equal(*(uint8_t *)driver_mem(&d, DATA + i * 65536u + 65535), round + 1);
    }
}

static void test_reset_in_flight(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 50; round++) {
        driver_start(&d, ALL_FEATURES, 256);
        for (unsigned i = 0; i < 50; i++)
            request(i, VIRTIO_BLK_T_IN, i * 64u, DATA + i * 65536u, 65536 / 2, true);
        driver_kick(&d, 0);
        assert_int_equal(loop_once(&loop, 0), 0);
        driver_write32(&d, VIRTIO_MMIO_STATUS, 0);
        assert_int_equal(driver_read32(&d, VIRTIO_MMIO_STATUS), 0);
        /* The memory is the driver's again: nothing may be written any more. */
        memset(driver_mem(&d, DATA), 0x55, 50 * 65536);
        memset(driver_mem(&d, 0x100000), 0x55, 0x10000);
        driver_settle(&d);
        for (unsigned i = 0; i < 50 * 65536; i++)
            if (((uint8_t *)driver_mem(&d, DATA))[i] != 0x55)
                fail_msg("byte %u was written after the reset", i);
        assert_int_equal(*(uint8_t *)driver_mem(&d, 0x108002), 0x55);
    }
}

static void test_another_disk_is_refused(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct virtio_blk_state saved;
    driver_start(&d, ALL_FEATURES, 64);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->save(d.dev, &saved);
    struct dev *target = make(false);
    saved.sectors++;
    assert_int_equal(target->ops->load(target, &saved, &err), -EINVAL);
    assert_non_null(strstr(err.text, "8193"));
    saved.sectors--;
    saved.transport[0].accepted |= BIT(VIRTIO_BLK_F_CONFIG_WCE);
    saved.transport[0].offered |= BIT(VIRTIO_BLK_F_CONFIG_WCE);
    assert_int_equal(target->ops->load(target, &saved, &err), -EOPNOTSUPP);
    target->ops->free(target);
}

static void test_fingerprint(void **state)
{
    (void)state;
    uint64_t sum, other;
    assert_int_equal(disk_fingerprint(disk, SECTORS, &sum), 0);
    assert_int_not_equal(sum, 0);
    assert_int_equal(disk_fingerprint(disk, SECTORS, &other), 0);
    assert_int_equal(sum, other);
    assert_int_equal(disk_fingerprint(disk, SECTORS - 1, &other), 0);
    assert_int_not_equal(sum, other);
    const uint64_t sampled[] = { 0, (SECTORS - 1) * 512, 1023 / 63 * 30 * 4096 };
    for (unsigned i = 0; i < ARRAY_LEN(sampled); i++) {
        uint8_t byte = (uint8_t)~pattern(sampled[i]);
        assert_int_equal(pwrite(disk, &byte, 1, (off_t)sampled[i]), 1);
        assert_int_equal(disk_fingerprint(disk, SECTORS, &other), 0);
        assert_int_not_equal(sum, other);
        byte = (uint8_t)~byte;
        assert_int_equal(pwrite(disk, &byte, 1, (off_t)sampled[i]), 1);
    }
    /* Every size down to one sector, none of them read past its end. */
    for (uint64_t sectors = 1; sectors < 600; sectors++) {
        assert_int_equal(ftruncate(disk, (off_t)(sectors * 512)), 0);
        assert_int_equal(disk_fingerprint(disk, sectors, &other), 0);
    }
    assert_int_equal(disk_fingerprint(disk, SECTORS, &other), -ENODATA);
    assert_int_equal(disk_fingerprint(disk, 0, &other), -EINVAL);
}

static void refused(const char *name, bool read_only, const char *hint)
{
    struct err err = { 0 };
    uint64_t sectors;
    int fd;
    assert_true(disk_open(name, read_only, &fd, &sectors, &err) < 0);
    assert_int_equal(err.fault, ERR_CALLER);
    assert_non_null(strstr(err.text, name));
    assert_non_null(strstr(err.text, hint));
}

static void test_open_names_what_is_wrong(void **state)
{
    (void)state;
    refused("/nonexistent/disk", true, "No such file");
    refused("/var/tmp", true, "directory");
    refused("/dev/null", true, "neither a file");
    assert_int_equal(ftruncate(disk, 100), 0);
    refused(path, true, "100 bytes");
    assert_int_equal(ftruncate(disk, 0), 0);
    refused(path, false, "0 bytes");
    struct dev *dev;
    struct err err = { 0 };
    struct virtio_blk_options options = { 0 };
    assert_true(virtio_blk_create(&dev, 0, &mem, &loop, dup(disk), &options, &err) < 0);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_configuration),
        CASE(test_read_and_write),
        CASE(test_header_and_status_anywhere),
        CASE(test_identifier),
        CASE(test_all_that_is_written_is_marked),
        CASE(test_durability),
        CASE(test_refusals),
        CASE(test_requests_that_are_none),
        CASE(test_discard_and_write_zeroes),
        CASE(test_write_zeroes_where_it_must_be_written),
        CASE(test_read_only),
        CASE(test_file_that_shrank),
        CASE(test_many_requests),
        CASE(test_more_requests_than_slots),
        CASE(test_move_with_requests_in_flight),
        CASE(test_reset_in_flight),
        CASE(test_another_disk_is_refused),
        CASE(test_fingerprint),
        CASE(test_open_names_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
