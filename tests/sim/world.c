#include "world.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAL_NS (150 * CLOCK_SECOND) /* after this nothing goes wrong any more */
#define QUIET_NS (500 * CLOCK_SECOND)

const char *fault_name(enum fault_kind kind)
{
    static const char *const names[] = {
        "none",
        "cut",
        "cut-late",
        "silence",
        "mute-source",
        "mute-target",
        "crash-source",
        "crash-target",
        "reboot-source",
        "reboot-target",
        "cancel-source",
        "cancel-target",
        "disk-source",
        "disk-target",
        "disk-unknown-source",
        "disk-unknown-target",
        "net-down",
        "hang-source",
        "hang-target",
        "host-source",
        "host-target",
        "refuse",
        "flip",
        "stranger",
        "wipe-target",
        "cut-lane",
        "switch",
        "retry",
        "abandon",
    };
    _Static_assert(ARRAY_LEN(names) == FAULT_MAX, "one name a fault");
    return names[kind];
}

/* splitmix64 */
static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t world_random(struct world *w, uint64_t below)
{
    return mix(&w->random) % below;
}

void world_trace(struct world *w, const char *fmt, ...)
{
    if (!w->trace)
        return;
    va_list ap;
    va_start(ap, fmt);
    printf("%12.6f ", (double)w->now_ns / 1e9);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

void world_broken(struct world *w, const char *fmt, ...)
{
    if (w->broken)
        return;
    w->broken = true;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->why, sizeof(w->why), fmt, ap);
    va_end(ap);
    world_trace(w, "BROKEN: %s", w->why);
}

/* ---------------------------------------------------------------------------------------------- time */

struct pending *world_plan(struct world *w, enum pending_kind kind, enum side side,
                           uint64_t delay_ns)
{
    if (w->pending_count == PENDING_MAX) {
        fprintf(stderr, "sim: too much pending\n");
        abort();
    }
    struct pending *p = &w->pending[w->pending_count++];
    memset(p, 0, sizeof(*p));
    p->due = w->now_ns + delay_ns;
    p->order = w->order++;
    p->kind = kind;
    p->side = side;
    p->life = w->host[side].life;
    return p;
}

static struct pending take(struct world *w, unsigned i)
{
    struct pending p = w->pending[i];
    w->pending[i] = w->pending[--w->pending_count];
    return p;
}

static bool soonest(const struct world *w, unsigned *ret)
{
    for (unsigned i = 0; i < w->pending_count; i++) {
        const struct pending *p = &w->pending[i], *best = &w->pending[*ret];
        if (i == 0 || p->due < best->due || (p->due == best->due && p->order < best->order))
            *ret = i;
    }
    return w->pending_count > 0;
}

/* ------------------------------------------------------------------------------------------- network */

struct link *world_link(struct world *w, enum side side, uint32_t conn, unsigned *ret)
{
    for (unsigned i = w->links; i-- > 0;) {
        struct link *link = &w->link[i];
        if (link->conn[side] == conn && link->life[side] == w->host[side].life &&
            !(side == SIDE_SOURCE && link->stranger)) {
            *ret = i;
            return link;
        }
    }
    return NULL;
}

/* In order, each direction by itself. */
static uint64_t arrival(struct world *w, struct link *link, enum side from)
{
    uint64_t due = w->now_ns + 50000 + world_random(w, 400000);
    if (due <= link->last_due[from])
        due = link->last_due[from] + 1;
    link->last_due[from] = due;
    return due - w->now_ns;
}

void world_send(struct world *w, unsigned n, enum side from, struct item item)
{
    struct link *link = &w->link[n];
    if (!link->open[from] || !link->made || link->mute[from]) {
        free(item.body);
        return;
    }
    enum side to = from == SIDE_SOURCE ? SIDE_TARGET : SIDE_SOURCE;
    struct pending *p = world_plan(w, P_DELIVER, to, arrival(w, link, from));
    p->link = n;
    p->item = item;
}

static void plan_lost(struct world *w, unsigned n, enum side side, uint64_t delay_ns)
{
    struct pending *p = world_plan(w, P_LOST, side, delay_ns);
    p->link = n;
}

