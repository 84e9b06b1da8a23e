/* The methods of the control socket: docs/control.md says what each takes and gives. */
#include "base/clock.h"
#include "move/bucket.h"
#include "move/migrate.h"
#include "vmm/info.h"
#include "vmm/monitor.h"
#include "vmm/mover.h"
#include "vmm/recording.h"
#include "vmm/usage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void fail(struct rpc_call *call, int code, const char *text)
{
    struct err err;
    (void)err_set(&err, ERR_CALLER, code, "%s", text);
    rpc_fail(call, &err);
}

static void vm_info(void *ctx, struct rpc_call *call, const json_t *params)
{
    if (!rpc_unpack(call, params, "{}"))
        rpc_reply(call, info_of(ctx));
}

static void vm_pause(void *ctx, struct rpc_call *call, const json_t *params)
{
    struct monitor *monitor = ctx;
    struct err err;
    if (rpc_unpack(call, params, "{}"))
        return;
    if (monitor->state == MONITOR_PAUSED) {
        rpc_reply(call, NULL); /* asked for twice is as good as once */
        return;
    }
    if (atomic_load(&monitor->incomplete)) {
        fail(call, EBUSY, "its memory is still arriving: it can be paused when all of it is here");
        return;
    }
    if (monitor->state != MONITOR_RUNNING) {
        fail(call, EBUSY, "not running: it can be paused when what is under way has ended");
        return;
    }
    if (monitor_pause_machine(monitor, &err)) {
        rpc_fail(call, &err);
        return;
    }
    monitor->user_paused = true;
    monitor_set_state(monitor, MONITOR_PAUSED, "asked to");
    rpc_reply(call, NULL);
}

static void vm_resume(void *ctx, struct rpc_call *call, const json_t *params)
{
    struct monitor *monitor = ctx;
    if (rpc_unpack(call, params, "{}"))
        return;
    if (monitor->state != MONITOR_PAUSED && monitor->state != MONITOR_RUNNING) {
        fail(call, EBUSY, "not paused: it can be resumed when what is under way has ended");
        return;
    }
    if (monitor->user_paused)
        monitor_resume_machine(monitor);
    monitor->user_paused = false;
    monitor_set_state(monitor, MONITOR_RUNNING, "asked to");
    rpc_reply(call, NULL);
}

static void vm_power_button(void *ctx, struct rpc_call *call, const json_t *params)
{
    struct monitor *monitor = ctx;
    if (rpc_unpack(call, params, "{}"))
        return;
    if (!monitor->machine || monitor->state == MONITOR_RECEIVING ||
        monitor->state == MONITOR_UNCERTAIN) {
        fail(call, EBUSY, "no guest runs here yet");
        return;
    }
    machine_press_power_button(monitor->machine);
    rpc_reply(call, NULL);
}

static void vm_balloon(void *ctx, struct rpc_call *call, const json_t *params)
{
    struct monitor *monitor = ctx;
    json_int_t bytes = -1;
    if (rpc_unpack(call, params, "{s?:I}", "size_bytes", &bytes))
        return;
    if (!monitor->machine || monitor->state == MONITOR_RECEIVING ||
        monitor->state == MONITOR_UNCERTAIN) {
        fail(call, EBUSY, "no guest runs here yet");
        return;
    }
    if (!monitor->machine->balloon) {
        fail(call, ENODEV, "this VM was made without a balloon");
        return;
    }
    if (json_object_get(params, "size_bytes")) {
        int rc =
            bytes < 0 ? -EINVAL : virtio_balloon_set(monitor->machine->balloon, (uint64_t)bytes);
        if (rc == -EBUSY)
            fail(call, EBUSY, "the guest stands still");
        else if (rc)
            fail(call, EINVAL, "size_bytes: want 0 up to the guest's memory");
        if (rc)
            return;
    }
    rpc_reply(call, info_of_balloon(monitor->machine));
}

static void vm_kill(void *ctx, struct rpc_call *call, const json_t *params)
{
    if (rpc_unpack(call, params, "{}"))
        return;
    rpc_reply(call, NULL);
    monitor_end(ctx, 0, "killed");
}

static void start(struct monitor *monitor, struct rpc_call *call,
                  const struct mover_request *request)
{
    struct err err;
    if (monitor->state != MONITOR_RUNNING && monitor->state != MONITOR_PAUSED && !monitor->mover)
        fail(call, EBUSY, "no guest runs here that could be moved");
    else if (mover_start(monitor, request, &err))
        rpc_fail(call, &err);
    else
        rpc_reply(call, json_pack("{s:s}", "state", monitor_state_name(monitor->state)));
}

#define RATE_LEAST 125000 /* slower, and the other side would take a round for a stall */
#define DELTA_CACHE_MAX ((json_int_t)1 << 40)

