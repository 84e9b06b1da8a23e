/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One session: a command, its three streams and its end, over one socket.
 *
 * A single poll() loop moves bytes. Output goes to the socket with blocking writes: a client that
 * does not read stops the command by back pressure, as a terminal would. Input must not block in
 * turn, or the two could wait for each other for ever: one frame at a time is held in `in` and
 * written as the pipe takes it, and the socket is not read while any of it is left.
 *
 * The end of the command is the end of its first process (seen through a pidfd), not of its pipes:
 * `server & exit` must not keep a session open. What the pipes hold at that moment was written
 * before the end and is still sent.
 */
#include "session.h"

#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 1024
#define GRACE_MS 2000

struct command {
    bool detach;
    const char *log;
    char *argv[ARGS_MAX + 1];
};

struct session {
    int sock;
    pid_t pid;
    int pidfd;
    int to_stdin, from_stdout, from_stderr; /* -1 once closed */
    uint8_t in[FRAME_BYTES];                /* standard input not yet taken: [in_at, in_len) */
    size_t in_at, in_len;
};

/* The strings of @cmd stay in @buf. */
static int command_parse(struct command *cmd, uint8_t *buf, size_t len)
{
    char *at = (char *)buf + 1, *end = (char *)buf + len;
    size_t argc = 0;

    if (len < 2 || buf[len - 1] != 0)
        return -EBADMSG;
    cmd->detach = buf[0] & 1;
    cmd->log = at;
    for (at += strlen(at) + 1; at < end; at += strlen(at) + 1) {
        if (argc == ARGS_MAX)
            return -E2BIG;
        cmd->argv[argc++] = at;
    }
    cmd->argv[argc] = NULL;
    return argc > 0 ? 0 : -EBADMSG;
}

/* In the new process: never returns. @report takes errno if the command cannot be executed. */
static void command_exec(const struct command *cmd, const int std[3], int report)
{
    int err;

    setsid();
    signal(SIGPIPE, SIG_DFL);
    if (dup2(std[0], 0) >= 0 && dup2(std[1], 1) >= 0 && dup2(std[2], 2) >= 0)
        execvp(cmd->argv[0], cmd->argv);
    err = errno;
    (void)!write(report, &err, sizeof(err));
    _exit(127);
}

/* Returns the process id, or -errno, also when the file can't be executed. Keeps none of @std. */
static pid_t command_start(const struct command *cmd, const int std[3])
{
    int report[2], err;
    ssize_t n;
    pid_t pid;

    if (pipe2(report, O_CLOEXEC) < 0)
        return -errno;
    pid = fork();
    if (pid == 0)
        command_exec(cmd, std, report[1]);
    err = pid < 0 ? errno : 0;
    close(report[1]);
    if (pid > 0) {
        n = read(report[0], &err, sizeof(err)); /* ends at exec, which closes the other side */
        if (n != sizeof(err))
            err = 0;
        else
            waitpid(pid, NULL, 0);
    }
    close(report[0]);
    return err ? -err : pid;
}

static void session_refuse(struct session *s, const char *what, int err)
{
    uint8_t frame[FRAME_HEAD_BYTES + 512];
    const size_t room = sizeof(frame) - FRAME_HEAD_BYTES;
    int n = snprintf((char *)frame + FRAME_HEAD_BYTES, room, "labd: %s: %s\n", what, strerror(err));
    size_t len = (size_t)n < room ? (size_t)n : room - 1;

    if (frame_send(s->sock, frame, 'e', len) == 0)
        frame_send_u32(s->sock, 'x', 127);
}

static void session_detach(struct session *s, const struct command *cmd)
{
    const char *log = cmd->log[0] ? cmd->log : "/dev/null";
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int out = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    pid_t pid;

    if (in < 0 || out < 0) {
        session_refuse(s, log, errno);
        return;
    }
    pid = command_start(cmd, (int[]){ in, out, out });
    if (pid < 0)
        session_refuse(s, cmd->argv[0], -pid);
    else if (frame_send_u32(s->sock, 'p', (uint32_t)pid) == 0)
        frame_send_u32(s->sock, 'x', 0);
}

static int session_start(struct session *s, const struct command *cmd)
{
    int in[2], out[2], err[2];
    pid_t pid;

    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        return -errno;
    pid = command_start(cmd, (int[]){ in[0], out[1], err[1] });
    if (pid < 0)
        return pid;
    close(in[0]);
    close(out[1]);
    close(err[1]);
    s->pid = pid;
    s->to_stdin = in[1];
    s->from_stdout = out[0];
    s->from_stderr = err[0];
    for (int i = 0; i < 3; i++)
        fcntl((int[]){ in[1], out[0], err[0] }[i], F_SETFL, O_NONBLOCK);
    s->pidfd = pidfd_open(pid, 0);
    return s->pidfd < 0 ? -errno : 0;
}

