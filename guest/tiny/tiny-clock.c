/*
 * Time: the TSC's rate, kvmclock, and the LAPIC timer (x2APIC where CPUID has it, else xAPIC
 * registers).
 *
 * Both KVM and QEMU run the LAPIC timer at 1 GHz; where that is not so, only the pace is off.
 * kvmclock: Documentation/virt/kvm/x86/msr.rst; LAPIC: Intel SDM volume 3, chapter 11.
 */
#include "tiny.h"

enum {
    MSR_APIC_BASE = 0x1b,
    MSR_X2APIC = 0x800,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_KVM_SYSTEM_TIME = 0x4b564d01,
    APIC_BASE_X2APIC = 0xc00,
    XAPIC = 0xfee00000,
    APIC_TPR = 0x08,
    APIC_SPURIOUS = 0x0f,
    APIC_LVT_TIMER = 0x32,
    APIC_TIMER_COUNT = 0x38,
    APIC_TIMER_DIVIDE = 0x3e,
    DIVIDE_BY_1 = 0xb,
    SPURIOUS_ENABLE = 0x1ff,
    VECTOR_TIMER = 0x40,
    CPUID_X2APIC = 1 << 21,
    CPUID_TSC_DEADLINE = 1 << 24,
    CPUID_KVM_CLOCK2 = 1 << 3,
};

/* One processor's clock as KVM writes it; an odd version is one being written. */
struct kvmclock {
    uint32_t version, pad;
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad2[2];
};

extern uint8_t tiny_x2apic;

uint64_t tiny_tsc_ms = 2500 * 1000;
static volatile struct kvmclock kvmclock __attribute__((aligned(64)));
static bool kvmclock_on;
static enum tiny_timer_mode timer_mode;

static void kvmclock_init(void)
{
    for (uint32_t base = 0x40000000; base < 0x40000400; base += 0x100) {
        struct tiny_cpuid name = tiny_cpuid(base, 0);
        if (name.ebx != 0x4b4d564b || name.ecx != 0x564b4d56 || name.edx != 0x4d) /* KVMKVMKVM */
            continue;
        if (!(tiny_cpuid(base + 1, 0).eax & CPUID_KVM_CLOCK2))
            return;
        tiny_ring0(ring0_wrmsr, MSR_KVM_SYSTEM_TIME, (uint64_t)&kvmclock | 1, 0);
        kvmclock_on = kvmclock.mul != 0;
        return;
    }
}

bool tiny_kvmclock_available(void)
{
    return kvmclock_on;
}

uint64_t tiny_kvmclock_ns(void)
{
    uint64_t ns;
    uint32_t version;
    do {
        version = kvmclock.version & ~1U;
        __asm__ volatile("" : : : "memory");
        uint64_t ticks = tiny_tsc() - kvmclock.tsc;
        ticks = kvmclock.shift < 0 ? ticks >> -kvmclock.shift : ticks << kvmclock.shift;
        ns = kvmclock.ns + (uint64_t)((unsigned __int128)ticks * kvmclock.mul >> 32);
        __asm__ volatile("" : : : "memory");
    } while (version != kvmclock.version);
    return ns;
}

void tiny_clock_init(void)
{
    kvmclock_init();
    if (!kvmclock_on)
        return;
    /* ns = ticks * 2^shift * mul / 2^32, turned round for ticks of a millisecond. */
    uint64_t ticks = (uint64_t)(((unsigned __int128)1000000 << 32) / kvmclock.mul);
    tiny_tsc_ms = kvmclock.shift < 0 ? ticks << -kvmclock.shift : ticks >> kvmclock.shift;
}

void tiny_apic_write(unsigned reg, uint64_t value)
{
    if (tiny_x2apic)
        tiny_ring0(ring0_wrmsr, MSR_X2APIC + reg, value, 0);
    else
        *(volatile uint32_t *)(XAPIC + 16ULL * reg) = (uint32_t)value;
}

bool tiny_timer_deadline_available(void)
{
    return tiny_cpuid(1, 0).ecx & CPUID_TSC_DEADLINE;
}

void tiny_timer_init(enum tiny_timer_mode mode)
{
    if (tiny_cpuid(1, 0).ecx & CPUID_X2APIC) {
        uint64_t base = tiny_ring0(ring0_rdmsr, MSR_APIC_BASE, 0, 0);
        tiny_ring0(ring0_wrmsr, MSR_APIC_BASE, base | APIC_BASE_X2APIC, 0);
        tiny_x2apic = 1;
    } else {
        tiny_map_device(XAPIC);
    }
    timer_mode = mode;
    tiny_gate_set(VECTOR_TIMER, tiny_timer_isr);
    tiny_apic_write(APIC_TPR, 0);
    tiny_apic_write(APIC_SPURIOUS, SPURIOUS_ENABLE);
    tiny_apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    tiny_apic_write(APIC_LVT_TIMER, (uint64_t)mode << 17 | VECTOR_TIMER);
}

void tiny_timer_arm_us(uint64_t us)
{
    if (timer_mode == TINY_TIMER_DEADLINE)
        tiny_ring0(ring0_wrmsr, MSR_TSC_DEADLINE, tiny_tsc() + us * tiny_tsc_ms / 1000, 0);
    else
        tiny_apic_write(APIC_TIMER_COUNT, us * 1000);
}
