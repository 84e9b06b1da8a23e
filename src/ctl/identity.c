#include "ctl/identity.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UUID_FILE "uuid"
#define UUID_BYTES 16

/* The lock on BASE is held. */
static int write_uuid(const struct rundir *dir, const uint8_t uuid[UUID_BYTES], struct err *err)
{
    CLEANUP_FD int fd =
        openat(dir->dir_fd, UUID_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? -errno : fd_write_full(fd, uuid, UUID_BYTES);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot write %s/%s/" UUID_FILE, dir->base, dir->name)
              : 0;
}

static bool has(const char *base, const char *name, const uint8_t uuid[UUID_BYTES])
{
    char path[PATH_MAX];
    CLEANUP_FREE char *bytes = NULL;
    size_t len;
    int n = snprintf(path, sizeof(path), "%s/%s/" UUID_FILE, base, name);
    return n > 0 && (size_t)n < sizeof(path) && fd_read_file(path, UUID_BYTES, &bytes, &len) == 0 &&
           len == UUID_BYTES && memcmp(bytes, uuid, UUID_BYTES) == 0;
}

int identity_claim(const struct rundir *dir, const uint8_t uuid[UUID_BYTES], struct err *err)
{
    CLEANUP_FD int lock_fd = -1;
    CLEANUP_FREE struct rundir_entry *list = NULL;
    size_t count = 0;
    int rc = rundir_lock_base(dir, &lock_fd, err);
    if (!rc)
        rc = rundir_list(dir->base, &list, &count, err);
    for (size_t i = 0; i < count && !rc; i++)
        if (list[i].alive && strcmp(list[i].name, dir->name) != 0 &&
            has(dir->base, list[i].name, uuid))
            rc = err_set(err, ERR_CALLER, EEXIST,
                         "this host has the guest already, as VM '%s' (process %d)", list[i].name,
                         (int)list[i].pid);
    return rc ? rc : write_uuid(dir, uuid, err);
}

void identity_withdraw(const struct rundir *dir)
{
    (void)unlinkat(dir->dir_fd, UUID_FILE, 0);
}
