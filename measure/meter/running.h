/*
 * How long exactly 0, 1, 2, ... threads of a process were on a processor at once.
 *
 * Not sampled: the kernel records every context switch of every processor (perf_event_open(2): a dummy
 * event a processor, with switch records stamped by CLOCK_MONOTONIC), and they are merged in order of time. A thread
 * is on a processor from the record that switched it in to the one that switched it out; the switch itself,
 * some microseconds, belongs to nobody. On a processor is on a processor: a vCPU thread counts while it runs its guest,
 * and interrupts that came meanwhile count for whoever they interrupted.
 *
 * What a processor runs before its first record is found out by running there: the caller visits each
 * processor once at the beginning, and again after records were lost. An interval in which anything is unknown, or any
 * record was or may have been lost, has no figures.
 *
 * Every switch of the machine costs two records of 32 bytes. One thread uses this.
 */
#pragma once
#include "base/err.h"
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct running;

/* Opens one event a processor, not yet recording. -EACCES and others, with the reason in `err`: the kernel
 * does not allow it, or cannot. */
int running_open(struct running **ret, struct err *err) MUST_CHECK;
void running_close(struct running *running);

/* Begins to record, for this process. `running` may be NULL here and below: then there are never figures. */
void running_start(struct running *running, pid_t pid);

/* Takes in the records up to `until_ns`; later ones stay. Call it often enough that no buffer runs full: when
 * the descriptors of running_poll() are readable, a buffer is half full. */
void running_advance(struct running *running, uint64_t until_ns);

/* running_advance(), then the figures since the last take: (*ret)[i] is how long exactly i threads ran, for each i
 * below *ret_count, and they sum to the time since then. They are `running`'s, until the next call. False: not known. */
bool running_take(struct running *running, uint64_t until_ns, const uint64_t **ret,
                  unsigned *ret_count);

/* How many descriptors there are; and fills as many entries to poll for POLLIN. */
unsigned running_count(const struct running *running);
void running_poll(const struct running *running, struct pollfd *ret);

/* Records lost so far; and of records that came only after their time was accounted for, the latest. */
uint64_t running_lost(const struct running *running);
uint64_t running_late_ns(const struct running *running);
