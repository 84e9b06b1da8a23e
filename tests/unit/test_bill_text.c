/* The page for people: at most 80 columns whatever the numbers, the verdict first, no control
 * characters of a peer, and any JSON at all survives it. */
#include "cost/bill.h"
#include "cost/bill_text.h"
#include "cost/show.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char *page_of(const json_t *json)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    bill_text(json, out);
    assert_int_equal(fclose(out), 0);
    for (const char *line = text; *line;) {
        size_t columns = strcspn(line, "\n");
        if (columns > 80)
            fail_msg("%zu columns: %.*s", columns, (int)columns, line);
        for (size_t i = 0; i < columns; i++)
            assert_true((unsigned char)line[i] >= 0x20 && line[i] != 0x7f);
        line += columns + (line[columns] != '\0');
    }
    return text;
}

/* A bill with every member there and numbers as large as they get: `scale` shifts them. */
static void fill(struct bill *bill, unsigned scale, const char *name)
{
    uint64_t big = UINT64_C(1) << scale, now = 0;
    bill_begin(bill, BILL_MIGRATE, "pre-copy", name, now);
    bill_describe(bill, "0123456789abcdef0123456789abcdef", "10.0.0.1", "10.0.0.2:7070");
    bill_machine(bill, big * 4096, 2);
    for (unsigned i = 0; i < BILL_STAGE_MAX; i++) {
        bill_stage(bill, (enum bill_stage)i, now);
        now += big >> (i + 3);
    }
    for (unsigned i = 0; i < BILL_PART_MAX; i++)
        bill_downtime(bill, (enum bill_part)i, now += big >> 8);
    bill_downtime(bill, BILL_TRANSFER, now += big >> 8);
    bill_downtime_end(bill, now += big >> 4);
    for (unsigned i = 0; i < 200; i++)
        bill_round(bill, &(struct bill_round){ .pages_data = big,
                                               .pages_zero = big,
                                               .pages_dirtied = big,
                                               .bytes = big,
                                               .duration_ns = big >> 10,
                                               .paused = i == 199 });
    for (unsigned i = 0; i < 200; i++)
        bill_decision(bill, "clark05",
                      &(struct bill_decision){ .round = big + i,
                                               .what = "switch",
                                               .why = "released",
                                               .left_pages = big,
                                               .link_bytes_per_s = big,
                                               .dirty_pages_per_s = big,
                                               .predicted_ns = big,
                                               .asked_ns = big });
    bill_held(bill, 1, big);
    for (unsigned i = 0; i < BILL_BYTES_MAX; i++)
        bill_bytes(bill, (enum bill_bytes_kind)i, big >> i);
    for (unsigned i = 0; i < BILL_PAGES_MAX; i++)
        bill_pages(bill, (enum bill_page_class)i, big >> (i + 2));
    struct bill_side side = { .host = "alpha",
                              .measured = 15,
                              .wall_ns = big,
                              .cpu_ns = { big, big, big, big },
                              .memory_before_bytes = 1,
                              .memory_peak_bytes = big,
                              .disk_read_bytes = big,
                              .disk_written_bytes = big,
                              .tcp_retransmits = big,
                              .tcp_rtt_us = big,
                              .load_ns = big >> 10,
                              .commit_ns = big >> 11,
                              .resume_ns = big >> 12 };
    bill_agent(bill, &(struct bill_agent){
                         .present = true, .page_cache_bytes = big, .slowed = big, .ns = big });
    bill_side_set(bill, BILL_SOURCE, &side);
    bill_side_set(bill, BILL_TARGET, &side);
}

static void test_fits_80_columns(void **state)
{
    (void)state;
    for (unsigned scale = 0; scale < 64; scale++) {
        struct bill bill;
        fill(&bill, scale, "web1");
        bill_end(&bill, BILL_OWNER_TARGET, UINT64_C(1) << scale);
        json_t *json = bill_json(&bill);
        char *text = page_of(json);
        assert_true(strncmp(text, "web1 moved from 10.0.0.1 to 10.0.0.2:7070 in ", 45) == 0);
        assert_non_null(strstr(text, "stop-and-copy"));
        free(text);
        json_decref(json);
    }
}

