#include "move/policy_model.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/gpa.h"

#define SECTION_PAGES_BYTES (PAGE_BYTES + 16) /* a page with its share of the tables */

/* ------------------------------------------------------------------------------------- the guest */

void policy_guest_curve(struct policy_guest *guest, const uint64_t *ns, const uint64_t *pages,
                        unsigned count)
{
    uint64_t slope[POLICY_SETS_MAX] = { 0 };
    count = MIN(count, (unsigned)POLICY_SETS_MAX);
    guest->set_count = count;
    for (unsigned i = 0; i < count; i++) {
        uint64_t from_ns = i ? ns[i - 1] : 0, from = i ? pages[i - 1] : 0;
        uint64_t grown = pages[i] > from ? pages[i] - from : 0;
        slope[i] = policy_scale(grown, CLOCK_SECOND, MAX(ns[i] - from_ns, UINT64_C(1)));
        /* Noise aside the curve never gets steeper. */
        if (i && slope[i] > slope[i - 1])
            slope[i] = slope[i - 1];
    }
    for (unsigned i = 0; i < count; i++) {
        bool last = i + 1 == count;
        uint64_t rate = last ? slope[i] : slope[i] - slope[i + 1];
        guest->set[i] = (struct policy_set){
            .pages = last ? guest->total_pages : policy_scale(rate, ns[i], CLOCK_SECOND),
            .pages_per_s = rate,
        };
    }
}

/* How much of [from, from + ns) the guest spent writing. */
static uint64_t busy_ns(const struct policy_guest *guest, uint64_t from, uint64_t ns)
{
    if (guest->quiet_ns == 0)
        return ns;
    uint64_t period = guest->burst_ns + guest->quiet_ns, busy = 0, end = from + ns;
    busy = (end / period - from / period) * guest->burst_ns;
    busy += MIN(end % period, guest->burst_ns);
    return busy - MIN(from % period, guest->burst_ns);
}

static uint64_t written(const struct policy_model *model, uint64_t ns, uint32_t run_permille)
{
    const struct policy_guest *guest = &model->guest;
    uint64_t busy = busy_ns(guest, model->now_ns, ns), pages = 0;
    for (unsigned i = 0; i < guest->set_count; i++) {
        uint64_t rate = guest->set[i].pages_per_s;
        if (i == 0)
            rate += policy_scale(guest->growth_pages_per_s2, model->now_ns, CLOCK_SECOND);
        rate = policy_scale(rate, run_permille, POLICY_RUN_ALL);
        pages += MIN(policy_scale(rate, busy, CLOCK_SECOND), guest->set[i].pages);
    }
    return MIN(pages, guest->total_pages);
}

/* --------------------------------------------------------------------------------------- a round */

/* xorshift64 (Marsaglia 2003). */
static uint64_t noisy(struct policy_model *model, uint64_t value)
{
    if (!model->noise_permille)
        return value;
    model->random ^= model->random << 13;
    model->random ^= model->random >> 7;
    model->random ^= model->random << 17;
    uint64_t span = UINT64_C(2) * model->noise_permille + 1;
    return policy_scale(value, 1000 - model->noise_permille + model->random % span, 1000);
}

static uint64_t wire_ns(const struct policy_model *model, uint64_t pages, uint64_t rate)
{
    uint64_t speed = MAX(model->path.bytes_per_s, UINT64_C(1));
    if (rate)
        speed = MIN(speed, rate);
    return policy_scale(pages * SECTION_PAGES_BYTES, CLOCK_SECOND, speed);
}

struct policy_round policy_model_round(struct policy_model *model, uint64_t pages, bool first,
                                       uint64_t rate, uint32_t run_permille, bool skip)
{
    uint64_t data = first ? MIN(pages, model->guest.data_pages) : pages, sent = pages;
    uint64_t send_ns = 0, ns = 0;

    /* With the skip set, a page that is written within the round is on average written half-way. */
    for (unsigned i = 0; i < (skip ? 8 : 1); i++) {
        send_ns = wire_ns(model, MIN(sent, data), rate) + model->path.rtt_ns;
        ns = send_ns + pages * model->path.page_ns;
        if (skip)
            sent = pages - MIN(pages, written(model, ns, run_permille)) / 2;
    }
    uint64_t left = written(model, ns, run_permille);
    model->now_ns += ns;
    data = MIN(sent, data);
    struct policy_round round = {
        .pages = sent,
        .bytes = data * SECTION_PAGES_BYTES,
        .duration_ns = MAX(noisy(model, ns), UINT64_C(1)),
        .left_pages = noisy(model, left),
        .rtt_ns = model->path.rtt_ns,
    };
    round.send_ns = policy_scale(round.duration_ns, send_ns, ns);
    return round;
}

