/*
 * The source's engine. source.h has the states, the commit protocol and its proof; here is how a step
 * works.
 *
 * step() first drops stale events, then looks (state, event, message) up in `rows`: what has no row is
 * refused. Everything that goes wrong, refusals included, ends in trouble(), the one place that knows
 * what failure means in each state: before RECORDING the guest runs on; from then on it stays paused
 * until the target's answer is known. One timer serves all deadlines; it may fire early and is then
 * set again, so that the stall limit costs no timer call per message.
 */
#include "move/source.h"

#include "base/clock.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct ctx {
    struct source *s;
    const struct source_event *e;
    const struct message *m; /* of e, or NULL */
    uint64_t now;
    struct move_actions *out;
    struct err *err; /* the caller's */
};

/* What a row's function returns when, after a closer look, its event has no place here. */
#define REFUSE 1

static uint64_t later(uint64_t now, uint64_t delay_ns)
{
    return now > UINT64_MAX - delay_ns ? CLOCK_NEVER : now + delay_ns;
}

static bool same_token(const struct ctx *c, const uint8_t token[MOVE_TOKEN_BYTES])
{
    return memcmp(token, c->s->config.hello.token, MOVE_TOKEN_BYTES) == 0;
}

/* -------------------------------------------------------------- the small steps everything is made of */

static void emit(struct ctx *c, enum source_state from, const char *text)
{
    struct source *s = c->s;
    struct move_action *action = move_act(c->out, ACTION_EMIT);
    action->emit.from = (uint8_t)from;
    action->emit.to = (uint8_t)s->state;
    action->emit.stage = source_state_stage(s->state);
    action->emit.reason = s->reason;
    action->emit.text = text;
}

static void enter(struct ctx *c, enum source_state state)
{
    enum source_state from = c->s->state;
    c->s->state = state;
    c->s->progress_ns = c->now;
    emit(c, from, c->s->reason ? c->s->err.text : "");
}

/* The reason a person will read. The first one stays: what follows from it explains less. */
static void blame(struct ctx *c, enum move_reason reason, const struct err *why)
{
    struct source *s = c->s;
    if (s->reason && s->state != SOURCE_UNCERTAIN && s->state != SOURCE_COMMITTING)
        return;
    s->reason = reason;
    if (why)
        s->err = *why;
    else
        (void)err_set(&s->err, ERR_HOST, EIO, "%s", move_reason_name(reason));
}

static void shut(struct ctx *c)
{
    if (c->s->conn)
        move_act(c->out, ACTION_CLOSE)->conn = c->s->conn;
    c->s->conn = 0;
    c->s->connected = false;
}

static void dial(struct ctx *c)
{
    struct source *s = c->s;
    s->conn = ++s->last_conn;
    s->connected = false;
    s->progress_ns = c->now;
    move_act(c->out, ACTION_CONNECT)->conn = s->conn;
}

static void retry_later(struct ctx *c)
{
    struct source *s = c->s;
    s->retry_ns = s->retry_ns ? MIN(s->retry_ns * 2, s->config.retry_max_ns) : s->config.retry_first_ns;
    s->retry_at_ns = later(c->now, s->retry_ns);
}

static void retry_afresh(struct ctx *c)
{
    c->s->retry_ns = 0;
    c->s->retry_at_ns = CLOCK_NEVER;
}

static void write_record(struct ctx *c, enum move_record record)
{
    move_act(c->out, ACTION_WRITE_RECORD)->record = record;
}

static void send_abort(struct ctx *c)
{
    struct source *s = c->s;
    if (!s->connected || s->target_gone)
        return;
    struct message_abort *abort = &move_send(c->out, s->conn, MESSAGE_ABORT)->abort;
    memcpy(abort->token, s->config.hello.token, sizeof(abort->token));
    abort->reason = s->reason ? s->reason : REASON_SOURCE;
    abort->fault = s->err.fault ? s->err.fault : ERR_HOST;
    (void)snprintf(abort->text, sizeof(abort->text), "%s", s->err.text);
}

static void send_settled(struct ctx *c)
{
    struct message *m = move_send(c->out, c->s->conn, MESSAGE_SETTLED);
    memcpy(m->settled.token, c->s->config.hello.token, sizeof(m->settled.token));
}

static void send_commit(struct ctx *c)
{
    struct message *m = move_send(c->out, c->s->conn, MESSAGE_COMMIT);
    memcpy(m->commit.token, c->s->config.hello.token, sizeof(m->commit.token));
}

