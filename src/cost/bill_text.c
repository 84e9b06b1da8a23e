/*
 * The bill as a text page of at most 80 columns: what happened in a sentence first, then where
 * the time went, how long the guest stood still and why, the rounds, what travelled, and what it
 * cost both monitors. It reads the JSON rather than struct bill, so that a saved bill prints the
 * same.
 */
#include "cost/bill_text.h"

#include "base/buf.h"
#include "base/compiler.h"
#include "cost/show.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define TEXT_COLUMNS 79
#define TEXT_BAR 35
#define TEXT_BAR_SHORT 16    /* leaves room for a remark */
#define TEXT_NO_BREAK '\x1f' /* a space at which no line may end; show_clean() lets none in */
#define TEXT_ROUNDS_FIRST 8
#define TEXT_DECISIONS 8
#define TEXT_ROUNDS_LAST 6

static uint64_t num(const json_t *object, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(object, key));
    return v > 0 ? (uint64_t)v : 0;
}

static const char *str(const json_t *object, const char *key, const char *otherwise)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : otherwise;
}

static bool is(const json_t *object, const char *key, const char *value)
{
    return strcmp(str(object, key, ""), value) == 0;
}

static void put_word(FILE *out, const char *word, size_t len)
{
    for (size_t i = 0; i < len; i++)
        (void)fputc(word[i] == TEXT_NO_BREAK ? ' ' : word[i], out);
}

/* A paragraph, broken at spaces (a word longer than a line is broken where the line ends). */
static void paragraph(FILE *out, const char *text)
{
    size_t column = 0;
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column && column + 1 + word > TEXT_COLUMNS) {
            (void)fputc('\n', out);
            column = 0;
        }
        if (column)
            column += (size_t)fprintf(out, " ");
        size_t fits = MIN(word, (size_t)TEXT_COLUMNS);
        put_word(out, text, fits);
        column += fits;
        text += fits;
        if (fits == word)
            text += strspn(text, " ");
        else
            column = TEXT_COLUMNS;
    }
    (void)fputc('\n', out);
}

/* Prints what was said and forgets it. */
static void print_paragraph(FILE *out, struct buf *said)
{
    buf_put_u8(said, 0);
    if (!said->broken)
        paragraph(out, (const char *)said->data);
    buf_reset(said);
}

static void say(struct buf *to, const char *before, const char *text, const char *after)
{
    char clean[512];
    show_clean(clean, sizeof(clean), text);
    buf_printf(to, "%s%s%s", before, clean, after);
}

static void say_number(struct buf *to, struct show number)
{
    char *space = strchr(number.text, ' ');
    if (space)
        *space = TEXT_NO_BREAK;
    buf_printf(to, "%s", number.text);
}

static void say_places(struct buf *to, const json_t *bill)
{
    if (json_is_string(json_object_get(bill, "from")))
        say(to, " from ", str(bill, "from", ""), "");
    if (json_is_string(json_object_get(bill, "to")))
        say(to, " to ", str(bill, "to", ""), "");
}

static void say_owner(struct buf *to, const json_t *bill)
{
    if (is(bill, "owner", "source"))
        buf_printf(to, " The VM stays with the source.");
    else if (is(bill, "owner", "target"))
        buf_printf(to, " The VM is with the target now.");
    else if (is(bill, "owner", "none"))
        buf_printf(to, " No VM came of it.");
    else
        buf_printf(to, " Neither side runs the VM until they have spoken: its owner is uncertain.");
}

static void say_trouble(struct buf *to, const json_t *bill)
{
    static const char *const noun[] = { "move", "checkpoint", "restore" };
    const json_t *failure = json_object_get(bill, "failure");
    unsigned kind = is(bill, "kind", "checkpoint") ? 1 : is(bill, "kind", "restore") ? 2 : 0;

    say(to, "The ", noun[kind], " of ");
    say(to, "", str(bill, "name", "?"), "");
    say_places(to, bill);
    if (is(bill, "outcome", "cancelled"))
        buf_printf(to, " was cancelled");
    else if (is(bill, "outcome", "uncertain"))
        buf_printf(to, " ended without an answer");
    else
        buf_printf(to, " failed");
    buf_printf(to, " after ");
    say_number(to, show_duration(num(bill, "total_ns")));
    if (json_is_object(failure)) {
        say(to, " in stage ", str(failure, "stage", "?"), "");
        say(to, ": ", str(failure, "text", "no reason given"), "");
    }
    buf_printf(to, ".");
    say_owner(to, bill);
}

