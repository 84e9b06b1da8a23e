/*
 * Errors a person reads.
 *
 * Fallible functions return 0 or -errno. Where a person will want the reason, the last parameter is a
 * `struct err *`: filled exactly once where the failure is noticed, wrapped at most once per layer on
 * the way up ("cannot start web1: disk root: no such file"), and left untouched on success.
 * A NULL `struct err *` is allowed everywhere.
 */
#pragma once
#include "base/compiler.h"

/* Who has to act. */
enum err_fault {
    ERR_NONE = 0,
    ERR_CALLER, /* the command line, a configuration or an API request */
    ERR_HOST,   /* this machine: a missing device, memory, disk space */
    ERR_GUEST,  /* the guest misbehaved */
    ERR_PEER,   /* the other side of a move, or bytes that came from outside */
    ERR_BUG,    /* godwit itself */
    ERR_FAULT_MAX
};

struct err {
    int code; /* positive errno; 0 = no error */
    enum err_fault fault;
    const char *
        reason; /* a word for programs, static ("memory", "cancelled"); NULL where none was given */
    char text[480]; /* one line, no final full stop */
};

/* Fills `err`, with no reason, and returns -code, so that a caller can write `return err_set(...)`. */
int err_set(struct err *err, enum err_fault fault, int code, const char *fmt, ...) PRINTF(4, 5);

/* err_set() with ": <strerror(code)>" appended. */
int err_errno(struct err *err, enum err_fault fault, int code, const char *fmt, ...) PRINTF(4, 5);

/* Puts "<context>: " before the text and returns -err->code (or `rc` when err is NULL). */
int err_wrap(struct err *err, int rc, const char *fmt, ...) PRINTF(3, 4);

/* The name of a fault as JSON and logs spell it: "caller", "host", "guest", "peer", "bug". */
const char *err_fault_name(enum err_fault fault);
