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

/* One writer at a time, or any number of readers, on all hosts that share the image: locks of the open file
 * (fcntl(2), F_OFD_SETLK) on two bytes, which end with it at the latest. A stranger needs both, so there is
 * no gap to slip into while a machine changes hands:
 *
 *                          first byte    second
 *     DISK_ALONE           takes         takes      a machine that begins here
 *     DISK_HAND_OVER       gives up      keeps      a source that has recorded that the machine is gone
 *     DISK_TAKE_OVER       takes                    a target, before it records that the machine is here;
 *                                                   a source that gets it back
 *
 * A reader's locks are shared, and stay while its machine changes hands. -EBUSY: someone else has it.
 * -ENOLCK: this file system has no locks. */
enum disk_lock { DISK_ALONE, DISK_HAND_OVER, DISK_TAKE_OVER };
int disk_lock(int fd, bool read_only, enum disk_lock how) MUST_CHECK;

/* XXH3 over the size and a fixed sample of blocks (first, last, 62 between): tells another disk
 * from the same one, not one changed byte. Never 0. Reads up to 256 KiB; may block. */
int disk_fingerprint(int fd, uint64_t sectors, uint64_t *ret) MUST_CHECK;
