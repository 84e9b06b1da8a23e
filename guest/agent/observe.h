/*
 * `godwit-agent observe`: what a guest notices of a move, kept in a fixed amount of memory and served to whoever asks.
 *
 * Two threads look at the clock and work a little; both prefer real-time priority, so that what they see is the machine
 * standing still or being slow, and not the guest's other programs being busy. The main thread serves (observe_serve.c);
 * a client can neither hold the others up nor make memory grow.
 */
#pragma once
#include "guest.h"

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define OBSERVE_ROWS 9000 /* 15 minutes of tenths of a second */
#define OBSERVE_COLUMNS 3
#define OBSERVE_SLOT_NS 100000000ull

/* The last OBSERVE_ROWS rows. Any thread. The lock is held for one row at a time, with priority inheritance. */
struct observe_ring {
    pthread_mutex_t lock;
    uint64_t count; /* rows ever put; row n is in place n % OBSERVE_ROWS */
    uint64_t row[OBSERVE_ROWS][OBSERVE_COLUMNS];
};

void observe_ring_init(struct observe_ring *ring);
void observe_ring_put(struct observe_ring *ring, uint64_t a, uint64_t b, uint64_t c);
/* The number of rows ever put. */
uint64_t observe_ring_count(struct observe_ring *ring);
/* False: that row is not there any more, or not yet. */
bool observe_ring_get(struct observe_ring *ring, uint64_t number,
                      uint64_t ret_row[OBSERVE_COLUMNS]);

/* The clock loop. All 0 before the first turn. */
struct observe_clock {
    uint64_t last_ns;              /* of the turn before */
    uint64_t gap_ns, gap_ended_ns; /* the largest of this tenth of a second */
};
/* A turn at `now_ns`. True: a tenth is over; *ret_gap_ns ended at *ret_at_ns. */
bool observe_clock_turn(struct observe_clock *clock, uint64_t now_ns, uint64_t *ret_at_ns,
                        uint64_t *ret_gap_ns);

/* Work: computing over 64 pages, 8 of which are written, so that a burst dirties 32 KiB whatever its length. */
struct observe_work {
    unsigned char *memory;
    uint64_t at, mixed; /* the next unit; what came of it */
};
bool observe_work_init(struct observe_work *work);
void observe_work_do(struct observe_work *work, uint64_t units);
/* How many units make a burst of about `burst_ns` on this machine now; at least 1. */
uint64_t observe_work_calibrate(struct observe_work *work, uint64_t burst_ns);
/* How long to wait after a burst that took `busy_ns`: work takes a twentieth of the time at most, unless the machine is so
 * slow that there would be less than one burst a second. */
uint64_t observe_work_rest_ns(uint64_t busy_ns);

uint64_t observe_now_ns(void);

struct observe {
    uint64_t period_ns;
    struct observe_ring clock; /* at_ns, gap_ns */
    struct observe_ring work;  /* at_ns, units, busy_ns */
};
/* Starts both threads. False: said why. They never end. */
bool observe_start(struct observe *observe, unsigned period_ms);

/* observe_serve.c. Serves clients of these listening, non-blocking sockets (-1 = none) until `stop_fd` is readable (-1: for
 * ever). `vsock`: only the host is served there. */
void observe_serve(struct observe *observe, int tcp_fd, int vsock_fd, int stop_fd);
/* All of it, as the configuration allows; the exit status. */
int observe_run(const struct guest_config *config);
