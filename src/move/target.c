/*
 * The target's engine. target.h has the states, source.h the commit protocol and its proof; here is
 * how a step works.
 *
 * A message of a connection that is not the move's goes to newcomer(). Everything else is looked up in
 * `rows` by (state, event, message): what has no row, or comes in the wrong order within its state
 * (`expect`), is refused. What goes wrong ends in trouble(): up to LOADING everything is freed, since
 * the source cannot have handed the guest over; PREPARED and UNCERTAIN keep it; from RECORDING on only
 * the connection is given up.
 */
#include "move/target.h"

#include "base/clock.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RECORD_RETRY_NS (100 * CLOCK_MSEC)

enum expect {
    EXPECT_MACHINE = 1, /* CHECKING: section */
    EXPECT_CPUID,       /* CHECKING: section */
    EXPECT_CHECKED,     /* CHECKING: our own work */
    EXPECT_RESERVE,     /* RESERVING: message */
    EXPECT_RESERVED,    /* RESERVING: our own work */
    EXPECT_ROUND,       /* RESERVED, RECEIVING: message */
    EXPECT_PAGES,       /* RECEIVING: sections, or ROUND_DONE */
    EXPECT_STATE,       /* RECEIVING: sections, or STATE_DONE */
};

struct ctx {
    struct target *t;
    const struct target_event *e;
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
    return memcmp(token, c->t->hello.token, MOVE_TOKEN_BYTES) == 0;
}

/* -------------------------------------------------------------- the small steps everything is made of */

static void enter(struct ctx *c, enum target_state state)
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

static void blame(struct ctx *c, enum move_reason reason, const struct err *why)
{
    c->t->reason = reason;
    if (why)
        c->t->err = *why;
    else
        (void)err_set(&c->t->err, ERR_HOST, EIO, "%s", move_reason_name(reason));
}

static void shut(struct ctx *c)
{
    if (c->t->conn)
        move_act(c->out, ACTION_CLOSE)->conn = c->t->conn;
    c->t->conn = 0;
}

static void end(struct ctx *c)
{
    if (!c->t->ended)
        (void)move_act(c->out, ACTION_END);
    c->t->ended = true;
}

static void send_abort(struct ctx *c, uint32_t conn, const uint8_t *token, enum move_reason reason,
                       enum err_fault fault, const char *text)
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

static void send_status(struct ctx *c, uint32_t conn, const uint8_t *token, enum move_knows knows,
                        enum move_reason reason)
{
    if (!conn)
        return;
    struct message_status *status = &move_send(c->out, conn, MESSAGE_STATUS)->status;
    memcpy(status->token, token, sizeof(status->token));
    memcpy(status->store, c->t->config.store, sizeof(status->store));
    status->knows = knows;
    status->reason = reason;
}

static void send_activated(struct ctx *c)
{
    if (c->t->conn)
        move_send(c->out, c->t->conn, MESSAGE_ACTIVATED)->activated = c->t->activated;
}

/* The guest will never run here under this token. Anything said about it after this is true for good. */
static void discard(struct ctx *c)
{
    (void)move_act(c->out, ACTION_DISCARD);
    enter(c, TARGET_GONE);
}

/* Frees everything and tells the source why, if there is a connection. Whoever prepared waits for the
 * source to have heard it; before that it cannot be uncertain about us. */
static void give_up(struct ctx *c)
{
    struct target *t = c->t;
    discard(c);
    send_abort(c, t->conn, t->hello.token, t->reason, t->err.fault ? t->err.fault : ERR_HOST, t->err.text);
    if (!t->prepared) {
        shut(c);
        end(c);
    }
}

/* Something failed with the connection or the source's use of it. */
static void trouble(struct ctx *c, enum move_reason reason, const struct err *why)
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
        blame(c, reason, why);
        give_up(c);
        break;
    case TARGET_PREPARED:
        /* The source may have handed the guest over: keep it, but do not run it. */
        blame(c, reason, why);
        shut(c);
        enter(c, TARGET_UNCERTAIN);
        break;
    case TARGET_GONE:
        shut(c);
        if (t->withdrawn)
            end(c);
        break;
    case TARGET_UNCERTAIN:
    case TARGET_RECORDING:
    case TARGET_ACTIVATING:
    case TARGET_ACTIVE:
        shut(c);
        break;
    case TARGET_STATE_MAX:
        break;
    }
}

