/*
 * sim: seeded schedules of the two engines of a live move, and every single fault at every point.
 *
 *     sim [--schedules N]         N random schedules (default 100000), then every single fault
 *     sim --seed N [--trace]      one random schedule again
 *     sim --pairs                 every two faults at every two events
 *     sim --table                 each message, each fault: what comes of it
 *     sim --document [--post-copy]
 *                                 the same for every kind of fault, as docs/faults.md has it
 *     sim --point N --fault NAME [--coin N] [--stop-copy | --post-copy] [--trace]
 *                                 one single fault again, at the N-th event
 */
#include "world.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct world world; /* too large for the stack */

static uint64_t mix(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Every eighth schedule is without faults, most have one or two, some up to FAULTS_MAX. */
static struct schedule schedule_of(uint64_t seed)
{
    uint64_t r = mix(seed);
    struct schedule s = { .seed = seed, .mode = r & 1 ? MOVE_PRE_COPY : MOVE_STOP_COPY };
    unsigned reach = 60;
    if (r >> 62) { /* three in four: most has changed there last */
        s.mode = MOVE_POST_COPY;
        s.post_copy = r & 1 ? SOURCE_POST_COPY_NOW : SOURCE_POST_COPY_ALLOW;
        reach = 150;
    }
    s.hurry = seed % 7 == 3;
    if (seed % 8 == 0)
        return s;
    s.faults = 1 + (unsigned)((r >> 8) % FAULTS_MAX);
    s.faults = MIN(s.faults, 1 + (unsigned)((r >> 16) % FAULTS_MAX));
    for (unsigned i = 0; i < s.faults; i++) {
        uint64_t f = mix(r + i);
        /* Half of them around the commitment, where it matters most. */
        unsigned at = f >> 63 ? 18 + (unsigned)((f >> 32) % 30) : (unsigned)((f >> 32) % reach);
        s.fault[i] = (struct fault){ .kind = (enum fault_kind)(1 + f % (FAULT_MAX - 1)),
                                     .at = at,
                                     .random = mix(f) };
    }
    return s;
}

static void print_schedule(const struct schedule *s)
{
    printf("seed %llu, %s%s:", (unsigned long long)s->seed, move_mode_name(s->mode),
           s->hurry ? ", in a hurry" : "");
    for (unsigned i = 0; i < s->faults; i++)
        printf(" %s at %s %u;", fault_name(s->fault[i].kind),
               s->fault[i].at_point ? "point" : "event", s->fault[i].at);
    printf("\n");
}

static enum outcome run(const struct schedule *s, bool trace)
{
    enum outcome outcome = world_run(&world, s, trace);
    bool gave_up = s->hurry && outcome == OUTCOME_STAYED;
    if (!s->faults && outcome != OUTCOME_MOVED && outcome != OUTCOME_BROKEN && !gave_up) {
        world_broken(&world, "no fault, and the guest was not moved but %s", outcome_name(outcome));
        outcome = OUTCOME_BROKEN;
    }
    if (outcome == OUTCOME_BROKEN) {
        printf("BROKEN: %s\n  ", world.why);
        print_schedule(s);
    }
    world_free(&world);
    return outcome;
}

static int random_schedules(uint64_t count)
{
    unsigned seen[OUTCOME_MAX] = { 0 };
    uint64_t events = 0;
    for (uint64_t seed = 1; seed <= count; seed++) {
        struct schedule s = schedule_of(seed);
        enum outcome outcome = run(&s, false);
        seen[outcome]++;
        events += world.events;
        if (outcome == OUTCOME_BROKEN) {
            printf("  again with --seed %llu --trace\n", (unsigned long long)seed);
            return 1;
        }
    }
    printf("%llu random schedules, %llu events:", (unsigned long long)count,
           (unsigned long long)events);
    for (int i = 1; i < OUTCOME_MAX; i++)
        printf(" %s %u%s", outcome_name((enum outcome)i), seen[i],
               i + 1 < OUTCOME_MAX ? "," : "\n");
    /* What never happens is not tested. */
    for (int i = 1; i < OUTCOME_MAX; i++)
        if (count >= 10000 && !seen[i]) {
            printf("BROKEN: no schedule ended \"%s\"\n", outcome_name((enum outcome)i));
            return 1;
        }
    return 0;
}

/* How each mode is run when only one thing goes wrong. */
static struct schedule single(enum move_mode mode, enum fault_kind kind, bool at_point, unsigned at,
                              uint64_t coin)
{
    return (struct schedule){
        .seed = 7,
        .mode = mode,
        .post_copy = mode == MOVE_POST_COPY ? SOURCE_POST_COPY_NOW : SOURCE_POST_COPY_NEVER,
        .faults = 1,
        .fault = { { .kind = kind, .at_point = at_point, .at = at, .random = coin } }
    };
}

/* Counts the events of a run of that mode without faults; its points stay in `world`. */
static unsigned measure(enum move_mode mode)
{
    struct schedule s = single(mode, FAULT_NONE, false, 0, 0);
    (void)world_run(&world, &s, false);
    world_free(&world);
    return world.events;
}

/* Every fault once at every event, with each way the coins of a crash can fall. */
static int single_faults(void)
{
    unsigned runs = 0;
    for (int mode = MOVE_STOP_COPY; mode < MOVE_MODE_MAX; mode++) {
        unsigned events = measure((enum move_mode)mode);
        for (unsigned at = 0; at <= events; at++)
            for (int kind = FAULT_NONE + 1; kind < FAULT_MAX; kind++)
                for (uint64_t coin = 0; coin < 8; coin++, runs++) {
                    struct schedule s =
                        single((enum move_mode)mode, (enum fault_kind)kind, false, at, coin);
                    if (run(&s, false) == OUTCOME_BROKEN) {
                        printf("  again with --point %u --fault %s --coin %llu%s --trace\n", at,
                               fault_name((enum fault_kind)kind), (unsigned long long)coin,
                               mode == MOVE_STOP_COPY   ? " --stop-copy"
                               : mode == MOVE_POST_COPY ? " --post-copy"
                                                        : "");
                        return 1;
                    }
                }
    }
    printf("%u runs with a single fault, each kind at each event: all well\n", runs);
    return 0;
}

/* Every two faults, at every two events: some minutes. */
static int pairs(void)
{
    uint64_t runs = 0;
    for (int mode = MOVE_STOP_COPY; mode < MOVE_MODE_MAX; mode++) {
        unsigned events = measure((enum move_mode)mode);
        for (unsigned a = 0; a <= events; a++)
            for (unsigned b = a; b <= events + 8; b++)
                for (int k = FAULT_NONE + 1; k < FAULT_MAX; k++)
                    for (int l = FAULT_NONE + 1; l < FAULT_MAX; l++, runs++) {
                        struct schedule s =
                            single((enum move_mode)mode, (enum fault_kind)k, false, a, mix(runs));
                        s.fault[s.faults++] = (struct fault){ .kind = (enum fault_kind)l,
                                                              .at = b,
                                                              .random = mix(mix(runs)) };
                        if (run(&s, false) == OUTCOME_BROKEN)
                            return 1;
                    }
    }
    printf("%llu runs with two faults: all well\n", (unsigned long long)runs);
    return 0;
}

static const enum fault_kind columns[] = { FAULT_CUT,           FAULT_CUT_LATE,
                                           FAULT_SILENCE,       FAULT_CRASH_SOURCE,
                                           FAULT_REBOOT_SOURCE, FAULT_CRASH_TARGET,
                                           FAULT_REBOOT_TARGET, FAULT_CANCEL_SOURCE };

static int table_row(unsigned at, const char *name, uint64_t coin)
{
    printf("%2u %-21s", at, name);
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        struct schedule s = single(MOVE_STOP_COPY, columns[i], true, at, coin);
        enum outcome outcome = run(&s, false);
        printf(" %-14s", outcome_name(outcome));
        if (outcome == OUTCOME_BROKEN)
            return 1;
    }
    printf("\n");
    return 0;
}

