#include "cost/bill.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

SCHEMA_DEFINE(bill_side, 1, BILL_SIDE)
static_assert(BILL_CPU_MAX == 4,
              "BILL_SIDE carries one CPU time per group: a new group is a new version");

static void set_text(char *to, size_t size, const char *text)
{
    (void)snprintf(to, size, "%s", text ? text : "");
}

void bill_begin(struct bill *bill, enum bill_kind kind, const char *mode, const char *name,
                uint64_t now_ns)
{
    *bill = (struct bill){ .kind = kind,
                           .writer = kind == BILL_RESTORE ? BILL_TARGET : BILL_SOURCE,
                           .began_ns = now_ns,
                           .stage_since_ns = now_ns,
                           .started_wall_ns = clock_wall_ns() };
    set_text(bill->mode, sizeof(bill->mode), mode);
    set_text(bill->name, sizeof(bill->name), name);
}

void bill_describe(struct bill *bill, const char *token, const char *from, const char *to)
{
    set_text(bill->token, sizeof(bill->token), token);
    set_text(bill->from, sizeof(bill->from), from);
    set_text(bill->to, sizeof(bill->to), to);
}

void bill_machine(struct bill *bill, uint64_t memory_bytes, uint32_t vcpus)
{
    bill->memory_bytes = memory_bytes;
    bill->vcpus = vcpus;
}

/* Adds the time since *since to *sum and moves *since on; never backwards. */
static void lap(uint64_t *sum, uint64_t *since, uint64_t now_ns)
{
    if (now_ns > *since) {
        *sum += now_ns - *since;
        *since = now_ns;
    }
}

void bill_stage(struct bill *bill, enum bill_stage stage, uint64_t now_ns)
{
    ASSERT((unsigned)stage < BILL_STAGE_MAX);
    if (bill->ended)
        return;
    lap(&bill->stage_ns[bill->stage], &bill->stage_since_ns, now_ns);
    bill->stage = stage;
}

void bill_downtime(struct bill *bill, enum bill_part part, uint64_t now_ns)
{
    ASSERT((unsigned)part < BILL_PART_MAX);
    if (bill->ended)
        return;
    if (bill->is_down)
        lap(&bill->part_ns[bill->part], &bill->part_since_ns, now_ns);
    else
        bill->part_since_ns = MAX(now_ns, bill->part_since_ns);
    if (!bill->was_down)
        bill->down_since_ns = bill->part_since_ns;
    bill->was_down = bill->is_down = true;
    bill->part = part;
}

void bill_downtime_end(struct bill *bill, uint64_t now_ns)
{
    if (bill->is_down)
        lap(&bill->part_ns[bill->part], &bill->part_since_ns, now_ns);
    bill->is_down = false;
}

/* Saturates rather than wraps: a side's numbers come from the peer. */
static void add(uint64_t *sum, uint64_t n)
{
    if (__builtin_add_overflow(*sum, n, sum))
        *sum = UINT64_MAX;
}

void bill_downtime_other(struct bill *bill, enum bill_part part, uint64_t ns)
{
    ASSERT((unsigned)part < BILL_PART_MAX && part != BILL_TRANSFER);
    add(&bill->part_claim_ns[part], ns);
}

/* The first half and the latest rounds stay as they are; what falls between becomes one. */
static void merge_middle(struct bill *bill)
{
    struct bill_round *into = &bill->round[BILL_ROUNDS_MAX / 2], *from = into + 1;
    into->last = from->last;
    into->paused &= from->paused;
    add(&into->pages_data, from->pages_data);
    add(&into->pages_zero, from->pages_zero);
    add(&into->pages_free, from->pages_free);
    add(&into->pages_dirtied, from->pages_dirtied);
    add(&into->bytes, from->bytes);
    add(&into->duration_ns, from->duration_ns);
    bill->round_count--;
    memmove(from, from + 1, (size_t)(&bill->round[bill->round_count] - from) * sizeof(*from));
}

void bill_round(struct bill *bill, const struct bill_round *round)
{
    if (bill->round_count == BILL_ROUNDS_MAX)
        merge_middle(bill);
    struct bill_round *slot = &bill->round[bill->round_count++];
    *slot = *round;
    slot->first = slot->last = ++bill->rounds;
}

void bill_decision(struct bill *bill, const char *policy, const struct bill_decision *decision)
{
    if (bill->decision_count == BILL_DECISIONS_MAX) {
        struct bill_decision *into = &bill->decision[BILL_DECISIONS_MAX / 2];
        bill->decision_count--;
        memmove(into, into + 1,
                (size_t)(&bill->decision[bill->decision_count] - into) * sizeof(*into));
    }
    (void)snprintf(bill->policy, sizeof(bill->policy), "%s", policy);
    bill->decision[bill->decision_count++] = *decision;
    bill->decisions++;
}

