/*
 * userfaultfd over guest memory: an access to a page that is not there yet waits until somebody places it.
 *
 * All of the guest's mapping is registered for *missing* faults, the kernel's own accesses included (KVM,
 * io_uring, O_DIRECT): whoever touches a hole of the memory file sleeps, until uffd_copy() or uffd_zero() fills
 * it, whole, and wakes them. A page that is in the file already is mapped without a question, so a stale page
 * must be punched out before uffd_open().
 *
 * The rules that keep a guest from reading what it must not:
 *  - Once anybody may touch guest memory, pages come by uffd_copy() only. A write(2) to the file would make a
 *    page visible before its bytes are in.
 *  - The descriptor is closed only when nothing is missing (uffd_close()), or nobody will ever run the guest:
 *    closing it gives every sleeper a page of zeroes. A process that must end with sleepers calls _exit().
 *
 * Threads: place from any thread; read from one.
 */
#pragma once
#include "mem/mem.h"

struct uffd {
    int fd; /* owned; -1 = none */
    struct mem *mem;
};

#define UFFD_NONE ((struct uffd){ .fd = -1 })

/* A descriptor that also serves faults taken in the kernel: of /dev/userfaultfd where it can be opened, else
 * of the system call. -errno. */
int uffd_new(void) MUST_CHECK;

/* Whether this host lets this process fetch guest memory on demand, tried on a page of its own. */
int uffd_check(struct err *err) MUST_CHECK;

/* From here on, accesses to holes of guest memory wait. */
int uffd_open(struct uffd *uffd, struct mem *mem, struct err *err) MUST_CHECK;

/* Ends it: whoever still sleeps goes on, and finds zeroes where the file has a hole. */
void uffd_close(struct uffd *uffd);

/* The page index of the next access that waits; -EAGAIN: none. Never blocks; `fd` polls readable. */
int uffd_read(struct uffd *uffd, uint64_t *ret_page) MUST_CHECK;

/* Fills up to `count` pages from `first` on and wakes whoever waits for them: *ret_count of them, at least one.
 * -EEXIST: the first one is there already, and whoever waits for it was woken; other -errno: the host cannot. While it
 * has no memory, it is asked again for 5 s. */
int uffd_copy(struct uffd *uffd, uint64_t first, uint64_t count, const void *data,
              uint64_t *ret_count) MUST_CHECK;
int uffd_zero(struct uffd *uffd, uint64_t first, uint64_t count, uint64_t *ret_count) MUST_CHECK;