/* A fault strikes right after the step that sent the message or began the write. A cut and silence lose
 * what is under way; after a late cut, or a crash of its sender, it arrives. */
static int table(void)
{
    uint16_t point[ARRAY_LEN(world.point)];
    int rc = 0;

    (void)measure(MOVE_STOP_COPY);
    unsigned points = MIN(world.points, (unsigned)ARRAY_LEN(point));
    memcpy(point, world.point, sizeof(point));
    printf("%-24s", "after");
    for (size_t i = 0; i < ARRAY_LEN(columns); i++)
        printf(" %-14s", fault_name(columns[i]));
    printf("\n");
    for (unsigned at = 1; at <= points && !rc; at++) {
        if (point[at - 1]) {
            rc = table_row(at, message_name(point[at - 1]), 3);
        } else {
            rc = table_row(at, "write record (lost)", 1);
            if (!rc)
                rc = table_row(at, "write record (kept)", 3);
        }
    }
    return rc;
}

/* ------------------------------------------------------------------------------------ docs/faults.md */

static const char *letter(enum outcome outcome)
{
    static const char *const letters[] = {
        "!", "M", "S", "C", "DS", "DT", "H", "A", "K", "L", "P"
    };
    _Static_assert(ARRAY_LEN(letters) == OUTCOME_MAX, "one for each outcome");
    return letters[outcome];
}

