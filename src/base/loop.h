/*
 * The event loop: one per process, on the main thread; epoll underneath.
 *
 * A source is embedded in the object that owns the descriptor. Its callback runs on the loop's thread
 * and may add, change or remove any source, itself and its owner included (the loop forgets a removed
 * source before its next callback). Callbacks must not block.
 */
#pragma once
#include "base/compiler.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop;
struct loop_source;
typedef void loop_fn(struct loop_source *source, uint32_t events);

struct loop_source {
    int fd; /* the owner's; -1 = not in a loop */
    uint32_t events;
    loop_fn *fn;
    struct loop *loop;
};

struct loop {
    int epoll_fd, wake_fd;
    bool quit;
    struct epoll_event ready[64];
    int ready_count, ready_next;
};

int loop_init(struct loop *loop) MUST_CHECK;
void loop_fini(struct loop *loop);

/* Watches `fd` for `events` (EPOLLIN, EPOLLOUT; level-triggered unless EPOLLET is given). */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
             loop_fn *fn) MUST_CHECK;
int loop_change(struct loop_source *source, uint32_t events) MUST_CHECK;

/* Stops watching; does not close. Harmless on a source that was never added. */
void loop_remove(struct loop_source *source);

/* Runs until loop_quit(). Returns 0 or -errno of epoll itself. */
int loop_run(struct loop *loop) MUST_CHECK;

/* Waits at most `timeout_ms` (-1 = for ever) and dispatches what is ready. */
int loop_once(struct loop *loop, int timeout_ms) MUST_CHECK;

/* Makes loop_run() return after the current callback; from any thread. */
void loop_quit(struct loop *loop);

/* A one-shot timer as a source: fires once `at_ns` (CLOCK_MONOTONIC) is reached. CLOCK_NEVER disarms. */
int loop_timer_add(struct loop *loop, struct loop_source *source, loop_fn *fn) MUST_CHECK;
void loop_timer_set(struct loop_source *source, uint64_t at_ns);
void loop_timer_remove(struct loop_source *source);

/* Reads an eventfd or timerfd empty and returns its count (0 when it had none). */
uint64_t loop_drain(int fd);
