/*
 * The bill as JSON: docs/bill.md describes it, docs/bill.schema.json defines it, and a test
 * holds this file to the schema. Every sum in it is printed from the same numbers as its terms.
 * Keys end in their unit; what was not measured is null, never zero.
 */
#include "cost/bill.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

static const char *const kind_names[] = {
    [BILL_MIGRATE] = "migrate",
    [BILL_CHECKPOINT] = "checkpoint",
    [BILL_RESTORE] = "restore",
};
static const char *const stage_names[] = {
    [BILL_PRE_MIGRATION] = "pre-migration",
    [BILL_RESERVATION] = "reservation",
    [BILL_PRE_COPY] = "pre-copy",
    [BILL_STOP_AND_COPY] = "stop-and-copy",
    [BILL_COMMITMENT] = "commitment",
    [BILL_ACTIVATION] = "activation",
    [BILL_PULLING] = "pulling",
};
static const char *const part_names[] = {
    [BILL_PAUSE] = "pause",           [BILL_DISK_SYNC] = "disk-sync",
    [BILL_LAST_PAGES] = "last-pages", [BILL_DEVICE_STATE] = "device-state",
    [BILL_TRANSFER] = "transfer",     [BILL_LOAD] = "load",
    [BILL_COMMIT] = "commit",         [BILL_RESUME] = "resume",
};
static const char *const bytes_names[] = {
    [BILL_BYTES_PAGE_DATA] = "page_data",     [BILL_BYTES_REPEATED] = "repeated_pages",
    [BILL_BYTES_ZERO_RANGES] = "zero_ranges", [BILL_BYTES_DEVICE_STATE] = "device_state",
    [BILL_BYTES_PROTOCOL] = "protocol",
};
static const char *const page_names[] = {
    [BILL_PAGES_NEVER_TOUCHED] = "never_touched",
    [BILL_PAGES_FREE] = "free",
    [BILL_PAGES_ZERO] = "zero",
    [BILL_PAGES_DATA] = "data",
};
static const char *const class_names[] = {
    [BILL_CLASS_NEVER_TOUCHED] = "never_touched",
    [BILL_CLASS_FREE] = "free",
    [BILL_CLASS_ZERO] = "zero",
    [BILL_CLASS_SAME] = "same",
    [BILL_CLASS_DELTA] = "delta",
    [BILL_CLASS_PACKED] = "packed",
};
static const char *const owner_names[] = {
    [BILL_OWNER_NONE] = "none",
    [BILL_OWNER_SOURCE] = "source",
    [BILL_OWNER_TARGET] = "target",
    [BILL_OWNER_UNCERTAIN] = "uncertain",
};
static const char *const place_names[] = { [BILL_SOURCE] = "source", [BILL_TARGET] = "target" };
static const char *const group_names[] = {
    [BILL_CPU_VCPU] = "vcpu",
    [BILL_CPU_MOVER] = "mover",
    [BILL_CPU_LOOP] = "loop",
    [BILL_CPU_OTHER] = "other",
};
static_assert(ARRAY_LEN(kind_names) == BILL_KIND_MAX && ARRAY_LEN(stage_names) == BILL_STAGE_MAX &&
                  ARRAY_LEN(part_names) == BILL_PART_MAX &&
                  ARRAY_LEN(bytes_names) == BILL_BYTES_MAX &&
                  ARRAY_LEN(page_names) == BILL_PAGES_MAX &&
                  ARRAY_LEN(class_names) == BILL_CLASS_MAX &&
                  ARRAY_LEN(owner_names) == BILL_OWNER_MAX &&
                  ARRAY_LEN(place_names) == BILL_PLACE_MAX &&
                  ARRAY_LEN(group_names) == BILL_CPU_MAX,
              "one name for each value");

/* What each clock and counter covers, and what not: part of every bill, so that a number found
 * years later still says what it means. */
