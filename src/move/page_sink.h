/*
 * Where pages go: receives page sections straight into guest memory.
 *
 * The table is read and checked first, then the data goes to its pages without a copy in between, and
 * the checksum is taken over what arrived there. A bad checksum thus leaves wrong pages behind: the
 * memory belongs to a machine that has not run, and the move or restore fails as a whole.
 */
#pragma once
#include "mem/mem.h"
#include "move/link.h"
#include "state/pages.h"

struct page_sink {
    struct mem *mem;
    uint64_t *written; /* pages that hold data, one bit a page index: only these need zeroing again */
    uint64_t data_pages, zero_pages;
};

int page_sink_init(struct page_sink *sink, struct mem *mem) MUST_CHECK;
void page_sink_fini(struct page_sink *sink);

/* Receives the body of `section` (a SECTION_PAGES whose head was just read). */
int page_sink_recv(struct page_sink *sink, struct link *link, const struct section *section, struct err *err) MUST_CHECK;
