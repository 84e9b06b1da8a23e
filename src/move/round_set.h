/*
 * The pages of a round after Clark et al. (NSDI 2005), section 5.4: the set is fixed when the round
 * begins, gone through in pseudo-random order, and what was written again meanwhile is left out.
 *
 * At the beginning every pending page is taken from the dirty set at once (mem/dirty.h), so that what is
 * pending from then on was written within the round. The set is then gone through in words of 64 pages, in
 * an order in which neighbours are far apart: writes come in clusters, and one that has begun would
 * otherwise be met in its middle. Every so often the log is peeked at, and pages written again stay
 * pending for the next round. (The paper's order is by page; within 256 KiB ours is not, so that a section
 * of the stream holds more than one page.)
 *
 * One thread.
 */
#pragma once
#include "mem/dirty.h"

struct round_set {
    struct mem *mem;
    struct dirty *dirty;
    uint64_t *todo; /* pages of this round, one bit a page index */
    uint64_t words, at, step, offset;
    unsigned since_peek;
    uint64_t skipped, untouched; /* pages of this round left out, and why */
    uint64_t untouched_free;     /* of the untouched: given back by the guest */
};

int round_set_init(struct round_set *set, struct mem *mem, struct dirty *dirty) MUST_CHECK;
void round_set_fini(struct round_set *set);

/* Takes all that is pending as this round's pages; `first`: without what was never touched. */
int round_set_begin(struct round_set *set, bool first, uint64_t seed) MUST_CHECK;

/* The next 64 pages with something to send: bit b of *ret_bits is page *ret_first + b. *ret_bits 0: the round
 * is complete. */
int round_set_next(struct round_set *set, uint64_t *ret_first, uint64_t *ret_bits) MUST_CHECK;

/* Ends the round early: what it has not come to is pending again. */
void round_set_give_back(struct round_set *set);
