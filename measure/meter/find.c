#include "find.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define COMM_MAX 15 /* what the kernel keeps of a name */
#define FORGET_SCANS \
    64 /* after so many, numbers of kernel threads may have been given to processes */

int finder_init(struct finder *finder, const char *name)
{
    *finder = (struct finder){ .name = name };
    ssize_t n = readlink("/proc/self/ns/net", finder->net, sizeof(finder->net) - 1);
    if (n < 0)
        return -errno;
    finder->net[n] = '\0';
    finder->proc = opendir("/proc");
    return finder->proc ? 0 : -errno;
}

void finder_fini(struct finder *finder)
{
    if (finder->proc)
        (void)closedir(finder->proc);
    free(finder->kernel);
    text_free(&finder->text);
    *finder = (struct finder){ 0 };
}

/* False: not there, or says nothing. */
static bool read_of(struct finder *finder, pid_t pid, const char *file)
{
    char path[48];
    (void)snprintf(path, sizeof(path), "%d/%s", (int)pid, file);
    CLEANUP_FD int fd = openat(dirfd(finder->proc), path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && !text_read(&finder->text, fd);
}

static bool is_here(const struct finder *finder, pid_t pid)
{
    char path[48], net[64];
    (void)snprintf(path, sizeof(path), "%d/ns/net", (int)pid);
    ssize_t n = readlinkat(dirfd(finder->proc), path, net, sizeof(net) - 1);
    if (n < 0)
        return false;
    net[n] = '\0';
    return !strcmp(net, finder->net);
}

static bool has_name(struct finder *finder, pid_t pid, bool *ret_kernel)
{
    const char *name = finder->name;
    *ret_kernel = false;
    if (!read_of(finder, pid, "comm"))
        return false;
    size_t len = strcspn(finder->text.data, "\n");
    if (len == MIN(strlen(name), (size_t)COMM_MAX) && !memcmp(finder->text.data, name, len))
        return true;
    if (!read_of(finder, pid, "cmdline")) {
        *ret_kernel = true; /* or a process that ended; forgotten soon in either case */
        return false;
    }
    const char *program = finder->text.data, *slash = strrchr(program, '/');
    return !strcmp(program, name) || (slash && !strcmp(slash + 1, name));
}

/* Field 22 of proc_pid_stat(5), in ticks since the machine booted, and one; 0: gone. */
static uint64_t start_time(struct finder *finder, pid_t pid)
{
    if (!read_of(finder, pid, "stat"))
        return 0;
    const char *at = strrchr(finder->text.data, ')');
    if (!at)
        return 0;
    at = text_skip(at + 1, 22 - 3);
    return text_number(&at) + 1;
}

static bool keep_kernel(struct finder *finder, unsigned at, pid_t pid)
{
    if (at == finder->kernel_cap) {
        unsigned cap = finder->kernel_cap ? finder->kernel_cap * 2 : 128;
        pid_t *kernel = realloc(finder->kernel, cap * sizeof(*kernel));
        if (!kernel)
            return false;
        finder->kernel = kernel;
        finder->kernel_cap = cap;
    }
    finder->kernel[at] = pid;
    return true;
}

/* /proc lists processes in the order of their numbers, so those known as kernel threads come in their own order. */
unsigned finder_look(struct finder *finder, pid_t *ret)
{
    unsigned found = 0, known = 0, kept = 0;
    uint64_t latest = 0;
    if (finder->scans++ % FORGET_SCANS == 0)
        finder->kernel_count = 0;
    bool learn = !finder->kernel_count;
    rewinddir(finder->proc);
    for (struct dirent *entry; (entry = readdir(finder->proc));) {
        const char *name = entry->d_name;
        pid_t pid = (pid_t)text_number(&name);
        if (!pid || *name || pid == getpid())
            continue;
        while (known < finder->kernel_count && finder->kernel[known] < pid)
            known++;
        if (known < finder->kernel_count && finder->kernel[known] == pid)
            continue;
        bool kernel;
        if (!has_name(finder, pid, &kernel)) {
            kept += learn && kernel && keep_kernel(finder, kept, pid);
            continue;
        }
        uint64_t started = is_here(finder, pid) ? start_time(finder, pid) : 0;
        if (!started)
            continue;
        found++;
        if (started >= latest) {
            latest = started;
            *ret = pid;
        }
    }
    if (learn)
        finder->kernel_count = kept;
    return found;
}
