#include "mem/discard.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLICE_PAGES (UINT64_C(512)) /* punched under the lock at a time */
#define PUNCH_PAGES 16 /* a system call pays from here on, measured against memset(3) */

int mem_punch(struct mem *mem, uint64_t first, uint64_t count)
{
    int rc;
    do
        rc = fallocate(mem->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       (off_t)(first * PAGE_BYTES), (off_t)(count * PAGE_BYTES));
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static void set_bits(_Atomic(uint64_t) *map, uint64_t first, uint64_t count, bool on)
{
    for (uint64_t end = first + count; first < end;) {
        uint64_t in_word = MIN(64 - first % 64, end - first);
        uint64_t bits = (in_word == 64 ? UINT64_MAX : (UINT64_C(1) << in_word) - 1) << first % 64;
        if (on)
            atomic_fetch_or(&map[first / 64], bits);
        else
            atomic_fetch_and(&map[first / 64], ~bits);
        first += in_word;
    }
}

/* The whole pages within [gpa, gpa+len). */
static int whole_pages(const struct mem *mem, gpa_t gpa, uint64_t len, uint64_t *ret_first,
                       uint64_t *ret_count)
{
    const uint8_t *at = mem_get(mem, gpa, len);
    if (!at)
        return -EFAULT;
    uint64_t offset = (uint64_t)(at - mem->host);
    *ret_first = (offset + PAGE_BYTES - 1) / PAGE_BYTES;
    uint64_t end = (offset + len) / PAGE_BYTES;
    *ret_count = end > *ret_first ? end - *ret_first : 0;
    return 0;
}

static gpa_t gpa_of_page(const struct mem *mem, uint64_t page)
{
    const struct mem_region *r = &mem->region[0];
    if (mem->region_count > 1 && page >= mem->region[1].page_index)
        r = &mem->region[1];
    return gpa_of(r->gpa + (page - r->page_index) * PAGE_BYTES);
}

/* The first page at or after `from` that holds data; mem->pages = none. Looks no further, unlike
 * mem_next_touched(), whose search for the end of the data takes as long as there is data. */
static int next_data(const struct mem *mem, uint64_t from, uint64_t *ret_page)
{
    off_t at = lseek(mem->memfd, (off_t)(from * PAGE_BYTES), SEEK_DATA);
    if (at < 0 && errno != ENXIO)
        return -errno;
    *ret_page = at < 0 ? mem->pages : (uint64_t)at / PAGE_BYTES;
    return 0;
}

/* With the lock held. Where nothing was ever written there is nothing to give back, or to tell a mover. */
static int discard(struct mem *mem, uint64_t first, uint64_t count)
{
    uint64_t data = 0, end = first + count;
    int rc = next_data(mem, first, &data);
    if (rc || data >= end)
        return rc;
    rc = mem_punch(mem, data, end - data);
    if (rc)
        return rc;
    set_bits(mem->freed, data, end - data, true);
    mem_mark(mem, gpa_of_page(mem, data), (end - data) * PAGE_BYTES);
    return 0;
}

int mem_discard(struct mem *mem, gpa_t gpa, uint64_t len, bool kept)
{
    uint64_t first, count;
    int rc = whole_pages(mem, gpa, len, &first, &count);
    while (!rc && count > 0) {
        uint64_t slice = MIN(count, SLICE_PAGES);
        (void)pthread_mutex_lock(&mem->discard_lock);
        if (!mem->kept)
            rc = discard(mem, first, slice);
        else if (kept)
            set_bits(mem->kept, first, slice, true);
        (void)pthread_mutex_unlock(&mem->discard_lock);
        first += slice;
        count -= slice;
    }
    return rc;
}

void mem_reclaim(struct mem *mem, gpa_t gpa, uint64_t len)
{
    uint64_t first, count;
    if (whole_pages(mem, gpa, len, &first, &count))
        return;
    (void)pthread_mutex_lock(&mem->discard_lock);
    if (mem->kept)
        set_bits(mem->kept, first, count, false);
    (void)pthread_mutex_unlock(&mem->discard_lock);
}

int mem_discard_hold(struct mem *mem)
{
    _Atomic(uint64_t) *kept = calloc(mem->pages / 64, sizeof(*kept));
    if (!kept)
        return -ENOMEM;
    (void)pthread_mutex_lock(&mem->discard_lock);
    ASSERT(!mem->kept);
    mem->kept = kept;
    (void)pthread_mutex_unlock(&mem->discard_lock);
    return 0;
}

/* With the lock held: gives back what is kept of [first, end). */
static int discard_kept(struct mem *mem, uint64_t first, uint64_t end)
{
    int rc = 0;
    for (uint64_t page = first; page < end && !rc;) {
        uint64_t run = 0;
        if (mem->kept[page / 64] == 0) {
            page = (page / 64 + 1) * 64;
            continue;
        }
        while (page + run < end && (mem->kept[(page + run) / 64] >> (page + run) % 64 & 1))
            run++;
        if (run)
            rc = discard(mem, page, run);
        page += run + 1;
    }
    set_bits(mem->kept, first, end - first, false);
    return rc;
}

int mem_discard_release(struct mem *mem)
{
    _Atomic(uint64_t) *kept = mem->kept;
    int rc = 0;
    if (!kept)
        return 0;
    for (uint64_t first = 0; first < mem->pages && !rc; first += SLICE_PAGES) {
        (void)pthread_mutex_lock(&mem->discard_lock);
        rc = discard_kept(mem, first, first + SLICE_PAGES); /* memory comes in 2 MiB */
        (void)pthread_mutex_unlock(&mem->discard_lock);
    }
    /* Once more, for what came in behind the walk, and the hold ends in the same breath. */
    (void)pthread_mutex_lock(&mem->discard_lock);
    if (!rc)
        rc = discard_kept(mem, 0, mem->pages);
    mem->kept = NULL;
    (void)pthread_mutex_unlock(&mem->discard_lock);
    free(kept);
    return rc;
}

uint64_t mem_freed_among(const struct mem *mem, uint64_t first, uint64_t bits)
{
    return bits & atomic_load_explicit(&mem->freed[first / 64], memory_order_relaxed);
}

uint64_t mem_freed_holes(struct mem *mem, uint64_t first, uint64_t bits)
{
    uint64_t freed = mem_freed_among(mem, first, bits), data = 0;
    if (!freed)
        return 0;
    /* Cleared before the look: a discard that comes now sets its bits for good. */
    (void)atomic_fetch_and(&mem->freed[first / 64], ~freed);
    for (uint64_t at = first;; at++) {
        int rc = next_data(mem, at, &at);
        if (rc)
            return 0; /* they are read, and found zero */
        if (at >= first + 64)
            break;
        data |= UINT64_C(1) << (at - first);
    }
    freed &= ~data;
    (void)atomic_fetch_or(&mem->freed[first / 64], freed);
    return freed;
}
