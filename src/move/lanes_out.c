#include "move/lanes_out.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TUNE_NS (200 * CLOCK_MSEC)
#define LOOK_AGAIN_NS (100 * CLOCK_MSEC)

/* ------------------------------------------------------------------------------------ on a lane's thread */

static void note_bytes(struct lane_out *lane)
{
    struct tls_facts facts;
    if (link_facts(&lane->wire.link, &facts)) {
        lane->wire_sent_bytes = facts.sent_bytes;
        lane->wire_received_bytes = facts.received_bytes;
    }
    atomic_store_explicit(&lane->sent_bytes, lane->wire.link.sent_bytes, memory_order_relaxed);
}

static bool round_is_open(struct lanes_out *set)
{
    (void)pthread_mutex_lock(&set->lock);
    bool open = set->open;
    (void)pthread_mutex_unlock(&set->lock);
    return open;
}

/* Until its LANE message is sent, the target knows nothing of it: -EAGAIN where it is only tried, and came too late for
 * the round. */
static int connect_lane(struct lane_out *lane, bool trying, struct err *err)
{
    const struct lanes_out_config *config = &lane->set->config;
    struct message message = {
        .type = MESSAGE_LANE,
        .lane = { .kind = LANE_BULK, .index = lane->index, .beside = config->beside }
    };
    memcpy(message.lane.token, config->token, sizeof(message.lane.token));
    lane->wire = WIRE_NONE;
    lane->wire.link.cancel_fd = lane->set->stop_fd;
    lane->wire.link.stall_limit_ns = config->stall_limit_ns;
    int rc = wire_connect(&lane->wire, config->trust, config->insecure, config->address, err);
    if (!rc && trying && !round_is_open(lane->set))
        rc = -EAGAIN;
    if (!rc)
        rc = wire_send_message(&lane->wire, &message, err);
    note_bytes(lane);
    return rc;
}

/* Waits until the limit lets the next section through. */
static int wait_turn(struct lane_out *lane, struct err *err)
{
    struct lanes_out *set = lane->set;
    for (;;) {
        uint64_t wait_ns = bucket_wait_ns(set->config.bucket, clock_now_ns());
        if (set->give_up)
            return err_set(err, ERR_CALLER, ECANCELED, "cancelled");
        if (wait_ns == 0 || set->source->stopped)
            return 0;
        struct pollfd stop = { .fd = set->stop_fd, .events = POLLIN };
        wait_ns = MIN(wait_ns, LOOK_AGAIN_NS); /* the limit may be raised meanwhile */
        struct timespec limit = { .tv_nsec = (long)wait_ns };
        (void)ppoll(&stop, 1, &limit, NULL);
    }
}

static int send_section(struct lane_out *lane, const uint8_t *bytes, size_t len, struct err *err)
{
    uint64_t began = clock_now_ns(), before = lane->wire.link.sent_bytes;
    bucket_spend(lane->set->config.bucket, len, began);
    int rc = wire_send(&lane->wire, bytes, len, err);
    if (rc)
        lane->unsent_bytes += len - MIN(len, lane->wire.link.sent_bytes - before);
    note_bytes(lane);
    atomic_fetch_add_explicit(&lane->send_ns, clock_now_ns() - began, memory_order_relaxed);
    atomic_store_explicit(&lane->cpu_ns, clock_thread_cpu_ns(), memory_order_relaxed);
    return rc;
}

/* What this lane's link carries: as measured, or its share of the limit. */
static uint64_t link_rate(const struct lane_out *lane)
{
    uint64_t rate = lane->send_ns ? lane->sent_bytes * CLOCK_SECOND / lane->send_ns : 0;
    uint64_t limit = lane->set->config.bucket->rate;
    return limit ? MIN(rate ? rate : limit, limit / lane->set->awake) : rate;
}

