#include "move/policy.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/gpa.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

#define PAGE_TIME_PAGES 256 /* a round of fewer measures its messages, not its pages */
#define HOLD_MAX UINT64_C(900)
#define LOOK_NS (500 * CLOCK_MSEC) /* before a round under way tells anything */

static const struct policy_ops *const table[] = {
    [POLICY_GOAL] = &policy_goal_ops,
    [POLICY_CLARK05] = &policy_clark05_ops,
};
static_assert(ARRAY_LEN(table) == POLICY_KIND_MAX, "one row a policy");

struct policy_limits policy_limits_default(void)
{
    return (struct policy_limits){
        .kind = POLICY_GOAL,
        .max_downtime_ns = 300 * CLOCK_MSEC,
        .allow_throttle = true,
        .pause_ns = CLOCK_MSEC,
        .aim_ns = CLOCK_MSEC,
        .floor_pages = 50,
        .rate_min = UINT64_C(100000000) / 8,
        .rate_max = UINT64_C(500000000) / 8,
    };
}

void policy_init(struct policy *policy, const struct policy_limits *limits, uint64_t total_pages)
{
    ASSERT(limits->kind >= POLICY_GOAL && limits->kind < POLICY_KIND_MAX);
    *policy = (struct policy){ .limits = *limits,
                               .total_pages = total_pages,
                               .page_bytes = PAGE_BYTES,
                               .min_left = UINT64_MAX,
                               .last_left = UINT64_MAX,
                               .run_permille = POLICY_RUN_ALL };
}

/* ----------------------------------------------------------------------------------- estimates */

/* The middle one of the last three, the lower of two: one lucky round is no promise. */
static uint64_t likely_link(const struct policy *policy)
{
    const uint64_t *link = policy->link;
    uint64_t low = MIN(link[0], link[1]), high = MAX(link[0], link[1]);
    uint64_t likely = link[1] == 0 ? link[0] : link[2] == 0 ? low : MIN(high, MAX(low, link[2]));
    uint64_t limit = policy->limits.bandwidth;
    return limit ? MIN(likely, limit) : likely;
}

static uint64_t best_page_ns(const struct policy *policy)
{
    uint64_t best = policy->page_times ? UINT64_MAX : 0;
    for (unsigned i = 0; i < policy->page_times; i++)
        best = MIN(best, policy->page_ns[i]);
    return best;
}

static void push(uint64_t window[POLICY_WINDOW], uint64_t value)
{
    memmove(window + 1, window, (POLICY_WINDOW - 1) * sizeof(*window));
    window[0] = value;
}

static void note_link(struct policy *policy, const struct policy_round *round)
{
    /* Until a big round came, a small one is better than no estimate. */
    if (round->bytes == 0 || (round->bytes < POLICY_RATE_BYTES && policy->link[0] != 0))
        return;
    uint64_t ns = MAX(round->duration_ns, UINT64_C(1));
    if (round->send_ns >= ns / 2 && round->send_ns <= ns)
        ns = MAX(round->send_ns, UINT64_C(1));
    push(policy->link, MAX(policy_scale(round->bytes, CLOCK_SECOND, ns), UINT64_C(1)));
}

static void note_page(struct policy *policy, const struct policy_round *round)
{
    if (round->pages < PAGE_TIME_PAGES)
        return;
    /* The first round meets all kinds of pages; those that are left were written just now. */
    if (policy->rounds > 1)
        policy->page_bytes = MIN(round->bytes / round->pages, UINT64_C(2) * PAGE_BYTES);
    bool known = round->send_ns >= round->duration_ns / 2 && round->send_ns <= round->duration_ns;
    push(policy->page_ns, known ? (round->duration_ns - round->send_ns) / round->pages : 0);
    policy->page_times = MIN(policy->page_times + 1, (uint32_t)POLICY_WINDOW);
}

