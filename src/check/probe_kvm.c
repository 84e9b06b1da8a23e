/* /dev/kvm as such: is it there, which interfaces has it. */
#include "check/probe.h"
#include "check/probe_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

static int open_kvm(struct probe_result *ret)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        probe_no(ret, "/dev/kvm: %s", strerror(errno));
    return kvm;
}

void probe_kvm_device(struct probe_result *ret)
{
    int kvm = open_kvm(ret);
    if (kvm < 0)
        return;
    if (ioctl(kvm, KVM_CREATE_VM, 0ul) < 0)
        probe_no(ret, "/dev/kvm opens, but creates no virtual machine: %s", strerror(errno));
    else
        probe_yes(ret, NULL, "/dev/kvm opens and creates virtual machines");
}

void probe_kvm_api(struct probe_result *ret)
{
    int kvm = open_kvm(ret);
    if (kvm < 0)
        return;
    int version = ioctl(kvm, KVM_GET_API_VERSION, 0ul);
    if (version == KVM_API_VERSION)
        probe_yes(ret, json_integer(version), "version %d", version);
    else
        probe_wrong(ret, "version %d, and not %d", version, KVM_API_VERSION);
}

struct capability {
    int number;
    const char *name;
    int bits; /* that the answer must have; 0: any answer above zero will do */
};

static const struct capability required[] = {
    { KVM_CAP_USER_MEMORY, "user-memory", 0 },
    { KVM_CAP_IRQCHIP, "irqchip", 0 },
    { KVM_CAP_IRQFD, "irqfd", 0 },
    { KVM_CAP_IOEVENTFD, "ioeventfd", 0 },
    { KVM_CAP_MP_STATE, "mp-state", 0 },
    { KVM_CAP_VCPU_EVENTS, "vcpu-events", 0 },
    { KVM_CAP_DEBUGREGS, "debugregs", 0 },
    { KVM_CAP_XCRS, "xcrs", 0 },
    { KVM_CAP_ADJUST_CLOCK, "adjust-clock", 0 },
    { KVM_CAP_IMMEDIATE_EXIT, "immediate-exit", 0 },
    { KVM_CAP_SREGS2, "sregs2", 0 },
    { KVM_CAP_XSAVE2, "xsave2", 0 },
    { KVM_CAP_GET_TSC_KHZ, "get-tsc-khz", 0 },
    { KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "manual-dirty-log-protect2",
      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET },
};

static const struct capability extras[] = {
    { KVM_CAP_TSC_CONTROL, "tsc-control", 0 },
    { KVM_CAP_TSC_DEADLINE_TIMER, "tsc-deadline-timer", 0 },
    { KVM_CAP_X2APIC_API, "x2apic-api", 0 },
    { KVM_CAP_NESTED_STATE, "nested-state", 0 },
    { KVM_CAP_KVMCLOCK_CTRL, "kvmclock-ctrl", 0 },
    { KVM_CAP_ADJUST_CLOCK, "clock-realtime", KVM_CLOCK_REALTIME },
    { KVM_CAP_DIRTY_LOG_RING, "dirty-log-ring", 0 },
    { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, "dirty-log-ring-acq-rel", 0 },
    { KVM_CAP_NR_MEMSLOTS, "nr-memslots", 0 },
    { KVM_CAP_MAX_VCPUS, "max-vcpus", 0 },
};

/* Asks a VM, since some answers differ from those of /dev/kvm itself. Fills `missing` with names. */
static json_t *ask(const struct capability *list, size_t count, char *missing, size_t size,
                   struct probe_result *ret)
{
    struct probe_vm vm;
    if (probe_vm_open(&vm)) {
        probe_no(ret, "%s", vm.why);
        return NULL;
    }
    json_t *value = json_object();
    size_t len = 0;
    missing[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        int answer = ioctl(vm.vm, KVM_CHECK_EXTENSION, (unsigned long)list[i].number);
        bool there = answer > 0 && (answer & list[i].bits) == list[i].bits;
        (void)json_object_set_new(value, list[i].name,
                                  list[i].bits ? json_boolean(there) : json_integer(answer));
        if (!there && len < size)
            len +=
                (size_t)snprintf(missing + len, size - len, "%s%s", len ? ", " : "", list[i].name);
    }
    return value;
}

void probe_kvm_caps(struct probe_result *ret)
{
    char missing[256];
    json_t *value = ask(required, ARRAY_LEN(required), missing, sizeof(missing), ret);
    if (!value)
        return;
    if (missing[0]) {
        probe_no(ret, "this KVM lacks %s", missing);
        ret->value = value;
    } else {
        probe_yes(ret, value, "all %zu that godwit needs", ARRAY_LEN(required));
    }
}

void probe_kvm_extras(struct probe_result *ret)
{
    char missing[256];
    json_t *value = ask(extras, ARRAY_LEN(extras), missing, sizeof(missing), ret);
    if (value)
        probe_yes(ret, value, "%s%s", missing[0] ? "without " : "all there", missing);
}

void probe_kvmclock(struct probe_result *ret)
{
    struct probe_vm vm;
    if (probe_vm_open(&vm) || probe_vm_vcpu(&vm, 3)) {
        probe_no(ret, "%s", vm.why);
        return;
    }
    const uint64_t hour = UINT64_C(3600000000000);
    struct kvm_clock_data set = { .clock = 1000 * hour }, first = { 0 }, second = { 0 };
    if (ioctl(vm.vm, KVM_SET_CLOCK, &set) < 0 || ioctl(vm.vm, KVM_GET_CLOCK, &first) < 0 ||
        ioctl(vm.vm, KVM_GET_CLOCK, &second) < 0) {
        probe_wrong(ret, "cannot set and read the guest's clock: %s", strerror(errno));
        return;
    }
    /* An hour is no time limit: it tells a clock that was set from one that was not. */
    if (first.clock < set.clock || first.clock > set.clock + hour || second.clock < first.clock) {
        probe_wrong(ret, "the clock was set to %llu ns and reads %llu, then %llu",
                    (unsigned long long)set.clock, (unsigned long long)first.clock,
                    (unsigned long long)second.clock);
        return;
    }
    bool stable = first.flags & KVM_CLOCK_TSC_STABLE, wall = first.flags & KVM_CLOCK_REALTIME;
    probe_yes(ret, json_pack("{s:b,s:b}", "tsc_stable", stable, "realtime", wall),
              "it goes on from where it is set; %s",
              wall ? "reads come with the wall clock" : "reads come without the wall clock");
}
