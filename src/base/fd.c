#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int fd_read_full(int fd, void *buf, size_t len)
{
    char *at = buf;
    while (len > 0) {
        ssize_t n = read(fd, at, len);
        if (n == 0)
            return -ENODATA;
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

int fd_write_full(int fd, const void *buf, size_t len)
{
    const char *at = buf;
    while (len > 0) {
        ssize_t n = write(fd, at, len);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

int fd_pread_full(int fd, void *buf, size_t len, off_t offset)
{
    char *at = buf;
    while (len > 0) {
        ssize_t n = pread(fd, at, len, offset);
        if (n == 0)
            return -ENODATA;
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        at += n;
        len -= (size_t)n;
        offset += n;
    }
    return 0;
}

int fd_read_file(const char *path, size_t max_bytes, char **ret, size_t *ret_len)
{
    /* O_NONBLOCK: a pipe in the file's place must be refused, not waited for. */
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;

    /* Files under /proc and /sys say size 0: read until the end, growing. */
    size_t cap = st.st_size > 0 ? (size_t)st.st_size + 1 : 4096, len = 0;
    if (cap - 1 > max_bytes && st.st_size > 0)
        return -EFBIG;
    char *data = malloc(cap);
    for (;;) {
        if (!data)
            return -ENOMEM;
        ssize_t n = read(fd, data + len, cap - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int rc = -errno;
            free(data);
            return rc;
        }
        len += (size_t)n;
        if (n == 0)
            break;
        if (len > max_bytes) {
            free(data);
            return -EFBIG;
        }
        if (len == cap - 1) {
            char *grown = realloc(data, cap * 2);
            if (!grown)
                free(data);
            data = grown;
            cap *= 2;
        }
    }
    data[len] = '\0';
    *ret = data;
    *ret_len = len;
    return 0;
}

static int sync_directory_of(const char *path)
{
    char dir[PATH_MAX];
    int n = snprintf(dir, sizeof(dir), "%s", path);
    if (n < 0 || (size_t)n >= sizeof(dir))
        return -ENAMETOOLONG;
    char *slash = strrchr(dir, '/');
    if (!slash)
        memcpy(dir, ".", 2);
    else
        slash[slash == dir] = '\0';
    CLEANUP_FD int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return -errno;
    return 0;
}

int fd_sync_entry(int fd, const char *path)
{
    if (fsync(fd) < 0)
        return -errno;
    return sync_directory_of(path);
}

int fd_replace_file(const char *path, const void *buf, size_t len, struct err *err)
{
    char tmp[PATH_MAX];
    int n = snprintf(tmp, sizeof(tmp), "%s.new", path);
    if (n < 0 || (size_t)n >= sizeof(tmp))
        return err_errno(err, ERR_CALLER, ENAMETOOLONG, "%s", path);

    CLEANUP_FD int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "cannot create %s", tmp);
    int rc = fd_write_full(fd, buf, len);
    if (!rc && fsync(fd) < 0)
        rc = -errno;
    if (!rc && rename(tmp, path) < 0)
        rc = -errno;
    if (rc)
        (void)unlink(tmp);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot write %s", path);
    rc = sync_directory_of(path);
    if (rc) {
        (void)err_errno(err, ERR_HOST, -rc, "cannot make %s durable", path);
        return -EINPROGRESS;
    }
    return 0;
}

int fd_set_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}
