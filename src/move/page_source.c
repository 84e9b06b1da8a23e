#include "move/page_source.h"
#include "base/compiler.h"
#include "mem/discard.h"
#include "move/serve.h"

#include <errno.h>

#define HOLE_WORDS 1024 /* passed over at a time where memory was never touched: 64 Ki pages */

void page_source_init(struct page_source *source, struct mem *mem, struct dirty *dirty)
{
    *source = (struct page_source){ .mem = mem, .dirty = dirty };
    (void)pthread_mutex_init(&source->lock, NULL); /* cannot fail with default attributes */
}

void page_source_serve(struct page_source *source, struct mem *mem, struct serve *serve)
{
    page_source_init(source, mem, NULL);
    source->serve = serve;
}

void page_source_fini(struct page_source *source)
{
    if (source->mem)
        (void)pthread_mutex_destroy(&source->lock);
    *source = (struct page_source){ 0 };
}

void page_source_begin(struct page_source *source, bool first, struct round_set *set)
{
    source->skip_untouched = first;
    source->next = 0;
    source->touched_first = source->touched_end = 0;
    source->set = set;
    source->rest = 0;
    source->in_part = false;
    source->stopped = false;
    source->untouched = set ? set->untouched : 0;
    source->untouched_free = set ? set->untouched_free : 0;
    source->passed = source->untouched;
}

void page_source_stop(struct page_source *source)
{
    (void)pthread_mutex_lock(&source->lock);
    source->stopped = true;
    if (source->set && source->rest)
        source->dirty->pending[source->rest_first / 64] |= source->rest;
    source->rest = 0;
    if (source->set)
        round_set_give_back(source->set);
    (void)pthread_mutex_unlock(&source->lock);
}

uint64_t page_source_visited(const struct page_source *source)
{
    if (source->set) /* all of it was taken, or looked at, as the round began */
        return source->mem->pages;
    return MIN(source->next + (source->in_part ? 64 : 0), source->mem->pages);
}

/* Finds the touched run that ends behind `page`; afterwards page < touched_end. */
static int look_up_touched(struct page_source *source, uint64_t page)
{
    if (page < source->touched_end)
        return 0;
    int rc = mem_next_touched(source->mem, page, &source->touched_first, &source->touched_end);
    if (rc == -ENXIO) {
        source->touched_first = source->touched_end = source->mem->pages;
        rc = 0;
    }
    return rc;
}

/* Of never-touched pages the guest may have given back some itself. */
static void pass_untouched(struct page_source *source, uint64_t first, uint64_t bits)
{
    uint64_t pages = (uint64_t)__builtin_popcountll(bits);
    source->untouched += pages;
    source->untouched_free +=
        (uint64_t)__builtin_popcountll(mem_freed_among(source->mem, first, bits));
    atomic_fetch_add_explicit(&source->passed, pages, memory_order_relaxed);
}

static uint64_t region_end(const struct mem *mem, uint64_t page)
{
    const struct mem_region *r = &mem->region[0];
    if (mem->region_count > 1 && page >= mem->region[1].page_index)
        r = &mem->region[1];
    return r->page_index + r->bytes / PAGE_BYTES;
}

/* Passes over never-touched memory: its log is cleared first, so a page touched from now on will be
 * logged; then what was touched before is looked for. *ret_words: how many words were wholly untouched. */
static int pass_hole(struct page_source *source, unsigned *ret_words)
{
    uint64_t bits[HOLE_WORDS];
    uint64_t limit = MIN(region_end(source->mem, source->next), source->next + HOLE_WORDS * 64);

    *ret_words = 0;
    int rc = look_up_touched(source, source->next);
    if (rc)
        return rc;
    uint64_t end = MIN(limit, source->touched_first) & ~UINT64_C(63);
    if (end <= source->next)
        return 0;
    unsigned words = (unsigned)((end - source->next) / 64);
    rc = dirty_take(source->dirty, source->next, words, bits);
    if (rc)
        return rc;
    /* Look again now that the log is clear: what was touched in between must be sent after all. */
    source->touched_end = source->touched_first = 0;
    rc = look_up_touched(source, source->next);
    if (rc)
        return rc;
    uint64_t still = MIN(end, source->touched_first) & ~UINT64_C(63);
    *ret_words = (unsigned)((still - source->next) / 64);
    for (unsigned w = 0; w < words; w++) {
        if (w < *ret_words)
            pass_untouched(source, source->next + w * UINT64_C(64), bits[w]);
        else
            source->dirty->pending[source->next / 64 + w] |=
                bits[w]; /* back to be taken one by one */
    }
    return 0;
}

