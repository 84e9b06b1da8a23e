/*
 * The console's near end: one poll loop over the console, the terminal, signals and the control
 * socket.
 *
 * Nothing here blocks, so the escape and signals work whatever the guest or the reader of stdout
 * does. Each direction has a buffer; its source is only polled while the buffer is empty. A
 * terminal is the exception: it is always read, since the escape may be in it, and what finds no
 * room is dropped.
 *
 * Signals come through a descriptor, so no way out of the loop passes the restoring of the terminal
 * by.
 */
#include "cmd/attach.h"
#include "base/clock.h"
#include "base/fd.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>

#define BUFFER_BYTES 4096 /* at most PIPE_BUF: a pipe that polls writable takes so much at once */

struct flow {
    char bytes[BUFFER_BYTES];
    size_t len;
};

struct session {
    struct attach *attach;
    struct flow to_user, to_guest;
    bool tty, stdin_open, console_open, client_open;
    int signal_fd;
};

int attach_read_escape(const char *text, int *ret, struct err *err)
{
    if (strcmp(text, "none") == 0) {
        *ret = -1;
        return 0;
    }
    if (text[0] != '^' || !text[1] || text[2] || toupper((unsigned char)text[1]) < '@' ||
        toupper((unsigned char)text[1]) > '_')
        return err_set(err, ERR_CALLER, EINVAL,
                       "'%.40s' is no escape: want a control character, as in ^], or none", text);
    *ret = toupper((unsigned char)text[1]) - '@';
    return 0;
}

static void on_event(void *ctx, const char *event, const json_t *params)
{
    struct attach *attach = ctx;
    const char *state = json_string_value(json_object_get(params, "state"));
    const char *reason = json_string_value(json_object_get(params, "reason"));

    if (strcmp(event, "vm.state") != 0 || !state)
        return;
    (void)snprintf(attach->state, sizeof(attach->state), "%s", state);
    (void)snprintf(attach->reason, sizeof(attach->reason), "%s", reason ? reason : "");
}

/* Takes what has arrived on the control socket. */
static void read_events(struct session *session)
{
    int rc = 0;
    while (session->client_open && (rc = client_wait(session->attach->client, 0, NULL)) == 0)
        ;
    if (rc && rc != -ETIMEDOUT && rc != -EINTR)
        session->client_open = false;
}

/* What the user typed. Returns false at the escape. */
static bool typed(struct session *session, const char *bytes, size_t len)
{
    struct flow *flow = &session->to_guest;
    const char *escape = session->tty && session->attach->escape >= 0
                             ? memchr(bytes, session->attach->escape, len)
                             : NULL;

    len = escape ? (size_t)(escape - bytes) : len;
    size_t room = MIN(len, sizeof(flow->bytes) - flow->len);
    memcpy(flow->bytes + flow->len, bytes, room);
    flow->len += room;
    return !escape;
}

static bool read_user(struct session *session)
{
    char bytes[512];
    ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0) {
        session->stdin_open = false;
        return true;
    }
    return typed(session, bytes, (size_t)n);
}

