/*
 * The meter itself: a sample an interval, until it is told to stop.
 *
 * Output as docs/measure.md has it: a first line, a line a sample, a last line with what the meter cost. Each line is
 * one write(2), and a line that does not fit on the disk is taken back, so what is there is whole.
 */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sampler_options {
    pid_t pid;              /* the process; 0: */
    const char *name;       /* its name, */
    bool wait;              /* which may be yet to come */
    uint64_t interval_ns;   /* > 0 */
    uint64_t for_ns;        /* ends by itself after so long; CLOCK_NEVER: not */
    const char *interfaces; /* names between commas; NULL: all */
    const char *output;     /* file to write; NULL: standard output */
};

/* Samples until SIGTERM, SIGINT or the time is over; blocks both signals. *ret_came: whether there ever was a process.
 * ERR_CALLER: there is no such process, or there are several. ERR_HOST: all else; what was written stays. */
int sampler_run(const struct sampler_options *options, bool *ret_came, struct err *err) MUST_CHECK;
