/*
 * The target's side of post-copy: a guest that runs while parts of its memory are still at the source.
 *
 *     vCPU, device, KVM --touches a missing page, sleeps--> userfaultfd
 *     fault thread:   reads the fault -> request on the urgent lane ... reply -> places the page, wakes
 *     mover, lanes:   PAGES sections of the push -> place them
 *
 * One bit a page says that it is missing. It is cleared only after the page is in its place: until then a fault on
 * it is the source's to answer; afterwards it is a page like any other. A fault on a page that was never missing
 * (a hole: nobody ever touched it at the source) is answered here, with zeroes.
 *
 *     pull_new -> pull_absent... -> pull_arm -> [state is loaded] -> pull_loaded -> [the guest runs]
 *                                                            pull_attach <-> pull_detach: lanes come and go
 *              -> left == 0 -> pull_finish -> pull_free            nothing was lost
 *              -> pull_abandon                                     the guest never ran, and never will
 *
 * Loading the state touches memory too, on the mover's thread, which therefore must not be the one that fetches.
 * And if the source is lost then, somebody must let it go on: until pull_loaded() the fault thread answers with
 * zeroes once the lane is gone or silent, and pull_loaded() fails. Afterwards it never makes anything up.
 *
 * Threads: everything here is called by the mover, pull_place() by any thread between pull_arm() and pull_finish() or
 * pull_abandon(); the fault thread is inside.
 */
#pragma once
#include "cost/meter.h"
#include "mem/uffd.h"
#include "move/message.h"
#include "move/wire.h"
#include "state/pages.h"
#include <pthread.h>
#include <stdatomic.h>

#define PULL_WAITING_MAX \
    128 /* pages waited for whose wait is timed: more than there are vCPUs and queues */
#define PULL_TIMES 320 /* eight for each power of two of nanoseconds */

struct pull_waiting {
    uint64_t page, since_ns;
};

struct pull {
    struct mem *mem;
    struct meter *meter;
    struct uffd uffd;
    uint64_t words, next_absent;
    _Atomic(uint64_t) *missing; /* one bit a page index */
    _Atomic(uint64_t) *wanted;  /* of those: somebody waits, and the source was or will be asked */
    _Atomic(uint64_t) left;     /* missing pages */
    uint64_t absent;            /* missing pages at the beginning */

    struct wire lane; /* the fault thread's while it runs; fd -1 = none */
    pthread_t thread;
    bool running, armed;
    atomic_bool loading, doomed;
    uint64_t doom_after_ns; /* while loading: how long the source may take to answer */
    int stop_fd;            /* eventfd: ends the fault thread */
    int event_fd; /* eventfd: readable when left == 0, the lane was lost, or placing failed */
    atomic_bool lane_lost;
    _Atomic(int) failed; /* -errno of placing: the guest cannot go on */

    pthread_mutex_t lock; /* of what follows; held for a few instructions */
    struct pull_waiting waiting[PULL_WAITING_MAX];
    unsigned waiting_count;
    uint64_t faults, requested, pushed, duplicates, interrupted, stranded_ns, stranded_since_ns;
    uint64_t max_ns, times[PULL_TIMES];
};

/* NULL: out of memory. `doom_after_ns`: see above. */
struct pull *pull_new(struct mem *mem, struct meter *meter, uint64_t doom_after_ns);

/* Notes what a SECTION_ABSENT's body names as missing, and drops what stale bytes there are of it. Before
 * pull_arm(). *ret_count: how many pages. */
int pull_absent(struct pull *pull, const uint8_t *body, uint32_t length, uint64_t *ret_count,
                struct err *err) MUST_CHECK;

/* From here on nobody gets at a missing page before it is in its place. */
int pull_arm(struct pull *pull, struct err *err) MUST_CHECK;

/* The state has been loaded: whether with the guest's own memory. */
int pull_loaded(struct pull *pull, struct err *err) MUST_CHECK;

/* `lane` (taken over) is asked for what is wanted from now on. */
int pull_attach(struct pull *pull, struct wire *lane, struct err *err) MUST_CHECK;

/* Closes the lane, if there is one: nothing of it is placed any more. */
void pull_detach(struct pull *pull);

/* Places a pushed PAGES section, received and checked (page_sink.h), `data` unpacked. An error of this host also
 * shows at event_fd: the guest cannot go on. */
int pull_place(struct pull *pull, const struct pages_body *body, const uint8_t *data,
               struct err *err) MUST_CHECK;

/* Says on `wire` what is missing: sections ABSENT, message PULL. No lane is attached. */
int pull_tell(struct pull *pull, struct wire *wire, const uint8_t token[MOVE_TOKEN_BYTES],
              struct err *err) MUST_CHECK;

uint64_t pull_left(const struct pull *pull);

/* Without a connection, and with one again: for the account. */
void pull_stranded(struct pull *pull, bool stranded);
void pull_account(struct pull *pull, struct message_pulled *ret);

/* Nothing is missing any more: memory is as if it had always been here. The lane is the caller's to close, once the
 * source knows: before, it would take that for a loss. */
void pull_finish(struct pull *pull, struct wire *ret_lane);
/* The guest never ran here. */
void pull_abandon(struct pull *pull);
/* After either. */
void pull_free(struct pull *pull);