static void read_guest(struct session *session)
{
    ssize_t n = recv(session->attach->console_fd, session->to_user.bytes,
                     sizeof(session->to_user.bytes), MSG_DONTWAIT);
    if (n > 0)
        session->to_user.len = (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        session->console_open = false;
}

static void flow_taken(struct flow *flow, size_t n)
{
    flow->len -= n;
    memmove(flow->bytes, flow->bytes + n, flow->len);
}

static void write_guest(struct session *session)
{
    struct flow *flow = &session->to_guest;
    ssize_t n =
        send(session->attach->console_fd, flow->bytes, flow->len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0)
        flow_taken(flow, (size_t)n);
    else if (errno != EAGAIN && errno != EINTR)
        flow->len = 0; /* it closed; reading will tell */
}

static int write_user(struct session *session, struct err *err)
{
    struct flow *flow = &session->to_user;
    ssize_t n = write(STDOUT_FILENO, flow->bytes, flow->len);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return err_errno(err, ERR_HOST, errno, "cannot write to standard output");
    if (n > 0)
        flow_taken(flow, (size_t)n);
    return 0;
}

enum { POLL_SIGNAL, POLL_CONSOLE, POLL_STDIN, POLL_STDOUT, POLL_CLIENT, POLL_COUNT };

static void prepare(const struct session *session, struct pollfd poll_fd[POLL_COUNT])
{
    bool read_stdin = session->stdin_open && (session->tty || session->to_guest.len == 0);
    short console = (short)((session->to_user.len == 0 ? POLLIN : 0) |
                            (session->to_guest.len > 0 ? POLLOUT : 0));

    poll_fd[POLL_SIGNAL] = (struct pollfd){ .fd = session->signal_fd, .events = POLLIN };
    poll_fd[POLL_CONSOLE] =
        (struct pollfd){ .fd = console ? session->attach->console_fd : -1, .events = console };
    poll_fd[POLL_STDIN] = (struct pollfd){ .fd = read_stdin ? STDIN_FILENO : -1, .events = POLLIN };
    poll_fd[POLL_STDOUT] =
        (struct pollfd){ .fd = session->to_user.len > 0 ? STDOUT_FILENO : -1, .events = POLLOUT };
    poll_fd[POLL_CLIENT] =
        (struct pollfd){ .fd = session->client_open ? client_fd(session->attach->client) : -1,
                         .events = POLLIN };
}

static int run(struct session *session, enum attach_end *ret, struct err *err)
{
    struct pollfd poll_fd[POLL_COUNT];

    while (session->console_open || session->to_user.len > 0) {
        prepare(session, poll_fd);
        if (poll(poll_fd, POLL_COUNT, -1) < 0) {
            if (errno == EINTR)
                continue;
            return err_errno(err, ERR_HOST, errno, "poll");
        }
        if (poll_fd[POLL_SIGNAL].revents) {
            struct signalfd_siginfo info; /* taken, or it would end us once it is unblocked */
            (void)!read(session->signal_fd, &info, sizeof(info));
            *ret = ATTACH_SIGNALLED;
            return 0;
        }
        if (poll_fd[POLL_STDIN].revents && !read_user(session)) {
            *ret = ATTACH_DETACHED;
            return 0;
        }
        if (poll_fd[POLL_CLIENT].revents)
            read_events(session);
        if (poll_fd[POLL_STDOUT].revents) {
            int rc = write_user(session, err);
            if (rc)
                return rc;
        }
        if (poll_fd[POLL_CONSOLE].revents & POLLOUT)
            write_guest(session);
        if ((poll_fd[POLL_CONSOLE].revents & ~POLLOUT) && session->to_user.len == 0)
            read_guest(session);
    }
    read_events(session); /* why it ended: said before the console closed */
    *ret = ATTACH_ENDED;
    return 0;
}

int attach_run(struct attach *attach, enum attach_end *ret, struct err *err)
{
    struct session session = { .attach = attach, .stdin_open = true, .console_open = true };
    struct termios before, raw;
    sigset_t set, old;

    if (attach->client && !attach->subscribed)
        attach->subscribed = client_subscribe(attach->client, on_event, attach, NULL) == 0;
    session.client_open = attach->subscribed;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, &old);
    session.signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (session.signal_fd < 0) {
        (void)sigprocmask(SIG_SETMASK, &old, NULL);
        return err_errno(err, ERR_HOST, errno, "signals");
    }
    session.tty = tcgetattr(STDIN_FILENO, &before) == 0;
    if (session.tty) {
        raw = before;
        cfmakeraw(&raw);
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    }
    int rc = run(&session, ret, err);
    if (session.tty) {
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
        if (isatty(STDOUT_FILENO))
            (void)!write(STDOUT_FILENO, "\r\n", 2); /* the guest's cursor may stand anywhere */
    }
    fd_close(&session.signal_fd);
    (void)sigprocmask(SIG_SETMASK, &old, NULL);
    return rc;
}
