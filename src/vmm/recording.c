#include "vmm/recording.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "wws/report.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>

#define LOOK_NS \
    (200 * CLOCK_MSEC) /* how often it looks whether anyone still waits for the answer */
#define PROGRESS_NS (500 * CLOCK_MSEC)
#define INTERVAL_MIN_NS CLOCK_MSEC
#define INTERVAL_MAX_NS (60 * CLOCK_SECOND)
#define RATE_MIN UINT64_C(10000) /* bytes a second */
#define RATE_MAX UINT64_C(10000000000000)
#define RTT_MAX_NS (60 * CLOCK_SECOND)
#define DOWNTIME_MAX_NS (3600 * CLOCK_SECOND)

struct recording {
    struct monitor *monitor;
    struct recording_request request;
    struct rpc_call *call; /* the thread's, to answer */
    pthread_t thread;
    int stop_fd, done_fd;
    _Atomic(const char *) why; /* it was cut short; NULL = not */
    atomic_uint refs;          /* the loop's, and one a waiter */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool over; /* memory is not watched any more */
};

static void put(struct recording *recording)
{
    if (atomic_fetch_sub(&recording->refs, 1) != 1)
        return;
    fd_close(&recording->stop_fd);
    fd_close(&recording->done_fd);
    (void)pthread_cond_destroy(&recording->changed);
    (void)pthread_mutex_destroy(&recording->lock);
    free(recording);
}

int recording_check(const struct recording_request *request, struct err *err)
{
    if (request->interval_ns < INTERVAL_MIN_NS || request->interval_ns > INTERVAL_MAX_NS)
        return err_set(err, ERR_CALLER, EINVAL, "interval_ns: want 1 ms to 60 s");
    uint64_t intervals = request->duration_ns / request->interval_ns;
    if (intervals < 1 || intervals > WWS_INTERVALS_MAX)
        return err_set(err, ERR_CALLER, EINVAL, "duration_ns: want 1 to %u intervals",
                       WWS_INTERVALS_MAX);
    for (unsigned i = 0; i < request->rate_count; i++)
        if (request->rate[i] < RATE_MIN || request->rate[i] > RATE_MAX)
            return err_set(err, ERR_CALLER, EINVAL,
                           "bandwidths: want 10 kB/s to 10 TB/s, as numbers of bytes a second");
    if (request->rtt_ns > RTT_MAX_NS || request->max_downtime_ns == 0 ||
        request->max_downtime_ns > DOWNTIME_MAX_NS)
        return err_set(err, ERR_CALLER, EINVAL,
                       "rtt_ns: want at most 60 s; max_downtime_ns: want 1 ns to 1 h");
    return 0;
}

/* ------------------------------------------------------------------------------ on the recorder's thread */

/* True: go on; false: it is to end, and `why` says so. */
static bool wait_until(struct recording *recording, uint64_t until_ns)
{
    for (;;) {
        uint64_t now_ns = clock_now_ns();
        if (atomic_load(&recording->why))
            return false;
        if (rpc_call_abandoned(recording->call)) {
            atomic_store(&recording->why, "nobody waits for it");
            return false;
        }
        if (now_ns >= until_ns)
            return true;
        uint64_t left_ns = MIN(until_ns - now_ns, LOOK_NS);
        struct pollfd fd = { .fd = recording->stop_fd, .events = POLLIN };
        struct timespec ts = { .tv_nsec = (long)left_ns };
        (void)ppoll(&fd, 1, &ts, NULL);
    }
}

static void post_progress(struct recording *recording, const struct recorder *recorder)
{
    const struct wws *wws = &recorder->wws;
    json_t *params =
        json_pack("{s:I, s:I, s:I, s:I}", "intervals", (json_int_t)wws->intervals, "of",
                  (json_int_t)wws->limit, "pages", (json_int_t)wws->written[wws->intervals - 1],
                  "elapsed_ns", (json_int_t)(recorder->last_ns - recorder->began_ns));
    rpc_post_event(recording->monitor->rpc, "wws.progress", params);
}

static int record(struct recording *recording, struct recorder *recorder, struct err *err)
{
    uint64_t due_ns = recorder->began_ns, told_ns = 0;
    while (recorder->wws.intervals < recorder->wws.limit) {
        due_ns = MAX(due_ns + recording->request.interval_ns, recorder->last_ns);
        if (!wait_until(recording, due_ns))
            return 0;
        int rc = recorder_sample(recorder, err);
        if (rc)
            return rc;
        bool last = recorder->wws.intervals == recorder->wws.limit;
        if (last || recorder->last_ns - told_ns >= PROGRESS_NS) {
            told_ns = recorder->last_ns;
            post_progress(recording, recorder);
        }
    }
    return 0;
}

/* What all vCPU threads have used so far. */
static uint64_t vcpu_cpu_ns(struct monitor *monitor)
{
    struct meter_sample sample;
    meter_read(&monitor->meter, &sample);
    return sample.cpu_ns[BILL_CPU_VCPU];
}

