/* The dump: whole JSON whatever it is fed, damage found wherever it is, nothing damaged
 * believed. */
#include "wire.h"

#include "base/fd.h"
#include "base/gpa.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const json_t *section_of(const json_t *dump, const char *type)
{
    const json_t *one;
    size_t i;
    json_array_foreach (json_object_get(dump, "sections"), i, one)
        if (strcmp(json_string_value(json_object_get(one, "type")), type) == 0)
            return one;
    return NULL;
}

static json_int_t number(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    assert_true(json_is_integer(v));
    return json_integer_value(v);
}

static void test_sound_stream(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf stream = { 0 };
    struct err err;
    int rc;
    wire_stream(&stream, 2);
    json_t *dump = wire_dump(stream.data, stream.len, &rc, &err);
    assert_int_equal(rc, 0);
    assert_int_equal(json_array_size(json_object_get(dump, "damage")), 0);
    assert_int_equal(number(json_object_get(dump, "header"), "version"), STREAM_VERSION);
    const json_t *totals = json_object_get(dump, "totals");
    assert_int_equal(number(totals, "bytes"), stream.len);
    assert_int_equal(number(totals, "sections"), wire_section_count + 1);
    assert_int_equal(number(totals, "data_pages"), 2);
    assert_int_equal(number(totals, "zero_pages"), 4096);
    const json_t *pages = json_object_get(section_of(dump, "pages"), "body");
    assert_int_equal(number(pages, "first_page"), 3);
    assert_int_equal(number(pages, "last_page"), 5001);
    assert_int_equal(number(json_object_get(section_of(dump, "machine"), "body"), "memory_bytes"),
                     64 << 20);
    json_decref(dump);
}

static void test_truncation_at_every_byte(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf stream = { 0 };
    wire_stream(&stream, 0);
    for (size_t len = 0; len < stream.len; len++) {
        struct err err = { 0 };
        int rc;
        json_t *dump = wire_dump(stream.data, len, &rc, &err);
        assert_int_equal(rc, -EBADMSG);
        assert_int_equal(json_array_size(json_object_get(dump, "damage")), 1);
        assert_int_equal(number(json_object_get(dump, "totals"), "bytes"), len);
        assert_true(err.fault == ERR_PEER && strstr(err.text, "at byte "));
        json_decref(dump);
    }
}

static void test_flip_in_every_byte(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf stream = { 0 };
    wire_stream(&stream, 0);
    for (size_t i = 0; i < stream.len; i++) {
        struct err err = { 0 };
        int rc;
        stream.data[i] ^= (uint8_t)(1u << i % 8);
        json_t *dump = wire_dump(stream.data, stream.len, &rc, &err);
        assert_int_equal(rc, -EBADMSG);
        const json_t *first = json_array_get(json_object_get(dump, "damage"), 0);
        assert_true(number(first, "offset") <= (json_int_t)i);
        json_decref(dump);
        stream.data[i] ^= (uint8_t)(1u << i % 8);
    }
}

/* A body that is damaged is not shown; what stands behind it is. */
static void test_reads_on_after_a_damaged_body(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf stream = { 0 };
    struct err err;
    int rc;
    wire_stream(&stream, 1);
    stream.data[STREAM_HEADER_BYTES + STREAM_SECTION_BYTES] ^= 1;
    json_t *dump = wire_dump(stream.data, stream.len, &rc, &err);
    assert_int_equal(rc, -EBADMSG);
    assert_string_equal(err.text, "at byte 40: section machine 0 damaged (checksum)");
    assert_true(json_is_false(json_object_get(section_of(dump, "machine"), "checksum_ok")));
    assert_true(json_is_null(json_object_get(section_of(dump, "machine"), "body")));
    assert_true(json_is_object(json_object_get(section_of(dump, "vcpu"), "body")));
    assert_non_null(section_of(dump, "end"));
    json_decref(dump);
}

static void put_header(struct buf *out)
{
    struct stream_header header = stream_header_ours();
    uint8_t *at = buf_grow(out, STREAM_HEADER_BYTES);
    assert_non_null(at);
    stream_header_encode(&header, at);
}

static void put_raw(struct buf *out, uint16_t type, uint16_t version, uint16_t flags,
                    const void *body, uint32_t len)
{
    struct section section = { .type = type,
                               .version = version,
                               .flags = flags,
                               .length = len,
                               .body_sum = stream_sum(body, len) };
    uint8_t head[STREAM_SECTION_BYTES];
    section_encode(&section, head);
    buf_put(out, head, sizeof(head));
    buf_put(out, body, len);
}

