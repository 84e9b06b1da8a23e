/* The source's engine after the guest has begun to run at the target, which still lacks memory. */
#include "move/source_impl.h"

#include <errno.h>
#include <string.h>

/* The target owns the guest, and the source its memory. Nothing is pushed before the urgent lane is
 * open: a fault must never wait for the bulk of it. */
void source_serve(struct source_call *c)
{
    struct source *s = c->s;
    s->committed = true;
    s->reason = 0;
    s->err = (struct err){ 0 };
    source_retry_afresh(c);
    source_enter(c, SOURCE_SERVING);
    if (s->urgent)
        move_act(c->out, ACTION_PUSH)->conn = s->conn;
}

/* What the target lacks by now, on a connection that took the place of a lost one. */
int source_on_pull(struct source_call *c)
{
    struct source *s = c->s;
    if (!source_same_token(c, c->m->pull.token))
        return source_protocol_error(c, "another move's token");
    if (!s->post_copy || s->urgent)
        return source_protocol_error(c, "it has been told what is missing");
    source_retry_afresh(c);
    move_act(c->out, ACTION_OPEN_URGENT)->conn = s->conn;
    return 0;
}

int source_on_running(struct source_call *c)
{
    if (!source_same_token(c, c->m->activated.token))
        return source_protocol_error(c, "another move's token");
    c->s->activated = c->m->activated;
    return 0;
}

static void release(struct source_call *c)
{
    (void)move_act(c->out, ACTION_RELEASE);
    source_end(c, SOURCE_DONE);
}

int source_on_pulled(struct source_call *c)
{
    struct source *s = c->s;
    if (!source_same_token(c, c->m->pulled.token))
        return source_protocol_error(c, "another move's token");
    s->pulled = c->m->pulled;
    s->reason = 0;
    s->err = (struct err){ 0 };
    source_send_settled(c);
    release(c);
    return 0;
}

int source_on_serving_status(struct source_call *c)
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
    switch ((enum move_knows)status->knows) {
    case KNOWS_PULLING:
    case KNOWS_COMMITTED: /* PULL or PULLED follows */
        s->reason = 0;
        s->err = (struct err){ 0 };
        source_emit(c, s->state, "the target answers again");
        return 0;
    case KNOWS_DIED:
    case KNOWS_NOTHING: /* its record has gone the way of its process */
        (void)err_set(&why, ERR_PEER, ESRCH, "the target's process died, and the guest with it");
        source_blame(c, REASON_TARGET_DIED, &why);
        source_send_settled(c);
        release(c);
        return 0;
    case KNOWS_HELD:
    case KNOWS_RECORDING:
    case KNOWS_MAX:
        break;
    }
    return source_protocol_error(c, "it has said that it owns the guest");
}

int source_on_abandon(struct source_call *c)
{
    struct err why;
    (void)err_set(&why, ERR_CALLER, ECANCELED,
                  "the source was ended with memory that the guest still lacks");
    source_blame(c, REASON_SOURCE_LOST, &why);
    source_send_abort(c);
    release(c);
    return 0;
}

int source_on_retry(struct source_call *c)
{
    source_shut(c);
    source_retry_afresh(c);
    source_dial(c);
    return 0;
}
