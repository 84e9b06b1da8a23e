#include "move/page_maker.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "move/serve.h"
#include "state/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Before the data: its place does not depend on how long the table gets. */
#define FRONT_BYTES (STREAM_SECTION_BYTES + PAGES_TABLE_MAX)
#define SECTION_ROOM (FRONT_BYTES + PAGES_PLAIN_MAX)
#define BATCHES_MAX 1024 /* a section of zero pages alone ends somewhere too */

/* A section being made. The table's length is known only at the end, so data is gathered behind the
 * largest table there can be, and the table is put right before it. */
struct making {
    struct pages_run run[PAGES_RUNS_MAX];
    uint32_t runs, data_pages, data_bytes, again;
    bool deltas;
    uint8_t *data;
};

int page_maker_init(struct page_maker *maker, struct page_source *source, struct page_memo *memo,
                    enum packing_mode packing, unsigned forms)
{
    *maker = (struct page_maker){
        .source = source, .memo = memo, .is_zero = mem_zero_pick(), .data_max = PAGES_DATA_MAX
    };
    packer_init(&maker->packer, packing, forms);
    maker->section = aligned_alloc(64, (SECTION_ROOM + 63) & ~(size_t)63);
    return maker->section ? 0 : -ENOMEM;
}

void page_maker_fini(struct page_maker *maker)
{
    packer_fini(&maker->packer);
    free(maker->section);
    *maker = (struct page_maker){ 0 };
}

void page_maker_begin(struct page_maker *maker, uint16_t instance)
{
    maker->instance = instance;
    maker->stripe.words = 0;
    maker->count = (struct page_count){ 0 };
}

void page_maker_piece(struct page_maker *maker, uint64_t bytes)
{
    maker->data_max = (uint32_t)MIN(MAX(bytes / PAGE_BYTES, UINT64_C(1)), (uint64_t)PAGES_DATA_MAX);
}

uint64_t page_count_sent(const struct page_count *count)
{
    return count->zero + count->free + count->delta + count->data;
}

void page_count_add(struct page_count *sum, const struct page_count *more)
{
    sum->zero += more->zero;
    sum->free += more->free;
    sum->same += more->same;
    sum->delta += more->delta;
    sum->data += more->data;
    sum->zero_runs += more->zero_runs;
    sum->data_bytes += more->data_bytes;
    sum->bytes += more->bytes;
    sum->packed += more->packed;
    sum->delta_saved_bytes += more->delta_saved_bytes;
    sum->packed_saved_bytes += more->packed_saved_bytes;
    sum->zero_ns += more->zero_ns;
    sum->same_ns += more->same_ns;
    sum->delta_ns += more->delta_ns;
    sum->packed_ns += more->packed_ns;
    sum->zero_again += more->zero_again;
    sum->free_again += more->free_again;
    sum->data_again += more->data_again;
    sum->data_again_bytes += more->data_again_bytes;
}

static void add_to_run(struct page_maker *maker, struct making *making, uint64_t page,
                       uint32_t kind)
{
    struct pages_run *last = making->runs ? &making->run[making->runs - 1] : NULL;
    if (last && last->kind == kind && last->first + last->count == page) {
        last->count++;
        return;
    }
    making->run[making->runs++] = (struct pages_run){ .first = page, .count = 1, .kind = kind };
    maker->count.zero_runs += kind == PAGES_ZERO;
}

static void add_zero(struct page_maker *maker, struct making *making, uint64_t page)
{
    if (maker->memo)
        page_memo_zero(maker->memo, page);
    add_to_run(maker, making, page, PAGES_ZERO);
}

/* A page that was sent before, copied to the end of the data: does it have to travel, and whole? True: no more is to
 * be done. */
static bool add_again(struct page_maker *maker, struct making *making, uint64_t page,
                      const uint8_t *copy)
{
    uint8_t delta[PAGES_DELTA_MAX];
    uint64_t began = clock_now_ns();
    bool same = page_memo_same(maker->memo, page, copy);
    uint64_t told = clock_now_ns();
    maker->same_ns += told - began;
    if (same) {
        maker->count.same++;
        return true;
    }
    int length = page_memo_delta(maker->memo, page, copy, delta);
    maker->delta_ns += clock_now_ns() - told;
    if (length < 0)
        return false;
    uint8_t *at = making->data + making->data_bytes;
    at[0] = (uint8_t)length;
    at[1] = (uint8_t)(length >> 8);
    memcpy(at + 2, delta, (size_t)length);
    add_to_run(maker, making, page, PAGES_DELTA);
    making->data_bytes += 2 + (uint32_t)length;
    making->data_pages++;
    making->deltas = true;
    maker->count.delta++;
    maker->count.delta_saved_bytes += PAGE_BYTES - 2 - (uint64_t)length;
    return true;
}

/* By the C library's vector loop. What compilers put in place of a copy of known size, `rep movs`, fetches memory that
 * is in no cache at half the speed. */
static void copy_page(uint8_t *to, const uint8_t *from)
{
    size_t size = PAGE_BYTES;
    __asm__("" : "+r"(size)); /* not known */
    memcpy(to, from, size);
}

static void add_data(struct page_maker *maker, struct making *making, uint64_t page)
{
    uint8_t *copy = making->data + making->data_bytes;
    copy_page(copy, mem_page(maker->source->mem, page));
    if (maker->memo && maker->memo->hash && add_again(maker, making, page, copy))
        return;
    add_to_run(maker, making, page, PAGES_DATA);
    making->data_bytes += PAGE_BYTES;
    making->data_pages++;
    maker->count.data++;
}

/* Of a word of pages being pushed, those that were sent before. */
static uint64_t sent_before(const struct page_maker *maker, uint64_t first, uint64_t bits)
{
    return maker->source->serve ? bits & maker->source->serve->again[first / 64] : 0;
}

