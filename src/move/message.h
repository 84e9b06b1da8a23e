/*
 * The messages of a live move: what travels beside memory and device state (state/stream.h frames
 * all of them alike, in both directions of a connection).
 *
 *     source                                          target
 *       HELLO, sections MACHINE and CPUID  ------->
 *                                          <-------  VERDICT
 *       RESERVE                            ------->
 *                                          <-------  RESERVED
 *       ROUND, sections PAGES, ROUND_DONE  ------->                     once or more;
 *                                          <-------  ROUND_ACK          the last one says so
 *       sections VM ... BUTTON, STATE_DONE ------->
 *                                          <-------  PREPARED           loaded, does not run
 *       COMMIT                             ------->                     source's record is durable
 *                                          <-------  COMMITTED          target's record is durable
 *       SETTLED                            ------->                     target may forget the token
 *                                          <-------  ACTIVATED          the guest runs there
 *
 *     In place of any of these up to COMMIT: ABORT, from either side. From a target that was prepared
 *     it means: I hold nothing any more. To such a target it is answered by STATUS nothing; and it is
 *     the source's answer to STATUS held, which in place of COMMITTED means: I could not record.
 *     On a new connection, as its first message, after the first one was lost:
 *       RESOLVE                            ------->
 *                                          <-------  STATUS             then COMMIT or SETTLED
 *     On each further connection (a lane), as its first message, once RESERVED granted it:
 *       LANE, sections PAGES of any round  ------->                     between a ROUND and its ROUND_DONE
 *     Their `instance` is the low half of the round's number. ROUND_DONE counts the pages of all
 *     connections; the target takes it up when it has them all.
 *
 *     Post-copy. A second connection, the urgent lane, is opened before the guest is paused; the last
 *     ROUND carries sections ABSENT (pages the target lacks, or has stale) instead of PAGES; and the
 *     source keeps the guest's memory after COMMITTED:
 *       LANE                               ------->                     first on the new connection;
 *                                          <-------  LANE               then only frames: move/urgent.h
 *                                          <-------  COMMITTED, ACTIVATED
 *       sections PAGES                     ------->                     the rest, each page once; on this
 *                                                                       connection or on bulk lanes
 *                                          <-------  PULLED             nothing is missing any more
 *       SETTLED                            ------->                     the source has freed the guest
 *     After a RESOLVE the target says what it lacks by now, and the urgent lane is opened again, and bulk
 *     lanes if there were any. All lanes stand beside one connection, and end with it:
 *                                          <-------  STATUS, sections ABSENT, PULL
 *
 *     A check (HELLO says so) moves nothing and leaves nothing: the target answers and goes on listening.
 *       HELLO, sections MACHINE and CPUID  ------->
 *                                          <-------  VERDICT, FACTS
 *       sections PROBE, PROBE              ------->                     as often as the source likes
 *                                          <-------  PROBE              all of that has come
 *
 * Everything received is untrusted: message_decode() has checked every number that names something,
 * and that texts are printable; what a message means in a given state is source.c's and target.c's.
 */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "cost/bill.h"
#include "state/schema.h"
#include "state/stream.h"
#include <stdbool.h>
#include <stdint.h>

#define MOVE_TOKEN_BYTES 16 /* random, new for every move, never all zero: the move's identity */
#define MOVE_STORE_BYTES 16 /* random, made with a record store: who answers for its records */
#define MOVE_REASONS_MAX 16

/* Section types: the numbers are the format. */
enum message_type {
    MESSAGE_HELLO = SECTION_MESSAGE,
    MESSAGE_VERDICT,
    MESSAGE_RESERVE,
    MESSAGE_RESERVED,
    MESSAGE_ROUND,
    MESSAGE_ROUND_DONE,
    MESSAGE_ROUND_ACK,
    MESSAGE_STATE_DONE,
    MESSAGE_PREPARED,
    MESSAGE_COMMIT,
    MESSAGE_COMMITTED,
    MESSAGE_ACTIVATED,
    MESSAGE_ABORT,
    MESSAGE_RESOLVE,
    MESSAGE_STATUS,
    MESSAGE_SETTLED,
    MESSAGE_FACTS,
    MESSAGE_PROBE,
    MESSAGE_LANE,
    MESSAGE_PULL,
    MESSAGE_PULLED,
    MESSAGE_TYPE_END /* one past the last */
};

