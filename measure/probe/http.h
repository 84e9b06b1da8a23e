/*
 * Reads the answers of an HTTP/1.x server, in whatever pieces they come: RFC 9112, from the client's side.
 *
 * Strict where leniency would hide a broken answer: a head that is no head, two lengths that differ, a length beside
 * chunks, a coding that is not chunked are bad. Bounded: a line of HTTP_LINE_MAX bytes, a head (or the trailers of a
 * chunked body) of HTTP_HEAD_MAX. Answers with a status of 1xx are passed over, up to HTTP_INTERIM_MAX of them. No
 * input makes it allocate.
 */
#pragma once
#include "answer.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_LINE_MAX 8192
#define HTTP_HEAD_MAX 65536
#define HTTP_INTERIM_MAX 16

enum http_state {
    HTTP_STATUS_LINE,
    HTTP_HEADER,
    HTTP_BODY_LENGTH, /* `left` bytes are to come */
    HTTP_BODY_CLOSE,  /* until the server closes */
    HTTP_CHUNK_SIZE,
    HTTP_CHUNK_DATA, /* `left` bytes are to come */
    HTTP_CHUNK_END,  /* the line end after a chunk */
    HTTP_TRAILER,
    HTTP_DONE,
    HTTP_BROKEN,
};

struct http {
    bool
        sums; /* set by whoever wants `body_sum`, which costs a pass over the body; http_begin() leaves it alone */
    enum http_state state;
    unsigned status;   /* of the last status line */
    bool close;        /* the connection cannot be used again */
    uint64_t body_sum; /* answer_sum() of the body */
    uint64_t body_bytes;

    /* the parser's own */
    uint64_t left;
    size_t head_bytes;
    unsigned interim;
    bool minor_zero, chunked, has_length, keep_alive;
    size_t line_len;
    char line[HTTP_LINE_MAX];
};

/* Before each answer. */
void http_begin(struct http *http);

/* Takes bytes; *ret_used says how many of them belong to this answer: fewer than `len` only when it is done or bad. */
enum answer http_feed(struct http *http, const uint8_t *bytes, size_t len, size_t *ret_used);

/* The server closed: done where that is how a body ends, and ANSWER_MORE (it is not whole) elsewhere. */
enum answer http_eof(struct http *http);
