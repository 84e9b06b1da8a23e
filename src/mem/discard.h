/*
 * Memory that the guest gives back, through its balloon or by reporting free pages: its pages become holes
 * of the memory file, so the host has them at once, and the guest reads zeroes there until it writes again.
 *
 * A move must hear of it, for two reasons. A page that was sent before and is given back must not keep its
 * old contents at the target: punching a hole is a write of zeroes by the monitor, so it is marked
 * (mem_mark()), since KVM's dirty log sees nothing of it. And such a page must not be read to be sent: the
 * read alone would make the memory exist again. `mem->freed` has a bit for each page that was given back
 * and may still be a hole. It is a hint where looking is worth a seek, never the answer:
 *
 *     discard:  punch the hole, set the bit, mark the page
 *     mover:    take the page (its log is cleared), then look: a hole = zeroes, without a byte read
 *
 * A write of the guest after the look is logged anew; one before it has made the page exist.
 *
 * While a guest arrives by post-copy a hole would mean "not here yet". mem_discard_hold() then lets nothing
 * be punched: what the guest only reported stays in memory until it is reported again, which costs memory
 * and no correctness; what is in its balloon, and so left alone until the guest asks for it back
 * (mem_reclaim()), is remembered and punched by mem_discard_release().
 *
 * Threads: any; a discard, a reclaim and a hold or release exclude one another, 2 MiB at a time.
 */
#pragma once
#include "mem/mem.h"

/* Gives back the whole pages within [gpa, gpa+len). `kept`: the guest leaves them alone until it has asked
 * for them back and was answered. -EFAULT: not RAM of one region; else what fallocate(2) says. Callers
 * slice: what is asked for at once is done at once. */
int mem_discard(struct mem *mem, gpa_t gpa, uint64_t len, bool kept) MUST_CHECK;

/* The guest is about to use pages again that were kept; before it is answered. */
void mem_reclaim(struct mem *mem, gpa_t gpa, uint64_t len);

/* From hold to release no page becomes a hole. Hold before the guest runs. */
int mem_discard_hold(struct mem *mem) MUST_CHECK;
int mem_discard_release(struct mem *mem) MUST_CHECK;

/* Of the pages `bits`, 64 from `first` on, those that were given back and are holes. To tell what must
 * travel, call it after dirty_take() of these pages. */
uint64_t mem_freed_holes(struct mem *mem, uint64_t first, uint64_t bits) MUST_CHECK;

/* The same for pages known to be holes. */
uint64_t mem_freed_among(const struct mem *mem, uint64_t first, uint64_t bits);

/* Makes holes of pages [first, first+count). For a mover that owns the memory: it does not mark. */
int mem_punch(struct mem *mem, uint64_t first, uint64_t count) MUST_CHECK;
