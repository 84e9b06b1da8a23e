#include "move/page_source.h"
#include "mem/discard.h"
#include "state/pages.h"
#include "state/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_WORDS 1   /* pages taken at a time where memory was touched: 64 */
#define HOLE_WORDS 1024 /* and where it was not: 64 Ki pages */
#define TABLE_BYTES (4 + PAGES_RUNS_MAX * PAGES_RUN_BYTES)
#define SECTION_ROOM (STREAM_SECTION_BYTES + TABLE_BYTES + PAGES_DATA_MAX * PAGE_BYTES)

/* A section being made. The table's length is known only at the end, so data is gathered behind the
 * largest table there can be, and the table is put right before it. */
struct making {
    struct pages_run run[PAGES_RUNS_MAX];
    uint32_t runs, data_pages;
    uint8_t *data;
};

int page_source_init(struct page_source *source, struct mem *mem, struct dirty *dirty)
{
    *source = (struct page_source){ .mem = mem, .dirty = dirty };
    source->section = aligned_alloc(64, (SECTION_ROOM + 63) & ~(size_t)63);
    return source->section ? 0 : -ENOMEM;
}

void page_source_fini(struct page_source *source)
{
    free(source->section);
    *source = (struct page_source){ 0 };
}

void page_source_begin(struct page_source *source, bool first, struct round_set *set)
{
    source->set = set;
    source->skip_untouched = first;
    source->next = 0;
    source->touched_first = source->touched_end = 0;
    source->round = (struct page_count){ .untouched = set ? set->untouched : 0,
                                         .untouched_free = set ? set->untouched_free : 0 };
}

static bool page_is_zero(const uint8_t *page)
{
    typedef uint64_t block __attribute__((vector_size(64), may_alias));
    const block *at = (const block *)(const void *)page;
    for (unsigned i = 0; i < PAGE_BYTES / sizeof(block); i += 2) {
        block any = at[i] | at[i + 1];
        if (any[0] | any[1] | any[2] | any[3] | any[4] | any[5] | any[6] | any[7])
            return false;
    }
    return true;
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

static void add_page(struct page_source *source, struct making *making, uint64_t page, bool freed)
{
    const uint8_t *from = mem_page(source->mem, page);
    uint32_t kind = freed || page_is_zero(from) ? PAGES_ZERO : PAGES_DATA;
    struct pages_run *last = making->runs ? &making->run[making->runs - 1] : NULL;

    if (last && last->kind == kind && last->first + last->count == page) {
        last->count++;
    } else {
        making->run[making->runs++] = (struct pages_run){ .first = page, .count = 1, .kind = kind };
        source->round.zero_runs += kind == PAGES_ZERO;
    }
    if (kind == PAGES_DATA)
        memcpy(making->data + making->data_pages++ * PAGE_BYTES, from, PAGE_BYTES);
    source->round.free += freed;
    source->round.zero += kind == PAGES_ZERO && !freed;
    source->round.data += kind == PAGES_DATA;
}

/* Never-touched pages, of which the guest gave back some itself. */
static void count_untouched(struct page_source *source, uint64_t first, uint64_t bits)
{
    source->round.untouched += (uint64_t)__builtin_popcountll(bits);
    source->round.untouched_free +=
        (uint64_t)__builtin_popcountll(mem_freed_among(source->mem, first, bits));
}

static int add_chunk(struct page_source *source, struct making *making, uint64_t bits)
{
    uint64_t freed = source->skip_untouched ? 0 : mem_freed_holes(source->mem, source->next, bits);

    for (; bits; bits &= bits - 1) {
        uint64_t page = source->next + (uint64_t)__builtin_ctzll(bits);
        if (source->skip_untouched) {
            int rc = look_up_touched(source, page);
            if (rc)
                return rc;
            if (page < source->touched_first) {
                count_untouched(source, source->next, bits & -bits);
                continue;
            }
        }
        add_page(source, making, page, freed & bits & -bits);
    }
    return 0;
}

/* Passes over never-touched memory: its log is cleared first, so a page touched from now on will be
 * logged; then what was touched before is looked for. Returns how many words were wholly untouched. */
static int pass_hole(struct page_source *source, unsigned *ret_words)
{
    uint64_t bits[HOLE_WORDS];
    const struct mem_region *r = &source->mem->region[0];
    if (source->mem->region_count > 1 && source->next >= source->mem->region[1].page_index)
        r = &source->mem->region[1];
    uint64_t region_end = r->page_index + r->bytes / PAGE_BYTES;
    uint64_t limit = MIN(region_end, source->next + HOLE_WORDS * 64);

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
            count_untouched(source, source->next + w * UINT64_C(64), bits[w]);
        else
            source->dirty->pending[source->next / 64 + w] |=
                bits[w]; /* back to be taken one by one */
    }
    return 0;
}

