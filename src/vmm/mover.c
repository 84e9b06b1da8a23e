#include "vmm/mover.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "ctl/bills.h"
#include "ctl/identity.h"
#include "ctl/promise.h"
#include "ctl/ready.h"
#include "ctl/reason.h"
#include "move/checkpoint.h"
#include "move/dryrun.h"
#include "move/migrate.h"
#include "move/receive.h"
#include "vmm/recording.h"
#include "vmm/records.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Work that must happen on the loop's thread, handed over by a mover that waits for it. */
struct errand {
    void (*fn)(void *arg);
    void *arg;
    bool done;
};

struct mover {
    struct monitor *monitor;
    struct mover_request request;
    struct move_env env;
    struct arrival_host host;
    struct trust *trust;
    struct recording *recording; /* that must end first; NULL = none */
    pthread_t thread;
    int cancel_fd, nudge_fd, wake_fd;
    _Atomic(enum move_order) order;
    _Atomic(uint64_t) bandwidth; /* bytes a second, as last asked for; 0 = no limit */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct errand *errand;
    enum monitor_state noted; /* a state of post-copy that the loop is to show; STARTING = none */
    char noted_why[200];
    char address[512]; /* where a person says the target is; "" = nowhere else */

    /* The result: the mover's until it writes `finished`. */
    bool finished;
    int rc;
    struct err err;
    struct bill bill;
    json_t *checked; /* MOVER_CHECK: the report */
    enum migrate_outcome outcome;
    bool settled; /* MOVER_RECEIVE: the source knows that the guest is here */
};

/* ------------------------------------------------------------------------------- on the mover's thread */

static struct mover *mover_of(void *ctx)
{
    return ctx;
}

/* With the vCPUs parked no end can be noted any more: a guest that has ended by now must not be carried
 * elsewhere, where it would be run again as if it had not. */
static int hook_pause(void *ctx, struct err *err)
{
    struct monitor *monitor = mover_of(ctx)->monitor;
    int rc = monitor_pause_machine(monitor, err);
    if (rc)
        return rc;
    (void)pthread_mutex_lock(&monitor->end_lock);
    if (monitor->end)
        rc = err_set(err, ERR_HOST, ESRCH, "the guest has ended: %s", monitor->end_why);
    (void)pthread_mutex_unlock(&monitor->end_lock);
    if (rc)
        monitor_resume_machine(monitor);
    return rc;
}

static void hook_resume(void *ctx)
{
    monitor_resume_machine(mover_of(ctx)->monitor);
}

static int hook_record(void *ctx, enum move_record record, const uint8_t token[MOVE_TOKEN_BYTES],
                       const uint8_t store[MOVE_STORE_BYTES], const char *peer, bool *ret_unknown,
                       struct err *err)
{
    int rc = records_write(&mover_of(ctx)->monitor->dir, record, token, store, peer, err);
    *ret_unknown = rc == -EINPROGRESS;
    return rc;
}

static bool hook_recorded(void *ctx, const uint8_t token[MOVE_TOKEN_BYTES])
{
    enum move_knows knows;
    struct err err;
    if (records_lookup(mover_of(ctx)->monitor->options->base, token, &knows, &err)) {
        log_event(LOG_ERROR, "move.records", "%s", err.text);
        return true; /* what cannot be read cannot be denied */
    }
    return knows != KNOWS_NOTHING;
}

static enum move_order hook_order(void *ctx)
{
    return atomic_exchange(&mover_of(ctx)->order, MOVE_NO_ORDER);
}

static void on_loop(void *ctx, void (*fn)(void *arg), void *arg)
{
    struct mover *mover = ctx;
    struct errand errand = { .fn = fn, .arg = arg };
    (void)pthread_mutex_lock(&mover->lock);
    mover->errand = &errand;
    (void)eventfd_write(mover->wake_fd, 1);
    (void)pthread_cond_broadcast(&mover->changed);
    while (!errand.done)
        (void)pthread_cond_wait(&mover->changed, &mover->lock);
    (void)pthread_mutex_unlock(&mover->lock);
}

static void hook_address(void *ctx, char *address, size_t size)
{
    struct mover *mover = ctx;
    (void)pthread_mutex_lock(&mover->lock);
    if (mover->address[0])
        (void)snprintf(address, size, "%s", mover->address);
    (void)pthread_mutex_unlock(&mover->lock);
}

