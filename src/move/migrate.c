/*
 * The source's pump: carries out what the engine (move/source.h) decides, with sockets, the guest and the
 * owner record, and reports back what came of it. It decides nothing itself.
 *
 * One thread, one loop: deliver queued events; else wait for the connection, an order of a person, the engine's
 * timer, or the round under way (migrate_round.c). A send that blocks is interrupted by an order (link.h), after
 * which that connection can only be closed.
 *
 * What post-copy adds is in migrate_serve.c.
 *
 * The bill is filled as things happen. Downtime parts are on this clock; what the target says it needed
 * (load, commit, resume) is carved out of the time spent waiting for it.
 */
#include "base/eager.h"
#include "base/log.h"
#include "base/warm.h"
#include "move/migrate_impl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#define EAGER_NS \
    (CLOCK_MSEC / 2) /* how long an answer is looked for while the guest stands still */
#define PAUSE_VCPU_NS (CLOCK_MSEC / 20) /* saving and loading one, in the pause */

/* ------------------------------------------------------------------------------------------- events */

struct migrate_queued *migrate_enqueue(struct migration *m, enum source_event_kind kind)
{
    ASSERT(m->queue_count < MIGRATE_QUEUE_MAX);
    struct migrate_queued *q = &m->queue[(m->queue_first + m->queue_count++) % MIGRATE_QUEUE_MAX];
    *q = (struct migrate_queued){ .event = { .kind = kind, .conn = m->wire.conn } };
    return q;
}

void migrate_enqueue_why(struct migration *m, enum source_event_kind kind, const struct err *why)
{
    struct migrate_queued *q = migrate_enqueue(m, kind);
    q->why = *why;
}

void migrate_close_wire(struct migration *m)
{
    struct tls_facts facts;
    migrate_push_end(m);
    m->gone_bytes += m->wire.link.fd >= 0 ? m->wire.link.sent_bytes : 0;
    if (m->serve) {
        serve_close(m->serve);
        bill_wire(m->bill, m->serve->wire_sent_bytes, m->serve->wire_received_bytes);
        m->serve->wire_sent_bytes = m->serve->wire_received_bytes = 0;
    }
    if (link_facts(&m->wire.link, &facts))
        bill_wire(m->bill, facts.sent_bytes, facts.received_bytes);
    wire_close(&m->wire);
}

void migrate_connection_failed(struct migration *m, int rc, const struct err *err)
{
    m->sender = SENDER_NONE;
    m->pushing = false;
    if (rc == -ECANCELED)
        return; /* the order is still to be read, and ends this better than a loss would */
    /* A lane that failed first knows better why. */
    migrate_enqueue_why(m, wire_is_bad_bytes(rc) ? SOURCE_BAD_BYTES : SOURCE_LOST,
                        m->lane_failed_ns ? &m->lane_err : err);
    if (!wire_is_bad_bytes(rc))
        migrate_close_wire(m); /* after a loss the engine asks for nothing more on it */
}

void migrate_host_failed(struct migration *m, const struct err *err)
{
    m->sender = SENDER_NONE;
    migrate_enqueue_why(m, SOURCE_FAULT, err);
}

/* Ends the span the bill is about: at the end of the move's first connection, while the kernel still knows
 * what it cost, or at the end of the move. */
static void measure(struct migration *m)
{
    if (!m->measured)
        meter_span_end(m->env->meter, &m->span, m->wire.link.fd, &m->here);
    m->measured = true;
}

/* ------------------------------------------------------------------------------------ actions: sending */

/* A target that refuses what it is told at first says why and closes. To whoever is still sending that looks like a
 * lost connection, but what came before its end can still be read: then *err says it. */