static void say_success(struct buf *to, const json_t *bill)
{
    say(to, "", str(bill, "name", "?"), "");
    if (is(bill, "kind", "checkpoint"))
        buf_printf(to, " was saved");
    else if (is(bill, "kind", "restore"))
        buf_printf(to, " was restored");
    else
        buf_printf(to, " moved");
    say_places(to, bill);
    buf_printf(to, " in ");
    say_number(to, show_duration(num(bill, "total_ns")));
    buf_printf(to, ".");
}

static void print_verdict(const json_t *bill, FILE *out)
{
    CLEANUP_BUF struct buf text = { 0 };
    const json_t *downtime = json_object_get(bill, "downtime");
    if (is(bill, "outcome", "completed"))
        say_success(&text, bill);
    else
        say_trouble(&text, bill);
    if (json_is_object(downtime)) {
        buf_printf(&text, " Its guest stood still for ");
        say_number(&text, show_duration(num(downtime, "total_ns")));
        buf_printf(&text, ".");
    }
    print_paragraph(out, &text);
    say(&text, "Mode ", str(bill, "mode", "?"), "; ");
    buf_printf(&text, "guest of %" PRIu64 " %s and ", num(bill, "vcpus"),
               num(bill, "vcpus") == 1 ? "vCPU" : "vCPUs");
    say_number(&text, show_bytes(num(bill, "memory_bytes")));
    say(&text, "; started ", str(bill, "started", "?"), "");
    if (json_is_string(json_object_get(bill, "token")))
        say(&text, "; token ", str(bill, "token", ""), "");
    buf_printf(&text, ".");
    print_paragraph(out, &text);
}

static void print_title(FILE *out, const char *title, const char *total)
{
    (void)fprintf(out, "\n%-23s %9s\n", title, total);
}

/* One line of a table of proportions. */
static void print_share(FILE *out, const char *name, const char *value, uint64_t part,
                        uint64_t whole)
{
    char bar[TEXT_BAR + 1], clean[22];
    show_bar(bar, TEXT_BAR, part, whole);
    show_clean(clean, sizeof(clean), name);
    (void)fprintf(out, "  %-21s %9s %8s%s%s\n", clean, value, show_percent(part, whole).text,
                  bar[0] ? "  " : "", bar);
}

static void print_stages(const json_t *bill, FILE *out)
{
    uint64_t total = num(bill, "total_ns");
    const json_t *item;
    size_t i;
    print_title(out, "Where the time went", show_duration(total).text);
    json_array_foreach (json_object_get(bill, "stages"), i, item)
        if (num(item, "ns") || strcmp(str(item, "stage", "?"), "pulling") != 0)
            print_share(out, str(item, "stage", "?"), show_duration(num(item, "ns")).text,
                        num(item, "ns"), total);
}

/* As print_share(), with a shorter bar and what of it the other side's clock measured. */
static void print_part(FILE *out, const json_t *part, uint64_t whole)
{
    char bar[TEXT_BAR_SHORT + 1], clean[22], line[100];
    uint64_t ns = num(part, "ns"), other = num(part, "other_ns");
    show_bar(bar, TEXT_BAR_SHORT, ns, whole);
    show_clean(clean, sizeof(clean), str(part, "part", "?"));
    int len = snprintf(line, sizeof(line), "  %-21s %9s %8s  %-*s", clean, show_duration(ns).text,
                       show_percent(ns, whole).text, TEXT_BAR_SHORT, bar);
    if (other)
        (void)fprintf(out, "%s there: %s\n", line, show_duration(other).text);
    else {
        for (; len > 0 && line[len - 1] == ' '; len--)
            ;
        (void)fprintf(out, "%.*s\n", len, line);
    }
}

static void print_downtime(const json_t *bill, FILE *out)
{
    const json_t *downtime = json_object_get(bill, "downtime"), *item;
    uint64_t total = num(downtime, "total_ns");
    bool other = false;
    size_t i;
    if (!json_is_object(downtime))
        return;
    print_title(out, "The guest stood still", show_duration(total).text);
    json_array_foreach (json_object_get(downtime, "parts"), i, item) {
        print_part(out, item, total);
        other |= num(item, "other_ns") > 0;
    }
    if (other)
        (void)fprintf(out, "  there: what of it the other side's clock measured\n");
    if (json_is_true(json_object_get(downtime, "cut")))
        (void)fprintf(out,
                      "  (The other side claimed more than there was; the excess is left out.)\n");
}

