/*
 * The target's pump: carries out what the engine (move/target.h) decides.
 *
 * One thread, one loop over the listening socket and at most CONNS_MAX connections. The move's connection
 * is read a section at a time; a silent or foreign newcomer cannot hold it up: it has to prove who it is
 * first, which nobody waits for (move/admit.h); then it is read only when it has sent something, with a short
 * limit; and it is dropped when it stays silent, or when another comes and there is no room for both.
 *
 * Pages go to guest memory as they come; what lanes bring is receive_lanes.c's. Device state is kept as bytes
 * until all of it is there, then decoded, checked and applied, in LOAD. What post-copy adds is in receive_pull.c.
 *
 * A guest that has arrived runs while this loop goes on answering a source that did not get the answer, until
 * the source has settled or ANSWER_LIMIT_NS have passed.
 */
#include "base/eager.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/warm.h"
#include "move/admit.h"
#include "move/dryrun.h"
#include "move/receive_impl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define NEWCOMER_READ_NS \
    CLOCK_SECOND /* for its first message, once it has begun: the move waits meanwhile */
#define LINGER_NS CLOCK_SECOND
#define EAGER_NS (CLOCK_MSEC / 2) /* how long more is looked for while the guest stands still */
#define ANSWER_LIMIT_NS (600 * CLOCK_SECOND)
#define STATE_BYTES_MAX \
    (UINT32_C(16) << 20) /* of device state: many times what the largest machine has */
#define GONE_LIMIT_NS (10 * CLOCK_SECOND)

struct queued *receive_enqueue(struct receiving *r, enum target_event_kind kind, uint32_t conn)
{
    ASSERT(r->queue_count < QUEUE_MAX);
    struct queued *q = &r->queue[(r->queue_first + r->queue_count++) % QUEUE_MAX];
    *q = (struct queued){ .event = { .kind = kind, .conn = conn } };
    return q;
}

void receive_enqueue_why(struct receiving *r, enum target_event_kind kind, uint32_t conn,
                         const struct err *why)
{
    struct queued *q = receive_enqueue(r, kind, conn);
    q->why = *why;
}

void receive_close_wire(struct receiving *r, struct wire *wire)
{
    if (r->pull && wire->conn == r->lane_conn) {
        receive_lanes_end(r);
        pull_detach(r->pull);
    }
    wire_close(wire);
}

void receive_connection_failed(struct receiving *r, struct wire *wire, int rc,
                               const struct err *err)
{
    receive_enqueue_why(r, wire_is_bad_bytes(rc) ? TARGET_BAD_BYTES : TARGET_LOST, wire->conn, err);
    if (!wire_is_bad_bytes(rc))
        receive_close_wire(r, wire); /* after a loss the engine asks for nothing more on it */
}

struct wire *receive_find(struct receiving *r, uint32_t conn)
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
    r->arrival->in_parts = r->engine.hello.mode == MOVE_POST_COPY;
    if (arrival_fit(r->arrival, true, &report, &err))
        fit_add(&report, "device", "%s", err.text);
    if (r->engine.hello.mode == MOVE_POST_COPY && uffd_check(&err))
        fit_add(&report, "host", "post-copy: %s", err.text);
    if (r->arrival->have_config) {
        const struct move_hooks *hooks = &r->env->hooks;
        r->claimed = true;
        if (hooks->identify(hooks->ctx, r->arrival->config.uuid, &err) ||
            hooks->claim(hooks->ctx, r->arrival->config.name, &err))
            fit_add(&report, "name", "%s", err.text);
    }
    dryrun_fill_verdict(&report, &r->verdict);
    struct queued *q = receive_enqueue(r, TARGET_CHECKED, 0);
    q->event.verdict = &r->verdict;
}

static void reserve(struct receiving *r)
{
    struct err err = { 0 };
    uint64_t began = clock_now_ns();
    warm_up();
    int rc = arrival_create(r->arrival, &err);
    if (!rc)
        rc = receive_lanes_begin(r, &err);
    struct queued *q = receive_enqueue(r, TARGET_RESERVED_DONE, 0);
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
    if (r->pull)
        page_sink_keep(&r->arrival->sink);
    int rc = r->pull ? pull_arm(r->pull, &err) : 0;
    if (!rc)
        rc = apply_state(r, &err);
    if (!rc && r->pull)
        rc = pull_loaded(r->pull, &err);
    if (!rc && r->pull)
        receive_lanes_push(
            r); /* they may bring something as soon as the source hears of the commitment */
    r->load_ns = clock_now_ns() - began;
    struct queued *q = receive_enqueue(r, TARGET_LOADED, 0);
    q->event.prepared.load_ns = r->load_ns;
    if (rc)
        q->why = err;
}