/* Its share of one round. */
static int send_round(struct lane_out *lane, struct err *err)
{
    struct lanes_out *set = lane->set;
    const uint8_t *bytes;
    size_t len = 1;
    int rc = lane->wire.link.fd < 0 ? connect_lane(lane, false, err) : 0;
    if (!rc && set->pushing)
        link_keep_short(&lane->wire.link);

    /* One that goes to sleep sends first what it has taken: nobody else has it in this round. */
    while (!rc && (lane->index < set->awake || !page_stripe_done(&lane->maker.stripe))) {
        rc = wait_turn(lane, err);
        if (rc)
            break;
        page_maker_piece(&lane->maker, bucket_piece(set->config.bucket));
        lane->maker.link_rate = link_rate(lane);
        rc = page_maker_fill(&lane->maker, &bytes, &len);
        if (rc)
            return err_errno(err, ERR_HOST, -rc, "cannot read the guest's memory");
        if (len == 0)
            break;
        rc = send_section(lane, bytes, len, err);
    }
    return rc;
}

/* With the lock held. */
static void leave_round(struct lane_out *lane, int rc, const struct err *err)
{
    struct lanes_out *set = lane->set;
    lane->running = false;
    set->busy--;
    if (rc && !set->failed) {
        set->failed = rc;
        set->err = *err;
        if (rc != -ECANCELED)
            (void)err_wrap(&set->err, rc, "lane %u", lane->index);
        set->give_up = true;
        (void)eventfd_write(set->stop_fd, 1);
    }
    if (set->busy == 0)
        (void)eventfd_write(set->event_fd, 1);
}

/* With the lock held. */
static void enter_round(struct lane_out *lane)
{
    struct lanes_out *set = lane->set;
    lane->running = true;
    set->busy++;
    set->most = MAX(set->most, lane->index + 1);
    lane->maker.instance = set->instance;
}

/* With the lock held. */
static void end_try(struct lane_out *lane, int rc, const struct err *err)
{
    struct lanes_out *set = lane->set;
    lane->trying = false;
    if (rc) {
        wire_close(&lane->wire);
        set->settled = rc != -EAGAIN;
        if (set->settled && !set->give_up)
            log_event(LOG_WARN, "move.lanes", "goes on with %u: lane %u: %s", set->awake,
                      lane->index, err->text);
    } else {
        set->awake = lane->index + 1;
        if (set->open)
            enter_round(lane);
    }
    set->trying = false;
}

static void *lane_thread(void *arg)
{
    struct lane_out *lane = arg;
    struct lanes_out *set = lane->set;
    int slot = meter_thread_enter(set->config.meter, BILL_CPU_MOVER);

    (void)pthread_mutex_lock(&set->lock);
    for (;;) {
        while (!lane->running && !lane->trying && !set->ending)
            (void)pthread_cond_wait(&set->changed, &set->lock);
        if (!lane->running && !lane->trying)
            break;
        bool trying = lane->trying;
        (void)pthread_mutex_unlock(&set->lock);
        struct err err = { 0 };
        int rc = trying ? connect_lane(lane, true, &err) : send_round(lane, &err);
        (void)pthread_mutex_lock(&set->lock);
        if (trying)
            end_try(lane, rc, &err);
        else
            leave_round(lane, rc, &err);
    }
    (void)pthread_mutex_unlock(&set->lock);
    meter_thread_leave(set->config.meter, slot);
    return NULL;
}

/* ------------------------------------------------------------------------------------ on the pump's thread */

int lanes_out_init(struct lanes_out *lanes, const struct lanes_out_config *config,
                   struct page_source *source)
{
    *lanes = (struct lanes_out){ .config = *config, .source = source };
    (void)pthread_mutex_init(&lanes->lock, NULL);
    (void)pthread_cond_init(&lanes->changed, NULL);
    lanes->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lanes->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lanes->awake = config->wanted == LANES_OUT_AUTO ? 1 : MIN(config->wanted, config->granted);
    lanes->settled = config->wanted != LANES_OUT_AUTO;
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++)
        lanes->lane[i] = (struct lane_out){ .set = lanes, .index = i, .wire = WIRE_NONE };
    if (lanes->stop_fd >= 0 && lanes->event_fd >= 0)
        return 0;
    int rc = -errno;
    lanes_out_fini(lanes);
    return rc;
}

