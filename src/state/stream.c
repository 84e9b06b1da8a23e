#include "state/stream.h"
#include "base/hash.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

SCHEMA_DEFINE(stream_end, 1, STREAM_END)

static const uint8_t magic[8] = { 'g', 'o', 'd', 'w', 'i', 't', '\r', '\n' };
static const uint32_t known_features; /* none yet */

uint64_t stream_sum(const void *bytes, size_t len)
{
    return hash_bytes(bytes, len);
}

static void put(uint8_t **at, uint64_t v, unsigned width)
{
    for (unsigned i = 0; i < width; i++)
        *(*at)++ = (uint8_t)(v >> (8 * i));
}

struct stream_header stream_header_ours(void)
{
    return (struct stream_header){ .version = STREAM_VERSION,
                                   .oldest_reader = STREAM_VERSION_OLDEST,
                                   .arch = STREAM_ARCH_X86_64 };
}

void stream_header_encode(const struct stream_header *header, uint8_t out[STREAM_HEADER_BYTES])
{
    uint8_t *at = out + sizeof(magic);
    memcpy(out, magic, sizeof(magic));
    put(&at, header->version, 2);
    put(&at, header->oldest_reader, 2);
    put(&at, header->arch, 4);
    put(&at, header->required, 4);
    put(&at, header->optional, 4);
    put(&at, 0, 8);
    put(&at, stream_sum(out, 32), 8);
}

int stream_header_decode(const uint8_t in[STREAM_HEADER_BYTES], struct stream_header *ret,
                         struct err *err)
{
    if (memcmp(in, magic, sizeof(magic)) != 0)
        return err_set(err, ERR_PEER, EBADMSG, "not a godwit stream");
    struct cursor cur = cursor_of(in + sizeof(magic), STREAM_HEADER_BYTES - sizeof(magic));
    struct stream_header h = { 0 };
    h.version = cursor_u16(&cur);
    h.oldest_reader = cursor_u16(&cur);
    h.arch = cursor_u32(&cur);
    h.required = cursor_u32(&cur);
    h.optional = cursor_u32(&cur);
    (void)cursor_u64(&cur);
    if (cursor_u64(&cur) != stream_sum(in, 32))
        return err_set(err, ERR_PEER, EBADMSG, "stream header damaged (checksum)");
    if (h.arch != STREAM_ARCH_X86_64)
        return err_set(err, ERR_PEER, EPROTONOSUPPORT,
                       "stream of architecture %u, and this is x86-64 (%u)", h.arch,
                       STREAM_ARCH_X86_64);
    if (h.oldest_reader > STREAM_VERSION || h.version < STREAM_VERSION_OLDEST)
        return err_set(
            err, ERR_PEER, EPROTONOSUPPORT,
            "stream version %u (readable from version %u on), and this build reads %u to %u",
            h.version, h.oldest_reader, STREAM_VERSION_OLDEST, STREAM_VERSION);
    if (h.required & ~known_features)
        return err_set(err, ERR_PEER, EPROTONOSUPPORT,
                       "stream needs features 0x%x that this build lacks",
                       h.required & ~known_features);
    *ret = h;
    return 0;
}

void section_encode(const struct section *section, uint8_t out[STREAM_SECTION_BYTES])
{
    uint8_t *at = out;
    put(&at, section->type, 2);
    put(&at, section->version, 2);
    put(&at, section->instance, 2);
    put(&at, section->flags, 2);
    put(&at, section->length, 4);
    at += 4;
    put(&at, section->body_sum, 8);
    /* The sum covers everything but itself: its own place counts as zero. */
    memset(out + 12, 0, 4);
    at = out + 12;
    put(&at, stream_sum(out, STREAM_SECTION_BYTES), 4);
}

