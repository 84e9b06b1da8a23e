#include "state/stream.h"
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define THING(F, T) F(T, u32, x) F(T, blob, data, 100)
SCHEMA_STRUCT(thing, THING);
SCHEMA_DEFINE(thing, 2, THING)

/* The bytes of version 1, for ever: a change here is a change of the format. */
static const uint8_t golden_header[STREAM_HEADER_BYTES] = {
    'g', 'o', 'd', 'w', 'i',  't',  '\r', '\n', 1,    0,    1,    0,    62, 0,
    0,   0,   0,   0,   0,    0,    0,    0,    0,    0,    0,    0,    0,  0,
    0,   0,   0,   0,   0x46, 0x40, 0xc0, 0xeb, 0x8b, 0x3b, 0x50, 0xdf,
};
static const uint8_t golden_section[STREAM_SECTION_BYTES + 8 + 3] = {
    6,    0,    2,    0,    3,    0,    1, 0, 11, 0, 0, 0, 0xba, 0xd5, 0x58, 0x57, 0x7b, 0xdb,
    0xa9, 0x3a, 0xb9, 0x56, 0x43, 0x9b, 5, 0, 0,  0, 3, 0, 0,    0,    'a',  'b',  'c',
};

static void header_bytes_are_the_golden_ones(void **state)
{
    (void)state;
    struct stream_header ours = stream_header_ours(), got = { 0 };
    uint8_t bytes[STREAM_HEADER_BYTES];
    stream_header_encode(&ours, bytes);
    assert_memory_equal(bytes, golden_header, sizeof(bytes));
    assert_int_equal(stream_header_decode(golden_header, &got, NULL), 0);
    assert_memory_equal(&got, &ours, sizeof(got));
}

static void header_damage_is_seen_at_every_bit(void **state)
{
    (void)state;
    for (size_t bit = 0; bit < STREAM_HEADER_BYTES * 8; bit++) {
        uint8_t bytes[STREAM_HEADER_BYTES];
        struct stream_header got = { .version = 99 };
        struct err err = { 0 };
        memcpy(bytes, golden_header, sizeof(bytes));
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(stream_header_decode(bytes, &got, &err), -EBADMSG);
        assert_int_equal(err.fault, ERR_PEER);
        assert_int_equal(got.version, 99);
    }
    for (size_t at = 0; at < STREAM_HEADER_BYTES; at++) {
        for (unsigned value = 0; value < 256; value++) {
            uint8_t bytes[STREAM_HEADER_BYTES];
            struct stream_header got;
            memcpy(bytes, golden_header, sizeof(bytes));
            bytes[at] = (uint8_t)value;
            assert_int_equal(stream_header_decode(bytes, &got, NULL),
                             value == golden_header[at] ? 0 : -EBADMSG);
        }
    }
}

static int decode_as(struct stream_header header, struct err *err)
{
    uint8_t bytes[STREAM_HEADER_BYTES];
    struct stream_header got;
    stream_header_encode(&header, bytes);
    return stream_header_decode(bytes, &got, err);
}

static void header_says_what_differs(void **state)
{
    (void)state;
    struct stream_header h = stream_header_ours();
    struct err err = { 0 };
    h.arch = 183;
    assert_int_equal(decode_as(h, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "architecture 183"));
    h = stream_header_ours();
    h.required = 0x80000001;
    assert_int_equal(decode_as(h, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "features 0x80000001"));
    h = stream_header_ours();
    h.version = h.oldest_reader = STREAM_VERSION + 1;
    assert_int_equal(decode_as(h, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "stream version 2"));
    h.oldest_reader = STREAM_VERSION; /* newer, but says that this build can read it */
    assert_int_equal(decode_as(h, &err), 0);
    h = stream_header_ours();
    h.version = 0;
    assert_int_equal(decode_as(h, &err), -EPROTONOSUPPORT);
    h = stream_header_ours();
    h.optional = UINT32_MAX;
    assert_int_equal(decode_as(h, &err), 0);
}

static const struct thing sample = { .x = 5, .data_len = 3, .data = { 'a', 'b', 'c' } };

