/*
 * The one line a monitor writes to the process that started it, on a pipe: ready, or why not.
 *
 *     {"ready": true, "name": "web1", "pid": 4711}
 *     {"ready": false, "error": {"text": "...", "errno": "ENOENT", "code": 2, "fault": "caller"}}
 *
 * So `godwit run` fails with the monitor's exact reason. End of file without a line: the monitor
 * died.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"

/* The monitor's side; closes *fd. Does nothing when *fd is -1, so a failure after success is
 * harmless.
 * -EPIPE: the starter has gone, and the monitor must not go on. */
int ready_report(int *fd, const char *name) MUST_CHECK;
void ready_report_failure(int *fd, const struct err *reason);

/* The starter's side: waits for the line. 0 when ready, and then `ret_name` (CONFIG_NAME_MAX) holds
 * the name the monitor goes by; else -errno with the monitor's error in `err`. */
int ready_wait(int fd, char *ret_name, struct err *err) MUST_CHECK;
