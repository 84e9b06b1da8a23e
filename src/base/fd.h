/* File descriptors: ownership, whole reads and writes, files that are never seen half-written. */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static inline void fd_close(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}
#define CLEANUP_FD CLEANUP(fd_close)
#define TAKE_FD(fd)        \
    ({                     \
        int taken_ = (fd); \
        (fd) = -1;         \
        taken_;            \
    })

/* Read or write exactly `len` bytes of a blocking descriptor; interrupted calls are continued.
 * -ENODATA: end of file came first. */
int fd_read_full(int fd, void *buf, size_t len) MUST_CHECK;
int fd_write_full(int fd, const void *buf, size_t len) MUST_CHECK;
int fd_pread_full(int fd, void *buf, size_t len, off_t offset) MUST_CHECK;

/* Reads a whole regular file of at most `max_bytes` into *ret (malloc'd, the caller's, with a NUL
 * after the last byte). -EFBIG: larger than that. -EISDIR, -EINVAL: a directory, a device or a pipe. */
int fd_read_file(const char *path, size_t max_bytes, char **ret, size_t *ret_len) MUST_CHECK;

/* Replaces `path` by these bytes so that after a crash either the old or the new file is there, whole:
 * temporary file, fsync, rename, fsync of the directory. -EINPROGRESS: the new file is there, but it could
 * not be made durable that it is; after any other error the old one certainly still is. */
int fd_replace_file(const char *path, const void *buf, size_t len, struct err *err) MUST_CHECK;

/* Makes all data and the directory entry of an open file durable. */
int fd_sync_entry(int fd, const char *path) MUST_CHECK;

int fd_set_nonblock(int fd) MUST_CHECK;
