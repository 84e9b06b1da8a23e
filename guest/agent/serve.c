#include "guest.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define SILENCE_MS 5000 /* a connection may say nothing for so long */

/* " KEY=NUMBER" of at most `max`. False: something else stands there. */
static bool take_number(const char **at, const char *key, uint64_t max, uint64_t *ret)
{
    size_t len = strlen(key);
    uint64_t value = 0;
    if (**at != ' ' || strncmp(*at + 1, key, len) != 0 || (*at)[1 + len] != '=')
        return false;
    const char *digit = *at + 2 + len;
    if (*digit < '0' || *digit > '9')
        return false;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        value = value * 10 + (uint64_t)(*digit - '0');
        if (value > max)
            return false;
    }
    *at = digit;
    *ret = value;
    return true;
}

static const char *after(const char *line, const char *word)
{
    size_t len = strlen(word);
    return strncmp(line, word, len) == 0 ? line + len : NULL;
}

void guest_answer(struct guest *guest, const char *line, char *reply, size_t size)
{
    const char *rest;
    uint64_t version, slow, limit_ms;

    if ((rest = after(line, "hello")) && take_number(&rest, "version", 1000000, &version) &&
        !*rest) {
        snprintf(reply, size, "ok version=%d agent=%s page_cache=%d slow=%u\n", GUEST_PROTOCOL,
                 GODWIT_VERSION, guest->config.drop_page_cache,
                 guest->config.freeze_count + guest->config.idle_count);
    } else if ((rest = after(line, "before-last-round")) && take_number(&rest, "slow", 1, &slow) &&
               take_number(&rest, "limit_ms", GUEST_LIMIT_MS_MAX, &limit_ms) && !*rest) {
        /* The writer first: it would fill at once what is given back. */
        unsigned slowed = slow ? guest_slow(guest, limit_ms) : 0;
        uint64_t bytes = guest_give_back(guest);
        snprintf(reply, size, "ok page_cache_bytes=%llu slowed=%u\n", (unsigned long long)bytes,
                 slowed);
    } else if (strcmp(line, "after-move") == 0) {
        snprintf(reply, size, "ok restored=%u\n", guest_restore(guest));
    } else {
        snprintf(reply, size, "error no such request\n");
    }
}

/* Restores what is overdue; how long poll() may wait for the next, at most `most_ms` (-1: any). */
static int tick(struct guest *guest, int most_ms)
{
    uint64_t now = guest_now_ms();
    if (!guest->restore_at_ms)
        return most_ms;
    if (guest->restore_at_ms <= now) {
        fprintf(stderr, "godwit-agent: heard nothing after a move: restored %u\n",
                guest_restore(guest));
        return most_ms;
    }
    uint64_t left = guest->restore_at_ms - now;
    return most_ms >= 0 && left > (uint64_t)most_ms ? most_ms : (int)left;
}

static bool answer_lines(struct guest *guest, int fd, char *line, size_t *len)
{
    char *end;
    while ((end = memchr(line, '\n', *len))) {
        char reply[GUEST_LINE_MAX];
        size_t used = (size_t)(end - line) + 1;
        *end = '\0';
        guest_answer(guest, strlen(line) == used - 1 ? line : "", reply, sizeof(reply));
        if (send(fd, reply, strlen(reply), MSG_NOSIGNAL) != (ssize_t)strlen(reply))
            return false;
        memmove(line, line + used, *len - used);
        *len -= used;
    }
    return *len < GUEST_LINE_MAX;
}

void guest_serve_connection(struct guest *guest, int fd, int signal_fd)
{
    char line[GUEST_LINE_MAX];
    size_t len = 0;
    uint64_t heard_ms = guest_now_ms();
    for (bool going = true; going;) {
        struct pollfd fds[] = { { .fd = fd, .events = POLLIN },
                                { .fd = signal_fd, .events = POLLIN } };
        uint64_t silent_ms = guest_now_ms() - heard_ms;
        if (silent_ms >= SILENCE_MS)
            break;
        int n = poll(fds, 2, tick(guest, (int)(SILENCE_MS - silent_ms)));
        if (fds[1].revents)
            break;
        if (n <= 0 || !fds[0].revents)
            continue;
        ssize_t got = recv(fd, line + len, sizeof(line) - len, 0);
        going = got > 0;
        if (going) {
            len += (size_t)got;
            heard_ms = guest_now_ms();
            going = answer_lines(guest, fd, line, &len);
        }
    }
    close(fd);
}

int guest_serve(struct guest *guest)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    int listen_fd = guest_vsock_listen(GUEST_PORT);
    if (listen_fd < 0 || signal_fd < 0) {
        perror("godwit-agent: cannot listen on vsock");
        return 1;
    }
    guest_thaw_leftovers(guest);
    for (;;) {
        struct pollfd fds[] = { { .fd = listen_fd, .events = POLLIN },
                                { .fd = signal_fd, .events = POLLIN } };
        int n = poll(fds, 2, tick(guest, -1));
        if (n > 0 && fds[1].revents)
            break;
        int fd = n > 0 && fds[0].revents ? guest_vsock_accept(listen_fd) : -1;
        if (fd >= 0)
            guest_serve_connection(guest, fd, signal_fd);
    }
    guest_restore(guest);
    return 0;
}
