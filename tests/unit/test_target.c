/* What each state of the target's engine takes, and what becomes of it when given anything else. */
#include "move/target.h"

#include "base/clock.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PAGES 1000
#define CONN 1

static struct target target;
static struct move_actions actions;
static uint64_t now;

static int step(struct target_event event)
{
    return target_step(&target, &event, now += 1000, &actions, NULL);
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
    case MESSAGE_HELLO:
        m.hello.mode = MOVE_PRE_COPY;
        m.hello.pages = PAGES;
        memset(m.hello.token, 7, MOVE_TOKEN_BYTES);
        break;
    case MESSAGE_RESERVE:
        m.reserve.pages = PAGES;
        break;
    case MESSAGE_ROUND:
        m.round.number = target.round + 1;
        m.round.last = target.round == 1;
        break;
    case MESSAGE_ROUND_DONE:
        m.round_done.number = target.round;
        m.round_done.pages = target.round_pages;
        break;
    case MESSAGE_STATE_DONE:
        m.state_done.sections = target.state_sections;
        break;
    case MESSAGE_LANE:
        memset(m.lane.token, 7, MOVE_TOKEN_BYTES);
        m.lane.kind = LANE_URGENT;
        break;
    case MESSAGE_COMMIT:
        memset(m.commit.token, 7, MOVE_TOKEN_BYTES);
        break;
    case MESSAGE_SETTLED:
        memset(m.settled.token, 7, MOVE_TOKEN_BYTES);
        break;
    case MESSAGE_ABORT:
        memset(m.abort.token, 7, MOVE_TOKEN_BYTES);
        m.abort.reason = REASON_CANCELLED;
        m.abort.fault = ERR_CALLER;
        break;
    case MESSAGE_RESOLVE:
        memset(m.resolve.token, 7, MOVE_TOKEN_BYTES);
        m.resolve.intent = INTENT_ASK;
        break;
    default:
        break;
    }
    return &m;
}

static const struct message_verdict yes = { .ok = 1 };
static const struct message_pulled pulled = { .faults = 5 };
static const struct message_activated activated = { .resume_ns = 1 };

static struct target_event event_of(enum target_event_kind kind, uint16_t what)
{
    struct target_event event = { .kind = kind, .conn = CONN };
    switch (kind) {
    case TARGET_MESSAGE:
        event.message = message(what);
        break;
    case TARGET_SECTION:
        event.section = what;
        break;
    case TARGET_PAGES_OK:
        event.pages = what;
        break;
    case TARGET_CHECKED:
        event.verdict = &yes;
        break;
    case TARGET_PULLED:
        event.pulled = &pulled;
        break;
    case TARGET_RUNNING:
        event.activated = &activated;
        break;
    default:
        break;
    }
    return event;
}

static void play(enum target_event_kind kind, uint16_t what)
{
    if (step(event_of(kind, what)))
        fail_msg("%s %u refused while %s", target_event_name(kind), what,
                 target_state_name(target.state));
}

static const struct {
    enum target_event_kind kind;
    uint16_t what;
} course[] = {
    { TARGET_MESSAGE, MESSAGE_HELLO },
    { TARGET_SECTION, SECTION_MACHINE },
    { TARGET_SECTION, SECTION_CPUID },
    { TARGET_CHECKED, 0 },
    { TARGET_MESSAGE, MESSAGE_RESERVE },
    { TARGET_RESERVED_DONE, 0 },
    { TARGET_MESSAGE, MESSAGE_ROUND },
    { TARGET_SECTION, SECTION_PAGES },
    { TARGET_PAGES_OK, PAGES },
    { TARGET_MESSAGE, MESSAGE_ROUND_DONE },
    { TARGET_MESSAGE, MESSAGE_ROUND },
    { TARGET_MESSAGE, MESSAGE_ROUND_DONE },
    { TARGET_SECTION, SECTION_VM },
    { TARGET_SECTION, SECTION_VCPU },
    { TARGET_MESSAGE, MESSAGE_STATE_DONE },
    { TARGET_LOADED, 0 },
    { TARGET_MESSAGE, MESSAGE_COMMIT },
    { TARGET_RECORDED, 0 },
    { TARGET_RUNNING, 0 },
};

