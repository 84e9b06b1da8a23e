/*
 * The target's engine. target.h has the states, source.h the commit protocol and its proof; here is
 * how a step works.
 *
 * A message of a connection that is not the move's goes to newcomer(). Everything else is looked up
 * in `rows` by (state, event, message): what has no row, or comes in the wrong order within its
 * state (`expect`), is refused. What goes wrong ends in trouble(): up to LOADING everything is
 * freed, since the source cannot have handed the guest over; PREPARED and UNCERTAIN keep it; from
 * RECORDING on only the connection is given up.
 */
#include "move/target_impl.h"

#include <errno.h>

/* ----------------------------------------------------------------------- rows: what goes wrong */

static int on_lost(struct target_call *c)
{
    c->t->conn = 0;
    c->t->lane = false;
    target_trouble(c, REASON_LOST, c->e->why);
    return 0;
}

static int on_bad_bytes(struct target_call *c)
{
    target_trouble(c, move_reason_of_bytes(c->e->why), c->e->why);
    return 0;
}

/* This host lost what it had reserved or received: nothing here can be run any more. */
static int on_fault(struct target_call *c)
{
    target_blame(c, REASON_RESERVE, c->e->why);
    target_give_up(c);
    return 0;
}

static int on_cancel(struct target_call *c)
{
    struct err why;
    (void)err_set(&why, ERR_CALLER, ECANCELED, "cancelled at the target");
    target_blame(c, REASON_CANCELLED, &why);
    target_give_up(c);
    return 0;
}

/* ----------------------------------------------------------------------------------- the table */

struct row {
    uint8_t state, event;
    uint16_t message;
    int (*fn)(struct target_call *);
};

#define ON(state, event, fn)                  \
    {                                         \
        TARGET_##state, TARGET_##event, 0, fn \
    }
#define MSG(state, message, fn)                               \
    {                                                         \
        TARGET_##state, TARGET_MESSAGE, MESSAGE_##message, fn \
    }
#define WIRE(state) ON(state, LOST, on_lost), ON(state, BAD_BYTES, on_bad_bytes)
/* Where everything can still be thrown away. */
#define LOOSE(state)                                                             \
    WIRE(state), MSG(state, ABORT, target_on_abort), ON(state, FAULT, on_fault), \
        ON(state, CANCEL, on_cancel)

static const struct row rows[] = {
    ON(LISTENING, CANCEL, on_cancel),

    ON(CHECKING, SECTION, target_on_section),
    ON(CHECKING, CHECKED, target_on_checked),
    LOOSE(CHECKING),

    MSG(RESERVING, RESERVE, target_on_reserve),
    ON(RESERVING, RESERVED_DONE, target_on_reserved_done),
    LOOSE(RESERVING),

    MSG(RESERVED, ROUND, target_on_round),
    LOOSE(RESERVED),

    MSG(RECEIVING, ROUND, target_on_round),
    ON(RECEIVING, SECTION, target_on_section),
    ON(RECEIVING, PAGES_OK, target_on_pages_ok),
    MSG(RECEIVING, ROUND_DONE, target_on_round_done),
    MSG(RECEIVING, STATE_DONE, target_on_state_done),
    LOOSE(RECEIVING),

    ON(LOADING, LOADED, target_on_loaded),
    LOOSE(LOADING),

    MSG(PREPARED, COMMIT, target_on_commit),
    LOOSE(PREPARED),

    ON(UNCERTAIN, ADOPT, target_on_adopt),
    ON(UNCERTAIN, FAULT, on_fault),
    ON(UNCERTAIN, CANCEL, on_cancel),

    ON(RECORDING, RECORDED, target_on_recorded),
    ON(RECORDING, RECORD_FAILED, target_on_record_failed),
    WIRE(RECORDING),

    ON(ACTIVATING, RUNNING, target_on_running),
    MSG(ACTIVATING, SETTLED, target_on_settled),
    WIRE(ACTIVATING),

    ON(PULLING, SECTION, target_on_pushed),
    ON(PULLING, PULLED, target_on_pulled),
    MSG(PULLING, ABORT, target_on_source_lost),
    WIRE(PULLING),

    ON(STRANDED, PULLED, target_on_pulled),

    MSG(ACTIVE, SETTLED, target_on_settled),
    WIRE(ACTIVE),

    MSG(GONE, SETTLED, target_on_settled),
    MSG(GONE, ABORT, target_on_abort),
    MSG(GONE, COMMIT, target_on_crossed),
    WIRE(GONE),
};

static const struct row *find_row(const struct target_call *c)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].state == c->t->state && rows[i].event == c->e->kind &&
            rows[i].message == (c->m ? c->m->type : 0))
            return &rows[i];
    return NULL;
}

