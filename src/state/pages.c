#include "state/pages.h"
#include "base/cursor.h"
#include "base/gpa.h"

#include <errno.h>

static void put_le(uint8_t *at, uint64_t v, unsigned width)
{
    for (unsigned i = 0; i < width; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

void pages_table_encode(const struct pages_run *run, uint32_t runs, uint8_t *out)
{
    put_le(out, runs, 4);
    out += 4;
    for (uint32_t i = 0; i < runs; i++, out += PAGES_RUN_BYTES) {
        put_le(out, run[i].first, 8);
        put_le(out + 8, run[i].count, 4);
        put_le(out + 12, run[i].kind, 4);
    }
}

int pages_table_bytes(const uint8_t first[4], uint32_t *ret_bytes, struct err *err)
{
    struct cursor cur = cursor_of(first, 4);
    uint32_t runs = cursor_u32(&cur);
    if (runs > PAGES_RUNS_MAX)
        return err_set(err, ERR_PEER, EBADMSG, "pages section of %u runs, and the most is %u", runs,
                       PAGES_RUNS_MAX);
    *ret_bytes = 4 + runs * PAGES_RUN_BYTES;
    return 0;
}

int pages_table_decode(const uint8_t *table, uint32_t table_bytes, uint32_t body_bytes,
                       uint64_t total_pages, struct pages_run *run, uint32_t *ret_runs,
                       struct err *err)
{
    struct cursor cur = cursor_of(table, table_bytes);
    uint32_t runs = cursor_u32(&cur);
    uint64_t data_pages = 0, next = 0;

    if (runs > PAGES_RUNS_MAX)
        return err_set(err, ERR_PEER, EBADMSG, "pages section of %u runs, and the most is %u", runs,
                       PAGES_RUNS_MAX);
    for (uint32_t i = 0; i < runs; i++) {
        struct pages_run r;
        r.first =
            cursor_u64(&cur); /* statements: an initialiser's order of evaluation is not defined */
        r.count = cursor_u32(&cur);
        r.kind = cursor_u32(&cur);
        if (r.first < next || r.first >= total_pages || r.count == 0 ||
            r.count > total_pages - r.first)
            return err_set(err, ERR_PEER, EBADMSG,
                           "page run %llu+%u is out of order or outside the guest's %llu pages",
                           (unsigned long long)r.first, r.count, (unsigned long long)total_pages);
        if (r.kind != PAGES_DATA && r.kind != PAGES_ZERO)
            return err_set(err, ERR_PEER, EBADMSG, "page run of unknown kind %u", r.kind);
        if (r.kind == PAGES_DATA)
            data_pages += r.count;
        next = r.first + r.count;
        run[i] = r;
    }
    if (cursor_end(&cur) || data_pages > PAGES_DATA_MAX ||
        body_bytes != table_bytes + data_pages * PAGE_BYTES)
        return err_set(err, ERR_PEER, EBADMSG,
                       "pages section of %u bytes does not hold its %llu data pages", body_bytes,
                       (unsigned long long)data_pages);
    *ret_runs = runs;
    return 0;
}
