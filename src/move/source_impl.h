/* Inside the source's engine only: what its files share. source.c explains them. */
#pragma once
#include "base/clock.h"
#include "base/compiler.h"
#include "move/source.h"

/* One step under way. */
struct source_call {
    struct source *s;
    const struct source_event *e;
    const struct message *m; /* of e, or NULL */
    uint64_t now;
    struct move_actions *out;
    struct err *err; /* the caller's */
};

/* What a row's function returns when, after a closer look, its event has no place here. */
#define SOURCE_REFUSE 1

/* source_steps.c */
uint64_t source_later(uint64_t now, uint64_t delay_ns);
bool source_same_token(const struct source_call *c, const uint8_t token[MOVE_TOKEN_BYTES]);
void source_emit(struct source_call *c, enum source_state from, const char *text);
void source_enter(struct source_call *c, enum source_state state);
void source_blame(struct source_call *c, enum move_reason reason, const struct err *why);
void source_shut(struct source_call *c);
void source_dial(struct source_call *c);
void source_retry_later(struct source_call *c);
void source_retry_afresh(struct source_call *c);
void source_write_record(struct source_call *c, enum move_record record);
void source_send_abort(struct source_call *c);
void source_send_settled(struct source_call *c);
void source_send_commit(struct source_call *c);
void source_end(struct source_call *c, enum source_state state);
void source_withdraw(struct source_call *c);
void source_roll_back(struct source_call *c);
void source_reclaim(struct source_call *c);
void source_trouble(struct source_call *c, enum move_reason reason, const struct err *why,
                    bool usable);
int source_fail(struct source_call *c, const struct err *why);
int source_protocol_error(struct source_call *c, const char *what);

/* source_rounds.c */
int source_on_start(struct source_call *c);
int source_on_connected(struct source_call *c);
int source_on_verdict(struct source_call *c);
int source_on_reserved(struct source_call *c);
int source_on_round_sent(struct source_call *c);
void source_on_progress(struct source_call *c);
int source_on_round_ack(struct source_call *c);
int source_on_guest_prepared(struct source_call *c);
int source_on_paused(struct source_call *c);
int source_on_state_sent(struct source_call *c);
int source_on_switch(struct source_call *c);
int source_on_urgent_open(struct source_call *c);

/* source_serve.c */
void source_serve(struct source_call *c);
int source_on_pull(struct source_call *c);
int source_on_running(struct source_call *c);
int source_on_pulled(struct source_call *c);
int source_on_serving_status(struct source_call *c);
int source_on_abandon(struct source_call *c);
int source_on_retry(struct source_call *c);

/* source_commit.c */
int source_on_prepared(struct source_call *c);
int source_on_handed(struct source_call *c);
int source_on_hand_failed(struct source_call *c);
int source_on_committed(struct source_call *c);
int source_on_activated(struct source_call *c);
int source_on_status(struct source_call *c);
int source_on_recover(struct source_call *c);
int source_on_reconnected(struct source_call *c);
int source_on_reclaimed(struct source_call *c);
int source_on_reclaim_failed(struct source_call *c);
int source_on_withdrawn_status(struct source_call *c);
int source_on_abort(struct source_call *c);
int source_on_crossed(struct source_call *c);
int source_on_stop_telling(struct source_call *c);
int source_on_take_back(struct source_call *c);
int source_on_forget(struct source_call *c);
