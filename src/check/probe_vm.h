/*
 * A guest of a few instructions for probes: one vCPU in 64-bit mode, 4 MiB of RAM at 0, one to one page
 * tables over the first GiB, all of it open to ring 3.
 *
 * Nothing is ever closed: the process ends with the probe (check/probe.h).
 */
#pragma once
#include "base/compiler.h"
#include "base/gpa.h"
#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROBE_RAM_BYTES (UINT64_C(4) << 20)
#define PROBE_RAM_PAGES (PROBE_RAM_BYTES / PAGE_BYTES)
#define PROBE_DATA_GPA \
    UINT64_C(0x100000) /* from here on RAM is the guest's own: no tables, no code */
#define PROBE_DATA_PAGE (PROBE_DATA_GPA / PAGE_BYTES)
#define PROBE_MMIO_GPA UINT64_C(0x10000000) /* mapped, and no RAM behind it */
#define PROBE_VECTOR 0x25    /* interrupt 5 of the PIC, once probe_vm_irqchip() is called */
#define PROBE_DONE_PORT 0x10 /* a guest writes here when it is through */

struct probe_vm {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    uint8_t *ram;
    struct kvm_userspace_memory_region slot;
    char why[160]; /* what failed */
};

/* Creates it up to and without the vCPU. */
int probe_vm_open(struct probe_vm *vm) MUST_CHECK;

/* In-kernel interrupt controllers; the PIC passes lines 0..7 on as vectors 0x20..0x27. Before the vCPU. */
int probe_vm_irqchip(struct probe_vm *vm) MUST_CHECK;

/* Creates the vCPU with all features this KVM offers, in ring 0 or 3. */
int probe_vm_vcpu(struct probe_vm *vm, unsigned ring) MUST_CHECK;

/* Loads guest code and starts the vCPU at its beginning with these values in rsi, rcx and rdx. */
int probe_vm_start(struct probe_vm *vm, const void *code, const void *code_end, uint64_t rsi,
                   uint64_t rcx, uint64_t rdx) MUST_CHECK;

/* Puts code where PROBE_VECTOR enters. */
void probe_vm_handler(struct probe_vm *vm, const void *code, const void *code_end);

/* Runs until the next exit and returns its reason (KVM_EXIT_*), or -errno. */
int probe_vm_run(struct probe_vm *vm) MUST_CHECK;

/* As probe_vm_run(), and 0 only if the guest said that it is through; else -errno with `why`. *ret is
 * what it wrote (eax). */
int probe_vm_finish(struct probe_vm *vm, uint32_t *ret) MUST_CHECK;

/* Guest code is assembled with the program: GUEST_CODE(name, "instructions") defines name[] up to
 * name_end[]. Position-independent, AT&T syntax. */
#define GUEST_CODE(name, text)                                                            \
    __asm__(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end:\n.popsection\n"); \
    extern const uint8_t name[], name##_end[]
#define GUEST_DONE "outl %eax, $0x10\n"
