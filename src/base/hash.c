#include "base/hash.h"

#ifdef HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

uint64_t hash_bytes(const void *bytes, size_t len)
{
    return XXH3_64bits(bytes, len);
}

/* The library's state, of which only the library knows how large it is. */
static XXH3_state_t *state_of(struct hasher *hasher)
{
    return (XXH3_state_t *)hasher;
}

struct hasher *hash_new(void)
{
    return (struct hasher *)XXH3_createState();
}

void hash_free(struct hasher *hasher)
{
    (void)XXH3_freeState(state_of(hasher));
}

uint64_t hash_pieces(struct hasher *hasher, const struct iovec *piece, int count)
{
    XXH3_state_t *state = state_of(hasher);
    (void)XXH3_64bits_reset(state);
    for (int i = 0; i < count; i++)
        (void)XXH3_64bits_update(state, piece[i].iov_base, piece[i].iov_len);
    return XXH3_64bits_digest(state);
}

uint64_t hash_seeded(const void *bytes, size_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, len, seed);
}