static int fail(struct ctx *c, const struct err *why)
{
    if (c->err)
        *c->err = *why;
    return -why->code;
}

static int protocol_error(struct ctx *c, enum move_reason reason, const char *what)
{
    struct err why;
    (void)err_set(&why, ERR_PEER, EPROTO, "%s %s while %s: %s", c->m ? "message" : "event",
                  c->m ? message_name(c->m->type) : target_event_name(c->e->kind),
                  target_state_name(c->t->state), what);
    trouble(c, reason, &why);
    return fail(c, &why);
}

/* ---------------------------------------------------------------------- newcomers: any other connection */

static void take_over(struct ctx *c)
{
    if (c->t->conn != c->e->conn)
        shut(c);
    c->t->conn = c->e->conn;
    c->t->progress_ns = c->now;
}

/* RESOLVE with this move's token: the source has given up the old connection. */
static void resolve(struct ctx *c)
{
    struct target *t = c->t;
    const uint8_t *token = t->hello.token;
    bool withdraw = c->m->resolve.intent == INTENT_WITHDRAW;

    take_over(c);
    switch (t->state) {
    case TARGET_PREPARED:
    case TARGET_UNCERTAIN:
        if (!withdraw) {
            t->reason = 0;
            if (t->state != TARGET_PREPARED)
                enter(c, TARGET_PREPARED);
            send_status(c, t->conn, token, KNOWS_HELD, 0);
            break;
        }
        /* fall through */
    case TARGET_CHECKING:
    case TARGET_RESERVING:
    case TARGET_RESERVED:
    case TARGET_RECEIVING:
    case TARGET_LOADING:
        /* Not PREPARED: whatever it asks, it cannot have handed the guest over. */
        blame(c, REASON_CANCELLED, NULL);
        t->withdrawn = true;
        discard(c);
        send_status(c, t->conn, token, KNOWS_NOTHING, 0);
        break;
    case TARGET_GONE:
        send_status(c, t->conn, token, KNOWS_NOTHING, t->reason);
        break;
    case TARGET_RECORDING:
        send_status(c, t->conn, token, KNOWS_RECORDING, 0);
        break;
    case TARGET_ACTIVATING:
    case TARGET_ACTIVE:
        send_status(c, t->conn, token, KNOWS_COMMITTED, 0);
        if (t->state == TARGET_ACTIVE)
            send_activated(c);
        break;
    case TARGET_LISTENING:
    case TARGET_STATE_MAX:
        break;
    }
}

static int turn_away(struct ctx *c, enum move_reason reason, const char *text)
{
    struct err why;
    send_abort(c, c->e->conn, NULL, reason, ERR_PEER, text);
    move_act(c->out, ACTION_CLOSE)->conn = c->e->conn;
    (void)err_set(&why, ERR_PEER, EBUSY, "message %s on a new connection: %s", message_name(c->m->type), text);
    return fail(c, &why);
}

static int hello(struct ctx *c)
{
    struct target *t = c->t;
    if (c->e->token_recorded)
        return turn_away(c, REASON_TOKEN, "this token was used before");
    t->conn = c->e->conn;
    t->hello = c->m->hello;
    t->expect = EXPECT_MACHINE;
    enter(c, TARGET_CHECKING);
    return 0;
}

static int newcomer(struct ctx *c)
{
    bool known = c->t->state != TARGET_LISTENING;

    if (c->m->type == MESSAGE_RESOLVE) {
        const uint8_t *token = c->m->resolve.token;
        if (known && same_token(c, token)) {
            resolve(c);
            return 0;
        }
        send_status(c, c->e->conn, token, c->e->token_recorded ? KNOWS_DIED : KNOWS_NOTHING, 0);
        move_act(c->out, ACTION_CLOSE)->conn = c->e->conn;
        return 0;
    }
    if (c->m->type == MESSAGE_HELLO && !known)
        return hello(c);
    if (c->m->type == MESSAGE_HELLO)
        return turn_away(c, REASON_BUSY, "another move came first");
    return turn_away(c, REASON_PROTOCOL, "not a connection of this move");
}

