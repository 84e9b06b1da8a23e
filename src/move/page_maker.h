/*
 * Makes page sections of the pages a page_source hands out, for a socket or a file. Classes:
 *     never touched   not even looked at: page_source.h
 *     free            given back by the guest (mem/discard.h): not looked at either; travels as a range of zeroes,
 *                     in the first round not at all
 *     zero            travels as a range
 *     same            as last sent: does not travel (page_memo.h; from the second round on)
 *     delta           little changed since it was last sent: only that travels (page_memo.h, if given room)
 *     data            copied out, checksummed in the copy, so that a guest writing meanwhile cannot
 *                     make the checksum lie
 * and the data of a section may be packed as a whole (packing.h).
 *
 * The format of a section's body is in state/pages.h. One thread a maker; any number of makers a source.
 */
#pragma once
#include "mem/zero.h"
#include "move/packing.h"
#include "move/page_memo.h"
#include "move/page_source.h"

struct page_count {
    uint64_t zero, same, delta, data; /* pages; data: sent whole, packed or not */
    uint64_t free;                    /* pages given back by the guest: sent as zero, not read */
    uint64_t zero_runs;               /* table entries the zero and free pages took */
    uint64_t data_bytes;              /* of contents, deltas and packing accounted for */
    uint64_t bytes;                   /* of sections, heads included */
    uint64_t packed;                  /* pages in packed sections; they count above, too */
    uint64_t delta_saved_bytes, packed_saved_bytes;
    uint64_t zero_ns, same_ns, delta_ns, packed_ns; /* CPU time spent on telling and making */
    /* Of the above, when pushed by post-copy: pages that were sent before, and what their contents took. */
    uint64_t zero_again, free_again, data_again, data_again_bytes;
};

struct page_maker {
    struct page_source *source;
    struct page_memo *memo; /* borrowed; NULL = none */
    struct page_stripe stripe;
    struct packer packer;
    uint64_t link_rate; /* for the packer: bytes a second; 0 = not known */
    mem_zero_fn *is_zero;
    uint16_t instance;          /* of the sections: the round's number, in a live move */
    uint32_t data_max;          /* pages of data a section, 1 to PAGES_DATA_MAX */
    uint8_t *section;           /* head and body under construction; owned */
    struct page_count count;    /* since page_maker_begin() */
    uint64_t same_ns, delta_ns; /* of the batch under way, by the clock on the wall */
};

/* `memo` may be NULL; `forms`: what the reader understands beyond plain pages (packing.h). */
int page_maker_init(struct page_maker *maker, struct page_source *source, struct page_memo *memo,
                    enum packing_mode packing, unsigned forms) MUST_CHECK;
void page_maker_fini(struct page_maker *maker);

/* Before the first page_maker_fill() of a round. */
void page_maker_begin(struct page_maker *maker, uint16_t instance);

/* Makes the sections to come no longer than about so many bytes. */
void page_maker_piece(struct page_maker *maker, uint64_t bytes);

/* Makes the next section: *ret points to `*ret_len` bytes, valid until the next call; length 0 = the source
 * has nothing left in this round. Bounded work: at most PAGES_DATA_MAX pages are copied. */
int page_maker_fill(struct page_maker *maker, const uint8_t **ret, size_t *ret_len) MUST_CHECK;

/* Pages that travelled: what ROUND_DONE counts. */
uint64_t page_count_sent(const struct page_count *count);
void page_count_add(struct page_count *sum, const struct page_count *more);