static void section_bytes_are_the_golden_ones(void **state)
{
    (void)state;
    CLEANUP_BUF struct buf buf = { 0 };
    buf_put_u8(&buf, 0xee); /* sections need no alignment */
    section_put(&buf, SECTION_VCPU, 3, SECTION_OPTIONAL, &thing_schema, &sample);
    assert_int_equal(buf_status(&buf), 0);
    assert_int_equal(buf.len, 1 + sizeof(golden_section));
    assert_memory_equal(buf.data + 1, golden_section, sizeof(golden_section));

    struct section got;
    struct thing thing;
    assert_int_equal(section_decode(golden_section, &got, NULL), 0);
    assert_int_equal(got.type, SECTION_VCPU);
    assert_int_equal(got.version, 2);
    assert_int_equal(got.instance, 3);
    assert_int_equal(got.flags, SECTION_OPTIONAL);
    assert_int_equal(got.length, 11);
    const uint8_t *body = golden_section + STREAM_SECTION_BYTES;
    assert_int_equal(section_check_body(&got, body, NULL), 0);
    assert_int_equal(section_get(&got, body, &thing_schema, &thing, NULL), 0);
    assert_int_equal(thing.x, 5);
    assert_int_equal(thing.data_len, 3);
    assert_memory_equal(thing.data, "abc", 3);
}

/* One bit or any one byte changed anywhere in the section: the head or the body is refused. */
static void section_damage_is_seen_at_every_bit(void **state)
{
    (void)state;
    for (size_t at = 0; at < sizeof(golden_section); at++) {
        for (unsigned flip = 1; flip < 256; flip++) {
            uint8_t bytes[sizeof(golden_section)];
            struct section got = { .length = 99 };
            struct err err = { 0 };
            memcpy(bytes, golden_section, sizeof(bytes));
            bytes[at] ^= (uint8_t)flip;
            if (at < STREAM_SECTION_BYTES) {
                assert_int_equal(section_decode(bytes, &got, &err), -EBADMSG);
                assert_int_equal(got.length, 99);
            } else {
                assert_int_equal(section_decode(bytes, &got, &err), 0);
                assert_int_equal(section_check_body(&got, bytes + STREAM_SECTION_BYTES, &err),
                                 -EBADMSG);
                assert_string_equal(err.text, "section vcpu 3 damaged (checksum)");
            }
            assert_int_equal(err.fault, ERR_PEER);
        }
    }
}

/* A peer can compute checksums too: a length that is honest about its sum is bounded all the same. */
static void section_length_is_bounded(void **state)
{
    (void)state;
    static const uint32_t lengths[] = { 0, STREAM_BODY_MAX, STREAM_BODY_MAX + 1, UINT32_MAX };
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        struct section section = { .type = SECTION_PAGES, .length = lengths[i] }, got;
        struct err err = { 0 };
        uint8_t bytes[STREAM_SECTION_BYTES];
        section_encode(&section, bytes);
        assert_int_equal(section_decode(bytes, &got, &err), i < 2 ? 0 : -EBADMSG);
        if (i >= 2)
            assert_non_null(strstr(err.text, "section pages of"));
    }
}

static void section_get_names_the_section(void **state)
{
    (void)state;
    struct section section = {
        .type = SECTION_VIRTIO_NET, .instance = 1, .version = 3, .length = 4
    };
    static const uint8_t body[4] = { 0 };
    struct thing thing;
    struct err err = { 0 };
    assert_int_equal(section_get(&section, body, &thing_schema, &thing, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "section virtio-net 1: thing: version 3"));
    section.version = 2;
    assert_int_equal(section_get(&section, body, &thing_schema, &thing, &err), -EBADMSG);
    assert_string_equal(err.text, "section virtio-net 1: thing.data: cut short");
}

static void empty_body(void **state)
{
    (void)state;
    struct section section = { .type = SECTION_END, .body_sum = stream_sum("", 0) }, got;
    uint8_t bytes[STREAM_SECTION_BYTES];
    section_encode(&section, bytes);
    assert_int_equal(section_decode(bytes, &got, NULL), 0);
    assert_int_equal(section_check_body(&got, NULL, NULL), 0);
}

static void every_type_has_a_name(void **state)
{
    (void)state;
    for (uint16_t type = SECTION_END; type < SECTION_STATE_MAX; type++)
        assert_string_not_equal(section_type_name(type), "unknown");
    assert_string_equal(section_type_name(0), "unknown");
    assert_string_equal(section_type_name(SECTION_STATE_MAX), "unknown");
    assert_string_equal(section_type_name(UINT16_MAX), "unknown");
    assert_string_equal(section_type_name(SECTION_MESSAGE), "message");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_bytes_are_the_golden_ones),
        cmocka_unit_test(header_damage_is_seen_at_every_bit),
        cmocka_unit_test(header_says_what_differs),
        cmocka_unit_test(section_bytes_are_the_golden_ones),
        cmocka_unit_test(section_damage_is_seen_at_every_bit),
        cmocka_unit_test(section_length_is_bounded),
        cmocka_unit_test(section_get_names_the_section),
        cmocka_unit_test(empty_body),
        cmocka_unit_test(every_type_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
