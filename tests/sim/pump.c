/* The pumps of both hosts: what an engine asks for, done in simulated time, and checked. */
#include "world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t work_ns(struct world *w)
{
    return 10000 + world_random(w, 3 * CLOCK_MSEC);
}

/* Local work that may hang, as told to. */
static struct pending *work(struct world *w, enum side side)
{
    struct host *host = &w->host[side];
    bool hang = host->hang;
    host->hang = false;
    return world_plan(w, side == SIDE_SOURCE ? P_SOURCE : P_TARGET, side,
                      hang ? 400 * CLOCK_SECOND : work_ns(w));
}

static void note_point(struct world *w, uint16_t what)
{
    if (w->points < ARRAY_LEN(w->point))
        w->point[w->points] = what;
    w->points++;
}

static void send_message(struct world *w, enum side side, const struct move_action *action)
{
    unsigned n;
    struct buf bytes = { 0 };
    struct item item = { 0 };

    if (!world_link(w, side, action->conn, &n))
        return;
    if (action->message->type == MESSAGE_COMMIT)
        CHECK(w, w->host[SIDE_SOURCE].disk.record == RECORD_HANDED,
              "COMMIT without a durable record");
    world_trace(w, "  %s sends %s", side == SIDE_SOURCE ? "source" : "target",
                message_name(action->message->type));
    message_encode(action->message, &bytes);
    if (section_decode(bytes.data, &item.section, NULL) != 0)
        world_broken(w, "a message that is no section");
    item.body = malloc(item.section.length + 1);
    memcpy(item.body, bytes.data + STREAM_SECTION_BYTES, item.section.length);
    if (w->flip && item.section.length) {
        item.body[world_random(w, item.section.length)] ^= (uint8_t)(1u << world_random(w, 8));
        w->flip = false;
        w->corrupted = true;
    }
    buf_free(&bytes);
    world_send(w, n, side, item);
    note_point(w, action->message->type);
}

static void send_sections(struct world *w, uint32_t conn, const uint16_t *types, unsigned count,
                          uint64_t pages)
{
    unsigned n;
    if (!world_link(w, SIDE_SOURCE, conn, &n))
        return;
    for (unsigned i = 0; i < count; i++)
        world_send(w, n, SIDE_SOURCE,
                   (struct item){ .section.type = types[i], .pages = pages / count });
}

static void do_connect(struct world *w, uint32_t conn)
{
    if (w->links == LINKS_MAX) {
        fprintf(stderr, "sim: too many connections\n");
        abort();
    }
    unsigned n = w->links++;
    struct link *link = &w->link[n];
    memset(link, 0, sizeof(*link));
    link->open[SIDE_SOURCE] = true;
    link->conn[SIDE_SOURCE] = conn;
    link->life[SIDE_SOURCE] = w->host[SIDE_SOURCE].life;
    if (w->now_ns < w->net_down_until_ns && world_random(w, 2))
        return; /* no answer at all */
    world_plan(w, P_CONNECT, SIDE_SOURCE, work_ns(w))->link = n;
}

static unsigned count_of(uint64_t set)
{
    return (unsigned)__builtin_popcountll(set);
}

static uint64_t random_set(struct world *w, uint64_t of, unsigned most)
{
    uint64_t set = 0;
    while (of && most-- > 0) {
        uint64_t page = UINT64_C(1) << world_random(w, GUEST_PAGES);
        set |= page & of;
    }
    return set ? set : of & (~of + 1);
}

/* The last round of post-copy: what the target lacks, in two sections. */
static void send_absent_round(struct world *w, const struct move_action *action)
{
    uint64_t low = (UINT64_C(1) << GUEST_PAGES / 2) - 1, all = (UINT64_C(1) << GUEST_PAGES) - 1;
    uint64_t set = world_random(w, 16) ? random_set(w, all, 2 * GUEST_PAGES) : 0;
    unsigned n;
    CHECK(w, !w->source_runs, "pages are named while the guest runs");
    CHECK(w, w->source.urgent, "post-copy without the urgent lane");
    w->unsent = set;
    if (world_link(w, SIDE_SOURCE, action->conn, &n))
        for (int half = 0; half < 2; half++) {
            uint64_t part = half ? set & ~low : set & low;
            struct item item = { .section.type = SECTION_ABSENT, .set = part };
            world_send(w, n, SIDE_SOURCE, item);
            note_point(w, SECTION_ABSENT);
        }
    struct source_event *event = &work(w, SIDE_SOURCE)->source;
    event->kind = SOURCE_ROUND_SENT;
    event->conn = action->conn;
    event->round.pages = count_of(set);
}

