/*
 * A checked cursor over bytes that came from outside. All integers are little-endian.
 *
 * A read past the end returns zero and marks the cursor bad; every later read is zero too, so a
 * decoder may read all its fields and ask cursor_status() once before it believes any of them. The
 * bytes stay the caller's and must outlive the cursor.
 */
#pragma once
#include "base/compiler.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor {
    const uint8_t *at;
    size_t left;
    bool bad;
};

static inline struct cursor cursor_of(const void *bytes, size_t len)
{
    return (struct cursor){ .at = bytes, .left = len };
}

/* The next `len` bytes in place, or NULL when fewer are left (and the cursor is bad). */
const uint8_t *cursor_take(struct cursor *cur, size_t len);

uint8_t cursor_u8(struct cursor *cur);
uint16_t cursor_u16(struct cursor *cur);
uint32_t cursor_u32(struct cursor *cur);
uint64_t cursor_u64(struct cursor *cur);

/* 0, or -EBADMSG if a read went past the end. */
int cursor_status(const struct cursor *cur) MUST_CHECK;

/* As cursor_status(), and -EBADMSG too if bytes are left over. */
int cursor_end(const struct cursor *cur) MUST_CHECK;
