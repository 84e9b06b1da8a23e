/*
 * The log: one line per event on stderr (the monitor's log file), `time level event: text`.
 *
 * Library layers log at debug only; an error is reported once, by whoever handles it. Thread-safe: a
 * line is one write(2). Lines a guest or a peer can provoke go through LOG_RATED, which drops what
 * exceeds ten a second per call site and says how many it dropped.
 */
#pragma once
#include "base/compiler.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_LEVEL_MAX };

/* Sets the lowest level that is written (default LOG_INFO) and the VM name put into every line.
 * Called once, before threads start. */
void log_setup(enum log_level lowest, const char *vm_name);

/* `event` is a stable word for machines, as in "move.round" or "virtio.reset". */
void log_event(enum log_level level, const char *event, const char *fmt, ...) PRINTF(3, 4);

struct log_rate {
    _Atomic uint64_t window_ns; /* start of the current second */
    _Atomic uint32_t in_window, dropped;
};
bool log_rate_pass(struct log_rate *rate, uint32_t *ret_dropped);

#define LOG_RATED(level, event, fmt, ...)                                     \
    do {                                                                      \
        static struct log_rate rate_;                                         \
        uint32_t dropped_;                                                    \
        if (log_rate_pass(&rate_, &dropped_)) {                               \
            if (dropped_)                                                     \
                log_event(level, event, "(%u such lines dropped)", dropped_); \
            log_event(level, event, fmt, ##__VA_ARGS__);                      \
        }                                                                     \
    } while (0)
