/*
 * The last bills of this host, for whoever watches it: BASE/.bills/ beside the VMs' directories.
 *
 *     WHEN-PID.json   a bill (docs/bill.md), or what a target knows of one; WHEN: 20 digits, CLOCK_REALTIME in ns
 *     totals.json     sums over all there ever were since BASE was made
 *
 * Each monitor writes its own when a move has ended, never while a guest stands still for one; the oldest beyond BILLS_KEPT
 * go. A crash leaves a bill whole or not there, and totals as they were before or after it. Blocking file calls; any thread.
 */
#pragma once
#include "base/err.h"
#include <jansson.h>
#include <stdint.h>

#define BILLS_KEPT 64
#define BILLS_BOUNDS 10

/* Upper bounds of the classes that totals count moves in by duration and by downtime; one more class is above the last. */
extern const uint64_t bills_duration_bounds_ns[BILLS_BOUNDS],
    bills_downtime_bounds_ns[BILLS_BOUNDS];

/* Keeps a bill (borrowed) and adds it to the totals. When only the latter fails, the bill is kept all the same. */
int bills_keep(const char *base, const json_t *bill, struct err *err) MUST_CHECK;

/* What is there: *ret_bills, a list, the oldest first, each with `kept_ns`, when it was kept (CLOCK_REALTIME); and *ret_totals,
 * a list of objects, one for each `kind`, `written_by` and `outcome` that there was, with
 *
 *     count, total_ns, downtimes, downtime_ns   how many, and how long; how many stood still, and how long
 *     bytes                                     an object: sums by kind
 *     by_duration, by_downtime                  lists of BILLS_BOUNDS + 1 numbers: how many in each class
 *
 * New references. Nothing there is two empty lists; what cannot be read or is damaged is left out. */
int bills_read(const char *base, json_t **ret_bills, json_t **ret_totals,
               struct err *err) MUST_CHECK;
