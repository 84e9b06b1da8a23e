#include "vm/vcpu.h"
#include "vm/throttle.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

int vcpu_group_init(struct vcpu_group *group, struct hv *hv, struct meter *meter, unsigned count,
                    const struct hv_cpuid *cpuid, const struct vcpu_handlers *handlers,
                    struct err *err)
{
    *group =
        (struct vcpu_group){ .hv = hv, .meter = meter, .handlers = *handlers, .pausing = true };
    (void)pthread_mutex_init(&group->lock, NULL);
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&group->changed, &monotonic);
    (void)pthread_cond_init(&group->throttle_wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    for (unsigned id = 0; id < count; id++) {
        struct vcpu *vcpu = &group->vcpu[id];
        int rc = hv->ops->vcpu_open(hv, id, &cpuid[id], &vcpu->hv);
        if (rc == -ENOTSUP)
            return err_set(
                err, ERR_HOST, ENOTSUP,
                "the guest's TSC runs at %u kHz, and this host's CPU cannot scale to that",
                cpuid[id].tsc_khz);
        if (rc)
            return err_errno(err, ERR_HOST, -rc, "cannot create vCPU %u", id);
        vcpu->group = group;
        group->count = id + 1;
    }
    return 0;
}

/* Waits until the group may run. False: it is ending. */
static bool park(struct vcpu_group *group)
{
    (void)pthread_mutex_lock(&group->lock);
    group->parked++;
    (void)pthread_cond_broadcast(&group->changed);
    while (group->pausing && !group->stopping)
        (void)pthread_cond_wait(&group->changed, &group->lock);
    group->parked--;
    bool go_on = !group->stopping;
    (void)pthread_mutex_unlock(&group->lock);
    return go_on;
}

static bool must_park(struct vcpu_group *group)
{
    return __atomic_load_n(&group->pausing, __ATOMIC_ACQUIRE) ||
           __atomic_load_n(&group->stopping, __ATOMIC_ACQUIRE);
}

/* Parks for ever: this vCPU cannot run again, but the group can still be paused, saved and ended. */
static void park_until_stop(struct vcpu_group *group)
{
    (void)pthread_mutex_lock(&group->lock);
    group->parked++;
    (void)pthread_cond_broadcast(&group->changed);
    while (!group->stopping)
        (void)pthread_cond_wait(&group->changed, &group->lock);
    group->parked--;
    (void)pthread_mutex_unlock(&group->lock);
}

/* On the vCPU's thread: the kick was for this. */
static void tell_stood_still(struct vcpu *vcpu)
{
    struct vcpu_group *group = vcpu->group;
    if (!__atomic_load_n(&vcpu->stood_still, __ATOMIC_ACQUIRE))
        return;
    (void)pthread_mutex_lock(&group->lock);
    __atomic_store_n(&vcpu->stood_still, false, __ATOMIC_RELEASE);
    if (!group->pausing && !group->stopping && vcpu->hold_until_ns == 0)
        group->hv->ops->vcpu_unkick(vcpu->hv);
    (void)pthread_mutex_unlock(&group->lock);
    group->hv->ops->vcpu_stood_still(vcpu->hv);
}

static void run(struct vcpu *vcpu)
{
    struct vcpu_group *group = vcpu->group;
    struct hv_exit exit = { .kind = HV_EXIT_NONE };

    for (;;) {
        /* After an access the vCPU is half-way through an instruction: only the next run completes
         * it. So park only after a run that ended with nothing left to do. */
        if (exit.kind == HV_EXIT_NONE) {
            throttle_hold(vcpu);
            tell_stood_still(vcpu);
            if (must_park(group)) {
                if (!park(group))
                    return;
                group->hv->ops->vcpu_stood_still(vcpu->hv);
            }
        }
        int rc = group->hv->ops->vcpu_run(vcpu->hv, &exit);
        if (rc) {
            exit.kind = HV_EXIT_FAILED;
            (void)snprintf(exit.why, sizeof(exit.why), "cannot run: %s", strerror(-rc));
        }
        switch (exit.kind) {
        case HV_EXIT_PIO_IN:
        case HV_EXIT_PIO_OUT:
        case HV_EXIT_MMIO_READ:
        case HV_EXIT_MMIO_WRITE:
            group->handlers.access(group->handlers.ctx, &exit);
            break;
        case HV_EXIT_NONE:
        case HV_EXIT_HALT:
            break;
        case HV_EXIT_SHUTDOWN:
            group->handlers.ended(group->handlers.ctx, vcpu->hv->id, VCPU_SHUTDOWN, "triple fault");
            park_until_stop(group);
            return;
        case HV_EXIT_FAILED:
            group->handlers.ended(group->handlers.ctx, vcpu->hv->id, VCPU_FAILED, exit.why);
            park_until_stop(group);
            return;
        }
    }
}

