/*
 * What the two engines of a live move (source.h, target.h) share: the actions they ask for.
 *
 * An engine is a pure step function: it takes one event and the time, changes its own struct, and
 * fills a list of actions. A pump carries the actions out in order, and reports their completion as
 * events. The pump owns every descriptor, thread and clock; the engine owns every decision.
 *
 * How a pump calls an engine:
 *  - One thread. Events of other threads are queued to it. step() is not re-entered: carry out all
 *    actions of one step, then deliver the next event, also one that an action caused at once.
 *  - `out` may be uninitialised before the call; pointers in it point into itself or the engine,
 *    and are good until the next call.
 *  - SEND, SEND_DESCRIPTION, SEND_ROUND and SEND_STATE on one connection reach it in the order
 *    asked, none overtaking another. CLOSE lets what was queued before it go out (for a short,
 *    bounded time of the pump's choice), then closes, and reads no more. After CLOSE no event of
 *    that connection is delivered; if one slips through, it is stale (below). SEND and CLOSE of a
 *    connection that is gone are dropped; its LOST was delivered or is on its way.
 *  - step() returns 0, or -errno with `err` filled when the event was refused. The actions must be
 *    carried out in both cases: for a refused event they are what ends the operation safely. Only a
 *    refused request of a person (CANCEL and the like) changes nothing.
 *  - An event of an old connection (0 counts as one), or the late completion of work that was since
 *    given up, is stale: step() returns 0, asks for nothing, and counts it in `stale`. That is the
 *    rule, not an accident: threads and networks are late.
 */
#pragma once
#include "base/err.h"
#include "move/message.h"

/* Clark's six stages: what people are shown, and what the bill is divided by. */
enum move_stage {
    STAGE_NONE = 0,
    STAGE_PRE_MIGRATION,
    STAGE_RESERVATION,
    STAGE_PRE_COPY,
    STAGE_STOP_AND_COPY,
    STAGE_COMMITMENT,
    STAGE_ACTIVATION,
    STAGE_PULLING, /* not of Clark's: post-copy, the guest runs and its memory follows */
    STAGE_MAX
};

const char *move_stage_name(enum move_stage stage); /* "pre-migration", ... */

/*
 * The owner record, one per VM in a host's record store. A store is a directory that survives a
 * reboot, with a random id made together with it, locked by the process that uses it, so that a
 * successor reads it only after every write of its predecessor has ended.
 *
 * Durable means: after RECORDED a crash of process or host finds the new record; before it, the old
 * one or the new one, whole.
 */
enum move_record {
    RECORD_HERE = 1, /* this host owns the guest (at a target: under this token) */
    RECORD_HANDED,   /* source: the guest may be the target's under this token; ask it */
    RECORD_MAX
};

enum move_action_kind {
    /* both */
    ACTION_SEND = 1,     /* `message` on `conn` */
    ACTION_CLOSE,        /* `conn` */
    ACTION_WRITE_RECORD, /* `record`, token in the engine's config; -> RECORDED, RECORD_FAILED */
    ACTION_SET_TIMER, /* `at_ns`: one timer an engine, each setting replaces the last; CLOCK_NEVER
                              * disarms; -> TICK. An early or extra TICK is harmless. */
    ACTION_EMIT,      /* `emit`: a change of state, for the log, the control socket, the bill */

    /* source */
    ACTION_CONNECT,          /* make connection `conn` to the target -> CONNECTED, CONNECT_FAILED */
    ACTION_SEND_DESCRIPTION, /* sections MACHINE and CPUID */
    ACTION_SEND_ROUND,       /* `round`: what is dirty now (round 1: all there is), and clear it;
                              * -> PROGRESS..., ROUND_SENT. ABSENT: instead of the pages, sections
                              * ABSENT; from then on requests on the urgent lane are answered */
    ACTION_END_ROUND,        /* the round under way ends after the section being sent; what it did
                              * not come to stays dirty -> ROUND_SENT */
    ACTION_OPEN_URGENT,      /* open the urgent lane beside `conn`; after a PULL, what the target
                              * lacks is what its ABSENT sections said, and answering begins at
                              * once -> URGENT_OPEN, or LOST of `conn` */
    ACTION_PUSH,             /* send what the target lacks on `conn`, each page once, near the last
                              * faults first -> PROGRESS... */
    ACTION_PREPARE_GUEST,    /* `slow`: let the guest's agent make it easier to move, for a bounded
                              * time, while the guest runs -> GUEST_PREPARED, whatever came of it;
                              * RESUME_GUEST undoes it */
    ACTION_THROTTLE,     /* `run_permille`: the writers keep this share of their writing, until the
                              * next such action, PAUSE_GUEST, RESUME_GUEST or the end */
    ACTION_PAUSE_GUEST,  /* vCPUs parked, devices quiescent -> PAUSED */
    ACTION_SEND_STATE,   /* every device-state section -> STATE_SENT */
    ACTION_RESUME_GUEST, /* the guest runs as it did before START: undo PAUSE_GUEST, also one under
                              * way or never asked for; give up rounds and state being sent; dirty
                              * tracking ends; the urgent lane is not answered any more */
    ACTION_RELEASE,      /* the guest is the target's: free it here, never run it again */

    /* target */
    ACTION_CHECK,     /* HELLO, MACHINE and CPUID against this host -> CHECKED */
    ACTION_RESERVE,   /* set aside memory, devices, name, network -> RESERVED_DONE */
    ACTION_LOAD,      /* decode, validate, apply all device state -> LOADED; the guest must need
                              * nothing more to run that could fail */
    ACTION_RUN_GUEST, /* let it run and announce it on the network -> RUNNING */
    ACTION_DISCARD,   /* free everything received and reserved; never run it */
    ACTION_TAKE_LANE, /* `conn` becomes the urgent lane of the move's connection, and has no messages
                       * any more. Either one lost is the move's connection LOST; both are closed */
    ACTION_SEND_ABSENT, /* on `conn`: sections ABSENT for all that is missing now, then PULL */
    ACTION_END,         /* nobody will ask for this token again: the pump may stop listening, and
                              * the store may forget the token (not that this host owns the VM) */
    ACTION_KIND_MAX
};

struct move_action {
    enum move_action_kind kind;
    uint32_t conn;
    union {
        const struct message *message;
        enum move_record record;
        uint64_t at_ns;
        struct {
            uint32_t number; /* from 1 */
            enum move_round kind;
            uint64_t rate; /* at most so many bytes a second; 0 = as fast as it goes */
        } round;
        bool slow;             /* the guest writes too fast */
        uint32_t run_permille; /* 100 to 1000 */
        struct {
            uint8_t from, to;        /* states of the engine; equal: news within a state */
            enum move_stage stage;   /* of `to` */
            enum move_reason reason; /* 0 = none: things go as they should */
            const char *text;        /* for people, or "" */
        } emit;
    };
};

#define MOVE_ACTIONS_MAX 16
#define MOVE_MESSAGES_MAX 3

struct move_actions {
    unsigned count, messages;
    struct move_action action[MOVE_ACTIONS_MAX];
    struct message message[MOVE_MESSAGES_MAX]; /* what SEND points to */
};

const char *move_action_name(enum move_action_kind kind);

/* For the engines: appends to the list. A full list is a bug. */
struct move_action *move_act(struct move_actions *out, enum move_action_kind kind);
/* A zeroed message of that type as a SEND on `conn`, to be filled. */
struct message *move_send(struct move_actions *out, uint32_t conn, enum message_type type);
