/* The bill: sums hold whatever the order of calls, and its JSON is what docs/bill.schema.json
 * says. */
#include "cost/bill.h"

#include "base/fd.h"
#include "test_bill_valid.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

/* xorshift64: the same numbers in every run. */
static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static uint64_t at(const json_t *json, const char *key)
{
    const json_t *v = json_object_get(json, key);
    assert_true(json_is_integer(v));
    return (uint64_t)json_integer_value(v);
}

static uint64_t sum_items(const json_t *list, const char *key)
{
    uint64_t sum = 0;
    const json_t *item;
    size_t i;
    json_array_foreach (list, i, item)
        sum += at(item, key);
    return sum;
}

static json_t *load_schema(void)
{
    json_error_t error;
    json_t *schema =
        json_load_file(SOURCE_ROOT "/docs/bill.schema.json", JSON_REJECT_DUPLICATES, &error);
    if (!schema)
        fail_msg("bill.schema.json:%d: %s", error.line, error.text);
    return schema;
}

/* What must hold for every bill, however it came about. */
static void check(const struct bill *bill)
{
    json_t *schema = load_schema(), *json = bill_json(bill);
    char why[256] = "";
    assert_non_null(json);
    if (!json_valid(schema, schema, json, "bill", why))
        fail_msg("%s", why);

    assert_int_equal(at(json, "total_ns"), sum_items(json_object_get(json, "stages"), "ns"));
    const json_t *downtime = json_object_get(json, "downtime");
    if (json_is_object(downtime)) {
        const json_t *parts = json_object_get(downtime, "parts");
        assert_int_equal(at(downtime, "total_ns"), sum_items(parts, "ns"));
        assert_int_equal(at(downtime, "total_ns"),
                         sum_items(parts, "own_ns") + sum_items(parts, "other_ns"));
    }
    const json_t *bytes = json_object_get(json, "bytes");
    assert_int_equal(at(bytes, "total"), at(bytes, "page_data") + at(bytes, "repeated_pages") +
                                             at(bytes, "zero_ranges") + at(bytes, "device_state") +
                                             at(bytes, "protocol"));
    const json_t *pages = json_object_get(json, "pages");
    assert_int_equal(at(pages, "total"), at(pages, "never_touched") + at(pages, "free") +
                                             at(pages, "zero") + at(pages, "data") +
                                             at(pages, "not_reached"));
    json_decref(json);
    json_decref(schema);
}

