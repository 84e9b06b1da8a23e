/*
 * The engines of a live move under any events in any order, as a pump that keeps its contract could deliver them:
 * completions only of what was asked for, everything else at any time. Checked after every step, by an observer that
 * only knows the contract (move/step.h), not the engines:
 *
 *   - what was refused to a person has changed nothing; an ended engine stays ended
 *   - COMMIT is sent only after the source's record was durable, and then the guest is not resumed unless the target
 *     answered, or a person decided; after RELEASE never
 *   - a target runs the guest only when its record was durable after COMMIT or ADOPT, and never after DISCARD, nor
 *     discards it after that
 */
#include "fuzz.h"
#include "move/source.h"
#include "move/target.h"

#define EVENTS_MAX 300

static const uint8_t token[MOVE_TOKEN_BYTES] = { 1, 2, 3 };
static const uint8_t store[MOVE_STORE_BYTES] = { 9, 8, 7 };

/* What an action asked for and was not yet answered. */
struct asked {
    bool record, pause, round, state, check, reserve, load, run, connect, urgent, prepare;
    uint32_t conn;
};

static bool take(bool *asked)
{
    bool was = *asked;
    *asked = false;
    return was;
}

/* A message by a few bytes; mostly one that this move could bring. */
static void make_message(struct cursor *in, struct message *message)
{
    uint8_t seed = cursor_u8(in), number = cursor_u8(in);
    const uint8_t *own = seed & 0x80 ? store : token;
    memset(message, 0, sizeof(*message));
    message->type = (uint16_t)(MESSAGE_HELLO + (seed & 0x1f) % (MESSAGE_TYPE_END - MESSAGE_HELLO));
    switch (message->type) {
    case MESSAGE_HELLO:
        memcpy(message->hello.token, own, MOVE_TOKEN_BYTES);
        message->hello.mode = number & 1 ? MOVE_PRE_COPY : MOVE_STOP_COPY;
        message->hello.pages = 16384;
        break;
    case MESSAGE_VERDICT:
        message->verdict.ok = number & 1;
        message->verdict.reason_count = number & 1 ? 0 : 1;
        message->verdict.reason[0].code = REASON_MEMORY;
        break;
    case MESSAGE_RESERVE:
        message->reserve.pages = number & 1 ? 16384 : number;
        break;
    case MESSAGE_RESERVED:
        memcpy(message->reserved.store, store, sizeof(store));
        break;
    case MESSAGE_ROUND:
        message->round.number = number >> 1;
        message->round.last = number & 1;
        break;
    case MESSAGE_ROUND_DONE:
        message->round_done.number = number >> 2;
        message->round_done.pages = number & 3;
        break;
    case MESSAGE_ROUND_ACK:
        message->round_ack.number = number >> 2;
        message->round_ack.pages = number & 3;
        break;
    case MESSAGE_STATE_DONE:
        message->state_done.sections = number & 3;
        break;
    case MESSAGE_COMMIT:
        memcpy(message->commit.token, own, MOVE_TOKEN_BYTES);
        break;
    case MESSAGE_COMMITTED:
        memcpy(message->committed.token, own, MOVE_TOKEN_BYTES);
        break;
    case MESSAGE_ACTIVATED:
        memcpy(message->activated.token, own, MOVE_TOKEN_BYTES);
        break;
    case MESSAGE_ABORT:
        memcpy(message->abort.token, own, MOVE_TOKEN_BYTES);
        message->abort.reason = 1 + number % (REASON_MAX - 1u);
        message->abort.fault = ERR_PEER;
        break;
    case MESSAGE_RESOLVE:
        memcpy(message->resolve.token, own, MOVE_TOKEN_BYTES);
        message->resolve.intent = 1 + number % (INTENT_MAX - 1u);
        break;
    case MESSAGE_STATUS:
        memcpy(message->status.token, own, MOVE_TOKEN_BYTES);
        memcpy(message->status.store, number & 0x40 ? token : store, MOVE_STORE_BYTES);
        message->status.knows = 1 + number % (KNOWS_MAX - 1u);
        break;
    case MESSAGE_SETTLED:
        memcpy(message->settled.token, own, MOVE_TOKEN_BYTES);
        break;
    default:
        break;
    }
}

