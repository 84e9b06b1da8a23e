/*
 * The bill: what one move, checkpoint or restore cost. One record each, also when it fails.
 *
 * The mover fills a `struct bill` as it goes, with its own clock (CLOCK_MONOTONIC, passed in, so
 * tests pass what they like), and turns it into JSON at the end (docs/bill.md,
 * docs/bill.schema.json). Nothing here fails, allocates (bill_json() apart) or does I/O, and no
 * order of calls is wrong enough to stop a move for its bill. Not thread-safe: one thread fills.
 *
 *     bill_begin(&bill, BILL_MIGRATE, "pre-copy", "web1", now);     in stage pre-migration
 *     bill_stage(&bill, BILL_RESERVATION, now); ...                 each stage as it begins
 *     bill_downtime(&bill, BILL_PAUSE, now); ...                    each part as it begins, then
 *     bill_downtime_end(&bill, now);                                when the guest is known to run
 *     bill_round(&bill, &round); bill_bytes(...); bill_pages(...);
 *     bill_fail(&bill, &err);                                       only if it went wrong
 *     bill_side_set(&bill, BILL_SOURCE, &side);                     meter_span_end() measured it
 *     bill_end(&bill, BILL_OWNER_TARGET, now);
 *
 * Sums hold by construction: an instant belongs to exactly one stage, and an instant of the
 * downtime to exactly one part, because a stage or part ends only where the next begins.
 */
#pragma once
#include "base/err.h"
#include "state/schema.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define BILL_VERSION 1
#define BILL_ROUNDS_MAX 64 /* more are merged in the middle: bill_round() */
#define BILL_TEXT_MAX 128
#define BILL_DECISIONS_MAX 64 /* of more, the first half and the latest are kept */
#define BILL_VCPUS_MAX 16

enum bill_kind { BILL_MIGRATE, BILL_CHECKPOINT, BILL_RESTORE, BILL_KIND_MAX };

/* Clark's six, and one that post-copy needs. A checkpoint or restore uses the same ones; one it does not need lasts 0 ns. */
enum bill_stage {
    BILL_PRE_MIGRATION, /* finding and checking the target */
    BILL_RESERVATION,   /* the target promises its resources */
    BILL_PRE_COPY,      /* pages travel while the guest runs */
    BILL_STOP_AND_COPY, /* the guest stands still: last pages, device state */
    BILL_COMMITMENT,    /* ownership passes */
    BILL_ACTIVATION,    /* the guest runs again; announcing, cleaning up */
    BILL_PULLING,       /* post-copy: the guest runs, and the rest of its memory follows */
    BILL_STAGE_MAX
};

/* Parts of the time the guest stands still, all on the clock of the monitor that writes the bill,
 * except what bill_downtime_other() takes out of BILL_TRANSFER. */
enum bill_part {
    BILL_PAUSE,        /* from the order to stop until the last vCPU and device stand still */
    BILL_DISK_SYNC,    /* making durable what the guest wrote to its disks */
    BILL_LAST_PAGES,   /* finding the last dirty pages and handing them to the kernel to send */
    BILL_DEVICE_STATE, /* reading the state of vCPUs and devices out, encoding, handing over */
    BILL_TRANSFER,     /* waiting for the other side, less what it says its own work took */
    BILL_LOAD,         /* decoding, checking and loading the state */
    BILL_COMMIT,       /* making the passing of ownership durable, on either side */
    BILL_RESUME,       /* from the order to run until the vCPUs do */
    BILL_PART_MAX
};

enum bill_bytes_kind {
    BILL_BYTES_PAGE_DATA,    /* contents of pages sent for the first time */
    BILL_BYTES_REPEATED,     /* contents of pages sent before and again since dirtied */
    BILL_BYTES_ZERO_RANGES,  /* table entries that say "these pages are zero" */
    BILL_BYTES_DEVICE_STATE, /* sections of vCPUs, interrupt controllers, clock, devices */
    BILL_BYTES_PROTOCOL,     /* all else: headers, messages, tables of data pages */
    BILL_BYTES_MAX
};

/* The pages of the guest by what the first pass found. They add up to the guest's memory: what the
 * pass never came to (a failed move) is the remainder, `not_reached`. */
