/* What the wire tests share: the list of all schemas, and objects filled with reproducible
 * values. */
#pragma once
#include "base/buf.h"
#include "state/dump.h"
#include "state/schema.h"
#include "state/stream.h"

/* Every schema of the program; test_wire_registry holds the list to the sources. */
extern const struct schema *const wire_schemas[];
extern const size_t wire_schema_count;

/* The sections whose body is one object of a schema, as `godwit dump` knows them. */
extern const struct dump_schema wire_sections[];
extern const size_t wire_section_count;

/* xorshift64: the same numbers in every run. `*seed` is not 0. */
uint64_t wire_random(uint64_t *seed);

/* A new object, zero but for its fields, which get random values; lists, blobs and texts get up
 * to `most` items and bytes within their capacity, and exactly as many as fit when `full`.
 * free() it. */
void *wire_object(const struct schema *schema, uint64_t *seed, uint32_t most, bool full);

/* A whole stream, header to end: one section of each kind, zero pages, and `data_pages` data
 * pages. Depends on nothing but its argument: golden files are made of it. */
void wire_stream(struct buf *out, uint32_t data_pages);

/* The JSON of a dump of these bytes, and the dump's result. */
json_t *wire_dump(const void *bytes, size_t len, int *ret_rc, struct err *err);
