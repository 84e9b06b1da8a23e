/* Boot files: bytes on disk or, once unpacked, in memory, read without trusting any offset. */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "mem/mem.h"
#include <stddef.h>
#include <stdint.h>

struct kernel_file {
    int fd;               /* owned; -1 when the bytes are in memory */
    const uint8_t *bytes; /* borrowed */
    uint64_t len;
};

/* Opens a regular file of 1 to KERNEL_FILE_MAX bytes. `what` ("kernel") is for the error. */
int kernel_file_open(struct kernel_file *file, const char *what, const char *path,
                     struct err *err) MUST_CHECK;
void kernel_file_close(struct kernel_file *file);

/* -EBADMSG: [offset, offset+len) is not in the file. */
int kernel_file_read(const struct kernel_file *file, uint64_t offset, void *buf,
                     uint64_t len) MUST_CHECK;

/* The same, straight into guest memory. -EFAULT: the range is not RAM. */
int kernel_file_load(const struct kernel_file *file, uint64_t offset, uint64_t len, struct mem *mem,
                     gpa_t gpa) MUST_CHECK;
