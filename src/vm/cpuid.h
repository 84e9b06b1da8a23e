/*
 * CPUID: what a vCPU is told it is, and whether a host can keep such a promise.
 *
 * A machine is pinned to one `struct hv_cpuid` when it is made and takes it along (SECTION_CPUID);
 * each vCPU is shown it with its own identity and the machine's topology put in: one package, a
 * core per vCPU, no hyper-threads, APIC id = vCPU number.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "kvm/hv_state.h"

/* `base`: what the hypervisor supports, or the pinned facts of a machine. -E2BIG: no room for the
 * topology leaves. vcpu < vcpus <= HV_VCPUS_MAX. */
int cpuid_for_vcpu(const struct hv_cpuid *base, unsigned vcpu, unsigned vcpus,
                   struct hv_cpuid *ret) MUST_CHECK;

/* Calls `lacking` for each thing that a guest made with `need` counts on and this host, which
 * supports `have`, does not have: "avx512f", "vendor GenuineIntel (this host: AuthenticAMD)", ...
 * `what` lives for the call only. Either list may come from a peer. Returns how many there are; 0 =
 * compatible.
 *
 * The TSC rate counts only if the guest was promised one that never changes and have->tsc_khz is
 * known and more than 250 ppm off: leave it 0 where the hypervisor can scale. */
unsigned cpuid_compare(const struct hv_cpuid *need, const struct hv_cpuid *have,
                       void (*lacking)(void *arg, const char *what), void *arg);

/* The same as one error (ERR_HOST, -ENOTSUP): "this host's CPU lacks avx2, bmi2 and 3 more". */
int cpuid_check(const struct hv_cpuid *need, const struct hv_cpuid *have,
                struct err *err) MUST_CHECK;
