/*
 * Which vCPUs write too fast, and slowing just those while a move lasts (vm/throttle.h).
 *
 * Who wrote how much: KVM's dirty log does not say, but each first write to a page since its log was
 * cleared is a fault of one vCPU, and KVM counts those for each. Where it does not, or where the
 * hardware logs writes without faults (Intel's page modification logging: then far fewer faults are
 * counted than pages were dirtied), the CPU time of each vCPU stands in for it.
 *
 * One thread, the mover's.
 */
#pragma once
#include "vm/machine.h"

struct slowing {
    struct machine *machine;
    uint64_t since_ns;
    uint64_t faults[HV_VCPUS_MAX], cpu_ns[HV_VCPUS_MAX], held_ns[HV_VCPUS_MAX]; /* at since_ns */
    uint64_t rate[HV_VCPUS_MAX]; /* what each writes a second unhindered, in one unit for all */
    uint32_t hold[HV_VCPUS_MAX]; /* permille, as last set */
    uint64_t held_before_ns[HV_VCPUS_MAX];
};

void slowing_begin(struct slowing *slowing, struct machine *machine);

/* At the end of a round: who wrote the pages that were dirtied in it. */
void slowing_measure(struct slowing *slowing, uint64_t dirtied_pages);

/* The writers together keep `run_permille` of their writing; POLICY_RUN_ALL lets all go. */
int slowing_set(struct slowing *slowing, uint32_t run_permille) MUST_CHECK;

/* Lets all go; harmless before slowing_begin() and more than once. */
void slowing_end(struct slowing *slowing);

/* How long vCPU `id` was held since slowing_begin(). */
uint64_t slowing_held_ns(const struct slowing *slowing, unsigned id);