static void *vcpu_thread(void *arg)
{
    struct vcpu *vcpu = arg;
    int slot = meter_thread_enter(vcpu->group->meter, BILL_CPU_VCPU);
    run(vcpu);
    meter_thread_leave(vcpu->group->meter, slot);
    return NULL;
}

int vcpu_group_start(struct vcpu_group *group, struct err *err)
{
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGUSR1); /* the kick */
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (unsigned id = 0; id < group->count && !rc; id++) {
        struct vcpu *vcpu = &group->vcpu[id];
        rc = -pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
        if (rc)
            break;
        vcpu->started = true;
        char name[16];
        (void)snprintf(name, sizeof(name), "vcpu%u", id);
        (void)pthread_setname_np(vcpu->thread, name);
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot start a vCPU thread") : 0;
}

void vcpu_group_resume(struct vcpu_group *group)
{
    (void)pthread_mutex_lock(&group->lock);
    for (unsigned id = 0; id < group->count; id++)
        group->hv->ops->vcpu_unkick(group->vcpu[id].hv);
    __atomic_store_n(&group->pausing, false, __ATOMIC_RELEASE);
    (void)pthread_cond_broadcast(&group->changed);
    (void)pthread_mutex_unlock(&group->lock);
}

void vcpu_group_pause(struct vcpu_group *group)
{
    (void)pthread_mutex_lock(&group->lock);
    __atomic_store_n(&group->pausing, true, __ATOMIC_RELEASE);
    for (unsigned id = 0; id < group->count; id++)
        group->hv->ops->vcpu_kick(group->vcpu[id].hv);
    (void)pthread_cond_broadcast(&group->changed); /* whoever is held parks now */
    unsigned threads = 0;
    for (unsigned id = 0; id < group->count; id++)
        threads += group->vcpu[id].started;
    while (group->parked < threads)
        (void)pthread_cond_wait(&group->changed, &group->lock);
    (void)pthread_mutex_unlock(&group->lock);
}

void vcpu_group_stood_still(struct vcpu_group *group)
{
    (void)pthread_mutex_lock(&group->lock);
    for (unsigned id = 0; id < group->count && !group->pausing && !group->stopping; id++) {
        __atomic_store_n(&group->vcpu[id].stood_still, true, __ATOMIC_RELEASE);
        group->hv->ops->vcpu_kick(group->vcpu[id].hv);
    }
    (void)pthread_mutex_unlock(&group->lock);
}

void vcpu_group_fini(struct vcpu_group *group)
{
    if (!group->hv)
        return;
    throttle_stop(group);
    vcpu_group_pause(group);
    (void)pthread_mutex_lock(&group->lock);
    __atomic_store_n(&group->stopping, true, __ATOMIC_RELEASE);
    (void)pthread_cond_broadcast(&group->changed);
    (void)pthread_mutex_unlock(&group->lock);
    for (unsigned id = 0; id < group->count; id++) {
        if (group->vcpu[id].started)
            (void)pthread_join(group->vcpu[id].thread, NULL);
        group->hv->ops->vcpu_close(group->vcpu[id].hv);
    }
    (void)pthread_cond_destroy(&group->changed);
    (void)pthread_cond_destroy(&group->throttle_wake);
    (void)pthread_mutex_destroy(&group->lock);
    *group = (struct vcpu_group){ 0 };
}