static void hook_prepare(void *ctx, bool slow, struct bill_agent *ret)
{
    struct mover *mover = ctx;
    inside_prepare(mover->monitor, on_loop, mover, mover->cancel_fd, slow, ret);
}

static void unprepare(void *arg)
{
    inside_restore(arg, false);
}

static void hook_unprepare(void *ctx)
{
    on_loop(ctx, unprepare, mover_of(ctx)->monitor);
}

static void hook_event(void *ctx, const char *name, json_t *params)
{
    struct monitor *monitor = mover_of(ctx)->monitor;
    json_t **last = strcmp(name, "move.progress") == 0   ? &monitor->last_progress
                    : strcmp(name, "move.decision") == 0 ? &monitor->last_decision
                                                         : NULL;
    if (last) {
        json_t *copy = json_deep_copy(params);
        (void)pthread_mutex_lock(&monitor->progress_lock);
        json_decref(*last);
        *last = copy;
        (void)pthread_mutex_unlock(&monitor->progress_lock);
    }
    rpc_post_event(monitor->rpc, name, params);
}

/* For whoever watches this host. The guest does not wait for it: it runs again, wherever it does. */
static void keep_bill(struct mover *mover, json_t *bill)
{
    struct err err = { 0 };
    if (bill && bills_keep(mover->monitor->options->base, bill, &err))
        log_event(LOG_WARN, "move.bill", "%s", err.text);
    json_decref(bill);
}

/* Of a guest that arrives, or was to: without what only the source knows. */
static void hook_billed(void *ctx, const struct bill *bill)
{
    static const char *const unknown[] = { "downtime",  "rounds",     "policy", "brownout", "bytes",
                                           "encrypted", "encryption", "pages",  "classes",  "lanes",
                                           "faults",    "agent",      "clocks" };
    struct mover *mover = ctx;
    json_t *json = bill_json(bill);
    for (unsigned i = 0; json && i < ARRAY_LEN(unknown); i++)
        (void)json_object_del(json, unknown[i]);
    if (json && bill->owner == BILL_OWNER_TARGET) /* what it is called here */
        (void)json_object_set_new(json, "name", json_string(mover->monitor->dir.name));
    keep_bill(mover, json);
}

struct claiming {
    struct monitor *monitor;
    const char *name;
    struct err *err;
    int rc;
};

static void rename_directory(void *arg)
{
    struct claiming *c = arg;
    c->rc = rundir_rename(&c->monitor->dir, c->name, c->err);
    if (!c->rc)
        log_setup(LOG_INFO, c->monitor->dir.name);
}

static int hook_identify(void *ctx, const uint8_t uuid[16], struct err *err)
{
    return identity_claim(&mover_of(ctx)->monitor->dir, uuid, err);
}

static int hook_claim(void *ctx, const char *name, struct err *err)
{
    struct mover *mover = ctx;
    const char *wanted = mover->monitor->options->name[0] ? mover->monitor->options->name : name;
    if (strcmp(mover->monitor->dir.name, wanted) == 0)
        return 0;
    struct claiming claiming = { .monitor = mover->monitor, .name = wanted, .err = err };
    on_loop(mover, rename_directory, &claiming);
    return claiming.rc;
}

static void hook_unclaim(void *ctx)
{
    struct mover *mover = ctx;
    char name[CONFIG_NAME_MAX];
    struct err err;
    identity_withdraw(&mover->monitor->dir);
    if (mover->monitor->options->name[0])
        return;
    (void)snprintf(name, sizeof(name), "arriving-%d", (int)getpid());
    if (strcmp(mover->monitor->dir.name, name) == 0)
        return; /* its name was not taken */
    struct claiming claiming = { .monitor = mover->monitor, .name = name, .err = &err };
    on_loop(mover, rename_directory,
            &claiming); /* cannot be in use: the number is this process's */
}

struct noting {
    struct mover *mover;
    const char *state, *why;
};

static void note_state(void *arg)
{
    struct noting *n = arg;
    enum monitor_state state = strcmp(n->state, "uncertain") == 0        ? MONITOR_UNCERTAIN
                               : n->mover->request.kind == MOVER_MIGRATE ? MONITOR_MIGRATING
                                                                         : MONITOR_RECEIVING;
    monitor_set_state(n->mover->monitor, state, n->why);
}

