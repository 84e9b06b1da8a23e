/* ELF64 images with a PVH entry. */
#pragma once
#include "vm/kernel_file.h"

/* Checks all of the image, then loads it into fresh guest memory. *ret_end: the end of its highest
 * segment. Errors are ERR_CALLER and do not name the file; unless the file itself cannot be read,
 * nothing was written. */
int kernel_elf_load(const struct kernel_file *file, struct mem *mem, uint64_t *ret_entry,
                    uint64_t *ret_end, struct err *err) MUST_CHECK;