static void end_round(struct world *w)
{
    for (unsigned i = 0; i < w->pending_count; i++) {
        struct pending *p = &w->pending[i];
        if (p->kind == P_SOURCE && p->source.kind == SOURCE_ROUND_SENT)
            p->due = MIN(p->due, w->now_ns + 1000);
    }
}

/* One more connection, beside link `of`. */
static struct link *open_lane(struct world *w, unsigned of)
{
    unsigned n = w->links++;
    if (n >= LINKS_MAX) {
        fprintf(stderr, "sim: too many connections\n");
        abort();
    }
    struct link *link = &w->link[n];
    memset(link, 0, sizeof(*link));
    link->open[SIDE_SOURCE] = link->lane[SIDE_SOURCE] = true;
    link->of = of;
    link->conn[SIDE_SOURCE] = UINT32_MAX - n;
    link->life[SIDE_SOURCE] = w->host[SIDE_SOURCE].life;
    world_plan(w, P_CONNECT, SIDE_SOURCE, work_ns(w))->link = n;
    return link;
}

static void open_urgent(struct world *w, uint32_t conn)
{
    unsigned of;
    if (!world_link(w, SIDE_SOURCE, conn, &of) || !w->link[of].open[SIDE_SOURCE])
        return;
    if (w->told_conn == conn) {
        CHECK(w, (w->told & ~w->absent) == 0 || w->source.state != SOURCE_SERVING,
              "the target asks for what it has");
        w->unsent = w->told;
    }
    (void)open_lane(w, of);
    note_point(w, POINT_URGENT);
}

static void push(struct world *w, uint32_t conn)
{
    unsigned n, lanes = (unsigned)world_random(w, 4);
    CHECK(w, w->source.urgent, "the rest is pushed while nobody answers faults");
    if (!world_link(w, SIDE_SOURCE, conn, &n) || !w->link[n].open[SIDE_SOURCE])
        return;
    w->pushing = n + 1;
    if (lanes == 0)
        world_plan(w, P_PUSH, SIDE_SOURCE, work_ns(w))->link = n;
    while (lanes-- > 0)
        open_lane(w, n)->bulk = true;
}

void world_push(struct world *w, unsigned n)
{
    struct link *link = &w->link[n];
    unsigned beside = link->bulk ? link->of : n;
    if (w->pushing != beside + 1 || !link->open[SIDE_SOURCE])
        return;
    if (w->unsent) {
        uint64_t set = random_set(w, w->unsent, 6);
        w->unsent &= ~set;
        world_send(w, n, SIDE_SOURCE, (struct item){ .section.type = SECTION_PAGES, .set = set });
        note_point(w, SECTION_PAGES);
        world_plan(w, P_PUSH, SIDE_SOURCE, work_ns(w))->link = n;
        world_source(w, &(struct source_event){ .kind = SOURCE_PROGRESS,
                                                .conn = w->link[beside].conn[SIDE_SOURCE] });
    }
}

/* Asks the source for pages, if there is a lane; what is wanted is asked for again on a new one. */
void world_ask(struct world *w, uint64_t set)
{
    unsigned of, n;
    w->wanted |= set;
    if (!w->target.conn || !world_link(w, SIDE_TARGET, w->target.conn, &of) ||
        !world_lane(w, of, SIDE_TARGET, &n))
        return;
    for (; set; set &= set - 1) {
        world_send(w, n, SIDE_TARGET,
                   (struct item){ .section.type = REQUEST, .set = set & (~set + 1) });
        note_point(w, REQUEST);
    }
}

