/* What each state of the source's engine takes, and what becomes of it when given anything else. */
#include "base/clock.h"
#include "move/source.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct source source; /* large */
static struct move_actions actions;
static uint64_t now;

static int step(struct source_event event)
{
    return source_step(&source, &event, now += 1000, &actions, NULL);
}

static bool asked(enum move_action_kind kind)
{
    for (unsigned i = 0; i < actions.count; i++)
        if (actions.action[i].kind == kind)
            return true;
    return false;
}

static const struct message *sent(uint16_t type)
{
    for (unsigned i = 0; i < actions.count; i++)
        if (actions.action[i].kind == ACTION_SEND && actions.action[i].message->type == type)
            return actions.action[i].message;
    return NULL;
}

/* A message that fits the move as far as it got. */
static const struct message *message(uint16_t type)
{
    static struct message m;
    memset(&m, 0, sizeof(m));
    m.type = type;
    switch (type) {
    case MESSAGE_VERDICT:
        m.verdict.ok = 1;
        break;
    case MESSAGE_ROUND_ACK:
        m.round_ack.number = source.round;
        m.round_ack.pages = source.round_facts.pages;
        break;
    case MESSAGE_ABORT:
        m.abort = (struct message_abort){ .reason = REASON_LOAD, .fault = ERR_HOST };
        break;
    case MESSAGE_STATUS:
        m.status.knows = KNOWS_NOTHING;
        break;
    default:
        break;
    }
    static const struct {
        uint16_t type;
        uint8_t *token;
    } tokens[] = {
        { MESSAGE_COMMITTED, m.committed.token }, { MESSAGE_ACTIVATED, m.activated.token },
        { MESSAGE_ABORT, m.abort.token },         { MESSAGE_STATUS, m.status.token },
        { MESSAGE_SETTLED, m.settled.token },     { MESSAGE_COMMIT, m.commit.token },
        { MESSAGE_PULL, m.pull.token },           { MESSAGE_PULLED, m.pulled.token },
    };
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++)
        if (tokens[i].type == type)
            memset(tokens[i].token, 7, MOVE_TOKEN_BYTES);
    return &m;
}

static struct source_event event_of(enum source_event_kind kind, uint16_t type)
{
    /* With none, of one that was never made: 0 would be stale. */
    struct source_event event = { .kind = kind, .conn = source.conn ? source.conn : 9 };
    if (kind == SOURCE_MESSAGE)
        event.message = message(type);
    if (kind == SOURCE_ROUND_SENT)
        event.round.pages = 10;
    return event;
}

static void play(enum source_event_kind kind, uint16_t type)
{
    if (step(event_of(kind, type)))
        fail_msg("%s refused while %s", source_event_name(kind), source_state_name(source.state));
}

static const struct {
    enum source_event_kind kind;
    uint16_t type;
} course[] = {
    { SOURCE_START, 0 },
    { SOURCE_CONNECTED, 0 },
    { SOURCE_MESSAGE, MESSAGE_VERDICT },
    { SOURCE_MESSAGE, MESSAGE_RESERVED },
    { SOURCE_ROUND_SENT, 0 },
    { SOURCE_MESSAGE, MESSAGE_ROUND_ACK },
    { SOURCE_PAUSED, 0 },
    { SOURCE_ROUND_SENT, 0 },
    { SOURCE_MESSAGE, MESSAGE_ROUND_ACK },
    { SOURCE_STATE_SENT, 0 },
    { SOURCE_MESSAGE, MESSAGE_PREPARED },
    { SOURCE_RECORDED, 0 },
    { SOURCE_MESSAGE, MESSAGE_COMMITTED },
    { SOURCE_MESSAGE, MESSAGE_ACTIVATED },
};

/* Post-copy without a round before it, up to where the target owns the guest. */
static void reach_serving(void)
{
    static const struct {
        enum source_event_kind kind;
        uint16_t type;
    } way[] = {
        { SOURCE_START, 0 },
        { SOURCE_CONNECTED, 0 },
        { SOURCE_MESSAGE, MESSAGE_VERDICT },
        { SOURCE_MESSAGE, MESSAGE_RESERVED },
        { SOURCE_URGENT_OPEN, 0 },
        { SOURCE_PAUSED, 0 },
        { SOURCE_ROUND_SENT, 0 },
        { SOURCE_MESSAGE, MESSAGE_ROUND_ACK },
        { SOURCE_STATE_SENT, 0 },
        { SOURCE_MESSAGE, MESSAGE_PREPARED },
        { SOURCE_RECORDED, 0 },
        { SOURCE_MESSAGE, MESSAGE_COMMITTED },
    };
    source.config.post_copy = SOURCE_POST_COPY_NOW;
    for (size_t i = 0; i < ARRAY_LEN(way); i++) {
        assert_false(asked(ACTION_PAUSE_GUEST) && !source.urgent);
        play(way[i].kind, way[i].type);
    }
    assert_true(asked(ACTION_PUSH));
    assert_false(asked(ACTION_RELEASE));
    assert_null(sent(MESSAGE_SETTLED));
}

