/*
 * Whether a page holds nothing but zeros, as fast as this processor can tell.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef bool mem_zero_fn(const uint8_t *page);

/* The best for this processor: AVX-512, AVX2, or what every one can. `page` is aligned to 64 bytes; what it holds may
 * change meanwhile. */
mem_zero_fn *mem_zero_pick(void);

/* All of them, for tests: NULL where this processor cannot. */
enum mem_zero_kind { MEM_ZERO_PORTABLE, MEM_ZERO_AVX2, MEM_ZERO_AVX512, MEM_ZERO_MAX };
mem_zero_fn *mem_zero_get(enum mem_zero_kind kind);
