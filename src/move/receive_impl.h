/* Inside the target's pump only: what its files share. receive.c explains it. */
#pragma once
#include "base/clock.h"
#include "move/lanes_in.h"
#include "move/pull.h"
#include "move/receive.h"
#include "move/target.h"
#include "move/wire.h"

#define CONNS_MAX (MOVE_LANES_MAX + 8) /* all lanes may come at once, and prove themselves */
#define QUEUE_MAX 32

struct queued {
    struct target_event event;
    struct err why;
};

struct receiving {
    const struct move_env *env;
    const struct arrival_host *host;
    int listen_fd;
    struct target engine;
    struct move_actions actions;
    struct wire wire[CONNS_MAX];
    uint32_t last_conn;
    struct message incoming;

    struct queued queue[QUEUE_MAX];
    unsigned queue_first, queue_count;
    uint64_t timer_ns;

    struct lanes_in lanes;
    bool holding; /* ROUND_DONE, until the lanes have its pages */
    struct message_round_done held;
    uint64_t lane_sections;  /* as the engine last heard of progress */
    uint64_t bulk_failed_ns; /* when a bulk lane was seen to have failed; 0 = none */

    struct arrival *arrival;
    struct page_slot pushed; /* what is pushed on the move's connection; made when needed */
    struct pull *pull;     /* post-copy: from its list of missing pages until nothing is missing */
    uint64_t lane_lost_ns; /* since when that connection has been without it; 0 = it is there */
    uint32_t lane_conn;    /* the move's connection that the urgent lane belongs to */
    uint32_t lane_beside;  /* the same, as the source's LANE has it */
    struct message_pulled pulled;
    struct wire spent_lane;         /* open until this move has ended */
    struct buf state;               /* device-state sections, heads and bodies */
    struct message_verdict verdict; /* of the check, while its event is delivered */
    struct message_activated activated;
    bool claimed, arrived, ending;
    uint64_t load_ns, record_ns, arrived_ns;
    struct meter_span span;
    bool has_bill; /* of a move that has begun and not ended */
    struct bill bill;
    bool measured; /* it has ended, and is in `activated` */
    char last_failure[sizeof(((struct err *)0)->text)];
};

/* receive.c */
struct queued *receive_enqueue(struct receiving *r, enum target_event_kind kind, uint32_t conn);
void receive_enqueue_why(struct receiving *r, enum target_event_kind kind, uint32_t conn,
                         const struct err *why);
void receive_connection_failed(struct receiving *r, struct wire *wire, int rc,
                               const struct err *err);
/* With it goes the urgent lane beside it. */
void receive_close_wire(struct receiving *r, struct wire *wire);
/* The same, after its peer has had time to read what was said last. */
void receive_close(struct receiving *r, uint32_t conn);
void receive_send(struct receiving *r, uint32_t conn, const struct message *message);
struct wire *receive_find(struct receiving *r, uint32_t conn);
void receive_deliver(struct receiving *r, const struct target_event *event);

/* receive_newcomers.c */
#define NEWCOMER_LIMIT_NS (5 * CLOCK_SECOND) /* for its first message */
bool receive_has_room(const struct receiving *r);
void receive_accept(struct receiving *r);
void receive_drop_silent(struct receiving *r, uint64_t now);
/* r->incoming asks only whether a machine would fit; answers, and closes the connection. */
bool receive_asks_for_check(const struct receiving *r);
void receive_serve_dryrun(struct receiving *r, struct wire *wire);
/* Closes the connection, too. */
void receive_refuse_version(struct receiving *r, struct wire *wire, const struct err *why);

/* receive_bill.c. Whenever the engine enters a state; and once a move has ended (else nothing), `err` NULL = well. */
void receive_bill_stage(struct receiving *r, enum move_stage stage);
void receive_bill_end(struct receiving *r, enum bill_owner owner, const struct err *err);

/* receive_lanes.c */
#define BULK_GRACE_NS (CLOCK_SECOND / 2)
/* Once memory is there: lanes may come, as many as are granted. */
int receive_lanes_begin(struct receiving *r, struct err *err) MUST_CHECK;
/* Post-copy: whether lanes may bring what is pushed, and from here on they do. */
bool receive_lanes_may_push(const struct receiving *r);
void receive_lanes_push(struct receiving *r);
/* No lane's thread is left. Harmless without lanes. */
void receive_lanes_end(struct receiving *r);
/* A newcomer has said that it is a bulk lane. */
void receive_take_bulk(struct receiving *r, struct wire *wire);
/* True: ROUND_DONE is kept until the lanes have what it counts. */
bool receive_hold(struct receiving *r, const struct message_round_done *done);
/* Whenever the lanes may have news. */
void receive_look_after_lanes(struct receiving *r);
/* A lane was lost, and that is the end of the move. */
void receive_lanes_lost(struct receiving *r);
/* Before the engine's timer: its limit for silence is about all connections of the move together. */
void receive_lanes_progress(struct receiving *r);

/* receive_pull.c */
#define LANE_GRACE_NS (3 * CLOCK_SECOND)
void receive_take_lane(struct receiving *r, uint32_t conn);
void receive_send_absent(struct receiving *r, uint32_t conn);
int receive_absent(struct receiving *r, struct wire *wire, const struct section *section,
                   struct err *err) MUST_CHECK;
int receive_pushed(struct receiving *r, struct wire *wire, const struct section *section,
                   struct err *err) MUST_CHECK;
void receive_pull_ended(struct receiving *r);
void receive_on_pull(struct receiving *r);
void receive_give_up_lane(struct receiving *r, uint64_t now);
