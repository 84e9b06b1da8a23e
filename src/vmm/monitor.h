/*
 * The inside of the monitor process, shared by the files of src/vmm.
 *
 * Threads: the main thread runs the loop (control socket, console, devices' queues); one thread a vCPU;
 * at most one mover thread. `pause_lock` serialises pausing and resuming, which the loop (vm.pause) and a
 * mover both do. Everything else here belongs to the main thread, except what a mover is handed for the
 * time it runs (vmm/mover.c).
 */
#pragma once
#include "base/loop.h"
#include "cost/meter.h"
#include "ctl/console.h"
#include "ctl/rpc.h"
#include "ctl/rundir.h"
#include "vm/machine.h"
#include "vmm/inside.h"
#include "vmm/vmm.h"
#include <pthread.h>
#include <stdatomic.h>

/*
 *   starting ──> running <──> paused            vm.pause, vm.resume
 *      │            │  ▲        │ ▲
 *      │            ▼  │        ▼ │             a failed move goes back to where it came from
 *      │          migrating, checkpointing
 *      ▼            │
 *   receiving       ├──> moved ──> (ends)
 *      │            ├──> uncertain ──> moved | running | serving
 *      │            └──> serving <──> stranded, then moved             post-copy, at the source
 *      ├──> running | uncertain | (ends)        and from anywhere: ended
 *      └──> pulling <──> stranded, then running                        post-copy, at the target
 */
enum monitor_state {
    MONITOR_STARTING,
    MONITOR_RECEIVING,
    MONITOR_RUNNING,
    MONITOR_PAUSED,
    MONITOR_MIGRATING,
    MONITOR_CHECKPOINTING,
    MONITOR_UNCERTAIN,
    MONITOR_SERVING,  /* the guest runs elsewhere, and fetches its memory from here */
    MONITOR_PULLING,  /* it runs here, and its memory is still arriving */
    MONITOR_STRANDED, /* either of these, without a connection */
    MONITOR_MOVED,
    MONITOR_ENDED,
    MONITOR_STATE_MAX
};

struct mover;
struct recording;

struct monitor {
    const struct vmm_options *options;
    struct loop loop;
    struct rundir dir;
    struct meter meter;
    struct rpc_server *rpc;
    struct console *console;
    struct loop_source signals, ended, mover_done, recording_done;
    int signal_fd, ended_fd;
    int ready_fd;

    struct machine *machine; /* NULL until there is one */
    struct machine_hooks hooks;
    struct host_config host;
    struct inside inside;
    pthread_mutex_t pause_lock;
    bool user_paused; /* by vm.pause: a move keeps it */

    enum monitor_state state;
    char state_why[200]; /* of the last change; may be empty */
    atomic_bool
        incomplete; /* parts of the guest's memory are elsewhere: it must not be freed with threads in it */
    uint64_t started_ns;
    uint64_t
        first_run_ns; /* from before the process was made to the guest's first instruction; 0 = not known */
    struct mover *mover;         /* NULL: no move under way */
    struct recording *recording; /* NULL: none under way */
    json_t *last_bill;
    pthread_mutex_t progress_lock;
    json_t *last_progress, *last_decision; /* written by the mover */
    uint64_t usage_ns[BILL_CPU_MAX];       /* as vm.usage said last */

    /* How the guest ended: written once by whichever thread saw it, then ended_fd tells the loop. */
    pthread_mutex_t end_lock;
    enum machine_end end;
    char end_why[200];
    int exit_status;
    bool ending;   /* exit_status stands */
    unsigned keep; /* enum rundir_keep: the record, for a source that may still ask for it */
};

const char *monitor_state_name(enum monitor_state state);

/* Changes the state and posts vm.state; `reason` may be NULL. Main thread. */
void monitor_set_state(struct monitor *monitor, enum monitor_state state, const char *reason);

/* Leaves the loop with this exit status; the first call counts. Main thread. */
void monitor_end(struct monitor *monitor, int exit_status, const char *reason);

/* Any thread. */
int monitor_pause_machine(struct monitor *monitor, struct err *err) MUST_CHECK;
void monitor_resume_machine(struct monitor *monitor);

/* The methods of the control socket (vmm/methods.c). */
extern const struct rpc_method monitor_methods[];
extern const size_t monitor_method_count;
