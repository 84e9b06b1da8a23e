/* The source's pump in post-copy: what is said when the guest goes, and what is done after. */
#include "base/log.h"
#include "move/migrate_impl.h"
#include "state/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Post-copy: says which pages the target lacks, and keeps them. */
void migrate_send_absent(struct migration *m)
{
    CLEANUP_BUF struct buf out = { 0 };
    struct err err;
    uint64_t pages, untouched, left, began = clock_now_ns();
    bill_downtime(m->bill, BILL_LAST_PAGES, began);
    int rc = m->tracking ? dirty_fetch(&m->dirty, &left) : 0;
    if (!rc)
        rc = serve_list(m->serve, m->tracking ? &m->dirty : NULL, m->visited, &out, &pages,
                        &untouched);
    if (rc) {
        (void)err_errno(&err, ERR_HOST, -rc, "cannot list what the target lacks");
        migrate_host_failed(m, &err);
        return;
    }
    unsigned queued = m->queue_count;
    bill_pages(m->bill, BILL_PAGES_NEVER_TOUCHED, untouched);
    migrate_send_bytes(m, out.data, out.len, BILL_BYTES_PROTOCOL);
    m->progress.pages_left = pages;
    if (m->queue_count != queued || m->wire.link.mid_section)
        return;
    struct migrate_queued *q = migrate_enqueue(m, SOURCE_ROUND_SENT);
    q->event.round.pages = pages;
    q->event.round.bytes = out.len;
}

static int connect_urgent(struct migration *m, struct err *err)
{
    struct machine *machine = m->env->machine;
    struct wire lane;
    if (!m->serve) {
        m->serve = calloc(1, sizeof(*m->serve));
        int rc = m->serve ? serve_init(m->serve, &machine->mem, m->env->meter) : -ENOMEM;
        if (rc) {
            free(m->serve);
            m->serve = NULL;
            return err_errno(err, ERR_HOST, -rc, "cannot prepare for post-copy");
        }
    }
    int rc = urgent_connect(&lane, m->env, m->target, m->engine.config.hello.token,
                            m->request->stall_limit_ns, err);
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

/* Pushes as much as the connection takes, and never waits for it: what the target says in between may be that it
 * needs no more. */
void migrate_push(struct migration *m)
{
    struct err err;
    size_t sent;

    if (m->push_left == 0) {
        serve_next(m->serve, &m->push_at, &m->push_left);
        m->pushing = m->push_left > 0;
        if (!m->pushing)
            return;
    }
    int rc = link_send_some(&m->wire.link, m->push_at, m->push_left, &sent, &err);
    if (rc) {
        migrate_connection_failed(m, rc, &err);
        return;
    }
    m->push_at += sent;
    m->push_left -= sent;
    m->progress.bytes = m->wire.link.sent_bytes;
    uint64_t now = clock_now_ns();
    if (sent && now - m->progress_told_ns >= MIGRATE_PROGRESS_NS) {
        uint64_t left = serve_left(m->serve);
        m->progress_told_ns = now;
        m->progress.pages_sent += m->progress.pages_left - MIN(left, m->progress.pages_left);
        m->progress.pages_left = left;
        meter_span_tick(&m->span);
        move_progress_report(m->env, &m->progress, BILL_PULLING);
        (void)migrate_enqueue(m, SOURCE_PROGRESS);
    }
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

/* The lane's thread has ended by itself: with the lane goes the connection. */
void migrate_lane_lost(struct migration *m)
{
    struct err err = m->serve->lost;
    log_event(LOG_WARN, "move.urgent", "%s", err.text);
    migrate_connection_failed(m, -ECONNRESET, &err);
}

/* What was sent after the guest had gone. */
void migrate_bill_serving(struct migration *m)
{
    const struct serve *s = m->serve;
    const struct serve_count *n = &s->pushed;
    uint64_t zero_bytes = n->zero_runs * PAGES_RUN_BYTES, data_bytes = n->data * PAGE_BYTES;
    uint64_t data = s->answered_data, again = s->answered_data_again;
    uint64_t zero = s->answered_zero + s->answered_zero_again;
    bill_bytes(m->bill, BILL_BYTES_PAGE_DATA,
               data_bytes - n->data_again * PAGE_BYTES + data * PAGE_BYTES);
    bill_bytes(m->bill, BILL_BYTES_REPEATED, (n->data_again + again) * PAGE_BYTES);
    bill_bytes(m->bill, BILL_BYTES_ZERO_RANGES, zero_bytes);
    bill_bytes(m->bill, BILL_BYTES_PROTOCOL,
               n->bytes - data_bytes - zero_bytes + (data + again + zero) * URGENT_HEAD_BYTES);
    bill_pages(m->bill, BILL_PAGES_DATA, n->data - n->data_again + data);
    bill_pages(m->bill, BILL_PAGES_ZERO, n->zero - n->zero_again + s->answered_zero);
    bill_pages_again(m->bill, n->data_again + again + n->zero_again + s->answered_zero_again);
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