/* Of post-copy: not waited for, since the loop's thread may itself wait for a page that only the mover can get. */
static bool note_later(struct mover *mover, const char *state, const char *why)
{
    static const struct {
        const char *name;
        enum monitor_state state;
    } table[] = { { "serving", MONITOR_SERVING },
                  { "pulling", MONITOR_PULLING },
                  { "stranded", MONITOR_STRANDED } };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (strcmp(table[i].name, state) != 0)
            continue;
        if (mover->request.kind == MOVER_RECEIVE)
            atomic_store(&mover->monitor->incomplete, true);
        else /* it runs elsewhere: what it has here only shrinks */
            promise_withdraw(&mover->monitor->dir);
        (void)pthread_mutex_lock(&mover->lock);
        mover->noted = table[i].state;
        (void)snprintf(mover->noted_why, sizeof(mover->noted_why), "%s", why);
        (void)pthread_mutex_unlock(&mover->lock);
        (void)eventfd_write(mover->wake_fd, 1);
        return true;
    }
    return false;
}

static void show_noted(struct mover *mover)
{
    char why[sizeof(mover->noted_why)];
    (void)pthread_mutex_lock(&mover->lock);
    enum monitor_state state = mover->noted;
    mover->noted = MONITOR_STARTING;
    (void)snprintf(why, sizeof(why), "%s", mover->noted_why);
    (void)pthread_mutex_unlock(&mover->lock);
    if (state != MONITOR_STARTING)
        monitor_set_state(mover->monitor, state, why[0] ? why : NULL);
}

static void hook_state(void *ctx, const char *state, const char *why)
{
    if (note_later(ctx, state, why))
        return;
    struct noting noting = { .mover = ctx, .state = state, .why = why };
    on_loop(ctx, note_state, &noting);
}

static void note_arrival(void *arg)
{
    struct mover *mover = arg;
    struct monitor *monitor = mover->monitor;
    monitor->keep |= RUNDIR_KEEP_RECORD; /* until the source has settled */
    monitor->user_paused = monitor->machine->pauses > 0;
    monitor_set_state(monitor, monitor->user_paused ? MONITOR_PAUSED : MONITOR_RUNNING, "arrived");
    inside_arrived(monitor);
}

static void hook_arrived(void *ctx)
{
    atomic_store(&mover_of(ctx)->monitor->incomplete, false);
    on_loop(ctx, note_arrival, ctx);
}

static void adopt(void *arg)
{
    void **pair = arg;
    struct monitor *monitor = pair[0];
    struct err err = { 0 };
    monitor->machine = pair[1];
    if (monitor->options->name[0]) /* it is called so wherever it moves from here, too */
        (void)snprintf(monitor->machine->config.name, sizeof(monitor->machine->config.name), "%s",
                       monitor->options->name);
    if (inside_attach(monitor, &err)) /* the guest runs all the same */
        log_event(LOG_ERROR, "vsock.attach", "%s", err.text);
}

static void hook_adopt(void *ctx, struct machine *machine)
{
    struct mover *mover = ctx;
    void *pair[2] = { mover->monitor, machine };
    on_loop(mover, adopt, pair);
    mover->env.machine = machine;
}

static int hook_place(void *ctx, const struct machine_config *config, struct host_config *host,
                      struct err *err)
{
    const struct vmm_options *options = mover_of(ctx)->monitor->options;
    for (unsigned i = 0; i < options->place_count; i++) {
        int rc = config_host_set(config, host, options->place[i].id, options->place[i].where, err);
        if (rc)
            return rc;
    }
    host->small_pages = options->host.small_pages;
    mover_of(ctx)->monitor->host = *host;
    return 0;
}

/* Who restores a guest may overcommit this host, as who runs one may; a target promises to another host. */
static int hook_memory(void *ctx, uint64_t bytes, bool hold, struct host_memory *ret,
                       struct err *err)
{
    struct mover *mover = ctx;
    bool restores = mover->request.kind == MOVER_RESTORE;
    enum promise_how how = !hold ? PROMISE_LOOK : restores ? PROMISE_ANYWAY : PROMISE_IF_FREE;
    int rc = promise_make(&mover->monitor->dir, bytes, how, ret, err);
    if (!rc && restores)
        ret->promised_bytes = 0;
    return rc;
}

static void hook_memory_made(void *ctx, const struct mem *mem)
{
    const struct rundir *dir = &mover_of(ctx)->monitor->dir;
    struct err err = { 0 };
    if (!mem)
        promise_withdraw(dir);
    else if (promise_kept_in(dir, mem->bytes, mem->memfd, &err)) /* all of it counts as to come */
        log_event(LOG_WARN, "vm.memory", "%s", err.text);
}

