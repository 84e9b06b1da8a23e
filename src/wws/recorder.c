#include "wws/recorder.h"
#include "base/clock.h"

#include <errno.h>
#include <string.h>

#define CHUNK_WORDS 64u /* 16 MiB: how much is protected in one go, while vCPUs that fault wait */

typedef void visit_fn(struct recorder *recorder, uint64_t first, uint64_t bits);

static void count(struct recorder *recorder, uint64_t first, uint64_t bits)
{
    recorder->cost.faults += (uint64_t)__builtin_popcountll(bits);
    wws_write(&recorder->wws, first, bits);
}

static uint64_t region_end(const struct mem *mem, uint64_t page)
{
    for (unsigned i = 0; i < mem->region_count; i++) {
        uint64_t end = mem->region[i].page_index + mem->region[i].bytes / PAGE_BYTES;
        if (page < end)
            return end;
    }
    return page;
}

/* Takes every page that was written. `visit` may be NULL. */
static int take_all(struct recorder *recorder, visit_fn *visit)
{
    uint64_t pages, at = 0, bits[CHUNK_WORDS];
    int rc = dirty_fetch(&recorder->dirty, &pages);
    while (!rc && (at = dirty_next(&recorder->dirty, at)) < recorder->mem->pages) {
        unsigned words = (unsigned)MIN((region_end(recorder->mem, at) - at) / 64, CHUNK_WORDS);
        rc = dirty_take(&recorder->dirty, at, words, bits);
        for (unsigned w = 0; !rc && visit && w < words; w++)
            if (bits[w])
                visit(recorder, at + w * 64, bits[w]);
        at += words * 64;
    }
    return rc;
}

int recorder_begin(struct recorder *recorder, struct mem *mem, struct hv *hv, uint32_t limit,
                   struct err *err)
{
    *recorder = (struct recorder){ .mem = mem };
    int rc = wws_init(&recorder->wws, mem->pages, limit);
    if (!rc)
        rc = dirty_start(&recorder->dirty, mem, hv);
    if (!rc)
        rc = take_all(recorder, NULL); /* at first every page counts as written */
    if (rc) {
        recorder_fini(recorder);
        return err_errno(err, ERR_HOST, -rc, "cannot watch the guest's writes");
    }
    recorder->began_ns = recorder->last_ns = clock_now_ns();
    return 0;
}

int recorder_sample(struct recorder *recorder, struct err *err)
{
    uint64_t began_ns = clock_now_ns(), cpu_ns = clock_thread_cpu_ns();
    int rc = take_all(recorder, count);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot read the guest's writes");
    uint64_t took_ns = clock_now_ns() - began_ns;
    struct recorder_cost *cost = &recorder->cost;
    cost->samples++;
    cost->sample_ns += took_ns;
    cost->sample_max_ns = MAX(cost->sample_max_ns, took_ns);
    cost->cpu_ns += clock_thread_cpu_ns() - cpu_ns;
    wws_interval(&recorder->wws, began_ns - recorder->last_ns);
    recorder->last_ns = began_ns;
    return 0;
}

void recorder_end(struct recorder *recorder)
{
    dirty_stop(&recorder->dirty);
}

void recorder_fini(struct recorder *recorder)
{
    recorder_end(recorder);
    wws_fini(&recorder->wws);
}

static bool page_is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE_BYTES - 1) == 0;
}

int recorder_memory(const struct mem *mem, struct recorder_memory *ret)
{
    struct recorder_memory memory = { .pages = mem->pages };
    uint64_t stride = MAX(mem->pages / RECORDER_PROBES, UINT64_C(1)), probed = 0, zero = 0;
    uint64_t first, end, probe = 0;
    int rc;

    for (uint64_t from = 0; !(rc = mem_next_touched(mem, from, &first, &end)); from = end) {
        end = MIN(end, mem->pages);
        memory.touched_pages += end - first;
        for (probe = MAX(probe, (first + stride - 1) / stride * stride); probe < end;
             probe += stride) {
            probed++;
            zero += page_is_zero(mem_page(mem, probe));
        }
    }
    if (rc != -ENXIO)
        return rc;
    if (probed)
        memory.zero_pages =
            (uint64_t)((double)memory.touched_pages * (double)zero / (double)probed);
    *ret = memory;
    return 0;
}
