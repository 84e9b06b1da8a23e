#include "base/warm.h"
#include "base/compiler.h"

#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CODE_MOST (UINT64_C(3) << 20) /* of one object: OpenSSL is more, and little of it is used */
#define HEAP_BYTES ((size_t)64 * 1024) /* below what free() gives back */

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static int bring_in(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size, (void)arg;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) || segment->p_memsz > CODE_MOST)
            continue;
        uintptr_t from = (info->dlpi_addr + segment->p_vaddr) & ~(page - 1);
        uintptr_t to = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;
        void *at;
        memcpy(&at, &from, sizeof(at));
        (void)madvise(at, to - from, MADV_POPULATE_READ);
    }
    return 0;
}

void warm_up(void)
{
    (void)dl_iterate_phdr(bring_in, NULL);
    void *heap = malloc(HEAP_BYTES);
    if (heap)
        explicit_bzero(heap, HEAP_BYTES); /* not to be optimised away */
    free(heap);
}