/* For what goes over a network. Only then: a host that moves nothing needs no key. */
static int open_trust(struct mover *mover)
{
    mover->env.insecure = mover->request.insecure;
    mover->rc = mover->monitor->options->config_dir[0]
                    ? trust_open(mover->monitor->options->config_dir, mover->env.insecure,
                                 &mover->trust, &mover->err)
                    : confdir_path(NULL, (char[CONFDIR_MAX]){ 0 }, &mover->err);
    mover->env.trust = mover->trust;
    return mover->rc;
}

/* Also of a move that did not get as far as migrate_run() there is a bill. */
static void bill_refused(struct mover *mover)
{
    const struct machine_config *config = &mover->env.machine->config;
    uint64_t now = clock_now_ns();
    bill_begin(&mover->bill, BILL_MIGRATE, mover->request.mode, config->name, now);
    bill_machine(&mover->bill, config->memory_bytes, config->vcpus);
    bill_describe(&mover->bill, NULL, NULL, mover->request.target);
    bill_fail(&mover->bill, &mover->err);
    bill_end(&mover->bill, BILL_OWNER_SOURCE, now);
    mover->outcome = MIGRATE_STAYED;
}

static void run(struct mover *mover)
{
    const struct mover_request *request = &mover->request;
    struct machine *machine = NULL;

    switch (request->kind) {
    case MOVER_MIGRATE: {
        if (open_trust(mover)) {
            bill_refused(mover);
            break;
        }
        struct migrate_request migrate = { .target = request->target,
                                           .mode = request->mode,
                                           .lanes = request->lanes,
                                           .packing = request->packing,
                                           .delta_bytes = request->delta_bytes,
                                           .bandwidth = &mover->bandwidth,
                                           .bandwidth_paused = request->bandwidth_paused,
                                           .post_copy = request->post_copy,
                                           .policy = request->policy,
                                           .stall_limit_ns = request->stall_limit_ns,
                                           .paused = mover->monitor->user_paused };
        mover->rc = migrate_run(&mover->env, &migrate, &mover->bill, &mover->outcome, &mover->err);
        break;
    }
    case MOVER_CHECK: {
        struct migrate_request check = { .target = request->target,
                                         .mode = request->mode,
                                         .post_copy = request->post_copy,
                                         .policy = request->policy,
                                         .stall_limit_ns = request->stall_limit_ns };
        if (!open_trust(mover))
            mover->rc = dryrun_run(&mover->env, &check, &mover->checked, &mover->err);
        break;
    }
    case MOVER_CHECKPOINT:
        mover->rc = checkpoint_write(&mover->env, request->file, &mover->bill, &mover->err);
        break;
    case MOVER_RECEIVE: {
        uint8_t store[MOVE_STORE_BYTES];
        mover->rc = records_store(mover->monitor->options->base, store, &mover->err);
        if (!mover->rc && !open_trust(mover))
            mover->rc =
                receive_run(&mover->env, &mover->host, mover->monitor->options->listen_fd, store,
                            mover->monitor->options->once, &mover->settled, &mover->err);
        (void)close(mover->monitor->options->listen_fd); /* nobody asks for this move any more */
        break;
    }
    case MOVER_RESTORE:
        mover->rc =
            checkpoint_read(&mover->env, &mover->host, request->file, mover->monitor->options->name,
                            &mover->bill, &machine, &mover->err);
        if (!mover->rc)
            hook_adopt(mover, machine);
        break;
    case MOVER_KIND_MAX:
        break;
    }
}

static void *mover_thread(void *arg)
{
    struct mover *mover = arg;
    int slot = meter_thread_enter(&mover->monitor->meter, BILL_CPU_MOVER);
    recording_wait(mover->recording); /* both watch the guest's writes, and only one can */
    run(mover);
    if (mover->request.kind != MOVER_CHECK && mover->request.kind != MOVER_RECEIVE)
        keep_bill(mover, bill_json(&mover->bill));
    meter_thread_leave(&mover->monitor->meter, slot);
    (void)pthread_mutex_lock(&mover->lock);
    mover->finished = true;
    (void)pthread_cond_broadcast(&mover->changed);
    (void)eventfd_write(mover->wake_fd, 1);
    (void)pthread_mutex_unlock(&mover->lock);
    return NULL;
}