void world_close(struct world *w, unsigned n, enum side side)
{
    struct link *link = &w->link[n];
    enum side peer = side == SIDE_SOURCE ? SIDE_TARGET : SIDE_SOURCE;
    if (!link->open[side])
        return;
    link->open[side] = false;
    link->sloppy[side] = true;
    world_close_lanes(w, n, side);
    if (link->made && !link->mute[side] && link->open[peer])
        plan_lost(w, n, peer, arrival(w, link, side));
}

bool world_lane(struct world *w, unsigned of, enum side side, unsigned *ret)
{
    for (unsigned n = 0; n < w->links; n++)
        if (w->link[n].lane[side] && !w->link[n].bulk && w->link[n].of == of &&
            w->link[n].open[side]) {
            *ret = n;
            return true;
        }
    return false;
}

void world_close_lanes(struct world *w, unsigned of, enum side side)
{
    for (unsigned n = 0; n < w->links && !w->link[of].lane[side]; n++)
        if (w->link[n].lane[side] && w->link[n].of == of && w->link[n].open[side])
            world_close(w, n, side);
}

static void drop_in_flight(struct world *w, unsigned n)
{
    for (unsigned i = w->pending_count; i-- > 0;)
        if (w->pending[i].kind == P_DELIVER && w->pending[i].link == n) {
            struct pending p = take(w, i);
            free(p.item.body);
        }
}

static void cut(struct world *w, bool late, bool lanes, uint64_t *random)
{
    for (unsigned n = 0; n < w->links; n++) {
        struct link *link = &w->link[n];
        if (!link->made || (lanes && !link->lane[SIDE_SOURCE]))
            continue;
        if (!late)
            drop_in_flight(w, n);
        for (int side = 0; side < SIDES; side++) {
            bool told = link->open[side];
            link->mute[side] = true;
            if (!told || (late && mix(random) % 4 == 0))
                continue; /* half open: only the stall limit ends it */
            uint64_t limit = late ? 4 * CLOCK_SECOND : 20 * CLOCK_MSEC;
            plan_lost(w, n, (enum side)side, CLOCK_MSEC + mix(random) % limit);
        }
    }
}

static void lost_event(struct world *w, enum side side, uint32_t conn);

/* The source's pump has one more connection: it says what it is for. */
static void lane_connected(struct world *w, unsigned n, bool up)
{
    struct link *link = &w->link[n];
    if (!up) {
        link->open[SIDE_SOURCE] = false;
        world_close(w, link->of, SIDE_SOURCE);
        lost_event(w, SIDE_SOURCE, w->link[link->of].conn[SIDE_SOURCE]);
        return;
    }
    link->made = link->open[SIDE_TARGET] = true;
    link->conn[SIDE_TARGET] = ++w->accepted;
    link->life[SIDE_TARGET] = w->host[SIDE_TARGET].life;
    if (link->bulk) {
        if (world_random(w, 8) == 0) /* its way is longer: perhaps it comes when all else is over */
            link->last_due[SIDE_SOURCE] = w->now_ns + world_random(w, 2 * CLOCK_SECOND);
        world_send(w, n, SIDE_SOURCE, (struct item){ .section.type = BULK, .pages = link->of });
        world_push(w, n);
        return;
    }
    struct message m = { .type = MESSAGE_LANE, .lane = { .kind = LANE_URGENT } };
    memcpy(m.lane.token, w->source.config.hello.token, sizeof(m.lane.token));
    struct buf bytes = { 0 };
    struct item item = { 0 };
    message_encode(&m, &bytes);
    if (section_decode(bytes.data, &item.section, NULL) == 0) {
        item.body = malloc(item.section.length + 1);
        memcpy(item.body, bytes.data + STREAM_SECTION_BYTES, item.section.length);
        world_send(w, n, SIDE_SOURCE, item);
    }
    buf_free(&bytes);
}

static void connect_done(struct world *w, const struct pending *p)
{
    struct link *link = &w->link[p->link];
    struct source_event event = { .conn = link->conn[SIDE_SOURCE] };
    struct err why = { .code = ECONNREFUSED, .fault = ERR_PEER, .text = "refused" };
    bool up = w->host[SIDE_TARGET].alive && w->listening && w->now_ns >= w->net_down_until_ns;

    if (!link->open[SIDE_SOURCE])
        return;
    if (link->lane[SIDE_SOURCE]) {
        lane_connected(w, p->link, up);
        return;
    }
    if (up) {
        link->made = link->open[SIDE_TARGET] = true;
        link->conn[SIDE_TARGET] = ++w->accepted;
        link->life[SIDE_TARGET] = w->host[SIDE_TARGET].life;
        event.kind = SOURCE_CONNECTED;
    } else {
        link->open[SIDE_SOURCE] = false;
        event.kind = SOURCE_CONNECT_FAILED;
        event.why = &why;
    }
    world_source(w, &event);
}