#define MOVE_LANES_MAX 16 /* bulk lanes */

/* MOVE_POST_COPY: the guest may be handed over before all of its memory was sent, at once or after
 * rounds of pre-copy; so the target must be able to fetch pages. */
enum move_mode { MOVE_STOP_COPY = 1, MOVE_PRE_COPY, MOVE_POST_COPY, MOVE_MODE_MAX };

/* Why a target refuses, or why a move ended: typed, so that a program can act on it. The numbers
 * are the format. Names by move_reason_name(). */
enum move_reason {
    /* facts of a VERDICT: what the source needs and the target has */
    REASON_VERSION = 1, /* of godwit or of the stream */
    REASON_CPU_FEATURE, /* a CPU feature the guest was shown is missing; one reason a feature word */
    REASON_CPU_OTHER,   /* vendor, address width, vCPU count */
    REASON_HYPERVISOR,  /* a KVM capability is missing */
    REASON_CLOCK,       /* the guest's clock cannot go on here */
    REASON_MEMORY,      /* too little */
    REASON_DEVICE,      /* a device the target cannot make */
    REASON_DISK,        /* a disk that is missing, of another size, or of other contents */
    REASON_NETWORK,     /* a tap that is missing or of other abilities */
    REASON_NAME,        /* name or uuid is in use here, or not the one waited for */
    REASON_TOKEN,       /* the token was used before */

    /* ends of a move */
    REASON_CANCELLED = 32,
    REASON_CONNECT,     /* no connection could be made */
    REASON_LOST,        /* the connection broke */
    REASON_STALLED,     /* no progress for the stall limit */
    REASON_PROTOCOL,    /* a message or section out of place */
    REASON_BAD_BYTES,   /* damaged or impossible bytes */
    REASON_REFUSED,     /* the verdict; its reasons say why */
    REASON_RESERVE,     /* the target could not set aside what it promised */
    REASON_SOURCE,      /* the source could not read or pause its own guest */
    REASON_LOAD,        /* the target could not load what it got */
    REASON_RECORD,      /* an owner record could not be written */
    REASON_BUSY,        /* another move is under way at this target */
    REASON_TARGET_GONE, /* the target says it holds nothing and never ran */
    REASON_TARGET_DIED, /* the target recorded that it owns the guest, then its process died */
    REASON_OTHER_STORE, /* whoever answers does not hold the records of the target moved to */
    REASON_SOURCE_DIED, /* a restarted source learned that the target holds nothing: the VM is lost */
    REASON_OPERATOR,    /* a person decided */
    REASON_SPLIT,       /* both sides run the guest: only after a person's wrong decision */
    REASON_BUG,         /* the pump broke its contract */
    REASON_GOAL,        /* the goal cannot be met, and the user would rather stay (--strict) */
    REASON_SOURCE_LOST, /* post-copy: the guest's memory that was still at the source is lost */
    REASON_UNTRUSTED,   /* one side does not trust the other's key, or would not encrypt */
    REASON_MAX
};

/* What a target knows about a token, in STATUS. */
enum move_knows {
    KNOWS_NOTHING = 1, /* never heard of it, or discarded: has not run the guest and never will */
    KNOWS_HELD,        /* prepared, holds the whole guest, does not run it */
    KNOWS_RECORDING,   /* has COMMIT, is writing its record; COMMITTED or ABORT follows here */
    KNOWS_COMMITTED,   /* owns the guest; ACTIVATED follows here */
    KNOWS_DIED,        /* a durable record says it owns the guest, but the process is gone */
    KNOWS_PULLING, /* owns the guest, which runs there, and lacks pages that only the source has */
    KNOWS_MAX
};

enum move_intent {
    INTENT_ASK = 1,  /* what do you know? */
    INTENT_WITHDRAW, /* the guest runs on at the source: discard */
    INTENT_RECOVER,  /* as ASK, of a source whose process died: it has no memory of the guest */
    INTENT_MAX
};

/* What a connection beside the move's is for. The numbers are the format. */
enum move_lane {
    LANE_BULK = 1, /* pages of the rounds */
    LANE_URGENT,   /* pages a guest that already runs at the target waits for */
    LANE_MAX
};

