/*
 * What a target knows of the cost of a move: the stages as it saw them, and what its own monitor spent. Pages, rounds,
 * downtime and the like are the source's to tell. Of each move that got as far as a HELLO, whatever became of it.
 */
#include "move/receive_impl.h"

#include <stdio.h>

static void begin(struct receiving *r)
{
    const struct message_hello *hello = &r->engine.hello;
    char token[2 * MOVE_TOKEN_BYTES + 1];
    for (unsigned i = 0; i < MOVE_TOKEN_BYTES; i++)
        (void)snprintf(token + 2 * i, 3, "%02x", hello->token[i]);
    bill_begin(&r->bill, BILL_MIGRATE, move_mode_name(hello->mode), NULL, clock_now_ns());
    r->bill.writer = BILL_TARGET;
    bill_describe(&r->bill, token, hello->source, NULL);
    r->has_bill = true;
}

void receive_bill_stage(struct receiving *r, enum move_stage stage)
{
    if (stage == STAGE_NONE)
        return;
    if (!r->has_bill)
        begin(r);
    bill_stage(&r->bill, move_bill_stage(stage), clock_now_ns());
    if (r->arrival && r->arrival->have_config) {
        const struct machine_config *config = &r->arrival->config;
        (void)snprintf(r->bill.name, sizeof(r->bill.name), "%s", config->name);
        bill_machine(&r->bill, config->memory_bytes, config->vcpus);
    }
}

void receive_bill_end(struct receiving *r, enum bill_owner owner, const struct err *err)
{
    struct bill_side side;
    if (!r->has_bill)
        return;
    r->has_bill = false;
    meter_span_end(r->env->meter, &r->span, -1, &side);
    bill_side_set(&r->bill, BILL_TARGET, &side);
    (void)snprintf(r->bill.to, sizeof(r->bill.to), "%s", side.host);
    if (err)
        bill_fail(&r->bill, err);
    bill_end(&r->bill, owner, clock_now_ns());
    if (r->env->hooks.billed)
        r->env->hooks.billed(r->env->hooks.ctx, &r->bill);
}
