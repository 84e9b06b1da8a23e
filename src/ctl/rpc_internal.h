/* What rpc.c (the server, its queue and methods) and rpc_conn.c (one connection's bytes) share. */
#pragma once
#include "base/buf.h"
#include "ctl/rpc.h"
#include <pthread.h>
#include <stdatomic.h>

/* Codes of JSON-RPC 2.0, section 5.1, and the one all errors of methods have. */
enum rpc_code {
    RPC_PARSE_ERROR = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_METHOD_NOT_FOUND = -32601,
    RPC_INVALID_PARAMS = -32602,
    RPC_FAILED = -32000,
};

/* A line on its way from any thread to the loop's. */
struct rpc_item {
    struct rpc_item *next;
    /* the call this answers and is part of; NULL: an event, allocated by itself */
    struct rpc_call *call;
    char *line;           /* without the newline */
    const char *progress; /* an event that may be replaced: its name */
};

struct rpc_call {
    struct rpc_item item;      /* the answer: with room of its own, so that answering cannot fail */
    struct rpc_server *server; /* a reference */
    struct rpc_conn *conn;     /* loop's thread only; NULL: the client has gone */
    struct rpc_call *next;     /* in conn->calls */
    _Atomic bool abandoned;    /* conn was cleared; any thread may look */
    json_t *id;                /* NULL: a notification, which gets no answer */
};

struct rpc_conn {
    struct rpc_server *server;
    struct rpc_conn *next;
    struct loop_source source;
    int fd;
    struct buf in;      /* received, not yet handled */
    size_t in_searched; /* of these hold no newline */
    struct buf out;     /* to be sent from out_sent on */
    size_t out_sent;
    char *progress; /* a line held back while `out` is not empty, and the event it is of */
    char progress_name[48];
    struct rpc_call *calls; /* unanswered */
    unsigned call_count;
    bool skipping; /* until the newline of an oversized line */
    bool ended;    /* the client will send no more */
    bool subscribed;
    bool overrun; /* a subscriber too slow to be kept */
};

struct rpc_server {
    _Atomic unsigned refs; /* one for the owner, one per call */
    struct loop *loop;
    const struct rpc_method *methods;
    size_t method_count;
    void *ctx;

    /* Loop's thread only. */
    struct loop_source listen, wake;
    int listen_fd;
    struct rpc_conn *conns;
    unsigned conn_count;

    _Atomic unsigned subscribers;

    pthread_mutex_t lock; /* what follows */
    int wake_fd;          /* -1 once closed */
    struct rpc_item *head, **tail;
    unsigned queued_events;
};

/* rpc_conn.c; loop's thread. `call` and `line` may be NULL: a line that answers no call, a call
 * without a line. rpc_conn_free() also takes it off the server's list. */
int rpc_conn_new(struct rpc_server *server, int fd);
void rpc_conn_free(struct rpc_conn *conn);
void rpc_conn_answer(struct rpc_conn *conn, struct rpc_call *call, const char *line);
void rpc_conn_event(struct rpc_conn *conn, const struct rpc_item *item);
/* Sends, handles and asks for what is possible now; may free the connection. */
void rpc_conn_pump(struct rpc_conn *conn);
/* Sends what the socket takes. -errno when it is broken. */
int rpc_conn_flush(struct rpc_conn *conn) MUST_CHECK;

/* rpc.c: one line of input (no newline), whose immediate errors go to conn->out. */
void rpc_handle_line(struct rpc_conn *conn, const char *line, size_t len);
char *rpc_error_line(const json_t *id, enum rpc_code code, const struct err *err);
