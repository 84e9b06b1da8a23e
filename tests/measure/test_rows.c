/* Rows, the requests they come from, lateness, the mix, the command line. */
#include "../unit/test.h"
#include "base/clock.h"
#include "base/fd.h"
#include "late.h"
#include "options.h"
#include "requests.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static char path[4096];

static char *contents(void)
{
    char *text = NULL;
    size_t len;
    assert_int_equal(fd_read_file(path, 64 << 20, &text, &len), 0);
    return text;
}

static void test_row(void **state)
{
    (void)state;
    struct rows rows;
    struct err err = { 0 };
    assert_int_equal(rows_open(&rows, path, ROWS_HEADER, &err), 0);
    struct row full = { 7, "http", 3, 10, 11, UINT64_MAX, 345, STATUS_OK };
    struct row empty = { ROW_NO_SEQ, "udp", ROW_NO_CONNECTION, 0, 0, 0, 0, STATUS_UNSENT };
    struct row none = { 0, "stream", 0, 1, 2, 3, 0, STATUS_OK };
    rows_put(&rows, &full);
    rows_put(&rows, &empty);
    rows_put(&rows, &none);
    rows_close(&rows);
    assert_int_equal(rows.err.code, 0);
    char *text = contents();
    assert_string_equal(text, ROWS_HEADER "7,http,3,10,11,18446744073709551615,345,ok\n"
                                          ",udp,,,,,,unsent\n"
                                          "0,stream,0,1,2,3,0,ok\n");
    free(text);
}

/* However a request ends, its row waits for those before it. */
static void test_order(void **state)
{
    (void)state;
    struct rows rows;
    struct requests requests;
    struct err err = { 0 };
    uint64_t seed = 5, count = 5000, ended = 0;
    assert_int_equal(rows_open(&rows, path, ROWS_HEADER, &err), 0);
    assert_int_equal(requests_init(&requests, &rows), 0);
    for (uint64_t i = 0; i < count; i++) {
        const struct request *request = requests_add(&requests, 100 + i, 1000 + i, "tcp");
        assert_int_equal(request->seq, i);
    }
    assert_null(requests_find(&requests, count));
    while (ended < count) {
        struct request *request = requests_find(&requests, mix_random(&seed) % count);
        if (!request && ended > count * 9 / 10)
            request = requests_oldest(&requests); /* the last few */
        if (!request)
            continue;
        assert_int_equal(request->due_ns, 100 + request->seq);
        requests_end(&requests, request, STATUS_OK, 7);
        ended++;
        assert_true(!requests_oldest(&requests) ||
                    requests_oldest(&requests)->status == STATUS_PENDING);
    }
    assert_null(requests_oldest(&requests));
    assert_int_equal(requests.ended[STATUS_OK], count);
    requests_free(&requests);
    rows_close(&rows);
    char *text = contents();
    const char *at = text + strlen(ROWS_HEADER);
    for (uint64_t i = 0; i < count; i++) {
        char begin[32];
        int len = snprintf(begin, sizeof(begin), "%llu,", (unsigned long long)i);
        assert_memory_equal(at, begin, (size_t)len);
        at = strchr(at, '\n') + 1;
    }
    assert_string_equal(at, "");
    free(text);
}

