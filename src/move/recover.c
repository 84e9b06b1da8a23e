/* The source's pump where there is no guest any more: connections, messages and a timer are all it needs. */
#include "move/recover.h"
#include "base/clock.h"
#include "base/log.h"
#include "move/source.h"
#include "move/wire.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_MAX 8

struct recovery {
    const struct recover_request *request;
    struct source engine;
    struct move_actions actions;
    struct wire wire;
    struct message incoming;
    uint64_t timer_ns;
    struct {
        struct source_event event;
        struct err why;
    } queue[EVENTS_MAX]; /* in order; few, and soon delivered */
    unsigned queued;
};

static void enqueue(struct recovery *r, enum source_event_kind kind, const struct err *why)
{
    ASSERT(r->queued < EVENTS_MAX);
    r->queue[r->queued].event = (struct source_event){ .kind = kind, .conn = r->wire.conn };
    r->queue[r->queued++].why = why ? *why : (struct err){ 0 };
}

static void connection_failed(struct recovery *r, int rc, const struct err *err)
{
    bool bad = wire_is_bad_bytes(rc);
    enqueue(r, bad ? SOURCE_BAD_BYTES : SOURCE_LOST, err);
    if (!bad)
        wire_close(&r->wire);
}

static void connect_to(struct recovery *r, uint32_t conn)
{
    const struct recover_request *request = r->request;
    struct err err = { 0 };
    wire_close(&r->wire);
    r->wire.link.stall_limit_ns = request->stall_limit_ns;
    int rc = wire_connect(&r->wire, request->trust, request->insecure, request->target, &err);
    r->wire.conn = conn;
    enqueue(r, rc ? SOURCE_CONNECT_FAILED : SOURCE_CONNECTED, rc ? &err : NULL);
}

static void send_message(struct recovery *r, const struct move_action *action)
{
    struct err err = { 0 };
    if (action->conn != r->wire.conn || r->wire.link.fd < 0)
        return;
    int rc = wire_send_message(&r->wire, action->message, &err);
    if (rc)
        connection_failed(r, rc, &err);
}

static void emit(const struct move_action *action)
{
    log_event(LOG_INFO, "move.recover", "%s -> %s%s%s",
              source_state_name((enum source_state)action->emit.from),
              source_state_name((enum source_state)action->emit.to),
              action->emit.text[0] ? ": " : "", action->emit.text);
}

static void carry_out(struct recovery *r, const struct move_action *action)
{
    switch (action->kind) {
    case ACTION_SEND:
        send_message(r, action);
        break;
    case ACTION_CLOSE:
        if (action->conn == r->wire.conn)
            wire_close(&r->wire);
        break;
    case ACTION_SET_TIMER:
        r->timer_ns = action->at_ns;
        break;
    case ACTION_EMIT:
        emit(action);
        break;
    case ACTION_CONNECT:
        connect_to(r, action->conn);
        break;
    case ACTION_RELEASE:
        break; /* there is nothing */
    default:
        ASSERT(!"an action that needs the guest");
    }
}

static void deliver(struct recovery *r, const struct source_event *event)
{
    struct err err = { 0 };
    if (source_step(&r->engine, event, clock_now_ns(), &r->actions, &err))
        log_event(LOG_WARN, "move.refused", "%s", err.text);
    for (unsigned i = 0; i < r->actions.count; i++)
        carry_out(r, &r->actions.action[i]);
}

static void receive(struct recovery *r)
{
    struct section section;
    struct err err = { 0 };
    int rc = wire_recv_head(&r->wire, &section, &err);
    if (!rc && !message_is(section.type))
        rc = err_set(&err, ERR_PEER, EBADMSG, "section %s from a target",
                     section_type_name(section.type));
    if (!rc)
        rc = wire_recv_message(&r->wire, &section, &r->incoming, &err);
    if (rc)
        connection_failed(r, rc, &err);
    else
        deliver(r, &(struct source_event){
                       .kind = SOURCE_MESSAGE, .conn = r->wire.conn, .message = &r->incoming });
}

static int wait_ms(const struct recovery *r)
{
    uint64_t now = clock_now_ns();
    if (link_pending(&r->wire.link) || r->timer_ns <= now)
        return 0;
    return (int)MIN((r->timer_ns - now) / CLOCK_MSEC + 1, UINT64_C(1000));
}

static void run_once(struct recovery *r)
{
    if (r->queued > 0) {
        struct source_event event = r->queue[0].event;
        struct err why = r->queue[0].why;
        memmove(&r->queue[0], &r->queue[1], --r->queued * sizeof(r->queue[0]));
        event.why = why.code ? &why : NULL;
        deliver(r, &event);
        return;
    }
    struct pollfd fds = { .fd = r->wire.link.fd, .events = POLLIN };
    if (poll(&fds, 1, wait_ms(r)) < 0)
        fds.revents = 0;
    if (fds.revents || link_pending(&r->wire.link)) {
        receive(r);
    } else if (clock_now_ns() >= r->timer_ns) {
        r->timer_ns = CLOCK_NEVER;
        deliver(r, &(struct source_event){ .kind = SOURCE_TICK });
    }
}

/* Asking again changes nothing, or it has been asked for long enough. A COMMIT under way is waited for. */
static bool gives_up(const struct recovery *r, uint64_t until_ns)
{
    enum move_reason reason = r->engine.reason;
    if (r->engine.state != SOURCE_UNCERTAIN || r->queued > 0 || r->wire.link.fd >= 0)
        return false;
    return reason == REASON_TARGET_DIED || reason == REASON_OTHER_STORE ||
           reason == REASON_UNTRUSTED || clock_now_ns() >= until_ns;
}

int recover_run(const struct recover_request *request, enum recover_outcome *ret, struct err *err)
{
    struct source_config config = source_config_default();
    struct recovery *r = calloc(1, sizeof(*r));
    *ret = RECOVER_OPEN;
    if (!r)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot ask the target");
    *r = (struct recovery){ .request = request, .wire = WIRE_NONE, .timer_ns = CLOCK_NEVER };
    memcpy(config.hello.token, request->token, sizeof(config.hello.token));
    memcpy(config.store, request->store, sizeof(config.store));
    config.stall_limit_ns = request->stall_limit_ns;
    source_init(&r->engine, &config);

    uint64_t until_ns = clock_now_ns() + request->limit_ns;
    enqueue(r, SOURCE_RECOVER, NULL);
    while (!source_state_ended(r->engine.state) && !gives_up(r, until_ns))
        run_once(r);
    wire_close(&r->wire);

    int rc = 0;
    if (r->engine.state == SOURCE_DONE) {
        *ret = RECOVER_MOVED;
    } else {
        *ret = r->engine.state == SOURCE_FAILED ? RECOVER_LOST : RECOVER_OPEN;
        *err = r->engine.err;
        rc =
            err->code ? -err->code : err_set(err, ERR_PEER, ETIMEDOUT, "the target did not answer");
    }
    free(r);
    return rc;
}
