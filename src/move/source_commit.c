#include "move/source_impl.h"

#include <errno.h>
#include <string.h>

/* ------------------------------------------------------------------------ rows: the commitment */

int source_on_prepared(struct source_call *c)
{
    if (!c->s->round_acked)
        return source_protocol_error(c, "before the last round was acknowledged");
    c->s->prepared = c->m->prepared;
    source_enter(c, SOURCE_RECORDING);
    source_write_record(c, RECORD_HANDED);
    return 0;
}

int source_on_handed(struct source_call *c)
{
    if (c->s->giving_up) {
        source_reclaim(c);
        return 0;
    }
    source_enter(c, SOURCE_COMMITTING);
    source_send_commit(c);
    return 0;
}

int source_on_hand_failed(struct source_call *c)
{
    source_blame(c, REASON_RECORD, c->e->why);
    if (c->e->record_unknown)
        source_reclaim(c);
    else
        source_roll_back(c);
    return 0;
}

static void target_owns(struct source_call *c)
{
    struct source *s = c->s;
    s->committed = true;
    s->reason = 0;
    s->err = (struct err){ 0 };
    source_retry_afresh(c);
    (void)move_act(c->out, ACTION_RELEASE);
    source_send_settled(c);
    source_enter(c, SOURCE_ACTIVATING);
}

int source_on_committed(struct source_call *c)
{
    if (!source_same_token(c, c->m->committed.token))
        return source_protocol_error(c, "another move's token");
    c->s->committed_msg = c->m->committed;
    if (c->s->post_copy)
        source_serve(c);
    else
        target_owns(c);
    return 0;
}

int source_on_activated(struct source_call *c)
{
    if (!source_same_token(c, c->m->activated.token))
        return source_protocol_error(c, "another move's token");
    c->s->activated = c->m->activated;
    source_end(c, SOURCE_DONE);
    return 0;
}

/* The target holds nothing and will never run the guest: it is ours, if there is one here. */
static void target_holds_nothing(struct source_call *c, enum move_reason reason,
                                 const struct err *why)
{
    struct source *s = c->s;
    source_blame(c, s->recovered ? REASON_SOURCE_DIED : reason, why);
    s->target_gone = true;
    source_send_settled(c);
    source_shut(c);
    if (s->recovered)
        source_end(c, SOURCE_FAILED);
    else
        source_reclaim(c);
}

/* The target could not write its record and waits for another COMMIT. A source that has its guest
 * takes it back; one that has lost it can only ask the target to try again. */
static void target_cannot_record(struct source_call *c)
{
    struct source *s = c->s;
    struct err why;
    (void)err_set(&why, ERR_PEER, EIO,
                  "the target cannot write its owner record or lock a disk: its log says which");
    if (s->recovered) {
        source_trouble(c, REASON_RECORD, &why, true);
        return;
    }
    source_blame(c, REASON_RECORD, &why);
    source_reclaim(c);
}

int source_on_status(struct source_call *c)
{
    struct source *s = c->s;
    const struct message_status *status = &c->m->status;
    struct err why;

    if (!source_same_token(c, status->token))
        return source_protocol_error(c, "another move's token");
    if (memcmp(status->store, s->store, sizeof(s->store)) != 0) {
        (void)err_set(&why, ERR_PEER, ENODEV,
                      "who answers does not hold the records of the target moved to");
        source_trouble(c, REASON_OTHER_STORE, &why, false);
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
        source_enter(c, SOURCE_COMMITTING);
        source_send_commit(c);
        return 0;
    case KNOWS_RECORDING:
        if (s->state != SOURCE_UNCERTAIN)
            return source_protocol_error(c, "was not asked");
        source_enter(c, SOURCE_COMMITTING);
        return 0;
    case KNOWS_COMMITTED:
        target_owns(c);
        return 0;
    case KNOWS_PULLING:
        if (s->post_copy) {
            source_serve(c);
            return 0;
        }
        if (!s->recovered)
            return source_protocol_error(c, "of what it was sent");
        (void)err_set(&why, ERR_HOST, ENOMEM,
                      "this host died with memory that the guest at the target still lacks");
        source_blame(c, REASON_SOURCE_LOST, &why);
        source_end(c, SOURCE_FAILED);
        return 0;
    case KNOWS_DIED:
        /* It may have run there, or not: no record can tell, so a person must. */
        (void)err_set(&why, ERR_PEER, ESRCH,
                      "the target recorded that it owns the guest, then its process died");
        s->retry_ns = s->config.retry_max_ns;
        source_trouble(c, REASON_TARGET_DIED, &why, false);
        return 0;
    case KNOWS_MAX:
        break;
    }
    return source_protocol_error(c, "unknown answer");
}

int source_on_recover(struct source_call *c)
{
    struct source *s = c->s;
    s->recovered = true;
    memcpy(s->store, s->config.store, sizeof(s->store));
    source_enter(c, SOURCE_UNCERTAIN);
    source_dial(c);
    return 0;
}