static const struct {
    const char *of, *covers, *not ;
} clocks[] = {
    { "total_ns",
      "CLOCK_MONOTONIC of the side that wrote the bill, from taking the order to the end of the "
      "last stage.",
      "The start of a command-line client, and of the target's process before this side reached "
      "it." },
    { "stages",
      "The same clock. A stage ends where the next begins, so they add up to total_ns. Time "
      "spent cleaning up after a failure belongs to the stage that failed.",
      "The other side's view: it changes stage when the message about it arrives." },
    { "downtime",
      "The same clock, from the order to stop the vCPUs until this side knows that they run "
      "again. Of a move it thus includes the way back of the message that says so.",
      "What the guest's clients saw: add the time until the network finds the new place, and "
      "until a sleeping guest is scheduled." },
    { "downtime.parts",
      "own_ns was measured by this side's clock, other_ns by the other side's. Only durations "
      "are taken from the other clock, never instants; they are taken out of the transfer, in "
      "which they fell. So the transfer is a remainder: bytes under way in both directions, and "
      "whatever nobody else claimed.",
      "A difference in rate between the two clocks (some millionths)." },
    { "rounds",
      "This side's clock, from the first look for dirty pages to handing the round's last byte "
      "to the kernel. bytes_per_s is what the kernel took, dirty_pages_per_s what was found "
      "dirty after the round.",
      "Bytes still in socket buffers when the round ended. A page written many times in a round "
      "counts once." },
    { "bytes", "Bytes of the stream, counted as they are handed to the kernel.",
      "TCP and IP headers, retransmissions, and what the other side answers." },
    { "pages", "The guest's memory by what the first pass over it found.",
      "What became of a page later: sent_again counts how often pages were sent once more." },
    { "classes",
      "Of the whole move: pages that travelled as less than their bytes. saved_bytes is against sending them "
      "whole; cpu_ns is what telling and making the class took the source, for all pages looked at.",
      "What undoing it costs the other side: that is in its monitor's CPU time." },
    { "lanes",
      "Bytes of the stream on each bulk connection, and the limit of all pages together as it last was.",
      "The control connection: it has the rest of bytes.total. TCP and IP headers." },
    { "faults",
      "The target's clock, for each page that an access of the guest (or of a device or KVM for it) "
      "waited for: from the target's monitor reading the fault to the page in its place.",
      "The time from the access to the fault's reading, and from the placing to the access going "
      "on: some microseconds each, which the guest sees. A second access to a page that is waited "
      "for already." },
    { "agent",
      "What the program inside the guest said it did before the last round: page cache it gave back "
      "by the guest's own count, control groups it froze and tasks it made idle. ns is the time of "
      "asking it, on this side's clock, within pre-copy.",
      "The restoring, which comes after the bill: the monitor that has the guest then asks for it, "
      "and says in its log and events what came of it." },
    { "monitors.cpu_ns",
      "CPU clock of each thread, over wall_ns. vcpu is the guest itself and its exits; other is "
      "the rest of the process, so the groups add up to the process.",
      "CPU the kernel spends outside the process: interrupts, network and block work of its own "
      "threads." },
    { "monitors.memory",
      "Anonymous memory of the process, sampled at the beginning, each stage and round, and the "
      "end.",
      "The guest's memory; the kernel's (socket buffers, page tables, dirty logs); what came "
      "and went between two samples." },
    { "monitors.disk",
      "Bytes the process read from storage and wrote for it (/proc/self/io), its guest's work "
      "included. A write through the page cache counts when it makes a page dirty.",
      "File systems in memory; reads the page cache served." },
    { "monitors.tcp",
      "Segments sent again and smoothed round trip of the move's connection (TCP_INFO), read at "
      "the end.",
      "Other connections." },
};

static json_t *integer(uint64_t v)
{
    return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

/* A text that may be unknown; one that is not UTF-8 (a peer's) is unknown too. */
static json_t *text(const char *s)
{
    json_t *json = s[0] ? json_string(s) : NULL;
    return json ? json : json_null();
}

static json_t *per_second(uint64_t n, uint64_t ns)
{
    if (!ns)
        return json_null();
    double rate = (double)n * 1e9 / (double)ns;
    return rate < 9e18 ? json_integer((json_int_t)rate) : json_integer(INT64_MAX);
}

static json_t *time_text(uint64_t wall_ns)
{
    time_t seconds = (time_t)(wall_ns / CLOCK_SECOND);
    struct tm tm;
    char out[40];
    if (!gmtime_r(&seconds, &tm) || !strftime(out, sizeof(out), "%Y-%m-%dT%H:%M:%SZ", &tm))
        return json_null();
    return json_string(out);
}

static uint64_t sum_of(const uint64_t *n, unsigned count)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++)
        if (__builtin_add_overflow(sum, n[i], &sum))
            return UINT64_MAX;
    return sum;
}

static json_t *stages_json(const struct bill *bill)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < BILL_STAGE_MAX; i++)
        (void)json_array_append_new(list, json_pack("{s:s, s:o}", "stage", stage_names[i], "ns",
                                                    integer(bill->stage_ns[i])));
    return list;
}

/* An instant of the writer's clock as time since the move began. */
static json_t *since_start(const struct bill *bill, uint64_t at_ns)
{
    return integer(at_ns > bill->began_ns ? at_ns - bill->began_ns : 0);
}