static void check_actions(const struct move_actions *out)
{
    FUZZ_CHECK(out->count <= MOVE_ACTIONS_MAX && out->messages <= MOVE_MESSAGES_MAX);
    for (unsigned i = 0; i < out->count; i++) {
        const struct move_action *action = &out->action[i];
        FUZZ_CHECK(action->kind > 0 && action->kind < ACTION_KIND_MAX);
        FUZZ_CHECK(move_action_name(action->kind)[0]);
        FUZZ_CHECK(action->kind != ACTION_SEND || message_is(action->message->type));
    }
}

/* The timer may be set at any step. */
static bool changes_nothing(const struct move_actions *out)
{
    for (unsigned i = 0; i < out->count; i++)
        if (out->action[i].kind != ACTION_SET_TIMER)
            return false;
    return true;
}

/* --------------------------------------------------------------------------------------------- the source */

struct source_view {
    struct asked asked;
    enum move_record writing;
    bool handed, commit_sent, answered, decided, released;
};

static void watch_source(struct source_view *view, const struct move_actions *out)
{
    for (unsigned i = 0; i < out->count; i++) {
        const struct move_action *action = &out->action[i];
        switch (action->kind) {
        case ACTION_CONNECT:
            view->asked.connect = true;
            view->asked.conn = action->conn;
            break;
        case ACTION_WRITE_RECORD:
            view->asked.record = true;
            view->writing = action->record;
            break;
        case ACTION_PAUSE_GUEST:
            view->asked.pause = true;
            break;
        case ACTION_SEND_ROUND:
            view->asked.round = true;
            break;
        case ACTION_SEND_STATE:
            view->asked.state = true;
            break;
        case ACTION_OPEN_URGENT:
            view->asked.urgent = true;
            break;
        case ACTION_PREPARE_GUEST:
            view->asked.prepare = true;
            break;
        case ACTION_SEND:
            if (action->message->type != MESSAGE_COMMIT)
                break;
            FUZZ_CHECK(view->handed);
            view->commit_sent = true;
            view->answered = false;
            break;
        case ACTION_RESUME_GUEST:
            FUZZ_CHECK(!view->released);
            FUZZ_CHECK(!view->commit_sent || view->answered || view->decided);
            view->asked.pause = view->asked.round = view->asked.state = false;
            break;
        case ACTION_RELEASE:
            FUZZ_CHECK(!view->released);
            view->released = true;
            break;
        default:
            break;
        }
    }
}

/* Fills an event; false: the pump could not deliver it now. */
static bool make_source_event(struct source_view *view, struct cursor *in, struct message *message,
                              const struct err *why, struct source_event *event)
{
    struct asked *asked = &view->asked;
    uint8_t what = cursor_u8(in);
    *event = (struct source_event){ .kind = SOURCE_CONNECTED +
                                            what % (SOURCE_EVENT_MAX - SOURCE_CONNECTED),
                                    .conn = what & 0x80 ? 1 : asked->conn,
                                    .why = why };
    switch (event->kind) {
    case SOURCE_CONNECTED:
    case SOURCE_CONNECT_FAILED:
        if (!asked->connect)
            return false;
        event->conn = asked->conn;
        asked->connect = false;
        return true;
    case SOURCE_MESSAGE:
        make_message(in, message);
        event->message = message;
        return !asked->connect;
    case SOURCE_PROGRESS:
        event->round.pages = cursor_u8(in);
        event->round.bytes = event->round.pages * 4096;
        event->round.left_pages = cursor_u8(in);
        return !asked->connect;
    case SOURCE_BAD_BYTES:
    case SOURCE_LOST:
        return !asked->connect; /* there is a connection, or was */
    case SOURCE_FAULT:
        return asked->pause || asked->round || asked->state;
    case SOURCE_ROUND_SENT:
        if (!asked->round)
            return false;
        asked->round = false;
        event->round.pages = cursor_u8(in);
        event->round.bytes = event->round.pages * 4096;
        event->round.left_pages = cursor_u8(in);
        return true;
    case SOURCE_PAUSED:
        if (!asked->pause)
            return false;
        asked->pause = false;
        return true;
    case SOURCE_STATE_SENT:
        if (!asked->state)
            return false;
        asked->state = false;
        event->sections = 3;
        return true;
    case SOURCE_URGENT_OPEN:
        return take(&asked->urgent);
    case SOURCE_GUEST_PREPARED:
        return take(&asked->prepare);
    case SOURCE_RECORDED:
        if (!asked->record)
            return false;
        asked->record = false;
        view->handed = view->handed || view->writing == RECORD_HANDED;
        return true;
    case SOURCE_RECORD_FAILED:
        if (!asked->record)
            return false;
        asked->record = false;
        event->record_unknown = cursor_u8(in) & 1;
        return true;
    default:
        return true;
    }
}

