/*
 * Waiting for something that is about to come. A thread that sleeps costs its waker and itself tens of microseconds,
 * in a virtual machine most of all: more than a near peer takes to answer. So whoever waits within a pause of the
 * guest, or for a page it waits for, looks for a while before it sleeps.
 *
 * It never keeps a processor from another thread: it offers it with each look, and sleeps as soon as one took it.
 */
#pragma once
#include "base/clock.h"
#include "base/compiler.h"
#include <poll.h>
#include <stdbool.h>

/* Whether to look again, of a wait that began at `began_ns` and may be eager for `limit_ns`. */
bool eager_again(uint64_t began_ns, uint64_t limit_ns);

/* As poll(2); the eager time is part of the timeout only as far as milliseconds go. 0: not eager at all. */
int eager_poll(struct pollfd *fds, nfds_t count, int timeout_ms, uint64_t limit_ns);
