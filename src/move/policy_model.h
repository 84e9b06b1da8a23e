/*
 * A guest and a connection in numbers, to drive a policy through: for predictions (`migrate --check`) and
 * for tests. Pure, like the policies themselves.
 *
 * The guest writes sets of pages, each in a cycle at its own rate: within t it has written
 * min(pages, rate x t) different ones. A sum of such sets has the shape of any guest's curve: steep at
 * first (the pages written all the time), flatter later. It may write in bursts with quiet in between.
 */
#pragma once
#include "move/policy.h"

#define POLICY_SETS_MAX 8

struct policy_set {
    uint64_t pages, pages_per_s;
};

struct policy_guest {
    uint64_t total_pages;
    uint64_t data_pages; /* of them, those that take bytes: neither zero nor never touched */
    unsigned set_count;
    struct policy_set set[POLICY_SETS_MAX];
    uint64_t burst_ns, quiet_ns;  /* writes so long, then not; quiet 0 = writes always */
    uint64_t growth_pages_per_s2; /* set[0] gets faster by so much each second */
};

struct policy_path {
    uint64_t bytes_per_s, rtt_ns;
    uint64_t page_ns; /* beside sending */
};

/* Curve of a guest from samples: pages[i] different ones were written within ns[i], both ascending. What
 * comes after the last sample goes on as between the last two. */
void policy_guest_curve(struct policy_guest *guest, const uint64_t *ns, const uint64_t *pages,
                        unsigned count);

/* A move through the model. */
struct policy_model {
    struct policy_guest guest;
    struct policy_path path;
    uint64_t now_ns;         /* the guest's time */
    uint32_t noise_permille; /* of every measurement, either way; 0 = exact */
    uint64_t random;         /* its seed; not 0 */
};

/* One round of `pages`, at most `rate` bytes a second (0 = any), with writers slowed to run_permille.
 * `skip`: pages written again meanwhile are left out. */
struct policy_round policy_model_round(struct policy_model *model, uint64_t pages, bool first,
                                       uint64_t rate, uint32_t run_permille, bool skip);

/* The pause with so many pages left. */
uint64_t policy_model_pause_ns(const struct policy_model *model, uint64_t pages, uint64_t rate,
                               uint64_t pause_ns);

struct policy_outcome {
    struct policy_decision last;
    uint64_t time_ns, downtime_ns, pages; /* in all; SWITCH and ABORT: up to there, no downtime */
    uint64_t left_pages;    /* still to be sent then: in the pause, or after a switch */
    uint64_t held_ns;       /* the writers' time, in sum of share x time */
    uint32_t rounds, turns; /* turns: how often run_permille went the other way */
};

/* A whole move under a policy; ends after `max_rounds` at the latest (last.what is then ROUND). */
struct policy_outcome policy_model_run(struct policy_model *model,
                                       const struct policy_limits *limits, uint32_t max_rounds);

/* The same without a policy: the guest stands still while all of its memory is sent. */
struct policy_outcome policy_model_stop(const struct policy_model *model,
                                        const struct policy_limits *limits);

/* Goes on from `out` (or, zeroed but for left_pages, begins) with post-copy: the guest is handed over with left_pages
 * missing, named by a bit each, and they follow. What it waits for them then is not in the downtime. */
void policy_model_pull(const struct policy_model *model, const struct policy_limits *limits,
                       struct policy_outcome *out);
