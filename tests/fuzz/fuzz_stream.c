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
    static struct pages_run run[PAGES_RUNS_MAX];
    uint64_t total_pages = cursor_u64(in);
    uint32_t body_bytes = cursor_u32(in), table_bytes, runs;
    struct err err = { 0 };
    if (in->left < 4)
        return;
    int rc = pages_table_bytes(in->at, &table_bytes, &err);
    fuzz_check_err(rc, &err);
    if (rc || in->left < table_bytes)
        return;
    FUZZ_CHECK(table_bytes <= PAGES_TABLE_MAX);
    rc = pages_table_decode(in->at, table_bytes, body_bytes, total_pages, run, &runs, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return;
    FUZZ_CHECK(runs <= PAGES_RUNS_MAX);
    uint64_t next = 0, data_pages = 0;
    for (uint32_t i = 0; i < runs; i++) {
        FUZZ_CHECK(run[i].count > 0 && run[i].first >= next);
        FUZZ_CHECK(run[i].first < total_pages && run[i].count <= total_pages - run[i].first);
        FUZZ_CHECK(run[i].kind == PAGES_DATA || run[i].kind == PAGES_ZERO);
        next = run[i].first + run[i].count;
        data_pages += run[i].kind == PAGES_DATA ? run[i].count : 0;
    }
    FUZZ_CHECK(table_bytes + data_pages * 4096 == body_bytes);
    uint8_t *again = malloc(table_bytes);
    FUZZ_CHECK(again);
    pages_table_encode(run, runs, again);
    FUZZ_CHECK(memcmp(in->at, again, table_bytes) == 0);
    free(again);
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