/* What ends the source's doubt about who owns the guest. */
static void note_source_event(struct source_view *view, const struct source_event *event)
{
    if (event->kind == SOURCE_TAKE_BACK)
        view->decided = true;
    if (event->kind == SOURCE_MESSAGE &&
        (event->message->type == MESSAGE_STATUS || event->message->type == MESSAGE_ABORT))
        view->answered = true;
}

static void run_source(struct cursor *in)
{
    static struct source source, before;
    static struct move_actions out;
    static struct message message;
    struct source_config config = source_config_default();
    struct source_view view = { 0 };
    struct err why, err;
    uint64_t now_ns = 1;
    uint8_t first = cursor_u8(in);

    (void)err_set(&why, ERR_HOST, 5, "something");
    memcpy(config.hello.token, token, sizeof(token));
    memcpy(config.store, store, sizeof(store));
    config.hello.mode = first & 1 ? MOVE_PRE_COPY : MOVE_STOP_COPY;
    config.hello.pages = 16384;
    config.policy = policy_limits_default();
    source_init(&source, &config);
    struct source_event event = { .kind = first & 2 ? SOURCE_RECOVER : SOURCE_START };
    view.handed = event.kind == SOURCE_RECOVER; /* so its record says */
    for (unsigned i = 0; i < EVENTS_MAX; i++) {
        before = source;
        err = (struct err){ 0 };
        note_source_event(&view, &event);
        int rc = source_step(&source, &event, now_ns, &out, &err);
        fuzz_check_err(rc, &err);
        check_actions(&out);
        FUZZ_CHECK(source.state > 0 && source.state < SOURCE_STATE_MAX);
        FUZZ_CHECK(!source_state_ended(before.state) || source.state == before.state);
        FUZZ_CHECK(source.reason != REASON_BUG || before.reason == REASON_BUG || event.message);
        if (rc && (event.kind == SOURCE_CANCEL || event.kind == SOURCE_TAKE_BACK ||
                   event.kind == SOURCE_FORGET)) {
            FUZZ_CHECK(changes_nothing(&out) && source.state == before.state);
            view.decided = view.decided && event.kind != SOURCE_TAKE_BACK;
        }
        watch_source(&view, &out);
        do {
            if (!in->left || in->bad)
                return;
            now_ns += (uint64_t)cursor_u8(in) << (cursor_u8(in) % 30);
        } while (!make_source_event(&view, in, &message, &why, &event));
    }
}

/* --------------------------------------------------------------------------------------------- the target */

struct target_view {
    struct asked asked;
    bool reserved, committed, recorded, ran, discarded;
};

static void watch_target(struct target_view *view, const struct move_actions *out)
{
    for (unsigned i = 0; i < out->count; i++) {
        switch (out->action[i].kind) {
        case ACTION_CHECK:
            view->asked.check = true;
            break;
        case ACTION_RESERVE:
            view->asked.reserve = true;
            break;
        case ACTION_LOAD:
            view->asked.load = true;
            break;
        case ACTION_WRITE_RECORD:
            FUZZ_CHECK(view->committed);
            view->asked.record = true;
            break;
        case ACTION_RUN_GUEST:
            FUZZ_CHECK(view->committed && view->recorded && !view->discarded && !view->ran);
            view->ran = view->asked.run = true;
            break;
        case ACTION_DISCARD:
            FUZZ_CHECK(!view->ran);
            view->discarded = true;
            break;
        default:
            break;
        }
    }
}

