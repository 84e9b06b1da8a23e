/*
 * How far a move is, for the person who waits: a bar on a terminal, plain lines elsewhere.
 *
 * Fed with the parameters of `move.progress` events (docs/control.md): stage, round, pages_sent,
 * pages_left, bytes, rate_bytes_per_s, dirty_pages_per_s, elapsed_ns. The bar is the round's: a
 * round sends what the guest wrote during the one before, so nobody can know how much there will
 * be in all. Time is the events' own elapsed_ns. One thread.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum progress_form {
    PROGRESS_AUTO,  /* a bar if `out` is a terminal that understands it, else lines */
    PROGRESS_BAR,   /* one line, drawn again and again */
    PROGRESS_LINES, /* a line for each stage and round, and for each second of a long one */
};

struct progress {
    FILE *out;
    bool bar;
    unsigned columns; /* 0 = ask the terminal at each drawing, since its window may change */
    bool open;        /* the cursor stands in a line drawn here */
    bool begun;
    char stage[24];
    uint64_t round, round_base; /* pages_sent when the round began */
    uint64_t shown_ns;          /* elapsed_ns of the last line */
};

void progress_begin(struct progress *progress, FILE *out, enum progress_form form,
                    unsigned columns);
void progress_event(struct progress *progress, const json_t *params);

/* Leaves the cursor at the start of a fresh line. May be called more than once, also before any
 * event. */
void progress_end(struct progress *progress);
