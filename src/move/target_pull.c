/* The target's engine in post-copy: the guest runs here, and its memory is on its way. */
#include "move/target_impl.h"

#include <errno.h>
#include <string.h>

/* The move's urgent lane: beside a connection that is there, and only one. 0, or TARGET_REFUSE. */
int target_on_lane(struct target_call *c)
{
    struct target *t = c->t;
    bool now = t->state >= TARGET_RESERVED && t->state <= TARGET_PULLING;
    if (c->m->lane.kind != LANE_URGENT || !now || !t->conn || t->lane)
        return TARGET_REFUSE;
    t->lane = true;
    move_send(c->out, c->e->conn, MESSAGE_LANE)->lane = c->m->lane;
    move_act(c->out, ACTION_TAKE_LANE)->conn = c->e->conn;
    return 0;
}

int target_on_pushed(struct target_call *c)
{
    if (c->e->section != SECTION_PAGES)
        return target_protocol_error(c, REASON_PROTOCOL, "section out of place");
    return 0;
}

int target_on_pulled(struct target_call *c)
{
    struct target *t = c->t;
    t->pulled = *c->e->pulled;
    memcpy(t->pulled.token, t->hello.token, sizeof(t->pulled.token));
    t->reason = 0;
    target_enter(c, TARGET_ACTIVE);
    target_send_pulled(c);
    return 0;
}

/* ABORT: the source gives up, and with it what is missing here is gone for good. */
int target_on_source_lost(struct target_call *c)
{
    struct err why;
    if (!target_same_token(c, c->m->abort.token))
        return target_protocol_error(c, REASON_PROTOCOL, "another move's token");
    (void)err_set(&why, ERR_PEER, ECONNABORTED, "source: %s", c->m->abort.text);
    target_blame(c, REASON_SOURCE_LOST, &why);
    target_shut(c);
    target_enter(c, TARGET_STRANDED);
    return 0;
}