static void lost(struct world *w, const struct pending *p)
{
    struct link *link = &w->link[p->link];
    bool heard = link->open[p->side] || (link->sloppy[p->side] && world_random(w, 4) == 0);
    if (!heard || link->life[p->side] != w->host[p->side].life)
        return;
    link->open[p->side] = false;
    if (link->lane[p->side]) { /* then the whole connection is */
        if (!w->link[link->of].open[p->side])
            return;
        world_close(w, link->of, p->side);
        link = &w->link[link->of];
    }
    world_close_lanes(w, (unsigned)(link - w->link), p->side);
    if (p->side == SIDE_TARGET || !link->stranger)
        lost_event(w, p->side, link->conn[p->side]);
}

static void lost_event(struct world *w, enum side side, uint32_t conn)
{
    struct err why = { .code = ECONNRESET, .fault = ERR_PEER, .text = "connection reset" };
    if (side == SIDE_TARGET)
        world_target(w, &(struct target_event){ .kind = TARGET_LOST, .conn = conn, .why = &why });
    else
        world_source(w, &(struct source_event){ .kind = SOURCE_LOST, .conn = conn, .why = &why });
}

/* --------------------------------------------------------------------------------------------- hosts */

static void made_durable(struct world *w, enum side side)
{
    struct disk *disk = &w->host[side].disk;
    disk->record = disk->writing;
    w->target_owned |= side == SIDE_TARGET;
}

static void crash(struct world *w, enum side side, bool restarts, uint64_t random)
{
    struct host *host = &w->host[side];
    if (!host->alive)
        return;
    host->alive = false;
    host->crashed = true;
    host->timer_ns = CLOCK_NEVER;
    for (unsigned n = 0; n < w->links; n++) {
        if (w->link[n].life[side] != host->life || w->link[n].stranger)
            continue;
        if (random & 1)
            w->link[n].mute[side] = true; /* the whole host: nobody sends a reset */
        world_close(w, n, side);
    }
    if (host->disk.writing && (random & 2))
        made_durable(w, side);
    host->disk.writing = 0;
    if (side == SIDE_SOURCE)
        w->source_has = w->source_runs = false;
    else
        w->target_has = w->target_runs = w->listening = false;
    host->life++;
    if (restarts)
        (void)world_plan(w, P_RESTART, side, CLOCK_SECOND + (random >> 8) % (60 * CLOCK_SECOND));
}

static void restart(struct world *w, enum side side)
{
    struct host *host = &w->host[side];
    host->alive = true;
    w->trouble_ns = MAX(w->trouble_ns, w->now_ns);
    world_trace(w, "%s restarts, record %d", side == SIDE_SOURCE ? "source" : "target",
                host->disk.record);
    if (side == SIDE_TARGET) {
        struct target_config config = w->target.config;
        target_init(&w->target, &config);
        w->listening = true;
    } else if (host->disk.record == RECORD_HANDED) {
        struct source_config config = w->source.config;
        memcpy(config.store, host->disk.store, sizeof(config.store));
        source_init(&w->source, &config);
        world_source(w, &(struct source_event){ .kind = SOURCE_RECOVER });
    } else {
        host->alive = false; /* nothing for it to do */
    }
}

static void disk_done(struct world *w, const struct pending *p)
{
    struct disk *disk = &w->host[p->side].disk;
    struct err why = { .code = EIO, .fault = ERR_HOST, .text = "disk" };
    unsigned fail = w->healed ? 0 : disk->fail;
    if (!fail || (fail == 2 && world_random(w, 2)))
        made_durable(w, p->side);
    disk->writing = 0;
    disk->fail = 0;
    if (p->side == SIDE_SOURCE)
        world_source(w,
                     &(struct source_event){ .kind = fail ? SOURCE_RECORD_FAILED : SOURCE_RECORDED,
                                             .why = fail ? &why : NULL,
                                             .record_unknown = fail == 2 });
    else if (fail)
        world_target(w, &(struct target_event){ .kind = TARGET_RECORD_FAILED,
                                                .why = &why,
                                                .record_unknown = fail == 2 });
    else
        world_target(w, &(struct target_event){ .kind = TARGET_RECORDED, .record_ns = 1000 });
}

