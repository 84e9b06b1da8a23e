/*
 * Keeping to a rate: says when the next bytes may go. Late by up to PACE_CATCH_UP_NS, a sender may catch up, so
 * that the rate is kept in spite of coarse timers; what was not used before that is lost. One thread.
 */
#pragma once
#include "base/clock.h"
#include "base/compiler.h"
#include <stdint.h>

#define PACE_CATCH_UP_NS (20 * CLOCK_MSEC)

struct pace {
    uint64_t rate;    /* bytes a second; 0 = any */
    uint64_t next_ns; /* not before this */
};

static inline void pace_set(struct pace *pace, uint64_t rate, uint64_t now_ns)
{
    *pace = (struct pace){ .rate = rate, .next_ns = now_ns };
}

/* So many bytes have gone. */
static inline void pace_spend(struct pace *pace, uint64_t bytes, uint64_t now_ns)
{
    if (pace->rate == 0)
        return;
    if (pace->next_ns + PACE_CATCH_UP_NS < now_ns)
        pace->next_ns = now_ns - PACE_CATCH_UP_NS;
    uint64_t whole = bytes / pace->rate, rest = bytes % pace->rate;
    pace->next_ns += whole * CLOCK_SECOND + (uint64_t)((double)rest * 1e9 / (double)pace->rate);
}