/* The guest at the target reads a page, if it can; else it waits for it, and other vCPUs go on. */
void world_touch(struct world *w)
{
    if (!w->target_runs || !(w->absent & ~w->wanted) || w->touches == 0)
        return;
    w->touches--;
    uint64_t page = UINT64_C(1) << world_random(w, GUEST_PAGES);
    if (page & w->absent & ~w->wanted)
        world_ask(w, page);
    (void)world_plan(w, P_TOUCH, SIDE_TARGET, work_ns(w));
}

static void answer(struct world *w, unsigned n, uint64_t page)
{
    if (!(w->unsent & page) || !w->link[n].open[SIDE_SOURCE])
        return; /* on its way already */
    CHECK(w, w->source_has && !w->source_runs, "a page of a guest that is not paused is served");
    w->unsent &= ~page;
    world_send(w, n, SIDE_SOURCE, (struct item){ .section.type = REPLY, .set = page });
    note_point(w, REPLY);
}

static void all_in(struct world *w)
{
    static const struct message_pulled pulled;
    bool pulling = w->target.state == TARGET_PULLING || w->target.state == TARGET_STRANDED;
    if (!w->absent && pulling)
        world_target(w, &(struct target_event){ .kind = TARGET_PULLED, .pulled = &pulled });
}

static void place(struct world *w, uint64_t set)
{
    CHECK(w, (set & ~w->absent) == 0, "a page came twice");
    w->absent &= ~set;
    w->wanted &= ~set;
    all_in(w);
}

static void take_lane(struct world *w, uint32_t conn)
{
    unsigned n, of;
    if (!world_link(w, SIDE_TARGET, conn, &n) || !world_link(w, SIDE_TARGET, w->target.conn, &of))
        return;
    w->link[n].lane[SIDE_TARGET] = true;
    w->link[n].of = of;
    world_ask(w, w->wanted & w->absent);
}

static void send_message(struct world *w, enum side side, const struct move_action *action);

static void send_absent(struct world *w, uint32_t conn)
{
    unsigned n, lane;
    if (!world_link(w, SIDE_TARGET, conn, &n))
        return;
    for (lane = 0; lane < w->links; lane++)
        CHECK(w, !w->link[lane].lane[SIDE_TARGET] || !w->link[lane].open[SIDE_TARGET],
              "pages are named that may be under way");
    world_send(w, n, SIDE_TARGET,
               (struct item){ .section.type = SECTION_ABSENT, .set = w->absent });
    note_point(w, SECTION_ABSENT);
    struct message pull = { .type = MESSAGE_PULL, .pull.pages = count_of(w->absent) };
    memcpy(pull.pull.token, w->target.hello.token, sizeof(pull.pull.token));
    send_message(w, SIDE_TARGET,
                 &(struct move_action){ .kind = ACTION_SEND, .conn = conn, .message = &pull });
}

static void send_round(struct world *w, const struct move_action *action)
{
    if (action->round.kind == ROUND_ABSENT) {
        send_absent_round(w, action);
        return;
    }
    bool last = action->round.kind == ROUND_PAUSED;
    static const uint16_t types[] = { SECTION_PAGES, SECTION_PAGES };
    uint64_t pages = w->left_pages & ~UINT64_C(1);
    send_sections(w, action->conn, types, ARRAY_LEN(types), pages);
    w->left_pages = last ? 0 : pages / (2 + world_random(w, 7));
    CHECK(w, !last || !w->source_runs, "the last round while the guest runs");

    if (!last && w->source.config.policy.max_time_ns) { /* seen on the way, or late */
        struct source_event *look = &work(w, SIDE_SOURCE)->source;
        look->kind = SOURCE_PROGRESS;
        look->conn = action->conn;
        look->round.pages = look->round.left_pages = pages / 2;
        look->round.bytes = pages / 2 * 4096;
    }
    struct source_event *event = &work(w, SIDE_SOURCE)->source;
    event->kind = SOURCE_ROUND_SENT;
    event->conn = action->conn;
    event->round.pages = pages;
    event->round.bytes = pages * 4096;
    event->round.left_pages = w->left_pages;
}

