/*
 * The algorithm of Clark et al., Live Migration of Virtual Machines (NSDI 2005), sections 5.3 and 5.4:
 *
 *  - the first round goes at the administrator's minimum rate;
 *  - each later one at the dirty rate of the round before, plus 50 Mbit/s;
 *  - the rounds end when that would exceed the maximum, or less than 256 KiB are left;
 *  - the last round, with the guest paused, goes at the maximum.
 *
 * And two bounds that its implementation had, as reported by Akoush et al., Predicting the Performance
 * of Virtual Machine Migration (MASCOTS 2010): 29 rounds, and 3 times the guest's memory.
 *
 * It knows no goal: the decision says what downtime it comes to, no more. The skip set and the order of
 * section 5.4 are the page source's work (move/round_set.h).
 */
#include "base/clock.h"
#include "base/compiler.h"
#include "base/gpa.h"
#include "move/policy.h"

#define STEP (UINT64_C(50000000) / 8) /* bytes a second */
#define SMALL_PAGES ((UINT64_C(256) << 10) / PAGE_BYTES)
#define MAX_ROUNDS 29
#define MAX_FACTOR 3

static uint64_t first_rate(const struct policy *policy)
{
    return policy->limits.rate_min;
}

static void stop(struct policy_decision *d, enum policy_why why)
{
    d->what = POLICY_STOP;
    d->why = why;
}

static void decide(struct policy *policy, const struct policy_round *round,
                   struct policy_decision *d)
{
    const struct policy_limits *limits = &policy->limits;
    uint64_t dirty = policy_scale(d->dirty_per_s, PAGE_BYTES, 1);
    uint64_t rate = policy_add(dirty, STEP);

    d->rate = limits->rate_max;
    if (round->left_pages < SMALL_PAGES)
        stop(d, POLICY_SMALL);
    else if (rate > limits->rate_max)
        stop(d, POLICY_RATE);
    else if (policy->rounds >= MAX_ROUNDS)
        stop(d, POLICY_ROUNDS);
    else if (policy->sent_pages / MAX(policy->total_pages, UINT64_C(1)) >= MAX_FACTOR)
        stop(d, POLICY_FACTOR);
    else
        d->rate = MAX(rate, limits->rate_min);
}

const struct policy_ops policy_clark05_ops = {
    .name = "clark05",
    .first_rate = first_rate,
    .decide = decide,
};
