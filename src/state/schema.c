/*
 * The one encoder, decoder and printer behind every schema (state/schema.h).
 *
 * A schema is walked field by field; `since` fields say from which version on the rest exists, and end
 * the walk for an older one. The decoder checks every length against the capacity before it copies,
 * and a list's count before it walks it, so that work and memory are bounded by the schema, not by the
 * bytes.
 */
#include "state/schema.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const void *at(const void *object, uint32_t offset)
{
    return (const uint8_t *)object + offset;
}

static uint64_t get_int(const void *value, unsigned width)
{
    switch (width) {
    case 1:
        return *(const uint8_t *)value;
    case 2:
        return *(const uint16_t *)value;
    case 4:
        return *(const uint32_t *)value;
    default:
        return *(const uint64_t *)value;
    }
}

static uint32_t get_count(const struct schema_field *f, const void *object)
{
    uint32_t count = *(const uint32_t *)at(object, f->count_offset);
    ASSERT(count <= f->max);
    return count;
}

static void encode_int(struct buf *out, unsigned width, uint64_t v)
{
    switch (width) {
    case 1:
        buf_put_u8(out, (uint8_t)v);
        break;
    case 2:
        buf_put_u16(out, (uint16_t)v);
        break;
    case 4:
        buf_put_u32(out, (uint32_t)v);
        break;
    default:
        buf_put_u64(out, v);
    }
}

void schema_encode(const struct schema *schema, uint16_t version, const void *object,
                   struct buf *out)
{
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        const uint8_t *value = at(object, f->offset);
        uint32_t n;

        switch ((enum schema_kind)f->kind) {
        case SCHEMA_SINCE:
            if (f->max > version)
                return;
            break;
        case SCHEMA_INT:
            for (n = 0; n < f->max; n++)
                encode_int(out, f->width, get_int(value + n * f->width, f->width));
            break;
        case SCHEMA_BLOB:
            n = get_count(f, object);
            buf_put_u32(out, n);
            buf_put(out, value, n);
            break;
        case SCHEMA_TEXT:
            n = (uint32_t)strnlen((const char *)value, f->max);
            ASSERT(n < f->max && n <= UINT16_MAX);
            buf_put_u16(out, (uint16_t)n);
            buf_put(out, value, n);
            break;
        case SCHEMA_LIST:
            n = get_count(f, object);
            buf_put_u32(out, n);
            for (uint32_t k = 0; k < n; k++)
                schema_encode(f->sub, f->sub->version, value + (size_t)k * f->sub->size, out);
            break;
        }
    }
}

static bool field_is_empty(const struct schema_field *f, const void *object)
{
    const uint8_t *value = at(object, f->offset);
    switch ((enum schema_kind)f->kind) {
    case SCHEMA_INT:
        for (uint32_t n = 0; n < f->max; n++)
            if (get_int(value + n * f->width, f->width))
                return false;
        return true;
    case SCHEMA_TEXT:
        return value[0] == '\0';
    case SCHEMA_BLOB:
    case SCHEMA_LIST:
        return get_count(f, object) == 0;
    case SCHEMA_SINCE:
        break;
    }
    return true;
}

uint16_t schema_version_for(const struct schema *schema, const void *object)
{
    uint16_t since = 1, needed = 1;
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        if (f->kind == SCHEMA_SINCE)
            since = (uint16_t)f->max;
        else if (!field_is_empty(f, object))
            needed = f->kind == SCHEMA_LIST && f->sub->version > 1 ? schema->version : since;
        if (needed == schema->version)
            break;
    }
    return needed;
}

static void decode_int(struct cursor *in, unsigned width, void *value)
{
    switch (width) {
    case 1:
        *(uint8_t *)value = cursor_u8(in);
        break;
    case 2:
        *(uint16_t *)value = cursor_u16(in);
        break;
    case 4:
        *(uint32_t *)value = cursor_u32(in);
        break;
    default:
        *(uint64_t *)value = cursor_u64(in);
    }
}

static int refuse(const struct schema *schema, const struct schema_field *f, const char *why,
                  struct err *err)
{
    return err_set(err, ERR_PEER, EBADMSG, "%s.%s: %s", schema->name, f->name, why);
}

