/* Raw disk images: files and block devices whose bytes are the disk's. */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

#define DISK_SECTOR_BYTES 512u

/* Opens a disk image, naming it in the error: missing, not permitted, a directory, empty, or no
 * multiple of a sector. */
int disk_open(const char *path, bool read_only, int *ret_fd, uint64_t *ret_sectors,
              struct err *err) MUST_CHECK;

/* Size of an open image; -EINVAL: not a file or block device, empty, or no multiple of a sector. */
int disk_sectors(int fd, uint64_t *ret_sectors) MUST_CHECK;

/* XXH3 over the size and a fixed sample of blocks (first, last, 62 between): tells another disk
 * from the same one, not one changed byte. Never 0. Reads up to 256 KiB; may block. */
int disk_fingerprint(int fd, uint64_t sectors, uint64_t *ret) MUST_CHECK;