/* A source that has just come to that state. */
static void reach(enum source_state state)
{
    struct source_config config = source_config_default();
    memset(config.hello.token, 7, sizeof(config.hello.token));
    config.hello.mode = MOVE_PRE_COPY;
    config.hello.pages = 1000;
    source_init(&source, &config);
    if (state == SOURCE_UNCERTAIN) {
        reach(SOURCE_COMMITTING);
        play(SOURCE_LOST, 0);
        now += config.retry_first_ns;
        play(SOURCE_TICK, 0);
    } else if (state == SOURCE_SERVING) {
        reach_serving();
    } else if (state == SOURCE_RECLAIMING) {
        reach(SOURCE_RECORDING);
        struct source_event failed = { .kind = SOURCE_RECORD_FAILED, .record_unknown = true };
        assert_int_equal(step(failed), 0);
    } else if (state == SOURCE_WITHDRAWING) {
        reach(SOURCE_PREPARING);
        play(SOURCE_CANCEL, 0);
    } else if (state == SOURCE_FAILED) {
        reach(SOURCE_CONNECTING);
        play(SOURCE_CANCEL, 0);
    } else {
        for (size_t i = 0; source.state != state; i++)
            play(course[i].kind, course[i].type);
    }
    assert_int_equal(source.state, state);
}

struct expectation {
    enum source_state state;
    const char *takes;
    enum source_state refused; /* where anything else leads */
    bool resumes;
};

#define WIRE "bad-bytes lost abort "
static const struct expectation expectations[] = {
    { SOURCE_IDLE, "start recover ", SOURCE_FAILED, false },
    { SOURCE_CONNECTING, "connected connect-failed cancel switch ", SOURCE_FAILED, false },
    { SOURCE_NEGOTIATING, WIRE "fault cancel verdict switch ", SOURCE_FAILED, false },
    { SOURCE_RESERVING, WIRE "cancel reserved switch ", SOURCE_FAILED, false },
    { SOURCE_COPYING, WIRE "round-sent fault cancel switch ", SOURCE_FAILED, true },
    { SOURCE_STOPPING, WIRE "paused fault cancel ", SOURCE_FAILED, true },
    { SOURCE_DRAINING, WIRE "round-sent fault cancel ", SOURCE_FAILED, true },
    { SOURCE_PREPARING, WIRE "fault cancel prepared ", SOURCE_WITHDRAWING, true },
    { SOURCE_RECORDING, WIRE "recorded record-failed ", SOURCE_RECORDING, false },
    { SOURCE_COMMITTING, WIRE "committed status ", SOURCE_UNCERTAIN, false },
    { SOURCE_UNCERTAIN, WIRE "connected connect-failed take-back forget retry status ",
      SOURCE_UNCERTAIN, false },
    { SOURCE_ACTIVATING, WIRE "activated ", SOURCE_DONE, false },
    { SOURCE_SERVING, WIRE "connected connect-failed activated status pulled forget retry ",
      SOURCE_SERVING, false },
    { SOURCE_RECLAIMING, WIRE "recorded record-failed take-back status ", SOURCE_RECLAIMING,
      false },
    { SOURCE_WITHDRAWING, WIRE "connected connect-failed cancel round-ack prepared status ",
      SOURCE_WITHDRAWING, false },
    { SOURCE_DONE, "", SOURCE_DONE, false },
    { SOURCE_FAILED, "", SOURCE_FAILED, false },
};

static bool listed(const char *list, const char *name)
{
    char word[40];
    snprintf(word, sizeof(word), "%s ", name);
    const char *at = strstr(list, word);
    return at && (at == list || at[-1] == ' ');
}

