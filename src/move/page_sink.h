/*
 * Where pages go: receives page sections and puts them into guest memory.
 *
 * Where memory is in large pages, plain data is received *straight* into it, and summed there: nothing runs here yet, so
 * damage that is found afterwards has harmed nobody. Each large page is provided before its first bytes come, with two
 * calls; where the kernel had no large page to give, each run of pages is.
 *
 * All else is received whole into a slot that stays in cache, checked, and handed to a writer thread, which
 * writes it to the memory file with pwrite(2). Why so (measured: docs/bench.md): what limits a receiver of small pages is
 * the kernel making fresh ones, not the network. Receiving into the mapping would take a fault for each page
 * and clear it before the data overwrites it, and it would all happen on one thread. Later rounds bring scattered pages
 * that are there already: short runs of those are copied, so that the kernel is not called for each.
 *
 *     receiving thread:  link -> memory -> checks
 *                   or:  link -> slot -> checks -> ready queue       writers: ready queue -> pwrite -> free
 *
 * A page comes at most once a round, so the order of writers within a round does not matter; between rounds
 * page_sink_drain() is the barrier. (A source that sends one twice decides nothing but which of its own bytes
 * its own guest gets.)
 *
 * Several lanes need no writers to be parallel: each lane's thread receives into a slot of its own and writes
 * it itself, while it is still in its cache.
 *
 * Threads: page_slot_*() by any number of threads, each with a slot of its own, between page_sink_init() and
 * page_sink_fini(); everything else by the one thread that receives.
 */
#pragma once
#include "cost/meter.h"
#include "mem/mem.h"
#include "move/link.h"
#include "move/packing.h"
#include "state/pages.h"
#include <pthread.h>
#include <stdatomic.h>

#define PAGE_SINK_WRITERS_MAX 4
#define PAGE_SINK_SLOTS_MAX (PAGE_SINK_WRITERS_MAX + 2)

struct page_slot {
    uint8_t *bytes; /* a body as it came, the largest there can be; owned */
    uint8_t *plain; /* its data unpacked; owned, made when needed */
    struct unpacker unpacker;
    struct pages_body body;
    const uint8_t *data;   /* checked: in `bytes` or `plain`; NULL = goes straight */
    struct hasher *hasher; /* owned */
};

struct page_sink {
    struct mem *mem;
    struct meter *meter;
    atomic_bool straight; /* plain data goes straight into memory */
    _Atomic(uint64_t)
        *written; /* pages that hold memory, one bit a page index: only these need zeroing */
    _Atomic(uint64_t) *whole;        /* large pages of which each page does, one bit each */
    uint64_t data_pages, zero_pages; /* accepted */

    unsigned slot_count, writer_count;
    struct page_slot *slot;
    pthread_t writer[PAGE_SINK_WRITERS_MAX];

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct page_slot *free[PAGE_SINK_SLOTS_MAX], *ready[PAGE_SINK_SLOTS_MAX];
    unsigned free_count, ready_count;
    bool ending;
    int failed; /* the first -errno of a writer */
};

/* Starts the writers, whose CPU time `meter` counts as the mover's. */
int page_sink_init(struct page_sink *sink, struct mem *mem, struct meter *meter) MUST_CHECK;
void page_sink_fini(struct page_sink *sink);

/* Receives and checks the body of `section` (a SECTION_PAGES whose head was just read) and has it written. */
int page_sink_recv(struct page_sink *sink, struct link *link, const struct section *section,
                   struct err *err) MUST_CHECK;

/* From now on what is received into a slot stays there: somebody else puts it into memory (pull.h). */
void page_sink_keep(struct page_sink *sink);

/* For threads that write what they receive themselves: the two halves of page_sink_recv(). */
int page_slot_init(struct page_slot *slot) MUST_CHECK;
void page_slot_fini(struct page_slot *slot);
/* Receives and checks a body into the slot; *ret_pages: how many pages it describes. Guest memory is not written: of
 * what is to go straight into it only the table was received. */
int page_slot_recv(struct page_sink *sink, struct page_slot *slot, struct link *link,
                   const struct section *section, uint64_t *ret_pages, struct err *err) MUST_CHECK;
/* Writes it to guest memory; what goes straight is received and checked now. */
int page_slot_write(struct page_sink *sink, struct page_slot *slot, struct link *link,
                    const struct section *section, struct err *err) MUST_CHECK;

/* Returns when everything that page_sink_recv() accepted so far is in guest memory; the error of any writer. */
int page_sink_drain(struct page_sink *sink, struct err *err) MUST_CHECK;