static void end(struct ctx *c, enum source_state state)
{
    shut(c);
    retry_afresh(c);
    enter(c, state);
}

/* ------------------------------------------------------------------------------ ways back to the guest */

/* The guest runs again. If the target may hold a copy, it is told to free it, on this connection or on
 * new ones. */
static void withdraw(struct ctx *c)
{
    struct source *s = c->s;
    if (s->target_gone) {
        end(c, SOURCE_FAILED);
        return;
    }
    send_abort(c);
    retry_afresh(c);
    enter(c, SOURCE_WITHDRAWING);
    s->give_up_at_ns = later(c->now, s->config.withdraw_limit_ns);
    if (!s->conn)
        dial(c);
}

/* Rollback is possible: COMMIT was never sent and no record stands against it. */
static void roll_back(struct ctx *c)
{
    struct source *s = c->s;
    enum source_state from = s->state;

    if (from >= SOURCE_COPYING)
        (void)move_act(c->out, ACTION_RESUME_GUEST); /* first: downtime is running */
    if (from == SOURCE_PREPARING || from == SOURCE_RECORDING) {
        withdraw(c);
    } else {
        send_abort(c);
        end(c, SOURCE_FAILED);
    }
}

/* Rollback is possible, but the record may say HANDED: it must say HERE before the guest runs. */
static void reclaim(struct ctx *c)
{
    retry_afresh(c);
    enter(c, SOURCE_RECLAIMING);
    write_record(c, RECORD_HERE);
}

/* Something failed; `reason` was blamed. `usable`: the connection still makes sense. */
static void trouble(struct ctx *c, enum move_reason reason, const struct err *why, bool usable)
{
    struct source *s = c->s;

    blame(c, reason, why);
    switch (s->state) {
    case SOURCE_IDLE:
        end(c, SOURCE_FAILED);
        break;
    case SOURCE_CONNECTING:
    case SOURCE_NEGOTIATING:
    case SOURCE_RESERVING:
    case SOURCE_COPYING:
    case SOURCE_STOPPING:
    case SOURCE_DRAINING:
        roll_back(c);
        break;
    case SOURCE_PREPARING:
        if (!usable)
            shut(c);
        roll_back(c);
        break;
    case SOURCE_RECORDING:
        /* What is on disk is known only when the write has ended. */
        s->giving_up = true;
        shut(c);
        emit(c, s->state, s->err.text);
        break;
    case SOURCE_COMMITTING:
        /* No rollback: COMMIT may have been acted on. */
        shut(c);
        retry_later(c);
        enter(c, SOURCE_UNCERTAIN);
        break;
    case SOURCE_UNCERTAIN:
    case SOURCE_WITHDRAWING:
        shut(c);
        retry_later(c);
        emit(c, s->state, s->err.text);
        break;
    case SOURCE_ACTIVATING:
        /* The move is done; only the bill lacks the target's part. */
        end(c, SOURCE_DONE);
        break;
    case SOURCE_RECLAIMING:
        shut(c);
        break;
    case SOURCE_DONE:
    case SOURCE_FAILED:
    case SOURCE_STATE_MAX:
        break;
    }
}

static int fail(struct ctx *c, const struct err *why)
{
    if (c->err)
        *c->err = *why;
    return -why->code;
}

static int protocol_error(struct ctx *c, const char *what)
{
    struct err why;
    (void)err_set(&why, ERR_PEER, EPROTO, "message %s while %s: %s", message_name(c->m->type),
                  source_state_name(c->s->state), what);
    trouble(c, REASON_PROTOCOL, &why, false);
    return fail(c, &why);
}

/* ------------------------------------------------------------------------------------- rows: the rounds */

static int on_start(struct ctx *c)
{
    enter(c, SOURCE_CONNECTING);
    dial(c);
    return 0;
}

static int on_connected(struct ctx *c)
{
    struct source *s = c->s;
    s->connected = true;
    enter(c, SOURCE_NEGOTIATING);
    move_send(c->out, s->conn, MESSAGE_HELLO)->hello = s->config.hello;
    move_act(c->out, ACTION_SEND_DESCRIPTION)->conn = s->conn;
    return 0;
}

