#include "observe.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SCHED_FIFO
#define SCHED_FIFO 1
#endif
#define SECOND_NS 1000000000ull
#define PAGE 4096u
#define PAGES 64u
#define WRITTEN 8u
#define BURST_NS 1000000ull /* each OBSERVE_SLOT_NS: 1 % of a processor */
#define WORK_PRIORITY 1
#define CLOCK_PRIORITY 2

uint64_t observe_now_ns(void)
{
    struct timespec ts = { 0 };
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

static void sleep_until(uint64_t when_ns)
{
    struct timespec ts = { .tv_sec = (time_t)(when_ns / SECOND_NS),
                           .tv_nsec = (long)(when_ns % SECOND_NS) };
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

/* ------------------------------------------------------------------------------- what is kept */

void observe_ring_init(struct observe_ring *ring)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    /* A reader that is preempted while it has the lock must not look like a gap of the clock. */
    pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&ring->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    ring->count = 0;
}

void observe_ring_put(struct observe_ring *ring, uint64_t a, uint64_t b, uint64_t c)
{
    pthread_mutex_lock(&ring->lock);
    uint64_t *row = ring->row[ring->count++ % OBSERVE_ROWS];
    row[0] = a;
    row[1] = b;
    row[2] = c;
    pthread_mutex_unlock(&ring->lock);
}

uint64_t observe_ring_count(struct observe_ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    uint64_t count = ring->count;
    pthread_mutex_unlock(&ring->lock);
    return count;
}

bool observe_ring_get(struct observe_ring *ring, uint64_t number, uint64_t ret_row[OBSERVE_COLUMNS])
{
    pthread_mutex_lock(&ring->lock);
    bool there = number < ring->count && ring->count - number <= OBSERVE_ROWS;
    if (there)
        memcpy(ret_row, ring->row[number % OBSERVE_ROWS], sizeof(ring->row[0]));
    pthread_mutex_unlock(&ring->lock);
    return there;
}

/* ------------------------------------------------------------------------------- the clock */

bool observe_clock_turn(struct observe_clock *clock, uint64_t now_ns, uint64_t *ret_at_ns,
                        uint64_t *ret_gap_ns)
{
    uint64_t last_ns = clock->last_ns;
    clock->last_ns = now_ns;
    if (!last_ns)
        return false;
    if (now_ns - last_ns >= clock->gap_ns) {
        clock->gap_ns = now_ns - last_ns;
        clock->gap_ended_ns = now_ns;
    }
    if (now_ns / OBSERVE_SLOT_NS == last_ns / OBSERVE_SLOT_NS)
        return false;
    *ret_at_ns = clock->gap_ended_ns;
    *ret_gap_ns = clock->gap_ns;
    clock->gap_ns = 0;
    return true;
}

/* As the scheduler sees the calling thread: before all ordinary ones. Without it the figures are those of one program among
 * others. musl answers ENOSYS to its own function on purpose; the kernel does not. */
static void prefer(int priority)
{
    if (syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &priority) < 0)
        fprintf(
            stderr,
            "godwit-agent: observe: no real-time priority: other programs show in what is measured\n");
}

static void *watch_clock(void *arg)
{
    struct observe *observe = arg;
    struct observe_clock clock = { 0 };
    uint64_t due_ns = observe_now_ns(), at_ns, gap_ns;
    prefer(CLOCK_PRIORITY);
    for (;;) {
        uint64_t now_ns = observe_now_ns();
        if (observe_clock_turn(&clock, now_ns, &at_ns, &gap_ns))
            observe_ring_put(&observe->clock, at_ns, gap_ns, 0);
        due_ns += observe->period_ns;
        if (due_ns < now_ns)
            due_ns = now_ns + observe->period_ns; /* turns that were missed are not made up for */
        sleep_until(due_ns);
    }
    return NULL;
}

/* ------------------------------------------------------------------------------- work */

bool observe_work_init(struct observe_work *work)
{
    void *memory =
        mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *work = (struct observe_work){ .memory = memory };
    if (memory == MAP_FAILED)
        return false;
    memset(memory, 0x5a, PAGES * PAGE);
    return true;
}

void observe_work_do(struct observe_work *work, uint64_t units)
{
    uint64_t mixed = work->mixed;
    for (uint64_t end = work->at + units; work->at < end; work->at++) {
        const unsigned char *page = work->memory + work->at % PAGES * PAGE;
        for (unsigned i = 0; i < PAGE; i += sizeof(uint64_t)) {
            uint64_t word;
            memcpy(&word, page + i, sizeof(word));
            mixed = (mixed ^ word) * 0x9e3779b97f4a7c15ull + i;
        }
        memcpy(work->memory + work->at % WRITTEN * PAGE, &mixed, sizeof(mixed));
    }
    work->mixed = mixed;
}

uint64_t observe_work_calibrate(struct observe_work *work, uint64_t burst_ns)
{
    uint64_t units = 1, best_ns;
    for (;; units *= 2) {
        best_ns = UINT64_MAX;
        for (unsigned i = 0; i < 3; i++) { /* the fastest: nothing came in between */
            uint64_t began_ns = observe_now_ns();
            observe_work_do(work, units);
            uint64_t took_ns = observe_now_ns() - began_ns;
            best_ns = took_ns < best_ns ? took_ns : best_ns;
        }
        if (best_ns >= burst_ns / 2)
            break;
    }
    units = (uint64_t)((double)units * (double)burst_ns / (double)best_ns);
    return units ? units : 1;
}

uint64_t observe_work_rest_ns(uint64_t busy_ns)
{
    uint64_t rest_ns = busy_ns < SECOND_NS ? 19 * busy_ns : SECOND_NS;
    return rest_ns > SECOND_NS         ? SECOND_NS
           : rest_ns > OBSERVE_SLOT_NS ? rest_ns
           : busy_ns < OBSERVE_SLOT_NS ? OBSERVE_SLOT_NS - busy_ns
                                       : OBSERVE_SLOT_NS;
}

static void *work_on(void *arg)
{
    struct observe *observe = arg;
    struct observe_work work;
    if (!observe_work_init(&work)) {
        perror("godwit-agent: observe: no memory to work on");
        return NULL;
    }
    prefer(WORK_PRIORITY);
    uint64_t units = observe_work_calibrate(&work, BURST_NS);
    for (;;) {
        uint64_t began_ns = observe_now_ns();
        observe_work_do(&work, units);
        uint64_t ended_ns = observe_now_ns();
        observe_ring_put(&observe->work, ended_ns, units, ended_ns - began_ns);
        sleep_until(ended_ns + observe_work_rest_ns(ended_ns - began_ns));
    }
    return NULL;
}

bool observe_start(struct observe *observe, unsigned period_ms)
{
    pthread_t clock, work;
    observe->period_ns = period_ms * 1000000ull;
    observe_ring_init(&observe->clock);
    observe_ring_init(&observe->work);
    if (pthread_create(&clock, NULL, watch_clock, observe) != 0 ||
        pthread_create(&work, NULL, work_on, observe) != 0) {
        fprintf(stderr, "godwit-agent: observe: cannot start its threads\n");
        return false;
    }
    pthread_detach(clock);
    pthread_detach(work);
    return true;
}
