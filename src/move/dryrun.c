#include "move/dryrun.h"
#include "base/clock.h"
#include "mem/dirty.h"
#include "move/policy_model.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define RTT_PROBES 5
#define SAMPLES 3
#define ZERO_SAMPLES 1024 /* pages looked at, to guess how many are zero */
#define MODEL_ROUNDS_MAX 100000
#define MODEL_PAGE_NS 300 /* beside sending, at either side: docs/bench.md */
#define PAUSE_VCPU_NS (CLOCK_MSEC / 20)

struct dryrun {
    const struct move_env *env;
    const struct migrate_request *request;
    struct wire wire;
    struct message *message; /* scratch: messages are large */
    json_t *facts;
    bool fits, probed;
    char target[64];
    uint64_t bytes_per_s, rtt_ns;
    struct policy_guest guest;
    uint64_t sample_ns[SAMPLES], sample_pages[SAMPLES];
};

static void add_fact(struct dryrun *c, bool ok, const char *fact, const char *text)
{
    json_t *item = json_pack("{s:s, s:b, s:s}", "fact", fact, "ok", ok, "text", text);
    (void)json_array_append_new(c->facts, item);
    c->fits &= ok;
}

/* ------------------------------------------------------------------------------- the conversation */

static int describe(struct dryrun *c, struct err *err)
{
    const struct machine *machine = c->env->machine;
    struct message_hello *hello = &c->message->hello;
    CLEANUP_BUF struct buf out = { 0 };

    memset(c->message, 0, sizeof(*c->message));
    c->message->type = MESSAGE_HELLO;
    hello->mode = migrate_mode(c->request);
    hello->check = 1;
    hello->pages = machine->mem.pages;
    (void)snprintf(hello->name, sizeof(hello->name), "%s", machine->config.name);
    (void)gethostname(hello->source, sizeof(hello->source) - 1);
    (void)snprintf(hello->version, sizeof(hello->version), "%s", GODWIT_VERSION);
    if (getrandom(hello->token, sizeof(hello->token), 0) != (ssize_t)sizeof(hello->token))
        return err_errno(err, ERR_HOST, errno, "cannot make a token");
    message_encode(c->message, &out);
    section_put(&out, SECTION_MACHINE, 0, 0, &machine_config_schema, &machine->config);
    section_put(&out, SECTION_CPUID, 0, 0, &hv_cpuid_schema, &machine->cpuid);
    if (buf_status(&out))
        return err_errno(err, ERR_HOST, ENOMEM, "cannot describe the machine");
    return wire_send(&c->wire, out.data, out.len, err);
}

static int take(struct dryrun *c, uint16_t type, struct err *err)
{
    struct section section;
    int rc = wire_recv_head(&c->wire, &section, err);
    if (!rc && section.type != type && section.type != MESSAGE_ABORT)
        return err_set(err, ERR_PEER, EBADMSG, "section %s where %s was due",
                       section_type_name(section.type), message_name(type));
    if (!rc)
        rc = wire_recv_message(&c->wire, &section, c->message, err);
    if (!rc && section.type == MESSAGE_ABORT)
        return err_set(err, ERR_PEER,
                       c->message->abort.reason == REASON_VERSION ? EPROTONOSUPPORT : EBUSY,
                       "the target says: %s", c->message->abort.text);
    return rc;
}

static int ask(struct dryrun *c, struct err *err)
{
    char text[192];
    int rc = describe(c, err);
    if (!rc)
        rc = take(c, MESSAGE_VERDICT, err);
    if (rc)
        return rc;
    const struct message_verdict *verdict = &c->message->verdict;
    (void)snprintf(c->target, sizeof(c->target), "%s", verdict->target);
    (void)snprintf(text, sizeof(text), "this is godwit %s, %s has %s, and both speak this stream",
                   GODWIT_VERSION, verdict->target, verdict->version);
    add_fact(c, true, "version", text);
    c->fits &= verdict->ok;
    rc = take(c, MESSAGE_FACTS, err);
    for (uint32_t i = 0; !rc && i < c->message->facts.fact_count; i++) {
        const struct message_fact *fact = &c->message->facts.fact[i];
        add_fact(c, fact->ok, fact->fact, fact->text);
    }
    return rc;
}

