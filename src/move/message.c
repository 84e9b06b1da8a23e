#include "move/message.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

SCHEMA_DEFINE(message_hello, 3, MESSAGE_HELLO_FIELDS)
SCHEMA_DEFINE(message_reason, 1, MESSAGE_REASON_FIELDS)
SCHEMA_DEFINE(message_verdict, 1, MESSAGE_VERDICT_FIELDS)
SCHEMA_DEFINE(message_reserve, 1, MESSAGE_RESERVE_FIELDS)
SCHEMA_DEFINE(message_reserved, 2, MESSAGE_RESERVED_FIELDS)
SCHEMA_DEFINE(message_round, 1, MESSAGE_ROUND_FIELDS)
SCHEMA_DEFINE(message_round_done, 1, MESSAGE_ROUND_DONE_FIELDS)
SCHEMA_DEFINE(message_round_ack, 1, MESSAGE_ROUND_ACK_FIELDS)
SCHEMA_DEFINE(message_state_done, 1, MESSAGE_STATE_DONE_FIELDS)
SCHEMA_DEFINE(message_prepared, 1, MESSAGE_PREPARED_FIELDS)
SCHEMA_DEFINE(message_commit, 1, MESSAGE_COMMIT_FIELDS)
SCHEMA_DEFINE(message_committed, 1, MESSAGE_COMMITTED_FIELDS)
SCHEMA_DEFINE(message_activated, 1, MESSAGE_ACTIVATED_FIELDS)
SCHEMA_DEFINE(message_abort, 1, MESSAGE_ABORT_FIELDS)
SCHEMA_DEFINE(message_resolve, 1, MESSAGE_RESOLVE_FIELDS)
SCHEMA_DEFINE(message_status, 1, MESSAGE_STATUS_FIELDS)
SCHEMA_DEFINE(message_settled, 1, MESSAGE_SETTLED_FIELDS)
SCHEMA_DEFINE(message_fact, 1, MESSAGE_FACT_FIELDS)
SCHEMA_DEFINE(message_facts, 1, MESSAGE_FACTS_FIELDS)
SCHEMA_DEFINE(message_probe, 1, MESSAGE_PROBE_FIELDS)
SCHEMA_DEFINE(message_lane, 2, MESSAGE_LANE_FIELDS)
SCHEMA_DEFINE(message_pull, 1, MESSAGE_PULL_FIELDS)
SCHEMA_DEFINE(message_pulled, 1, MESSAGE_PULLED_FIELDS)

#define KIND_COUNT (MESSAGE_TYPE_END - MESSAGE_HELLO)

static const struct kind {
    const struct schema *schema;
    const char *name;
} kinds[] = {
    { &message_hello_schema, "hello" },         { &message_verdict_schema, "verdict" },
    { &message_reserve_schema, "reserve" },     { &message_reserved_schema, "reserved" },
    { &message_round_schema, "round" },         { &message_round_done_schema, "round-done" },
    { &message_round_ack_schema, "round-ack" }, { &message_state_done_schema, "state-done" },
    { &message_prepared_schema, "prepared" },   { &message_commit_schema, "commit" },
    { &message_committed_schema, "committed" }, { &message_activated_schema, "activated" },
    { &message_abort_schema, "abort" },         { &message_resolve_schema, "resolve" },
    { &message_status_schema, "status" },       { &message_settled_schema, "settled" },
    { &message_facts_schema, "facts" },         { &message_probe_schema, "probe" },
    { &message_lane_schema, "lane" },           { &message_pull_schema, "pull" },
    { &message_pulled_schema, "pulled" },
};
static_assert(ARRAY_LEN(kinds) == KIND_COUNT, "one row a message, in the order of the numbers");
static_assert((int)MESSAGE_TYPE_END <= (int)SECTION_TYPE_MAX, "messages fit their range");

static const struct kind *kind_of(uint16_t type)
{
    return message_is(type) ? &kinds[type - MESSAGE_HELLO] : NULL;
}

const struct schema *message_schema(uint16_t type)
{
    const struct kind *kind = kind_of(type);
    return kind ? kind->schema : NULL;
}

const char *message_name(uint16_t type)
{
    const struct kind *kind = kind_of(type);
    return kind ? kind->name : "unknown";
}

void message_encode(const struct message *message, struct buf *out)
{
    const struct schema *schema = message_schema(message->type);
    ASSERT(schema);
    section_put_version(out, message->type, schema_version_for(schema, &message->hello), schema,
                        &message->hello);
}

