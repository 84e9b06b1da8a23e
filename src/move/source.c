/*
 * The source's engine. source.h has the states, the commit protocol and its proof; here is how a
 * step works.
 *
 * step() first drops stale events, then looks (state, event, message) up in `rows`: what has no row
 * is refused. Everything that goes wrong, refusals included, ends in trouble(), the one place that
 * knows what failure means in each state: before RECORDING the guest runs on; from then on it stays
 * paused until the target's answer is known. One timer serves all deadlines; it may fire early and
 * is then set again, so that the stall limit costs no timer call per message.
 */
#include "move/source_impl.h"

#include <errno.h>

/* ----------------------------------------------------------------------- rows: what goes wrong */

static int on_lost(struct source_call *c)
{
    struct source *s = c->s;
    s->conn = 0;
    s->connected = s->urgent = false;
    const struct err *why = c->e->why;
    enum move_reason reason = c->e->kind != SOURCE_CONNECT_FAILED ? REASON_LOST
                              : why && why->code == EKEYREJECTED  ? REASON_UNTRUSTED
                                                                  : REASON_CONNECT;
    source_trouble(c, reason, why, false);
    return 0;
}

static int on_bad_bytes(struct source_call *c)
{
    source_trouble(c, move_reason_of_bytes(c->e->why), c->e->why, false);
    return 0;
}

static int on_fault(struct source_call *c)
{
    source_trouble(c, REASON_SOURCE, c->e->why, true);
    return 0;
}

static int on_cancel(struct source_call *c)
{
    struct err why;
    (void)err_set(&why, ERR_CALLER, ECANCELED, "cancelled");
    source_trouble(c, REASON_CANCELLED, &why, true);
    return 0;
}

/* ----------------------------------------------------------------------------------- the table */

struct row {
    uint8_t state, event;
    uint16_t message;
    int (*fn)(struct source_call *);
};

#define ON(state, event, fn)                  \
    {                                         \
        SOURCE_##state, SOURCE_##event, 0, fn \
    }
#define MSG(state, message, fn)                               \
    {                                                         \
        SOURCE_##state, SOURCE_MESSAGE, MESSAGE_##message, fn \
    }
/* A connection that was made can break, bring rubbish, and carry the target's ABORT. */
#define WIRE(state) \
    ON(state, LOST, on_lost), ON(state, BAD_BYTES, on_bad_bytes), MSG(state, ABORT, source_on_abort)
/* One that is made again may also fail before that. */
#define REWIRE(state) \
    WIRE(state), ON(state, CONNECTED, source_on_reconnected), ON(state, CONNECT_FAILED, on_lost)

