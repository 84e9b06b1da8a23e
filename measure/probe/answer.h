/* What a parser of answers says of the bytes it was given. */
#pragma once
#include <stdint.h>

enum answer {
    ANSWER_MORE, /* so far right, and not all of it */
    ANSWER_DONE, /* one whole answer */
    ANSWER_BAD,  /* not an answer: the connection is of no more use */
};

/* A sum over bytes that come in pieces (FNV-1a, 64 bits): tells a wrong answer from the right one, not a forged one. */
#define ANSWER_SUM_BEGIN UINT64_C(0xcbf29ce484222325)
static inline uint64_t answer_sum(uint64_t sum, const void *bytes, uint64_t len)
{
    for (const uint8_t *at = bytes, *end = at + len; at < end; at++)
        sum = (sum ^ *at) * UINT64_C(0x100000001b3);
    return sum;
}
