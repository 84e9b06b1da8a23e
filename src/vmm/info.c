#include "vmm/info.h"
#include "base/clock.h"

#include <unistd.h>

/* Figures of the guest, as VIRTIO_BALLOON_S_* number them. */
static const char *const balloon_stats[VIRTIO_BALLOON_TAGS] = {
    "swapped_in_bytes", "swapped_out_bytes", "major_faults",    "minor_faults",
    "free_bytes",       "total_bytes",       "available_bytes", "disk_caches_bytes",
    "huge_pages_made",  "huge_pages_failed",
};

json_t *info_of_balloon(const struct machine *machine)
{
    struct virtio_balloon_info b;
    virtio_balloon_info(machine->balloon, &b);
    json_t *stats = b.stats ? json_object() : json_null();
    for (unsigned tag = 0; tag < VIRTIO_BALLOON_TAGS; tag++)
        if (b.stats >> tag & 1)
            (void)json_object_set_new(stats, balloon_stats[tag],
                                      json_integer(
                                          (json_int_t)MIN(b.stat[tag], (uint64_t)INT64_MAX)));
    if (b.stats)
        (void)json_object_set_new(stats, "age_ns",
                                  json_integer((json_int_t)(clock_now_ns() - b.stats_ns)));
    return json_pack("{s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:o}", "target_bytes",
                     (json_int_t)b.target_bytes, "actual_bytes", (json_int_t)b.actual_bytes,
                     "inflated_bytes", (json_int_t)b.inflated_bytes, "reported_bytes",
                     (json_int_t)b.reported_bytes, "driver", b.driver, "free_page_reporting",
                     b.reporting, "deflate_on_oom", b.deflate_on_oom, "guest", stats);
}

/* What each device has counted, by the device's id. */
static json_t *counts_json(const struct machine *machine)
{
    json_t *devices = json_object();
    for (uint32_t n = 0; n < machine->config.device_count; n++) {
        struct virtio_dev *vd = machine_virtio(machine, n);
        const char *const *name = vd->vops->count_name;
        uint64_t count[VIRTIO_COUNTS_MAX];
        json_t *counts = json_object();
        virtio_mmio_counts(vd, count);
        for (unsigned i = 0; i < VIRTIO_COUNTS_MAX && name[i]; i++)
            (void)json_object_set_new(counts, name[i], json_integer((json_int_t)count[i]));
        (void)json_object_set_new(devices, machine->config.device[n].id, counts);
    }
    return devices;
}

json_t *info_of(struct monitor *monitor)
{
    json_t *info = json_pack("{s:s, s:s, s:i, s:I}", "name", monitor->dir.name, "state",
                             monitor_state_name(monitor->state), "pid", (int)getpid(), "uptime_ns",
                             (json_int_t)(clock_now_ns() - monitor->started_ns));
    const struct machine *machine = monitor->machine;
    bool split = monitor->state == MONITOR_SERVING || monitor->state == MONITOR_PULLING ||
                 monitor->state == MONITOR_STRANDED;
    if (split && info && monitor->state_why[0])
        (void)json_object_set_new(info, "state_reason", json_string(monitor->state_why));
    if (monitor->first_run_ns && info)
        (void)json_object_set_new(info, "boot",
                                  json_pack("{s:I}", "first_run_ns",
                                            (json_int_t)monitor->first_run_ns));
    if (machine && machine->balloon && info)
        (void)json_object_set_new(info, "balloon", info_of_balloon(machine));
    if (machine && info) {
        (void)json_object_set_new(info, "config", config_to_json(&machine->config, &monitor->host));
        (void)json_object_set_new(info, "counts", counts_json(machine));
        (void)json_object_set_new(info, "hypervisor", json_string(machine->hv->ops->name));
        (void)json_object_set_new(info, "resident_bytes",
                                  json_integer((json_int_t)(mem_resident_pages(&machine->mem) *
                                                            PAGE_BYTES)));
    }
    return info;
}
