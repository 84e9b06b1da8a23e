/* Names, stages and defaults of both engines: what is looked up and never decided. */
#include "base/clock.h"
#include "move/source.h"
#include "move/target.h"

#include <assert.h>
#include <string.h>

static const struct {
    const char *name;
    enum move_stage stage;
} source_states[] = {
    [SOURCE_IDLE] = { "idle", STAGE_NONE },
    [SOURCE_CONNECTING] = { "connecting", STAGE_PRE_MIGRATION },
    [SOURCE_NEGOTIATING] = { "negotiating", STAGE_PRE_MIGRATION },
    [SOURCE_RESERVING] = { "reserving", STAGE_RESERVATION },
    [SOURCE_COPYING] = { "copying", STAGE_PRE_COPY },
    [SOURCE_STOPPING] = { "stopping", STAGE_STOP_AND_COPY },
    [SOURCE_DRAINING] = { "draining", STAGE_STOP_AND_COPY },
    [SOURCE_PREPARING] = { "preparing", STAGE_STOP_AND_COPY },
    [SOURCE_RECORDING] = { "recording", STAGE_COMMITMENT },
    [SOURCE_COMMITTING] = { "committing", STAGE_COMMITMENT },
    [SOURCE_UNCERTAIN] = { "uncertain", STAGE_COMMITMENT },
    [SOURCE_ACTIVATING] = { "activating", STAGE_ACTIVATION },
    [SOURCE_SERVING] = { "serving", STAGE_PULLING },
    [SOURCE_RECLAIMING] = { "reclaiming", STAGE_COMMITMENT },
    [SOURCE_WITHDRAWING] = { "withdrawing", STAGE_NONE },
    [SOURCE_DONE] = { "done", STAGE_NONE },
    [SOURCE_FAILED] = { "failed", STAGE_NONE },
}, target_states[] = {
    [TARGET_LISTENING] = { "listening", STAGE_NONE },
    [TARGET_CHECKING] = { "checking", STAGE_PRE_MIGRATION },
    [TARGET_RESERVING] = { "reserving", STAGE_RESERVATION },
    [TARGET_RESERVED] = { "reserved", STAGE_RESERVATION },
    [TARGET_RECEIVING] = { "receiving", STAGE_PRE_COPY },
    [TARGET_LOADING] = { "loading", STAGE_STOP_AND_COPY },
    [TARGET_PREPARED] = { "prepared", STAGE_COMMITMENT },
    [TARGET_UNCERTAIN] = { "uncertain", STAGE_COMMITMENT },
    [TARGET_RECORDING] = { "recording", STAGE_COMMITMENT },
    [TARGET_ACTIVATING] = { "activating", STAGE_ACTIVATION },
    [TARGET_PULLING] = { "pulling", STAGE_PULLING },
    [TARGET_STRANDED] = { "stranded", STAGE_PULLING },
    [TARGET_ACTIVE] = { "active", STAGE_NONE },
    [TARGET_GONE] = { "gone", STAGE_NONE },
};
static_assert(ARRAY_LEN(source_states) == SOURCE_STATE_MAX, "one row a state");
static_assert(ARRAY_LEN(target_states) == TARGET_STATE_MAX, "one row a state");

static const char *const source_events[] = {
    [SOURCE_START] = "start",
    [SOURCE_RECOVER] = "recover",
    [SOURCE_CONNECTED] = "connected",
    [SOURCE_CONNECT_FAILED] = "connect-failed",
    [SOURCE_MESSAGE] = "message",
    [SOURCE_BAD_BYTES] = "bad-bytes",
    [SOURCE_LOST] = "lost",
    [SOURCE_PROGRESS] = "progress",
    [SOURCE_URGENT_OPEN] = "urgent-open",
    [SOURCE_ROUND_SENT] = "round-sent",
    [SOURCE_PAUSED] = "paused",
    [SOURCE_STATE_SENT] = "state-sent",
    [SOURCE_RECORDED] = "recorded",
    [SOURCE_RECORD_FAILED] = "record-failed",
    [SOURCE_GUEST_PREPARED] = "guest-prepared",
    [SOURCE_FAULT] = "fault",
    [SOURCE_TICK] = "tick",
    [SOURCE_CANCEL] = "cancel",
    [SOURCE_TAKE_BACK] = "take-back",
    [SOURCE_FORGET] = "forget",
    [SOURCE_SWITCH] = "switch",
    [SOURCE_RETRY] = "retry",
};
static_assert(ARRAY_LEN(source_events) == SOURCE_EVENT_MAX, "one name an event");

static const char *const target_events[] = {
    [TARGET_MESSAGE] = "message",
    [TARGET_SECTION] = "section",
    [TARGET_PAGES_OK] = "pages-ok",
    [TARGET_PROGRESS] = "progress",
    [TARGET_BAD_BYTES] = "bad-bytes",
    [TARGET_LOST] = "lost",
    [TARGET_CHECKED] = "checked",
    [TARGET_RESERVED_DONE] = "reserved-done",
    [TARGET_LOADED] = "loaded",
    [TARGET_RECORDED] = "recorded",
    [TARGET_RECORD_FAILED] = "record-failed",
    [TARGET_RUNNING] = "running",
    [TARGET_PULLED] = "complete",
    [TARGET_FAULT] = "fault",
    [TARGET_TICK] = "tick",
    [TARGET_CANCEL] = "cancel",
    [TARGET_ADOPT] = "adopt",
};
static_assert(ARRAY_LEN(target_events) == TARGET_EVENT_MAX, "one name an event");

const char *source_state_name(enum source_state state)
{
    return state < SOURCE_STATE_MAX && source_states[state].name ? source_states[state].name
                                                                 : "unknown";
}

enum move_stage source_state_stage(enum source_state state)
{
    return state < SOURCE_STATE_MAX ? source_states[state].stage : STAGE_NONE;
}

const char *source_event_name(enum source_event_kind kind)
{
    return kind < SOURCE_EVENT_MAX && source_events[kind] ? source_events[kind] : "unknown";
}

const char *target_state_name(enum target_state state)
{
    return state < TARGET_STATE_MAX && target_states[state].name ? target_states[state].name
                                                                 : "unknown";
}

enum move_stage target_state_stage(enum target_state state)
{
    return state < TARGET_STATE_MAX ? target_states[state].stage : STAGE_NONE;
}

const char *target_event_name(enum target_event_kind kind)
{
    return kind < TARGET_EVENT_MAX && target_events[kind] ? target_events[kind] : "unknown";
}

struct source_config source_config_default(void)
{
    return (struct source_config){
        .policy = policy_limits_default(),
        .stall_limit_ns = 10 * CLOCK_SECOND,
        .retry_first_ns = 100 * CLOCK_MSEC,
        .retry_max_ns = 5 * CLOCK_SECOND,
        .withdraw_limit_ns = 60 * CLOCK_SECOND,
    };
}

void source_init(struct source *source, const struct source_config *config)
{
    memset(source, 0, sizeof(*source));
    source->config = *config;
    source->state = SOURCE_IDLE;
    source->retry_at_ns = source->timer_ns = CLOCK_NEVER;
    policy_init(&source->policy, &config->policy, config->hello.pages);
}

void target_init(struct target *target, const struct target_config *config)
{
    memset(target, 0, sizeof(*target));
    target->config = *config;
    target->state = TARGET_LISTENING;
    target->retry_at_ns = target->timer_ns = CLOCK_NEVER;
}
