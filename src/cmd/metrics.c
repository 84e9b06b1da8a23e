/*
 * `godwit metrics`: what this host's monitors and last bills say, for Prometheus.
 *
 * Everything is a figure of a table: a family of samples, and where in the JSON of a VM or of a bill its numbers are. A number
 * becomes one sample; an object one for each of its numbers, labelled by their keys; a list one for each entry,
 * labelled by the entry's text of the label's name. What is not there has no sample: unknown is not zero.
 */
#include "base/clock.h"
#include "cmd/vm.h"
#include "cost/exposition.h"
#include "ctl/bills.h"

#include <string.h>

#define ANSWER_NS CLOCK_SECOND /* as in ps: a monitor that needs longer is unresponsive */

enum unit { COUNT, SECONDS, PERMILLE };

struct figure {
    const char *name, *type, *help; /* help NULL: of the same family as the figure before */
    const char *path;               /* keys, separated by '/' */
    enum unit unit;
    const char *label;      /* of objects and lists */
    const char *fixed, *as; /* one more label and its value; NULL = none */
};

static const struct figure vm_figures[] = {
    { "godwit_vm_uptime_seconds", "gauge", "Time since the monitor of the VM started.",
      "info/uptime_ns", SECONDS },
    { "godwit_vm_vcpus", "gauge", "Processors of the guest.", "info/config/machine/vcpus" },
    { "godwit_vm_memory_bytes", "gauge", "Memory of the guest.",
      "info/config/machine/memory_bytes" },
    { "godwit_vm_memory_resident_bytes", "gauge", "Memory of the guest that exists on this host.",
      "info/resident_bytes" },
    { "godwit_vm_cpu_seconds_total", "counter",
      "CPU time of the monitor by what its threads are for.", "usage/cpu_ns", SECONDS, "group" },
    { "godwit_vm_monitor_memory_bytes", "gauge",
      "Memory of the monitor itself, without the guest's.", "usage/memory_bytes" },
    { "godwit_vm_storage_read_bytes_total", "counter",
      "Bytes that the monitor read from storage, its guest's included.", "usage/disk_read_bytes" },
    { "godwit_vm_storage_written_bytes_total", "counter",
      "Bytes that the monitor wrote for storage, its guest's included.",
      "usage/disk_written_bytes" },
    { "godwit_vm_balloon_target_bytes", "gauge", "Size that the balloon was asked to have.",
      "info/balloon/target_bytes" },
    { "godwit_vm_balloon_bytes", "gauge", "Size of the balloon, as the guest says.",
      "info/balloon/actual_bytes" },
    { "godwit_vm_given_back_bytes_total", "counter",
      "Guest memory given back to this host; again counts again.", "info/balloon/inflated_bytes",
      COUNT, NULL, "by", "balloon" },
    { "godwit_vm_given_back_bytes_total", NULL, NULL, "info/balloon/reported_bytes", COUNT, NULL,
      "by", "report" },
    { "godwit_vm_moving", "gauge", "Whether a move, checkpoint, receive or restore is under way.",
      "status/moving" },
    { "godwit_vm_move_round", "gauge", "Round of the move under way.", "status/progress/round" },
    { "godwit_vm_move_elapsed_seconds", "gauge", "Time since the move under way began.",
      "status/progress/elapsed_ns", SECONDS },
    { "godwit_vm_move_sent_bytes", "gauge", "Bytes sent by the move under way.",
      "status/progress/bytes" },
    { "godwit_vm_move_sent_pages", "gauge", "Pages sent by the move under way.",
      "status/progress/pages_sent" },
    { "godwit_vm_move_left_pages", "gauge", "Pages left in this round of the move under way.",
      "status/progress/pages_left" },
    { "godwit_vm_move_rate_bytes_per_second", "gauge", "Rate at which the move under way sends.",
      "status/progress/rate_bytes_per_s" },
    { "godwit_vm_move_dirty_pages_per_second", "gauge",
      "Rate at which the guest wrote pages in the last round.",
      "status/progress/dirty_pages_per_s" },
    { "godwit_vm_move_limit_bytes_per_second", "gauge",
      "Limit of the move under way; 0 means none.", "status/progress/limit_bytes_per_s" },
    { "godwit_vm_move_run_ratio", "gauge",
      "Share of their writing that the vCPUs that write too fast keep; 1 means that none is slowed.",
      "status/decision/run_permille", PERMILLE },
};