static const char *const no_bandwidth =
    "a bandwidth is 0 for no limit, or 250000 to 125000000000 bytes a second";

static bool is_bandwidth(json_int_t bytes_per_s)
{
    return bytes_per_s == 0 || (bytes_per_s >= (json_int_t)BUCKET_RATE_MIN &&
                                bytes_per_s <= (json_int_t)BUCKET_RATE_MAX);
}

/* How the pages are to travel. NULL: taken into *ret; else what is wrong. */
static const char *read_sending(json_int_t lanes, json_int_t bandwidth,
                                json_int_t bandwidth_downtime, const char *compress,
                                json_int_t delta_bytes, struct mover_request *ret)
{
    if (lanes < -1 || lanes > MOVE_LANES_MAX)
        return "lanes: want 1 to 16, 0 for none, or -1 to have them chosen";
    if (packing_mode_of(compress, &ret->packing))
        return "compress: want auto, off, lz4 or zstd";
    if (delta_bytes < 0 || delta_bytes > DELTA_CACHE_MAX)
        return "delta_cache_bytes: want 0 for none, or up to 1 TiB";
    if (!is_bandwidth(bandwidth) || (bandwidth_downtime != -1 && !is_bandwidth(bandwidth_downtime)))
        return no_bandwidth;
    ret->lanes = lanes < 0 ? MIGRATE_LANES_AUTO : (uint32_t)lanes;
    ret->delta_bytes = (uint64_t)delta_bytes;
    ret->bandwidth = ret->policy.bandwidth = (uint64_t)bandwidth;
    ret->bandwidth_paused =
        bandwidth_downtime < 0 ? MIGRATE_BANDWIDTH_SAME : (uint64_t)bandwidth_downtime;
    return NULL;
}

static void vm_migrate_set(void *ctx, struct rpc_call *call, const json_t *params)
{
    json_int_t bandwidth;
    struct err err;
    if (rpc_unpack(call, params, "{s:I}", "bandwidth_bytes_per_s", &bandwidth))
        return;
    if (!is_bandwidth(bandwidth))
        fail(call, EINVAL, no_bandwidth);
    else if (mover_set_bandwidth(ctx, (uint64_t)bandwidth, &err))
        rpc_fail(call, &err);
    else
        rpc_reply(call, NULL);
}

/* The goal, as `policy` of vm.migrate says it. NULL: taken into *ret; else what is wrong. */
static const char *read_goal(const char *policy, json_int_t max_downtime_ns, json_int_t max_time_ns,
                             json_int_t rate_min, json_int_t rate_max, struct policy_limits *ret)
{
    ret->kind = policy_named(policy);
    if (!ret->kind)
        return "policy: want goal or clark05";
    if (max_downtime_ns <= 0 || max_time_ns < 0)
        return "max_downtime_ns must be positive, and max_time_ns not negative";
    if (rate_min < RATE_LEAST || rate_max < rate_min)
        return "rate_min_bytes_per_s must be at least 125000 and no more than rate_max_bytes_per_s";
    ret->max_downtime_ns = (uint64_t)max_downtime_ns;
    ret->max_time_ns = (uint64_t)max_time_ns;
    ret->rate_min = (uint64_t)rate_min;
    ret->rate_max = (uint64_t)rate_max;
    return NULL;
}

