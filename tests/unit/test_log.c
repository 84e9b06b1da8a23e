#include "base/clock.h"
#include "base/log.h"
#include "test.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* Runs `fn` with stderr going to a file and returns what it wrote. */
static size_t logged(void (*fn)(void), char *out, size_t size)
{
    int file = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int keep = dup(STDERR_FILENO);
    assert_true(file >= 0 && keep >= 0 && dup2(file, STDERR_FILENO) >= 0);
    fn();
    assert_true(dup2(keep, STDERR_FILENO) >= 0);
    ssize_t len = pread(file, out, size - 1, 0);
    assert_true(len >= 0);
    out[len] = '\0';
    (void)close(file);
    (void)close(keep);
    return (size_t)len;
}

static void one_of_each(void)
{
    log_event(LOG_DEBUG, "a.debug", "not shown");
    log_event(LOG_WARN, "a.warn", "pages %d", 7);
}

static void writes_one_line(void **state)
{
    (void)state;
    char out[2000];
    log_setup(LOG_INFO, "web1");
    assert_true(logged(one_of_each, out, sizeof(out)) > 0);
    assert_non_null(strstr(out, "Z warn web1 a.warn: pages 7\n"));
    assert_ptr_equal(strchr(out, '\n'), out + strlen(out) - 1);
    log_setup(LOG_DEBUG, NULL);
    (void)logged(one_of_each, out, sizeof(out));
    assert_non_null(strstr(out, "Z debug a.debug: not shown\n"));
}

static void very_long(void)
{
    char text[5000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    log_event(LOG_ERROR, "a.long", "%s", text);
    log_event(LOG_ERROR, text, "%s", text);
}

static void long_lines_are_cut(void **state)
{
    (void)state;
    char out[20000];
    size_t len = logged(very_long, out, sizeof(out));
    const char *first = strchr(out, '\n');
    assert_non_null(first);
    assert_true(first - out <= 1024 && len <= 2048);
    assert_ptr_equal(strchr(first + 1, '\n'), out + len - 1);
}

/* A guest owns some of the text that is logged: it must not be able to forge a line or steer a terminal. */
static void hostile(void)
{
    log_event(LOG_ERROR, "a.name", "%s", "x\n2030-01-01T00:00:00.000Z error forged: y\033[2J\x7f");
}

static void control_characters_are_replaced(void **state)
{
    (void)state;
    char out[2000];
    size_t len = logged(hostile, out, sizeof(out));
    assert_ptr_equal(strchr(out, '\n'), out + len - 1);
    for (size_t i = 0; i + 1 < len; i++)
        assert_true((unsigned char)out[i] >= ' ' && out[i] != 0x7f);
}

static void rate_passes_ten(void **state)
{
    (void)state;
    struct log_rate rate = { 0 };
    uint32_t dropped = 0;
    unsigned passed = 0, told = 0;
    uint64_t start = clock_now_ns();
    for (int i = 0; i < 1000; i++) {
        passed += log_rate_pass(&rate, &dropped);
        told += dropped;
    }
    unsigned windows = (unsigned)((clock_now_ns() - start) / CLOCK_SECOND) + 1;
    assert_in_range(passed, 10, 10 * (windows + 1));
    /* The window is over: the next line passes and tells exactly what was lost. */
    atomic_store(&rate.window_ns, 0);
    assert_true(log_rate_pass(&rate, &dropped));
    assert_int_equal(told + dropped, 1000 - passed);
}

struct many {
    struct log_rate rate;
    _Atomic unsigned passed, told;
};

static void *pass_many(void *arg)
{
    struct many *many = arg;
    for (int i = 0; i < 20000; i++) {
        uint32_t dropped;
        atomic_fetch_add(&many->passed, (unsigned)log_rate_pass(&many->rate, &dropped));
        atomic_fetch_add(&many->told, dropped);
    }
    return NULL;
}

/* However four threads interleave, each call has either passed or is counted as dropped. */
static void rate_counts_across_threads(void **state)
{
    (void)state;
    struct many many = { 0 };
    pthread_t thread[4];
    for (size_t i = 0; i < ARRAY_LEN(thread); i++)
        assert_int_equal(pthread_create(&thread[i], NULL, pass_many, &many), 0);
    for (size_t i = 0; i < ARRAY_LEN(thread); i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    assert_int_equal(many.passed + many.told + atomic_load(&many.rate.dropped), 80000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_one_line),
        cmocka_unit_test(long_lines_are_cut),
        cmocka_unit_test(control_characters_are_replaced),
        cmocka_unit_test(rate_passes_ten),
        cmocka_unit_test(rate_counts_across_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
