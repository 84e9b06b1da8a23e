#include "late.h"
#include "base/compiler.h"

/* Values below 64 have a bucket each; above, each doubling has 64. */
static unsigned bucket_of(uint64_t ns)
{
    if (ns >> LATE_SUB_BITS == 0)
        return (unsigned)ns;
    unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - LATE_SUB_BITS;
    return ((shift + 1) << LATE_SUB_BITS) + (unsigned)((ns >> shift) & ((1U << LATE_SUB_BITS) - 1));
}

static uint64_t bucket_end(unsigned bucket)
{
    unsigned shift = bucket >> LATE_SUB_BITS;
    uint64_t sub = bucket & ((1U << LATE_SUB_BITS) - 1);
    if (shift == 0)
        return sub;
    shift--;
    return (((UINT64_C(1) << LATE_SUB_BITS) + sub) << shift) + ((UINT64_C(1) << shift) - 1);
}

void late_add(struct late *late, uint64_t ns)
{
    late->count++;
    late->max_ns = MAX(late->max_ns, ns);
    late->bucket[bucket_of(ns)]++;
}

uint64_t late_quantile(const struct late *late, double share)
{
    uint64_t want = (uint64_t)(share * (double)late->count), seen = 0;
    if ((double)want < share * (double)late->count || want == 0)
        want++; /* rounded up, and at least one */
    for (unsigned i = 0; i < LATE_BUCKETS && late->count; i++) {
        seen += late->bucket[i];
        if (seen >= want)
            return MIN(bucket_end(i), late->max_ns);
    }
    return late->max_ns;
}