enum bill_page_class {
    BILL_PAGES_NEVER_TOUCHED, /* holes of the memory file: not looked at */
    BILL_PAGES_FREE,          /* the same, given back by the guest itself */
    BILL_PAGES_ZERO,
    BILL_PAGES_DATA,
    BILL_PAGES_MAX
};

/* Ways to send less than a page's bytes; a page can be in several. Saved: against sending it whole. */
enum bill_class {
    BILL_CLASS_NEVER_TOUCHED, /* not at all: a hole of the memory file, in the first pass */
    BILL_CLASS_FREE,          /* the same, or as a range and unread: given back by the guest */
    BILL_CLASS_ZERO,          /* as a range */
    BILL_CLASS_SAME,          /* not at all: unchanged since it was last sent */
    BILL_CLASS_DELTA,         /* only what changed */
    BILL_CLASS_PACKED,        /* in a packed section */
    BILL_CLASS_MAX
};

struct bill_saving {
    uint64_t pages, saved_bytes, cpu_ns;
};

#define BILL_LANES_MAX 16

enum bill_owner {
    BILL_OWNER_NONE, /* no VM came to be (a failed restore) */
    BILL_OWNER_SOURCE,
    BILL_OWNER_TARGET,
    BILL_OWNER_UNCERTAIN, /* the answer to the commitment was lost: neither side runs it */
    BILL_OWNER_MAX
};

enum bill_place { BILL_SOURCE, BILL_TARGET, BILL_PLACE_MAX };

/* CPU time is split by what a thread is for. */
enum bill_group {
    BILL_CPU_VCPU,  /* vCPU threads: the guest itself and its exits */
    BILL_CPU_MOVER, /* threads that find, send, receive and place pages */
    BILL_CPU_LOOP,  /* the event loop: devices, control socket */
    BILL_CPU_OTHER, /* the rest of the process, such as io_uring's workers */
    BILL_CPU_MAX
};

/* What one monitor measured of itself between the beginning and the end of the move; the
 * target's travels to the source. `measured` is a set of BILL_MEASURED_*: the rest is not known,
 * not zero. load, commit and resume: its parts of the downtime, when the other side writes the
 * bill; else 0. */
#define BILL_MEASURED_CPU 1u
#define BILL_MEASURED_MEMORY 2u
#define BILL_MEASURED_DISK 4u
#define BILL_MEASURED_TCP 8u
#define BILL_SIDE(F, T)                         \
    F(T, text, host, 65)                        \
    F(T, u32, measured)                         \
    F(T, u64, wall_ns)                          \
    F(T, u64s, cpu_ns, 4) /* enum bill_group */ \
    F(T, u64, memory_before_bytes)              \
    F(T, u64, memory_peak_bytes)                \
    F(T, u64, disk_read_bytes)                  \
    F(T, u64, disk_written_bytes)               \
    F(T, u64, tcp_retransmits)                  \
    F(T, u64, tcp_rtt_us)                       \
    F(T, u64, load_ns)                          \
    F(T, u64, commit_ns)                        \
    F(T, u64, resume_ns)
SCHEMA_STRUCT(bill_side, BILL_SIDE);

/* What the agent inside the guest did before the last round. Its own words, but for the time. */
struct bill_agent {
    bool present;              /* it answered */
    uint64_t page_cache_bytes; /* given back */
    uint64_t slowed;           /* control groups frozen and tasks made idle */
    uint64_t ns;               /* that asking it took, of the stage pre-copy */
    char failure[64];          /* why it did nothing; empty = it did */
};

struct bill_round {
    uint64_t first, last;            /* number, from 1; they differ only where rounds were merged */
    bool paused;                     /* sent while the guest stood still */
    uint64_t pages_data, pages_zero; /* sent in it */
    uint64_t pages_free;    /* met in it, given back by the guest: their contents did not travel */
    uint64_t pages_dirtied; /* written by the guest while it lasted; found when it ended */
    uint64_t bytes;         /* of the stream, all kinds */
    uint64_t began_ns;      /* CLOCK_MONOTONIC */
    uint64_t duration_ns;
};