static const struct row rows[] = {
    ON(IDLE, START, source_on_start),
    ON(IDLE, RECOVER, source_on_recover),

    ON(CONNECTING, CONNECTED, source_on_connected),
    ON(CONNECTING, CONNECT_FAILED, on_lost),
    ON(CONNECTING, CANCEL, on_cancel),
    ON(CONNECTING, SWITCH, source_on_switch),

    MSG(NEGOTIATING, VERDICT, source_on_verdict),
    ON(NEGOTIATING, FAULT, on_fault),
    ON(NEGOTIATING, CANCEL, on_cancel),
    ON(NEGOTIATING, SWITCH, source_on_switch),
    WIRE(NEGOTIATING),

    MSG(RESERVING, RESERVED, source_on_reserved),
    ON(RESERVING, CANCEL, on_cancel),
    ON(RESERVING, SWITCH, source_on_switch),
    WIRE(RESERVING),

    ON(COPYING, ROUND_SENT, source_on_round_sent),
    MSG(COPYING, ROUND_ACK, source_on_round_ack),
    ON(COPYING, GUEST_PREPARED, source_on_guest_prepared),
    ON(COPYING, FAULT, on_fault),
    ON(COPYING, CANCEL, on_cancel),
    ON(COPYING, SWITCH, source_on_switch),
    ON(COPYING, URGENT_OPEN, source_on_urgent_open),
    WIRE(COPYING),

    ON(STOPPING, PAUSED, source_on_paused),
    ON(STOPPING, FAULT, on_fault),
    ON(STOPPING, CANCEL, on_cancel),
    WIRE(STOPPING),

    ON(DRAINING, ROUND_SENT, source_on_round_sent),
    MSG(DRAINING, ROUND_ACK, source_on_round_ack),
    ON(DRAINING, STATE_SENT, source_on_state_sent),
    ON(DRAINING, FAULT, on_fault),
    ON(DRAINING, CANCEL, on_cancel),
    WIRE(DRAINING),

    MSG(PREPARING, ROUND_ACK, source_on_round_ack),
    MSG(PREPARING, PREPARED, source_on_prepared),
    ON(PREPARING, FAULT, on_fault),
    ON(PREPARING, CANCEL, on_cancel),
    WIRE(PREPARING),

    ON(RECORDING, RECORDED, source_on_handed),
    ON(RECORDING, RECORD_FAILED, source_on_hand_failed),
    WIRE(RECORDING),

    MSG(COMMITTING, COMMITTED, source_on_committed),
    MSG(COMMITTING, STATUS, source_on_status),
    MSG(COMMITTING, PULL, source_on_pull),
    ON(COMMITTING, URGENT_OPEN, source_on_urgent_open),
    WIRE(COMMITTING),

    MSG(UNCERTAIN, STATUS, source_on_status),
    ON(UNCERTAIN, TAKE_BACK, source_on_take_back),
    ON(UNCERTAIN, FORGET, source_on_forget),
    ON(UNCERTAIN, RETRY, source_on_retry),
    REWIRE(UNCERTAIN),

    MSG(ACTIVATING, ACTIVATED, source_on_activated),
    WIRE(ACTIVATING),

    MSG(SERVING, ACTIVATED, source_on_running),
    MSG(SERVING, STATUS, source_on_serving_status),
    MSG(SERVING, PULL, source_on_pull),
    MSG(SERVING, PULLED, source_on_pulled),
    ON(SERVING, URGENT_OPEN, source_on_urgent_open),
    ON(SERVING, FORGET, source_on_abandon),
    ON(SERVING, RETRY, source_on_retry),
    REWIRE(SERVING),

    ON(RECLAIMING, RECORDED, source_on_reclaimed),
    ON(RECLAIMING, RECORD_FAILED, source_on_reclaim_failed),
    ON(RECLAIMING, TAKE_BACK, source_on_take_back),
    MSG(RECLAIMING, STATUS, source_on_withdrawn_status),
    WIRE(RECLAIMING),

    MSG(WITHDRAWING, STATUS, source_on_withdrawn_status),
    MSG(WITHDRAWING, ROUND_ACK, source_on_crossed),
    MSG(WITHDRAWING, PREPARED, source_on_crossed),
    ON(WITHDRAWING, CANCEL, source_on_stop_telling),
    REWIRE(WITHDRAWING),
};

static const struct row *find_row(const struct source_call *c)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].state == c->s->state && rows[i].event == c->e->kind &&
            rows[i].message == (c->m ? c->m->type : 0))
            return &rows[i];
    return NULL;
}

/* -------------------------------------------------------------------------------------- timers */

static uint64_t stall_at(const struct source *s)
{
    bool waits = s->state >= SOURCE_CONNECTING && s->state <= SOURCE_PREPARING;
    bool talks = s->conn && s->state != SOURCE_RECORDING && !source_state_ended(s->state);
    return waits || talks ? source_later(s->progress_ns, s->config.stall_limit_ns) : CLOCK_NEVER;
}

static uint64_t give_up_at(const struct source *s)
{
    return s->state == SOURCE_WITHDRAWING ? s->give_up_at_ns : CLOCK_NEVER;
}

static void tick(struct source_call *c)
{
    struct source *s = c->s;

    if (c->now >= give_up_at(s)) {
        source_end(c, SOURCE_FAILED);
    } else if (c->now >= s->retry_at_ns) {
        s->retry_at_ns = CLOCK_NEVER;
        if (s->state == SOURCE_RECLAIMING)
            source_write_record(c, RECORD_HERE);
        else
            source_dial(c);
    } else if (c->now >= stall_at(s)) {
        struct err why;
        (void)err_set(&why, ERR_PEER, ETIMEDOUT, "no progress for %llu ms while %s",
                      (unsigned long long)(s->config.stall_limit_ns / CLOCK_MSEC),
                      source_state_name(s->state));
        source_trouble(c, REASON_STALLED, &why, false);
    }
}

