#include "move/page_memo.h"
#include "base/gpa.h"
#include "base/hash.h"
#include "state/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct page_memo_place {
    uint64_t page; /* plus one; 0 = none */
    uint32_t used; /* the round */
};

void page_memo_init(struct page_memo *memo, uint64_t pages, uint64_t keep_bytes, uint64_t seed)
{
    *memo = (struct page_memo){ .pages = pages,
                                .seed = seed,
                                .place_count = MIN(keep_bytes / PAGE_BYTES, pages) };
    for (unsigned i = 0; i < PAGE_MEMO_LOCKS; i++)
        (void)pthread_mutex_init(&memo->lock[i], NULL);
}

void page_memo_fini(struct page_memo *memo)
{
    if (!memo->pages)
        return;
    for (unsigned i = 0; i < PAGE_MEMO_LOCKS; i++)
        (void)pthread_mutex_destroy(&memo->lock[i]);
    free(memo->hash);
    free(memo->place);
    free(memo->kept);
    *memo = (struct page_memo){ 0 };
}

/* Untouched parts of these cost no memory. */
void page_memo_begin(struct page_memo *memo, uint32_t round)
{
    memo->round = round;
    if (round < 2 || memo->hash)
        return;
    memo->hash = calloc(memo->pages, sizeof(*memo->hash));
    if (!memo->place_count)
        return;
    memo->place = calloc(memo->place_count, sizeof(*memo->place));
    memo->kept = malloc(memo->place_count * PAGE_BYTES);
    if (memo->place && memo->kept)
        return;
    free(memo->place);
    free(memo->kept);
    memo->place = NULL;
    memo->kept = NULL;
}

bool page_memo_same(struct page_memo *memo, uint64_t page, const uint8_t *bytes)
{
    if (!memo->hash)
        return false;
    uint64_t hash = hash_seeded(bytes, PAGE_BYTES, memo->seed);
    hash += hash == 0;
    bool same = memo->hash[page] == hash;
    memo->hash[page] = hash;
    return same;
}

void page_memo_zero(struct page_memo *memo, uint64_t page)
{
    if (memo->hash)
        memo->hash[page] = 0;
    if (!memo->place)
        return;
    uint64_t at = page % memo->place_count;
    pthread_mutex_t *lock = &memo->lock[at % PAGE_MEMO_LOCKS];
    (void)pthread_mutex_lock(lock);
    if (memo->place[at].page == page + 1)
        memo->place[at].page = 0;
    (void)pthread_mutex_unlock(lock);
}

int page_memo_delta(struct page_memo *memo, uint64_t page, const uint8_t *bytes, uint8_t *out)
{
    int rc = -ENOENT;
    if (!memo->place)
        return rc;
    uint64_t at = page % memo->place_count;
    struct page_memo_place *place = &memo->place[at];
    uint8_t *kept = memo->kept + at * PAGE_BYTES;
    pthread_mutex_t *lock = &memo->lock[at % PAGE_MEMO_LOCKS];
    (void)pthread_mutex_lock(lock);
    bool ours = place->page == page + 1;
    if (ours)
        rc = pages_delta_encode(kept, bytes, out);
    if (ours || place->page == 0 || place->used + 1 < memo->round) {
        memcpy(kept, bytes, PAGE_BYTES);
        *place = (struct page_memo_place){ .page = page + 1, .used = memo->round };
    }
    (void)pthread_mutex_unlock(lock);
    return rc;
}
