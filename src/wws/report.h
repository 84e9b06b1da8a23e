/*
 * A recording and what follows from it, as JSON (docs/wws.md has the fields), and that JSON as a table for
 * programs (CSV) and as a picture (SVG).
 *
 * The picture and the table are made from the JSON alone, on whichever machine it ends up; what they are given
 * may come from a monitor of another version, so a field that is missing counts as zero.
 */
#pragma once
#include "wws/predict.h"
#include "wws/recorder.h"
#include <jansson.h>
#include <stdio.h>

#define REPORT_LINKS_MAX 16

struct report {
    const char *name;     /* of the VM */
    const char *ended;    /* why the recording ended: "complete", or what cut it short */
    uint64_t interval_ns; /* asked for */
    uint32_t vcpus;
    uint64_t vcpu_cpu_ns; /* what all vCPU threads ran meanwhile */
    const struct recorder *recorder;
    struct recorder_memory memory;
    uint64_t rates[REPORT_LINKS_MAX]; /* links to predict for, bytes a second */
    unsigned rate_count;
    uint64_t rtt_ns;
    struct policy_limits limits;
};

/* A new object, the caller's; NULL when out of memory. */
json_t *report_json(const struct report *report);

/* A page for a terminal. */
void report_text(const json_t *report, FILE *out);

/* One table in long form: series, x, y, and for predictions their columns. */
void report_csv(const json_t *report, FILE *out);

/* Four panels, self-contained, light or dark as the viewer is. */
void report_svg(const json_t *report, FILE *out);
