/*
 * The file of rows, docs/measure.md: CSV, a line a request, in the order they are put.
 *
 * Buffered; rows_flush() is called about once a second. The first write that fails is kept as the error and every
 * later call does nothing: what was written before stays, cut to whole lines where the file allows it.
 */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

enum status {
    STATUS_PENDING, /* no row yet */
    STATUS_OK,
    STATUS_REFUSED,
    STATUS_RESET,
    STATUS_CLOSED,
    STATUS_TIMEOUT,
    STATUS_UNREACHABLE,
    STATUS_BAD,
    STATUS_UNSENT,
    STATUS_MAX
};
const char *status_name(enum status status);

/* What a failed call on a connection means. */
enum status status_of_errno(int code);

#define ROW_NO_SEQ UINT64_MAX
#define ROW_NO_CONNECTION UINT32_MAX

struct row {
    uint64_t seq; /* or ROW_NO_SEQ */
    const char *kind;
    uint32_t connection;               /* or ROW_NO_CONNECTION */
    uint64_t due_ns, sent_ns, done_ns; /* 0 = nothing to say */
    uint64_t bytes;
    enum status status;
};

struct rows {
    int fd; /* owned unless it is standard output */
    const char *path;
    const char *header;
    struct buf buf;
    uint64_t whole_bytes; /* in the file, as far as the last whole line */
    struct err err;       /* code 0: no write failed so far */
};

#define ROWS_HEADER "seq,kind,connection,due_ns,sent_ns,done_ns,bytes,status\n"

/* Creates or empties the file and writes its header line; "-" is standard output. The path must outlive the rows. */
int rows_open(struct rows *rows, const char *path, const char *header, struct err *err) MUST_CHECK;
void rows_put(struct rows *rows, const struct row *row);
/* Any other line, for a file that is not of requests. */
void rows_print(struct rows *rows, const char *fmt, ...) PRINTF(2, 3);
void rows_flush(struct rows *rows);
/* Flushes and closes. rows->err says whether all of it is in the file. */
void rows_close(struct rows *rows);
