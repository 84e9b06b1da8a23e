/*
 * Memory: every page holds what was written last, across any number of moves.
 *
 * RAM is a row of pages: `dense=` bytes filled with contents that do not compress, the first `hot=`
 * of them stamped over and over, then `zero=` bytes that must stay zero; the rest is never touched.
 *
 * A page's words are a function of its number, except the first and the last, which also hold its
 * generation: so a page of an earlier round shows, and a torn one too. A stamping pass checks the
 * old generation before writing the new one.
 *
 * Parameters: dense, hot, zero (1M); rate = most hot pages a second; verify = pages verified after
 * each slice of stamping (16; 0: only on `check` and `stop`); repeat = words after which a page's
 * contents repeat, so that they do compress (0: never); idle=1: nothing after filling, the processor
 * sleeps.
 */
#include "tiny.h"

enum { SLICE_PAGES = 256, IDLE_PERIOD_US = 100000, OK_INTERVAL_MS = 1000 };

struct writer {
    uint64_t hot, dense, end; /* page numbers: [0, hot), [hot, dense) and zero pages [dense, end) */
    uint64_t generation;      /* of hot pages from `hot_next` on; those before it are one ahead */
    uint64_t hot_next;
    uint64_t verify_next, verify_slice;
    uint64_t ok_due_tsc; /* passes over little memory are quick: not each is worth a line */
    uint64_t rate, rate_from_tsc, rate_pages;
    unsigned repeat;
    bool idle;
};

static uint64_t word_of(const struct writer *w, uint64_t page, unsigned i)
{
    if (w->repeat)
        i %= w->repeat;
    return tiny_mix(page * 0x9e3779b97f4a7c15 + (i + 1) * 0xd1342543de82ef95);
}

static uint64_t stamp_of(uint64_t page, uint64_t generation)
{
    return tiny_mix(page ^ generation << 40) ^ generation;
}

static void word_check(uint64_t page, unsigned i, uint64_t found, uint64_t want)
{
    if (found != want)
        tiny_bad("page %u at 0x%x word %u holds 0x%x, not 0x%x", page, (uint64_t)tiny_page(page),
                 (uint64_t)i, found, want);
}

static void stamp_check(uint64_t page, const uint64_t *at, uint64_t generation)
{
    uint64_t want = stamp_of(page, generation);
    word_check(page, 0, at[0], want);
    word_check(page, TINY_PAGE_WORDS - 1, at[TINY_PAGE_WORDS - 1], want);
}

static void stamp_write(uint64_t page, uint64_t *at, uint64_t generation)
{
    at[0] = at[TINY_PAGE_WORDS - 1] = stamp_of(page, generation);
}

static void page_verify(const struct writer *w, uint64_t page)
{
    const uint64_t *at = tiny_page(page);
    if (page >= w->dense) {
        for (unsigned i = 0; i < TINY_PAGE_WORDS; i++)
            word_check(page, i, at[i], 0);
        return;
    }
    uint64_t generation = page >= w->hot ? 0 : w->generation + (page < w->hot_next);
    stamp_check(page, at, generation);
    for (unsigned i = 1; i < TINY_PAGE_WORDS - 1; i++)
        word_check(page, i, at[i], word_of(w, page, i));
}

static void verify(struct writer *w, uint64_t pages)
{
    for (; pages; pages--) {
        if (w->verify_next < w->end)
            page_verify(w, w->verify_next++);
        if (w->verify_next < w->end)
            continue;
        w->verify_next = 0;
        if (tiny_tsc() < w->ok_due_tsc)
            continue;
        w->ok_due_tsc = tiny_tsc() + OK_INTERVAL_MS * tiny_tsc_ms;
        tiny_ok("pages=%u passes=%u", w->end, w->generation);
    }
}

static void verify_all(struct writer *w)
{
    w->verify_next = 0;
    w->ok_due_tsc = 0;
    verify(w, w->end ? w->end : 1); /* no pages to look at: so says the line */
}

static void fill(const struct writer *w)
{
    for (uint64_t page = 0; page < w->dense; page++) {
        uint64_t *at = tiny_page(page);
        for (unsigned i = 1; i < TINY_PAGE_WORDS - 1; i++)
            at[i] = word_of(w, page, i);
        stamp_write(page, at, 0);
    }
    /* Firmware may have used some of the rest. A page that is zero must not be written. */
    for (uint64_t page = w->dense; page < w->end; page++) {
        uint64_t *at = tiny_page(page);
        for (unsigned i = 0; i < TINY_PAGE_WORDS; i++)
            if (at[i])
                at[i] = 0;
    }
}

/* How many pages may be stamped now without going over the rate. */
static uint64_t slice_size(struct writer *w)
{
    if (!w->rate)
        return SLICE_PAGES;
    uint64_t allowed = (tiny_tsc() - w->rate_from_tsc) / tiny_tsc_ms * w->rate / 1000;
    if (allowed > w->rate_pages + w->rate) { /* a pause is not to be caught up with */
        w->rate_from_tsc = tiny_tsc();
        w->rate_pages = 0;
        return 1;
    }
    uint64_t left = allowed - w->rate_pages;
    return allowed <= w->rate_pages ? 0 : left < SLICE_PAGES ? left : SLICE_PAGES;
}

static void stamp_slice(struct writer *w)
{
    uint64_t pages = w->hot ? slice_size(w) : 0;
    w->rate_pages += pages;
    for (; pages; pages--) {
        uint64_t *at = tiny_page(w->hot_next);
        stamp_check(w->hot_next, at, w->generation);
        stamp_write(w->hot_next, at, w->generation + 1);
        if (++w->hot_next == w->hot) {
            w->hot_next = 0;
            w->generation++;
        }
    }
}

static uint64_t pages_arg(const char *key, uint64_t fallback, uint64_t most)
{
    uint64_t pages = tiny_arg(key, fallback) / TINY_PAGE_BYTES;
    return pages < most ? pages : most;
}

void guest_main(void)
{
    uint64_t all = tiny_pages();
    struct writer w = {
        .hot = pages_arg("hot", 0, all),
        .rate = tiny_arg("rate", 0),
        .verify_slice = tiny_arg("verify", 16),
        .repeat = (unsigned)tiny_arg("repeat", 0),
        .idle = tiny_arg("idle", 0),
        .rate_from_tsc = tiny_tsc(),
    };
    w.dense = pages_arg("dense", 0, all);
    if (w.dense < w.hot)
        w.dense = w.hot;
    w.end = w.dense + pages_arg("zero", 1 << 20, all - w.dense);

    fill(&w);
    if (w.idle) {
        tiny_timer_init(TINY_TIMER_PERIODIC);
        tiny_timer_arm_us(IDLE_PERIOD_US);
    }
    tiny_printf("info ram=%u dense=%u hot=%u zero=%u pages\n", all, w.dense, w.hot,
                w.end - w.dense);
    tiny_ready("writer");
    for (;;) {
        enum tiny_command command = tiny_pulse();
        if (command == TINY_STOP)
            break;
        if (command == TINY_CHECK)
            verify_all(&w);
        if (w.idle) {
            tiny_ring0(ring0_halt, 0, 0, 0);
        } else {
            stamp_slice(&w);
            verify(&w, w.verify_slice);
        }
    }
    verify_all(&w);
}
