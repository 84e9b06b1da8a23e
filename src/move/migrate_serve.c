/* The source's pump in post-copy: what is said when the guest goes, and what is done after. */
#include "base/log.h"
#include "move/migrate_impl.h"
#include "move/page_bill.h"
#include "state/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LAST_WORD_MS 100

/* Of what no round came to. */
static void bill_untouched(struct migration *m, const struct serve_listed *listed)
{
    uint64_t free = listed->untouched_free, untouched = listed->untouched - free;
    bill_pages(m->bill, BILL_PAGES_NEVER_TOUCHED, untouched);
    bill_pages(m->bill, BILL_PAGES_FREE, free);
    bill_class(m->bill, BILL_CLASS_NEVER_TOUCHED, untouched, untouched * PAGE_BYTES,
               listed->told_ns);
    bill_class(m->bill, BILL_CLASS_FREE, free, free * PAGE_BYTES, 0);
}

/* Post-copy: says which pages the target lacks, and keeps them. */
void migrate_send_absent(struct migration *m)
{
    CLEANUP_BUF struct buf out = { 0 };
    struct err err;
    struct serve_listed listed;
    uint64_t left, began = clock_now_ns();
    bill_downtime(m->bill, BILL_LAST_PAGES, began);
    int rc = m->tracking ? dirty_fetch(&m->dirty, &left) : 0;
    if (!rc)
        rc = serve_list(m->serve, m->tracking ? &m->dirty : NULL, m->visited,
                        m->tracking ? m->pages.unsent : NULL, &out, &listed);
    if (rc) {
        (void)err_errno(&err, ERR_HOST, -rc, "cannot list what the target lacks");
        migrate_host_failed(m, &err);
        return;
    }
    unsigned queued = m->queue_count;
    bill_untouched(m, &listed);
    migrate_send_bytes(m, out.data, out.len, BILL_BYTES_PROTOCOL);
    m->progress.pages_left = listed.pages;
    if (m->queue_count != queued || m->wire.link.mid_section)
        return;
    struct migrate_queued *q = migrate_enqueue(m, SOURCE_ROUND_SENT);
    q->event.round.pages = listed.pages;
    q->event.round.bytes = out.len;
}

uint32_t migrate_beside(const struct migration *m)
{
    return m->engine.page_forms & PAGE_FORM_PUSH ? m->wire.conn : 0;
}

/* An older target takes what is pushed on the move's connection, and plain. */
static bool pushes_in_all_forms(const struct migration *m)
{
    return m->engine.page_forms & PAGE_FORM_PUSH;
}

void migrate_serve_end(struct migration *m)
{
    if (!m->serve)
        return;
    page_maker_fini(&m->push_maker);
    page_source_fini(&m->push_pages);
    serve_fini(m->serve);
}

static int connect_urgent(struct migration *m, struct err *err)
{
    struct machine *machine = m->env->machine;
    struct wire lane;
    if (!m->serve) {
        m->serve = calloc(1, sizeof(*m->serve));
        int rc =
            m->serve ? serve_init(m->serve, &machine->mem, m->env->meter, &m->bucket) : -ENOMEM;
        if (!rc) {
            page_source_serve(&m->push_pages, &machine->mem, m->serve);
            rc = page_maker_init(&m->push_maker, &m->push_pages, NULL,
                                 pushes_in_all_forms(m) ? m->request->packing : PACKING_MODE_OFF,
                                 m->engine.page_forms);
            if (rc)
                migrate_serve_end(m);
        }
        if (rc) {
            free(m->serve);
            m->serve = NULL;
            return err_errno(err, ERR_HOST, -rc, "cannot prepare for post-copy");
        }
    }
    int rc = urgent_connect(&lane, m->env, m->target, m->engine.config.hello.token,
                            migrate_beside(m), m->request->stall_limit_ns, err);
    if (!rc) {
        rc = serve_open(m->serve, &lane);
        if (rc)
            return err_errno(err, ERR_HOST, -rc, "cannot answer the target's faults");
    }
    return rc;
}

void migrate_open_urgent(struct migration *m)
{
    struct err err = { 0 };
    int rc = connect_urgent(m, &err);
    if (!rc)
        (void)migrate_enqueue(m, SOURCE_URGENT_OPEN);
    else if (rc == -ECANCELED)
        m->wire.link.mid_section = true; /* what was to follow does not: the order ends this */
    else
        migrate_connection_failed(m, rc == -EBADMSG ? -ECONNRESET : rc, &err);
}