static void send_state(struct world *w, const struct move_action *action)
{
    static const uint16_t types[] = { SECTION_VM, SECTION_VCPU, SECTION_SERIAL };
    send_sections(w, action->conn, types, ARRAY_LEN(types), 0);
    w->sent_version = w->version;
    CHECK(w, !w->source_runs && w->source_has, "device state of a guest that is not paused");
    struct source_event *event = &work(w, SIDE_SOURCE)->source;
    event->kind = SOURCE_STATE_SENT;
    event->conn = action->conn;
    event->sections = ARRAY_LEN(types);
}

static void write_record(struct world *w, enum side side, enum move_record record)
{
    struct disk *disk = &w->host[side].disk;
    CHECK(w, disk->writing == 0, "two record writes at once");
    disk->writing = record;
    if (record == RECORD_HANDED)
        memcpy(disk->store, w->source.store, sizeof(disk->store));
    note_point(w, 0);
    (void)world_plan(w, P_DISK, side, CLOCK_MSEC + world_random(w, 8 * CLOCK_MSEC));
}

static void set_timer(struct world *w, enum side side, uint64_t at_ns)
{
    w->host[side].timer_ns = at_ns;
    if (at_ns == CLOCK_NEVER)
        return;
    if (at_ns < w->now_ns)
        w->host[side].timer_ns = at_ns = w->now_ns;
    (void)world_plan(w, P_TIMER, side, at_ns - w->now_ns);
}

static void close_conn(struct world *w, enum side side, uint32_t conn)
{
    unsigned n;
    if (world_link(w, side, conn, &n))
        world_close(w, n, side);
}

static void resume_source(struct world *w)
{
    const struct disk *disk = &w->host[SIDE_SOURCE].disk;
    CHECK(w, w->source_has, "the source resumes a guest it has not");
    CHECK(w, !w->target_ran, "the source runs the guest after the target did");
    CHECK(w, disk->record == RECORD_HERE && disk->writing != RECORD_HANDED,
          "the source resumes while its record says handed");
    CHECK(w, w->host[SIDE_TARGET].disk.record != RECORD_HERE || w->person,
          "the source resumes while the target's record says that it owns the guest");
    w->unsent = 0; /* whatever is still asked for */
    if (!w->source_runs)
        w->version++;
    w->source_runs = true;
}

static void release_source(struct world *w)
{
    CHECK(w, !w->source_runs, "the source releases a running guest");
    CHECK(w, w->target_owned, "released, and the target does not own it");
    CHECK(w, !w->target_runs || !w->absent || w->abandoned,
          "released while the target lacks pages");
    w->source_has = false;
}

static void run_target(struct world *w)
{
    CHECK(w, w->host[SIDE_TARGET].disk.record == RECORD_HERE,
          "the target runs without a durable record");
    CHECK(w, w->target_has && w->loaded_version == w->version,
          "the target runs a stale or no copy");
    CHECK(w, w->commit_delivered, "the target runs without COMMIT");
    CHECK(w, !w->target_ran, "the target runs twice");
    w->target_runs = w->target_ran = true;
    struct pending *p = world_plan(w, P_TARGET, SIDE_TARGET, work_ns(w));
    static const struct message_activated activated = { .resume_ns = 5 };
    CHECK(w, !w->absent || w->target.post_copy, "the target runs on less than all memory");
    world_touch(w);
    p->target.kind = TARGET_RUNNING;
    p->target.activated = &activated;
}

static void discard_target(struct world *w)
{
    CHECK(w, !w->target_ran || !w->target_has, "the target discards a guest that it ran");
    w->target_has = false;
}

/* The process ends: the source must not need it any more. One that was not in this move is followed by
 * another, as on any host that receives. */
static void end_target(struct world *w)
{
    struct host *host = &w->host[SIDE_TARGET];
    w->listening = false;
    if (memcmp(w->target.hello.token, w->source.config.hello.token, MOVE_TOKEN_BYTES) == 0)
        return;
    for (unsigned n = 0; n < w->links; n++)
        if (w->link[n].life[SIDE_TARGET] == host->life)
            world_close(w, n, SIDE_TARGET);
    host->alive = false;
    host->life++;
    (void)world_plan(w, P_RESTART, SIDE_TARGET, CLOCK_SECOND);
}

