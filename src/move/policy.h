/*
 * Policies: what a move does next, decided from what its rounds measured. Pure arithmetic: no clock,
 * no I/O, no allocation, so that a model of a guest and a link can be driven through it (policy_model.h)
 * in tests, and by whoever wants to predict a move.
 *
 * Each round sends what the guest wrote during the round before. After each one the engine calls
 * policy_decide() with its measurements, and does as it is told:
 *
 *     ROUND     another one, at most as fast as `rate`, with the writers slowed to `run_permille`
 *     STOP      pause the guest and send what is left
 *     SWITCH    let the guest run at the target, the rest follows (only where limits.allow_switch)
 *     ABORT     the goal cannot be met, and the user would rather stay (only where limits.strict)
 *
 * While a round is under way policy_look() says whether --max-time still bears waiting for its end.
 *
 * Two policies: `goal` (policy_goal.c) pursues what the user asked for; `clark05` (policy_clark05.c) is
 * the algorithm of Clark et al., Live Migration of Virtual Machines (NSDI 2005), kept for comparison.
 * docs/policies.md describes both. They share the estimates, which are made here:
 *
 *     link         bytes a second: of the last three rounds that moved POLICY_RATE_BYTES, the middle one. A
 *                  round that mostly waited for the connection (send_ns) measured the link by that time;
 *                  one that mostly looked for pages tells of the link only that it is no slower
 *     page bytes   that a page of what is left will take: as in the last round, so that pages that
 *                  became zero again, or compress, cost what they cost
 *     page time    spent on a page beside sending it
 *     downtime     pause_ns + 2 round trips + pages left x (page time + page bytes / link)
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POLICY_RATE_BYTES (UINT64_C(1) << 20)
#define POLICY_WINDOW 3
#define POLICY_RUN_ALL 1000 /* run_permille of writers that nobody slows */

enum policy_kind { POLICY_GOAL = 1, POLICY_CLARK05, POLICY_KIND_MAX };

/* What the user asked for, and what the move's surroundings allow. */
struct policy_limits {
    enum policy_kind kind;
    uint64_t max_downtime_ns;
    uint64_t max_time_ns;              /* from taking the order to the end; 0 = any */
    uint64_t bandwidth;                /* bytes a second that may be used; 0 = any */
    bool allow_throttle, allow_switch; /* slow the writers; go on as post-copy */
    bool strict;                       /* rather stay here than exceed the goal */
    uint64_t pause_ns;           /* what a pause costs without a page: device state, records */
    uint64_t aim_ns;             /* goal: pursued for the pages where the guest lets it */
    uint64_t floor_pages;        /* goal: so few are not worth a round */
    uint64_t rate_min, rate_max; /* clark05: the administrator's, bytes a second */
};

/* goal, 300 ms, any time and bandwidth, throttling allowed; pause 1 ms, aim 1 ms, floor 50 pages;
 * clark05 between 100 and 500 Mbit/s, as in the paper's experiments. */
struct policy_limits policy_limits_default(void);

/* One round, measured. What is 0 was not measured. */
struct policy_round {
    uint64_t pages;       /* sent, of every kind (data, zero, repeated) */
    uint64_t bytes;       /* that went over the wire for them */
    uint64_t duration_ns; /* until the target had applied them all */
    uint64_t left_pages;  /* dirty at its end */
    uint64_t send_ns;     /* of duration_ns: handing over to the connection, and waiting for it */
    uint64_t rtt_ns;      /* of the connection, without queues */
};

enum policy_what { POLICY_ROUND = 1, POLICY_STOP, POLICY_SWITCH, POLICY_ABORT, POLICY_WHAT_MAX };

enum policy_why {
    POLICY_GO = 0,   /* what is left still falls, or hope is left */
    POLICY_SMALL,    /* what is left is not worth another round */
    POLICY_LEVEL,    /* it has stopped falling */
    POLICY_SLOWED,   /* the writers are to be slowed (more) */
    POLICY_RELEASED, /* they need not be any more */
    POLICY_WAITS, /* it has stopped falling, too high: what time is left is used to wait for a dip */
    POLICY_TIME,  /* the time is up, or what is left would take longer than there is */
    POLICY_FACTOR, /* so many times the guest's memory was sent */
    POLICY_RATE,   /* clark05: the next round would need more than the maximum rate */
    POLICY_ROUNDS, /* clark05: as many rounds as it allows */
    POLICY_WHY_MAX
};