static void finish(struct page_source *source, struct making *making, const uint8_t **ret,
                   size_t *ret_len)
{
    size_t table = 4 + making->runs * PAGES_RUN_BYTES;
    uint8_t *body = making->data - table;
    pages_table_encode(making->run, making->runs, body);
    size_t length = table + making->data_pages * PAGE_BYTES;
    struct section section = { .type = SECTION_PAGES,
                               .version = PAGES_VERSION,
                               .length = (uint32_t)length,
                               .body_sum = stream_sum(body, length) };
    section_encode(&section, body - STREAM_SECTION_BYTES);
    *ret = body - STREAM_SECTION_BYTES;
    *ret_len = length + STREAM_SECTION_BYTES;
    source->round.bytes += *ret_len;
}

/* One word of the set a section: words come in no order, and a section's runs ascend. */
static int fill_from_set(struct page_source *source, struct making *making)
{
    uint64_t first, bits;
    int rc = round_set_next(source->set, &first, &bits);
    uint64_t freed = rc || !bits ? 0 : mem_freed_holes(source->mem, first, bits);
    for (; !rc && bits; bits &= bits - 1)
        add_page(source, making, first + (uint64_t)__builtin_ctzll(bits), freed & bits & -bits);
    return rc;
}

int page_source_fill(struct page_source *source, const uint8_t **ret, size_t *ret_len)
{
    struct making making;
    making.runs = making.data_pages = 0;
    making.data = source->section + STREAM_SECTION_BYTES + TABLE_BYTES;
    unsigned visits = 0;
    int rc = 0;

    *ret_len = 0;
    if (source->set) {
        rc = fill_from_set(source, &making);
        if (!rc && making.runs)
            finish(source, &making, ret, ret_len);
        return rc;
    }
    while (visits++ < 1024 && making.data_pages + 64 <= PAGES_DATA_MAX &&
           making.runs + 64 <= PAGES_RUNS_MAX) {
        source->next = dirty_next(source->dirty, source->next);
        if (source->next >= source->mem->pages)
            break;
        if (source->skip_untouched) {
            unsigned words;
            rc = pass_hole(source, &words);
            if (rc)
                return rc;
            source->next += (uint64_t)words * 64;
            if (words)
                continue;
        }
        uint64_t bits = 0;
        rc = dirty_take(source->dirty, source->next, CHUNK_WORDS, &bits);
        /* "Touched" stays true until the guest gives the page back, which marks it; "not touched" must be
         * asked again after the log was cleared, or a page touched in between would be neither sent nor
         * logged. */
        if (source->next < source->touched_first ||
            source->next + CHUNK_WORDS * 64 > source->touched_end)
            source->touched_end = 0;
        if (!rc)
            rc = add_chunk(source, &making, bits);
        if (rc)
            return rc;
        source->next += CHUNK_WORDS * 64;
    }
    if (making.runs)
        finish(source, &making, ret, ret_len);
    else if (source->next < source->mem->pages)
        return page_source_fill(source, ret, ret_len); /* only holes so far */
    return 0;
}