/* Of each virtio device; paths begin with its kind. */
static const struct figure device_figures[] = {
    { "godwit_vm_disk_requests_total", "counter",
      "Requests of the guest to a disk, also those that failed.", "blk/read_requests", COUNT, NULL,
      "op", "read" },
    { "godwit_vm_disk_requests_total", NULL, NULL, "blk/write_requests", COUNT, NULL, "op",
      "write" },
    { "godwit_vm_disk_requests_total", NULL, NULL, "blk/flush_requests", COUNT, NULL, "op",
      "flush" },
    { "godwit_vm_disk_requests_total", NULL, NULL, "blk/discard_requests", COUNT, NULL, "op",
      "discard" },
    { "godwit_vm_disk_requests_total", NULL, NULL, "blk/write_zeroes_requests", COUNT, NULL, "op",
      "write-zeroes" },
    { "godwit_vm_disk_failed_requests_total", "counter",
      "Requests of the guest to a disk that were answered by an error.", "blk/failed_requests" },
    { "godwit_vm_disk_bytes_total", "counter", "Bytes of a disk that the guest's requests covered.",
      "blk/read_bytes", COUNT, NULL, "op", "read" },
    { "godwit_vm_disk_bytes_total", NULL, NULL, "blk/written_bytes", COUNT, NULL, "op", "write" },
    { "godwit_vm_disk_bytes_total", NULL, NULL, "blk/discarded_bytes", COUNT, NULL, "op",
      "discard" },
    { "godwit_vm_disk_bytes_total", NULL, NULL, "blk/zeroed_bytes", COUNT, NULL, "op",
      "write-zeroes" },
    { "godwit_vm_network_frames_total", "counter", "Frames that the guest received and sent.",
      "net/received_frames", COUNT, NULL, "direction", "receive" },
    { "godwit_vm_network_frames_total", NULL, NULL, "net/sent_frames", COUNT, NULL, "direction",
      "send" },
    { "godwit_vm_network_bytes_total", "counter", "Bytes of the frames of the guest.",
      "net/received_bytes", COUNT, NULL, "direction", "receive" },
    { "godwit_vm_network_bytes_total", NULL, NULL, "net/sent_bytes", COUNT, NULL, "direction",
      "send" },
    { "godwit_vm_network_dropped_frames_total", "counter",
      "Frames that the device lost: the guest had no buffers that large, or the tap refused them.",
      "net/received_dropped_frames", COUNT, NULL, "direction", "receive" },
    { "godwit_vm_network_dropped_frames_total", NULL, NULL, "net/sent_dropped_frames", COUNT, NULL,
      "direction", "send" },
    { "godwit_vm_random_bytes_total", "counter", "Random bytes that the guest was given.",
      "rng/bytes" },
    { "godwit_vm_vsock_bytes_total", "counter",
      "Bytes that the guest received and sent on sockets to its host.", "vsock/received_bytes",
      COUNT, NULL, "direction", "receive" },
    { "godwit_vm_vsock_bytes_total", NULL, NULL, "vsock/sent_bytes", COUNT, NULL, "direction",
      "send" },
    { "godwit_vm_balloon_taken_back_bytes_total", "counter",
      "Guest memory that the guest took out of its balloon again.", "balloon/deflated_bytes" },
};

