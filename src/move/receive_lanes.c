/*
 * The target's pump where bulk lanes are concerned (lanes_in.h, whose threads receive and write their pages).
 *
 * ROUND_DONE is held back until the lanes have written what it counts; nothing else is read from the move's
 * connection meanwhile. A lane that is lost ends the move, unless the source says within BULK_GRACE_NS why it hung up,
 * or all it had to say turns out to be here: a source that dies after its last round must not take that back.
 *
 * Post-copy: the lanes stay for what is pushed, and belong to the move's connection: they end with it, new ones come
 * with the next.
 */
#include "base/log.h"
#include "move/arrival.h"
#include "move/receive_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

int receive_lanes_begin(struct receiving *r, struct err *err)
{
    unsigned lanes = MIN(r->engine.hello.lanes, r->engine.config.lanes);
    if (!lanes)
        return 0;
    int rc = lanes_in_init(&r->lanes, &r->arrival->sink, r->env->meter, lanes,
                           r->engine.config.stall_limit_ns);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot serve lanes") : 0;
}

bool receive_lanes_may_push(const struct receiving *r)
{
    return r->engine.post_copy &&
           (r->engine.hello.page_forms & r->engine.config.page_forms & PAGE_FORM_PUSH);
}

void receive_lanes_push(struct receiving *r)
{
    struct err err;
    if (!receive_lanes_may_push(r))
        return;
    if (!r->lanes.sink && receive_lanes_begin(r, &err))
        log_event(LOG_WARN, "move.lane", "%s", err.text); /* the source will find none */
    lanes_in_push(&r->lanes, r->pull, r->engine.round);
}

void receive_lanes_end(struct receiving *r)
{
    lanes_in_fini(&r->lanes);
    r->holding = false;
    r->bulk_failed_ns = 0;
}

static int admit_lane(const struct receiving *r, const struct message_lane *lane, struct err *err)
{
    static const char *const none = "no move here waits for lanes";
    if (r->engine.state != TARGET_RESERVED && r->engine.state != TARGET_RECEIVING && !r->lanes.pull)
        return err_set(err, ERR_PEER, ENOENT, "%s", none);
    if (memcmp(lane->token, r->engine.hello.token, sizeof(lane->token)) != 0)
        return err_set(err, ERR_PEER, EPERM, "a lane with another move's token");
    if (r->lanes.pull && lane->beside != r->lane_beside) /* what it brings was counted as lost */
        return err_set(err, ERR_PEER, ESTALE, "a lane of a connection that was lost");
    return lanes_in_admit(&r->lanes, lane, err);
}

/* It is one of the move, or told why not and closed. */
void receive_take_bulk(struct receiving *r, struct wire *wire)
{
    struct err err = { 0 };
    uint32_t conn = wire->conn;
    if (admit_lane(r, &r->incoming.lane, &err)) {
        struct message abort = { .type = MESSAGE_ABORT,
                                 .abort = { .reason = REASON_PROTOCOL, .fault = ERR_PEER } };
        (void)snprintf(abort.abort.text, sizeof(abort.abort.text), "%s", err.text);
        log_event(LOG_WARN, "move.lane", "refused: %s", err.text);
        receive_send(r, conn, &abort);
        receive_close(r, conn);
    } else if (lanes_in_take(&r->lanes, wire, r->incoming.lane.index, &err)) {
        receive_enqueue_why(r, TARGET_FAULT, r->engine.conn, &err);
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
        receive_enqueue_why(r, TARGET_FAULT, r->engine.conn, &err);
        return;
    }
    if (r->engine.round_last && !receive_lanes_may_push(r)) {
        lanes_in_last(&r->lanes);
        r->bulk_failed_ns = 0;
    }
    if (lane_pages)
        receive_deliver(r, &pages);
    receive_deliver(r, &done);
}

/* What the engine will refuse anyway need not wait. */
static bool lanes_owe(const struct receiving *r, const struct message_round_done *done)
{
    return r->lanes.sink && r->lanes.open && done->number == r->engine.round &&
           done->pages <= r->engine.hello.pages;
}

bool receive_hold(struct receiving *r, const struct message_round_done *done)
{
    if (!lanes_owe(r, done))
        return false;
    r->held = *done;
    r->holding = true;
    receive_look_after_lanes(r);
    return true;
}

void receive_lanes_lost(struct receiving *r)
{
    struct err err = { 0 };
    struct wire *wire = receive_find(r, r->engine.conn);
    (void)lanes_in_failed(&r->lanes, &err);
    r->bulk_failed_ns = 0;
    r->holding = false;
    receive_enqueue_why(r, TARGET_LOST, wire->conn, &err);
    receive_close_wire(r, wire);
}

/* More than a connection that ended. */
static bool is_severe(const struct err *err)
{
    return err->fault == ERR_HOST || wire_is_bad_bytes(-err->code);
}

static void lane_failed(struct receiving *r, const struct err *err)
{
    struct wire *wire = receive_find(r, r->engine.conn);
    bool settled =
        r->engine.state != TARGET_RESERVED && r->engine.state != TARGET_RECEIVING && !r->lanes.pull;
    if (is_severe(err))
        r->holding = false; /* it can never be released; an ABORT behind it can be read */
    if (settled || !wire)
        return;
    if (is_severe(err) && r->lanes.pull && err->fault == ERR_HOST) {
        receive_lanes_lost(r); /* if no page can be placed, pull.h says so */
    } else if (is_severe(err)) {
        receive_enqueue_why(r, err->fault == ERR_HOST ? TARGET_FAULT : TARGET_BAD_BYTES, wire->conn,
                            err);
    } else if (!r->bulk_failed_ns) {
        r->bulk_failed_ns = clock_now_ns();
    } else if (clock_now_ns() - r->bulk_failed_ns >= BULK_GRACE_NS) {
        receive_lanes_lost(r);
    }
}

void receive_look_after_lanes(struct receiving *r)
{
    struct err err = { 0 };
    eventfd_t count;
    uint64_t pages, here = r->engine.round_pages;
    if (!r->lanes.sink || r->lanes.ending)
        return;
    (void)eventfd_read(r->lanes.event_fd, &count);
    bool failed = lanes_in_failed(&r->lanes, &err) != 0;
    if (r->holding && !(failed && is_severe(&err)) &&
        lanes_in_complete(&r->lanes, r->held.pages - MIN(here, r->held.pages), &pages))
        release(r, pages);
    if (failed && r->lanes.sink && !r->lanes.ending)
        lane_failed(r, &err);
}

void receive_lanes_progress(struct receiving *r)
{
    uint64_t sections = r->lanes.sink ? r->lanes.sections : 0;
    if (sections != r->lane_sections && r->engine.conn)
        (void)receive_enqueue(r, TARGET_PROGRESS, r->engine.conn);
    r->lane_sections = sections;
}
