#include "vm/throttle.h"
#include "base/clock.h"

#include <errno.h>

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){ .tv_sec = (time_t)(ns / CLOCK_SECOND),
                              .tv_nsec = (long)(ns % CLOCK_SECOND) };
}

/* With the group's lock. A paused group is left alone: its kicks are the pause's. */
static void begin_slice(struct vcpu_group *group, uint64_t now)
{
    if (group->pausing || group->stopping)
        return;
    for (unsigned id = 0; id < group->count; id++) {
        struct vcpu *vcpu = &group->vcpu[id];
        if (group->hold_permille[id] == 0)
            continue;
        uint64_t until = now + group->hold_permille[id] * (THROTTLE_SLICE_NS / 1000);
        __atomic_store_n(&vcpu->hold_until_ns, until, __ATOMIC_RELEASE);
        group->hv->ops->vcpu_kick(vcpu->hv);
    }
}

static void *throttle_thread(void *arg)
{
    struct vcpu_group *group = arg;
    uint64_t next = clock_now_ns();
    (void)pthread_mutex_lock(&group->lock);
    while (!group->throttle_ending) {
        uint64_t now = clock_now_ns();
        if (now >= next) {
            begin_slice(group, now);
            next = now + THROTTLE_SLICE_NS;
        }
        struct timespec until = timespec_of(next);
        (void)pthread_cond_timedwait(&group->throttle_wake, &group->lock, &until);
    }
    (void)pthread_mutex_unlock(&group->lock);
    return NULL;
}

int throttle_set(struct vcpu_group *group, const uint32_t *hold_permille)
{
    bool any = false;
    for (unsigned id = 0; id < group->count; id++)
        any |= hold_permille[id] > 0;
    if (!any) {
        throttle_stop(group);
        return 0;
    }
    (void)pthread_mutex_lock(&group->lock);
    for (unsigned id = 0; id < group->count; id++)
        group->hold_permille[id] = MIN(hold_permille[id], (uint32_t)THROTTLE_HOLD_MAX);
    (void)pthread_mutex_unlock(&group->lock);
    if (group->throttling)
        return 0;
    int rc = -pthread_create(&group->throttle, NULL, throttle_thread, group);
    group->throttling = !rc;
    if (!rc)
        (void)pthread_setname_np(group->throttle, "throttle");
    return rc;
}

void throttle_stop(struct vcpu_group *group)
{
    if (!group->throttling)
        return;
    (void)pthread_mutex_lock(&group->lock);
    group->throttle_ending = true;
    for (unsigned id = 0; id < group->count; id++) {
        group->hold_permille[id] = 0;
        __atomic_store_n(&group->vcpu[id].hold_until_ns, 1, __ATOMIC_RELEASE); /* long past */
    }
    (void)pthread_cond_broadcast(&group->throttle_wake);
    (void)pthread_cond_broadcast(&group->changed);
    (void)pthread_mutex_unlock(&group->lock);
    (void)pthread_join(group->throttle, NULL);
    group->throttling = group->throttle_ending = false;
}

uint64_t throttle_held_ns(struct vcpu_group *group, unsigned id)
{
    (void)pthread_mutex_lock(&group->lock);
    const struct vcpu *vcpu = &group->vcpu[id];
    uint64_t ns = vcpu->held_ns + (vcpu->held_since_ns ? clock_now_ns() - vcpu->held_since_ns : 0);
    (void)pthread_mutex_unlock(&group->lock);
    return ns;
}

void throttle_hold(struct vcpu *vcpu)
{
    struct vcpu_group *group = vcpu->group;
    if (__atomic_load_n(&vcpu->hold_until_ns, __ATOMIC_ACQUIRE) == 0)
        return;
    (void)pthread_mutex_lock(&group->lock);
    uint64_t now = vcpu->held_since_ns = clock_now_ns();
    while (!group->pausing && !group->stopping && vcpu->hold_until_ns > now) {
        struct timespec until = timespec_of(vcpu->hold_until_ns);
        (void)pthread_cond_timedwait(&group->changed, &group->lock, &until);
        now = clock_now_ns();
    }
    vcpu->held_ns += now - vcpu->held_since_ns;
    vcpu->held_since_ns = 0;
    __atomic_store_n(&vcpu->hold_until_ns, 0, __ATOMIC_RELEASE);
    if (!group->pausing && !group->stopping)
        group->hv->ops->vcpu_unkick(vcpu->hv);
    (void)pthread_mutex_unlock(&group->lock);
}
