/*
 * The target's pump: carries out what the engine (move/target.h) decides.
 *
 * One thread, one loop over the listening socket and at most CONNS_MAX connections. The move's connection
 * is read a section at a time; a silent or foreign newcomer cannot hold it up, since a newcomer is read only
 * when it has sent something, with a short limit, and is dropped when it stays silent.
 *
 * Pages go to guest memory as they come: those on the move's connection by this thread, those on lanes
 * (lanes_in.h) by theirs. ROUND_DONE is held back until the lanes have written what it counts; nothing else is
 * read from the move's connection meanwhile. A lane that fails ends the move, unless the source says within
 * LANE_GRACE_NS why it hung up. Device state is kept as bytes until all of it is there,
 * then decoded, checked and applied, in LOAD.
 *
 * A guest that has arrived runs while this loop goes on answering a source that did not get the answer, until
 * the source has settled or ANSWER_LIMIT_NS have passed.
 */
#include "move/receive.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "move/dryrun.h"
#include "move/lanes_in.h"
#include "move/target.h"
#include "move/wire.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNS_MAX 8
#define QUEUE_MAX 32
#define NEWCOMER_LIMIT_NS (5 * CLOCK_SECOND)
#define NEWCOMER_READ_NS \
    CLOCK_SECOND /* for its first message, once it has begun: the move waits meanwhile */
#define LINGER_NS CLOCK_SECOND
#define ANSWER_LIMIT_NS (600 * CLOCK_SECOND)
#define STATE_BYTES_MAX \
    (UINT32_C(16) << 20) /* of device state: many times what the largest machine has */
#define LANE_GRACE_NS (CLOCK_SECOND / 2)
#define GONE_LIMIT_NS (10 * CLOCK_SECOND)

struct queued {
    struct target_event event;
    struct err why;
};

struct receiving {
    const struct move_env *env;
    const struct arrival_host *host;
    int listen_fd;
    struct target engine;
    struct move_actions actions;
    struct wire wire[CONNS_MAX];
    uint32_t last_conn;
    struct message incoming;

    struct queued queue[QUEUE_MAX];
    unsigned queue_first, queue_count;
    uint64_t timer_ns;

    struct lanes_in lanes;
    bool holding; /* ROUND_DONE, until the lanes have its pages */
    struct message_round_done held;
    uint64_t lane_sections;  /* as the engine last heard of progress */
    uint64_t lane_failed_ns; /* when one was seen to have failed; 0 = none */

    struct arrival *arrival;
    struct buf state;               /* device-state sections, heads and bodies */
    struct message_verdict verdict; /* of the check, while its event is delivered */
    struct message_activated activated;
    bool claimed, arrived;
    uint64_t load_ns, record_ns, arrived_ns;
    struct meter_span span;
    char last_failure[sizeof(((struct err *)0)->text)];
};

static struct queued *enqueue(struct receiving *r, enum target_event_kind kind, uint32_t conn)
{
    ASSERT(r->queue_count < QUEUE_MAX);
    struct queued *q = &r->queue[(r->queue_first + r->queue_count++) % QUEUE_MAX];
    *q = (struct queued){ .event = { .kind = kind, .conn = conn } };
    return q;
}

static void enqueue_why(struct receiving *r, enum target_event_kind kind, uint32_t conn,
                        const struct err *why)
{
    struct queued *q = enqueue(r, kind, conn);
    q->why = *why;
}

static void connection_failed(struct receiving *r, struct wire *wire, int rc, const struct err *err)
{
    enqueue_why(r, wire_is_bad_bytes(rc) ? TARGET_BAD_BYTES : TARGET_LOST, wire->conn, err);
    if (!wire_is_bad_bytes(rc))
        wire_close(wire); /* after a loss the engine asks for nothing more on it */
}