/* What a ROUND carries. */
enum move_round {
    ROUND_RUNNING = 0, /* pages, and the guest runs */
    ROUND_PAUSED,      /* the last pages */
    ROUND_ABSENT,      /* the guest is paused, and these are pages the target is to fetch later */
    ROUND_KIND_MAX
};

#define MESSAGE_HELLO_FIELDS(F, T)                                                      \
    F(T, u8s, token, MOVE_TOKEN_BYTES)                                                  \
    F(T, u32, mode)         /* enum move_mode */                                        \
    F(T, u64, pages)        /* of guest memory, all of it */                            \
    F(T, u8, paused)        /* by its user: it arrives paused */                        \
    F(T, text, name, 64)    /* the machine's */                                         \
    F(T, text, source, 64)  /* the source host's name, for people */                    \
    F(T, text, version, 64) /* of the source's godwit, for people */                    \
    F(T, since, 2)                                                                      \
    F(T, u8, check)       /* 1: would it fit? Nothing is to be moved */                 \
    F(T, u32, lanes)      /* bulk lanes asked for; 0 = pages come on this connection */ \
    F(T, u32, page_forms) /* PAGE_FORM_* the source would like to use */                \
    F(T, since, 3)                                                                      \
    F(T, u64, stall_limit_ns) /* the source's, where a person chose it; 0 = the usual one */
SCHEMA_STRUCT(message_hello, MESSAGE_HELLO_FIELDS);

#define MESSAGE_REASON_FIELDS(F, T)                                           \
    F(T, u32, code)       /* enum move_reason */                              \
    F(T, text, fact, 64)  /* what differs: "cpu.avx512f", "disk.root.size" */ \
    F(T, text, have, 96)  /* of the source */                                 \
    F(T, text, want, 96)  /* what the target has instead */                   \
    F(T, text, text, 192) /* one sentence for people */
SCHEMA_STRUCT(message_reason, MESSAGE_REASON_FIELDS);

#define MESSAGE_VERDICT_FIELDS(F, T)                                         \
    F(T, u8, ok)            /* 1: no reason follows; 0: at least one does */ \
    F(T, text, target, 64)  /* the target host's name, for people */         \
    F(T, text, version, 64) /* of the target's godwit, for people */         \
    F(T, list, reason, message_reason, MOVE_REASONS_MAX)
SCHEMA_STRUCT(message_verdict, MESSAGE_VERDICT_FIELDS);

#define MESSAGE_RESERVE_FIELDS(F, T) F(T, u64, pages) /* of guest memory to set aside */
SCHEMA_STRUCT(message_reserve, MESSAGE_RESERVE_FIELDS);

#define MESSAGE_RESERVED_FIELDS(F, T)                                                  \
    F(T, u8s, store, MOVE_STORE_BYTES) /* of the target's record store */              \
    F(T, u64, duration_ns)                                                             \
    F(T, since, 2)                                                                     \
    F(T, u32, lanes)      /* bulk lanes granted: LANE may come for indexes below it */ \
    F(T, u32, page_forms) /* those of HELLO's that the target reads */
SCHEMA_STRUCT(message_reserved, MESSAGE_RESERVED_FIELDS);

#define MESSAGE_ROUND_FIELDS(F, T)                  \
    F(T, u32, number)         /* from 1 */          \
    F(T, u8, last)            /* enum move_round */ \
    F(T, u64, pages_estimate) /* for progress bars only */
SCHEMA_STRUCT(message_round, MESSAGE_ROUND_FIELDS);

#define MESSAGE_ROUND_DONE_FIELDS(F, T)                                   \
    F(T, u32, number)                                                     \
    F(T, u64, pages) /* described in this round's PAGES, of every kind */ \
    F(T, u64, bytes) /* those sections' bytes, for the bill */
SCHEMA_STRUCT(message_round_done, MESSAGE_ROUND_DONE_FIELDS);

#define MESSAGE_ROUND_ACK_FIELDS(F, T) \
    F(T, u32, number)                  \
    F(T, u64, pages) /* applied: equal to ROUND_DONE's */
