/*
 * The body of a SECTION_PAGES: which pages, then the bytes of those that have any.
 *
 *     u32 run count     then for each run     u64 first page index     u32 pages     u32 kind
 *     then 4096 bytes for each page of the data runs, in run order
 *
 * Runs ascend and do not overlap within a section; later sections overwrite earlier ones.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

#define PAGES_VERSION 1
#define PAGES_RUN_BYTES 16
#define PAGES_RUNS_MAX 1024u
#define PAGES_DATA_MAX \
    64u /* data pages: few enough that copying, checksumming and sending them stays in cache */
#define PAGES_TABLE_MAX (4 + PAGES_RUNS_MAX * PAGES_RUN_BYTES)

enum pages_kind { PAGES_DATA = 1, PAGES_ZERO = 2 };

struct pages_run {
    uint64_t first; /* page index */
    uint32_t count;
    uint32_t kind;
};

/* Writes 4 + runs * PAGES_RUN_BYTES bytes. */
void pages_table_encode(const struct pages_run *run, uint32_t runs, uint8_t *out);

/* How long the table is, told from its first 4 bytes; refuses more than PAGES_RUNS_MAX runs. */
int pages_table_bytes(const uint8_t first[4], uint32_t *ret_bytes, struct err *err) MUST_CHECK;

/* Decodes a table of pages_table_bytes() bytes into run[PAGES_RUNS_MAX]. Refuses (ERR_PEER) runs that are
 * empty, of unknown kind, out of order or beyond `total_pages`, and data that does not make `body_bytes`
 * exact. */
int pages_table_decode(const uint8_t *table, uint32_t table_bytes, uint32_t body_bytes,
                       uint64_t total_pages, struct pages_run *run, uint32_t *ret_runs,
                       struct err *err) MUST_CHECK;
