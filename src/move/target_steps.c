#include "move/target_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

uint64_t target_later(uint64_t now, uint64_t delay_ns)
{
    return now > UINT64_MAX - delay_ns ? CLOCK_NEVER : now + delay_ns;
}

bool target_same_token(const struct target_call *c, const uint8_t token[MOVE_TOKEN_BYTES])
{
    return memcmp(token, c->t->hello.token, MOVE_TOKEN_BYTES) == 0;
}

/* ------------------------------------------------------- the small steps everything is made of */

void target_enter(struct target_call *c, enum target_state state)
{
    struct target *t = c->t;
    struct move_action *action = move_act(c->out, ACTION_EMIT);
    action->emit.from = (uint8_t)t->state;
    action->emit.to = (uint8_t)state;
    action->emit.stage = target_state_stage(state);
    action->emit.reason = t->reason;
    action->emit.text = t->reason ? t->err.text : "";
    t->state = state;
    t->progress_ns = c->now;
}

void target_blame(struct target_call *c, enum move_reason reason, const struct err *why)
{
    c->t->reason = reason;
    if (why)
        c->t->err = *why;
    else
        (void)err_set(&c->t->err, ERR_HOST, EIO, "%s", move_reason_name(reason));
    if (!c->t->err.reason)
        c->t->err.reason = move_reason_name(reason);
}

void target_shut(struct target_call *c)
{
    if (c->t->conn)
        move_act(c->out, ACTION_CLOSE)->conn = c->t->conn;
    c->t->conn = 0;
    c->t->lane = false;
}

void target_end(struct target_call *c)
{
    if (!c->t->ended)
        (void)move_act(c->out, ACTION_END);
    c->t->ended = true;
}

void target_send_abort(struct target_call *c, uint32_t conn, const uint8_t *token,
                       enum move_reason reason, enum err_fault fault, const char *text)
{
    if (!conn)
        return;
    struct message_abort *abort = &move_send(c->out, conn, MESSAGE_ABORT)->abort;
    if (token)
        memcpy(abort->token, token, sizeof(abort->token));
    abort->reason = reason;
    abort->fault = fault;
    (void)snprintf(abort->text, sizeof(abort->text), "%s", text);
}

void target_send_status(struct target_call *c, uint32_t conn, const uint8_t *token,
                        enum move_knows knows, enum move_reason reason)
{
    if (!conn)
        return;
    struct message_status *status = &move_send(c->out, conn, MESSAGE_STATUS)->status;
    memcpy(status->token, token, sizeof(status->token));
    memcpy(status->store, c->t->config.store, sizeof(status->store));
    status->knows = knows;
    status->reason = reason;
}

void target_send_activated(struct target_call *c)
{
    if (c->t->conn)
        move_send(c->out, c->t->conn, MESSAGE_ACTIVATED)->activated = c->t->activated;
}

void target_send_pulled(struct target_call *c)
{
    if (c->t->conn)
        move_send(c->out, c->t->conn, MESSAGE_PULLED)->pulled = c->t->pulled;
}

/* The guest will never run here under this token. Anything said about it after this is true for
 * good. */
void target_discard(struct target_call *c)
{
    (void)move_act(c->out, ACTION_DISCARD);
    target_enter(c, TARGET_GONE);
}

/* Frees everything and tells the source why, if there is a connection. Whoever prepared waits for
 * the source to have heard it; before that it cannot be uncertain about us. */
void target_give_up(struct target_call *c)
{
    struct target *t = c->t;
    target_discard(c);
    target_send_abort(c, t->conn, t->hello.token, t->reason, t->err.fault ? t->err.fault : ERR_HOST,
                      t->err.text);
    if (!t->prepared) {
        target_shut(c);
        target_end(c);
    }
}

/* Something failed with the connection or the source's use of it. */
void target_trouble(struct target_call *c, enum move_reason reason, const struct err *why)
{
    struct target *t = c->t;

    switch (t->state) {
    case TARGET_LISTENING:
        if (c->e->conn)
            move_act(c->out, ACTION_CLOSE)->conn = c->e->conn;
        break;
    case TARGET_CHECKING:
    case TARGET_RESERVING:
    case TARGET_RESERVED:
    case TARGET_RECEIVING:
    case TARGET_LOADING:
        target_blame(c, reason, why);
        target_give_up(c);
        break;
    case TARGET_PREPARED:
        /* The source may have handed the guest over: keep it, but do not run it. */
        target_blame(c, reason, why);
        target_shut(c);
        target_enter(c, TARGET_UNCERTAIN);
        break;
    case TARGET_PULLING:
        target_blame(c, reason, why);
        target_shut(c);
        target_enter(c, TARGET_STRANDED);
        break;
    case TARGET_GONE:
        target_shut(c);
        if (t->withdrawn)
            target_end(c);
        break;
    case TARGET_UNCERTAIN:
    case TARGET_RECORDING:
    case TARGET_ACTIVATING:
    case TARGET_STRANDED:
    case TARGET_ACTIVE:
        target_shut(c);
        break;
    case TARGET_STATE_MAX:
        break;
    }
}

int target_fail(struct target_call *c, const struct err *why)
{
    if (c->err)
        *c->err = *why;
    return -why->code;
}

int target_protocol_error(struct target_call *c, enum move_reason reason, const char *what)
{
    struct err why;
    (void)err_set(&why, ERR_PEER, EPROTO, "%s %s while %s: %s", c->m ? "message" : "event",
                  c->m ? message_name(c->m->type) : target_event_name(c->e->kind),
                  target_state_name(c->t->state), what);
    target_trouble(c, reason, &why);
    return target_fail(c, &why);
}