/* A peer's text ends up on terminals: one that could steer them is refused. */
static int check_texts(const struct schema *schema, const void *object, struct err *err)
{
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        const uint8_t *value = (const uint8_t *)object + f->offset;

        if (f->kind == SCHEMA_TEXT) {
            for (const uint8_t *c = value; *c; c++)
                if (*c < 0x20 || *c == 0x7f)
                    return err_set(err, ERR_PEER, EBADMSG, "%s.%s: holds a control character",
                                   schema->name, f->name);
        } else if (f->kind == SCHEMA_LIST) {
            uint32_t count;
            memcpy(&count, (const uint8_t *)object + f->count_offset, sizeof(count));
            for (uint32_t k = 0; k < count; k++) {
                int rc = check_texts(f->sub, value + (size_t)k * f->sub->size, err);
                if (rc)
                    return rc;
            }
        }
    }
    return 0;
}

static bool token_is_zero(const uint8_t token[MOVE_TOKEN_BYTES])
{
    static const uint8_t zero[MOVE_TOKEN_BYTES];
    return memcmp(token, zero, sizeof(zero)) == 0;
}

static int check_token(const struct message *message, struct err *err)
{
    const uint8_t *token = NULL;

    switch ((enum message_type)message->type) {
    case MESSAGE_HELLO:
        token = message->hello.token;
        break;
    case MESSAGE_COMMIT:
        token = message->commit.token;
        break;
    case MESSAGE_COMMITTED:
        token = message->committed.token;
        break;
    case MESSAGE_ACTIVATED:
        token = message->activated.token;
        break;
    case MESSAGE_RESOLVE:
        token = message->resolve.token;
        break;
    case MESSAGE_STATUS:
        token = message->status.token;
        break;
    case MESSAGE_SETTLED:
        token = message->settled.token;
        break;
    case MESSAGE_LANE:
        token = message->lane.token;
        break;
    case MESSAGE_PULL:
        token = message->pull.token;
        break;
    case MESSAGE_PULLED:
        token = message->pulled.token;
        break;
    default:
        break; /* has none; ABORT may come before one is known */
    }
    if (token && token_is_zero(token))
        return err_set(err, ERR_PEER, EBADMSG, "message %s: empty token",
                       message_name(message->type));
    return 0;
}

static int refuse(const struct message *message, const char *field, uint64_t value, struct err *err)
{
    return err_set(err, ERR_PEER, EBADMSG, "message %s: impossible %s %llu",
                   message_name(message->type), field, (unsigned long long)value);
}

static bool reason_exists(uint32_t reason)
{
    return strcmp(move_reason_name(reason), "unknown") != 0;
}

static int check_numbers(const struct message *m, struct err *err)
{
    switch ((enum message_type)m->type) {
    case MESSAGE_HELLO:
        if (m->hello.mode == 0 || m->hello.mode >= MOVE_MODE_MAX)
            return refuse(m, "mode", m->hello.mode, err);
        if (m->hello.pages == 0)
            return refuse(m, "pages", m->hello.pages, err);
        if (m->hello.paused > 1)
            return refuse(m, "paused", m->hello.paused, err);
        if (m->hello.check > 1)
            return refuse(m, "check", m->hello.check, err);
        if (m->hello.lanes > MOVE_LANES_MAX)
            return refuse(m, "lanes", m->hello.lanes, err);
        return 0;
    case MESSAGE_RESERVED:
        if (m->reserved.lanes > MOVE_LANES_MAX)
            return refuse(m, "lanes", m->reserved.lanes, err);
        return 0;
    case MESSAGE_LANE:
        if (m->lane.kind == 0 || m->lane.kind >= LANE_MAX)
            return refuse(m, "kind", m->lane.kind, err);
        if (m->lane.index >= MOVE_LANES_MAX)
            return refuse(m, "index", m->lane.index, err);
        return 0;
    case MESSAGE_VERDICT:
        if (m->verdict.ok > 1)
            return refuse(m, "ok", m->verdict.ok, err);
        if (m->verdict.ok == (m->verdict.reason_count != 0))
            return refuse(m, "number of reasons", m->verdict.reason_count, err);
        for (uint32_t i = 0; i < m->verdict.reason_count; i++)
            if (!reason_exists(m->verdict.reason[i].code))
                return refuse(m, "reason", m->verdict.reason[i].code, err);
        return 0;
    case MESSAGE_FACTS:
        for (uint32_t i = 0; i < m->facts.fact_count; i++)
            if (m->facts.fact[i].ok > 1)
                return refuse(m, "ok", m->facts.fact[i].ok, err);
        return 0;
    case MESSAGE_ROUND:
        if (m->round.last >= ROUND_KIND_MAX)
            return refuse(m, "last", m->round.last, err);
        return 0;
    case MESSAGE_ABORT:
        if (!reason_exists(m->abort.reason))
            return refuse(m, "reason", m->abort.reason, err);
        if (m->abort.fault == ERR_NONE || m->abort.fault >= ERR_FAULT_MAX)
            return refuse(m, "fault", m->abort.fault, err);
        return 0;
    case MESSAGE_RESOLVE:
        if (m->resolve.intent == 0 || m->resolve.intent >= INTENT_MAX)
            return refuse(m, "intent", m->resolve.intent, err);
        return 0;
    case MESSAGE_STATUS:
        if (m->status.knows == 0 || m->status.knows >= KNOWS_MAX)
            return refuse(m, "knows", m->status.knows, err);
        if (m->status.reason && !reason_exists(m->status.reason))
            return refuse(m, "reason", m->status.reason, err);
        return 0;
    default:
        return 0;
    }
}