void lanes_out_halt(struct lanes_out *lanes)
{
    if (!lanes->source || lanes->halted)
        return;
    (void)pthread_mutex_lock(&lanes->lock);
    lanes->ending = true;
    lanes->give_up = true;
    (void)pthread_cond_broadcast(&lanes->changed);
    (void)pthread_mutex_unlock(&lanes->lock);
    if (lanes->stop_fd >= 0)
        (void)eventfd_write(lanes->stop_fd, 1);
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++)
        if (lanes->lane[i].started)
            (void)pthread_join(lanes->lane[i].thread, NULL);
    lanes->halted = true;
}

void lanes_out_fini(struct lanes_out *lanes)
{
    if (!lanes->source)
        return;
    lanes_out_halt(lanes);
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++) {
        struct lane_out *lane = &lanes->lane[i];
        if (!lane->started)
            continue;
        wire_close(&lane->wire);
        page_maker_fini(&lane->maker);
    }
    fd_close(&lanes->stop_fd);
    fd_close(&lanes->event_fd);
    (void)pthread_cond_destroy(&lanes->changed);
    (void)pthread_mutex_destroy(&lanes->lock);
    *lanes = (struct lanes_out){ 0 };
}

void lanes_out_push(struct lanes_out *lanes, struct page_source *source)
{
    ASSERT(!lanes->open && lanes->busy == 0);
    lanes->source = source;
    lanes->config.memo = NULL;
    lanes->pushing = true;
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++) {
        lanes->lane[i].maker.source = source;
        lanes->lane[i].maker.memo = NULL;
    }
}

static int start_lane(struct lane_out *lane)
{
    const struct lanes_out_config *config = &lane->set->config;
    int rc = page_maker_init(&lane->maker, lane->set->source, config->memo, config->packing,
                             config->page_forms);
    if (!rc)
        rc = -pthread_create(&lane->thread, NULL, lane_thread, lane);
    if (rc) {
        page_maker_fini(&lane->maker);
        return rc;
    }
    (void)pthread_setname_np(lane->thread, "lane");
    lane->started = true;
    return 0;
}

/* Lets one lane into the open round, unless it is in. */
static int let_in(struct lane_out *lane)
{
    struct lanes_out *set = lane->set;
    int rc = lane->started ? 0 : start_lane(lane);
    if (rc)
        return rc;
    (void)pthread_mutex_lock(&set->lock);
    if (!lane->running) {
        enter_round(lane);
        (void)pthread_cond_broadcast(&set->changed);
    }
    (void)pthread_mutex_unlock(&set->lock);
    return 0;
}

/* Lets a lane that never was awake connect, and join once it has. */
static int try_lane(struct lane_out *lane)
{
    struct lanes_out *set = lane->set;
    int rc = lane->started ? 0 : start_lane(lane);
    if (rc)
        return rc;
    (void)pthread_mutex_lock(&set->lock);
    lane->trying = true;
    set->trying = true;
    (void)pthread_cond_broadcast(&set->changed);
    (void)pthread_mutex_unlock(&set->lock);
    return 0;
}

static uint64_t cpu_of(const struct lanes_out *lanes)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++)
        sum += lanes->lane[i].cpu_ns;
    return sum;
}

static void begin_window(struct lanes_out *lanes)
{
    lanes->tuned_ns = clock_now_ns();
    lanes->tuned_bytes = lanes_out_bytes(lanes);
    lanes->tuned_cpu_ns = cpu_of(lanes);
}