static void begin(void)
{
    struct target_config config = { .stall_limit_ns = 10 * CLOCK_SECOND };
    memset(config.store, 3, sizeof(config.store));
    target_init(&target, &config);
}

/* A target that was given so many events of the course. */
static void given(size_t events)
{
    begin();
    for (size_t i = 0; i < events; i++)
        play(course[i].kind, course[i].what);
}

static int say(uint32_t conn, const struct message *m)
{
    return step((struct target_event){ .kind = TARGET_MESSAGE, .conn = conn, .message = m });
}

/* Up to PREPARED, in post-copy. */
static void reach_prepared(void)
{
    given(6);
    assert_int_equal(say(2, message(MESSAGE_LANE)), 0);
    assert_true(asked(ACTION_TAKE_LANE));
    assert_non_null(sent(MESSAGE_LANE));
    struct message m = *message(MESSAGE_ROUND);
    m.round.last = ROUND_ABSENT;
    assert_int_equal(say(CONN, &m), 0);
    play(TARGET_SECTION, SECTION_ABSENT);
    play(TARGET_PAGES_OK, 10);
    play(TARGET_MESSAGE, MESSAGE_ROUND_DONE);
    for (size_t i = 12; target.state != TARGET_PREPARED; i++)
        play(course[i].kind, course[i].what);
}

static void reach_pulling(void)
{
    reach_prepared();
    play(TARGET_MESSAGE, MESSAGE_COMMIT);
    play(TARGET_RECORDED, 0);
    play(TARGET_RUNNING, 0);
    assert_non_null(sent(MESSAGE_ACTIVATED));
}

static void reach(enum target_state state)
{
    begin();
    if (state == TARGET_PULLING || state == TARGET_STRANDED) {
        reach_pulling();
        if (state == TARGET_STRANDED)
            play(TARGET_LOST, 0);
        assert_int_equal(target.state, state);
        return;
    }
    if (state == TARGET_UNCERTAIN) {
        reach(TARGET_PREPARED);
        play(TARGET_LOST, 0);
    } else if (state == TARGET_GONE) {
        reach(TARGET_PREPARED);
        play(TARGET_CANCEL, 0);
    } else {
        for (size_t i = 0; target.state != state; i++)
            play(course[i].kind, course[i].what);
    }
    assert_int_equal(target.state, state);
}

struct expectation {
    enum target_state state;
    const char *takes; /* besides what leads on in the course, which depends on the place */
    enum target_state refused;
};

#define WIRE "bad-bytes lost "
#define LOOSE WIRE "abort fault cancel "
static const struct expectation expectations[] = {
    { TARGET_LISTENING, "hello resolve cancel ", TARGET_LISTENING },
    { TARGET_CHECKING, LOOSE "machine ", TARGET_GONE },
    { TARGET_RESERVING, LOOSE "reserve ", TARGET_GONE },
    { TARGET_RESERVED, LOOSE "round ", TARGET_GONE },
    { TARGET_RECEIVING, LOOSE "pages pages-ok round-done ", TARGET_GONE },
    { TARGET_LOADING, LOOSE "loaded ", TARGET_GONE },
    { TARGET_PREPARED, LOOSE "commit ", TARGET_UNCERTAIN },
    { TARGET_UNCERTAIN, "resolve fault cancel adopt ", TARGET_UNCERTAIN },
    { TARGET_RECORDING, WIRE "recorded record-failed ", TARGET_RECORDING },
    { TARGET_ACTIVATING, WIRE "running settled ", TARGET_ACTIVATING },
    { TARGET_PULLING, WIRE "abort pages complete ", TARGET_STRANDED },
    { TARGET_STRANDED, "resolve complete ", TARGET_STRANDED },
    { TARGET_ACTIVE, WIRE "settled ", TARGET_ACTIVE },
    { TARGET_GONE, WIRE "settled abort commit ", TARGET_GONE },
};

