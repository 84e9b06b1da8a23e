/*
 * Makes one call of the C library fail, in a process it is loaded into (LD_PRELOAD):
 *
 *     GODWIT_FAIL=NAME:ERRNO:PATH     once PATH exists, the first call of NAME fails with that number; PATH is then
 *                                     removed, so that it happens once and the test knows that it did
 *
 * NAME may be that of a request of ioctl(2); NAME+N: the first N calls are let through.
 *
 * Only what can be made to fail without having been done: a call that fails here has no effect.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char wanted[32], path[512];
static int number;
static atomic_bool spent;
static atomic_int let_through;

__attribute__((constructor)) static void set_up(void)
{
    const char *order = getenv("GODWIT_FAIL");
    if (!order || sscanf(order, "%31[^:]:%d:%511[^\n]", wanted, &number, path) != 3)
        wanted[0] = '\0';
    char *plus = strchr(wanted, '+');
    if (plus) {
        *plus = '\0';
        let_through = atoi(plus + 1);
    }
}

static int fails(const char *name)
{
    if (!wanted[0] || atomic_load(&spent) || strcmp(name, wanted) != 0 || access(path, F_OK) != 0 ||
        atomic_fetch_sub(&let_through, 1) > 0 || atomic_exchange(&spent, true))
        return 0;
    (void)unlink(path);
    errno = number;
    return 1;
}

/* The next definition of a symbol, as a function of this one's type. */
#define NEXT(name)                               \
    static __typeof__(&name) next_;              \
    if (!next_) {                                \
        void *symbol_ = dlsym(RTLD_NEXT, #name); \
        memcpy(&next_, &symbol_, sizeof(next_)); \
    }

#define WRAP(type, failure, name, params, args)       \
    type name params                                  \
    {                                                 \
        NEXT(name)                                    \
        return fails(#name) ? (failure) : next_ args; \
    }

WRAP(int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(int, -1, ftruncate64, (int fd, off64_t len), (fd, len))
WRAP(void *, MAP_FAILED, mmap64,
     (void *at, size_t len, int prot, int flags, int fd, off64_t offset),
     (at, len, prot, flags, fd, offset))
WRAP(int, -1, eventfd, (unsigned value, int flags), (value, flags))
WRAP(int, -1, timerfd_create, (int clock, int flags), (clock, flags))
WRAP(int, -1, epoll_ctl, (int epoll, int op, int fd, struct epoll_event *event),
     (epoll, op, fd, event))
WRAP(int, -1, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(int, -1, setsockopt, (int fd, int level, int name, const void *value, socklen_t len),
     (fd, level, name, value, len))
WRAP(ssize_t, -1, send, (int fd, const void *buf, size_t len, int flags), (fd, buf, len, flags))
WRAP(ssize_t, -1, sendmsg, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags))
WRAP(ssize_t, -1, recv, (int fd, void *buf, size_t len, int flags), (fd, buf, len, flags))
WRAP(ssize_t, -1, write, (int fd, const void *buf, size_t len), (fd, buf, len))
WRAP(ssize_t, -1, writev, (int fd, const struct iovec *iov, int count), (fd, iov, count))
WRAP(ssize_t, -1, pwrite64, (int fd, const void *buf, size_t len, off64_t offset),
     (fd, buf, len, offset))
WRAP(off64_t, -1, lseek64, (int fd, off64_t offset, int whence), (fd, offset, whence))
WRAP(int, -1, fsync, (int fd), (fd))
WRAP(int, -1, rename, (const char *from, const char *to), (from, to))
WRAP(int, number, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg),
     (thread, attr, fn, arg))
WRAP(int, -1, renameat2, (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags))
WRAP(int, -1, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(int, -1, fallocate64, (int fd, int mode, off64_t offset, off64_t len), (fd, mode, offset, len))
WRAP(ssize_t, -1, readv, (int fd, const struct iovec *iov, int count), (fd, iov, count))
WRAP(void *, NULL, realloc, (void *at, size_t size), (at, size))
WRAP(void *, NULL, aligned_alloc, (size_t align, size_t size), (align, size))
WRAP(ssize_t, -1, getrandom, (void *buf, size_t len, unsigned flags), (buf, len, flags))

/* What looks up the next definition of these calls them itself. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);

void *malloc(size_t size)
{
    return fails("malloc") ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails("calloc") ? NULL : __libc_calloc(count, size);
}

#define REQUEST(name) \
    {                 \
        name, #name   \
    }
static const struct {
    unsigned long request;
    const char *name;
} requests[] = {
    REQUEST(KVM_CHECK_EXTENSION),
    REQUEST(KVM_CLEAR_DIRTY_LOG),
    REQUEST(KVM_CREATE_IRQCHIP),
    REQUEST(KVM_CREATE_VCPU),
    REQUEST(KVM_CREATE_VM),
    REQUEST(KVM_ENABLE_CAP),
    REQUEST(KVM_GET_CLOCK),
    REQUEST(KVM_GET_DEBUGREGS),
    REQUEST(KVM_GET_DIRTY_LOG),
    REQUEST(KVM_GET_IRQCHIP),
    REQUEST(KVM_GET_LAPIC),
    REQUEST(KVM_GET_MP_STATE),
    REQUEST(KVM_GET_MSRS),
    REQUEST(KVM_GET_REGS),
    REQUEST(KVM_GET_SREGS),
    REQUEST(KVM_GET_STATS_FD),
    REQUEST(KVM_GET_SUPPORTED_CPUID),
    REQUEST(KVM_GET_TSC_KHZ),
    REQUEST(KVM_GET_VCPU_EVENTS),
    REQUEST(KVM_GET_VCPU_MMAP_SIZE),
    REQUEST(KVM_GET_XCRS),
    REQUEST(KVM_GET_XSAVE),
    REQUEST(KVM_GET_XSAVE2),
    REQUEST(KVM_IOEVENTFD),
    REQUEST(KVM_IRQFD),
    REQUEST(KVM_IRQ_LINE),
    REQUEST(KVM_KVMCLOCK_CTRL),
    REQUEST(KVM_RUN),
    REQUEST(KVM_SET_CLOCK),
    REQUEST(KVM_SET_CPUID2),
    REQUEST(KVM_SET_DEBUGREGS),
    REQUEST(KVM_SET_IDENTITY_MAP_ADDR),
    REQUEST(KVM_SET_IRQCHIP),
    REQUEST(KVM_SET_LAPIC),
    REQUEST(KVM_SET_MP_STATE),
    REQUEST(KVM_SET_MSRS),
    REQUEST(KVM_SET_REGS),
    REQUEST(KVM_SET_SREGS),
    REQUEST(KVM_SET_TSC_KHZ),
    REQUEST(KVM_SET_TSS_ADDR),
    REQUEST(KVM_SET_USER_MEMORY_REGION),
    REQUEST(KVM_SET_VCPU_EVENTS),
    REQUEST(KVM_SET_XCRS),
    REQUEST(KVM_SET_XSAVE),
    REQUEST(UFFDIO_API),
    REQUEST(UFFDIO_COPY),
    REQUEST(UFFDIO_REGISTER),
    REQUEST(UFFDIO_UNREGISTER),
    REQUEST(UFFDIO_WAKE),
    REQUEST(UFFDIO_ZEROPAGE),
};

static const char *request_name(unsigned long request)
{
    for (size_t i = 0; i < sizeof(requests) / sizeof(*requests); i++)
        if (requests[i].request == request)
            return requests[i].name;
    return "";
}

/* Whatever follows the request is one word. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    NEXT(ioctl)
    return wanted[0] && fails(request_name(request)) ? -1 : next_(fd, request, arg);
}

/* open(2) and openat(2) take a mode only when they create. */
int open64(const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    unsigned mode = va_arg(ap, unsigned);
    va_end(ap);
    NEXT(open64)
    return fails("open64") ? -1 : next_(name, flags, mode);
}

int openat64(int dir, const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    unsigned mode = va_arg(ap, unsigned);
    va_end(ap);
    NEXT(openat64)
    return fails("openat64") ? -1 : next_(dir, name, flags, mode);
}
