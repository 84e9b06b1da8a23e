/*
 * Reads the replies of a Redis server in whatever pieces they come: RESP2, and nothing else.
 *
 * One value at a time; arrays may hold arrays, RESP_DEPTH_MAX deep. Of the value the parser keeps what a probe
 * compares: its type, the text of a simple string, error or integer, the length and sum of a bulk string. No input
 * makes it allocate.
 */
#pragma once
#include "answer.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESP_LINE_MAX 1024
#define RESP_DEPTH_MAX 8
#define RESP_BULK_MAX (INT64_C(512) << 20) /* the protocol's limit */
#define RESP_ARRAY_MAX (INT64_C(1) << 20)

enum resp_state { RESP_LINE, RESP_BULK, RESP_BULK_END, RESP_DONE, RESP_BROKEN };

struct resp {
    enum resp_state state;
    char type;                /* of the whole value: '+', '-', ':', '$', '*' */
    bool nil;                 /* a bulk string or array that is not there */
    char text[RESP_LINE_MAX]; /* the whole value's line without its type, with a NUL */
    uint64_t bulk_bytes,
        bulk_sum; /* of a whole value that is a bulk string: length, answer_sum() */

    /* the parser's own */
    uint64_t left;
    unsigned depth;
    uint64_t open[RESP_DEPTH_MAX]; /* values still to come in each array around */
    bool any;                      /* the whole value's own line was read */
    size_t line_len;
    char line[RESP_LINE_MAX];
};

/* Before each reply. */
void resp_begin(struct resp *resp);

/* Takes bytes; *ret_used says how many of them belong to this reply: fewer than `len` only when it is done or bad. */
enum answer resp_feed(struct resp *resp, const uint8_t *bytes, size_t len, size_t *ret_used);