/* Post-copy: what the guest waited for. Of the target but for answered and late, and its own account of itself. */
#define BILL_FAULT_BUCKETS 32
struct bill_faults {
    bool known;              /* the target has said it: else only the next two are */
    uint64_t answered, late; /* requests; late: the page was on its way already */
    uint64_t absent;         /* pages missing when the guest began to run there */
    uint64_t missing;        /* pages that never came: the guest ended first */
    uint64_t count;          /* accesses that waited for the source */
    uint64_t requested, pushed, duplicates, interrupted, stranded_ns;
    uint64_t p50_ns, p90_ns, p99_ns, max_ns;
    uint64_t bucket[BILL_FAULT_BUCKETS]; /* bucket i: waits of [2^i, 2^(i+1)) ns */
};

/* How the bytes travelled; of the last connection, if there were several. */
struct bill_link {
    bool encrypted;                     /* the rest is for encrypted ones */
    char cipher[40];                    /* as TLS names it */
    char peer[52];                      /* the fingerprint of the other side's key */
    bool kernel_sends, kernel_receives; /* the kernel encrypts, decrypts */
    uint64_t handshake_ns;
};

/* What a policy decided after a round, and the numbers it decided by. */
struct bill_decision {
    uint64_t at_ns; /* since the move began */
    uint64_t round;
    char what[12], why[12]; /* "round", "stop", "switch", "abort"; "level", ... */
    uint64_t left_pages;
    uint64_t link_bytes_per_s, dirty_pages_per_s; /* 0 = not measured */
    uint64_t predicted_ns, asked_ns;              /* downtime; UINT64_MAX = no telling */
    uint64_t rate_bytes_per_s;                    /* limit of the next round; 0 = none */
    uint32_t run_permille;                        /* of their writing that fast writers keep */
};

struct bill {
    enum bill_kind kind;
    enum bill_place writer; /* whose clock; begins as a restore's target, else the source */
    char mode[16], name[BILL_TEXT_MAX];
    char token[40];                              /* the move's, in hex; empty = none */
    char from[BILL_TEXT_MAX], to[BILL_TEXT_MAX]; /* hosts, addresses or files; empty = not known */
    uint64_t memory_bytes;                       /* of the guest */
    uint32_t vcpus;
    uint64_t started_wall_ns;

    uint64_t began_ns, stage_since_ns;
    bool ended;
    enum bill_stage stage;
    uint64_t stage_ns[BILL_STAGE_MAX];

    bool was_down, is_down;
    enum bill_part part;
    uint64_t down_since_ns, part_since_ns; /* down_since_ns: the first part's beginning */
    uint64_t part_ns[BILL_PART_MAX];       /* on this side's clock */
    uint64_t part_claim_ns[BILL_PART_MAX]; /* what the other side says it spent, until bill_end() */
    uint64_t part_other_ns[BILL_PART_MAX]; /* what of that fits into this side's transfer */

    uint64_t bytes[BILL_BYTES_MAX];
    uint64_t pages[BILL_PAGES_MAX], pages_sent_again, pages_freed_later;
    struct bill_saving saving[BILL_CLASS_MAX];
    unsigned lane_count; /* that carried pages */
    uint64_t lane_bytes[BILL_LANES_MAX];
    uint64_t limit_bytes_per_s; /* of the move's pages, as it last was; 0 = none */
    uint64_t rounds;            /* all there were */
    unsigned round_count;       /* in round[] */
    struct bill_round round[BILL_ROUNDS_MAX];

    bool has_link;
    struct bill_link link;
    uint64_t wire_sent_bytes, wire_received_bytes; /* of encrypted connections, all together */

    char policy[16];         /* empty = none decides */
    uint64_t decisions;      /* all there were */
    unsigned decision_count; /* in decision[] */
    struct bill_decision decision[BILL_DECISIONS_MAX];
    uint64_t held_ns[BILL_VCPUS_MAX]; /* brownout: each vCPU was kept from running so long */
    bool has_faults;                  /* it was post-copy */
    struct bill_faults faults;

    bool has_agent;
    struct bill_agent agent;

    bool has_side[BILL_PLACE_MAX];
    struct bill_side side[BILL_PLACE_MAX];

    struct err err; /* code 0 = it succeeded */
    enum bill_stage failed_stage;
    enum bill_owner owner;
};

/* Starts the clock, in stage pre-migration. `mode` is "auto", "pre-copy", "stop-copy", "post-copy" or
 * "file". */
