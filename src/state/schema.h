/*
 * Schemas: one field list per message or device state, from which the struct, its encoder, decoder,
 * JSON printer and fingerprint all come. Nothing else writes state, so none of them can drift apart.
 *
 *     #define RNG_STATE(F, T)      \
 *         F(T, u32, features)      \
 *         F(T, list, queue, virtq_state, 1)
 *     SCHEMA_STRUCT(rng_state, RNG_STATE);             in the header: the struct, the declaration
 *     SCHEMA_DEFINE(rng_state, 1, RNG_STATE)           in one .c file: version 1 of its bytes
 *
 * Kinds of field, and their bytes (little-endian, no padding):
 *     u8 u16 u32 u64 (name)           the integer
 *     u8s u16s u32s u64s (name, n)    n integers
 *     blob (name, max)                u32 length, bytes           members name_len, name[max]
 *     text (name, size)               u16 length, bytes, no NUL   member  char name[size], NUL-ended
 *     list (name, sub, max)           u32 count, items            members name_count, struct sub name[max]
 *     since (version)                 nothing; the fields after it exist from that version on
 *
 * Fields are only ever appended, after a new `since`; a reader of an older version leaves them zero,
 * which must mean the old behaviour. A `list` item changes only with the version of what holds it.
 * Capacities (max, size) bound what a decoder accepts and are no part of the bytes.
 */
#pragma once
#include "base/buf.h"
#include "base/cursor.h"
#include "base/err.h"
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum schema_kind { SCHEMA_INT = 1, SCHEMA_BLOB, SCHEMA_TEXT, SCHEMA_LIST, SCHEMA_SINCE };

struct schema;
struct schema_field {
    const char *name;
    const struct schema *sub; /* SCHEMA_LIST */
    uint32_t offset;          /* of the value, or of the first item */
    uint32_t count_offset;    /* SCHEMA_BLOB, SCHEMA_LIST: of the uint32_t length or count */
    uint32_t max;  /* SCHEMA_INT: how many; else the capacity; SCHEMA_SINCE: the version */
    uint8_t kind;  /* enum schema_kind */
    uint8_t width; /* SCHEMA_INT: 1, 2, 4 or 8 bytes */
};

struct schema {
    const char *name;
    const struct schema_field *fields;
    uint32_t field_count;
    uint32_t size;    /* of the struct */
    uint16_t version; /* newest that this build writes; it reads 1..version */
};

/* Appends the bytes of `version` (1..schema->version). A text or list beyond its capacity is a bug. */
void schema_encode(const struct schema *schema, uint16_t version, const void *object,
                   struct buf *out);

/* The oldest version whose bytes say all of *object: what it lacks is zero or empty here. */
uint16_t schema_version_for(const struct schema *schema, const void *object);

/* Fills *object (all of it; what an old version lacks becomes zero) from exactly the bytes left in
 * `in`. On failure *object is unspecified and must not be used. Faults are ERR_PEER and name the
 * schema and field: unknown version, short, over capacity, bytes left over, text with a NUL. */
int schema_decode(const struct schema *schema, uint16_t version, struct cursor *in, void *object,
                  struct err *err) MUST_CHECK;

/* A new JSON object with every field by name; blobs, and integers above INT64_MAX, as text in hex. NULL
 * when out of memory. */
json_t *schema_json(const struct schema *schema, const void *object);

/* A number that changes whenever the bytes of the newest version would: checked in, so that a change
 * of bytes without a new version fails the build's tests. */
uint64_t schema_fingerprint(const struct schema *schema);

/* ------------------------------------------------------------------ the macros behind the lists */

#define SCHEMA_STRUCT(T, LIST) \
    struct T {                 \
        LIST(SCHEMA_MEMBER, T) \
    };                         \
    extern const struct schema T##_schema

#define SCHEMA_DEFINE(T, newest, LIST)                                         \
    static const struct schema_field T##_fields[] = { LIST(SCHEMA_FIELD, T) }; \
    const struct schema T##_schema = {                                         \
        .name = #T,                                                            \
        .fields = T##_fields,                                                  \
        .field_count = sizeof(T##_fields) / sizeof(T##_fields[0]),             \
        .size = sizeof(struct T),                                              \
        .version = (newest),                                                   \
    };

#define SCHEMA_MEMBER(T, kind, ...) SCHEMA_MEMBER_##kind(__VA_ARGS__)
#define SCHEMA_MEMBER_u8(n) uint8_t n;
#define SCHEMA_MEMBER_u16(n) uint16_t n;
#define SCHEMA_MEMBER_u32(n) uint32_t n;
#define SCHEMA_MEMBER_u64(n) uint64_t n;
#define SCHEMA_MEMBER_u8s(n, c) uint8_t n[c];
#define SCHEMA_MEMBER_u16s(n, c) uint16_t n[c];
#define SCHEMA_MEMBER_u32s(n, c) uint32_t n[c];
#define SCHEMA_MEMBER_u64s(n, c) uint64_t n[c];
#define SCHEMA_MEMBER_blob(n, c) \
    uint32_t n##_len;            \
    uint8_t n[c];
#define SCHEMA_MEMBER_text(n, c) char n[c];
#define SCHEMA_MEMBER_list(n, S, c) \
    uint32_t n##_count;             \
    struct S n[c];
#define SCHEMA_MEMBER_since(v)

#define SCHEMA_FIELD(T, kind, ...) SCHEMA_FIELD_##kind(T, __VA_ARGS__)
#define SCHEMA_INTS(T, n, w, c) \
    { .name = #n, .offset = offsetof(struct T, n), .max = (c), .kind = SCHEMA_INT, .width = (w) },
#define SCHEMA_FIELD_u8(T, n) SCHEMA_INTS(T, n, 1, 1)
#define SCHEMA_FIELD_u16(T, n) SCHEMA_INTS(T, n, 2, 1)
#define SCHEMA_FIELD_u32(T, n) SCHEMA_INTS(T, n, 4, 1)
#define SCHEMA_FIELD_u64(T, n) SCHEMA_INTS(T, n, 8, 1)
#define SCHEMA_FIELD_u8s(T, n, c) SCHEMA_INTS(T, n, 1, c)
#define SCHEMA_FIELD_u16s(T, n, c) SCHEMA_INTS(T, n, 2, c)
#define SCHEMA_FIELD_u32s(T, n, c) SCHEMA_INTS(T, n, 4, c)
#define SCHEMA_FIELD_u64s(T, n, c) SCHEMA_INTS(T, n, 8, c)
#define SCHEMA_FIELD_blob(T, n, c)                 \
    { .name = #n,                                  \
      .offset = offsetof(struct T, n),             \
      .count_offset = offsetof(struct T, n##_len), \
      .max = (c),                                  \
      .kind = SCHEMA_BLOB },
#define SCHEMA_FIELD_text(T, n, c) \
    { .name = #n, .offset = offsetof(struct T, n), .max = (c), .kind = SCHEMA_TEXT },
#define SCHEMA_FIELD_list(T, n, S, c)                \
    { .name = #n,                                    \
      .sub = &S##_schema,                            \
      .offset = offsetof(struct T, n),               \
      .count_offset = offsetof(struct T, n##_count), \
      .max = (c),                                    \
      .kind = SCHEMA_LIST },
#define SCHEMA_FIELD_since(T, v) { .name = "since", .max = (v), .kind = SCHEMA_SINCE },
