#include "base/clock.h"
#include "base/compiler.h"
#include "move/bucket.h"
#include "test.h"

static uint64_t seed = 88172645463325252ull;

static uint64_t roll(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

static const uint64_t rates[] = { BUCKET_RATE_MIN, 1000000,   12500000,
                                  125000000,       250000000, UINT64_C(12500000000),
                                  BUCKET_RATE_MAX };

/* Senders that always have more: what passes in every second is within 5 % of the limit, whatever their
 * pieces, and however late they are woken. */
static void test_kept_within_five_percent(void **state)
{
    (void)state;
    for (size_t r = 0; r < ARRAY_LEN(rates); r++) {
        struct bucket bucket;
        uint64_t now = 5 * CLOCK_SECOND, end = now + 10 * CLOCK_SECOND, second = now, passed = 0;
        bucket_init(&bucket);
        bucket_set(&bucket, rates[r], now);
        while (now < end) {
            uint64_t wait_ns = bucket_wait_ns(&bucket, now);
            if (wait_ns) {
                now += wait_ns + roll(15 * CLOCK_MSEC); /* woken late */
            } else {
                uint64_t piece = bucket_piece(&bucket);
                uint64_t bytes = piece - roll(piece / 2);
                bucket_spend(&bucket, bytes, now);
                passed += bytes;
            }
            if (now - second >= CLOCK_SECOND) {
                uint64_t due = (uint64_t)((double)rates[r] * (double)(now - second) / 1e9);
                assert_in_range(passed, due - due / 20, due + due / 20);
                second = now;
                passed = 0;
            }
        }
        bucket_fini(&bucket);
    }
}

static uint64_t drain(struct bucket *bucket, uint64_t now)
{
    uint64_t passed = 0;
    for (; bucket_wait_ns(bucket, now) == 0; passed += 1000)
        bucket_spend(bucket, 1000, now);
    return passed;
}

static void test_burst_is_bounded(void **state)
{
    (void)state;
    struct bucket bucket;
    bucket_init(&bucket);
    bucket_set(&bucket, 1000000, CLOCK_SECOND);
    assert_in_range(bucket_wait_ns(&bucket, CLOCK_SECOND), 1, CLOCK_MSEC); /* it begins empty */
    /* After an hour of silence: one burst, no more. */
    assert_int_equal(drain(&bucket, 3600 * CLOCK_SECOND), 30000);
    bucket_fini(&bucket);
}

static void test_debt_is_paid_first(void **state)
{
    (void)state;
    struct bucket bucket;
    uint64_t now = CLOCK_SECOND;
    bucket_init(&bucket);
    bucket_set(&bucket, 1000000, now);
    bucket_spend(&bucket, 500000, now);
    assert_in_range(bucket_wait_ns(&bucket, now + 400 * CLOCK_MSEC), 100 * CLOCK_MSEC,
                    110 * CLOCK_MSEC);
    assert_int_equal(bucket_wait_ns(&bucket, now + 502 * CLOCK_MSEC), 0);
    bucket_spend(&bucket, UINT64_MAX, now + CLOCK_SECOND); /* cannot starve the rest for ever */
    assert_int_equal(bucket_wait_ns(&bucket, now + 3 * CLOCK_SECOND), 0);
    bucket_fini(&bucket);
}

static void test_changed_and_lifted(void **state)
{
    (void)state;
    struct bucket bucket;
    uint64_t now = CLOCK_SECOND, passed = 0;
    bucket_init(&bucket);
    assert_int_equal(bucket_wait_ns(&bucket, now), 0); /* no limit */
    assert_int_equal(bucket_piece(&bucket), UINT64_MAX);
    bucket_spend(&bucket, 1000, now);
    bucket_set(&bucket, 1000000, now);
    assert_true(bucket_wait_ns(&bucket, now) > 0);
    bucket_set(&bucket, 0, now);
    assert_int_equal(bucket_wait_ns(&bucket, now), 0);
    bucket_set(&bucket, UINT64_MAX, now);
    assert_int_equal(bucket.rate, BUCKET_RATE_MAX);
    bucket_set(&bucket, 1000000, now);
    assert_true(bucket_wait_ns(&bucket, now - 10) > 0); /* a clock that goes back stands still */
    /* Many looks in small steps lose no fraction. */
    bucket_set(&bucket, 333333, now);
    for (uint64_t i = 1; i <= 1000000; i++) {
        if (bucket_wait_ns(&bucket, now + i * 1000))
            continue;
        bucket_spend(&bucket, 1, now + i * 1000);
        passed++;
    }
    assert_in_range(passed, 333000, 333334);
    bucket_fini(&bucket);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_within_five_percent),
        cmocka_unit_test(test_burst_is_bounded),
        cmocka_unit_test(test_debt_is_paid_first),
        cmocka_unit_test(test_changed_and_lifted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
