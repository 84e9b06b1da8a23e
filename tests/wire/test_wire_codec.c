/* Every schema: what was written is read back, and nothing but what a writer would have written
 * is. */
#include "wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static int decode(const struct schema *schema, uint16_t version, const uint8_t *bytes, size_t len,
                  void *object)
{
    /* A copy of exactly this size, so that a sanitizer sees a read past its end. */
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    struct cursor in = cursor_of(copy, len);
    struct err err = { 0 };
    int rc = schema_decode(schema, version, &in, object, &err);
    free(copy);
    if (rc) {
        assert_int_equal(err.fault, ERR_PEER);
        assert_true(strchr(err.text, '.') ||
                    strchr(err.text, ':')); /* it names the schema, mostly the field */
    }
    return rc;
}

/* encode(decode(x)) == x, for bytes that are accepted. */
static void check_canonical(const struct schema *schema, const uint8_t *bytes, size_t len,
                            void *object)
{
    if (decode(schema, schema->version, bytes, len, object))
        return;
    CLEANUP_BUF struct buf again = { 0 };
    schema_encode(schema, schema->version, object, &again);
    assert_int_equal(again.len, len);
    assert_memory_equal(again.data, bytes, len);
}

static void each_schema(void (*check)(const struct schema *schema, uint64_t *seed, void *scratch))
{
    for (size_t i = 0; i < wire_schema_count; i++) {
        uint64_t seed = 0x9e3779b97f4a7c15 + i;
        void *scratch = malloc(wire_schemas[i]->size);
        assert_non_null(scratch);
        check(wire_schemas[i], &seed, scratch);
        free(scratch);
    }
}

static void check_round_trip(const struct schema *schema, uint64_t *seed, void *scratch)
{
    static const uint32_t most[] = { 0, 3, 40, UINT32_MAX };
    for (unsigned n = 0; n < 40; n++) {
        void *object = wire_object(schema, seed, most[n % ARRAY_LEN(most)], n % 8 >= 4);
        CLEANUP_BUF struct buf bytes = { 0 };
        schema_encode(schema, schema->version, object, &bytes);
        assert_int_equal(buf_status(&bytes), 0);
        memset(scratch, 0xee, schema->size);
        assert_int_equal(decode(schema, schema->version, bytes.data, bytes.len, scratch), 0);
        assert_memory_equal(scratch, object, schema->size);
        check_canonical(schema, bytes.data, bytes.len, scratch);
        json_t *json = schema_json(schema, scratch);
        assert_int_equal(json_object_size(json) > 0, schema->field_count > 0);
        json_decref(json);
        free(object);
    }
}

static void check_truncation(const struct schema *schema, uint64_t *seed, void *scratch)
{
    void *object = wire_object(schema, seed, 20, true);
    CLEANUP_BUF struct buf bytes = { 0 };
    schema_encode(schema, schema->version, object, &bytes);
    for (size_t len = 0; len < bytes.len; len++)
        assert_int_not_equal(decode(schema, schema->version, bytes.data, len, scratch), 0);
    buf_put_u8(&bytes, 0);
    assert_int_not_equal(decode(schema, schema->version, bytes.data, bytes.len, scratch), 0);
    free(object);
}

/* Bytes nobody wrote: refused, or what a writer would have written for what was read. */
static void check_mutations(const struct schema *schema, uint64_t *seed, void *scratch)
{
    for (unsigned n = 0; n < 2000; n++) {
        void *object = wire_object(schema, seed, 4, false);
        CLEANUP_BUF struct buf bytes = { 0 };
        schema_encode(schema, schema->version, object, &bytes);
        for (unsigned k = 0; bytes.len && k <= n % 4; k++) {
            uint64_t v = wire_random(seed);
            bytes.data[v % bytes.len] = (uint8_t)(v % 3 ? v >> 32 : 0xff);
        }
        check_canonical(schema, bytes.data, bytes.len, scratch);
        free(object);
    }
}

static void check_versions(const struct schema *schema, uint64_t *seed, void *scratch)
{
    void *object = wire_object(schema, seed, 3, false);
    for (unsigned version = 0; version <= schema->version + 1u; version++) {
        CLEANUP_BUF struct buf bytes = { 0 };
        schema_encode(schema, (uint16_t)version, object, &bytes);
        bool readable = version >= 1 && version <= schema->version;
        assert_int_equal(decode(schema, (uint16_t)version, bytes.data, bytes.len, scratch) == 0,
                         readable);
    }
    free(object);
}

/* A count or length one above the capacity is refused before anything is copied. */
static void check_capacity(const struct schema *schema, uint64_t *seed, void *scratch)
{
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        struct schema before = *schema;
        if (f->kind != SCHEMA_BLOB && f->kind != SCHEMA_LIST && f->kind != SCHEMA_TEXT)
            continue;
        before.field_count = i;
        void *object = wire_object(schema, seed, 1, false);
        CLEANUP_BUF struct buf bytes = { 0 };
        schema_encode(&before, schema->version, object, &bytes);
        if (f->kind == SCHEMA_TEXT)
            buf_put_u16(&bytes, (uint16_t)f->max); /* without room for its NUL */
        else
            buf_put_u32(&bytes, f->max + 1);
        size_t more = f->kind == SCHEMA_LIST ? (size_t)(f->max + 1) * f->sub->size : f->max + 1;
        for (size_t k = 0; k < more; k++)
            buf_put_u8(&bytes, 'x');
        assert_int_not_equal(decode(schema, schema->version, bytes.data, bytes.len, scratch), 0);
        free(object);
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    each_schema(check_round_trip);
}

static void test_truncation_at_every_byte(void **state)
{
    (void)state;
    each_schema(check_truncation);
}

static void test_mutations(void **state)
{
    (void)state;
    each_schema(check_mutations);
}

static void test_versions(void **state)
{
    (void)state;
    each_schema(check_versions);
}

static void test_capacities(void **state)
{
    (void)state;
    each_schema(check_capacity);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_truncation_at_every_byte),
        cmocka_unit_test(test_mutations),  cmocka_unit_test(test_versions),
        cmocka_unit_test(test_capacities),
    };
    return cmocka_run_group_tests_name("wire_codec", tests, NULL, NULL);
}
