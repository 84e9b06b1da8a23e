#include "move/source_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------------------- rows: the rounds */

int source_on_start(struct source_call *c)
{
    c->s->began_ns = c->now;
    source_enter(c, SOURCE_CONNECTING);
    source_dial(c);
    return 0;
}

int source_on_connected(struct source_call *c)
{
    struct source *s = c->s;
    s->connected = true;
    source_enter(c, SOURCE_NEGOTIATING);
    move_send(c->out, s->conn, MESSAGE_HELLO)->hello = s->config.hello;
    move_act(c->out, ACTION_SEND_DESCRIPTION)->conn = s->conn;
    return 0;
}

int source_on_verdict(struct source_call *c)
{
    struct source *s = c->s;
    s->verdict = c->m->verdict;
    if (!s->verdict.ok) {
        struct err why;
        (void)err_set(&why, ERR_PEER, ENOTSUP, "target refuses: %s: %s", s->verdict.reason[0].fact,
                      s->verdict.reason[0].text);
        why.reason = move_reason_name(s->verdict.reason[0].code); /* says more than "refused" */
        s->target_gone = true;
        source_trouble(c, REASON_REFUSED, &why, true);
        return 0;
    }
    source_enter(c, SOURCE_RESERVING);
    move_send(c->out, s->conn, MESSAGE_RESERVE)->reserve.pages = s->config.hello.pages;
    return 0;
}

static void begin_round(struct source_call *c, enum move_round kind)
{
    struct source *s = c->s;
    s->round++;
    s->round_sent = s->round_acked = false;
    s->round_began_ns = c->now;

    struct message_round *round = &move_send(c->out, s->conn, MESSAGE_ROUND)->round;
    round->number = s->round;
    round->last = (uint8_t)kind;
    round->pages_estimate = s->round == 1 ? s->config.hello.pages : s->round_facts.left_pages;

    struct move_action *action = move_act(c->out, ACTION_SEND_ROUND);
    action->conn = s->conn;
    action->round.number = s->round;
    action->round.kind = kind;
    action->round.rate = s->policy.rounds ? s->decision.rate : policy_first_rate(&s->policy);
}

/* The lane is opened while the guest still runs: connecting must not cost downtime. */
static void begin_switch(struct source_call *c)
{
    struct source *s = c->s;
    s->post_copy = true;
    move_act(c->out, ACTION_OPEN_URGENT)->conn = s->conn;
}

static void stop(struct source_call *c)
{
    (void)move_act(c->out, ACTION_PAUSE_GUEST);
    source_enter(c, SOURCE_STOPPING);
}

int source_on_reserved(struct source_call *c)
{
    struct source *s = c->s;
    memcpy(s->store, c->m->reserved.store, sizeof(s->store));
    s->page_forms = c->m->reserved.page_forms & s->config.hello.page_forms;
    s->lanes = MIN(c->m->reserved.lanes, s->config.hello.lanes);
    if (s->switching || s->config.post_copy == SOURCE_POST_COPY_NOW) {
        source_enter(c, SOURCE_COPYING);
        begin_switch(c);
        return 0;
    }
    if (s->config.hello.mode == MOVE_STOP_COPY) {
        stop(c);
        return 0;
    }
    policy_begin(&s->policy, c->now - s->began_ns);
    source_enter(c, SOURCE_COPYING);
    begin_round(c, ROUND_RUNNING);
    return 0;
}

int source_on_round_sent(struct source_call *c)
{
    struct source *s = c->s;
    if (s->round_sent)
        return SOURCE_REFUSE;
    s->round_sent = true;
    s->round_sent_ns = c->now;
    s->policy.limits.bandwidth = c->e->round.bandwidth;
    s->round_facts = (struct policy_round){ .pages = c->e->round.pages,
                                            .bytes = c->e->round.bytes,
                                            .left_pages = c->e->round.left_pages,
                                            .send_ns = c->e->round.send_ns,
                                            .rtt_ns = c->e->round.rtt_ns };

    struct message_round_done *done = &move_send(c->out, s->conn, MESSAGE_ROUND_DONE)->round_done;
    done->number = s->round;
    done->pages = c->e->round.pages;
    done->bytes = c->e->round.bytes;
    if (s->state == SOURCE_DRAINING) {
        s->state_asked = true;
        move_act(c->out, ACTION_SEND_STATE)->conn = s->conn;
    }
    return 0;
}

/* The agent is asked before vCPUs are slowed, since it slows only what writes, and at the latest
 * before the rounds end. clark05 is kept as it was. */
static bool wants_help(const struct source *s, const struct policy_decision *d, uint32_t before)
{
    return s->config.prepare && !s->guest_asked && s->config.policy.kind == POLICY_GOAL &&
           (d->what != POLICY_ROUND || d->run_permille < before);
}

/* What the guest wrote meanwhile is sent while it runs; then the policy looks again. */
int source_on_guest_prepared(struct source_call *c)
{
    if (!c->s->preparing)
        return SOURCE_REFUSE;
    c->s->preparing = false;
    c->s->progress_ns = c->now;
    if (c->s->switching)
        begin_switch(c);
    else
        begin_round(c, ROUND_RUNNING);
    return 0;
}

