/* Predictions against cases that can be worked out on paper. */
#include "base/clock.h"
#include "test.h"
#include "wws/predict.h"

#include <math.h>

#define PAGES 65536u
#define DATA 32768u
#define INTERVALS 100u
#define INTERVAL_NS (100 * CLOCK_MSEC)
#define LINK_PAGES 10000u /* a second */

static const struct predict_link link = { .bytes_per_s = LINK_PAGES * PREDICT_PAGE_BYTES };

/* A guest that keeps writing `hot` pages over and over, and besides `fresh` different ones an interval. */
struct model {
    struct wws_curve curve;
    double unique[INTERVALS];
    uint64_t times[INTERVALS + 1];
    struct predict_guest guest;
};

static void model_make(struct model *model, uint64_t hot, uint64_t fresh)
{
    *model = (struct model){ .curve = { .interval_ns = INTERVAL_NS, .intervals = INTERVALS } };
    for (unsigned i = 0; i < INTERVALS; i++)
        model->unique[i] = (double)(hot + fresh * (i + 1));
    model->times[INTERVALS] = hot;
    model->times[1] = fresh * INTERVALS;
    model->times[0] = PAGES - hot - fresh * INTERVALS;
    model->curve.unique = model->unique;
    model->curve.times = model->times;
    model->guest =
        (struct predict_guest){ .curve = &model->curve, .pages = PAGES, .data_pages = DATA };
}

static void assert_near(uint64_t got, double want, double share)
{
    if (fabs((double)got - want) > want * share)
        fail_msg("%llu is not near %.0f", (unsigned long long)got, want);
}

static double pages_ns(double pages)
{
    return pages / LINK_PAGES * 1e9;
}

static void test_idle(void **state)
{
    (void)state;
    struct model model;
    struct policy_limits limits = policy_limits_default();
    model_make(&model, 0, 0);
    struct predict p = predict(&model.guest, &link, PREDICT_PRE_COPY, &limits);
    assert_int_equal(p.rounds, 1);
    assert_int_equal(p.last_pages, 0);
    assert_int_equal(p.why, POLICY_SMALL);
    assert_int_equal(p.bytes, DATA * PREDICT_PAGE_BYTES);
    assert_int_equal(p.downtime_ns, PREDICT_FIXED_NS);
    assert_near(p.total_ns, pages_ns(DATA) + PREDICT_FIXED_NS, 1e-6);
    assert_false(p.exceeds);
}

static void test_stop_copy(void **state)
{
    (void)state;
    struct model model;
    struct policy_limits limits = policy_limits_default();
    const struct predict_link far = { .bytes_per_s = link.bytes_per_s, .rtt_ns = 20 * CLOCK_MSEC };
    model_make(&model, 5000, 100); /* what the guest writes does not matter */
    struct predict p = predict(&model.guest, &far, PREDICT_STOP_COPY, &limits);
    assert_int_equal(p.rounds, 0);
    assert_int_equal(p.last_pages, DATA);
    assert_near(p.downtime_ns, pages_ns(DATA) + 30e6 + PREDICT_FIXED_NS, 1e-6);
    assert_near(p.total_ns, pages_ns(DATA) + 90e6 + PREDICT_FIXED_NS, 1e-6);
    assert_true(p.exceeds);
}

static void test_post_copy(void **state)
{
    (void)state;
    struct model model;
    struct policy_limits limits = policy_limits_default();
    model_make(&model, 5000, 100);
    struct predict p = predict(&model.guest, &link, PREDICT_POST_COPY, &limits);
    assert_true(p.post_copy);
    assert_false(p.exceeds);
    assert_near(p.downtime_ns, PREDICT_FIXED_NS + 1e9 * (PAGES / 8.0) / (double)link.bytes_per_s,
                1e-6);
    assert_int_equal(p.bytes, DATA * PREDICT_PAGE_BYTES + PAGES / 8);
}

/* A fixed hot set: every round leaves just this, so the rounds end once that is seen, and it is the downtime. */
static void test_hot_set(void **state)
{
    (void)state;
    struct model model;
    struct policy_limits limits = policy_limits_default();
    model_make(&model, 2000, 0);
    struct predict p = predict(&model.guest, &link, PREDICT_PRE_COPY, &limits);
    assert_int_equal(p.last_pages, 2000);
    assert_int_equal(p.why, POLICY_LEVEL);
    assert_in_range(p.rounds, 2, 5);
    assert_false(p.slowed);
    assert_int_equal(p.bytes, (DATA + 2000u * (p.rounds - 1) + 2000u) * PREDICT_PAGE_BYTES);
    assert_near(p.downtime_ns, pages_ns(2000) + PREDICT_FIXED_NS, 1e-6);
    /* Ten times the link: the hot pages are hot in a window of 3 ms too. */
    struct predict_link wide = { .bytes_per_s = 10 * link.bytes_per_s };
    p = predict(&model.guest, &wide, PREDICT_PRE_COPY, &limits);
    assert_int_equal(p.last_pages, 2000);
}

