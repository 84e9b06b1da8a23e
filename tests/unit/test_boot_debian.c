/*
 * vm/boot with the kernel that the guest image is made with (Debian's, as its package ships it): it
 * is unpacked and entered by PVH, and with its payload made unreadable, by its 64-bit entry.
 */
#include "base/fd.h"
#include "kernel_images.h"
#include "vm/boot.h"
#include "vm/kernel.h"

#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *kernel_bytes;
static size_t kernel_len;

static void both_ways_in_work(void **state)
{
    (void)state;
    struct kernel pvh, packed;
    struct mem mem;
    struct err err = { 0 };

    assert_int_equal(mem_init(&mem, UINT64_C(256) << 20, MEM_PAGES_SMALL, &err), 0);
    if (kernel_load(&mem, image_file(kernel_bytes, kernel_len), &pvh, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(pvh.kind, KERNEL_PVH);
    assert_in_range(pvh.entry, 0x1000000, 0x1ffffff);
    assert_in_range(pvh.end_gpa, 0x2000000, 0x7ffffff);
    assert_true(mem_resident_pages(&mem) > 4096);
    mem_fini(&mem);

    uint32_t offset, setup = ((uint8_t)kernel_bytes[0x1f1] + 1u) * 512;
    memcpy(&offset, kernel_bytes + 0x248, 4);
    kernel_bytes[setup + offset] ^= 0x40;
    assert_int_equal(mem_init(&mem, UINT64_C(256) << 20, MEM_PAGES_SMALL, &err), 0);
    if (kernel_load(&mem, image_file(kernel_bytes, kernel_len), &packed, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(packed.kind, KERNEL_LINUX64);
    assert_int_equal(packed.entry % PAGE_BYTES, 0x200);
    assert_int_equal(packed.initrd_max, MEM_LOW_MAX);
    assert_in_range(packed.end_gpa, packed.entry + kernel_len - setup - 0x200, 0x7ffffff);
    mem_fini(&mem);
    kernel_bytes[setup + offset] ^= 0x40;
}

/* Both ways in have the whole kernel in memory, and say so when that is too small. */
static void too_small_a_machine_is_told(void **state)
{
    (void)state;
    struct kernel kernel;
    struct mem mem;
    struct err err = { 0 };
    const uint32_t init_size = 65 << 20;
    memcpy(kernel_bytes + 0x260, &init_size, 4);
    uint32_t no_payload = 0;
    memcpy(kernel_bytes + 0x24c, &no_payload, 4);
    assert_int_equal(mem_init(&mem, UINT64_C(64) << 20, MEM_PAGES_SMALL, &err), 0);
    assert_int_not_equal(kernel_load(&mem, image_file(kernel_bytes, kernel_len), &kernel, &err), 0);
    assert_non_null(strstr(err.text, "and the machine has 64"));
    assert_int_equal(mem_resident_pages(&mem), 0);
    mem_fini(&mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(both_ways_in_work),
                                        cmocka_unit_test(too_small_a_machine_is_told) };
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME") ? getenv("HOME") : "";
    char pattern[4096];
    glob_t found;
    (void)snprintf(pattern, sizeof(pattern), "%s%s/godwit/kernel-*/vmlinuz", cache ? cache : home,
                   cache ? "" : "/.cache");
    if (glob(pattern, 0, NULL, &found) != 0) {
        printf("skipped: no guest kernel has been built yet (%s)\n", pattern);
        return 77;
    }
    int rc = fd_read_file(found.gl_pathv[0], KERNEL_FILE_MAX, &kernel_bytes, &kernel_len);
    if (rc) {
        (void)fprintf(stderr, "%s: %s\n", found.gl_pathv[0], strerror(-rc));
        return 1;
    }
    globfree(&found);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    free(kernel_bytes);
    return rc;
}
