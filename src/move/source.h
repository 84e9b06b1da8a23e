/*
 * The source's engine of a live move: a pure step function (move/step.h says how a pump calls it).
 *
 *             START
 *   IDLE ------------> CONNECTING --> NEGOTIATING --> RESERVING --+--> COPYING --> STOPPING
 *    |                  |______________|_______________|__________|______|____________|
 *    |                        any failure, CANCEL: the guest runs on  |               | paused
 *    |                                                                v               v
 *    |                                                             FAILED <------- DRAINING
 *    |                                                                ^               | state sent
 *    |                 told, or given up telling     the same, and T  |               v
 *    |             FAILED <-------------- WITHDRAWING <---------------|---------- PREPARING
 *    |                                        ^       may hold a copy |               | PREPARED
 *    |                   recorded: guest runs |                       |               v
 *    |             FAILED <-------------- RECLAIMING <----------------'---------- RECORDING
 *    |                    target is gone      ^   failure before COMMIT is sent       | RECORDED
 *    | RECOVER                                | the target says: nothing here         v
 *    '---------------> UNCERTAIN -------------'----------- says: nothing, held -- COMMITTING
 *                          ^  |                                                     ^ |  |
 *                          |  '------- says: held (COMMIT again), recording --------' |  |
 *                          '------------------- connection lost, stalled -------------'  |
 *                                                                                       | COMMITTED
 *                                DONE <--------------- ACTIVATING <---------------------+
 *                                  ^  ACTIVATED, LOST                                   | post-copy
 *                                  '------------------- SERVING <-----------------------'
 *                                     PULLED             | ^ lost, stalled: connects again, and goes
 *                                                        '-' on with what the target still lacks
 *
 * The commit protocol, and why there is one owner
 *  1. The target runs the guest only after COMMIT, and only after its own record is durable. It
 *     never runs it on its own decision, and once it says NOTHING it has freed the guest for good.
 *  2. The source sends COMMIT only after its record HANDED is durable, and runs the guest again only
 *       a. before COMMIT was ever sent, by this process or (the record says so) an earlier one, or
 *       b. when the target's own store answered NOTHING, or the target itself sent ABORT: by 1,
 *          final; or
 *       c. when the target answered COMMIT by HELD: it could not record, and no other COMMIT is
 *          under way, since each connection carries one and a new one ends all before it.
 *     If HANDED may be on disk, it is replaced by HERE, durably, before the guest runs; and only
 *     after that is a copy at the target freed.
 *  3. So whoever finds HANDED after a crash of the source knows that the guest did not run at the
 *     source since, and whoever finds HERE knows that the copy at the target may be stale.
 *
 * Post-copy. The last round names pages instead of carrying them (ABSENT), and the source keeps all of
 * the guest's memory, paused for good, after COMMITTED too. The protocol above is unchanged, with
 *  4. Each page is in exactly one of: missing at the target and unsent here; under way; in its place at
 *     the target. A page is claimed here before it is sent, on whichever lane; so none is sent twice.
 *     What was under way when a connection ended did not arrive, or did: only the target knows. So a
 *     new connection begins with what the target lacks, said after it gave up the old one.
 *  5. The guest runs at the target from COMMITTED on, and an access to a missing page waits for it. The
 *     source frees the guest only when the target says PULLED. Until then the guest needs both
 *     hosts: what is lost with either is lost. Nobody runs it on less than all its memory.
 *
 * What is left after a crash (S, T: source, target; "operator": a person must decide, because no
 * record can). tests/sim brings each of these about; `sim --table` prints what becomes of a single
 * fault after each message.
 *
 *   S crashed                            T then             outcome
 *   before S's record is durable         never prepared     the VM died with S, its owner; T is GONE
 *                                        UNCERTAIN, held    the same; T's copy may be stale (S may
 *                                                           have resumed): CANCEL at T frees it
 *   HANDED durable, COMMIT not acted on  UNCERTAIN, held    T has the only copy and it is good:
 *                                                           RECOVER at S makes T run it, or ADOPT
 *                                                           at T (operator)
 *   HANDED durable, COMMIT acted on      ACTIVE             T owns; RECOVER at S ends its record
 *   post-copy: HANDED durable            UNCERTAIN, held    the VM died with S, which had the rest of
 *                                                           its memory; RECOVER at S or CANCEL at T
 *                                                           frees T's part
 *   post-copy: while SERVING             STRANDED           the same, but T's guest has run: it stays
 *                                                           stopped at what is missing until it is
 *                                                           killed; reason source-lost once T knows
 *
 *   T crashed                            S then             outcome
 *   before PREPARED                      FAILED             S runs on
 *   before S's record is durable         WITHDRAWING,       S runs on
 *                                        FAILED
 *   before T's record is durable         UNCERTAIN          S runs on, once T's store has answered
 *                                                           NOTHING
 *   after it, COMMITTED lost             UNCERTAIN          told DIED, S keeps its paused copy; T may
 *                                                           have run its own: TAKE_BACK (operator)
 *                                                           goes back in time, FORGET frees it
 *   after it, COMMITTED received         DONE               the VM died with T, its owner
 *   post-copy: while PULLING             SERVING            the same; S frees its memory once T's store
 *                                                           says so (reason target-died), or when
 *                                                           killed
 *   and its record store is lost too     UNCERTAIN          other-store: nobody can tell any more;
 *                                                           TAKE_BACK or FORGET (operator)
 */
