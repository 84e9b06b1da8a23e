/* Inside the target's engine only: what its files share. target.c explains them. */
#pragma once
#include "base/clock.h"
#include "base/compiler.h"
#include "move/target.h"

enum target_expect {
    EXPECT_MACHINE = 1, /* CHECKING: section */
    EXPECT_CPUID,       /* CHECKING: section */
    EXPECT_CHECKED,     /* CHECKING: our own work */
    EXPECT_RESERVE,     /* RESERVING: message */
    EXPECT_RESERVED,    /* RESERVING: our own work */
    EXPECT_ROUND,       /* RESERVED, RECEIVING: message */
    EXPECT_PAGES,       /* RECEIVING: sections, or ROUND_DONE */
    EXPECT_STATE,       /* RECEIVING: sections, or STATE_DONE */
};

/* One step under way. */
struct target_call {
    struct target *t;
    const struct target_event *e;
    const struct message *m; /* of e, or NULL */
    uint64_t now;
    struct move_actions *out;
    struct err *err; /* the caller's */
};

/* What a row's function returns when, after a closer look, its event has no place here. */
#define TARGET_REFUSE 1

/* target_steps.c */
uint64_t target_later(uint64_t now, uint64_t delay_ns);
bool target_same_token(const struct target_call *c, const uint8_t token[MOVE_TOKEN_BYTES]);
void target_enter(struct target_call *c, enum target_state state);
void target_blame(struct target_call *c, enum move_reason reason, const struct err *why);
void target_shut(struct target_call *c);
void target_end(struct target_call *c);
void target_send_abort(struct target_call *c, uint32_t conn, const uint8_t *token,
                       enum move_reason reason, enum err_fault fault, const char *text);
void target_send_status(struct target_call *c, uint32_t conn, const uint8_t *token,
                        enum move_knows knows, enum move_reason reason);
void target_send_activated(struct target_call *c);
void target_send_pulled(struct target_call *c);
void target_discard(struct target_call *c);
void target_give_up(struct target_call *c);
void target_trouble(struct target_call *c, enum move_reason reason, const struct err *why);
int target_fail(struct target_call *c, const struct err *why);
int target_protocol_error(struct target_call *c, enum move_reason reason, const char *what);

/* target_receive.c */
int target_on_section(struct target_call *c);
int target_on_checked(struct target_call *c);
int target_on_reserve(struct target_call *c);
int target_on_reserved_done(struct target_call *c);
int target_on_round(struct target_call *c);
int target_on_pages_ok(struct target_call *c);
int target_on_round_done(struct target_call *c);
int target_on_state_done(struct target_call *c);
int target_on_loaded(struct target_call *c);

/* target_commit.c */
int target_newcomer(struct target_call *c);
int target_on_commit(struct target_call *c);
int target_on_adopt(struct target_call *c);
int target_on_recorded(struct target_call *c);
int target_on_record_failed(struct target_call *c);
int target_on_running(struct target_call *c);
int target_on_settled(struct target_call *c);
int target_on_abort(struct target_call *c);
int target_on_crossed(struct target_call *c);

/* target_pull.c */
int target_on_lane(struct target_call *c);
int target_on_pushed(struct target_call *c);
int target_on_pulled(struct target_call *c);
int target_on_source_lost(struct target_call *c);