static const struct figure bill_figures[] = {
    { "godwit_last_move_timestamp_seconds", "gauge",
      "When the last move of the VM ended, since 1970.", "kept_ns", SECONDS },
    { "godwit_last_move_duration_seconds", "gauge", "Total time of the last move.", "total_ns",
      SECONDS },
    { "godwit_last_move_stage_seconds", "gauge", "Total time of the last move by stage.", "stages",
      SECONDS, "stage" },
    { "godwit_last_move_downtime_seconds", "gauge",
      "How long the guest stood still in the last move.", "downtime/total_ns", SECONDS },
    { "godwit_last_move_downtime_part_seconds", "gauge", "Downtime of the last move by part.",
      "downtime/parts", SECONDS, "part" },
    { "godwit_last_move_sent_bytes", "gauge", "Bytes of the stream of the last move by kind.",
      "bytes", COUNT, "content" },
    { "godwit_last_move_rounds", "gauge", "Rounds of the last move.", "rounds/count" },
    { "godwit_last_move_cpu_seconds", "gauge",
      "CPU time of the monitors during the last move by host and thread group.",
      "monitors/source/cpu_ns", SECONDS, "group", "host", "source" },
    { "godwit_last_move_cpu_seconds", NULL, NULL, "monitors/target/cpu_ns", SECONDS, "group",
      "host", "target" },
    { "godwit_last_move_extra_memory_bytes", "gauge",
      "Extra memory of the monitors in the last move, at most.",
      "monitors/source/memory/extra_bytes", COUNT, NULL, "host", "source" },
    { "godwit_last_move_extra_memory_bytes", NULL, NULL, "monitors/target/memory/extra_bytes",
      COUNT, NULL, "host", "target" },
    { "godwit_last_move_retransmitted_segments", "gauge",
      "TCP segments that were sent again in the last move.", "monitors/source/tcp/retransmits" },
};

static const json_t *at_path(const json_t *json, const char *path)
{
    char key[64];
    while (json && *path) {
        size_t len = strcspn(path, "/");
        (void)snprintf(key, sizeof(key), "%.*s", (int)len, path);
        json = json_object_get(json, key);
        path += len + (path[len] == '/');
    }
    return json;
}

static void add_label(const char **key, const char **text, unsigned *n, const char *name,
                      const char *value)
{
    if (!name)
        return;
    key[*n] = name;
    text[(*n)++] = value;
}

static void put(FILE *out, const struct figure *f, const json_t *value, const json_t *subject,
                const char *label)
{
    const char *vm = json_string_value(json_object_get(subject, "name"));
    const char *device = json_string_value(json_object_get(subject, "device"));
    json_int_t number = json_is_boolean(value) ? json_is_true(value) : json_integer_value(value);
    uint64_t v = number > 0 ? (uint64_t)number : 0;
    if (!json_is_integer(value) && !json_is_boolean(value))
        return;
    /* The first key that is NULL ends the labels. */
    const char *key[4] = { NULL }, *text[4] = { NULL };
    unsigned n = 0;
    add_label(key, text, &n, device ? "device" : NULL, device);
    add_label(key, text, &n, f->fixed, f->as);
    add_label(key, text, &n, f->label, label);
    if (f->unit == SECONDS)
        exposition_seconds(out, f->name, v, "vm", vm, key[0], text[0], key[1], text[1], key[2],
                           text[2], LABELS_END);
    else if (f->unit == PERMILLE)
        exposition_ratio(out, f->name, v, "vm", vm, key[0], text[0], key[1], text[1], key[2],
                         text[2], LABELS_END);
    else
        exposition_count(out, f->name, v, "vm", vm, key[0], text[0], key[1], text[1], key[2],
                         text[2], LABELS_END);
}

static void put_figure(FILE *out, const struct figure *f, const json_t *subject)
{
    const char *key;
    const json_t *value = at_path(subject, f->path);
    json_t *member;
    if (!f->label) {
        put(out, f, value, subject, NULL);
        return;
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *label = json_string_value(json_object_get(entry, f->label));
        if (label)
            put(out, f, json_object_get(entry, "ns"), subject, label);
    }
    json_object_foreach ((json_t *)(uintptr_t)(json_is_object(value) ? value : NULL), key, member)
        if (strcmp(key, "total") != 0) /* the sum of the others is not one of them */
            put(out, f, member, subject, key);
}