/* -------------------------------------------------------------------------- rows: up to the last section */

static int on_section(struct ctx *c)
{
    struct target *t = c->t;
    uint16_t type = c->e->section;
    bool fits = false;

    switch ((enum expect)t->expect) {
    case EXPECT_MACHINE: fits = type == SECTION_MACHINE; break;
    case EXPECT_CPUID: fits = type == SECTION_CPUID; break;
    case EXPECT_PAGES: fits = type == SECTION_PAGES; break;
    case EXPECT_STATE: fits = type >= SECTION_VM && type < SECTION_STATE_MAX; break;
    default: break;
    }
    if (!fits) {
        char what[64];
        (void)snprintf(what, sizeof(what), "section %s (%u) out of place", section_type_name(type), type);
        return protocol_error(c, REASON_PROTOCOL, what);
    }
    if (t->expect == EXPECT_MACHINE) {
        t->expect = EXPECT_CPUID;
    } else if (t->expect == EXPECT_CPUID) {
        t->expect = EXPECT_CHECKED;
        (void)move_act(c->out, ACTION_CHECK);
    } else if (t->expect == EXPECT_STATE) {
        if (t->state_sections == UINT16_MAX)
            return protocol_error(c, REASON_BAD_BYTES, "too many sections");
        t->state_sections++;
    }
    return 0;
}

static int on_checked(struct ctx *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_CHECKED)
        return REFUSE;
    move_send(c->out, t->conn, MESSAGE_VERDICT)->verdict = *c->e->verdict;
    if (c->e->verdict->ok) {
        t->expect = EXPECT_RESERVE;
        enter(c, TARGET_RESERVING);
        return 0;
    }
    struct err why;
    (void)err_set(&why, ERR_HOST, ENOTSUP, "refused: %s: %s", c->e->verdict->reason[0].fact,
                  c->e->verdict->reason[0].text);
    blame(c, REASON_REFUSED, &why);
    discard(c);
    shut(c);
    end(c);
    return 0;
}

static int on_reserve(struct ctx *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_RESERVE)
        return REFUSE;
    if (c->m->reserve.pages != t->hello.pages)
        return protocol_error(c, REASON_BAD_BYTES, "not the pages of HELLO");
    t->expect = EXPECT_RESERVED;
    (void)move_act(c->out, ACTION_RESERVE);
    return 0;
}

static int on_reserved_done(struct ctx *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_RESERVED)
        return REFUSE;
    if (c->e->why) {
        blame(c, REASON_RESERVE, c->e->why);
        give_up(c);
        return 0;
    }
    t->expect = EXPECT_ROUND;
    enter(c, TARGET_RESERVED);
    struct message_reserved *reserved = &move_send(c->out, t->conn, MESSAGE_RESERVED)->reserved;
    memcpy(reserved->store, t->config.store, sizeof(reserved->store));
    reserved->duration_ns = c->e->duration_ns;
    return 0;
}

static int on_round(struct ctx *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_ROUND)
        return REFUSE;
    if (c->m->round.number != t->round + 1)
        return protocol_error(c, REASON_PROTOCOL, "not the next round");
    t->round = c->m->round.number;
    t->round_last = c->m->round.last;
    t->round_pages = 0;
    t->expect = EXPECT_PAGES;
    if (t->state == TARGET_RESERVED)
        enter(c, TARGET_RECEIVING);
    return 0;
}

static int on_pages_ok(struct ctx *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_PAGES)
        return REFUSE;
    if (c->e->pages > t->hello.pages - t->round_pages)
        return protocol_error(c, REASON_BAD_BYTES, "more pages than the guest has");
    t->round_pages += c->e->pages;
    return 0;
}

