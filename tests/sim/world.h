/*
 * A world for the two engines of a live move: two hosts with a disk and a process each, a network,
 * time, and everything that can go wrong with them. All of it is a function of a seed and a list of
 * faults, so that any run can be repeated.
 *
 * The world carries out the engines' actions as a pump would, only that things take simulated time,
 * and checks with every action that the engine was allowed to ask for it. It knows what no engine
 * knows: where the guest has run.
 */
#pragma once
#include "base/clock.h"
#include "base/compiler.h"
#include "move/source.h"
#include "move/target.h"

enum side { SIDE_SOURCE, SIDE_TARGET, SIDES };

enum fault_kind {
    FAULT_NONE,
    FAULT_CUT, /* every connection: what is under way is lost; both sides learn it, some time */
    FAULT_CUT_LATE, /* the same, but what is under way arrives, and a side may learn it only late */
    FAULT_SILENCE,  /* the same as a cut, and nobody learns it: only the stall limits help */
    FAULT_MUTE_SOURCE, /* one direction loses everything from now on, unnoticed */
    FAULT_MUTE_TARGET,
    FAULT_CRASH_SOURCE, /* process gone, for good */
    FAULT_CRASH_TARGET,
    FAULT_REBOOT_SOURCE, /* process gone; a new one reads the disk after a while */
    FAULT_REBOOT_TARGET,
    FAULT_CANCEL_SOURCE,
    FAULT_CANCEL_TARGET,
    FAULT_DISK_SOURCE, /* the next record write fails, and the old record stays */
    FAULT_DISK_TARGET,
    FAULT_DISK_UNKNOWN_SOURCE, /* ... and either may be on disk */
    FAULT_DISK_UNKNOWN_TARGET,
    FAULT_NET_DOWN,    /* no connection can be made for a while; existing ones are cut */
    FAULT_HANG_SOURCE, /* the next piece of local work (but a record) never ends */
    FAULT_HANG_TARGET,
    FAULT_HOST_SOURCE, /* local work fails: event FAULT */
    FAULT_HOST_TARGET,
    FAULT_REFUSE,      /* the target's next piece of work says no */
    FAULT_FLIP,        /* a bit of the next message changes */
    FAULT_STRANGER,    /* someone else connects to the target and says something */
    FAULT_WIPE_TARGET, /* as a reboot, and its record store is lost and made anew */
    FAULT_CUT_LANE,    /* the urgent lane alone */
    FAULT_SWITCH,      /* a person wants post-copy */
    FAULT_RETRY,       /* a person says: connect again */
    FAULT_ABANDON,     /* a person ends the source that serves */
    FAULT_MAX
};

const char *fault_name(enum fault_kind kind);

struct fault {
    enum fault_kind kind;
    bool at_point; /* `at` counts messages sent and record writes begun; else events delivered */
    unsigned at;
    uint64_t random; /* what of it is left to chance */
};

#define FAULTS_MAX 6

struct schedule {
    uint64_t seed;
    enum move_mode mode;
    enum source_post_copy post_copy;
    bool hurry; /* the time is up at once: rounds are cut short */
    unsigned faults;
    struct fault fault[FAULTS_MAX];
};

enum outcome {
    OUTCOME_BROKEN,         /* an invariant failed: world.why */
    OUTCOME_MOVED,          /* one VM, at the target */
    OUTCOME_STAYED,         /* one VM, at the source */
    OUTCOME_STAYED_COPY,    /* the same; told no more, the target still holds a stale copy */
    OUTCOME_DIED_AT_SOURCE, /* its owner's process died before the commitment */
    OUTCOME_DIED_AT_TARGET, /* its owner's process died after the commitment */
    OUTCOME_TARGET_HOLDS,   /* source died after its record: ADOPT or RECOVER runs the only copy */
    OUTCOME_SOURCE_ASKS,    /* source paused, and nobody at the target answers: may come back */
    OUTCOME_SOURCE_KEEPS,   /* source paused, target recorded and died: a person decides */
    OUTCOME_LOST,           /* both died, or a person freed the only copy */
    OUTCOME_STRANDED,       /* the source died with memory that the guest at the target lacks */
    OUTCOME_MAX
};

const char *outcome_name(enum outcome outcome);

enum pending_kind {
    P_SOURCE,
    P_TARGET,
    P_CONNECT,
    P_DELIVER,
    P_LOST,
    P_TIMER,
    P_DISK,
    P_RESTART,
    P_HEAL,
    P_TOUCH,
    P_PUSH
};

/* What travels: a message as bytes, or a section that only its type is told of. */
struct item {
    struct section section;
    uint8_t *body;  /* message: owned */
    uint64_t pages; /* SECTION_PAGES */
    uint64_t set;   /* of pages: SECTION_ABSENT, post-copy's PAGES, REQUEST, REPLY */
};