static void put_figures(FILE *out, const struct figure *figures, size_t count,
                        const json_t *subjects)
{
    for (size_t i = 0; i < count; i++) {
        if (figures[i].help)
            exposition_family(out, figures[i].name, figures[i].type, figures[i].help);
        for (size_t s = 0; s < json_array_size(subjects); s++)
            put_figure(out, &figures[i], json_array_get(subjects, s));
    }
}

/* ------------------------------------------------------------------------------------------ VMs */

/* One sample for each value that there is, of which one is 1. */
static void put_state_set(FILE *out, const char *name, const char *label, const char *const *all,
                          size_t count, const json_t *vms, const char *path)
{
    for (size_t v = 0; v < json_array_size(vms); v++) {
        const json_t *vm = json_array_get(vms, v);
        const char *is = json_string_value(at_path(vm, path));
        for (size_t i = 0; is && i < count; i++)
            exposition_count(out, name, strcmp(is, all[i]) == 0, "vm",
                             json_string_value(json_object_get(vm, "name")), label, all[i],
                             LABELS_END);
    }
}

/* The devices of all VMs: each has `name`, the VM's, `device`, its id, and its counters under its kind. */
static json_t *devices_of(const json_t *vms)
{
    json_t *all = json_array();
    for (size_t v = 0; v < json_array_size(vms); v++) {
        const json_t *vm = json_array_get(vms, v);
        const json_t *devices = at_path(vm, "info/config/machine/devices");
        for (size_t i = 0; i < json_array_size(devices); i++) {
            const json_t *device = json_array_get(devices, i);
            const char *id = json_string_value(json_object_get(device, "id"));
            const char *kind = json_string_value(json_object_get(device, "kind"));
            json_t *counts = id ? json_object_get(at_path(vm, "info/counts"), id) : NULL;
            if (kind && counts)
                (void)json_array_append_new(all, json_pack("{s:O, s:s, s:O}", "name",
                                                           json_object_get(vm, "name"), "device",
                                                           id, kind, counts));
        }
    }
    return all;
}

static void put_vms(FILE *out, const json_t *vms)
{
    static const char *const states[] = {
        "starting", "receiving", "running",  "paused", "migrating", "checkpointing", "uncertain",
        "serving",  "pulling",   "stranded", "moved",  "ended",     "unresponsive",  "dead",
    };
    static const char *const stages[] = {
        "pre-migration", "reservation", "pre-copy", "stop-and-copy",
        "commitment",    "activation",  "pulling",
    };
    exposition_family(out, "godwit_vm_state", "gauge", "State of the VM: 1 for the one it is in.");
    put_state_set(out, "godwit_vm_state", "state", states, ARRAY_LEN(states), vms, "state");
    exposition_family(out, "godwit_vm_move_stage", "gauge",
                      "Stage of the move under way: 1 for the one it is in.");
    put_state_set(out, "godwit_vm_move_stage", "stage", stages, ARRAY_LEN(stages), vms,
                  "status/progress/stage");
    put_figures(out, vm_figures, ARRAY_LEN(vm_figures), vms);
    json_t *devices = devices_of(vms);
    put_figures(out, device_figures, ARRAY_LEN(device_figures), devices);
    json_decref(devices);
}

