/*
 * Probes: each tries one behaviour of the kernel or the machine that godwit relies on.
 *
 * A probe's function runs in a process of its own that ends right after it: it need not close or free
 * anything, and it may block, crash or be killed. It calls exactly one of probe_yes(), probe_no() and
 * probe_wrong() and returns.
 */
#pragma once
#include "base/compiler.h"
#include <jansson.h>
#include <stdint.h>

enum probe_verdict {
    PROBE_YES = 1, /* there, and as relied on */
    PROBE_NO,      /* the machine does not have it */
    PROBE_WRONG, /* it has it, and it behaves in another way than godwit counts on; or the probe died */
    PROBE_VERDICT_MAX
};

enum probe_need { PROBE_REQUIRED = 1, PROBE_USEFUL, PROBE_NOTE, PROBE_NEED_MAX };

struct probe_result {
    enum probe_verdict verdict;
    json_t *value; /* owned; NULL when nothing was found */
    char reason[320];
};

struct probe {
    const char *fact;
    enum probe_need need;
    const char *matters, *remedy;
    void (*run)(struct probe_result *ret);
    const char *after; /* the fact without which there is no point in trying; NULL = none */
};

extern const struct probe probe_table[];
extern const size_t probe_count;

/* Runs a probe in a child process for at most `limit_ns`. Fills *ret; the caller frees ret->value. */
void probe_execute(const struct probe *probe, uint64_t limit_ns, struct probe_result *ret);

/* The outcomes. `value` is taken over; it may be NULL. */
void probe_yes(struct probe_result *ret, json_t *value, const char *fmt, ...) PRINTF(3, 4);
void probe_no(struct probe_result *ret, const char *fmt, ...) PRINTF(2, 3);
void probe_wrong(struct probe_result *ret, const char *fmt, ...) PRINTF(2, 3);

/* probe_host.c: the machine and its kernel */
void probe_kernel(struct probe_result *ret);
void probe_cpu(struct probe_result *ret);
void probe_hypervisor(struct probe_result *ret);
void probe_memory(struct probe_result *ret);
void probe_hugepages(struct probe_result *ret);
void probe_tsc(struct probe_result *ret);
void probe_io_uring(struct probe_result *ret);
void probe_tap(struct probe_result *ret);
void probe_emulator(struct probe_result *ret);

/* probe_memfd.c: what guest memory is made of */
void probe_memfd_holes(struct probe_result *ret);
void probe_uffd_missing(struct probe_result *ret);
void probe_uffd_minor(struct probe_result *ret);
void probe_uffd_wp(struct probe_result *ret);

/* probe_kvm.c: /dev/kvm as such */
void probe_kvm_device(struct probe_result *ret);
void probe_kvm_api(struct probe_result *ret);
void probe_kvm_caps(struct probe_result *ret);
void probe_kvm_extras(struct probe_result *ret);
void probe_kvmclock(struct probe_result *ret);

/* probe_guest.c: a guest of a few instructions */
void probe_stock_guests(struct probe_result *ret);
void probe_ring3(struct probe_result *ret);
void probe_vcpu_kick(struct probe_result *ret);
void probe_vcpu_state(struct probe_result *ret);
void probe_eventfds(struct probe_result *ret);

/* probe_dirty.c: KVM's record of what a guest writes */
void probe_dirty_log(struct probe_result *ret);
void probe_dirty_ring(struct probe_result *ret);