static void note_decision(struct source_call *c, const struct policy_decision *d)
{
    struct source *s = c->s;
    s->decision = *d;
    s->decisions++;
    (void)policy_explain(d, s->why_text, sizeof(s->why_text));
    (void)snprintf(s->note, sizeof(s->note), "round %u, %llu pages left: %s, %s: %.120s", s->round,
                   (unsigned long long)d->left_pages, policy_what_name(d->what),
                   policy_why_name(d->why), s->why_text);
    source_emit(c, s->state, s->note);
}

static void give_up(struct source_call *c)
{
    struct err why;
    (void)err_set(&why, ERR_GUEST, ETIME, "the goal cannot be met: %s", c->s->why_text);
    source_trouble(c, REASON_GOAL, &why, true);
}

/* A round is under way, and measured something: whether the time limit bears waiting for its end. */
void source_on_progress(struct source_call *c)
{
    struct source *s = c->s;
    if (s->state != SOURCE_COPYING || s->round_sent || s->switching || c->e->round.pages == 0)
        return;
    struct policy_round so_far = { .pages = c->e->round.pages,
                                   .bytes = c->e->round.bytes,
                                   .left_pages = c->e->round.left_pages,
                                   .send_ns = c->e->round.send_ns,
                                   .duration_ns = c->now - s->round_began_ns };
    struct policy_decision d = policy_look(&s->policy, &so_far);
    if (d.why != POLICY_TIME || (d.what == POLICY_ROUND && s->late))
        return;
    s->late = true;
    note_decision(c, &d);
    if (d.what == POLICY_SWITCH) {
        s->switching = true;
        (void)move_act(c->out, ACTION_END_ROUND);
    } else if (d.what == POLICY_ABORT) {
        give_up(c);
    }
}

/* What the policy makes of the round that was just acknowledged. */
static void decide(struct source_call *c)
{
    struct source *s = c->s;
    uint32_t run_permille = s->policy.run_permille;
    struct policy_decision d = policy_decide(&s->policy, &s->round_facts);

    bool help = wants_help(s, &d, run_permille);
    if (help) /* what was decided waits for what comes of it */
        s->policy.run_permille = d.run_permille = run_permille;
    if (s->switching) {
        begin_switch(c);
        return;
    }
    note_decision(c, &d);
    if (help) {
        s->guest_asked = s->preparing = true;
        move_act(c->out, ACTION_PREPARE_GUEST)->slow = d.why != POLICY_SMALL;
        return;
    }
    switch (d.what) {
    case POLICY_ROUND:
        if (d.run_permille != run_permille)
            move_act(c->out, ACTION_THROTTLE)->run_permille = d.run_permille;
        begin_round(c, ROUND_RUNNING);
        break;
    case POLICY_ABORT:
        give_up(c);
        break;
    case POLICY_SWITCH:
        begin_switch(c);
        break;
    case POLICY_STOP:
    case POLICY_WHAT_MAX:
        stop(c);
        break;
    }
}

int source_on_round_ack(struct source_call *c)
{
    struct source *s = c->s;
    const struct message_round_ack *ack = &c->m->round_ack;

    if (!s->round_sent || s->round_acked || ack->number != s->round)
        return source_protocol_error(c, "no such round is open");
    if (ack->pages != s->round_facts.pages)
        return source_protocol_error(c, "not as many pages as were sent");
    s->round_acked = true;
    s->round_facts.duration_ns = c->now - s->round_began_ns;
    /* A slow link was still busy with what its buffers took, and the guest went on writing. */
    s->round_facts.left_pages = MAX(s->round_facts.left_pages, c->e->round.left_pages);
    s->round_facts.send_ns = policy_add(s->round_facts.send_ns, c->now - s->round_sent_ns);
    if (s->state == SOURCE_COPYING)
        decide(c);
    return 0;
}

int source_on_switch(struct source_call *c)
{
    struct source *s = c->s;
    if (s->post_copy || s->switching)
        return 0; /* asked for twice is as good as once */
    s->switching = true;
    if (s->state == SOURCE_COPYING && !s->round_sent)
        (void)move_act(c->out, ACTION_END_ROUND);
    return 0;
}

int source_on_urgent_open(struct source_call *c)
{
    struct source *s = c->s;
    if (!s->post_copy || s->urgent)
        return SOURCE_REFUSE;
    s->urgent = true;
    if (s->state == SOURCE_COPYING)
        stop(c);
    else if (s->state == SOURCE_SERVING)
        move_act(c->out, ACTION_PUSH)->conn = s->conn;
    return 0;
}

int source_on_paused(struct source_call *c)
{
    source_enter(c, SOURCE_DRAINING);
    begin_round(c, c->s->post_copy ? ROUND_ABSENT : ROUND_PAUSED);
    return 0;
}

int source_on_state_sent(struct source_call *c)
{
    struct source *s = c->s;
    if (!s->state_asked)
        return SOURCE_REFUSE;
    move_send(c->out, s->conn, MESSAGE_STATE_DONE)->state_done.sections = c->e->sections;
    source_enter(c, SOURCE_PREPARING);
    return 0;
}