/* -------------------------------------------------------------------------------------- timers */

/* Only what the source owes has a limit, not our own work. */
static uint64_t stall_at(const struct target *t)
{
    bool ours = t->expect == EXPECT_CHECKED || t->expect == EXPECT_RESERVED;
    bool waits = (t->state >= TARGET_CHECKING && t->state <= TARGET_RECEIVING && !ours) ||
                 t->state == TARGET_PREPARED || t->state == TARGET_PULLING;
    return waits ? target_later(t->progress_ns, t->config.stall_limit_ns) : CLOCK_NEVER;
}

static void tick(struct target_call *c)
{
    struct target *t = c->t;

    if (c->now >= t->retry_at_ns) {
        t->retry_at_ns = CLOCK_NEVER;
        move_act(c->out, ACTION_WRITE_RECORD)->record = RECORD_HERE;
    } else if (c->now >= stall_at(t)) {
        struct err why;
        (void)err_set(&why, ERR_PEER, ETIMEDOUT, "no progress for %llu ms while %s",
                      (unsigned long long)(t->config.stall_limit_ns / CLOCK_MSEC),
                      target_state_name(t->state));
        target_trouble(c, REASON_STALLED, &why);
    }
}

static void set_timer(struct target_call *c)
{
    struct target *t = c->t;
    uint64_t next = MIN(stall_at(t), t->retry_at_ns);

    /* One that fires early is set again then: cheaper than moving it with every sign of life. */
    if (next == t->timer_ns || (next != CLOCK_NEVER && next > t->timer_ns && t->timer_ns > c->now))
        return;
    t->timer_ns = next;
    move_act(c->out, ACTION_SET_TIMER)->at_ns = next;
}

/* ---------------------------------------------------------------------------------------- step */

static bool on_connection(enum target_event_kind kind)
{
    return kind >= TARGET_MESSAGE && kind <= TARGET_LOST;
}

/* Late by rule (step.h): work that was since given up. */
static bool is_stale(const struct target_call *c)
{
    switch (c->e->kind) {
    case TARGET_CHECKED:
    case TARGET_RESERVED_DONE:
    case TARGET_LOADED:
        return c->t->state == TARGET_GONE;
    case TARGET_FAULT:
        return c->t->state >= TARGET_RECORDING;
    default:
        return false;
    }
}

static int refuse(struct target_call *c)
{
    const char *state = target_state_name(c->t->state);
    struct err why;

    if (c->e->kind >= TARGET_CANCEL)
        return err_set(c->err, ERR_CALLER, EBUSY, "%s is not possible while %s%s",
                       target_event_name(c->e->kind), state,
                       c->t->post_copy ? ": only the source has all of the guest's memory" : "");
    if (c->m || on_connection(c->e->kind))
        return target_protocol_error(c, REASON_PROTOCOL, "out of place");
    (void)err_set(&why, ERR_BUG, EPROTO, "event %s out of place while %s",
                  target_event_name(c->e->kind), state);
    target_trouble(c, REASON_BUG, &why);
    return target_fail(c, &why);
}

/* Of a connection that is not the move's. */
static int stranger(struct target_call *c)
{
    struct err why;

    switch (c->e->kind) {
    case TARGET_MESSAGE:
        return target_newcomer(c);
    case TARGET_LOST:
    case TARGET_PROGRESS:
        c->t->stale++;
        return 0;
    default: /* bytes that must not be applied */
        move_act(c->out, ACTION_CLOSE)->conn = c->e->conn;
        (void)err_set(&why, ERR_PEER, EPROTO, "%s on a connection that is not the move's",
                      target_event_name(c->e->kind));
        return target_fail(c, &why);
    }
}

int target_step(struct target *target, const struct target_event *event, uint64_t now_ns,
                struct move_actions *out, struct err *err)
{
    struct target_call c = { .t = target,
                             .e = event,
                             .m = event->kind == TARGET_MESSAGE ? event->message : NULL,
                             .now = now_ns,
                             .out = out,
                             .err = err };
    int rc = 0;

    out->count = out->messages = 0;
    if (is_stale(&c)) {
        target->stale++;
        return 0;
    }
    if (event->kind == TARGET_TICK) {
        tick(&c);
    } else if (on_connection(event->kind) && event->conn != target->conn) {
        rc = stranger(&c);
    } else {
        if (on_connection(event->kind))
            target->progress_ns = now_ns;
        if (event->kind != TARGET_PROGRESS) {
            const struct row *row = find_row(&c);
            rc = row ? row->fn(&c) : TARGET_REFUSE;
            if (rc == TARGET_REFUSE)
                rc = refuse(&c);
        }
    }
    set_timer(&c);
    return rc;
}
