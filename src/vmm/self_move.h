/*
 * Self-migration: the service of the monitor that the guest's `godwit-agent migrate` speaks to.
 *
 *     migrate ID TARGET   -> accepted, then nothing or "failed REASON"; or "refused REASON"
 *     status ID           -> moving (and later "failed REASON"), moved HOST, failed REASON, unknown
 *
 * ID is the request's own number: 16 hex digits, chosen by the guest. It goes with the guest as the
 * ticket of its vsock device, so the monitor at the target can say what became of a request that
 * another one took. Connections end with the move; the last request is remembered.
 *
 * The guest decides nothing but the moment: whether it may, and where to, is this host's to say.
 * Only privileged guest programs are heard (ports below 1024). Loop's thread.
 */
#pragma once
#include "base/err.h"
#include "base/loop.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SELF_MOVE_CONNS_MAX 4
#define SELF_MOVE_LINE_MAX 512
#define SELF_MOVE_ID_MAX 17 /* with the NUL */
#define SELF_MOVE_TARGET_MAX 256

struct self_move_calls {
    void *ctx;
    /* 0: it may move there; else the reason in err. */
    int (*allowed)(void *ctx, const char *target, struct err *err);
    /* Begins the move; self_move_failed() is called if it fails. */
    int (*start)(void *ctx, const char *id, const char *target, struct err *err);
};

enum self_move_phase { SELF_MOVE_NONE, SELF_MOVE_MOVING, SELF_MOVE_FAILED, SELF_MOVE_MOVED };

struct self_move {
    struct loop *loop;
    struct self_move_calls calls;
    enum self_move_phase phase;
    char id[SELF_MOVE_ID_MAX];
    char why[400]; /* FAILED: one line */
    struct self_move_conn {
        struct self_move *self;
        struct loop_source source;
        int fd; /* -1 = free */
        bool privileged, waits;
        char line[SELF_MOVE_LINE_MAX];
        size_t len;
    } conn[SELF_MOVE_CONNS_MAX];
};

void self_move_init(struct self_move *self, struct loop *loop, const struct self_move_calls *calls);
void self_move_fini(struct self_move *self);

/* A new connection (its descriptor is taken) from that port of the guest. */
void self_move_accept(struct self_move *self, int fd, uint32_t guest_port);

/* The guest has just arrived with this ticket: its request was fulfilled. "" = there was none. */
void self_move_arrived(struct self_move *self, const char *id);

/* A move ended and the guest is still here: whoever asked for it is told. */
void self_move_failed(struct self_move *self, const struct err *err);
