/*
 * The prediction. A move is: setting up (connection, verdict, reservation: a round trip each); rounds with a
 * running guest; a last round, the state and the commitment with a paused one. A round takes its bytes at the
 * link's rate and one round trip for its acknowledgement, and leaves dirty what the guest writes in a window
 * of that length. Post-copy stops the guest only for the state and the list of pages still missing.
 */
#include "wws/predict.h"
#include "base/clock.h"

#include <assert.h>

#define SETUP_ROUND_TRIPS 3
#define ROUNDS_MOST 1000 /* whatever the rule says */

/* A prediction being made. */
struct course {
    const struct predict_guest *guest;
    const struct predict_link *link;
    struct predict ret;
};

/* Years are as good as for ever. */
static uint64_t add(uint64_t a, uint64_t b)
{
    return a > INT64_MAX - MIN(b, (uint64_t)INT64_MAX) ? INT64_MAX : a + b;
}

static uint64_t bytes_ns(const struct course *course, uint64_t bytes)
{
    __extension__ unsigned __int128 ns = (unsigned __int128)bytes * CLOCK_SECOND;
    ns /= course->link->bytes_per_s;
    return ns > INT64_MAX ? INT64_MAX : (uint64_t)ns;
}

static void pass(struct course *course, uint64_t ns)
{
    course->ret.total_ns = add(course->ret.total_ns, ns);
}

/* Sends pages with a running guest, at most so fast (0 = as the link can); returns how long it takes. */
static uint64_t send_round(struct course *course, uint64_t pages, uint64_t rate)
{
    struct course at = *course;
    struct predict_link slowed = *course->link;
    at.link = &slowed;
    if (rate)
        slowed.bytes_per_s = MIN(slowed.bytes_per_s, rate);
    uint64_t ns = add(bytes_ns(&at, pages * PREDICT_PAGE_BYTES), slowed.rtt_ns);
    course->ret.bytes += pages * PREDICT_PAGE_BYTES;
    pass(course, ns);
    return ns;
}

/* The guest stands still while `bytes` and the state travel: half a round trip for them, one for PREPARED and
 * COMMIT. */
static void stop_and_send(struct course *course, uint64_t bytes)
{
    bytes += course->guest->state_bytes;
    course->ret.bytes += bytes;
    course->ret.downtime_ns =
        add(bytes_ns(course, bytes), course->link->rtt_ns * 3 / 2 + PREDICT_FIXED_NS);
    pass(course, course->ret.downtime_ns);
}

static void finish_stopped(struct course *course, uint64_t pages)
{
    course->ret.last_pages = pages;
    stop_and_send(course, pages * PREDICT_PAGE_BYTES);
}

static void finish_post_copy(struct course *course, uint64_t pages)
{
    course->ret.last_pages = pages;
    course->ret.post_copy = true;
    stop_and_send(course, course->guest->pages / 8); /* one bit a page: which ones are missing */
    (void)send_round(course, pages, 0);
}

/* Writers that are slowed write in so much time what they would have written in less. */
static uint64_t written(const struct predict_guest *guest, uint64_t ns, uint32_t run_permille)
{
    uint64_t own_ns = policy_scale(ns, run_permille, POLICY_RUN_ALL);
    return (uint64_t)(wws_unique(guest->curve, own_ns, (double)guest->pages) + 0.5);
}

static void play_rounds(struct course *course, const struct policy_limits *limits)
{
    const struct predict_guest *guest = course->guest;
    struct policy_decision decision = { .what = POLICY_ROUND, .run_permille = POLICY_RUN_ALL };
    uint64_t left = guest->data_pages;
    struct policy policy;

    policy_init(&policy, limits, guest->pages);
    decision.rate = policy_first_rate(&policy);
    while (decision.what == POLICY_ROUND && course->ret.rounds < ROUNDS_MOST) {
        uint64_t ns = send_round(course, left, decision.rate);
        struct policy_round round = { .pages = left,
                                      .bytes = left * PREDICT_PAGE_BYTES,
                                      .duration_ns = ns,
                                      .send_ns = ns,
                                      .rtt_ns = course->link->rtt_ns };
        left = round.left_pages = written(guest, ns, decision.run_permille);
        course->ret.rounds++;
        decision = policy_decide(&policy, &round);
        course->ret.slowed |= decision.run_permille < POLICY_RUN_ALL;
    }
    course->ret.why = decision.why;
    if (decision.what == POLICY_SWITCH)
        finish_post_copy(course, left);
    else
        finish_stopped(course, left);
}

struct predict predict(const struct predict_guest *guest, const struct predict_link *link,
                       enum predict_mode mode, const struct policy_limits *limits)
{
    struct course course = { .guest = guest, .link = link };
    struct policy_limits own = *limits;
    pass(&course, SETUP_ROUND_TRIPS * link->rtt_ns);
    switch (mode) {
    case PREDICT_STOP_COPY:
        finish_stopped(&course, guest->data_pages);
        break;
    case PREDICT_POST_COPY:
        finish_post_copy(&course, guest->data_pages);
        break;
    case PREDICT_PRE_COPY:
    case PREDICT_AUTO:
        own.allow_switch = mode == PREDICT_AUTO;
        play_rounds(&course, &own);
        break;
    case PREDICT_MODE_MAX:
        break;
    }
    course.ret.exceeds = course.ret.downtime_ns > limits->max_downtime_ns;
    return course.ret;
}

const char *predict_mode_name(enum predict_mode mode)
{
    static const char *const names[] = { [PREDICT_STOP_COPY] = "stop-copy",
                                         [PREDICT_PRE_COPY] = "pre-copy",
                                         [PREDICT_POST_COPY] = "post-copy",
                                         [PREDICT_AUTO] = "auto" };
    static_assert(ARRAY_LEN(names) == PREDICT_MODE_MAX, "one name a mode");
    return mode < PREDICT_MODE_MAX ? names[mode] : "unknown";
}
