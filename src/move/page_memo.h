/*
 * What was sent before, so that less need be sent again: a hash of each page as last sent, and (if room is given)
 * some whole pages, to send what changed in them only. Kept from the second round on: most pages are sent once.
 *
 * The hash is XXH3-64 with a seed made for the move. A page that changed is taken for unchanged with a chance of 1
 * in 2^64 a comparison; a guest that could find such pairs on purpose, without the seed, would spoil nobody's
 * memory but its own. It costs 8 bytes a page that is sent again. The 16 bytes of XXH3-128 would buy nothing but a
 * smaller number.
 *
 * Pages are kept in a table of one place each, index modulo size; whoever was used in this round or the last stays.
 *
 * Threads: page_memo_*() of different pages at once; page_memo_begin() by nobody else meanwhile.
 */
#pragma once
#include "base/compiler.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PAGE_MEMO_LOCKS 64

struct page_memo_place;

struct page_memo {
    uint64_t pages; /* of the guest */
    uint64_t seed;
    uint32_t round;
    uint64_t *hash; /* as last sent; 0 = not known. NULL until the second round */
    uint64_t place_count;
    struct page_memo_place *place;
    uint8_t *kept; /* place_count pages */
    pthread_mutex_t lock[PAGE_MEMO_LOCKS];
};

/* `keep_bytes`: for whole pages; 0 = none. Nothing is allocated yet. */
void page_memo_init(struct page_memo *memo, uint64_t pages, uint64_t keep_bytes, uint64_t seed);
void page_memo_fini(struct page_memo *memo);

/* Before each round. Without memory it remembers less, and that is all. */
void page_memo_begin(struct page_memo *memo, uint32_t round);

/* Whether `bytes` are what was last sent of the page; from now on they are. */
bool page_memo_same(struct page_memo *memo, uint64_t page, const uint8_t *bytes);

/* The page is being sent as zeros. */
void page_memo_zero(struct page_memo *memo, uint64_t page);

/* The delta from the version last sent to `bytes`, which is now the last, into out[PAGES_DELTA_MAX]: its length;
 * -ENOENT = that version was not kept; -ENOSPC = too much differs. */
int page_memo_delta(struct page_memo *memo, uint64_t page, const uint8_t *bytes, uint8_t *out);