static void try_one(const struct expectation *e, enum source_event_kind kind, uint16_t type)
{
    const char *name = type ? message_name(type) : source_event_name(kind);
    reach(e->state);
    uint64_t stale = source.stale;
    int rc = step(event_of(kind, type));
    bool by_person = kind >= SOURCE_CANCEL;

    bool progress = kind == SOURCE_PROGRESS && source.conn;

    if (kind == SOURCE_TICK || progress || source.stale != stale) {
        if (rc || source.state != e->state)
            fail_msg("%s while %s is not harmless", name, source_state_name(e->state));
    } else if (listed(e->takes, name)) {
        if (rc)
            fail_msg("%s while %s is refused", name, source_state_name(e->state));
    } else if (by_person) {
        if (rc != -EBUSY || source.state != e->state || actions.count)
            fail_msg("%s while %s changes something", name, source_state_name(e->state));
    } else {
        if (rc != -EPROTO || source.state != e->refused || asked(ACTION_RESUME_GUEST) != e->resumes)
            fail_msg("%s while %s: %d, then %s%s", name, source_state_name(e->state), rc,
                     source_state_name(source.state),
                     asked(ACTION_RESUME_GUEST) ? ", resumed" : "");
        if (source.reason != REASON_PROTOCOL && source.reason != REASON_BUG &&
            e->state < SOURCE_WITHDRAWING && e->state != SOURCE_RECLAIMING)
            fail_msg("%s while %s: reason %s", name, source_state_name(e->state),
                     move_reason_name(source.reason));
    }
}

static void test_every_event_in_every_state(void **state)
{
    (void)state;
    assert_int_equal(ARRAY_LEN(expectations), SOURCE_STATE_MAX - 1);
    for (size_t i = 0; i < ARRAY_LEN(expectations); i++) {
        for (int kind = 1; kind < SOURCE_EVENT_MAX; kind++)
            if (kind != SOURCE_MESSAGE)
                try_one(&expectations[i], (enum source_event_kind)kind, 0);
        for (uint16_t type = MESSAGE_HELLO; type < MESSAGE_TYPE_END; type++)
            try_one(&expectations[i], SOURCE_MESSAGE, type);
    }
}

static void test_cancellable(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(expectations); i++) {
        enum source_state s = expectations[i].state;
        bool may = listed(expectations[i].takes, "cancel") && s != SOURCE_WITHDRAWING;
        assert_int_equal(source_state_cancellable(s), may);
    }
}

static void test_wrong_token(void **state)
{
    (void)state;
    reach(SOURCE_COMMITTING);
    struct source_event event = event_of(SOURCE_MESSAGE, MESSAGE_COMMITTED);
    struct message m = *event.message;
    m.committed.token[3]++;
    event.message = &m;
    assert_int_equal(step(event), -EPROTO);
    assert_int_equal(source.state, SOURCE_UNCERTAIN);
    assert_false(asked(ACTION_RELEASE));
}

static void test_ack_of_other_pages(void **state)
{
    (void)state;
    reach(SOURCE_COPYING);
    play(SOURCE_ROUND_SENT, 0);
    assert_non_null(sent(MESSAGE_ROUND_DONE));
    struct message m = *message(MESSAGE_ROUND_ACK);
    m.round_ack.pages--;
    assert_int_equal(step(
                         (struct source_event){ .kind = SOURCE_MESSAGE, .conn = 1, .message = &m }),
                     -EPROTO);
    assert_int_equal(source.state, SOURCE_FAILED);
    assert_true(asked(ACTION_RESUME_GUEST));
    assert_int_equal(sent(MESSAGE_ABORT)->abort.reason, REASON_PROTOCOL);
}

static void test_refused_by_the_target(void **state)
{
    (void)state;
    reach(SOURCE_NEGOTIATING);
    struct message m = { .type = MESSAGE_VERDICT };
    m.verdict.reason_count = 1;
    m.verdict.reason[0].code = REASON_CPU_FEATURE;
    strcpy(m.verdict.reason[0].fact, "cpu.avx512f");
    assert_int_equal(step(
                         (struct source_event){ .kind = SOURCE_MESSAGE, .conn = 1, .message = &m }),
                     0);
    assert_int_equal(source.state, SOURCE_FAILED);
    assert_int_equal(source.reason, REASON_REFUSED);
    assert_string_equal(source.err.reason, move_reason_name(source.verdict.reason[0].code));
    assert_non_null(strstr(source.err.text, "cpu.avx512f"));
    assert_int_equal(source.verdict.reason[0].code, REASON_CPU_FEATURE);
}