int section_decode(const uint8_t in[STREAM_SECTION_BYTES], struct section *ret, struct err *err)
{
    uint8_t copy[STREAM_SECTION_BYTES];
    memcpy(copy, in, sizeof(copy));
    memset(copy + 12, 0, 4);

    struct cursor cur = cursor_of(in, STREAM_SECTION_BYTES);
    struct section s = { 0 };
    s.type = cursor_u16(&cur);
    s.version = cursor_u16(&cur);
    s.instance = cursor_u16(&cur);
    s.flags = cursor_u16(&cur);
    s.length = cursor_u32(&cur);
    uint32_t head_sum = cursor_u32(&cur);
    s.body_sum = cursor_u64(&cur);

    if (head_sum != (uint32_t)stream_sum(copy, sizeof(copy)))
        return err_set(err, ERR_PEER, EBADMSG, "section header damaged (checksum)");
    if (s.length > STREAM_BODY_MAX)
        return err_set(err, ERR_PEER, EBADMSG, "section %s of %u bytes, and the most is %u",
                       section_type_name(s.type), s.length, STREAM_BODY_MAX);
    *ret = s;
    return 0;
}

int section_check_sum(const struct section *section, uint64_t sum, struct err *err)
{
    if (sum != section->body_sum)
        return err_set(err, ERR_PEER, EBADMSG, "section %s %u damaged (checksum)",
                       section_type_name(section->type), section->instance);
    return 0;
}

int section_check_body(const struct section *section, const void *body, struct err *err)
{
    return section_check_sum(section, stream_sum(body, section->length), err);
}

static void put_section(struct buf *out, struct section section, const struct schema *schema,
                        const void *object)
{
    size_t head = out->len;
    (void)buf_grow(out, STREAM_SECTION_BYTES);
    schema_encode(schema, section.version, object, out);
    if (out->broken)
        return;
    const uint8_t *body = out->data + head + STREAM_SECTION_BYTES;
    size_t length = out->len - head - STREAM_SECTION_BYTES;
    ASSERT(length <= STREAM_BODY_MAX);
    section.length = (uint32_t)length;
    section.body_sum = stream_sum(body, length);
    section_encode(&section, out->data + head);
}

void section_put(struct buf *out, uint16_t type, uint16_t instance, uint16_t flags,
                 const struct schema *schema, const void *object)
{
    put_section(out,
                (struct section){ .type = type,
                                  .version = schema->version,
                                  .instance = instance,
                                  .flags = flags },
                schema, object);
}

void section_put_version(struct buf *out, uint16_t type, uint16_t version,
                         const struct schema *schema, const void *object)
{
    put_section(out, (struct section){ .type = type, .version = version }, schema, object);
}

int section_get(const struct section *section, const void *body, const struct schema *schema,
                void *object, struct err *err)
{
    struct cursor in = cursor_of(body, section->length);
    int rc = schema_decode(schema, section->version, &in, object, err);
    return rc ? err_wrap(err, rc, "section %s %u", section_type_name(section->type),
                         section->instance)
              : 0;
}

const char *section_type_name(uint16_t type)
{
    static const char *const names[] = {
        [SECTION_END] = "end",
        [SECTION_MACHINE] = "machine",
        [SECTION_CPUID] = "cpuid",
        [SECTION_PAGES] = "pages",
        [SECTION_VM] = "vm",
        [SECTION_VCPU] = "vcpu",
        [SECTION_SERIAL] = "serial",
        [SECTION_VIRTIO_NET] = "virtio-net",
        [SECTION_VIRTIO_BLK] = "virtio-blk",
        [SECTION_VIRTIO_RNG] = "virtio-rng",
        [SECTION_VIRTIO_BALLOON] = "virtio-balloon",
        [SECTION_BUTTON] = "button",
        [SECTION_ABSENT] = "absent",
        [SECTION_VIRTIO_VSOCK] = "virtio-vsock",
    };
    if (type == SECTION_PROBE)
        return "probe";
    if (type >= SECTION_MESSAGE && type < SECTION_TYPE_MAX)
        return "message";
    return type < ARRAY_LEN(names) && names[type] ? names[type] : "unknown";
}
