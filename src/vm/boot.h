/*
 * From a fresh machine to the boot vCPU's first registers: kernel, initrd, command line, memory map
 * and ACPI tables in guest memory.
 *
 *     0x01000  GDT                              0x07000  memory map (PVH)
 *     0x02000  boot_params (64-bit entry)       0x09000  page tables, 6 pages (64-bit entry)
 *     0x06000  hvm_start_info, module (PVH)     0x20000  command line
 *     0x9fc00  reserved up to 1 MiB; ACPI tables at ACPI_GPA
 *     1 MiB    kernel ... initrd at the top of the RAM below 4 GiB
 *
 * Sources: Xen docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h; Linux
 * Documentation/arch/x86/boot.rst and zero-page.rst.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "kvm/hv.h"
#include "mem/mem.h"

struct boot_spec {
    const char *kernel;  /* path */
    const char *initrd;  /* path; NULL or "" = none */
    const char *cmdline; /* NULL = none */
    unsigned vcpus;      /* 1..HV_VCPUS_MAX */
    unsigned devices;    /* virtio-mmio devices, 0..CONFIG_DEVICES_MAX */
};

/* Fills fresh guest memory and *ret. One thread, before any vCPU runs. Errors are ERR_CALLER and
 * name the file; after one, the memory is to be thrown away. */
int boot_prepare(struct mem *mem, const struct boot_spec *spec, struct hv_boot *ret,
                 struct err *err) MUST_CHECK;