static int on_verdict(struct ctx *c)
{
    struct source *s = c->s;
    s->verdict = c->m->verdict;
    if (!s->verdict.ok) {
        struct err why;
        (void)err_set(&why, ERR_PEER, ENOTSUP, "target refuses: %s: %s", s->verdict.reason[0].fact,
                      s->verdict.reason[0].text);
        s->target_gone = true;
        trouble(c, REASON_REFUSED, &why, true);
        return 0;
    }
    enter(c, SOURCE_RESERVING);
    move_send(c->out, s->conn, MESSAGE_RESERVE)->reserve.pages = s->config.hello.pages;
    return 0;
}

static void begin_round(struct ctx *c, bool last)
{
    struct source *s = c->s;
    s->round++;
    s->round_sent = s->round_acked = false;
    s->round_began_ns = c->now;

    struct message_round *round = &move_send(c->out, s->conn, MESSAGE_ROUND)->round;
    round->number = s->round;
    round->last = last;
    round->pages_estimate = s->round == 1 ? s->config.hello.pages : s->round_facts.left_pages;

    struct move_action *action = move_act(c->out, ACTION_SEND_ROUND);
    action->conn = s->conn;
    action->round.number = s->round;
    action->round.last = last;
}

static void stop(struct ctx *c)
{
    (void)move_act(c->out, ACTION_PAUSE_GUEST);
    enter(c, SOURCE_STOPPING);
}

static int on_reserved(struct ctx *c)
{
    struct source *s = c->s;
    memcpy(s->store, c->m->reserved.store, sizeof(s->store));
    if (s->config.hello.mode == MOVE_STOP_COPY) {
        stop(c);
        return 0;
    }
    enter(c, SOURCE_COPYING);
    begin_round(c, false);
    return 0;
}

static int on_round_sent(struct ctx *c)
{
    struct source *s = c->s;
    if (s->round_sent)
        return REFUSE;
    s->round_sent = true;
    s->round_facts = (struct policy_round){ .pages = c->e->round.pages, .bytes = c->e->round.bytes,
                                            .left_pages = c->e->round.left_pages };

    struct message_round_done *done = &move_send(c->out, s->conn, MESSAGE_ROUND_DONE)->round_done;
    done->number = s->round;
    done->pages = c->e->round.pages;
    done->bytes = c->e->round.bytes;
    if (s->state == SOURCE_DRAINING) {
        s->state_asked = true;
        move_act(c->out, ACTION_SEND_STATE)->conn = s->conn;
    }
    return 0;
}

static int on_round_ack(struct ctx *c)
{
    struct source *s = c->s;
    const struct message_round_ack *ack = &c->m->round_ack;

    if (!s->round_sent || s->round_acked || ack->number != s->round)
        return protocol_error(c, "no such round is open");
    if (ack->pages != s->round_facts.pages)
        return protocol_error(c, "not as many pages as were sent");
    s->round_acked = true;
    s->round_facts.duration_ns = c->now - s->round_began_ns;
    if (s->state != SOURCE_COPYING)
        return 0;

    struct policy_decision d = policy_decide(&s->policy, &s->round_facts);
    s->decision = d;
    (void)snprintf(s->note, sizeof(s->note), "round %u: %s, %llu pages left, %llu us to send them%s", s->round,
                   policy_why_name(d.why), (unsigned long long)s->round_facts.left_pages,
                   (unsigned long long)(d.predicted_ns / 1000),
                   d.stop && d.exceeds ? ", more than was allowed" : "");
    emit(c, s->state, s->note);
    if (d.stop)
        stop(c);
    else
        begin_round(c, false);
    return 0;
}

static int on_paused(struct ctx *c)
{
    enter(c, SOURCE_DRAINING);
    begin_round(c, true);
    return 0;
}

static int on_state_sent(struct ctx *c)
{
    struct source *s = c->s;
    if (!s->state_asked)
        return REFUSE;
    move_send(c->out, s->conn, MESSAGE_STATE_DONE)->state_done.sections = c->e->sections;
    enter(c, SOURCE_PREPARING);
    return 0;
}

/* --------------------------------------------------------------------------------- rows: the commitment */

static int on_prepared(struct ctx *c)
{
    if (!c->s->round_acked)
        return protocol_error(c, "before the last round was acknowledged");
    c->s->prepared = c->m->prepared;
    enter(c, SOURCE_RECORDING);
    write_record(c, RECORD_HANDED);
    return 0;
}

