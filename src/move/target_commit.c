#include "move/target_impl.h"

#include <errno.h>
#include <string.h>

#define RECORD_RETRY_NS (100 * CLOCK_MSEC)
#define STALL_LEAST_NS (5 * CLOCK_SECOND) /* of a source that is merely busy */
#define STALL_MOST_NS (600 * CLOCK_SECOND)

/* ------------------------------------------------------------- newcomers: any other connection */

static void take_over(struct target_call *c)
{
    if (c->t->conn != c->e->conn)
        target_shut(c);
    c->t->lane = false;
    c->t->conn = c->e->conn;
    c->t->progress_ns = c->now;
}

/* What is missing by now. The lane of the lost connection is closed: nothing comes any more that this
 * would not count. */
static void send_absent(struct target_call *c)
{
    if (c->t->post_copy)
        move_act(c->out, ACTION_SEND_ABSENT)->conn = c->t->conn;
}

/* RESOLVE with this move's token: the source has given up the old connection. */
static void resolve(struct target_call *c)
{
    struct target *t = c->t;
    const uint8_t *token = t->hello.token;
    bool recovers = c->m->resolve.intent == INTENT_RECOVER;
    /* A source without its memory has nothing to withdraw, but what is here is worth nothing either. */
    bool withdraw = c->m->resolve.intent == INTENT_WITHDRAW || (recovers && t->post_copy);

    take_over(c);
    switch (t->state) {
    case TARGET_PREPARED:
    case TARGET_UNCERTAIN:
        if (!withdraw) {
            t->reason = 0;
            if (t->state != TARGET_PREPARED)
                target_enter(c, TARGET_PREPARED);
            target_send_status(c, t->conn, token, KNOWS_HELD, 0);
            send_absent(c);
            break;
        }
        /* fall through */
    case TARGET_CHECKING:
    case TARGET_RESERVING:
    case TARGET_RESERVED:
    case TARGET_RECEIVING:
    case TARGET_LOADING:
        /* Not PREPARED: whatever it asks, it cannot have handed the guest over. */
        target_blame(c, recovers ? REASON_SOURCE_LOST : REASON_CANCELLED, NULL);
        t->withdrawn = true;
        target_discard(c);
        target_send_status(c, t->conn, token, KNOWS_NOTHING, 0);
        break;
    case TARGET_GONE:
        target_send_status(c, t->conn, token, KNOWS_NOTHING, t->reason);
        break;
    case TARGET_RECORDING:
        target_send_status(c, t->conn, token, KNOWS_RECORDING, 0);
        send_absent(c);
        break;
    case TARGET_ACTIVATING:
        target_send_status(c, t->conn, token, t->post_copy ? KNOWS_PULLING : KNOWS_COMMITTED, 0);
        send_absent(c);
        break;
    case TARGET_PULLING:
    case TARGET_STRANDED:
        target_send_status(c, t->conn, token, KNOWS_PULLING, 0);
        if (recovers) {
            target_blame(c, REASON_SOURCE_LOST, NULL);
            target_shut(c);
            target_enter(c, TARGET_STRANDED);
            break;
        }
        t->reason = 0;
        if (t->state != TARGET_PULLING)
            target_enter(c, TARGET_PULLING);
        target_send_activated(c);
        send_absent(c);
        break;
    case TARGET_ACTIVE:
        target_send_status(c, t->conn, token, KNOWS_COMMITTED, 0);
        target_send_activated(c);
        if (t->post_copy)
            target_send_pulled(c);
        break;
    case TARGET_LISTENING:
    case TARGET_STATE_MAX:
        break;
    }
}

static int turn_away(struct target_call *c, enum move_reason reason, const char *text)
{
    struct err why;
    target_send_abort(c, c->e->conn, NULL, reason, ERR_PEER, text);
    move_act(c->out, ACTION_CLOSE)->conn = c->e->conn;
    (void)err_set(&why, ERR_PEER, EBUSY, "message %s on a new connection: %s",
                  message_name(c->m->type), text);
    return target_fail(c, &why);
}

/* The source gives up first, and connects again or says so. */
static uint64_t stall_limit_for(uint64_t source_ns)
{
    uint64_t limit_ns = MIN(source_ns, STALL_MOST_NS) * 3;
    return MIN(MAX(limit_ns, STALL_LEAST_NS), STALL_MOST_NS);
}

static int hello(struct target_call *c)
{
    struct target *t = c->t;
    if (c->e->token_recorded)
        return turn_away(c, REASON_TOKEN, "this token was used before");
    t->conn = c->e->conn;
    t->hello = c->m->hello;
    if (t->hello.stall_limit_ns)
        t->config.stall_limit_ns = stall_limit_for(t->hello.stall_limit_ns);
    t->expect = EXPECT_MACHINE;
    target_enter(c, TARGET_CHECKING);
    return 0;
}

