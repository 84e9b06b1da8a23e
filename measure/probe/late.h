/*
 * How late the probe's own timer was: the error of everything the probe says.
 *
 * A histogram with a fixed size: a percentile is right to 1/64 of itself and never too small; the largest is exact.
 */
#pragma once
#include <stdint.h>

#define LATE_SUB_BITS 6
#define LATE_BUCKETS ((64 - LATE_SUB_BITS + 1) << LATE_SUB_BITS)

struct late {
    uint64_t count, max_ns;
    uint64_t bucket[LATE_BUCKETS];
};

void late_add(struct late *late, uint64_t ns);

/* What `share` (0 to 1) of all are at most. 0 when there is none. */
uint64_t late_quantile(const struct late *late, double share);
