/*
 * Records the writable working set of a running machine over its dirty log (mem/dirty.h).
 *
 *     recorder_begin -> recorder_sample x n -> recorder_end -> read `wws`, `cost` -> recorder_fini
 *
 * The machine's memory can be tracked for one purpose at a time: no move may be under way. One thread, any;
 * the guest runs on meanwhile.
 *
 * What it does to the guest: after each sample the first write to a page that was found written costs the
 * vCPU one fault. Only pages that are written are ever protected again, so a guest at rest pays nothing.
 */
#pragma once
#include "base/err.h"
#include "mem/dirty.h"
#include "wws/wws.h"

/* Of one fault: what a first write costs on the hardware it was measured on (docs/decisions/dirty-log.md).
 * Where the processor logs dirty pages by itself it is less. */
#define RECORDER_FAULT_NS 2300

struct recorder_cost {
    uint64_t samples;
    uint64_t sample_ns, sample_max_ns; /* in all, and the longest: clearing logs and counting */
    uint64_t cpu_ns;                   /* of the thread that samples, within sampling */
    uint64_t faults;                   /* at most: pages found written, in all */
};

struct recorder {
    struct mem *mem;
    struct dirty dirty;
    struct wws wws;
    struct recorder_cost cost;
    uint64_t began_ns, last_ns; /* CLOCK_MONOTONIC */
};

/* Starts tracking; `limit` as for wws_init(). Every page is protected once. */
int recorder_begin(struct recorder *recorder, struct mem *mem, struct hv *hv, uint32_t limit,
                   struct err *err) MUST_CHECK;

/* Ends an interval: what was written since the last one. */
int recorder_sample(struct recorder *recorder, struct err *err) MUST_CHECK;

/* Stops tracking (milliseconds a GiB); what was recorded stays. Harmless twice. */
void recorder_end(struct recorder *recorder);
void recorder_fini(struct recorder *recorder);

/* The machine's memory by what a move would do with it. Looks at `RECORDER_PROBES` pages at most. */
#define RECORDER_PROBES 4096
struct recorder_memory {
    uint64_t pages, touched_pages;
    uint64_t zero_pages; /* of the touched ones: estimated from a sample */
};
int recorder_memory(const struct mem *mem, struct recorder_memory *ret) MUST_CHECK;
