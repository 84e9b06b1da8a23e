/* A set of pages through its sections and back, and lists that a peer could not mean. */
#include "state/absent.h"
#include "state/stream.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PAGES (UINT64_C(64) * 200000)

/* Reads every section of `out` into `set`; returns how many there were. */
static unsigned read_back(const struct buf *out, uint64_t *set, uint64_t *ret_pages)
{
    unsigned sections = 0;
    uint64_t next = 0, pages;
    *ret_pages = 0;
    for (size_t at = 0; at < out->len; sections++) {
        struct section section;
        assert_int_equal(section_decode(out->data + at, &section, NULL), 0);
        assert_int_equal(section.type, SECTION_ABSENT);
        at += STREAM_SECTION_BYTES;
        assert_int_equal(section_check_body(&section, out->data + at, NULL), 0);
        assert_int_equal(absent_get(out->data + at, section.length, PAGES, &next, set, &pages,
                                    NULL),
                         0);
        *ret_pages += pages;
        at += section.length;
    }
    return sections;
}

static void test_round_trip(void **state)
{
    (void)state;
    static const struct {
        uint64_t from, to, step;
        unsigned sections;
    } sets[] = {
        { 0, 0, 1, 0 },
        { 0, 1, 1, 1 },
        { PAGES - 1, PAGES, 1, 1 },
        { 0, PAGES, 1, 4 },
        { 100, 9000, 7, 1 },
        { 0, PAGES, 64 * 50, 4 },
        { 3, PAGES, 64 * 60000, 4 },
    };
    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
        CLEANUP_BUF struct buf out = { 0 };
        uint64_t *set = calloc(PAGES / 64, 8), *back = calloc(PAGES / 64, 8), count = 0, pages;
        for (uint64_t page = sets[i].from; page < sets[i].to; page += sets[i].step, count++)
            set[page / 64] |= UINT64_C(1) << (page % 64);
        assert_int_equal(absent_put(&out, set, PAGES), count);
        assert_int_equal(buf_status(&out), 0);
        assert_int_equal(read_back(&out, back, &pages), sets[i].sections);
        assert_int_equal(pages, count);
        assert_memory_equal(set, back, PAGES / 8);
        free(set);
        free(back);
    }
}

static void refused(uint64_t first, uint32_t length, uint64_t next)
{
    uint64_t set[64] = { 0 }, pages;
    struct err err = { 0 };
    uint8_t *body = calloc(1, length + 1);
    for (unsigned i = 0; i < 8 && i < length; i++)
        body[i] = (uint8_t)(first >> (8 * i));
    assert_int_equal(absent_get(body, length, 64 * 64, &next, set, &pages, &err), -EBADMSG);
    assert_int_equal(err.fault, ERR_PEER);
    free(body);
}

static void test_impossible(void **state)
{
    (void)state;
    refused(0, 0, 0);
    refused(0, 8, 0);        /* no word */
    refused(0, 17, 0);       /* half a word */
    refused(1, 16, 0);       /* within a word */
    refused(64, 16, 128);    /* said before */
    refused(64 * 64, 16, 0); /* behind the end */
    refused(64 * 63, 24, 0); /* beyond it */
    refused(UINT64_MAX - 63, 16, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_round_trip),
                                        cmocka_unit_test(test_impossible) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