static int probe(struct dryrun *c, uint32_t number, uint64_t bytes, struct err *err)
{
    memset(c->message, 0, sizeof(*c->message));
    c->message->type = MESSAGE_PROBE;
    c->message->probe.number = number;
    c->message->probe.bytes = bytes;
    int rc = wire_send_message(&c->wire, c->message, err);
    return rc ? rc : take(c, MESSAGE_PROBE, err);
}

/* Round trips first, then as many bytes as go in the time. */
static int measure_link(struct dryrun *c, struct err *err)
{
    uint64_t bytes = 0, now, length = STREAM_SECTION_BYTES + DRYRUN_SECTION_BYTES;
    CLEANUP_FREE uint8_t *filler = malloc(length);
    int rc = filler ? 0 : err_errno(err, ERR_HOST, ENOMEM, "cannot measure the connection");

    for (uint32_t i = 0; !rc && i < RTT_PROBES; i++) {
        uint64_t began = clock_now_ns();
        rc = probe(c, i, 0, err);
        uint64_t took = clock_now_ns() - began;
        c->rtt_ns = c->rtt_ns ? MIN(c->rtt_ns, took) : took;
    }
    if (rc)
        return rc;
    /* Nothing on the way shall make it smaller. */
    if (getrandom(filler + STREAM_SECTION_BYTES, DRYRUN_SECTION_BYTES, 0) < 0)
        return err_errno(err, ERR_HOST, errno, "cannot measure the connection");
    struct section section = { .type = SECTION_PROBE,
                               .version = 1,
                               .length = DRYRUN_SECTION_BYTES,
                               .body_sum = stream_sum(filler + STREAM_SECTION_BYTES,
                                                      DRYRUN_SECTION_BYTES) };
    section_encode(&section, filler);
    uint64_t began = clock_now_ns();
    do {
        rc = wire_send(&c->wire, filler, length, err);
        bytes += DRYRUN_SECTION_BYTES;
        now = clock_now_ns();
    } while (!rc && now - began < DRYRUN_PROBE_NS && bytes < DRYRUN_PROBE_BYTES);
    if (!rc)
        rc = probe(c, RTT_PROBES, bytes, err);
    now = clock_now_ns();
    c->bytes_per_s = policy_scale(bytes, CLOCK_SECOND, MAX(now - began, UINT64_C(1)));
    c->probed = !rc;
    return rc;
}

/* -------------------------------------------------------------------------------------- the guest */

/* -ECANCELED: told to stop. */
static int wait_until(const struct dryrun *c, uint64_t until_ns, struct err *err)
{
    for (;;) {
        uint64_t now = clock_now_ns();
        struct pollfd fd = { .fd = c->env->cancel_fd, .events = POLLIN };
        if (now >= until_ns)
            return 0;
        if (poll(&fd, 1, (int)((until_ns - now) / CLOCK_MSEC + 1)) > 0)
            return err_set(err, ERR_CALLER, ECANCELED, "cancelled");
    }
}

static int forget_all(struct dirty *dirty)
{
    uint64_t bits[1024], pages;
    int rc = dirty_fetch(dirty, &pages);
    for (unsigned i = 0; i < dirty->mem->region_count && !rc; i++) {
        const struct mem_region *r = &dirty->mem->region[i];
        uint64_t end = r->page_index + r->bytes / PAGE_BYTES;
        for (uint64_t page = r->page_index; page < end && !rc; page += ARRAY_LEN(bits) * 64)
            rc = dirty_take(dirty, page,
                            (unsigned)MIN((end - page) / 64, (uint64_t)ARRAY_LEN(bits)), bits);
    }
    return rc;
}

