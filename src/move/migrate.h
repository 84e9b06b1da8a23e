/*
 * The source's side of a live migration: the pump that carries out what move/source.h decides.
 */
#pragma once
#include "move/move.h"
#include "move/packing.h"
#include "move/policy.h"
#include "move/source.h"

#define MIGRATE_LANES_AUTO UINT32_MAX
#define MIGRATE_BANDWIDTH_SAME UINT64_MAX

struct migrate_request {
    const char *target; /* HOST:PORT */
    const char *mode;   /* "auto", "pre-copy", "stop-copy" or "post-copy" */
    enum source_post_copy post_copy;
    struct policy_limits policy;
    uint64_t stall_limit_ns;
    uint32_t lanes; /* bulk connections: 1 to MOVE_LANES_MAX, 0 = none, or MIGRATE_LANES_AUTO */
    enum packing_mode packing;
    uint64_t delta_bytes; /* of pages kept to send only what changed in them; 0 = none */
    /* Bytes a second for all pages together (move/bucket.h), 0 = no limit. It may be changed during the move, by
     * any thread, and is a promise to others on the link: it holds while the guest stands still, too, unless
     * bandwidth_paused says otherwise. */
    const _Atomic(uint64_t) *bandwidth;
    uint64_t bandwidth_paused; /* MIGRATE_BANDWIDTH_SAME, or a limit of its own for that time */
    bool paused;               /* the user paused the guest: it arrives paused */
};

/* What `mode` and `post_copy` together come to. */
enum source_post_copy migrate_post_copy(const struct migrate_request *request);
enum move_mode migrate_mode(const struct migrate_request *request);

enum migrate_outcome {
    MIGRATE_STAYED = 1, /* it failed; the guest goes on here, as before */
    MIGRATE_MOVED,      /* it is the target's and never runs again here */
    MIGRATE_LEFT_UNCERTAIN, /* the process was told to end before it could know: the record says HANDED */
};

/* Blocks until the outcome is certain: while it is not (the answer to the commitment was lost), the guest
 * stands still, vm.state events say `uncertain`, and the target is asked again and again. In post-copy it blocks until
 * the target has all memory (`serving`, or `stranded` while the connection is lost). Returns 0 when MOVED, else -errno
 * with the reason in err; MOVED with an error: post-copy lost the guest after the switch. The bill is complete in either case. */
int migrate_run(const struct move_env *env, const struct migrate_request *request,
                struct bill *bill, enum migrate_outcome *ret, struct err *err) MUST_CHECK;