#pragma once
#include "move/policy.h"
#include "move/step.h"

enum source_state {
    SOURCE_IDLE = 1,    /* nothing asked for yet */
    SOURCE_CONNECTING,  /* guest runs; connection being made                     pre-migration */
    SOURCE_NEGOTIATING, /* guest runs; HELLO sent, waits for VERDICT             pre-migration */
    SOURCE_RESERVING,   /* guest runs; RESERVE sent, waits for RESERVED          reservation */
    SOURCE_COPYING,     /* guest runs; a round is being sent or awaits its ACK   pre-copy */
    SOURCE_STOPPING,    /* pause asked for                                       stop-and-copy */
    SOURCE_DRAINING,    /* paused; last round, then device state being sent      stop-and-copy */
    SOURCE_PREPARING,   /* paused; everything sent, waits for PREPARED           stop-and-copy */
    SOURCE_RECORDING,  /* paused; HANDED being written. COMMIT not sent. No CANCEL from here on. Has
                         * no stall limit: what a write in flight will leave on disk is unknown */
    SOURCE_COMMITTING, /* paused; HANDED durable, COMMIT sent on a live connection. The guest runs
                         * here again only if the target says NOTHING or HELD    commitment */
    SOURCE_UNCERTAIN,  /* paused; HANDED durable, COMMIT may have been acted on, no answer. Connects
                         * with growing pauses and asks, for as long as it takes commitment */
    SOURCE_ACTIVATING, /* guest released; waits for ACTIVATED, which only the bill needs */
    SOURCE_SERVING, /* post-copy; paused for good, the target runs the guest and fetches its memory
                         * from here. Without a connection it makes new ones, for as long as it
                         * takes. No CANCEL, no TAKE_BACK. FORGET abandons the guest */
    SOURCE_RECLAIMING, /* paused; the target can't run the guest; HERE being written, again and again
                         * until it is durable (TAKE_BACK: not waited for) */
    SOURCE_WITHDRAWING, /* guest runs here again, nothing is at stake here; the target may hold a copy
                         * and is told to free it, until withdraw_limit_ns has passed or CANCEL */
    SOURCE_DONE,        /* end: the target owns the guest; `reason` if its ACTIVATED never came */
    SOURCE_FAILED, /* end: the guest is here and runs (recovered: is nowhere); `reason` says why */
    SOURCE_STATE_MAX
};

const char *source_state_name(enum source_state state); /* "negotiating" */
enum move_stage source_state_stage(enum source_state state);

static inline bool source_state_ended(enum source_state state)
{
    return state == SOURCE_DONE || state == SOURCE_FAILED;
}

/* CANCEL would be obeyed. */
static inline bool source_state_cancellable(enum source_state state)
{
    return state >= SOURCE_CONNECTING && state <= SOURCE_PREPARING;
}

enum source_post_copy {
    SOURCE_POST_COPY_NEVER = 0, /* unless a person says SWITCH */
    SOURCE_POST_COPY_ALLOW, /* when the policy says SWITCH, or stops with more left than may be */
    SOURCE_POST_COPY_NOW,   /* no round before it */
};

struct source_config {
    struct message_hello hello; /* with the token: new for this move */
    enum source_post_copy post_copy;
    struct policy_limits policy;
    uint64_t stall_limit_ns;               /* no progress for so long is a failure */
    uint64_t retry_first_ns, retry_max_ns; /* pause between attempts to reach the target: doubles */
    uint64_t withdraw_limit_ns;            /* how long to go on telling it to free its copy */
    uint8_t store[MOVE_STORE_BYTES];       /* RECOVER only: from the record */
    bool prepare; /* ask PREPARE_GUEST, once, when the rounds are to end or vCPUs to be slowed; one
                   * more round follows */
};

/* 10 s, 100 ms to 5 s, 60 s; hello is the caller's to fill. */
struct source_config source_config_default(void);