static void test_whole_move(void **state)
{
    (void)state;
    struct bill bill;
    bill_begin(&bill, BILL_MIGRATE, "pre-copy", "web1", 1000);
    bill_describe(&bill, "00ff", "alpha", "beta");
    bill_link(&bill, &(struct bill_link){ .encrypted = true,
                                          .cipher = "TLS_AES_128_GCM_SHA256",
                                          .peer = "SHA256:x",
                                          .handshake_ns = 5 });
    bill_wire(&bill, 1000, 20);
    bill_wire(&bill, 500, 10);
    bill_machine(&bill, UINT64_C(1) << 30, 2);
    bill_stage(&bill, BILL_RESERVATION, 1100);
    bill_stage(&bill, BILL_PRE_COPY, 1300);
    bill_pages(&bill, BILL_PAGES_NEVER_TOUCHED, 200000);
    bill_pages(&bill, BILL_PAGES_FREE, 10000);
    bill_pages(&bill, BILL_PAGES_ZERO, 50000);
    bill_pages_freed_later(&bill, 77);
    bill_pages(&bill, BILL_PAGES_DATA, 2144);
    bill_bytes(&bill, BILL_BYTES_PAGE_DATA, 2144 * 4096);
    bill_round(&bill, &(struct bill_round){ .pages_data = 2144,
                                            .pages_free = 10000,
                                            .pages_dirtied = 50,
                                            .bytes = 8800000,
                                            .began_ns = 1350,
                                            .duration_ns = 500 });
    bill_agent(&bill, &(struct bill_agent){
                          .present = true, .page_cache_bytes = 4096, .slowed = 2, .ns = 20 });
    bill_stage(&bill, BILL_STOP_AND_COPY, 2000);
    bill_downtime(&bill, BILL_PAUSE, 2000);
    bill_downtime(&bill, BILL_LAST_PAGES, 2010);
    bill_downtime(&bill, BILL_DEVICE_STATE, 2030);
    bill_downtime(&bill, BILL_TRANSFER, 2060);
    bill_stage(&bill, BILL_COMMITMENT, 2160);
    bill_downtime(&bill, BILL_COMMIT, 2160);
    bill_downtime(&bill, BILL_TRANSFER, 2165);
    bill_downtime_end(&bill, 2225);
    bill_stage(&bill, BILL_ACTIVATION, 2225);
    bill_side_set(&bill, BILL_TARGET,
                  &(struct bill_side){
                      .host = "beta", .load_ns = 70, .commit_ns = 20, .resume_ns = 30 });
    bill_end(&bill, BILL_OWNER_TARGET, 2300);

    const uint64_t stages[] = { 100, 200, 700, 160, 65, 75 };
    assert_memory_equal(bill.stage_ns, stages, sizeof(stages));
    assert_int_equal(bill_total_ns(&bill), 1300);
    const uint64_t own[] = { 10, 0, 20, 30, 160 - 120, 0, 5, 0 },
                   other[] = { 0, 0, 0, 0, 0, 70, 20, 30 };
    assert_memory_equal(bill.part_ns, own, sizeof(own));
    assert_memory_equal(bill.part_other_ns, other, sizeof(other));
    assert_int_equal(bill_downtime_ns(&bill), 225);
    check(&bill);

    json_t *json = bill_json(&bill);
    assert_string_equal(json_string_value(json_object_get(json, "outcome")), "completed");
    assert_string_equal(json_string_value(json_object_get(json, "owner")), "target");
    assert_true(json_is_null(json_object_get(json, "failure")));
    const json_t *agent = json_object_get(json, "agent");
    assert_int_equal(json_integer_value(json_object_get(agent, "page_cache_bytes")), 4096);
    assert_int_equal(json_integer_value(json_object_get(agent, "slowed")), 2);
    assert_string_equal(json_string_value(json_object_get(agent, "restored_by")), "target");
    assert_true(json_is_null(json_object_get(agent, "failure")));
    assert_true(json_is_false(json_object_get(json_object_get(json, "downtime"), "cut")));
    assert_true(json_is_null(
        json_object_get(json_object_get(json_object_get(json, "monitors"), "target"), "cpu_ns")));
    const json_t *round =
        json_array_get(json_object_get(json_object_get(json, "rounds"), "list"), 0);
    assert_int_equal(at(round, "dirty_pages_per_s"), 100000000);
    assert_int_equal(at(round, "at_ns"), 350);
    assert_int_equal(at(json, "started_monotonic_ns"), 1000);
    assert_int_equal(at(json_object_get(json, "downtime"), "at_ns"), 1000);
    json_decref(json);
}

/* A target that claims more time than there was cannot break the sum, in whatever order it is
 * told. */
static void test_other_claims_too_much(void **state)
{
    (void)state;
    struct bill bill;
    bill_begin(&bill, BILL_MIGRATE, "pre-copy", "web1", 0);
    bill_side_set(&bill, BILL_TARGET,
                  &(struct bill_side){ .load_ns = UINT64_MAX,
                                       .commit_ns = UINT64_MAX,
                                       .resume_ns = 1,
                                       .measured = 15,
                                       .cpu_ns = { UINT64_MAX, UINT64_MAX } });
    bill_downtime(&bill, BILL_PAUSE, 100);
    bill_downtime(&bill, BILL_TRANSFER, 110);
    bill_end(&bill, BILL_OWNER_TARGET, 150);
    assert_int_equal(bill_downtime_ns(&bill), 50);
    assert_int_equal(bill.part_other_ns[BILL_LOAD], 40);
    assert_int_equal(bill.part_ns[BILL_TRANSFER], 0);
    check(&bill);
    json_t *json = bill_json(&bill);
    assert_true(json_is_true(json_object_get(json_object_get(json, "downtime"), "cut")));
    json_decref(json);
}

