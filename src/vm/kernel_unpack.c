#include "vm/kernel_unpack.h"
#include "base/cursor.h"

#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#define LZ4_LEGACY_BLOCK (8u << 20) /* every block but the last unpacks to exactly this */

/* Each returns whether the bytes before the payload's size unpack to exactly `len` bytes. */

/* Magic, then blocks: u32 packed length, packed bytes (lz4_Frame_format.md, "Legacy frame"). */
static bool unpack_lz4(const uint8_t *packed, size_t packed_len, uint8_t *out, size_t len)
{
    struct cursor cur = cursor_of(packed, packed_len);
    size_t done = 0;
    (void)cursor_u32(&cur); /* the magic, which brought us here */
    while (cur.left > 0) {
        uint32_t block_len = cursor_u32(&cur);
        const uint8_t *block = cursor_take(&cur, block_len);
        if (!block || block_len > INT_MAX)
            return false;
        int n = LZ4_decompress_safe((const char *)block, (char *)out + done, (int)block_len,
                                    (int)MIN(len - done, (size_t)LZ4_LEGACY_BLOCK));
        if (n < 0)
            return false;
        done += (size_t)n;
    }
    return done == len;
}

static bool unpack_gzip(const uint8_t *packed, size_t packed_len, uint8_t *out, size_t len)
{
    z_stream z = { .next_in = (Bytef *)(uintptr_t)packed,
                   .avail_in = (uInt)packed_len,
                   .next_out = out,
                   .avail_out = (uInt)len };
    if (packed_len > UINT_MAX || len > UINT_MAX || inflateInit2(&z, MAX_WBITS + 16) != Z_OK)
        return false;
    bool whole = inflate(&z, Z_FINISH) == Z_STREAM_END && z.avail_out == 0;
    (void)inflateEnd(&z);
    return whole;
}

/* In one call, so that the output is the window and no second one is allocated. */
static bool unpack_zstd(const uint8_t *packed, size_t packed_len, uint8_t *out, size_t len)
{
    size_t n = ZSTD_decompress(out, len, packed, packed_len);
    return !ZSTD_isError(n) && n == len;
}

static const struct format {
    uint8_t magic[4], magic_len;
    bool size_inside; /* gzip ends in the size itself; elsewhere the kernel's build appended it */
    bool (*unpack)(const uint8_t *packed, size_t packed_len, uint8_t *out, size_t len);
} formats[] = {
    { { 0x02, 0x21, 0x4c, 0x18 }, 4, false, unpack_lz4 },
    { { 0x1f, 0x8b }, 2, true, unpack_gzip },
    { { 0x28, 0xb5, 0x2f, 0xfd }, 4, false, unpack_zstd },
};

static const struct format *find_format(const uint8_t *packed)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (memcmp(packed, formats[i].magic, formats[i].magic_len) == 0)
            return &formats[i];
    return NULL;
}

int kernel_unpack(const uint8_t *packed, size_t packed_len, size_t max, struct kernel_unpacked *ret,
                  struct err *err)
{
    if (packed_len < 8)
        return err_set(err, ERR_CALLER, EBADMSG, "its compressed payload is cut short");
    const struct format *format = find_format(packed);
    if (!format)
        return err_set(err, ERR_CALLER, ENOTSUP, "its payload is not LZ4, gzip or zstd");

    struct cursor tail = cursor_of(packed + packed_len - 4, 4);
    size_t len = cursor_u32(&tail);
    if (len == 0)
        return err_set(err, ERR_CALLER, EBADMSG, "its compressed payload is said to be empty");
    if (len > max)
        return err_set(err, ERR_CALLER, EFBIG, "it unpacks to %zu bytes, more than %zu", len, max);
    /* Mapped, not malloc'd: it is tens of megabytes, and all of it goes back to the system. */
    void *out = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (out == MAP_FAILED)
        return err_errno(err, ERR_HOST, errno, "cannot unpack it to %zu bytes", len);
    (void)madvise(out, len, MADV_HUGEPAGE); /* a third off the whole loading; only a hint */
    struct kernel_unpacked unpacked = { .bytes = out, .len = len };
    if (!format->unpack(packed, format->size_inside ? packed_len : packed_len - 4, out, len)) {
        kernel_unpacked_free(&unpacked);
        return err_set(err, ERR_CALLER, EBADMSG, "its compressed payload is damaged");
    }
    *ret = unpacked;
    return 0;
}

void kernel_unpacked_free(struct kernel_unpacked *unpacked)
{
    if (unpacked->bytes)
        (void)munmap(unpacked->bytes, unpacked->len);
    *unpacked = (struct kernel_unpacked){ 0 };
}