static struct wire *find(struct receiving *r, uint32_t conn)
{
    for (unsigned i = 0; i < CONNS_MAX; i++)
        if (conn && r->wire[i].conn == conn)
            return &r->wire[i];
    return NULL;
}

/* ------------------------------------------------------------------------------------------- actions */

static void check(struct receiving *r)
{
    struct fit_report report = { 0 };
    struct err err = { 0 };
    if (arrival_fit(r->arrival, &report, &err))
        fit_add(&report, "device", "%s", err.text);
    if (r->arrival->have_config) {
        if (r->env->hooks.claim(r->env->hooks.ctx, r->arrival->config.name, &err))
            fit_add(&report, "name", "%s", err.text);
        else
            r->claimed = true;
    }
    dryrun_fill_verdict(&report, &r->verdict);
    struct queued *q = enqueue(r, TARGET_CHECKED, 0);
    q->event.verdict = &r->verdict;
}

static void reserve(struct receiving *r)
{
    struct err err = { 0 };
    uint64_t began = clock_now_ns();
    int rc = arrival_create(r->arrival, &err);
    unsigned lanes = MIN(r->engine.hello.lanes, r->engine.config.lanes);
    if (!rc && lanes) {
        rc = lanes_in_init(&r->lanes, &r->arrival->sink, r->env->meter, lanes,
                           r->engine.config.stall_limit_ns);
        if (rc)
            (void)err_errno(&err, ERR_HOST, -rc, "cannot serve lanes");
    }
    struct queued *q = enqueue(r, TARGET_RESERVED_DONE, 0);
    q->event.duration_ns = clock_now_ns() - began;
    if (rc)
        q->why = err;
}

static int apply_state(struct receiving *r, struct err *err)
{
    struct machine *machine = r->arrival->machine;
    for (size_t at = 0; at < r->state.len;) {
        struct section section;
        int rc = section_decode(r->state.data + at, &section, err);
        if (!rc)
            rc = machine_load(machine, &section, r->state.data + at + STREAM_SECTION_BYTES,
                              &r->arrival->seen, err);
        if (rc)
            return rc;
        at += STREAM_SECTION_BYTES + section.length;
    }
    return arrival_complete(r->arrival, err);
}

static void load(struct receiving *r)
{
    struct err err = { 0 };
    uint64_t began = clock_now_ns();
    int rc = apply_state(r, &err);
    r->load_ns = clock_now_ns() - began;
    struct queued *q = enqueue(r, TARGET_LOADED, 0);
    q->event.prepared.load_ns = r->load_ns;
    if (rc)
        q->why = err;
}

static void write_record(struct receiving *r, enum move_record record)
{
    struct err err = { 0 };
    bool unknown = false;
    uint64_t began = clock_now_ns();
    int rc = r->env->hooks.record(r->env->hooks.ctx, record, r->engine.hello.token,
                                  r->engine.config.store, r->engine.hello.source, &unknown, &err);
    r->record_ns = clock_now_ns() - began;
    struct queued *q = enqueue(r, rc ? TARGET_RECORD_FAILED : TARGET_RECORDED, 0);
    if (rc) {
        q->why = err;
        q->event.record_unknown = unknown;
    } else {
        q->event.record_ns = r->record_ns;
    }
}

static void run_guest(struct receiving *r)
{
    uint64_t began = clock_now_ns();
    struct machine *machine = arrival_take(r->arrival);
    r->env->hooks.adopt(r->env->hooks.ctx, machine);
    if (!r->engine.hello.paused)
        r->env->hooks.resume(r->env->hooks.ctx);
    uint64_t running = clock_now_ns();
    machine_announce(machine);
    r->arrived = true;
    r->arrived_ns = running;

    struct message_activated *a = &r->activated;
    const struct wire *wire = find(r, r->engine.conn);
    *a = (struct message_activated){ .record_ns = r->record_ns,
                                     .resume_ns = running - began,
                                     .running_wall_ns = clock_wall_ns(),
                                     .side_count = 1 };
    meter_span_end(r->env->meter, &r->span, wire ? wire->link.fd : -1, &a->side[0]);
    a->side[0].load_ns = r->load_ns;
    a->side[0].commit_ns = r->record_ns;
    a->side[0].resume_ns = a->resume_ns;
    struct queued *q = enqueue(r, TARGET_RUNNING, 0);
    q->event.activated = a;
}

