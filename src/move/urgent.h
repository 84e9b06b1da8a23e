/*
 * What travels on the urgent lane of a post-copy move after both sides have said LANE: no sections, since each
 * byte and call here is time that a vCPU waits. All little-endian.
 *
 *     target -> source   request   u64 page index
 *     source -> target   reply     u64 page index, bit 63 set: the page is zero     u64 sum
 *                                  then, unless zero, its 4096 bytes
 *
 * The sum is XXH3-64 of the page's bytes (of none, for a zero page) plus the first word. A request for a page that
 * is on its way already, on this lane or another, has no reply of its own.
 */
#pragma once
#include "base/gpa.h"
#include "move/move.h"
#include "move/wire.h"
#include "state/stream.h"
#include <string.h>

/* The source's way there: connects to the target, says LANE and waits for its LANE. *lane is the caller's. */
int urgent_connect(struct wire *lane, const struct move_env *env, const char *address,
                   const uint8_t token[MOVE_TOKEN_BYTES], uint32_t beside, uint64_t stall_limit_ns,
                   struct err *err) MUST_CHECK;

/* For the threads of the lane: to be run before others, where the process may ask for that. They sleep nearly always,
 * and while they wait for a processor so does a vCPU. */
void urgent_thread(void);

#define URGENT_REQUEST_BYTES 8
#define URGENT_HEAD_BYTES 16
#define URGENT_ZERO (UINT64_C(1) << 63)

static inline void urgent_put(uint8_t *at, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t urgent_get(const uint8_t *at)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++)
        v |= (uint64_t)at[i] << (8 * i);
    return v;
}

/* `page`: the bytes behind the head, or NULL for a zero page. */
static inline uint64_t urgent_sum(uint64_t word, const uint8_t *page)
{
    return stream_sum(page ? page : (const uint8_t *)"", page ? PAGE_BYTES : 0) + word;
}
