#include "move/message.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* A message of that type that decodes: every number set, every list and text in use. */
static void fill(const struct schema *schema, void *object, unsigned seed)
{
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        uint8_t *value = (uint8_t *)object + f->offset;
        uint32_t two = 2;
        switch ((enum schema_kind)f->kind) {
        case SCHEMA_INT:
            for (uint32_t k = 0; k < f->max * f->width; k++)
                value[k] =
                    f->max > 1 || f->width == 8 ? (uint8_t)(seed + k + 1) : (uint8_t)(k == 0);
            break;
        case SCHEMA_TEXT:
            snprintf((char *)value, f->max, "text %u", seed + i);
            break;
        case SCHEMA_BLOB:
            memcpy((uint8_t *)object + f->count_offset, &two, sizeof(two));
            break;
        case SCHEMA_LIST:
            two = two < f->max ? two : f->max;
            memcpy((uint8_t *)object + f->count_offset, &two, sizeof(two));
            for (uint32_t k = 0; k < two; k++)
                fill(f->sub, value + (size_t)k * f->sub->size, seed + 31 * (k + 1));
            break;
        case SCHEMA_SINCE:
            break;
        }
    }
}

static struct message *sample(uint16_t type)
{
    struct message *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    m->type = type;
    fill(message_schema(type), &m->hello, type);
    if (type == MESSAGE_VERDICT)
        m->verdict.ok = 0;
    return m;
}

static int decode(const uint8_t *bytes, size_t len, struct message *ret, struct err *err)
{
    struct section section;
    if (len < STREAM_SECTION_BYTES)
        return -ENODATA;
    int rc = section_decode(bytes, &section, err);
    if (!rc && section.length != len - STREAM_SECTION_BYTES)
        return -ENODATA;
    if (!rc)
        rc = section_check_body(&section, bytes + STREAM_SECTION_BYTES, err);
    return rc ? rc : message_decode(&section, bytes + STREAM_SECTION_BYTES, ret, err);
}

static void test_round_trip(void **state)
{
    (void)state;
    for (uint16_t type = MESSAGE_HELLO; type < MESSAGE_TYPE_END; type++) {
        CLEANUP_BUF struct buf once = { 0 }, twice = { 0 };
        struct message *m = sample(type), *back = malloc(sizeof(*back));
        struct err err = { 0 };
        message_encode(m, &once);
        if (decode(once.data, once.len, back, &err))
            fail_msg("%s: %s", message_name(type), err.text);
        assert_int_equal(back->type, type);
        message_encode(back, &twice);
        assert_int_equal(once.len, twice.len);
        assert_memory_equal(once.data, twice.data, once.len);
        free(m);
        free(back);
    }
}

/* What needs no newer version is written in the old one, for peers that know no other. */
static void test_oldest_version_that_does(void **state)
{
    (void)state;
    for (uint32_t lanes = 0; lanes < 2; lanes++) {
        CLEANUP_BUF struct buf bytes = { 0 };
        struct section section;
        struct message *m = sample(MESSAGE_HELLO), *back = malloc(sizeof(*back));
        struct err err;
        m->hello.check = 0;
        m->hello.page_forms = 0;
        m->hello.stall_limit_ns = 0;
        m->hello.lanes = lanes;
        message_encode(m, &bytes);
        assert_int_equal(section_decode(bytes.data, &section, &err), 0);
        assert_int_equal(section.version, lanes ? 2 : 1);
        assert_int_equal(decode(bytes.data, bytes.len, back, &err), 0);
        assert_int_equal(back->hello.lanes, lanes);

        m->type = MESSAGE_LANE;
        m->lane = (struct message_lane){ .token = { 1 }, .kind = LANE_BULK, .beside = lanes * 7 };
        bytes.len = 0;
        message_encode(m, &bytes);
        assert_int_equal(section_decode(bytes.data, &section, &err), 0);
        assert_int_equal(section.version, lanes ? 2 : 1);
        assert_int_equal(decode(bytes.data, bytes.len, back, &err), 0);
        assert_int_equal(back->lane.beside, lanes * 7);
        free(m);
        free(back);
    }
}

/* A body cut short anywhere is refused, also when its sums are right. */
static void test_truncated(void **state)
{
    (void)state;
    for (uint16_t type = MESSAGE_HELLO; type < MESSAGE_TYPE_END; type++) {
        CLEANUP_BUF struct buf bytes = { 0 };
        struct message *m = sample(type);
        message_encode(m, &bytes);
        size_t length = bytes.len - STREAM_SECTION_BYTES;
        for (size_t cut = 0; cut < length; cut++) {
            /* Memory of exactly that size, so that a sanitizer sees a byte too many. */
            uint8_t *body = malloc(cut ? cut : 1);
            memcpy(body, bytes.data + STREAM_SECTION_BYTES, cut);
            struct section section = { .type = type,
                                       .version = message_schema(type)->version,
                                       .length = (uint32_t)cut,
                                       .body_sum = stream_sum(body, cut) };
            struct err err = { 0 };
            assert_true(message_decode(&section, body, m, &err) < 0);
            assert_int_equal(err.fault, ERR_PEER);
            free(body);
        }
        free(m);
    }
}

