/* The stream's header, section heads and page tables: what is accepted is written back to the very bytes. */
#include "fuzz.h"
#include "state/pages.h"
#include "state/stream.h"

static void try_header(struct cursor *in, bool fix)
{
    uint8_t bytes[STREAM_HEADER_BYTES], again[STREAM_HEADER_BYTES];
    struct stream_header header;
    struct err err = { 0 };
    const uint8_t *from = cursor_take(in, sizeof(bytes));
    if (!from)
        return;
    memcpy(bytes, from, sizeof(bytes));
    if (fix)
        memset(bytes + 24, 0, 8); /* reserved: zero when written, not looked at when read */
    uint64_t sum = stream_sum(bytes, 32);
    if (fix)
        memcpy(bytes + 32, &sum, sizeof(sum));
    int rc = stream_header_decode(bytes, &header, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return;
    stream_header_encode(&header, again);
    FUZZ_CHECK(!fix || memcmp(bytes, again, sizeof(bytes)) == 0);
}

static void try_section(struct cursor *in, bool fix)
{
    uint8_t bytes[STREAM_SECTION_BYTES], again[STREAM_SECTION_BYTES];
    struct section section;
    struct err err = { 0 };
    const uint8_t *from = cursor_take(in, sizeof(bytes));
    if (!from)
        return;
    memcpy(bytes, from, sizeof(bytes));
    if (fix) {
        memset(bytes + 12, 0, 4);
        uint32_t sum = (uint32_t)stream_sum(bytes, sizeof(bytes));
        memcpy(bytes + 12, &sum, sizeof(sum));
    }
    int rc = section_decode(bytes, &section, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return;
    FUZZ_CHECK(section.length <= STREAM_BODY_MAX);
    section_encode(&section, again);
    FUZZ_CHECK(memcmp(bytes, again, sizeof(bytes)) == 0);
}

static void try_pages(struct cursor *in)
{
    static struct pages_body body;
    uint64_t total_pages = cursor_u64(in);
    uint16_t version = cursor_u16(in);
    uint32_t length = (uint32_t)in->left;
    struct err err = { 0 };
    int rc = pages_body_decode(in->at, length, version, total_pages, &body, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return;
    FUZZ_CHECK(body.runs <= PAGES_RUNS_MAX && body.data_at + body.data_bytes == length);
    FUZZ_CHECK(body.plain_bytes <= PAGES_PLAIN_MAX);
    uint64_t next = 0, pages[PAGES_DELTA + 1] = { 0 };
    for (uint32_t i = 0; i < body.runs; i++) {
        const struct pages_run *run = &body.run[i];
        FUZZ_CHECK(run->count > 0 && run->first >= next);
        FUZZ_CHECK(run->first < total_pages && run->count <= total_pages - run->first);
        FUZZ_CHECK(run->kind == PAGES_DATA || run->kind == PAGES_ZERO ||
                   (run->kind == PAGES_DELTA && version > 1));
        next = run->first + run->count;
        pages[run->kind] += run->count;
    }
    FUZZ_CHECK(pages[PAGES_DATA] + pages[PAGES_DELTA] <= PAGES_DATA_MAX);
    FUZZ_CHECK(pages[PAGES_DELTA] || body.plain_bytes == pages[PAGES_DATA] * 4096);
    uint8_t *again = malloc(body.data_at);
    FUZZ_CHECK(again);
    FUZZ_CHECK(pages_table_encode(body.run, body.runs, version, body.packing, body.plain_bytes,
                                  again) == body.data_at);
    FUZZ_CHECK(memcmp(in->at, again, body.data_at) == 0);
    free(again);
    if (body.packing != PACKING_NONE)
        return;
    rc = pages_data_check(&body, in->at + body.data_at, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return;
    static uint8_t page[4096];
    const uint8_t *at = in->at + body.data_at;
    for (uint32_t i = 0; i < body.runs; i++)
        for (uint32_t n = 0; n < body.run[i].count && body.run[i].kind != PAGES_ZERO; n++) {
            uint32_t bytes = 4096;
            if (body.run[i].kind == PAGES_DELTA) {
                bytes = 2 + (at[0] | (uint32_t)at[1] << 8);
                pages_delta_apply(page, at + 2, bytes - 2);
            }
            at += bytes;
        }
    FUZZ_CHECK(at == in->at + length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    uint8_t what = cursor_u8(&in);
    bool fix = !(what & 0x80);
    switch (what & 0x7f) {
    case 0:
        try_header(&in, fix);
        break;
    case 1:
        try_section(&in, fix);
        break;
    default:
        try_pages(&in);
        break;
    }
    return 0;
}
