#include "ctl/client.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "ctl/reason.h"
#include "ctl/rundir.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* far beyond any answer: a monitor gone mad must not eat our memory */
#define LINE_BYTES_MAX (16u << 20)
#define READ_BYTES (64u << 10)

struct client {
    int fd;
    int pid_fd; /* of the monitor; -1 when it cannot be had */
    char name[64];
    struct buf in;
    size_t searched; /* of `in` hold no newline */
    json_int_t last_id;
    client_event_fn *event_fn;
    void *event_ctx;
};

/* While the connection lives, so does the process that the number names: no other can be meant. */
static int open_peer(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid <= 0)
        return -1;
    return (int)syscall(SYS_pidfd_open, peer.pid, 0);
}

int client_open_fd(int fd, const char *name, struct client **ret, struct err *err)
{
    struct client *client = calloc(1, sizeof(*client));
    if (!client) {
        (void)close(fd);
        return err_errno(err, ERR_HOST, ENOMEM, "VM %s", name);
    }
    client->fd = fd;
    client->pid_fd = open_peer(fd);
    (void)snprintf(client->name, sizeof(client->name), "%s", name);
    *ret = client;
    return 0;
}

int client_open(const char *base, const char *name, struct client **ret, struct err *err)
{
    struct rundir dir = RUNDIR_NONE;
    int fd;

    int rc = rundir_open(base, name, &dir, err);
    if (rc)
        return rc;
    rc = rundir_connect(&dir, RUNDIR_CONTROL, &fd, err);
    rundir_close(&dir);
    return rc ? rc : client_open_fd(fd, name, ret, err);
}

void client_close(struct client *client)
{
    if (!client)
        return;
    fd_close(&client->fd);
    fd_close(&client->pid_fd);
    buf_free(&client->in);
    free(client);
}

int client_fd(const struct client *client)
{
    return client->fd;
}

int client_kill(const struct client *client, struct err *err)
{
    if (client->pid_fd < 0 || syscall(SYS_pidfd_send_signal, client->pid_fd, SIGKILL, NULL, 0) < 0)
        return err_errno(err, ERR_HOST, client->pid_fd < 0 ? EPERM : errno,
                         "cannot end the monitor of VM %s", client->name);
    return 0;
}

static int gone(const struct client *client, struct err *err)
{
    return err_set(err, ERR_HOST, ECONNRESET, "the monitor of VM %s has gone", client->name);
}

static uint64_t deadline(uint64_t limit_ns)
{
    uint64_t now = clock_now_ns();
    return limit_ns > CLOCK_NEVER - now ? CLOCK_NEVER : now + limit_ns;
}

/* Waits for `events` until `until_ns`. -ETIMEDOUT, -EINTR. */
static int wait_ready(int fd, short events, uint64_t until_ns)
{
    struct pollfd pfd = { .fd = fd, .events = events };
    uint64_t now = clock_now_ns();
    uint64_t left_ns = until_ns > now ? until_ns - now : 0;
    struct timespec limit = { .tv_sec = (time_t)(left_ns / CLOCK_SECOND),
                              .tv_nsec = (long)(left_ns % CLOCK_SECOND) };

    int n = ppoll(&pfd, 1, until_ns == CLOCK_NEVER ? NULL : &limit, NULL);
    if (n < 0)
        return -errno;
    return n == 0 ? -ETIMEDOUT : 0;
}

int client_wait_exit(const struct client *client, uint64_t limit_ns)
{
    uint64_t until_ns = deadline(limit_ns);
    int rc;

    if (client->pid_fd < 0)
        return -ETIMEDOUT;
    do
        rc = wait_ready(client->pid_fd, POLLIN, until_ns);
    while (rc == -EINTR);
    return rc;
}

/* Takes one whole line out of what was received, as JSON. -EAGAIN: there is none yet. */
static int take_message(struct client *client, json_t **ret, struct err *err)
{
    if (client->in.len == client->searched)
        return -EAGAIN;
    const uint8_t *end =
        memchr(client->in.data + client->searched, '\n', client->in.len - client->searched);
    client->searched = client->in.len;
    if (!end)
        return -EAGAIN;
    size_t len = (size_t)(end - client->in.data);
    json_t *message = json_loadb((const char *)client->in.data, len, 0, NULL);
    client->in.len -= len + 1;
    memmove(client->in.data, end + 1, client->in.len);
    client->searched = 0;
    if (!json_is_object(message)) {
        json_decref(message);
        return err_set(err, ERR_BUG, EPROTO, "the monitor of VM %s sent what is no JSON-RPC",
                       client->name);
    }
    *ret = message;
    return 0;
}

