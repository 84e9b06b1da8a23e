/*
 * When to stop the rounds of pre-copy: pure arithmetic on what the rounds so far measured.
 *
 * Each round sends what the guest dirtied during the round before. The rounds are worth their bytes
 * as long as what is left shrinks; a guest that writes faster than the link carries never lets it
 * shrink to nothing (its "writable working set": Clark et al., Live Migration of Virtual Machines,
 * NSDI 2005, sections 3.2 and 5.2), so a rule must end them. With `left` = pages dirty now, and
 * predicted = left x page bytes / rate, the rule is, first match wins:
 *
 *  1. left <= floor_pages                                    -> stop, SMALL
 *  2. predicted <= aim_ns, and this round brought no new
 *     minimum of `left`                                      -> stop, SMALL
 *  3. no new minimum for `patience` rounds, and
 *     predicted <= max_downtime_ns                           -> stop, LEVEL
 *  4. max_rounds sent | max_factor x memory sent |
 *     max_time_ns passed                                     -> stop, ROUNDS | FACTOR | TIME
 *  5. otherwise                                              -> another round
 *
 * A new minimum counts only if it is an eighth below the last that did: inching down is no
 * progress. Rule 2 keeps the downtime falling after it is already short: a further round then costs
 * no more than the downtime it would save. Rule 4 stops whatever the prediction says, as Clark's
 * did; the decision tells the prediction, so that whoever asked for less is told. Its numbers (a
 * floor of 50 pages, 29 rounds before the last, 3 times memory) are those of the Xen implementation
 * of the paper as reported by Akoush et al., Predicting the Performance of Virtual Machine
 * Migration (MASCOTS 2010).
 *
 * The rate is the best of the last three rounds that moved at least POLICY_RATE_BYTES: smaller ones
 * measure the link's delay and not its width.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define POLICY_RATE_BYTES (UINT64_C(1) << 20)
#define POLICY_RATES 3

struct policy_limits {
    uint64_t max_downtime_ns; /* what the user allows for the last pages */
    uint64_t aim_ns;          /* what is pursued where the guest lets it; at most max_downtime_ns */
    uint64_t floor_pages;
    uint32_t patience;
    uint32_t max_rounds; /* with a running guest */
    uint32_t max_factor;
    uint64_t max_time_ns; /* since the first round began; 0 = any */
};

/* 300 ms, 2 ms, 50 pages, 2 rounds, 29 rounds, 3 times, any time. */
struct policy_limits policy_limits_default(void);

/* One round, measured. */
struct policy_round {
    uint64_t pages;       /* sent, of every kind (data, zero, repeated) */
    uint64_t bytes;       /* that went over the wire for them */
    uint64_t duration_ns; /* until the target had applied them all */
    uint64_t left_pages;  /* dirty at its end */
    uint64_t
        capacity; /* bytes a second the link carried while something was being sent, however long
                           * pages were looked for in between; 0 = not measured */
};

struct policy {
    struct policy_limits limits;
    uint64_t total_pages; /* of guest memory */
    uint32_t rounds, rounds_since_min;
    uint64_t min_left, sent_pages, elapsed_ns;
    uint64_t rate[POLICY_RATES]; /* bytes a second, newest first; 0 = none yet */
};

enum policy_why {
    POLICY_GO = 0,
    POLICY_SMALL,
    POLICY_LEVEL,
    POLICY_ROUNDS,
    POLICY_FACTOR,
    POLICY_TIME,
    POLICY_MAX
};

struct policy_decision {
    bool stop;
    enum policy_why why;   /* POLICY_GO unless stop */
    uint64_t rate;         /* bytes a second; 0 = nothing measured */
    uint64_t predicted_ns; /* to send what is left, at that rate; UINT64_MAX = no telling */
    bool exceeds;          /* predicted_ns > max_downtime_ns */
};

void policy_init(struct policy *policy, const struct policy_limits *limits, uint64_t total_pages);
struct policy_decision policy_decide(struct policy *policy, const struct policy_round *round);

/* "small", "level", "rounds", ... */
const char *policy_why_name(enum policy_why why);