static void discard(struct receiving *r)
{
    lanes_in_fini(&r->lanes); /* before the memory they write to */
    r->holding = false;
    r->lane_failed_ns = 0;
    arrival_free(r->arrival);
    r->arrival = NULL;
    buf_free(&r->state);
    if (r->claimed)
        r->env->hooks.unclaim(r->env->hooks.ctx);
    r->claimed = false;
}

static void close_conn(struct receiving *r, uint32_t conn)
{
    struct wire *wire = find(r, conn);
    if (!wire)
        return;
    bool guest_waits = r->engine.conn && r->engine.conn != conn;
    if (!r->arrived) /* the peer may still be sending: let it read why before it sees a reset */
        link_linger(&wire->link, guest_waits ? LINGER_NS / 10 : LINGER_NS);
    wire_close(wire);
}

static void emit(struct receiving *r, const struct move_action *action)
{
    enum target_state to = (enum target_state)action->emit.to;
    if (to == TARGET_UNCERTAIN)
        r->env->hooks.state(r->env->hooks.ctx, target_state_name(to), action->emit.text);
    if (action->emit.reason)
        (void)snprintf(r->last_failure, sizeof(r->last_failure), "%s", action->emit.text);
    log_event(LOG_INFO, "move.target", "%s -> %s%s%s",
              target_state_name((enum target_state)action->emit.from), target_state_name(to),
              action->emit.text[0] ? ": " : "", action->emit.text);
}

static void send_message(struct receiving *r, uint32_t conn, const struct message *message)
{
    struct err err = { 0 };
    struct wire *wire = find(r, conn);
    int rc = wire ? wire_send_message(wire, message, &err) : 0;
    if (rc)
        connection_failed(r, wire, rc, &err);
}

static void carry_out(struct receiving *r, const struct move_action *action)
{
    switch (action->kind) {
    case ACTION_SEND:
        send_message(r, action->conn, action->message);
        break;
    case ACTION_CLOSE:
        close_conn(r, action->conn);
        break;
    case ACTION_WRITE_RECORD:
        write_record(r, action->record);
        break;
    case ACTION_SET_TIMER:
        r->timer_ns = action->at_ns;
        break;
    case ACTION_EMIT:
        emit(r, action);
        break;
    case ACTION_CHECK:
        check(r);
        break;
    case ACTION_RESERVE:
        reserve(r);
        break;
    case ACTION_LOAD:
        load(r);
        break;
    case ACTION_RUN_GUEST:
        run_guest(r);
        break;
    case ACTION_DISCARD:
        discard(r);
        break;
    case ACTION_END:
        break; /* engine.ended says so */
    case ACTION_CONNECT:
    case ACTION_SEND_DESCRIPTION:
    case ACTION_SEND_ROUND:
    case ACTION_THROTTLE:
    case ACTION_PAUSE_GUEST:
    case ACTION_SEND_STATE:
    case ACTION_RESUME_GUEST:
    case ACTION_RELEASE:
    case ACTION_KIND_MAX:
        ASSERT(!"an action of the source");
    }
}

static void deliver(struct receiving *r, const struct target_event *event)
{
    struct err err = { 0 };
    int rc = target_step(&r->engine, event, clock_now_ns(), &r->actions, &err);
    if (rc)
        log_event(LOG_WARN, "move.refused", "%s", err.text);
    for (unsigned i = 0; i < r->actions.count; i++)
        carry_out(r, &r->actions.action[i]);
}