static json_t *downtime_json(const struct bill *bill)
{
    if (!bill->was_down)
        return json_null();
    json_t *parts = json_array();
    bool cut = false;
    for (unsigned i = 0; i < BILL_PART_MAX; i++) {
        uint64_t own = bill->part_ns[i], other = bill->part_other_ns[i];
        cut |= other < bill->part_claim_ns[i];
        json_t *part =
            json_pack("{s:s, s:o, s:o, s:o}", "part", part_names[i], "ns", integer(own + other),
                      "own_ns", integer(own), "other_ns", integer(other));
        (void)json_array_append_new(parts, part);
    }
    return json_pack("{s:o, s:o, s:b, s:o}", "at_ns", since_start(bill, bill->down_since_ns),
                     "total_ns", integer(bill_downtime_ns(bill)), "cut", cut, "parts", parts);
}

static json_t *rounds_json(const struct bill *bill)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < bill->round_count; i++) {
        const struct bill_round *r = &bill->round[i];
        json_t *round =
            json_pack("{s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "first",
                      integer(r->first), "last", integer(r->last), "at_ns",
                      since_start(bill, r->began_ns), "paused", r->paused, "pages_data",
                      integer(r->pages_data), "pages_zero", integer(r->pages_zero), "pages_free",
                      integer(r->pages_free), "pages_dirtied", integer(r->pages_dirtied), "bytes",
                      integer(r->bytes), "duration_ns", integer(r->duration_ns),
                      "dirty_pages_per_s", per_second(r->pages_dirtied, r->duration_ns),
                      "bytes_per_s", per_second(r->bytes, r->duration_ns));
        (void)json_array_append_new(list, round);
    }
    return json_pack("{s:o, s:o}", "count", integer(bill->rounds), "list", list);
}

static json_t *policy_json(const struct bill *bill)
{
    if (!bill->policy[0])
        return json_null();
    json_t *list = json_array();
    for (unsigned i = 0; i < bill->decision_count; i++) {
        const struct bill_decision *d = &bill->decision[i];
        bool told = d->predicted_ns != UINT64_MAX;
        json_t *decision =
            json_pack("{s:o, s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "at_ns",
                      integer(d->at_ns), "round", integer(d->round), "what", d->what, "why", d->why,
                      "pages_left", integer(d->left_pages), "link_bytes_per_s",
                      d->link_bytes_per_s ? integer(d->link_bytes_per_s) : json_null(),
                      "dirty_pages_per_s", integer(d->dirty_pages_per_s), "downtime_ns",
                      told ? integer(d->predicted_ns) : json_null(), "max_downtime_ns",
                      integer(d->asked_ns), "rate_bytes_per_s",
                      d->rate_bytes_per_s ? integer(d->rate_bytes_per_s) : json_null(),
                      "run_permille", (json_int_t)d->run_permille);
        (void)json_array_append_new(list, decision);
    }
    return json_pack("{s:s, s:o, s:o}", "name", bill->policy, "count", integer(bill->decisions),
                     "decisions", list);
}

/* Null when nobody was held. */
static json_t *brownout_json(const struct bill *bill)
{
    uint64_t sum = sum_of(bill->held_ns, BILL_VCPUS_MAX);
    if (sum == 0)
        return json_null();
    json_t *vcpus = json_array();
    for (unsigned i = 0; i < MIN(bill->vcpus, (uint32_t)BILL_VCPUS_MAX); i++)
        (void)json_array_append_new(vcpus, integer(bill->held_ns[i]));
    return json_pack("{s:o, s:o}", "held_ns", integer(sum), "vcpu_held_ns", vcpus);
}

static json_t *bytes_json(const struct bill *bill)
{
    json_t *json = json_pack("{s:o}", "total", integer(sum_of(bill->bytes, BILL_BYTES_MAX)));
    for (unsigned i = 0; i < BILL_BYTES_MAX; i++)
        (void)json_object_set_new(json, bytes_names[i], integer(bill->bytes[i]));
    return json;
}

static json_t *pages_json(const struct bill *bill)
{
    uint64_t total = bill->memory_bytes / 4096, seen = sum_of(bill->pages, BILL_PAGES_MAX);
    json_t *json = json_pack("{s:o}", "total", integer(total));
    for (unsigned i = 0; i < BILL_PAGES_MAX; i++)
        (void)json_object_set_new(json, page_names[i], integer(bill->pages[i]));
    (void)json_object_set_new(json, "not_reached", integer(total > seen ? total - seen : 0));
    (void)json_object_set_new(json, "sent_again", integer(bill->pages_sent_again));
    (void)json_object_set_new(json, "freed_later", integer(bill->pages_freed_later));
    return json;
}

