/*
 * Slowing vCPUs: each is held outside the hypervisor for its share of every slice of time.
 *
 * A thread of the group's own, there only while somebody is slowed, begins a slice every
 * THROTTLE_SLICE_NS: it says until when each vCPU is to be held, and kicks it; the vCPU's own thread
 * leaves the guest with its last access completed, waits that long, and goes on. A pause of the group
 * is not held up: whoever waits then parks at once.
 *
 * Nothing of this is guest state: it ends with the move, and does not travel.
 *
 * Threads: throttle_set() and throttle_stop() from one thread at a time (the mover's).
 */
#pragma once
#include "base/err.h"
#include "vm/vcpu.h"

#define THROTTLE_SLICE_NS (UINT64_C(10) * 1000000)
#define THROTTLE_HOLD_MAX 900 /* permille: a vCPU always runs for a part of each slice */

/* From the next slice on, holds vCPU i for hold_permille[i] of the time. All 0: as throttle_stop(). */
int throttle_set(struct vcpu_group *group, const uint32_t *hold_permille) MUST_CHECK;

/* Lets all of them go; harmless when nobody is held. */
void throttle_stop(struct vcpu_group *group);

/* How long vCPU `id` was held since the group was made. */
uint64_t throttle_held_ns(struct vcpu_group *group, unsigned id);