uint64_t policy_model_pause_ns(const struct policy_model *model, uint64_t pages, uint64_t rate,
                               uint64_t pause_ns)
{
    return pause_ns + 2 * model->path.rtt_ns + pages * model->path.page_ns +
           wire_ns(model, pages, rate);
}

/* ---------------------------------------------------------------------------------------- a move */

#define LOOKS 16

/* The round that `model` would send whole, ended early where policy_look() says so: *ret is what it was until then, and
 * *ret_decision says why. */
static bool cut_short(struct policy_model *model, const struct policy *policy, uint64_t pages,
                      bool first, uint64_t rate, uint32_t run, struct policy_round *ret,
                      struct policy_decision *ret_decision)
{
    if (!policy->limits.max_time_ns || policy->limits.kind != POLICY_GOAL)
        return false;
    for (unsigned i = 1; i < LOOKS; i++) {
        struct policy_model part = *model;
        uint64_t sent = policy_scale(pages, i, LOOKS);
        uint64_t data = first ? MIN(pages, model->guest.data_pages) : pages;
        *ret = policy_model_round(&part, policy_scale(data, i, LOOKS), false, rate, run, false);
        ret->left_pages = policy_add(ret->left_pages, data - policy_scale(data, i, LOOKS));
        *ret_decision = policy_look(policy, ret);
        if (ret_decision->what == POLICY_ROUND)
            continue;
        ret->pages = sent;
        *model = part;
        return true;
    }
    return false;
}

struct policy_outcome policy_model_run(struct policy_model *model,
                                       const struct policy_limits *limits, uint32_t max_rounds)
{
    struct policy_outcome out = { 0 };
    struct policy policy;
    bool skip = limits->kind == POLICY_CLARK05, slowing = false;

    policy_init(&policy, limits, model->guest.total_pages);
    uint64_t rate = policy_first_rate(&policy), pages = model->guest.total_pages;
    uint32_t run = POLICY_RUN_ALL;
    do {
        uint64_t began_ns = model->now_ns;
        struct policy_round round;
        bool cut = cut_short(model, &policy, pages, out.rounds == 0, rate, run, &round, &out.last);
        if (!cut)
            round = policy_model_round(model, pages, out.rounds == 0, rate, run, skip);
        out.held_ns += policy_scale(model->now_ns - began_ns, POLICY_RUN_ALL - run, POLICY_RUN_ALL);
        out.rounds++;
        out.pages += round.pages;
        if (!cut)
            out.last = policy_decide(&policy, &round);
        pages = out.left_pages = round.left_pages;
        rate = out.last.rate;
        if (out.last.run_permille != run) {
            out.turns += slowing != (out.last.run_permille < run);
            slowing = out.last.run_permille < run;
        }
        run = out.last.run_permille;
    } while (out.last.what == POLICY_ROUND && out.rounds < max_rounds);
    if (out.last.what == POLICY_STOP) {
        out.downtime_ns = policy_model_pause_ns(model, pages, rate, limits->pause_ns);
        out.pages += pages;
    }
    out.time_ns = model->now_ns + out.downtime_ns;
    return out;
}

static struct policy_decision decision(const struct policy_model *model,
                                       const struct policy_limits *limits, enum policy_what what,
                                       const struct policy_outcome *out)
{
    return (struct policy_decision){ .what = what,
                                     .run_permille = POLICY_RUN_ALL,
                                     .link = model->path.bytes_per_s,
                                     .left_pages = out->left_pages,
                                     .predicted_ns = out->downtime_ns,
                                     .max_downtime_ns = limits->max_downtime_ns,
                                     .exceeds = out->downtime_ns > limits->max_downtime_ns };
}

struct policy_outcome policy_model_stop(const struct policy_model *model,
                                        const struct policy_limits *limits)
{
    struct policy_outcome out = { .left_pages = model->guest.data_pages,
                                  .pages = model->guest.data_pages };
    out.downtime_ns = policy_model_pause_ns(model, out.left_pages, 0, limits->pause_ns);
    out.time_ns = out.downtime_ns;
    out.last = decision(model, limits, POLICY_STOP, &out);
    return out;
}

void policy_model_pull(const struct policy_model *model, const struct policy_limits *limits,
                       struct policy_outcome *out)
{
    uint64_t names =
        model->guest.total_pages / 8 / PAGE_BYTES + 1; /* in pages: a bit for each page */
    uint64_t dirty_per_s = out->last.dirty_per_s;
    if (out->rounds > 0)
        out->time_ns -= out->downtime_ns;
    out->downtime_ns = policy_model_pause_ns(model, names, 0, limits->pause_ns);
    out->time_ns += out->downtime_ns + wire_ns(model, out->left_pages, 0) +
                    out->left_pages * model->path.page_ns;
    out->pages += out->left_pages;
    out->last = decision(model, limits, POLICY_SWITCH, out);
    out->last.dirty_per_s = dirty_per_s;
}
