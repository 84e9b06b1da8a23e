#include "move/slowing.h"
#include "base/clock.h"
#include "move/policy.h"
#include "vm/throttle.h"

struct reading {
    uint64_t faults, cpu_ns, held_ns;
};

static struct reading read_vcpu(struct machine *machine, unsigned id)
{
    struct vcpu *vcpu = &machine->vcpus.vcpu[id];
    struct reading r = { .held_ns = throttle_held_ns(&machine->vcpus, id) };
    clockid_t clock;

    if (machine->hv->ops->vcpu_faults(vcpu->hv, &r.faults))
        r.faults = 0; /* not counted here: CPU time is looked at instead */
    if (vcpu->started && pthread_getcpuclockid(vcpu->thread, &clock) == 0)
        r.cpu_ns = clock_read_ns(clock);
    return r;
}

void slowing_begin(struct slowing *slowing, struct machine *machine)
{
    *slowing = (struct slowing){ .machine = machine };
    for (unsigned id = 0; id < machine->vcpus.count; id++)
        slowing->held_before_ns[id] = throttle_held_ns(&machine->vcpus, id);
    slowing_measure(slowing, 0);
}

void slowing_measure(struct slowing *slowing, uint64_t dirtied_pages)
{
    struct machine *machine = slowing->machine;
    uint64_t now = clock_now_ns(), window_ns = now - slowing->since_ns, faults = 0;
    uint64_t fault[HV_VCPUS_MAX], cpu[HV_VCPUS_MAX], free_ns[HV_VCPUS_MAX];

    for (unsigned id = 0; id < machine->vcpus.count; id++) {
        struct reading r = read_vcpu(machine, id);
        fault[id] = r.faults - MIN(r.faults, slowing->faults[id]);
        cpu[id] = r.cpu_ns - MIN(r.cpu_ns, slowing->cpu_ns[id]);
        uint64_t held_ns = r.held_ns - slowing->held_ns[id];
        free_ns[id] = MAX(window_ns - MIN(held_ns, window_ns), UINT64_C(1));
        faults += fault[id];
        slowing->faults[id] = r.faults;
        slowing->cpu_ns[id] = r.cpu_ns;
        slowing->held_ns[id] = r.held_ns;
    }
    slowing->since_ns = now;
    bool counted = faults >= dirtied_pages / 4 && faults > 0;
    for (unsigned id = 0; id < machine->vcpus.count; id++)
        slowing->rate[id] = policy_scale(counted ? fault[id] : cpu[id], CLOCK_SECOND, free_ns[id]);
}

int slowing_set(struct slowing *slowing, uint32_t run_permille)
{
    policy_hold(slowing->rate, slowing->machine->vcpus.count, run_permille, slowing->hold);
    return throttle_set(&slowing->machine->vcpus, slowing->hold);
}

void slowing_end(struct slowing *slowing)
{
    if (slowing->machine)
        throttle_stop(&slowing->machine->vcpus);
}

uint64_t slowing_held_ns(const struct slowing *slowing, unsigned id)
{
    if (!slowing->machine)
        return 0;
    return throttle_held_ns(&slowing->machine->vcpus, id) - slowing->held_before_ns[id];
}