/* The next message. -ETIMEDOUT, -EINTR, -ECONNRESET, -EPROTO; `err` is filled for the last two. */
static int next_message(struct client *client, uint64_t until_ns, json_t **ret, struct err *err)
{
    for (;;) {
        int rc = take_message(client, ret, err);
        if (rc != -EAGAIN)
            return rc;
        rc = wait_ready(client->fd, POLLIN, until_ns);
        if (rc)
            return rc;
        uint8_t *room = client->in.len < LINE_BYTES_MAX ? buf_grow(&client->in, READ_BYTES) : NULL;
        if (!room)
            return err_set(err, ERR_BUG, EPROTO, "an endless answer from the monitor of VM %s",
                           client->name);
        ssize_t n = recv(client->fd, room, READ_BYTES, MSG_DONTWAIT);
        int code = errno;
        client->in.len -= READ_BYTES - (size_t)(n > 0 ? n : 0);
        if (n == 0 || (n < 0 && code != EAGAIN && code != EINTR))
            return gone(client, err);
    }
}

/* Gives a notification to the event function. Returns whether the message was one. */
static bool take_event(struct client *client, const json_t *message)
{
    const char *event = json_string_value(json_object_get(message, "method"));
    if (event && client->event_fn)
        client->event_fn(client->event_ctx, event, json_object_get(message, "params"));
    return event;
}

static int send_all(struct client *client, const char *bytes, size_t len, uint64_t until_ns,
                    struct err *err)
{
    while (len > 0) {
        ssize_t n = send(client->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            int rc = wait_ready(client->fd, POLLOUT, until_ns);
            if (rc == -ETIMEDOUT)
                return err_set(err, ERR_HOST, ETIMEDOUT,
                               "the monitor of VM %s does not take requests", client->name);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return gone(client, err);
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Turns the monitor's error object into a struct err. */
static int answered_error(const json_t *error, struct err *err)
{
    struct err reason;
    const char *text = json_string_value(json_object_get(error, "message"));

    reason_from_json(json_object_get(error, "data"), &reason);
    return err_set(err, reason.fault, reason.code, "%s", text ? text : reason.text);
}

int client_call(struct client *client, const char *method, json_t *params, uint64_t limit_ns,
                json_t **ret, struct err *err)
{
    uint64_t until_ns = deadline(limit_ns);
    json_int_t id = ++client->last_id;

    json_t *request = json_pack("{s:s, s:I, s:s, s:o}", "jsonrpc", "2.0", "id", id, "method",
                                method, "params", params ? params : json_object());
    char *line = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (!line)
        return err_set(err, ERR_CALLER, EINVAL, "%s: parameters that are no UTF-8 text", method);
    size_t len = strlen(line);
    line[len] = '\n'; /* in the NUL's place: the length is known */
    int rc = send_all(client, line, len + 1, until_ns, err);
    free(line);

    while (!rc) {
        json_t *message;
        rc = next_message(client, until_ns, &message, err);
        if (rc == -ETIMEDOUT)
            return err_set(err, ERR_HOST, ETIMEDOUT, "no answer to %s from the monitor of VM %s",
                           method, client->name);
        if (rc == -EINTR) {
            rc = 0;
            continue;
        }
        if (rc)
            return rc;
        const json_t *answer_id = json_object_get(message, "id");
        bool ours = !take_event(client, message) && json_is_integer(answer_id) &&
                    json_integer_value(answer_id) == id;
        const json_t *error = json_object_get(message, "error");
        /* An error without an id is about a line of ours that could not be read, or about our
         * connection. */
        if (error && (ours || json_is_null(answer_id)))
            rc = answered_error(error, err);
        else if (ours && ret)
            *ret = json_incref(json_object_get(message, "result"));
        json_decref(message);
        if (ours || rc)
            break;
    }
    return rc;
}

int client_subscribe(struct client *client, client_event_fn *fn, void *ctx, struct err *err)
{
    client->event_fn = fn;
    client->event_ctx = ctx;
    return client_call(client, "events.subscribe", NULL, 5 * CLOCK_SECOND, NULL, err);
}

int client_wait(struct client *client, uint64_t limit_ns, struct err *err)
{
    uint64_t until_ns = deadline(limit_ns);

    for (bool event = false; !event;) {
        json_t *message;
        int rc = next_message(client, until_ns, &message, err);
        if (rc)
            return rc;
        event = take_event(client, message);
        json_decref(message);
    }
    return 0;
}
