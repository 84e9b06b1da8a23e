/*
 * Kernel images: what the file is, and its bytes in guest memory.
 *
 * Two kinds boot: an ELF64 with a PVH entry (XEN_ELFNOTE_PHYS32_ENTRY: a vmlinux, or a tiny guest),
 * and a Linux bzImage. A bzImage whose payload this build can unpack (LZ4, gzip, zstd) holds such
 * an ELF and is entered through it, which saves the guest unpacking itself; any other (XZ, for one)
 * is entered at its own 64-bit entry.
 *
 * The file is hostile until proved otherwise: everything is checked before the first byte is
 * written. Unpacking takes at most KERNEL_UNPACKED_MAX bytes, given back before kernel_load()
 * returns.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "mem/mem.h"
#include <stdint.h>

#define KERNEL_LOWEST_GPA UINT64_C(0x100000) /* below it: boot data and ACPI tables (vm/boot.h) */
#define KERNEL_FILE_MAX (UINT64_C(1) << 30)
#define KERNEL_PACKED_MAX (UINT64_C(128) << 20)
#define KERNEL_UNPACKED_MAX (UINT64_C(256) << 20)

/* The real-mode header of a bzImage, as boot_params takes it over: file bytes 0x1f1 up to this. */
#define KERNEL_SETUP_AT 0x1f1
#define KERNEL_SETUP_END 0x290

enum kernel_entry { KERNEL_PVH = 1, KERNEL_LINUX64 };

struct kernel {
    enum kernel_entry kind;
    uint64_t entry;       /* guest physical address of the first instruction */
    uint64_t end_gpa;     /* nothing may be put between KERNEL_LOWEST_GPA and this */
    uint64_t initrd_max;  /* the initrd must end at or below this address */
    uint32_t cmdline_max; /* bytes, without the NUL */
    uint8_t setup[KERNEL_SETUP_END - KERNEL_SETUP_AT]; /* KERNEL_LINUX64 */
    uint32_t setup_bytes;                              /* of which so many are the kernel's */
};

/* Loads the image at `path` into fresh (all zero) guest memory. Errors are ERR_CALLER, one line
 * that names the file and what was expected; nothing of a refused file is left in memory. */
int kernel_load(struct mem *mem, const char *path, struct kernel *ret, struct err *err) MUST_CHECK;
