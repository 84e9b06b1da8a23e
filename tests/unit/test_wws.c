/* The working set's arithmetic against counting by hand, the recorder over a guest whose writes are known, and the
 * forms of the report. */
#include "base/clock.h"
#include "kvm/fake.h"
#include "test.h"
#include "wws/recorder.h"
#include "wws/report.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define PAGES 256
#define INTERVALS 40
#define INTERVAL_NS (10 * CLOCK_MSEC)

/* Which pages were written in which interval, and the same recorded. */
struct rig {
    bool written[INTERVALS][PAGES];
    struct wws wws;
    struct wws_curve curve;
};

static uint64_t random_next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static void record_all(struct rig *rig)
{
    assert_int_equal(wws_init(&rig->wws, PAGES, INTERVALS), 0);
    for (unsigned i = 0; i < INTERVALS; i++) {
        for (unsigned first = 0; first < PAGES; first += 64) {
            uint64_t bits = 0;
            for (unsigned b = 0; b < 64; b++)
                bits |= (uint64_t)rig->written[i][first + b] << b;
            wws_write(&rig->wws, first, bits);
            wws_write(&rig->wws, first, bits); /* a page counts once an interval */
        }
        wws_interval(&rig->wws, INTERVAL_NS);
    }
    assert_int_equal(wws_curve(&rig->wws, &rig->curve), 0);
}

static void drop(struct rig *rig)
{
    wws_curve_fini(&rig->curve);
    wws_fini(&rig->wws);
    free(rig);
}

/* Mean over all windows of `w` intervals of the pages written in them. */
static double by_hand(const struct rig *rig, unsigned w)
{
    uint64_t sum = 0;
    for (unsigned at = 0; at + w <= INTERVALS; at++)
        for (unsigned page = 0; page < PAGES; page++) {
            bool any = false;
            for (unsigned i = at; i < at + w; i++)
                any |= rig->written[i][page];
            sum += any;
        }
    return (double)sum / (INTERVALS - w + 1);
}

static void test_curve_is_exact(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (unsigned round = 0; round < 20; round++) {
        struct rig *rig = calloc(1, sizeof(*rig));
        assert_non_null(rig);
        for (unsigned page = 0; page < PAGES; page++) {
            uint64_t one_in = 1 + random_next(&seed) % 60;
            for (unsigned i = 0; i < INTERVALS && page % 3; i++)
                rig->written[i][page] = random_next(&seed) % one_in == 0;
        }
        record_all(rig);
        for (unsigned w = 1; w <= INTERVALS; w++)
            assert_true(fabs(rig->curve.unique[w - 1] - by_hand(rig, w)) < 1e-6);
        uint64_t pages = 0;
        for (unsigned k = 0; k <= INTERVALS; k++) {
            uint64_t want = 0;
            for (unsigned page = 0; page < PAGES; page++) {
                unsigned times = 0;
                for (unsigned i = 0; i < INTERVALS; i++)
                    times += rig->written[i][page];
                want += times == k;
            }
            assert_int_equal(rig->curve.times[k], want);
            pages += rig->curve.times[k];
        }
        assert_int_equal(pages, PAGES);
        drop(rig);
    }
}

static void test_windows_between_and_beyond(void **state)
{
    (void)state;
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    for (unsigned i = 0; i < INTERVALS; i++) {
        for (unsigned page = 0; page < 10; page++)
            rig->written[i][page] = true; /* a hot set */
        rig->written[i][10 + i] = true;   /* and one more page each interval */
    }
    record_all(rig);
    const struct wws_curve *curve = &rig->curve;
    assert_true(wws_unique(curve, 0, PAGES) == 0);
    /* Hot pages count however short the window, the others by its length. */
    double half = wws_unique(curve, INTERVAL_NS / 2, PAGES);
    assert_true(half > 10.49 && half < 10.52);
    assert_true(fabs(wws_unique(curve, INTERVAL_NS, PAGES) - 11) < 1e-6);
    assert_true(fabs(wws_unique(curve, 7 * INTERVAL_NS / 2, PAGES) - 13.5) < 1e-6);
    assert_true(fabs(wws_unique(curve, INTERVALS * INTERVAL_NS, PAGES) - 50) < 1e-6);
    assert_true(fabs(wws_unique(curve, 2 * INTERVALS * INTERVAL_NS, PAGES) - 90) < 1e-6);
    assert_true(wws_unique(curve, 2000 * INTERVALS * INTERVAL_NS, PAGES) == PAGES);
    drop(rig);
}

static void test_limits(void **state)
{
    (void)state;
    struct wws wws;
    struct wws_curve curve;
    assert_int_equal(wws_init(&wws, 64, 1), 0);
    assert_int_equal(wws_curve(&wws, &curve), 0); /* before the first interval */
    assert_int_equal(curve.intervals, 0);
    assert_true(wws_unique(&curve, 1, 64) == 0);
    wws_curve_fini(&curve);
    for (unsigned i = 0; i < 3; i++) { /* more than there is room for */
        wws_write(&wws, 0, 5);
        wws_interval(&wws, 1);
    }
    assert_int_equal(wws.intervals, 1);
    assert_int_equal(wws.written[0], 2);
    assert_int_equal(wws_curve(&wws, &curve), 0);
    assert_true(curve.unique[0] == 2);
    assert_true(wws_unique(&curve, 100, 64) == 2);
    wws_curve_fini(&curve);
    wws_fini(&wws);
}