/* ------------------------------------------------------------------------------------------- lanes */

static int admit_lane(const struct receiving *r, const struct message_lane *lane, struct err *err)
{
    static const char *const none = "no move here waits for lanes";
    if (r->engine.state != TARGET_RESERVED && r->engine.state != TARGET_RECEIVING)
        return err_set(err, ERR_PEER, ENOENT, "%s", none);
    if (memcmp(lane->token, r->engine.hello.token, sizeof(lane->token)) != 0)
        return err_set(err, ERR_PEER, EPERM, "a lane with another move's token");
    return lanes_in_admit(&r->lanes, lane, err);
}

/* A newcomer says that it is a lane: it is one of the move, or told why not and closed. */
static void take_lane(struct receiving *r, struct wire *wire)
{
    struct err err = { 0 };
    uint32_t conn = wire->conn;
    if (admit_lane(r, &r->incoming.lane, &err)) {
        struct message abort = { .type = MESSAGE_ABORT,
                                 .abort = { .reason = REASON_PROTOCOL, .fault = ERR_PEER } };
        (void)snprintf(abort.abort.text, sizeof(abort.abort.text), "%s", err.text);
        log_event(LOG_WARN, "move.lane", "refused: %s", err.text);
        send_message(r, conn, &abort);
        close_conn(r, conn);
    } else if (lanes_in_take(&r->lanes, wire, r->incoming.lane.index, &err)) {
        enqueue_why(r, TARGET_FAULT, r->engine.conn, &err);
    }
}

/* The round the held ROUND_DONE ends is whole: let the engine have it. */
static void release(struct receiving *r, uint64_t lane_pages)
{
    struct err err = { 0 };
    struct message message = { .type = MESSAGE_ROUND_DONE, .round_done = r->held };
    struct target_event pages = { .kind = TARGET_PAGES_OK,
                                  .conn = r->engine.conn,
                                  .pages = lane_pages };
    struct target_event done = { .kind = TARGET_MESSAGE,
                                 .conn = r->engine.conn,
                                 .message = &message };
    r->holding = false;
    int rc = page_sink_drain(&r->arrival->sink, &err);
    if (rc) {
        enqueue_why(r, TARGET_FAULT, r->engine.conn, &err);
        return;
    }
    if (r->engine.round_last)
        lanes_in_last(&r->lanes);
    if (lane_pages)
        deliver(r, &pages);
    deliver(r, &done);
}

/* A lane was lost, and that is the end of the move. */
static void lane_lost(struct receiving *r)
{
    struct err err = { 0 };
    struct wire *wire = find(r, r->engine.conn);
    (void)lanes_in_failed(&r->lanes, &err);
    r->lane_failed_ns = 0;
    enqueue_why(r, TARGET_LOST, wire->conn, &err);
    wire_close(wire);
}

static void lane_failed(struct receiving *r, const struct err *err)
{
    struct wire *wire = find(r, r->engine.conn);
    bool settled = r->engine.state != TARGET_RESERVED && r->engine.state != TARGET_RECEIVING;
    r->holding = false; /* it can never be released; an ABORT behind it can be read */
    if (settled || !wire)
        return;
    if (err->fault == ERR_HOST) {
        enqueue_why(r, TARGET_FAULT, wire->conn, err);
    } else if (wire_is_bad_bytes(-err->code)) {
        enqueue_why(r, TARGET_BAD_BYTES, wire->conn, err);
    } else if (!r->lane_failed_ns) {
        r->lane_failed_ns = clock_now_ns();
    } else if (clock_now_ns() - r->lane_failed_ns >= LANE_GRACE_NS) {
        lane_lost(r);
    }
}

/* Whether ROUND_DONE must wait for lanes. What the engine will refuse anyway need not. */
static bool lanes_owe(const struct receiving *r, const struct message_round_done *done)
{
    return r->lanes.sink && r->lanes.open && done->number == r->engine.round &&
           done->pages <= r->engine.hello.pages;
}

