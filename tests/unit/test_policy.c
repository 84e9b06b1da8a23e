#include "move/policy.h"

#include "base/clock.h"
#include "base/compiler.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#define GIB_PAGES UINT64_C(262144)
#define RATE (UINT64_C(4096) * 1000000) /* a page a microsecond */

static struct policy fresh(void)
{
    struct policy_limits limits = policy_limits_default();
    struct policy policy;
    policy_init(&policy, &limits, GIB_PAGES);
    return policy;
}

/* A round of dense pages at RATE. */
static struct policy_decision round_of(struct policy *policy, uint64_t pages, uint64_t left)
{
    struct policy_round round = {
        .pages = pages, .bytes = pages * 4096, .duration_ns = pages * 1000, .left_pages = left
    };
    return policy_decide(policy, &round);
}

static void test_idle_guest_stops_at_the_floor(void **state)
{
    struct policy policy = fresh();
    (void)state;
    struct policy_decision d = round_of(&policy, GIB_PAGES, 50);
    assert_true(d.stop);
    assert_int_equal(d.why, POLICY_SMALL);
    assert_int_equal(d.predicted_ns, 50000);
    assert_false(d.exceeds);
}

static void test_goes_on_while_it_shrinks(void **state)
{
    struct policy policy = fresh();
    (void)state;
    /* Short of the aim (2 ms = 2000 pages) long before, and still falling. */
    assert_false(round_of(&policy, GIB_PAGES, 40000).stop);
    assert_false(round_of(&policy, 40000, 6000).stop);
    assert_false(round_of(&policy, 6000, 900).stop);
    assert_false(round_of(&policy, 900, 140).stop);
    struct policy_decision d = round_of(&policy, 140, 139);
    assert_true(d.stop);
    assert_int_equal(d.why, POLICY_SMALL);
    assert_int_equal(policy.rounds, 5);
}

static void test_inching_down_is_no_progress(void **state)
{
    struct policy policy = fresh();
    (void)state;
    assert_false(round_of(&policy, GIB_PAGES, 100000).stop);
    assert_false(round_of(&policy, 100000, 99000).stop);
    struct policy_decision d = round_of(&policy, 99000, 98000);
    assert_true(d.stop);
    assert_int_equal(d.why, POLICY_LEVEL);
    assert_int_equal(d.predicted_ns, 98 * CLOCK_MSEC);
    assert_false(d.exceeds);
}

static void test_level_beyond_the_downtime_goes_on(void **state)
{
    struct policy policy = fresh();
    (void)state;
    policy.limits.max_factor = 100;
    /* 400000 pages = 400 ms, and 300 ms are allowed: only the rounds end it. */
    struct policy_decision d = { 0 };
    for (unsigned i = 0; i < 28; i++) {
        d = round_of(&policy, GIB_PAGES, 400000);
        assert_false(d.stop);
    }
    d = round_of(&policy, GIB_PAGES, 400000);
    assert_true(d.stop);
    assert_int_equal(d.why, POLICY_ROUNDS);
    assert_true(d.exceeds);
}

static void test_three_times_memory(void **state)
{
    struct policy policy = fresh();
    (void)state;
    assert_false(round_of(&policy, GIB_PAGES, 400000).stop);
    assert_false(round_of(&policy, GIB_PAGES, 400000).stop);
    struct policy_decision d = round_of(&policy, GIB_PAGES, 400000);
    assert_int_equal(d.why, POLICY_FACTOR);
    assert_true(d.exceeds);
}

static void test_time_limit(void **state)
{
    struct policy policy = fresh();
    (void)state;
    policy.limits.max_time_ns = 300 * CLOCK_MSEC;
    assert_false(round_of(&policy, GIB_PAGES, 400000).stop);
    struct policy_decision d = round_of(&policy, GIB_PAGES, 350000);
    assert_int_equal(d.why, POLICY_TIME);
}

static void test_small_rounds_do_not_spoil_the_rate(void **state)
{
    struct policy policy = fresh();
    (void)state;
    (void)round_of(&policy, GIB_PAGES, 40000);
    struct policy_round tiny = {
        .pages = 10, .bytes = 40960, .duration_ns = CLOCK_SECOND, .left_pages = 1000
    };
    assert_int_equal(policy_decide(&policy, &tiny).rate, RATE);
    /* Three real rounds at half the rate, and the old one is forgotten. */
    struct policy_round slow = {
        .pages = 1000, .bytes = 4096000, .duration_ns = 2000000, .left_pages = 100000
    };
    assert_int_equal(policy_decide(&policy, &slow).rate, RATE);
    assert_int_equal(policy_decide(&policy, &slow).rate, RATE);
    assert_int_equal(policy_decide(&policy, &slow).rate, RATE / 2);
}

static void test_nothing_measured(void **state)
{
    struct policy policy = fresh();
    (void)state;
    struct policy_round zero = { .left_pages = 1000 };
    struct policy_decision d = policy_decide(&policy, &zero);
    assert_int_equal(d.rate, 0);
    assert_true(d.predicted_ns == UINT64_MAX);
    assert_false(d.stop);
}

static void test_huge_numbers(void **state)
{
    struct policy policy = fresh();
    (void)state;
    struct policy_round huge = {
        .pages = UINT64_MAX, .bytes = UINT64_MAX, .duration_ns = 1, .left_pages = UINT64_MAX
    };
    struct policy_decision d = policy_decide(&policy, &huge);
    assert_true(d.stop);
    assert_int_equal(d.why, POLICY_FACTOR);
    struct policy_round slow = {
        .pages = 1, .bytes = 1, .duration_ns = UINT64_MAX, .left_pages = UINT64_MAX
    };
    (void)policy_decide(&policy, &slow);
    policy_init(&policy, &policy.limits, 0); /* no memory: no division by it */
    (void)policy_decide(&policy, &slow);
}

static void test_aim_is_no_more_than_allowed(void **state)
{
    struct policy_limits limits = policy_limits_default();
    struct policy policy;
    (void)state;
    limits.max_downtime_ns = CLOCK_MSEC;
    policy_init(&policy, &limits, GIB_PAGES);
    (void)round_of(&policy, GIB_PAGES, 1500);
    assert_false(round_of(&policy, 1500, 1500).stop); /* 1.5 ms: within 2 ms, and not within 1 ms */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_guest_stops_at_the_floor),
        cmocka_unit_test(test_goes_on_while_it_shrinks),
        cmocka_unit_test(test_inching_down_is_no_progress),
        cmocka_unit_test(test_level_beyond_the_downtime_goes_on),
        cmocka_unit_test(test_three_times_memory),
        cmocka_unit_test(test_time_limit),
        cmocka_unit_test(test_small_rounds_do_not_spoil_the_rate),
        cmocka_unit_test(test_nothing_measured),
        cmocka_unit_test(test_huge_numbers),
        cmocka_unit_test(test_aim_is_no_more_than_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
