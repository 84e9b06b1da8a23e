/*
 * XXH3-64 (https://github.com/Cyan4973/xxHash), by the widest vectors that this processor has: the library chooses at
 * its first use. The value is the same everywhere, so it may go into files and streams. No defence against those who
 * choose the bytes. Any thread.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *bytes, size_t len);

/* Another function for each seed. */
uint64_t hash_seeded(const void *bytes, size_t len, uint64_t seed);