static int on_round_done(struct ctx *c)
{
    struct target *t = c->t;
    const struct message_round_done *done = &c->m->round_done;

    if (t->expect != EXPECT_PAGES)
        return REFUSE;
    if (done->number != t->round)
        return protocol_error(c, REASON_PROTOCOL, "of another round");
    if (done->pages != t->round_pages)
        return protocol_error(c, REASON_BAD_BYTES, "not as many pages as came");
    struct message_round_ack *ack = &move_send(c->out, t->conn, MESSAGE_ROUND_ACK)->round_ack;
    ack->number = t->round;
    ack->pages = t->round_pages;
    t->expect = t->round_last ? EXPECT_STATE : EXPECT_ROUND;
    return 0;
}

static int on_state_done(struct ctx *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_STATE)
        return REFUSE;
    if (c->m->state_done.sections != t->state_sections)
        return protocol_error(c, REASON_BAD_BYTES, "not as many sections as came");
    t->expect = 0;
    enter(c, TARGET_LOADING);
    (void)move_act(c->out, ACTION_LOAD);
    return 0;
}

static int on_loaded(struct ctx *c)
{
    struct target *t = c->t;
    if (c->e->why) {
        blame(c, REASON_LOAD, c->e->why);
        give_up(c);
        return 0;
    }
    t->prepared = true;
    enter(c, TARGET_PREPARED);
    move_send(c->out, t->conn, MESSAGE_PREPARED)->prepared = c->e->prepared;
    return 0;
}

/* --------------------------------------------------------------------------------- rows: the commitment */

static void begin_record(struct ctx *c)
{
    enter(c, TARGET_RECORDING);
    move_act(c->out, ACTION_WRITE_RECORD)->record = RECORD_HERE;
}

static int on_commit(struct ctx *c)
{
    if (!same_token(c, c->m->commit.token))
        return protocol_error(c, REASON_PROTOCOL, "another move's token");
    c->t->reason = 0;
    begin_record(c);
    return 0;
}

static int on_adopt(struct ctx *c)
{
    struct err why;
    (void)err_set(&why, ERR_CALLER, ECANCELED, "adopted by a person's decision");
    blame(c, REASON_OPERATOR, &why);
    c->t->adopting = true;
    begin_record(c);
    return 0;
}

static int on_recorded(struct ctx *c)
{
    struct target *t = c->t;
    (void)move_act(c->out, ACTION_RUN_GUEST); /* first: downtime is running */
    t->record_ns = c->e->record_ns;
    enter(c, TARGET_ACTIVATING);
    if (t->conn) {
        struct message_committed *committed = &move_send(c->out, t->conn, MESSAGE_COMMITTED)->committed;
        memcpy(committed->token, t->hello.token, sizeof(committed->token));
        committed->record_ns = t->record_ns;
    }
    return 0;
}

/* The copy is kept: a source that died after its own record has no other. One that is alive is told,
 * and takes its guest back with ABORT. */
static int on_record_failed(struct ctx *c)
{
    struct target *t = c->t;

    t->record_unknown |= c->e->record_unknown;
    if (t->record_unknown) {
        /* A restarted process might find it: no other answer than committed would be safe. */
        t->retry_at_ns = later(c->now, RECORD_RETRY_NS);
        return 0;
    }
    blame(c, REASON_RECORD, c->e->why);
    t->adopting = false;
    enter(c, t->conn ? TARGET_PREPARED : TARGET_UNCERTAIN);
    send_status(c, t->conn, t->hello.token, KNOWS_HELD, REASON_RECORD);
    return 0;
}

static int on_running(struct ctx *c)
{
    struct target *t = c->t;
    t->activated = *c->e->activated;
    memcpy(t->activated.token, t->hello.token, sizeof(t->activated.token));
    t->activated.record_ns = t->record_ns;
    enter(c, TARGET_ACTIVE);
    send_activated(c);
    return 0;
}

static int on_settled(struct ctx *c)
{
    if (!same_token(c, c->m->settled.token))
        return protocol_error(c, REASON_PROTOCOL, "another move's token");
    end(c);
    return 0;
}

/* ----------------------------------------------------------------------------------- rows: what goes wrong */