/* Called whenever the lanes may have news. */
static void look_after_lanes(struct receiving *r)
{
    struct err err = { 0 };
    eventfd_t count;
    uint64_t pages, here = r->engine.round_pages;
    if (!r->lanes.sink)
        return;
    (void)eventfd_read(r->lanes.event_fd, &count);
    if (lanes_in_failed(&r->lanes, &err))
        lane_failed(r, &err);
    else if (r->holding &&
             lanes_in_complete(&r->lanes, r->held.pages - MIN(here, r->held.pages), &pages))
        release(r, pages);
}

/* The engine's limit for silence is about all connections of the move together. */
static void tell_progress(struct receiving *r)
{
    uint64_t sections = r->lanes.sink ? r->lanes.sections : 0;
    if (sections != r->lane_sections && r->engine.conn)
        (void)enqueue(r, TARGET_PROGRESS, r->engine.conn);
    r->lane_sections = sections;
}

/* ------------------------------------------------------------------------------------------- receiving */

static bool bulk_is_expected(const struct receiving *r, const struct wire *wire)
{
    return wire->conn == r->engine.conn && r->arrival && r->arrival->machine &&
           r->engine.state == TARGET_RECEIVING;
}

static int receive_pages(struct receiving *r, struct wire *wire, const struct section *section,
                         struct err *err)
{
    uint64_t before = r->arrival->sink.data_pages + r->arrival->sink.zero_pages;
    int rc = page_sink_recv(&r->arrival->sink, &wire->link, section, err);
    if (rc)
        return rc;
    struct target_event event = { .kind = TARGET_SECTION,
                                  .conn = wire->conn,
                                  .section = section->type };
    deliver(r, &event);
    if (!r->arrival)
        return 0; /* refused, and all is gone */
    struct target_event pages = { .kind = TARGET_PAGES_OK, .conn = wire->conn };
    pages.pages = r->arrival->sink.data_pages + r->arrival->sink.zero_pages - before;
    deliver(r, &pages);
    return 0;
}

/* A section of the machine, other than pages: taken whole, offered to the engine, then kept or applied. */
static int receive_section(struct receiving *r, struct wire *wire, const struct section *section,
                           struct err *err)
{
    if (wire->conn != r->engine.conn)
        return err_set(err, ERR_PEER, EBADMSG, "section %s on a connection that is not the move's",
                       section_type_name(section->type));
    if (section->length + STREAM_SECTION_BYTES > STATE_BYTES_MAX - r->state.len)
        return err_set(err, ERR_PEER, EBADMSG, "more than %u MiB of device state",
                       STATE_BYTES_MAX >> 20);
    CLEANUP_FREE uint8_t *body = malloc(section->length + 1u);
    if (!body)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot receive section %s",
                         section_type_name(section->type));
    int rc = link_recv_body(&wire->link, section, body, err);
    if (rc)
        return rc;
    struct target_event event = { .kind = TARGET_SECTION,
                                  .conn = wire->conn,
                                  .section = section->type };
    rc = target_step(&r->engine, &event, clock_now_ns(), &r->actions, err);
    if (!rc && section->type != SECTION_PAGES) {
        if (section->type == SECTION_MACHINE || section->type == SECTION_CPUID) {
            if (!r->arrival)
                r->arrival = arrival_new(r->host);
            rc = r->arrival ? arrival_facts(r->arrival, section, body, err) : -ENOMEM;
            if (rc)
                return rc; /* instead of the actions */
        } else {
            uint8_t head[STREAM_SECTION_BYTES];
            section_encode(section, head);
            buf_put(&r->state, head, sizeof(head));
            buf_put(&r->state, body, section->length);
            if (buf_status(&r->state))
                return err_errno(err, ERR_HOST, ENOMEM, "cannot keep the device state");
        }
    } else if (rc) {
        log_event(LOG_WARN, "move.refused", "%s", err->text);
    }
    for (unsigned i = 0; i < r->actions.count; i++)
        carry_out(r, &r->actions.action[i]);
    return 0;
}

