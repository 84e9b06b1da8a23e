#include "state/schema.h"
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PART(F, T) \
    F(T, u16, id)  \
    F(T, text, label, 5)
SCHEMA_STRUCT(part, PART);
SCHEMA_DEFINE(part, 1, PART)

/* Every kind of field there is, in three versions. */
#define WHOLE_1(F, T)    \
    F(T, u8, a)          \
    F(T, u16, b)         \
    F(T, u32, c)         \
    F(T, u64, d)         \
    F(T, u8s, as, 3)     \
    F(T, u16s, bs, 2)    \
    F(T, u32s, cs, 2)    \
    F(T, u64s, ds, 2)    \
    F(T, blob, bytes, 6) \
    F(T, text, name, 8)  \
    F(T, list, parts, part, 3)
#define WHOLE(F, T)       \
    WHOLE_1(F, T)         \
    F(T, since, 2)        \
    F(T, u32, later)      \
    F(T, since, 3)        \
    F(T, text, latest, 4) \
    F(T, u8, last)
SCHEMA_STRUCT(whole, WHOLE);
SCHEMA_DEFINE(whole, 3, WHOLE)

static const struct whole sample = {
    .a = 0x01,
    .b = 0x0302,
    .c = 0x07060504,
    .d = 0xf0e0d0c0b0a0908,
    .as = { 1, 2, 3 },
    .bs = { 4, 5 },
    .cs = { 6, 7 },
    .ds = { 8, UINT64_MAX },
    .bytes_len = 4,
    .bytes = { 9, 8, 7, 6 },
    .name = "web1",
    .parts_count = 2,
    .parts = { { .id = 1, .label = "one" }, { .id = 2, .label = "four" } },
    .later = 77,
    .latest = "abc",
    .last = 5,
};

static const uint8_t sample_1[] = {
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
    0x0b, 0x0c, 0x0d, 0x0e, 0x0f, /* a-d */
    1,    2,    3,    4,    0,    5,    0,    6,    0,    0,
    0,    7,    0,    0,    0, /* as-cs */
    8,    0,    0,    0,    0,    0,    0,    0,    0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff,          /* ds */
    4,    0,    0,    0,    9,    8,    7,    6, /* bytes */
    4,    0,    'w',  'e',  'b',  '1',           /* name */
    2,    0,    0,    0,    1,    0,    3,    0,    'o',  'n',
    'e',  2,    0,    4,    0,    'f',  'o',  'u',  'r', /* parts */
};
static const uint8_t sample_2_adds[] = { 77, 0, 0, 0 };
static const uint8_t sample_3_adds[] = { 3, 0, 'a', 'b', 'c', 5 };

enum { OFFSET_BLOB = 46, OFFSET_TEXT = OFFSET_BLOB + 8, OFFSET_LIST = OFFSET_TEXT + 6 };

static int decode(uint16_t version, const void *bytes, size_t len, struct whole *ret,
                  struct err *err)
{
    struct cursor in = cursor_of(bytes, len);
    return schema_decode(&whole_schema, version, &in, ret, err);
}

static void encodes_as_documented(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf buf = { 0 };
    schema_encode(&whole_schema, 1, &sample, &buf);
    assert_int_equal(buf.len, sizeof(sample_1));
    assert_memory_equal(buf.data, sample_1, sizeof(sample_1));
    buf_reset(&buf);
    schema_encode(&whole_schema, 3, &sample, &buf);
    assert_int_equal(buf.len, sizeof(sample_1) + sizeof(sample_2_adds) + sizeof(sample_3_adds));
    assert_memory_equal(buf.data, sample_1, sizeof(sample_1));
    assert_memory_equal(buf.data + sizeof(sample_1), sample_2_adds, sizeof(sample_2_adds));
    assert_memory_equal(buf.data + sizeof(sample_1) + sizeof(sample_2_adds), sample_3_adds,
                        sizeof(sample_3_adds));
}

