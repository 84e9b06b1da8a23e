#include "vm/kernel_file.h"
#include "base/fd.h"
#include "vm/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

int kernel_file_open(struct kernel_file *file, const char *what, const char *path, struct err *err)
{
    /* Nonblocking, so that a FIFO is refused below instead of waited for. */
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, ERR_CALLER, errno, "cannot open %s %s", what, path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_CALLER, EINVAL, "%s %s: not a regular file", what, path);
    if (st.st_size == 0)
        return err_set(err, ERR_CALLER, EINVAL, "%s %s: the file is empty", what, path);
    if ((uint64_t)st.st_size > KERNEL_FILE_MAX)
        return err_set(err, ERR_CALLER, EFBIG, "%s %s: larger than %llu MiB", what, path,
                       (unsigned long long)(KERNEL_FILE_MAX >> 20));
    *file = (struct kernel_file){ .fd = TAKE_FD(fd), .len = (uint64_t)st.st_size };
    return 0;
}

void kernel_file_close(struct kernel_file *file)
{
    fd_close(&file->fd);
}

int kernel_file_read(const struct kernel_file *file, uint64_t offset, void *buf, uint64_t len)
{
    if (offset > file->len || len > file->len - offset)
        return -EBADMSG;
    if (file->fd >= 0)
        return fd_pread_full(file->fd, buf, len, (off_t)offset);
    memcpy(buf, file->bytes + offset, len);
    return 0;
}

int kernel_file_load(const struct kernel_file *file, uint64_t offset, uint64_t len, struct mem *mem,
                     gpa_t gpa)
{
    void *to = mem_get(mem, gpa, len);
    if (!to)
        return -EFAULT;
    int rc = kernel_file_read(file, offset, to, len);
    mem_mark(mem, gpa, len);
    return rc;
}