static int on_handed(struct ctx *c)
{
    if (c->s->giving_up) {
        reclaim(c);
        return 0;
    }
    enter(c, SOURCE_COMMITTING);
    send_commit(c);
    return 0;
}

static int on_hand_failed(struct ctx *c)
{
    blame(c, REASON_RECORD, c->e->why);
    if (c->e->record_unknown)
        reclaim(c);
    else
        roll_back(c);
    return 0;
}

static void target_owns(struct ctx *c)
{
    struct source *s = c->s;
    s->committed = true;
    s->reason = 0;
    s->err = (struct err){ 0 };
    retry_afresh(c);
    (void)move_act(c->out, ACTION_RELEASE);
    send_settled(c);
    enter(c, SOURCE_ACTIVATING);
}

static int on_committed(struct ctx *c)
{
    if (!same_token(c, c->m->committed.token))
        return protocol_error(c, "another move's token");
    c->s->committed_msg = c->m->committed;
    target_owns(c);
    return 0;
}

static int on_activated(struct ctx *c)
{
    if (!same_token(c, c->m->activated.token))
        return protocol_error(c, "another move's token");
    c->s->activated = c->m->activated;
    end(c, SOURCE_DONE);
    return 0;
}

/* The target holds nothing and will never run the guest: it is ours, if there is one here. */
static void target_holds_nothing(struct ctx *c, enum move_reason reason, const struct err *why)
{
    struct source *s = c->s;
    blame(c, s->recovered ? REASON_SOURCE_DIED : reason, why);
    s->target_gone = true;
    send_settled(c);
    shut(c);
    if (s->recovered)
        end(c, SOURCE_FAILED);
    else
        reclaim(c);
}

/* The target could not write its record and waits for another COMMIT. A source that has its guest takes
 * it back; one that has lost it can only ask the target to try again. */
static void target_cannot_record(struct ctx *c)
{
    struct source *s = c->s;
    struct err why;
    (void)err_set(&why, ERR_PEER, EIO, "the target cannot write its owner record");
    if (s->recovered) {
        trouble(c, REASON_RECORD, &why, true);
        return;
    }
    blame(c, REASON_RECORD, &why);
    reclaim(c);
}

static int on_status(struct ctx *c)
{
    struct source *s = c->s;
    const struct message_status *status = &c->m->status;
    struct err why;

    if (!same_token(c, status->token))
        return protocol_error(c, "another move's token");
    if (memcmp(status->store, s->store, sizeof(s->store)) != 0) {
        (void)err_set(&why, ERR_PEER, ENODEV, "who answers does not hold the records of the target moved to");
        trouble(c, REASON_OTHER_STORE, &why, false);
        return 0;
    }
    s->retry_ns = 0;

    switch ((enum move_knows)status->knows) {
    case KNOWS_NOTHING:
        (void)err_set(&why, ERR_PEER, ENOENT, "the target holds nothing of this move");
        target_holds_nothing(c, REASON_TARGET_GONE, &why);
        return 0;
    case KNOWS_HELD:
        if (s->state == SOURCE_COMMITTING) {
            target_cannot_record(c);
            return 0;
        }
        enter(c, SOURCE_COMMITTING);
        send_commit(c);
        return 0;
    case KNOWS_RECORDING:
        if (s->state != SOURCE_UNCERTAIN)
            return protocol_error(c, "was not asked");
        enter(c, SOURCE_COMMITTING);
        return 0;
    case KNOWS_COMMITTED:
        target_owns(c);
        return 0;
    case KNOWS_DIED:
        /* It may have run there, or not: no record can tell, so a person must. */
        (void)err_set(&why, ERR_PEER, ESRCH, "the target recorded that it owns the guest, then its process died");
        s->retry_ns = s->config.retry_max_ns;
        trouble(c, REASON_TARGET_DIED, &why, false);
        return 0;
    case KNOWS_MAX:
        break;
    }
    return protocol_error(c, "unknown answer");
}

static int on_recover(struct ctx *c)
{
    struct source *s = c->s;
    s->recovered = true;
    memcpy(s->store, s->config.store, sizeof(s->store));
    enter(c, SOURCE_UNCERTAIN);
    dial(c);
    return 0;
}

static int on_reconnected(struct ctx *c)
{
    struct source *s = c->s;
    s->connected = true;
    struct message_resolve *resolve = &move_send(c->out, s->conn, MESSAGE_RESOLVE)->resolve;
    memcpy(resolve->token, s->config.hello.token, sizeof(resolve->token));
    resolve->intent = s->state == SOURCE_WITHDRAWING ? INTENT_WITHDRAW : INTENT_ASK;
    return 0;
}