static const struct message_verdict verdict_ok = { .ok = 1 };
static const struct message_verdict verdict_no = {
    .reason_count = 1,
    .reason = { { .code = REASON_MEMORY, .fact = "memory", .text = "too little" } }
};
static const struct err no = { .code = ENOMEM, .fault = ERR_HOST, .text = "no" };

static void target_work(struct world *w, enum target_event_kind kind)
{
    struct target_event *event = &work(w, SIDE_TARGET)->target;
    event->kind = kind;
    if (kind == TARGET_CHECKED)
        event->verdict = w->refuse ? &verdict_no : &verdict_ok;
    else
        event->why = w->refuse ? &no : NULL;
    w->refuse = false;
}

static const char *state_name(enum side side, uint8_t state)
{
    return side == SIDE_SOURCE ? source_state_name(state) : target_state_name(state);
}

static void trace_action(struct world *w, enum side side, const struct move_action *action)
{
    const char *who = side == SIDE_SOURCE ? "source" : "target";
    if (action->kind == ACTION_EMIT)
        world_trace(w, "  %s: %s -> %s %s: %s", who, state_name(side, action->emit.from),
                    state_name(side, action->emit.to),
                    action->emit.reason ? move_reason_name(action->emit.reason) : "well",
                    action->emit.text);
    else if (action->kind != ACTION_SEND && action->kind != ACTION_SET_TIMER)
        world_trace(w, "  %s asks %s", who, move_action_name(action->kind));
}

static void hear(struct world *w, enum side side, const struct move_action *action)
{
    enum move_reason reason = action->emit.reason;

    CHECK(w, reason != REASON_BUG, "reason bug: %s", action->emit.text);
    CHECK(w, reason != REASON_SPLIT, "reason split");
    CHECK(w, reason != REASON_SOURCE_LOST || w->host[SIDE_SOURCE].crashed || w->abandoned,
          "the source is said to be lost");
    CHECK(w, side != SIDE_TARGET || action->emit.to != TARGET_ACTIVE || !w->absent,
          "the target thinks that it has all pages");
    CHECK(w, reason != REASON_PROTOCOL || w->corrupted || w->strangers,
          "honest engines disagree: %s", action->emit.text);
    if (side == SIDE_SOURCE && action->emit.from != action->emit.to) {
        if (action->emit.to == SOURCE_WITHDRAWING)
            w->withdraw_ns = w->now_ns;
        if (action->emit.to == SOURCE_FAILED)
            w->failed_ns = w->now_ns;
    }
}

static void act(struct world *w, enum side side, const struct move_action *action)
{
    static const uint16_t description[] = { SECTION_MACHINE, SECTION_CPUID };

    trace_action(w, side, action);
    switch (action->kind) {
    case ACTION_SEND:
        send_message(w, side, action);
        break;
    case ACTION_CLOSE:
        close_conn(w, side, action->conn);
        break;
    case ACTION_WRITE_RECORD:
        write_record(w, side, action->record);
        break;
    case ACTION_SET_TIMER:
        set_timer(w, side, action->at_ns);
        break;
    case ACTION_EMIT:
        hear(w, side, action);
        break;
    case ACTION_CONNECT:
        do_connect(w, action->conn);
        break;
    case ACTION_SEND_DESCRIPTION:
        send_sections(w, action->conn, description, 2, 0);
        break;
    case ACTION_SEND_ROUND:
        send_round(w, action);
        break;
    case ACTION_END_ROUND:
        end_round(w);
        break;
    case ACTION_OPEN_URGENT:
        open_urgent(w, action->conn);
        break;
    case ACTION_PUSH:
        push(w, action->conn);
        break;
    case ACTION_PREPARE_GUEST:
        CHECK(w, w->source_runs && w->prepared++ == 0, "the guest is prepared once, while it runs");
        work(w, SIDE_SOURCE)->source.kind = SOURCE_GUEST_PREPARED;
        note_point(w, POINT_AGENT);
        break;
    case ACTION_THROTTLE:
        CHECK(w, w->source_runs, "a guest that stands still is to be slowed");
        break;
    case ACTION_PAUSE_GUEST:
        w->source_runs = false;
        work(w, SIDE_SOURCE)->source.kind = SOURCE_PAUSED;
        break;
    case ACTION_SEND_STATE:
        send_state(w, action);
        break;
    case ACTION_RESUME_GUEST:
        resume_source(w);
        break;
    case ACTION_RELEASE:
        release_source(w);
        break;
    case ACTION_CHECK:
        target_work(w, TARGET_CHECKED);
        break;
    case ACTION_RESERVE:
        target_work(w, TARGET_RESERVED_DONE);
        break;
    case ACTION_LOAD:
        w->target_has = true;
        w->loaded_version = w->sent_version;
        if (w->absent && world_random(w, 2)) /* loading registers touches memory */
            world_ask(w, random_set(w, w->absent, 2));
        target_work(w, TARGET_LOADED);
        break;
    case ACTION_RUN_GUEST:
        run_target(w);
        break;
    case ACTION_DISCARD:
        discard_target(w);
        break;
    case ACTION_END:
        if (w->target.state == TARGET_GONE)
            end_target(w);
        break;
    case ACTION_TAKE_LANE:
        take_lane(w, action->conn);
        break;
    case ACTION_SEND_ABSENT:
        send_absent(w, action->conn);
        break;
    case ACTION_KIND_MAX:
        world_broken(w, "no such action");
        break;
    }
}

