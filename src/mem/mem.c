#include "mem/mem.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define GRANULE MEM_LARGE_BYTES

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* A file on a tmpfs that is mounted nowhere and lives as long as the file. Its pages are as this mount says; those of a
 * memfd are as a setting of the whole host says, which is "small" nearly everywhere. -errno: an old kernel (before
 * 5.2), one without large pages, or no right to mount. */
static int open_tmpfs(const char *huge)
{
    CLEANUP_FD int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "huge", huge, 0) < 0 ||
        fsconfig(fs, FSCONFIG_SET_STRING, "size", "0", 0) < 0 || /* no limit of its own */
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -errno;
    CLEANUP_FD int root = fsmount(fs, FSMOUNT_CLOEXEC, 0);
    int fd = root < 0 ? -1 : openat(root, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

static int open_file(struct mem *mem, enum mem_pages pages)
{
    mem->page_size = pages;
    mem->memfd = open_tmpfs(pages == MEM_PAGES_LARGE ? "within_size" : "never");
    if (mem->memfd >= 0)
        return 0;
    mem->page_size = MEM_PAGES_SMALL;
    mem->memfd = memfd_create("guest-ram", MFD_CLOEXEC);
    return mem->memfd < 0 ? -errno : 0;
}

/* Where a large page of the file can be one of the mapping: aligned. */
static void *map_file(int fd, uint64_t bytes)
{
    uint8_t *room =
        mmap(NULL, bytes + GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    size_t before = -(uintptr_t)room % GRANULE;
    if (before)
        (void)munmap(room, before);
    (void)munmap(room + before + bytes, GRANULE - before);
    void *host = mmap(room + before, bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (host == MAP_FAILED)
        (void)munmap(room + before, bytes);
    return host;
}

int mem_init(struct mem *mem, uint64_t bytes, enum mem_pages pages, struct err *err)
{
    *mem = (struct mem){ .memfd = -1 };
    if (bytes < MEM_MIN_BYTES || bytes > MEM_MAX_BYTES || bytes % GRANULE)
        return err_set(err, ERR_CALLER, EINVAL,
                       "memory size %llu bytes is not a multiple of 2M between 64M and 1T",
                       (unsigned long long)bytes);

    (void)pthread_mutex_init(&mem->discard_lock, NULL); /* cannot fail with default attributes */
    mem->freed = calloc(bytes / PAGE_BYTES / 64, sizeof(*mem->freed));
    int rc = mem->freed ? open_file(mem, pages) : -ENOMEM;
    if (!rc && ftruncate(mem->memfd, (off_t)bytes) < 0)
        rc = -errno;
    if (rc) {
        mem_fini(mem);
        return err_errno(err, ERR_HOST, -rc, "cannot create guest memory");
    }
    void *host = map_file(mem->memfd, bytes);
    if (host == MAP_FAILED) {
        rc = err_errno(err, ERR_HOST, errno, "cannot map %llu MiB of guest memory",
                       (unsigned long long)(bytes >> 20));
        mem_fini(mem);
        return rc;
    }
    mem->host = host;
    mem->bytes = bytes;
    mem->pages = bytes / PAGE_BYTES;

    uint64_t low = MIN(bytes, MEM_LOW_MAX);
    mem->region[mem->region_count++] = (struct mem_region){ .gpa = 0, .bytes = low };
    if (bytes > low)
        mem->region[mem->region_count++] = (struct mem_region){ .gpa = MEM_HIGH_GPA,
                                                                .bytes = bytes - low,
                                                                .page_index = low / PAGE_BYTES };
    return 0;
}

void mem_fini(struct mem *mem)
{
    if (mem->host)
        (void)munmap(mem->host, mem->bytes);
    if (mem->memfd >= 0)
        (void)close(mem->memfd);
    if (mem->freed)
        (void)pthread_mutex_destroy(&mem->discard_lock);
    free(mem->freed);
    free(mem->kept);
    *mem = (struct mem){ .memfd = -1 };
}

static const struct mem_region *find(const struct mem *mem, uint64_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < mem->region_count; i++) {
        const struct mem_region *r = &mem->region[i];
        if (gpa >= r->gpa && gpa - r->gpa < r->bytes)
            return len <= r->bytes - (gpa - r->gpa) ? r : NULL;
    }
    return NULL;
}

static uint64_t offset_in_file(const struct mem_region *r, uint64_t gpa)
{
    return r->page_index * PAGE_BYTES + (gpa - r->gpa);
}

void *mem_get(const struct mem *mem, gpa_t gpa, uint64_t len)
{
    const struct mem_region *r = find(mem, gpa.raw, len);
    return r ? mem->host + offset_in_file(r, gpa.raw) : NULL;
}

void mem_mark(struct mem *mem, gpa_t gpa, uint64_t len)
{
    /* The bytes before the look at `marks`; with mem_track()'s store before the mover's look at the
     * bytes, one of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&mem->marks, memory_order_relaxed))
        return;
    const struct mem_region *r = find(mem, gpa.raw, len);
    if (!r || len == 0)
        return;
    /* Announced before the pointer is read again: mem_untrack() waits for whoever may hold it. */
    atomic_fetch_add(&mem->markers, 1);
    _Atomic(uint64_t) *marks = atomic_load(&mem->marks);
    uint64_t first = offset_in_file(r, gpa.raw) >> PAGE_SHIFT;
    uint64_t last = (offset_in_file(r, gpa.raw) + len - 1) >> PAGE_SHIFT;
    for (uint64_t page = first; marks && page <= last; page++)
        atomic_fetch_or_explicit(&marks[page / 64], UINT64_C(1) << (page % 64),
                                 memory_order_release);
    atomic_fetch_sub(&mem->markers, 1);
}

void mem_track(struct mem *mem, _Atomic(uint64_t) *marks)
{
    atomic_store(&mem->marks, marks);
}

void mem_untrack(struct mem *mem)
{
    atomic_store(&mem->marks, NULL);
    while (atomic_load(&mem->markers) > 0)
        sched_yield(); /* at most the few instructions of one mem_mark() */
}

int mem_read(const struct mem *mem, gpa_t gpa, void *buf, size_t len)
{
    const void *from = mem_get(mem, gpa, len);
    if (!from)
        return -EFAULT;
    memcpy(buf, from, len);
    return 0;
}

int mem_write(struct mem *mem, gpa_t gpa, const void *buf, size_t len)
{
    void *to = mem_get(mem, gpa, len);
    if (!to)
        return -EFAULT;
    memcpy(to, buf, len);
    mem_mark(mem, gpa, len);
    return 0;
}

int mem_page_index(const struct mem *mem, gpa_t gpa, uint64_t *ret_index)
{
    const struct mem_region *r = find(mem, gpa.raw, 0);
    if (!r)
        return -EFAULT;
    *ret_index = offset_in_file(r, gpa.raw) >> PAGE_SHIFT;
    return 0;
}

int mem_next_touched(const struct mem *mem, uint64_t from, uint64_t *ret_first, uint64_t *ret_end)
{
    if (from >= mem->pages)
        return -ENXIO;
    off_t data = lseek(mem->memfd, (off_t)(from * PAGE_BYTES), SEEK_DATA);
    if (data < 0)
        return -errno;
    off_t hole = lseek(mem->memfd, data, SEEK_HOLE);
    if (hole < 0)
        return -errno;
    *ret_first = (uint64_t)data / PAGE_BYTES;
    *ret_end = ((uint64_t)hole + PAGE_BYTES - 1) / PAGE_BYTES;
    return 0;
}

int mem_provide(const struct mem *mem, uint64_t first, uint64_t count)
{
    return madvise(mem_page(mem, first), count * PAGE_BYTES, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

bool mem_is_whole(const struct mem *mem, uint64_t page)
{
    unsigned char there[MEM_LARGE_PAGES];
    if (mincore(mem_page(mem, page - page % MEM_LARGE_PAGES), MEM_LARGE_BYTES, there) < 0)
        return false;
    for (size_t i = 0; i < MEM_LARGE_PAGES; i++)
        if (!(there[i] & 1))
            return false;
    return true;
}

uint64_t mem_resident_pages(const struct mem *mem)
{
    struct stat st;
    return fstat(mem->memfd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512 / PAGE_BYTES;
}
