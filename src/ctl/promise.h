/*
 * Memory promised to guests, so that a host does not promise the same memory twice.
 *
 * A guest's memory is taken page by page, as it is touched or arrives: what the kernel calls available says nothing
 * of what the guests that are here may still take. So each monitor states in its runtime directory, in the file
 * `promise`, how much its guest may have, and which of its descriptors holds that memory; what is not resident there
 * is still to come. All promises under one BASE are looked at and made under the lock on BASE: of two that want the
 * same memory at once one gets it. A promise counts for as long as its monitor lives, however that ends.
 *
 * Whoever has a BASE of his own (another user, by default) is not seen. Any thread.
 */
#pragma once
#include "ctl/rundir.h"
#include "mem/host_memory.h"

enum promise_how {
    PROMISE_LOOK,    /* only tells */
    PROMISE_IF_FREE, /* promises if there is room */
    PROMISE_ANYWAY,  /* whoever asks may overcommit this host */
};

/* What this host has for `bytes` more, besides what others were promised: whether they fit is
 * host_memory_fits(*ret), and then, or anyway, they are promised to this guest. */
int promise_make(const struct rundir *dir, uint64_t bytes, enum promise_how how,
                 struct host_memory *ret, struct err *err) MUST_CHECK;

/* The guest's memory has been made: from now on what is resident in `memfd` is no longer to come. */
int promise_kept_in(const struct rundir *dir, uint64_t bytes, int memfd,
                    struct err *err) MUST_CHECK;

/* The guest will not be here, or takes no more memory. Without a promise, nothing happens. */
void promise_withdraw(const struct rundir *dir);
