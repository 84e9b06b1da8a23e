#include "cost/progress.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "cost/show.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define COLUMNS_MAX 200u
#define BAR_MIN 10u
#define BAR_MAX 50u
#define ROUND_LINE_NS (200 * CLOCK_MSEC) /* lines for new rounds are at least so far apart */
#define SAME_LINE_NS CLOCK_SECOND        /* and lines within one round */

static bool understands_bar(FILE *out)
{
    const char *term = getenv("TERM");
    return isatty(fileno(out)) && term && strcmp(term, "dumb") != 0;
}

static unsigned columns_of(const struct progress *progress)
{
    struct winsize size;
    unsigned columns = progress->columns;
    if (!columns && ioctl(fileno(progress->out), TIOCGWINSZ, &size) == 0)
        columns = size.ws_col;
    return columns ? MIN(columns, COLUMNS_MAX) : 80;
}

void progress_begin(struct progress *progress, FILE *out, enum progress_form form, unsigned columns)
{
    *progress = (struct progress){ .out = out, .columns = columns };
    progress->bar = form == PROGRESS_BAR || (form == PROGRESS_AUTO && understands_bar(out));
}

static uint64_t num(const json_t *params, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(params, key));
    return v > 0 ? (uint64_t)v : 0;
}

/* "pre-copy, round 2"; a stage without pages has no rounds. */
static int put_head(const struct progress *progress, uint64_t pages, char *out, size_t size)
{
    return progress->round && pages
               ? snprintf(out, size, "%s, round %" PRIu64, progress->stage, progress->round)
               : snprintf(out, size, "%s", progress->stage);
}

/* Facts in the order in which they are given up when the line is too short for all. */
static void draw_bar(struct progress *progress, const json_t *params, uint64_t done, uint64_t whole)
{
    char head[64], line[COLUMNS_MAX * 2], bar[BAR_MAX + 1] = "";
    char fact[4][64];
    size_t width = columns_of(progress) - 1; /* a terminal wraps after its last column */
    size_t used = (size_t)put_head(progress, whole, head, sizeof(head));
    size_t facts = 0, usable = whole ? ARRAY_LEN(fact) : 1;

    if (whole) {
        (void)snprintf(fact[0], sizeof(fact[0]), "%3u %%",
                       (unsigned)((double)done * 100 / (double)whole));
        (void)snprintf(fact[1], sizeof(fact[1]), "%s pages left",
                       show_count(num(params, "pages_left")).text);
        (void)snprintf(fact[2], sizeof(fact[2]), "%s/s",
                       show_bytes(num(params, "rate_bytes_per_s")).text);
    }
    (void)snprintf(fact[usable - 1], sizeof(fact[0]), "%s",
                   show_duration(num(params, "elapsed_ns")).text);
    while (facts < usable && used + 2 + strlen(fact[facts]) <= width)
        used += 2 + strlen(fact[facts++]);

    size_t length =
        (size_t)snprintf(line, sizeof(line), "%.*s", (int)MIN(width, sizeof(head)), head);
    if (whole && width >= used + BAR_MIN + 4) {
        size_t steps = MIN(width - used - 4, (size_t)BAR_MAX);
        show_bar(bar, steps, done, whole);
        length +=
            (size_t)snprintf(line + length, sizeof(line) - length, "  [%-*s]", (int)steps, bar);
    }
    for (size_t i = 0; i < facts; i++)
        length += (size_t)snprintf(line + length, sizeof(line) - length, "  %s", fact[i]);

    /* ... and clear what the last drawing left behind it. */
    (void)fprintf(progress->out, "\r%s\033[K", line);
    (void)fflush(progress->out);
    progress->open = true;
}

static void put_line(struct progress *progress, const json_t *params, uint64_t pages)
{
    char head[64];
    (void)put_head(progress, pages, head, sizeof(head));
    (void)fprintf(progress->out, "%9s  %s", show_duration(num(params, "elapsed_ns")).text, head);
    if (pages)
        (void)fprintf(progress->out, ": %" PRIu64 " pages sent, %" PRIu64 " left, %s/s",
                      num(params, "pages_sent"), num(params, "pages_left"),
                      show_bytes(num(params, "rate_bytes_per_s")).text);
    if (pages && num(params, "dirty_pages_per_s"))
        (void)fprintf(progress->out, ", dirtied %s/s",
                      show_count(num(params, "dirty_pages_per_s")).text);
    (void)fputc('\n', progress->out);
    (void)fflush(progress->out);
}

void progress_event(struct progress *progress, const json_t *params)
{
    char stage[sizeof(progress->stage)];
    const char *name = json_string_value(json_object_get(params, "stage"));
    uint64_t round = num(params, "round"), sent = num(params, "pages_sent");
    uint64_t now = num(params, "elapsed_ns");
    show_clean(stage, sizeof(stage), name ? name : "?");

    bool new_stage = !progress->begun || strcmp(stage, progress->stage) != 0;
    bool new_round = new_stage || round != progress->round;
    if (new_round || sent < progress->round_base)
        progress->round_base = sent;
    memcpy(progress->stage, stage, sizeof(stage));
    progress->round = round;
    progress->begun = true;

    uint64_t done = sent - progress->round_base, left = num(params, "pages_left");
    uint64_t since = now > progress->shown_ns ? now - progress->shown_ns : 0;
    if (progress->bar)
        draw_bar(progress, params, done, done + left);
    else if (new_stage || (new_round && since >= ROUND_LINE_NS) || since >= SAME_LINE_NS)
        put_line(progress, params, done + left);
    else
        return;
    progress->shown_ns = now;
}

void progress_end(struct progress *progress)
{
    if (progress->open)
        (void)fputc('\n', progress->out);
    progress->open = false;
    (void)fflush(progress->out);
}
