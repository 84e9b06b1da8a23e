/*
 * A growing byte buffer for encoding. All integers are little-endian.
 *
 * An allocation that fails marks the buffer broken; later writes do nothing, and buf_status() tells.
 * So encoders need no check after each field, only one at the end.
 */
#pragma once
#include "base/compiler.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data; /* owned; buf_free() */
    size_t len, cap;
    bool broken;
};

void buf_free(struct buf *buf);
#define CLEANUP_BUF CLEANUP(buf_free)

/* 0 or -ENOMEM, if any write so far has failed. */
int buf_status(const struct buf *buf) MUST_CHECK;

/* Makes room for `len` more bytes and returns where they go, or NULL when broken. */
uint8_t *buf_grow(struct buf *buf, size_t len);

void buf_put(struct buf *buf, const void *bytes, size_t len);
void buf_put_u8(struct buf *buf, uint8_t v);
void buf_put_u16(struct buf *buf, uint16_t v);
void buf_put_u32(struct buf *buf, uint32_t v);
void buf_put_u64(struct buf *buf, uint64_t v);
void buf_printf(struct buf *buf, const char *fmt, ...) PRINTF(2, 3);

/* Forgets the contents, keeps the memory and a clean status. */
void buf_reset(struct buf *buf);
