/* The target's pump in post-copy: the urgent lane, the list of what is missing, and what comes in later. */
#include "base/log.h"
#include "mem/discard.h"
#include "move/receive_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

/* From now on a hole means "not here yet", so the balloon makes none. */
static struct pull *pull_of(struct receiving *r)
{
    if (r->pull || !r->arrival || !r->arrival->machine)
        return r->pull;
    struct mem *mem = &r->arrival->machine->mem;
    if (mem_discard_hold(mem) == 0)
        r->pull = pull_new(mem, r->env->meter, r->engine.config.stall_limit_ns / 3);
    return r->pull;
}

static void release_discards(struct receiving *r)
{
    int rc = mem_discard_release(r->pull->mem);
    if (rc) /* costs memory, no correctness */
        log_event(LOG_WARN, "move.pull", "memory in the balloon could not be freed: %s",
                  strerror(-rc));
}

/* The connection has said LANE, and is none of the move's from here on. */
void receive_take_lane(struct receiving *r, uint32_t conn)
{
    struct wire *wire = receive_find(r, conn);
    struct pull *pull = pull_of(r);
    struct err err = { 0 };
    r->lane_conn = r->engine.conn;
    r->lane_beside = r->incoming.lane.beside;
    r->lane_lost_ns = 0;
    if (receive_find(r, r->lane_conn))
        link_keep_short(&receive_find(r, r->lane_conn)->link);
    if (!wire)
        return; /* lost in the same moment: the source will notice */
    wire->conn = 0;
    int rc = pull ? pull_attach(pull, wire, &err)
                  : err_errno(&err, ERR_HOST, ENOMEM, "cannot prepare for post-copy");
    if (rc)
        receive_enqueue_why(r, TARGET_FAULT, 0, &err);
    else if (r->engine.prepared) /* beside a new connection */
        receive_lanes_push(r);
}

void receive_send_absent(struct receiving *r, uint32_t conn)
{
    struct err err = { 0 };
    struct wire *wire = receive_find(r, conn);
    int rc = wire && r->pull ? pull_tell(r->pull, wire, r->engine.hello.token, &err) : 0;
    if (rc)
        receive_connection_failed(r, wire, rc, &err);
}

/* A section of the last round's list. */
int receive_absent(struct receiving *r, struct wire *wire, const struct section *section,
                   struct err *err)
{
    CLEANUP_FREE uint8_t *body = malloc(section->length + 1u);
    uint64_t pages;
    int rc = body ? link_recv_body(&wire->link, section, body, err)
                  : err_errno(err, ERR_HOST, ENOMEM, "cannot note what is missing");
    if (rc)
        return rc;
    struct target_event event = { .kind = TARGET_SECTION,
                                  .conn = wire->conn,
                                  .section = section->type };
    uint32_t conn = wire->conn;
    receive_deliver(r, &event);
    if (!r->pull || r->engine.state != TARGET_RECEIVING || r->engine.conn != conn)
        return 0; /* refused, and all is gone */
    rc = pull_absent(r->pull, body, section->length, &pages, err);
    if (!rc)
        receive_deliver(r, &(struct target_event){
                               .kind = TARGET_PAGES_OK, .conn = conn, .pages = pages });
    return rc;
}

/* The guest runs here, cannot be given what it waits for, and is nowhere else. */
static void cannot_go_on(struct receiving *r, const char *why)
{
    log_event(LOG_ERROR, "move.pull", "%s", why);
    r->host->hooks->on_end(r->host->hooks->ctx, MACHINE_FAILED, why);
}

int receive_pushed(struct receiving *r, struct wire *wire, const struct section *section,
                   struct err *err)
{
    struct page_slot *slot = &r->pushed;
    uint32_t conn = wire->conn;
    uint64_t pages;
    int rc = slot->bytes ? 0 : page_slot_init(slot);
    rc = rc ? err_errno(err, ERR_HOST, -rc, "cannot receive pages")
            : page_slot_recv(&r->arrival->sink, slot, &wire->link, section, &pages, err);
    if (rc)
        return rc;
    receive_deliver(r, &(struct target_event){
                           .kind = TARGET_SECTION, .conn = conn, .section = section->type });
    if (r->engine.conn != conn)
        return 0;
    rc = pull_place(r->pull, &slot->body, slot->data, err);
    return rc && err->fault == ERR_HOST ? 0 : rc;
}

void receive_pull_ended(struct receiving *r)
{
    receive_lanes_end(r);
    pull_account(r->pull, &r->pulled);
    if (r->pulled.missing == 0) {
        wire_close(&r->spent_lane);
        pull_finish(r->pull, &r->spent_lane);
        release_discards(r);
        pull_free(r->pull);
        r->pull = NULL;
    } /* else it must outlive the guest: uffd.h */
    struct queued *q = receive_enqueue(r, TARGET_PULLED, 0);
    q->event.pulled = &r->pulled;
}

/* The fault thread has something to say; also called when the guest has begun to run. */
void receive_on_pull(struct receiving *r)
{
    eventfd_t count;
    (void)eventfd_read(r->pull->event_fd, &count);
    struct wire *wire = receive_find(r, r->lane_conn);
    bool pulling = r->engine.state == TARGET_PULLING || r->engine.state == TARGET_STRANDED;
    if (r->pull->failed) {
        struct err err;
        (void)err_errno(&err, ERR_HOST, -r->pull->failed, "cannot place guest memory");
        if (r->arrived)
            cannot_go_on(r, err.text);
        else
            receive_enqueue_why(r, TARGET_FAULT, 0, &err);
    } else if (pulling && pull_left(r->pull) == 0) {
        receive_pull_ended(r);
    } else if (r->pull->lane_lost && wire && !r->lane_lost_ns) {
        r->lane_lost_ns = clock_now_ns();
    }
}

/* The source closes both; what it said last on the other one says more than this, if it still comes. */
void receive_give_up_lane(struct receiving *r, uint64_t now)
{
    struct wire *wire = receive_find(r, r->lane_conn);
    struct err err;
    if (!r->lane_lost_ns || (wire && now - r->lane_lost_ns < LANE_GRACE_NS))
        return;
    r->lane_lost_ns = 0;
    (void)err_set(&err, ERR_PEER, ECONNRESET, "the urgent lane is lost");
    if (wire)
        receive_connection_failed(r, wire, -ECONNRESET, &err);
}