static void carry_out(struct world *w, enum side side)
{
    /* Actions cause no event at once here, so the list stays as it is. */
    for (unsigned i = 0; i < w->actions.count && !w->broken; i++)
        act(w, side, &w->actions.action[i]);
}

void world_source(struct world *w, const struct source_event *event)
{
    struct err err = { 0 };
    world_trace(w, "source <- %s%s%s", source_event_name(event->kind), event->message ? " " : "",
                event->message ? message_name(event->message->type) : "");
    int rc = source_step(&w->source, event, w->now_ns, &w->actions, &err);
    if (rc)
        world_trace(w, "  source refuses: %s", err.text);
    CHECK(w, rc == 0 || err.code == -rc, "an error without its reason");
    carry_out(w, SIDE_SOURCE);
}

void world_target(struct world *w, const struct target_event *event)
{
    struct err err = { 0 };
    world_trace(w, "target <- %s%s%s", target_event_name(event->kind), event->message ? " " : "",
                event->message ? message_name(event->message->type) : "");
    int rc = target_step(&w->target, event, w->now_ns, &w->actions, &err);
    if (rc)
        world_trace(w, "  target refuses: %s", err.text);
    CHECK(w, rc == 0 || err.code == -rc, "an error without its reason");
    carry_out(w, SIDE_TARGET);
    if (event->kind == TARGET_RUNNING)
        all_in(w);
}

/* The target's answer on the new lane: the same message, or it is not wanted there. */
static void lane_says(struct world *w, unsigned n, const struct message *message,
                      const struct err *bad)
{
    struct link *link = &w->link[n], *main = &w->link[link->of];
    struct source_event event = { .kind = SOURCE_URGENT_OPEN, .conn = main->conn[SIDE_SOURCE] };
    struct err why = { .code = EBUSY, .fault = ERR_PEER, .text = "the lane was refused" };
    if (!link->open[SIDE_SOURCE] || !main->open[SIDE_SOURCE])
        return;
    if (bad || message->type != MESSAGE_LANE) {
        event.kind = SOURCE_LOST;
        event.why = &why;
        world_close(w, link->of, SIDE_SOURCE);
    }
    world_source(w, &event);
}

static void deliver_source(struct world *w, uint32_t conn, const struct message *message,
                           const struct err *bad)
{
    struct source_event event = { .kind = SOURCE_MESSAGE, .conn = conn, .message = message };
    if (bad)
        event = (struct source_event){ .kind = SOURCE_BAD_BYTES, .conn = conn, .why = bad };
    world_source(w, &event);
}