static void write_record(struct receiving *r, enum move_record record)
{
    struct err err = { 0 };
    bool unknown = false;
    uint64_t began = clock_now_ns();
    /* Its disks first: the source has let go of them, or never says COMMIT. */
    int rc = machine_lock_disks(r->arrival->machine, DISK_TAKE_OVER, &err);
    if (!rc)
        rc = r->env->hooks.record(r->env->hooks.ctx, record, r->engine.hello.token,
                                  r->engine.config.store, r->engine.hello.source, &unknown, &err);
    r->record_ns = clock_now_ns() - began;
    struct queued *q = receive_enqueue(r, rc ? TARGET_RECORD_FAILED : TARGET_RECORDED, 0);
    if (rc) {
        q->why = err;
        q->event.record_unknown = unknown;
    } else {
        q->event.record_ns = r->record_ns;
    }
}

/* What the arrival has cost here so far. Taken while the source writes its record: later, the guest would stand still
 * for as long as it takes, so what comes between that and its first instruction is not in it. */
static void measure(struct receiving *r)
{
    const struct wire *wire = receive_find(r, r->engine.conn);
    if (r->measured)
        return;
    r->measured = true;
    meter_span_end(r->env->meter, &r->span, wire ? wire->link.fd : -1, &r->activated.side[0]);
}

static void begin_measuring(struct receiving *r)
{
    meter_span_begin(r->env->meter, &r->span);
    r->activated = (struct message_activated){ 0 };
    r->measured = false;
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
    measure(r);
    a->record_ns = r->record_ns;
    a->resume_ns = running - began;
    a->running_wall_ns = clock_wall_ns();
    a->side_count = 1;
    a->side[0].load_ns = r->load_ns;
    a->side[0].commit_ns = r->record_ns;
    a->side[0].resume_ns = a->resume_ns;
    struct queued *q = receive_enqueue(r, TARGET_RUNNING, 0);
    q->event.activated = a;
}

static void discard(struct receiving *r)
{
    receive_lanes_end(r); /* before the memory they write to */
    if (r->pull) {
        pull_abandon(r->pull);
        pull_free(r->pull);
    }
    r->pull = NULL;
    r->lane_conn = 0;
    arrival_free(r->arrival);
    r->arrival = NULL;
    buf_free(&r->state);
    if (r->claimed)
        r->env->hooks.unclaim(r->env->hooks.ctx);
    r->claimed = false;
}

void receive_close(struct receiving *r, uint32_t conn)
{
    struct wire *wire = receive_find(r, conn);
    if (!wire)
        return;
    bool guest_waits = r->engine.conn && r->engine.conn != conn;
    if (!r->arrived) /* the peer may still be sending: let it read why before it sees a reset */
        link_linger(&wire->link, guest_waits ? LINGER_NS / 10 : LINGER_NS);
    receive_close_wire(r, wire);
}

static void emit(struct receiving *r, const struct move_action *action)
{
    enum target_state to = (enum target_state)action->emit.to;
    receive_bill_stage(r, action->emit.stage);
    if (r->pull && (to == TARGET_PULLING || to == TARGET_STRANDED))
        pull_stranded(r->pull, to == TARGET_STRANDED);
    if (r->env->machine && to == TARGET_PULLING && action->emit.from == TARGET_STRANDED)
        machine_stood_still(r->env->machine); /* before the pages come */
    if (to == TARGET_UNCERTAIN || to == TARGET_PULLING || to == TARGET_STRANDED)
        r->env->hooks.state(r->env->hooks.ctx, target_state_name(to), action->emit.text);
    if (action->emit.reason)
        (void)snprintf(r->last_failure, sizeof(r->last_failure), "%s", action->emit.text);
    log_event(LOG_INFO, "move.target", "%s -> %s%s%s",
              target_state_name((enum target_state)action->emit.from), target_state_name(to),
              action->emit.text[0] ? ": " : "", action->emit.text);
}

void receive_send(struct receiving *r, uint32_t conn, const struct message *message)
{
    struct err err = { 0 };
    struct wire *wire = receive_find(r, conn);
    int rc = wire ? wire_send_message(wire, message, &err) : 0;
    if (rc)
        receive_connection_failed(r, wire, rc, &err);
}

