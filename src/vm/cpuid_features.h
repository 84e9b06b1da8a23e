/* CPUID registers whose bits are features, and the features' names (as /proc/cpuinfo spells them).
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

struct cpuid_features {
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    uint32_t ignore;          /* bits that the monitor or the guest's own settings decide */
    const char *const *names; /* 32, bit 0 first; NULL = without a name */
};

extern const struct cpuid_features cpuid_features[];
extern const size_t cpuid_features_count;