/* ------------------------------------------------------------------ rows: taking back and withdrawing */

static int on_reclaimed(struct ctx *c)
{
    (void)move_act(c->out, ACTION_RESUME_GUEST);
    withdraw(c);
    return 0;
}

static int on_reclaim_failed(struct ctx *c)
{
    retry_later(c);
    emit(c, c->s->state, c->e->why ? c->e->why->text : "");
    return 0;
}

static int on_withdrawn_status(struct ctx *c)
{
    struct source *s = c->s;
    struct err why;

    if (!same_token(c, c->m->status.token))
        return protocol_error(c, "another move's token");
    if (memcmp(c->m->status.store, s->store, sizeof(s->store)) != 0) {
        trouble(c, REASON_OTHER_STORE, NULL, false);
        return 0;
    }
    /* Died: as its owner, perhaps, before the guest was taken back; but it holds nothing now. */
    if (c->m->status.knows == KNOWS_NOTHING || c->m->status.knows == KNOWS_DIED) {
        s->target_gone = true;
        send_settled(c);
        shut(c);
        if (s->state == SOURCE_WITHDRAWING)
            end(c, SOURCE_FAILED);
        return 0;
    }
    if (c->m->status.knows == KNOWS_HELD)
        return protocol_error(c, "it was told to free its copy");
    s->reason = REASON_SPLIT;
    (void)err_set(&why, ERR_PEER, EEXIST, "the guest runs here, and the target was made to own it too");
    s->err = why;
    shut(c);
    if (s->state == SOURCE_WITHDRAWING)
        end(c, SOURCE_FAILED);
    return 0;
}

/* ABORT: the target holds nothing any more. */
static int on_abort(struct ctx *c)
{
    static const uint8_t none[MOVE_TOKEN_BYTES];
    struct source *s = c->s;
    const struct message_abort *abort = &c->m->abort;
    struct err why;

    bool early = s->state <= SOURCE_NEGOTIATING && memcmp(abort->token, none, sizeof(none)) == 0;
    (void)err_set(&why, ERR_PEER, ECONNABORTED, "target: %s: %s", move_reason_name(abort->reason), abort->text);
    if (s->state == SOURCE_UNCERTAIN) {
        /* Of a stranger that has our address; the target itself answers RESOLVE. */
        trouble(c, abort->reason, &why, false);
        return 0;
    }
    if (!early && !same_token(c, abort->token))
        return protocol_error(c, "another move's token");

    switch (s->state) {
    case SOURCE_PREPARING:
    case SOURCE_RECORDING:
        s->target_gone = true;
        send_settled(c);
        trouble(c, abort->reason, &why, true);
        break;
    case SOURCE_COMMITTING:
        target_holds_nothing(c, abort->reason, &why);
        break;
    case SOURCE_RECLAIMING:
    case SOURCE_WITHDRAWING:
        s->target_gone = true;
        send_settled(c);
        shut(c);
        if (s->state == SOURCE_WITHDRAWING)
            end(c, SOURCE_FAILED);
        break;
    default:
        s->target_gone = true;
        trouble(c, abort->reason, &why, true);
    }
    return 0;
}

/* Sent before the target saw our ABORT. */
static int on_crossed(struct ctx *c)
{
    (void)c;
    return 0;
}

/* ----------------------------------------------------------------------------------- rows: what goes wrong */

static int on_lost(struct ctx *c)
{
    struct source *s = c->s;
    s->conn = 0;
    s->connected = false;
    trouble(c, c->e->kind == SOURCE_CONNECT_FAILED ? REASON_CONNECT : REASON_LOST, c->e->why, false);
    return 0;
}

static int on_bad_bytes(struct ctx *c)
{
    trouble(c, REASON_BAD_BYTES, c->e->why, false);
    return 0;
}

static int on_fault(struct ctx *c)
{
    trouble(c, REASON_SOURCE, c->e->why, true);
    return 0;
}

static int on_cancel(struct ctx *c)
{
    struct err why;
    (void)err_set(&why, ERR_CALLER, ECANCELED, "cancelled");
    trouble(c, REASON_CANCELLED, &why, true);
    return 0;
}

