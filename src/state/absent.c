#include "state/absent.h"
#include "base/cursor.h"
#include "state/stream.h"

#include <errno.h>

#define GAP_WORDS 64 /* shorter stretches cost less as zeroes than as another section */

static void put_section(struct buf *out, const uint64_t *set, uint64_t first, uint64_t end)
{
    CLEANUP_BUF struct buf body = { 0 };
    uint8_t head[STREAM_SECTION_BYTES];
    buf_put_u64(&body, first * 64);
    for (uint64_t w = first; w < end; w++)
        buf_put_u64(&body, set[w]);
    if (buf_status(&body)) {
        out->broken = true;
        return;
    }
    struct section section = { .type = SECTION_ABSENT,
                               .version = ABSENT_VERSION,
                               .length = (uint32_t)body.len,
                               .body_sum = stream_sum(body.data, body.len) };
    section_encode(&section, head);
    buf_put(out, head, sizeof(head));
    buf_put(out, body.data, body.len);
}

uint64_t absent_put(struct buf *out, const uint64_t *set, uint64_t pages)
{
    uint64_t words = pages / 64, count = 0, w = 0;
    while (w < words) {
        if (!set[w]) {
            w++;
            continue;
        }
        uint64_t end = w; /* behind the last word of the section that is not empty */
        for (uint64_t i = w; i < words && i - w < ABSENT_WORDS_MAX && i < end + GAP_WORDS; i++)
            if (set[i]) {
                count += (unsigned)__builtin_popcountll(set[i]);
                end = i + 1;
            }
        put_section(out, set, w, end);
        w = end;
    }
    return count;
}

int absent_get(const uint8_t *body, uint32_t length, uint64_t pages, uint64_t *next, uint64_t *set,
               uint64_t *ret_count, struct err *err)
{
    struct cursor cur = cursor_of(body, length);
    if (length < 16 || length > ABSENT_BYTES_MAX || length % 8)
        return err_set(err, ERR_PEER, EBADMSG, "section absent of %u bytes", length);
    uint64_t first = cursor_u64(&cur), words = length / 8 - 1;
    if (first % 64 || first < *next || first >= pages || words > (pages - first) / 64)
        return err_set(err, ERR_PEER, EBADMSG,
                       "absent pages from %llu on are out of order or outside the guest's %llu",
                       (unsigned long long)first, (unsigned long long)pages);
    *ret_count = 0;
    for (uint64_t w = first / 64; w < first / 64 + words; w++) {
        uint64_t bits = cursor_u64(&cur);
        set[w] |= bits;
        *ret_count += (unsigned)__builtin_popcountll(bits);
    }
    *next = first + words * 64;
    return 0;
}