static void vm_migrate(void *ctx, struct rpc_call *call, const json_t *params)
{
    const char *to, *mode = "auto", *policy = "goal", *throttle = "allow", *compress = "auto";
    const char *post_copy = "never";
    struct mover_request request = mover_request_default();
    json_int_t stall_limit_ns = (json_int_t)request.stall_limit_ns, max_time_ns = 0, lanes = -1;
    json_int_t max_downtime_ns = (json_int_t)request.policy.max_downtime_ns;
    json_int_t rate_min = (json_int_t)request.policy.rate_min;
    json_int_t rate_max = (json_int_t)request.policy.rate_max;
    json_int_t bandwidth = 0, bandwidth_downtime = -1, delta_bytes = 0;
    int strict = 0, check = 0, insecure = 0;
    if (rpc_unpack(call, params,
                   "{s:s, s?:s, s?:s, s?:I, s?:I, s?:I, s?:s, s?:s, s?:b, s?:I, s?:I, s?:b, s?:b, "
                   "s?:I, s?:I, s?:I, s?:s, s?:I}",
                   "to", &to, "mode", &mode, "post_copy", &post_copy, "max_downtime_ns",
                   &max_downtime_ns, "max_time_ns", &max_time_ns, "stall_limit_ns", &stall_limit_ns,
                   "policy", &policy, "throttle", &throttle, "strict", &strict,
                   "rate_min_bytes_per_s", &rate_min, "rate_max_bytes_per_s", &rate_max, "check",
                   &check, "insecure", &insecure, "lanes", &lanes, "bandwidth_bytes_per_s",
                   &bandwidth, "bandwidth_downtime_bytes_per_s", &bandwidth_downtime, "compress",
                   &compress, "delta_cache_bytes", &delta_bytes))
        return;
    if (strcmp(mode, "auto") != 0 && strcmp(mode, "pre-copy") != 0 &&
        strcmp(mode, "stop-copy") != 0 && strcmp(mode, "post-copy") != 0) {
        fail(call, EINVAL, "mode: want auto, pre-copy, stop-copy or post-copy");
        return;
    }
    static const char *const wishes[] = { [SOURCE_POST_COPY_NEVER] = "never",
                                          [SOURCE_POST_COPY_ALLOW] = "allow",
                                          [SOURCE_POST_COPY_NOW] = "now" };
    size_t wish = 0;
    while (wish < ARRAY_LEN(wishes) && strcmp(post_copy, wishes[wish]) != 0)
        wish++;
    if (wish == ARRAY_LEN(wishes)) {
        fail(call, EINVAL, "post_copy: want never, allow or now");
        return;
    }
    if (wish != SOURCE_POST_COPY_NEVER && strcmp(mode, "stop-copy") == 0) {
        fail(call, EINVAL, "stop-copy sends all memory first: post_copy can only be never");
        return;
    }
    request.post_copy = (enum source_post_copy)wish;
    if (strcmp(throttle, "allow") != 0 && strcmp(throttle, "never") != 0) {
        fail(call, EINVAL, "throttle: want allow or never");
        return;
    }
    if (stall_limit_ns < (json_int_t)(100 * CLOCK_MSEC)) {
        fail(call, EINVAL, "stall_limit_ns must be at least 100 ms");
        return;
    }
    const char *wrong =
        read_goal(policy, max_downtime_ns, max_time_ns, rate_min, rate_max, &request.policy);
    if (!wrong)
        wrong = read_sending(lanes, bandwidth, bandwidth_downtime, compress, delta_bytes, &request);
    if (!wrong && strlen(to) >= sizeof(request.target))
        wrong = "to: too long for HOST:PORT";
    if (wrong) {
        fail(call, EINVAL, wrong);
        return;
    }
    request.policy.allow_throttle = strcmp(throttle, "allow") == 0;
    request.policy.strict = strict;
    (void)snprintf(request.target, sizeof(request.target), "%s", to);
    (void)snprintf(request.mode, sizeof(request.mode), "%s", mode);
    if (check)
        request.kind = MOVER_CHECK;
    request.stall_limit_ns = (uint64_t)stall_limit_ns;
    request.insecure = insecure;
    start(ctx, call, &request);
}

/* A number that may not be negative; what is, is out of any bounds. */
static uint64_t not_negative(json_int_t n)
{
    return n < 0 ? UINT64_MAX : (uint64_t)n;
}

static void vm_wws(void *ctx, struct rpc_call *call, const json_t *params)
{
    json_int_t interval_ns = 100 * 1000000, duration_ns = 10ll * 1000000000, rtt_ns = 500 * 1000,
               max_downtime_ns = 300 * 1000000;
    const char *throttle = "allow";
    const json_t *rates = NULL;
    struct err err;
    if (rpc_unpack(call, params, "{s?:I, s?:I, s?:o, s?:I, s?:I, s?:s}", "interval_ns",
                   &interval_ns, "duration_ns", &duration_ns, "bandwidths", &rates, "rtt_ns",
                   &rtt_ns, "max_downtime_ns", &max_downtime_ns, "throttle", &throttle))
        return;
    struct recording_request request = { .interval_ns = not_negative(interval_ns),
                                         .duration_ns = not_negative(duration_ns),
                                         .rtt_ns = not_negative(rtt_ns),
                                         .max_downtime_ns = not_negative(max_downtime_ns),
                                         .allow_throttle = strcmp(throttle, "allow") == 0 };
    if (!request.allow_throttle && strcmp(throttle, "never") != 0) {
        fail(call, EINVAL, "throttle: want allow or never");
        return;
    }
    if ((rates && !json_is_array(rates)) || json_array_size(rates) > REPORT_LINKS_MAX) {
        fail(call, EINVAL, "bandwidths: want a list of at most 16 numbers");
        return;
    }
    for (size_t i = 0; i < json_array_size(rates); i++)
        request.rate[request.rate_count++] =
            not_negative(json_integer_value(json_array_get(rates, i)));
    if (recording_check(&request, &err) || recording_start(ctx, &request, call, &err))
        rpc_fail(call, &err);
}

