/*
 * The RPC server: requests to methods, answers and events to connections.
 *
 * Answers and events come from any thread, so both go through one queue under a lock, which an
 * eventfd makes the loop empty. They are encoded where they are made; the loop only hands lines to
 * connections. A call is known to its connection until answered, so a client that goes away just
 * clears call->conn. The server's memory is counted by its owner and its open calls, because a
 * method may answer after the server was closed.
 */
#include "base/fd.h"
#include "base/log.h"
#include "ctl/reason.h"
#include "ctl/rpc_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define ID_BYTES_MAX 128

static const char subscribe_method[] = "events.subscribe";
static const char no_memory_line[] =
    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32603,\"message\":\"out of memory\"}}";

/* ------------------------------------------------------------------------------------------
 * lines */

char *rpc_error_line(const json_t *id, enum rpc_code code, const struct err *err)
{
    json_t *data = reason_to_json(err);
    json_t *text = json_incref(json_object_get(data, "text"));
    (void)json_object_del(data, "text"); /* it is the message */
    json_t *line = json_pack("{s:s, s:o, s:{s:i, s:o, s:o}}", "jsonrpc", "2.0", "id",
                             id ? json_deep_copy(id) : json_null(), "error", "code", (int)code,
                             "message", text, "data", data);
    char *bytes = json_dumps(line, JSON_COMPACT);
    json_decref(line);
    return bytes ? bytes : strdup(no_memory_line);
}

static char *result_line(const json_t *id, json_t *result)
{
    json_t *line =
        json_pack("{s:s, s:o, s:o}", "jsonrpc", "2.0", "id", json_deep_copy(id), "result", result);
    char *bytes = json_dumps(line, JSON_COMPACT);
    json_decref(line);
    return bytes ? bytes : strdup(no_memory_line);
}

/* ------------------------------------------------------------------------------------------
 * queue */

struct event {
    struct rpc_item item;
    char name[];
};

static void event_free(struct rpc_item *item)
{
    free(item->line);
    free(CONTAINER_OF(item, struct event, item));
}

/* Takes an event out of a full queue, or says that `item` itself has to go. */
static bool make_room(struct rpc_server *server, const struct rpc_item *item)
{
    if (item->progress)
        return false;
    for (struct rpc_item **at = &server->head; *at; at = &(*at)->next) {
        struct rpc_item *old = *at;
        if (!old->progress)
            continue;
        *at = old->next;
        if (!old->next)
            server->tail = at;
        server->queued_events--;
        event_free(old);
        return true;
    }
    return false;
}

/* Hands an item to the loop. False: the server is closed, or too many events wait; the item is the
 * caller's. */
static bool enqueue(struct rpc_server *server, struct rpc_item *item)
{
    bool taken;

    pthread_mutex_lock(&server->lock);
    taken = server->wake_fd >= 0;
    if (taken && !item->call) {
        taken = server->queued_events < RPC_EVENTS_MAX || make_room(server, item);
        server->queued_events += taken;
    }
    if (taken) {
        bool was_empty = !server->head;
        *server->tail = item;
        server->tail = &item->next;
        if (was_empty)
            (void)eventfd_write(server->wake_fd, 1); /* non-blocking; cannot overflow */
    }
    pthread_mutex_unlock(&server->lock);
    return taken;
}

void rpc_server_unref(struct rpc_server *server)
{
    if (!server || atomic_fetch_sub(&server->refs, 1) != 1)
        return;
    ASSERT(server->wake_fd < 0); /* closed before */
    (void)pthread_mutex_destroy(&server->lock);
    free(server);
}

static void call_free(struct rpc_call *call)
{
    free(call->item.line);
    json_decref(call->id);
    rpc_server_unref(call->server);
    free(call);
}

/* Loop's thread: everything queued goes to the connections' backlogs. */
static void deliver(struct rpc_server *server)
{
    pthread_mutex_lock(&server->lock);
    struct rpc_item *item = server->head;
    server->head = NULL;
    server->tail = &server->head;
    server->queued_events = 0;
    pthread_mutex_unlock(&server->lock);

    while (item) {
        struct rpc_item *next = item->next;
        if (item->call) {
            const char *line = item->call->id && !item->line ? no_memory_line : item->line;
            if (item->call->conn)
                rpc_conn_answer(item->call->conn, item->call, line);
            call_free(item->call);
        } else {
            for (struct rpc_conn *conn = server->conns; conn; conn = conn->next)
                if (conn->subscribed)
                    rpc_conn_event(conn, item);
            event_free(item);
        }
        item = next;
    }
}

static void on_wake(struct loop_source *source, uint32_t events)
{
    struct rpc_server *server = CONTAINER_OF(source, struct rpc_server, wake);
    (void)events;

    (void)loop_drain(source->fd);
    deliver(server);
    for (struct rpc_conn *conn = server->conns, *next; conn; conn = next) {
        next = conn->next;
        rpc_conn_pump(conn);
    }
}