int source_on_reconnected(struct source_call *c)
{
    struct source *s = c->s;
    s->connected = true;
    struct message_resolve *resolve = &move_send(c->out, s->conn, MESSAGE_RESOLVE)->resolve;
    memcpy(resolve->token, s->config.hello.token, sizeof(resolve->token));
    resolve->intent = s->state == SOURCE_WITHDRAWING ? INTENT_WITHDRAW
                      : s->recovered                 ? INTENT_RECOVER
                                                     : INTENT_ASK;
    return 0;
}

/* ----------------------------------------------------------- rows: taking back and withdrawing */

int source_on_reclaimed(struct source_call *c)
{
    (void)move_act(c->out, ACTION_RESUME_GUEST);
    source_withdraw(c);
    return 0;
}

int source_on_reclaim_failed(struct source_call *c)
{
    source_retry_later(c);
    source_emit(c, c->s->state, c->e->why ? c->e->why->text : "");
    return 0;
}

int source_on_withdrawn_status(struct source_call *c)
{
    struct source *s = c->s;
    struct err why;

    if (!source_same_token(c, c->m->status.token))
        return source_protocol_error(c, "another move's token");
    if (memcmp(c->m->status.store, s->store, sizeof(s->store)) != 0) {
        source_trouble(c, REASON_OTHER_STORE, NULL, false);
        return 0;
    }
    /* Died: as its owner, perhaps, before the guest was taken back; but it holds nothing now. */
    if (c->m->status.knows == KNOWS_NOTHING || c->m->status.knows == KNOWS_DIED) {
        s->target_gone = true;
        source_send_settled(c);
        source_shut(c);
        if (s->state == SOURCE_WITHDRAWING)
            source_end(c, SOURCE_FAILED);
        return 0;
    }
    if (c->m->status.knows == KNOWS_HELD)
        return source_protocol_error(c, "it was told to free its copy");
    s->reason = REASON_SPLIT;
    (void)err_set(&why, ERR_PEER, EEXIST,
                  "the guest runs here, and the target was made to own it too");
    s->err = why;
    source_shut(c);
    if (s->state == SOURCE_WITHDRAWING)
        source_end(c, SOURCE_FAILED);
    return 0;
}

/* ABORT: the target holds nothing any more. */
int source_on_abort(struct source_call *c)
{
    static const uint8_t none[MOVE_TOKEN_BYTES];
    struct source *s = c->s;
    const struct message_abort *abort = &c->m->abort;
    struct err why;

    bool early = s->state <= SOURCE_NEGOTIATING && memcmp(abort->token, none, sizeof(none)) == 0;
    (void)err_set(&why, ERR_PEER, abort->reason == REASON_VERSION ? EPROTONOSUPPORT : ECONNABORTED,
                  "target: %s: %s", move_reason_name(abort->reason), abort->text);
    if (s->state == SOURCE_UNCERTAIN || s->state == SOURCE_SERVING) {
        /* Of a stranger that has our address; the target itself answers RESOLVE. */
        source_trouble(c, abort->reason, &why, false);
        return 0;
    }
    if (!early && !source_same_token(c, abort->token))
        return source_protocol_error(c, "another move's token");

    switch (s->state) {
    case SOURCE_PREPARING:
    case SOURCE_RECORDING:
        s->target_gone = true;
        source_send_settled(c);
        source_trouble(c, abort->reason, &why, true);
        break;
    case SOURCE_COMMITTING:
        target_holds_nothing(c, abort->reason, &why);
        break;
    case SOURCE_RECLAIMING:
    case SOURCE_WITHDRAWING:
        s->target_gone = true;
        source_send_settled(c);
        source_shut(c);
        if (s->state == SOURCE_WITHDRAWING)
            source_end(c, SOURCE_FAILED);
        break;
    default:
        s->target_gone = true;
        source_trouble(c, abort->reason, &why, true);
    }
    return 0;
}

/* Sent before the target saw our ABORT. */
int source_on_crossed(struct source_call *c)
{
    (void)c;
    return 0;
}

int source_on_stop_telling(struct source_call *c)
{
    source_end(c, SOURCE_FAILED);
    return 0;
}

int source_on_take_back(struct source_call *c)
{
    struct source *s = c->s;
    if (s->recovered)
        return SOURCE_REFUSE;
    source_shut(c);
    s->reason = REASON_OPERATOR;
    (void)err_set(&s->err, ERR_CALLER, ECANCELED, "taken back by a person's decision");
    if (s->state == SOURCE_RECLAIMING)
        return source_on_reclaimed(c);
    source_reclaim(c);
    return 0;
}

int source_on_forget(struct source_call *c)
{
    c->s->reason = REASON_OPERATOR;
    (void)err_set(&c->s->err, ERR_CALLER, ECANCELED, "given to the target by a person's decision");
    (void)move_act(c->out, ACTION_RELEASE);
    source_end(c, SOURCE_DONE);
    return 0;
}
