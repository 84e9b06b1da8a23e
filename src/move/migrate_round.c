/*
 * The rounds of the source's pump: who sends them, and what is made of the result.
 *
 * Without lanes, or when there are few pages, the pump's own thread sends a round on the control connection, in
 * slices of one section, so that messages and orders are seen within one section's time. Otherwise the lanes
 * send it (lanes_out.h) and the pump only watches.
 *
 * When a lane fails, all are given up. Mostly the target ended the move and says so on the control connection:
 * its word is better than a broken pipe, so it gets LANE_GRACE_NS to arrive.
 */
#include "base/log.h"
#include "move/migrate_impl.h"
#include "move/page_bill.h"
#include "state/pages.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define LANE_GRACE_NS CLOCK_SECOND

static bool want_lanes(const struct migration *m)
{
    return m->engine.lanes > 0 && m->round_pages > LANES_OUT_FEW_PAGES;
}

/* The limit may be changed at any time, and be another one while the guest stands still. */
void migrate_follow_limit(struct migration *m)
{
    uint64_t limit = *m->request->bandwidth;
    if (m->last_round && m->request->bandwidth_paused != MIGRATE_BANDWIDTH_SAME)
        limit = m->request->bandwidth_paused;
    if (m->round_rate && (limit == 0 || m->round_rate < limit))
        limit = m->round_rate;
    if (limit != m->limit)
        bucket_set(&m->bucket, limit, clock_now_ns());
    m->limit = limit;
    m->progress.limit_bytes_per_s = limit;
}

int migrate_lanes_start(struct migration *m, struct page_source *source, struct page_memo *memo)
{
    struct lanes_out_config config = { .address = m->target,
                                       .trust = m->env->trust,
                                       .insecure = m->env->insecure,
                                       .beside = migrate_beside(m),
                                       .granted = m->engine.lanes,
                                       .wanted = m->request->lanes == MIGRATE_LANES_AUTO
                                                     ? LANES_OUT_AUTO
                                                     : m->request->lanes,
                                       .stall_limit_ns = m->request->stall_limit_ns,
                                       .meter = m->env->meter,
                                       .bucket = &m->bucket,
                                       .memo = memo,
                                       .packing = m->request->packing,
                                       .page_forms = m->engine.page_forms };
    memcpy(config.token, m->engine.config.hello.token, sizeof(config.token));
    return lanes_out_init(&m->lanes, &config, source);
}

static bool fixed_rounds(const struct migration *m)
{
    return m->request->policy.kind == POLICY_CLARK05;
}

static int start_tracking(struct migration *m)
{
    struct machine *machine = m->env->machine;
    unsigned forms = m->engine.page_forms;
    int rc = dirty_start(&m->dirty, &machine->mem, machine->hv);
    if (rc)
        return rc;
    m->tracking = true;
    slowing_begin(&m->slowing, machine);
    page_source_init(&m->pages, &machine->mem, &m->dirty);
    page_memo_init(&m->memo, machine->mem.pages,
                   forms & PAGE_FORM_DELTA ? m->request->delta_bytes : 0, m->seed);
    if (fixed_rounds(m))
        rc = round_set_init(&m->set, &machine->mem, &m->dirty);
    return rc ? rc : page_maker_init(&m->maker, &m->pages, &m->memo, m->request->packing, forms);
}

static int begin_round(struct migration *m, uint32_t number)
{
    int rc = 0;
    if (!m->tracking)
        rc = start_tracking(m);
    if (!rc)
        rc = dirty_fetch(&m->dirty, &m->round_pages);
    if (!rc && fixed_rounds(m))
        rc = round_set_begin(&m->set, number == 1, m->round_began_ns);
    if (rc)
        return rc;
    page_source_begin(&m->pages, number == 1, fixed_rounds(m) ? &m->set : NULL);
    page_memo_begin(&m->memo, number);
    page_maker_begin(&m->maker, (uint16_t)number);
    m->progress.pages_left = m->round_pages;
    m->sent_before = m->progress.pages_sent;
    m->sender = SENDER_PUMP;
    if (want_lanes(m) && !m->lanes.source)
        rc = migrate_lanes_start(m, &m->pages, &m->memo);
    if (!rc && want_lanes(m)) {
        m->sender = SENDER_LANES;
        m->round_lane_bytes = lanes_out_bytes(&m->lanes);
        rc = lanes_out_begin(&m->lanes, (uint16_t)number, m->round_pages);
    }
    return rc;
}