/* ------------------------------------------------------------------------------------------ the recorder */

#define BYTES (UINT64_C(64) << 20)

struct guest {
    struct mem mem;
    struct hv *hv;
    struct hv_vcpu *vcpu;
};

static int make(void **state)
{
    struct guest *guest = calloc(1, sizeof(*guest));
    if (!guest || mem_init(&guest->mem, BYTES, MEM_PAGES_SMALL, NULL) || hv_fake_open(&guest->hv) ||
        guest->hv->ops->slot_set(guest->hv, 0, gpa_of(0), guest->mem.host, BYTES, false) ||
        guest->hv->ops->vcpu_open(guest->hv, 0, NULL, &guest->vcpu))
        return -1;
    *state = guest;
    return 0;
}

static int unmake(void **state)
{
    struct guest *guest = *state;
    guest->hv->ops->vcpu_close(guest->vcpu);
    guest->hv->ops->close(guest->hv);
    mem_fini(&guest->mem);
    free(guest);
    return 0;
}

static void dma(struct guest *guest, uint64_t page, uint8_t byte)
{
    assert_int_equal(mem_write(&guest->mem, gpa_of(page * PAGE_BYTES), &byte, 1), 0);
}

static void test_recorder_counts(void **state)
{
    struct guest *guest = *state;
    struct recorder recorder;
    const uint64_t last = BYTES / PAGE_BYTES - 1;
    assert_int_equal(recorder_begin(&recorder, &guest->mem, guest->hv, 3, NULL), 0);
    dma(guest, 5, 1);
    dma(guest, 5, 2);
    dma(guest, 4096, 1);
    dma(guest, last, 1);
    assert_int_equal(recorder_sample(&recorder, NULL), 0);
    assert_int_equal(recorder_sample(&recorder, NULL), 0); /* nothing: each write counts once */
    dma(guest, 5, 3);
    assert_int_equal(recorder_sample(&recorder, NULL), 0);
    recorder_end(&recorder);
    recorder_end(&recorder);
    assert_null(guest->mem.marks); /* nobody is watching any more */
    assert_int_equal(recorder.wws.written[0], 3);
    assert_int_equal(recorder.wws.written[1], 0);
    assert_int_equal(recorder.wws.written[2], 1);
    assert_int_equal(recorder.wws.times[5], 2);
    assert_int_equal(recorder.wws.times[last], 1);
    assert_int_equal(recorder.wws.times[6], 0);
    assert_int_equal(recorder.cost.faults, 4);
    assert_int_equal(recorder.cost.samples, 3);
    recorder_fini(&recorder);
}

static void *run_vcpu(void *arg)
{
    struct guest *guest = arg;
    struct hv_exit exit;
    return guest->hv->ops->vcpu_run(guest->vcpu, &exit) ? guest : NULL;
}

/* The fake vCPU writes by a rule, so which pages it wrote in so many steps is known. */
static void test_recorder_sees_vcpus(void **state)
{
    struct guest *guest = *state;
    struct recorder recorder;
    struct hv_vcpu_state after;
    pthread_t thread;
    void *failed;
    const uint64_t pages = BYTES / PAGE_BYTES;
    const volatile uint64_t *far =
        (const volatile uint64_t *)(const void *)mem_page(&guest->mem,
                                                          hv_fake_page(0, 2000, pages));
    assert_int_equal(recorder_begin(&recorder, &guest->mem, guest->hv, 1, NULL), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_vcpu, guest), 0);
    while (*far < 2000)
        (void)sched_yield();
    guest->hv->ops->vcpu_kick(guest->vcpu);
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    assert_int_equal(recorder_sample(&recorder, NULL), 0);
    assert_int_equal(guest->hv->ops->vcpu_save(guest->vcpu, &after, NULL), 0);

    uint64_t different = 0;
    bool *seen = calloc(pages, sizeof(*seen));
    assert_non_null(seen);
    for (uint64_t step = 1; step <= after.gpr[0]; step++) {
        uint64_t page = hv_fake_page(0, step, pages);
        different += !seen[page];
        seen[page] = true;
    }
    for (uint64_t page = 0; page < pages; page++)
        assert_int_equal(recorder.wws.times[page], seen[page]);
    assert_int_equal(recorder.wws.written[0], different);
    free(seen);
    recorder_fini(&recorder);
}

