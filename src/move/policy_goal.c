/*
 * The policy that pursues what the user asked for: a downtime, a time, and what may be done for it.
 *
 * `meets`: the downtime predicted for what is left is no more than was asked; `fits`: and an eighth is to spare, for
 * what no prediction sees. `stalled`: no new minimum of what is left for a while, in rounds and in time, so that neither a wobble nor a burst of tiny rounds
 * counts; a new minimum is an eighth below the last. First match wins:
 *
 *   few pages left                               -> STOP small    (does not meet and strict: ABORT)
 *   fits, and the writers are slowed             -> STOP level: they suffer for no more than was asked
 *   fits, cheap already, and no longer falling   -> STOP small
 *   fits, stalled                                -> STOP level
 *   the time, or the work, is used up            -> STOP          (does not meet: SWITCH, or if strict ABORT)
 *   fits, or still falling                       -> ROUND
 *   stalled too high:
 *     writers may be slowed (more)               -> ROUND slowed
 *     meets                                      -> STOP level
 *     post-copy is allowed                       -> SWITCH
 *     strict                                     -> ABORT
 *     there is a time limit                      -> ROUND, waiting for a dip; in the second half of the
 *                                                   time, what is as low as anything before -> STOP
 *     otherwise                                  -> STOP level: the smallest downtime in reach
 *
 * While a round is under way (look()): what is left, sent now, would end after the time
 *     post-copy is allowed                       -> SWITCH
 *     strict, and the time is up                 -> ABORT
 *     otherwise                                  -> ROUND, to its end: only what it sends is not in the pause
 *
 * Going on while it fits keeps the downtime falling: a round costs no more than what it saves.
 *
 * Slowing. Let q be what is left over what was left before: what the guest wrote while one page was
 * sent. Below 1 the rounds converge. Slowed writers write in proportion, so the share that brings q to
 * a half is run / (2 q). When the set written is smaller than what could be written in a round, q does
 * not tell how fast it is written; the share then falls with each stalled round until it shows. Slowed
 * writers are released once, when a quarter of the slowing would do: what starts again after that stays
 * slowed, so that the guest does not flap between fast and slow.
 */
#include "base/clock.h"
#include "base/compiler.h"
#include "move/policy.h"

#define SPARE 8 /* of the goal, the part that is kept in hand */
#define STALL_ROUNDS 2
#define STALL_NS (50 * CLOCK_MSEC)       /* when stopping is good enough */
#define STALL_HIGH_NS (500 * CLOCK_MSEC) /* before anything drastic */
#define MAX_FACTOR 8                     /* times memory, where no time limit was given */
#define RUN_LEAST 100                    /* permille */
#define RUN_LEAST_SWITCH 500             /* where post-copy is the better way out */

static uint64_t first_rate(const struct policy *policy)
{
    return policy->limits.bandwidth;
}

static void note_minimum(struct policy *policy, uint64_t left)
{
    if (policy->min_left == UINT64_MAX || left < policy->min_left - policy->min_left / 8) {
        policy->min_left = left;
        policy->min_at_ns = policy->elapsed_ns;
        policy->rounds_since_min = 0;
    } else {
        policy->rounds_since_min++;
    }
}

static bool stalled(const struct policy *policy, uint64_t patience_ns)
{
    /* Of writers that were just slowed one round shows whether it helps. */
    uint32_t rounds = policy->run_permille < POLICY_RUN_ALL ? 1 : STALL_ROUNDS;
    return policy->rounds_since_min >= rounds &&
           policy->elapsed_ns - policy->min_at_ns >= patience_ns;
}

/* The time is up when another round and the pause after it would not fit any more. */
static enum policy_why used_up(const struct policy *policy, const struct policy_decision *d)
{
    const struct policy_limits *limits = &policy->limits;
    uint64_t round_ns = policy_round_ns(policy, d->left_pages);
    uint64_t end_ns = policy_add(policy_add(policy->elapsed_ns, round_ns), d->predicted_ns);

    if (limits->max_time_ns)
        return end_ns > limits->max_time_ns ? POLICY_TIME : POLICY_GO;
    bool many = policy->sent_pages / MAX(policy->total_pages, UINT64_C(1)) >= MAX_FACTOR;
    return many ? POLICY_FACTOR : POLICY_GO;
}

