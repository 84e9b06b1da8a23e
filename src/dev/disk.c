#include "dev/disk.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <xxhash.h>

#define SAMPLE_BLOCKS 64u
#define BLOCK_BYTES 4096u

static int size_bytes(int fd, uint64_t *ret)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISREG(st.st_mode)) {
        *ret = (uint64_t)st.st_size;
        return 0;
    }
    if (S_ISBLK(st.st_mode))
        return ioctl(fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
    return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
}

int disk_sectors(int fd, uint64_t *ret_sectors)
{
    uint64_t bytes = 0;
    int rc = size_bytes(fd, &bytes);
    if (rc)
        return rc;
    if (bytes == 0 || bytes % DISK_SECTOR_BYTES)
        return -EINVAL;
    *ret_sectors = bytes / DISK_SECTOR_BYTES;
    return 0;
}

int disk_open(const char *path, bool read_only, int *ret_fd, uint64_t *ret_sectors, struct err *err)
{
    /* Not blocking: a FIFO of that name must not hang us before it is refused. */
    const int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY;
    CLEANUP_FD int fd = open(path, flags | O_NONBLOCK);
    if (fd < 0 && (errno == EROFS || errno == EACCES || errno == EPERM) && !read_only)
        return err_errno(err, ERR_CALLER, errno,
                         "cannot open disk %s for writing (is it read-only?)", path);
    if (fd < 0)
        return err_errno(err, ERR_CALLER, errno, "cannot open disk %s", path);

    uint64_t bytes = 0;
    int rc = size_bytes(fd, &bytes);
    if (rc == -EINVAL)
        return err_set(err, ERR_CALLER, EINVAL, "disk %s is neither a file nor a block device",
                       path);
    if (rc)
        return err_errno(err, ERR_CALLER, -rc, "cannot use disk %s", path);
    if (bytes == 0 || bytes % DISK_SECTOR_BYTES)
        return err_set(err, ERR_CALLER, EINVAL,
                       "disk %s has %llu bytes: not a positive multiple of %u (try truncate -s)",
                       path, (unsigned long long)bytes, DISK_SECTOR_BYTES);
    if (fcntl(fd, F_SETFL, flags) < 0)
        return err_errno(err, ERR_HOST, errno, "cannot use disk %s", path);
    *ret_sectors = bytes / DISK_SECTOR_BYTES;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int lock_byte(int fd, off_t byte, short type)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EBUSY : -ENOLCK;
}

int disk_lock(int fd, bool read_only, enum disk_lock how)
{
    const off_t use = 0, heir = 1;
    const short type = read_only ? F_RDLCK : F_WRLCK;
    int rc;

    if (how == DISK_HAND_OVER) {
        if (read_only)
            return 0;
        /* A machine that came by a move has the first byte only. When its source is still there with the
         * second one, that keeps strangers out as well. */
        rc = lock_byte(fd, heir, type);
        return rc == -ENOLCK ? rc : lock_byte(fd, use, F_UNLCK);
    }
    if (how == DISK_TAKE_OVER)
        return lock_byte(fd, use, type);
    rc = lock_byte(fd, heir,
                   type); /* first: who fails here never touches what a target is about to take */
    if (rc)
        return rc;
    rc = lock_byte(fd, use, type);
    if (rc)
        (void)lock_byte(fd, heir, F_UNLCK);
    return rc;
}

int disk_fingerprint(int fd, uint64_t sectors, uint64_t *ret)
{
    uint8_t block[BLOCK_BYTES];
    const uint64_t bytes = sectors * DISK_SECTOR_BYTES, blocks = bytes / BLOCK_BYTES;
    if (sectors == 0 || sectors > UINT64_MAX / DISK_SECTOR_BYTES)
        return -EINVAL;

    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return -ENOMEM;
    (void)XXH3_64bits_reset_withSeed(state, sectors);
    /* A disk of fewer blocks than samples is read whole, its odd end as well. */
    const uint64_t samples = MIN(blocks + 1, (uint64_t)SAMPLE_BLOCKS);
    int rc = 0;
    for (uint64_t i = 0; i < samples && !rc; i++) {
        uint64_t first = i * BLOCK_BYTES;
        if (samples == SAMPLE_BLOCKS && i == samples - 1)
            first = bytes - BLOCK_BYTES;
        else if (samples == SAMPLE_BLOCKS) /* divided first, so that nothing overflows */
            first = blocks / (samples - 1) * i * BLOCK_BYTES;
        size_t len = (size_t)MIN((uint64_t)BLOCK_BYTES, bytes - first);
        rc = fd_pread_full(fd, block, len, (off_t)first);
        (void)XXH3_64bits_update(state, block, len);
    }
    if (!rc)
        *ret = MAX(XXH3_64bits_digest(state), (XXH64_hash_t)1);
    (void)XXH3_freeState(state);
    return rc;
}