static int decode_fields(const struct schema *schema, uint16_t version, struct cursor *in,
                         void *object, struct err *err)
{
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        uint8_t *value = (uint8_t *)object + f->offset;
        const uint8_t *bytes;
        uint32_t n;

        switch ((enum schema_kind)f->kind) {
        case SCHEMA_SINCE:
            if (f->max > version)
                return 0;
            break;
        case SCHEMA_INT:
            for (n = 0; n < f->max; n++)
                decode_int(in, f->width, value + n * f->width);
            break;
        case SCHEMA_BLOB:
            n = cursor_u32(in);
            if (n > f->max)
                return refuse(schema, f, "longer than allowed", err);
            bytes = cursor_take(in, n);
            if (bytes)
                memcpy(value, bytes, n);
            *(uint32_t *)(void *)((uint8_t *)object + f->count_offset) = n;
            break;
        case SCHEMA_TEXT:
            n = cursor_u16(in);
            if (n >= f->max)
                return refuse(schema, f, "longer than allowed", err);
            bytes = cursor_take(in, n);
            if (bytes && memchr(bytes, '\0', n))
                return refuse(schema, f, "contains a NUL", err);
            if (bytes)
                memcpy(value, bytes, n);
            break;
        case SCHEMA_LIST:
            n = cursor_u32(in);
            if (n > f->max)
                return refuse(schema, f, "more items than allowed", err);
            *(uint32_t *)(void *)((uint8_t *)object + f->count_offset) = n;
            for (uint32_t k = 0; k < n; k++) {
                int rc = decode_fields(f->sub, f->sub->version, in,
                                       value + (size_t)k * f->sub->size, err);
                if (rc)
                    return rc;
            }
            break;
        }
        if (in->bad)
            return refuse(schema, f, "cut short", err);
    }
    return 0;
}

int schema_decode(const struct schema *schema, uint16_t version, struct cursor *in, void *object,
                  struct err *err)
{
    if (version == 0 || version > schema->version)
        return err_set(err, ERR_PEER, EPROTONOSUPPORT,
                       "%s: version %u, and this build reads 1 to %u", schema->name, version,
                       schema->version);
    memset(object, 0, schema->size);
    int rc = decode_fields(schema, version, in, object, err);
    if (!rc && in->left)
        rc = err_set(err, ERR_PEER, EBADMSG, "%s: %zu bytes left over", schema->name, in->left);
    return rc;
}

static json_t *hex(const uint8_t *bytes, size_t len)
{
    CLEANUP_BUF struct buf text = { 0 };
    for (size_t i = 0; i < len; i++)
        buf_printf(&text, "%02x", bytes[i]);
    return text.broken ? NULL : json_stringn(len ? (const char *)text.data : "", text.len);
}

/* JSON integers are signed here; what is beyond them (kernel addresses are) becomes text in hex. */
static json_t *int_json(uint64_t v)
{
    return v <= INT64_MAX ? json_integer((json_int_t)v) : json_sprintf("0x%016" PRIx64, v);
}

/* Appends and owns `item`; a failure turns the array into NULL, which ends up as "out of memory". */
static void append(json_t **array, json_t *item)
{
    if (json_array_append_new(*array, item) < 0) {
        json_decref(*array);
        *array = NULL;
    }
}

static json_t *field_json(const struct schema_field *f, const void *object)
{
    const uint8_t *value = at(object, f->offset);
    json_t *array;

    switch ((enum schema_kind)f->kind) {
    case SCHEMA_INT:
        if (f->max == 1)
            return int_json(get_int(value, f->width));
        if (f->width == 1)
            return hex(value, f->max);
        array = json_array();
        for (uint32_t n = 0; n < f->max; n++)
            append(&array, int_json(get_int(value + n * f->width, f->width)));
        return array;
    case SCHEMA_BLOB:
        return hex(value, get_count(f, object));
    case SCHEMA_TEXT:
        /* Text of a peer need not be UTF-8, and JSON must be. */
        array = json_string((const char *)value);
        return array ? array : hex(value, strnlen((const char *)value, f->max));
    case SCHEMA_LIST:
        array = json_array();
        for (uint32_t k = 0; k < get_count(f, object); k++)
            append(&array, schema_json(f->sub, value + (size_t)k * f->sub->size));
        return array;
    case SCHEMA_SINCE:
        break;
    }
    return NULL;
}

json_t *schema_json(const struct schema *schema, const void *object)
{
    json_t *json = json_object();
    for (uint32_t i = 0; json && i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        if (f->kind != SCHEMA_SINCE &&
            json_object_set_new(json, f->name, field_json(f, object)) < 0) {
            json_decref(json);
            return NULL;
        }
    }
    return json;
}

/* FNV-1a: any mixing function will do, since nothing here is hostile. */
static uint64_t mix(uint64_t sum, const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        sum = (sum ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
    return sum;
}

uint64_t schema_fingerprint(const struct schema *schema)
{
    uint64_t sum = mix(UINT64_C(0xcbf29ce484222325), schema->name, strlen(schema->name) + 1);
    sum = mix(sum, &schema->version, sizeof(schema->version));
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        /* A capacity is no part of the bytes, a fixed count and a version are. */
        uint32_t count = f->kind == SCHEMA_INT || f->kind == SCHEMA_SINCE ? f->max : 0;
        sum = mix(sum, f->name, strlen(f->name) + 1);
        sum = mix(sum, &f->kind, 1);
        sum = mix(sum, &f->width, 1);
        sum = mix(sum, &count, sizeof(count));
        if (f->sub) {
            uint64_t sub = schema_fingerprint(f->sub);
            sum = mix(sum, &sub, sizeof(sub));
        }
    }
    return sum;
}