void migrate_round_send(struct migration *m, uint32_t number, bool last, uint64_t rate)
{
    struct err err;
    m->round_rate = fixed_rounds(m) ? rate : 0; /* of goal it is the bandwidth, as it was */
    m->send_ns = 0;
    m->round_began_ns = clock_now_ns();
    m->last_round = last;
    m->progress.round = number;
    migrate_follow_limit(m);
    if (last)
        bill_downtime(m->bill, BILL_LAST_PAGES, m->round_began_ns);
    else if (machine_sync_disks(m->env->machine, &err))   /* leaves little to do in the pause, */
        log_event(LOG_WARN, "move.disk", "%s", err.text); /* which will tell if it must fail */
    int rc = begin_round(m, number);
    if (rc) {
        (void)err_errno(&err, ERR_HOST, -rc, "cannot follow the guest's writes");
        migrate_host_failed(m, &err);
    }
}

void migrate_round_cut(struct migration *m)
{
    if (m->tracking)
        page_source_stop(&m->pages);
}

/* The fastest way there and back that the control connection has shown; 0 = unknown. */
static uint64_t connection_rtt_ns(const struct migration *m)
{
    struct tcp_info info = { 0 };
    socklen_t len = sizeof(info);
    if (m->wire.link.fd < 0 ||
        getsockopt(m->wire.link.fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
        info.tcpi_min_rtt == UINT32_MAX)
        return 0;
    return (uint64_t)info.tcpi_min_rtt * 1000;
}

/* What the round was, for the bill. */
static void bill_it(struct migration *m, const struct page_count *n, uint64_t left, uint64_t now)
{
    bool first = m->progress.round == 1;
    uint64_t zero_bytes = n->zero_runs * PAGES_RUN_BYTES, data_bytes = n->data_bytes;
    bill_bytes(m->bill, first ? BILL_BYTES_PAGE_DATA : BILL_BYTES_REPEATED, data_bytes);
    bill_bytes(m->bill, BILL_BYTES_ZERO_RANGES, zero_bytes);
    bill_bytes(m->bill, BILL_BYTES_PROTOCOL, n->bytes - data_bytes - zero_bytes);
    if (first) {
        bill_pages(m->bill, BILL_PAGES_NEVER_TOUCHED, m->pages.untouched - m->pages.untouched_free);
        bill_pages(m->bill, BILL_PAGES_FREE, n->free + m->pages.untouched_free);
        bill_pages(m->bill, BILL_PAGES_ZERO, n->zero);
        bill_pages(m->bill, BILL_PAGES_DATA, n->data);
    } else {
        bill_pages_again(m->bill, page_count_sent(n) - n->free);
        bill_pages_freed_later(m->bill, n->free);
    }
    page_bill_classes(m->bill, n, &m->pages);
    struct bill_round round = { .paused = m->last_round,
                                .pages_data = n->data + n->delta,
                                .pages_zero = n->zero,
                                .pages_free = n->free + m->pages.untouched_free,
                                .pages_dirtied = left,
                                .bytes = n->bytes,
                                .began_ns = m->round_began_ns,
                                .duration_ns = now - m->round_began_ns };
    bill_round(m->bill, &round);
}

/* The round is in the connections: bill it, and see what the guest wrote meanwhile. */
static void end_round(struct migration *m, const struct page_count *n)
{
    uint64_t left = 0, now = clock_now_ns();

    bool by_lanes = m->sender == SENDER_LANES;
    m->sender = SENDER_NONE;
    if (m->progress.round == 1)
        m->visited = page_source_visited(&m->pages);
    int rc = m->last_round ? 0 : dirty_fetch(&m->dirty, &left);
    if (rc) {
        struct err err;
        (void)err_errno(&err, ERR_HOST, -rc, "cannot follow the guest's writes");
        migrate_host_failed(m, &err);
        return;
    }
    bill_it(m, n, left, now);
    if (by_lanes)
        m->lane_pages_bytes += n->bytes;
    m->progress.pages_left = left;
    m->progress.pages_sent = m->sent_before + m->pages.passed;
    m->progress.dirty_pages_per_s = left * CLOCK_SECOND / MAX(now - m->round_began_ns, UINT64_C(1));
    struct migrate_queued *q = migrate_enqueue(m, SOURCE_ROUND_SENT);
    q->event.round.pages = page_count_sent(n);
    q->event.round.bytes = n->bytes;
    q->event.round.left_pages = left;
    q->event.round.send_ns = by_lanes ? lanes_out_send_ns(&m->lanes) : m->send_ns;
    q->event.round.bandwidth = *m->request->bandwidth;
    q->event.round.rtt_ns = connection_rtt_ns(m);
    if (!m->last_round)
        slowing_measure(&m->slowing, left);
}

uint64_t migrate_round_left(struct migration *m)
{
    uint64_t left;
    if (m->engine.state != SOURCE_COPYING || m->sender != SENDER_NONE ||
        dirty_fetch(&m->dirty, &left))
        return 0;
    m->progress.pages_left = left;
    return left;
}

/* With what the round has measured so far, for a policy that has a time to keep. */
static void enqueue_progress(struct migration *m)
{
    struct migrate_queued *q = migrate_enqueue(m, SOURCE_PROGRESS);
    bool lanes = m->sender == SENDER_LANES;
    uint64_t taken, left;
    if (m->last_round || fixed_rounds(m) || !m->request->policy.max_time_ns)
        return;
    if (page_source_look(&m->pages, &taken, &left))
        return; /* the round's end will tell */
    q->event.round.pages = taken;
    q->event.round.bytes =
        lanes ? lanes_out_bytes(&m->lanes) - m->round_lane_bytes : m->maker.count.bytes;
    q->event.round.left_pages = left;
    q->event.round.send_ns = lanes ? lanes_out_send_ns(&m->lanes) : m->send_ns;
}

static void tell_progress(struct migration *m)
{
    uint64_t now = clock_now_ns(), lane_bytes = lanes_out_bytes(&m->lanes);
    uint64_t passed = m->pages.passed;
    if (now - m->progress_told_ns < MIGRATE_PROGRESS_NS)
        return;
    migrate_follow_limit(m);
    if (m->last_round)
        return;
    m->progress_told_ns = now;
    m->progress.pages_sent = m->sent_before + passed;
    m->progress.pages_left = m->round_pages - MIN(passed, m->round_pages);
    m->progress.bytes = m->wire.link.sent_bytes + lane_bytes;
    meter_span_tick(&m->span);
    move_progress_report(m->env, &m->progress, BILL_PRE_COPY);
}

uint64_t migrate_round_wait_ns(struct migration *m)
{
    uint64_t wait_ns = bucket_wait_ns(&m->bucket, clock_now_ns());
    return MIN(wait_ns, MIGRATE_PROGRESS_NS); /* the limit may be raised meanwhile */
}

void migrate_round_continue(struct migration *m)
{
    const uint8_t *bytes;
    size_t len;
    struct err err;

    if (!m->pages.stopped && bucket_wait_ns(&m->bucket, clock_now_ns())) {
        tell_progress(m);
        return; /* woken by something else */
    }
    page_maker_piece(&m->maker, bucket_piece(&m->bucket));
    int rc = page_maker_fill(&m->maker, &bytes, &len);
    if (rc) {
        (void)err_errno(&err, ERR_HOST, -rc, "cannot read the guest's memory");
        migrate_host_failed(m, &err);
        return;
    }
    if (len == 0) {
        end_round(m, &m->maker.count);
        return;
    }
    bucket_spend(&m->bucket, len, clock_now_ns());
    uint64_t began = clock_now_ns();
    rc = wire_send(&m->wire, bytes, len, &err);
    uint64_t spent_ns = clock_now_ns() - began;
    m->send_ns += spent_ns;
    m->maker.link_rate = len * CLOCK_SECOND / MAX(spent_ns, UINT64_C(1));
    if (m->limit)
        m->maker.link_rate = MIN(m->maker.link_rate, m->limit);
    if (rc) {
        migrate_connection_failed(m, rc, &err);
        return;
    }
    uint64_t told_ns = m->progress_told_ns;
    tell_progress(m);
    if (told_ns != m->progress_told_ns)
        enqueue_progress(m);
}

void migrate_lane_failed(struct migration *m, const struct err *err)
{
    m->lane_err = *err;
    m->lane_failed_ns = clock_now_ns();
}

static void lane_failed(struct migration *m, int rc, const struct err *err)
{
    m->sender = SENDER_NONE;
    if (rc == -ECANCELED)
        return;
    if (err->fault == ERR_HOST) {
        migrate_host_failed(m, err);
        return;
    }
    migrate_lane_failed(m, err);
}

void migrate_round_watch(struct migration *m)
{
    struct page_count count;
    struct err err = { 0 };

    int rc = lanes_out_end(&m->lanes, &count, &err);
    if (rc == 0) {
        end_round(m, &count);
    } else if (rc != -EAGAIN) {
        lane_failed(m, rc, &err);
    } else {
        lanes_out_tune(&m->lanes);
        tell_progress(m);
        uint64_t bytes = lanes_out_bytes(&m->lanes);
        if (bytes != m->told_bytes)
            enqueue_progress(m);
        m->told_bytes = bytes;
    }
}

uint64_t migrate_round_lost_at(const struct migration *m)
{
    return m->lane_failed_ns ? m->lane_failed_ns + LANE_GRACE_NS : CLOCK_NEVER;
}

void migrate_round_lost(struct migration *m)
{
    m->lane_failed_ns = 0;
    if (m->wire.link.fd < 0)
        return; /* the engine knows already */
    migrate_enqueue_why(m, SOURCE_LOST, &m->lane_err);
    migrate_close_wire(m);
}

/* Of a failed move this has also what no round was billed for. */
void migrate_round_bill(struct migration *m)
{
    if (m->lanes_billed)
        return;
    bill_limit(m->bill, m->limit);
    migrate_lanes_bill(m);
    m->lanes_billed = true;
}

void migrate_lanes_bill(struct migration *m)
{
    if (m->lanes_billed)
        return;
    uint64_t bytes = lanes_out_bytes(&m->lanes);
    for (unsigned i = 0; i < m->lanes.most; i++) {
        const struct lane_out *lane = &m->lanes.lane[i];
        bill_lane(m->bill, i, lane->sent_bytes);
        bill_wire(m->bill, lane->wire_sent_bytes, lane->wire_received_bytes);
    }
    /* The rest are greetings. Of a section that a lost lane was sending a part may be missing. */
    bill_bytes(m->bill, BILL_BYTES_PROTOCOL, bytes - MIN(bytes, m->lane_pages_bytes));
    m->lane_pages_bytes = 0;
}

void migrate_end_throttle(struct migration *m)
{
    slowing_end(&m->slowing);
    for (unsigned id = 0; id < m->env->machine->vcpus.count; id++)
        bill_held(m->bill, id, slowing_held_ns(&m->slowing, id));
}

void migrate_round_stop(struct migration *m)
{
    m->sender = SENDER_NONE;
    m->lane_failed_ns = 0;
    if (!m->tracking)
        return;
    migrate_round_bill(m);
    migrate_end_throttle(m);
    lanes_out_fini(&m->lanes);
    page_maker_fini(&m->maker);
    page_memo_fini(&m->memo);
    page_source_fini(&m->pages);
    round_set_fini(&m->set);
    dirty_stop(&m->dirty);
    m->tracking = false;
}
