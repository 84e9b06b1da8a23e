#include "base/cursor.h"

#include <errno.h>

const uint8_t *cursor_take(struct cursor *cur, size_t len)
{
    if (cur->bad || len > cur->left) {
        cur->bad = true;
        return NULL;
    }
    const uint8_t *at = cur->at;
    cur->at += len;
    cur->left -= len;
    return at;
}

static uint64_t take_le(struct cursor *cur, size_t len)
{
    const uint8_t *at = cursor_take(cur, len);
    uint64_t v = 0;
    for (size_t i = 0; at && i < len; i++)
        v |= (uint64_t)at[i] << (8 * i);
    return v;
}

uint8_t cursor_u8(struct cursor *cur)
{
    return (uint8_t)take_le(cur, 1);
}

uint16_t cursor_u16(struct cursor *cur)
{
    return (uint16_t)take_le(cur, 2);
}

uint32_t cursor_u32(struct cursor *cur)
{
    return (uint32_t)take_le(cur, 4);
}

uint64_t cursor_u64(struct cursor *cur)
{
    return take_le(cur, 8);
}

int cursor_status(const struct cursor *cur)
{
    return cur->bad ? -EBADMSG : 0;
}

int cursor_end(const struct cursor *cur)
{
    return cur->bad || cur->left ? -EBADMSG : 0;
}
