/* Numbers and texts for people: short, with a unit, three digits that matter. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Room for any one of them. */
struct show {
    char text[32];
};

struct show show_duration(uint64_t ns); /* "0", "812 ns", "3.21 ms", "2.41 s", "3m07s", "2h05m" */
struct show show_bytes(uint64_t bytes); /* "17 B", "48.2 MiB" */
struct show show_count(uint64_t n);     /* "12345", above six digits "1.23 M" */
struct show show_percent(uint64_t part, uint64_t whole); /* "98.8 %", "-" of nothing */

/* A bar of `width` characters at most into bar[width + 1]: '#' for each full step, '.' for a
 * rest that is not nothing. */
void show_bar(char *bar, size_t width, uint64_t part, uint64_t whole);

/* Copies `text` into out[size] with everything that could move a terminal's cursor replaced by
 * '?'. */
void show_clean(char *out, size_t size, const char *text);
