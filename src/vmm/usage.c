#include "vmm/usage.h"

static json_t *number(bool known, uint64_t n)
{
    return known ? json_integer((json_int_t)MIN(n, (uint64_t)INT64_MAX)) : json_null();
}

json_t *usage_json(struct monitor *monitor)
{
    static const char *const groups[BILL_CPU_MAX] = {
        [BILL_CPU_VCPU] = "vcpu",
        [BILL_CPU_MOVER] = "mover",
        [BILL_CPU_LOOP] = "loop",
        [BILL_CPU_OTHER] = "other",
    };
    struct meter_sample now;
    json_t *cpu = json_object();
    meter_read(&monitor->meter, &now);
    bool known = now.measured & BILL_MEASURED_CPU;
    for (unsigned i = 0; i < BILL_CPU_MAX; i++) {
        /* "other" is a difference of clocks read one after the other; a counter never goes back. */
        monitor->usage_ns[i] = MAX(monitor->usage_ns[i], known ? now.cpu_ns[i] : 0);
        (void)json_object_set_new(cpu, groups[i], number(known, monitor->usage_ns[i]));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "cpu_ns", cpu, "memory_bytes",
                     number(now.measured & BILL_MEASURED_MEMORY, now.memory_bytes),
                     "disk_read_bytes",
                     number(now.measured & BILL_MEASURED_DISK, now.disk_read_bytes),
                     "disk_written_bytes",
                     number(now.measured & BILL_MEASURED_DISK, now.disk_written_bytes));
}
