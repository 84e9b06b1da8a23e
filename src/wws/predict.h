/*
 * What a move would cost: the rounds of pre-copy played against a recorded working set, and the other
 * modes beside it. Pure arithmetic (after Clark et al., NSDI 2005, section 3, and Akoush et al., Predicting
 * the Performance of Virtual Machine Migration, MASCOTS 2010); docs/wws.md lists what it assumes.
 *
 * When to stop is decided by the very rule that decides in a real move (move/policy.h), so a change of the
 * rule changes the prediction.
 */
#pragma once
#include "move/policy.h"
#include "wws/wws.h"
#include <stdbool.h>

enum predict_mode {
    PREDICT_STOP_COPY,
    PREDICT_PRE_COPY,
    PREDICT_POST_COPY, /* from the start: no page before the guest has changed sides */
    PREDICT_AUTO, /* pre-copy; post-copy for the rest once that no longer shrinks and the goal is not met */
    PREDICT_MODE_MAX
};

struct predict_guest {
    const struct wws_curve *curve;
    uint64_t pages;       /* of its memory */
    uint64_t data_pages;  /* touched, and not all zero: what travels */
    uint64_t state_bytes; /* of vCPUs and devices */
};

struct predict_link {
    uint64_t bytes_per_s; /* more than 0 */
    uint64_t rtt_ns;
};

struct predict {
    uint64_t total_ns;
    uint64_t downtime_ns;
    uint64_t bytes;      /* on the wire */
    uint32_t rounds;     /* with a running guest */
    uint64_t last_pages; /* sent while it stands still, or fetched by post-copy after that */
    enum policy_why why; /* why the rounds ended; POLICY_GO: there were none */
    bool post_copy;      /* it ended in post-copy */
    bool slowed;         /* writers were held back on the way */
    bool exceeds;        /* downtime_ns > limits->max_downtime_ns */
};

/* Times and bytes that do not come from pages, as measured on loopback (docs/bench.md: a move of an idle
 * guest). */
#define PREDICT_FIXED_NS UINT64_C(1000000)      /* pause, save, load, two durable records, resume */
#define PREDICT_PAGE_BYTES (UINT64_C(4096) + 4) /* with its share of heads and tables */

struct predict predict(const struct predict_guest *guest, const struct predict_link *link,
                       enum predict_mode mode, const struct policy_limits *limits);

const char *predict_mode_name(enum predict_mode mode); /* "stop-copy" */
