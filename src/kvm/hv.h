/*
 * The seam over the hypervisor. One back end speaks to /dev/kvm (kvm/kvm.c); one is a fake that runs
 * scripted vCPUs in this process (kvm/fake.c), so that everything above runs in tests without KVM.
 *
 * Order: open -> slots -> irqchip -> vCPUs (facts: on some kernels a slot added after the irqchip
 * costs milliseconds) -> wire irqfds/ioeventfds -> boot or load -> run.
 *
 * Threads: vcpu_run(), vcpu_stood_still(), vcpu_save() and vcpu_load() of one vCPU only from the thread that
 * runs it or while that thread is parked; vcpu_kick() and everything on `struct hv` from any thread.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "base/gpa.h"
#include "kvm/hv_state.h"
#include <stdbool.h>
#include <stdint.h>

#define HV_VCPUS_MAX 16

enum hv_exit_kind {
    HV_EXIT_NONE = 0, /* interrupted: look at why the thread was kicked, then run again */
    HV_EXIT_PIO_IN,   /* fill data: `size` bytes times `count` */
    HV_EXIT_PIO_OUT,
    HV_EXIT_MMIO_READ, /* fill data: `size` bytes */
    HV_EXIT_MMIO_WRITE,
    HV_EXIT_HALT,     /* only without an in-kernel irqchip */
    HV_EXIT_SHUTDOWN, /* triple fault */
    HV_EXIT_FAILED,   /* the hypervisor cannot go on; `why` says what it said */
};

struct hv_exit {
    enum hv_exit_kind kind;
    uint64_t address; /* port or guest physical address */
    unsigned size, count;
    void *data; /* in the hypervisor's shared page; valid until the next run */
    char why[160];
};

/* First register values of the boot vCPU. */
struct hv_boot {
    enum { HV_BOOT_PVH = 1, HV_BOOT_LINUX64 } protocol;
    uint64_t entry;       /* guest physical address of the first instruction */
    uint64_t info_gpa;    /* PVH: hvm_start_info (rbx); 64-bit Linux: boot_params (rsi) */
    uint64_t page_tables; /* 64-bit Linux: cr3 */
    uint64_t gdt_gpa; /* of a GDT of four entries: null, null, code (0x10), data (0x18); 0 = none */
};

struct hv;
struct hv_vcpu;

struct hv_ops {
    const char *name; /* "kvm" or "fake" */

    void (*close)(struct hv *hv);

    /* One slot per region of RAM; slot numbers count from 0. log_dirty can be switched later by a
     * second call with the same arguments. */
    int (*slot_set)(struct hv *hv, unsigned slot, gpa_t gpa, void *host, uint64_t bytes,
                    bool log_dirty);
    /* Dirty log with manual clear: the first fetch after enabling returns every page, and pages are
     * not write-protected before their first clear. Bitmaps: one bit a page of the slot, 64 a word.
     * clear: first and count in pages; first a multiple of 64, count too or up to the slot's end. */
    int (*dirty_fetch)(struct hv *hv, unsigned slot, uint64_t *bitmap);
    int (*dirty_clear)(struct hv *hv, unsigned slot, uint64_t first, uint32_t count,
                       const uint64_t *bitmap);

    int (*irqchip)(struct hv *hv);
    int (*irqfd)(struct hv *hv, int fd, uint32_t gsi);
    /* Writes of `len` bytes at `gpa` that match `value` become counts on `fd`. */
    int (*ioeventfd)(struct hv *hv, int fd, gpa_t gpa, unsigned len, uint64_t value);
    int (*irq_pulse)(struct hv *hv, uint32_t gsi);

    int (*vm_save)(struct hv *hv, struct hv_vm_state *state);
    int (*vm_load)(struct hv *hv, const struct hv_vm_state *state);

    int (*vcpu_open)(struct hv *hv, unsigned id, const struct hv_cpuid *cpuid,
                     struct hv_vcpu **ret);
    void (*vcpu_close)(struct hv_vcpu *vcpu);
    uint32_t (*tsc_khz)(struct hv_vcpu *vcpu); /* 0 = not known */
    int (*vcpu_boot)(struct hv_vcpu *vcpu, const struct hv_boot *boot);
    /* Runs until something needs the monitor. 0 with *ret filled, or -errno. */
    int (*vcpu_run)(struct hv_vcpu *vcpu, struct hv_exit *ret);
    /* Makes the current or the next vcpu_run() return HV_EXIT_NONE soon: until vcpu_unkick(), every
     * run returns at once, having only completed an access that was pending. */
    void (*vcpu_kick)(struct hv_vcpu *vcpu);
    void (*vcpu_unkick)(struct hv_vcpu *vcpu);
    /* The guest will run again after a time in which it could not: one that uses kvmclock is told, so that its
     * watchdogs do not take that time for a lockup. */
    void (*vcpu_stood_still)(struct hv_vcpu *vcpu);
    /* How many faults on guest memory were resolved for this vCPU so far: its first write to a page whose
     * dirty log was cleared is one. -ENOTSUP where nobody counts. From one thread at a time. */
    int (*vcpu_faults)(struct hv_vcpu *vcpu, uint64_t *ret);
    int (*vcpu_save)(struct hv_vcpu *vcpu, struct hv_vcpu_state *state, struct err *err);
    int (*vcpu_load)(struct hv_vcpu *vcpu, const struct hv_vcpu_state *state, struct err *err);
};

struct hv {
    const struct hv_ops *ops;
};

struct hv_vcpu {
    struct hv *hv;
    unsigned id;
};

/* `kvm_fd`: an open /dev/kvm, borrowed. */
int hv_kvm_open(int kvm_fd, struct hv **ret, struct err *err) MUST_CHECK;
int hv_fake_open(struct hv **ret) MUST_CHECK;

/* What the host can show a guest (KVM_GET_SUPPORTED_CPUID). */
int hv_kvm_cpuid(int kvm_fd, struct hv_cpuid *ret, struct err *err) MUST_CHECK;
void hv_fake_cpuid(struct hv_cpuid *ret);
