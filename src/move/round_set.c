#include "move/round_set.h"
#include "mem/discard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TAKE_WORDS UINT64_C(1024) /* cleared at a time: bounds how long KVM holds its lock */
#define PEEK_WORDS 16 /* words with something in them between two peeks: at most 4 MiB */

int round_set_init(struct round_set *set, struct mem *mem, struct dirty *dirty)
{
    *set = (struct round_set){ .mem = mem, .dirty = dirty, .words = mem->pages / 64 };
    set->todo = calloc(MAX(set->words, UINT64_C(1)), sizeof(*set->todo));
    return set->todo ? 0 : -ENOMEM;
}

void round_set_fini(struct round_set *set)
{
    free(set->todo);
    *set = (struct round_set){ 0 };
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Every word once: offset + i x step, where step has no divisor in common with their number and is near
 * the golden section of it, so that words visited after one another lie far apart. */
static void choose_order(struct round_set *set, uint64_t seed)
{
    uint64_t words = MAX(set->words, UINT64_C(1));
    set->offset = seed % words;
    set->step = MAX(words / 1000 * 618 + seed / words % 64, UINT64_C(1));
    while (common_divisor(set->step, words) != 1)
        set->step++;
    set->at = 0;
}

static int take_all(struct round_set *set)
{
    for (unsigned i = 0; i < set->mem->region_count; i++) {
        const struct mem_region *r = &set->mem->region[i];
        uint64_t end = r->page_index + r->bytes / PAGE_BYTES;
        for (uint64_t page = r->page_index; page < end; page += TAKE_WORDS * 64) {
            uint64_t words = MIN((end - page) / 64, TAKE_WORDS);
            int rc = dirty_take(set->dirty, page, (unsigned)words, set->todo + page / 64);
            if (rc)
                return rc;
        }
    }
    return 0;
}

static void drop(struct round_set *set, uint64_t first, uint64_t end)
{
    for (uint64_t page = first; page < end; page++) {
        uint64_t bit = UINT64_C(1) << (page % 64);
        set->untouched += !!(set->todo[page / 64] & bit);
        set->untouched_free += !!mem_freed_among(set->mem, page, set->todo[page / 64] & bit);
        set->todo[page / 64] &= ~bit;
    }
}

/* The log has been cleared: a page that is touched from now on shows in it. */
static int drop_untouched(struct round_set *set)
{
    uint64_t at = 0, first, end;
    while (at < set->mem->pages) {
        int rc = mem_next_touched(set->mem, at, &first, &end);
        if (rc == -ENXIO)
            first = end = set->mem->pages;
        else if (rc)
            return rc;
        drop(set, at, MAX(first, at));
        at = end;
    }
    return 0;
}

int round_set_begin(struct round_set *set, bool first, uint64_t seed)
{
    choose_order(set, seed);
    set->since_peek = 0;
    set->skipped = set->untouched = set->untouched_free = 0;
    int rc = take_all(set);
    return rc || !first ? rc : drop_untouched(set);
}

int round_set_next(struct round_set *set, uint64_t *ret_first, uint64_t *ret_bits)
{
    *ret_bits = 0;
    while (set->at < set->words) {
        __extension__ unsigned __int128 far = (unsigned __int128)set->at++ * set->step;
        uint64_t word = (uint64_t)((far + set->offset) % set->words);
        if (set->todo[word] == 0)
            continue;
        if (set->since_peek++ % PEEK_WORDS == 0) {
            uint64_t pages;
            int rc = dirty_fetch(set->dirty, &pages);
            if (rc)
                return rc;
        }
        uint64_t again = set->todo[word] & set->dirty->pending[word];
        set->skipped += (uint64_t)__builtin_popcountll(again);
        *ret_bits = set->todo[word] & ~again;
        set->todo[word] = 0;
        *ret_first = word * 64;
        if (*ret_bits)
            return 0;
    }
    return 0;
}

void round_set_give_back(struct round_set *set)
{
    for (uint64_t word = 0; word < set->words; word++)
        set->dirty->pending[word] |= set->todo[word];
    memset(set->todo, 0, set->words * sizeof(*set->todo));
}