static void carry_out(struct receiving *r, const struct move_action *action)
{
    switch (action->kind) {
    case ACTION_SEND:
        receive_send(r, action->conn, action->message);
        break;
    case ACTION_CLOSE:
        receive_close(r, action->conn);
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
    case ACTION_TAKE_LANE:
        receive_take_lane(r, action->conn);
        break;
    case ACTION_SEND_ABSENT:
        receive_send_absent(r, action->conn);
        break;
    case ACTION_END:
        break; /* engine.ended says so */
    case ACTION_CONNECT:
    case ACTION_SEND_DESCRIPTION:
    case ACTION_SEND_ROUND:
    case ACTION_PREPARE_GUEST:
    case ACTION_THROTTLE:
    case ACTION_END_ROUND:
    case ACTION_OPEN_URGENT:
    case ACTION_PUSH:
    case ACTION_PAUSE_GUEST:
    case ACTION_SEND_STATE:
    case ACTION_RESUME_GUEST:
    case ACTION_RELEASE:
    case ACTION_KIND_MAX:
        ASSERT(!"an action of the source");
    }
}

void receive_deliver(struct receiving *r, const struct target_event *event)
{
    bool running = event->kind == TARGET_RUNNING;
    struct err err = { 0 };
    int rc = target_step(&r->engine, event, clock_now_ns(), &r->actions, &err);
    if (rc)
        log_event(LOG_WARN, "move.refused", "%s", err.text);
    for (unsigned i = 0; i < r->actions.count; i++)
        carry_out(r, &r->actions.action[i]);
    if (running && r->pull && pull_left(r->pull) == 0)
        receive_on_pull(r);
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
    receive_deliver(r, &event);
    if (!r->arrival)
        return 0; /* refused, and all is gone */
    struct target_event pages = { .kind = TARGET_PAGES_OK, .conn = wire->conn };
    pages.pages = r->arrival->sink.data_pages + r->arrival->sink.zero_pages - before;
    receive_deliver(r, &pages);
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

/* r->incoming has come. */
static int take_message(struct receiving *r, struct wire *wire, struct err *err)
{
    const struct message *message = &r->incoming;
    uint32_t conn = wire->conn;
    bool moves = conn == r->engine.conn;
    struct target_event event = { .kind = TARGET_MESSAGE, .conn = conn, .message = message };

    if (message->type == MESSAGE_LANE && message->lane.kind == LANE_BULK && !moves) {
        receive_take_bulk(r, wire);
        return 0;
    }
    if (message->type == MESSAGE_ROUND_DONE && moves && receive_hold(r, &message->round_done))
        return 0;
    if (message->type == MESSAGE_RESOLVE)
        event.token_recorded = r->env->hooks.recorded(r->env->hooks.ctx, message->resolve.token);
    else if (message->type == MESSAGE_HELLO)
        event.token_recorded = r->env->hooks.recorded(r->env->hooks.ctx, message->hello.token);
    if (message->type == MESSAGE_HELLO && r->engine.state == TARGET_LISTENING)
        begin_measuring(r);
    if (message->type == MESSAGE_ROUND_DONE && r->arrival) {
        int rc = page_sink_drain(&r->arrival->sink, err);
        if (rc)
            return rc; /* the engine would say that the round is applied */
    }
    receive_deliver(r, &event);
    if (message->type == MESSAGE_ROUND && moves)
        lanes_in_begin(&r->lanes, r->engine.round);
    return 0;
}

static void receive(struct receiving *r, struct wire *wire)
{
    struct section section;
    struct err err = { 0 };
    uint32_t conn = wire->conn;
    wire->link.until_ns = conn == r->engine.conn ? 0 : clock_now_ns() + NEWCOMER_READ_NS;
    int rc = wire_recv_head(wire, &section, &err);
    if (r->bulk_failed_ns && conn == r->engine.conn && rc) {
        receive_lanes_lost(r);
        return;
    }
    if (!rc && message_is(section.type)) {
        rc = wire_recv_message(wire, &section, &r->incoming, &err);
        wire->link.until_ns = 0; /* the answer has its own time */
        if (!rc && receive_asks_for_check(r)) {
            receive_serve_dryrun(r, wire);
            return;
        }
        if (!rc)
            rc = take_message(r, wire, &err);
    } else if (!rc && section.type == SECTION_ABSENT && r->pull && conn == r->engine.conn) {
        rc = receive_absent(r, wire, &section, &err);
    } else if (!rc && section.type == SECTION_PAGES && r->pull && conn == r->engine.conn &&
               r->engine.state == TARGET_PULLING) {
        rc = receive_pushed(r, wire, &section, &err);
    } else if (!rc && section.type == SECTION_PAGES && bulk_is_expected(r, wire)) {
        rc = receive_pages(r, wire, &section, &err);
    } else if (!rc) {
        rc = receive_section(r, wire, &section, &err);
    }
    wire = receive_find(r, conn);
    if (rc && err.fault == ERR_HOST)
        receive_enqueue_why(r, TARGET_FAULT, conn, &err);
    else if (rc == -EPROTONOSUPPORT && wire && conn != r->engine.conn)
        receive_refuse_version(r, wire, &err);
    else if (rc && rc != -ECANCELED && wire)
        receive_connection_failed(r, wire, rc, &err);
}

/* ------------------------------------------------------------------------------------------- the loop */

static int wait_ms(const struct receiving *r, uint64_t now)
{
    uint64_t until = r->timer_ns;
    for (unsigned i = 0; i < CONNS_MAX; i++)
        if (r->wire[i].conn && r->wire[i].conn != r->engine.conn)
            until = MIN(until, r->wire[i].since_ns + NEWCOMER_LIMIT_NS);
    if (r->lane_lost_ns)
        until = MIN(until, r->lane_lost_ns + LANE_GRACE_NS);
    if (r->bulk_failed_ns)
        until = MIN(until, r->bulk_failed_ns + BULK_GRACE_NS);
    if (r->engine.state == TARGET_ACTIVE)
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
        (void)receive_enqueue(r, TARGET_ADOPT, 0);
        return 0;
    case MOVE_CANCEL:
    case MOVE_DISCARD:
        if (r->engine.state != TARGET_LISTENING)
            (void)receive_enqueue(r, TARGET_CANCEL, 0);
        return 0;
    case MOVE_END_NOW:
        /* The guest has ended, or is being ended: it needs no more of its memory. */
        if (r->pull && r->arrived)
            receive_pull_ended(r);
        r->ending = true;
        return r->queue_count ? 0 : -ECANCELED;
    case MOVE_TAKE_BACK:
    case MOVE_FORGET:
    case MOVE_SWITCH:
    case MOVE_RETRY:
    case MOVE_NO_ORDER:
        break;
    }
    return 0;
}

