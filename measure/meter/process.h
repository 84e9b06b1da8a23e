/*
 * The process that is measured: finding it, and reading what it and its threads used.
 *
 * A process is held by a pidfd and by its folder in /proc, both of which stay its own when its number is used again.
 * Everything read is kept, so that after its end the last figures are there. One thread.
 */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "text.h"
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PROCESS_NAME_MAX 17 /* the kernel's 16 with a NUL, and one to spare */

struct thread {
    pid_t tid;
    char name[PROCESS_NAME_MAX];
    int schedstat_fd, stat_fd, status_fd;
    uint64_t cpu_ns, guest_ns, voluntary, involuntary;
    uint64_t slices; /* how often it was put on a processor */
    bool read, seen, ended;
};

struct process {
    pid_t pid; /* 0: none yet */
    char name[PROCESS_NAME_MAX];
    int pid_fd, proc_fd, io_fd, status_fd;
    DIR *tasks;
    struct thread
        *thread; /* in the order of the kernel's list, as far as it was the same last time */
    unsigned count, cap;
    uint64_t cpu_ns, anon_bytes, shmem_bytes, read_bytes, written_bytes;
    bool has_memory, has_io; /* whether those could be read, ever */
    bool exact; /* schedstat counts nanoseconds here; else CPU times of threads are ticks */
    bool ended;
    uint64_t tick_ns;     /* of the times in /proc/PID/stat */
    uint64_t threads_ns;  /* how long the threads were last looked at, */
    uint64_t threads_due; /* and when next, CLOCK_MONOTONIC */
    struct text text;
};

/* Sets up an empty one. Whether `exact` holds is found out from the calling process. */
void process_init(struct process *process);
void process_fini(struct process *process);

/* Begins to hold the process of this number. ERR_CALLER: there is none, or it may not be read. */
int process_hold(struct process *process, pid_t pid, struct err *err) MUST_CHECK;

/* Reads all. `now_ns` is for the adaption: where there are more than 64 threads, and looking at them takes longer than
 * a twentieth of the time since the last look, they are left out until it does not. Returns whether they were looked
 * at. */
bool process_read(struct process *process, uint64_t now_ns);

/* The end, as the pidfd told: takes the CPU time once more, if nobody has collected the process yet. */
void process_end(struct process *process);

/* Writes `threads` (null if not `looked`) and `process`, and forgets the threads that ended. */
void process_json(struct process *process, bool looked, struct buf *buf);