enum source_event_kind {
    SOURCE_START = 1,
    SOURCE_RECOVER,   /* instead of START: this host's record says HANDED and the guest's process is
                            * dead. Asks the target and lets it run the guest if it holds it.
                            * Config: token and store from the record */
    SOURCE_CONNECTED, /* conn */
    SOURCE_CONNECT_FAILED, /* conn, why; EKEYREJECTED: one side does not trust the other */
    SOURCE_MESSAGE,        /* conn, message */
    SOURCE_BAD_BYTES,      /* conn, why: what came is no valid message */
    SOURCE_LOST,           /* conn, why: connection broken or closed by the peer */
    SOURCE_PROGRESS,    /* conn: the peer took bytes. Any rate; once every 100 ms is plenty. round:
                            * what the round under way has sent so far, and what would be left if it
                            * ended now; pages 0: not measured */
    SOURCE_URGENT_OPEN, /* conn: the lane beside it */
    SOURCE_ROUND_SENT,  /* conn, round: all of the round is in the connection */
    SOURCE_PAUSED,
    SOURCE_STATE_SENT,    /* conn, sections */
    SOURCE_RECORDED,      /* the last WRITE_RECORD is durable */
    SOURCE_RECORD_FAILED, /* why; record_unknown */
    SOURCE_GUEST_PREPARED,
    SOURCE_FAULT, /* why: this host could not pause, read memory, save state */
    SOURCE_TICK,
    SOURCE_CANCEL,    /* by a person; refused with -EBUSY from RECORDING on */
    SOURCE_TAKE_BACK, /* by a person, in UNCERTAIN or RECLAIMING, who answers for it that the target
                            * does not and will not run the guest */
    SOURCE_FORGET,    /* by a person, in UNCERTAIN: the target has or had it; free it here. In
                            * SERVING: the guest is given up, since it cannot go on without this */
    SOURCE_SWITCH,    /* by a person: to post-copy, as soon as may be; until COPYING ends */
    SOURCE_RETRY,     /* by a person, who perhaps knows a new address: connect again, now */
    SOURCE_EVENT_MAX
};

const char *source_event_name(enum source_event_kind kind);

struct source_event {
    enum source_event_kind kind;
    uint32_t conn;                 /* number given in ACTION_CONNECT */
    const struct message *message; /* borrowed for the call */
    const struct err *why;         /* borrowed for the call; NULL = unknown */
    union {
        struct {
            uint64_t pages, bytes;
            /* dirty now (last round: 0); also of a message, where it may have grown since */
            uint64_t left_pages;
            uint64_t send_ns;   /* spent handing over to the connection and waiting for it */
            uint64_t rtt_ns;    /* of the connection; 0 = not known */
            uint64_t bandwidth; /* bytes a second the user allows from now on; 0 = any */
        } round;
        uint32_t sections;
        bool record_unknown; /* RECORD_FAILED: false = the old record is certainly still in force
                                    * (nothing was renamed); true = either may be */
    };
};

/* Owned by the pump, which may read it and must not write it. */
struct source {
    struct source_config config;
    enum source_state state;
    enum move_reason reason; /* of the failure or trouble; 0 = none */
    struct err err;          /* the same for people */
    bool recovered;          /* there is no guest here */
    bool committed;          /* the target has said that it owns the guest */
    bool target_gone;        /* it has said that it holds nothing */
    bool giving_up;          /* RECORDING: reclaim as soon as the write has ended */
    bool switching;          /* a person wants post-copy, or the time demands it */
    bool late;               /* it was said that the time will be missed */
    bool post_copy;          /* decided: the last round is ABSENT */
    bool urgent;             /* the urgent lane beside `conn` is open */

    uint32_t conn, last_conn; /* the connection in use, or 0; the newest number given */
    bool connected;
    uint64_t progress_ns;           /* of the last sign of life */
    uint64_t retry_at_ns, retry_ns; /* next attempt, or CLOCK_NEVER; its pause */
    uint64_t give_up_at_ns;         /* WITHDRAWING */
    uint64_t timer_ns;              /* as last set */
    uint64_t stale;                 /* events dropped as stale */

    struct policy policy;
    struct policy_decision decision; /* the last one */
    uint32_t decisions;              /* made so far */
    char why_text[192];              /* the numbers behind it, for people */
    uint32_t round;                  /* number of the current or last round */
    bool round_sent, round_acked, state_asked;
    bool preparing, guest_asked; /* PREPARE_GUEST: under way; was asked once */
    uint64_t began_ns;           /* START was taken */
    uint64_t round_began_ns, round_sent_ns;
    struct policy_round round_facts;

    uint32_t lanes;      /* bulk lanes granted, at most hello.lanes */
    uint32_t page_forms; /* granted, of hello.page_forms */
    uint8_t
        store[MOVE_STORE_BYTES]; /* the target's, from RESERVED: belongs into the record HANDED */
    char note[192];              /* text of the last EMIT that had no error */
    struct message_verdict verdict; /* as received */
    struct message_prepared prepared;
    struct message_committed committed_msg;
    struct message_activated activated; /* side_count and times zero if the answer was lost */
    struct message_pulled pulled;       /* SERVING has ended well */
};

void source_init(struct source *source, const struct source_config *config);
int source_step(struct source *source, const struct source_event *event, uint64_t now_ns,
                struct move_actions *out, struct err *err) MUST_CHECK;
