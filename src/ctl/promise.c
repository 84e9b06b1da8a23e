#include "ctl/promise.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROMISE_FILE "promise"

/* "BYTES MEMFD\n"; the lock on BASE is held. */
static int write_promise(const struct rundir *dir, uint64_t bytes, int memfd, struct err *err)
{
    char text[48];
    int len = snprintf(text, sizeof(text), "%" PRIu64 " %d\n", bytes, memfd);
    CLEANUP_FD int fd = openat(dir->dir_fd, PROMISE_FILE,
                               O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? -errno : fd_write_full(fd, text, (size_t)len);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot write %s/%s/" PROMISE_FILE, dir->base,
                          dir->name)
              : 0;
}

/* What the memory holds by now; 0 while there is none, or when it cannot be told. */
static uint64_t resident_bytes(pid_t pid, int memfd, uint64_t bytes)
{
    char path[64];
    struct stat st;
    if (memfd < 0 || pid <= 0)
        return 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, memfd);
    if (stat(path, &st) < 0 || (uint64_t)st.st_size != bytes)
        return 0; /* the descriptor is something else by now: its monitor is about to say so */
    return (uint64_t)st.st_blocks * 512;
}

/* What the guest of this living monitor may still take. */
static uint64_t still_to_come(const char *base, const struct rundir_entry *entry)
{
    char path[PATH_MAX];
    CLEANUP_FREE char *text = NULL;
    size_t len;
    uint64_t bytes;
    int memfd;
    int n = snprintf(path, sizeof(path), "%s/%s/" PROMISE_FILE, base, entry->name);
    if (n < 0 || (size_t)n >= sizeof(path) || fd_read_file(path, 64, &text, &len) < 0 ||
        sscanf(text, "%" SCNu64 " %d", &bytes, &memfd) != 2)
        return 0;
    uint64_t have = resident_bytes(entry->pid, memfd, bytes);
    return have < bytes ? bytes - have : 0;
}

static int sum_of_others(const struct rundir *dir, uint64_t *ret, struct err *err)
{
    struct rundir_entry *list;
    size_t count;
    int rc = rundir_list(dir->base, &list, &count, err);
    if (rc)
        return rc;
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t more = list[i].alive && strcmp(list[i].name, dir->name) != 0
                            ? still_to_come(dir->base, &list[i])
                            : 0;
        sum = more > UINT64_MAX - sum ? UINT64_MAX : sum + more;
    }
    free(list);
    *ret = sum;
    return 0;
}

int promise_make(const struct rundir *dir, uint64_t bytes, enum promise_how how,
                 struct host_memory *ret, struct err *err)
{
    CLEANUP_FD int lock_fd = -1;
    int rc = rundir_lock_base(dir, &lock_fd, err);
    if (!rc)
        rc = sum_of_others(dir, &ret->promised_bytes, err);
    if (rc)
        return rc;
    /* After the sum: a page that is taken between the two then counts twice, and not never. */
    ret->available_bytes = host_memory_available();
    if (how == PROMISE_LOOK || (how == PROMISE_IF_FREE && !host_memory_fits(ret, bytes)))
        return 0;
    return write_promise(dir, bytes, -1, err);
}

int promise_kept_in(const struct rundir *dir, uint64_t bytes, int memfd, struct err *err)
{
    CLEANUP_FD int lock_fd = -1;
    int rc = rundir_lock_base(dir, &lock_fd, err);
    return rc ? rc : write_promise(dir, bytes, memfd, err);
}

void promise_withdraw(const struct rundir *dir)
{
    (void)unlinkat(dir->dir_fd, PROMISE_FILE, 0);
}
