/* Kernel images: ELF with its notes, bzImage, and payloads packed in each way. A refused file leaves memory as it was;
 * an accepted one has its entry in RAM, below what is promised to be kept clear. */
#include "base/fd.h"
#include "fuzz.h"
#include "vm/kernel.h"

#include <sys/mman.h>
#include <unistd.h>

static void check_untouched(const struct mem *mem)
{
    static const uint8_t zero[PAGE_BYTES];
    uint64_t first, end;
    for (uint64_t from = 0; mem_next_touched(mem, from, &first, &end) == 0; from = end)
        for (uint64_t page = first; page < end; page++)
            FUZZ_CHECK(memcmp(mem_page(mem, page), zero, sizeof(zero)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct kernel kernel;
    struct mem mem;
    struct err err = { 0 };
    char path[64];
    CLEANUP_FD int fd = memfd_create("kernel", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && fd_write_full(fd, data, size) == 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    FUZZ_CHECK(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, NULL) == 0);
    int rc = kernel_load(&mem, path, &kernel, &err);
    fuzz_check_err(rc, &err);
    if (rc) {
        check_untouched(&mem);
    } else {
        FUZZ_CHECK(mem_get(&mem, gpa_of(kernel.entry), 1));
        FUZZ_CHECK(kernel.end_gpa > KERNEL_LOWEST_GPA && kernel.end_gpa <= mem.bytes);
        FUZZ_CHECK(kernel.kind == KERNEL_PVH || kernel.kind == KERNEL_LINUX64);
        FUZZ_CHECK(kernel.setup_bytes <= sizeof(kernel.setup));
    }
    mem_fini(&mem);
    return 0;
}
