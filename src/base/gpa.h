/* Guest physical addresses: a type of their own, so that none is dereferenced or mixed with a host
 * pointer by accident. The only way to the bytes is mem_get() (mem/mem.h). */
#pragma once
#include <stdint.h>

typedef struct {
    uint64_t raw;
} gpa_t;

static inline gpa_t gpa_of(uint64_t raw)
{
    return (gpa_t){ raw };
}

/* Wraps around like the 64-bit register a guest computes it in; mem_get() refuses what is not RAM. */
static inline gpa_t gpa_add(gpa_t gpa, uint64_t bytes)
{
    return (gpa_t){ gpa.raw + bytes };
}

#define PAGE_BYTES UINT64_C(4096)
#define PAGE_SHIFT 12