struct policy_decision {
    enum policy_what what;
    enum policy_why why;
    uint32_t run_permille; /* share of their writing the fast writers keep; never below 100 */
    uint64_t rate;         /* bytes a second for the next round (clark05: also the last); 0 = any */
    uint64_t link;         /* the estimates: bytes a second; 0 = nothing measured */
    uint64_t dirty_per_s;  /* pages a second, as slowed as they were */
    uint64_t left_pages;   /* dirty now */
    uint64_t predicted_ns; /* downtime if the guest stopped now; UINT64_MAX = no telling */
    uint64_t max_downtime_ns;     /* as asked */
    bool exceeds;                 /* predicted_ns > max_downtime_ns */
    uint64_t end_ns, max_time_ns; /* the whole move if it stopped now; as asked, 0 = any */
};

struct policy {
    struct policy_limits limits;
    uint64_t total_pages; /* of guest memory */
    uint64_t sent_pages, elapsed_ns;
    uint32_t rounds;

    uint64_t link[POLICY_WINDOW], page_ns[POLICY_WINDOW]; /* newest first; link 0 = none yet */
    uint32_t page_times;                                  /* valid in page_ns[] */
    uint64_t page_bytes, rtt_ns;

    uint64_t min_left, min_at_ns; /* goal: the last new minimum */
    uint32_t rounds_since_min;
    uint64_t last_left;
    uint32_t run_permille;
    bool released; /* once: what was slowed again after that stays slowed */
};

void policy_init(struct policy *policy, const struct policy_limits *limits, uint64_t total_pages);

/* The first round is about to begin, so long after the move's order was taken. */
static inline void policy_begin(struct policy *policy, uint64_t spent_ns)
{
    policy->elapsed_ns = spent_ns;
}

/* How fast the first round may go, before anything was measured; 0 = any. */
uint64_t policy_first_rate(const struct policy *policy);

struct policy_decision policy_decide(struct policy *policy, const struct policy_round *round);

/*
 * Whether the round under way goes on, from what it has measured so far; left_pages: what would be left if it ended now.
 *     ROUND go     it does
 *     ROUND time   it does, although --max-time will be missed: to end it would only put into the pause what is sent
 *                  while the guest runs
 *     SWITCH time  post-copy is allowed, and what is left takes all of the time that is left
 *     ABORT time   the time is up, and the user would rather stay
 */
struct policy_decision policy_look(const struct policy *policy, const struct policy_round *so_far);

/* The estimates, for whoever asks outside a decision: the time to send `pages` while the guest runs, and
 * the downtime if it stopped with so many left. UINT64_MAX = no telling. */
uint64_t policy_round_ns(const struct policy *policy, uint64_t pages);
uint64_t policy_downtime_ns(const struct policy *policy, uint64_t pages);

/* "at 940 Mbit/s and 1.1 Gbit/s dirtied, downtime would be 410 ms; 20 ms asked", and of a time that will be missed
 * "; 75 s in all; 60 s asked": returns text. */
const char *policy_explain(const struct policy_decision *decision, char *text, size_t size);

const char *policy_name(enum policy_kind kind);      /* "goal", "clark05" */
enum policy_kind policy_named(const char *name);     /* 0 = none of that name */
const char *policy_what_name(enum policy_what what); /* "round", "stop", ... */
const char *policy_why_name(enum policy_why why);    /* "small", "level", ... */

/*
 * How long to hold each of `count` writers so that together they write `run_permille` of what they
 * would: those above a common level are brought down to it, the others are left alone. rate[i]: what
 * writer i writes unhindered, in any unit. hold[i]: permille of time, 0..900.
 */
void policy_hold(const uint64_t *rate, unsigned count, uint32_t run_permille, uint32_t *hold);

/* For the policies (policy_*.c). */
struct policy_ops {
    const char *name;
    uint64_t (*first_rate)(const struct policy *policy);
    void (*decide)(struct policy *policy, const struct policy_round *round,
                   struct policy_decision *decision);
    /* With the estimates of a round under way, ended now. NULL: rounds are never cut short. */
    void (*look)(const struct policy *policy, struct policy_decision *decision);
};
extern const struct policy_ops policy_goal_ops, policy_clark05_ops;

/* a * b / c without a wider result; what does not fit becomes UINT64_MAX, as does a division by 0. */
static inline uint64_t policy_scale(uint64_t a, uint64_t b, uint64_t c)
{
    if (c == 0)
        return UINT64_MAX;
    __extension__ unsigned __int128 r = (unsigned __int128)a * b / c;
    return r > UINT64_MAX ? UINT64_MAX : (uint64_t)r;
}

static inline uint64_t policy_add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}