/* The source runs the guest itself. */
static int on_abort(struct ctx *c)
{
    struct target *t = c->t;
    struct err why;

    if (!same_token(c, c->m->abort.token))
        return protocol_error(c, REASON_PROTOCOL, "another move's token");
    (void)err_set(&why, ERR_PEER, ECONNABORTED, "source: %s: %s", move_reason_name(c->m->abort.reason),
                  c->m->abort.text);
    t->withdrawn = true;
    if (t->state != TARGET_GONE) {
        blame(c, c->m->abort.reason, &why);
        discard(c);
    }
    send_status(c, t->conn, t->hello.token, KNOWS_NOTHING, 0);
    return 0;
}

/* COMMIT sent before the source saw our ABORT, which has answered it. */
static int on_crossed(struct ctx *c)
{
    (void)c;
    return 0;
}

static int on_lost(struct ctx *c)
{
    c->t->conn = 0;
    trouble(c, REASON_LOST, c->e->why);
    return 0;
}

static int on_bad_bytes(struct ctx *c)
{
    trouble(c, REASON_BAD_BYTES, c->e->why);
    return 0;
}

/* This host lost what it had reserved or received: nothing here can be run any more. */
static int on_fault(struct ctx *c)
{
    blame(c, REASON_RESERVE, c->e->why);
    give_up(c);
    return 0;
}

static int on_cancel(struct ctx *c)
{
    struct err why;
    (void)err_set(&why, ERR_CALLER, ECANCELED, "cancelled at the target");
    blame(c, REASON_CANCELLED, &why);
    give_up(c);
    return 0;
}

/* ---------------------------------------------------------------------------------------------- the table */

struct row {
    uint8_t state, event;
    uint16_t message;
    int (*fn)(struct ctx *);
};

#define ON(state, event, fn) { TARGET_##state, TARGET_##event, 0, fn }
#define MSG(state, message, fn) { TARGET_##state, TARGET_MESSAGE, MESSAGE_##message, fn }
#define WIRE(state) ON(state, LOST, on_lost), ON(state, BAD_BYTES, on_bad_bytes)
/* Where everything can still be thrown away. */
#define LOOSE(state)                                                                             \
    WIRE(state), MSG(state, ABORT, on_abort), ON(state, FAULT, on_fault), ON(state, CANCEL, on_cancel)

static const struct row rows[] = {
    ON(LISTENING, CANCEL, on_cancel),

    ON(CHECKING, SECTION, on_section),
    ON(CHECKING, CHECKED, on_checked),
    LOOSE(CHECKING),

    MSG(RESERVING, RESERVE, on_reserve),
    ON(RESERVING, RESERVED_DONE, on_reserved_done),
    LOOSE(RESERVING),

    MSG(RESERVED, ROUND, on_round),
    LOOSE(RESERVED),

    MSG(RECEIVING, ROUND, on_round),
    ON(RECEIVING, SECTION, on_section),
    ON(RECEIVING, PAGES_OK, on_pages_ok),
    MSG(RECEIVING, ROUND_DONE, on_round_done),
    MSG(RECEIVING, STATE_DONE, on_state_done),
    LOOSE(RECEIVING),

    ON(LOADING, LOADED, on_loaded),
    LOOSE(LOADING),

    MSG(PREPARED, COMMIT, on_commit),
    LOOSE(PREPARED),

    ON(UNCERTAIN, ADOPT, on_adopt),
    ON(UNCERTAIN, FAULT, on_fault),
    ON(UNCERTAIN, CANCEL, on_cancel),

    ON(RECORDING, RECORDED, on_recorded),
    ON(RECORDING, RECORD_FAILED, on_record_failed),
    WIRE(RECORDING),

    ON(ACTIVATING, RUNNING, on_running),
    MSG(ACTIVATING, SETTLED, on_settled),
    WIRE(ACTIVATING),

    MSG(ACTIVE, SETTLED, on_settled),
    WIRE(ACTIVE),

    MSG(GONE, SETTLED, on_settled),
    MSG(GONE, ABORT, on_abort),
    MSG(GONE, COMMIT, on_crossed),
    WIRE(GONE),
};

