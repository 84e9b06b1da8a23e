/*
 * Prometheus' text exposition format, version 0.0.4: families of samples, for whoever collects them from a file.
 *
 *     exposition_family(out, "godwit_vm_cpu_seconds_total", "counter", "CPU time of ...");
 *     exposition_seconds(out, "godwit_vm_cpu_seconds_total", ns, "vm", name, "group", "vcpu",
 *                        LABELS_END);
 *
 * All samples of a family come after its family line and before the next one's. Label values may be any text; names,
 * types and helps are literals of ours. Errors of the stream stay in it, for ferror().
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

void exposition_family(FILE *out, const char *name, const char *type, const char *help);

/* Typed: a bare NULL might be an int. */
#define LABELS_END ((const char *)NULL)

/* One sample; the labels are pairs of texts that end with LABELS_END. Seconds are printed to the nanosecond, from an integer. */
__attribute__((sentinel)) void exposition_count(FILE *out, const char *name, uint64_t value, ...);
__attribute__((sentinel)) void exposition_seconds(FILE *out, const char *name, uint64_t ns, ...);
__attribute__((sentinel)) void exposition_ratio(FILE *out, const char *name, uint64_t permille,
                                                ...);