static bool listed(const char *list, const char *name)
{
    char word[40];
    snprintf(word, sizeof(word), "%s ", name);
    const char *at = strstr(list, word);
    return at && (at == list || at[-1] == ' ');
}

static void try_one(const struct expectation *e, enum target_event_kind kind, uint16_t what)
{
    const char *name = kind == TARGET_MESSAGE   ? message_name(what)
                       : kind == TARGET_SECTION ? section_type_name(what)
                                                : target_event_name(kind);
    reach(e->state);
    uint64_t stale = target.stale;
    int rc = step(event_of(kind, what));

    if (kind == TARGET_TICK || kind == TARGET_PROGRESS || target.stale != stale) {
        if (rc || target.state != e->state)
            fail_msg("%s while %s is not harmless", name, target_state_name(e->state));
    } else if (listed(e->takes, name)) {
        if (rc)
            fail_msg("%s while %s is refused", name, target_state_name(e->state));
    } else if (kind >= TARGET_CANCEL) {
        if (rc != -EBUSY || target.state != e->state || actions.count)
            fail_msg("%s while %s changes something", name, target_state_name(e->state));
    } else {
        bool freed = e->refused == TARGET_GONE && e->state != TARGET_GONE;
        if (rc >= 0 || target.state != e->refused || asked(ACTION_DISCARD) != freed ||
            asked(ACTION_RUN_GUEST))
            fail_msg("%s while %s: %d, then %s", name, target_state_name(e->state), rc,
                     target_state_name(target.state));
    }
}

static void test_every_event_in_every_state(void **state)
{
    (void)state;
    assert_int_equal(ARRAY_LEN(expectations), TARGET_STATE_MAX - 1);
    for (size_t i = 0; i < ARRAY_LEN(expectations); i++) {
        for (int kind = 1; kind < TARGET_EVENT_MAX; kind++)
            if (kind != TARGET_MESSAGE && kind != TARGET_SECTION)
                try_one(&expectations[i], (enum target_event_kind)kind, 0);
        for (uint16_t type = MESSAGE_HELLO; type < MESSAGE_TYPE_END; type++)
            try_one(&expectations[i], TARGET_MESSAGE, type);
        for (uint16_t type = SECTION_END; type < SECTION_STATE_MAX; type++)
            try_one(&expectations[i], TARGET_SECTION, type);
    }
}

/* Also fitting where `at` is: a round or a state may be shorter or longer than the course's. */
static bool fits_too(size_t at, enum target_event_kind kind, uint16_t what)
{
    bool in_round = (at >= 7 && at <= 9) || at == 11, in_state = at >= 12 && at <= 14;
    if (kind == TARGET_PAGES_OK)
        return in_round;
    if (kind == TARGET_SECTION)
        return (in_round && what == SECTION_PAGES) ||
               (in_state && what != SECTION_PAGES && what >= SECTION_VM);
    return kind == TARGET_MESSAGE &&
           ((in_round && what == MESSAGE_ROUND_DONE) || (in_state && what == MESSAGE_STATE_DONE));
}

/* Within the states that have an inner order, each step of the course fits at its place only. */
static void test_order(void **state)
{
    (void)state;
    for (size_t at = 0; at < 15; at++)
        for (size_t i = 0; i < ARRAY_LEN(course); i++) {
            enum target_event_kind kind = course[i].kind;
            uint16_t what = course[i].what;
            if ((kind == course[at].kind && what == course[at].what) || fits_too(at, kind, what))
                continue;
            given(at);
            if (step(event_of(kind, what)) == 0)
                fail_msg("step %zu of the course in place of step %zu", i, at);
        }
}

