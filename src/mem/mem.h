/*
 * Guest memory: one open layer, a memory file mapped shared and seen by the guest at up to two places.
 *
 *   guest physical   0 ........ MEM_LOW_MAX   [hole: MMIO, APICs]   4 GiB .........
 *   file offset      0 ........ low_bytes ............................. bytes
 *
 * A *page index* counts pages of 4 KiB in file order: the unit of dirty bitmaps and of the stream.
 *
 * The file is made of large pages (2 MiB) where the host lets us, which saves the guest's page walks and a mover's
 * page faults, or of small ones. Large pages make the holes of the file coarser, nothing else: a page that was never
 * touched may share a large page with one that was, and reads as zeroes. Whoever needs to know what is missing, page
 * by page (post-copy's target, uffd.h), wants small ones.
 *
 * Threads: the layout never changes after mem_init(); mem_get() and mem_mark() may be called from any
 * thread. What the bytes hold is the guest's business and changes under the reader at any time: read
 * a guest value once, then check the copy.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "base/gpa.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEM_MIN_BYTES (UINT64_C(64) << 20)
#define MEM_MAX_BYTES (UINT64_C(1) << 40)
#define MEM_LOW_MAX UINT64_C(0xc0000000) /* RAM below this; the rest starts at 4 GiB */
#define MEM_HIGH_GPA UINT64_C(0x100000000)

struct mem_region {
    uint64_t gpa;        /* first guest physical address */
    uint64_t bytes;      /* multiple of PAGE_BYTES */
    uint64_t page_index; /* of its first page */
};

#define MEM_LARGE_BYTES (UINT64_C(2) << 20) /* of a large page; the mapping is aligned to it */

enum mem_pages { MEM_PAGES_SMALL = 1, MEM_PAGES_LARGE };

struct mem {
    int memfd; /* of a tmpfs, in any case */
    enum mem_pages page_size;
    uint8_t *host; /* the whole file, mapped shared */
    uint64_t bytes, pages;
    struct mem_region region[2];
    unsigned region_count;
    /* Pages written by the monitor (devices, loaders) since the last harvest, one bit a page index.
     * KVM's dirty log does not see these. NULL = nobody is tracking. */
    _Atomic(uint64_t) *_Atomic marks;
    atomic_uint markers; /* threads inside mem_mark() */

    /* Of mem/discard.h: pages the guest gave back that may still be holes, one bit a page index; those to
     * be given back once the hold ends (NULL = none holds), under the lock. */
    _Atomic(uint64_t) *freed, *kept;
    pthread_mutex_t discard_lock;
};

/* `bytes`: a multiple of 2 MiB within MEM_MIN_BYTES..MEM_MAX_BYTES (ERR_CALLER otherwise). `pages`: what is wanted;
 * mem->page_size is what it became, small where the host has no large ones or no right to make a tmpfs. */
int mem_init(struct mem *mem, uint64_t bytes, enum mem_pages pages, struct err *err) MUST_CHECK;
void mem_fini(struct mem *mem);

/* Host address of guest bytes [gpa, gpa+len), or NULL unless all of it is RAM of one region.
 * len 0 is allowed wherever gpa is RAM. Whoever writes through it calls mem_mark() *after* the bytes
 * are in place, else a move may miss them. */
void *mem_get(const struct mem *mem, gpa_t gpa, uint64_t len) MUST_CHECK;

/* Notes that the monitor wrote [gpa, gpa+len); the range must have passed mem_get(). */
void mem_mark(struct mem *mem, gpa_t gpa, uint64_t len);

/* Starts and ends the collection of marks in `marks` (one bit a page index, zeroed, the caller's).
 * mem_untrack() returns once no thread can still be writing to it. */
void mem_track(struct mem *mem, _Atomic(uint64_t) *marks);
void mem_untrack(struct mem *mem);

/* Checked copies; -EFAULT if the range is not RAM. mem_write() marks. */
int mem_read(const struct mem *mem, gpa_t gpa, void *buf, size_t len) MUST_CHECK;
int mem_write(struct mem *mem, gpa_t gpa, const void *buf, size_t len) MUST_CHECK;

/* The page index of a RAM address, and the host address of a page index (< mem->pages). */
int mem_page_index(const struct mem *mem, gpa_t gpa, uint64_t *ret_index) MUST_CHECK;
static inline uint8_t *mem_page(const struct mem *mem, uint64_t index)
{
    return mem->host + index * PAGE_BYTES;
}

/* Finds the next run of pages at or after `from` that was ever touched: [*ret_first, *ret_end).
 * -ENXIO: none left. Costs one or two seeks, whatever the size of the hole. */
int mem_next_touched(const struct mem *mem, uint64_t from, uint64_t *ret_first,
                     uint64_t *ret_end) MUST_CHECK;

/* Sees to it that these pages hold memory and are mapped, for a mover that is about to write to them: then a write
 * cannot fail. -ENOMEM, or -EFAULT where the kernel has none; -EINVAL before Linux 5.14. */
int mem_provide(const struct mem *mem, uint64_t first, uint64_t count) MUST_CHECK;

/* Whether each page of the large page that `page` lies in holds memory. */
#define MEM_LARGE_PAGES (MEM_LARGE_BYTES / PAGE_BYTES)
bool mem_is_whole(const struct mem *mem, uint64_t page) MUST_CHECK;

/* Pages that hold memory now. */
uint64_t mem_resident_pages(const struct mem *mem);