/* Each version there and back; what it lacks comes back as zero, also over an object full of rubbish. */
static void round_trip_of_every_version(void **state)
{
    (void)state;
    for (uint16_t version = 1; version <= 3; version++) {
        CLEANUP_BUF struct buf buf = { 0 }, again = { 0 };
        struct whole got, want = sample;
        schema_encode(&whole_schema, version, &sample, &buf);
        memset(&got, 0xaa, sizeof(got));
        assert_int_equal(decode(version, buf.data, buf.len, &got, NULL), 0);
        if (version < 2)
            want.later = 0;
        if (version < 3) {
            memset(want.latest, 0, sizeof(want.latest));
            want.last = 0;
        }
        assert_int_equal(got.later, want.later);
        assert_string_equal(got.latest, want.latest);
        assert_int_equal(got.last, want.last);
        assert_string_equal(got.name, "web1");
        assert_true(got.ds[1] == UINT64_MAX && got.d == sample.d);
        schema_encode(&whole_schema, version, &got, &again);
        assert_int_equal(again.len, buf.len);
        assert_memory_equal(again.data, buf.data, buf.len);
    }
}

/* A version's bytes are no other version's. */
static void version_and_bytes_must_agree(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf buf = { 0 };
    struct whole got;
    struct err err = { 0 };
    schema_encode(&whole_schema, 2, &sample, &buf);
    assert_int_equal(decode(1, buf.data, buf.len, &got, &err), -EBADMSG);
    assert_string_equal(err.text, "whole: 4 bytes left over");
    assert_int_equal(decode(3, buf.data, buf.len, &got, &err), -EBADMSG);
    assert_string_equal(err.text, "whole.latest: cut short");
    assert_int_equal(err.fault, ERR_PEER);
    static const uint16_t unknown[] = { 0, 4, UINT16_MAX };
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        assert_int_equal(decode(unknown[i], buf.data, buf.len, &got, &err), -EPROTONOSUPPORT);
}

/* Cut at every byte and with one byte too many. Copied to the heap, so that the address sanitizer sees
 * every read past the end. */
static void any_other_length_is_refused(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf buf = { 0 };
    struct whole got;
    schema_encode(&whole_schema, 3, &sample, &buf);
    for (size_t len = 0; len <= buf.len + 1; len++) {
        uint8_t *copy = calloc(1, len + !len);
        assert_non_null(copy);
        memcpy(copy, buf.data, MIN(len, buf.len));
        assert_int_equal(decode(3, copy, len, &got, NULL), len == buf.len ? 0 : -EBADMSG);
        free(copy);
    }
}

static void hostile_counts_are_refused(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        unsigned width;
        uint32_t most;
        const char *why;
    } counts[] = {
        { OFFSET_BLOB, 4, 6, "whole.bytes: longer than allowed" },
        { OFFSET_TEXT, 2, 7, "whole.name: longer than allowed" },
        { OFFSET_LIST, 4, 3, "whole.parts: more items than allowed" },
        { OFFSET_LIST + 6, 2, 4, "part.label: longer than allowed" },
    };
    static const uint32_t extra[] = { 1,      2,          0x100,      0x7fff,
                                      0xff00, 0x7fffffff, 0x80000000, 0xfffffff0 };
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        for (size_t k = 0; k < ARRAY_LEN(extra); k++) {
            uint64_t count = (uint64_t)counts[i].most + extra[k];
            if (count >> (8 * counts[i].width))
                continue;
            uint8_t bytes[sizeof(sample_1) + 64] = { 0 };
            struct whole got;
            struct err err = { 0 };
            memcpy(bytes, sample_1, sizeof(sample_1));
            for (unsigned b = 0; b < counts[i].width; b++)
                bytes[counts[i].offset + b] = (uint8_t)(count >> (8 * b));
            assert_int_equal(decode(1, bytes, sizeof(bytes), &got, &err), -EBADMSG);
            assert_string_equal(err.text, counts[i].why);
        }
    }
}

static void text_with_a_nul_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[sizeof(sample_1)];
    struct whole got;
    struct err err = { 0 };
    memcpy(bytes, sample_1, sizeof(sample_1));
    bytes[OFFSET_TEXT + 2] = 0;
    assert_int_equal(decode(1, bytes, sizeof(bytes), &got, &err), -EBADMSG);
    assert_string_equal(err.text, "whole.name: contains a NUL");
}

