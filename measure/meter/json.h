/*
 * Writing one JSON object a line into a buffer: no allocation beyond the buffer, no stdio, since it runs
 * ten times a second beside what it measures. Commas are put where they belong. Memory that cannot be had
 * shows in buf_status().
 */
#pragma once
#include "base/buf.h"
#include <stdbool.h>
#include <stdint.h>

/* `key` is NULL in a list. */
void json_object(struct buf *buf, const char *key);
void json_object_end(struct buf *buf);
void json_list(struct buf *buf, const char *key);
void json_list_end(struct buf *buf);
void json_u64(struct buf *buf, const char *key, uint64_t value);
void json_bool(struct buf *buf, const char *key, bool value);
void json_null(struct buf *buf, const char *key);

/* Bytes that are not UTF-8 become U+FFFD: names of processes and interfaces can be any bytes. NULL: null. */
void json_text(struct buf *buf, const char *key, const char *text);