static void hear_last_words(struct migration *m, int rc, struct err *err)
{
    struct section section;
    struct err none;
    if (m->engine.state != SOURCE_NEGOTIATING || (rc != -EPIPE && rc != -ECONNRESET))
        return;
    if (wire_recv_head(&m->wire, &section, &none) || section.type != MESSAGE_ABORT ||
        wire_recv_message(&m->wire, &section, &m->incoming, &none))
        return;
    const struct message_abort *abort = &m->incoming.abort;
    (void)err_set(err, ERR_PEER, abort->reason == REASON_VERSION ? EPROTONOSUPPORT : ECONNABORTED,
                  "target: %s: %s", move_reason_name(abort->reason), abort->text);
    err->reason = move_reason_name(abort->reason);
}

void migrate_send_bytes(struct migration *m, const void *bytes, size_t len,
                        enum bill_bytes_kind kind)
{
    struct err err;
    int rc = wire_send(&m->wire, bytes, len, &err);
    if (!rc) {
        bill_bytes(m->bill, kind, len);
        return;
    }
    hear_last_words(m, rc, &err);
    migrate_connection_failed(m, rc, &err);
}

static void send_message(struct migration *m, uint32_t conn, const struct message *message)
{
    struct err err;
    if (conn != m->wire.conn || m->wire.link.mid_section)
        return;
    uint64_t before = m->wire.link.sent_bytes;
    int rc = wire_send_message(&m->wire, message, &err);
    bill_bytes(m->bill, BILL_BYTES_PROTOCOL, m->wire.link.sent_bytes - before);
    if (!rc)
        return;
    hear_last_words(m, rc, &err);
    migrate_connection_failed(m, rc, &err);
}

static void send_description(struct migration *m)
{
    CLEANUP_BUF struct buf out = { 0 };
    section_put(&out, SECTION_MACHINE, 0, 0, &machine_config_schema, &m->env->machine->config);
    section_put(&out, SECTION_CPUID, 0, 0, &hv_cpuid_schema, &m->env->machine->cpuid);
    if (out.broken) {
        struct err err;
        (void)err_errno(&err, ERR_HOST, ENOMEM, "cannot describe the machine");
        migrate_host_failed(m, &err);
        return;
    }
    migrate_send_bytes(m, out.data, out.len, BILL_BYTES_PROTOCOL);
}

/* --------------------------------------------------------------------- actions: guest, record, connection */

static void prepare_guest(struct migration *m, bool slow)
{
    struct bill_agent agent = { 0 };
    m->prepared = true;
    m->env->hooks.prepare(m->env->hooks.ctx, slow, &agent);
    bill_agent(m->bill, &agent);
    (void)migrate_enqueue(m, SOURCE_GUEST_PREPARED);
}

static void throttle(struct migration *m, uint32_t run_permille)
{
    int rc = slowing_set(&m->slowing, run_permille);
    if (rc) /* the policy will see that it did not help */
        log_event(LOG_WARN, "move.throttle", "cannot slow the guest: %s", strerror(-rc));
}

static void pause_guest(struct migration *m)
{
    struct err err;
    migrate_end_throttle(m); /* before the pause is paid for */
    bill_downtime(m->bill, BILL_PAUSE, clock_now_ns());
    if (m->env->hooks.pause(m->env->hooks.ctx, &err)) {
        bill_downtime_end(m->bill, clock_now_ns());
        migrate_host_failed(m, &err);
        return;
    }
    m->paused = true;
    if (machine_writes_disks(m->env->machine)) {
        bill_downtime(m->bill, BILL_DISK_SYNC, clock_now_ns());
        if (machine_sync_disks(m->env->machine, &err)) {
            migrate_host_failed(m, &err);
            return;
        }
    }
    (void)migrate_enqueue(m, SOURCE_PAUSED);
}