SCHEMA_STRUCT(message_round_ack, MESSAGE_ROUND_ACK_FIELDS);

#define MESSAGE_STATE_DONE_FIELDS(F, T) \
    F(T, u32, sections) /* of device state since the last ROUND_DONE */
SCHEMA_STRUCT(message_state_done, MESSAGE_STATE_DONE_FIELDS);

/* Times since STATE_DONE was taken from the connection. */
#define MESSAGE_PREPARED_FIELDS(F, T)                         \
    F(T, u64, check_ns) /* decode and validate, no effects */ \
    F(T, u64, load_ns)  /* apply */
SCHEMA_STRUCT(message_prepared, MESSAGE_PREPARED_FIELDS);

#define MESSAGE_COMMIT_FIELDS(F, T) F(T, u8s, token, MOVE_TOKEN_BYTES)
SCHEMA_STRUCT(message_commit, MESSAGE_COMMIT_FIELDS);

#define MESSAGE_COMMITTED_FIELDS(F, T) \
    F(T, u8s, token, MOVE_TOKEN_BYTES) \
    F(T, u64, record_ns) /* from COMMIT taken to record durable */
SCHEMA_STRUCT(message_committed, MESSAGE_COMMITTED_FIELDS);

#define MESSAGE_ACTIVATED_FIELDS(F, T)                                            \
    F(T, u8s, token, MOVE_TOKEN_BYTES)                                            \
    F(T, u64, record_ns)           /* from COMMIT taken to record durable */      \
    F(T, u64, resume_ns)           /* from record durable to all vCPUs running */ \
    F(T, u64, running_wall_ns)     /* CLOCK_REALTIME of that moment */            \
    F(T, list, side, bill_side, 1) /* what the target measured of itself */
SCHEMA_STRUCT(message_activated, MESSAGE_ACTIVATED_FIELDS);

#define MESSAGE_ABORT_FIELDS(F, T)                                                   \
    F(T, u8s, token, MOVE_TOKEN_BYTES) /* all zero: sent before a token was known */ \
    F(T, u32, reason)                  /* enum move_reason */                        \
    F(T, u32, fault)                   /* enum err_fault, as the sender sees it */   \
    F(T, text, text, 256)
SCHEMA_STRUCT(message_abort, MESSAGE_ABORT_FIELDS);

#define MESSAGE_RESOLVE_FIELDS(F, T)   \
    F(T, u8s, token, MOVE_TOKEN_BYTES) \
    F(T, u32, intent) /* enum move_intent */
SCHEMA_STRUCT(message_resolve, MESSAGE_RESOLVE_FIELDS);

#define MESSAGE_STATUS_FIELDS(F, T)                                               \
    F(T, u8s, token, MOVE_TOKEN_BYTES)                                            \
    F(T, u8s, store, MOVE_STORE_BYTES) /* whose records this was answered from */ \
    F(T, u32, knows)                   /* enum move_knows */                      \
    F(T, u32, reason)                  /* enum move_reason: why it is so; 0 = none */
SCHEMA_STRUCT(message_status, MESSAGE_STATUS_FIELDS);

#define MESSAGE_SETTLED_FIELDS(F, T) F(T, u8s, token, MOVE_TOKEN_BYTES)
SCHEMA_STRUCT(message_settled, MESSAGE_SETTLED_FIELDS);

/* All that the target looked at for a verdict, what fits too. */
#define MESSAGE_FACT_FIELDS(F, T)                  \
    F(T, u8, ok)                                   \
    F(T, text, fact, 64)  /* "cpu", "disk", ... */ \
    F(T, text, text, 208) /* for people */
SCHEMA_STRUCT(message_fact, MESSAGE_FACT_FIELDS);

#define MOVE_FACTS_MAX 52
#define MESSAGE_FACTS_FIELDS(F, T) F(T, list, fact, message_fact, MOVE_FACTS_MAX)
SCHEMA_STRUCT(message_facts, MESSAGE_FACTS_FIELDS);

#define MESSAGE_PROBE_FIELDS(F, T) \
    F(T, u32, number)              \
    F(T, u64, bytes) /* of PROBE sections since the last one */