/* The engine says the round is applied: be sure. */
static int drain(struct receiving *r, struct err *err)
{
    return r->arrival ? page_sink_drain(&r->arrival->sink, err) : 0;
}

/* Only a receiver with nothing to do answers at once; another says that it is busy, as to any newcomer. */
static bool asks_for_check(const struct receiving *r)
{
    return r->incoming.type == MESSAGE_HELLO && r->incoming.hello.check &&
           r->engine.state == TARGET_LISTENING;
}

/* The engine never hears of it: nothing is begun that it could have to end. */
static void serve_dryrun(struct receiving *r, struct wire *wire)
{
    struct err err = { 0 };
    if (dryrun_serve(r->env, r->host, wire, &err))
        log_event(LOG_WARN, "move.check", "%s", err.text);
    wire_close(wire);
}

static void receive(struct receiving *r, struct wire *wire)
{
    struct section section;
    struct err err = { 0 };
    uint32_t conn = wire->conn;
    wire->link.until_ns = conn == r->engine.conn ? 0 : clock_now_ns() + NEWCOMER_READ_NS;
    int rc = wire_recv_head(wire, &section, &err);
    if (r->lane_failed_ns && conn == r->engine.conn && (rc || section.type != MESSAGE_ABORT)) {
        lane_lost(r);
        return;
    }
    if (!rc && message_is(section.type)) {
        rc = wire_recv_message(wire, &section, &r->incoming, &err);
        wire->link.until_ns = 0; /* the answer has its own time */
        if (!rc && asks_for_check(r)) {
            serve_dryrun(r, wire);
            return;
        }
        if (!rc && r->incoming.type == MESSAGE_LANE && conn != r->engine.conn) {
            take_lane(r, wire);
        } else if (!rc && r->incoming.type == MESSAGE_ROUND_DONE && conn == r->engine.conn &&
                   lanes_owe(r, &r->incoming.round_done)) {
            r->held = r->incoming.round_done;
            r->holding = true;
            look_after_lanes(r);
        } else if (!rc) {
            struct target_event event = { .kind = TARGET_MESSAGE,
                                          .conn = conn,
                                          .message = &r->incoming };
            if (r->incoming.type == MESSAGE_RESOLVE)
                event.token_recorded =
                    r->env->hooks.recorded(r->env->hooks.ctx, r->incoming.resolve.token);
            else if (r->incoming.type == MESSAGE_HELLO)
                event.token_recorded =
                    r->env->hooks.recorded(r->env->hooks.ctx, r->incoming.hello.token);
            if (r->incoming.type == MESSAGE_HELLO && r->engine.state == TARGET_LISTENING)
                meter_span_begin(r->env->meter, &r->span);
            if (r->incoming.type == MESSAGE_ROUND_DONE)
                rc = drain(r, &err);
            if (!rc)
                deliver(r, &event);
            if (!rc && r->incoming.type == MESSAGE_ROUND && conn == r->engine.conn)
                lanes_in_begin(&r->lanes, r->engine.round);
        }
    } else if (!rc && section.type == SECTION_PAGES && bulk_is_expected(r, wire)) {
        rc = receive_pages(r, wire, &section, &err);
    } else if (!rc) {
        rc = receive_section(r, wire, &section, &err);
    }
    wire = find(r, conn);
    if (rc && err.fault == ERR_HOST)
        enqueue_why(r, TARGET_FAULT, conn, &err);
    else if (rc && rc != -ECANCELED && wire)
        connection_failed(r, wire, rc, &err);
}

/* ------------------------------------------------------------------------------------------- the loop */

