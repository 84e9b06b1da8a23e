#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_free(struct buf *buf)
{
    free(buf->data);
    *buf = (struct buf){ 0 };
}

void buf_reset(struct buf *buf)
{
    buf->len = 0;
    buf->broken = false;
}

int buf_status(const struct buf *buf)
{
    return buf->broken ? -ENOMEM : 0;
}

uint8_t *buf_grow(struct buf *buf, size_t len)
{
    if (buf->broken)
        return NULL;
    if (len > buf->cap - buf->len) {
        size_t cap = MAX(buf->cap * 2, (size_t)256);
        if (len > SIZE_MAX / 4) {
            buf->broken = true;
            return NULL;
        }
        cap = MAX(cap, buf->len + len);
        uint8_t *data = realloc(buf->data, cap);
        if (!data) {
            buf->broken = true;
            return NULL;
        }
        buf->data = data;
        buf->cap = cap;
    }
    uint8_t *at = buf->data + buf->len;
    buf->len += len;
    return at;
}

void buf_put(struct buf *buf, const void *bytes, size_t len)
{
    if (len == 0)
        return;
    uint8_t *at = buf_grow(buf, len);
    if (at)
        memcpy(at, bytes, len);
}

static void put_le(struct buf *buf, uint64_t v, size_t len)
{
    uint8_t *at = buf_grow(buf, len);
    for (size_t i = 0; at && i < len; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

void buf_put_u8(struct buf *buf, uint8_t v)
{
    put_le(buf, v, 1);
}

void buf_put_u16(struct buf *buf, uint16_t v)
{
    put_le(buf, v, 2);
}

void buf_put_u32(struct buf *buf, uint32_t v)
{
    put_le(buf, v, 4);
}

void buf_put_u64(struct buf *buf, uint64_t v)
{
    put_le(buf, v, 8);
}

void buf_printf(struct buf *buf, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    /* One more than needed for the NUL that vsnprintf writes; it is not part of the contents. */
    char *at = len < 0 ? NULL : (char *)buf_grow(buf, (size_t)len + 1);
    if (at) {
        (void)vsnprintf(at, (size_t)len + 1, fmt, again);
        buf->len--;
    }
    va_end(again);
}
