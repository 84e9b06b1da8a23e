/*
 * One recording of the writable working set at a time, on a thread of its own, for one request.
 *
 *     main thread                                        recorder thread
 *     recording_start() ------------------------------>  begin, sample every interval, end; answers the call
 *     move begins: recording_interrupt(), then on the
 *         mover's thread recording_wait()       <------  tracking has ended
 *     `recording_done` source: join, free       <------  about to end
 *
 * The request owns it: whoever asked goes away, and it ends. A move that begins ends it too, and the request is
 * answered with what there is.
 */
#pragma once
#include "vmm/monitor.h"
#include "wws/report.h"

struct recording_request {
    uint64_t interval_ns, duration_ns;
    uint64_t rate[REPORT_LINKS_MAX]; /* bytes a second */
    unsigned rate_count;
    uint64_t rtt_ns, max_downtime_ns;
    bool allow_throttle; /* predicted moves may slow the writers */
};

/* -EINVAL (ERR_CALLER) names what is out of bounds. */
int recording_check(const struct recording_request *request, struct err *err) MUST_CHECK;

/* Starts a checked request and keeps `call`, to answer it at the end. On failure the call is still the caller's. -EBUSY: a move
 * or another recording is under way, or no guest runs. Main thread. */
int recording_start(struct monitor *monitor, const struct recording_request *request,
                    struct rpc_call *call, struct err *err) MUST_CHECK;

/* Asks the one under way, if any, to end, for this reason (a literal), and returns it for recording_wait(), or
 * NULL. Main thread. */
struct recording *recording_interrupt(struct monitor *monitor, const char *why);

/* Waits until the machine's memory is no longer watched, and lets go of it. NULL: nothing to wait for. Any thread,
 * once for each recording_interrupt(). */
void recording_wait(struct recording *recording);

/* At the end of the process: ends and joins what runs. */
void recording_shutdown(struct monitor *monitor);