static void resume_guest(struct migration *m)
{
    struct err err;
    if (m->serve)
        serve_close(m->serve);
    if (m->paused) {
        bill_downtime(m->bill, BILL_RESUME, clock_now_ns());
        /* A target that gave up may not have closed them yet; strangers are kept out all the same. */
        if (machine_lock_disks(m->env->machine, DISK_TAKE_OVER, &err))
            log_event(LOG_WARN, "move.disk", "%s", err.text);
        m->env->hooks.resume(m->env->hooks.ctx);
        bill_downtime_end(m->bill, clock_now_ns());
    }
    m->paused = false;
    migrate_round_stop(m);
    if (m->prepared)
        m->env->hooks.unprepare(m->env->hooks.ctx);
    m->prepared = false;
}

static void send_state(struct migration *m)
{
    CLEANUP_BUF struct buf out = { 0 };
    struct err err = { 0 };
    bill_downtime(m->bill, BILL_DEVICE_STATE, clock_now_ns());
    if (machine_save(m->env->machine, &out, &err)) {
        migrate_host_failed(m, &err);
        return;
    }
    unsigned queued = m->queue_count;
    migrate_send_bytes(m, out.data, out.len, BILL_BYTES_DEVICE_STATE);
    bill_downtime(m->bill, BILL_TRANSFER, clock_now_ns());
    if (m->queue_count == queued && !m->wire.link.mid_section) {
        struct migrate_queued *q = migrate_enqueue(m, SOURCE_STATE_SENT);
        q->event.sections = 1 + m->env->machine->vcpus.count + m->env->machine->dev_count;
    }
}

static void write_record(struct migration *m, enum move_record record)
{
    struct err err = { 0 };
    bool unknown = false;
    if (m->paused)
        bill_downtime(m->bill, BILL_COMMIT, clock_now_ns());
    int rc = m->env->hooks.record(m->env->hooks.ctx, record, m->engine.config.hello.token,
                                  m->engine.store, m->target, &unknown, &err);
    if (m->paused)
        bill_downtime(m->bill, BILL_TRANSFER, clock_now_ns());
    if (!rc) {
        if (record == RECORD_HANDED && machine_lock_disks(m->env->machine, DISK_HAND_OVER, &err))
            log_event(LOG_WARN, "move.disk", "%s", err.text); /* the target will refuse */
        (void)migrate_enqueue(m, SOURCE_RECORDED);
        return;
    }
    struct migrate_queued *q = migrate_enqueue(m, SOURCE_RECORD_FAILED);
    q->why = err;
    q->event.record_unknown = unknown;
}

static void connected(struct migration *m)
{
    struct bill_link link = { .encrypted = false };
    struct tls_facts facts;
    if (link_facts(&m->wire.link, &facts)) {
        link = (struct bill_link){ .encrypted = true,
                                   .handshake_ns = facts.handshake_ns,
                                   .kernel_sends = facts.kernel_sends,
                                   .kernel_receives = facts.kernel_receives };
        (void)snprintf(link.cipher, sizeof(link.cipher), "%s", facts.cipher);
        fingerprint_text(&facts.peer, link.peer);
        log_event(LOG_INFO, "move.peer", "%s, %s%s", link.peer, link.cipher,
                  link.kernel_sends ? ", encrypted by the kernel" : "");
    } else {
        log_event(LOG_WARN, "move.insecure",
                  "NOT ENCRYPTED, and the target has not proved who it is: --insecure");
    }
    bill_link(m->bill, &link);
    (void)migrate_enqueue(m, SOURCE_CONNECTED);
}

static void connect_to(struct migration *m, uint32_t conn)
{
    struct err err = { 0 };
    migrate_close_wire(m);
    if (m->serve)
        serve_told_again(m->serve);
    m->wire.link.cancel_fd = m->env->cancel_fd;
    m->wire.link.stall_limit_ns = m->request->stall_limit_ns;
    int rc = wire_connect(&m->wire, m->env->trust, m->env->insecure, m->target, &err);
    m->wire.conn = conn;
    m->wire.since_ns = clock_now_ns();
    if (!rc)
        connected(m);
    else if (rc != -ECANCELED)
        migrate_enqueue_why(m, SOURCE_CONNECT_FAILED, &err);
}

