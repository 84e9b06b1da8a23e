/*
 * A token bucket: whether bytes may be sent now, so that a limit in bytes a second is kept by all who share it.
 * The clock is passed in.
 *
 * It fills at the limit's rate up to a burst of 3 % of a second's worth, and whoever finds something in it may
 * send one piece of at most bucket_piece() bytes, 1 % of a second's worth but at least a page, and counts it
 * afterwards, which may leave a debt. So in no second more than about 4 % above the limit passes (4.7 % at
 * BUCKET_RATE_MIN), and a sender that is kept from its CPU for less than a burst lasts loses nothing. What must go at
 * once is only counted: the others then wait for it.
 *
 * Threads: any.
 */
#pragma once
#include <pthread.h>
#include <stdint.h>

#define BUCKET_RATE_MIN UINT64_C(250000)       /* 2 Mbit/s: a page is a large part of less */
#define BUCKET_RATE_MAX UINT64_C(125000000000) /* 1 Tbit/s */

struct bucket {
    pthread_mutex_t lock;
    uint64_t rate;     /* bytes a second; 0 = no limit */
    int64_t level;     /* bytes that may go now; below zero = a debt */
    uint64_t since_ns; /* level is as of this time */
};

void bucket_init(struct bucket *bucket);
void bucket_fini(struct bucket *bucket);

/* Sets the limit from now on, at most BUCKET_RATE_MAX; 0 = none. Below BUCKET_RATE_MIN it is kept in the mean only. What is in the bucket is kept, as far as it
 * fits. */
void bucket_set(struct bucket *bucket, uint64_t rate, uint64_t now_ns);

/* How long to wait before the next piece may be sent; 0 = it may go now. */
uint64_t bucket_wait_ns(struct bucket *bucket, uint64_t now_ns);

/* The most bytes to send at once; UINT64_MAX = no limit. */
uint64_t bucket_piece(struct bucket *bucket);

/* Counts what was sent, or is about to be. */
void bucket_spend(struct bucket *bucket, uint64_t bytes, uint64_t now_ns);
