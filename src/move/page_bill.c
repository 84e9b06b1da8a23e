#include "move/page_bill.h"
#include "move/policy.h"
#include "state/pages.h"

/* `part` of `whole`, for shares of what was counted or measured together. */
static uint64_t share(uint64_t sum, uint64_t part, uint64_t whole)
{
    return whole ? policy_scale(sum, part, whole) : 0;
}

void page_bill_classes(struct bill *bill, const struct page_count *n,
                       const struct page_source *source)
{
    /* Runs of zeroes do not say which of their pages were free. */
    uint64_t zero_bytes = n->zero_runs * PAGES_RUN_BYTES;
    uint64_t free_bytes = share(zero_bytes, n->free, n->zero + n->free);
    uint64_t untouched = source->untouched - source->untouched_free;
    uint64_t free = n->free + source->untouched_free;
    uint64_t free_ns = untouched ? share(source->told_ns, free, untouched + free) : source->told_ns;

    bill_class(bill, BILL_CLASS_NEVER_TOUCHED, untouched, untouched * PAGE_BYTES,
               source->told_ns - free_ns);
    bill_class(bill, BILL_CLASS_FREE, free, free * PAGE_BYTES - free_bytes, free_ns);
    bill_class(bill, BILL_CLASS_ZERO, n->zero, n->zero * PAGE_BYTES - (zero_bytes - free_bytes),
               n->zero_ns);
    bill_class(bill, BILL_CLASS_SAME, n->same, n->same * PAGE_BYTES, n->same_ns);
    bill_class(bill, BILL_CLASS_DELTA, n->delta, n->delta_saved_bytes, n->delta_ns);
    bill_class(bill, BILL_CLASS_PACKED, n->packed, n->packed_saved_bytes, n->packed_ns);
}