static json_t *classes_json(const struct bill *bill)
{
    json_t *json = json_object();
    for (unsigned i = 0; i < BILL_CLASS_MAX; i++) {
        const struct bill_saving *s = &bill->saving[i];
        (void)json_object_set_new(json, class_names[i],
                                  json_pack("{s:o, s:o, s:o}", "pages", integer(s->pages),
                                            "saved_bytes", integer(s->saved_bytes), "cpu_ns",
                                            integer(s->cpu_ns)));
    }
    return json;
}

static json_t *lanes_json(const struct bill *bill)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < bill->lane_count; i++)
        (void)json_array_append_new(list,
                                    json_pack("{s:o}", "bytes", integer(bill->lane_bytes[i])));
    return json_pack("{s:o, s:o}", "limit_bytes_per_s",
                     bill->limit_bytes_per_s ? integer(bill->limit_bytes_per_s) : json_null(),
                     "list", list);
}

static json_t *known(const struct bill_faults *f, uint64_t v)
{
    return f->known ? integer(v) : json_null();
}

static json_t *faults_json(const struct bill *bill)
{
    const struct bill_faults *f = &bill->faults;
    if (!bill->has_faults)
        return json_null();
    json_t *list = json_array();
    for (unsigned i = 0; i < BILL_FAULT_BUCKETS; i++)
        if (f->bucket[i])
            (void)json_array_append_new(list, json_pack("{s:o, s:o}", "from_ns",
                                                        integer(UINT64_C(1) << i), "count",
                                                        integer(f->bucket[i])));
    json_t *waits = json_pack("{s:o, s:o, s:o, s:o, s:o}", "p50", known(f, f->p50_ns), "p90",
                              known(f, f->p90_ns), "p99", known(f, f->p99_ns), "max",
                              known(f, f->max_ns), "histogram", list);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "count",
                     known(f, f->count), "wait_ns", waits, "pages_absent", known(f, f->absent),
                     "pages_missing", known(f, f->missing), "pages_requested",
                     known(f, f->requested), "pages_pushed", known(f, f->pushed), "duplicates",
                     known(f, f->duplicates), "answered", integer(f->answered), "late",
                     integer(f->late), "interrupted", known(f, f->interrupted), "stranded_ns",
                     known(f, f->stranded_ns));
}

static json_t *cpu_json(const struct bill_side *side)
{
    json_t *json = json_pack("{s:o}", "total", integer(sum_of(side->cpu_ns, BILL_CPU_MAX)));
    for (unsigned i = 0; i < BILL_CPU_MAX; i++)
        (void)json_object_set_new(json, group_names[i], integer(side->cpu_ns[i]));
    return json;
}

static json_t *memory_json(const struct bill_side *side)
{
    uint64_t before = side->memory_before_bytes, peak = side->memory_peak_bytes;
    return json_pack("{s:o, s:o, s:o}", "before_bytes", integer(before), "peak_bytes",
                     integer(peak), "extra_bytes", integer(peak > before ? peak - before : 0));
}

static json_t *disk_json(const struct bill_side *side)
{
    return json_pack("{s:o, s:o}", "read_bytes", integer(side->disk_read_bytes), "written_bytes",
                     integer(side->disk_written_bytes));
}

static json_t *tcp_json(const struct bill_side *side)
{
    return json_pack("{s:o, s:o}", "retransmits", integer(side->tcp_retransmits), "rtt_us",
                     integer(side->tcp_rtt_us));
}

static json_t *side_json(const struct bill *bill, enum bill_place place)
{
    if (!bill->has_side[place])
        return json_null();
    const struct bill_side *s = &bill->side[place];
    unsigned m = s->measured;
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "host", text(s->host), "wall_ns",
                     integer(s->wall_ns), "cpu_ns",
                     m & BILL_MEASURED_CPU ? cpu_json(s) : json_null(), "memory",
                     m & BILL_MEASURED_MEMORY ? memory_json(s) : json_null(), "disk",
                     m & BILL_MEASURED_DISK ? disk_json(s) : json_null(), "tcp",
                     m & BILL_MEASURED_TCP ? tcp_json(s) : json_null());
}

/* Who restores what the agent did: the monitor that has the guest now. */
static const char *restored_by(const struct bill *bill)
{
    if (bill->owner == BILL_OWNER_SOURCE || bill->owner == BILL_OWNER_TARGET)
        return owner_names[bill->owner];
    return NULL;
}

