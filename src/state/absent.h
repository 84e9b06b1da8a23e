/*
 * The body of a SECTION_ABSENT: a set of pages that are missing at the target of a post-copy move.
 *
 *     u64 first page index, a multiple of 64     then u64 words: bit i of word n is page first + 64 * n + i
 *
 * Sections of one set ascend and do not overlap.
 */
#pragma once
#include "base/buf.h"
#include "base/compiler.h"
#include "base/err.h"
#include <stdint.h>

#define ABSENT_VERSION 1
#define ABSENT_WORDS_MAX (UINT32_C(1) << 16) /* 512 KiB: 16 GiB of guest memory in one section */
#define ABSENT_BYTES_MAX (8 + ABSENT_WORDS_MAX * 8)

/* Appends sections for all of `set`, which has one bit for each of `pages` (a multiple of 64); long stretches
 * without any page are left out. Returns how many pages are in it. */
uint64_t absent_put(struct buf *out, const uint64_t *set, uint64_t pages);

/* Adds the pages of a body to `set` (of `pages` bits). Refuses (ERR_PEER) pages the guest does not have, and
 * pages before `*next`, which moves on to behind the last word. */
int absent_get(const uint8_t *body, uint32_t length, uint64_t pages, uint64_t *next, uint64_t *set,
               uint64_t *ret_count, struct err *err) MUST_CHECK;
