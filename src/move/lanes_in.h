/*
 * The target's bulk lanes: connections on which nothing but pages comes, each served by a thread of its own
 * that receives, checks and writes them.
 *
 * A section of pages belongs to the round its head names. Of the round after the present one it waits until
 * the pump has heard of that round; of any other it is an error, as are more pages in a round than the guest
 * has. A round is complete when as many pages as ROUND_DONE says have been written by all connections; from
 * then on it is closed, and no lane's thread touches guest memory until the next begins.
 *
 * Post-copy. After lanes_in_push() what comes is pushed: of no round, and placed by `pull` as it comes.
 *
 * A lane that fails, or ends while rounds may still come, fails all; the first failure is kept for the pump.
 *
 * Threads: everything here is called by the pump's thread.
 */
#pragma once
#include "cost/meter.h"
#include "move/page_sink.h"
#include "move/pull.h"
#include "move/wire.h"
#include <pthread.h>
#include <stdatomic.h>

struct lane_in {
    struct lanes_in *set;
    struct wire wire;
    struct page_slot slot;
    pthread_t thread;
    bool used;
};

struct lanes_in {
    struct page_sink *sink; /* NULL = none are served */
    struct meter *meter;
    unsigned granted;
    uint64_t stall_limit_ns;
    int stop_fd;  /* readable: threads end */
    int event_fd; /* readable: lanes_in_failed() or lanes_in_complete() has news */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct pull *pull; /* post-copy, of what comes from now on; borrowed; NULL = rounds */
    uint32_t round;    /* the present one, or the last */
    bool open;         /* its pages may come */
    bool ending;
    uint64_t taken, written; /* pages of the present round */
    uint64_t wanted;         /* complete with so many; UINT64_MAX = not known yet */
    int failed;              /* the first -errno */
    struct err err;
    _Atomic(uint64_t) sections; /* taken, ever: a sign of life */
    struct lane_in lane[MOVE_LANES_MAX];
};

/* Before the first lane. `granted`: indexes below it may come. */
int lanes_in_init(struct lanes_in *lanes, struct page_sink *sink, struct meter *meter,
                  unsigned granted, uint64_t stall_limit_ns) MUST_CHECK;

/* Ends all lanes: when it returns no thread is left. Harmless on zeroed ones. */
void lanes_in_fini(struct lanes_in *lanes);

/* Whether a lane of that kind and index may be opened; else says why not. */
int lanes_in_admit(const struct lanes_in *lanes, const struct message_lane *lane,
                   struct err *err) MUST_CHECK;

/* Takes over an admitted connection: *wire is empty afterwards, also on failure. */
int lanes_in_take(struct lanes_in *lanes, struct wire *wire, uint32_t index,
                  struct err *err) MUST_CHECK;

/* Round `number` begins. */
void lanes_in_begin(struct lanes_in *lanes, uint32_t number);

/* Whether the lanes have written `pages` of the present round; then it is closed, and *ret_pages is what they
 * brought (more, if the source sent more). Until then event_fd tells when to ask again. */
bool lanes_in_complete(struct lanes_in *lanes, uint64_t pages, uint64_t *ret_pages);

/* No round will come any more, but what is pushed, as of round `number`. `pull` is armed, and stays so until
 * lanes_in_fini(). */
void lanes_in_push(struct lanes_in *lanes, struct pull *pull, uint32_t number);

/* No round will come any more: the end of a lane is no failure from here on. */
void lanes_in_last(struct lanes_in *lanes);

/* 0, or the first failure of a lane. */
int lanes_in_failed(struct lanes_in *lanes, struct err *err);