/* At every size of the file at which the disk may be full, whole lines stay. */
static void test_full(void **state)
{
    (void)state;
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    size_t header = strlen(ROWS_HEADER);
    for (size_t most = header; most < header + 60; most++) {
        struct rows rows;
        struct err err = { 0 };
        struct row row = {
            123, "http", 0, 1, 2, 3, 4, STATUS_OK
        }; /* "123,http,0,1,2,3,4,ok\n": 22 bytes */
        assert_int_equal(rows_open(&rows, path, ROWS_HEADER, &err), 0);
        for (int i = 0; i < 3; i++)
            rows_put(&rows, &row);
        limit = (struct rlimit){ most, before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        rows_flush(&rows);
        assert_int_equal(rows.err.code, EFBIG);
        assert_non_null(strstr(rows.err.text, path));
        rows_put(&rows, &row);
        rows_close(&rows);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        char *text = contents();
        assert_int_equal(strlen(text), header + (most - header) / 22 * 22);
        free(text);
    }
}

static void test_unwritable(void **state)
{
    (void)state;
    struct rows rows;
    struct err err = { 0 };
    assert_int_equal(rows_open(&rows, "/dev/full", ROWS_HEADER, &err), -ENOSPC);
    assert_int_equal(err.code, ENOSPC);
    assert_int_equal(rows_open(&rows, "/nowhere/at/all", ROWS_HEADER, &err), -ENOENT);
}

static int by_size(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Never below the exact percentile, and at most a 64th above it. */
static void test_late(void **state)
{
    (void)state;
    static struct late late;
    static uint64_t values[20001];
    uint64_t seed = 1;
    assert_int_equal(late_quantile(&late, 0.5), 0);
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        values[i] = mix_random(&seed) >> (mix_random(&seed) % 64);
        late_add(&late, values[i]);
    }
    qsort(values, ARRAY_LEN(values), sizeof(values[0]), by_size);
    static const double shares[] = { 0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1 };
    for (size_t i = 0; i < ARRAY_LEN(shares); i++) {
        double rank = shares[i] * (double)ARRAY_LEN(values);
        size_t at = (size_t)rank + ((double)(size_t)rank < rank);
        uint64_t exact = values[at ? at - 1 : 0], got = late_quantile(&late, shares[i]);
        assert_true(got >= exact);
        assert_true(got - exact <= exact / 64 + 1);
    }
    assert_int_equal(late.max_ns, values[ARRAY_LEN(values) - 1]);
    assert_int_equal(late_quantile(&late, 1), late.max_ns);
    memset(&late, 0, sizeof(late));
    late_add(&late, UINT64_MAX);
    assert_int_equal(late_quantile(&late, 0.5), UINT64_MAX);
}

static void test_mix(void **state)
{
    (void)state;
    struct mix mix;
    struct err err = { 0 };
    uint64_t seed = 3, counts[3] = { 0 }, low = 0, high = 0;
    assert_int_equal(mix_parse_http(&mix,
                                    "static:70:/s/{0-3}/{1-9},dynamic:0:/d?a=b&c={5-5},post:30:/p",
                                    &err),
                     0);
    assert_int_equal(mix.count, 3);
    assert_int_equal(mix.weights, 100);
    for (int i = 0; i < 10000; i++)
        counts[mix_choose(&mix, &seed)]++;
    assert_in_range(counts[0], 6700, 7300);
    assert_int_equal(counts[1], 0);
    for (int i = 0; i < 1000; i++) {
        CLEANUP_BUF struct buf out = { 0 };
        unsigned class, file;
        char end;
        mix_put_path(&out, &mix.items[0], &seed);
        buf_put_u8(&out, 0);
        assert_int_equal(sscanf((char *)out.data, "/s/%u/%u%c", &class, &file, &end), 2);
        assert_in_range(class, 0, 3);
        assert_in_range(file, 1, 9);
        low += class == 0 && file == 1;
        high += class == 3 && file == 9;
    }
    assert_true(low > 0 && high > 0);
    assert_int_equal(mix_parse_resp(&mix, "ping:1,get:8,set:1", &err), 0);
    assert_int_equal(mix.items[1].what, MIX_GET);
    static const char *const bad[] = { "",       "get",   "get:",  "get:x",           "get:1:/",
                                       "get:1,", "get:0", "foo:1", "get:99999999999", "http:1:/" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(mix_parse_resp(&mix, bad[i], &err), -EINVAL);
    static const char *const bad_http[] = { "http:1",        "http:1:",     "http:1:x",
                                            "http:1:/a b",   "http:1:/{1-", "http:1:/{2-1}",
                                            "http:1:/{a-b}", "http:1:/}",   "http::/",
                                            "get:1:/",       "http:1:/\n" };
    for (size_t i = 0; i < ARRAY_LEN(bad_http); i++)
        assert_int_equal(mix_parse_http(&mix, bad_http[i], &err), -EINVAL);
}

/* Reads a command line of one text, split at blanks. */
static int options(struct options *ret, const char *line, struct err *err)
{
    static char copy[1024];
    char *argv[64] = { "godwit-probe" };
    int argc = 1;
    bool help;
    (void)snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return options_read(ret, argc, argv, &help, err);
}

static void test_options(void **state)
{
    (void)state;
    static struct options o;
    struct err err = { 0 };
    assert_int_equal(
        options(&o,
                "udp 127.0.0.1:7 --rate 50 --for=10s --size 1K --connections 2 --spin 50us --pin 1",
                &err),
        0);
    assert_int_equal(o.kind, PROBE_UDP);
    assert_int_equal(o.rate_per_s, 50);
    assert_int_equal(o.for_ns, 10 * CLOCK_SECOND);
    assert_int_equal(o.size_bytes, 1024);
    assert_int_equal(o.spin_ns, 50000);
    assert_int_equal(o.pin, 1);
    assert_int_equal(o.address.ss_family, AF_INET);
    assert_int_equal(options(&o, "icmp ::1", &err), 0);
    assert_int_equal(o.address.ss_family, AF_INET6);
    assert_int_equal(options(&o, "stream [::1]:80 --bandwidth 80Mbit/s --path /big", &err), 0);
    assert_int_equal(o.bandwidth, 10000000);
    static const char *const bad[] = {
        "",
        "http",
        "ftp 127.0.0.1:1",
        "http 127.0.0.1",
        "http :80",
        "http 127.0.0.1:0",
        "http 127.0.0.1:99999",
        "http 127.0.0.1:1 --rate",
        "http 127.0.0.1:1 --rate 0",
        "http 127.0.0.1:1 --rate x",
        "http 127.0.0.1:1 --rate 1000001",
        "http 127.0.0.1:1 --frobnicate 1",
        "http 127.0.0.1:1 --size 64",
        "http 127.0.0.1:1 --priority=1",
        "http 127.0.0.1:1 127.0.0.1:2",
        "http 127.0.0.1:1 --timeout 0",
        "http 127.0.0.1:1 --path /a --mix http:1:/b",
        "http 127.0.0.1:1 --path a",
        "icmp 127.0.0.1 --connections 2",
        "stream 127.0.0.1:1 --rate 5",
        "stream 127.0.0.1:1 --limit 5",
        "udp 127.0.0.1:1 --size 15",
        "udp 127.0.0.1:1 --rate 1000000 --timeout 2s",
        "resp 127.0.0.1:1 --mix http:1:/",
        "tcp 127.0.0.1:1 --spin 2s",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err = (struct err){ 0 };
        if (options(&o, bad[i], &err) != -EINVAL)
            fail_msg("'%s' is no mistake?", bad[i]);
        assert_int_equal(err.fault, ERR_CALLER);
        assert_true(err.text[0] && !strchr(err.text, '\n'));
    }
}

int main(void)
{
    (void)snprintf(path, sizeof(path), "%s/rows-%d.csv", test_tmp(), (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_row),     cmocka_unit_test(test_order),
        cmocka_unit_test(test_full),    cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_late),    cmocka_unit_test(test_mix),
        cmocka_unit_test(test_options),
    };
    int failed = cmocka_run_group_tests_name("rows", tests, NULL, NULL);
    (void)unlink(path);
    return failed;
}