/* ----------------------------------------------------------------------------- answers and
 * events */

static void answer(struct rpc_call *call, char *line)
{
    call->item.call = call;
    call->item.line = line;
    if (!enqueue(call->server, &call->item))
        call_free(call); /* the server is closed, so no connection knows of the call any more */
}

void rpc_reply(struct rpc_call *call, json_t *result)
{
    if (!result)
        result = json_object();
    if (!call->id) {
        json_decref(result);
        answer(call, NULL);
        return;
    }
    answer(call, result_line(call->id, result));
}

static void fail(struct rpc_call *call, enum rpc_code code, const struct err *err)
{
    answer(call, call->id ? rpc_error_line(call->id, code, err) : NULL);
}

void rpc_fail(struct rpc_call *call, const struct err *err)
{
    fail(call, RPC_FAILED, err);
}

bool rpc_call_abandoned(const struct rpc_call *call)
{
    return atomic_load(&call->abandoned);
}

int rpc_unpack(struct rpc_call *call, const json_t *params, const char *fmt, ...)
{
    json_error_t reason;
    /* json_vunpack_ex() only reads */
    union {
        const json_t *in;
        json_t *out;
    } cast = { .in = params };
    va_list ap;

    va_start(ap, fmt);
    int rc = json_vunpack_ex(cast.out, &reason, JSON_STRICT, fmt, ap);
    va_end(ap);
    if (rc == 0)
        return 0;
    struct err err = { 0 };
    rc = err_set(&err, ERR_CALLER, EINVAL, "params: %s", reason.text);
    fail(call, RPC_INVALID_PARAMS, &err);
    return rc;
}

void rpc_post_event(struct rpc_server *server, const char *event, json_t *params)
{
    if (atomic_load(&server->subscribers) == 0) {
        json_decref(params);
        return;
    }
    size_t name_bytes = strlen(event) + 1;
    const char *dot = strrchr(event, '.');
    struct event *queued = calloc(1, sizeof(*queued) + name_bytes);
    json_t *line = json_pack("{s:s, s:s, s:o}", "jsonrpc", "2.0", "method", event, "params",
                             params ? params : json_object());
    if (queued) {
        memcpy(queued->name, event, name_bytes);
        queued->item.progress = dot && strcmp(dot, ".progress") == 0 ? queued->name : NULL;
        queued->item.line = json_dumps(line, JSON_COMPACT);
    }
    json_decref(line);
    if (queued && queued->item.line && enqueue(server, &queued->item))
        return;
    log_event(LOG_DEBUG, "rpc.event_dropped", "%s", event);
    if (queued)
        event_free(&queued->item);
}

/* ---------------------------------------------------------------------------------------
 * requests */

static bool good_id(const json_t *id)
{
    return !id || json_is_null(id) || json_is_number(id) ||
           (json_is_string(id) && json_string_length(id) <= ID_BYTES_MAX);
}

static void subscribe(struct rpc_conn *conn, struct rpc_call *call)
{
    if (!conn->subscribed)
        conn->server->subscribers++;
    conn->subscribed = true;
    rpc_reply(call, NULL);
}

static void dispatch(struct rpc_conn *conn, struct rpc_call *call, const char *name,
                     const json_t *params)
{
    const struct rpc_server *server = conn->server;
    struct err err = { 0 };

    if (strcmp(name, subscribe_method) == 0) {
        if (rpc_unpack(call, params, "{}") == 0)
            subscribe(conn, call);
        return;
    }
    for (size_t i = 0; i < server->method_count; i++)
        if (strcmp(server->methods[i].name, name) == 0) {
            server->methods[i].fn(server->ctx, call, params);
            return;
        }
    (void)err_set(&err, ERR_CALLER, ENOSYS, "no method '%.64s'", name);
    fail(call, RPC_METHOD_NOT_FOUND, &err);
}

/* Makes the call object of a well-formed request and runs its method. */
static void start_call(struct rpc_conn *conn, json_t *id, const char *name, json_t *params)
{
    struct rpc_call *call = calloc(1, sizeof(*call));
    json_t *none = params ? NULL : json_object();
    if (!call || (!params && !none)) {
        free(call);
        json_decref(none);
        rpc_conn_answer(conn, NULL, no_memory_line);
        return;
    }
    *call = (struct rpc_call){
        .server = conn->server, .conn = conn, .next = conn->calls, .id = json_incref(id)
    };
    atomic_fetch_add(&conn->server->refs, 1);
    conn->calls = call;
    conn->call_count++;
    dispatch(conn, call, name, params ? params : none);
    json_decref(none);
}

