#include "mem/dirty.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int log_switch(struct dirty *dirty, bool on)
{
    int rc = 0;
    for (unsigned i = 0; i < dirty->mem->region_count && !rc; i++) {
        const struct mem_region *r = &dirty->mem->region[i];
        rc = dirty->hv->ops->slot_set(dirty->hv, i, gpa_of(r->gpa),
                                      mem_page(dirty->mem, r->page_index), r->bytes, on);
    }
    return rc;
}

int dirty_start(struct dirty *dirty, struct mem *mem, struct hv *hv)
{
    *dirty = (struct dirty){ .mem = mem, .hv = hv, .words = mem->pages / 64 };
    dirty->pending = calloc(dirty->words, sizeof(uint64_t));
    dirty->fetched = calloc(dirty->words, sizeof(uint64_t));
    dirty->marks = calloc(dirty->words, sizeof(uint64_t));
    if (!dirty->pending || !dirty->fetched || !dirty->marks) {
        dirty_stop(dirty);
        return -ENOMEM;
    }
    mem_track(mem, dirty->marks);
    int rc = log_switch(dirty, true);
    if (rc)
        dirty_stop(dirty);
    return rc;
}

void dirty_stop(struct dirty *dirty)
{
    if (!dirty->mem)
        return;
    (void)log_switch(dirty, false); /* at worst the kernel goes on logging for nobody */
    mem_untrack(dirty->mem);
    free(dirty->pending);
    free(dirty->fetched);
    free(dirty->marks);
    *dirty = (struct dirty){ 0 };
}

int dirty_fetch(struct dirty *dirty, uint64_t *ret_pages)
{
    for (unsigned i = 0; i < dirty->mem->region_count; i++) {
        int rc =
            dirty->hv->ops->dirty_fetch(dirty->hv, i,
                                        dirty->fetched + dirty->mem->region[i].page_index / 64);
        if (rc)
            return rc;
    }
    uint64_t pages = 0;
    for (uint64_t w = 0; w < dirty->words; w++) {
        uint64_t bits = dirty->fetched[w];
        if (atomic_load_explicit(&dirty->marks[w], memory_order_relaxed))
            bits |= atomic_exchange_explicit(&dirty->marks[w], 0, memory_order_acquire);
        dirty->pending[w] |= bits;
        pages += (uint64_t)__builtin_popcountll(dirty->pending[w]);
    }
    *ret_pages = pages;
    return 0;
}

static unsigned region_of(const struct mem *mem, uint64_t page)
{
    return mem->region_count > 1 && page >= mem->region[1].page_index;
}

int dirty_take(struct dirty *dirty, uint64_t first, unsigned words, uint64_t *bits)
{
    unsigned slot = region_of(dirty->mem, first);
    uint64_t *pending = dirty->pending + first / 64;
    uint64_t any = 0;

    for (unsigned w = 0; w < words; w++)
        any |= bits[w] = pending[w];
    if (!any)
        return 0;
    int rc =
        dirty->hv->ops->dirty_clear(dirty->hv, slot, first - dirty->mem->region[slot].page_index,
                                    words * 64, bits);
    if (!rc)
        memset(pending, 0, words * sizeof(*pending));
    return rc;
}

uint64_t dirty_next(const struct dirty *dirty, uint64_t from)
{
    for (uint64_t w = from / 64; w < dirty->words; w++)
        if (dirty->pending[w])
            return w * 64;
    return dirty->mem->pages;
}
