#include "base/eager.h"

#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#define TAKEN_NS UINT64_C(30000) /* a yield that lasted longer let somebody else run */

/* With one processor the thread that is waited for could not run meanwhile. */
static bool alone(void)
{
    static _Atomic(long) processors;
    long n = atomic_load_explicit(&processors, memory_order_relaxed);
    if (n == 0) {
        n = sysconf(_SC_NPROCESSORS_ONLN);
        atomic_store_explicit(&processors, n, memory_order_relaxed);
    }
    return n < 2;
}

bool eager_again(uint64_t began_ns, uint64_t limit_ns)
{
    uint64_t before = clock_now_ns();
    if (before - began_ns >= limit_ns || alone())
        return false;
    (void)sched_yield();
    return clock_now_ns() - before < TAKEN_NS;
}

int eager_poll(struct pollfd *fds, nfds_t count, int timeout_ms, uint64_t limit_ns)
{
    uint64_t began_ns = clock_now_ns();
    int n = 0;
    if (limit_ns && timeout_ms)
        do
            n = poll(fds, count, 0);
        while (n == 0 && eager_again(began_ns, limit_ns));
    return n ? n : poll(fds, count, timeout_ms);
}