/* -------------------------------------------------------------------------------------------- faults */

static void stranger(struct world *w, uint64_t random)
{
    if (!w->host[SIDE_TARGET].alive || !w->listening || w->links == LINKS_MAX)
        return;
    w->strangers = true;
    unsigned n = w->links++;
    struct link *link = &w->link[n];
    memset(link, 0, sizeof(*link));
    link->made = link->stranger = link->open[SIDE_SOURCE] = link->open[SIDE_TARGET] = true;
    link->conn[SIDE_TARGET] = ++w->accepted;
    link->life[SIDE_TARGET] = w->host[SIDE_TARGET].life;

    static const uint16_t types[] = { MESSAGE_HELLO,   MESSAGE_RESOLVE, MESSAGE_COMMIT,
                                      MESSAGE_SETTLED, MESSAGE_ABORT,   MESSAGE_ROUND,
                                      MESSAGE_LANE,    MESSAGE_PULL };
    struct message m = { .type = types[random % ARRAY_LEN(types)] };
    switch (m.type) {
    case MESSAGE_HELLO:
        m.hello = w->source.config.hello;
        m.hello.token[0] ^= 0x55;
        break;
    case MESSAGE_RESOLVE:
        m.resolve.token[3] = 9;
        m.resolve.intent = INTENT_WITHDRAW;
        break;
    case MESSAGE_COMMIT: /* even with the right token: a COMMIT counts only where PREPARED was said */
        memcpy(m.commit.token, w->source.config.hello.token, sizeof(m.commit.token));
        break;
    case MESSAGE_SETTLED:
        memcpy(m.settled.token, w->source.config.hello.token, sizeof(m.settled.token));
        break;
    case MESSAGE_ABORT:
        memcpy(m.abort.token, w->source.config.hello.token, sizeof(m.abort.token));
        m.abort.reason = REASON_CANCELLED;
        m.abort.fault = ERR_CALLER;
        break;
    case MESSAGE_LANE:
        m.lane.token[3] = 9;
        m.lane.kind = LANE_URGENT;
        break;
    case MESSAGE_PULL:
        memcpy(m.pull.token, w->source.config.hello.token, sizeof(m.pull.token));
        break;
    default:
        m.round.number = 1;
    }
    struct buf bytes = { 0 };
    message_encode(&m, &bytes);
    struct item item = { 0 };
    if (section_decode(bytes.data, &item.section, NULL) == 0) {
        item.body = malloc(item.section.length + 1);
        memcpy(item.body, bytes.data + STREAM_SECTION_BYTES, item.section.length);
        world_send(w, n, SIDE_SOURCE, item);
    }
    buf_free(&bytes);
}

static void cancel_source(struct world *w)
{
    if (!w->host[SIDE_SOURCE].alive)
        return;
    bool may = source_state_cancellable(w->source.state) || w->source.state == SOURCE_WITHDRAWING;
    enum source_state was = w->source.state;
    w->stopped_telling |= was == SOURCE_WITHDRAWING;
    world_source(w, &(struct source_event){ .kind = SOURCE_CANCEL });
    CHECK(w, may == (w->source.state != was), "CANCEL while %s was %s", source_state_name(was),
          may ? "ignored" : "obeyed");
}