/* The share at which what is left would halve with every round. */
static uint64_t wanted_run(const struct policy *policy, uint64_t left)
{
    if (policy->last_left == UINT64_MAX || left == 0)
        return POLICY_RUN_ALL;
    return policy_scale(policy->run_permille, policy->last_left, policy_scale(left, 2, 1));
}

static bool slow(struct policy *policy, struct policy_decision *d)
{
    uint32_t least = policy->limits.allow_switch ? RUN_LEAST_SWITCH : RUN_LEAST;
    if (!policy->limits.allow_throttle || policy->run_permille <= least)
        return false;
    uint64_t run = MIN(wanted_run(policy, d->left_pages), policy->run_permille * UINT64_C(7) / 10);
    policy->run_permille = (uint32_t)MAX(run, (uint64_t)least);
    policy->min_left = UINT64_MAX; /* another guest, so to speak: the stall is judged afresh */
    note_minimum(policy, d->left_pages);
    d->why = POLICY_SLOWED;
    return true;
}

static void maybe_release(struct policy *policy, struct policy_decision *d)
{
    uint64_t run = wanted_run(policy, d->left_pages);
    if (policy->run_permille == POLICY_RUN_ALL || policy->released ||
        run < UINT64_C(4) * policy->run_permille)
        return;
    policy->run_permille = (uint32_t)MIN(run, (uint64_t)POLICY_RUN_ALL);
    policy->released = true;
    d->why = POLICY_RELEASED;
}

static void stop(struct policy_decision *d, enum policy_why why)
{
    d->what = POLICY_STOP;
    d->why = why;
}

static void miss(const struct policy *policy, struct policy_decision *d, enum policy_why why)
{
    stop(d, why);
    if (policy->limits.allow_switch)
        d->what = POLICY_SWITCH;
    else if (policy->limits.strict)
        d->what = POLICY_ABORT;
}

static void stuck(struct policy *policy, struct policy_decision *d)
{
    const struct policy_limits *limits = &policy->limits;
    if (slow(policy, d))
        return;
    if (!d->exceeds) {
        stop(d, POLICY_LEVEL);
        return;
    }
    if (limits->allow_switch || limits->strict || !limits->max_time_ns) {
        miss(policy, d, POLICY_LEVEL);
        return;
    }
    d->why = POLICY_WAITS;
    if (policy->elapsed_ns >= limits->max_time_ns / 2 && d->left_pages <= policy->min_left)
        stop(d, POLICY_LEVEL);
}

static void judge(struct policy *policy, struct policy_decision *d)
{
    const struct policy_limits *limits = &policy->limits;
    bool meets = !d->exceeds;
    bool fits = policy_add(d->predicted_ns, d->predicted_ns / SPARE) <= d->max_downtime_ns;

    if (d->left_pages <= limits->floor_pages) {
        stop(d, POLICY_SMALL);
        if (!meets && limits->strict)
            d->what = POLICY_ABORT;
        return;
    }
    bool cheap = policy_round_ns(policy, d->left_pages) <= limits->aim_ns;
    if (fits && cheap && policy->rounds_since_min > 0) {
        stop(d, POLICY_SMALL);
        return;
    }
    if (fits && (policy->run_permille < POLICY_RUN_ALL || stalled(policy, STALL_NS))) {
        stop(d, POLICY_LEVEL);
        return;
    }
    enum policy_why used = used_up(policy, d);
    if (used && meets)
        stop(d, used);
    else if (used)
        miss(policy, d, used);
    else if (!fits && stalled(policy, STALL_HIGH_NS))
        stuck(policy, d);
    else
        maybe_release(policy, d);
}

static void decide(struct policy *policy, const struct policy_round *round,
                   struct policy_decision *d)
{
    note_minimum(policy, round->left_pages);
    judge(policy, d);
    policy->last_left = round->left_pages;
    d->rate = policy->limits.bandwidth;
    d->run_permille = policy->run_permille;
}

static void look(const struct policy *policy, struct policy_decision *d)
{
    const struct policy_limits *limits = &policy->limits;
    if (!limits->max_time_ns || d->end_ns <= limits->max_time_ns || !d->exceeds)
        return;
    d->why = POLICY_TIME;
    if (limits->allow_switch)
        d->what = POLICY_SWITCH;
    else if (limits->strict && policy->elapsed_ns > limits->max_time_ns)
        d->what = POLICY_ABORT;
}

const struct policy_ops policy_goal_ops = {
    .name = "goal",
    .first_rate = first_rate,
    .decide = decide,
    .look = look,
};
