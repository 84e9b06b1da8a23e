/*
 * JSON-RPC 2.0 over a Unix stream socket, one message a line: the monitor's side.
 *
 * The server lives in the event loop. Methods run on the loop's thread and must not block; each
 * answers its call exactly once, there or later, from any thread. Limits hold whatever a client
 * does: nothing a client sends or fails to read blocks or grows the monitor.
 *
 *     a line is at most RPC_LINE_MAX bytes; a longer one is answered with an error and skipped
 *     RPC_CLIENTS_MAX clients; one more is told so and closed
 *     RPC_CALLS_MAX unanswered calls and RPC_BACKLOG_MAX unread bytes per client; then it is not
 *     read events to a slow subscriber: one whose name ends in ".progress" replaces its unsent
 *     predecessor; when others pass RPC_BACKLOG_MAX, the subscriber is disconnected
 *
 * docs/control.md documents the protocol. `events.subscribe` is answered by the server itself.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "base/loop.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define RPC_LINE_MAX (1u << 20)
#define RPC_CLIENTS_MAX 64
#define RPC_CALLS_MAX 16
#define RPC_BACKLOG_MAX (256u << 10)

struct rpc_server;
struct rpc_call; /* one unanswered request; the method's until it calls rpc_reply() or rpc_fail() */

struct rpc_method {
    const char *name;
    /* `params` is an object, empty when the request had none, and valid during the call only. */
    void (*fn)(void *ctx, struct rpc_call *call, const json_t *params);
};

/* Serves `listen_fd` (rundir_listen(); the server's from here on, also on failure). `methods` must
 * outlive the server. */
int rpc_server_new(struct loop *loop, int listen_fd, const struct rpc_method *methods,
                   size_t method_count, void *ctx, struct rpc_server **ret,
                   struct err *err) MUST_CHECK;

/* Sends what is queued as far as the sockets take it without waiting, then closes everything.
 * Loop's thread. Calls still open stay valid and must still be answered (into the void), and events
 * may still be posted by rpc_post_event() until its thread has been joined: see
 * rpc_server_unref(). */
void rpc_server_close(struct rpc_server *server);

/* Frees a closed server once no thread posts events to it any more. Open calls hold it on their
 * own. */
void rpc_server_unref(struct rpc_server *server);

/* Answers a call and frees it; from any thread; the caller's client may be gone. `result` (NULL: an
 * empty object) is stolen. The text of `err` becomes the message; its fault and errno go into
 * `data`. */
void rpc_reply(struct rpc_call *call, json_t *result);
void rpc_fail(struct rpc_call *call, const struct err *err);

/* Whoever made the call has gone: its answer would be read by nobody. From any thread. */
bool rpc_call_abandoned(const struct rpc_call *call);

/* Reads params by a json_unpack() format ("{s:s, s?:I}"), refusing keys it does not name. On
 * -EINVAL the call has been failed with the reason: just return. Strings belong to `params`. */
int rpc_unpack(struct rpc_call *call, const json_t *params, const char *fmt, ...) MUST_CHECK;

/* Sends a notification to all subscribers; from any thread; never blocks. `params` is stolen. When
 * the loop is so far behind that RPC_EVENTS_MAX events wait, progress events are dropped first. */
#define RPC_EVENTS_MAX 1024
void rpc_post_event(struct rpc_server *server, const char *event, json_t *params);