static void test_failure_keeps_first_reason(void **state)
{
    (void)state;
    struct bill bill;
    struct err err = { 0 };
    bill_begin(&bill, BILL_MIGRATE, "pre-copy", "web1", 5);
    bill_stage(&bill, BILL_RESERVATION, 10);
    (void)err_set(&err, ERR_PEER, ENOSPC, "beta has 1 GiB free and web1 needs 2 GiB");
    bill_fail(&bill, &err);
    bill_stage(&bill, BILL_ACTIVATION, 12);
    (void)err_set(&err, ERR_BUG, EIO, "second");
    bill_fail(&bill, &err);
    bill_end(&bill, BILL_OWNER_SOURCE, 15);
    check(&bill);

    json_t *json = bill_json(&bill), *failure = json_object_get(json, "failure");
    assert_string_equal(json_string_value(json_object_get(json, "outcome")), "failed");
    assert_string_equal(json_string_value(json_object_get(failure, "stage")), "reservation");
    assert_string_equal(json_string_value(json_object_get(failure, "code")), "ENOSPC");
    assert_string_equal(json_string_value(json_object_get(failure, "fault")), "peer");
    assert_true(json_is_null(json_object_get(json, "downtime")));
    json_decref(json);
}

static void test_outcomes(void **state)
{
    (void)state;
    static const struct {
        int code;
        enum bill_owner owner;
        const char *outcome;
    } rows[] = {
        { 0, BILL_OWNER_SOURCE, "completed" },
        { ECANCELED, BILL_OWNER_SOURCE, "cancelled" },
        { EPIPE, BILL_OWNER_NONE, "failed" },
        { 0, BILL_OWNER_UNCERTAIN, "uncertain" },
        { ETIMEDOUT, BILL_OWNER_UNCERTAIN, "uncertain" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct bill bill;
        bill_begin(&bill, (enum bill_kind)(i % BILL_KIND_MAX), "file", NULL, 5);
        if (rows[i].code)
            bill_fail(&bill, &(struct err){ .code = rows[i].code, .fault = ERR_HOST, .text = "x" });
        bill_end(&bill, rows[i].owner, 5);
        check(&bill);
        json_t *json = bill_json(&bill);
        assert_string_equal(json_string_value(json_object_get(json, "outcome")), rows[i].outcome);
        json_decref(json);
    }
}

/* Any order of calls and any clock: sums hold, the JSON stays valid. */
static void test_random_bills(void **state)
{
    (void)state;
    uint64_t seed = 0x9e3779b97f4a7c15;
    for (unsigned n = 0; n < 300; n++) {
        struct bill bill;
        uint64_t now = next_random(&seed) % 1000000, first = now, latest = now;
        bill_begin(&bill, (enum bill_kind)(n % BILL_KIND_MAX), "pre-copy", "web1", now);
        bill_machine(&bill, UINT64_C(64) << 20, 1);
        for (unsigned i = 0; i < 200; i++) {
            now += next_random(&seed) % 1000;
            now -= MIN(now, next_random(&seed) % 100); /* a clock that sometimes goes back */
            uint64_t v = next_random(&seed);
            switch (v % 8) {
            case 0:
                bill_stage(&bill, (enum bill_stage)(v / 8 % BILL_STAGE_MAX), now);
                latest = MAX(latest, now);
                break;
            case 1:
                bill_downtime(&bill, (enum bill_part)(v / 8 % BILL_PART_MAX), now);
                break;
            case 2:
                bill_downtime_end(&bill, now);
                break;
            case 3:
                bill_round(&bill, &(struct bill_round){ .bytes = v % 4096, .duration_ns = v % 3 });
                break;
            case 4:
                bill_bytes(&bill, (enum bill_bytes_kind)(v / 8 % BILL_BYTES_MAX), v % 99999);
                break;
            case 5:
                bill_pages(&bill, (enum bill_page_class)(v / 8 % BILL_PAGES_MAX), v % 60);
                break;
            case 6:
                bill_side_set(&bill, (enum bill_place)(v / 8 % 2),
                              &(struct bill_side){ .measured = (uint32_t)(v / 8 % 16),
                                                   .load_ns = v % 500 });
                break;
            default:
                bill_downtime_other(&bill, v & 8 ? BILL_RESUME : BILL_COMMIT, v % 300);
            }
        }
        bill_end(&bill, BILL_OWNER_SOURCE, now);
        assert_int_equal(bill_total_ns(&bill), MAX(latest, now) - first);
        check(&bill);
    }
}

static void test_many_rounds_stay_bounded(void **state)
{
    (void)state;
    struct bill bill;
    uint64_t bytes = 0, total = 100000;
    bill_begin(&bill, BILL_MIGRATE, "pre-copy", "web1", 0);
    for (uint64_t i = 1; i <= total; i++)
        bill_round(&bill, &(struct bill_round){ .bytes = i, .pages_data = 1, .duration_ns = 2 });
    bill_end(&bill, BILL_OWNER_SOURCE, 9);

    assert_int_equal(bill.rounds, total);
    assert_int_equal(bill.round_count, BILL_ROUNDS_MAX);
    uint64_t expected = 1;
    for (unsigned i = 0; i < bill.round_count; i++) {
        const struct bill_round *r = &bill.round[i];
        assert_int_equal(r->first, expected);
        assert_int_equal(r->pages_data, r->last - r->first + 1);
        assert_true(r->first == r->last || i == BILL_ROUNDS_MAX / 2);
        expected = r->last + 1;
        bytes += r->bytes;
    }
    assert_int_equal(expected, total + 1);
    assert_int_equal(bytes, total * (total + 1) / 2);
    check(&bill);
}

/* The schema means something: a bill that differs in any member is refused. */
static void test_schema_refuses(void **state)
{
    (void)state;
    struct bill bill;
    char why[256];
    bill_begin(&bill, BILL_MIGRATE, "pre-copy", "web1", 0);
    bill_downtime(&bill, BILL_PAUSE, 1);
    bill_round(&bill, &(struct bill_round){ .bytes = 1 });
    bill_side_set(&bill, BILL_SOURCE, &(struct bill_side){ .measured = 15 });
    bill_end(&bill, BILL_OWNER_SOURCE, 9);

    json_t *schema = load_schema(), *good = bill_json(&bill);
    assert_true(json_valid(schema, schema, good, "bill", why));
    const char *key;
    json_t *value;
    json_object_foreach (good, key, value) {
        json_t *bad = json_deep_copy(good);
        assert_int_equal(json_object_del(bad, key), 0);
        assert_false(json_valid(schema, schema, bad, "bill", why));
        assert_int_equal(json_object_set_new(bad, key, json_pack("[b]", 1)), 0);
        assert_false(json_valid(schema, schema, bad, "bill", why));
        json_decref(bad);
    }
    json_t *round = json_array_get(json_object_get(json_object_get(good, "rounds"), "list"), 0);
    assert_int_equal(json_object_set_new(round, "surprise", json_integer(1)), 0);
    assert_false(json_valid(schema, schema, good, "bill", why));
    json_decref(good);
    json_decref(schema);
}

/* docs/bill.md explains every key of the schema: a new key without a word about it fails here. */
static void require_explained(const json_t *schema, const char *manual)
{
    const char *key;
    const json_t *sub;
    json_object_foreach ((json_t *)(uintptr_t)json_object_get(schema, "properties"), key, sub) {
        char quoted[80];
        (void)snprintf(quoted, sizeof(quoted), "`%s`", key);
        if (!strstr(manual, quoted))
            fail_msg("docs/bill.md does not explain %s", quoted);
        require_explained(sub, manual);
        require_explained(json_object_get(sub, "items"), manual);
    }
}

static void test_manual_is_complete(void **state)
{
    (void)state;
    char *manual;
    size_t len;
    assert_int_equal(fd_read_file(SOURCE_ROOT "/docs/bill.md", 1 << 20, &manual, &len), 0);
    json_t *schema = load_schema();
    require_explained(schema, manual);
    require_explained(json_object_get(json_object_get(schema, "$defs"), "monitor"), manual);
    json_decref(schema);
    free(manual);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_move),
        cmocka_unit_test(test_other_claims_too_much),
        cmocka_unit_test(test_failure_keeps_first_reason),
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_random_bills),
        cmocka_unit_test(test_many_rounds_stay_bounded),
        cmocka_unit_test(test_schema_refuses),
        cmocka_unit_test(test_manual_is_complete),
    };
    return cmocka_run_group_tests_name("bill", tests, NULL, NULL);
}