/* Always different pages, at a fifth of the link's rate: each round is a fifth of the one before. When to end them is
 * the rule's; what they cost is not. */
static void test_constant_rate(void **state)
{
    (void)state;
    struct model model;
    struct policy_limits limits = policy_limits_default();
    model_make(&model, 0, LINK_PAGES / 5 / 10);
    limits.aim_ns = 0;
    struct predict p = predict(&model.guest, &link, PREDICT_PRE_COPY, &limits);
    double round = DATA, sum = DATA;
    assert_in_range(p.rounds, 3, 6);
    for (unsigned i = 1; i < p.rounds; i++)
        sum += round /= 5;
    assert_near(p.last_pages, round / 5, 0.1);
    assert_near(p.bytes, (sum + round / 5) * PREDICT_PAGE_BYTES, 0.01);
    assert_near(p.total_ns, pages_ns(sum + round / 5) + PREDICT_FIXED_NS, 0.01);
    assert_false(p.exceeds);
}

/* Faster than the link: pre-copy cannot meet the goal and says so, unless writers may be slowed; auto ends in post-copy
 * and meets it. */
static void test_faster_than_the_link(void **state)
{
    (void)state;
    struct model model;
    struct policy_limits limits = policy_limits_default();
    limits.allow_throttle = false;
    model_make(&model, 20000, 0); /* 2 s on this link, and 300 ms are allowed */
    struct predict p = predict(&model.guest, &link, PREDICT_PRE_COPY, &limits);
    assert_true(p.exceeds);
    assert_false(p.slowed);
    assert_int_equal(p.last_pages, 20000);
    struct predict q = predict(&model.guest, &link, PREDICT_AUTO, &limits);
    assert_true(q.post_copy);
    assert_false(q.exceeds);
    assert_int_equal(q.last_pages, 20000);
    /* With a hot set that fits, auto is pre-copy. */
    model_make(&model, 2000, 0);
    p = predict(&model.guest, &link, PREDICT_PRE_COPY, &limits);
    q = predict(&model.guest, &link, PREDICT_AUTO, &limits);
    assert_false(q.post_copy);
    assert_int_equal(p.total_ns, q.total_ns);
    assert_int_equal(p.downtime_ns, q.downtime_ns);
}

/* Twice the link's rate of always different pages: slowed to less than half, the rounds converge. */
static void test_slowed_writers(void **state)
{
    (void)state;
    struct model model;
    struct policy_limits limits = policy_limits_default();
    model_make(&model, 0, 2 * LINK_PAGES / 10);
    model.guest.pages = 1u << 30; /* so that the rounds have room to grow */
    limits.max_downtime_ns = 100 * CLOCK_MSEC;
    struct predict p = predict(&model.guest, &link, PREDICT_PRE_COPY, &limits);
    assert_true(p.slowed);
    assert_false(p.exceeds);
    limits.allow_throttle = false;
    p = predict(&model.guest, &link, PREDICT_PRE_COPY, &limits);
    assert_false(p.slowed);
    assert_true(p.exceeds);
}

static void test_no_link_at_all(void **state)
{
    (void)state;
    struct model model;
    struct policy_limits limits = policy_limits_default();
    const struct predict_link slow = { .bytes_per_s = 1, .rtt_ns = 60 * CLOCK_SECOND };
    model_make(&model, 20000, 400);
    model.guest.pages = model.guest.data_pages = UINT64_C(1) << 28;
    for (enum predict_mode mode = 0; mode < PREDICT_MODE_MAX; mode++) {
        struct predict p = predict(&model.guest, &slow, mode, &limits);
        assert_true(p.total_ns >= p.downtime_ns); /* years, but no overflow */
        assert_true(p.total_ns > UINT64_C(1000000000) * CLOCK_SECOND);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle),           cmocka_unit_test(test_stop_copy),
        cmocka_unit_test(test_post_copy),      cmocka_unit_test(test_hot_set),
        cmocka_unit_test(test_constant_rate),  cmocka_unit_test(test_faster_than_the_link),
        cmocka_unit_test(test_slowed_writers), cmocka_unit_test(test_no_link_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