static void test_memory_classes(void **state)
{
    struct guest *guest = *state;
    struct recorder_memory memory;
    const uint64_t pages = BYTES / PAGE_BYTES;
    assert_int_equal(recorder_memory(&guest->mem, &memory), 0);
    assert_int_equal(memory.pages, pages);
    assert_int_equal(memory.touched_pages, 0);
    for (uint64_t page = 0; page < pages / 2; page++)
        dma(guest, page, page % 8 < 4 ? 0 : 1);
    assert_int_equal(recorder_memory(&guest->mem, &memory), 0);
    assert_int_equal(memory.touched_pages, pages / 2);
    assert_true(memory.zero_pages > pages / 5 && memory.zero_pages < pages / 3);
}

/* -------------------------------------------------------------------------------------------- the report */

static json_t *sample_report(struct guest *guest, const char *name)
{
    struct recorder recorder;
    assert_int_equal(recorder_begin(&recorder, &guest->mem, guest->hv, 4, NULL), 0);
    for (unsigned i = 0; i < 4; i++) {
        for (uint64_t page = 0; page < 100; page++)
            dma(guest, page, (uint8_t)(i + 1));
        dma(guest, 1000 + i, 1);
        assert_int_equal(recorder_sample(&recorder, NULL), 0);
    }
    recorder_end(&recorder);
    struct report report = { .name = name,
                             .ended = "complete",
                             .interval_ns = INTERVAL_NS,
                             .vcpus = 1,
                             .recorder = &recorder,
                             .rates = { 12500000, 125000000 },
                             .rate_count = 2,
                             .rtt_ns = 500000,
                             .limits = policy_limits_default() };
    assert_int_equal(recorder_memory(&guest->mem, &report.memory), 0);
    json_t *json = report_json(&report);
    recorder_fini(&recorder);
    assert_non_null(json);
    return json;
}

static char *printed(const json_t *report, void (*form)(const json_t *, FILE *))
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    form(report, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static uint64_t number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

static void test_report(void **state)
{
    json_t *report = sample_report(*state, "web<&1");
    assert_int_equal(number(report, "intervals"), 4);
    const json_t *times = json_object_get(report, "times_written");
    assert_int_equal(number(json_array_get(times, 1), "intervals"), 1);
    assert_int_equal(number(json_array_get(times, 1), "pages"), 4);
    assert_int_equal(number(json_array_get(times, 2), "intervals"), 4);
    assert_int_equal(number(json_array_get(times, 2), "pages"), 100);
    const json_t *unique = json_object_get(report, "unique");
    assert_int_equal(json_array_size(unique), 4);
    assert_int_equal(number(json_array_get(unique, 0), "pages"), 101);
    assert_int_equal(number(json_array_get(unique, 3), "pages"), 104);
    assert_int_equal(json_array_size(json_object_get(report, "predictions")), 2 * PREDICT_MODE_MAX);

    char *csv = printed(report, report_csv), *svg = printed(report, report_svg),
         *page = printed(report, report_text);
    unsigned lines = 0, commas = 0;
    for (const char *at = csv; *at; at++) {
        lines += *at == '\n';
        commas += *at == ',';
    }
    assert_int_equal(lines, 1 + 4 + 4 + 3 + 8);
    assert_int_equal(commas, lines * 9); /* every line has every column */
    assert_non_null(strstr(svg, "web&lt;&amp;1"));
    assert_non_null(strstr(svg, "prefers-color-scheme:dark"));
    assert_non_null(strstr(svg, "MiB/s"));
    assert_null(strstr(svg, "nan"));
    assert_null(strstr(svg, "inf"));
    assert_non_null(strstr(page, "1000 Mbit/s"));
    assert_non_null(strstr(page, "disturbance"));
    free(csv), free(svg), free(page);
    json_decref(report);
}

/* What comes from elsewhere may be anything. */
static void test_report_of_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{}",
        "[]",
        "{\"dirty_rate\": [{}], \"unique\": [{}], \"times_written\": [{}], \"predictions\": [{}]}",
        ("{\"dirty_rate\": 3, \"times_written\": [{\"intervals\": 99, \"pages\": -4}], \"intervals\": 1,"
         "\"predictions\": [{\"bytes_per_s\": 1, \"mode\": \"auto\", \"downtime_ns\": 1}]}"),
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        json_t *report = json_loads(texts[i], 0, NULL);
        assert_non_null(report);
        free(printed(report, report_csv));
        free(printed(report, report_text));
        char *svg = printed(report, report_svg);
        assert_null(strstr(svg, "nan"));
        assert_non_null(strstr(svg, "</svg>"));
        free(svg);
        json_decref(report);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_curve_is_exact),
        cmocka_unit_test(test_windows_between_and_beyond),
        cmocka_unit_test(test_limits),
        cmocka_unit_test_setup_teardown(test_recorder_counts, make, unmake),
        cmocka_unit_test_setup_teardown(test_recorder_sees_vcpus, make, unmake),
        cmocka_unit_test_setup_teardown(test_memory_classes, make, unmake),
        cmocka_unit_test_setup_teardown(test_report, make, unmake),
        cmocka_unit_test(test_report_of_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
