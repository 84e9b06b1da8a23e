/* Progress: the bar never leaves its line, lines come only when there is something new. */
#include "cost/progress.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void feed(struct progress *progress, const char *stage, unsigned round, uint64_t sent,
                 uint64_t left, uint64_t ms)
{
    json_t *params =
        json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:I}", "stage", stage, "round", (int)round,
                  "pages_sent", (json_int_t)sent, "pages_left", (json_int_t)left,
                  "rate_bytes_per_s", (json_int_t)312 << 20, "dirty_pages_per_s", (json_int_t)1700,
                  "elapsed_ns", (json_int_t)(ms * CLOCK_MSEC));
    assert_non_null(params);
    progress_event(progress, params);
    json_decref(params);
}

/* What one feed writes in `columns`, without the carriage return before and the clearing behind. */
static void draw(unsigned columns, char line[512])
{
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    struct progress progress;
    progress_begin(&progress, out, PROGRESS_BAR, columns);
    feed(&progress, "pre-copy", 1, 0, 1000, 100);
    (void)fflush(out);
    size_t before = len;
    feed(&progress, "pre-copy", 1, 500, 500, 1200);
    (void)fflush(out);
    assert_int_equal(text[before], '\r');
    size_t n = len - before - 1;
    assert_true(n >= 3 && n < 512);
    assert_memory_equal(text + len - 3, "\033[K", 3);
    memcpy(line, text + before + 1, n - 3);
    line[n - 3] = '\0';
    progress_end(&progress);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(text[len - 1], '\n');
    free(text);
}

static void test_bar_fits_every_width(void **state)
{
    (void)state;
    char line[512];
    for (unsigned columns = 1; columns <= 400; columns++) {
        draw(columns, line);
        assert_true(strlen(line) < columns);
        assert_null(strpbrk(line, "\r\n\033"));
        assert_true(strchr(line, '[') || columns < 74);
    }
    draw(80, line);
    assert_string_equal(
        line, "pre-copy, round 1  [########        ]   50 %  500 pages left  312 MiB/s  1.20 s");
}

static void test_lines_are_rationed(void **state)
{
    (void)state;
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    struct progress progress;
    progress_begin(&progress, out, PROGRESS_AUTO, 0); /* a stream in memory is no terminal */
    feed(&progress, "reservation", 0, 0, 0, 1);
    for (unsigned ms = 2; ms <= 2500; ms++)
        feed(&progress, "pre-copy", 1, ms, 3000 - ms, ms); /* lines at 2, 1002, 2002 */
    for (unsigned i = 0; i < 100; i++)
        feed(&progress, "pre-copy", 2 + i, 2500 + i, 10,
             2501 + i); /* rounds too quick to follow: one line */
    feed(&progress, "stop-and-copy", 102, 2600, 0, 2700);
    progress_end(&progress);
    progress_end(&progress);
    assert_int_equal(fclose(out), 0);

    static const char *const begins[] = {
        "  1.00 ms  reservation\n",       "  2.00 ms  pre-copy, round 1: ",
        "   1.00 s  pre-copy, round 1: ", "   2.00 s  pre-copy, round 1: ",
        "   2.50 s  pre-copy, round 2: ", "   2.70 s  stop-and-copy\n",
    };
    const char *line = text;
    for (unsigned i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
        if (strncmp(line, begins[i], strlen(begins[i])) != 0)
            fail_msg("line %u is %s", i, line);
        line = strchr(line, '\n') + 1;
    }
    assert_string_equal(line, "");
    assert_null(strpbrk(text, "\r\033"));
    free(text);
}

static void test_odd_events(void **state)
{
    (void)state;
    static const char *const events[] = {
        "{}",
        "[]",
        "null",
        "{\"stage\": 7, \"round\": \"x\"}",
        "{\"stage\": \"a\\u001b[2Jb\\nc\"}",
        ("{\"stage\": \"pre-copy\", \"pages_sent\": 9223372036854775807,"
         " \"pages_left\": 9223372036854775807, \"round\": -3}"),
        "{\"stage\": \"pre-copy\", \"pages_sent\": 5}", /* fewer than before */
    };
    for (enum progress_form form = PROGRESS_BAR; form <= PROGRESS_LINES; form++) {
        char *text;
        size_t len;
        FILE *out = open_memstream(&text, &len);
        struct progress progress;
        progress_begin(&progress, out, form, 80);
        for (unsigned i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
            json_t *params = json_loads(events[i], JSON_DECODE_ANY, NULL);
            assert_non_null(params);
            progress_event(&progress, params);
            json_decref(params);
        }
        progress_end(&progress);
        assert_int_equal(fclose(out), 0);
        assert_null(strstr(text, "[2J\n"));
        assert_null(strstr(text, "\033[2J"));
        free(text);
    }
}

static void test_end_without_event_writes_nothing(void **state)
{
    (void)state;
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    struct progress progress;
    progress_begin(&progress, out, PROGRESS_BAR, 80);
    progress_end(&progress);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(len, 0);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bar_fits_every_width),
        cmocka_unit_test(test_lines_are_rationed),
        cmocka_unit_test(test_odd_events),
        cmocka_unit_test(test_end_without_event_writes_nothing),
    };
    return cmocka_run_group_tests_name("progress", tests, NULL, NULL);
}