static void test_counts(void **state)
{
    struct target_event event;
    struct message m;
    (void)state;

    given(8);
    assert_int_equal(step(event_of(TARGET_PAGES_OK, PAGES + 1)), -EPROTO);
    assert_int_equal(target.reason, REASON_BAD_BYTES);

    given(9);
    m = *message(MESSAGE_ROUND_DONE);
    m.round_done.pages--;
    event = (struct target_event){ .kind = TARGET_MESSAGE, .conn = CONN, .message = &m };
    assert_int_equal(step(event), -EPROTO);
    assert_int_equal(sent(MESSAGE_ABORT)->abort.reason, REASON_BAD_BYTES);

    given(10);
    m = *message(MESSAGE_ROUND);
    m.round.number++;
    assert_int_equal(step(event), -EPROTO);

    given(14);
    m = *message(MESSAGE_STATE_DONE);
    m.state_done.sections++;
    assert_int_equal(step(event), -EPROTO);
    assert_int_equal(target.state, TARGET_GONE);
}

static void test_newcomers(void **state)
{
    (void)state;
    reach(TARGET_RECEIVING);
    struct target_event event = event_of(TARGET_MESSAGE, MESSAGE_HELLO);
    event.conn = 2;
    assert_true(step(event) < 0);
    assert_int_equal(sent(MESSAGE_ABORT)->abort.reason, REASON_BUSY);
    assert_int_equal(target.state, TARGET_RECEIVING);
    assert_int_equal(target.conn, CONN);

    reach(TARGET_PREPARED);
    event = event_of(TARGET_MESSAGE, MESSAGE_COMMIT);
    event.conn = 2;
    assert_true(step(event) < 0);
    assert_int_equal(target.state, TARGET_PREPARED);
    event = event_of(TARGET_SECTION, SECTION_PAGES);
    event.conn = 2;
    assert_true(step(event) < 0);
    assert_int_equal(target.state, TARGET_PREPARED);
}

static enum move_knows answer(enum target_state state, enum move_intent intent)
{
    reach(state);
    struct message m = *message(MESSAGE_RESOLVE);
    m.resolve.intent = intent;
    assert_int_equal(step(
                         (struct target_event){ .kind = TARGET_MESSAGE, .conn = 2, .message = &m }),
                     0);
    assert_non_null(sent(MESSAGE_STATUS));
    assert_memory_equal(sent(MESSAGE_STATUS)->status.store, target.config.store, MOVE_STORE_BYTES);
    return sent(MESSAGE_STATUS)->status.knows;
}

static void test_resolve(void **state)
{
    (void)state;
    assert_int_equal(answer(TARGET_RECEIVING, INTENT_ASK), KNOWS_NOTHING);
    assert_int_equal(target.state, TARGET_GONE);
    assert_int_equal(answer(TARGET_PREPARED, INTENT_ASK), KNOWS_HELD);
    assert_int_equal(target.conn, 2);
    assert_int_equal(answer(TARGET_UNCERTAIN, INTENT_ASK), KNOWS_HELD);
    assert_int_equal(target.state, TARGET_PREPARED);
    assert_int_equal(answer(TARGET_UNCERTAIN, INTENT_WITHDRAW), KNOWS_NOTHING);
    assert_int_equal(target.state, TARGET_GONE);
    assert_int_equal(answer(TARGET_RECORDING, INTENT_WITHDRAW), KNOWS_RECORDING);
    assert_int_equal(target.state, TARGET_RECORDING);
    assert_int_equal(answer(TARGET_ACTIVATING, INTENT_ASK), KNOWS_COMMITTED);
    assert_int_equal(answer(TARGET_ACTIVE, INTENT_ASK), KNOWS_COMMITTED);
    assert_non_null(sent(MESSAGE_ACTIVATED));
    assert_int_equal(answer(TARGET_GONE, INTENT_ASK), KNOWS_NOTHING);
}

