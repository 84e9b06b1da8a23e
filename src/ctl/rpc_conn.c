/*
 * One connection of the RPC server: bytes in, lines out, and the limits between them.
 *
 * Input is handled only while the client keeps to its side: fewer than RPC_CALLS_MAX calls
 * unanswered and less than RPC_BACKLOG_MAX bytes unread. Otherwise it is not read either, so the
 * client's own sends stop. Replies are therefore bounded by the calls that were let in, and only
 * events could grow `out`: progress is held back in a place of one line, anything else past the
 * limit ends the connection.
 */
#include "base/fd.h"
#include "ctl/rpc_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define READ_BYTES (64u << 10)

static size_t backlog(const struct rpc_conn *conn)
{
    return conn->out.len - conn->out_sent;
}

static bool throttled(const struct rpc_conn *conn)
{
    return conn->call_count >= RPC_CALLS_MAX || backlog(conn) >= RPC_BACKLOG_MAX;
}

static void put_line(struct rpc_conn *conn, const char *line)
{
    buf_put(&conn->out, line, strlen(line));
    buf_put_u8(&conn->out, '\n');
}

static void on_ready(struct loop_source *source, uint32_t events);

int rpc_conn_new(struct rpc_server *server, int fd)
{
    struct rpc_conn *conn = calloc(1, sizeof(*conn));
    if (!conn)
        return -ENOMEM;
    int rc = loop_add(server->loop, &conn->source, fd, EPOLLIN, on_ready);
    if (rc) {
        free(conn);
        return rc;
    }
    conn->fd = fd;
    conn->server = server;
    conn->next = server->conns;
    server->conns = conn;
    server->conn_count++;
    return 0;
}

void rpc_conn_free(struct rpc_conn *conn)
{
    struct rpc_server *server = conn->server;

    for (struct rpc_conn **at = &server->conns; *at; at = &(*at)->next)
        if (*at == conn) {
            *at = conn->next;
            break;
        }
    server->conn_count--;
    if (conn->subscribed)
        server->subscribers--;
    for (struct rpc_call *call = conn->calls; call; call = call->next) {
        call->conn = NULL;
        atomic_store(&call->abandoned, true);
    }
    loop_remove(&conn->source);
    fd_close(&conn->fd);
    buf_free(&conn->in);
    buf_free(&conn->out);
    free(conn->progress);
    free(conn);
    /* A descriptor is free again: accepting may have stopped for want of one. */
    if (server->listen.fd >= 0)
        (void)!loop_change(&server->listen, EPOLLIN);
}

void rpc_conn_answer(struct rpc_conn *conn, struct rpc_call *call, const char *line)
{
    for (struct rpc_call **at = &conn->calls; *at; at = &(*at)->next)
        if (*at == call) {
            *at = call->next;
            conn->call_count--;
            break;
        }
    if (line)
        put_line(conn, line);
}

static void release_progress(struct rpc_conn *conn)
{
    if (!conn->progress)
        return;
    put_line(conn, conn->progress);
    free(TAKE_PTR(conn->progress));
}

void rpc_conn_event(struct rpc_conn *conn, const struct rpc_item *item)
{
    bool same =
        conn->progress && item->progress && strcmp(conn->progress_name, item->progress) == 0;

    if (same)
        free(TAKE_PTR(conn->progress));
    else
        release_progress(conn); /* order is kept between different events */
    if (!item->progress || backlog(conn) == 0 ||
        strlen(item->progress) >= sizeof(conn->progress_name)) {
        conn->overrun = backlog(conn) >= RPC_BACKLOG_MAX;
        put_line(conn, item->line);
        return;
    }
    conn->progress = strdup(item->line);
    memcpy(conn->progress_name, item->progress, strlen(item->progress) + 1);
}

int rpc_conn_flush(struct rpc_conn *conn)
{
    for (;;) {
        if (backlog(conn) == 0) {
            buf_reset(&conn->out);
            conn->out_sent = 0;
            if (!conn->progress)
                return 0;
            release_progress(conn);
        }
        if (buf_status(&conn->out))
            return -ENOMEM;
        ssize_t n = send(conn->fd, conn->out.data + conn->out_sent, backlog(conn),
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        conn->out_sent += (size_t)n;
    }
}

/* Reads once. Returns the bytes read, 0 for none (or the end), -errno when the socket is broken. */
static ssize_t receive(struct rpc_conn *conn)
{
    uint8_t *room = buf_grow(&conn->in, READ_BYTES);
    if (!room)
        return -ENOMEM;
    ssize_t n = recv(conn->fd, room, READ_BYTES, MSG_DONTWAIT);
    int code = errno;
    conn->in.len -= READ_BYTES - (size_t)(n > 0 ? n : 0);
    if (n == 0)
        conn->ended = true;
    if (n < 0)
        return code == EAGAIN || code == EINTR ? 0 : -code;
    return n;
}

static void refuse_long_line(struct rpc_conn *conn)
{
    struct err err = { 0 };
    (void)err_set(&err, ERR_CALLER, EMSGSIZE, "a line longer than %u bytes", RPC_LINE_MAX);
    char *line = rpc_error_line(NULL, RPC_INVALID_REQUEST, &err);
    if (line)
        put_line(conn, line);
    free(line);
}

/* Handles the whole lines received. Returns true when a limit stopped it before their end. */
static bool handle_input(struct rpc_conn *conn)
{
    size_t start = 0; /* handled so far; removed in one go at the end */

    while (start < conn->in.len && !throttled(conn)) {
        const uint8_t *line = conn->in.data + start;
        size_t len = conn->in.len - start, searched = conn->in_searched;
        const uint8_t *end = memchr(line + searched, '\n', len - searched);
        if (end)
            len = (size_t)(end - line);

        if (len > RPC_LINE_MAX && !conn->skipping) {
            refuse_long_line(conn);
            conn->skipping = true;
        }
        if (!end && !conn->skipping) {
            conn->in_searched = len;
            break;
        }
        if (!conn->skipping)
            rpc_handle_line(conn, (const char *)line, len);
        conn->skipping = conn->skipping && !end;
        conn->in_searched = 0;
        start += len + (end ? 1 : 0);
    }
    bool more = throttled(conn) && start < conn->in.len;
    if (start > 0) {
        conn->in.len -= start;
        memmove(conn->in.data, conn->in.data + start, conn->in.len);
    }
    return more;
}

void rpc_conn_pump(struct rpc_conn *conn)
{
    int rc = rpc_conn_flush(conn);
    bool more = !rc;

    while (!rc && more && !throttled(conn)) {
        more = handle_input(conn);
        rc = rpc_conn_flush(conn);
    }
    bool idle = conn->call_count == 0 && backlog(conn) == 0 && !conn->subscribed;
    uint32_t events = backlog(conn) > 0 ? EPOLLOUT : 0;
    if (!conn->ended && !throttled(conn))
        events |= EPOLLIN;
    if (rc || conn->overrun || (conn->ended && idle) || loop_change(&conn->source, events))
        rpc_conn_free(conn);
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    struct rpc_conn *conn = CONTAINER_OF(source, struct rpc_conn, source);

    if (events & (EPOLLHUP | EPOLLERR)) {
        /* Closed in both directions: no answer can arrive, but what was asked before is still
         * done. */
        while (receive(conn) > 0)
            (void)handle_input(conn);
        rpc_conn_free(conn);
        return;
    }
    if ((events & EPOLLIN) && receive(conn) < 0)
        rpc_conn_free(conn);
    else
        rpc_conn_pump(conn);
}
