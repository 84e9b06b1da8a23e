/*
 * The writable working set of a guest: which pages it writes, how often, and how many different ones in
 * a stretch of time (Clark et al., Live Migration of Virtual Machines, NSDI 2005, section 3).
 *
 * A recording is a row of intervals; for each, which pages were written in it. Kept of them is only what
 * the report needs, in one pass: per page, in how many intervals it was written and in which last; per
 * interval, how many pages; and how many stretches of each length without a write there were. From the
 * latter follows, exactly, how many different pages were written in the mean over *all* windows of each
 * length, not only over those that begin with the recording:
 *
 *     a page misses a window if the window lies within one of its stretches without a write, and a
 *     stretch of g intervals holds max(0, g - w + 1) windows of w
 *
 * Memory: 4 bytes a page while it lasts, allocated lazily, so only pages near a written one take any.
 *
 * Pure, one thread.
 */
#pragma once
#include "base/compiler.h"
#include <stdint.h>

#define WWS_INTERVALS_MAX 10000u

struct wws {
    uint64_t pages;      /* of the guest; all by page index */
    uint32_t limit;      /* most intervals */
    uint32_t intervals;  /* so far */
    uint16_t *times;     /* a page: intervals in which it was written */
    uint16_t *last;      /* a page: 1 + the last of them; 0 = none yet */
    uint64_t *written;   /* an interval: pages written in it */
    uint64_t *length_ns; /* an interval: what it really took */
    uint64_t *gaps; /* a length: stretches of so many intervals without a write, those at the end
                           * left out, of pages that were ever written */
    uint64_t ever;  /* pages ever written */
};

/* What follows from a recording; index 0 of `unique` is a window of one interval. */
struct wws_curve {
    uint64_t interval_ns; /* the mean */
    uint32_t intervals;
    double *unique; /* [intervals]: mean pages written in a window of i + 1 intervals */
    uint64_t
        *times; /* [intervals + 1]: pages written in exactly i of them; of all the guest's pages */
};

/* `pages` a multiple of 64, `limit` within 1..WWS_INTERVALS_MAX. -ENOMEM. */
int wws_init(struct wws *wws, uint64_t pages, uint32_t limit) MUST_CHECK;
void wws_fini(struct wws *wws);

/* In the present interval pages first + i were written, for each bit i of `bits`. A page counts once an
 * interval. `first`: a multiple of 64 below `pages`. */
void wws_write(struct wws *wws, uint64_t first, uint64_t bits);

/* The present interval ends, having taken so long. At most `limit` times. */
void wws_interval(struct wws *wws, uint64_t length_ns);

/* -ENOMEM. Of a recording without intervals: an empty curve. */
int wws_curve(const struct wws *wws, struct wws_curve *ret) MUST_CHECK;
void wws_curve_fini(struct wws_curve *curve);

/* How many different pages are written in `ns`, at most `most`. Within the recording: the curve, straight
 * between its points. Beyond its end: going on as in its last quarter. Within the first interval, about
 * which the recording says only whether a page was written: each page as if written at random times of
 * its own mean rate, and one that was written in every interval as if written all the time. So a fine
 * hot spot is overstated rather than overlooked; a shorter interval tells more. */
double wws_unique(const struct wws_curve *curve, uint64_t ns, double most);