/* Half of a round that takes 4 s is sent. */
static int half_way(void)
{
    struct source_event event = event_of(SOURCE_PROGRESS, 0);
    event.round.pages = event.round.left_pages = 100000;
    event.round.bytes = 100000 * UINT64_C(4096);
    return step(event);
}

static void begin_late_round(bool allow_switch, bool strict)
{
    reach(SOURCE_COPYING);
    source.policy.limits.max_time_ns = 3 * CLOCK_SECOND;
    source.policy.limits.allow_switch = allow_switch;
    source.policy.limits.strict = strict;
    now += 2 * CLOCK_SECOND;
}

static void test_a_round_cut_for_the_time(void **state)
{
    (void)state;
    begin_late_round(true, false);
    play(SOURCE_PROGRESS, 0); /* not measured */
    assert_false(asked(ACTION_END_ROUND));
    assert_int_equal(half_way(), 0);
    assert_true(asked(ACTION_END_ROUND));
    assert_true(source.switching && source.decision.what == POLICY_SWITCH);
    assert_non_null(strstr(source.why_text, " in all; 3000 ms asked"));
    assert_int_equal(half_way(), 0); /* once is enough */
    assert_false(asked(ACTION_END_ROUND));
    assert_int_equal(source.decisions, 1);
    play(SOURCE_ROUND_SENT, 0);
    assert_int_equal(half_way(), 0);
    play(SOURCE_MESSAGE, MESSAGE_ROUND_ACK);
    assert_true(asked(ACTION_OPEN_URGENT));

    begin_late_round(false, true);
    assert_int_equal(half_way(), 0); /* there is still time */
    assert_int_equal(source.state, SOURCE_COPYING);
    now += 2 * CLOCK_SECOND;
    assert_int_equal(half_way(), 0);
    assert_int_equal(source.state, SOURCE_FAILED);
    assert_int_equal(source.reason, REASON_GOAL);

    begin_late_round(false, false);
    for (unsigned i = 0; i < 5; i++) { /* told once, and borne */
        now += CLOCK_SECOND;
        assert_int_equal(half_way(), 0);
        assert_int_equal(source.decisions, 1);
        assert_int_equal(source.state, SOURCE_COPYING);
        assert_false(asked(ACTION_END_ROUND));
    }
}

static void test_stall(void **state)
{
    (void)state;
    reach(SOURCE_COPYING);
    uint64_t limit = source.config.stall_limit_ns;
    now += limit - 5000;
    play(SOURCE_PROGRESS, 0);
    now += limit - 5000;
    play(SOURCE_TICK, 0);
    assert_int_equal(source.state, SOURCE_COPYING);
    assert_true(asked(ACTION_SET_TIMER));
    now += limit;
    play(SOURCE_TICK, 0);
    assert_int_equal(source.state, SOURCE_FAILED);
    assert_int_equal(source.reason, REASON_STALLED);
    assert_true(asked(ACTION_RESUME_GUEST));

    reach(SOURCE_RECORDING); /* whose write may yet end either way */
    now += 10 * limit;
    play(SOURCE_TICK, 0);
    assert_int_equal(source.state, SOURCE_RECORDING);
}

static void test_back_off(void **state)
{
    (void)state;
    reach(SOURCE_UNCERTAIN);
    uint64_t before = 0;
    for (int i = 0; i < 20; i++) {
        play(SOURCE_CONNECT_FAILED, 0);
        uint64_t wait = source.retry_at_ns - now;
        assert_true(wait >= before && wait <= source.config.retry_max_ns);
        before = wait;
        now = source.retry_at_ns;
        play(SOURCE_TICK, 0);
        assert_true(asked(ACTION_CONNECT));
    }
    assert_int_equal(before, source.config.retry_max_ns);
}

