/* The last bills of a host, kept by several monitors at once. */
#include "base/compiler.h"
#include "ctl/bills.h"

#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MS 1000000

static char base[128];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(base, sizeof(base), "%s/bills-XXXXXX", test_tmp());
    return mkdtemp(base) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[200];
    (void)state;
    (void)snprintf(command, sizeof(command), "rm -r %s", base);
    return system(command);
}

static json_t *bill(const char *outcome, json_int_t total_ns, json_int_t downtime_ns)
{
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:s, s:I, s:{s:I, s:I}}", "name", "web", "kind", "migrate",
                  "written_by", "source", "outcome", outcome, "total_ns", total_ns, "bytes",
                  "total", (json_int_t)30, "page_data", (json_int_t)30);
    json_t *downtime = downtime_ns < 0 ? json_null() : json_pack("{s:I}", "total_ns", downtime_ns);
    assert_int_equal(json_object_set_new(json, "downtime", downtime), 0);
    return json;
}

static void keep(const char *outcome, json_int_t total_ns, json_int_t downtime_ns)
{
    json_t *json = bill(outcome, total_ns, downtime_ns);
    assert_int_equal(bills_keep(base, json, NULL), 0);
    json_decref(json);
}

static json_int_t number(const json_t *object, const char *key)
{
    assert_true(json_is_integer(json_object_get(object, key)));
    return json_integer_value(json_object_get(object, key));
}

static json_int_t class_of(const json_t *entry, const char *key, size_t class)
{
    const json_t *list = json_object_get(entry, key);
    assert_int_equal(json_array_size(list), BILLS_BOUNDS + 1);
    return json_integer_value(json_array_get(list, class));
}

static void test_nothing(void **state)
{
    (void)state;
    json_t *bills, *totals;
    assert_int_equal(bills_read(base, &bills, &totals, NULL), 0);
    assert_int_equal(json_array_size(bills) + json_array_size(totals), 0);
    json_decref(bills);
    json_decref(totals);
}

static void test_sums(void **state)
{
    (void)state;
    json_t *bills, *totals;
    keep("completed", 100 * MS, MS);    /* a bound belongs to its class */
    keep("completed", 100 * MS + 1, 0); /* and what is above it to the next */
    keep("completed", INT64_MAX,
         30001 * (json_int_t)MS); /* a sum stays where it can still be said */
    keep("failed", 5, -1);
    assert_int_equal(bills_read(base, &bills, &totals, NULL), 0);
    assert_int_equal(json_array_size(bills), 4);
    assert_int_equal(number(json_array_get(bills, 1), "total_ns"),
                     100 * MS + 1); /* the oldest first */
    assert_true(number(json_array_get(bills, 0), "kept_ns") <=
                number(json_array_get(bills, 3), "kept_ns"));
    assert_int_equal(json_array_size(totals), 2);
    const json_t *good = json_array_get(totals, 0), *bad = json_array_get(totals, 1);
    assert_int_equal(number(good, "count"), 3);
    assert_int_equal(number(good, "downtimes"), 3);
    assert_int_equal(number(good, "total_ns"), INT64_MAX);
    assert_int_equal(number(good, "downtime_ns"), 30002 * (json_int_t)MS);
    assert_int_equal(number(json_object_get(good, "bytes"), "page_data"), 90);
    assert_int_equal(class_of(good, "by_duration", 0), 1);
    assert_int_equal(class_of(good, "by_duration", 1), 1);
    assert_int_equal(class_of(good, "by_duration", BILLS_BOUNDS), 1);
    assert_int_equal(class_of(good, "by_downtime", 0), 2);
    assert_int_equal(class_of(good, "by_downtime", BILLS_BOUNDS), 1);
    assert_int_equal(number(bad, "count"), 1);
    assert_null(json_object_get(bad, "downtimes")); /* it never stood still */
    json_decref(bills);
    json_decref(totals);
}

static void *keep_some(void *arg)
{
    json_t *json = bill("completed", 1, 1);
    for (unsigned i = 0; i < 30 && !*(int *)arg; i++)
        *(int *)arg = bills_keep(base, json, NULL);
    json_decref(json);
    return NULL;
}

static void test_many_at_once(void **state)
{
    (void)state;
    pthread_t thread[4];
    int rc[4] = { 0 };
    json_t *bills, *totals;
    for (unsigned i = 0; i < ARRAY_LEN(thread); i++)
        assert_int_equal(pthread_create(&thread[i], NULL, keep_some, &rc[i]), 0);
    for (unsigned i = 0; i < ARRAY_LEN(thread); i++) {
        assert_int_equal(pthread_join(thread[i], NULL), 0);
        assert_int_equal(rc[i], 0);
    }
    assert_int_equal(bills_read(base, &bills, &totals, NULL), 0);
    assert_true(json_array_size(bills) <= BILLS_KEPT && json_array_size(bills) > 1);
    assert_int_equal(number(json_array_get(totals, 0), "count"), 120); /* none is lost */
    json_decref(bills);
    json_decref(totals);
}

static void test_damage(void **state)
{
    (void)state;
    static const char *const texts[] = { "", "{", "5", "[", "[5]", "[{\"kind\": 1}]" };
    char path[200];
    json_t *bills, *totals;
    keep("completed", 1, 1);
    (void)snprintf(path, sizeof(path), "%s/.bills/totals.json", base);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        FILE *file = fopen(path, "w");
        assert_true(file && fputs(texts[i], file) >= 0);
        assert_int_equal(fclose(file), 0);
        assert_int_equal(bills_read(base, &bills, &totals, NULL), 0);
        assert_true(json_is_array(totals) && json_array_size(bills) == i + 1);
        json_decref(bills);
        json_decref(totals);
        keep("completed", 1, 1);
    }
}

static void test_no_place(void **state)
{
    (void)state;
    struct err err = { 0 };
    json_t *json = bill("completed", 1, 1);
    assert_int_equal(bills_keep("/nowhere/at/all", json, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nowhere/at/all/.bills"));
    json_decref(json);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing), TEST(test_sums),     TEST(test_many_at_once),
        TEST(test_damage),  TEST(test_no_place),
    };
    return cmocka_run_group_tests_name("bills", tests, NULL, NULL);
}
