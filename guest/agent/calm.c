/*
 * What the agent does to its guest before the last round of a move, and how it takes it back.
 *
 * Giving back page cache drops clean pages only: nothing is written, nothing is lost but the time to
 * read it again. Slowing freezes cgroups (v2: cgroup.freeze) and gives the tasks of named
 * processes the policy SCHED_IDLE. Only what runs normally is touched, and only what was touched is
 * restored: a group that someone else froze stays frozen, a task that ended is not mistaken for
 * a new one of its number, and the group the agent lives in is never frozen.
 */
#include "guest.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SCHED_IDLE
#define SCHED_IDLE 5
#endif
#define FREEZE_WAIT_MS 200 /* for a group to stand still */

uint64_t guest_now_ms(void)
{
    struct timespec ts = { 0 };
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* The text of a small file; false when it cannot be read. */
static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n >= 0;
}

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool good = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return good;
}

/* ------------------------------------------------------------------------------- page cache */

static uint64_t kilobytes_of(const char *meminfo, const char *key)
{
    const char *at = strstr(meminfo, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static uint64_t page_cache_bytes(const struct guest *guest)
{
    char path[128], text[4096];
    snprintf(path, sizeof(path), "%s/meminfo", guest->proc);
    if (!read_text(path, text, sizeof(text)))
        return 0;
    return (kilobytes_of(text, "\nBuffers:") + kilobytes_of(text, "\nCached:")) * 1024;
}

uint64_t guest_give_back(struct guest *guest)
{
    char path[128];
    if (!guest->config.drop_page_cache)
        return 0;
    uint64_t before = page_cache_bytes(guest);
    snprintf(path, sizeof(path), "%s/sys/vm/drop_caches", guest->proc);
    if (!write_text(path, "1\n"))
        return 0;
    uint64_t after = page_cache_bytes(guest);
    return before > after ? before - after : 0;
}

/* ------------------------------------------------------------------------------- cgroups */

/* Whether the agent itself is in the group or below it. */
static bool is_ours(const struct guest *guest, const char *group)
{
    char path[128], text[1024];
    snprintf(path, sizeof(path), "%s/self/cgroup", guest->proc);
    if (!read_text(path, text, sizeof(text)))
        return true; /* not known: leave it alone */
    const char *own = strstr(text, "0::/");
    if (!own)
        return false;
    own += strlen("0::/");
    size_t len = strlen(group);
    return strncmp(own, group, len) == 0 && (own[len] == '/' || own[len] == '\n' || !own[len]);
}

static void group_file(const struct guest *guest, unsigned rule, const char *file, char path[400])
{
    snprintf(path, 400, "%s/%s/%s", guest->cgroup, guest->config.freeze[rule], file);
}

static void await_frozen(const struct guest *guest, unsigned rule)
{
    char path[400], text[256];
    uint64_t until = guest_now_ms() + FREEZE_WAIT_MS, now;
    group_file(guest, rule, "cgroup.events", path);
    while (read_text(path, text, sizeof(text)) && !strstr(text, "frozen 1") &&
           (now = guest_now_ms()) < until) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct pollfd events = { .fd = fd, .events = POLLPRI };
        char byte;
        /* A change since the read below wakes it; one before is seen by the next look. */
        if (fd >= 0 && read(fd, &byte, 1) >= 0)
            poll(&events, 1, (int)((until - now) / 10 + 1));
        if (fd >= 0)
            close(fd);
    }
}

static bool freeze(struct guest *guest, unsigned rule)
{
    char path[400], text[16];
    group_file(guest, rule, "cgroup.freeze", path);
    if (guest->frozen[rule] || is_ours(guest, guest->config.freeze[rule]) ||
        !read_text(path, text, sizeof(text)) || text[0] != '0' || !write_text(path, "1"))
        return false;
    guest->frozen[rule] = true;
    await_frozen(guest, rule);
    return true;
}

static bool thaw(struct guest *guest, unsigned rule)
{
    char path[400];
    group_file(guest, rule, "cgroup.freeze", path);
    guest->frozen[rule] = false;
    return write_text(path, "0");
}

void guest_thaw_leftovers(struct guest *guest)
{
    for (unsigned i = 0; i < guest->config.freeze_count; i++)
        (void)thaw(guest, i);
}

/* ------------------------------------------------------------------------------- processes */

/* When a task began, in the kernel's ticks; 0 when it is not there. */
static uint64_t start_of(const struct guest *guest, pid_t tid)
{
    char path[128], text[1024];
    snprintf(path, sizeof(path), "%s/%d/stat", guest->proc, (int)tid);
    const char *at = read_text(path, text, sizeof(text)) ? strrchr(text, ')') : NULL;
    /* Field 22; the name in brackets, field 2, may hold anything. */
    for (unsigned field = 2; at && field < 22; field++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at ? strtoull(at, NULL, 10) : 0;
}

/* musl answers ENOSYS to these on purpose; the kernel does not. */
static int get_policy(pid_t tid)
{
    return (int)syscall(SYS_sched_getscheduler, tid);
}

static bool set_policy(pid_t tid, int policy)
{
    struct {
        int priority;
    } param = { 0 };
    return syscall(SYS_sched_setscheduler, tid, policy, &param) == 0;
}

static void make_idle(struct guest *guest, pid_t tid)
{
    int policy = get_policy(tid);
    uint64_t start = start_of(guest, tid);
    if ((policy != SCHED_OTHER && policy != SCHED_BATCH) || !start ||
        guest->task_count == GUEST_TASKS_MAX || !set_policy(tid, SCHED_IDLE))
        return;
    struct guest_task *task = &guest->task[guest->task_count++];
    task->tid = tid;
    task->start = start;
    task->policy = policy;
}

/* Calls fn for every entry of a folder that is a number. */
static void each_number(struct guest *guest, const char *path,
                        void (*fn)(struct guest *guest, pid_t number))
{
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (isdigit((unsigned char)entry->d_name[0]))
            fn(guest, (pid_t)strtol(entry->d_name, NULL, 10));
    if (dir)
        closedir(dir);
}

static void slow_process(struct guest *guest, pid_t pid)
{
    char path[128], name[64];
    snprintf(path, sizeof(path), "%s/%d/comm", guest->proc, (int)pid);
    if (pid == getpid() || !read_text(path, name, sizeof(name)))
        return;
    name[strcspn(name, "\n")] = '\0';
    for (unsigned i = 0; i < guest->config.idle_count; i++)
        if (strcmp(name, guest->config.idle[i]) == 0) {
            snprintf(path, sizeof(path), "%s/%d/task", guest->proc, (int)pid);
            each_number(guest, path, make_idle);
            return;
        }
}

/* ------------------------------------------------------------------------------- all of it */

unsigned guest_slow(struct guest *guest, uint64_t limit_ms)
{
    unsigned count = 0, tasks = guest->task_count;
    if (limit_ms > guest->config.limit_ms)
        limit_ms = guest->config.limit_ms;
    for (unsigned i = 0; i < guest->config.freeze_count; i++)
        count += freeze(guest, i);
    if (guest->config.idle_count)
        each_number(guest, guest->proc, slow_process);
    count += guest->task_count - tasks;
    if (count)
        guest->restore_at_ms = guest_now_ms() + limit_ms;
    return count;
}

unsigned guest_restore(struct guest *guest)
{
    unsigned count = 0;
    for (unsigned i = 0; i < guest->config.freeze_count; i++)
        if (guest->frozen[i])
            count += thaw(guest, i);
    for (unsigned i = 0; i < guest->task_count; i++) {
        const struct guest_task *task = &guest->task[i];
        if (start_of(guest, task->tid) == task->start && get_policy(task->tid) == SCHED_IDLE)
            count += set_policy(task->tid, task->policy);
    }
    guest->task_count = 0;
    guest->restore_at_ms = 0;
    return count;
}
