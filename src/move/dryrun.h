/*
 * `migrate --check`: would this machine fit that target, and what would the move cost? Nothing is moved and
 * nothing is left at either side.
 *
 * The source says what the machine is, as for a move, in a HELLO that asks for a check. The target looks at
 * every fact (move/message.h), answers, and forgets it all; it holds the name, taps and disks for no longer
 * than it looks at them. Then the source measures the connection, watches for a moment how fast the guest
 * writes, and drives the policy through a model of both (move/policy_model.h).
 *
 * What it costs: one pass of write faults (a few us for each page the guest writes within DRYRUN_WATCH_NS), and
 * at most DRYRUN_PROBE_BYTES over the connection.
 */
#pragma once
#include "move/arrival.h"
#include "move/migrate.h"
#include "move/wire.h"

#define DRYRUN_WATCH_NS (200 * CLOCK_MSEC)
#define DRYRUN_PROBE_NS (300 * CLOCK_MSEC)
#define DRYRUN_PROBE_BYTES (UINT64_C(256) << 20)
#define DRYRUN_SECTION_BYTES (UINT32_C(256) << 10) /* of filler */

/* At the source, on the mover's thread. 0 with *ret, an object as docs/control.md describes `move.checked`, also
 * when the answer is no or nobody answers; -errno: this side could not find out, or was told to stop. */
int dryrun_run(const struct move_env *env, const struct migrate_request *request, json_t **ret,
               struct err *err) MUST_CHECK;

/* At the target, once a HELLO that asks for a check of such a mode has come on an idle receiver: the whole conversation, until the
 * source leaves or DRYRUN_SERVE_NS have passed. */
#define DRYRUN_SERVE_NS (5 * CLOCK_SECOND)
int dryrun_serve(const struct move_env *env, const struct arrival_host *host, enum move_mode mode,
                 struct wire *wire, struct err *err) MUST_CHECK;

/* The verdict that a report comes to; shared with the target of a move. */
void dryrun_fill_verdict(const struct fit_report *report, struct message_verdict *ret);