/* ---------------------------------------------------------------------------------- on the main thread */

static void mover_free(struct mover *mover)
{
    trust_close(mover->trust);
    fd_close(&mover->cancel_fd);
    fd_close(&mover->nudge_fd);
    fd_close(&mover->wake_fd);
    (void)pthread_cond_destroy(&mover->changed);
    (void)pthread_mutex_destroy(&mover->lock);
    free(mover);
}

static void run_errand(struct mover *mover)
{
    (void)pthread_mutex_lock(&mover->lock);
    struct errand *errand = mover->errand;
    if (errand) {
        mover->errand = NULL;
        errand->fn(
            errand->arg); /* the mover waits for it with the lock released: nobody else is in */
        errand->done = true;
        (void)pthread_cond_broadcast(&mover->changed);
    }
    (void)pthread_mutex_unlock(&mover->lock);
}

static void came_to_rest(struct monitor *monitor)
{
    monitor_set_state(monitor, monitor->user_paused ? MONITOR_PAUSED : MONITOR_RUNNING, NULL);
}

/* A guest has arrived, from a file or another host. */
static void arrived(struct monitor *monitor, struct mover *mover)
{
    struct err err = { 0 };
    int rc = 0;
    if (mover->request.kind == MOVER_RESTORE) {
        rc = records_write(&monitor->dir, RECORD_HERE, NULL, NULL, NULL, &err);
        if (!rc && !monitor->options->name[0])
            rc = rundir_rename(&monitor->dir, monitor->machine->config.name, &err);
        if (rc) {
            log_event(LOG_ERROR, "vm.restore", "%s", err.text);
            ready_report_failure(&monitor->ready_fd, &err);
            monitor_end(monitor, err.fault == ERR_CALLER ? 2 : 1, err.text);
            return;
        }
        monitor->user_paused = monitor->options->paused;
        if (!monitor->user_paused)
            monitor_resume_machine(monitor);
        machine_announce(monitor->machine);
        inside_arrived(monitor);
        if (ready_report(&monitor->ready_fd, monitor->dir.name))
            log_event(LOG_WARN, "vm.restore", "whoever asked for it has gone");
        came_to_rest(monitor);
    } else {
        if (mover->settled)
            monitor->keep &= ~(unsigned)RUNDIR_KEEP_RECORD;
        else
            monitor->keep |= RUNDIR_KEEP_RECORD;
    }
}

/* Whoever waits for the end of it hears how it ended. */
static void tell_result(struct monitor *monitor, struct mover *mover)
{
    json_t *reason = mover->rc ? reason_to_json(&mover->err) : NULL;
    if (mover->request.kind == MOVER_CHECK) {
        rpc_post_event(monitor->rpc, "move.checked",
                       json_pack("{s:o?, s:o?}", "error", reason, "report", mover->checked));
        return;
    }
    if (mover->request.kind != MOVER_RECEIVE) {
        json_t *bill = bill_json(&mover->bill);
        json_decref(monitor->last_bill);
        monitor->last_bill = json_incref(bill);
        rpc_post_event(monitor->rpc, "move.done",
                       json_pack("{s:b, s:O?, s:o?}", "ok", mover->rc == 0, "error", reason, "bill",
                                 bill));
    }
    json_decref(reason);
    if (mover->rc)
        log_event(LOG_ERROR, "move.failed", "%s", mover->err.text);
}

static void act_on_result(struct monitor *monitor, struct mover *mover)
{
    tell_result(monitor, mover);
    switch (mover->request.kind) {
    case MOVER_MIGRATE:
        if (mover->outcome == MIGRATE_MOVED) {
            monitor_set_state(monitor, MONITOR_MOVED, mover->request.target);
            monitor_end(monitor, 0, "moved away");
        } else {
            came_to_rest(monitor);
            inside_stayed(monitor, &mover->err);
        }
        break;
    case MOVER_CHECK:
        break;
    case MOVER_CHECKPOINT:
        came_to_rest(monitor);
        break;
    case MOVER_RECEIVE:
    case MOVER_RESTORE:
        if (!mover->rc) {
            arrived(monitor, mover);
        } else {
            ready_report_failure(&monitor->ready_fd, &mover->err);
            monitor_end(monitor, mover->err.fault == ERR_CALLER ? 2 : 1, mover->err.text);
        }
        break;
    case MOVER_KIND_MAX:
        break;
    }
}

