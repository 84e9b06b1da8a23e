/* What became of the pages that travelled as less than their bytes, for the bill: the same for rounds, a push, a file. */
#pragma once
#include "cost/bill.h"
#include "move/page_maker.h"

/* Of what was made of `source` since its round, or push, began: once, when that has ended. */
void page_bill_classes(struct bill *bill, const struct page_count *n,
                       const struct page_source *source);