static void set_timer(struct source_call *c)
{
    struct source *s = c->s;
    uint64_t next = MIN(stall_at(s), give_up_at(s));
    next = MIN(next, s->retry_at_ns);

    /* One that fires early is set again then: cheaper than moving it with every sign of life. */
    if (next == s->timer_ns || (next != CLOCK_NEVER && next > s->timer_ns && s->timer_ns > c->now))
        return;
    s->timer_ns = next;
    move_act(c->out, ACTION_SET_TIMER)->at_ns = next;
}

/* ---------------------------------------------------------------------------------------- step */

static bool on_connection(enum source_event_kind kind)
{
    return (kind >= SOURCE_CONNECTED && kind <= SOURCE_ROUND_SENT) || kind == SOURCE_STATE_SENT;
}

static bool by_person(enum source_event_kind kind)
{
    return kind >= SOURCE_CANCEL;
}

/* Late by rule (step.h): what an old connection or a given-up piece of work still reports. */
static bool is_stale(const struct source_call *c)
{
    const struct source *s = c->s;

    /* 0: the pump had closed it already */
    if (on_connection(c->e->kind) &&
        (c->e->conn == 0 || (c->e->conn != s->conn && c->e->conn <= s->last_conn)))
        return true;
    switch (c->e->kind) {
    case SOURCE_PAUSED:
        return source_state_ended(s->state);
    case SOURCE_URGENT_OPEN: /* of a connection that is used for something else by now */
        return s->state >= SOURCE_RECLAIMING;
    case SOURCE_GUEST_PREPARED:
        return s->state != SOURCE_COPYING;
    case SOURCE_FAULT:
        return s->state >= SOURCE_RECORDING;
    case SOURCE_RECORDED:
    case SOURCE_RECORD_FAILED:
        return s->state == SOURCE_WITHDRAWING || source_state_ended(s->state);
    default:
        return false;
    }
}

static int refuse(struct source_call *c)
{
    const char *state = source_state_name(c->s->state);
    struct err why;

    if (by_person(c->e->kind))
        return err_set(c->err, ERR_CALLER, EBUSY, "%s is not possible while %s%s",
                       source_event_name(c->e->kind), state,
                       c->s->state == SOURCE_SERVING
                           ? ": the guest runs at the target, and fetches its memory from here"
                           : "");
    if (c->m)
        (void)err_set(&why, ERR_PEER, EPROTO, "message %s out of place while %s",
                      message_name(c->m->type), state);
    else
        (void)err_set(&why, ERR_BUG, EPROTO, "event %s out of place while %s",
                      source_event_name(c->e->kind), state);
    source_trouble(c, c->m ? REASON_PROTOCOL : REASON_BUG, &why, false);
    return source_fail(c, &why);
}

int source_step(struct source *source, const struct source_event *event, uint64_t now_ns,
                struct move_actions *out, struct err *err)
{
    struct source_call c = { .s = source,
                             .e = event,
                             .m = event->kind == SOURCE_MESSAGE ? event->message : NULL,
                             .now = now_ns,
                             .out = out,
                             .err = err };
    int rc = 0;

    out->count = out->messages = 0;
    if (is_stale(&c)) {
        source->stale++;
        return 0;
    }
    if (on_connection(event->kind) && event->conn == source->conn)
        source->progress_ns = now_ns;

    if (event->kind == SOURCE_TICK) {
        tick(&c);
    } else if (on_connection(event->kind) && event->conn != source->conn) {
        rc = refuse(&c);
    } else if (event->kind == SOURCE_PROGRESS) {
        source_on_progress(&c);
    } else {
        const struct row *row = find_row(&c);
        rc = row ? row->fn(&c) : SOURCE_REFUSE;
        if (rc == SOURCE_REFUSE)
            rc = refuse(&c);
    }
    set_timer(&c);
    return rc;
}