static void on_wake(struct loop_source *source, uint32_t events)
{
    (void)events;
    struct monitor *monitor = CONTAINER_OF(source, struct monitor, mover_done);
    struct mover *mover = monitor->mover;
    (void)loop_drain(source->fd);
    show_noted(mover);
    run_errand(mover);
    (void)pthread_mutex_lock(&mover->lock);
    bool finished = mover->finished;
    (void)pthread_mutex_unlock(&mover->lock);
    if (!finished)
        return;
    (void)pthread_join(mover->thread, NULL);
    loop_remove(&monitor->mover_done);
    monitor->mover = NULL;
    act_on_result(monitor, mover);
    mover_free(mover);
}

static struct mover *mover_new(struct monitor *monitor, const struct mover_request *request)
{
    struct mover *mover = calloc(1, sizeof(*mover));
    if (!mover)
        return NULL;
    mover->monitor = monitor;
    mover->request = *request;
    mover->bandwidth = request->bandwidth;
    mover->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mover->nudge_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mover->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    (void)pthread_mutex_init(&mover->lock, NULL);
    (void)pthread_cond_init(&mover->changed, NULL);
    mover->env = (struct move_env){ .machine = monitor->machine,
                                    .meter = &monitor->meter,
                                    .cancel_fd = mover->cancel_fd,
                                    .nudge_fd = mover->nudge_fd };
    mover->env.hooks = (struct move_hooks){ .ctx = mover,
                                            .pause = hook_pause,
                                            .resume = hook_resume,
                                            .record = hook_record,
                                            .recorded = hook_recorded,
                                            .state = hook_state,
                                            .order = hook_order,
                                            .address = hook_address,
                                            .identify = hook_identify,
                                            .claim = hook_claim,
                                            .unclaim = hook_unclaim,
                                            .adopt = hook_adopt,
                                            .arrived = hook_arrived,
                                            .billed = hook_billed,
                                            .event = hook_event };
    if (monitor->inside.dev) {
        mover->env.hooks.prepare = hook_prepare;
        mover->env.hooks.unprepare = hook_unprepare;
    }
    mover->host = (struct arrival_host){ .fake = monitor->options->fake,
                                         .hooks = &monitor->hooks,
                                         .meter = &monitor->meter,
                                         .loop = &monitor->loop,
                                         .on_loop = on_loop,
                                         .place = hook_place,
                                         .memory = hook_memory,
                                         .memory_made = hook_memory_made,
                                         .ctx = mover };
    if (mover->cancel_fd >= 0 && mover->nudge_fd >= 0 && mover->wake_fd >= 0)
        return mover;
    mover_free(mover);
    return NULL;
}

struct mover_request mover_request_default(void)
{
    return (struct mover_request){ .kind = MOVER_MIGRATE,
                                   .mode = "auto",
                                   .lanes = MIGRATE_LANES_AUTO,
                                   .bandwidth_paused = MIGRATE_BANDWIDTH_SAME,
                                   .packing = PACKING_MODE_AUTO,
                                   .post_copy = SOURCE_POST_COPY_NEVER,
                                   .policy = policy_limits_default(),
                                   .stall_limit_ns = 10 * CLOCK_SECOND };
}

/* How a move before this one went. */
static void forget_last(struct monitor *monitor)
{
    (void)pthread_mutex_lock(&monitor->progress_lock);
    json_decref(monitor->last_progress);
    json_decref(monitor->last_decision);
    monitor->last_progress = monitor->last_decision = NULL;
    (void)pthread_mutex_unlock(&monitor->progress_lock);
}

int mover_start(struct monitor *monitor, const struct mover_request *request, struct err *err)
{
    if (monitor->mover)
        return err_set(err, ERR_CALLER, EBUSY, "%s is busy: %s", monitor->dir.name,
                       monitor_state_name(monitor->state));
    struct mover *mover = mover_new(monitor, request);
    if (!mover)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot start a move");
    int rc = loop_add(&monitor->loop, &monitor->mover_done, mover->wake_fd, EPOLLIN, on_wake);
    if (!rc) {
        monitor->mover = mover;
        forget_last(monitor);
        mover->recording = recording_interrupt(monitor, "a move began");
        rc = -pthread_create(&mover->thread, NULL, mover_thread, mover);
    }
    if (rc) {
        recording_wait(mover->recording);
        loop_remove(&monitor->mover_done);
        monitor->mover = NULL;
        mover_free(mover);
        return err_errno(err, ERR_HOST, -rc, "cannot start a move");
    }
    (void)pthread_setname_np(mover->thread, "mover");
    if (request->kind == MOVER_MIGRATE)
        monitor_set_state(monitor, MONITOR_MIGRATING, request->target);
    else if (request->kind == MOVER_CHECKPOINT)
        monitor_set_state(monitor, MONITOR_CHECKPOINTING, request->file);
    return 0;
}

