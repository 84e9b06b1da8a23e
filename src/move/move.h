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
#include "vm/machine.h"
#include <jansson.h>

#define MOVE_TOKEN_BYTES 16

/* Who may run the guest, as durable on this host. */
enum move_owner {
    MOVE_OWNER_HERE = 1,  /* this monitor */
    MOVE_OWNER_HANDED_OVER, /* given to the peer that holds the token: never run here again */
    MOVE_OWNER_NOT_YET,   /* a guest on its way in: not before the token is committed */
    MOVE_OWNER_MAX
};

struct move_hooks {
    void *ctx;
    int (*pause)(void *ctx, struct err *err);
    void (*resume)(void *ctx);
    /* Makes durable who owns the guest; returns only when it is. */
    int (*record)(void *ctx, enum move_owner owner, const uint8_t token[MOVE_TOKEN_BYTES], const char *peer,
                  struct err *err);
    /* For a machine that arrives. claim: takes its name on this host, before anything is promised, and
     * unclaim gives it back when the move fails; adopt: it is complete, and the monitor's from here on. */
    int (*claim)(void *ctx, const char *name, struct err *err);
    void (*unclaim)(void *ctx);
    void (*adopt)(void *ctx, struct machine *machine);
    /* Posts an event of the control socket; `params` is stolen. */
    void (*event)(void *ctx, const char *event, json_t *params);
};

struct move_env {
    struct machine *machine; /* NULL for one that arrives */
    struct meter *meter;
    struct move_hooks hooks;
    int cancel_fd; /* eventfd: readable once the user cancelled */
};

/* move.progress, at most every 100 ms unless `stage` is new: see docs/control.md. */
struct move_progress {
    uint64_t began_ns, last_ns;
    enum bill_stage stage;
    uint64_t round, pages_sent, pages_left, bytes, rate_bytes_per_s, dirty_pages_per_s;
    uint64_t rate_since_ns, rate_bytes; /* start of the window the rate is taken over */
};
void move_progress_report(const struct move_env *env, struct move_progress *progress, enum bill_stage stage);