/* Random damage: refused, or accepted as something that encodes to the very same bytes. */
static void what_is_accepted_is_canonical(void **state)
{
    (void)state;
    unsigned seed = 1, accepted = 0;
    for (int run = 0; run < 20000; run++) {
        CLEANUP_BUF struct buf buf = { 0 }, again = { 0 };
        struct whole got;
        schema_encode(&whole_schema, 3, &sample, &buf);
        for (int hits = 1 + rand_r(&seed) % 3; hits > 0; hits--)
            buf.data[(size_t)rand_r(&seed) % buf.len] = (uint8_t)rand_r(&seed);
        if (decode(3, buf.data, buf.len, &got, NULL))
            continue;
        accepted++;
        schema_encode(&whole_schema, 3, &got, &again);
        assert_int_equal(again.len, buf.len);
        assert_memory_equal(again.data, buf.data, buf.len);
        json_t *json = schema_json(&whole_schema, &got);
        assert_non_null(json);
        json_decref(json);
    }
    assert_true(accepted > 1000);
}

static void prints_every_field(void **state)
{
    (void)state;
    json_t *json = schema_json(&whole_schema, &sample);
    char *text = json_dumps(json, JSON_COMPACT);
    assert_string_equal(
        text,
        "{\"a\":1,\"b\":770,\"c\":117835012,\"d\":1084818905618843912,\"as\":\"010203\",\"bs\":[4,5],"
        "\"cs\":[6,7],\"ds\":[8,\"0xffffffffffffffff\"],\"bytes\":\"09080706\",\"name\":\"web1\",\"parts\":"
        "[{\"id\":1,\"label\":\"one\"},{\"id\":2,\"label\":\"four\"}],\"later\":77,\"latest\":\"abc\",\"last\":5}");
    free(text);
    json_decref(json);
}

static void prints_text_that_is_not_utf8(void **state)
{
    (void)state;
    struct whole object = { .name = "\xff\xfe" };
    json_t *json = schema_json(&whole_schema, &object);
    assert_string_equal(json_string_value(json_object_get(json, "name")), "fffe");
    json_decref(json);
}

/* Same struct, other bytes: each change of them must be seen; a capacity is no part of the bytes. */
#define SAME(F, T) F(T, u32, x) F(T, blob, y, 10)
#define ROOMIER(F, T) F(T, u32, x) F(T, blob, y, 20)
#define WIDER(F, T) F(T, u64, x) F(T, blob, y, 10)
#define RENAMED(F, T) F(T, u32, z) F(T, blob, y, 10)
#define SWAPPED(F, T) F(T, blob, y, 10) F(T, u32, x)
#define LONGER(F, T) F(T, u32, x) F(T, blob, y, 10) F(T, since, 2) F(T, u8, w)
SCHEMA_STRUCT(same, SAME);
SCHEMA_STRUCT(roomier, ROOMIER);
SCHEMA_STRUCT(wider, WIDER);
SCHEMA_STRUCT(renamed, RENAMED);
SCHEMA_STRUCT(swapped, SWAPPED);
SCHEMA_STRUCT(longer, LONGER);
SCHEMA_DEFINE(same, 1, SAME)
SCHEMA_DEFINE(roomier, 1, ROOMIER)
SCHEMA_DEFINE(wider, 1, WIDER)
SCHEMA_DEFINE(renamed, 1, RENAMED)
SCHEMA_DEFINE(swapped, 1, SWAPPED)
SCHEMA_DEFINE(longer, 1, LONGER)

static uint64_t fingerprint_as_same(const struct schema *schema)
{
    struct schema copy = *schema;
    copy.name = "same";
    return schema_fingerprint(&copy);
}

static void fingerprint_follows_the_bytes(void **state)
{
    (void)state;
    uint64_t same = schema_fingerprint(&same_schema);
    assert_true(fingerprint_as_same(&roomier_schema) == same);
    assert_true(fingerprint_as_same(&wider_schema) != same);
    assert_true(fingerprint_as_same(&renamed_schema) != same);
    assert_true(fingerprint_as_same(&swapped_schema) != same);
    assert_true(fingerprint_as_same(&longer_schema) != same);
    struct schema newer = same_schema;
    newer.version = 2;
    assert_true(schema_fingerprint(&newer) != same);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_as_documented),
        cmocka_unit_test(round_trip_of_every_version),
        cmocka_unit_test(version_and_bytes_must_agree),
        cmocka_unit_test(any_other_length_is_refused),
        cmocka_unit_test(hostile_counts_are_refused),
        cmocka_unit_test(text_with_a_nul_is_refused),
        cmocka_unit_test(what_is_accepted_is_canonical),
        cmocka_unit_test(prints_every_field),
        cmocka_unit_test(prints_text_that_is_not_utf8),
        cmocka_unit_test(fingerprint_follows_the_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
