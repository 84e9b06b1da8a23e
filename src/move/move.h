/*
 * What every kind of move (migration, checkpoint, restore) is given by the monitor it runs in.
 *
 * A move runs on a thread of its own, from start to end in one blocking call. The monitor lends it the
 * machine: nobody else saves, loads or frees it meanwhile; pausing goes through the hooks, since the
 * user may pause too.
 */
#pragma once
#include "base/err.h"
#include "cost/bill.h"
#include "cost/meter.h"
#include "move/step.h"
#include "trust/trust.h"
#include "vm/machine.h"
#include <jansson.h>

enum move_order {
    MOVE_NO_ORDER,
    MOVE_CANCEL,
    MOVE_TAKE_BACK,
    MOVE_FORGET,
    MOVE_ADOPT,
    MOVE_DISCARD,
    MOVE_SWITCH, /* to post-copy */
    MOVE_RETRY,  /* connect again, now; hooks.address() says where to */
    MOVE_END_NOW
};

struct move_hooks {
    void *ctx;
    int (*pause)(void *ctx, struct err *err);
    void (*resume)(void *ctx);
    /* Lets the guest's agent help, for a bounded time (`slow`: with a writer that is too fast), and
     * says what it did; unprepare takes that back where the guest stays, and does not wait. Both NULL:
     * there is no way to one. */
    void (*prepare)(void *ctx, bool slow, struct bill_agent *ret);
    void (*unprepare)(void *ctx);
    /* Makes durable who owns the guest, and returns only when it is. When it fails, *ret_unknown says
     * whether the new record may be on disk all the same. `store`: of the target, for RECORD_HANDED. */
    int (*record)(void *ctx, enum move_record record, const uint8_t token[MOVE_TOKEN_BYTES],
                  const uint8_t store[MOVE_STORE_BYTES], const char *peer, bool *ret_unknown,
                  struct err *err);
    /* Whether a record of this host says that it owns the guest by that token. */
    bool (*recorded)(void *ctx, const uint8_t token[MOVE_TOKEN_BYTES]);
    /* The move entered a state that people must see at once: "uncertain", "withdrawing", "serving", "pulling",
     * "stranded". */
    void (*state)(void *ctx, const char *state, const char *why);
    /* What a person ordered since the last call, after env->cancel_fd became readable. */
    enum move_order (*order)(void *ctx);
    /* Where a person says the target is now; leaves `address` as it is if nowhere else. */
    void (*address)(void *ctx, char *address, size_t size);
    /* For a machine that arrives. identify: this host has it from now on, and -EEXIST if it has already; claim: takes
     * its name on this host; both before anything is promised, and unclaim gives both back when the move fails;
     * adopt: it is complete, and the monitor's from here on. */
    int (*identify)(void *ctx, const uint8_t uuid[16], struct err *err);
    int (*claim)(void *ctx, const char *name, struct err *err);
    void (*unclaim)(void *ctx);
    void (*adopt)(void *ctx, struct machine *machine);
    void (*arrived)(void *ctx); /* and it runs (or is paused, as it was) */
    /* An incoming move has ended, one way or the other: what this side knows of it (move/receive_bill.c). May be
     * NULL. After arrived, where it was called. */
    void (*billed)(void *ctx, const struct bill *bill);
    /* Posts an event of the control socket; `params` is stolen. */
    void (*event)(void *ctx, const char *event, json_t *params);
};

struct move_env {
    struct machine *machine; /* NULL for one that arrives, until it is adopted */
    struct meter *meter;
    struct move_hooks hooks;
    int cancel_fd; /* eventfd: readable once hooks.order() has something to say; interrupts what waits */
    int nudge_fd; /* the same, for an order that no connection must be given up for; -1 = none */
    /* For what goes over a network: whom this host believes. Borrowed. */
    const struct trust *trust;
    bool insecure; /* connections stay plain, as a person asked for; both ends must agree */
};

/* move.progress, at most every 100 ms unless `stage` is new: see docs/control.md. */
struct move_progress {
    uint64_t began_ns, last_ns;
    enum bill_stage stage;
    uint64_t round, pages_sent, pages_left, bytes, rate_bytes_per_s, dirty_pages_per_s;
    uint64_t limit_bytes_per_s;         /* 0 = none */
    uint64_t rate_since_ns, rate_bytes; /* start of the window the rate is taken over */
};
void move_progress_report(const struct move_env *env, struct move_progress *progress,
                          enum bill_stage stage);

/* The stage of the bill that an engine's stage is; not of STAGE_NONE. */
enum bill_stage move_bill_stage(enum move_stage stage);
