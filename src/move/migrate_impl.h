/* Inside the source's pump only: what its files share. migrate.c explains it. */
#pragma once
#include "base/clock.h"
#include "mem/dirty.h"
#include "move/lanes_out.h"
#include "move/migrate.h"
#include "move/page_maker.h"
#include "move/serve.h"
#include "move/slowing.h"
#include "move/source.h"
#include "move/urgent.h"
#include "move/wire.h"

#define MIGRATE_QUEUE_MAX 32
#define MIGRATE_PROGRESS_NS (100 * CLOCK_MSEC)

struct migrate_queued {
    struct source_event event;
    struct err why;
};

/* Who sends the round that is under way. */
enum migrate_sender {
    SENDER_NONE = 0,
    SENDER_PUMP,
    SENDER_LANES,
    SENDER_PUSH, /* post-copy: the lanes, after the last round */
};

struct migration {
    const struct move_env *env;
    const struct migrate_request *request;
    struct bill *bill;
    struct source engine;
    struct move_actions actions;
    struct wire wire;
    struct message incoming;

    struct migrate_queued queue[MIGRATE_QUEUE_MAX];
    unsigned queue_first, queue_count;
    uint64_t timer_ns;

    /* migrate_round.c */
    struct dirty dirty;
    struct page_source pages;
    struct round_set set; /* clark05 */
    struct slowing slowing;
    struct page_memo memo;
    struct page_maker maker; /* of what this thread sends itself */
    struct lanes_out lanes;
    struct bucket bucket; /* of all bulk bytes */
    uint64_t limit;       /* as last set */
    uint64_t seed;        /* of the hashes, made for this move */
    enum migrate_sender sender;
    bool tracking, last_round, lanes_billed;
    uint64_t round_pages;      /* dirty as it began */
    uint64_t sent_before;      /* pages sent in the rounds before */
    uint64_t visited;          /* pages the first round came to */
    uint64_t lane_pages_bytes; /* of whole rounds */
    uint64_t told_bytes;       /* on lanes, as the engine last heard of progress */
    uint64_t round_lane_bytes; /* on lanes, as the round began */
    uint64_t round_began_ns, progress_told_ns;
    uint64_t round_rate;     /* the policy's limit for this round; 0 = none */
    uint64_t send_ns;        /* of this round, in the control connection's hands */
    uint64_t lane_failed_ns; /* when a lane failed; 0 = none did */
    struct err lane_err;

    /* migrate_serve.c */
    struct serve *serve;           /* post-copy: NULL until it is decided */
    struct page_source push_pages; /* of what it has yet to send */
    struct page_maker push_maker;  /* of what is pushed on this connection */
    struct page_count pushed;      /* on lanes, and on connections that were lost */
    bool pushing;                  /* on this connection */
    const uint8_t *push_at;        /* of the section being pushed */
    size_t push_left;
    uint64_t push_began_ns, push_ns; /* that section is being sent since; all before it took */
    uint64_t push_bytes;             /* in that time */
    uint64_t push_told_bytes;        /* as the engine last heard of progress */
    uint64_t unsent_bytes;           /* of sections that were given up with their connections */
    uint64_t gone_bytes;             /* sent on connections and lanes that were lost */

    bool paused;
    bool prepared;             /* the agent was asked: to be taken back if the guest stays */
    uint32_t decided;          /* decisions of the engine that are in the bill */
    uint64_t decision_told_ns; /* to those who watch */
    char target[512];          /* request->target, or where a person says it is now */
    bool end_now;              /* this process is ending, whatever the state */
    struct move_progress progress;
    struct meter_span span;
    bool measured; /* `here` is what this monitor spent */
    struct bill_side here;
};

/* migrate.c */
struct migrate_queued *migrate_enqueue(struct migration *m, enum source_event_kind kind);
void migrate_enqueue_why(struct migration *m, enum source_event_kind kind, const struct err *why);

/* A failure on the control connection: what it means depends on whether an order interrupted it. */
void migrate_connection_failed(struct migration *m, int rc, const struct err *err);
void migrate_host_failed(struct migration *m, const struct err *err);
/* With the control connection goes the urgent lane beside it. The bill learns what the connection was and carried. */
void migrate_close_wire(struct migration *m);
void migrate_send_bytes(struct migration *m, const void *bytes, size_t len,
                        enum bill_bytes_kind kind);

/* migrate_round.c */
/* ACTION_SEND_ROUND; afterwards the loop calls one of the others. */
void migrate_round_send(struct migration *m, uint32_t number, bool last, uint64_t rate);
/* Pages dirty by now, between two rounds; 0 when nothing more is known than end of the round told. */
uint64_t migrate_round_left(struct migration *m);
/* ACTION_END_ROUND: the round ends with what is being sent. */
void migrate_round_cut(struct migration *m);
/* SENDER_PUMP: sends one section of the round under way. */
void migrate_round_continue(struct migration *m);
/* SENDER_PUMP, SENDER_LANES: how long nothing is sent because of the limit. */
uint64_t migrate_round_wait_ns(struct migration *m);
/* SENDER_LANES: looks after them; whenever their event_fd is readable, and at least every
 * MIGRATE_PROGRESS_NS. */
void migrate_round_watch(struct migration *m);
/* Nobody is slowed any more. */
void migrate_end_throttle(struct migration *m);
/* No round is under way any more, no lane lives, dirty tracking has ended. */
void migrate_round_stop(struct migration *m);
/* What the lanes carried, once, before they are gone: by migrate_round_stop() or earlier. */
void migrate_round_bill(struct migration *m);
/* When a lane failed and the target did not say why in the meantime, at the latest at this time (CLOCK_NEVER:
 * none did), migrate_round_lost() reports it. */
uint64_t migrate_round_lost_at(const struct migration *m);
void migrate_round_lost(struct migration *m);
/* For whoever sends pages: sets the limit to what it is now, and starts the lanes' set on `source`. */
void migrate_follow_limit(struct migration *m);
int migrate_lanes_start(struct migration *m, struct page_source *source, struct page_memo *memo);
/* The lane that failed is reported at migrate_round_lost_at(). */
void migrate_lane_failed(struct migration *m, const struct err *err);
/* What the present set of lanes carried goes to the bill. */
void migrate_lanes_bill(struct migration *m);

/* migrate_serve.c */
void migrate_send_absent(struct migration *m);
void migrate_open_urgent(struct migration *m);
/* What LANE says of the connection in use. */
uint32_t migrate_beside(const struct migration *m);
/* ACTION_PUSH; afterwards the loop calls the others. */
void migrate_push_begin(struct migration *m);
/* m->pushing: sends some. */
void migrate_push(struct migration *m);
/* m->pushing: how long nothing is sent because of the limit; to be looked at again then. */
uint64_t migrate_push_wait_ns(struct migration *m);
void migrate_push_look(struct migration *m);
/* SENDER_PUSH: as migrate_round_watch(). */
void migrate_push_watch(struct migration *m);
/* The connection is over: what is on its way on it, or on a lane beside it, is given up. Harmless before the push. */
void migrate_push_end(struct migration *m);
void migrate_finish_section(struct migration *m);
void migrate_lane_lost(struct migration *m);
void migrate_bill_serving(struct migration *m);
/* What it holds is freed, but for the struct. */
void migrate_serve_end(struct migration *m);