/* The agent is asked once, when the rounds are to end, and one more round follows its help. */
static void test_prepare(void **state)
{
    (void)state;
    for (unsigned small = 0; small < 2; small++) {
        reach(SOURCE_COPYING);
        source.config.prepare = true;
        source.policy.limits.max_time_ns = small ? 0 : 1; /* up at once */
        struct source_event sent_all = event_of(SOURCE_ROUND_SENT, 0);
        sent_all.round.left_pages = small ? 1 : 100000;
        assert_int_equal(step(sent_all), 0);
        play(SOURCE_MESSAGE, MESSAGE_ROUND_ACK);
        assert_true(asked(ACTION_PREPARE_GUEST));
        assert_false(asked(ACTION_PAUSE_GUEST));
        for (unsigned i = 0; i < actions.count; i++)
            if (actions.action[i].kind == ACTION_PREPARE_GUEST)
                assert_int_equal(actions.action[i].slow, !small); /* only what runs away */
        assert_int_equal(source.state, SOURCE_COPYING);
        play(SOURCE_GUEST_PREPARED, 0);
        assert_true(asked(ACTION_SEND_ROUND));
        assert_int_equal(step(sent_all), 0);
        play(SOURCE_MESSAGE, MESSAGE_ROUND_ACK);
        assert_false(asked(ACTION_PREPARE_GUEST));
        assert_true(asked(ACTION_PAUSE_GUEST));
    }
    /* It is asked before vCPUs are slowed; those are, if it did not help. */
    reach(SOURCE_COPYING);
    source.config.prepare = true;
    source.policy.limits.max_downtime_ns = 1;
    bool helped = false, slowed = false;
    for (unsigned i = 0; i < 50 && !slowed; i++) {
        struct source_event sent_all = event_of(SOURCE_ROUND_SENT, 0);
        sent_all.round.left_pages = 100000;
        sent_all.round.bytes = 10 << 20;
        assert_int_equal(step(sent_all), 0);
        now += CLOCK_SECOND / 10;
        play(SOURCE_MESSAGE, MESSAGE_ROUND_ACK);
        slowed = asked(ACTION_THROTTLE);
        assert_true(helped || !slowed);
        if (asked(ACTION_PREPARE_GUEST)) {
            assert_false(helped);
            helped = true;
            play(SOURCE_GUEST_PREPARED, 0);
        }
    }
    assert_true(helped && slowed);
    /* Cancelled while it was asked: its answer is late. */
    reach(SOURCE_COPYING);
    source.config.prepare = true;
    play(SOURCE_ROUND_SENT, 0);
    play(SOURCE_MESSAGE, MESSAGE_ROUND_ACK);
    assert_true(asked(ACTION_PREPARE_GUEST));
    play(SOURCE_CANCEL, 0);
    assert_true(asked(ACTION_RESUME_GUEST));
    uint64_t stale = source.stale;
    play(SOURCE_GUEST_PREPARED, 0);
    assert_int_equal(source.stale, stale + 1);
}

static void test_old_connection_is_stale(void **state)
{
    (void)state;
    reach(SOURCE_UNCERTAIN);
    assert_int_equal(source.conn, 2);
    struct source_event late = event_of(SOURCE_MESSAGE, MESSAGE_STATUS);
    late.conn = 1;
    assert_int_equal(step(late), 0);
    assert_int_equal(actions.count, 0);
    assert_int_equal(source.stale, 1);
    assert_int_equal(source.state, SOURCE_UNCERTAIN);
    late.conn = 3; /* never made */
    assert_int_equal(step(late), -EPROTO);
}

static void test_another_store_does_not_count(void **state)
{
    (void)state;
    reach(SOURCE_UNCERTAIN);
    play(SOURCE_CONNECTED, 0);
    assert_int_equal(sent(MESSAGE_RESOLVE)->resolve.intent, INTENT_ASK);
    struct message m = *message(MESSAGE_STATUS);
    m.status.store[0] = 1;
    assert_int_equal(step(
                         (struct source_event){ .kind = SOURCE_MESSAGE, .conn = 2, .message = &m }),
                     0);
    assert_int_equal(source.state, SOURCE_UNCERTAIN);
    assert_int_equal(source.reason, REASON_OTHER_STORE);
    assert_false(asked(ACTION_WRITE_RECORD));
}

/* A person's word ends the round at hand; its pages stay what they were, and the next one names them. */
/* What the guest wrote while the link was busy with what was sent counts: it is what a pause would have to send. */
static void test_written_before_the_ack(void **state)
{
    (void)state;
    reach(SOURCE_COPYING);
    struct source_event sent_all = event_of(SOURCE_ROUND_SENT, 0);
    sent_all.round.left_pages = 1;
    assert_int_equal(step(sent_all), 0);
    struct source_event ack = event_of(SOURCE_MESSAGE, MESSAGE_ROUND_ACK);
    ack.round.left_pages = 50000;
    assert_int_equal(step(ack), 0);
    assert_int_equal(source.decision.left_pages, 50000);
    assert_false(asked(ACTION_PAUSE_GUEST));
}

