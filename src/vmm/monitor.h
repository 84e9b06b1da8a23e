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
#include "vmm/vmm.h"
#include <pthread.h>

/*
 *   starting ──> running <──> paused            vm.pause, vm.resume
 *      │            │  ▲        │ ▲
 *      │            ▼  │        ▼ │             a failed move goes back to where it came from
 *      │          migrating, checkpointing
 *      ▼            │
 *   receiving       ├──> moved ──> (ends)
 *      │            └──> uncertain ──> moved | running
 *      └──> running | uncertain | (ends)        and from anywhere: ended
 */
enum monitor_state {
    MONITOR_STARTING,
    MONITOR_RECEIVING,
    MONITOR_RUNNING,
    MONITOR_PAUSED,
    MONITOR_MIGRATING,
    MONITOR_CHECKPOINTING,
    MONITOR_UNCERTAIN,
    MONITOR_MOVED,
    MONITOR_ENDED,
    MONITOR_STATE_MAX
};

struct mover;

struct monitor {
    const struct vmm_options *options;
    struct loop loop;
    struct rundir dir;
    struct meter meter;
    struct rpc_server *rpc;
    struct console *console;
    struct loop_source signals, ended, mover_done;
    int signal_fd, ended_fd;
    int ready_fd;

    struct machine *machine; /* NULL until there is one */
    struct machine_hooks hooks;
    struct host_config host;
    pthread_mutex_t pause_lock;
    bool user_paused; /* by vm.pause: a move keeps it */

    enum monitor_state state;
    uint64_t started_ns;
    uint64_t
        first_run_ns; /* from before the process was made to the guest's first instruction; 0 = not known */
    struct mover *mover; /* NULL: no move under way */
    json_t *last_bill;
    pthread_mutex_t progress_lock;
    json_t *last_progress; /* written by the mover */

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
