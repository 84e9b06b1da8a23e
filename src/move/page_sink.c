#include "move/page_sink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int page_sink_init(struct page_sink *sink, struct mem *mem)
{
    *sink = (struct page_sink){ .mem = mem, .written = calloc(mem->pages / 64, sizeof(uint64_t)) };
    return sink->written ? 0 : -ENOMEM;
}

void page_sink_fini(struct page_sink *sink)
{
    free(sink->written);
    *sink = (struct page_sink){ 0 };
}

/* A page that never held data is zero already, and touching it would only make it use memory. */
static void zero_run(struct page_sink *sink, const struct pages_run *run)
{
    for (uint64_t page = run->first; page < run->first + run->count; page++) {
        uint64_t bit = UINT64_C(1) << (page % 64);
        if (!(sink->written[page / 64] & bit))
            continue;
        memset(mem_page(sink->mem, page), 0, PAGE_BYTES);
        sink->written[page / 64] &= ~bit;
    }
    sink->zero_pages += run->count;
}

static void note_data(struct page_sink *sink, const struct pages_run *run)
{
    for (uint64_t page = run->first; page < run->first + run->count; page++)
        sink->written[page / 64] |= UINT64_C(1) << (page % 64);
    sink->data_pages += run->count;
}

int page_sink_recv(struct page_sink *sink, struct link *link, const struct section *section, struct err *err)
{
    uint8_t table[PAGES_TABLE_MAX];
    struct pages_run run[PAGES_RUNS_MAX];
    struct iovec iov[PAGES_DATA_MAX], whole[PAGES_DATA_MAX];
    uint32_t table_bytes, runs;

    if (section->version != PAGES_VERSION || section->length < 4)
        return err_set(err, ERR_PEER, EPROTONOSUPPORT, "pages section of version %u and %u bytes", section->version,
                       section->length);
    int rc = link_recv(link, table, 4, err);
    if (!rc)
        rc = pages_table_bytes(table, &table_bytes, err);
    if (!rc && table_bytes > section->length)
        rc = err_set(err, ERR_PEER, EBADMSG, "pages section shorter than its table");
    if (!rc)
        rc = link_recv(link, table + 4, table_bytes - 4, err);
    if (!rc)
        rc = pages_table_decode(table, table_bytes, section->length, sink->mem->pages, run, &runs, err);
    if (rc)
        return rc;

    int count = 0;
    for (uint32_t i = 0; i < runs; i++) {
        if (run[i].kind == PAGES_DATA)
            iov[count++] = (struct iovec){ .iov_base = mem_page(sink->mem, run[i].first),
                                           .iov_len = run[i].count * PAGE_BYTES };
    }
    memcpy(whole, iov, sizeof(*iov) * (size_t)count);
    rc = link_recvv(link, iov, count, err);
    if (rc)
        return rc;

    struct stream_summer sum;
    stream_sum_begin(&sum);
    stream_sum_add(&sum, table, table_bytes);
    for (int i = 0; i < count; i++)
        stream_sum_add(&sum, whole[i].iov_base, whole[i].iov_len);
    if (stream_sum_end(&sum) != section->body_sum)
        return err_set(err, ERR_PEER, EBADMSG, "pages %llu.. damaged (checksum)",
                       runs ? (unsigned long long)run[0].first : 0ull);
    for (uint32_t i = 0; i < runs; i++) {
        if (run[i].kind == PAGES_ZERO)
            zero_run(sink, &run[i]);
        else
            note_data(sink, &run[i]);
    }
    return 0;
}
