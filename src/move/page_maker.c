#include "move/page_maker.h"
#include "base/compiler.h"
#include "state/pages.h"
#include "state/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_BYTES (4 + PAGES_RUNS_MAX * PAGES_RUN_BYTES)
#define SECTION_ROOM (STREAM_SECTION_BYTES + TABLE_BYTES + PAGES_DATA_MAX * PAGE_BYTES)
#define BATCHES_MAX 1024 /* a section of zero pages alone ends somewhere too */

/* A section being made. The table's length is known only at the end, so data is gathered behind the
 * largest table there can be, and the table is put right before it. */
struct making {
    struct pages_run run[PAGES_RUNS_MAX];
    uint32_t runs, data_pages;
    uint8_t *data;
};

int page_maker_init(struct page_maker *maker, struct page_source *source)
{
    *maker = (struct page_maker){ .source = source, .data_max = PAGES_DATA_MAX };
    maker->section = aligned_alloc(64, (SECTION_ROOM + 63) & ~(size_t)63);
    return maker->section ? 0 : -ENOMEM;
}

void page_maker_fini(struct page_maker *maker)
{
    free(maker->section);
    *maker = (struct page_maker){ 0 };
}

void page_maker_begin(struct page_maker *maker, uint16_t instance)
{
    maker->instance = instance;
    maker->count = (struct page_count){ 0 };
}

void page_maker_piece(struct page_maker *maker, uint64_t bytes)
{
    maker->data_max = (uint32_t)MIN(MAX(bytes / PAGE_BYTES, UINT64_C(1)), (uint64_t)PAGES_DATA_MAX);
}

void page_count_add(struct page_count *sum, const struct page_count *more)
{
    sum->zero += more->zero;
    sum->data += more->data;
    sum->zero_runs += more->zero_runs;
    sum->bytes += more->bytes;
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

static void add_page(struct page_maker *maker, struct making *making, uint64_t page)
{
    const uint8_t *from = mem_page(maker->source->mem, page);
    uint32_t kind = page_is_zero(from) ? PAGES_ZERO : PAGES_DATA;
    struct pages_run *last = making->runs ? &making->run[making->runs - 1] : NULL;

    if (last && last->kind == kind && last->first + last->count == page) {
        last->count++;
    } else {
        making->run[making->runs++] = (struct pages_run){ .first = page, .count = 1, .kind = kind };
        maker->count.zero_runs += kind == PAGES_ZERO;
    }
    if (kind == PAGES_DATA)
        memcpy(making->data + making->data_pages++ * PAGE_BYTES, from, PAGE_BYTES);
    maker->count.zero += kind == PAGES_ZERO;
    maker->count.data += kind == PAGES_DATA;
}

static void add_batch(struct page_maker *maker, struct making *making,
                      const struct page_batch *batch)
{
    for (unsigned w = 0; w < batch->words; w++)
        for (uint64_t bits = batch->bits[w]; bits; bits &= bits - 1)
            add_page(maker, making, batch->first + 64 * w + (uint64_t)__builtin_ctzll(bits));
}

static void finish(struct page_maker *maker, struct making *making, const uint8_t **ret,
                   size_t *ret_len)
{
    size_t table = 4 + making->runs * PAGES_RUN_BYTES;
    uint8_t *body = making->data - table;
    pages_table_encode(making->run, making->runs, body);
    size_t length = table + making->data_pages * PAGE_BYTES;
    struct section section = { .type = SECTION_PAGES,
                               .version = PAGES_VERSION,
                               .instance = maker->instance,
                               .length = (uint32_t)length,
                               .body_sum = stream_sum(body, length) };
    section_encode(&section, body - STREAM_SECTION_BYTES);
    *ret = body - STREAM_SECTION_BYTES;
    *ret_len = length + STREAM_SECTION_BYTES;
    maker->count.bytes += *ret_len;
}

int page_maker_fill(struct page_maker *maker, const uint8_t **ret, size_t *ret_len)
{
    struct making making;
    struct page_batch batch;
    making.runs = making.data_pages = 0;
    making.data = maker->section + STREAM_SECTION_BYTES + TABLE_BYTES;

    *ret_len = 0;
    for (unsigned batches = 0; batches < BATCHES_MAX && making.runs + 64 <= PAGES_RUNS_MAX;
         batches++) {
        if (making.data_pages >= maker->data_max)
            break;
        int rc = page_source_take(maker->source, maker->data_max - making.data_pages,
                                  making.runs == 0, &batch);
        if (rc)
            return rc;
        if (batch.pages == 0)
            break;
        add_batch(maker, &making, &batch);
    }
    if (making.runs)
        finish(maker, &making, ret, ret_len);
    return 0;
}