/* What is known of one VM: `name`, `state`, and what its monitor answers, if it does. */
static json_t *vm_of(const struct cmd_args *args, const struct rundir_entry *entry)
{
    static const char *const calls[][2] = { { "info", "vm.info" },
                                            { "usage", "vm.usage" },
                                            { "status", "vm.migrate_status" } };
    json_t *vm = json_pack("{s:s, s:s}", "name", entry->name, "state",
                           entry->alive ? "unresponsive" : "dead"),
           *answer;
    struct client *client;
    if (!vm || !entry->alive || client_open(args->base, entry->name, &client, NULL))
        return vm;
    for (unsigned i = 0; i < ARRAY_LEN(calls); i++) {
        int rc = client_call(client, calls[i][1], NULL, ANSWER_NS, &answer, NULL);
        if (!rc)
            (void)json_object_set_new(vm, calls[i][0], answer);
        else if (i == 0)
            break; /* it would keep us waiting for the others, too */
    }
    client_close(client);
    json_t *state = json_object_get(json_object_get(vm, "info"), "state");
    if (state)
        (void)json_object_set(vm, "state", state);
    json_t *status = json_object_get(vm, "status");
    if (status &&
        !json_is_true(json_object_get(status, "moving"))) { /* what is there is of the last */
        (void)json_object_del(status, "progress");
        (void)json_object_del(status, "decision");
    }
    return vm;
}

/* ---------------------------------------------------------------------------------------- bills */

/* The last bill of each name, in the order of the names' first appearance. */
static json_t *last_of_each(const json_t *bills)
{
    json_t *last = json_array(), *place = json_object();
    for (size_t i = 0; i < json_array_size(bills); i++) {
        json_t *bill = json_array_get(bills, i);
        const char *name = json_string_value(json_object_get(bill, "name"));
        const json_t *at = name ? json_object_get(place, name) : NULL;
        if (at) {
            (void)json_array_set(last, (size_t)json_integer_value(at), bill);
        } else if (name) {
            (void)json_object_set_new(place, name, json_integer((json_int_t)json_array_size(last)));
            (void)json_array_append(last, bill);
        }
    }
    json_decref(place);
    return last;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(object, key));
    return n > 0 ? (uint64_t)n : 0;
}

static void put_bills(FILE *out, const json_t *bills)
{
    json_t *last = last_of_each(bills);
    exposition_family(out, "godwit_last_move_info", "gauge",
                      "The last move, checkpoint or restore of the VM: always 1.");
    for (size_t i = 0; i < json_array_size(last); i++) {
        const json_t *bill = json_array_get(last, i);
        exposition_count(out, "godwit_last_move_info", 1, "vm", text_of(bill, "name"), "kind",
                         text_of(bill, "kind"), "side", text_of(bill, "written_by"), "mode",
                         text_of(bill, "mode"), "outcome", text_of(bill, "outcome"), "from",
                         text_of(bill, "from"), "to", text_of(bill, "to"), LABELS_END);
    }
    put_figures(out, bill_figures, ARRAY_LEN(bill_figures), last);
    json_decref(last);
}

/* ---------------------------------------------------------------------------------------- totals */

#define MOVES(entry)                                                                 \
    "kind", text_of(entry, "kind"), "side", text_of(entry, "written_by"), "outcome", \
        text_of(entry, "outcome")

/* A histogram of the format: classes include those below, and the last is +Inf. */
static void put_histogram(FILE *out, const char *name, const char *help, const json_t *totals,
                          const char *classes, const uint64_t bounds[BILLS_BOUNDS], const char *sum)
{
    char part[80], bound[32];
    exposition_family(out, name, "histogram", help);
    for (size_t i = 0; i < json_array_size(totals); i++) {
        const json_t *entry = json_array_get(totals, i), *list = json_object_get(entry, classes);
        uint64_t count = 0;
        if (json_array_size(list) != BILLS_BOUNDS + 1)
            continue;
        (void)snprintf(part, sizeof(part), "%s_bucket", name);
        for (unsigned c = 0; c <= BILLS_BOUNDS; c++) {
            json_int_t n = json_integer_value(json_array_get(list, c));
            count += n > 0 ? (uint64_t)n : 0;
            (void)snprintf(bound, sizeof(bound), "+Inf");
            if (c < BILLS_BOUNDS)
                (void)snprintf(bound, sizeof(bound), "%g", (double)bounds[c] / 1e9);
            exposition_count(out, part, count, MOVES(entry), "le", bound, LABELS_END);
        }
        (void)snprintf(part, sizeof(part), "%s_sum", name);
        exposition_seconds(out, part, number_of(entry, sum), MOVES(entry), LABELS_END);
        (void)snprintf(part, sizeof(part), "%s_count", name);
        exposition_count(out, part, count, MOVES(entry), LABELS_END);
    }
}