int message_decode(const struct section *section, const void *body, struct message *ret,
                   struct err *err)
{
    const struct kind *kind = kind_of(section->type);
    if (!kind)
        return err_set(err, ERR_PEER, EBADMSG, "section type %u is no message", section->type);

    int rc = section_get(section, body, kind->schema, &ret->hello, err);
    if (rc)
        return rc;
    ret->type = section->type;
    rc = check_texts(kind->schema, &ret->hello, err);
    if (!rc)
        rc = check_token(ret, err);
    return rc ? rc : check_numbers(ret, err);
}

static const char *name_in(const char *const *names, size_t count, uint32_t number)
{
    return number < count && names[number] ? names[number] : "unknown";
}

const char *move_reason_name(uint32_t reason)
{
    static const char *const names[] = {
        [REASON_VERSION] = "version",
        [REASON_CPU_FEATURE] = "cpu-feature",
        [REASON_CPU_OTHER] = "cpu",
        [REASON_HYPERVISOR] = "hypervisor",
        [REASON_CLOCK] = "clock",
        [REASON_MEMORY] = "memory",
        [REASON_DEVICE] = "device",
        [REASON_DISK] = "disk",
        [REASON_NETWORK] = "network",
        [REASON_NAME] = "name",
        [REASON_TOKEN] = "token",
        [REASON_CANCELLED] = "cancelled",
        [REASON_CONNECT] = "connect",
        [REASON_LOST] = "lost",
        [REASON_STALLED] = "stalled",
        [REASON_PROTOCOL] = "protocol",
        [REASON_BAD_BYTES] = "bad-bytes",
        [REASON_REFUSED] = "refused",
        [REASON_RESERVE] = "reserve",
        [REASON_SOURCE] = "source",
        [REASON_LOAD] = "load",
        [REASON_RECORD] = "record",
        [REASON_BUSY] = "busy",
        [REASON_TARGET_GONE] = "target-gone",
        [REASON_TARGET_DIED] = "target-died",
        [REASON_OTHER_STORE] = "other-store",
        [REASON_SOURCE_DIED] = "source-died",
        [REASON_OPERATOR] = "operator",
        [REASON_SPLIT] = "split",
        [REASON_BUG] = "bug",
        [REASON_GOAL] = "goal",
        [REASON_SOURCE_LOST] = "source-lost",
        [REASON_UNTRUSTED] = "untrusted",
    };
    static_assert(ARRAY_LEN(names) == REASON_MAX, "one name a reason");
    return name_in(names, ARRAY_LEN(names), reason);
}

enum move_reason move_reason_of_bytes(const struct err *why)
{
    return why && why->code == EPROTONOSUPPORT ? REASON_VERSION : REASON_BAD_BYTES;
}

const char *move_mode_name(uint32_t mode)
{
    static const char *const names[] = {
        [MOVE_STOP_COPY] = "stop-copy",
        [MOVE_PRE_COPY] = "pre-copy",
        [MOVE_POST_COPY] = "post-copy",
    };
    static_assert(ARRAY_LEN(names) == MOVE_MODE_MAX, "one name a mode");
    return name_in(names, ARRAY_LEN(names), mode);
}

const char *move_knows_name(uint32_t knows)
{
    static const char *const names[] = {
        [KNOWS_NOTHING] = "nothing",     [KNOWS_HELD] = "held", [KNOWS_RECORDING] = "recording",
        [KNOWS_COMMITTED] = "committed", [KNOWS_DIED] = "died", [KNOWS_PULLING] = "pulling",
    };
    static_assert(ARRAY_LEN(names) == KNOWS_MAX, "one name each");
    return name_in(names, ARRAY_LEN(names), knows);
}