static void test_answers_from_the_store(void **state)
{
    (void)state;
    begin();
    struct target_event event = event_of(TARGET_MESSAGE, MESSAGE_RESOLVE);
    assert_int_equal(step(event), 0);
    assert_int_equal(sent(MESSAGE_STATUS)->status.knows, KNOWS_NOTHING);
    event.token_recorded = true;
    assert_int_equal(step(event), 0);
    assert_int_equal(sent(MESSAGE_STATUS)->status.knows, KNOWS_DIED);
    event = event_of(TARGET_MESSAGE, MESSAGE_HELLO);
    event.token_recorded = true;
    assert_true(step(event) < 0);
    assert_int_equal(sent(MESSAGE_ABORT)->abort.reason, REASON_TOKEN);
    assert_int_equal(target.state, TARGET_LISTENING);
}

static void test_full_disk_keeps_the_copy(void **state)
{
    (void)state;
    reach(TARGET_RECORDING);
    play(TARGET_RECORD_FAILED, 0);
    assert_int_equal(target.state, TARGET_PREPARED);
    assert_int_equal(sent(MESSAGE_STATUS)->status.knows, KNOWS_HELD);
    assert_false(asked(ACTION_DISCARD));
    play(TARGET_MESSAGE, MESSAGE_COMMIT);
    assert_int_equal(target.state, TARGET_RECORDING);
}

static void test_unknown_write_is_repeated(void **state)
{
    struct target_event event = { .kind = TARGET_RECORD_FAILED, .record_unknown = true };
    (void)state;
    reach(TARGET_RECORDING);
    assert_int_equal(step(event), 0);
    assert_int_equal(target.state, TARGET_RECORDING);
    event.record_unknown = false; /* the second failed surely, but the first may be on disk */
    now = target.retry_at_ns;
    play(TARGET_TICK, 0);
    assert_true(asked(ACTION_WRITE_RECORD));
    assert_int_equal(step(event), 0);
    assert_int_equal(target.state, TARGET_RECORDING);
}

static void test_stall(void **state)
{
    (void)state;
    given(3); /* our own check: however long it takes */
    now += 100 * CLOCK_SECOND;
    play(TARGET_TICK, 0);
    assert_int_equal(target.state, TARGET_CHECKING);
    reach(TARGET_RECEIVING);
    now += 11 * CLOCK_SECOND;
    play(TARGET_TICK, 0);
    assert_int_equal(target.state, TARGET_GONE);
    assert_int_equal(target.reason, REASON_STALLED);
    assert_true(asked(ACTION_END));
    reach(TARGET_PREPARED);
    now += 11 * CLOCK_SECOND;
    play(TARGET_TICK, 0);
    assert_int_equal(target.state, TARGET_UNCERTAIN);
    assert_false(asked(ACTION_DISCARD));
}

/* A person who chose the source's limit chose the target's: thrice that, within bounds. */
static void test_stall_limit_of_the_source(void **state)
{
    (void)state;
    static const struct {
        uint64_t said_ns, limit_ns;
    } rows[] = { { 0, 10 * CLOCK_SECOND },
                 { 1, 5 * CLOCK_SECOND },
                 { 2 * CLOCK_SECOND, 6 * CLOCK_SECOND },
                 { 60 * CLOCK_SECOND, 180 * CLOCK_SECOND },
                 { UINT64_MAX, 600 * CLOCK_SECOND } };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct message m = *message(MESSAGE_HELLO);
        begin();
        m.hello.stall_limit_ns = rows[i].said_ns;
        assert_int_equal(say(CONN, &m), 0);
        assert_int_equal(target.config.stall_limit_ns, rows[i].limit_ns);
        now += rows[i].limit_ns - CLOCK_MSEC;
        play(TARGET_TICK, 0);
        assert_int_equal(target.state, TARGET_CHECKING);
        now += CLOCK_MSEC;
        play(TARGET_TICK, 0);
        assert_int_equal(target.state, TARGET_GONE);
    }
}

static int resolve_with(uint32_t conn, enum move_intent intent)
{
    struct message m = *message(MESSAGE_RESOLVE);
    m.resolve.intent = intent;
    return say(conn, &m);
}

