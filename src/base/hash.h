/*
 * XXH3-64 (https://github.com/Cyan4973/xxHash), by the widest vectors that this processor has: the library chooses at
 * its first use. The value is the same everywhere, so it may go into files and streams. No defence against those who
 * choose the bytes. Any thread.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

uint64_t hash_bytes(const void *bytes, size_t len);

/* Of bytes that lie in pieces: the same value as if they lay in one. `hasher`, which hash_new() makes (NULL = no
 * memory) and hash_free() ends, is where it keeps its place; one thread at a time. */
struct hasher *hash_new(void);
void hash_free(struct hasher *hasher);
uint64_t hash_pieces(struct hasher *hasher, const struct iovec *piece, int count);

/* Another function for each seed. */
uint64_t hash_seeded(const void *bytes, size_t len, uint64_t seed);
