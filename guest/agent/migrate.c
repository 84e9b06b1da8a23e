/*
 * Self-migration, seen from inside: asks the monitor to move this guest, and waits until it knows
 * what came of it.
 *
 * The connection to the monitor does not survive the move: its reset is the sign that something
 * has happened. The request has a number of its own, which travels with the guest; so whichever
 * monitor answers the next connection, the old one or the new, can say what became of it.
 */
#include "guest.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MS 10000 /* for a line of an answer */
#define AGAIN_MS 200    /* between connections */
#define PATIENCE_MS 60000
#define DEFAULT_PORT "7000"

/* Reads a line (its newline cut off). 1: done; 0: the connection ended; -1: not in time. */
static int read_line(int fd, char *line, size_t size, int wait_ms)
{
    uint64_t until = guest_now_ms() + (uint64_t)wait_ms;
    for (size_t len = 0; len < size - 1;) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
        uint64_t now = guest_now_ms();
        int left = wait_ms < 0 ? -1 : now >= until ? 0 : (int)(until - now);
        int n = poll(&poll_fd, 1, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        if (recv(fd, line + len, 1, 0) != 1)
            return 0;
        if (line[len] == '\n') {
            line[len] = '\0';
            return 1;
        }
        len++;
    }
    return 0; /* too long: no answer of a monitor */
}

static bool send_line(int fd, const char *verb, const char *id, const char *target)
{
    char line[GUEST_LINE_MAX];
    int len = snprintf(line, sizeof(line), "%s %s%s%s\n", verb, id, *target ? " " : "", target);
    return len < (int)sizeof(line) && send(fd, line, (size_t)len, MSG_NOSIGNAL) == len;
}

/* What the monitor's lines mean; the number of the one that `line` begins with, or -1. */
enum { ACCEPTED, MOVING, MOVED, REFUSED, FAILED, UNKNOWN };
static int meaning(const char *line, const char **ret_rest)
{
    static const char *const words[] = { "accepted", "moving", "moved",
                                         "refused",  "failed", "unknown" };
    for (int i = 0; i < (int)(sizeof(words) / sizeof(words[0])); i++) {
        size_t len = strlen(words[i]);
        if (strncmp(line, words[i], len) == 0 && (!line[len] || line[len] == ' ')) {
            *ret_rest = line + len + (line[len] == ' ');
            return i;
        }
    }
    return -1;
}

int guest_follow_move(int (*dial)(void *ctx), void *ctx, const char *id, const char *target,
                      uint64_t patience_ms, char *said, size_t size)
{
    char line[GUEST_LINE_MAX];
    const char *rest;
    uint64_t heard_ms = guest_now_ms();
    bool asked = false;

    for (;;) {
        int fd = dial(ctx);
        bool sent = fd >= 0 && (asked ? send_line(fd, "status", id, "")
                                      : send_line(fd, "migrate", id, target));
        asked |= sent;
        /* The first answer comes at once; the next when the move has ended, however long it takes. */
        for (int wait_ms = ANSWER_MS; sent && read_line(fd, line, sizeof(line), wait_ms) == 1;) {
            heard_ms = guest_now_ms();
            switch (meaning(line, &rest)) {
            case ACCEPTED:
            case MOVING:
                wait_ms = -1;
                continue;
            case MOVED:
                snprintf(said, size, "moved: this guest runs on %s", rest);
                close(fd);
                return 0;
            case REFUSED:
            case FAILED:
                snprintf(said, size, "%s", line);
                close(fd);
                return 1;
            case UNKNOWN:
                snprintf(said, size, "the monitor does not know of this move");
                close(fd);
                return 3;
            }
            break; /* no monitor speaks like that */
        }
        if (fd >= 0)
            close(fd);
        if (guest_now_ms() - heard_ms > patience_ms) {
            snprintf(said, size,
                     asked ? "no answer from the monitor: the move may have happened"
                           : "no monitor answers");
            return asked ? 3 : 1;
        }
        poll(NULL, 0, AGAIN_MS);
    }
}

static int dial_monitor(void *ctx)
{
    (void)ctx;
    return guest_vsock_dial(GUEST_PORT);
}

/* "HOST", "HOST:PORT", "[V6]:PORT": with a port in any case. False: no address. */
static bool complete(const char *target, char *ret, size_t size)
{
    for (const char *c = target; *c; c++)
        if (*c <= ' ' || *c > '~')
            return false;
    const char *colon = strrchr(target, ':');
    bool has_port = colon && (target[0] == '[' ? colon[-1] == ']' : strchr(target, ':') == colon);
    int len = has_port ? snprintf(ret, size, "%s", target)
                       : snprintf(ret, size, "%s:" DEFAULT_PORT, target);
    return *target && len < (int)size;
}

int guest_migrate(const char *target)
{
    unsigned char bytes[8];
    char id[17], address[256], said[GUEST_LINE_MAX + 64];
    if (!complete(target, address, sizeof(address))) {
        fprintf(stderr, "godwit-agent: want HOST or HOST:PORT\n");
        return 2;
    }
    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
        perror("godwit-agent: random numbers");
        return 1;
    }
    for (unsigned i = 0; i < sizeof(bytes); i++)
        snprintf(id + 2 * i, 3, "%02x", bytes[i]);
    signal(SIGPIPE, SIG_IGN);
    int status =
        guest_follow_move(dial_monitor, NULL, id, address, PATIENCE_MS, said, sizeof(said));
    fprintf(status ? stderr : stdout, "godwit-agent: %s\n", said);
    return status;
}