static void emit(struct migration *m, const struct move_action *action)
{
    enum source_state to = (enum source_state)action->emit.to;
    if (action->emit.stage != STAGE_NONE)
        bill_stage(m->bill, move_bill_stage(action->emit.stage), clock_now_ns());
    if (to == SOURCE_UNCERTAIN || to == SOURCE_WITHDRAWING)
        m->env->hooks.state(m->env->hooks.ctx, source_state_name(to), action->emit.text);
    else if (to == SOURCE_SERVING)
        m->env->hooks.state(m->env->hooks.ctx, action->emit.reason ? "stranded" : "serving",
                            action->emit.text);
    if (!m->paused && action->emit.stage != STAGE_NONE)
        move_progress_report(m->env, &m->progress, move_bill_stage(action->emit.stage));
    log_event(LOG_INFO, "move.source", "%s -> %s%s%s",
              source_state_name((enum source_state)action->emit.from), source_state_name(to),
              action->emit.text[0] ? ": " : "", action->emit.text);
}

static void carry_out(struct migration *m, const struct move_action *action)
{
    switch (action->kind) {
    case ACTION_SEND:
        send_message(m, action->conn, action->message);
        break;
    case ACTION_CLOSE:
        if (action->conn != m->wire.conn)
            break;
        if (!m->paused || m->engine.state == SOURCE_DONE)
            measure(m);
        migrate_close_wire(m);
        break;
    case ACTION_WRITE_RECORD:
        write_record(m, action->record);
        break;
    case ACTION_SET_TIMER:
        m->timer_ns = action->at_ns;
        break;
    case ACTION_EMIT:
        emit(m, action);
        break;
    case ACTION_CONNECT:
        connect_to(m, action->conn);
        break;
    case ACTION_SEND_DESCRIPTION:
        send_description(m);
        break;
    case ACTION_SEND_ROUND:
        if (action->round.kind == ROUND_ABSENT)
            migrate_send_absent(m);
        else
            migrate_round_send(m, action->round.number, action->round.kind == ROUND_PAUSED,
                               action->round.rate);
        break;
    case ACTION_END_ROUND:
        migrate_round_cut(m);
        break;
    case ACTION_OPEN_URGENT:
        migrate_open_urgent(m);
        break;
    case ACTION_PUSH:
        migrate_push_begin(m);
        break;
    case ACTION_THROTTLE:
        throttle(m, action->run_permille);
        break;
    case ACTION_PREPARE_GUEST:
        prepare_guest(m, action->slow);
        break;
    case ACTION_PAUSE_GUEST:
        pause_guest(m);
        break;
    case ACTION_SEND_STATE:
        send_state(m);
        break;
    case ACTION_RESUME_GUEST:
        resume_guest(m);
        break;
    case ACTION_RELEASE:
        break; /* the monitor frees the guest when it learns the outcome */
    case ACTION_CHECK:
    case ACTION_RESERVE:
    case ACTION_LOAD:
    case ACTION_RUN_GUEST:
    case ACTION_DISCARD:
    case ACTION_TAKE_LANE:
    case ACTION_SEND_ABSENT:
    case ACTION_END:
    case ACTION_KIND_MAX:
        ASSERT(!"an action of the target");
    }
}

/* ------------------------------------------------------------------------------------------ the loop */