/* Leaves out of one word just taken what was never touched. */
static int drop_untouched(struct page_source *source, uint64_t first, uint64_t *bits)
{
    /* "Touched" stays true until the guest gives the page back, which marks it; "not touched" must be asked
     * again after the log was cleared, or a page touched in between would be neither sent nor logged. */
    if (first >= source->touched_first && first + 64 <= source->touched_end)
        return 0;
    source->touched_end = 0;
    for (uint64_t left = *bits; left; left &= left - 1) {
        uint64_t page = first + (uint64_t)__builtin_ctzll(left);
        int rc = look_up_touched(source, page);
        if (rc)
            return rc;
        if (page < source->touched_first)
            *bits &= ~(left & -left);
    }
    return 0;
}

/* How many words from `next` on have no more than `room` pages together. */
static unsigned words_for(const struct page_source *source, unsigned room)
{
    uint64_t most = (region_end(source->mem, source->next) - source->next) / 64;
    unsigned words = 0, pages = 0;
    if (source->skip_untouched)
        most = 1;
    for (; words < MIN(most, (uint64_t)PAGE_BATCH_WORDS); words++) {
        pages += (unsigned)__builtin_popcountll(source->dirty->pending[source->next / 64 + words]);
        if (pages > room)
            break;
    }
    return words;
}

/* Gives back what is too much of one word just taken: the log knows it as sent, so it must stay pending. */
static void give_back(struct page_source *source, struct page_batch *batch, unsigned room)
{
    uint64_t kept = 0, left = batch->bits[0];
    for (unsigned i = 0; i < room && left; i++, left &= left - 1)
        kept |= left & -left;
    if (!left)
        return;
    source->dirty->pending[batch->first / 64] |= left;
    batch->bits[0] = kept;
    source->next = batch->first;
    source->in_part = true;
}

/* What the guest gave back before its log was cleared, and did not touch since, is known to be zero. */
static void find_free(struct page_source *source, struct page_batch *batch)
{
    for (unsigned w = 0; w < batch->words; w++)
        batch->free[w] =
            mem_freed_holes(source->mem, batch->first + w * UINT64_C(64), batch->bits[w]);
}

static int take_words(struct page_source *source, unsigned room, struct page_batch *batch)
{
    source->in_part = false;
    int rc = dirty_take(source->dirty, batch->first, batch->words, batch->bits);
    if (!rc && batch->words == 1)
        give_back(source, batch, room);
    if (!rc && source->skip_untouched) {
        uint64_t taken = batch->bits[0];
        rc = drop_untouched(source, batch->first, &batch->bits[0]);
        pass_untouched(source, batch->first, taken & ~batch->bits[0]);
        batch->free[0] = 0; /* its holes count as never touched */
    } else if (!rc) {
        find_free(source, batch);
    }
    for (unsigned w = 0; w < batch->words; w++)
        batch->pages += (unsigned)__builtin_popcountll(batch->bits[w]);
    atomic_fetch_add_explicit(&source->passed, batch->pages, memory_order_relaxed);
    return rc;
}

/* One word of the set, or what was left of it: words come in no order. */
static int take_from_set(struct page_source *source, unsigned room, struct page_batch *batch)
{
    int rc = source->rest ? 0 : round_set_next(source->set, &source->rest_first, &source->rest);
    *batch = (struct page_batch){ .first = source->rest_first, .words = 1 };
    for (; !rc && source->rest && batch->pages < room; batch->pages++) {
        batch->bits[0] |= source->rest & -source->rest;
        source->rest &= source->rest - 1;
    }
    if (!rc)
        find_free(source, batch);
    atomic_fetch_add_explicit(&source->passed, batch->pages, memory_order_relaxed);
    return rc;
}

static int take(struct page_source *source, unsigned room, bool some, struct page_batch *batch)
{
    batch->pages = 0;
    if (source->stopped)
        return 0;
    if (source->serve) {
        serve_take(source->serve, room, batch);
        find_free(source, batch);
        return 0;
    }
    if (source->set)
        return take_from_set(source, room, batch);
    while (batch->pages == 0) {
        source->next = dirty_next(source->dirty, source->next);
        if (source->next >= source->mem->pages)
            return 0;
        if (source->skip_untouched) {
            unsigned words;
            int rc = pass_hole(source, &words);
            if (rc)
                return rc;
            source->next += (uint64_t)words * 64;
            if (words)
                continue;
        }
        batch->first = source->next;
        batch->words = words_for(source, room);
        if (batch->words == 0 && !some)
            return 0;
        batch->words = MAX(batch->words, 1u); /* part of one, then */
        source->next += (uint64_t)batch->words * 64;
        int rc = take_words(source, room, batch);
        if (rc)
            return rc;
    }
    return 0;
}

int page_source_take(struct page_source *source, unsigned room, bool some, struct page_batch *ret)
{
    (void)pthread_mutex_lock(&source->lock);
    int rc = take(source, room, some, ret);
    (void)pthread_mutex_unlock(&source->lock);
    return rc;
}