void mover_set_address(struct monitor *monitor, const char *address)
{
    struct mover *mover = monitor->mover;
    if (!mover)
        return;
    (void)pthread_mutex_lock(&mover->lock);
    (void)snprintf(mover->address, sizeof(mover->address), "%s", address);
    (void)pthread_mutex_unlock(&mover->lock);
}

int mover_order(struct monitor *monitor, enum move_order order, struct err *err)
{
    struct mover *mover = monitor->mover;
    bool leaving = mover && mover->request.kind == MOVER_MIGRATE;
    bool split = monitor->state == MONITOR_SERVING || monitor->state == MONITOR_STRANDED;
    bool of_source = order == MOVE_CANCEL || order == MOVE_SWITCH || order == MOVE_RETRY;
    if (!mover || (of_source && mover->request.kind != MOVER_CHECKPOINT && !leaving))
        return err_set(err, ERR_CALLER, ENOENT, "nothing is moving %s away from here",
                       monitor->dir.name);
    if ((order == MOVE_CANCEL || order == MOVE_SWITCH) && split)
        return err_set(
            err, ERR_CALLER, EBUSY,
            "%s runs at the target already, and fetches the rest of its memory from here",
            monitor->dir.name);
    if (order == MOVE_SWITCH && monitor->state != MONITOR_MIGRATING)
        return err_set(err, ERR_CALLER, EBUSY, "%s is %s", monitor->dir.name,
                       monitor_state_name(monitor->state));
    if (order == MOVE_RETRY && !split && monitor->state != MONITOR_UNCERTAIN)
        return err_set(err, ERR_CALLER, EBUSY, "%s has lost no connection that matters: it is %s",
                       monitor->dir.name, monitor_state_name(monitor->state));
    if (!of_source && monitor->state != MONITOR_UNCERTAIN)
        return err_set(err, ERR_CALLER, EBUSY, "%s is not uncertain, it is %s", monitor->dir.name,
                       monitor_state_name(monitor->state));
    atomic_store(&mover->order, order);
    (void)eventfd_write(order == MOVE_SWITCH ? mover->nudge_fd : mover->cancel_fd, 1);
    return 0;
}

int mover_set_bandwidth(struct monitor *monitor, uint64_t bytes_per_s, struct err *err)
{
    if (!monitor->mover || monitor->mover->request.kind != MOVER_MIGRATE)
        return err_set(err, ERR_CALLER, ENOENT, "nothing is being moved");
    monitor->mover->bandwidth = bytes_per_s;
    return 0;
}

void mover_shutdown(struct monitor *monitor)
{
    struct mover *mover = monitor->mover;
    if (!mover)
        return;
    atomic_store(&mover->order, MOVE_END_NOW);
    (void)eventfd_write(mover->cancel_fd, 1);
    (void)pthread_mutex_lock(&mover->lock);
    while (!mover->finished) {
        if (mover->errand) {
            (void)pthread_mutex_unlock(&mover->lock);
            run_errand(mover);
            (void)pthread_mutex_lock(&mover->lock);
        } else {
            (void)pthread_cond_wait(&mover->changed, &mover->lock);
        }
    }
    (void)pthread_mutex_unlock(&mover->lock);
    (void)pthread_join(mover->thread, NULL);
    loop_remove(&monitor->mover_done);
    monitor->mover = NULL;
    if (mover->rc && mover->outcome == MIGRATE_STAYED && monitor->state == MONITOR_ENDED)
        mover->rc = err_set(&mover->err, ERR_HOST, ECANCELED,
                            "the VM ended in the middle of it: %s", monitor->state_why);
    if (monitor->rpc)
        tell_result(monitor, mover);
    if (mover->outcome == MIGRATE_LEFT_UNCERTAIN)
        monitor->keep |=
            RUNDIR_KEEP_RECORD; /* all that is left of the guest here, and it must be found */
    mover_free(mover);
}