/* A point by its name, since how many rounds there are is left to chance. */
struct named_point {
    uint16_t type; /* as world.h has it */
    bool last;     /* of several; else the first */
};

static const char *point_name(struct named_point point)
{
    switch (point.type) {
    case 0:
        return point.last ? "*record at the target*" : "*record at the source*";
    case POINT_AGENT:
        return "*the agent is asked*";
    case POINT_URGENT:
        return "*the urgent lane is opened*";
    case REQUEST:
        return "request";
    case REPLY:
        return "reply";
    default:
        return message_is(point.type) ? message_name(point.type) : section_type_name(point.type);
    }
}

#define DOCUMENT_SEEDS 8
#define POINTS_MAX ARRAY_LEN(world.point)

/* The points of a run of this seed without faults; returns how many. */
static unsigned points_of(enum move_mode mode, uint64_t seed, uint16_t point[POINTS_MAX])
{
    struct schedule s = single(mode, FAULT_NONE, false, 0, 0);
    s.seed = seed;
    (void)world_run(&world, &s, false);
    world_free(&world);
    memcpy(point, world.point, sizeof(world.point));
    return MIN(world.points, (unsigned)POINTS_MAX);
}

static unsigned find_point(enum move_mode mode, uint64_t seed, struct named_point want)
{
    uint16_t point[POINTS_MAX];
    unsigned count = points_of(mode, seed, point), found = 0;
    for (unsigned i = 0; i < count && (want.last || !found); i++)
        if (point[i] == want.type)
            found = i + 1;
    return found;
}

/* All that can come of one fault at one point: over several timings, and all that is left to chance. */
static int document_cell(enum move_mode mode, enum fault_kind kind,
                         const unsigned at[DOCUMENT_SEEDS])
{
    bool seen[OUTCOME_MAX] = { 0 };
    for (unsigned n = 0; n < DOCUMENT_SEEDS; n++)
        for (uint64_t coin = 0; coin < 8 && at[n]; coin++) {
            struct schedule s = single(mode, kind, true, at[n], coin);
            s.seed = n + 1;
            enum outcome outcome = run(&s, false);
            if (outcome == OUTCOME_BROKEN)
                return 1;
            seen[outcome] = true;
        }
    for (int i = 1; i < OUTCOME_MAX; i++)
        if (seen[i])
            printf(" %s", letter((enum outcome)i));
    printf(" |");
    return 0;
}