/* What was said last must not be lost to a reset for the sake of what is not read any more. */
static int end(struct receiving *r)
{
    struct wire *wire = r->arrived ? receive_find(r, r->engine.conn) : NULL;
    if (wire && !wire->link.mid_section)
        link_linger(&wire->link, LINGER_NS);
    return -ECANCELED;
}

/* While ROUND_DONE is held back, nothing behind it is read. */
static bool is_read(const struct receiving *r, const struct wire *wire)
{
    return wire->conn && !(r->holding && wire->conn == r->engine.conn);
}

/* As far as can be told from here: its last round has begun. */
static bool guest_stands_still(const struct receiving *r)
{
    switch (r->engine.state) {
    case TARGET_RECEIVING:
        return r->engine.round_last;
    case TARGET_LOADING:
    case TARGET_PREPARED:
    case TARGET_RECORDING:
    case TARGET_ACTIVATING:
        return true;
    case TARGET_LISTENING:
    case TARGET_CHECKING:
    case TARGET_RESERVING:
    case TARGET_RESERVED:
    case TARGET_UNCERTAIN:
    case TARGET_PULLING:
    case TARGET_STRANDED:
    case TARGET_ACTIVE:
    case TARGET_GONE:
    case TARGET_STATE_MAX:
        break;
    }
    return false;
}