void bill_held(struct bill *bill, unsigned id, uint64_t ns)
{
    if (id < BILL_VCPUS_MAX)
        bill->held_ns[id] = ns;
}

void bill_bytes(struct bill *bill, enum bill_bytes_kind kind, uint64_t bytes)
{
    ASSERT((unsigned)kind < BILL_BYTES_MAX);
    add(&bill->bytes[kind], bytes);
}

void bill_pages(struct bill *bill, enum bill_page_class class, uint64_t pages)
{
    ASSERT((unsigned)class < BILL_PAGES_MAX);
    add(&bill->pages[class], pages);
}

void bill_pages_again(struct bill *bill, uint64_t pages)
{
    add(&bill->pages_sent_again, pages);
}

void bill_class(struct bill *bill, enum bill_class class, uint64_t pages, uint64_t saved_bytes,
                uint64_t cpu_ns)
{
    if ((unsigned)class >= BILL_CLASS_MAX || bill->ended)
        return;
    bill->saving[class].pages += pages;
    bill->saving[class].saved_bytes += saved_bytes;
    bill->saving[class].cpu_ns += cpu_ns;
}

void bill_lane(struct bill *bill, unsigned index, uint64_t bytes)
{
    if (index >= BILL_LANES_MAX || bill->ended)
        return;
    bill->lane_count = MAX(bill->lane_count, index + 1);
    bill->lane_bytes[index] += bytes;
}

void bill_limit(struct bill *bill, uint64_t bytes_per_s)
{
    if (!bill->ended)
        bill->limit_bytes_per_s = bytes_per_s;
}

void bill_link(struct bill *bill, const struct bill_link *link)
{
    bill->has_link = true;
    bill->link = *link;
}

void bill_wire(struct bill *bill, uint64_t sent_bytes, uint64_t received_bytes)
{
    add(&bill->wire_sent_bytes, sent_bytes);
    add(&bill->wire_received_bytes, received_bytes);
}

void bill_pages_freed_later(struct bill *bill, uint64_t pages)
{
    add(&bill->pages_freed_later, pages);
}

void bill_faults_set(struct bill *bill, const struct bill_faults *faults)
{
    bill->faults = *faults;
    bill->has_faults = true;
}

void bill_side_set(struct bill *bill, enum bill_place place, const struct bill_side *side)
{
    ASSERT((unsigned)place < BILL_PLACE_MAX);
    if (place != bill->writer && !bill->has_side[place]) {
        bill_downtime_other(bill, BILL_LOAD, side->load_ns);
        bill_downtime_other(bill, BILL_COMMIT, side->commit_ns);
        bill_downtime_other(bill, BILL_RESUME, side->resume_ns);
    }
    bill->has_side[place] = true;
    bill->side[place] = *side;
}

void bill_agent(struct bill *bill, const struct bill_agent *agent)
{
    bill->has_agent = true;
    bill->agent = *agent;
}

void bill_fail(struct bill *bill, const struct err *err)
{
    if (bill->err.code || bill->ended)
        return;
    bill->err = *err;
    if (!bill->err.code)
        bill->err.code = EIO; /* a failure without a number is a failure all the same */
    bill->failed_stage = bill->stage;
}

void bill_end(struct bill *bill, enum bill_owner owner, uint64_t now_ns)
{
    ASSERT((unsigned)owner < BILL_OWNER_MAX);
    if (bill->ended)
        return;
    bill_downtime_end(bill, now_ns);
    lap(&bill->stage_ns[bill->stage], &bill->stage_since_ns, now_ns);
    for (unsigned i = 0; i < BILL_PART_MAX; i++) {
        uint64_t fits = MIN(bill->part_claim_ns[i], bill->part_ns[BILL_TRANSFER]);
        bill->part_ns[BILL_TRANSFER] -= fits;
        bill->part_other_ns[i] = fits;
    }
    bill->owner = owner;
    bill->ended = true;
}

uint64_t bill_total_ns(const struct bill *bill)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < BILL_STAGE_MAX; i++)
        sum += bill->stage_ns[i];
    return sum;
}

uint64_t bill_downtime_ns(const struct bill *bill)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < BILL_PART_MAX; i++)
        sum += bill->part_ns[i] + bill->part_other_ns[i];
    return sum;
}