static void vm_checkpoint(void *ctx, struct rpc_call *call, const json_t *params)
{
    const char *file;
    struct mover_request request = { .kind = MOVER_CHECKPOINT };
    if (rpc_unpack(call, params, "{s:s}", "file", &file))
        return;
    if (file[0] != '/' || strlen(file) >= sizeof(request.file)) {
        fail(call, EINVAL, "file: want an absolute path");
        return;
    }
    (void)snprintf(request.file, sizeof(request.file), "%s", file);
    start(ctx, call, &request);
}

static void vm_migrate_cancel(void *ctx, struct rpc_call *call, const json_t *params)
{
    struct err err;
    if (rpc_unpack(call, params, "{}"))
        return;
    if (mover_order(ctx, MOVE_CANCEL, &err))
        rpc_fail(call, &err);
    else
        rpc_reply(call, NULL);
}

static void vm_migrate_post_copy(void *ctx, struct rpc_call *call, const json_t *params)
{
    struct err err;
    if (rpc_unpack(call, params, "{}"))
        return;
    if (mover_order(ctx, MOVE_SWITCH, &err))
        rpc_fail(call, &err);
    else
        rpc_reply(call, NULL);
}

static void vm_migrate_recover(void *ctx, struct rpc_call *call, const json_t *params)
{
    const char *to = "";
    struct err err;
    if (rpc_unpack(call, params, "{s?:s}", "to", &to))
        return;
    if (strlen(to) >= sizeof(((struct mover_request *)0)->target)) {
        fail(call, EINVAL, "to: too long for HOST:PORT");
        return;
    }
    mover_set_address(ctx, to);
    if (mover_order(ctx, MOVE_RETRY, &err))
        rpc_fail(call, &err);
    else
        rpc_reply(call, NULL);
}

static void vm_resolve(void *ctx, struct rpc_call *call, const json_t *params)
{
    static const struct {
        const char *decision;
        enum move_order order;
    } table[] = { { "take-back", MOVE_TAKE_BACK },
                  { "forget", MOVE_FORGET },
                  { "adopt", MOVE_ADOPT },
                  { "discard", MOVE_DISCARD } };
    const char *decision;
    struct err err;
    if (rpc_unpack(call, params, "{s:s}", "decision", &decision))
        return;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (strcmp(table[i].decision, decision) != 0)
            continue;
        if (mover_order(ctx, table[i].order, &err))
            rpc_fail(call, &err);
        else
            rpc_reply(call, NULL);
        return;
    }
    fail(call, EINVAL, "decision: want take-back, forget, adopt or discard");
}

static void vm_migrate_status(void *ctx, struct rpc_call *call, const json_t *params)
{
    struct monitor *monitor = ctx;
    if (rpc_unpack(call, params, "{}"))
        return;
    (void)pthread_mutex_lock(&monitor->progress_lock);
    json_t *status =
        json_pack("{s:b, s:s, s:O?, s:O?, s:O?}", "moving", monitor->mover != NULL, "state",
                  monitor_state_name(monitor->state), "progress", monitor->last_progress,
                  "decision", monitor->last_decision, "bill", monitor->last_bill);
    (void)pthread_mutex_unlock(&monitor->progress_lock);
    rpc_reply(call, status);
}

static void vm_agent(void *ctx, struct rpc_call *call, const json_t *params)
{
    if (!rpc_unpack(call, params, "{}"))
        inside_hello(ctx, call);
}

static void vm_bill(void *ctx, struct rpc_call *call, const json_t *params)
{
    struct monitor *monitor = ctx;
    if (rpc_unpack(call, params, "{}"))
        return;
    if (!monitor->last_bill)
        fail(call, ENOENT, "nothing has moved here yet");
    else
        rpc_reply(call, json_incref(monitor->last_bill));
}

static void vm_usage(void *ctx, struct rpc_call *call, const json_t *params)
{
    if (!rpc_unpack(call, params, "{}"))
        rpc_reply(call, usage_json(ctx));
}

const struct rpc_method monitor_methods[] = {
    { "vm.info", vm_info },
    { "vm.pause", vm_pause },
    { "vm.resume", vm_resume },
    { "vm.power_button", vm_power_button },
    { "vm.balloon", vm_balloon },
    { "vm.kill", vm_kill },
    { "vm.migrate", vm_migrate },
    { "vm.migrate_set", vm_migrate_set },
    { "vm.migrate_status", vm_migrate_status },
    { "vm.migrate_cancel", vm_migrate_cancel },
    { "vm.migrate_post_copy", vm_migrate_post_copy },
    { "vm.migrate_recover", vm_migrate_recover },
    { "vm.resolve", vm_resolve },
    { "vm.checkpoint", vm_checkpoint },
    { "vm.bill", vm_bill },
    { "vm.agent", vm_agent },
    { "vm.wws", vm_wws },
    { "vm.usage", vm_usage },
};
const size_t monitor_method_count = ARRAY_LEN(monitor_methods);