/* ------------------------------------------------------------------------------------------- the push */

static int push_on_lanes(struct migration *m, uint64_t pages)
{
    int rc = m->lanes.source ? 0 : migrate_lanes_start(m, &m->push_pages, NULL);
    if (rc)
        return rc;
    lanes_out_push(&m->lanes, &m->push_pages);
    return lanes_out_begin(&m->lanes, (uint16_t)m->engine.round, pages);
}

void migrate_push_begin(struct migration *m)
{
    uint64_t left = serve_left(m->serve);
    link_keep_short(&m->wire.link);
    m->round_rate = 0; /* a policy's, for rounds */
    m->last_round = false;
    migrate_follow_limit(m);
    m->progress.pages_left = left;
    page_count_add(&m->pushed, &m->push_maker.count);
    page_maker_begin(&m->push_maker, (uint16_t)m->engine.round);
    if (pushes_in_all_forms(m) && m->engine.lanes > 0 && left > LANES_OUT_FEW_PAGES) {
        m->sender = SENDER_PUSH;
        if (push_on_lanes(m, left) == 0)
            return;
        migrate_push_end(m); /* no memory for lanes */
    }
    m->pushing = true;
}

void migrate_push_end(struct migration *m)
{
    struct page_count count;
    uint64_t unsent = m->push_left;
    m->pushing = false;
    m->push_left = 0;
    if (m->sender == SENDER_PUSH)
        m->sender = SENDER_NONE;
    if (!m->engine.post_copy)
        return;
    m->lane_failed_ns = 0;
    lanes_out_halt(&m->lanes);
    if (m->lanes.open) {
        lanes_out_count(&m->lanes, &count);
        page_count_add(&m->pushed, &count);
        m->lane_pages_bytes += count.bytes;
    }
    unsent += lanes_out_unsent(&m->lanes);
    m->unsent_bytes += unsent;
    m->gone_bytes += lanes_out_bytes(&m->lanes);
    m->lane_pages_bytes -= MIN(lanes_out_unsent(&m->lanes), m->lane_pages_bytes);
    migrate_lanes_bill(m);
    lanes_out_fini(&m->lanes);
}

/* What was sent is progress, and so is that nothing is sent by our own wish. */
static void tell_pushed(struct migration *m)
{
    uint64_t now = clock_now_ns(), left;
    if (now - m->progress_told_ns < MIGRATE_PROGRESS_NS)
        return;
    m->progress_told_ns = now;
    migrate_follow_limit(m);
    left = serve_left(m->serve);
    m->progress.pages_sent += m->progress.pages_left - MIN(left, m->progress.pages_left);
    m->progress.pages_left = left;
    m->progress.bytes = m->gone_bytes + m->wire.link.sent_bytes + lanes_out_bytes(&m->lanes);
    meter_span_tick(&m->span);
    move_progress_report(m->env, &m->progress, BILL_PULLING);
    if (m->progress.bytes != m->push_told_bytes || migrate_round_wait_ns(m))
        (void)migrate_enqueue(m, SOURCE_PROGRESS);
    m->push_told_bytes = m->progress.bytes;
}

uint64_t migrate_push_wait_ns(struct migration *m)
{
    return m->push_left ? 0 : migrate_round_wait_ns(m);
}

void migrate_push_look(struct migration *m)
{
    tell_pushed(m);
}

/* False: nothing is left. */
static bool make_section(struct migration *m)
{
    struct page_maker *maker = &m->push_maker;
    page_maker_piece(maker, bucket_piece(&m->bucket));
    maker->link_rate = m->push_ns ? m->push_bytes * CLOCK_SECOND / m->push_ns : 0;
    if (m->limit)
        maker->link_rate = maker->link_rate ? MIN(maker->link_rate, m->limit) : m->limit;
    int rc = page_maker_fill(maker, &m->push_at, &m->push_left);
    ASSERT(rc == 0); /* it asks nobody but serve_take() */
    m->push_began_ns = clock_now_ns();
    m->push_bytes += m->push_left;
    bucket_spend(&m->bucket, m->push_left, m->push_began_ns);
    return m->push_left > 0;
}

/* Pushes as much as the connection takes, and never waits for it: what the target says in between may be that it
 * needs no more. */