static void answer(struct recording *recording, const struct recorder *recorder, uint64_t cpu_ns)
{
    struct monitor *monitor = recording->monitor;
    const struct recording_request *request = &recording->request;
    const char *why = atomic_load(&recording->why);
    struct report report = { .name = monitor->machine->config.name,
                             .ended = why ? why : "complete",
                             .interval_ns = request->interval_ns,
                             .vcpus = monitor->machine->config.vcpus,
                             .vcpu_cpu_ns = cpu_ns,
                             .recorder = recorder,
                             .rate_count = recorder->wws.intervals ? request->rate_count : 0,
                             .rtt_ns = request->rtt_ns,
                             .limits = policy_limits_default() };
    struct err err;
    memcpy(report.rates, request->rate, sizeof(report.rates));
    report.limits.max_downtime_ns = request->max_downtime_ns;
    report.limits.allow_throttle = request->allow_throttle;
    int rc = recorder_memory(&monitor->machine->mem, &report.memory);
    json_t *json = rc ? NULL : report_json(&report);
    if (json) {
        rpc_reply(recording->call, json);
    } else {
        (void)err_errno(&err, ERR_HOST, rc ? -rc : ENOMEM, "cannot report the recording");
        rpc_fail(recording->call, &err);
    }
}

static void *recorder_thread(void *arg)
{
    struct recording *recording = arg;
    struct monitor *monitor = recording->monitor;
    struct recorder recorder;
    struct err err;
    uint64_t limit = recording->request.duration_ns / recording->request.interval_ns;

    int rc = recorder_begin(&recorder, &monitor->machine->mem, monitor->machine->hv,
                            (uint32_t)limit, &err);
    uint64_t cpu_ns = vcpu_cpu_ns(monitor);
    if (!rc) {
        rc = record(recording, &recorder, &err);
        cpu_ns = vcpu_cpu_ns(monitor) - cpu_ns;
        recorder_end(&recorder);
    }
    (void)pthread_mutex_lock(&recording->lock);
    recording->over = true; /* a move that waits need not wait for the report */
    (void)pthread_cond_broadcast(&recording->changed);
    (void)pthread_mutex_unlock(&recording->lock);
    if (rc)
        rpc_fail(recording->call, &err);
    else
        answer(recording, &recorder, cpu_ns);
    recorder_fini(&recorder);
    (void)eventfd_write(recording->done_fd, 1);
    return NULL;
}

void recording_wait(struct recording *recording)
{
    if (!recording)
        return;
    (void)pthread_mutex_lock(&recording->lock);
    while (!recording->over)
        (void)pthread_cond_wait(&recording->changed, &recording->lock);
    (void)pthread_mutex_unlock(&recording->lock);
    put(recording);
}

/* ------------------------------------------------------------------------------------ on the main thread */

static void join(struct monitor *monitor)
{
    struct recording *recording = monitor->recording;
    (void)pthread_join(recording->thread, NULL);
    loop_remove(&monitor->recording_done);
    monitor->recording = NULL;
    const char *why = atomic_load(&recording->why);
    log_event(LOG_INFO, "vm.wws", "recording ended: %s", why ? why : "complete");
    put(recording);
}

static void on_done(struct loop_source *source, uint32_t events)
{
    (void)events;
    struct monitor *monitor = CONTAINER_OF(source, struct monitor, recording_done);
    (void)loop_drain(source->fd);
    join(monitor);
}

static struct recording *make(struct monitor *monitor, const struct recording_request *request,
                              struct rpc_call *call)
{
    struct recording *recording = calloc(1, sizeof(*recording));
    if (!recording)
        return NULL;
    recording->monitor = monitor;
    recording->request = *request;
    recording->call = call;
    atomic_store(&recording->refs, 1);
    recording->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    recording->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    (void)pthread_mutex_init(&recording->lock, NULL);
    (void)pthread_cond_init(&recording->changed, NULL);
    if (recording->stop_fd >= 0 && recording->done_fd >= 0)
        return recording;
    put(recording);
    return NULL;
}

int recording_start(struct monitor *monitor, const struct recording_request *request,
                    struct rpc_call *call, struct err *err)
{
    if (monitor->mover)
        return err_set(err, ERR_CALLER, EBUSY,
                       "%s is %s: its writes can be recorded before or after", monitor->dir.name,
                       monitor_state_name(monitor->state));
    if (monitor->recording)
        return err_set(err, ERR_CALLER, EBUSY, "%s is being recorded already", monitor->dir.name);
    if (monitor->state != MONITOR_RUNNING)
        return err_set(err, ERR_CALLER, EBUSY, "%s is %s: only a running guest writes",
                       monitor->dir.name, monitor_state_name(monitor->state));

    struct recording *recording = make(monitor, request, call);
    if (!recording)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot record");
    int rc =
        loop_add(&monitor->loop, &monitor->recording_done, recording->done_fd, EPOLLIN, on_done);
    if (!rc)
        rc = -pthread_create(&recording->thread, NULL, recorder_thread, recording);
    if (rc) {
        loop_remove(&monitor->recording_done);
        put(recording);
        return err_errno(err, ERR_HOST, -rc, "cannot record");
    }
    (void)pthread_setname_np(recording->thread, "recorder");
    monitor->recording = recording;
    return 0;
}

struct recording *recording_interrupt(struct monitor *monitor, const char *why)
{
    struct recording *recording = monitor->recording;
    if (!recording)
        return NULL;
    const char *none = NULL;
    (void)atomic_compare_exchange_strong(&recording->why, &none, why);
    (void)eventfd_write(recording->stop_fd, 1);
    atomic_fetch_add(&recording->refs, 1);
    return recording;
}

void recording_shutdown(struct monitor *monitor)
{
    struct recording *recording = recording_interrupt(monitor, "the VM ended");
    recording_wait(recording);
    if (recording)
        join(monitor);
}