/* How many different pages the guest writes within a twentieth, a quarter and all of DRYRUN_WATCH_NS. */
static int watch_guest(struct dryrun *c, struct err *err)
{
    static const uint64_t part[SAMPLES] = { 20, 4, 1 };
    struct dirty dirty = { 0 };
    int rc = dirty_start(&dirty, &c->env->machine->mem, c->env->machine->hv);
    if (!rc)
        rc = forget_all(&dirty);
    uint64_t began = clock_now_ns();
    for (unsigned i = 0; i < SAMPLES && !rc; i++) {
        rc = wait_until(c, began + DRYRUN_WATCH_NS / part[i], err);
        if (rc) {
            dirty_stop(&dirty);
            return rc;
        }
        c->sample_ns[i] = clock_now_ns() - began;
        rc = dirty_fetch(&dirty, &c->sample_pages[i]);
    }
    dirty_stop(&dirty);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot follow the guest's writes") : 0;
}

static bool page_is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE_BYTES - 1) == 0;
}

/* Touched pages, and of them by a sample those that are not zero. */
static int measure_memory(struct dryrun *c, struct err *err)
{
    const struct mem *mem = &c->env->machine->mem;
    uint64_t touched = 0, looked = 0, zero = 0, first, end, at = 0;
    uint64_t every = MAX(mem_resident_pages(mem) / ZERO_SAMPLES, UINT64_C(1));
    int rc;
    while ((rc = mem_next_touched(mem, at, &first, &end)) == 0) {
        for (uint64_t page = first + (every - touched % every) % every; page < end; page += every) {
            looked++;
            zero += page_is_zero(mem_page(mem, page));
        }
        touched += end - first;
        at = end;
        if (at >= mem->pages)
            break;
    }
    if (rc && rc != -ENXIO)
        return err_errno(err, ERR_HOST, -rc, "cannot look at the guest's memory");
    c->guest.total_pages = mem->pages;
    c->guest.data_pages = looked ? policy_scale(touched, looked - zero, looked) : 0;
    return 0;
}

/* ---------------------------------------------------------------------------------------- the report */

/* The move that was asked for, through the model. */
static struct policy_outcome play(struct policy_model *model, const struct migrate_request *request,
                                  const struct policy_limits *limits)
{
    struct policy_outcome o = { .left_pages = model->guest.data_pages };
    switch (migrate_post_copy(request)) {
    case SOURCE_POST_COPY_NOW:
        policy_model_pull(model, limits, &o);
        return o;
    case SOURCE_POST_COPY_ALLOW:
        o = policy_model_run(model, limits, MODEL_ROUNDS_MAX);
        if (o.last.what == POLICY_SWITCH ||
            (o.last.what == POLICY_STOP && o.downtime_ns > limits->max_downtime_ns))
            policy_model_pull(model, limits, &o);
        return o;
    case SOURCE_POST_COPY_NEVER:
        break;
    }
    return migrate_mode(request) == MOVE_STOP_COPY
               ? policy_model_stop(model, limits)
               : policy_model_run(model, limits, MODEL_ROUNDS_MAX);
}

static json_t *predict(struct dryrun *c)
{
    struct policy_limits limits = c->request->policy;
    char text[160];

    limits.pause_ns += c->env->machine->config.vcpus * PAUSE_VCPU_NS;
    policy_guest_curve(&c->guest, c->sample_ns, c->sample_pages, SAMPLES);
    uint64_t link = limits.bandwidth ? limits.bandwidth : c->bytes_per_s;
    link = MIN(link, c->bytes_per_s);
    struct policy_model model = {
        .guest = c->guest,
        .path = { .bytes_per_s = link, .rtt_ns = c->rtt_ns, .page_ns = MODEL_PAGE_NS }
    };
    limits.allow_switch = migrate_post_copy(c->request) != SOURCE_POST_COPY_NEVER;
    struct policy_outcome o = play(&model, c->request, &limits);
    bool ends = o.last.what == POLICY_STOP || o.last.what == POLICY_SWITCH;
    bool met = ends && o.downtime_ns <= limits.max_downtime_ns &&
               (!limits.max_time_ns || o.time_ns <= limits.max_time_ns);
    if (limits.strict && !met)
        add_fact(c, false, "goal", policy_explain(&o.last, text, sizeof(text)));
    return json_pack("{s:I, s:o, s:b, s:b, s:s, s:I, s:s}", "time_ns", (json_int_t)o.time_ns,
                     "downtime_ns", ends ? json_integer((json_int_t)o.downtime_ns) : json_null(),
                     "goal_met", met, "slowed", o.held_ns > 0, "ends_with",
                     policy_what_name(o.last.what), "rounds", (json_int_t)o.rounds, "text",
                     policy_explain(&o.last, text, sizeof(text)));
}