static void test_switch_in_a_round(void **state)
{
    (void)state;
    reach(SOURCE_COPYING);
    play(SOURCE_SWITCH, 0);
    assert_true(asked(ACTION_END_ROUND));
    play(SOURCE_SWITCH, 0); /* twice is as good as once */
    assert_int_equal(actions.count, 0);
    play(SOURCE_ROUND_SENT, 0);
    assert_false(asked(ACTION_OPEN_URGENT));
    play(SOURCE_MESSAGE, MESSAGE_ROUND_ACK);
    assert_true(asked(ACTION_OPEN_URGENT));
    assert_false(asked(ACTION_PAUSE_GUEST));
    play(SOURCE_URGENT_OPEN, 0);
    assert_true(asked(ACTION_PAUSE_GUEST));
    play(SOURCE_PAUSED, 0);
    assert_int_equal(sent(MESSAGE_ROUND)->round.last, ROUND_ABSENT);
}

/* Allowed, and the policy stops with more left than may be: the rest follows the guest. */
static void test_switch_when_the_goal_is_missed(void **state)
{
    (void)state;
    for (int allowed = 0; allowed < 2; allowed++) {
        reach(SOURCE_COPYING);
        source.config.post_copy = allowed ? SOURCE_POST_COPY_ALLOW : SOURCE_POST_COPY_NEVER;
        source.policy.limits.max_time_ns = 1;
        source.policy.limits.allow_switch = allowed;
        source.policy.limits.max_downtime_ns = 1;
        struct source_event sent_event = event_of(SOURCE_ROUND_SENT, 0);
        sent_event.round.bytes = 4096;
        sent_event.round.left_pages = 900;
        assert_int_equal(step(sent_event), 0);
        play(SOURCE_MESSAGE, MESSAGE_ROUND_ACK);
        assert_int_equal(asked(ACTION_OPEN_URGENT), allowed);
        assert_int_equal(asked(ACTION_PAUSE_GUEST), !allowed);
    }
}

/* A cut: nothing is freed, and after RESOLVE the target's list opens the lane, and that the push. */
static void test_serving_goes_on(void **state)
{
    (void)state;
    reach(SOURCE_SERVING);
    play(SOURCE_LOST, 0);
    assert_false(asked(ACTION_RELEASE));
    assert_int_equal(source.state, SOURCE_SERVING);
    now += source.config.retry_first_ns;
    play(SOURCE_TICK, 0);
    assert_true(asked(ACTION_CONNECT));
    play(SOURCE_CONNECTED, 0);
    assert_int_equal(sent(MESSAGE_RESOLVE)->resolve.intent, INTENT_ASK);
    struct message m = *message(MESSAGE_STATUS);
    m.status.knows = KNOWS_PULLING;
    struct source_event status = event_of(SOURCE_MESSAGE, MESSAGE_STATUS);
    status.message = &m;
    assert_int_equal(step(status), 0);
    assert_false(asked(ACTION_PUSH));
    play(SOURCE_MESSAGE, MESSAGE_PULL);
    assert_true(asked(ACTION_OPEN_URGENT));
    assert_false(asked(ACTION_PUSH));
    play(SOURCE_URGENT_OPEN, 0);
    assert_true(asked(ACTION_PUSH));
    play(SOURCE_MESSAGE, MESSAGE_PULLED);
    assert_true(asked(ACTION_RELEASE));
    assert_non_null(sent(MESSAGE_SETTLED));
    assert_int_equal(source.state, SOURCE_DONE);
    assert_int_equal(source.reason, 0);
}

static void test_serving_is_given_up(void **state)
{
    (void)state;
    reach(SOURCE_SERVING);
    play(SOURCE_FORGET, 0);
    assert_int_equal(sent(MESSAGE_ABORT)->abort.reason, REASON_SOURCE_LOST);
    assert_int_equal(source.state, SOURCE_DONE);
    assert_int_equal(source.reason, REASON_SOURCE_LOST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_event_in_every_state),
        cmocka_unit_test(test_written_before_the_ack),
        cmocka_unit_test(test_switch_in_a_round),
        cmocka_unit_test(test_switch_when_the_goal_is_missed),
        cmocka_unit_test(test_serving_goes_on),
        cmocka_unit_test(test_serving_is_given_up),
        cmocka_unit_test(test_cancellable),
        cmocka_unit_test(test_wrong_token),
        cmocka_unit_test(test_ack_of_other_pages),
        cmocka_unit_test(test_refused_by_the_target),
        cmocka_unit_test(test_a_round_cut_for_the_time),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_back_off),
        cmocka_unit_test(test_prepare),
        cmocka_unit_test(test_old_connection_is_stale),
        cmocka_unit_test(test_another_store_does_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
