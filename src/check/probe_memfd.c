/*
 * What guest memory is made of: memfds with holes, and userfaultfd over them.
 *
 * The userfaultfd probes map one memfd twice, as a post-copy target would: `view` is registered, `alias`
 * is the monitor's way round it. A thread answers the one fault the main thread provokes on the view.
 */
#include "base/fd.h"
#include "base/gpa.h"
#include "check/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGES 64

static int make_memfd(uint8_t **ret_view)
{
    int fd = memfd_create("probe", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, PAGES * (off_t)PAGE_BYTES) < 0)
        return -1;
    *ret_view = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return *ret_view == MAP_FAILED ? -1 : fd;
}

void probe_memfd_holes(struct probe_result *ret)
{
    uint8_t *view;
    int fd = make_memfd(&view);
    if (fd < 0) {
        probe_no(ret, "cannot create a memfd: %s", strerror(errno));
        return;
    }
    if (lseek(fd, 0, SEEK_DATA) >= 0 || errno != ENXIO) {
        probe_wrong(ret, "a new memfd claims to hold data");
        return;
    }
    static const off_t written[] = { 3, 4, 40 };
    static const struct {
        off_t from, data, hole;
    } seeks[] = { { 0, 3, 5 }, { 4, 4, 5 }, { 5, 40, 41 } };
    for (size_t i = 0; i < ARRAY_LEN(written); i++)
        view[written[i] * (off_t)PAGE_BYTES + 100] = 1;
    for (size_t i = 0; i < ARRAY_LEN(seeks); i++) {
        off_t data = lseek(fd, seeks[i].from * (off_t)PAGE_BYTES, SEEK_DATA);
        off_t hole = lseek(fd, data, SEEK_HOLE);
        /* Large pages may widen a run, but none may begin late or end early. */
        if (data < 0 || hole < 0 || data > seeks[i].data * (off_t)PAGE_BYTES ||
            hole < seeks[i].hole * (off_t)PAGE_BYTES) {
            probe_wrong(ret, "SEEK_DATA passes over a page that was written");
            return;
        }
    }
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGES * (off_t)PAGE_BYTES) <
            0 ||
        lseek(fd, 0, SEEK_DATA) >= 0 || view[3 * PAGE_BYTES + 100] != 0) {
        probe_wrong(ret, "a punched page does not become a hole of zeroes");
        return;
    }
    probe_yes(ret, NULL,
              "untouched pages are holes, written pages are data, punched pages are holes again");
}

struct uffd {
    int fd;
    uint8_t *view, *alias;
    uint64_t mode;       /* UFFDIO_REGISTER_MODE_* */
    uint64_t want_flags; /* UFFD_PAGEFAULT_FLAG_* of the fault */
    bool answered;
};

/* A descriptor that also serves faults of the kernel, as KVM's are. */
static int uffd_open(void)
{
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0)
        return ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
    return (int)syscall(SYS_userfaultfd, O_CLOEXEC);
}

static bool uffd_start(struct uffd *u, uint64_t feature, struct probe_result *ret)
{
    u->fd = uffd_open();
    if (u->fd < 0) {
        probe_no(ret, "userfaultfd: %s", strerror(errno));
        return false;
    }
    struct uffdio_api api = { .api = UFFD_API, .features = feature };
    if (ioctl(u->fd, UFFDIO_API, &api) < 0) {
        probe_no(ret, "this kernel's userfaultfd lacks the feature: %s", strerror(errno));
        return false;
    }
    int memfd = make_memfd(&u->view);
    u->alias = memfd < 0
                   ? MAP_FAILED
                   : mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (u->alias == MAP_FAILED) {
        probe_no(ret, "cannot create a memfd: %s", strerror(errno));
        return false;
    }
    if (u->mode != UFFDIO_REGISTER_MODE_MISSING)
        u->alias[0] = 0x77;
    if (u->mode == UFFDIO_REGISTER_MODE_WP)
        u->view[1] = 0; /* mapped in the view, so that there is an entry to protect */
    struct uffdio_register reg = { .range = { (uintptr_t)u->view, PAGES * PAGE_BYTES },
                                   .mode = u->mode };
    if (ioctl(u->fd, UFFDIO_REGISTER, &reg) < 0) {
        probe_no(ret, "shared memory cannot be registered: %s", strerror(errno));
        return false;
    }
    return true;
}

