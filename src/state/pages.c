#include "state/pages.h"
#include "base/cursor.h"
#include "base/gpa.h"

#include <errno.h>
#include <string.h>

#define WORDS (PAGE_BYTES / 8)

static void put_le(uint8_t *at, uint64_t v, unsigned width)
{
    for (unsigned i = 0; i < width; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_u16(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8;
}

/* ---------------------------------------------------------------------------------------------- table */

size_t pages_table_size(uint32_t runs, uint16_t version)
{
    return 4 + (size_t)runs * PAGES_RUN_BYTES + (version > 1 ? PAGES_PACKING_BYTES : 0);
}

size_t pages_table_encode(const struct pages_run *run, uint32_t runs, uint16_t version,
                          enum pages_packing packing, uint32_t plain_bytes, uint8_t *out)
{
    uint8_t *at = out;
    put_le(at, runs, 4);
    at += 4;
    for (uint32_t i = 0; i < runs; i++, at += PAGES_RUN_BYTES) {
        put_le(at, run[i].first, 8);
        put_le(at + 8, run[i].count, 4);
        put_le(at + 12, run[i].kind, 4);
    }
    if (version > 1) {
        put_le(at, (uint64_t)packing, 4);
        put_le(at + 4, plain_bytes, 4);
    }
    return pages_table_size(runs, version);
}

uint32_t pages_table_length(const uint8_t *body, uint32_t have, uint32_t length, uint16_t version)
{
    struct cursor cur = cursor_of(body, have);
    uint32_t runs = have >= 4 ? cursor_u32(&cur) : UINT32_MAX;
    size_t table = runs <= PAGES_RUNS_MAX ? pages_table_size(runs, version) : 0;
    return table <= length ? (uint32_t)table : 0;
}

static int decode_run(struct cursor *cur, uint16_t version, uint64_t total_pages, uint64_t next,
                      struct pages_run *r, struct err *err)
{
    /* Statements: an initialiser's order of evaluation is not defined. */
    r->first = cursor_u64(cur);
    r->count = cursor_u32(cur);
    r->kind = cursor_u32(cur);
    if (r->first < next || r->first >= total_pages || r->count == 0 ||
        r->count > total_pages - r->first)
        return err_set(err, ERR_PEER, EBADMSG,
                       "page run %llu+%u is out of order or outside the guest's %llu pages",
                       (unsigned long long)r->first, r->count, (unsigned long long)total_pages);
    if (r->kind != PAGES_DATA && r->kind != PAGES_ZERO && (r->kind != PAGES_DELTA || version < 2))
        return err_set(err, ERR_PEER, EBADMSG, "page run of unknown kind %u", r->kind);
    return 0;
}

/* Whether the lengths the table implies and those that are there agree. */
static bool lengths_fit(const struct pages_body *b, uint32_t left)
{
    uint64_t least = b->pages[PAGES_DATA] * PAGE_BYTES + b->pages[PAGES_DELTA] * 2;
    uint64_t most = least + b->pages[PAGES_DELTA] * PAGES_DELTA_MAX;
    if (b->pages[PAGES_DATA] + b->pages[PAGES_DELTA] > PAGES_DATA_MAX || b->plain_bytes < least ||
        b->plain_bytes > most)
        return false;
    return b->packing == PACKING_NONE ? left == b->plain_bytes : left > 0 && left < b->plain_bytes;
}

int pages_body_decode(const uint8_t *body, uint32_t length, uint16_t version, uint64_t total_pages,
                      struct pages_body *ret, struct err *err)
{
    struct cursor cur = cursor_of(body, length);
    uint64_t next = 0;

    if (version == 0 || version > PAGES_VERSION)
        return err_set(err, ERR_PEER, EPROTONOSUPPORT,
                       "pages: version %u, and this build reads up to %u", version, PAGES_VERSION);
    if (length < 4)
        return err_set(err, ERR_PEER, EBADMSG, "pages section of %u bytes", length);
    ret->runs = cursor_u32(&cur);
    if (ret->runs > PAGES_RUNS_MAX)
        return err_set(err, ERR_PEER, EBADMSG, "pages section of %u runs, and the most is %u",
                       ret->runs, PAGES_RUNS_MAX);
    ret->data_at = (uint32_t)pages_table_size(ret->runs, version);
    if (ret->data_at > length)
        return err_set(err, ERR_PEER, EBADMSG, "pages section of %u bytes does not hold its table",
                       length);
    memset(ret->pages, 0, sizeof(ret->pages));
    for (uint32_t i = 0; i < ret->runs; i++) {
        int rc = decode_run(&cur, version, total_pages, next, &ret->run[i], err);
        if (rc)
            return rc;
        next = ret->run[i].first + ret->run[i].count;
        ret->pages[ret->run[i].kind] += ret->run[i].count;
    }
    uint32_t packing = version > 1 ? cursor_u32(&cur) : (uint32_t)PACKING_NONE;
    ret->data_bytes = length - ret->data_at;
    ret->plain_bytes = version > 1 ? cursor_u32(&cur) : ret->data_bytes;
    if (packing >= PACKING_MAX)
        return err_set(err, ERR_PEER, EBADMSG, "pages section of unknown packing %u", packing);
    ret->packing = (enum pages_packing)packing;
    if (!lengths_fit(ret, ret->data_bytes))
        return err_set(
            err, ERR_PEER, EBADMSG,
            "pages section of %u bytes (%u unpacked) does not hold its %llu pages with data",
            ret->data_bytes, ret->plain_bytes,
            (unsigned long long)(ret->pages[PAGES_DATA] + ret->pages[PAGES_DELTA]));
    return 0;
}

/* ---------------------------------------------------------------------------------------------- deltas */

int pages_delta_encode(const uint8_t *was, const uint8_t *is, uint8_t *out)
{
    uint32_t length = 0, word = 0;
    while (word < WORDS) {
        uint32_t same = word;
        while (word < WORDS && memcmp(was + 8 * word, is + 8 * word, 8) == 0)
            word++;
        if (word == WORDS)
            break;
        uint32_t first = word;
        while (word < WORDS && memcmp(was + 8 * word, is + 8 * word, 8) != 0)
            word++;
        uint32_t count = word - first;
        if (4 + 8 * count > PAGES_DELTA_MAX - length)
            return -ENOSPC;
        put_le(out + length, first - same, 2);
        put_le(out + length + 2, count, 2);
        memcpy(out + length + 4, is + 8 * first, (size_t)8 * count);
        length += 4 + 8 * count;
    }
    return (int)length;
}

static bool delta_is_sound(const uint8_t *delta, uint32_t length)
{
    uint32_t word = 0;
    while (length >= 4) {
        uint32_t stay = get_u16(delta), count = get_u16(delta + 2);
        if (count == 0 || stay > WORDS - word || count > WORDS - word - stay ||
            8 * count > length - 4)
            return false;
        word += stay + count;
        delta += 4 + 8 * count;
        length -= 4 + 8 * count;
    }
    return length == 0;
}

void pages_delta_apply(uint8_t *page, const uint8_t *delta, uint32_t length)
{
    for (uint32_t at = 0; at < length;) {
        uint32_t count = get_u16(delta + at + 2);
        page += (size_t)8 * get_u16(delta + at);
        memcpy(page, delta + at + 4, (size_t)8 * count);
        page += (size_t)8 * count;
        at += 4 + 8 * count;
    }
}

int pages_data_check(const struct pages_body *body, const uint8_t *plain, struct err *err)
{
    uint32_t at = 0, end = body->plain_bytes;
    if (body->pages[PAGES_DELTA] == 0)
        return 0; /* lengths_fit() has said it all */
    for (uint32_t i = 0; i < body->runs; i++) {
        const struct pages_run *run = &body->run[i];
        for (uint32_t n = 0; n < run->count && run->kind != PAGES_ZERO; n++) {
            uint32_t length = PAGE_BYTES;
            if (run->kind == PAGES_DELTA) {
                length = end - at >= 2 ? get_u16(plain + at) : UINT32_MAX;
                at += 2;
            }
            if (at > end || length > end - at ||
                (run->kind == PAGES_DELTA &&
                 (length > PAGES_DELTA_MAX || !delta_is_sound(plain + at, length))))
                return err_set(err, ERR_PEER, EBADMSG, "page %llu: unsound data",
                               (unsigned long long)run->first + n);
            at += length;
        }
    }
    return at == end ? 0
                     : err_set(err, ERR_PEER, EBADMSG, "%u bytes follow the last page", end - at);
}

const char *pages_packing_name(uint32_t packing)
{
    static const char *const names[PACKING_MAX] = { "none", "lz4", "zstd" };
    return packing < PACKING_MAX ? names[packing] : "unknown";
}