static json_t *guest_json(const struct dryrun *c)
{
    json_t *curve = json_array();
    for (unsigned i = 0; i < SAMPLES; i++)
        (void)json_array_append_new(curve,
                                    json_pack("{s:I, s:I}", "ns", (json_int_t)c->sample_ns[i],
                                              "pages", (json_int_t)c->sample_pages[i]));
    return json_pack("{s:I, s:I, s:o}", "pages", (json_int_t)c->guest.total_pages, "data_pages",
                     (json_int_t)c->guest.data_pages, "written", curve);
}

static json_t *report(struct dryrun *c)
{
    json_t *predicted = c->probed ? predict(c) : json_null();
    json_t *link = c->probed ? json_pack("{s:I, s:I}", "bytes_per_s", (json_int_t)c->bytes_per_s,
                                         "rtt_ns", (json_int_t)c->rtt_ns)
                             : json_null();
    return json_pack("{s:b, s:s, s:s, s:O, s:o, s:o, s:o}", "ok", c->fits, "to", c->request->target,
                     "target", c->target, "facts", c->facts, "link", link, "guest",
                     c->probed ? guest_json(c) : json_null(), "predicted", predicted);
}

/* Connects. Who does not prove who it is can be reached all the same. */
static int meet(struct dryrun *c, struct err *why)
{
    int rc = wire_connect(&c->wire, c->env->trust, c->env->insecure, c->request->target, why);
    bool reached = !rc || rc == -EKEYREJECTED || rc == -EPROTO || rc == -EPERM;
    add_fact(c, reached, "port", reached ? "a connection could be made" : why->text);
    if (reached)
        add_fact(c, !rc, "identity",
                 rc                 ? why->text
                 : c->env->insecure ? "not asked for: --insecure"
                                    : "each side trusts the other's key");
    return rc;
}

/* Whatever the other side does wrong is a fact, and no failure of the check. */
static int talk(struct dryrun *c, struct err *err)
{
    struct err why = { 0 };
    c->wire.link.cancel_fd = c->env->cancel_fd;
    c->wire.link.stall_limit_ns = c->request->stall_limit_ns;
    int rc = meet(c, &why);
    if (!rc) {
        rc = ask(c, &why);
        if (rc)
            add_fact(c, false, rc == -EPROTONOSUPPORT ? "version" : "target", why.text);
    }
    if (!rc) {
        rc = measure_link(c, &why);
        if (rc)
            add_fact(c, false, "connection", why.text);
    }
    if (rc == -ECANCELED || (rc && why.fault == ERR_HOST && rc == -ENOMEM)) {
        *err = why;
        return rc;
    }
    return 0;
}

int dryrun_run(const struct move_env *env, const struct migrate_request *request, json_t **ret,
               struct err *err)
{
    struct dryrun c = {
        .env = env, .request = request, .wire = WIRE_NONE, .fits = true, .facts = json_array()
    };
    c.message = malloc(sizeof(*c.message));
    int rc =
        c.message && c.facts ? talk(&c, err) : err_errno(err, ERR_HOST, ENOMEM, "cannot check");
    wire_close(&c.wire);
    if (!rc && c.probed)
        rc = measure_memory(&c, err);
    if (!rc && c.probed)
        rc = watch_guest(&c, err);
    if (!rc) {
        *ret = report(&c);
        rc = *ret ? 0 : err_errno(err, ERR_HOST, ENOMEM, "cannot check");
    }
    free(c.message);
    json_decref(c.facts);
    return rc;
}
