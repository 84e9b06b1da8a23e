#include "vmm/self_move.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void hang_up(struct self_move_conn *conn)
{
    loop_remove(&conn->source);
    fd_close(&conn->fd);
}

/* A line; a guest that does not read what it asked for is dropped. */
PRINTF(2, 3) static void say(struct self_move_conn *conn, const char *fmt, ...)
{
    char line[SELF_MOVE_LINE_MAX];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    ASSERT(len > 0 && (size_t)len < sizeof(line));
    if (send(conn->fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) != len)
        hang_up(conn);
}

static bool is_id(const char *text)
{
    return strlen(text) == SELF_MOVE_ID_MAX - 1 &&
           strspn(text, "0123456789abcdef") == SELF_MOVE_ID_MAX - 1;
}

static bool is_target(const char *text)
{
    size_t len = strlen(text);
    for (const char *c = text; *c; c++)
        if (*c <= ' ' || *c > '~')
            return false;
    return len > 0 && len < SELF_MOVE_TARGET_MAX;
}

static void on_migrate(struct self_move_conn *conn, const char *id, const char *target)
{
    struct self_move *self = conn->self;
    struct err err = { 0 };
    int rc = 0;
    if (!is_target(target))
        rc = err_set(&err, ERR_GUEST, EINVAL, "no address");
    else if (self->phase == SELF_MOVE_MOVING)
        rc = err_set(&err, ERR_GUEST, EBUSY, "a move that the guest asked for is under way");
    else
        rc = self->calls.allowed(self->calls.ctx, target, &err);
    if (!rc)
        rc = self->calls.start(self->calls.ctx, id, target, &err);
    if (rc) {
        LOG_RATED(LOG_WARN, "self.refused", "the guest asked to move to %.100s: %s",
                  is_target(target) ? target : "?", err.text);
        say(conn, "refused %.400s\n", err.text);
        return;
    }
    log_event(LOG_INFO, "self.move", "the guest asked to move to %s (request %s)", target, id);
    self->phase = SELF_MOVE_MOVING;
    (void)snprintf(self->id, sizeof(self->id), "%s", id);
    conn->waits = true;
    say(conn, "accepted\n");
}

static void on_status(struct self_move_conn *conn, const char *id)
{
    const struct self_move *self = conn->self;
    char host[65] = "";
    bool known = self->phase != SELF_MOVE_NONE && strcmp(self->id, id) == 0;
    if (known && self->phase == SELF_MOVE_MOVED) {
        (void)gethostname(host, sizeof(host) - 1);
        say(conn, "moved %s\n", host);
    } else if (known && self->phase == SELF_MOVE_FAILED) {
        say(conn, "failed %s\n", self->why);
    } else if (known) {
        conn->waits = true;
        say(conn, "moving\n");
    } else {
        say(conn, "unknown\n");
    }
}

/* One request, the line without its newline. */
static void on_line(struct self_move_conn *conn)
{
    char *word[4] = { conn->line };
    unsigned words = 1; /* one space between two; an empty word fits nothing below */
    for (char *space = conn->line; words < 4 && (space = strchr(space, ' ')); words++) {
        *space++ = '\0';
        word[words] = space;
    }
    if (!conn->privileged)
        say(conn, "refused only root of the guest is heard\n");
    else if (words == 3 && strcmp(word[0], "migrate") == 0 && is_id(word[1]))
        on_migrate(conn, word[1], word[2]);
    else if (words == 2 && strcmp(word[0], "status") == 0 && is_id(word[1]))
        on_status(conn, word[1]);
    else
        say(conn, "refused no such request\n");
}

static void on_socket(struct loop_source *source, uint32_t events)
{
    struct self_move_conn *conn = CONTAINER_OF(source, struct self_move_conn, source);
    (void)events;
    ssize_t n =
        recv(conn->fd, conn->line + conn->len, sizeof(conn->line) - conn->len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        hang_up(conn);
        return;
    }
    conn->len += (size_t)n;
    char *end = memchr(conn->line, '\n', conn->len);
    if (!end && conn->len < sizeof(conn->line))
        return;
    /* One request at a time: the next line comes after the answer. */
    if (!end || end != conn->line + conn->len - 1 || memchr(conn->line, '\0', conn->len)) {
        hang_up(conn);
        return;
    }
    *end = '\0';
    conn->len = 0;
    on_line(conn);
}

void self_move_init(struct self_move *self, struct loop *loop, const struct self_move_calls *calls)
{
    *self = (struct self_move){ .loop = loop, .calls = *calls };
    for (unsigned i = 0; i < SELF_MOVE_CONNS_MAX; i++)
        self->conn[i] = (struct self_move_conn){ .self = self, .fd = -1, .source.fd = -1 };
}

void self_move_fini(struct self_move *self)
{
    for (unsigned i = 0; i < SELF_MOVE_CONNS_MAX && self->loop; i++)
        hang_up(&self->conn[i]);
}

void self_move_accept(struct self_move *self, int fd_, uint32_t guest_port)
{
    CLEANUP_FD int fd = fd_;
    struct self_move_conn *conn = NULL;
    for (unsigned i = 0; i < SELF_MOVE_CONNS_MAX && !conn; i++)
        if (self->conn[i].fd < 0)
            conn = &self->conn[i];
    if (!conn || loop_add(self->loop, &conn->source, fd, EPOLLIN, on_socket))
        return;
    conn->fd = TAKE_FD(fd);
    conn->privileged = guest_port < 1024;
    conn->waits = false;
    conn->len = 0;
}

void self_move_arrived(struct self_move *self, const char *id)
{
    if (!is_id(id))
        return;
    self->phase = SELF_MOVE_MOVED;
    (void)snprintf(self->id, sizeof(self->id), "%s", id);
}

void self_move_failed(struct self_move *self, const struct err *err)
{
    if (self->phase != SELF_MOVE_MOVING)
        return;
    self->phase = SELF_MOVE_FAILED;
    (void)snprintf(self->why, sizeof(self->why), "%s", err->text);
    self->why[strcspn(self->why, "\r\n")] = '\0';
    for (unsigned i = 0; i < SELF_MOVE_CONNS_MAX; i++)
        if (self->conn[i].fd >= 0 && self->conn[i].waits) {
            self->conn[i].waits = false;
            say(&self->conn[i], "failed %s\n", self->why);
        }
}
