/*
 * vCPU threads: a group that runs, parks and ends together.
 *
 *              start                resume
 *     (none) --------> parked <------------------> running ---> ended (stop)
 *                                   pause
 *
 * Parked means: the thread waits outside the hypervisor, and its last access has been completed, so its
 * registers can be saved. A group is paused and resumed from one thread at a time (the loop or a mover);
 * the caller sees to that.
 */
#pragma once
#include "cost/meter.h"
#include "kvm/hv.h"
#include <pthread.h>
#include <stdbool.h>

enum vcpu_end {
    VCPU_SHUTDOWN = 1, /* triple fault: how a guest without other means resets */
    VCPU_FAILED,       /* the hypervisor cannot go on; `why` says what it said */
};

struct vcpu_group;

/* Called on vCPU threads. */
struct vcpu_handlers {
    void *ctx;
    /* One guest access: fill data for reads. */
    void (*access)(void *ctx, const struct hv_exit *exit);
    /* A vCPU can run no more; its thread is about to park for good. Must not pause or stop the group. */
    void (*ended)(void *ctx, unsigned id, enum vcpu_end how, const char *why);
};

struct vcpu {
    struct vcpu_group *group;
    struct hv_vcpu *hv;
    pthread_t thread;
    bool started;
    bool stood_still;       /* to be told so before it runs on; written with the group's lock */
    uint64_t hold_until_ns; /* vm/throttle.h: 0 = not held; written with the group's lock */
    uint64_t held_ns, held_since_ns; /* in sum; begin of the present hold or 0; with the lock */
};

struct vcpu_group {
    struct hv *hv;
    struct meter *meter; /* counts the threads' CPU time; borrowed */
    struct vcpu_handlers handlers;
    unsigned count;
    struct vcpu vcpu[HV_VCPUS_MAX];

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool pausing, stopping;
    unsigned parked;

    /* vm/throttle.h: the slicing thread and, with the lock, what it is told. */
    pthread_t throttle;
    pthread_cond_t throttle_wake;
    bool throttling, throttle_ending;
    uint32_t hold_permille[HV_VCPUS_MAX];
};

/* Opens `count` vCPUs, each shown its entry of `cpuid` (an array of `count`). Nothing runs yet. */
int vcpu_group_init(struct vcpu_group *group, struct hv *hv, struct meter *meter, unsigned count,
                    const struct hv_cpuid *cpuid, const struct vcpu_handlers *handlers,
                    struct err *err) MUST_CHECK;

/* Starts the threads, parked. They are named "vcpu0"... and block all signals but the kick. */
int vcpu_group_start(struct vcpu_group *group, struct err *err) MUST_CHECK;

void vcpu_group_resume(struct vcpu_group *group);

/* Returns when every thread is parked. */
void vcpu_group_pause(struct vcpu_group *group);

/* The vCPUs waited for something outside the guest for longer than its watchdogs may allow, and will go on: they are
 * told before they do. One that waits in the hypervisor still, is told when that is over. resume() tells by itself. */
void vcpu_group_stood_still(struct vcpu_group *group);

/* On the vCPU's thread, between two runs with no access pending: waits as long as it is held. */
void throttle_hold(struct vcpu *vcpu);

/* Ends the threads and closes the vCPUs; for any group that vcpu_group_init() saw. */
void vcpu_group_fini(struct vcpu_group *group);
