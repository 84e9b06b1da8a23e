#include "move/source_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

uint64_t source_later(uint64_t now, uint64_t delay_ns)
{
    return now > UINT64_MAX - delay_ns ? CLOCK_NEVER : now + delay_ns;
}

bool source_same_token(const struct source_call *c, const uint8_t token[MOVE_TOKEN_BYTES])
{
    return memcmp(token, c->s->config.hello.token, MOVE_TOKEN_BYTES) == 0;
}

/* ------------------------------------------------------- the small steps everything is made of */

void source_emit(struct source_call *c, enum source_state from, const char *text)
{
    struct source *s = c->s;
    struct move_action *action = move_act(c->out, ACTION_EMIT);
    action->emit.from = (uint8_t)from;
    action->emit.to = (uint8_t)s->state;
    action->emit.stage = source_state_stage(s->state);
    action->emit.reason = s->reason;
    action->emit.text = text;
}

void source_enter(struct source_call *c, enum source_state state)
{
    enum source_state from = c->s->state;
    c->s->state = state;
    c->s->progress_ns = c->now;
    source_emit(c, from, c->s->reason ? c->s->err.text : "");
}

/* The reason a person will read. The first one stays: what follows from it explains less. */
void source_blame(struct source_call *c, enum move_reason reason, const struct err *why)
{
    struct source *s = c->s;
    if (s->reason && s->state != SOURCE_UNCERTAIN && s->state != SOURCE_COMMITTING &&
        s->state != SOURCE_SERVING)
        return;
    s->reason = reason;
    if (why)
        s->err = *why;
    else
        (void)err_set(&s->err, ERR_HOST, EIO, "%s", move_reason_name(reason));
    if (!s->err.reason)
        s->err.reason = move_reason_name(reason);
}

void source_shut(struct source_call *c)
{
    if (c->s->conn)
        move_act(c->out, ACTION_CLOSE)->conn = c->s->conn;
    c->s->conn = 0;
    c->s->connected = c->s->urgent = false;
}

void source_dial(struct source_call *c)
{
    struct source *s = c->s;
    s->conn = ++s->last_conn;
    s->connected = false;
    s->progress_ns = c->now;
    move_act(c->out, ACTION_CONNECT)->conn = s->conn;
}

void source_retry_later(struct source_call *c)
{
    struct source *s = c->s;
    s->retry_ns =
        s->retry_ns ? MIN(s->retry_ns * 2, s->config.retry_max_ns) : s->config.retry_first_ns;
    s->retry_at_ns = source_later(c->now, s->retry_ns);
}

void source_retry_afresh(struct source_call *c)
{
    c->s->retry_ns = 0;
    c->s->retry_at_ns = CLOCK_NEVER;
}

void source_write_record(struct source_call *c, enum move_record record)
{
    move_act(c->out, ACTION_WRITE_RECORD)->record = record;
}

void source_send_abort(struct source_call *c)
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

void source_send_settled(struct source_call *c)
{
    struct message *m = move_send(c->out, c->s->conn, MESSAGE_SETTLED);
    memcpy(m->settled.token, c->s->config.hello.token, sizeof(m->settled.token));
}

void source_send_commit(struct source_call *c)
{
    struct message *m = move_send(c->out, c->s->conn, MESSAGE_COMMIT);
    memcpy(m->commit.token, c->s->config.hello.token, sizeof(m->commit.token));
}

void source_end(struct source_call *c, enum source_state state)
{
    source_shut(c);
    source_retry_afresh(c);
    source_enter(c, state);
}

/* ---------------------------------------------------------------------- ways back to the guest */

/* The guest runs again. If the target may hold a copy, it is told to free it, on this connection or
 * on new ones. */
void source_withdraw(struct source_call *c)
{
    struct source *s = c->s;
    if (s->target_gone) {
        source_end(c, SOURCE_FAILED);
        return;
    }
    source_send_abort(c);
    source_retry_afresh(c);
    source_enter(c, SOURCE_WITHDRAWING);
    s->give_up_at_ns = source_later(c->now, s->config.withdraw_limit_ns);
    if (!s->conn)
        source_dial(c);
}

/* Rollback is possible: COMMIT was never sent and no record stands against it. */
void source_roll_back(struct source_call *c)
{
    struct source *s = c->s;
    enum source_state from = s->state;

    if (from >= SOURCE_COPYING)
        (void)move_act(c->out, ACTION_RESUME_GUEST); /* first: downtime is running */
    if (from == SOURCE_PREPARING || from == SOURCE_RECORDING) {
        source_withdraw(c);
    } else {
        source_send_abort(c);
        source_end(c, SOURCE_FAILED);
    }
}

/* Rollback is possible, but the record may say HANDED: it must say HERE before the guest runs. */
void source_reclaim(struct source_call *c)
{
    source_retry_afresh(c);
    source_enter(c, SOURCE_RECLAIMING);
    source_write_record(c, RECORD_HERE);
}

/* Something failed; `reason` was blamed. `usable`: the connection still makes sense. */
void source_trouble(struct source_call *c, enum move_reason reason, const struct err *why,
                    bool usable)
{
    struct source *s = c->s;

    source_blame(c, reason, why);
    switch (s->state) {
    case SOURCE_IDLE:
        source_end(c, SOURCE_FAILED);
        break;
    case SOURCE_CONNECTING:
    case SOURCE_NEGOTIATING:
    case SOURCE_RESERVING:
    case SOURCE_COPYING:
    case SOURCE_STOPPING:
    case SOURCE_DRAINING:
        source_roll_back(c);
        break;
    case SOURCE_PREPARING:
        if (!usable)
            source_shut(c);
        source_roll_back(c);
        break;
    case SOURCE_RECORDING:
        /* What is on disk is known only when the write has ended. */
        s->giving_up = true;
        source_shut(c);
        source_emit(c, s->state, s->err.text);
        break;
    case SOURCE_COMMITTING:
        /* No rollback: COMMIT may have been acted on. */
        source_shut(c);
        source_retry_later(c);
        source_enter(c, SOURCE_UNCERTAIN);
        break;
    case SOURCE_UNCERTAIN:
    case SOURCE_SERVING:
    case SOURCE_WITHDRAWING:
        source_shut(c);
        source_retry_later(c);
        source_emit(c, s->state, s->err.text);
        break;
    case SOURCE_ACTIVATING:
        /* The move is done; only the bill lacks the target's part. */
        source_end(c, SOURCE_DONE);
        break;
    case SOURCE_RECLAIMING:
        source_shut(c);
        break;
    case SOURCE_DONE:
    case SOURCE_FAILED:
    case SOURCE_STATE_MAX:
        break;
    }
}

int source_fail(struct source_call *c, const struct err *why)
{
    if (c->err)
        *c->err = *why;
    return -why->code;
}

int source_protocol_error(struct source_call *c, const char *what)
{
    struct err why;
    (void)err_set(&why, ERR_PEER, EPROTO, "message %s while %s: %s", message_name(c->m->type),
                  source_state_name(c->s->state), what);
    source_trouble(c, REASON_PROTOCOL, &why, false);
    return source_fail(c, &why);
}
