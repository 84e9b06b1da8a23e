/* vm/boot: what a kernel finds in memory, for machines of 64 MiB to 64 GiB and both ways in. */
#include "kernel_images.h"
#include "test.h"
#include "vm/acpi.h"
#include "vm/boot.h"
#include "vm/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static const uint64_t sizes[] = {
    64 * MIB, 256 * MIB, 3 * GIB, 3 * GIB + 2 * MIB, 4 * GIB, 64 * GIB
};
static char initrd_path[64];
#define INITRD_BYTES 10000
static struct image image;

static uint64_t get(const struct mem *mem, uint64_t gpa, size_t len)
{
    uint64_t value = 0;
    assert_int_equal(mem_read(mem, gpa_of(gpa), &value, len), 0);
    return value;
}

static struct hv_boot prepare(struct mem *mem, uint64_t bytes, const char *initrd)
{
    struct hv_boot boot;
    struct err err = { 0 };
    const struct boot_spec spec = { .kernel = image_file(image.bytes, image.len),
                                    .initrd = initrd,
                                    .cmdline = "console=ttyS0 quiet",
                                    .vcpus = 2,
                                    .devices = 3 };
    assert_int_equal(mem_init(mem, bytes, MEM_PAGES_SMALL, NULL), 0);
    if (boot_prepare(mem, &spec, &boot, &err) != 0)
        fail_msg("%s", err.text);
    return boot;
}

static void check_initrd(const struct mem *mem, uint64_t gpa, uint64_t len)
{
    assert_int_equal(len, INITRD_BYTES);
    assert_int_equal(gpa, mem->region[0].bytes - 12288); /* right below the top of low RAM */
    const uint8_t *bytes = mem_get(mem, gpa_of(gpa), len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(bytes[i], (uint8_t)(i * 7));
}

static void check_map(const struct mem *mem, uint64_t map, uint64_t count, uint64_t stride)
{
    uint64_t low = mem->region[0].bytes, ram = 0, end = 0;
    assert_int_equal(count, mem->bytes > low ? 4 : 3);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t gpa = get(mem, map + i * stride, 8), len = get(mem, map + i * stride + 8, 8);
        uint64_t type = get(mem, map + i * stride + 16, 4);
        assert_true(gpa >= end && len > 0);
        end = gpa + len;
        if (type != 1) {
            assert_int_equal(type, 2);
            assert_true(gpa <= ACPI_GPA && end >= ACPI_GPA + ACPI_BYTES_MAX);
            continue;
        }
        assert_non_null(mem_get(mem, gpa_of(gpa), len));
        assert_true(end <= CONFIG_MMIO_BASE || gpa >= MEM_HIGH_GPA);
        ram += len;
    }
    assert_int_equal(ram, mem->bytes - (MIB - 0x9fc00));
}

static void check_common(const struct mem *mem, uint64_t cmdline, uint64_t rsdp)
{
    char text[20];
    assert_int_equal(mem_read(mem, gpa_of(cmdline), text, sizeof(text)), 0);
    assert_string_equal(text, "console=ttyS0 quiet");
    assert_int_equal(rsdp, ACPI_GPA);
    assert_memory_equal(mem_get(mem, gpa_of(rsdp), 8), "RSD PTR ", 8);
}

static void pvh_guest_finds_its_facts(void **state)
{
    (void)state;
    image_elf(&image);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct mem mem;
        struct hv_boot boot = prepare(&mem, sizes[i], i % 2 ? NULL : initrd_path);
        assert_int_equal(boot.protocol, HV_BOOT_PVH);
        assert_int_equal(boot.entry, IMAGE_ENTRY);
        uint64_t info = boot.info_gpa;
        assert_int_equal(get(&mem, info, 4), 0x336ec578);
        assert_int_equal(get(&mem, info + 4, 4), 1);
        assert_int_equal(get(&mem, info + 8, 4), 0);
        assert_int_equal(get(&mem, info + 12, 4), i % 2 ? 0 : 1);
        if (i % 2 == 0) {
            uint64_t module = get(&mem, info + 16, 8);
            check_initrd(&mem, get(&mem, module, 8), get(&mem, module + 8, 8));
        }
        check_common(&mem, get(&mem, info + 24, 8), get(&mem, info + 32, 8));
        check_map(&mem, get(&mem, info + 40, 8), get(&mem, info + 48, 4), 24);
        /* 32-bit code and data behind the selectors. */
        assert_int_equal(get(&mem, boot.gdt_gpa + 0x10, 8), 0x00cf9b000000ffff);
        assert_int_equal(get(&mem, boot.gdt_gpa + 0x18, 8), 0x00cf93000000ffff);
        /* However large the machine, only what was written takes memory. */
        assert_true(mem_resident_pages(&mem) < 32);
        mem_fini(&mem);
    }
}

/* As the processor walks it; all of the first 4 GiB must be at its own address. */
static void check_identity(const struct mem *mem, uint64_t cr3)
{
    for (uint64_t va = 0; va < 4 * GIB; va += 2 * MIB) {
        uint64_t l4 = get(mem, cr3 + (va >> 39) * 8, 8);
        assert_int_equal(l4 & 3, 3);
        uint64_t l3 = get(mem, (l4 & ~UINT64_C(0xfff)) + (va >> 30 & 511) * 8, 8);
        assert_int_equal(l3 & 0x83, 3);
        uint64_t l2 = get(mem, (l3 & ~UINT64_C(0xfff)) + (va >> 21 & 511) * 8, 8);
        assert_int_equal(l2, va | 0x83);
    }
}

