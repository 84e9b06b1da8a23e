#include "wws/wws.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

int wws_init(struct wws *wws, uint64_t pages, uint32_t limit)
{
    ASSERT(pages % 64 == 0 && limit > 0 && limit <= WWS_INTERVALS_MAX);
    *wws = (struct wws){ .pages = pages, .limit = limit };
    wws->times = calloc(pages, sizeof(*wws->times));
    wws->last = calloc(pages, sizeof(*wws->last));
    wws->written = calloc(limit, sizeof(*wws->written));
    wws->length_ns = calloc(limit, sizeof(*wws->length_ns));
    wws->gaps = calloc(limit + 1, sizeof(*wws->gaps));
    if (wws->times && wws->last && wws->written && wws->length_ns && wws->gaps)
        return 0;
    wws_fini(wws);
    return -ENOMEM;
}

void wws_fini(struct wws *wws)
{
    free(wws->times);
    free(wws->last);
    free(wws->written);
    free(wws->length_ns);
    free(wws->gaps);
    *wws = (struct wws){ 0 };
}

void wws_write(struct wws *wws, uint64_t first, uint64_t bits)
{
    uint16_t now = (uint16_t)(wws->intervals + 1);
    if (wws->intervals >= wws->limit)
        return;
    for (; bits; bits &= bits - 1) {
        uint64_t page = first + (uint64_t)__builtin_ctzll(bits);
        uint16_t last = wws->last[page];
        if (last == now)
            continue;
        if (last + 1 < now)
            wws->gaps[now - last - 1]++;
        wws->ever += last == 0;
        wws->last[page] = now;
        wws->times[page]++;
        wws->written[wws->intervals]++;
    }
}

void wws_interval(struct wws *wws, uint64_t length_ns)
{
    if (wws->intervals < wws->limit)
        wws->length_ns[wws->intervals++] = length_ns;
}

/* Also closes the stretches that were still going on at the end. */
static void count_pages(const struct wws *wws, uint64_t *times, uint64_t *gaps)
{
    uint64_t seen = 0;
    for (uint64_t page = 0; page < wws->pages && seen < wws->ever; page++) {
        if (!wws->last[page])
            continue;
        seen++;
        times[wws->times[page]]++;
        gaps[wws->intervals - wws->last[page]]++;
    }
    times[0] = wws->pages - wws->ever;
}

int wws_curve(const struct wws *wws, struct wws_curve *ret)
{
    uint32_t n = wws->intervals;
    struct wws_curve curve = { .intervals = n };
    CLEANUP_FREE uint64_t *gaps = calloc(wws->limit + 1, sizeof(*gaps));
    curve.unique = calloc(n + 1, sizeof(*curve.unique));
    curve.times = calloc(n + 2, sizeof(*curve.times));
    if (!gaps || !curve.unique || !curve.times) {
        wws_curve_fini(&curve);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i <= n; i++)
        gaps[i] = wws->gaps[i];
    for (uint32_t i = 0; i < n; i++)
        curve.interval_ns += wws->length_ns[i] / n;
    count_pages(wws, curve.times, gaps);

    double stretches = 0, lengths = 0; /* of at least w: their number, and their sum */
    for (uint32_t w = n; w >= 1; w--) {
        stretches += (double)gaps[w];
        lengths += (double)gaps[w] * w;
        double missed = lengths - (w - 1) * stretches, windows = n - w + 1;
        curve.unique[w - 1] = (double)wws->ever - missed / windows;
    }
    *ret = curve;
    return 0;
}

void wws_curve_fini(struct wws_curve *curve)
{
    free(curve->unique);
    free(curve->times);
    *curve = (struct wws_curve){ 0 };
}

static double within_first(const struct wws_curve *curve, double part)
{
    double pages = 0, n = curve->intervals;
    for (uint32_t k = 1; k <= curve->intervals; k++)
        if (curve->times[k])
            pages += (double)curve->times[k] * (1 - pow(1 - k / n, part));
    return pages;
}

double wws_unique(const struct wws_curve *curve, uint64_t ns, double most)
{
    uint32_t n = curve->intervals;
    if (ns == 0 || n == 0)
        return 0;
    double at = curve->interval_ns ? (double)ns / (double)curve->interval_ns : n, pages;
    if (at < 1) {
        pages = within_first(curve, at);
    } else if (at < n) {
        uint32_t i = (uint32_t)at; /* between windows of i and of i + 1 */
        double below = curve->unique[i - 1];
        pages = below + (curve->unique[i] - below) * (at - i);
    } else {
        uint32_t back = n / 4;
        double slope = back ? (curve->unique[n - 1] - curve->unique[n - 1 - back]) / back
                            : (n == 1 ? 0 : curve->unique[n - 1] - curve->unique[n - 2]);
        pages = curve->unique[n - 1] + fmax(slope, 0) * (at - n);
    }
    return fmin(pages, most);
}