static bool make_target_event(struct target_view *view, enum target_state state, struct cursor *in,
                              struct message *message, const struct err *why,
                              struct target_event *event)
{
    static struct message_verdict verdict;
    static struct message_activated activated;
    static struct message_pulled pulled;
    uint8_t what = cursor_u8(in);
    *event = (struct target_event){ .kind = 1 + (what & 0x1f) % (TARGET_EVENT_MAX - 1),
                                    .conn = 1 + (what >> 6),
                                    .why = why };
    switch (event->kind) {
    case TARGET_MESSAGE:
        make_message(in, message);
        event->message = message;
        return true;
    case TARGET_SECTION:
        event->section = cursor_u8(in) % SECTION_STATE_MAX;
        return true;
    case TARGET_PAGES_OK:
        event->pages = cursor_u8(in) & 3;
        return true;
    case TARGET_CHECKED:
        verdict = (struct message_verdict){ .ok = cursor_u8(in) & 1 };
        verdict.reason_count = !verdict.ok;
        verdict.reason[0].code = REASON_MEMORY;
        event->verdict = &verdict;
        return take(&view->asked.check);
    case TARGET_RESERVED_DONE:
        event->why = cursor_u8(in) & 1 ? why : NULL;
        if (!take(&view->asked.reserve))
            return false;
        view->reserved = !event->why;
        return true;
    case TARGET_FAULT:
        return view->reserved;
    case TARGET_LOADED:
        event->why = cursor_u8(in) & 1 ? why : NULL;
        return take(&view->asked.load);
    case TARGET_RECORDED:
        if (!take(&view->asked.record))
            return false;
        view->recorded = true;
        return true;
    case TARGET_RECORD_FAILED:
        event->record_unknown = cursor_u8(in) & 1;
        return take(&view->asked.record);
    case TARGET_RUNNING:
        event->activated = &activated;
        return take(&view->asked.run);
    case TARGET_PULLED:
        event->pulled = &pulled;
        return state == TARGET_PULLING || state == TARGET_STRANDED;
    default:
        return true;
    }
}

static void run_target(struct cursor *in)
{
    static struct target target, before;
    static struct move_actions out;
    static struct message message;
    struct target_config config = { .stall_limit_ns = 10000000000 };
    struct target_view view = { 0 };
    struct target_event event;
    struct err why, err;
    uint64_t now_ns = 1;

    (void)err_set(&why, ERR_HOST, 5, "something");
    memcpy(config.store, store, sizeof(store));
    target_init(&target, &config);
    for (unsigned i = 0; i < EVENTS_MAX && in->left && !in->bad; i++) {
        now_ns += (uint64_t)cursor_u8(in) << (cursor_u8(in) % 30);
        if (!make_target_event(&view, target.state, in, &message, &why, &event))
            continue;
        before = target;
        err = (struct err){ 0 };
        if (event.kind == TARGET_ADOPT ||
            (event.kind == TARGET_MESSAGE && message.type == MESSAGE_COMMIT))
            view.committed = true;
        int rc = target_step(&target, &event, now_ns, &out, &err);
        fuzz_check_err(rc, &err);
        check_actions(&out);
        FUZZ_CHECK(target.state > 0 && target.state < TARGET_STATE_MAX);
        FUZZ_CHECK(!target_state_ended(before.state) || target.state == before.state);
        FUZZ_CHECK(target.reason != REASON_BUG || before.reason == REASON_BUG || event.message);
        if (rc && (event.kind == TARGET_CANCEL || event.kind == TARGET_ADOPT))
            FUZZ_CHECK(changes_nothing(&out) && target.state == before.state);
        watch_target(&view, &out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    if (cursor_u8(&in) & 1)
        run_source(&in);
    else
        run_target(&in);
    return 0;
}