static int on_stop_telling(struct ctx *c)
{
    end(c, SOURCE_FAILED);
    return 0;
}

static int on_take_back(struct ctx *c)
{
    struct source *s = c->s;
    if (s->recovered)
        return REFUSE;
    shut(c);
    s->reason = REASON_OPERATOR;
    (void)err_set(&s->err, ERR_CALLER, ECANCELED, "taken back by a person's decision");
    if (s->state == SOURCE_RECLAIMING)
        return on_reclaimed(c);
    reclaim(c);
    return 0;
}

static int on_forget(struct ctx *c)
{
    c->s->reason = REASON_OPERATOR;
    (void)err_set(&c->s->err, ERR_CALLER, ECANCELED, "given to the target by a person's decision");
    (void)move_act(c->out, ACTION_RELEASE);
    end(c, SOURCE_DONE);
    return 0;
}

/* ---------------------------------------------------------------------------------------------- the table */

struct row {
    uint8_t state, event;
    uint16_t message;
    int (*fn)(struct ctx *);
};

#define ON(state, event, fn) { SOURCE_##state, SOURCE_##event, 0, fn }
#define MSG(state, message, fn) { SOURCE_##state, SOURCE_MESSAGE, MESSAGE_##message, fn }
/* A connection that was made can break, bring rubbish, and carry the target's ABORT. */
#define WIRE(state) ON(state, LOST, on_lost), ON(state, BAD_BYTES, on_bad_bytes), MSG(state, ABORT, on_abort)
/* One that is made again may also fail before that. */
#define REWIRE(state) WIRE(state), ON(state, CONNECTED, on_reconnected), ON(state, CONNECT_FAILED, on_lost)

static const struct row rows[] = {
    ON(IDLE, START, on_start),
    ON(IDLE, RECOVER, on_recover),

    ON(CONNECTING, CONNECTED, on_connected),
    ON(CONNECTING, CONNECT_FAILED, on_lost),
    ON(CONNECTING, CANCEL, on_cancel),

    MSG(NEGOTIATING, VERDICT, on_verdict),
    ON(NEGOTIATING, FAULT, on_fault),
    ON(NEGOTIATING, CANCEL, on_cancel),
    WIRE(NEGOTIATING),

    MSG(RESERVING, RESERVED, on_reserved),
    ON(RESERVING, CANCEL, on_cancel),
    WIRE(RESERVING),

    ON(COPYING, ROUND_SENT, on_round_sent),
    MSG(COPYING, ROUND_ACK, on_round_ack),
    ON(COPYING, FAULT, on_fault),
    ON(COPYING, CANCEL, on_cancel),
    WIRE(COPYING),

    ON(STOPPING, PAUSED, on_paused),
    ON(STOPPING, FAULT, on_fault),
    ON(STOPPING, CANCEL, on_cancel),
    WIRE(STOPPING),

    ON(DRAINING, ROUND_SENT, on_round_sent),
    MSG(DRAINING, ROUND_ACK, on_round_ack),
    ON(DRAINING, STATE_SENT, on_state_sent),
    ON(DRAINING, FAULT, on_fault),
    ON(DRAINING, CANCEL, on_cancel),
    WIRE(DRAINING),

    MSG(PREPARING, ROUND_ACK, on_round_ack),
    MSG(PREPARING, PREPARED, on_prepared),
    ON(PREPARING, FAULT, on_fault),
    ON(PREPARING, CANCEL, on_cancel),
    WIRE(PREPARING),

    ON(RECORDING, RECORDED, on_handed),
    ON(RECORDING, RECORD_FAILED, on_hand_failed),
    WIRE(RECORDING),

    MSG(COMMITTING, COMMITTED, on_committed),
    MSG(COMMITTING, STATUS, on_status),
    WIRE(COMMITTING),

    MSG(UNCERTAIN, STATUS, on_status),
    ON(UNCERTAIN, TAKE_BACK, on_take_back),
    ON(UNCERTAIN, FORGET, on_forget),
    REWIRE(UNCERTAIN),

    MSG(ACTIVATING, ACTIVATED, on_activated),
    WIRE(ACTIVATING),

    ON(RECLAIMING, RECORDED, on_reclaimed),
    ON(RECLAIMING, RECORD_FAILED, on_reclaim_failed),
    ON(RECLAIMING, TAKE_BACK, on_take_back),
    MSG(RECLAIMING, STATUS, on_withdrawn_status),
    WIRE(RECLAIMING),

    MSG(WITHDRAWING, STATUS, on_withdrawn_status),
    MSG(WITHDRAWING, ROUND_ACK, on_crossed),
    MSG(WITHDRAWING, PREPARED, on_crossed),
    ON(WITHDRAWING, CANCEL, on_stop_telling),
    REWIRE(WITHDRAWING),
};