/* What the engine's policy has just decided goes to the bill, and to whoever watches. */
static void note_decision(struct migration *m)
{
    const struct policy_decision *d = &m->engine.decision;
    const struct move_hooks *hooks = &m->env->hooks;
    struct bill_decision decision = { .at_ns = clock_now_ns() - m->progress.began_ns,
                                      .round = m->engine.round,
                                      .left_pages = d->left_pages,
                                      .link_bytes_per_s = d->link,
                                      .dirty_pages_per_s = d->dirty_per_s,
                                      .predicted_ns = d->predicted_ns,
                                      .asked_ns = d->max_downtime_ns,
                                      .rate_bytes_per_s = d->rate,
                                      .run_permille = d->run_permille };
    (void)snprintf(decision.what, sizeof(decision.what), "%s", policy_what_name(d->what));
    (void)snprintf(decision.why, sizeof(decision.why), "%s", policy_why_name(d->why));
    bill_decision(m->bill, policy_name(m->request->policy.kind), &decision);
    m->decided = m->engine.decisions;
    /* Rounds can be very short, and events of this kind pile up with a slow subscriber. */
    if (d->what == POLICY_ROUND && d->why == POLICY_GO &&
        decision.at_ns - m->decision_told_ns < MIGRATE_PROGRESS_NS)
        return;
    m->decision_told_ns = decision.at_ns;
    hooks->event(hooks->ctx, "move.decision",
                 json_pack("{s:I, s:s, s:s, s:s, s:b, s:I}", "round", (json_int_t)decision.round,
                           "what", decision.what, "why", decision.why, "text", m->engine.why_text,
                           "exceeds", d->exceeds, "run_permille", (json_int_t)d->run_permille));
}

static void deliver(struct migration *m, const struct source_event *event)
{
    struct err err = { 0 };
    int rc = source_step(&m->engine, event, clock_now_ns(), &m->actions, &err);
    if (rc)
        log_event(LOG_WARN, "move.refused", "%s", err.text);
    if (m->engine.decisions != m->decided)
        note_decision(m);
    for (unsigned i = 0; i < m->actions.count; i++)
        carry_out(m, &m->actions.action[i]);
}

/* What the target measured belongs to the bill, whatever the engine makes of the message. */
static void bill_message(struct migration *m, const struct message *message)
{
    if (message->type == MESSAGE_ACTIVATED && m->bill->is_down)
        bill_downtime_end(m->bill, clock_now_ns());
}

static void receive(struct migration *m)
{
    struct section section;
    struct err err = { 0 };
    int rc = wire_recv_head(&m->wire, &section, &err);
    if (!rc && section.type == SECTION_ABSENT && m->serve) {
        rc = serve_told(m->serve, &m->wire.link, &section, &err);
        if (!rc)
            return;
    }
    if (!rc && !message_is(section.type))
        rc = err_set(&err, ERR_PEER, EBADMSG, "section %s from a target",
                     section_type_name(section.type));
    if (!rc)
        rc = wire_recv_message(&m->wire, &section, &m->incoming, &err);
    if (!rc && m->incoming.type == MESSAGE_PULL && m->serve)
        rc = serve_use_told(m->serve, m->incoming.pull.pages, &err);
    if (rc) {
        migrate_connection_failed(m, rc, &err);
        if (rc == -ECANCELED)
            m->wire.link.mid_section =
                true; /* half a message was read: this connection is done for */
        return;
    }
    bill_message(m, &m->incoming);
    struct source_event event = { .kind = SOURCE_MESSAGE,
                                  .conn = m->wire.conn,
                                  .message = &m->incoming };
    if (m->incoming.type == MESSAGE_ROUND_ACK)
        event.round.left_pages = migrate_round_left(m);
    deliver(m, &event);
}

