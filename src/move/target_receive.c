#include "move/target_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- rows: up to the last section */

int target_on_section(struct target_call *c)
{
    struct target *t = c->t;
    uint16_t type = c->e->section;
    bool fits = false;

    switch ((enum target_expect)t->expect) {
    case EXPECT_MACHINE:
        fits = type == SECTION_MACHINE;
        break;
    case EXPECT_CPUID:
        fits = type == SECTION_CPUID;
        break;
    case EXPECT_PAGES:
        fits = type == (t->post_copy ? SECTION_ABSENT : SECTION_PAGES);
        break;
    case EXPECT_STATE:
        fits = type >= SECTION_VM && type < SECTION_STATE_MAX;
        break;
    default:
        break;
    }
    if (!fits) {
        char what[64];
        (void)snprintf(what, sizeof(what), "section %s (%u) out of place", section_type_name(type),
                       type);
        return target_protocol_error(c, REASON_PROTOCOL, what);
    }
    if (t->expect == EXPECT_MACHINE) {
        t->expect = EXPECT_CPUID;
    } else if (t->expect == EXPECT_CPUID) {
        t->expect = EXPECT_CHECKED;
        (void)move_act(c->out, ACTION_CHECK);
    } else if (t->expect == EXPECT_STATE) {
        if (t->state_sections == UINT16_MAX)
            return target_protocol_error(c, REASON_BAD_BYTES, "too many sections");
        t->state_sections++;
    }
    return 0;
}

int target_on_checked(struct target_call *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_CHECKED)
        return TARGET_REFUSE;
    move_send(c->out, t->conn, MESSAGE_VERDICT)->verdict = *c->e->verdict;
    if (c->e->verdict->ok) {
        t->expect = EXPECT_RESERVE;
        target_enter(c, TARGET_RESERVING);
        return 0;
    }
    struct err why;
    (void)err_set(&why, ERR_HOST, ENOTSUP, "refused: %s: %s", c->e->verdict->reason[0].fact,
                  c->e->verdict->reason[0].text);
    why.reason = move_reason_name(c->e->verdict->reason[0].code);
    target_blame(c, REASON_REFUSED, &why);
    target_discard(c);
    target_shut(c);
    target_end(c);
    return 0;
}

int target_on_reserve(struct target_call *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_RESERVE)
        return TARGET_REFUSE;
    if (c->m->reserve.pages != t->hello.pages)
        return target_protocol_error(c, REASON_BAD_BYTES, "not the pages of HELLO");
    t->expect = EXPECT_RESERVED;
    (void)move_act(c->out, ACTION_RESERVE);
    return 0;
}

int target_on_reserved_done(struct target_call *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_RESERVED)
        return TARGET_REFUSE;
    if (c->e->why) {
        target_blame(c, REASON_RESERVE, c->e->why);
        target_give_up(c);
        return 0;
    }
    t->expect = EXPECT_ROUND;
    target_enter(c, TARGET_RESERVED);
    struct message_reserved *reserved = &move_send(c->out, t->conn, MESSAGE_RESERVED)->reserved;
    memcpy(reserved->store, t->config.store, sizeof(reserved->store));
    reserved->duration_ns = c->e->duration_ns;
    reserved->page_forms = t->hello.page_forms & t->config.page_forms;
    reserved->lanes = t->lanes = MIN(t->hello.lanes, t->config.lanes);
    return 0;
}

int target_on_round(struct target_call *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_ROUND)
        return TARGET_REFUSE;
    if (c->m->round.number != t->round + 1)
        return target_protocol_error(c, REASON_PROTOCOL, "not the next round");
    if (c->m->round.last == ROUND_ABSENT && !t->lane)
        return target_protocol_error(c, REASON_PROTOCOL, "there is no lane for what it leaves out");
    t->round = c->m->round.number;
    t->round_last = c->m->round.last != ROUND_RUNNING;
    t->post_copy = c->m->round.last == ROUND_ABSENT;
    t->round_pages = 0;
    t->expect = EXPECT_PAGES;
    if (t->state == TARGET_RESERVED)
        target_enter(c, TARGET_RECEIVING);
    return 0;
}

int target_on_pages_ok(struct target_call *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_PAGES)
        return TARGET_REFUSE;
    if (c->e->pages > t->hello.pages - t->round_pages)
        return target_protocol_error(c, REASON_BAD_BYTES, "more pages than the guest has");
    t->round_pages += c->e->pages;
    return 0;
}

int target_on_round_done(struct target_call *c)
{
    struct target *t = c->t;
    const struct message_round_done *done = &c->m->round_done;

    if (t->expect != EXPECT_PAGES)
        return TARGET_REFUSE;
    if (done->number != t->round)
        return target_protocol_error(c, REASON_PROTOCOL, "of another round");
    if (done->pages != t->round_pages)
        return target_protocol_error(c, REASON_BAD_BYTES, "not as many pages as came");
    struct message_round_ack *ack = &move_send(c->out, t->conn, MESSAGE_ROUND_ACK)->round_ack;
    ack->number = t->round;
    ack->pages = t->round_pages;
    t->expect = t->round_last ? EXPECT_STATE : EXPECT_ROUND;
    return 0;
}

int target_on_state_done(struct target_call *c)
{
    struct target *t = c->t;
    if (t->expect != EXPECT_STATE)
        return TARGET_REFUSE;
    if (c->m->state_done.sections != t->state_sections)
        return target_protocol_error(c, REASON_BAD_BYTES, "not as many sections as came");
    t->expect = 0;
    target_enter(c, TARGET_LOADING);
    (void)move_act(c->out, ACTION_LOAD);
    return 0;
}

int target_on_loaded(struct target_call *c)
{
    struct target *t = c->t;
    if (c->e->why) {
        target_blame(c, REASON_LOAD, c->e->why);
        target_give_up(c);
        return 0;
    }
    t->prepared = true;
    target_enter(c, TARGET_PREPARED);
    move_send(c->out, t->conn, MESSAGE_PREPARED)->prepared = c->e->prepared;
    return 0;
}