static void deliver_target(struct world *w, uint32_t conn, const struct item *item,
                           const struct message *message, const struct err *bad)
{
    struct target_event event = { .kind = TARGET_MESSAGE, .conn = conn, .message = message };
    if (bad) {
        event = (struct target_event){ .kind = TARGET_BAD_BYTES, .conn = conn, .why = bad };
    } else if (message) {
        bool ours =
            message->type == MESSAGE_RESOLVE &&
            memcmp(message->resolve.token, w->source.config.hello.token, MOVE_TOKEN_BYTES) == 0;
        event.token_recorded = ours && w->host[SIDE_TARGET].disk.record == RECORD_HERE;
        w->commit_delivered |= message->type == MESSAGE_COMMIT && conn == w->target.conn;
    } else {
        event = (struct target_event){ .kind = TARGET_SECTION,
                                       .conn = conn,
                                       .section = item->section.type };
    }
    uint64_t stale = w->target.stale;
    bool ours = conn == w->target.conn;
    world_target(w, &event);
    ours &= conn == w->target.conn && stale == w->target.stale;
    if (message || bad || !ours) {
        all_in(w);
        return;
    }
    if (item->section.type == SECTION_ABSENT && w->target.state == TARGET_RECEIVING) {
        w->absent |= item->set;
        world_target(w, &(struct target_event){
                            .kind = TARGET_PAGES_OK, .conn = conn, .pages = count_of(item->set) });
    } else if (item->section.type == SECTION_PAGES && w->target.state == TARGET_PULLING) {
        place(w, item->set);
    } else if (item->section.type == SECTION_PAGES && w->target.state == TARGET_RECEIVING &&
               conn == w->target.conn)
        world_target(w, &(struct target_event){
                            .kind = TARGET_PAGES_OK, .conn = conn, .pages = item->pages });
}

/* What comes on a lane that pushes: the target's pump takes one beside the connection in use only, and what it brings
 * at once. */
static void deliver_bulk(struct world *w, struct link *link, const struct item *item)
{
    unsigned n = (unsigned)(link - w->link), main, urgent;
    if (item->section.type == BULK) {
        bool known = w->target.conn && world_link(w, SIDE_TARGET, w->target.conn, &main) &&
                     main == item->pages && world_lane(w, main, SIDE_TARGET, &urgent);
        link->lane[SIDE_TARGET] = known;
        if (!known)
            world_close(w, n, SIDE_TARGET);
    } else if (link->lane[SIDE_TARGET] && link->open[SIDE_TARGET]) {
        place(w, item->set);
        world_target(w, &(struct target_event){ .kind = TARGET_PROGRESS, .conn = w->target.conn });
    }
}

void world_deliver(struct world *w, enum side side, unsigned n, struct item *item)
{
    struct link *link = &w->link[n];
    struct message message, *decoded = NULL;
    struct err err = { 0 }, *bad = NULL;

    bool heard = link->open[side] || (link->sloppy[side] && world_random(w, 4) == 0);
    if (!heard || link->life[side] != w->host[side].life || (side == SIDE_SOURCE && link->stranger))
        return;
    if (link->bulk && side == SIDE_TARGET) {
        deliver_bulk(w, link, item);
        return;
    }
    if (message_is(item->section.type)) {
        int rc = section_check_body(&item->section, item->body, &err);
        if (!rc)
            rc = message_decode(&item->section, item->body, &message, &err);
        CHECK(w, !rc || w->corrupted, "an engine sent what no engine reads: %s", err.text);
        if (rc)
            bad = &err;
        else
            decoded = &message;
    }
    if (item->section.type == REQUEST) {
        answer(w, n, item->set);
        return;
    }
    if (item->section.type == REPLY) {
        if (link->open[side])
            place(w, item->set);
        return;
    }
    if (side == SIDE_SOURCE && item->section.type == SECTION_ABSENT) {
        w->told = item->set;
        w->told_conn = link->conn[side];
        return;
    }
    if (side == SIDE_SOURCE && link->lane[side]) {
        lane_says(w, n, decoded, bad);
        return;
    }
    if (side == SIDE_SOURCE)
        deliver_source(w, link->conn[side], decoded, bad);
    else
        deliver_target(w, link->conn[side], item, decoded, bad);
}
