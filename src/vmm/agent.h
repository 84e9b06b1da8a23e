/*
 * Speaking with the agent inside the guest (guest/agent, docs/agent.md).
 *
 * One request at a time, each on a connection of its own, on the loop's thread. The agent is part of
 * the guest and is believed nothing but the numbers of a well-formed answer, which are only shown.
 * An answer that does not come in time, or is no answer, costs that time and nothing else.
 */
#pragma once
#include "base/loop.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_PORT 1021 /* of the agent in the guest, and of the monitor's service for it */
#define AGENT_LINE_MAX 512

enum agent_verb {
    AGENT_HELLO = 1, /* -> version, page_cache, slow */
    AGENT_BEFORE, /* before the last round: give back page cache, slow writers -> page_cache_bytes, slowed */
    AGENT_AFTER, /* after a move, done or not: restore -> restored */
    AGENT_VERB_MAX
};

struct agent_request {
    enum agent_verb verb;
    bool slow;           /* AGENT_BEFORE: there is a writer to be slowed */
    uint64_t restore_ns; /* AGENT_BEFORE: the agent restores by itself after so long */
    uint64_t limit_ns;   /* for the answer */
};

struct agent_reply {
    bool present; /* something answered */
    int rc;       /* 0; -ENOTCONN: no driver; -ECONNREFUSED: no agent; -ETIMEDOUT; -EPROTO: no valid
                   * answer; -EREMOTEIO: it said that it cannot; -ECANCELED: agent_cancel() */
    char version[32];
    uint64_t protocol, page_cache, slow;
    uint64_t page_cache_bytes, slowed, restored;
    uint64_t took_ns;
};

typedef void agent_fn(void *arg, const struct agent_reply *reply);

struct agent {
    struct loop *loop;
    int (*dial)(void *ctx, int *ret_fd); /* a connected non-blocking socket to the agent */
    void *ctx;

    agent_fn *fn; /* NULL: nothing is asked */
    void *arg;
    struct agent_request request;
    struct loop_source socket, timer;
    int fd;
    uint64_t began_ns;
    char line[AGENT_LINE_MAX];
    size_t len;
};

int agent_init(struct agent *agent, struct loop *loop, int (*dial)(void *ctx, int *ret_fd),
               void *ctx) MUST_CHECK;
/* Cancels what is asked, without a call. */
void agent_fini(struct agent *agent);

/* Asks; fn(arg, reply) is called exactly once, perhaps before this returns. What was asked before
 * and is not answered is cancelled. */
void agent_ask(struct agent *agent, const struct agent_request *request, agent_fn *fn, void *arg);
/* Answers what is asked with -ECANCELED, if anything is. */
void agent_cancel(struct agent *agent);

/* Fills the reply of `verb` from a line (no newline). 0; -EREMOTEIO, -EPROTO as above. */
int agent_parse(enum agent_verb verb, const char *line, struct agent_reply *reply) MUST_CHECK;
/* The line of a request, with its newline; its length. */
size_t agent_format(const struct agent_request *request, char line[AGENT_LINE_MAX]);
