/*
 * One move at a time, on a thread of its own, between the monitor's loop and the blocking engines of
 * src/move.
 *
 *     main thread                              mover thread
 *     mover_start() ---------------------->    migrate_run() / checkpoint_write() / ...
 *         hooks: pause, resume, record,  <---      (hooks run here; on_loop() waits for the main thread)
 *         events
 *     mover_done source <------------------    result is complete, thread about to end
 *     mover_collect(): join, act on it
 */
#pragma once
#include "move/move.h"
#include "move/packing.h"
#include "move/policy.h"
#include "move/source.h"
#include "vmm/monitor.h"

enum mover_kind {
    MOVER_MIGRATE = 1,
    MOVER_CHECK, /* would a migration do? Same parameters */
    MOVER_CHECKPOINT,
    MOVER_RECEIVE,
    MOVER_RESTORE,
    MOVER_KIND_MAX
};

struct mover_request {
    enum mover_kind kind;
    char target[512]; /* migrate: HOST:PORT */
    char mode[16];    /* migrate */
    uint32_t lanes;   /* migrate: see move/migrate.h */
    uint64_t bandwidth, bandwidth_paused;
    enum packing_mode packing; /* migrate */
    uint64_t delta_bytes;      /* migrate */
    enum source_post_copy post_copy;
    struct policy_limits policy;
    uint64_t stall_limit_ns;
    bool insecure;   /* migrate, check, receive: plain TCP */
    char file[4096]; /* checkpoint, restore: path */
};

/* A migration with everything as a person who states nothing gets it: the caller fills in `target`. */
struct mover_request mover_request_default(void);

/* Starts the thread. -EBUSY (ERR_CALLER) names the move that is under way. */
int mover_start(struct monitor *monitor, const struct mover_request *request,
                struct err *err) MUST_CHECK;

/* For MOVE_RETRY: where the target is now; "" = where it was. Before the order. */
void mover_set_address(struct monitor *monitor, const char *address);

/* Passes an order of a person on to the move under way; whether it can still be obeyed is for its engine to
 * say. -ENOENT: nothing moves. -EBUSY: it is an order for an uncertain move, and this is none. */
int mover_order(struct monitor *monitor, enum move_order order, struct err *err) MUST_CHECK;

/* Changes the limit of the migration under way. -ENOENT: there is none. */
int mover_set_bandwidth(struct monitor *monitor, uint64_t bytes_per_s, struct err *err) MUST_CHECK;

/* At the end of the process: cancels and joins what runs. */
void mover_shutdown(struct monitor *monitor);
