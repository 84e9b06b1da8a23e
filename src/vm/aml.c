/*
 * AML (ACPI 6.5, chapter 20.2). Lengths come before what they measure: aml_end() knows them, makes
 * room at the mark that the opening left, and writes the shortest encoding there.
 */
#include "vm/aml.h"

#include <string.h>

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_EXT = 0x5b,
    OP_IF = 0xa0,
    EXT_REGION = 0x80,
    EXT_FIELD = 0x81,
    EXT_DEVICE = 0x82,
    SPACE_IO = 0x01,
    FIELD_BYTE_ZEROS = 0x41, /* byte access, no lock, written as zeros */
    METHOD_SERIALIZED = 0x08,
};

static void open_length(struct aml *aml)
{
    ASSERT(aml->depth < AML_DEPTH_MAX);
    aml->open[aml->depth++] = aml->out->len;
}

/* PkgLength, which counts itself: 6 bits in one byte, or 4 bits and 1 to 3 bytes more. */
void aml_end(struct aml *aml)
{
    ASSERT(aml->depth > 0);
    size_t mark = aml->open[--aml->depth];
    if (aml->out->broken)
        return;
    size_t body = aml->out->len - mark;
    size_t more = body + 1 < 1u << 6 ? 0 : body + 2 < 1u << 12 ? 1 : body + 3 < 1u << 20 ? 2 : 3;
    if (!buf_grow(aml->out, 1 + more))
        return;
    uint8_t *at = aml->out->data + mark;
    size_t total = body + 1 + more;
    memmove(at + 1 + more, at, body);
    if (more == 0) {
        at[0] = (uint8_t)total;
        return;
    }
    at[0] = (uint8_t)(more << 6 | (total & 15));
    for (size_t i = 1; i <= more; i++)
        at[i] = (uint8_t)(total >> (8 * i - 4));
}

void aml_path(struct aml *aml, const char *name)
{
    size_t len = strlen(name);
    ASSERT(len >= 1 && len <= 4);
    buf_put(aml->out, name, len);
    buf_put(aml->out, "____", 4 - len);
}

void aml_op(struct aml *aml, uint8_t op)
{
    buf_put_u8(aml->out, op);
}

void aml_scope(struct aml *aml, const char *name)
{
    aml_op(aml, OP_SCOPE);
    open_length(aml);
    aml_path(aml, name);
}

void aml_device(struct aml *aml, const char *name)
{
    aml_op(aml, OP_EXT);
    aml_op(aml, EXT_DEVICE);
    open_length(aml);
    aml_path(aml, name);
}

void aml_method(struct aml *aml, const char *name, unsigned args)
{
    ASSERT(args <= 7);
    aml_op(aml, OP_METHOD);
    open_length(aml);
    aml_path(aml, name);
    aml_op(aml, (uint8_t)(args | METHOD_SERIALIZED));
}

void aml_package(struct aml *aml, uint8_t count)
{
    aml_op(aml, OP_PACKAGE);
    open_length(aml);
    buf_put_u8(aml->out, count);
}

void aml_if(struct aml *aml)
{
    aml_op(aml, OP_IF);
    open_length(aml);
}

void aml_name(struct aml *aml, const char *name)
{
    aml_op(aml, OP_NAME);
    aml_path(aml, name);
}

void aml_int(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        aml_op(aml, value ? OP_ONE : OP_ZERO);
    } else if (value <= UINT8_MAX) {
        aml_op(aml, OP_BYTE);
        buf_put_u8(aml->out, (uint8_t)value);
    } else if (value <= UINT16_MAX) {
        aml_op(aml, OP_WORD);
        buf_put_u16(aml->out, (uint16_t)value);
    } else if (value <= UINT32_MAX) {
        aml_op(aml, OP_DWORD);
        buf_put_u32(aml->out, (uint32_t)value);
    } else {
        aml_op(aml, OP_QWORD);
        buf_put_u64(aml->out, value);
    }
}

void aml_string(struct aml *aml, const char *text)
{
    aml_op(aml, OP_STRING);
    buf_put(aml->out, text, strlen(text) + 1);
}

static uint32_t hex_digit(char c)
{
    const char *digit = memchr("0123456789ABCDEF", c, 16);
    ASSERT(digit);
    return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of 5 bits and 4 digits of 4, in big-endian order (chapter 19.6.36, EISAID). */
void aml_eisa_id(struct aml *aml, const char *id)
{
    ASSERT(strlen(id) == 7);
    uint32_t value = 0;
    for (int i = 0; i < 3; i++) {
        ASSERT(id[i] >= 'A' && id[i] <= 'Z');
        value = value << 5 | (uint32_t)(id[i] - '@');
    }
    for (int i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i]);
    aml_int(aml, __builtin_bswap32(value));
}

void aml_io_region(struct aml *aml, const char *name, uint16_t port, uint8_t bytes)
{
    aml_op(aml, OP_EXT);
    aml_op(aml, EXT_REGION);
    aml_path(aml, name);
    aml_op(aml, SPACE_IO);
    aml_int(aml, port);
    aml_int(aml, bytes);
}

void aml_byte_field(struct aml *aml, const char *region, const char *name)
{
    aml_op(aml, OP_EXT);
    aml_op(aml, EXT_FIELD);
    open_length(aml);
    aml_path(aml, region);
    aml_op(aml, FIELD_BYTE_ZEROS);
    aml_path(aml, name);
    aml_op(aml, 8); /* bits, as a PkgLength of one byte */
    aml_end(aml);
}

/* I/O port descriptor (6.4.2.5): 16-bit decode, fixed place. */
void aml_crs_io(struct buf *crs, uint16_t port, uint8_t bytes)
{
    buf_put_u8(crs, 0x47);
    buf_put_u8(crs, 1);
    buf_put_u16(crs, port);
    buf_put_u16(crs, port);
    buf_put_u8(crs, 1); /* alignment */
    buf_put_u8(crs, bytes);
}

/* 32-bit fixed memory range descriptor (6.4.3.4): read and write. */
void aml_crs_memory(struct buf *crs, uint32_t base, uint32_t bytes)
{
    buf_put_u8(crs, 0x86);
    buf_put_u16(crs, 9);
    buf_put_u8(crs, 1);
    buf_put_u32(crs, base);
    buf_put_u32(crs, bytes);
}

/* Extended interrupt descriptor (6.4.3.6). */
void aml_crs_interrupt(struct buf *crs, uint32_t gsi)
{
    buf_put_u8(crs, 0x89);
    buf_put_u16(crs, 6);
    buf_put_u8(crs, 0x03); /* consumer, edge, active high, exclusive */
    buf_put_u8(crs, 1);
    buf_put_u32(crs, gsi);
}

void aml_crs(struct aml *aml, struct buf *crs)
{
    buf_put_u8(crs, 0x79); /* end tag (6.4.2.9); checksum 0: taken as right */
    buf_put_u8(crs, 0);
    aml_name(aml, "_CRS");
    aml_op(aml, OP_BUFFER);
    open_length(aml);
    aml_int(aml, crs->len);
    buf_put(aml->out, crs->data, crs->len);
    aml->out->broken |= crs->broken;
    aml_end(aml);
    buf_reset(crs);
}