static void print_round(FILE *out, const json_t *r)
{
    char number[24];
    uint64_t first = num(r, "first"), last = num(r, "last");
    if (first == last)
        (void)snprintf(number, sizeof(number), "%" PRIu64 "%s", first,
                       json_is_true(json_object_get(r, "paused")) ? "*" : "");
    else
        (void)snprintf(number, sizeof(number), "%" PRIu64 "-%" PRIu64, first, last);
    (void)fprintf(out, "  %-9s %8s %8s %8s %9s %9s %9s %9s\n", number,
                  show_count(num(r, "pages_data")).text, show_count(num(r, "pages_zero")).text,
                  show_duration(num(r, "duration_ns")).text, show_bytes(num(r, "bytes")).text,
                  show_bytes(num(r, "bytes_per_s")).text, show_count(num(r, "pages_dirtied")).text,
                  show_count(num(r, "dirty_pages_per_s")).text);
}

static void print_rounds(const json_t *bill, FILE *out)
{
    const json_t *rounds = json_object_get(bill, "rounds"), *list = json_object_get(rounds, "list"),
                 *item;
    size_t i, count = json_array_size(list);
    if (!count)
        return;
    print_title(out, "Rounds", show_count(num(rounds, "count")).text);
    (void)fprintf(out, "  %-9s %8s %8s %8s %9s %9s %9s %9s\n", "", "pages", "zero", "time", "bytes",
                  "bytes/s", "dirtied", "dirtied/s");
    json_array_foreach (list, i, item) {
        if (i >= TEXT_ROUNDS_FIRST && i + TEXT_ROUNDS_LAST < count) {
            if (i == TEXT_ROUNDS_FIRST)
                (void)fprintf(out, "  ...       (%zu lines more in the JSON)\n",
                              count - TEXT_ROUNDS_FIRST - TEXT_ROUNDS_LAST);
            continue;
        }
        print_round(out, item);
    }
    if (json_is_true(json_object_get(json_array_get(list, count - 1), "paused")))
        (void)fprintf(out, "  * while the guest stood still\n");
}

/* Decisions worth a line: all but "another round". */
static void print_policy(const json_t *bill, FILE *out)
{
    const json_t *policy = json_object_get(bill, "policy"), *item;
    size_t i, shown = 0;
    char name[16], what[24], after[24];
    if (!json_is_object(policy))
        return;
    show_clean(name, sizeof(name), str(policy, "name", "?"));
    print_title(out, "Decisions", name);
    (void)fprintf(out, "  %-21s %9s %9s %9s %9s %9s\n", "", "left", "link/s", "dirtied/s",
                  "downtime", "asked");
    json_array_foreach (json_object_get(policy, "decisions"), i, item) {
        const char *why = str(item, "why", "?");
        if (strcmp(why, "go") == 0 || shown++ >= TEXT_DECISIONS)
            continue;
        (void)snprintf(after, sizeof(after), "%" PRIu64, num(item, "round"));
        (void)snprintf(what, sizeof(what), "%.6s %.8s (%.4s)", str(item, "what", "?"), why, after);
        char clean[22];
        show_clean(clean, sizeof(clean), what);
        (void)fprintf(out, "  %-21s %9s %9s %9s %9s %9s\n", clean,
                      show_count(num(item, "pages_left")).text,
                      show_bytes(num(item, "link_bytes_per_s")).text,
                      show_count(num(item, "dirty_pages_per_s")).text,
                      show_duration(num(item, "downtime_ns")).text,
                      show_duration(num(item, "max_downtime_ns")).text);
    }
    uint64_t held = num(json_object_get(bill, "brownout"), "held_ns");
    if (held)
        (void)fprintf(out, "  vCPUs were held back for %s in sum before the guest stopped\n",
                      show_duration(held).text);
}

static void print_bytes(const json_t *bill, FILE *out)
{
    static const char *const kinds[][2] = {
        { "page_data", "page contents" },
        { "repeated_pages", "pages sent again" },
        { "zero_ranges", "ranges of zero pages" },
        { "device_state", "device state" },
        { "protocol", "protocol" },
    };
    const json_t *bytes = json_object_get(bill, "bytes");
    uint64_t total = num(bytes, "total");
    print_title(out, "What travelled", show_bytes(total).text);
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        uint64_t n = num(bytes, kinds[i][0]);
        print_share(out, kinds[i][1], show_bytes(n).text, n, total);
    }
}