struct pending {
    uint64_t due, order;
    enum pending_kind kind;
    enum side side;
    unsigned life; /* of the process it is for */
    unsigned link; /* P_CONNECT, P_DELIVER, P_LOST */
    struct item item;
    struct source_event source;
    struct target_event target;
};

/* One connection. Direction d carries what side d sends. */
struct link {
    bool made, open[SIDES], mute[SIDES];
    unsigned life[SIDES];
    uint32_t conn[SIDES]; /* how the engines call it */
    uint64_t last_due[SIDES];
    bool sloppy[SIDES]; /* closed by that side, whose pump may yet let an event through */
    bool stranger;      /* its source side is nobody */
    bool lane[SIDES];   /* beside link `of`, as far as that side knows: the urgent lane, */
    bool bulk;          /* or one of those that push */
    unsigned of;
};

struct disk {
    enum move_record record, writing; /* 0 = none */
    unsigned fail;                    /* the next write: 1 = surely failed, 2 = who knows */
    uint8_t store[MOVE_STORE_BYTES];  /* of the target, in the source's record HANDED */
};

struct host {
    bool alive, crashed;
    unsigned life; /* counts processes */
    bool hang;
    struct disk disk;
    uint64_t timer_ns;
};

/* On the urgent lane, in place of section types. */
#define REQUEST 200
#define REPLY 201
#define BULK \
    202 /* first on a lane that pushes: LANE, which only the pump hears; `pages`: beside which link */
#define GUEST_PAGES 48 /* of post-copy; rounds only count */

/* Points that are no messages: beside these SECTION_ABSENT, SECTION_PAGES that are pushed, REQUEST, REPLY. */
#define POINT_AGENT 1  /* the guest's agent was asked */
#define POINT_URGENT 2 /* the urgent lane is opened */

#define LINKS_MAX 256
#define PENDING_MAX 256

struct world {
    struct schedule schedule;
    uint64_t random, now_ns, order;
    bool trace, healed;
    uint64_t net_down_until_ns;
    unsigned events, points; /* so far */
    unsigned fired;          /* bits: faults that have */
    uint16_t point[256];     /* the first points: message types, 0 = a record write, or as below */

    struct host host[SIDES];
    struct source source;
    struct target target;
    struct move_actions actions;

    unsigned links, accepted;
    struct link link[LINKS_MAX];
    unsigned pending_count;
    struct pending pending[PENDING_MAX];

    /* What only the world knows. A version of the guest ends when it runs again at the source. */
    bool source_has, source_runs, target_has, target_runs, target_ran, target_owned;
    unsigned version, sent_version, loaded_version, prepared;
    uint64_t left_pages;
    /* Sets of pages. absent: not in their place at the target; the guest must not see them. wanted: it
     * waits for them. unsent: what the source's pump has yet to send; told: what the target said it
     * lacks, on connection told_conn. */
    uint64_t absent, wanted, unsent, told;
    uint32_t told_conn;
    unsigned pushing; /* link + 1 */
    bool abandoned;
    unsigned touches; /* left: most of its memory a guest never asks for */
    uint64_t withdraw_ns, failed_ns,
        trouble_ns;               /* when that began, ended, and the last fault's end */
    bool stopped_telling, person; /* CANCEL while withdrawing; TAKE_BACK */
    bool refuse, flip, corrupted, strangers, commit_delivered, operator_freed, listening, wiped;

    bool broken;
    char why[400];
};

uint64_t world_random(struct world *w, uint64_t below);
void world_trace(struct world *w, const char *fmt, ...) PRINTF(2, 3);
/* The first one counts. */
void world_broken(struct world *w, const char *fmt, ...) PRINTF(2, 3);
#define CHECK(w, cond, fmt, ...)                 \
    do {                                         \
        if (!(cond))                             \
            world_broken(w, fmt, ##__VA_ARGS__); \
    } while (0)

/* Runs the schedule to its quiet end. world_free() afterwards, in any case. */
enum outcome world_run(struct world *w, const struct schedule *schedule, bool trace);
void world_free(struct world *w);

/* ---- between world.c (time, network, faults), pump.c (actions, events), verdict.c (the end) ---- */

struct pending *world_plan(struct world *w, enum pending_kind kind, enum side side,
                           uint64_t delay_ns);
void world_send(struct world *w, unsigned link, enum side from, struct item item);
void world_close(struct world *w, unsigned link, enum side side);
struct link *world_link(struct world *w, enum side side, uint32_t conn, unsigned *ret);
void world_source(struct world *w, const struct source_event *event);
void world_target(struct world *w, const struct target_event *event);
/* Closes what belongs to the same connection at that side. */
void world_close_lanes(struct world *w, unsigned link, enum side side);
bool world_lane(struct world *w, unsigned link, enum side side, unsigned *ret);
void world_touch(struct world *w);
void world_push(struct world *w, unsigned link);
void world_ask(struct world *w, uint64_t set);
void world_deliver(struct world *w, enum side side, unsigned link, struct item *item);
void world_play(struct world *w, uint64_t until_ns);
enum outcome world_judge(struct world *w);