static void take_order(struct migration *m)
{
    eventfd_t count;
    (void)eventfd_read(m->env->cancel_fd, &count);
    (void)eventfd_read(m->env->nudge_fd, &count);
    switch (m->env->hooks.order(m->env->hooks.ctx)) {
    case MOVE_END_NOW:
        m->end_now = true;
        if (m->engine.state == SOURCE_SERVING)
            migrate_finish_section(m);
        (void)migrate_enqueue(m, m->engine.state == SOURCE_SERVING ? SOURCE_FORGET : SOURCE_CANCEL);
        break;
    case MOVE_SWITCH:
        (void)migrate_enqueue(m, SOURCE_SWITCH);
        break;
    case MOVE_RETRY:
        m->env->hooks.address(m->env->hooks.ctx, m->target, sizeof(m->target));
        (void)migrate_enqueue(m, SOURCE_RETRY);
        break;
    case MOVE_CANCEL:
        (void)migrate_enqueue(m, SOURCE_CANCEL);
        break;
    case MOVE_TAKE_BACK:
        (void)migrate_enqueue(m, SOURCE_TAKE_BACK);
        break;
    case MOVE_FORGET:
        (void)migrate_enqueue(m, SOURCE_FORGET);
        break;
    case MOVE_ADOPT:
    case MOVE_DISCARD:
    case MOVE_NO_ORDER:
        break;
    }
    if (m->wire.conn && m->wire.link.fd < 0) { /* it interrupted connecting */
        struct err err;
        (void)err_set(&err, ERR_CALLER, ECANCELED, "interrupted");
        migrate_enqueue_why(m, SOURCE_CONNECT_FAILED, &err);
    } else if (
        m->wire.link
            .mid_section) { /* it interrupted a send: whatever follows, this connection is over */
        struct err err;
        (void)err_set(&err, ERR_CALLER, ECANCELED, "interrupted");
        migrate_enqueue_why(m, SOURCE_LOST, &err);
        migrate_close_wire(m);
    }
}

/* `held_ns`: the push waits so long for its turn. */
static int wait_ms(struct migration *m, uint64_t held_ns)
{
    uint64_t now = clock_now_ns(), until = MIN(m->timer_ns, migrate_round_lost_at(m));
    if (m->sender == SENDER_LANES || m->sender == SENDER_PUSH)
        until = MIN(until, now + MIGRATE_PROGRESS_NS);
    if (m->sender == SENDER_PUMP)
        until = MIN(until, now + migrate_round_wait_ns(m));
    if (held_ns)
        until = MIN(until, now + held_ns);
    if (until <= now)
        return 0;
    if (until == CLOCK_NEVER)
        return -1;
    return (int)MIN((until - now) / CLOCK_MSEC + 1, UINT64_C(60000));
}

static void run_once(struct migration *m)
{
    if (m->queue_count > 0) {
        struct migrate_queued q = m->queue[m->queue_first];
        m->queue_first = (m->queue_first + 1) % MIGRATE_QUEUE_MAX;
        m->queue_count--;
        q.event.why = q.why.code ? &q.why : NULL;
        deliver(m, &q.event);
        return;
    }
    bool lanes = m->sender == SENDER_LANES || m->sender == SENDER_PUSH;
    bool pending = link_pending(&m->wire.link);
    uint64_t held_ns = m->pushing ? migrate_push_wait_ns(m) : 0;
    short events = m->pushing && !held_ns ? POLLIN | POLLOUT : POLLIN;
    struct pollfd fds[5] = {
        { .fd = m->env->cancel_fd, .events = POLLIN },
        { .fd = m->env->nudge_fd, .events = POLLIN },
        { .fd = m->wire.link.fd, .events = events },
        { .fd = m->serve && m->serve->open ? m->serve->lost_fd : -1, .events = POLLIN },
        { .fd = lanes ? m->lanes.event_fd : -1, .events = POLLIN },
    };
    uint64_t eager_ns = m->bill->is_down && !m->pushing ? EAGER_NS : 0;
    int limit_ms = pending ? 0 : wait_ms(m, held_ns);
    if (eager_poll(fds, ARRAY_LEN(fds), limit_ms, eager_ns) < 0 && errno != EINTR)
        fds[0].revents = fds[1].revents = fds[2].revents = fds[3].revents = 0;
    uint64_t now = clock_now_ns();
    if (fds[0].revents || fds[1].revents) {
        take_order(m);
    } else if ((fds[2].revents & ~POLLOUT) || pending) {
        receive(m);
    } else if (fds[3].revents) {
        migrate_lane_lost(m);
    } else if (now >= m->timer_ns) {
        m->timer_ns = CLOCK_NEVER;
        if ((m->sender != SENDER_NONE || m->pushing) && migrate_round_wait_ns(m))
            (void)migrate_enqueue(m, SOURCE_PROGRESS); /* that nothing goes is our own wish */
        (void)migrate_enqueue(m, SOURCE_TICK);
    } else if (now >= migrate_round_lost_at(m)) {
        migrate_round_lost(m);
    } else if (m->sender == SENDER_PUSH) {
        migrate_push_watch(m);
    } else if (lanes) {
        migrate_round_watch(m);
    } else if (m->sender == SENDER_PUMP) {
        migrate_round_continue(m);
    } else if (fds[2].revents & POLLOUT) {
        migrate_push(m);
    } else if (held_ns) {
        migrate_push_look(m);
    }
}