/* Said loudly when it was not. */
static void print_encryption(const json_t *bill, FILE *out)
{
    const json_t *how = json_object_get(bill, "encryption");
    char cipher[64], peer[64];
    if (json_is_false(json_object_get(bill, "encrypted")))
        (void)fprintf(out, "  NOT ENCRYPTED, and nobody proved who they were (--insecure)\n");
    if (!json_is_object(how))
        return;
    show_clean(cipher, sizeof(cipher), str(how, "cipher", "?"));
    show_clean(peer, sizeof(peer), str(how, "peer", "?"));
    (void)fprintf(out, "  encrypted: TLS 1.3, %s%s; %s to agree\n  the peer's key: %s\n", cipher,
                  json_is_true(json_object_get(how, "kernel_sends")) ? " in the kernel" : "",
                  show_duration(num(how, "handshake_ns")).text, peer);
}

static void print_pages(const json_t *bill, FILE *out)
{
    static const char *const classes[][2] = {
        { "never_touched", "never touched" },
        { "free", "given back by the guest" },
        { "zero", "zero" },
        { "data", "data" },
        { "not_reached", "not reached" },
    };
    const json_t *pages = json_object_get(bill, "pages");
    uint64_t total = num(pages, "total");
    if (!total)
        return;
    print_title(out, "The guest's pages", show_count(total).text);
    for (unsigned i = 0; i < ARRAY_LEN(classes); i++) {
        uint64_t n = num(pages, classes[i][0]);
        if (n || strcmp(classes[i][0], "not_reached") != 0)
            print_share(out, classes[i][1], show_count(n).text, n, total);
    }
}

/* Only what happened: most moves need few of these lines. */
static void print_savings(const json_t *bill, FILE *out)
{
    static const char *const classes[][2] = {
        { "never_touched", "never touched" }, { "free", "given back by the guest" },
        { "zero", "as ranges of zeros" },     { "same", "unchanged since sent" },
        { "delta", "only what changed" },     { "packed", "packed" },
    };
    const json_t *all = json_object_get(bill, "classes");
    uint64_t saved = 0;
    for (unsigned i = 0; i < ARRAY_LEN(classes); i++)
        saved += num(json_object_get(all, classes[i][0]), "saved_bytes");
    if (!saved)
        return;
    print_title(out, "What did not travel", show_bytes(saved).text);
    for (unsigned i = 0; i < ARRAY_LEN(classes); i++) {
        const json_t *class = json_object_get(all, classes[i][0]);
        uint64_t bytes = num(class, "saved_bytes");
        if (bytes)
            (void)fprintf(out, "  %-22s %10s  %8s pages, %s of CPU\n", classes[i][1],
                          show_bytes(bytes).text, show_count(num(class, "pages")).text,
                          show_duration(num(class, "cpu_ns")).text);
    }
}

static void print_lanes(const json_t *bill, FILE *out)
{
    const json_t *lanes = json_object_get(bill, "lanes"), *list = json_object_get(lanes, "list");
    size_t count = json_array_size(list);
    uint64_t limit = num(lanes, "limit_bytes_per_s");
    if (!count && !limit)
        return;
    char title[64] = "no limit";
    if (limit)
        (void)snprintf(title, sizeof(title), "at most %s/s", show_bytes(limit).text);
    print_title(out, "Bulk connections", title);
    for (size_t i = 0; i < count; i++)
        (void)fprintf(out, "  lane %-17zu %10s\n", i,
                      show_bytes(num(json_array_get(list, i), "bytes")).text);
}

static void print_faults(const json_t *bill, FILE *out)
{
    const json_t *faults = json_object_get(bill, "faults"), *waits;
    if (!json_is_object(faults))
        return;
    waits = json_object_get(faults, "wait_ns");
    print_title(out, "The guest waited for pages", show_count(num(faults, "count")).text);
    if (json_is_null(json_object_get(faults, "count"))) {
        (void)fprintf(out, "  the target never said\n");
        return;
    }
    (void)fprintf(out, "  %-21s half within %s, 99%% within %s, the longest %s\n", "each wait",
                  show_duration(num(waits, "p50")).text, show_duration(num(waits, "p99")).text,
                  show_duration(num(waits, "max")).text);
    (void)fprintf(out, "  %-21s %s missing at first; %s asked for, %s pushed, %s twice\n", "pages",
                  show_count(num(faults, "pages_absent")).text,
                  show_count(num(faults, "pages_requested")).text,
                  show_count(num(faults, "pages_pushed")).text,
                  show_count(num(faults, "duplicates")).text);
    if (num(faults, "interrupted"))
        (void)fprintf(out, "  %-21s %s times, for %s in all\n", "connection lost",
                      show_count(num(faults, "interrupted")).text,
                      show_duration(num(faults, "stranded_ns")).text);
    if (num(faults, "pages_missing"))
        (void)fprintf(out, "  %-21s %s pages never came: the guest ended first\n", "",
                      show_count(num(faults, "pages_missing")).text);
}