static const struct row *find_row(const struct ctx *c)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].state == c->s->state && rows[i].event == c->e->kind &&
            rows[i].message == (c->m ? c->m->type : 0))
            return &rows[i];
    return NULL;
}

/* ------------------------------------------------------------------------------------------------- timers */

static uint64_t stall_at(const struct source *s)
{
    bool waits = s->state >= SOURCE_CONNECTING && s->state <= SOURCE_PREPARING;
    bool talks = s->conn && s->state != SOURCE_RECORDING && !source_state_ended(s->state);
    return waits || talks ? later(s->progress_ns, s->config.stall_limit_ns) : CLOCK_NEVER;
}

static uint64_t give_up_at(const struct source *s)
{
    return s->state == SOURCE_WITHDRAWING ? s->give_up_at_ns : CLOCK_NEVER;
}

static void tick(struct ctx *c)
{
    struct source *s = c->s;

    if (c->now >= give_up_at(s)) {
        end(c, SOURCE_FAILED);
    } else if (c->now >= s->retry_at_ns) {
        s->retry_at_ns = CLOCK_NEVER;
        if (s->state == SOURCE_RECLAIMING)
            write_record(c, RECORD_HERE);
        else
            dial(c);
    } else if (c->now >= stall_at(s)) {
        struct err why;
        (void)err_set(&why, ERR_PEER, ETIMEDOUT, "no progress for %llu ms while %s",
                      (unsigned long long)(s->config.stall_limit_ns / CLOCK_MSEC), source_state_name(s->state));
        trouble(c, REASON_STALLED, &why, false);
    }
}

static void set_timer(struct ctx *c)
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

/* ---------------------------------------------------------------------------------------------------- step */

static bool on_connection(enum source_event_kind kind)
{
    return (kind >= SOURCE_CONNECTED && kind <= SOURCE_ROUND_SENT) || kind == SOURCE_STATE_SENT;
}

static bool by_person(enum source_event_kind kind)
{
    return kind >= SOURCE_CANCEL;
}

/* Late by rule (step.h): what an old connection or a given-up piece of work still reports. */
static bool is_stale(const struct ctx *c)
{
    const struct source *s = c->s;

    if (on_connection(c->e->kind))
        return c->e->conn != s->conn && c->e->conn <= s->last_conn && c->e->conn != 0;
    switch (c->e->kind) {
    case SOURCE_PAUSED: return source_state_ended(s->state);
    case SOURCE_FAULT: return s->state >= SOURCE_RECORDING;
    case SOURCE_RECORDED:
    case SOURCE_RECORD_FAILED: return s->state == SOURCE_WITHDRAWING || source_state_ended(s->state);
    default: return false;
    }
}

static int refuse(struct ctx *c)
{
    const char *state = source_state_name(c->s->state);
    struct err why;

    if (by_person(c->e->kind))
        return err_set(c->err, ERR_CALLER, EBUSY, "%s is not possible while %s",
                       source_event_name(c->e->kind), state);
    if (c->m)
        (void)err_set(&why, ERR_PEER, EPROTO, "message %s out of place while %s", message_name(c->m->type), state);
    else
        (void)err_set(&why, ERR_BUG, EPROTO, "event %s out of place while %s", source_event_name(c->e->kind), state);
    trouble(c, c->m ? REASON_PROTOCOL : REASON_BUG, &why, false);
    return fail(c, &why);
}

int source_step(struct source *source, const struct source_event *event, uint64_t now_ns,
                struct move_actions *out, struct err *err)
{
    struct ctx c = { .s = source, .e = event, .m = event->kind == SOURCE_MESSAGE ? event->message : NULL,
                     .now = now_ns, .out = out, .err = err };
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
    } else if (event->kind != SOURCE_PROGRESS || event->conn != source->conn) {
        const struct row *row = find_row(&c);
        rc = row ? row->fn(&c) : REFUSE;
        if (rc == REFUSE)
            rc = refuse(&c);
    }
    set_timer(&c);
    return rc;
}
