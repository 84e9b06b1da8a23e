/*
 * Does this machine fit this host? Answered before a page moves, with every fact that differs named.
 *
 * Checking takes what the machine will need (tap and disk descriptors), so that what was found is also
 * held: a tap attached here can be attached nowhere else, a disk opened here stays open.
 */
#pragma once
#include "mem/host_memory.h"
#include "vm/machine.h"

#define FIT_REASONS_MAX 16
#define FIT_FACTS_MAX 48

struct fit_reason {
    char fact[24];  /* "cpu", "memory", "disk", "net", "kvm" */
    char text[200]; /* what differs, in words */
};

struct fit_fact {
    bool ok;
    struct fit_reason is; /* what was looked at, and found */
};

struct fit_report {
    unsigned count; /* 0 = it fits; FIT_REASONS_MAX = perhaps more than are listed */
    struct fit_reason reason[FIT_REASONS_MAX];
    unsigned facts; /* all that was looked at, also what fits; FIT_FACTS_MAX = perhaps more */
    struct fit_fact fact[FIT_FACTS_MAX];
};

/* Something fits. */
void fit_good(struct fit_report *report, const char *fact, const char *fmt, ...) PRINTF(3, 4);
/* Something does not. */
void fit_add(struct fit_report *report, const char *fact, const char *fmt, ...) PRINTF(3, 4);

/* Checks CPU, memory, taps and disks for a machine that comes with `config` and `cpuid`. When it fits,
 * *ret_fds is what machine_create() needs; otherwise nothing is held. To hold the memory is the caller's. */
void fit_check(const struct machine_config *config, const struct hv_cpuid *cpuid,
               const struct host_config *host, const struct host_memory *memory, bool fake,
               struct fit_report *report, struct machine_fds *ret_fds);

/* All reasons in one error; 0 when there is none. */
int fit_err(const struct fit_report *report, struct err *err) MUST_CHECK;