static json_t *agent_json(const struct bill *bill)
{
    const struct bill_agent *a = &bill->agent;
    if (!bill->has_agent)
        return json_null();
    return json_pack("{s:b, s:o, s:o, s:o, s:s?, s:o}", "present", a->present, "page_cache_bytes",
                     integer(a->page_cache_bytes), "slowed", integer(a->slowed), "ns",
                     integer(a->ns), "restored_by", restored_by(bill), "failure", text(a->failure));
}

static json_t *clocks_json(void)
{
    json_t *json = json_object();
    for (unsigned i = 0; i < ARRAY_LEN(clocks); i++)
        (void)json_object_set_new(json, clocks[i].of,
                                  json_pack("{s:s, s:s}", "covers", clocks[i].covers, "not",
                                            clocks[i].not ));
    return json;
}

static json_t *encryption_json(const struct bill *bill)
{
    const struct bill_link *link = &bill->link;
    if (!bill->has_link || !link->encrypted)
        return json_null();
    return json_pack("{s:s, s:o, s:o, s:o, s:b, s:b, s:o, s:o}", "protocol", "TLS 1.3", "cipher",
                     text(link->cipher), "peer", text(link->peer), "handshake_ns",
                     integer(link->handshake_ns), "kernel_sends", link->kernel_sends,
                     "kernel_receives", link->kernel_receives, "sent_bytes",
                     integer(bill->wire_sent_bytes), "received_bytes",
                     integer(bill->wire_received_bytes));
}

static const char *outcome(const struct bill *bill)
{
    if (bill->owner == BILL_OWNER_UNCERTAIN)
        return "uncertain";
    if (!bill->err.code)
        return "completed";
    return bill->err.code == ECANCELED ? "cancelled" : "failed";
}

static json_t *failure_json(const struct bill *bill)
{
    if (!bill->err.code)
        return json_null();
    const char *code = strerrorname_np(bill->err.code);
    return json_pack("{s:s, s:s, s:s?, s:o, s:o}", "stage", stage_names[bill->failed_stage],
                     "fault", err_fault_name(bill->err.fault), "reason", bill->err.reason, "code",
                     code ? json_string(code) : json_null(), "text", text(bill->err.text));
}

json_t *bill_json(const struct bill *bill)
{
    ASSERT(bill->ended);
    json_t *monitors = json_object();
    for (unsigned i = 0; i < BILL_PLACE_MAX; i++)
        (void)json_object_set_new(monitors, place_names[i], side_json(bill, (enum bill_place)i));

    struct {
        const char *key;
        json_t *value;
    } member[] = {
        { "bill", json_integer(BILL_VERSION) },
        { "kind", json_string(kind_names[bill->kind]) },
        { "mode", text(bill->mode) },
        { "written_by", json_string(place_names[bill->writer]) },
        { "name", text(bill->name) },
        { "token", text(bill->token) },
        { "from", text(bill->from) },
        { "to", text(bill->to) },
        { "started", time_text(bill->started_wall_ns) },
        { "started_monotonic_ns", integer(bill->began_ns) },
        { "memory_bytes", integer(bill->memory_bytes) },
        { "vcpus", json_integer(bill->vcpus) },
        { "outcome", json_string(outcome(bill)) },
        { "owner", json_string(owner_names[bill->owner]) },
        { "failure", failure_json(bill) },
        { "total_ns", integer(bill_total_ns(bill)) },
        { "stages", stages_json(bill) },
        { "downtime", downtime_json(bill) },
        { "rounds", rounds_json(bill) },
        { "policy", policy_json(bill) },
        { "brownout", brownout_json(bill) },
        { "bytes", bytes_json(bill) },
        { "encrypted", bill->has_link ? json_boolean(bill->link.encrypted) : json_null() },
        { "encryption", encryption_json(bill) },
        { "pages", pages_json(bill) },
        { "classes", classes_json(bill) },
        { "lanes", lanes_json(bill) },
        { "faults", faults_json(bill) },
        { "agent", agent_json(bill) },
        { "monitors", monitors },
        { "clocks", clocks_json() },
    };
    json_t *json = json_object();
    bool whole = json;
    for (unsigned i = 0; i < ARRAY_LEN(member); i++)
        whole &= json_object_set_new(json, member[i].key, member[i].value) == 0;
    if (whole)
        return json;
    json_decref(json);
    return NULL;
}

const char *bill_stage_name(enum bill_stage stage)
{
    return (unsigned)stage < BILL_STAGE_MAX ? stage_names[stage] : "unknown";
}

const char *bill_part_name(enum bill_part part)
{
    return (unsigned)part < BILL_PART_MAX ? part_names[part] : "unknown";
}
