/*
 * Lists of pages that a target of post-copy lacks: the bodies of ABSENT sections. Either bodies as a peer sends them
 * [0, pages, next, then bodies each behind its length]: what is accepted names pages of the guest only, in order, and as
 * many as it says; or a set [1, then words behind the length of the gap before them] that comes back from its sections.
 */
#include "fuzz.h"
#include "state/absent.h"
#include "state/stream.h"

#define WORDS 4096u
#define PAGES (WORDS * 64u)

static uint64_t count_bits(const uint64_t *set, uint64_t from, uint64_t end)
{
    uint64_t count = 0;
    for (uint64_t w = from; w < end; w++)
        count += (unsigned)__builtin_popcountll(set[w]);
    return count;
}

static void comes_back(const uint64_t *set, uint64_t pages)
{
    static uint64_t again[WORDS];
    CLEANUP_BUF struct buf out = { 0 };
    struct err err = { 0 };
    uint64_t next = 0, all = 0, count;
    memset(again, 0, sizeof(again));
    FUZZ_CHECK(absent_put(&out, set, pages) == count_bits(set, 0, pages / 64));
    FUZZ_CHECK(buf_status(&out) == 0);
    for (size_t at = 0; at < out.len; all += count) {
        struct section section;
        FUZZ_CHECK(section_decode(out.data + at, &section, &err) == 0);
        FUZZ_CHECK(section.type == SECTION_ABSENT && section.version == ABSENT_VERSION);
        at += STREAM_SECTION_BYTES;
        FUZZ_CHECK(section_check_body(&section, out.data + at, &err) == 0);
        FUZZ_CHECK(absent_get(out.data + at, section.length, pages, &next, again, &count, &err) ==
                   0);
        at += section.length;
    }
    FUZZ_CHECK(all == count_bits(set, 0, pages / 64));
    FUZZ_CHECK(memcmp(set, again, pages / 8) == 0);
}

static void take_bodies(struct cursor *in)
{
    static uint64_t set[WORDS];
    uint64_t pages = (cursor_u16(in) % WORDS + UINT64_C(1)) * 64, next = 0, all = 0;
    memset(set, 0, sizeof(set));
    while (in->left && !in->bad) {
        struct err err = { 0 };
        uint64_t before = next, count = 0;
        size_t want = cursor_u16(in);
        const uint8_t *body = cursor_take(in, MIN(want, in->left));
        size_t len = body ? (size_t)(in->at - body) : 0;
        CLEANUP_FREE uint8_t *exact = malloc(len + 1); /* for the address sanitizer */
        FUZZ_CHECK(exact);
        if (len)
            memcpy(exact, body, len);
        int rc = absent_get(exact, (uint32_t)len, pages, &next, set, &count, &err);
        fuzz_check_err(rc, &err);
        if (rc) {
            FUZZ_CHECK(next == before && err.fault == ERR_PEER);
            continue;
        }
        all += count;
        FUZZ_CHECK(next > before && next <= pages && next % 64 == 0);
    }
    FUZZ_CHECK(count_bits(set, 0, WORDS) == all);
    FUZZ_CHECK(count_bits(set, next / 64, WORDS) == 0);
    comes_back(set, pages);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    if (!(cursor_u8(&in) & 1)) {
        take_bodies(&in);
        return 0;
    }
    static uint64_t set[WORDS];
    uint64_t at = 0;
    memset(set, 0, sizeof(set));
    while (in.left && !in.bad && (at += cursor_u16(&in)) < WORDS)
        set[at++] = cursor_u64(&in);
    comes_back(set, PAGES);
    return 0;
}
