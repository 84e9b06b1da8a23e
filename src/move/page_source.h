/*
 * Where pages come from: turns the dirty set of a machine into page sections, for a socket or a file.
 *
 * One round visits memory once in ascending page order. Each fill takes a chunk from the dirty set
 * (clearing its log), and only then reads it: see mem/dirty.h. Classes:
 *     never touched   not even looked at: the memfd has a hole there (first round only)
 *     free            given back by the guest (mem/discard.h): not looked at either; travels as a range of
 *                     zeroes, in the first round not at all
 *     zero            travels as a range
 *     data            copied out, checksummed in the copy, so that a guest writing meanwhile cannot
 *                     make the checksum lie
 *
 * The format of a section's body is in state/pages.h. One thread.
 */
#pragma once
#include "base/err.h"
#include "mem/dirty.h"
#include "mem/mem.h"
#include "move/round_set.h"
#include <stdbool.h>
#include <stdint.h>

struct page_count {
    uint64_t untouched, free, zero, data; /* pages; all but the untouched ones travelled */
    uint64_t untouched_free;              /* of the untouched: given back by the guest */
    uint64_t zero_runs;                   /* table entries the zero and free pages took */
    uint64_t bytes;                       /* of sections, heads included */
};

struct page_source {
    struct mem *mem;
    struct dirty *dirty;
    bool skip_untouched;                 /* this round still meets never-touched memory */
    uint64_t next;                       /* page index, multiple of 64 */
    uint64_t touched_first, touched_end; /* the touched run at or after `next`, as last looked up */
    struct round_set *set;   /* NULL = in ascending order, straight from the dirty set; borrowed */
    uint8_t *section;        /* head and body under construction; owned */
    struct page_count round; /* of the current or last round */
};

int page_source_init(struct page_source *source, struct mem *mem, struct dirty *dirty) MUST_CHECK;
void page_source_fini(struct page_source *source);

/* Begins a round over what dirty_fetch() found. `first`: nothing was sent yet. `set`: the round's pages, begun, or
 * NULL for all that is pending, in ascending order. */
void page_source_begin(struct page_source *source, bool first, struct round_set *set);

/* Makes the next section: *ret points to `*ret_len` bytes, valid until the next call; length 0 = the
 * round is complete. Bounded work: at most PAGES_DATA_MAX pages are copied, 64 Ki pages passed over. */
int page_source_fill(struct page_source *source, const uint8_t **ret, size_t *ret_len) MUST_CHECK;
