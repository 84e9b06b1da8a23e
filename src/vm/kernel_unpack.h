/* The compressed payload of a bzImage. */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

struct kernel_unpacked {
    uint8_t *bytes; /* owned; kernel_unpacked_free() */
    size_t len;
};

/* Unpacks LZ4 (the legacy frames of Linux), gzip or zstd; the last 4 bytes of every payload say how
 * long the result must be, and that bounds memory and work, whatever the compressed bytes claim.
 * -ENOTSUP: another format; -EBADMSG: damaged; -EFBIG: more than `max` bytes. */
int kernel_unpack(const uint8_t *packed, size_t packed_len, size_t max, struct kernel_unpacked *ret,
                  struct err *err) MUST_CHECK;
void kernel_unpacked_free(struct kernel_unpacked *unpacked);
