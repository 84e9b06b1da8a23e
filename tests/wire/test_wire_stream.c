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
    static uint8_t table[PAGES_TABLE_MAX];
    struct pages_run got[PAGES_RUNS_MAX];
    uint32_t bytes, count;
    struct err err = { 0 };
    pages_table_encode(run, runs, table);
    if (pages_table_bytes(table, &bytes, &err))
        return -1;
    int rc = pages_table_decode(table, bytes, bytes + data_pages * 4096, total, got, &count, &err);
    if (rc) {
        assert_int_equal(err.fault, ERR_PEER);
        return -1;
    }
    assert_int_equal(count, runs);
    assert_memory_equal(got, run, runs * sizeof(*run));
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

    uint8_t many[4] = { 0x01, 0x04, 0, 0 }; /* PAGES_RUNS_MAX + 1 */
    uint32_t bytes;
    struct err err;
    assert_int_not_equal(pages_table_bytes(many, &bytes, &err), 0);
    many[0]--;
    assert_int_equal(pages_table_bytes(many, &bytes, &err), 0);
    assert_int_equal(bytes, PAGES_TABLE_MAX);
}

static void test_page_table_truncation(void **state)
{
    (void)state;
    struct pages_run run[2] = { { 1, 2, PAGES_ZERO }, { 5, 1, PAGES_DATA } }, got[PAGES_RUNS_MAX];
    uint8_t table[4 + 2 * PAGES_RUN_BYTES];
    uint32_t count;
    struct err err;
    pages_table_encode(run, 2, table);
    for (uint32_t len = 0; len < sizeof(table); len++)
        assert_int_not_equal(pages_table_decode(table, len, len + 4096, 100, got, &count, &err), 0);
    assert_int_equal(pages_table_decode(table, sizeof(table), sizeof(table) + 4096, 100, got,
                                        &count, &err),
                     0);
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
        cmocka_unit_test(test_header_flips),          cmocka_unit_test(test_header_of_others),
        cmocka_unit_test(test_section_flips),         cmocka_unit_test(test_section_too_long),
        cmocka_unit_test(test_page_tables),           cmocka_unit_test(test_page_table_truncation),
        cmocka_unit_test(test_example_of_the_manual),
    };
    return cmocka_run_group_tests_name("wire_stream", tests, NULL, NULL);
}