static void count_again(struct page_maker *maker, struct making *making,
                        const struct page_batch *batch, const uint64_t *zero)
{
    for (unsigned w = 0; w < batch->words; w++) {
        uint64_t again = sent_before(maker, batch->first + UINT64_C(64) * w, batch->bits[w]);
        unsigned zeroes = (unsigned)__builtin_popcountll(again & zero[w]);
        unsigned frees = (unsigned)__builtin_popcountll(again & batch->free[w]);
        unsigned data = (unsigned)__builtin_popcountll(again) - zeroes - frees;
        maker->count.zero_again += zeroes;
        maker->count.free_again += frees;
        maker->count.data_again += data;
        making->again += data;
    }
}

/* The CPU clock is too slow to be read for each page: what a batch used is shared out as its time was. */
static void share_out(struct page_maker *maker, uint64_t cpu_ns, uint64_t all_ns)
{
    double rate = all_ns ? (double)MIN(cpu_ns, all_ns) / (double)all_ns : 0;
    maker->count.same_ns += (uint64_t)((double)maker->same_ns * rate);
    maker->count.delta_ns += (uint64_t)((double)maker->delta_ns * rate);
}

static void add_batch(struct page_maker *maker, struct making *making,
                      const struct page_batch *batch)
{
    uint64_t zero[PAGE_BATCH_WORDS] = { 0 }, spent_ns = clock_thread_cpu_ns();
    for (unsigned w = 0; w < batch->words; w++)
        for (uint64_t bits = batch->bits[w] & ~batch->free[w]; bits; bits &= bits - 1) {
            uint64_t page = batch->first + 64 * w + (uint64_t)__builtin_ctzll(bits);
            if (maker->is_zero(mem_page(maker->source->mem, page)))
                zero[w] |= bits & -bits;
        }
    count_again(maker, making, batch, zero);
    uint64_t scanned_ns = clock_thread_cpu_ns(), began = clock_now_ns();
    maker->count.zero_ns += scanned_ns - spent_ns;
    maker->same_ns = maker->delta_ns = 0;
    for (unsigned w = 0; w < batch->words; w++) {
        maker->count.zero += (unsigned)__builtin_popcountll(zero[w]);
        maker->count.free += (unsigned)__builtin_popcountll(batch->free[w]);
        for (uint64_t bits = batch->bits[w]; bits; bits &= bits - 1) {
            uint64_t page = batch->first + 64 * w + (uint64_t)__builtin_ctzll(bits);
            if ((zero[w] | batch->free[w]) & bits & -bits)
                add_zero(maker, making, page);
            else
                add_data(maker, making, page);
        }
    }
    share_out(maker, clock_thread_cpu_ns() - scanned_ns, clock_now_ns() - began);
}

/* Packs the data, if that pays. Returns what is to be sent, with room for the table before it. */
static uint8_t *pack(struct page_maker *maker, const struct making *making, size_t *ret_len,
                     enum pages_packing *ret)
{
    uint64_t spent_ns = maker->packer.spent_ns;
    size_t n = packer_pack(&maker->packer, making->data, making->data_bytes, maker->link_rate, ret);
    maker->count.packed_ns += maker->packer.spent_ns - spent_ns;
    *ret_len = n ? n : making->data_bytes;
    if (n == 0)
        return making->data;
    maker->count.packed += making->data_pages;
    maker->count.packed_saved_bytes += making->data_bytes - n;
    return maker->packer.out + PACKER_FRONT_BYTES;
}

static void finish(struct page_maker *maker, struct making *making, const uint8_t **ret,
                   size_t *ret_len)
{
    enum pages_packing packing;
    size_t len;
    uint8_t *data = pack(maker, making, &len, &packing);
    uint16_t version = making->deltas || packing != PACKING_NONE ? 2 : 1;
    size_t table = pages_table_size(making->runs, version);
    uint8_t *body = data - table;
    (void)pages_table_encode(making->run, making->runs, version, packing, making->data_bytes, body);
    size_t length = table + len;
    struct section section = { .type = SECTION_PAGES,
                               .version = version,
                               .instance = maker->instance,
                               .length = (uint32_t)length,
                               .body_sum = stream_sum(body, length) };
    section_encode(&section, body - STREAM_SECTION_BYTES);
    *ret = body - STREAM_SECTION_BYTES;
    *ret_len = length + STREAM_SECTION_BYTES;
    maker->count.bytes += *ret_len;
    maker->count.data_bytes += len;
    if (making->again)
        maker->count.data_again_bytes += len * making->again / making->data_pages;
}

int page_maker_fill(struct page_maker *maker, const uint8_t **ret, size_t *ret_len)
{
    struct making making;
    struct page_batch batch = { .pages = 1 };
    making.data = maker->section + FRONT_BYTES;

    *ret_len = 0;
    /* All pages of many batches may be the same as sent: then there is nothing to send, and more to look at. */
    for (making.runs = 0; making.runs == 0 && batch.pages > 0;) {
        making.runs = making.data_pages = making.data_bytes = making.again = 0;
        making.deltas = false;
        for (unsigned batches = 0; batches < BATCHES_MAX && making.runs + 64 <= PAGES_RUNS_MAX &&
                                   making.data_pages < maker->data_max;
             batches++) {
            int rc = page_source_take(maker->source, &maker->stripe,
                                      maker->data_max - making.data_pages, &batch);
            if (rc)
                return rc;
            if (batch.pages == 0)
                break;
            add_batch(maker, &making, &batch);
            /* Words come in no order, and a section's runs ascend. */
            if (maker->source->set || maker->source->serve)
                break;
        }
    }
    if (making.runs)
        finish(maker, &making, ret, ret_len);
    return 0;
}
