/*
 * Which pages go next: one round's walk over the dirty set of a machine, shared by all who send.
 *
 * One round visits memory once in ascending page order, in stripes: pieces of memory as large as a large page, as many
 * in one as together have about a large page's worth of pages to send. A stripe is *taken* from the dirty set (clearing
 * its log, with one call) and belongs to one sender, who gets it handed out in batches and only then reads it: see
 * mem/dirty.h. Two senders never work on one large page.
 *
 * Never-touched memory, holes of the memory file, is passed over in the first round without being looked at; what the
 * guest gave back (mem/discard.h) is a hole again, and the batch says so.
 *
 * Post-copy's push is handed out the same way, but what goes next is what `serve` says (serve.h): the guest is paused,
 * and no dirty set is needed.
 *
 * Threads: page_source_take() may be called by several threads at once, each with a stripe of its own; it holds the
 * lock for no more than the taking. Everything else belongs to the one thread that begins and ends rounds.
 */
#pragma once
#include "base/err.h"
#include "mem/dirty.h"
#include "mem/mem.h"
#include "move/round_set.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PAGE_BATCH_WORDS 64

/* Pages taken: bit b of word w is page first + 64 * w + b. */
struct page_batch {
    uint64_t first; /* page index, a multiple of 64 */
    unsigned words, pages;
    uint64_t bits[PAGE_BATCH_WORDS];
    uint64_t
        free[PAGE_BATCH_WORDS]; /* of those: zeroes, and to be sent as such without being read */
};

/* What one sender has taken and not yet been handed: bits as of a batch. All zero: nothing. */
struct page_stripe {
    uint64_t first;
    unsigned words, at; /* words from `at` on may have bits left */
    uint64_t bits[PAGE_BATCH_WORDS], free[PAGE_BATCH_WORDS];
};

struct serve;

struct page_source {
    struct mem *mem;
    struct serve *serve; /* post-copy: what is still to be pushed; NULL in a round; borrowed */
    struct dirty *dirty;
    pthread_mutex_t lock;
    bool skip_untouched;                 /* this round still meets never-touched memory */
    uint64_t next;                       /* no stripe was taken from here on; multiple of 64 */
    uint64_t touched_first, touched_end; /* the touched run at or after `next`, as last looked up */
    uint64_t untouched;                  /* pages passed over in this round */
    uint64_t untouched_free;             /* of those: given back by the guest */
    uint64_t in_stripes;                 /* pages taken, and not handed out yet */
    uint64_t told_ns;    /* CPU time of this round: finding what was never touched, or is free */
    atomic_bool stopped; /* nothing more is handed out in this round */
    _Atomic(uint64_t) passed; /* pages taken or passed over in this round */
    struct round_set *set;    /* NULL = in ascending order, straight from the dirty set; borrowed */
    uint64_t rest_first, rest; /* of the set's last word, not taken yet */
    /* Pages of the first round that were taken, and given back unsent when it was stopped, one bit a page index;
     * owned; NULL = none. */
    uint64_t *unsent;
};

void page_source_init(struct page_source *source, struct mem *mem, struct dirty *dirty);
void page_source_fini(struct page_source *source);

/* Begins a round over what dirty_fetch() found. `first`: nothing was sent yet. `set`: the round's pages, begun, or
 * NULL for all that is pending, in ascending order. Nobody takes meanwhile. */
void page_source_begin(struct page_source *source, bool first, struct round_set *set);

/* In place of init and begin: hands out what `serve` has yet to send. */
void page_source_serve(struct page_source *source, struct mem *mem, struct serve *serve);

/* Ends the round early: what is not taken yet stays pending. Takers may be at work. */
void page_source_stop(struct page_source *source);

/* Of a round under way that has no set: the pages handed out so far, and those that would be left to send if it were
 * stopped now, with what the guest has written meanwhile. Of never-touched memory nothing counts. Takers may be at
 * work. */
int page_source_look(struct page_source *source, uint64_t *ret_out, uint64_t *ret_left) MUST_CHECK;

/* Pages from this one on were never taken nor passed over in the round. Nobody takes meanwhile. */
uint64_t page_source_visited(const struct page_source *source);

/* Takes the next pages, at most `room` (1 or more) of them; ret->pages == 0: nothing is left in this round. Whoever
 * stops asking before that loses what `stripe` still holds. */
int page_source_take(struct page_source *source, struct page_stripe *stripe, unsigned room,
                     struct page_batch *ret) MUST_CHECK;

/* Whether all that was taken was handed out. */
bool page_stripe_done(const struct page_stripe *stripe);
