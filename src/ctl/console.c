/*
 * The console hub: see console.h.
 *
 * The ring is addressed by the count of all bytes ever written: byte n is at n modulo the ring's
 * size, and those from head - CONSOLE_SCROLLBACK on are still there. A watcher is therefore just a
 * count. The lock is held for one memcpy at a time, so the guest's vCPU never waits for a socket or
 * a file; an eventfd tells the loop that the ring has moved on, or that the serial port takes input
 * again.
 *
 * Input typed by clients is gathered in one small buffer. While it is not empty no client is read,
 * so what the guest does not take stays in the clients' sockets.
 */
#include "ctl/console.h"
#include "base/fd.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define COPY_BYTES (16u << 10)
#define INPUT_BYTES 512

struct watcher {
    struct loop_source source; /* unused by the log */
    struct console *console;
    struct watcher *next;
    int fd;
    bool is_log;
    bool blocked; /* the socket takes nothing more for now */
    uint64_t at;  /* the next byte to send */
};

struct console {
    struct loop *loop;
    console_input_fn *input_fn;
    void *input_ctx;
    struct loop_source listen, wake;
    int listen_fd, wake_fd;
    struct watcher *watchers; /* clients, and the log */
    unsigned client_count;

    uint8_t input[INPUT_BYTES]; /* typed, not yet taken by the guest */
    size_t input_len;

    pthread_mutex_t lock; /* the ring */
    uint64_t head;        /* bytes ever written */
    bool woken;           /* the eventfd is set: no need to set it again */
    uint8_t ring[CONSOLE_SCROLLBACK];
};

static uint64_t oldest(uint64_t head)
{
    return head > CONSOLE_SCROLLBACK ? head - CONSOLE_SCROLLBACK : 0;
}

/* Copies what is next for a watcher; *ret_lost is what it missed before. */
static size_t ring_copy(struct console *console, uint64_t *at, uint8_t *out, size_t max,
                        uint64_t *ret_lost)
{
    pthread_mutex_lock(&console->lock);
    uint64_t first = MAX(*at, oldest(console->head));
    size_t len = (size_t)MIN(console->head - first, (uint64_t)max);
    size_t place = first % CONSOLE_SCROLLBACK;
    size_t part = MIN(len, CONSOLE_SCROLLBACK - place);
    memcpy(out, console->ring + place, part);
    memcpy(out + part, console->ring, len - part);
    pthread_mutex_unlock(&console->lock);
    *ret_lost = first - *at;
    *at = first;
    return len;
}

static void wake(struct console *console)
{
    (void)eventfd_write(console->wake_fd, 1);
}

void console_output(struct console *console, const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return;
    pthread_mutex_lock(&console->lock);
    if (len > CONSOLE_SCROLLBACK) { /* only the end of it would stay */
        size_t skip = len - CONSOLE_SCROLLBACK;
        console->head += skip;
        bytes += skip;
        len -= skip;
    }
    size_t place = console->head % CONSOLE_SCROLLBACK;
    size_t part = MIN(len, CONSOLE_SCROLLBACK - place);
    memcpy(console->ring + place, bytes, part);
    memcpy(console->ring, bytes + part, len - part);
    console->head += len;
    bool was_woken = console->woken;
    console->woken = true;
    pthread_mutex_unlock(&console->lock);
    if (!was_woken)
        wake(console);
}

void console_input_ready(struct console *console)
{
    wake(console);
}

/* ---------------------------------------------------------------------------------------
 * watchers */

static void watcher_free(struct watcher *watcher)
{
    struct console *console = watcher->console;

    for (struct watcher **at = &console->watchers; *at; at = &(*at)->next)
        if (*at == watcher) {
            *at = watcher->next;
            break;
        }
    if (!watcher->is_log) {
        console->client_count--;
        loop_remove(&watcher->source);
        if (console->listen.fd >= 0) /* accepting may have stopped for want of a descriptor */
            (void)!loop_change(&console->listen, EPOLLIN);
    }
    fd_close(&watcher->fd);
    free(watcher);
}

/* What a client is waited for: room to send, and its input unless the guest has not taken the
 * last. */
static int watch(struct watcher *watcher)
{
    uint32_t events = watcher->blocked ? EPOLLOUT : 0;
    if (watcher->console->input_len == 0)
        events |= EPOLLIN;
    return watcher->is_log ? 0 : loop_change(&watcher->source, events);
}

