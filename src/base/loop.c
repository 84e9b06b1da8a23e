#include "base/loop.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

int loop_init(struct loop *loop)
{
    *loop = (struct loop){ .epoll_fd = -1, .wake_fd = -1 };
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };
    if (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &ev) < 0) {
        int rc = -errno;
        loop_fini(loop);
        return rc;
    }
    return 0;
}

void loop_fini(struct loop *loop)
{
    fd_close(&loop->epoll_fd);
    fd_close(&loop->wake_fd);
}

int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events, loop_fn *fn)
{
    *source = (struct loop_source){ .fd = fd, .events = events, .fn = fn, .loop = loop };
    struct epoll_event ev = { .events = events, .data.ptr = source };
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        source->fd = -1;
        return -errno;
    }
    return 0;
}

int loop_change(struct loop_source *source, uint32_t events)
{
    if (source->events == events)
        return 0;
    struct epoll_event ev = { .events = events, .data.ptr = source };
    if (epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &ev) < 0)
        return -errno;
    source->events = events;
    return 0;
}

void loop_remove(struct loop_source *source)
{
    struct loop *loop = source->loop;
    if (!loop || source->fd < 0)
        return;
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    source->fd = -1;
    /* Events of this batch that were not dispatched yet must not reach a source that may be freed. */
    for (int i = loop->ready_next; i < loop->ready_count; i++)
        if (loop->ready[i].data.ptr == source)
            loop->ready[i].data.ptr = NULL;
}

int loop_once(struct loop *loop, int timeout_ms)
{
    int n = epoll_wait(loop->epoll_fd, loop->ready, (int)ARRAY_LEN(loop->ready), timeout_ms);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    loop->ready_count = n;
    for (loop->ready_next = 0; loop->ready_next < loop->ready_count;) {
        struct epoll_event ev = loop->ready[loop->ready_next++];
        struct loop_source *source = ev.data.ptr;
        if (source)
            source->fn(source, ev.events);
    }
    loop->ready_count = loop->ready_next = 0;
    return 0;
}

int loop_run(struct loop *loop)
{
    while (!__atomic_load_n(&loop->quit, __ATOMIC_ACQUIRE)) {
        int rc = loop_once(loop, -1);
        if (rc)
            return rc;
    }
    return 0;
}

void loop_quit(struct loop *loop)
{
    __atomic_store_n(&loop->quit, true, __ATOMIC_RELEASE);
    (void)eventfd_write(loop->wake_fd, 1); /* left set: every later wait returns at once */
}

int loop_timer_add(struct loop *loop, struct loop_source *source, loop_fn *fn)
{
    CLEANUP_FD int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    int rc = loop_add(loop, source, fd, EPOLLIN, fn);
    if (!rc)
        fd = -1; /* now the source's; loop_timer_remove() closes it */
    return rc;
}

void loop_timer_set(struct loop_source *source, uint64_t at_ns)
{
    struct itimerspec when = { 0 };
    if (at_ns != CLOCK_NEVER) {
        at_ns = MAX(at_ns, UINT64_C(1)); /* zero would disarm */
        when.it_value.tv_sec = (time_t)(at_ns / CLOCK_SECOND);
        when.it_value.tv_nsec = (long)(at_ns % CLOCK_SECOND);
    }
    (void)timerfd_settime(source->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void loop_timer_remove(struct loop_source *source)
{
    int fd = source->fd;
    if (!source->loop || fd < 0)
        return;
    loop_remove(source);
    (void)close(fd);
}

uint64_t loop_drain(int fd)
{
    uint64_t count = 0;
    return read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count) ? count : 0;
}
