/* What kvm.c and kvm_state.c share; nobody else includes this. */
#pragma once
#include "kvm/hv.h"
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

struct kvm_vm {
    struct hv hv;
    int kvm_fd; /* borrowed */
    int fd;
    int run_bytes;        /* of a vCPU's shared area */
    int xsave_bytes;      /* of KVM_GET_XSAVE2; 4096 where only KVM_GET_XSAVE exists */
    uint32_t clock_flags; /* KVM_CLOCK_* this kernel knows */
    bool tsc_control, xcrs;
    struct kvm_msr_list *msrs; /* what the kernel saves */
};

#define KVM_FAULT_COUNTERS 2

struct kvm_vcpu {
    struct hv_vcpu vcpu;
    int fd;
    struct kvm_run *run;
    struct kvm_cpuid2 *cpuid; /* what the guest was shown */
    /* The thread inside vcpu_run(); a signal to it interrupts the guest. */
    pthread_t thread;
    atomic_bool running;
    int stats_fd; /* kvm_stats.c; -1 = none */
    uint64_t stats_at[KVM_FAULT_COUNTERS];
};

static inline struct kvm_vm *kvm_vm_of(struct hv *hv)
{
    return (struct kvm_vm *)hv;
}

static inline struct kvm_vcpu *kvm_vcpu_of(struct hv_vcpu *vcpu)
{
    return (struct kvm_vcpu *)vcpu;
}

int kvm_vcpu_boot(struct hv_vcpu *vcpu, const struct hv_boot *boot);
int kvm_vcpu_save(struct hv_vcpu *vcpu, struct hv_vcpu_state *state, struct err *err);
int kvm_vcpu_load(struct hv_vcpu *vcpu, const struct hv_vcpu_state *state, struct err *err);
/* Never fails: without the descriptor, kvm_vcpu_faults() says -ENOTSUP. */
void kvm_stats_open(struct kvm_vcpu *vcpu);
int kvm_vcpu_faults(struct hv_vcpu *vcpu, uint64_t *ret);
int kvm_vm_save(struct hv *hv, struct hv_vm_state *state);
int kvm_vm_load(struct hv *hv, const struct hv_vm_state *state);