static void make_bzimage(void)
{
    uint8_t payload[16];
    size_t n = image_pack(IMAGE_XZ_MAGIC, NULL, 0, 0, payload, sizeof(payload));
    image_bzimage(&image, payload, n);
}

static void linux64_guest_finds_its_facts(void **state)
{
    (void)state;
    make_bzimage();
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct mem mem;
        struct hv_boot boot = prepare(&mem, sizes[i], i % 2 ? NULL : initrd_path);
        assert_int_equal(boot.protocol, HV_BOOT_LINUX64);
        assert_int_equal(boot.entry, IMAGE_PREF_GPA + 0x200);
        uint64_t info = boot.info_gpa;
        assert_memory_equal(mem_get(&mem, gpa_of(info + 0x202), 6), image.bytes + 0x202, 6);
        assert_int_equal(get(&mem, info + 0x1ef, 1), 0); /* sentinel */
        assert_int_equal(get(&mem, info + 0x210, 1), 0xff);
        assert_int_equal(get(&mem, info + 0x211, 1) & 1, 1);
        if (i % 2 == 0)
            check_initrd(&mem, get(&mem, info + 0x218, 4), get(&mem, info + 0x21c, 4));
        else
            assert_int_equal(get(&mem, info + 0x218, 8), 0);
        check_common(&mem, get(&mem, info + 0x228, 4), get(&mem, info + 0x70, 8));
        check_map(&mem, info + 0x2d0, get(&mem, info + 0x1e8, 1), 20);
        check_identity(&mem, boot.page_tables);
        assert_int_equal(get(&mem, boot.gdt_gpa + 0x10, 8), 0x00af9b000000ffff);
        mem_fini(&mem);
    }
}

/* A kernel that takes initrds only below an address gets it there. */
static void initrd_limit_is_kept(void **state)
{
    (void)state;
    struct mem mem;
    make_bzimage();
    image_put(&image, 0x236, 1, 2);          /* not anywhere */
    image_put(&image, 0x22c, 0x37ffffff, 4); /* initrd_addr_max */
    struct hv_boot boot = prepare(&mem, 3 * GIB, initrd_path);
    assert_int_equal(get(&mem, boot.info_gpa + 0x218, 4), 0x38000000 - 12288);
    mem_fini(&mem);
}

static void refused(const struct boot_spec *spec, int rc, const char *why)
{
    struct mem mem;
    struct hv_boot boot;
    struct err err = { 0 };
    assert_int_equal(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(boot_prepare(&mem, spec, &boot, &err), rc);
    assert_int_equal(err.fault, ERR_CALLER);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" lacks \"%s\"", err.text, why);
    mem_fini(&mem);
}

static void what_does_not_fit_is_named(void **state)
{
    (void)state;
    char cmdline[3000], large[64];
    memset(cmdline, 'a', sizeof(cmdline));
    cmdline[2048] = '\0';
    image_elf(&image);
    struct boot_spec spec = { .kernel = image_file(image.bytes, image.len), .vcpus = 1 };

    spec.cmdline = cmdline;
    refused(&spec, -E2BIG, "the command line has 2048 characters, and this kernel takes 2047");
    spec.cmdline = "";
    spec.initrd = "/nonexistent/initrd";
    refused(&spec, -ENOENT, "/nonexistent/initrd");

    (void)snprintf(large, sizeof(large), "%s/godwit-large-XXXXXX", test_tmp());
    int fd = mkstemp(large);
    assert_true(fd >= 0);
    spec.initrd = large;
    refused(&spec, -EINVAL, "empty");
    assert_int_equal(ftruncate(fd, (off_t)(64 * MIB)), 0);
    refused(&spec, -ENOMEM, "of 64 MiB, and the kernel leaves 62 MiB");
    assert_int_equal(ftruncate(fd, (off_t)(2 * GIB)), 0);
    refused(&spec, -EFBIG, "larger than 1024 MiB");
    assert_int_equal(unlink(large), 0);
    (void)close(fd);
    spec.kernel = "/nonexistent/kernel";
    refused(&spec, -ENOENT, "cannot open kernel /nonexistent/kernel");
}

static int make_initrd(void **state)
{
    (void)state;
    uint8_t bytes[INITRD_BYTES];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7);
    (void)snprintf(initrd_path, sizeof(initrd_path), "%s/godwit-initrd-XXXXXX", test_tmp());
    int fd = mkstemp(initrd_path);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, bytes, sizeof(bytes));
    return close(fd) < 0 || n != sizeof(bytes) ? -1 : 0;
}

static int remove_initrd(void **state)
{
    (void)state;
    return unlink(initrd_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pvh_guest_finds_its_facts),
        cmocka_unit_test(linux64_guest_finds_its_facts),
        cmocka_unit_test(initrd_limit_is_kept),
        cmocka_unit_test(what_does_not_fit_is_named),
    };
    return cmocka_run_group_tests(tests, make_initrd, remove_initrd);
}
