/*
 * The loop: waits for answers and for the next due time, whichever comes first.
 *
 * A timerfd wakes it (its timers are not rounded, as those of epoll_wait() are); with --spin it wakes so much earlier
 * and polls until the time has come. After a signal, or when the time or number asked for is reached, no more requests
 * become due, and those under way have until their own time is up, or one second after a signal; a second signal ends
 * it at once.
 */
#include "base/fd.h"
#include "probe.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#define FLUSH_NS CLOCK_SECOND
#define FIRE_MOST 16
#define GRACE_NS CLOCK_SECOND           /* for answers, after a signal */
#define HEAD_START_NS (20 * CLOCK_MSEC) /* from opening connections to the first request */

static const struct kind_ops *const kinds[] = {
    [PROBE_HTTP] = &session_kind,      [PROBE_TCP] = &session_kind,   [PROBE_UDP] = &datagram_kind,
    [PROBE_RESP] = &session_kind,      [PROBE_ICMP] = &datagram_kind, [PROBE_STREAM] = &stream_kind,
    [PROBE_ARRIVALS] = &arrivals_kind,
};
static_assert(ARRAY_LEN(kinds) == PROBE_KIND_MAX, "operations each");

void probe_heard(struct probe *probe, uint64_t now_ns)
{
    if (probe->heard_ns)
        probe->silence_ns = MAX(probe->silence_ns, now_ns - probe->heard_ns);
    probe->heard_ns = now_ns;
}

void probe_trouble(struct probe *probe, struct request *request, int code, uint64_t now_ns)
{
    enum status status = status_of_errno(code);
    if (status == STATUS_UNSENT && probe->troubles++ == 0)
        (void)fprintf(stderr, "godwit-probe: cannot send: %s\n", strerror(code));
    requests_end(&probe->requests, request, status, now_ns);
}

void echo_fill(uint8_t *bytes, size_t len, uint64_t cookie, uint64_t seq)
{
    memcpy(bytes, &cookie, 8);
    memcpy(bytes + 8, &seq, 8);
    for (size_t i = 16; i < len; i++)
        bytes[i] = (uint8_t)(seq + i);
}

/* When request n is due: no rounding adds up. */
static uint64_t due_at(const struct probe *probe, uint64_t n)
{
    return probe->start_ns + (uint64_t)((__uint128_t)n * CLOCK_SECOND / probe->options.rate_per_s);
}

/* When the next request is due; CLOCK_NEVER when none is any more. One that was due before the end is fired however late. */
static uint64_t next_due(const struct probe *probe)
{
    if (!probe->kind->fire || probe->fired >= probe->options.limit)
        return CLOCK_NEVER;
    uint64_t due = due_at(probe, probe->fired);
    return due < probe->end_ns ? due : CLOCK_NEVER;
}

static void on_timer(struct loop_source *source, uint32_t events)
{
    (void)events;
    (void)loop_drain(source->fd); /* that we are awake is all we want */
}

static void stop(struct probe *probe, enum probe_end why, uint64_t now_ns)
{
    if (probe->end == PROBE_RUNS)
        probe->end = why;
    if (why == PROBE_END_SIGNAL)
        probe->end_ns = MIN(probe->end_ns, now_ns);
}

static void on_signal(struct loop_source *source, uint32_t events)
{
    (void)events;
    struct probe *probe = CONTAINER_OF(source, struct probe, signals);
    struct signalfd_siginfo info;
    while (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        probe->stops++;
        stop(probe, PROBE_END_SIGNAL, clock_now_ns());
    }
}

/* What is due by now; not all at once when that is much, since answers want to be read in time too. */
static void fire_due(struct probe *probe)
{
    uint64_t due;
    for (unsigned i = 0; i < FIRE_MOST && (due = next_due(probe)) != CLOCK_NEVER; i++) {
        uint64_t now = clock_now_ns();
        if (now < due)
            return;
        late_add(&probe->late, now - due);
        if (probe->late_rows.fd >= 0)
            rows_print(&probe->late_rows, "%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", probe->fired,
                       due, now - due);
        probe->fired++;
        probe->kind->fire(probe, due, now);
        if (probe->fired == probe->options.limit)
            stop(probe, PROBE_END_LIMIT, now);
    }
}

static void give_up_late(struct probe *probe, uint64_t now)
{
    struct request *request;
    while ((request = requests_oldest(&probe->requests)) && request->deadline_ns <= now) {
        struct request gone = *request;
        requests_end(&probe->requests, request, STATUS_TIMEOUT, now);
        if (probe->kind->abandon)
            probe->kind->abandon(probe, &gone);
    }
}

/* What is still under way ends as unsent. */
static void give_up_all(struct probe *probe)
{
    struct request *request;
    while ((request = requests_oldest(&probe->requests)))
        requests_end(&probe->requests, request, STATUS_UNSENT, 0);
}

static bool is_over(const struct probe *probe, uint64_t grace_ns, uint64_t now)
{
    if (probe->end == PROBE_RUNS)
        return false;
    return (probe->requests.first == probe->requests.next && next_due(probe) == CLOCK_NEVER) ||
           probe->stops > 1 || now >= grace_ns;
}