static void print_agent(const json_t *bill, FILE *out)
{
    const json_t *agent = json_object_get(bill, "agent");
    if (!json_is_object(agent))
        return;
    print_title(out, "The agent in the guest", show_duration(num(agent, "ns")).text);
    if (json_is_string(json_object_get(agent, "failure"))) {
        char clean[60];
        show_clean(clean, sizeof(clean), str(agent, "failure", ""));
        (void)fprintf(out, "  did nothing: %s\n", clean);
        return;
    }
    (void)fprintf(out, "  %-21s %9s\n  %-21s %9s\n", "page cache given back",
                  show_bytes(num(agent, "page_cache_bytes")).text, "writers slowed",
                  show_count(num(agent, "slowed")).text);
}

enum unit { UNIT_NS, UNIT_BYTES, UNIT_COUNT, UNIT_US };

static struct show cost(const json_t *side, const char *group, const char *key, enum unit unit)
{
    const json_t *of = group[0] ? json_object_get(side, group) : side;
    if (!json_is_object(of))
        return (struct show){ "-" };
    uint64_t v = num(of, key);
    switch (unit) {
    case UNIT_NS:
        return show_duration(v);
    case UNIT_US:
        return show_duration(v < UINT64_MAX / 1000 ? v * 1000 : UINT64_MAX);
    case UNIT_BYTES:
        return show_bytes(v);
    case UNIT_COUNT:
        break;
    }
    return show_count(v);
}

static void print_monitors(const json_t *bill, FILE *out)
{
    static const struct {
        const char *label, *group, *key;
        enum unit unit;
    } rows[] = {
        { "CPU time", "cpu_ns", "total", UNIT_NS },
        { "  guest and its exits", "cpu_ns", "vcpu", UNIT_NS },
        { "  moving pages", "cpu_ns", "mover", UNIT_NS },
        { "  devices and control", "cpu_ns", "loop", UNIT_NS },
        { "  the rest", "cpu_ns", "other", UNIT_NS },
        { "measured over", "", "wall_ns", UNIT_NS },
        { "own memory before", "memory", "before_bytes", UNIT_BYTES },
        { "extra at its peak", "memory", "extra_bytes", UNIT_BYTES },
        { "disk read", "disk", "read_bytes", UNIT_BYTES },
        { "disk written", "disk", "written_bytes", UNIT_BYTES },
        { "TCP segments resent", "tcp", "retransmits", UNIT_COUNT },
        { "TCP round trip", "tcp", "rtt_us", UNIT_US },
    };
    const json_t *monitors = json_object_get(bill, "monitors");
    const json_t *source = json_object_get(monitors, "source"),
                 *target = json_object_get(monitors, "target");
    if (!json_is_object(source) && !json_is_object(target))
        return;

    (void)fprintf(out, "\n%-23s %9s %11s\n", "What the monitors spent", "source", "target");
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        (void)fprintf(out, "  %-21s %9s %11s\n", rows[i].label,
                      cost(source, rows[i].group, rows[i].key, rows[i].unit).text,
                      cost(target, rows[i].group, rows[i].key, rows[i].unit).text);
}

void bill_text(const json_t *bill, FILE *out)
{
    print_verdict(bill, out);
    print_stages(bill, out);
    print_downtime(bill, out);
    print_rounds(bill, out);
    print_policy(bill, out);
    print_bytes(bill, out);
    print_encryption(bill, out);
    print_pages(bill, out);
    print_savings(bill, out);
    print_lanes(bill, out);
    print_faults(bill, out);
    print_agent(bill, out);
    print_monitors(bill, out);
    (void)fprintf(out,
                  "\nWhat each number covers, and what not, is in \"clocks\" of the JSON bill.\n");
}
