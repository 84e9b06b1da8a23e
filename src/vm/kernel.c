/*
 * Which kind of image a file is; loading a bzImage (Linux Documentation/arch/x86/boot.rst).
 *
 * A bzImage is (setup_sects + 1) sectors of real-mode code, whose header says everything, and the
 * protected-mode code, which can unpack the payload it carries to wherever it likes. Two ways in:
 *
 *   unpacked   the payload is an ELF image with a PVH entry: unpack it here and load that
 *   packed     the protected-mode code goes to its preferred address, entered at 0x200 in it
 *
 * The first needs a decoder and is taken where it can be; whatever stands against it (XZ, no PVH in
 * this kernel, damage) the second is tried, which has its own checks and names its own reason.
 */
#include "vm/kernel.h"
#include "base/cursor.h"
#include "vm/kernel_elf.h"
#include "vm/kernel_file.h"
#include "vm/kernel_unpack.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The fields of the setup header that are used here, as file offsets. */
enum {
    SETUP_SECTS = 0x1f1,
    BOOT_FLAG = 0x1fe,
    JUMP_LENGTH = 0x201,
    HEADER_MAGIC = 0x202,
    VERSION = 0x206,
    LOADFLAGS = 0x211,
    INITRD_ADDR_MAX = 0x22c,
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    PAYLOAD_OFFSET = 0x248,
    PAYLOAD_LENGTH = 0x24c,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_END_2_12 = 0x268,
};
#define VERSION_2_12 0x20c /* the first with xloadflags */
#define LOADED_HIGH 1
#define XLF_KERNEL_64 1
#define XLF_ABOVE_4G 2
#define SECTOR 512
#define ENTRY_64 0x200

#define CMDLINE_MAX_PVH 2047 /* COMMAND_LINE_SIZE of Linux for x86, less the NUL */

static uint64_t field(const uint8_t *head, size_t at, size_t len)
{
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++)
        value |= (uint64_t)head[at + i] << (8 * i);
    return value;
}

static bool is_bzimage(const uint8_t *head)
{
    return field(head, BOOT_FLAG, 2) == 0xaa55 && memcmp(head + HEADER_MAGIC, "HdrS", 4) == 0;
}

static uint64_t protected_mode_at(const uint8_t *head)
{
    return ((uint64_t)(head[SETUP_SECTS] ? head[SETUP_SECTS] : 4) + 1) * SECTOR;
}

static int load_elf(const struct kernel_file *file, struct mem *mem, struct kernel *ret,
                    struct err *err)
{
    struct kernel kernel = { .kind = KERNEL_PVH,
                             .initrd_max = MEM_LOW_MAX,
                             .cmdline_max = CMDLINE_MAX_PVH };
    int rc = kernel_elf_load(file, mem, &kernel.entry, &kernel.end_gpa, err);
    if (!rc)
        *ret = kernel;
    return rc;
}

static int load_unpacked(const struct kernel_file *file, const uint8_t *head, struct mem *mem,
                         struct kernel *ret, struct err *err)
{
    uint64_t at = protected_mode_at(head) + field(head, PAYLOAD_OFFSET, 4);
    size_t len = field(head, PAYLOAD_LENGTH, 4);
    if (len > KERNEL_PACKED_MAX || at > file->len || len > file->len - at)
        return err_set(err, ERR_CALLER, EBADMSG, "its payload lies beyond the end of the file");
    uint8_t *packed = malloc(MAX(len, (size_t)1));
    if (!packed)
        return err_set(err, ERR_HOST, ENOMEM, "no memory for its payload of %zu bytes", len);

    struct kernel_unpacked elf = { 0 };
    int rc = kernel_file_read(file, at, packed, len);
    if (rc)
        rc = err_errno(err, ERR_CALLER, -rc, "cannot read its payload");
    else
        rc = kernel_unpack(packed, len, KERNEL_UNPACKED_MAX, &elf, err);
    free(packed);
    struct kernel_file unpacked = { .fd = -1, .bytes = elf.bytes, .len = elf.len };
    if (!rc)
        rc = load_elf(&unpacked, mem, ret, err);
    kernel_unpacked_free(&elf);
    return rc;
}