static const struct row *find_row(const struct ctx *c)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].state == c->t->state && rows[i].event == c->e->kind &&
            rows[i].message == (c->m ? c->m->type : 0))
            return &rows[i];
    return NULL;
}

/* ------------------------------------------------------------------------------------------------- timers */

/* Only what the source owes has a limit, not our own work. */
static uint64_t stall_at(const struct target *t)
{
    bool ours = t->expect == EXPECT_CHECKED || t->expect == EXPECT_RESERVED;
    bool waits = (t->state >= TARGET_CHECKING && t->state <= TARGET_RECEIVING && !ours) ||
                 t->state == TARGET_PREPARED;
    return waits ? later(t->progress_ns, t->config.stall_limit_ns) : CLOCK_NEVER;
}

static void tick(struct ctx *c)
{
    struct target *t = c->t;

    if (c->now >= t->retry_at_ns) {
        t->retry_at_ns = CLOCK_NEVER;
        move_act(c->out, ACTION_WRITE_RECORD)->record = RECORD_HERE;
    } else if (c->now >= stall_at(t)) {
        struct err why;
        (void)err_set(&why, ERR_PEER, ETIMEDOUT, "no progress for %llu ms while %s",
                      (unsigned long long)(t->config.stall_limit_ns / CLOCK_MSEC), target_state_name(t->state));
        trouble(c, REASON_STALLED, &why);
    }
}

static void set_timer(struct ctx *c)
{
    struct target *t = c->t;
    uint64_t next = MIN(stall_at(t), t->retry_at_ns);

    /* One that fires early is set again then: cheaper than moving it with every sign of life. */
    if (next == t->timer_ns || (next != CLOCK_NEVER && next > t->timer_ns && t->timer_ns > c->now))
        return;
    t->timer_ns = next;
    move_act(c->out, ACTION_SET_TIMER)->at_ns = next;
}

/* ---------------------------------------------------------------------------------------------------- step */

static bool on_connection(enum target_event_kind kind)
{
    return kind >= TARGET_MESSAGE && kind <= TARGET_LOST;
}

/* Late by rule (step.h): work that was since given up. */
static bool is_stale(const struct ctx *c)
{
    switch (c->e->kind) {
    case TARGET_CHECKED:
    case TARGET_RESERVED_DONE:
    case TARGET_LOADED: return c->t->state == TARGET_GONE;
    case TARGET_FAULT: return c->t->state >= TARGET_RECORDING;
    default: return false;
    }
}

static int refuse(struct ctx *c)
{
    const char *state = target_state_name(c->t->state);
    struct err why;

    if (c->e->kind >= TARGET_CANCEL)
        return err_set(c->err, ERR_CALLER, EBUSY, "%s is not possible while %s", target_event_name(c->e->kind), state);
    if (c->m || on_connection(c->e->kind))
        return protocol_error(c, REASON_PROTOCOL, "out of place");
    (void)err_set(&why, ERR_BUG, EPROTO, "event %s out of place while %s", target_event_name(c->e->kind), state);
    trouble(c, REASON_BUG, &why);
    return fail(c, &why);
}

/* Of a connection that is not the move's. */
static int stranger(struct ctx *c)
{
    struct err why;

    switch (c->e->kind) {
    case TARGET_MESSAGE:
        return newcomer(c);
    case TARGET_LOST:
    case TARGET_PROGRESS:
        c->t->stale++;
        return 0;
    default: /* bytes that must not be applied */
        move_act(c->out, ACTION_CLOSE)->conn = c->e->conn;
        (void)err_set(&why, ERR_PEER, EPROTO, "%s on a connection that is not the move's",
                      target_event_name(c->e->kind));
        return fail(c, &why);
    }
}

int target_step(struct target *target, const struct target_event *event, uint64_t now_ns,
                struct move_actions *out, struct err *err)
{
    struct ctx c = { .t = target, .e = event, .m = event->kind == TARGET_MESSAGE ? event->message : NULL,
                     .now = now_ns, .out = out, .err = err };
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
            rc = row ? row->fn(&c) : REFUSE;
            if (rc == REFUSE)
                rc = refuse(&c);
        }
    }
    set_timer(&c);
    return rc;
}
