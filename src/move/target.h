/*
 * The target's engine of a live move: a pure step function (move/step.h says how a pump calls it,
 * source.h has the commit protocol and what crashes leave behind).
 *
 *              HELLO              VERDICT ok, RESERVE, RESERVED
 *   LISTENING --------> CHECKING ----------> RESERVING ----------> RESERVED
 *     |  ^  RESOLVE          |                    |                   | ROUND 1
 *     '--' answered          |                    |                   v
 *          from the store    |                    |               RECEIVING --> LOADING
 *                            |   any failure      |                   |            | LOADED
 *                            v                    v                   v            v   SEND PREPARED
 *                          GONE <---------------------------------------------- PREPARED <--.
 *                               ^       ABORT, withdrawn, CANCEL                |   | LOST   | RESOLVE
 *                               '-----------------------------------------------+---v        | on a new
 *                                                                               |  UNCERTAIN-'  connection
 *                                                                       COMMIT  v   |
 *                                                                       RECORDING <-' ADOPT
 *                                                                         |    | RECORD_FAILED, old record
 *                                                                         |    '--> PREPARED, UNCERTAIN
 *                                    ACTIVE <-------- ACTIVATING <--------'
 *                                       ^     RUNNING     |       RECORDED
 *                                       |                 | RUNNING, post-copy
 *                                PULLED |   LOST, stalled v
 *                                       |  STRANDED <--- PULLING
 *                                       '------'--------> | '
 *                                              RESOLVE    '----> ACTIVE
 *                                                          PULLED
 *
 * Connections: the one that brought HELLO is the move's. A newcomer is heard only if its first
 * message is RESOLVE: with this move's token it takes the old connection's place (the source makes
 * it only after it gave the old one up); with another it is answered from the store and closed. Any
 * other newcomer is refused by name (ABORT, reason busy) and closed. A pump must itself limit how
 * many connections are silent, and for how long.
 */
#pragma once
#include "move/step.h"

enum target_state {
    TARGET_LISTENING = 1, /* nothing here. Bad newcomers are closed, and it listens on */
    TARGET_CHECKING,  /* HELLO taken; MACHINE, CPUID expected, then the check     pre-migration */
    TARGET_RESERVING, /* VERDICT ok sent; RESERVE expected, then reserving        reservation */
    TARGET_RESERVED,  /* RESERVED sent; ROUND 1 expected                          reservation */
    TARGET_RECEIVING, /* rounds; after the last, device state up to STATE_DONE    pre-copy, stop-and-copy */
    TARGET_LOADING,  /* device state being checked and applied                   stop-and-copy */
    TARGET_PREPARED, /* holds the whole guest, does not run it; connected, waits for COMMIT or ABORT
                        * or, on a new connection, RESOLVE                         commitment */
    TARGET_UNCERTAIN,  /* the same without a connection, for as long as it takes   commitment */
    TARGET_RECORDING,  /* COMMIT taken; HERE being written; does not run the guest. ABORT and CANCEL
                        * come too late. Has no stall limit                        commitment */
    TARGET_ACTIVATING, /* HERE durable, COMMITTED sent, guest being let run        activation */
    TARGET_PULLING,    /* post-copy: the guest runs here, and accesses to missing pages wait for the
                        * source to send them. No CANCEL                           pulling */
    TARGET_STRANDED,   /* the same without a connection: what waits, waits, for as long as it takes;
                        * the vCPUs that need nothing run on. `reason` source-lost: for ever */
    TARGET_ACTIVE,     /* end: the guest runs here. Answers RESOLVE until END */
    TARGET_GONE,       /* end: nothing here, and never will be. Answers RESOLVE until END */
    TARGET_STATE_MAX
};

const char *target_state_name(enum target_state state);
enum move_stage target_state_stage(enum target_state state);

static inline bool target_state_ended(enum target_state state)
{
    return state == TARGET_ACTIVE || state == TARGET_GONE;
}

struct target_config {
    uint8_t store[MOVE_STORE_BYTES]; /* id of this host's record store */
    uint64_t stall_limit_ns;         /* for the source to go on, in states with a connection;
                                      * thrice the source's own where HELLO has one */
    uint32_t lanes;                  /* the most bulk lanes granted; 0 = none */
    uint32_t page_forms;             /* PAGE_FORM_* this host reads */
};