static void *answer_one(void *arg)
{
    struct uffd *u = arg;
    static uint8_t page[PAGE_BYTES];
    struct uffd_msg msg;
    struct uffdio_range range = { (uintptr_t)u->view, PAGE_BYTES };
    struct uffdio_copy copy = { .dst = (uintptr_t)u->view,
                                .src = (uintptr_t)page,
                                .len = PAGE_BYTES };
    struct uffdio_continue go_on = { .range = range };
    struct uffdio_writeprotect unprotect = { .range = range };
    memset(page, 0x5a, sizeof(page));
    if (fd_read_full(u->fd, &msg, sizeof(msg)) || msg.event != UFFD_EVENT_PAGEFAULT ||
        (msg.arg.pagefault.flags & u->want_flags) != u->want_flags ||
        (msg.arg.pagefault.address & ~(PAGE_BYTES - 1)) != (uintptr_t)u->view)
        return NULL; /* the main thread stays where it is, and time runs out */
    if (u->mode == UFFDIO_REGISTER_MODE_MISSING)
        u->answered = ioctl(u->fd, UFFDIO_COPY, &copy) == 0;
    else if (u->mode == UFFDIO_REGISTER_MODE_MINOR)
        u->answered = ioctl(u->fd, UFFDIO_CONTINUE, &go_on) == 0;
    else
        u->answered = ioctl(u->fd, UFFDIO_WRITEPROTECT, &unprotect) == 0;
    return NULL;
}

static void fault_once(struct uffd *u, uint8_t want, bool write, const char *good,
                       struct probe_result *ret)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer_one, u)) {
        probe_wrong(ret, "cannot start a thread");
        return;
    }
    volatile uint8_t *page = u->view;
    uint8_t got = want;
    if (write)
        page[0] = want;
    else
        got = page[0];
    (void)pthread_join(thread, NULL);
    if (!u->answered)
        probe_wrong(ret, "the fault came, and could not be resolved");
    else if (got != want || (write && u->alias[0] != want))
        probe_wrong(ret, "the page holds 0x%02x and not 0x%02x after the fault", got, want);
    else
        probe_yes(ret, NULL, "%s", good);
}

void probe_uffd_missing(struct probe_result *ret)
{
    struct uffd u = { .mode = UFFDIO_REGISTER_MODE_MISSING };
    if (uffd_start(&u, UFFD_FEATURE_MISSING_SHMEM, ret))
        fault_once(&u, 0x5a, false, "the first touch of a shared page waited for its contents",
                   ret);
}

void probe_uffd_minor(struct probe_result *ret)
{
    struct uffd u = { .mode = UFFDIO_REGISTER_MODE_MINOR, .want_flags = UFFD_PAGEFAULT_FLAG_MINOR };
    if (uffd_start(&u, UFFD_FEATURE_MINOR_SHMEM, ret))
        fault_once(&u, 0x77, false,
                   "a page written through one mapping was held back in the other until released",
                   ret);
}

void probe_uffd_wp(struct probe_result *ret)
{
    struct uffd u = { .mode = UFFDIO_REGISTER_MODE_WP, .want_flags = UFFD_PAGEFAULT_FLAG_WP };
    if (!uffd_start(&u, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM, ret))
        return;
    struct uffdio_writeprotect protect = { .range = { (uintptr_t)u.view, PAGE_BYTES },
                                           .mode = UFFDIO_WRITEPROTECT_MODE_WP };
    if (ioctl(u.fd, UFFDIO_WRITEPROTECT, &protect) < 0)
        probe_wrong(ret, "a shared page cannot be write-protected: %s", strerror(errno));
    else
        fault_once(&u, 0x33, true, "a write to a protected shared page waited until it was allowed",
                   ret);
}
