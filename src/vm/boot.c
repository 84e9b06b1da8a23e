/*
 * Guest memory as a boot protocol wants to find it; the places are in boot.h.
 *
 * Both protocols tell the same facts in different structures, so the facts (command line, memory
 * map, initrd, ACPI) are put down first and each protocol then points at them. Records are encoded
 * field by field: no structure of another project's header is copied into the guest.
 */
#include "vm/boot.h"
#include "base/buf.h"
#include "vm/acpi.h"
#include "vm/config.h"
#include "vm/kernel.h"
#include "vm/kernel_file.h"

#include <errno.h>
#include <string.h>

#define GDT_GPA 0x1000
#define BOOT_PARAMS_GPA 0x2000
#define START_INFO_GPA 0x6000
#define MEMMAP_GPA 0x7000
#define PAGE_TABLES_GPA 0x9000
#define CMDLINE_GPA 0x20000
#define LOW_RAM_END 0x9fc00 /* a PC's conventional memory ends here */
#define MIB UINT64_C(0x100000)

enum { RANGE_RAM = 1, RANGE_RESERVED = 2 }; /* the same in e820 and in PVH's memory map */

struct range {
    uint64_t gpa, bytes;
    uint32_t type;
};

struct facts {
    struct kernel kernel;
    struct range range[4];
    unsigned range_count;
    uint64_t initrd_gpa, initrd_bytes;
};

static void find_ranges(const struct mem *mem, struct facts *facts)
{
    uint64_t low = mem->region[0].bytes;
    struct range all[] = {
        { 0, LOW_RAM_END, RANGE_RAM },
        { LOW_RAM_END, MIB - LOW_RAM_END, RANGE_RESERVED }, /* has the ACPI tables */
        { MIB, low - MIB, RANGE_RAM },
        { MEM_HIGH_GPA, mem->bytes - low, RANGE_RAM },
    };
    memcpy(facts->range, all, sizeof(all));
    facts->range_count = mem->bytes > low ? 4 : 3;
}

static int put(struct mem *mem, uint64_t gpa, const struct buf *bytes)
{
    int rc = buf_status(bytes);
    return rc ? rc : mem_write(mem, gpa_of(gpa), bytes->data, bytes->len);
}