void migrate_push(struct migration *m)
{
    struct err err;
    size_t sent;

    if (m->push_left == 0 && !make_section(m)) {
        m->pushing = false;
        return;
    }
    int rc = link_send_some(&m->wire.link, m->push_at, m->push_left, &sent, &err);
    if (rc) {
        migrate_connection_failed(m, rc, &err);
        return;
    }
    m->push_at += sent;
    m->push_left -= sent;
    if (m->push_left == 0)
        m->push_ns += clock_now_ns() - m->push_began_ns;
    tell_pushed(m);
}

void migrate_push_watch(struct migration *m)
{
    struct page_count count;
    struct err err = { 0 };
    int rc = lanes_out_end(&m->lanes, &count, &err);
    if (rc == -EAGAIN) {
        lanes_out_tune(&m->lanes);
        tell_pushed(m);
        return;
    }
    m->sender = SENDER_NONE;
    page_count_add(&m->pushed, &count);
    m->lane_pages_bytes += count.bytes;
    if (rc && rc != -ECANCELED)
        migrate_lane_failed(m, &err);
}

/* So that a last word can be said: but the guest's owner waits for this process to end. */
void migrate_finish_section(struct migration *m)
{
    struct err err;
    if (m->push_left == 0 || m->wire.link.fd < 0)
        return;
    m->wire.link.until_ns = clock_now_ns() + CLOCK_SECOND;
    if (link_send(&m->wire.link, m->push_at, m->push_left, &err) == 0)
        m->push_left = 0;
    m->pushing = false;
}

/* The lane's thread has ended by itself: with the lane goes the connection. A target that gives up closes both, and what it
 * says before on the other one says more. */
void migrate_lane_lost(struct migration *m)
{
    struct err err = m->serve->lost;
    if (link_wait(&m->wire.link, LAST_WORD_MS) == 0)
        return;
    log_event(LOG_WARN, "move.urgent", "%s", err.text);
    migrate_connection_failed(m, -ECONNRESET, &err);
}

/* What was sent after the guest had gone. */
void migrate_bill_serving(struct migration *m)
{
    const struct serve *s = m->serve;
    const struct page_count *n = &m->pushed;
    page_count_add(&m->pushed, &m->push_maker.count);
    uint64_t unsent = MIN(m->unsent_bytes, n->data_bytes); /* given up with a lost connection */
    uint64_t zero_bytes = n->zero_runs * PAGES_RUN_BYTES, sent_bytes = n->data_bytes - unsent;
    uint64_t again_bytes = MIN(n->data_again_bytes, sent_bytes);
    uint64_t data = s->answered_data, again = s->answered_data_again;
    uint64_t zero = s->answered_zero + s->answered_zero_again;
    bill_bytes(m->bill, BILL_BYTES_PAGE_DATA, sent_bytes - again_bytes + data * PAGE_BYTES);
    bill_bytes(m->bill, BILL_BYTES_REPEATED, again_bytes + again * PAGE_BYTES);
    bill_bytes(m->bill, BILL_BYTES_ZERO_RANGES, zero_bytes);
    bill_bytes(m->bill, BILL_BYTES_PROTOCOL,
               n->bytes - n->data_bytes - zero_bytes + (data + again + zero) * URGENT_HEAD_BYTES);
    bill_pages(m->bill, BILL_PAGES_DATA, n->data - n->data_again + data);
    bill_pages(m->bill, BILL_PAGES_ZERO, n->zero - n->zero_again + s->answered_zero);
    bill_pages(m->bill, BILL_PAGES_FREE, n->free - n->free_again);
    bill_pages_again(m->bill, n->data_again + again + n->zero_again + s->answered_zero_again);
    bill_pages_freed_later(m->bill, n->free_again);
    page_bill_classes(m->bill, n, &m->push_pages);
    struct bill_faults faults = { .answered = data + again + zero,
                                  .late = s->late,
                                  .known = m->engine.state == SOURCE_DONE && !m->engine.reason };
    const struct message_pulled *p = &m->engine.pulled;
    faults.absent = p->absent;
    faults.missing = p->missing;
    faults.count = p->faults;
    faults.requested = p->requested;
    faults.pushed = p->pushed;
    faults.duplicates = p->duplicates;
    faults.interrupted = p->interrupted;
    faults.stranded_ns = p->stranded_ns;
    faults.p50_ns = p->p50_ns;
    faults.p90_ns = p->p90_ns;
    faults.p99_ns = p->p99_ns;
    faults.max_ns = p->max_ns;
    memcpy(faults.bucket, p->bucket, sizeof(faults.bucket));
    bill_faults_set(m->bill, &faults);
}