static void test_flipped(void **state)
{
    (void)state;
    for (uint16_t type = MESSAGE_HELLO; type < MESSAGE_TYPE_END; type++) {
        CLEANUP_BUF struct buf bytes = { 0 };
        struct message *m = sample(type);
        message_encode(m, &bytes);
        for (size_t bit = 0; bit < bytes.len * 8; bit++) {
            bytes.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_true(decode(bytes.data, bytes.len, m, NULL) < 0);
            bytes.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        free(m);
    }
}

/* Well-formed bytes with a number or text that no message may hold. */
static void refused(const struct message *m, const char *what)
{
    CLEANUP_BUF struct buf bytes = { 0 };
    struct message *back = malloc(sizeof(*back));
    struct err err = { 0 };
    message_encode(m, &bytes);
    assert_true(decode(bytes.data, bytes.len, back, &err) < 0);
    assert_int_equal(err.fault, ERR_PEER);
    if (!strstr(err.text, what))
        fail_msg("\"%s\" does not say \"%s\"", err.text, what);
    free(back);
}

#define REFUSED(message_type, what, change)       \
    do {                                          \
        struct message *m = sample(message_type); \
        change;                                   \
        refused(m, what);                         \
        free(m);                                  \
    } while (0)

static void test_impossible_contents(void **state)
{
    (void)state;
    REFUSED(MESSAGE_HELLO, "empty token", memset(m->hello.token, 0, sizeof(m->hello.token)));
    REFUSED(MESSAGE_SETTLED, "empty token", memset(m->settled.token, 0, sizeof(m->settled.token)));
    REFUSED(MESSAGE_HELLO, "mode 0", m->hello.mode = 0);
    REFUSED(MESSAGE_HELLO, "mode 9", m->hello.mode = 9);
    REFUSED(MESSAGE_HELLO, "pages 0", m->hello.pages = 0);
    REFUSED(MESSAGE_HELLO, "paused 2", m->hello.paused = 2);
    REFUSED(MESSAGE_HELLO, "control", m->hello.name[1] = '\033');
    REFUSED(MESSAGE_VERDICT, "ok 2", m->verdict.ok = 2);
    REFUSED(MESSAGE_VERDICT, "reasons", m->verdict.ok = 1);
    REFUSED(MESSAGE_VERDICT, "reasons 0", m->verdict.reason_count = 0);
    REFUSED(MESSAGE_VERDICT, "reason 31", m->verdict.reason[1].code = 31);
    REFUSED(MESSAGE_VERDICT, "control", m->verdict.reason[1].text[0] = '\n');
    REFUSED(MESSAGE_HELLO, "lanes 17", m->hello.lanes = MOVE_LANES_MAX + 1);
    REFUSED(MESSAGE_RESERVED, "lanes 17", m->reserved.lanes = MOVE_LANES_MAX + 1);
    REFUSED(MESSAGE_ROUND, "last 3", m->round.last = 3);
    REFUSED(MESSAGE_ABORT, "reason 0", m->abort.reason = 0);
    REFUSED(MESSAGE_ABORT, "fault 0", m->abort.fault = ERR_NONE);
    REFUSED(MESSAGE_RESOLVE, "intent 4", m->resolve.intent = 4);
    REFUSED(MESSAGE_STATUS, "knows 7", m->status.knows = 7);
    REFUSED(MESSAGE_LANE, "kind 0", m->lane.kind = 0);
    REFUSED(MESSAGE_LANE, "kind 3", m->lane.kind = 3);
    REFUSED(MESSAGE_LANE, "index 16", m->lane.index = MOVE_LANES_MAX);
    REFUSED(MESSAGE_LANE, "empty token", memset(m->lane.token, 0, sizeof(m->lane.token)));
    REFUSED(MESSAGE_PULL, "empty token", memset(m->pull.token, 0, sizeof(m->pull.token)));
    REFUSED(MESSAGE_PULLED, "empty token", memset(m->pulled.token, 0, sizeof(m->pulled.token)));
    REFUSED(MESSAGE_STATUS, "reason 1000", m->status.reason = 1000);
}

static void test_no_message(void **state)
{
    struct section section = { .type = SECTION_PAGES, .version = 1 };
    struct message *m = malloc(sizeof(*m));
    struct err err = { 0 };
    (void)state;
    assert_false(message_is(SECTION_PAGES));
    assert_false(message_is(MESSAGE_TYPE_END));
    assert_int_equal(message_decode(&section, "", m, &err), -EBADMSG);
    section = (struct section){ .type = MESSAGE_COMMIT, .version = 2 };
    assert_int_equal(message_decode(&section, "", m, &err), -EPROTONOSUPPORT);
    assert_null(message_schema(MESSAGE_TYPE_END));
    assert_string_equal(message_name(SECTION_PAGES), "unknown");
    free(m);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(move_reason_name(REASON_CPU_FEATURE), "cpu-feature");
    assert_string_equal(move_reason_name(0), "unknown");
    assert_string_equal(move_reason_name(REASON_MAX), "unknown");
    assert_string_equal(move_mode_name(MOVE_PRE_COPY), "pre-copy");
    assert_string_equal(move_knows_name(KNOWS_MAX), "unknown");
    for (uint16_t type = MESSAGE_HELLO; type < MESSAGE_TYPE_END; type++)
        assert_string_not_equal(message_name(type), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_oldest_version_that_does),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_impossible_contents),
        cmocka_unit_test(test_no_message),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