SCHEMA_STRUCT(message_probe, MESSAGE_PROBE_FIELDS);
#define MESSAGE_LANE_FIELDS(F, T)                                    \
    F(T, u8s, token, MOVE_TOKEN_BYTES) /* of the move it is of */    \
    F(T, u32, kind)                    /* enum move_lane */          \
    F(T, u32, index)                   /* bulk: from 0; each once */ \
    F(T, since, 2)                                                   \
    F(T, u32, beside) /* the source's number of the connection it stands beside; 0 = not told */
SCHEMA_STRUCT(message_lane, MESSAGE_LANE_FIELDS);

#define MESSAGE_PULL_FIELDS(F, T)      \
    F(T, u8s, token, MOVE_TOKEN_BYTES) \
    F(T, u64, pages) /* in the ABSENT sections since STATUS */
SCHEMA_STRUCT(message_pull, MESSAGE_PULL_FIELDS);

/* What the target's monitor saw of its guest's faults: from reading a fault to the page in its place. */
#define PULL_BUCKETS 32
#define MESSAGE_PULLED_FIELDS(F, T)                                                    \
    F(T, u8s, token, MOVE_TOKEN_BYTES)                                                 \
    F(T, u64, missing)     /* pages; not 0: the guest ended first and needs no more */ \
    F(T, u64, absent)      /* pages, when the guest began to run here */               \
    F(T, u64, faults)      /* accesses that had to wait for the source */              \
    F(T, u64, requested)   /* pages asked for */                                       \
    F(T, u64, pushed)      /* pages that came without being asked for */               \
    F(T, u64, duplicates)  /* pages that came and were there already; dropped */       \
    F(T, u64, interrupted) /* times the connection was lost */                         \
    F(T, u64, stranded_ns) /* without a connection, in all */                          \
    F(T, u64, p50_ns)                                                                  \
    F(T, u64, p90_ns)                                                                  \
    F(T, u64, p99_ns)                                                                  \
    F(T, u64, max_ns)                                                                  \
    F(T, u64s, bucket, PULL_BUCKETS) /* bucket i: waits of [2^i, 2^(i+1)) ns */
SCHEMA_STRUCT(message_pulled, MESSAGE_PULLED_FIELDS);

/* Any message: `type` says which member holds it. */
struct message {
    uint16_t type; /* enum message_type */
    union {
        struct message_hello hello;
        struct message_verdict verdict;
        struct message_reserve reserve;
        struct message_reserved reserved;
        struct message_round round;
        struct message_round_done round_done;
        struct message_round_ack round_ack;
        struct message_state_done state_done;
        struct message_prepared prepared;
        struct message_commit commit;
        struct message_committed committed;
        struct message_activated activated;
        struct message_abort abort;
        struct message_resolve resolve;
        struct message_status status;
        struct message_settled settled;
        struct message_facts facts;
        struct message_probe probe;
        struct message_lane lane;
        struct message_pull pull;
        struct message_pulled pulled;
    };
};

/* True for a section that message_decode() should be given. */
static inline bool message_is(uint16_t section_type)
{
    return section_type >= MESSAGE_HELLO && section_type < MESSAGE_TYPE_END;
}

/* Appends the message as one whole section, in the oldest version that says the same: so a peer that
 * knows no newer one understands whatever does not need it. */
void message_encode(const struct message *message, struct buf *out);

/* From a section whose body was checked (section_check_body()). Refuses (ERR_PEER, naming the
 * field) damaged bodies, numbers that name nothing, all-zero tokens and texts with control
 * characters. */
int message_decode(const struct section *section, const void *body, struct message *ret,
                   struct err *err) MUST_CHECK;

/* NULL for what is no message. For dump, docs and fingerprint checks. */
const struct schema *message_schema(uint16_t type);

/* Names as JSON, logs and man pages spell them; "unknown" for what has none. */
const char *message_name(uint16_t type);       /* "round-done" */
const char *move_reason_name(uint32_t reason); /* "cpu-feature", "target-died" */

/* Of bytes that could not be read: too new (REASON_VERSION), or damaged. `why` may be NULL. */
enum move_reason move_reason_of_bytes(const struct err *why);
const char *move_mode_name(uint32_t mode);   /* "stop-copy", "pre-copy" */
const char *move_knows_name(uint32_t knows); /* "held" */
