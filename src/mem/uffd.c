#include "mem/uffd.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int uffd_new(void)
{
    CLEANUP_FD int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)
                         : (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* Opens and registers [at, at + bytes). */
static int open_over(void *at, uint64_t bytes, int *ret_fd)
{
    CLEANUP_FD int fd = uffd_new();
    if (fd < 0)
        return fd;
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM };
    struct uffdio_register reg = { .range = { (uintptr_t)at, bytes },
                                   .mode = UFFDIO_REGISTER_MODE_MISSING };
    if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
        return -errno;
    uint64_t wanted = UINT64_C(1) << _UFFDIO_COPY | UINT64_C(1) << _UFFDIO_ZEROPAGE;
    if ((reg.ioctls & wanted) != wanted)
        return -ENOTSUP;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int explain(int rc, struct err *err)
{
    if (rc == -EPERM || rc == -EACCES)
        return err_errno(err, ERR_HOST, -rc,
                         "userfaultfd is not allowed here: give access to /dev/userfaultfd, or "
                         "CAP_SYS_PTRACE");
    return err_errno(err, ERR_HOST, -rc, "userfaultfd does not serve shared memory here");
}

int uffd_check(struct err *err)
{
    CLEANUP_FD int memfd = memfd_create("probe", MFD_CLOEXEC), fd = -1;
    if (memfd < 0 || ftruncate(memfd, PAGE_BYTES) < 0)
        return err_errno(err, ERR_HOST, errno, "cannot create a memfd");
    void *at = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (at == MAP_FAILED)
        return err_errno(err, ERR_HOST, errno, "cannot map a memfd");
    int rc = open_over(at, PAGE_BYTES, &fd);
    fd_close(&fd);
    (void)munmap(at, PAGE_BYTES);
    return rc ? explain(rc, err) : 0;
}

int uffd_open(struct uffd *uffd, struct mem *mem, struct err *err)
{
    *uffd = (struct uffd){ .fd = -1, .mem = mem };
    int rc = open_over(mem->host, mem->bytes, &uffd->fd);
    return rc ? explain(rc, err) : 0;
}

void uffd_close(struct uffd *uffd)
{
    if (uffd->fd < 0)
        return;
    struct uffdio_range range = { (uintptr_t)uffd->mem->host, uffd->mem->bytes };
    (void)ioctl(uffd->fd, UFFDIO_UNREGISTER, &range); /* or closing does it */
    fd_close(&uffd->fd);
}

int uffd_read(struct uffd *uffd, uint64_t *ret_page)
{
    for (;;) {
        struct uffd_msg msg;
        ssize_t n = read(uffd->fd, &msg, sizeof(msg));
        if (n < 0 && errno == EINTR)
            continue;
        if (n != (ssize_t)sizeof(msg))
            return n < 0 ? -errno : -EAGAIN;
        if (msg.event != UFFD_EVENT_PAGEFAULT)
            continue;
        *ret_page = (msg.arg.pagefault.address - (uintptr_t)uffd->mem->host) / PAGE_BYTES;
        return 0;
    }
}

#define NO_MEMORY_NS (5 * CLOCK_SECOND) /* a guest waits sooner than it dies */
#define NO_MEMORY_PAUSE_NS (10 * CLOCK_MSEC)

/* Of what an ioctl that fills pages returned: `done` is the bytes it filled, or -errno. -EAGAIN: again. The mappings were
 * being changed, which they are not for long; or the host is out of memory, which it may not be for long. */
static int outcome(int failed, int64_t done, uint64_t began_ns, uint64_t *ret_count)
{
    if (done > 0) {
        *ret_count = (uint64_t)done / PAGE_BYTES;
        return 0;
    }
    if (failed == ENOMEM && clock_now_ns() - began_ns < NO_MEMORY_NS) {
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0,
                              &(struct timespec){ .tv_nsec = NO_MEMORY_PAUSE_NS }, NULL);
        return -EAGAIN;
    }
    if (failed == EAGAIN)
        (void)sched_yield();
    return -failed;
}

/* The page came to be there between two looks: who waits for it may look again. */
static void wake(struct uffd *uffd, uint64_t page)
{
    struct uffdio_range range = { (uintptr_t)mem_page(uffd->mem, page), PAGE_BYTES };
    (void)ioctl(uffd->fd, UFFDIO_WAKE, &range);
}

int uffd_copy(struct uffd *uffd, uint64_t first, uint64_t count, const void *data,
              uint64_t *ret_count)
{
    uint64_t began_ns = clock_now_ns();
    int rc;
    do {
        struct uffdio_copy copy = { .dst = (uintptr_t)mem_page(uffd->mem, first),
                                    .src = (uintptr_t)data,
                                    .len = count * PAGE_BYTES };
        int failed = ioctl(uffd->fd, UFFDIO_COPY, &copy) < 0 ? errno : 0;
        rc = outcome(failed, copy.copy, began_ns, ret_count);
    } while (rc == -EAGAIN);
    if (rc == -EEXIST)
        wake(uffd, first);
    return rc;
}

int uffd_zero(struct uffd *uffd, uint64_t first, uint64_t count, uint64_t *ret_count)
{
    uint64_t began_ns = clock_now_ns();
    int rc;
    do {
        struct uffdio_zeropage zero = { .range = { (uintptr_t)mem_page(uffd->mem, first),
                                                   count * PAGE_BYTES } };
        int failed = ioctl(uffd->fd, UFFDIO_ZEROPAGE, &zero) < 0 ? errno : 0;
        rc = outcome(failed, zero.zeropage, began_ns, ret_count);
    } while (rc == -EAGAIN);
    if (rc == -EEXIST)
        wake(uffd, first);
    return rc;
}
