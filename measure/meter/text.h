/*
 * Reading the kernel's text files over and over: opened once, then pread(2) from the start.
 *
 * A `struct text` is a buffer that fits the largest file read so far; what it holds is valid until the next
 * read into it. One thread.
 */
#pragma once
#include "base/compiler.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *data; /* NUL after the last byte */
    size_t len, cap;
};

void text_free(struct text *text);

/* One pread: all there is of a file that the kernel makes as a whole (anything below /proc/PID, /proc/stat,
 * /proc/meminfo). 0 or -errno; -ESRCH when the process or thread is gone, -ENODATA when it says nothing. */
int text_read(struct text *text, int fd) MUST_CHECK;

/* Until the end: for files that are lists (/proc/net/dev, /proc/diskstats). */
int text_read_list(struct text *text, int fd) MUST_CHECK;

/* The number at *at, after blanks; *at moves behind it. 0 where there is none. */
uint64_t text_number(const char **at);

/* Moves behind `count` words and the blanks that follow them. */
const char *text_skip(const char *at, unsigned count);

/* The number after `key`, which begins a line but the first ("\nRssAnon:"). False: no such key. */
bool text_find(const char *from, const char *key, uint64_t *ret);