static void accept_one(struct receiving *r)
{
    struct err err;
    CLEANUP_FD int fd = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct wire *free_wire = NULL;
    for (unsigned i = 0; i < CONNS_MAX && !free_wire; i++)
        if (r->wire[i].conn == 0)
            free_wire = &r->wire[i];
    if (fd < 0 || !free_wire)
        return;
    *free_wire =
        (struct wire){ .link = LINK_NONE, .conn = ++r->last_conn, .since_ns = clock_now_ns() };
    free_wire->link.cancel_fd = r->env->cancel_fd;
    free_wire->link.stall_limit_ns = r->engine.config.stall_limit_ns;
    if (link_adopt(&free_wire->link, TAKE_FD(fd), &err))
        free_wire->conn = 0;
}

static bool has_room(const struct receiving *r)
{
    for (unsigned i = 0; i < CONNS_MAX; i++)
        if (r->wire[i].conn == 0)
            return true;
    return false;
}

static void drop_silent(struct receiving *r, uint64_t now)
{
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        struct wire *wire = &r->wire[i];
        if (wire->conn && wire->conn != r->engine.conn &&
            now - wire->since_ns > NEWCOMER_LIMIT_NS) {
            log_event(LOG_WARN, "move.silent", "a connection that said nothing was closed");
            wire_close(wire);
        }
    }
}

static int wait_ms(const struct receiving *r, uint64_t now)
{
    uint64_t until = r->timer_ns;
    if (r->lane_failed_ns)
        until = MIN(until, r->lane_failed_ns + LANE_GRACE_NS);
    for (unsigned i = 0; i < CONNS_MAX; i++)
        if (r->wire[i].conn && r->wire[i].conn != r->engine.conn)
            until = MIN(until, r->wire[i].since_ns + NEWCOMER_LIMIT_NS);
    if (r->arrived)
        until = MIN(until, r->arrived_ns + ANSWER_LIMIT_NS);
    else if (r->engine.state == TARGET_GONE)
        until = MIN(until, now + CLOCK_SECOND);
    if (until == CLOCK_NEVER)
        return -1;
    return until <= now ? 0 : (int)MIN((until - now) / CLOCK_MSEC + 1, UINT64_C(60000));
}

/* 0; -ECANCELED: told to end. */
static int take_order(struct receiving *r)
{
    eventfd_t count;
    (void)eventfd_read(r->env->cancel_fd, &count);
    switch (r->env->hooks.order(r->env->hooks.ctx)) {
    case MOVE_ADOPT:
        (void)enqueue(r, TARGET_ADOPT, 0);
        return 0;
    case MOVE_CANCEL:
    case MOVE_DISCARD:
        if (r->engine.state != TARGET_LISTENING)
            (void)enqueue(r, TARGET_CANCEL, 0);
        return 0;
    case MOVE_END_NOW:
        return -ECANCELED;
    case MOVE_TAKE_BACK:
    case MOVE_FORGET:
    case MOVE_NO_ORDER:
        break;
    }
    return 0;
}

static int run_once(struct receiving *r)
{
    if (r->queue_count > 0) {
        struct queued q = r->queue[r->queue_first];
        r->queue_first = (r->queue_first + 1) % QUEUE_MAX;
        r->queue_count--;
        q.event.why = q.why.code ? &q.why : NULL;
        deliver(r, &q.event);
        return 0;
    }
    /* With no room for one more, newcomers wait in the queue of the listening socket. */
    struct pollfd fds[3 + CONNS_MAX] = {
        { .fd = r->env->cancel_fd, .events = POLLIN },
        { .fd = has_room(r) ? r->listen_fd : -1, .events = POLLIN },
        { .fd = r->lanes.sink ? r->lanes.event_fd : -1, .events = POLLIN },
    };
    uint64_t now = clock_now_ns();
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        const struct wire *wire = &r->wire[i];
        bool quiet = !wire->conn || (r->holding && wire->conn == r->engine.conn);
        fds[3 + i] = (struct pollfd){ .fd = quiet ? -1 : wire->link.fd, .events = POLLIN };
    }
    if (poll(fds, ARRAY_LEN(fds), wait_ms(r, now)) < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents)
        return take_order(r);
    for (unsigned i = 0; i < CONNS_MAX; i++)
        if (fds[3 + i].revents && r->queue_count == 0)
            receive(r, &r->wire[i]);
    if (fds[1].revents)
        accept_one(r);
    now = clock_now_ns();
    drop_silent(r, now);
    if ((fds[2].revents || r->lane_failed_ns) && r->queue_count == 0)
        look_after_lanes(r);
    if (now >= r->timer_ns && r->queue_count == 0)
        tell_progress(r);
    if (now >= r->timer_ns && r->queue_count == 0) {
        r->timer_ns = CLOCK_NEVER;
        (void)enqueue(r, TARGET_TICK, 0);
    }
    return 0;
}

