#include "move/page_source.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "mem/discard.h"
#include "move/serve.h"

#include <errno.h>
#include <stdlib.h>

#define STRIPE_WORDS (MEM_LARGE_BYTES / PAGE_BYTES / 64)
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
    free(source->unsent);
    *source = (struct page_source){ 0 };
}

void page_source_begin(struct page_source *source, bool first, struct round_set *set)
{
    source->skip_untouched = first;
    source->next = 0;
    source->touched_first = source->touched_end = 0;
    source->set = set;
    source->rest = 0;
    source->stopped = false;
    source->untouched = set ? set->untouched : 0;
    source->untouched_free = set ? set->untouched_free : 0;
    source->in_stripes = 0;
    source->told_ns = 0;
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

static uint64_t count_pending(const struct dirty *dirty, uint64_t from, uint64_t to)
{
    uint64_t pages = 0;
    for (uint64_t w = from / 64; w < to / 64; w++)
        pages += (uint64_t)__builtin_popcountll(dirty->pending[w]);
    return pages;
}

int page_source_look(struct page_source *source, uint64_t *ret_out, uint64_t *ret_left)
{
    uint64_t all = 0;
    ASSERT(!source->set && !source->serve);
    (void)pthread_mutex_lock(&source->lock);
    int rc = dirty_fetch(source->dirty, &all);
    uint64_t at = MIN(source->next, source->mem->pages);
    uint64_t ahead = count_pending(source->dirty, at, source->mem->pages), behind = all - ahead;
    if (source->skip_untouched) {
        uint64_t touched = mem_resident_pages(source->mem), seen = at - MIN(source->untouched, at);
        ahead = MIN(ahead, touched > seen ? touched - seen : 0);
    }
    *ret_out = source->passed - source->untouched;
    *ret_left = behind + source->in_stripes + ahead;
    (void)pthread_mutex_unlock(&source->lock);
    return rc;
}

uint64_t page_source_visited(const struct page_source *source)
{
    if (source->set) /* all of it was taken, or looked at, as the round began */
        return source->mem->pages;
    return MIN(source->next, source->mem->pages);
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

/* How many words from `next` on make a stripe: whole large pages' worth of memory, or what is left of the first one. */
static unsigned words_for(const struct page_source *source)
{
    const uint64_t *pending = source->dirty->pending + source->next / 64;
    uint64_t most = MIN((region_end(source->mem, source->next) - source->next) / 64,
                        (uint64_t)PAGE_BATCH_WORDS);
    unsigned words = 0, pages = 0;
    for (unsigned end = STRIPE_WORDS - source->next / 64 % STRIPE_WORDS; words < most;
         end += STRIPE_WORDS) {
        unsigned more = 0;
        for (unsigned w = words; w < MIN(end, most); w++)
            more += (unsigned)__builtin_popcountll(pending[w]);
        if (words && pages + more > STRIPE_WORDS * 64)
            break;
        pages += more;
        words = (unsigned)MIN(end, most);
    }
    return words;
}

/* What the guest gave back before its log was cleared, and did not touch since, is known to be zero. */
static uint64_t find_free(struct page_source *source, uint64_t first, uint64_t bits)
{
    return mem_freed_holes(source->mem, first, bits);
}

/* With the log of one word cleared: leaves out what the first round has not to send, and finds what is free. */
static int sort_word(struct page_source *source, struct page_stripe *stripe, unsigned w)
{
    uint64_t first = stripe->first + w * UINT64_C(64), taken = stripe->bits[w];
    if (!source->skip_untouched) {
        stripe->free[w] = find_free(source, first, taken);
        return 0;
    }
    int rc = drop_untouched(source, first, &stripe->bits[w]);
    pass_untouched(source, first, taken & ~stripe->bits[w]);
    stripe->free[w] = 0; /* its holes count as never touched */
    return rc;
}

/* Moves `next` on to a word with something to send, or to the end. */
static int find_stripe(struct page_source *source)
{
    for (;;) {
        source->next = dirty_next(source->dirty, source->next);
        if (!source->skip_untouched || source->next >= source->mem->pages)
            return 0;
        unsigned words;
        int rc = pass_hole(source, &words);
        if (rc || words == 0)
            return rc;
        source->next += words * UINT64_C(64);
    }
}

/* Takes the next stripe; words 0: nothing is left in this round. */
static int take_stripe(struct page_source *source, struct page_stripe *stripe)
{
    uint64_t began_ns = clock_thread_cpu_ns();
    stripe->words = stripe->at = 0;
    int rc = find_stripe(source);
    source->told_ns += clock_thread_cpu_ns() - began_ns;
    if (rc || source->next >= source->mem->pages)
        return rc;
    stripe->first = source->next;
    stripe->words = words_for(source);
    source->next += stripe->words * UINT64_C(64);
    rc = dirty_take(source->dirty, stripe->first, stripe->words, stripe->bits);
    began_ns = clock_thread_cpu_ns();
    for (unsigned w = 0; w < stripe->words && !rc; w++) {
        rc = sort_word(source, stripe, w);
        source->in_stripes += (uint64_t)__builtin_popcountll(stripe->bits[w]);
    }
    source->told_ns += clock_thread_cpu_ns() - began_ns;
    return rc;
}

bool page_stripe_done(const struct page_stripe *stripe)
{
    for (unsigned w = stripe->at; w < stripe->words; w++)
        if (stripe->bits[w])
            return false;
    return true;
}

/* The lowest `count` bits that are set. */
static uint64_t lowest(uint64_t bits, unsigned count)
{
    uint64_t kept = 0;
    for (; count > 0 && bits; count--, bits &= bits - 1)
        kept |= bits & -bits;
    return kept;
}

/* Moves up to `room` pages from the stripe to the batch. */
static void hand_out(struct page_stripe *stripe, unsigned room, struct page_batch *batch)
{
    while (stripe->at < stripe->words && stripe->bits[stripe->at] == 0)
        stripe->at++;
    batch->first = stripe->first + stripe->at * UINT64_C(64);
    batch->words = 0;
    for (unsigned w = stripe->at; w < stripe->words && batch->pages < room; w++) {
        uint64_t bits = lowest(stripe->bits[w], room - batch->pages);
        stripe->bits[w] &= ~bits;
        batch->bits[batch->words] = bits;
        batch->free[batch->words++] = stripe->free[w] & bits;
        batch->pages += (unsigned)__builtin_popcountll(bits);
    }
}

/* The round was stopped: what was taken and is unsent stays pending. */
static int put_back(struct page_source *source, struct page_stripe *stripe)
{
    if (!page_stripe_done(stripe) && source->skip_untouched && !source->unsent) {
        source->unsent = calloc(source->mem->pages / 64, sizeof(*source->unsent));
        if (!source->unsent)
            return -ENOMEM;
    }
    for (unsigned w = stripe->at; w < stripe->words; w++) {
        source->dirty->pending[stripe->first / 64 + w] |= stripe->bits[w];
        source->in_stripes -= (uint64_t)__builtin_popcountll(stripe->bits[w]);
        if (source->unsent)
            source->unsent[stripe->first / 64 + w] |= stripe->bits[w];
    }
    stripe->words = stripe->at = 0;
    return 0;
}

/* One word of the set, or what was left of it: words come in no order. */
static int take_from_set(struct page_source *source, unsigned room, struct page_batch *batch)
{
    int rc = source->rest ? 0 : round_set_next(source->set, &source->rest_first, &source->rest);
    *batch = (struct page_batch){ .first = source->rest_first, .words = 1 };
    batch->bits[0] = lowest(source->rest, room);
    batch->pages = (unsigned)__builtin_popcountll(batch->bits[0]);
    source->rest &= ~batch->bits[0];
    if (!rc)
        batch->free[0] = find_free(source, batch->first, batch->bits[0]);
    return rc;
}

static int take_from_serve(struct page_source *source, unsigned room, struct page_batch *batch)
{
    serve_take(source->serve, room, batch);
    uint64_t began_ns = clock_thread_cpu_ns();
    for (unsigned w = 0; w < batch->words; w++)
        batch->free[w] = find_free(source, batch->first + w * UINT64_C(64), batch->bits[w]);
    source->told_ns += clock_thread_cpu_ns() - began_ns;
    return 0;
}

static int take(struct page_source *source, struct page_stripe *stripe, unsigned room,
                struct page_batch *batch)
{
    batch->words = batch->pages = 0;
    if (source->serve)
        return source->stopped ? 0 : take_from_serve(source, room, batch);
    if (source->stopped)
        return source->set ? 0 : put_back(source, stripe);
    int rc = 0;
    if (source->set)
        rc = take_from_set(source, room, batch);
    while (!rc && !source->set && batch->pages == 0) {
        if (page_stripe_done(stripe))
            rc = take_stripe(source, stripe);
        if (rc || stripe->words == 0)
            return rc;
        hand_out(stripe, room, batch);
        source->in_stripes -= batch->pages;
    }
    atomic_fetch_add_explicit(&source->passed, batch->pages, memory_order_relaxed);
    return rc;
}

int page_source_take(struct page_source *source, struct page_stripe *stripe, unsigned room,
                     struct page_batch *ret)
{
    (void)pthread_mutex_lock(&source->lock);
    int rc = take(source, stripe, room, ret);
    (void)pthread_mutex_unlock(&source->lock);
    return rc;
}