uint64_t policy_round_ns(const struct policy *policy, uint64_t pages)
{
    uint64_t link = likely_link(policy);
    if (pages == 0)
        return 0;
    if (link == 0)
        return UINT64_MAX;
    uint64_t wire = policy_scale(policy_scale(pages, policy->page_bytes, 1), CLOCK_SECOND, link);
    return policy_add(wire, policy_scale(pages, best_page_ns(policy), 1));
}

uint64_t policy_downtime_ns(const struct policy *policy, uint64_t pages)
{
    uint64_t fixed = policy_add(policy->limits.pause_ns, policy_scale(policy->rtt_ns, 2, 1));
    return policy_add(policy_round_ns(policy, pages), fixed);
}

/* ------------------------------------------------------------------------------------ decisions */

uint64_t policy_first_rate(const struct policy *policy)
{
    return table[policy->limits.kind]->first_rate(policy);
}

static void measure(struct policy *policy, const struct policy_round *round)
{
    policy->sent_pages = policy_add(policy->sent_pages, round->pages);
    policy->elapsed_ns = policy_add(policy->elapsed_ns, round->duration_ns);
    note_link(policy, round);
    note_page(policy, round);
    if (round->rtt_ns)
        policy->rtt_ns = policy->rtt_ns ? MIN(policy->rtt_ns, round->rtt_ns) : round->rtt_ns;
}

/* What follows from what was measured, and nothing decided. */
static struct policy_decision estimate(const struct policy *policy,
                                       const struct policy_round *round)
{
    struct policy_decision d = {
        .what = POLICY_ROUND,
        .run_permille = POLICY_RUN_ALL,
        .link = likely_link(policy),
        .dirty_per_s = round->duration_ns
                           ? policy_scale(round->left_pages, CLOCK_SECOND, round->duration_ns)
                           : 0,
        .left_pages = round->left_pages,
        .predicted_ns = policy_downtime_ns(policy, round->left_pages),
        .max_downtime_ns = policy->limits.max_downtime_ns,
        .max_time_ns = policy->limits.max_time_ns,
    };
    d.exceeds = d.predicted_ns > d.max_downtime_ns;
    d.end_ns = policy_add(policy->elapsed_ns, d.predicted_ns);
    return d;
}

struct policy_decision policy_look(const struct policy *policy, const struct policy_round *so_far)
{
    struct policy trial = *policy;
    measure(&trial, so_far);
    if (so_far->pages >=
        PAGE_TIME_PAGES) /* of the first round, too: what is left is of all kinds like what went */
        trial.page_bytes = MIN(so_far->bytes / so_far->pages, UINT64_C(2) * PAGE_BYTES);
    struct policy_decision d = estimate(&trial, so_far);
    bool known = so_far->duration_ns >= LOOK_NS || trial.elapsed_ns > trial.limits.max_time_ns;
    d.rate = policy->limits.bandwidth;
    d.run_permille = policy->run_permille;
    if (table[policy->limits.kind]->look && known && d.link)
        table[policy->limits.kind]->look(&trial, &d);
    return d;
}

struct policy_decision policy_decide(struct policy *policy, const struct policy_round *round)
{
    policy->rounds++;
    measure(policy, round);
    struct policy_decision d = estimate(policy, round);
    table[policy->limits.kind]->decide(policy, round, &d);
    return d;
}

/* -------------------------------------------------------------------------- who is held how long */

void policy_hold(const uint64_t *rate, unsigned count, uint32_t run_permille, uint32_t *hold)
{
    uint64_t sum = 0, most = 0;
    for (unsigned i = 0; i < count; i++) {
        sum = policy_add(sum, rate[i]);
        most = MAX(most, rate[i]);
        hold[i] = 0;
    }
    if (sum == 0 || run_permille >= POLICY_RUN_ALL)
        return;
    /* The level: the highest at which all that stay below it, and the others at it, write no more
     * than they may. Found by halving, since it lies between 0 and the fastest. */
    uint64_t may = policy_scale(sum, run_permille, POLICY_RUN_ALL), low = 0, high = most;
    while (low < high) {
        uint64_t level = low + (high - low) / 2 + (high - low) % 2, total = 0;
        for (unsigned i = 0; i < count; i++)
            total = policy_add(total, MIN(rate[i], level));
        if (total <= may)
            low = level;
        else
            high = level - 1;
    }
    for (unsigned i = 0; i < count; i++)
        if (rate[i] > low)
            hold[i] = (uint32_t)MIN(policy_scale(rate[i] - low, 1000, rate[i]), HOLD_MAX);
}