static ssize_t put(const struct watcher *watcher, const uint8_t *bytes, size_t len)
{
    if (watcher->is_log)
        return fd_write_full(watcher->fd, bytes, len) ? -1 : (ssize_t)len; /* into the page cache */
    return send(watcher->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Brings a watcher up to date as far as it goes without waiting. False: it is broken. */
static bool feed(struct watcher *watcher)
{
    uint8_t bytes[COPY_BYTES];
    uint64_t lost;
    size_t len;

    watcher->blocked = false;
    /* One ring's worth at most: a guest that never stops writing must not keep the loop here. */
    for (unsigned turn = 0; turn <= CONSOLE_SCROLLBACK / COPY_BYTES; turn++) {
        len = ring_copy(watcher->console, &watcher->at, bytes, sizeof(bytes), &lost);
        if (len == 0)
            return true;
        if (lost > 0) {
            char note[64];
            int n = snprintf(note, sizeof(note), "\r\n[godwit: %llu bytes lost]\r\n",
                             (unsigned long long)lost);
            /* no room for it: the gap is then unmarked */
            (void)!put(watcher, (uint8_t *)note, (size_t)n);
        }
        ssize_t n = put(watcher, bytes, len);
        if (n < 0 && (errno == EAGAIN || errno == EINTR) && !watcher->is_log) {
            watcher->blocked = true;
            return true;
        }
        if (n < 0)
            return false;
        watcher->at += (uint64_t)n;
    }
    wake(watcher->console);
    return true;
}

static void feed_all(struct console *console)
{
    for (struct watcher *watcher = console->watchers, *next; watcher; watcher = next) {
        next = watcher->next;
        if ((!watcher->blocked && !feed(watcher)) || watch(watcher))
            watcher_free(watcher);
    }
}

/* ------------------------------------------------------------------------------------------
 * input */

static void push_input(struct console *console)
{
    if (console->input_len == 0)
        return;
    size_t taken = console->input_fn(console->input_ctx, console->input, console->input_len);
    taken = MIN(taken, console->input_len);
    console->input_len -= taken;
    memmove(console->input, console->input + taken, console->input_len);
}

static void on_client(struct loop_source *source, uint32_t events)
{
    struct watcher *watcher = CONTAINER_OF(source, struct watcher, source);
    struct console *console = watcher->console;

    if ((events & EPOLLIN) && console->input_len == 0) {
        ssize_t n = recv(watcher->fd, console->input, sizeof(console->input), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            watcher_free(watcher);
            return;
        }
        if (n > 0) {
            console->input_len = (size_t)n;
            push_input(console);
        }
    } else if (events & (EPOLLHUP | EPOLLERR)) {
        watcher_free(watcher);
        return;
    }
    if (events & EPOLLOUT)
        watcher->blocked = false;
    feed_all(console);
}

static void on_wake(struct loop_source *source, uint32_t events)
{
    struct console *console = CONTAINER_OF(source, struct console, wake);
    (void)events;

    (void)loop_drain(source->fd);
    pthread_mutex_lock(&console->lock);
    console->woken = false; /* before the ring is read: a byte after this wakes again */
    pthread_mutex_unlock(&console->lock);
    push_input(console);
    feed_all(console);
}

/* -----------------------------------------------------------------------------------------
 * console */

/* Takes `fd` over on success. */
static int watcher_new(struct console *console, int fd, bool is_log)
{
    struct watcher *watcher = calloc(1, sizeof(*watcher));
    if (!watcher)
        return -ENOMEM;
    *watcher = (struct watcher){
        .console = console, .next = console->watchers, .fd = fd, .is_log = is_log
    };
    int rc = is_log ? 0 : loop_add(console->loop, &watcher->source, fd, EPOLLIN, on_client);
    if (rc) {
        free(watcher);
        return rc;
    }
    pthread_mutex_lock(&console->lock);
    watcher->at = oldest(console->head);
    pthread_mutex_unlock(&console->lock);
    console->watchers = watcher;
    console->client_count += !is_log;
    return 0;
}

static void on_accept(struct loop_source *source, uint32_t events)
{
    static const char full[] = "godwit: too many consoles are attached\r\n";
    struct console *console = CONTAINER_OF(source, struct console, listen);
    (void)events;

    CLEANUP_FD int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if ((errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) &&
            console->client_count > 0)
            (void)!loop_change(source, 0); /* do not spin on it */
        return;
    }
    if (console->client_count >= CONSOLE_CLIENTS_MAX) {
        (void)!send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        return;
    }
    if (watcher_new(console, fd, false) == 0) {
        fd = -1;
        feed_all(console);
    }
}

int console_attach(struct console *console, int fd, struct err *err)
{
    int rc = watcher_new(console, fd, false);
    if (rc) {
        fd_close(&fd);
        return err_errno(err, ERR_HOST, -rc, "console");
    }
    feed_all(console);
    return 0;
}

void console_free(struct console *console)
{
    if (!console)
        return;
    while (console->watchers) {
        (void)feed(console->watchers);
        watcher_free(console->watchers);
    }
    loop_remove(&console->listen);
    loop_remove(&console->wake);
    fd_close(&console->listen_fd);
    fd_close(&console->wake_fd);
    (void)pthread_mutex_destroy(&console->lock);
    free(console);
}

int console_new(struct loop *loop, int listen_fd, int log_fd, console_input_fn *input, void *ctx,
                struct console **ret, struct err *err)
{
    CLEANUP_FD int owned_log_fd = log_fd;
    struct console *console = calloc(1, sizeof(*console));
    if (!console) {
        fd_close(&listen_fd);
        return err_errno(err, ERR_HOST, ENOMEM, "console");
    }
    console->loop = loop;
    console->input_fn = input;
    console->input_ctx = ctx;
    console->listen_fd = listen_fd;
    console->listen.fd = console->wake.fd = -1;
    console->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    (void)pthread_mutex_init(&console->lock, NULL);

    int rc = console->wake_fd < 0
                 ? -errno
                 : loop_add(loop, &console->wake, console->wake_fd, EPOLLIN, on_wake);
    if (!rc && listen_fd >= 0)
        rc = loop_add(loop, &console->listen, listen_fd, EPOLLIN, on_accept);
    if (!rc && log_fd >= 0)
        rc = watcher_new(console, log_fd, true);
    if (rc) {
        console_free(console);
        return err_errno(err, ERR_HOST, -rc, "console");
    }
    owned_log_fd = -1;
    *ret = console;
    return 0;
}

int console_save(const struct console *console, int fd)
{
    for (uint64_t at = oldest(console->head); at < console->head;) {
        size_t place = at % CONSOLE_SCROLLBACK;
        size_t len = (size_t)MIN(console->head - at, (uint64_t)(CONSOLE_SCROLLBACK - place));
        ssize_t n = write(fd, console->ring + place, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? (uint64_t)n : 0;
    }
    return 0;
}