static void put_totals(FILE *out, const json_t *totals)
{
    const char *key;
    json_t *n;
    exposition_family(out, "godwit_moves_total", "counter",
                      "Moves, checkpoints and restores that ended on this host, by outcome.");
    for (size_t i = 0; i < json_array_size(totals); i++) {
        const json_t *entry = json_array_get(totals, i);
        exposition_count(out, "godwit_moves_total", number_of(entry, "count"), MOVES(entry),
                         LABELS_END);
    }
    exposition_family(out, "godwit_moves_sent_bytes_total", "counter",
                      "Bytes of their streams by what was in them.");
    for (size_t i = 0; i < json_array_size(totals); i++) {
        const json_t *entry = json_array_get(totals, i);
        json_object_foreach (json_object_get(entry, "bytes"), key, n)
            if (strcmp(key, "total") != 0)
                exposition_count(out, "godwit_moves_sent_bytes_total",
                                 number_of(json_object_get(entry, "bytes"), key), MOVES(entry),
                                 "content", key, LABELS_END);
    }
    put_histogram(out, "godwit_move_duration_seconds",
                  "Total time of moves, checkpoints and restores.", totals, "by_duration",
                  bills_duration_bounds_ns, "total_ns");
    put_histogram(out, "godwit_move_downtime_seconds",
                  "How long guests stood still for them, of those that did.", totals, "by_downtime",
                  bills_downtime_bounds_ns, "downtime_ns");
}

static int metrics(struct cmd_args *args)
{
    struct rundir_entry *list;
    size_t count;
    struct err err = { 0 };
    json_t *bills, *totals;

    if (rundir_list(args->base, &list, &count, &err))
        return cmd_fail(args, &err);
    json_t *vms = json_array();
    for (size_t i = 0; i < count; i++)
        (void)json_array_append_new(vms, vm_of(args, &list[i]));
    free(list);
    if (bills_read(args->base, &bills, &totals, &err)) {
        json_decref(vms);
        return cmd_fail(args, &err);
    }
    exposition_family(stdout, "godwit_build_info", "gauge",
                      "The version of godwit that wrote this: always 1.");
    exposition_count(stdout, "godwit_build_info", 1, "version", GODWIT_VERSION, LABELS_END);
    put_vms(stdout, vms);
    put_bills(stdout, bills);
    put_totals(stdout, totals);
    json_decref(vms);
    json_decref(bills);
    json_decref(totals);
    return cmd_finish(args);
}

const struct command cmd_metrics = {
    .name = "metrics",
    .summary = "print counters of this host's VMs and moves, for Prometheus",
    .text =
        "Prints, once, what the monitors of this host have used, the moves under way, the last bill of each VM, and "
        "sums over all bills since the runtime directory was made, in Prometheus' text format. It does not listen: let "
        "a timer write a file for node_exporter's textfile collector, as below, or collect it in another way.\n\n"
        "A monitor that does not answer within a second shows as unresponsive and has no figures. "
        "docs/metrics.md lists all of them; docs/grafana/godwit.json is a dashboard for them.",
    .example =
        "  cd /var/lib/prometheus/node-exporter && godwit metrics >.godwit && mv .godwit godwit.prom\n",
    .arguments = (const struct cmd_option[]){ { 0 } },
    .options = (const struct cmd_option[]){ { 0 } },
    .fn = metrics,
};