/* ------------------------------------------------------------------------------------ beginning and end */

enum source_post_copy migrate_post_copy(const struct migrate_request *request)
{
    return strcmp(request->mode, "post-copy") == 0 ? SOURCE_POST_COPY_NOW : request->post_copy;
}

enum move_mode migrate_mode(const struct migrate_request *request)
{
    return migrate_post_copy(request)                ? MOVE_POST_COPY
           : strcmp(request->mode, "stop-copy") == 0 ? MOVE_STOP_COPY
                                                     : MOVE_PRE_COPY;
}

static int configure(struct migration *m, struct err *err)
{
    struct source_config config = source_config_default();
    const struct machine *machine = m->env->machine;
    config.post_copy = migrate_post_copy(m->request);
    config.hello.mode = migrate_mode(m->request);
    config.hello.pages = machine->mem.pages;
    config.hello.paused = m->request->paused;
    config.hello.lanes =
        m->request->lanes == MIGRATE_LANES_AUTO ? MOVE_LANES_MAX : m->request->lanes;
    (void)snprintf(config.hello.name, sizeof(config.hello.name), "%s", machine->config.name);
    (void)gethostname(config.hello.source, sizeof(config.hello.source) - 1);
    (void)snprintf(config.hello.version, sizeof(config.hello.version), "%s", GODWIT_VERSION);
    config.hello.page_forms = m->request->delta_bytes ? PAGE_FORM_DELTA : 0;
    if (m->request->packing != PACKING_MODE_OFF)
        config.hello.page_forms |= PAGE_FORM_LZ4 | PAGE_FORM_ZSTD;
    if (config.hello.lanes || config.hello.page_forms) /* else there is nothing to choose from */
        config.hello.page_forms |= PAGE_FORM_PUSH;
    config.prepare =
        m->env->hooks.prepare && !m->request->paused; /* a guest that stands still cannot help */
    config.policy = m->request->policy;
    config.policy.pause_ns += machine->config.vcpus * PAUSE_VCPU_NS;
    config.policy.allow_switch = config.post_copy != SOURCE_POST_COPY_NEVER;
    if (m->request->stall_limit_ns != config.stall_limit_ns)
        config.hello.stall_limit_ns = m->request->stall_limit_ns;
    config.stall_limit_ns = m->request->stall_limit_ns;
    /* The guest runs here while the target is told to drop its copy, but whoever asked for the move waits. */
    config.withdraw_limit_ns = 2 * m->request->stall_limit_ns;
    if (getrandom(config.hello.token, sizeof(config.hello.token), 0) !=
            (ssize_t)sizeof(config.hello.token) ||
        getrandom(&m->seed, sizeof(m->seed), 0) != (ssize_t)sizeof(m->seed))
        return err_errno(err, ERR_HOST, errno, "cannot make a token");
    source_init(&m->engine, &config);
    return 0;
}

/* Whose the guest is as the move ends. While withdrawing it runs here again and the record says so: ending
 * then leaves nothing open on this side. */