/* ---------------------------------------------------------------------------------------- texts */

static void show_rate(char *text, size_t size, uint64_t bytes_per_s)
{
    double bits = (double)bytes_per_s * 8;
    if (bits >= 1e9)
        (void)snprintf(text, size, "%.2f Gbit/s", bits / 1e9);
    else
        (void)snprintf(text, size, "%.0f Mbit/s", bits / 1e6);
}

static void show_time(char *text, size_t size, uint64_t ns)
{
    double ms = (double)ns / (double)CLOCK_MSEC;
    if (ns == UINT64_MAX)
        (void)snprintf(text, size, "unknown");
    else if (ms >= 10000)
        (void)snprintf(text, size, "%.1f s", ms / 1000);
    else
        (void)snprintf(text, size, ms >= 10 ? "%.0f ms" : "%.1f ms", ms);
}

const char *policy_explain(const struct policy_decision *d, char *text, size_t size)
{
    char link[24], dirty[24], time[24], asked[24];
    show_rate(link, sizeof(link), d->link);
    show_rate(dirty, sizeof(dirty), policy_scale(d->dirty_per_s, PAGE_BYTES, 1));
    show_time(time, sizeof(time), d->predicted_ns);
    show_time(asked, sizeof(asked), d->max_downtime_ns);
    int len = snprintf(text, size, "at %s and %s dirtied, downtime would be %s; %s asked", link,
                       dirty, time, asked);
    if (d->max_time_ns == 0 || d->end_ns <= d->max_time_ns || len < 0 || (size_t)len >= size)
        return text;
    show_time(time, sizeof(time), d->end_ns);
    show_time(asked, sizeof(asked), d->max_time_ns);
    (void)snprintf(text + len, size - (size_t)len, "; %s in all; %s asked", time, asked);
    return text;
}

const char *policy_name(enum policy_kind kind)
{
    return kind >= POLICY_GOAL && kind < POLICY_KIND_MAX ? table[kind]->name : "unknown";
}

enum policy_kind policy_named(const char *name)
{
    for (unsigned kind = POLICY_GOAL; kind < POLICY_KIND_MAX; kind++)
        if (strcmp(table[kind]->name, name) == 0)
            return (enum policy_kind)kind;
    return 0;
}

const char *policy_what_name(enum policy_what what)
{
    static const char *const names[] = {
        [POLICY_ROUND] = "round",
        [POLICY_STOP] = "stop",
        [POLICY_SWITCH] = "switch",
        [POLICY_ABORT] = "abort",
    };
    static_assert(ARRAY_LEN(names) == POLICY_WHAT_MAX, "one name each");
    return what >= POLICY_ROUND && what < POLICY_WHAT_MAX ? names[what] : "unknown";
}

const char *policy_why_name(enum policy_why why)
{
    static const char *const names[] = {
        [POLICY_GO] = "go",         [POLICY_SMALL] = "small",       [POLICY_LEVEL] = "level",
        [POLICY_SLOWED] = "slowed", [POLICY_RELEASED] = "released", [POLICY_WAITS] = "waits",
        [POLICY_TIME] = "time",     [POLICY_FACTOR] = "factor",     [POLICY_RATE] = "rate",
        [POLICY_ROUNDS] = "rounds",
    };
    static_assert(ARRAY_LEN(names) == POLICY_WHY_MAX, "one name a reason");
    return why < POLICY_WHY_MAX ? names[why] : "unknown";
}