static void test_unknown_sections(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf stream = { 0 };
    struct stream_end end = { .sections = 2 };
    struct err err;
    int rc;
    put_header(&stream);
    put_raw(&stream, 60, 9, SECTION_OPTIONAL, "later", 5);
    put_raw(&stream, 61, 1, 0, "", 0);
    section_put(&stream, SECTION_END, 0, 0, &stream_end_schema, &end);
    json_t *dump = wire_dump(stream.data, stream.len, &rc, &err);
    assert_int_equal(rc, 0);
    const json_t *list = json_object_get(dump, "sections"), *first = json_array_get(list, 0),
                 *second = json_array_get(list, 1);
    assert_int_equal(number(first, "number"), 60);
    assert_int_equal(number(first, "length"), 5);
    assert_true(json_is_true(json_object_get(first, "optional")) &&
                json_is_false(json_object_get(first, "known")));
    assert_true(json_is_false(json_object_get(second, "optional")) &&
                json_is_false(json_object_get(second, "known")));
    json_decref(dump);
}

/* Sound checksums around contents that make no sense. */
static void test_senseless_contents(void **state)
{
    (void)state;
    static const uint8_t overlap[4 + 32] = {
        2, 0, 0,  0, 9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0,
        0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0
    };
    static const struct {
        uint16_t type, version;
        const void *body;
        uint32_t len;
        const char *names;
    } rows[] = {
        { SECTION_PAGES, 1, "", 0, "pages section of 0 bytes" },
        { SECTION_PAGES, 1, "\xff\xff\xff\xff", 4, "and the most is" },
        { SECTION_PAGES, 1, "\x02\x00\x00\x00", 4, "does not hold its table" },
        { SECTION_PAGES, 1, overlap, sizeof(overlap), "out of order" },
        { SECTION_PAGES, 3, overlap, sizeof(overlap), "version 3" },
        { SECTION_VM, 1, "abc", 3, "section vm 0: hv_vm_state" },
        { SECTION_VM, 99, "abc", 3, "version 99" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP_BUF struct buf stream = { 0 };
        struct stream_end end = { .sections = 1 };
        struct err err;
        int rc;
        put_header(&stream);
        put_raw(&stream, rows[i].type, rows[i].version, 0, rows[i].body, rows[i].len);
        section_put(&stream, SECTION_END, 0, 0, &stream_end_schema, &end);
        json_t *dump = wire_dump(stream.data, stream.len, &rc, &err);
        assert_int_equal(rc, -EBADMSG);
        if (!strstr(err.text, rows[i].names))
            fail_msg("row %u: %s", i, err.text);
        assert_int_equal(number(json_object_get(dump, "totals"), "damage"), 1);
        json_decref(dump);
    }
}

static void test_end_is_the_end(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf stream = { 0 };
    struct stream_end end = { .sections = 1, .data_pages = UINT64_MAX };
    struct err err;
    int rc;
    put_header(&stream);
    section_put(&stream, SECTION_END, 0, 0, &stream_end_schema, &end);
    json_t *dump = wire_dump(stream.data, stream.len, &rc, &err);
    assert_int_equal(rc, -EBADMSG);
    assert_int_equal(number(json_object_get(dump, "totals"), "damage"), 2);
    json_decref(dump);

    buf_reset(&stream);
    end = (struct stream_end){ 0 };
    put_header(&stream);
    section_put(&stream, SECTION_END, 0, 0, &stream_end_schema, &end);
    buf_put_u8(&stream, 0);
    dump = wire_dump(stream.data, stream.len, &rc, &err);
    assert_int_equal(rc, -EBADMSG);
    assert_non_null(strstr(err.text, "bytes after the end"));
    json_decref(dump);
}

static void test_many_damages_are_counted_not_kept(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf stream = { 0 };
    struct err err;
    int rc;
    put_header(&stream);
    for (unsigned i = 0; i < 5000; i++)
        put_raw(&stream, SECTION_VM, 1, 0, "abc", 3);
    json_t *dump = wire_dump(stream.data, stream.len, &rc, &err);
    assert_int_equal(rc, -EBADMSG);
    assert_int_equal(number(json_object_get(dump, "totals"), "damage"), 5001);
    assert_int_equal(json_array_size(json_object_get(dump, "damage")), 100);
    json_decref(dump);
}

static void test_machine_failures(void **state)
{
    (void)state;
    struct err err = { 0 };
    FILE *out = fopen("/dev/null", "w");
    assert_non_null(out);
    assert_int_equal(dump_file("/nonexistent/file", wire_sections, wire_section_count, out, &err),
                     -ENOENT);
    assert_int_equal(err.fault, ERR_CALLER);
    assert_int_equal(dump_file("/", wire_sections, wire_section_count, out, &err), -EISDIR);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(dump_file("/dev/null", wire_sections, wire_section_count,
                               out = fopen("/dev/full", "w"), &err),
                     -EIO);
    (void)fclose(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound_stream),
        cmocka_unit_test(test_truncation_at_every_byte),
        cmocka_unit_test(test_flip_in_every_byte),
        cmocka_unit_test(test_reads_on_after_a_damaged_body),
        cmocka_unit_test(test_unknown_sections),
        cmocka_unit_test(test_senseless_contents),
        cmocka_unit_test(test_end_is_the_end),
        cmocka_unit_test(test_many_damages_are_counted_not_kept),
        cmocka_unit_test(test_machine_failures),
    };
    return cmocka_run_group_tests_name("wire_dump", tests, NULL, NULL);
}