static void test_failure_says_why_and_who(void **state)
{
    (void)state;
    struct bill bill;
    char name[BILL_TEXT_MAX + 50];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    memcpy(name, "\x1b[2J\r\n\x7f\xc2\x9b", 9);
    fill(&bill, 30, name);
    bill_fail(
        &bill,
        &(struct err){
            .code = ENOSPC,
            .fault = ERR_PEER,
            .text =
                "beta is full\x1b]0;gotcha\x07\n and a_very_long_word_that_fits_on_no_line_at_all_"
                "because_it_goes_on_and_on_well_past_eighty_columns" });
    bill_end(&bill, BILL_OWNER_SOURCE, UINT64_C(1) << 31);
    json_t *json = bill_json(&bill);
    char *text = page_of(json);
    assert_non_null(strstr(text, "beta is full"));
    assert_non_null(strstr(text, "stays with"));
    free(text);
    json_decref(json);
}

/* Replaces every member, at every depth, by something of the wrong type. */
static void spoil(json_t *root, json_t *at)
{
    static const char *const wrong[] = { "null", "-1", "[[]]", "{\"a\": {}}", "\"text\\u0007\"",
                                         "true" };
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(at, next, key, value)
    {
        spoil(root, value);
        json_t *saved = json_incref(value);
        for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
            assert_int_equal(json_object_set_new(at, key,
                                                 json_loads(wrong[i], JSON_DECODE_ANY, NULL)),
                             0);
            free(page_of(root));
        }
        assert_int_equal(json_object_set_new(at, key, saved), 0);
    }
    size_t i;
    if (json_is_array(at) && json_array_size(at) > 3)
        return; /* one of many alike is enough; see below */
    json_array_foreach (at, i, value)
        spoil(root, value);
}

static void test_any_json_survives(void **state)
{
    (void)state;
    struct bill bill;
    fill(&bill, 33, "web1");
    bill_end(&bill, BILL_OWNER_TARGET, UINT64_C(1) << 33);
    json_t *json = bill_json(&bill);
    spoil(json, json);
    spoil(json, json_array_get(json_object_get(json, "stages"), 1));
    spoil(json, json_array_get(json_object_get(json_object_get(json, "rounds"), "list"), 0));
    json_decref(json);
    json = json_array();
    free(page_of(json));
    json_decref(json);
    free(page_of(NULL));
}

static void test_show(void **state)
{
    (void)state;
    static const struct {
        uint64_t n;
        const char *duration, *bytes, *count;
    } rows[] = {
        { 0, "0", "0 B", "0" },
        { 999, "999 ns", "999 B", "999" },
        { 1024, "1.02 us", "1.00 KiB", "1024" },
        { 999999, "1.00 ms", "977 KiB", "999999" },
        { 12345678, "12.3 ms", "11.8 MiB", "12.3 M" },
        { 59999999999, "60.0 s", "55.9 GiB", "60.0 G" },
        { 60000000000, "1m00s", "55.9 GiB", "60.0 G" },
        { 3723000000000, "1h02m", "3.39 TiB", "3.72 T" },
        { UINT64_MAX, "5124095h34m", "16.0 EiB", "18.4 E" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        assert_string_equal(show_duration(rows[i].n).text, rows[i].duration);
        assert_string_equal(show_bytes(rows[i].n).text, rows[i].bytes);
        assert_string_equal(show_count(rows[i].n).text, rows[i].count);
    }
    char bar[11], clean[16];
    show_bar(bar, 10, 1, 1000);
    assert_string_equal(bar, ".");
    show_bar(bar, 10, 5, 10);
    assert_string_equal(bar, "#####");
    show_bar(bar, 10, 0, 0);
    assert_string_equal(bar, "");
    show_bar(bar, 10, 12, 10);
    assert_string_equal(bar, "##########");
    assert_string_equal(show_percent(1, 3).text, "33.3 %");
    assert_string_equal(show_percent(1, 0).text, "-");
    show_clean(clean, sizeof(clean), "d\xc3\xa9j\xc3\x80 \x9b\x01 \xc2\x9b!");
    assert_string_equal(clean, "d\xc3\xa9j\xc3\x80 ?? ?\?!");
    show_clean(clean, 4, "abcdef");
    assert_string_equal(clean, "abc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fits_80_columns),
        cmocka_unit_test(test_failure_says_why_and_who),
        cmocka_unit_test(test_any_json_survives),
        cmocka_unit_test(test_show),
    };
    return cmocka_run_group_tests_name("bill_text", tests, NULL, NULL);
}