enum target_event_kind {
    TARGET_MESSAGE =
        1,            /* conn, message; RESOLVE and HELLO: token_recorded. ROUND_DONE only after the
                           * PAGES_OK of all pages before it */
    TARGET_SECTION,   /* conn, section: any known section that is no message has arrived whole with
                           * its sum right. Step refused: drop it. Accepted: apply it, then carry
                           * out the actions; or, if that fails, BAD_BYTES or FAULT instead */
    TARGET_PAGES_OK,  /* conn, pages: of the current round, applied since the last such event */
    TARGET_PROGRESS,  /* conn: bytes came */
    TARGET_BAD_BYTES, /* conn, why: damaged or impossible, or no message at all */
    TARGET_LOST,      /* conn, why */
    TARGET_CHECKED,   /* verdict: borrowed for the call; ok or its reasons */
    TARGET_RESERVED_DONE, /* why (NULL = ok), duration_ns */
    TARGET_LOADED,        /* why (NULL = ok), prepared */
    TARGET_RECORDED,      /* record_ns */
    TARGET_RECORD_FAILED, /* why, record_unknown */
    TARGET_RUNNING,       /* activated: the engine fills in the token; borrowed for the call */
    TARGET_PULLED,        /* pulled: borrowed for the call; nothing is missing, or nothing is needed
                           * any more. Only after RUNNING. The engine fills in the token */
    TARGET_FAULT,         /* why: this host could not apply pages, or lost what it had reserved */
    TARGET_TICK,
    TARGET_CANCEL, /* by a person here; refused with -EBUSY from RECORDING on. In PREPARED and
                           * UNCERTAIN it frees what may be the only copy: ask twice */
    TARGET_ADOPT,  /* by a person, in UNCERTAIN, who answers for it that the source's record says
                           * HANDED and its process is dead: the guest runs here */
    TARGET_EVENT_MAX
};

const char *target_event_name(enum target_event_kind kind);

struct target_event {
    enum target_event_kind kind;
    uint32_t conn;                 /* given by the pump as it accepts; from 1, never used again */
    const struct message *message; /* borrowed for the call */
    const struct err *why;         /* borrowed for the call */
    union {
        bool token_recorded; /* MESSAGE: this host's store says HERE under the message's token */
        uint16_t section;    /* enum section_type */
        uint64_t pages;
        const struct message_verdict *verdict;
        uint64_t duration_ns;
        struct message_prepared prepared;
        uint64_t record_ns;
        bool record_unknown; /* as in source.h */
        const struct message_activated *activated;
        const struct message_pulled *pulled;
    };
};

/* Owned by the pump, which may read it and must not write it. */
struct target {
    struct target_config config;
    enum target_state state;
    enum move_reason reason; /* of the failure or trouble; 0 = none */
    struct err err;          /* the same for people */

    uint32_t conn;       /* the move's connection, or 0 */
    bool prepared;       /* PREPARED was sent: the source may be uncertain about this target */
    bool withdrawn;      /* GONE: the source asked for it */
    bool adopting;       /* RECORDING: by ADOPT */
    bool record_unknown; /* RECORDING: HERE may be on disk; it is written until it surely is */
    bool ended;          /* END was asked for */
    uint64_t progress_ns, timer_ns;
    uint64_t stale;       /* events dropped as stale */
    uint64_t retry_at_ns; /* RECORDING after an unknown failure */

    struct message_hello hello; /* from CHECKING on */
    uint32_t lanes;             /* granted */
    unsigned expect;            /* CHECKING, RESERVING, RECEIVING: what comes next (target.c) */
    uint32_t round;             /* current or last */
    bool round_last;
    bool post_copy;          /* the last round was ABSENT */
    bool lane;               /* the urgent lane beside `conn` is open */
    uint64_t round_pages;    /* applied in this round */
    uint32_t state_sections; /* device-state sections taken */
    uint64_t record_ns;
    struct message_activated activated; /* kept: sent again to a source that asks again */
    struct message_pulled pulled;       /* the same */
};

void target_init(struct target *target, const struct target_config *config);
int target_step(struct target *target, const struct target_event *event, uint64_t now_ns,
                struct move_actions *out, struct err *err) MUST_CHECK;