int lanes_out_begin(struct lanes_out *lanes, uint16_t instance, uint64_t pages)
{
    ASSERT(!lanes->open && lanes->busy == 0);
    uint64_t worth = (pages + LANES_OUT_FEW_PAGES - 1) / LANES_OUT_FEW_PAGES;
    unsigned count = (unsigned)MIN((uint64_t)lanes->awake, MAX(worth, UINT64_C(1)));

    (void)pthread_mutex_lock(&lanes->lock);
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++) {
        lanes->round_send_ns[i] = lanes->lane[i].send_ns;
        if (lanes->lane[i].started)
            page_maker_begin(&lanes->lane[i].maker, instance);
    }
    lanes->instance = instance;
    lanes->open = true;
    lanes->busy++; /* so that the first cannot end the round before the last is in */
    (void)pthread_mutex_unlock(&lanes->lock);
    int rc = 0;
    for (unsigned i = 0; i < count && !rc; i++)
        rc = let_in(&lanes->lane[i]);
    (void)pthread_mutex_lock(&lanes->lock);
    if (--lanes->busy == 0)
        (void)eventfd_write(lanes->event_fd, 1);
    (void)pthread_mutex_unlock(&lanes->lock);
    begin_window(lanes);
    return rc;
}

static void tell(unsigned lanes, uint64_t rate, const char *what)
{
    log_event(LOG_INFO, "move.lanes", "%u lanes%s, at %llu MB/s", lanes, what,
              (unsigned long long)(rate / 1000000));
}

void lanes_out_tune(struct lanes_out *lanes)
{
    uint64_t now = clock_now_ns(), spent = now - lanes->tuned_ns;
    if (!lanes->open || lanes->settled)
        return;
    if (lanes->trying) {
        begin_window(lanes); /* what it brings is measured once it is there */
        return;
    }
    if (spent < TUNE_NS)
        return;
    uint64_t rate = (lanes_out_bytes(lanes) - lanes->tuned_bytes) * CLOCK_SECOND / spent;
    uint64_t cpu_ns = cpu_of(lanes) - lanes->tuned_cpu_ns;
    unsigned awake = lanes->awake;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    bool out_of_cpu = cpu_ns / MAX(cpus, 1l) >= spent - spent / 10;

    begin_window(lanes);
    if (awake > 1 && rate < lanes->rate_before + lanes->rate_before / 10) {
        tell(awake - 1, rate, "");
        lanes->awake = awake - 1;
        lanes->settled = true;
    } else if (out_of_cpu || awake == lanes->config.granted) {
        lanes->settled = true;
    } else {
        tell(awake, rate, ", one more is tried");
        lanes->rate_before = rate;
        if (try_lane(&lanes->lane[awake]))
            lanes->settled = true; /* no memory for one more is no reason to fail */
    }
}

int lanes_out_end(struct lanes_out *lanes, struct page_count *ret, struct err *err)
{
    eventfd_t count;
    (void)eventfd_read(lanes->event_fd, &count);
    (void)pthread_mutex_lock(&lanes->lock);
    bool ended = lanes->open && lanes->busy == 0;
    int rc = lanes->failed;
    if (rc)
        *err = lanes->err;
    if (ended)
        lanes->open = false;
    (void)pthread_mutex_unlock(&lanes->lock);
    if (!ended)
        return -EAGAIN;
    lanes_out_count(lanes, ret);
    return rc;
}

uint64_t lanes_out_unsent(const struct lanes_out *lanes)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++)
        sum += lanes->lane[i].unsent_bytes;
    return sum;
}

void lanes_out_count(const struct lanes_out *lanes, struct page_count *ret)
{
    *ret = (struct page_count){ 0 };
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++)
        page_count_add(ret, &lanes->lane[i].maker.count);
}

uint64_t lanes_out_bytes(const struct lanes_out *lanes)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++)
        sum += lanes->lane[i].sent_bytes;
    return sum;
}

uint64_t lanes_out_send_ns(const struct lanes_out *lanes)
{
    uint64_t sum = 0;
    unsigned senders = 0;
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++) {
        uint64_t ns = lanes->lane[i].send_ns - lanes->round_send_ns[i];
        sum += ns;
        senders += ns > 0;
    }
    return senders ? sum / senders : 0;
}
