/*
 * What a host has left for a guest's memory: what the kernel could hand out now, less what guests that are here
 * may still take of it (ctl/promise.h).
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct host_memory {
    uint64_t available_bytes; /* as the kernel says; UINT64_MAX = unknown, which refuses nobody */
    uint64_t promised_bytes;  /* of these, what others were promised and do not have yet */
};

/* MemAvailable; UINT64_MAX when it cannot be read. */
uint64_t host_memory_available(void);

/* Is there room for so much more? */
static inline bool host_memory_fits(const struct host_memory *memory, uint64_t bytes)
{
    if (memory->available_bytes == UINT64_MAX)
        return true;
    return memory->available_bytes >= bytes &&
           memory->available_bytes - bytes >= memory->promised_bytes;
}
