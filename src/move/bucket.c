#include "move/bucket.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/gpa.h"

#define BURST_PERCENT 3
#define PIECE_PERCENT 1
/* A section with one page has a head and a table too. */
#define PIECE_MIN (PAGE_BYTES + 64)

static int64_t burst_of(uint64_t rate)
{
    return (int64_t)(rate / 100 * BURST_PERCENT);
}

/* With the lock held, as the static functions below. */
static void fill(struct bucket *bucket, uint64_t now_ns)
{
    if (now_ns <= bucket->since_ns)
        return;
    __extension__ unsigned __int128 grown =
        (unsigned __int128)(now_ns - bucket->since_ns) * bucket->rate / CLOCK_SECOND;
    int64_t missing = burst_of(bucket->rate) - bucket->level;
    if (missing <= 0 || grown >= (unsigned __int128)missing) {
        bucket->level = burst_of(bucket->rate);
        bucket->since_ns = now_ns;
    } else if (grown > 0) {
        /* Only the time these whole bytes took: no fraction is lost to many looks. */
        bucket->level += (int64_t)grown;
        bucket->since_ns += (uint64_t)(grown * CLOCK_SECOND / bucket->rate);
    }
}

void bucket_init(struct bucket *bucket)
{
    *bucket = (struct bucket){ 0 };
    (void)pthread_mutex_init(&bucket->lock, NULL);
}

void bucket_fini(struct bucket *bucket)
{
    (void)pthread_mutex_destroy(&bucket->lock);
}

void bucket_set(struct bucket *bucket, uint64_t rate, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&bucket->lock);
    if (bucket->rate)
        fill(bucket, now_ns);
    else
        bucket->level = 0;
    bucket->rate = MIN(rate, BUCKET_RATE_MAX);
    bucket->level = MIN(bucket->level, burst_of(bucket->rate));
    bucket->since_ns = now_ns;
    (void)pthread_mutex_unlock(&bucket->lock);
}

uint64_t bucket_wait_ns(struct bucket *bucket, uint64_t now_ns)
{
    uint64_t wait_ns = 0;
    (void)pthread_mutex_lock(&bucket->lock);
    if (bucket->rate)
        fill(bucket, now_ns);
    if (bucket->rate && bucket->level <= 0) {
        uint64_t lack = (uint64_t)-bucket->level + 1;
        wait_ns =
            (uint64_t)(__extension__(unsigned __int128) lack * CLOCK_SECOND / bucket->rate) + 1;
    }
    (void)pthread_mutex_unlock(&bucket->lock);
    return wait_ns;
}

uint64_t bucket_piece(struct bucket *bucket)
{
    (void)pthread_mutex_lock(&bucket->lock);
    uint64_t rate = bucket->rate;
    (void)pthread_mutex_unlock(&bucket->lock);
    return rate ? MAX(rate / 100 * PIECE_PERCENT, PIECE_MIN) : UINT64_MAX;
}

void bucket_spend(struct bucket *bucket, uint64_t bytes, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&bucket->lock);
    if (bucket->rate) {
        fill(bucket, now_ns);
        /* A debt of more than a second's worth would starve the rest: what is beyond it is forgiven. */
        bucket->level =
            MAX(bucket->level - (int64_t)MIN(bytes, BUCKET_RATE_MAX), -(int64_t)bucket->rate);
    }
    (void)pthread_mutex_unlock(&bucket->lock);
}