static int document_row(enum move_mode mode, struct named_point want, const char *which)
{
    unsigned at[DOCUMENT_SEEDS];
    int rc = 0;
    for (unsigned n = 0; n < DOCUMENT_SEEDS; n++)
        at[n] = find_point(mode, n + 1, want);
    printf("| %s%s |", want.type ? which : "", point_name(want));
    for (int kind = FAULT_NONE + 1; kind < FAULT_MAX && !rc; kind++)
        rc = document_cell(mode, (enum fault_kind)kind, at);
    printf("\n");
    return rc;
}

/* A table of docs/faults.md. Of a message sent several times: the first and the last. */
static int document(enum move_mode mode)
{
    uint16_t point[POINTS_MAX];
    unsigned points = points_of(mode, 1, point);
    int rc = 0;

    printf("| after |");
    for (int kind = FAULT_NONE + 1; kind < FAULT_MAX; kind++)
        printf(" %s |", fault_name((enum fault_kind)kind));
    printf("\n|---|");
    for (int kind = FAULT_NONE + 1; kind < FAULT_MAX; kind++)
        printf("---|");
    printf("\n");
    for (unsigned i = 0; i < points && !rc; i++) {
        bool before = false, after = false;
        for (unsigned k = 0; k < points; k++) {
            before |= k < i && point[k] == point[i];
            after |= k > i && point[k] == point[i];
        }
        if (before && after)
            continue;
        rc = document_row(mode, (struct named_point){ .type = point[i], .last = before },
                          after    ? "first "
                          : before ? "last "
                                   : "");
    }
    return rc;
}

static enum fault_kind fault_of(const char *name)
{
    for (int kind = 0; kind < FAULT_MAX; kind++)
        if (strcmp(fault_name((enum fault_kind)kind), name) == 0)
            return (enum fault_kind)kind;
    fprintf(stderr, "sim: no fault named %s\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    enum {
        SCHEDULES = 1,
        SEED,
        TRACE,
        TABLE,
        DOCUMENT,
        POINT,
        FAULT,
        COIN,
        STOP_COPY,
        POST_COPY,
        PAIRS
    };
    static const struct option options[] = {
        { "schedules", required_argument, NULL, SCHEDULES },
        { "seed", required_argument, NULL, SEED },
        { "trace", no_argument, NULL, TRACE },
        { "table", no_argument, NULL, TABLE },
        { "document", no_argument, NULL, DOCUMENT },
        { "point", required_argument, NULL, POINT },
        { "fault", required_argument, NULL, FAULT },
        { "coin", required_argument, NULL, COIN },
        { "stop-copy", no_argument, NULL, STOP_COPY },
        { "post-copy", no_argument, NULL, POST_COPY },
        { "pairs", no_argument, NULL, PAIRS },
        { 0 },
    };
    uint64_t schedules = 100000, seed = 0, coin = 0;
    unsigned point = 0;
    bool trace = false, documented = false;
    enum fault_kind fault = FAULT_NONE;
    enum move_mode mode = MOVE_PRE_COPY;

    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case SCHEDULES:
            schedules = strtoull(optarg, NULL, 10);
            break;
        case SEED:
            seed = strtoull(optarg, NULL, 10);
            break;
        case TRACE:
            trace = true;
            break;
        case TABLE:
            return table();
        case DOCUMENT:
            documented = true;
            break;
        case PAIRS:
            return pairs();
        case POINT:
            point = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case FAULT:
            fault = fault_of(optarg);
            break;
        case COIN:
            coin = strtoull(optarg, NULL, 10);
            break;
        case STOP_COPY:
            mode = MOVE_STOP_COPY;
            break;
        case POST_COPY:
            mode = MOVE_POST_COPY;
            break;
        default:
            return 2;
        }
    }
    if (documented)
        return document(mode);
    if (seed || fault) {
        struct schedule s = fault ? single(mode, fault, false, point, coin) : schedule_of(seed);
        enum outcome outcome = run(&s, trace);
        print_schedule(&s);
        printf("%s\n", outcome_name(outcome));
        return outcome == OUTCOME_BROKEN;
    }
    int rc = random_schedules(schedules);
    return rc ? rc : single_faults();
}
