/*
 * The architectural state of a machine, as the stream carries it: godwit's own fields, filled from and
 * pushed to the hypervisor by its back end. Field meanings are those of the Intel SDM and AMD APM; the
 * order of loading is in kvm/kvm_state.c.
 */
#pragma once
#include "state/schema.h"

#define HV_CPUID_MAX 256
#define HV_MSRS_MAX 256
#define HV_XSAVE_MAX 16384

#define HV_CPUID_LEAF(F, T) \
    F(T, u32, leaf)         \
    F(T, u32, subleaf)      \
    F(T, u32, has_subleaf)  \
    F(T, u32, eax)          \
    F(T, u32, ebx)          \
    F(T, u32, ecx)          \
    F(T, u32, edx)
SCHEMA_STRUCT(hv_cpuid_leaf, HV_CPUID_LEAF);

/* tsc_khz is the rate the guest's TSC ran at; 0 = not known. */
#define HV_CPUID(F, T) \
    F(T, u32, tsc_khz) \
    F(T, list, leaf, hv_cpuid_leaf, HV_CPUID_MAX)
SCHEMA_STRUCT(hv_cpuid, HV_CPUID);

#define HV_SEGMENT(F, T) \
    F(T, u64, base)      \
    F(T, u32, limit)     \
    F(T, u16, selector)  \
    F(T, u8, type)       \
    F(T, u8, present)    \
    F(T, u8, dpl)        \
    F(T, u8, db)         \
    F(T, u8, s)          \
    F(T, u8, l)          \
    F(T, u8, g)          \
    F(T, u8, avl)        \
    F(T, u8, unusable)
SCHEMA_STRUCT(hv_segment, HV_SEGMENT);

#define HV_MSR(F, T) \
    F(T, u32, index) \
    F(T, u64, value)
SCHEMA_STRUCT(hv_msr, HV_MSR);

/* gpr: rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags.
 * segment: cs ds es fs gs ss tr ldt. dr: db0..db3 dr6 dr7. cr: cr0 cr2 cr3 cr4 cr8.
 * lapic: the 1 KiB register page. xsave: the XSAVE area in the standard format. */
#define HV_VCPU_STATE(F, T)            \
    F(T, u64s, gpr, 18)                \
    F(T, list, segment, hv_segment, 8) \
    F(T, u64, gdt_base)                \
    F(T, u64, idt_base)                \
    F(T, u16, gdt_limit)               \
    F(T, u16, idt_limit)               \
    F(T, u64s, cr, 5)                  \
    F(T, u64, efer)                    \
    F(T, u64, apic_base)               \
    F(T, u64s, interrupt_bitmap, 4)    \
    F(T, u64, xcr0)                    \
    F(T, u64s, dr, 6)                  \
    F(T, u32, mp_state)                \
    F(T, u8, exception_injected)       \
    F(T, u8, exception_nr)             \
    F(T, u8, exception_has_error)      \
    F(T, u32, exception_error)         \
    F(T, u8, interrupt_injected)       \
    F(T, u8, interrupt_nr)             \
    F(T, u8, interrupt_soft)           \
    F(T, u8, interrupt_shadow)         \
    F(T, u8, nmi_injected)             \
    F(T, u8, nmi_pending)              \
    F(T, u8, nmi_masked)               \
    F(T, u32, sipi_vector)             \
    F(T, u8, smm)                      \
    F(T, u8, smm_pending)              \
    F(T, u8, smm_inside_nmi)           \
    F(T, u8, latched_init)             \
    F(T, u8s, lapic, 1024)             \
    F(T, blob, xsave, HV_XSAVE_MAX)    \
    F(T, list, msr, hv_msr, HV_MSRS_MAX)
SCHEMA_STRUCT(hv_vcpu_state, HV_VCPU_STATE);

#define HV_PIC(F, T)               \
    F(T, u8, last_irr)             \
    F(T, u8, irr)                  \
    F(T, u8, imr)                  \
    F(T, u8, isr)                  \
    F(T, u8, priority_add)         \
    F(T, u8, irq_base)             \
    F(T, u8, read_reg_select)      \
    F(T, u8, poll)                 \
    F(T, u8, special_mask)         \
    F(T, u8, init_state)           \
    F(T, u8, auto_eoi)             \
    F(T, u8, rotate_on_auto_eoi)   \
    F(T, u8, special_fully_nested) \
    F(T, u8, init4)                \
    F(T, u8, elcr)                 \
    F(T, u8, elcr_mask)
SCHEMA_STRUCT(hv_pic, HV_PIC);

/* clock_ns: kvmclock at the pause. clock_wall_ns: CLOCK_REALTIME read with it, 0 = unknown; with it
 * the target makes the guest's clock count the time the move took. */
#define HV_VM_STATE(F, T)           \
    F(T, list, pic, hv_pic, 2)      \
    F(T, u64, ioapic_base)          \
    F(T, u32, ioapic_select)        \
    F(T, u32, ioapic_id)            \
    F(T, u32, ioapic_irr)           \
    F(T, u64s, ioapic_redirect, 24) \
    F(T, u64, clock_ns)             \
    F(T, u64, clock_wall_ns)
SCHEMA_STRUCT(hv_vm_state, HV_VM_STATE);
