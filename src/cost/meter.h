/*
 * Meters: what this process spends, by thread group and over a span of time.
 *
 * Threads announce what they are for; their CPU time is read from their own CPU clocks
 * (pthread_getcpuclockid(3)), exact to the scheduler's nanosecond and without a file to parse.
 * What the process used beyond them is the group "other", so that the groups always add up to
 * the process.
 *
 * Memory is the process's own (anonymous) memory. The guest's is a shared memfd and is not in
 * it, nor is what the kernel holds on the process's behalf: socket buffers, page tables, KVM's
 * bitmaps. The kernel keeps no high-water mark of anonymous memory alone, so the peak is the
 * largest of the samples taken: at the beginning, at each meter_span_tick(), at the end.
 */
#pragma once
#include "base/compiler.h"
#include "cost/bill.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define METER_THREADS_MAX 64

struct meter_thread {
    clockid_t clock;
    enum bill_group group;
    bool used;
};

/* One a process, made before its threads. Thread-safe. */
struct meter {
    pthread_mutex_t lock;
    struct meter_thread thread[METER_THREADS_MAX];
    uint64_t ended_ns[BILL_CPU_MAX]; /* CPU of threads that have left */
};

void meter_init(struct meter *meter);
void meter_fini(struct meter *meter);

/* The calling thread belongs to `group` from now on, with all it has used so far, until it
 * leaves, which it must do before it ends. Returns a slot for meter_thread_leave(), or -ENOSPC,
 * -errno: then the thread counts as "other", and leaving with that number does nothing. */
int meter_thread_enter(struct meter *meter, enum bill_group group);
void meter_thread_leave(struct meter *meter, int slot);

struct meter_sample {
    unsigned measured; /* set of BILL_MEASURED_* */
    uint64_t at_ns;
    uint64_t cpu_ns[BILL_CPU_MAX];
    uint64_t memory_bytes;
    uint64_t disk_read_bytes, disk_written_bytes; /* /proc/self/io */
};

/* Reads everything. Costs tens of microseconds: not for the time the guest stands still. Never
 * fails; what cannot be read is missing from `measured`. */
void meter_read(struct meter *meter, struct meter_sample *ret);

/* A move's span of time on this side. */
struct meter_span {
    struct meter_sample before;
    uint64_t memory_peak_bytes;
};

void meter_span_begin(struct meter *meter, struct meter_span *span);
void meter_span_tick(struct meter_span *span); /* a sample of memory: at each round and stage */

/* Fills *ret with the differences since the beginning; load, commit and resume stay 0 for the
 * caller to fill. `tcp_fd`: the connected socket of the move, still open, or -1. */
void meter_span_end(struct meter *meter, struct meter_span *span, int tcp_fd,
                    struct bill_side *ret);
