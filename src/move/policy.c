#include "move/policy.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/gpa.h"
#include <assert.h>
#include <string.h>

struct policy_limits policy_limits_default(void)
{
    return (struct policy_limits){
        .max_downtime_ns = 300 * CLOCK_MSEC,
        .aim_ns = 2 * CLOCK_MSEC,
        .floor_pages = 50,
        .patience = 2,
        .max_rounds = 29,
        .max_factor = 3,
    };
}

void policy_init(struct policy *policy, const struct policy_limits *limits, uint64_t total_pages)
{
    *policy =
        (struct policy){ .limits = *limits, .total_pages = total_pages, .min_left = UINT64_MAX };
    policy->limits.aim_ns = MIN(limits->aim_ns, limits->max_downtime_ns);
}

static uint64_t add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* a * b / c without a wider result; what does not fit becomes UINT64_MAX. */
static uint64_t scale(uint64_t a, uint64_t b, uint64_t c)
{
    __extension__ unsigned __int128 r = (unsigned __int128)a * b / c;
    return r > UINT64_MAX ? UINT64_MAX : (uint64_t)r;
}

static uint64_t best_rate(const struct policy *policy)
{
    uint64_t best = 0;
    for (unsigned i = 0; i < POLICY_RATES; i++)
        best = MAX(best, policy->rate[i]);
    return best;
}

static void note_rate(struct policy *policy, const struct policy_round *round)
{
    /* Until a big round came, a small one is better than no estimate. */
    if (round->bytes == 0 || (round->bytes < POLICY_RATE_BYTES && best_rate(policy) != 0))
        return;
    memmove(policy->rate + 1, policy->rate, sizeof(policy->rate) - sizeof(policy->rate[0]));
    uint64_t duration_ns = MAX(round->duration_ns, UINT64_C(1));
    uint64_t rate = scale(round->bytes, CLOCK_SECOND, duration_ns);
    policy->rate[0] = MAX(rate, UINT64_C(1));
}

static enum policy_why judge(const struct policy *policy, uint64_t left, uint64_t predicted_ns)
{
    const struct policy_limits *limits = &policy->limits;

    if (left <= limits->floor_pages)
        return POLICY_SMALL;
    if (predicted_ns <= limits->aim_ns && policy->rounds_since_min > 0)
        return POLICY_SMALL;
    if (policy->rounds_since_min >= limits->patience && predicted_ns <= limits->max_downtime_ns)
        return POLICY_LEVEL;
    if (policy->rounds >= limits->max_rounds)
        return POLICY_ROUNDS;
    if (policy->sent_pages / MAX(policy->total_pages, UINT64_C(1)) >= limits->max_factor)
        return POLICY_FACTOR;
    if (limits->max_time_ns && policy->elapsed_ns >= limits->max_time_ns)
        return POLICY_TIME;
    return POLICY_GO;
}

struct policy_decision policy_decide(struct policy *policy, const struct policy_round *round)
{
    policy->rounds++;
    policy->sent_pages = add(policy->sent_pages, round->pages);
    policy->elapsed_ns = add(policy->elapsed_ns, round->duration_ns);
    note_rate(policy, round);
    if (policy->min_left == UINT64_MAX ||
        round->left_pages < policy->min_left - policy->min_left / 8) {
        policy->min_left = round->left_pages;
        policy->rounds_since_min = 0;
    } else {
        policy->rounds_since_min++;
    }

    uint64_t rate = best_rate(policy), predicted_ns = 0;
    if (round->left_pages) {
        uint64_t bytes = scale(round->left_pages, PAGE_BYTES, 1);
        predicted_ns = rate ? scale(bytes, CLOCK_SECOND, rate) : UINT64_MAX;
    }
    enum policy_why why = judge(policy, round->left_pages, predicted_ns);
    return (struct policy_decision){
        .stop = why != POLICY_GO,
        .why = why,
        .rate = rate,
        .predicted_ns = predicted_ns,
        .exceeds = predicted_ns > policy->limits.max_downtime_ns,
    };
}

const char *policy_why_name(enum policy_why why)
{
    static const char *const names[] = {
        [POLICY_GO] = "go",         [POLICY_SMALL] = "small",   [POLICY_LEVEL] = "level",
        [POLICY_ROUNDS] = "rounds", [POLICY_FACTOR] = "factor", [POLICY_TIME] = "time",
        [POLICY_SWITCH] = "switch",
    };
    static_assert(ARRAY_LEN(names) == POLICY_MAX, "one name a reason");
    return why < POLICY_MAX ? names[why] : "unknown";
}