static int wait_until(struct probe *probe, uint64_t wake_ns)
{
    uint64_t due = next_due(probe), spin = probe->options.spin_ns;
    uint64_t early = due == CLOCK_NEVER || due < spin ? due : due - spin;
    wake_ns = MIN(wake_ns, early);
    loop_timer_set(&probe->timer, wake_ns);
    int rc = loop_once(&probe->loop, clock_now_ns() >= wake_ns ? 0 : -1);
    if (spin == 0)
        return rc;
    for (uint64_t now = clock_now_ns(); !rc && now < due && due - now <= spin; now = clock_now_ns())
        rc = loop_once(&probe->loop, 0);
    return rc;
}

static int turns(struct probe *probe)
{
    uint64_t flush_ns = probe->start_ns + FLUSH_NS;
    for (;;) {
        uint64_t now = clock_now_ns(), wake = MIN(flush_ns, probe->end_ns), grace = CLOCK_NEVER;
        fire_due(probe);
        give_up_late(probe, now);
        if (now >= probe->end_ns)
            stop(probe, PROBE_END_TIME, now);
        if (probe->stops)
            grace = probe->end_ns + GRACE_NS;
        if (is_over(probe, grace, now))
            return 0;
        if (probe->end != PROBE_RUNS)
            wake = MIN(flush_ns, grace);
        if (probe->kind->turn)
            wake = MIN(wake, probe->kind->turn(probe, now));
        if (now >= flush_ns) {
            rows_flush(&probe->rows);
            rows_flush(&probe->late_rows);
            flush_ns = now + FLUSH_NS;
            wake = MIN(wake, flush_ns);
        }
        if (probe->rows.err.code || probe->late_rows.err.code)
            return 0; /* probe_run() says it */
        const struct request *oldest = requests_oldest(&probe->requests);
        int rc = wait_until(probe, oldest ? MIN(wake, oldest->deadline_ns) : wake);
        if (rc)
            return rc;
    }
}

int probe_run(struct probe *probe, struct err *err)
{
    int rc = turns(probe);
    uint64_t now = clock_now_ns();
    probe->kind->close(probe, now);
    give_up_all(probe);
    rows_close(&probe->rows);
    rows_close(&probe->late_rows);
    probe->ended_ns = now;
    if (rc)
        rc = err_errno(err, ERR_HOST, -rc, "cannot wait");
    for (struct rows *rows = &probe->rows; !rc; rows = &probe->late_rows) {
        if (rows->err.code) {
            rc = -rows->err.code;
            if (err)
                *err = rows->err;
        }
        if (rows == &probe->late_rows)
            break;
    }
    if (rc)
        probe->end = PROBE_END_ERROR;
    return rc;
}

static int open_signals(struct probe *probe)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : loop_add(&probe->loop, &probe->signals, fd, EPOLLIN, on_signal);
}

/* A descriptor a connection, and some. */
static int allow_descriptors(const struct probe *probe, struct err *err)
{
    struct rlimit limit;
    rlim_t want = probe->options.connections + 32;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return err_errno(err, ERR_HOST, errno, "open files");
    if (limit.rlim_cur >= want)
        return 0;
    limit.rlim_cur = want;
    limit.rlim_max = MAX(limit.rlim_max, want);
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return err_errno(err, ERR_HOST, errno, "%llu connections want as many open files",
                         (unsigned long long)probe->options.connections);
    return 0;
}

int probe_open(struct probe *probe, struct err *err)
{
    struct options *options = &probe->options;
    int rc;
    probe->kind = kinds[options->kind];
    probe->seed = options->seed;
    probe->late_rows.fd = -1;
    if (getrandom(&probe->cookie, sizeof(probe->cookie), 0) < 0)
        return err_errno(err, ERR_HOST, errno, "random bytes");
    if ((rc = allow_descriptors(probe, err)) ||
        (rc = rows_open(&probe->rows, options->out, ROWS_HEADER, err)))
        return rc;
    if (options->late &&
        (rc = rows_open(&probe->late_rows, options->late, "seq,due_ns,late_ns\n", err)))
        return rc;
    rc = loop_init(&probe->loop);
    if (!rc)
        rc = loop_timer_add(&probe->loop, &probe->timer, on_timer);
    if (!rc)
        rc = open_signals(probe);
    if (!rc)
        rc = requests_init(&probe->requests, &probe->rows);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot begin");
    if ((rc = probe->kind->open(probe, err)))
        return rc;
    probe->start_ns = clock_now_ns() + HEAD_START_NS;
    probe->end_ns = CLOCK_NEVER;
    if (options->for_ns < CLOCK_NEVER - probe->start_ns)
        probe->end_ns = probe->start_ns + options->for_ns;
    return facts_write(probe, err);
}

void probe_close(struct probe *probe)
{
    int fd = probe->signals.fd;
    if (probe->kind && probe->state)
        probe->kind->close(probe, clock_now_ns());
    if (probe->signals.loop) {
        loop_remove(&probe->signals);
        fd_close(&fd);
    }
    loop_timer_remove(&probe->timer);
    if (probe->loop.wake_fd > 0)
        loop_fini(&probe->loop);
    requests_free(&probe->requests);
    rows_close(&probe->rows);
    rows_close(&probe->late_rows);
}