int target_newcomer(struct target_call *c)
{
    bool known = c->t->state != TARGET_LISTENING;

    if (c->m->type == MESSAGE_RESOLVE) {
        const uint8_t *token = c->m->resolve.token;
        if (known && target_same_token(c, token)) {
            resolve(c);
            return 0;
        }
        target_send_status(c, c->e->conn, token, c->e->token_recorded ? KNOWS_DIED : KNOWS_NOTHING,
                           0);
        move_act(c->out, ACTION_CLOSE)->conn = c->e->conn;
        return 0;
    }
    if (c->m->type == MESSAGE_LANE && known && target_same_token(c, c->m->lane.token) &&
        target_on_lane(c) == 0)
        return 0;
    if (c->m->type == MESSAGE_HELLO && !known)
        return hello(c);
    if (c->m->type == MESSAGE_HELLO)
        return turn_away(c, REASON_BUSY, "another move came first");
    return turn_away(c, REASON_PROTOCOL, "not a connection of this move");
}

/* ------------------------------------------------------------------------ rows: the commitment */

static void begin_record(struct target_call *c)
{
    target_enter(c, TARGET_RECORDING);
    move_act(c->out, ACTION_WRITE_RECORD)->record = RECORD_HERE;
}

int target_on_commit(struct target_call *c)
{
    if (!target_same_token(c, c->m->commit.token))
        return target_protocol_error(c, REASON_PROTOCOL, "another move's token");
    c->t->reason = 0;
    begin_record(c);
    return 0;
}

int target_on_adopt(struct target_call *c)
{
    struct err why;
    if (c->t->post_copy)
        return TARGET_REFUSE;
    (void)err_set(&why, ERR_CALLER, ECANCELED, "adopted by a person's decision");
    target_blame(c, REASON_OPERATOR, &why);
    c->t->adopting = true;
    begin_record(c);
    return 0;
}

int target_on_recorded(struct target_call *c)
{
    struct target *t = c->t;
    (void)move_act(c->out, ACTION_RUN_GUEST); /* first: downtime is running */
    t->record_ns = c->e->record_ns;
    target_enter(c, TARGET_ACTIVATING);
    if (t->conn) {
        struct message_committed *committed =
            &move_send(c->out, t->conn, MESSAGE_COMMITTED)->committed;
        memcpy(committed->token, t->hello.token, sizeof(committed->token));
        committed->record_ns = t->record_ns;
    }
    return 0;
}

/* The copy is kept: a source that died after its own record has no other. One that is alive is
 * told, and takes its guest back with ABORT. */
int target_on_record_failed(struct target_call *c)
{
    struct target *t = c->t;

    t->record_unknown |= c->e->record_unknown;
    if (t->record_unknown) {
        /* A restarted process might find it: no other answer than committed would be safe. */
        t->retry_at_ns = target_later(c->now, RECORD_RETRY_NS);
        return 0;
    }
    target_blame(c, REASON_RECORD, c->e->why);
    t->adopting = false;
    target_enter(c, t->conn ? TARGET_PREPARED : TARGET_UNCERTAIN);
    target_send_status(c, t->conn, t->hello.token, KNOWS_HELD, REASON_RECORD);
    return 0;
}

int target_on_running(struct target_call *c)
{
    struct target *t = c->t;
    t->activated = *c->e->activated;
    memcpy(t->activated.token, t->hello.token, sizeof(t->activated.token));
    t->activated.record_ns = t->record_ns;
    if (t->post_copy && !t->conn) {
        struct err why;
        (void)err_set(&why, ERR_PEER, ECONNRESET, "the connection to the source is lost");
        target_blame(c, REASON_LOST, &why);
    }
    target_enter(c, !t->post_copy ? TARGET_ACTIVE : t->conn ? TARGET_PULLING : TARGET_STRANDED);
    target_send_activated(c);
    return 0;
}

int target_on_settled(struct target_call *c)
{
    if (!target_same_token(c, c->m->settled.token))
        return target_protocol_error(c, REASON_PROTOCOL, "another move's token");
    target_end(c);
    return 0;
}

/* The source runs the guest itself. */
int target_on_abort(struct target_call *c)
{
    struct target *t = c->t;
    struct err why;

    if (!target_same_token(c, c->m->abort.token))
        return target_protocol_error(c, REASON_PROTOCOL, "another move's token");
    (void)err_set(&why, ERR_PEER, ECONNABORTED, "source: %s: %s",
                  move_reason_name(c->m->abort.reason), c->m->abort.text);
    t->withdrawn = true;
    if (t->state != TARGET_GONE) {
        target_blame(c, c->m->abort.reason, &why);
        target_discard(c);
    }
    target_send_status(c, t->conn, t->hello.token, KNOWS_NOTHING, 0);
    return 0;
}

/* COMMIT sent before the source saw our ABORT, which has answered it. */
int target_on_crossed(struct target_call *c)
{
    (void)c;
    return 0;
}
