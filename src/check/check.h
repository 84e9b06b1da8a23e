/*
 * What this machine can do for godwit, found out by trying: the facts behind `godwit check`, and the
 * same probes that tests/platform runs as tests.
 *
 * check_run() returns a list of objects, a new reference, NULL when out of memory:
 *     fact     stable name, as in "stock-guests"
 *     need     "required" to run guests at all, "useful", or "note" for what is merely reported
 *     ok       whether the machine has it
 *     value    what was found: any JSON, null when nothing was
 *     reason   one line: what was seen
 *     matters  one line: why godwit asks
 *     remedy   one line: what to do about it; only where not ok and tried
 * The last fact is "verdict"; its value is "stock", "tiny" or "lab", and its reason is the sentence for
 * people: stock guests run here; only tiny guests do (use the lab for stock ones); only the lab does.
 *
 * Every probe runs in a child process with a time limit, so that none can crash or hang the caller or
 * leave anything behind. No privilege is needed beyond what a fact is about. Call from a process with
 * one thread.
 */
#pragma once
#include <jansson.h>
#include <stdio.h>

json_t *check_run(void);

/* The same for people. */
void check_text(const json_t *facts, FILE *out);