void rpc_handle_line(struct rpc_conn *conn, const char *line, size_t len)
{
    json_error_t reason;
    struct err err = { 0 };
    enum rpc_code code = RPC_INVALID_REQUEST;

    while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == ' '))
        len--;
    if (len == 0)
        return; /* an empty line asks nothing */
    json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &reason);
    json_t *id = json_object_get(request, "id");
    const char *version = json_string_value(json_object_get(request, "jsonrpc"));
    const char *name = json_string_value(json_object_get(request, "method"));
    json_t *params = json_object_get(request, "params");

    if (!request) {
        code = RPC_PARSE_ERROR;
        (void)err_set(&err, ERR_CALLER, EBADMSG, "no JSON: %s", reason.text);
    } else if (json_is_array(request))
        (void)err_set(&err, ERR_CALLER, EOPNOTSUPP,
                      "batches are not served: send one request a line");
    else if (!json_is_object(request))
        (void)err_set(&err, ERR_CALLER, EINVAL, "a request is an object");
    else if (!good_id(id)) {
        (void)err_set(&err, ERR_CALLER, EINVAL,
                      "'id' must be a number or a string of at most %d bytes", ID_BYTES_MAX);
        id = NULL;
    } else if (!version || strcmp(version, "2.0") != 0)
        (void)err_set(&err, ERR_CALLER, EINVAL, "'jsonrpc' must be \"2.0\"");
    else if (!name)
        (void)err_set(&err, ERR_CALLER, EINVAL, "'method' must be a string");
    else if (params && !json_is_object(params)) {
        code = RPC_INVALID_PARAMS;
        (void)err_set(&err, ERR_CALLER, EINVAL, "'params' must be an object");
    }
    if (err.code) {
        char *answer_line = rpc_error_line(id, code, &err);
        rpc_conn_answer(conn, NULL, answer_line ? answer_line : no_memory_line);
        free(answer_line);
    } else
        start_call(conn, id, name, params);
    json_decref(request);
}

/* -----------------------------------------------------------------------------------------
 * server */

static void refuse_client(int fd)
{
    struct err err = { 0 };
    (void)err_set(&err, ERR_HOST, EBUSY, "%d clients are connected: no more are served",
                  RPC_CLIENTS_MAX);
    char *line = rpc_error_line(NULL, RPC_FAILED, &err);
    if (line) {
        /* One line into an empty socket buffer; if even that fails the client sees it closed. */
        (void)!send(fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE);
        (void)!send(fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    free(line);
}

static void on_accept(struct loop_source *source, uint32_t events)
{
    struct rpc_server *server = CONTAINER_OF(source, struct rpc_server, listen);
    (void)events;

    CLEANUP_FD int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        /* Out of descriptors or memory: do not spin on it; a connection that ends turns this on
         * again. */
        if ((errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) &&
            server->conns)
            (void)!loop_change(source, 0);
        return;
    }
    if (server->conn_count >= RPC_CLIENTS_MAX)
        refuse_client(fd);
    else if (rpc_conn_new(server, fd) == 0)
        fd = -1; /* the connection's now */
}

int rpc_server_new(struct loop *loop, int listen_fd, const struct rpc_method *methods,
                   size_t method_count, void *ctx, struct rpc_server **ret, struct err *err)
{
    CLEANUP_FD int owned_fd = listen_fd;
    CLEANUP_FD int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct rpc_server *server = calloc(1, sizeof(*server));
    if (wake_fd < 0 || !server) {
        free(server);
        return err_errno(err, ERR_HOST, wake_fd < 0 ? errno : ENOMEM, "control socket");
    }
    *server = (struct rpc_server){ .refs = 1,
                                   .loop = loop,
                                   .methods = methods,
                                   .method_count = method_count,
                                   .ctx = ctx,
                                   .wake_fd = wake_fd,
                                   .listen_fd = listen_fd };
    server->tail = &server->head;
    server->listen.fd = -1;
    (void)pthread_mutex_init(&server->lock, NULL);
    int rc = loop_add(loop, &server->wake, wake_fd, EPOLLIN, on_wake);
    if (!rc) {
        rc = loop_add(loop, &server->listen, listen_fd, EPOLLIN, on_accept);
        if (rc)
            loop_remove(&server->wake);
    }
    if (rc) {
        (void)pthread_mutex_destroy(&server->lock);
        free(server);
        return err_errno(err, ERR_HOST, -rc, "control socket");
    }
    wake_fd = owned_fd = -1;
    *ret = server;
    return 0;
}

void rpc_server_close(struct rpc_server *server)
{
    loop_remove(&server->listen);
    fd_close(&server->listen_fd);
    deliver(server);
    while (server->conns) {
        (void)!rpc_conn_flush(server->conns);
        rpc_conn_free(server->conns);
    }
    loop_remove(&server->wake);
    pthread_mutex_lock(&server->lock);
    fd_close(&server->wake_fd);
    pthread_mutex_unlock(&server->lock);
    /* What came between the two deliveries: nothing is queued after this. */
    deliver(server);
}