static void strike(struct world *w, const struct fault *fault)
{
    uint64_t random = fault->random;
    struct err why = { .code = EIO, .fault = ERR_HOST, .text = "this host is broken" };

    world_trace(w, "*** fault %s", fault_name(fault->kind));
    w->trouble_ns = MAX(w->trouble_ns, w->now_ns);
    switch (fault->kind) {
    case FAULT_CUT:
        cut(w, false, false, &random);
        break;
    case FAULT_CUT_LATE:
        cut(w, true, false, &random);
        break;
    case FAULT_SILENCE:
        for (unsigned n = 0; n < w->links; n++) {
            drop_in_flight(w, n);
            w->link[n].mute[SIDE_SOURCE] = w->link[n].mute[SIDE_TARGET] = true;
        }
        break;
    case FAULT_MUTE_SOURCE:
    case FAULT_MUTE_TARGET:
        for (unsigned n = 0; n < w->links; n++)
            w->link[n].mute[fault->kind == FAULT_MUTE_SOURCE ? SIDE_SOURCE : SIDE_TARGET] = true;
        break;
    case FAULT_CRASH_SOURCE:
        crash(w, SIDE_SOURCE, false, random);
        break;
    case FAULT_CRASH_TARGET:
        crash(w, SIDE_TARGET, false, random);
        break;
    case FAULT_REBOOT_SOURCE:
        crash(w, SIDE_SOURCE, true, random);
        break;
    case FAULT_REBOOT_TARGET:
        crash(w, SIDE_TARGET, true, random);
        break;
    case FAULT_WIPE_TARGET:
        if (!w->host[SIDE_TARGET].alive)
            break;
        crash(w, SIDE_TARGET, true, random);
        w->host[SIDE_TARGET].disk.record = 0;
        w->target.config.store[0]++;
        w->wiped = true;
        break;
    case FAULT_CANCEL_SOURCE:
        cancel_source(w);
        break;
    case FAULT_CANCEL_TARGET:
        if (w->host[SIDE_TARGET].alive) {
            bool held = w->target.state == TARGET_PREPARED || w->target.state == TARGET_UNCERTAIN;
            w->operator_freed |= held;
            world_target(w, &(struct target_event){ .kind = TARGET_CANCEL });
        }
        break;
    case FAULT_DISK_SOURCE:
        w->host[SIDE_SOURCE].disk.fail = 1;
        break;
    case FAULT_DISK_TARGET:
        w->host[SIDE_TARGET].disk.fail = 1;
        break;
    case FAULT_DISK_UNKNOWN_SOURCE:
        w->host[SIDE_SOURCE].disk.fail = 2;
        break;
    case FAULT_DISK_UNKNOWN_TARGET:
        w->host[SIDE_TARGET].disk.fail = 2;
        break;
    case FAULT_NET_DOWN:
        cut(w, true, false, &random);
        w->net_down_until_ns = w->now_ns + random % (100 * CLOCK_SECOND);
        w->trouble_ns = MAX(w->trouble_ns, w->net_down_until_ns);
        break;
    case FAULT_HANG_SOURCE:
        w->host[SIDE_SOURCE].hang = true;
        break;
    case FAULT_HANG_TARGET:
        w->host[SIDE_TARGET].hang = true;
        break;
    case FAULT_HOST_SOURCE:
        /* Only where the pump is at work for the engine. */
        if (w->host[SIDE_SOURCE].alive && w->source.state >= SOURCE_COPYING)
            world_source(w, &(struct source_event){ .kind = SOURCE_FAULT, .why = &why });
        break;
    case FAULT_HOST_TARGET:
        if (w->host[SIDE_TARGET].alive && w->target.state >= TARGET_CHECKING) {
            bool held = w->target.state == TARGET_PREPARED || w->target.state == TARGET_UNCERTAIN;
            w->operator_freed |= held;
            world_target(w, &(struct target_event){ .kind = TARGET_FAULT, .why = &why });
        }
        break;
    case FAULT_REFUSE:
        w->refuse = true;
        break;
    case FAULT_FLIP:
        w->flip = true;
        break;
    case FAULT_STRANGER:
        stranger(w, random);
        break;
    case FAULT_CUT_LANE:
        cut(w, random & 1, true, &random);
        break;
    case FAULT_SWITCH:
        if (w->host[SIDE_SOURCE].alive)
            world_source(w, &(struct source_event){ .kind = SOURCE_SWITCH });
        break;
    case FAULT_RETRY:
        if (w->host[SIDE_SOURCE].alive)
            world_source(w, &(struct source_event){ .kind = SOURCE_RETRY });
        break;
    case FAULT_ABANDON:
        if (w->host[SIDE_SOURCE].alive && w->source.state == SOURCE_SERVING) {
            w->abandoned = true;
            world_source(w, &(struct source_event){ .kind = SOURCE_FORGET });
        }
        break;
    case FAULT_NONE:
    case FAULT_MAX:
        break;
    }
}