/* Sends on a piece of what a pipe holds. Returns 1, 0 if it is empty or has ended, or -errno. */
static int session_forward(struct session *s, int *fd, char type)
{
    uint8_t frame[FRAME_HEAD_BYTES + (1 << 16)];
    ssize_t n;
    int r;

    n = read(*fd, frame + FRAME_HEAD_BYTES, sizeof(frame) - FRAME_HEAD_BYTES);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0) {
        close(*fd);
        *fd = -1;
        return 0;
    }
    r = frame_send(s->sock, frame, type, (size_t)n);
    return r < 0 ? r : 1;
}

static void session_close_stdin(struct session *s)
{
    if (s->to_stdin >= 0)
        close(s->to_stdin);
    s->to_stdin = -1;
    s->in_at = s->in_len = 0;
}

/* A command that no longer reads is no error: the rest of its input goes nowhere, as in a shell. */
static void session_feed(struct session *s)
{
    ssize_t n = write(s->to_stdin, s->in + s->in_at, s->in_len - s->in_at);

    if (n >= 0)
        s->in_at += (size_t)n;
    else if (errno != EAGAIN && errno != EINTR)
        session_close_stdin(s);
}

static int session_obey(struct session *s)
{
    size_t len;
    char type;
    int r = frame_receive(s->sock, &type, s->in, &len);

    if (r < 0)
        return r;
    s->in_at = s->in_len = 0;
    if (type == 'i' && s->to_stdin >= 0)
        s->in_len = len;
    else if (type == 'c')
        session_close_stdin(s);
    else if (type == 's' && len == 1)
        kill(-s->pid, s->in[0]);
    else if (type != 'i')
        return -EBADMSG;
    return 0;
}

/* Until the command has ended (0) or the client is gone (-errno). */
static int session_pump(struct session *s)
{
    for (;;) {
        bool held = s->in_at < s->in_len;
        struct pollfd fds[] = {
            { .fd = s->sock, .events = held ? POLLRDHUP : POLLIN },
            { .fd = held ? s->to_stdin : -1, .events = POLLOUT },
            { .fd = s->from_stdout, .events = POLLIN },
            { .fd = s->from_stderr, .events = POLLIN },
            { .fd = s->pidfd, .events = POLLIN },
        };
        int r = 0;

        if (poll(fds, 5, -1) < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (fds[1].revents)
            session_feed(s);
        if (fds[2].revents)
            r = session_forward(s, &s->from_stdout, 'o');
        if (fds[3].revents && r >= 0)
            r = session_forward(s, &s->from_stderr, 'e');
        if (fds[0].revents && r >= 0)
            r = held ? -ECONNRESET : session_obey(s);
        if (r < 0)
            return r;
        if (fds[4].revents)
            return 0;
    }
}

static void session_finish(struct session *s)
{
    int status;

    waitpid(s->pid, &status, 0);
    while (s->from_stdout >= 0 && session_forward(s, &s->from_stdout, 'o') > 0)
        ;
    while (s->from_stderr >= 0 && session_forward(s, &s->from_stderr, 'e') > 0)
        ;
    frame_send_u32(s->sock, 'x',
                   WIFSIGNALED(status) ? 128U + (unsigned)WTERMSIG(status)
                                       : (unsigned)WEXITSTATUS(status));
}

static void session_abandon(struct session *s)
{
    struct pollfd fd = { .fd = s->pidfd, .events = POLLIN };

    kill(-s->pid, SIGTERM);
    poll(&fd, 1, GRACE_MS);
    kill(-s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
}

/*
 * Input that the command left unread would turn our close into a reset, which may overtake the last
 * frames: read on until the client, who has them, closes.
 */
static void session_close(struct session *s)
{
    shutdown(s->sock, SHUT_WR);
    while (read(s->sock, s->in, sizeof(s->in)) > 0)
        ;
    close(s->sock);
}

static void session_run(struct session *s)
{
    static uint8_t request[FRAME_BYTES]; /* argv points into it while `in` is filled anew */
    static struct command cmd;
    size_t len;
    char type;
    int r;

    r = frame_receive(s->sock, &type, request, &len);
    if (r < 0)
        return;
    r = type == 'r' ? command_parse(&cmd, request, len) : -EBADMSG;
    if (r < 0) {
        session_refuse(s, "request", -r);
        return;
    }
    if (cmd.detach) {
        session_detach(s, &cmd);
        return;
    }
    r = session_start(s, &cmd);
    if (r < 0)
        session_refuse(s, cmd.argv[0], -r);
    else if (session_pump(s) == 0)
        session_finish(s);
    else
        session_abandon(s);
}

void session_serve(int sock)
{
    static struct session s;

    s.sock = sock;
    session_run(&s);
    session_close(&s);
}
