#include "cost/show.h"

#include "base/clock.h"
#include "base/compiler.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* `v` in steps of `step`, the largest unit that leaves at least 1, three digits. */
static struct show scaled(double v, double step, const char *const *unit, size_t units)
{
    struct show show;
    size_t i = 0;
    /* 999.5 would be printed as 1000: it belongs to the next unit already. */
    for (; i + 1 < units && v >= (step > 1000 ? 1023.5 : 999.5); i++)
        v /= step;
    int digits = i == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2;
    (void)snprintf(show.text, sizeof(show.text), "%.*f%s", digits, v, unit[i]);
    return show;
}

struct show show_duration(uint64_t ns)
{
    static const char *const unit[] = { " ns", " us", " ms", " s" };
    struct show show;
    uint64_t seconds = ns / CLOCK_SECOND;
    if (ns == 0)
        (void)snprintf(show.text, sizeof(show.text), "0");
    else if (seconds < 60)
        show = scaled((double)ns, 1000, unit, ARRAY_LEN(unit));
    else if (seconds < 3600)
        (void)snprintf(show.text, sizeof(show.text), "%" PRIu64 "m%02" PRIu64 "s", seconds / 60,
                       seconds % 60);
    else
        (void)snprintf(show.text, sizeof(show.text), "%" PRIu64 "h%02" PRIu64 "m", seconds / 3600,
                       seconds / 60 % 60);
    return show;
}

struct show show_bytes(uint64_t bytes)
{
    static const char *const unit[] = { " B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB" };
    return scaled((double)bytes, 1024, unit, ARRAY_LEN(unit));
}

struct show show_count(uint64_t n)
{
    static const char *const unit[] = { "", " k", " M", " G", " T", " P", " E" };
    struct show show;
    if (n >= 1000000)
        return scaled((double)n, 1000, unit, ARRAY_LEN(unit));
    (void)snprintf(show.text, sizeof(show.text), "%" PRIu64, n);
    return show;
}

struct show show_percent(uint64_t part, uint64_t whole)
{
    struct show show = { "-" };
    if (whole)
        (void)snprintf(show.text, sizeof(show.text), "%.1f %%", (double)part * 100 / (double)whole);
    return show;
}

void show_bar(char *bar, size_t width, uint64_t part, uint64_t whole)
{
    double share = whole ? (double)part / (double)whole : 0;
    size_t full = share >= 1 ? width : (size_t)(share * (double)width);
    memset(bar, '#', full);
    if (full < width && share * (double)width > (double)full)
        bar[full++] = '.';
    bar[full] = '\0';
}

void show_clean(char *out, size_t size, const char *text)
{
    size_t n = 0;
    for (; text[n] && n + 1 < size; n++) {
        unsigned char c = (unsigned char)text[n];
        /* 0x80..0x9f are control characters to some terminals, unless they are part of UTF-8. */
        out[n] = c < 0x20 || c == 0x7f ? '?' : text[n];
        if (c == 0xc2 && (unsigned char)text[n + 1] < 0xa0)
            out[n] = '?';
        if (c >= 0x80 && c < 0xa0 && n > 0 && (unsigned char)out[n - 1] < 0x80)
            out[n] = '?';
    }
    out[n] = '\0';
}
