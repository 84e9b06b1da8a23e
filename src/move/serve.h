/*
 * The source's side of post-copy: a paused guest's memory, handed out page by page.
 *
 * One bit a page says that it is still to be sent. Whoever sends a page, the thread that answers requests on the
 * urgent lane or the mover that pushes the rest, first takes the bit, atomically: so no page is sent twice, and
 * a request for one that is under way needs no answer.
 *
 *     urgent lane:  request -> take the bit -> reply            a thread of its own; it never waits for the push
 *     push:         the pages nearest to the last request first, outwards in both directions; whoever sends them gets
 *                   them through a page_source (page_source.h), and may be several
 *
 * What is answered is never held back, but counts against the limit of what is pushed.
 *
 * Threads: everything here is called by the mover, but serve_take(); the answering thread is inside.
 */
#pragma once
#include "cost/meter.h"
#include "mem/dirty.h"
#include "mem/mem.h"
#include "mem/zero.h"
#include "move/bucket.h"
#include "move/wire.h"
#include <pthread.h>
#include <stdatomic.h>

struct page_batch;

struct serve {
    struct mem *mem;
    struct meter *meter;
    struct bucket *bucket; /* the limit of what is pushed; borrowed */
    uint64_t words;
    _Atomic(uint64_t) *unsent; /* one bit a page index */
    uint64_t *again; /* pages that were sent before: in a round, or on a connection that was lost */

    uint64_t *told; /* what the target says it lacks, while its list comes in */
    uint64_t told_next, told_pages;

    struct wire lane; /* the answering thread's while it runs */
    pthread_t thread;
    bool open;
    int stop_fd;                                   /* eventfd: ends the thread */
    int lost_fd;                                   /* eventfd: readable once the lane has failed */
    struct err lost;                               /* why; written before lost_fd */
    uint64_t wire_sent_bytes, wire_received_bytes; /* of lanes that were closed; 0 = plain */
    _Atomic(uint64_t) hot;                         /* the last page asked for */
    _Atomic(uint64_t) asked_ns;                    /* and when */
    _Atomic(uint64_t) answered_data, answered_zero, answered_data_again, answered_zero_again, late;

    /* serve_take()'s. Words: [down, up) was passed on the way outwards from hot_seen. */
    uint64_t hot_seen, up, down;
    mem_zero_fn *is_zero;
};

/* Nothing is to be sent yet. -ENOMEM, -errno. */
int serve_init(struct serve *serve, struct mem *mem, struct meter *meter,
               struct bucket *bucket) MUST_CHECK;
void serve_fini(struct serve *serve);

/* What is to be sent from now on, in place of what was. The guest must be paused. */
void serve_set(struct serve *serve, const uint64_t *set);

struct serve_listed {
    uint64_t pages; /* named */
    /* Of those that no round came to: left out as never touched, zero at both sides; and of these, how many the
     * guest had given back. */
    uint64_t untouched, untouched_free;
    uint64_t told_ns; /* CPU time: finding those */
};

/* Makes the list, and appends it to `out` as ABSENT sections. Of a paused guest: what is pending in `dirty` (NULL:
 * everything), but pages from `visited` on, which no round ever came to, only where they were touched. `unsent`: pages
 * below `visited` that never went, one bit a page index; NULL: none. */
int serve_list(struct serve *serve, const struct dirty *dirty, uint64_t visited,
               const uint64_t *unsent, struct buf *out, struct serve_listed *ret) MUST_CHECK;

/* Receives an ABSENT section of the target's own list; the first after serve_told_again() begins a new one. */
int serve_told(struct serve *serve, struct link *link, const struct section *section,
               struct err *err) MUST_CHECK;
void serve_told_again(struct serve *serve);
/* The list is complete, and has so many pages: they are what is to be sent. */
int serve_use_told(struct serve *serve, uint64_t pages, struct err *err) MUST_CHECK;

uint64_t serve_left(const struct serve *serve);

/* Answers requests on `lane` (taken over) from now on. */
int serve_open(struct serve *serve, struct wire *lane) MUST_CHECK;

/* Ends answering and closes the lane; harmless when there is none. */
void serve_close(struct serve *serve);

/* Takes the next pages that are to be pushed, at most `room` of them, for page_source_take(), under whose lock it runs;
 * ret->pages == 0: none is left. `free` of *ret is the caller's to fill. */
void serve_take(struct serve *serve, unsigned room, struct page_batch *ret);
