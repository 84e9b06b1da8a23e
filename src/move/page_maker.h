/*
 * Makes page sections of the pages a page_source hands out, for a socket or a file. Classes:
 *     never touched   not even looked at: page_source.h
 *     zero            travels as a range
 *     data            copied out, checksummed in the copy, so that a guest writing meanwhile cannot
 *                     make the checksum lie
 *
 * The format of a section's body is in state/pages.h. One thread a maker; any number of makers a source.
 */
#pragma once
#include "move/page_source.h"

struct page_count {
    uint64_t zero, data; /* pages */
    uint64_t zero_runs;  /* table entries the zero pages took */
    uint64_t bytes;      /* of sections, heads included */
};

struct page_maker {
    struct page_source *source;
    uint16_t instance;       /* of the sections: the round's number, in a live move */
    uint32_t data_max;       /* pages of data a section, 1 to PAGES_DATA_MAX */
    uint8_t *section;        /* head and body under construction; owned */
    struct page_count count; /* since page_maker_begin() */
};

int page_maker_init(struct page_maker *maker, struct page_source *source) MUST_CHECK;
void page_maker_fini(struct page_maker *maker);

/* Before the first page_maker_fill() of a round. */
void page_maker_begin(struct page_maker *maker, uint16_t instance);

/* Makes the sections to come no longer than about so many bytes. */
void page_maker_piece(struct page_maker *maker, uint64_t bytes);

/* Makes the next section: *ret points to `*ret_len` bytes, valid until the next call; length 0 = the source
 * has nothing left in this round. Bounded work: at most PAGES_DATA_MAX pages are copied. */
int page_maker_fill(struct page_maker *maker, const uint8_t **ret, size_t *ret_len) MUST_CHECK;

void page_count_add(struct page_count *sum, const struct page_count *more);