static void test_no_absent_round_without_a_lane(void **state)
{
    (void)state;
    given(6);
    struct message m = *message(MESSAGE_ROUND);
    m.round.last = ROUND_ABSENT;
    assert_int_equal(say(CONN, &m), -EPROTO);
    assert_int_equal(target.state, TARGET_GONE);
}

static void test_lane_is_refused(void **state)
{
    (void)state;
    struct message m = *message(MESSAGE_LANE);
    given(6);
    m.lane.token[2]++;
    assert_int_equal(say(2, &m), -EBUSY);
    assert_non_null(sent(MESSAGE_ABORT));
    assert_int_equal(say(3, message(MESSAGE_LANE)), 0);
    assert_int_equal(say(4, message(MESSAGE_LANE)), -EBUSY); /* there is one */
    assert_false(asked(ACTION_TAKE_LANE));
    reach(TARGET_STRANDED);
    assert_int_equal(say(5, message(MESSAGE_LANE)), -EBUSY); /* beside nothing */
}

/* The guest runs on through a cut, and what it lacks is said on the next connection. */
static void test_pulling_goes_on(void **state)
{
    (void)state;
    reach(TARGET_STRANDED);
    assert_int_equal(target.reason, REASON_LOST);
    assert_int_equal(resolve_with(5, INTENT_ASK), 0);
    assert_int_equal(target.state, TARGET_PULLING);
    assert_int_equal(sent(MESSAGE_STATUS)->status.knows, KNOWS_PULLING);
    assert_non_null(sent(MESSAGE_ACTIVATED));
    assert_true(asked(ACTION_SEND_ABSENT));
    assert_int_equal(say(6, message(MESSAGE_LANE)), 0);
    assert_true(asked(ACTION_TAKE_LANE));
    assert_int_equal(step((struct target_event){ .kind = TARGET_PULLED, .pulled = &pulled }), 0);
    assert_int_equal(target.state, TARGET_ACTIVE);
    assert_int_equal(sent(MESSAGE_PULLED)->pulled.faults, 5);
    assert_int_equal(resolve_with(7, INTENT_ASK), 0); /* the source did not hear it */
    assert_int_equal(sent(MESSAGE_STATUS)->status.knows, KNOWS_COMMITTED);
    assert_non_null(sent(MESSAGE_PULLED));
}

/* A source that comes back without its memory: before the commitment nothing is worth keeping, and after it
 * nothing can be done. */
static void test_source_without_memory(void **state)
{
    (void)state;
    reach_prepared();
    play(TARGET_LOST, 0);
    assert_int_equal(resolve_with(5, INTENT_RECOVER), 0);
    assert_int_equal(target.state, TARGET_GONE);
    assert_true(asked(ACTION_DISCARD));
    assert_int_equal(sent(MESSAGE_STATUS)->status.knows, KNOWS_NOTHING);

    reach(TARGET_STRANDED);
    assert_int_equal(resolve_with(5, INTENT_RECOVER), 0);
    assert_int_equal(target.state, TARGET_STRANDED);
    assert_int_equal(target.reason, REASON_SOURCE_LOST);
    assert_int_equal(sent(MESSAGE_STATUS)->status.knows, KNOWS_PULLING);
}

static void test_half_a_guest_is_not_adopted(void **state)
{
    (void)state;
    reach_prepared();
    play(TARGET_LOST, 0);
    assert_int_equal(step((struct target_event){ .kind = TARGET_ADOPT }), -EBUSY);
    assert_int_equal(target.state, TARGET_UNCERTAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_absent_round_without_a_lane),
        cmocka_unit_test(test_lane_is_refused),
        cmocka_unit_test(test_pulling_goes_on),
        cmocka_unit_test(test_source_without_memory),
        cmocka_unit_test(test_half_a_guest_is_not_adopted),
        cmocka_unit_test(test_every_event_in_every_state),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_newcomers),
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_answers_from_the_store),
        cmocka_unit_test(test_full_disk_keeps_the_copy),
        cmocka_unit_test(test_unknown_write_is_repeated),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_stall_limit_of_the_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