static int run_once(struct receiving *r)
{
    if (r->queue_count > 0) {
        struct queued q = r->queue[r->queue_first];
        r->queue_first = (r->queue_first + 1) % QUEUE_MAX;
        r->queue_count--;
        q.event.why = q.why.code ? &q.why : NULL;
        receive_deliver(r, &q.event);
        return r->ending && r->queue_count == 0 ? end(r) : 0;
    }
    struct pollfd fds[4 + CONNS_MAX] = {
        { .fd = r->env->cancel_fd, .events = POLLIN },
        { .fd = receive_has_room(r) ? r->listen_fd : -1, .events = POLLIN },
        { .fd = r->pull ? r->pull->event_fd : -1, .events = POLLIN },
        { .fd = r->lanes.sink ? r->lanes.event_fd : -1, .events = POLLIN },
    };
    uint64_t now = clock_now_ns();
    bool pending = false;
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        const struct wire *wire = &r->wire[i];
        fds[4 + i] = (struct pollfd){ .fd = is_read(r, wire) ? wire->link.fd : -1,
                                      .events = wire->phase == WIRE_OPEN ? POLLIN : wire->events };
        pending |= is_read(r, wire) && link_pending(&wire->link);
    }
    if (r->engine.state == TARGET_PREPARED)
        measure(r);
    uint64_t eager_ns = guest_stands_still(r) ? EAGER_NS : 0;
    if (eager_poll(fds, ARRAY_LEN(fds), pending ? 0 : wait_ms(r, now), eager_ns) < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents)
        return take_order(r);
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        struct wire *wire = &r->wire[i];
        if (wire->phase != WIRE_OPEN && fds[4 + i].revents)
            admit_step(wire);
        else if (is_read(r, wire) && wire->phase == WIRE_OPEN && r->queue_count == 0 &&
                 (fds[4 + i].revents || link_pending(&wire->link)))
            receive(r, wire);
    }
    if (fds[1].revents)
        receive_accept(r);
    if (fds[2].revents && r->pull && r->queue_count == 0)
        receive_on_pull(r);
    if ((fds[3].revents || r->bulk_failed_ns) && r->queue_count == 0)
        receive_look_after_lanes(r);
    now = clock_now_ns();
    receive_drop_silent(r, now);
    receive_give_up_lane(r, now);
    if (now >= r->timer_ns && r->queue_count == 0) {
        receive_lanes_progress(r);
        r->timer_ns = CLOCK_NEVER;
        (void)receive_enqueue(r, TARGET_TICK, 0);
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
        if (r->arrived && !r->lanes.pull)
            receive_lanes_end(r); /* idle since the last round; now nobody waits for it */
        if (r->engine.state == TARGET_ACTIVE && !told) {
            r->arrived_ns = clock_now_ns();
            if (!r->ending)
                r->env->hooks.arrived(r->env->hooks.ctx);
            receive_bill_end(r, BILL_OWNER_TARGET, NULL);
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

/* Fail closed: neither a listener that everyone can reach unencrypted, nor one that knows nobody. */
static int check_listener(const struct move_env *env, int listen_fd, struct err *err)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof(at);
    ASSERT(env->trust);
    if (!env->insecure)
        return 0;
    if (getsockname(listen_fd, (struct sockaddr *)&at, &len) < 0)
        return err_errno(err, ERR_HOST, errno, "the listening socket");
    return trust_check_plain(env->trust, (const struct sockaddr *)&at, err);
}

/* Of a move that did not end well, or was not let end: there is no bill any more of one that did. */
static void bill_what_is_left(struct receiving *r, const struct err *err)
{
    struct err why;
    enum bill_owner owner = r->arrived ? BILL_OWNER_TARGET
                            : r->engine.prepared && r->engine.state != TARGET_GONE
                                ? BILL_OWNER_UNCERTAIN
                                : BILL_OWNER_SOURCE;
    if (!err) {
        (void)err_set(&why, ERR_CALLER, ECANCELED, "ended while its memory was still arriving");
        err = &why;
    }
    receive_bill_end(r, owner, err);
}

int receive_run(const struct move_env *env, const struct arrival_host *host, int listen_fd,
                const uint8_t store[MOVE_STORE_BYTES], bool once, bool *ret_settled,
                struct err *err)
{
    *ret_settled = false;
    int rc = check_listener(env, listen_fd, err);
    if (rc)
        return rc;
    struct receiving *r = calloc(1, sizeof(*r));
    if (!r)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot receive");
    *r = (struct receiving){
        .env = env, .host = host, .listen_fd = listen_fd, .spent_lane = WIRE_NONE
    };
    for (unsigned i = 0; i < CONNS_MAX; i++)
        r->wire[i] = WIRE_NONE;
    do {
        rc = serve_one(r, store, err);
        *ret_settled = r->engine.ended;
        bill_what_is_left(r, rc ? err : NULL);
        if (rc) {
            log_event(LOG_WARN, "move.failed", "%s", err->text);
            discard(r);
        }
        for (unsigned i = 0; i < CONNS_MAX; i++)
            wire_close(&r->wire[i]);
        wire_close(&r->spent_lane);
    } while (rc && !once && err->code != ECANCELED);
    receive_lanes_end(r);
    page_slot_fini(&r->pushed);
    arrival_free(r->arrival);
    buf_free(&r->state);
    free(r);
    return rc;
}
