/*
 * The body of a SECTION_PAGES: which pages, then the bytes of those that have any.
 *
 *     u32 run count     then for each run     u64 first page index     u32 pages     u32 kind
 *     version 2:        u32 packing           u32 plain bytes
 *     then the data, in run order: 4096 bytes for each page of the data runs;
 *     version 2: for each page of the delta runs  u16 length  and so many bytes of delta (below)
 *
 * Version 2 is written only where version 1 cannot say it. Its data is packed as a whole: `plain bytes` is how long
 * it was before, at most PAGES_PLAIN_MAX; unpacked data takes up just the rest of the body.
 *
 * Runs ascend and do not overlap within a section; later sections overwrite earlier ones.
 *
 * A delta says what differs from the page as it was last sent, in words of 8 bytes:
 *     u16 words that stay     u16 words that follow     these words            again and again
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGES_VERSION 2       /* newest */
#define PAGES_PLAIN_VERSION 1 /* no deltas, nothing packed */
#define PAGES_RUN_BYTES 16
#define PAGES_RUNS_MAX 1024u
#define PAGES_DATA_MAX \
    64u /* pages with data: few enough that copying, checksumming and sending them stays in cache */
#define PAGES_DELTA_MAX 2048u /* bytes of one; a page that differs more is sent whole */
#define PAGES_TABLE_MAX (4 + PAGES_RUNS_MAX * PAGES_RUN_BYTES + PAGES_PACKING_BYTES)
#define PAGES_PACKING_BYTES 8u
#define PAGES_PLAIN_MAX (PAGES_DATA_MAX * 4096u)
#define PAGES_BODY_MAX (PAGES_TABLE_MAX + PAGES_PLAIN_MAX)

enum pages_kind { PAGES_DATA = 1, PAGES_ZERO = 2, PAGES_DELTA = 3 };
enum pages_packing { PACKING_NONE = 0, PACKING_LZ4, PACKING_ZSTD, PACKING_MAX };

struct pages_run {
    uint64_t first; /* page index */
    uint32_t count;
    uint32_t kind;
};

/* A body, its table decoded. */
struct pages_body {
    uint32_t runs;
    struct pages_run run[PAGES_RUNS_MAX];
    uint64_t pages[PAGES_DELTA + 1]; /* by kind */
    enum pages_packing packing;
    uint32_t plain_bytes;         /* of the data, unpacked */
    uint32_t data_at, data_bytes; /* where it is in the body, as it came */
};

/* Writes the table of a section of `version` and says how long it is. */
size_t pages_table_encode(const struct pages_run *run, uint32_t runs, uint16_t version,
                          enum pages_packing packing, uint32_t plain_bytes, uint8_t *out);
size_t pages_table_size(uint32_t runs, uint16_t version);

/* How long the table is that a body of `length` bytes begins with, by the first `have` of them; no longer than the
 * body, and 0 where it makes no sense. */
uint32_t pages_table_length(const uint8_t *body, uint32_t have, uint32_t length, uint16_t version);

/* Decodes the table of a body of `length` bytes; what follows the table need not be there. Refuses (ERR_PEER) unknown versions, runs that are empty, of unknown kind,
 * out of order or beyond `total_pages`, more than PAGES_DATA_MAX pages with data, and lengths that do not fit.
 * What is packed, and deltas, are not looked into. */
int pages_body_decode(const uint8_t *body, uint32_t length, uint16_t version, uint64_t total_pages,
                      struct pages_body *ret, struct err *err) MUST_CHECK;

/* Checks that `plain`, the data of `body` unpacked, is made of just its pages and sound deltas. */
int pages_data_check(const struct pages_body *body, const uint8_t *plain,
                     struct err *err) MUST_CHECK;

/* The delta from `was` to `is`, pages of 4096 bytes, into out[PAGES_DELTA_MAX]: its length; 0 = they are equal;
 * -ENOSPC = too much differs. */
int pages_delta_encode(const uint8_t *was, const uint8_t *is, uint8_t *out);

/* Applies a delta that pages_data_check() has passed. */
void pages_delta_apply(uint8_t *page, const uint8_t *delta, uint32_t length);

const char *pages_packing_name(uint32_t packing); /* "none", "lz4", "zstd" */