void bill_begin(struct bill *bill, enum bill_kind kind, const char *mode, const char *name,
                uint64_t now_ns);

/* Facts about the move; texts are copied and cut to fit, NULL = not known. Any time before the
 * end. */
void bill_describe(struct bill *bill, const char *token, const char *from, const char *to);
void bill_machine(struct bill *bill, uint64_t memory_bytes, uint32_t vcpus);

/* The present stage ends and `stage` begins. A clock that went back counts as one that stood
 * still. */
void bill_stage(struct bill *bill, enum bill_stage stage, uint64_t now_ns);

/* A part of the downtime begins, and the one before it ends; the first one starts the downtime.
 * A part may come more than once: its times add up. */
void bill_downtime(struct bill *bill, enum bill_part part, uint64_t now_ns);
void bill_downtime_end(struct bill *bill, uint64_t now_ns);

/* The other side says that, of the time this side spent in BILL_TRANSFER, its own clock counted
 * `ns` for `part` (load, commit or resume). Only durations are taken over, never instants, so
 * the two clocks need not agree on the time of day. bill_end() takes them out of the transfer;
 * what does not fit is cut off, and the bill says so. */
void bill_downtime_other(struct bill *bill, enum bill_part part, uint64_t ns);

/* Appends a round; its first and last are set here. Beyond BILL_ROUNDS_MAX the rounds in the
 * middle are merged into one, so the first and the latest stay exact and every sum too. */
void bill_round(struct bill *bill, const struct bill_round *round);

/* Appends a decision of the policy of that name. */
void bill_decision(struct bill *bill, const char *policy, const struct bill_decision *decision);

/* vCPU `id` was held for so long, in the whole move. */
void bill_held(struct bill *bill, unsigned id, uint64_t ns);

void bill_bytes(struct bill *bill, enum bill_bytes_kind kind, uint64_t bytes);
/* Pages as the first pass finds them, pages sent once more after it, and pages that would have been, had
 * the guest not given them back. */
void bill_pages(struct bill *bill, enum bill_page_class class, uint64_t pages);
void bill_pages_again(struct bill *bill, uint64_t pages);
void bill_pages_freed_later(struct bill *bill, uint64_t pages);

/* It was handed over before its memory; what the guest waited for. */
void bill_faults_set(struct bill *bill, const struct bill_faults *faults);

/* A connection to the other side stands; and one ended that had so many bytes encrypted. */
void bill_link(struct bill *bill, const struct bill_link *link);
void bill_wire(struct bill *bill, uint64_t sent_bytes, uint64_t received_bytes);

/* What a class of pages saved, and what CPU time telling and making it took. Adds up. */
void bill_class(struct bill *bill, enum bill_class class, uint64_t pages, uint64_t saved_bytes,
                uint64_t cpu_ns);

/* Bytes lane `index` (below BILL_LANES_MAX) has carried, more each time; they are in bill_bytes(), too. */
void bill_lane(struct bill *bill, unsigned index, uint64_t bytes);
void bill_limit(struct bill *bill, uint64_t bytes_per_s);

/* What one monitor measured. The other side's brings its parts of the downtime with it. */
void bill_side_set(struct bill *bill, enum bill_place place, const struct bill_side *side);

/* What the guest's agent did, if one was asked. */
void bill_agent(struct bill *bill, const struct bill_agent *agent);

/* It failed, for this reason, in the present stage; the first reason stands. ECANCELED = it was
 * told to stop. The time from here to bill_end() (cleaning up, resuming) still counts as that
 * stage. */
void bill_fail(struct bill *bill, const struct err *err);

/* Stops the clock (an open downtime too) and says who has the VM now. Later calls change
 * nothing. */
void bill_end(struct bill *bill, enum bill_owner owner, uint64_t now_ns);

/* Sums: over the stages (== the total), and over the parts (== the downtime). */
uint64_t bill_total_ns(const struct bill *bill);
uint64_t bill_downtime_ns(const struct bill *bill);

/* The names JSON and text use: "pre-migration", "last-pages", ... */
const char *bill_stage_name(enum bill_stage stage);
const char *bill_part_name(enum bill_part part);

/* A new object after docs/bill.schema.json, the caller's; NULL when out of memory. The bill has
 * ended. In cost/bill_json.c. */
json_t *bill_json(const struct bill *bill);
