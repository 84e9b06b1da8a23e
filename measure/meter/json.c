#include "json.h"

#include <string.h>

static void put(struct buf *buf, const char *text)
{
    buf_put(buf, text, strlen(text));
}

/* A comma, unless this is the first of its object, list or buffer. */
static void separate(struct buf *buf)
{
    if (!buf->len)
        return;
    uint8_t last = buf->data[buf->len - 1];
    if (last != '{' && last != '[' && last != '\n')
        buf_put_u8(buf, ',');
}

/* How many bytes the UTF-8 character at `text` has; 0: it is none. Overlong forms and surrogates are none. */
static unsigned utf8_length(const unsigned char *text)
{
    unsigned char lead = text[0];
    unsigned length = lead < 0x80                   ? 1
                      : lead >= 0xc2 && lead < 0xe0 ? 2
                      : lead >= 0xe0 && lead < 0xf0 ? 3
                                                    : 4;
    if (lead >= 0xf5 || (lead >= 0x80 && lead < 0xc2))
        return 0;
    for (unsigned i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    }
    bool overlong = (lead == 0xe0 && text[1] < 0xa0) || (lead == 0xf0 && text[1] < 0x90);
    bool outside = (lead == 0xed && text[1] >= 0xa0) || (lead == 0xf4 && text[1] >= 0x90);
    return overlong || outside ? 0 : length;
}

static void put_text(struct buf *buf, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    buf_put_u8(buf, '"');
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        unsigned length = utf8_length(at);
        if (!length) {
            put(buf, "\\ufffd");
            length = 1;
        } else if (*at == '"' || *at == '\\') {
            buf_put_u8(buf, '\\');
            buf_put_u8(buf, *at);
        } else if (*at < 0x20) {
            put(buf, "\\u00");
            buf_put_u8(buf, (uint8_t)hex[*at >> 4]);
            buf_put_u8(buf, (uint8_t)hex[*at & 15]);
        } else {
            buf_put(buf, at, length);
        }
        at += length;
    }
    buf_put_u8(buf, '"');
}

static void begin(struct buf *buf, const char *key)
{
    separate(buf);
    if (!key)
        return;
    put_text(buf, key);
    buf_put_u8(buf, ':');
}

void json_object(struct buf *buf, const char *key)
{
    begin(buf, key);
    buf_put_u8(buf, '{');
}

void json_object_end(struct buf *buf)
{
    buf_put_u8(buf, '}');
}

void json_list(struct buf *buf, const char *key)
{
    begin(buf, key);
    buf_put_u8(buf, '[');
}

void json_list_end(struct buf *buf)
{
    buf_put_u8(buf, ']');
}

void json_u64(struct buf *buf, const char *key, uint64_t value)
{
    char digits[20];
    unsigned at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    begin(buf, key);
    buf_put(buf, digits + at, sizeof(digits) - at);
}

void json_bool(struct buf *buf, const char *key, bool value)
{
    begin(buf, key);
    put(buf, value ? "true" : "false");
}

void json_null(struct buf *buf, const char *key)
{
    begin(buf, key);
    put(buf, "null");
}

void json_text(struct buf *buf, const char *key, const char *text)
{
    begin(buf, key);
    if (text)
        put_text(buf, text);
    else
        put(buf, "null");
}