static int load_packed(const struct kernel_file *file, const uint8_t *head, struct mem *mem,
                       struct kernel *ret, struct err *err)
{
    uint64_t from = protected_mode_at(head), ram_bytes = mem->region[0].bytes;
    uint64_t to = field(head, PREF_ADDRESS, 8), needs = field(head, INIT_SIZE, 4);
    uint64_t header_end = HEADER_MAGIC + (uint64_t)head[JUMP_LENGTH];

    if (!(field(head, XLOADFLAGS, 2) & XLF_KERNEL_64) || !(head[LOADFLAGS] & LOADED_HIGH))
        return err_set(err, ERR_CALLER, ENOEXEC, "a bzImage without a 64-bit entry");
    if (from >= file->len || file->len - from <= ENTRY_64 || header_end < HEADER_END_2_12)
        return err_set(err, ERR_CALLER, ENOEXEC, "a bzImage that is cut short");
    uint64_t len = file->len - from;
    needs = MAX(needs, len);
    if (to < KERNEL_LOWEST_GPA || to % PAGE_BYTES)
        return err_set(err, ERR_CALLER, ENOEXEC, "a bzImage that wants to be loaded at 0x%llx",
                       (unsigned long long)to);
    if (to > ram_bytes || needs > ram_bytes - to)
        return err_set(err, ERR_CALLER, ENOMEM,
                       "it needs %llu MiB of memory, and the machine has %llu",
                       (unsigned long long)((to >> 20) + (needs >> 20) + 1),
                       (unsigned long long)(mem->bytes >> 20));
    int rc = kernel_file_load(file, from, len, mem, gpa_of(to));
    if (rc)
        return err_errno(err, ERR_CALLER, -rc, "cannot read all of it");

    bool anywhere = field(head, XLOADFLAGS, 2) & XLF_ABOVE_4G;
    *ret = (struct kernel){
        .kind = KERNEL_LINUX64,
        .entry = to + ENTRY_64,
        .end_gpa = to + needs,
        .initrd_max = anywhere ? MEM_LOW_MAX : field(head, INITRD_ADDR_MAX, 4) + 1,
        .cmdline_max = (uint32_t)field(head, CMDLINE_SIZE, 4),
        .setup_bytes = (uint32_t)(MIN(header_end, (uint64_t)KERNEL_SETUP_END) - KERNEL_SETUP_AT),
    };
    memcpy(ret->setup, head + KERNEL_SETUP_AT, ret->setup_bytes);
    return 0;
}

static int load(const struct kernel_file *file, struct mem *mem, struct kernel *ret,
                struct err *err)
{
    uint8_t head[KERNEL_SETUP_END] = { 0 };
    int rc = kernel_file_read(file, 0, head, MIN(file->len, (uint64_t)sizeof(head)));
    if (rc)
        return err_errno(err, ERR_CALLER, -rc, "cannot read it");

    if (memcmp(head, ELFMAG, SELFMAG) == 0)
        return load_elf(file, mem, ret, err);
    if (!is_bzimage(head))
        return err_set(err, ERR_CALLER, ENOEXEC,
                       "not a kernel: wanted a Linux bzImage, or an ELF64 with a PVH entry");
    if (field(head, VERSION, 2) < VERSION_2_12)
        return err_set(err, ERR_CALLER, ENOEXEC,
                       "a bzImage of Linux before 3.8: wanted boot protocol 2.12");
    struct err ignored;
    if (load_unpacked(file, head, mem, ret, &ignored) == 0)
        return 0;
    return load_packed(file, head, mem, ret, err);
}

int kernel_load(struct mem *mem, const char *path, struct kernel *ret, struct err *err)
{
    struct kernel_file file;
    int rc = kernel_file_open(&file, "kernel", path, err);
    if (rc)
        return rc;
    rc = load(&file, mem, ret, err);
    kernel_file_close(&file);
    return rc ? err_wrap(err, rc, "kernel %s", path) : 0;
}
