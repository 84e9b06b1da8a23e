#include "move/step.h"

#include "base/compiler.h"
#include <assert.h>
#include <string.h>

const char *move_stage_name(enum move_stage stage)
{
    static const char *const names[] = {
        [STAGE_NONE] = "none",
        [STAGE_PRE_MIGRATION] = "pre-migration",
        [STAGE_RESERVATION] = "reservation",
        [STAGE_PRE_COPY] = "pre-copy",
        [STAGE_STOP_AND_COPY] = "stop-and-copy",
        [STAGE_COMMITMENT] = "commitment",
        [STAGE_ACTIVATION] = "activation",
        [STAGE_PULLING] = "pulling",
    };
    static_assert(ARRAY_LEN(names) == STAGE_MAX, "one name a stage");
    return stage < STAGE_MAX ? names[stage] : "unknown";
}

const char *move_action_name(enum move_action_kind kind)
{
    static const char *const names[] = {
        [ACTION_SEND] = "send",
        [ACTION_CLOSE] = "close",
        [ACTION_WRITE_RECORD] = "write-record",
        [ACTION_SET_TIMER] = "set-timer",
        [ACTION_EMIT] = "emit",
        [ACTION_CONNECT] = "connect",
        [ACTION_SEND_DESCRIPTION] = "send-description",
        [ACTION_SEND_ROUND] = "send-round",
        [ACTION_PREPARE_GUEST] = "prepare-guest",
        [ACTION_THROTTLE] = "throttle",
        [ACTION_END_ROUND] = "end-round",
        [ACTION_OPEN_URGENT] = "open-urgent",
        [ACTION_PUSH] = "push",
        [ACTION_PAUSE_GUEST] = "pause-guest",
        [ACTION_SEND_STATE] = "send-state",
        [ACTION_RESUME_GUEST] = "resume-guest",
        [ACTION_RELEASE] = "release",
        [ACTION_CHECK] = "check",
        [ACTION_RESERVE] = "reserve",
        [ACTION_LOAD] = "load",
        [ACTION_RUN_GUEST] = "run-guest",
        [ACTION_DISCARD] = "discard",
        [ACTION_TAKE_LANE] = "take-lane",
        [ACTION_SEND_ABSENT] = "send-absent",
        [ACTION_END] = "end",
    };
    static_assert(ARRAY_LEN(names) == ACTION_KIND_MAX, "one name an action");
    return kind < ACTION_KIND_MAX && names[kind] ? names[kind] : "unknown";
}

struct move_action *move_act(struct move_actions *out, enum move_action_kind kind)
{
    ASSERT(out->count < MOVE_ACTIONS_MAX);
    struct move_action *action = &out->action[out->count++];
    memset(action, 0, sizeof(*action));
    action->kind = kind;
    return action;
}

struct message *move_send(struct move_actions *out, uint32_t conn, enum message_type type)
{
    ASSERT(out->messages < MOVE_MESSAGES_MAX);
    struct message *message = &out->message[out->messages++];
    memset(message, 0, offsetof(struct message, hello) + message_schema((uint16_t)type)->size);
    message->type = (uint16_t)type;

    struct move_action *action = move_act(out, ACTION_SEND);
    action->conn = conn;
    action->message = message;
    return message;
}
