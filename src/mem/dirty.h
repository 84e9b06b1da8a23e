/*
 * Dirty tracking of a running machine: KVM's dirty log for what vCPUs write, mem_mark() for what the
 * monitor writes, joined in one set of pages still to be sent, by page index.
 *
 * The protocol that loses no page: a chunk is *taken* (removed from the set, and its log cleared, so
 * that later writes are logged anew) and only then read. A page written between is sent with the new
 * bytes and again next time; never less.
 *
 * Why the bitmap and not the dirty ring: measured, the two cost the same in bulk, and the bitmap never
 * stops a vCPU because a ring is full (docs/decisions/dirty-log.md).
 *
 * Threads: one mover thread uses a `struct dirty`; vCPUs and devices run on meanwhile.
 */
#pragma once
#include "kvm/hv.h"
#include "mem/mem.h"

struct dirty {
    struct mem *mem;
    struct hv *hv;
    uint64_t words;
    uint64_t *pending;        /* pages to be sent, one bit a page index */
    uint64_t *fetched;        /* scratch for one fetch */
    _Atomic(uint64_t) *marks; /* published as mem->marks while tracking */
};

/* Starts tracking: at first every page is pending. */
int dirty_start(struct dirty *dirty, struct mem *mem, struct hv *hv) MUST_CHECK;

/* Stops tracking and frees; harmless when never started. Takes milliseconds a GiB: keep it out of the
 * pause. */
void dirty_stop(struct dirty *dirty);

/* Adds what was written since to the pending set, and returns how many pages are in it. */
int dirty_fetch(struct dirty *dirty, uint64_t *ret_pages) MUST_CHECK;

/* Takes the pending pages of [first, first + 64 * words): their bits go to `bits`, the log of just
 * these pages is cleared. `first` is a multiple of 64 and the range lies within one region. */
int dirty_take(struct dirty *dirty, uint64_t first, unsigned words, uint64_t *bits) MUST_CHECK;

/* The first multiple of 64 at or after `from` whose 64 pages hold a pending one, or mem->pages. */
uint64_t dirty_next(const struct dirty *dirty, uint64_t from);