/* Serves until one move has ended. 0: a guest arrived (and its source knows, or had its time). */
static int serve_one(struct receiving *r, const uint8_t store[MOVE_STORE_BYTES], struct err *err)
{
    struct target_config config = { .stall_limit_ns = 30 * CLOCK_SECOND,
                                    .lanes = MOVE_LANES_MAX,
                                    .page_forms = PAGE_FORMS_ALL };
    memcpy(config.store, store, MOVE_STORE_BYTES);
    target_init(&r->engine, &config);
    r->timer_ns = CLOCK_NEVER;
    bool told = false;
    uint64_t gone_ns = 0;

    for (;;) {
        int rc = run_once(r);
        if (rc && r->arrived)
            return 0; /* the guest runs, whatever becomes of who answers for it */
        if (rc)
            return err_set(err, ERR_CALLER, -rc, "told to end");
        if (r->queue_count > 0)
            continue;
        if (r->engine.state == TARGET_ACTIVE && !told) {
            r->env->hooks.arrived(r->env->hooks.ctx);
            lanes_in_fini(&r->lanes); /* idle since the last round; now nobody waits for it */
            told = true;
        }
        if (r->engine.state == TARGET_ACTIVE &&
            (r->engine.ended || clock_now_ns() - r->arrived_ns > ANSWER_LIMIT_NS))
            return 0;
        /* A source that may be uncertain about us is given a while to ask before there is nobody to answer. */
        if (r->engine.state == TARGET_GONE && !gone_ns)
            gone_ns = clock_now_ns();
        bool asked =
            r->engine.ended || !r->engine.prepared || clock_now_ns() - gone_ns > GONE_LIMIT_NS;
        if (r->engine.state == TARGET_GONE && asked) {
            *err = r->engine.err;
            return err->code ? -err->code
                             : err_set(err, ERR_PEER, ECANCELED, "%s", r->last_failure);
        }
    }
}

int receive_run(const struct move_env *env, const struct arrival_host *host, int listen_fd,
                const uint8_t store[MOVE_STORE_BYTES], bool once, bool *ret_settled,
                struct err *err)
{
    struct receiving *r = calloc(1, sizeof(*r));
    if (!r)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot receive");
    *r = (struct receiving){ .env = env, .host = host, .listen_fd = listen_fd };
    for (unsigned i = 0; i < CONNS_MAX; i++)
        r->wire[i] = WIRE_NONE;
    int rc;
    do {
        rc = serve_one(r, store, err);
        *ret_settled = r->engine.ended;
        if (rc) {
            log_event(LOG_WARN, "move.failed", "%s", err->text);
            discard(r);
        }
        for (unsigned i = 0; i < CONNS_MAX; i++)
            wire_close(&r->wire[i]);
    } while (rc && !once && err->code != ECANCELED);
    lanes_in_fini(&r->lanes);
    arrival_free(r->arrival);
    buf_free(&r->state);
    free(r);
    return rc;
}
