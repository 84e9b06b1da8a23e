/* Clocks. All times are unsigned nanoseconds of CLOCK_MONOTONIC unless a name says otherwise. */
#pragma once
#include <stdint.h>
#include <time.h>

#define CLOCK_SECOND UINT64_C(1000000000)
#define CLOCK_MSEC UINT64_C(1000000)
#define CLOCK_NEVER UINT64_MAX

static inline uint64_t clock_read_ns(clockid_t id)
{
    struct timespec ts = { 0 };
    (void)clock_gettime(id, &ts); /* cannot fail for the ids used here */
    return (uint64_t)ts.tv_sec * CLOCK_SECOND + (uint64_t)ts.tv_nsec;
}

static inline uint64_t clock_now_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

/* Wall clock, ns since 1970: comparable between hosts as far as their clocks agree. */
static inline uint64_t clock_wall_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}

/* CPU time used by the calling thread. */
static inline uint64_t clock_thread_cpu_ns(void)
{
    return clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}