static enum migrate_outcome outcome_of(enum source_state state)
{
    if (state == SOURCE_DONE || state == SOURCE_SERVING)
        return MIGRATE_MOVED;
    return state == SOURCE_FAILED || state == SOURCE_WITHDRAWING ? MIGRATE_STAYED
                                                                 : MIGRATE_LEFT_UNCERTAIN;
}

/* Moved, and yet the guest is no more, or never whole: post-copy needs both hosts to the end. */
static bool lost_there(const struct source *engine)
{
    return engine->reason == REASON_SOURCE_LOST || engine->reason == REASON_TARGET_DIED;
}

static void finish_bill(struct migration *m)
{
    const struct source *engine = &m->engine;

    if (m->bill->is_down)
        bill_downtime_end(m->bill, clock_now_ns());
    measure(m);
    migrate_close_wire(m);
    bill_side_set(m->bill, BILL_SOURCE, &m->here);
    if (engine->activated.side_count)
        bill_side_set(m->bill, BILL_TARGET, &engine->activated.side[0]);
    if (m->serve && engine->committed)
        migrate_bill_serving(m);
    if (engine->state != SOURCE_DONE || lost_there(engine))
        bill_fail(m->bill, &engine->err);
    enum migrate_outcome outcome = outcome_of(engine->state);
    bill_end(m->bill,
             outcome == MIGRATE_MOVED    ? BILL_OWNER_TARGET
             : outcome == MIGRATE_STAYED ? BILL_OWNER_SOURCE
                                         : BILL_OWNER_UNCERTAIN,
             clock_now_ns());
}

int migrate_run(const struct move_env *env, const struct migrate_request *request,
                struct bill *bill, enum migrate_outcome *ret, struct err *err)
{
    uint64_t now = clock_now_ns();
    char token[2 * MOVE_TOKEN_BYTES + 1];
    ASSERT(env->trust);
    *ret = MIGRATE_STAYED;
    bill_begin(bill, BILL_MIGRATE, request->mode, env->machine->config.name, now);
    bill_machine(bill, env->machine->config.memory_bytes, env->machine->config.vcpus);

    struct migration *m = calloc(1, sizeof(*m));
    int rc = m ? 0 : err_errno(err, ERR_HOST, ENOMEM, "cannot migrate");
    if (m) {
        *m = (struct migration){
            .env = env, .request = request, .bill = bill, .wire = WIRE_NONE, .timer_ns = CLOCK_NEVER
        };
        bucket_init(&m->bucket);
        m->progress.began_ns = m->progress.rate_since_ns = now;
        (void)snprintf(m->target, sizeof(m->target), "%s", request->target);
        rc = configure(m, err);
    }
    if (rc) {
        bill_fail(bill, err);
        bill_end(bill, BILL_OWNER_SOURCE, clock_now_ns());
        free(m);
        return rc;
    }
    for (unsigned i = 0; i < MOVE_TOKEN_BYTES; i++)
        (void)snprintf(token + 2 * i, 3, "%02x", m->engine.config.hello.token[i]);
    bill_describe(bill, token, m->engine.config.hello.source, request->target);
    meter_span_begin(env->meter, &m->span);
    warm_up();

    (void)migrate_enqueue(m, SOURCE_START);
    while (m->queue_count > 0 || (!source_state_ended(m->engine.state) && !m->end_now))
        run_once(m);

    *ret = outcome_of(m->engine.state);
    if (*ret != MIGRATE_MOVED || lost_there(&m->engine)) {
        *err = m->engine.err;
        rc = err->code ? -err->code
                       : err_set(err, ERR_CALLER, ECANCELED, "ended before the move was settled");
    }
    migrate_push_end(m);
    migrate_round_bill(m);
    finish_bill(m);
    migrate_round_stop(m);
    migrate_close_wire(m);
    bucket_fini(&m->bucket);
    migrate_serve_end(m);
    free(m->serve);
    free(m);
    return rc;
}