static void strike_due(struct world *w)
{
    for (unsigned i = 0; i < w->schedule.faults; i++) {
        const struct fault *fault = &w->schedule.fault[i];
        unsigned count = fault->at_point ? w->points : w->events;
        if (w->fired & (1u << i) || count < fault->at)
            continue;
        w->fired |= 1u << i;
        strike(w, fault);
    }
}

/* ----------------------------------------------------------------------------------------------- play */

static void happen(struct world *w, struct pending *p)
{
    struct host *host = &w->host[p->side];
    bool current = p->life == host->life && host->alive;

    w->events++;
    switch (p->kind) {
    case P_SOURCE:
        if (current)
            world_source(w, &p->source);
        break;
    case P_TARGET:
        if (current)
            world_target(w, &p->target);
        break;
    case P_CONNECT:
        if (current)
            connect_done(w, p);
        break;
    case P_DISK:
        if (current)
            disk_done(w, p);
        break;
    case P_LOST:
        lost(w, p);
        break;
    case P_RESTART:
        restart(w, p->side);
        break;
    case P_DELIVER:
        world_deliver(w, p->side, p->link, &p->item);
        free(p->item.body);
        break;
    case P_TIMER:
        if (!current || host->timer_ns != p->due)
            break;
        host->timer_ns = CLOCK_NEVER;
        if (p->side == SIDE_SOURCE)
            world_source(w, &(struct source_event){ .kind = SOURCE_TICK });
        else
            world_target(w, &(struct target_event){ .kind = TARGET_TICK });
        break;
    case P_TOUCH:
        if (current)
            world_touch(w);
        break;
    case P_PUSH:
        if (current)
            world_push(w, p->link);
        break;
    case P_HEAL:
        w->healed = true;
        w->net_down_until_ns = 0;
        break;
    }
    CHECK(w, !(w->source_runs && w->target_runs), "the guest runs on both sides");
}

void world_play(struct world *w, uint64_t until_ns)
{
    unsigned i = 0;
    while (!w->broken && soonest(w, &i) && w->pending[i].due <= until_ns) {
        struct pending p = take(w, i);
        w->now_ns = p.due;
        happen(w, &p);
        if (!w->broken && !w->healed)
            strike_due(w);
    }
}

enum outcome world_run(struct world *w, const struct schedule *schedule, bool trace)
{
    memset(w, 0, sizeof(*w));
    w->schedule = *schedule;
    w->random = schedule->seed;
    w->trace = trace;
    w->now_ns = CLOCK_SECOND;
    w->source_has = w->source_runs = w->listening = true;
    w->version = 1;
    w->touches = 12;
    for (int side = 0; side < SIDES; side++)
        w->host[side] = (struct host){ .alive = true, .life = 1, .timer_ns = CLOCK_NEVER };
    w->host[SIDE_SOURCE].disk.record = RECORD_HERE;

    struct source_config config = source_config_default();
    memset(config.hello.token, 0xa5, sizeof(config.hello.token));
    config.hello.mode = schedule->mode;
    config.post_copy = schedule->post_copy;
    if (config.post_copy == SOURCE_POST_COPY_ALLOW)
        config.policy.max_downtime_ns = 1; /* never met */
    config.policy.allow_switch = config.post_copy != SOURCE_POST_COPY_NEVER;
    if (schedule->hurry) {
        config.policy.max_time_ns = config.policy.max_downtime_ns = 1;
        config.policy.strict = !config.policy.allow_switch && schedule->seed % 2;
    }
    config.hello.pages = w->left_pages = 4096;
    config.prepare = schedule->seed % 2;
    snprintf(config.hello.name, sizeof(config.hello.name), "guest");
    source_init(&w->source, &config);
    struct target_config target = { .stall_limit_ns = 10 * CLOCK_SECOND };
    memset(target.store, 0x5a, sizeof(target.store));
    target_init(&w->target, &target);

    (void)world_plan(w, P_HEAL, SIDE_SOURCE, HEAL_NS);
    world_source(w, &(struct source_event){ .kind = SOURCE_START });
    strike_due(w);
    world_play(w, QUIET_NS);
    return w->broken ? OUTCOME_BROKEN : world_judge(w);
}

void world_free(struct world *w)
{
    for (unsigned i = 0; i < w->pending_count; i++)
        free(w->pending[i].item.body);
    w->pending_count = 0;
}