/* As high as it may lie below 4 GiB, so that the kernel can grow upwards below it. */
static int load_initrd(struct mem *mem, const char *path, struct facts *facts, struct err *err)
{
    struct kernel_file file;
    int rc = kernel_file_open(&file, "initrd", path, err);
    if (rc)
        return rc;

    uint64_t end = MIN(mem->region[0].bytes, facts->kernel.initrd_max) & ~(PAGE_BYTES - 1);
    uint64_t room = end > facts->kernel.end_gpa ? end - facts->kernel.end_gpa : 0;
    uint64_t span = (file.len + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
    if (span > room) {
        rc = err_set(err, ERR_CALLER, ENOMEM,
                     "initrd %s: of %llu MiB, and the kernel leaves %llu MiB of the machine's "
                     "memory",
                     path, (unsigned long long)(file.len + MIB - 1) / MIB,
                     (unsigned long long)(room / MIB));
    } else {
        facts->initrd_gpa = end - span;
        facts->initrd_bytes = file.len;
        rc = kernel_file_load(&file, 0, file.len, mem, gpa_of(facts->initrd_gpa));
        if (rc)
            rc = err_errno(err, ERR_CALLER, -rc, "cannot read initrd %s", path);
    }
    kernel_file_close(&file);
    return rc;
}

static int put_cmdline(struct mem *mem, const char *cmdline, const struct facts *facts,
                       struct err *err)
{
    size_t max = MIN((size_t)facts->kernel.cmdline_max, (size_t)CONFIG_CMDLINE_MAX - 1);
    size_t len = strlen(cmdline);
    if (len > max)
        return err_set(err, ERR_CALLER, E2BIG,
                       "the command line has %zu characters, and this kernel takes %zu", len, max);
    return mem_write(mem, gpa_of(CMDLINE_GPA), cmdline, len + 1);
}

/* The four entries that kvm_vcpu_boot()'s selectors name: 0x10 code, 0x18 data. */
static int put_gdt(struct mem *mem, bool long_mode)
{
    CLEANUP_BUF struct buf gdt = { 0 };
    buf_put_u64(&gdt, 0);
    buf_put_u64(&gdt, 0);
    buf_put_u64(&gdt, long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    buf_put_u64(&gdt, 0x00cf93000000ffff);
    return put(mem, GDT_GPA, &gdt);
}

/* hvm_start_info version 1, followed by its one module. */
static int put_pvh(struct mem *mem, const struct facts *facts, struct hv_boot *boot)
{
    CLEANUP_BUF struct buf info = { 0 };
    CLEANUP_BUF struct buf map = { 0 };
    const unsigned info_bytes = 56;

    buf_put_u32(&info, 0x336ec578); /* magic */
    buf_put_u32(&info, 1);          /* version */
    buf_put_u32(&info, 0);          /* flags */
    buf_put_u32(&info, facts->initrd_bytes ? 1 : 0);
    buf_put_u64(&info, facts->initrd_bytes ? START_INFO_GPA + info_bytes : 0);
    buf_put_u64(&info, CMDLINE_GPA);
    buf_put_u64(&info, ACPI_GPA);
    buf_put_u64(&info, MEMMAP_GPA);
    buf_put_u32(&info, facts->range_count);
    buf_put_u32(&info, 0);
    ASSERT(info.broken || info.len == info_bytes);
    buf_put_u64(&info, facts->initrd_gpa);
    buf_put_u64(&info, facts->initrd_bytes);
    buf_put_u64(&info, 0); /* no command line of its own */
    buf_put_u64(&info, 0);

    for (unsigned i = 0; i < facts->range_count; i++) {
        buf_put_u64(&map, facts->range[i].gpa);
        buf_put_u64(&map, facts->range[i].bytes);
        buf_put_u32(&map, facts->range[i].type);
        buf_put_u32(&map, 0);
    }
    boot->protocol = HV_BOOT_PVH;
    boot->info_gpa = START_INFO_GPA;
    int rc = put(mem, START_INFO_GPA, &info);
    return rc ? rc : put(mem, MEMMAP_GPA, &map);
}

/* The first 4 GiB at their own addresses: one table each of levels 4 and 3, and four of 2 MiB
 * pages. */
static int put_page_tables(struct mem *mem)
{
    enum { PRESENT_WRITABLE = 3, LARGE = 0x80, ENTRIES = 512 };
    CLEANUP_BUF struct buf tables = { 0 };
    for (unsigned i = 0; i < 2 * ENTRIES; i++) {
        uint64_t next = 0;
        if (i == 0)
            next = PAGE_TABLES_GPA + PAGE_BYTES;
        else if (i >= ENTRIES && i < ENTRIES + 4)
            next = PAGE_TABLES_GPA + (i - ENTRIES + 2) * PAGE_BYTES;
        buf_put_u64(&tables, next ? next | PRESENT_WRITABLE : 0);
    }
    for (uint64_t i = 0; i < UINT64_C(4) * ENTRIES; i++)
        buf_put_u64(&tables, i << 21 | LARGE | PRESENT_WRITABLE);
    return put(mem, PAGE_TABLES_GPA, &tables);
}

static void set(uint8_t *at, uint64_t value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

/* boot_params: the kernel's own setup header, what a boot loader fills in, and the e820 map. */
static int put_linux64(struct mem *mem, const struct facts *facts, struct hv_boot *boot)
{
    uint8_t zero_page[PAGE_BYTES] = { 0 };
    memcpy(zero_page + KERNEL_SETUP_AT, facts->kernel.setup, facts->kernel.setup_bytes);
    set(zero_page + 0x070, ACPI_GPA, 8); /* acpi_rsdp_addr */
    set(zero_page + 0x1e8, facts->range_count, 1);
    zero_page[0x210] = 0xff; /* type_of_loader: not a registered one */
    zero_page[0x211] |= 1;   /* loadflags: LOADED_HIGH */
    set(zero_page + 0x218, facts->initrd_gpa, 4);
    set(zero_page + 0x21c, facts->initrd_bytes, 4);
    set(zero_page + 0x228, CMDLINE_GPA, 4);
    for (unsigned i = 0; i < facts->range_count; i++) {
        uint8_t *e820 = zero_page + 0x2d0 + i * 20;
        set(e820, facts->range[i].gpa, 8);
        set(e820 + 8, facts->range[i].bytes, 8);
        set(e820 + 16, facts->range[i].type, 4);
    }
    boot->protocol = HV_BOOT_LINUX64;
    boot->info_gpa = BOOT_PARAMS_GPA;
    boot->page_tables = PAGE_TABLES_GPA;
    int rc = mem_write(mem, gpa_of(BOOT_PARAMS_GPA), zero_page, sizeof(zero_page));
    return rc ? rc : put_page_tables(mem);
}

int boot_prepare(struct mem *mem, const struct boot_spec *spec, struct hv_boot *ret,
                 struct err *err)
{
    struct facts facts = { 0 };
    find_ranges(mem, &facts);
    int rc = kernel_load(mem, spec->kernel, &facts.kernel, err);
    if (!rc && spec->initrd && *spec->initrd)
        rc = load_initrd(mem, spec->initrd, &facts, err);
    if (!rc)
        rc = put_cmdline(mem, spec->cmdline ? spec->cmdline : "", &facts, err);
    if (rc)
        return rc;

    bool pvh = facts.kernel.kind == KERNEL_PVH;
    struct hv_boot boot = { .entry = facts.kernel.entry, .gdt_gpa = GDT_GPA };
    rc = put_gdt(mem, !pvh);
    if (!rc)
        rc = pvh ? put_pvh(mem, &facts, &boot) : put_linux64(mem, &facts, &boot);
    if (!rc)
        rc = acpi_write(mem, spec->vcpus, spec->devices);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot write the boot data");
    *ret = boot;
    return 0;
}
