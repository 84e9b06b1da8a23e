/* Inside the source's pump only: what its files share. migrate.c explains it. */
#pragma once
#include "base/clock.h"
#include "mem/dirty.h"
#include "move/migrate.h"
#include "move/pace.h"
#include "move/page_source.h"
#include "move/serve.h"
#include "move/slowing.h"
#include "move/source.h"
#include "move/urgent.h"
#include "move/wire.h"

#define QUEUE_MAX 32
#define PROGRESS_EVERY_NS (100 * CLOCK_MSEC)

struct queued {
    struct source_event event;
    struct err why;
};

struct migration {
    const struct move_env *env;
    const struct migrate_request *request;
    struct bill *bill;
    struct source engine;
    struct move_actions actions;
    struct wire wire;
    struct message incoming;

    struct queued queue[QUEUE_MAX];
    unsigned queue_first, queue_count;
    uint64_t timer_ns;

    struct dirty dirty;
    struct page_source pages;
    struct round_set set; /* clark05 */
    struct slowing slowing;
    struct pace pace;
    uint64_t send_ns; /* of this round, in the connection's hands */
    uint32_t decided; /* decisions of the engine that are in the bill */
    bool tracking, sending_round, end_round, last_round, paused;
    struct serve *serve; /* post-copy: NULL until it is decided */
    uint64_t visited;    /* pages the first round came to */
    bool pushing;
    bool prepared;          /* the agent was asked: to be taken back if the guest stays */
    const uint8_t *push_at; /* of the section being pushed */
    size_t push_left;
    char target[512]; /* request->target, or where a person says it is now */
    bool end_now;     /* this process is ending, whatever the state */
    uint64_t round_began_ns, progress_told_ns, decision_told_ns;
    struct move_progress progress;
    struct meter_span span;
    bool measured; /* `here` is what this monitor spent */
    struct bill_side here;
};

/* migrate.c */
struct queued *migrate_enqueue(struct migration *m, enum source_event_kind kind);
void migrate_enqueue_why(struct migration *m, enum source_event_kind kind, const struct err *why);
void migrate_connection_failed(struct migration *m, int rc, const struct err *err);
void migrate_host_failed(struct migration *m, const struct err *err);
void migrate_send_bytes(struct migration *m, const void *bytes, size_t len,
                        enum bill_bytes_kind kind);

/* migrate_serve.c */
void migrate_send_absent(struct migration *m);
void migrate_open_urgent(struct migration *m);
void migrate_push(struct migration *m);
void migrate_finish_section(struct migration *m);
void migrate_lane_lost(struct migration *m);
void migrate_bill_serving(struct migration *m);
