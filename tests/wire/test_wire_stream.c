/* The framing: every bit of header, section head and body is covered by a checksum that is
 * looked at. */
#include "wire.h"

#include "base/fd.h"
#include "kvm/hv_state.h"
#include "state/pages.h"
#include "vm/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_header_flips(void **state)
{
    (void)state;
    uint8_t bytes[STREAM_HEADER_BYTES];
    struct stream_header header = stream_header_ours(), got;
    struct err err;
    stream_header_encode(&header, bytes);
    assert_int_equal(stream_header_decode(bytes, &got, &err), 0);
    assert_memory_equal(&got, &header, sizeof(got));
    for (unsigned bit = 0; bit < sizeof(bytes) * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(stream_header_decode(bytes, &got, &err), 0);
        assert_int_equal(err.fault, ERR_PEER);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* Whole headers of other builds, with a good checksum. */
static void test_header_of_others(void **state)
{
    (void)state;
    static const struct {
        struct stream_header header;
        const char *names; /* in the refusal; NULL = readable */
    } rows[] = {
        { { .version = STREAM_VERSION + 1,
            .oldest_reader = STREAM_VERSION,
            .arch = STREAM_ARCH_X86_64 },
          NULL },
        { { .version = STREAM_VERSION,
            .oldest_reader = 1,
            .arch = STREAM_ARCH_X86_64,
            .optional = UINT32_MAX },
          NULL },
        { { .version = STREAM_VERSION + 1,
            .oldest_reader = STREAM_VERSION + 1,
            .arch = STREAM_ARCH_X86_64 },
          "version" },
        { { .version = 0, .oldest_reader = 0, .arch = STREAM_ARCH_X86_64 }, "version" },
        { { .version = STREAM_VERSION, .oldest_reader = 1, .arch = 183 }, "architecture 183" },
        { { .version = STREAM_VERSION,
            .oldest_reader = 1,
            .arch = STREAM_ARCH_X86_64,
            .required = 0x80000000 },
          "0x80000000" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t bytes[STREAM_HEADER_BYTES];
        struct stream_header got;
        struct err err = { 0 };
        stream_header_encode(&rows[i].header, bytes);
        assert_int_equal(stream_header_decode(bytes, &got, &err) == 0, rows[i].names == NULL);
        assert_true(!rows[i].names || strstr(err.text, rows[i].names));
    }
}

static bool section_readable(const uint8_t *bytes, size_t len, const struct schema *schema,
                             void *object)
{
    struct section section;
    struct err err;
    if (section_decode(bytes, &section, &err) || section.length != len - STREAM_SECTION_BYTES ||
        section_check_body(&section, bytes + STREAM_SECTION_BYTES, &err))
        return false;
    assert_int_equal(section_get(&section, bytes + STREAM_SECTION_BYTES, schema, object, &err), 0);
    return true;
}

static void test_section_flips(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (size_t i = 0; i < wire_schema_count; i++) {
        const struct schema *schema = wire_schemas[i];
        void *object = wire_object(schema, &seed, 5, false), *got = malloc(schema->size);
        CLEANUP_BUF struct buf out = { 0 };
        assert_non_null(got);
        section_put(&out, 50, 3, SECTION_OPTIONAL, schema, object);
        assert_int_equal(buf_status(&out), 0);
        assert_true(section_readable(out.data, out.len, schema, got));
        assert_memory_equal(got, object, schema->size);
        for (size_t bit = 0; bit < out.len * 8; bit++) {
            out.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_false(section_readable(out.data, out.len, schema, got));
            out.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        free(got);
        free(object);
    }
}

static void test_section_too_long(void **state)
{
    (void)state;
    uint8_t bytes[STREAM_SECTION_BYTES];
    struct section got,
        section = { .type = SECTION_PAGES, .version = 1, .length = STREAM_BODY_MAX };
    struct err err;
    section_encode(&section, bytes);
    assert_int_equal(section_decode(bytes, &got, &err), 0);
    section.length++;
    section_encode(&section, bytes);
    assert_int_not_equal(section_decode(bytes, &got, &err), 0);
}

static int decode_table(const struct pages_run *run, uint32_t runs, uint32_t data_pages,
                        uint64_t total)
{
    static uint8_t body[PAGES_TABLE_MAX + 128 * 4096];
    static struct pages_body got;
    struct err err = { 0 };
    uint32_t table = (uint32_t)pages_table_encode(run, runs, 1, PACKING_NONE, 0, body);
    int rc = pages_body_decode(body, table + data_pages * 4096, 1, total, &got, &err);
    if (rc) {
        assert_int_equal(err.fault, ERR_PEER);
        return -1;
    }
    assert_int_equal(got.runs, runs);
    assert_int_equal(got.plain_bytes, data_pages * 4096);
    assert_int_equal(got.data_at, table);
    assert_memory_equal(got.run, run, runs * sizeof(*run));
    return 0;
}

static void test_page_tables(void **state)
{
    (void)state;
    static const struct {
        struct pages_run run[3];
        uint32_t runs, data_pages;
        int rc;
    } rows[] = {
        { { { 0 } }, 0, 0, 0 },
        { { { 0, 10, PAGES_DATA }, { 10, 5, PAGES_ZERO }, { 90, 10, PAGES_DATA } }, 3, 20, 0 },
        { { { 0, 100, PAGES_ZERO } }, 1, 0, 0 },
        { { { 0, 101, PAGES_ZERO } }, 1, 0, -1 }, /* beyond the guest */
        { { { 100, 1, PAGES_ZERO } }, 1, 0, -1 },
        { { { UINT64_MAX, 1, PAGES_ZERO } }, 1, 0, -1 },
        { { { UINT64_MAX - 1, UINT32_MAX, PAGES_ZERO } }, 1, 0, -1 }, /* a sum that would wrap */
        { { { 1, UINT32_MAX, PAGES_DATA } }, 1, 0, -1 },
        { { { 5, 0, PAGES_ZERO } }, 1, 0, -1 }, /* empty */
        { { { 5, 1, 0 } }, 1, 0, -1 },          /* of no kind */
        { { { 5, 1, 3 } }, 1, 0, -1 },
        { { { 5, 5, PAGES_ZERO }, { 9, 1, PAGES_ZERO } }, 2, 0, -1 }, /* overlapping */
        { { { 5, 1, PAGES_ZERO }, { 4, 1, PAGES_ZERO } }, 2, 0, -1 }, /* descending */
        { { { 5, 2, PAGES_DATA } }, 1, 1, -1 },                       /* data missing */
        { { { 5, 2, PAGES_DATA } }, 1, 3, -1 },                       /* and too much */
        { { { 5, PAGES_DATA_MAX, PAGES_DATA } }, 1, PAGES_DATA_MAX, 0 },
        { { { 5, PAGES_DATA_MAX + 1, PAGES_DATA } }, 1, PAGES_DATA_MAX + 1, -1 },
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (decode_table(rows[i].run, rows[i].runs, rows[i].data_pages, 100) != rows[i].rc)
            fail_msg("row %u", i);

    static uint8_t many[PAGES_TABLE_MAX + PAGES_RUN_BYTES];
    static struct pages_body got;
    struct err err;
    for (uint32_t i = 0; i <= PAGES_RUNS_MAX; i++) { /* each one page, zero */
        many[4 + i * 16] = (uint8_t)i;
        many[5 + i * 16] = (uint8_t)(i >> 8);
        many[12 + i * 16] = 1;
        many[16 + i * 16] = PAGES_ZERO;
    }
    many[0] = 0x01, many[1] = 0x04; /* PAGES_RUNS_MAX + 1 */
    assert_int_not_equal(pages_body_decode(many, 4 + 1025 * 16, 1, 5000, &got, &err), 0);
    many[0]--;
    assert_int_equal(pages_body_decode(many, 4 + 1024 * 16, 1, 5000, &got, &err), 0);
    assert_int_equal(got.pages[PAGES_ZERO], 1024);
}

static void test_page_table_truncation(void **state)
{
    (void)state;
    struct pages_run run[3] = { { 1, 2, PAGES_ZERO }, { 5, 1, PAGES_DATA }, { 7, 2, PAGES_DELTA } };
    static uint8_t body[8192];
    static struct pages_body got;
    struct err err;
    for (uint16_t version = 1; version < 3; version++) {
        uint32_t data = 4096 + (version > 1 ? 2 * 14 : 0);
        uint32_t table =
            (uint32_t)pages_table_encode(run, version + 1u, version, PACKING_NONE, data, body);
        for (uint32_t len = 0; len < table + data; len++)
            assert_int_not_equal(pages_body_decode(body, len, version, 100, &got, &err), 0);
        assert_int_equal(pages_body_decode(body, table + data, version, 100, &got, &err), 0);
        assert_int_not_equal(pages_body_decode(body, table + data + 1, version, 100, &got, &err),
                             0);
    }
}

/* Packed bodies whose lengths cannot be right are refused before anything is unpacked. */
static void test_packed_lengths(void **state)
{
    (void)state;
    static const struct {
        struct pages_run run;
        uint32_t packing, plain, data;
        int good;
    } rows[] = {
        { { 0, 2, PAGES_DATA }, PACKING_LZ4, 8192, 100, 1 },
        { { 0, 2, PAGES_DATA }, PACKING_ZSTD, 8192, 8191, 1 },
        { { 0, 2, PAGES_DATA }, PACKING_ZSTD, 8192, 8192, 0 }, /* no shorter */
        { { 0, 2, PAGES_DATA }, PACKING_ZSTD, 8192, 0, 0 },
        { { 0, 2, PAGES_DATA }, PACKING_LZ4, 8191, 100, 0 },
        { { 0, 2, PAGES_DATA }, PACKING_LZ4, 8193, 100, 0 },
        { { 0, 2, PAGES_DATA }, PACKING_LZ4, UINT32_MAX, 100, 0 }, /* a bomb */
        { { 0, 2, PAGES_DATA }, PACKING_MAX, 8192, 100, 0 },
        { { 0, 65, PAGES_DATA }, PACKING_LZ4, 65 * 4096, 100, 0 },
        { { 0, 65, PAGES_DELTA }, PACKING_LZ4, 65 * 100, 100, 0 },
        { { 0, 2, PAGES_DELTA }, PACKING_LZ4, 2 * 2050, 100, 1 },
        { { 0, 2, PAGES_DELTA }, PACKING_LZ4, 2 * 2050 + 1, 100, 0 },
        { { 0, 2, PAGES_DELTA }, PACKING_NONE, 3, 3, 0 },
    };
    static uint8_t body[PAGES_BODY_MAX];
    static struct pages_body got;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err = { 0 };
        uint32_t table =
            (uint32_t)pages_table_encode(&rows[i].run, 1, 2, (enum pages_packing)rows[i].packing,
                                         rows[i].plain, body);
        int rc = pages_body_decode(body, table + rows[i].data, 2, 100, &got, &err);
        if ((rc == 0) != rows[i].good)
            fail_msg("row %u: %s", i, err.text);
    }
}

static uint64_t roll(uint64_t *seed, uint64_t below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed % below;
}

static void test_delta_round_trip(void **state)
{
    (void)state;
    static uint8_t was[4096], is[4096], delta[PAGES_DELTA_MAX];
    uint64_t seed = 7, refused = 0;
    assert_int_equal(pages_delta_encode(was, is, delta), 0);
    for (int round = 0; round < 3000; round++) {
        memcpy(is, was, sizeof(is));
        for (uint64_t n = roll(&seed, 1 + (uint64_t)round / 4); n > 0; n--)
            is[roll(&seed, sizeof(is))] ^= (uint8_t)roll(&seed, 256);
        int length = pages_delta_encode(was, is, delta);
        if (length < 0) {
            refused++;
        } else {
            pages_delta_apply(was, delta, (uint32_t)length);
            assert_memory_equal(was, is, sizeof(is));
        }
        memcpy(was, is, sizeof(is));
    }
    assert_in_range(refused, 10, 2900);
}

/* Whatever a delta's bytes: it is refused, or applies within its page (the sanitizer would tell). */
static void test_delta_hostile(void **state)
{
    (void)state;
    static struct pages_body body;
    uint64_t seed = 99, sound = 0;
    for (int round = 0; round < 20000; round++) {
        static const uint8_t none[4096];
        static uint8_t real[PAGES_DELTA_MAX], changed[4096];
        memset(changed, 0, sizeof(changed));
        for (uint64_t n = 1 + roll(&seed, 6); n > 0; n--)
            changed[roll(&seed, sizeof(changed))] = 1;
        uint32_t length = (uint32_t)pages_delta_encode(none, changed, real);
        for (uint64_t n = roll(&seed, 3); n > 0; n--)
            real[roll(&seed, length)] = (uint8_t)roll(&seed, roll(&seed, 2) ? 4 : 256);
        uint8_t *page = malloc(4096), *plain = malloc(2 + length);
        struct err err;
        memcpy(plain + 2, real, length);
        uint32_t said = roll(&seed, 8) ? length : (uint32_t)roll(&seed, 65536);
        plain[0] = (uint8_t)said;
        plain[1] = (uint8_t)(said >> 8);
        body = (struct pages_body){ .runs = 1,
                                    .run = { { 0, 1, PAGES_DELTA } },
                                    .pages = { [PAGES_DELTA] = 1 },
                                    .plain_bytes = 2 + length };
        if (pages_data_check(&body, plain, &err) == 0) {
            pages_delta_apply(page, plain + 2, said);
            sound += said > 0;
        }
        free(page);
        free(plain);
    }
    assert_in_range(sound, 1000, 19000);
}

/* The example in docs/stream.md is what is written. */
static void test_example_of_the_manual(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf shown = { 0 }, written = { 0 };
    struct stream_header header = stream_header_ours();
    struct stream_end end = { 0 };
    char *text, *save = NULL;
    size_t len;
    assert_int_equal(fd_read_file(SOURCE_ROOT "/docs/stream.md", 1 << 20, &text, &len), 0);
    char *section = strstr(text, "## A small stream in hex");
    assert_non_null(section);
    for (char *line = strtok_r(section, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int taken;
        unsigned byte;
        if (strncmp(line, "## Rules", 8) == 0)
            break;
        if (strncmp(line, "    ", 4) != 0)
            continue;
        line[strnlen(line, 56)] = '\0'; /* pairs of digits; behind them come words */
        for (const char *at = line; sscanf(at, " %2x%n", &byte, &taken) == 1; at += taken)
            buf_put_u8(&shown, (uint8_t)byte);
    }
    free(text);

    stream_header_encode(&header, buf_grow(&written, STREAM_HEADER_BYTES));
    section_put(&written, SECTION_END, 0, 0, &stream_end_schema, &end);
    assert_int_equal(shown.len, written.len);
    assert_memory_equal(shown.data, written.data, written.len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_flips),   cmocka_unit_test(test_header_of_others),
        cmocka_unit_test(test_section_flips),  cmocka_unit_test(test_section_too_long),
        cmocka_unit_test(test_page_tables),    cmocka_unit_test(test_page_table_truncation),
        cmocka_unit_test(test_packed_lengths), cmocka_unit_test(test_delta_round_trip),
        cmocka_unit_test(test_delta_hostile),  cmocka_unit_test(test_example_of_the_manual),
    };
    return cmocka_run_group_tests_name("wire_stream", tests, NULL, NULL);
}
