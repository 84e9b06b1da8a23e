#include "sampler.h"

#include "base/clock.h"
#include "base/fd.h"
#include "find.h"
#include "host.h"
#include "json.h"
#include "process.h"
#include "running.h"
#include "tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

/* Records of context switches are left alone so long when a buffer is taken in between samples: until then, each
 * processor has published what it stamped. */
#define SETTLE_NS CLOCK_MSEC

enum { POLL_TIMER, POLL_SIGNAL, POLL_PROCESS, POLL_RUNNING };

struct sampler {
    const struct sampler_options *options;
    struct process process;
    struct host host;
    struct tcp tcp;
    struct finder finder;
    struct running *running; /* NULL: not to be had */
    struct err no_running, no_tcp;
    struct buf buf;
    struct pollfd *poll;
    unsigned polled;
    int out_fd, timer_fd, signal_fd;
    off_t written; /* whole lines */
    uint64_t begin_ns, samples, missed, late_ns;
};

/* ------------------------------------------------------------------------------- writing */

/* Ends a line and writes it. */
static int write_line(struct sampler *sampler, struct err *err)
{
    const char *name = sampler->options->output ? sampler->options->output : "standard output";
    buf_put_u8(&sampler->buf, '\n');
    int rc = buf_status(&sampler->buf);
    if (!rc)
        rc = fd_write_full(sampler->out_fd, sampler->buf.data, sampler->buf.len);
    if (rc) {
        if (sampler->options->output && ftruncate(sampler->out_fd, sampler->written))
            return err_errno(err, ERR_HOST, -rc, "cannot write %s, whose last line is torn", name);
        return err_errno(err, ERR_HOST, -rc, "cannot write %s; what is there is whole", name);
    }
    sampler->written += (off_t)sampler->buf.len;
    buf_reset(&sampler->buf);
    return 0;
}

static int write_first(struct sampler *sampler, struct err *err)
{
    const struct process *process = &sampler->process;
    struct buf *buf = &sampler->buf;
    json_object(buf, NULL);
    json_u64(buf, "meter", 1);
    json_u64(buf, "interval_ns", sampler->options->interval_ns);
    if (process->pid)
        json_u64(buf, "pid", (uint64_t)process->pid);
    else
        json_null(buf, "pid");
    json_text(buf, "program", process->pid ? process->name : sampler->options->name);
    host_interfaces_json(&sampler->host, buf);
    json_text(buf, "thread_cpu", process->exact ? "schedstat" : "ticks");
    json_u64(buf, "tick_ns", process->tick_ns);
    json_text(buf, "no_running", sampler->no_running.code ? sampler->no_running.text : NULL);
    json_text(buf, "no_tcp", sampler->no_tcp.code ? sampler->no_tcp.text : NULL);
    json_object_end(buf);
    return write_line(sampler, err);
}

static int write_last(struct sampler *sampler, struct err *err)
{
    struct buf *buf = &sampler->buf;
    json_object(buf, NULL);
    json_u64(buf, "end_ns", clock_now_ns());
    json_u64(buf, "meter_cpu_ns", clock_read_ns(CLOCK_PROCESS_CPUTIME_ID));
    json_u64(buf, "samples", sampler->samples);
    json_u64(buf, "samples_missed", sampler->missed);
    json_u64(buf, "late_max_ns", sampler->late_ns);
    json_u64(buf, "running_lost", running_lost(sampler->running));
    json_u64(buf, "running_late_ns", running_late_ns(sampler->running));
    json_text(buf, "no_tcp", sampler->no_tcp.code ? sampler->no_tcp.text : NULL);
    json_bool(buf, "came", sampler->process.pid);
    json_object_end(buf);
    return write_line(sampler, err);
}

/* The records of context switches come last, so that every processor has had time to publish those before `now`. */
static int write_sample(struct sampler *sampler, struct err *err)
{
    struct buf *buf = &sampler->buf;
    const uint64_t *running_ns;
    unsigned count;
    uint64_t now = clock_now_ns();
    bool looked = process_read(&sampler->process, now);
    tcp_read(&sampler->tcp, now);

    json_object(buf, NULL);
    json_u64(buf, "at_ns", now);
    process_json(&sampler->process, looked, buf);
    host_json(&sampler->host, buf);
    tcp_json(&sampler->tcp, buf);
    if (running_take(sampler->running, now, &running_ns, &count)) {
        json_list(buf, "running_ns");
        for (unsigned i = 0; i < count; i++)
            json_u64(buf, NULL, running_ns[i]);
        json_list_end(buf);
    } else {
        json_null(buf, "running_ns");
    }
    json_object_end(buf);
    sampler->samples++;
    return write_line(sampler, err);
}

/* ------------------------------------------------------------------------------- the process */

static int hold(struct sampler *sampler, pid_t pid, struct err *err)
{
    int rc = process_hold(&sampler->process, pid, err);
    if (rc)
        return rc;
    if (!sampler->no_tcp.code &&
        tcp_follow(&sampler->tcp, sampler->process.proc_fd, &sampler->no_tcp))
        tcp_close(&sampler->tcp);
    running_start(sampler->running, pid);
    sampler->poll[POLL_PROCESS] =
        (struct pollfd){ .fd = sampler->process.pid_fd, .events = POLLIN };
    return 0;
}

static int find_now(struct sampler *sampler, struct err *err)
{
    const char *name = sampler->options->name;
    pid_t pid = sampler->options->pid;
    if (!pid) {
        unsigned found = finder_look(&sampler->finder, &pid);
        if (!found && sampler->options->wait)
            return 0;
        if (!found)
            return err_set(err, ERR_CALLER, ESRCH, "no process named %s in this network namespace",
                           name);
        if (found > 1 && !sampler->options->wait)
            return err_set(err, ERR_CALLER, EEXIST,
                           "%u processes are named %s: choose one by --pid", found, name);
    }
    return hold(sampler, pid, err);
}

static void find_later(struct sampler *sampler)
{
    pid_t pid;
    if (finder_look(&sampler->finder, &pid))
        (void)hold(sampler, pid, NULL); /* one that is gone again was not the one */
}

/* ------------------------------------------------------------------------------- setting up and running */

static int open_events(struct sampler *sampler, struct err *err)
{
    sigset_t signals;
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    sampler->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    sampler->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    sampler->polled = POLL_RUNNING + running_count(sampler->running);
    sampler->poll = calloc(sampler->polled, sizeof(*sampler->poll));
    if (sampler->signal_fd < 0 || sampler->timer_fd < 0 || !sampler->poll)
        return err_errno(err, ERR_HOST, errno, "cannot set up the timer");
    sampler->poll[POLL_TIMER] = (struct pollfd){ .fd = sampler->timer_fd, .events = POLLIN };
    sampler->poll[POLL_SIGNAL] = (struct pollfd){ .fd = sampler->signal_fd, .events = POLLIN };
    sampler->poll[POLL_PROCESS] = (struct pollfd){ .fd = -1 };
    running_poll(sampler->running, sampler->poll + POLL_RUNNING);
    return 0;
}

static int set_up(struct sampler *sampler, struct err *err)
{
    const struct sampler_options *options = sampler->options;
    process_init(&sampler->process);
    int rc = host_open(&sampler->host, options->interfaces, err);
    if (rc)
        return rc;
    rc = options->name ? finder_init(&sampler->finder, options->name) : 0;
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "/proc");
    if (tcp_open(&sampler->tcp, &sampler->no_tcp) ||
        running_open(&sampler->running, &sampler->no_running))
        (void)0; /* the first line says so, and the figures are null */
    rc = open_events(sampler, err);
    if (!rc)
        rc = find_now(sampler, err);
    if (rc)
        return rc;
    sampler->out_fd = STDOUT_FILENO;
    if (options->output)
        sampler->out_fd = open(options->output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (sampler->out_fd < 0)
        return err_errno(err, ERR_HOST, errno, "cannot write %s", options->output);
    return write_first(sampler, err);
}

static struct itimerspec timer_of(uint64_t at_ns, uint64_t interval_ns)
{
    return (struct itimerspec){
        .it_value = { (time_t)(at_ns / CLOCK_SECOND), (long)(at_ns % CLOCK_SECOND) },
        .it_interval = { (time_t)(interval_ns / CLOCK_SECOND), (long)(interval_ns % CLOCK_SECOND) },
    };
}

/* What woke the meter. A sample is due: *ret_sample; it is over: *ret_stop, and a sample is due then too. */
static int wait_events(struct sampler *sampler, bool *ret_sample, bool *ret_stop, struct err *err)
{
    struct pollfd *poll_fds = sampler->poll;
    if (poll(poll_fds, sampler->polled, -1) < 0)
        return errno == EINTR ? 0 : err_errno(err, ERR_HOST, errno, "poll");
    uint64_t now = clock_now_ns(), turns;
    if (poll_fds[POLL_TIMER].revents &&
        read(sampler->timer_fd, &turns, sizeof(turns)) == (ssize_t)sizeof(turns)) {
        *ret_sample = true;
        sampler->missed += turns - 1;
        sampler->late_ns =
            MAX(sampler->late_ns, (now - sampler->begin_ns) % sampler->options->interval_ns);
    }
    if (poll_fds[POLL_PROCESS].revents) {
        process_end(&sampler->process);
        poll_fds[POLL_PROCESS].fd = -1;
        *ret_sample = true;
    }
    for (unsigned i = POLL_RUNNING; i < sampler->polled; i++) {
        if (poll_fds[i].revents & ~POLLIN)
            poll_fds[i].fd = -1; /* a processor that was taken away */
    }
    *ret_stop =
        poll_fds[POLL_SIGNAL].revents || (sampler->options->for_ns != CLOCK_NEVER &&
                                          now - sampler->begin_ns >= sampler->options->for_ns);
    return 0;
}

static int run(struct sampler *sampler, struct err *err)
{
    const struct sampler_options *options = sampler->options;
    sampler->begin_ns = clock_now_ns();
    struct itimerspec timer =
        timer_of(sampler->begin_ns + options->interval_ns, options->interval_ns);
    if (timerfd_settime(sampler->timer_fd, TFD_TIMER_ABSTIME, &timer, NULL))
        return err_errno(err, ERR_HOST, errno, "cannot set the timer");
    int rc = write_sample(sampler, err);
    for (bool stop = false; !rc && !stop;) {
        bool sample = false;
        rc = wait_events(sampler, &sample, &stop, err);
        if (!rc && sample && !sampler->process.pid)
            find_later(sampler);
        if (!rc && (sample || stop))
            rc = write_sample(sampler, err);
        else if (!rc)
            running_advance(sampler->running, clock_now_ns() - SETTLE_NS);
    }
    return rc ? rc : write_last(sampler, err);
}

int sampler_run(const struct sampler_options *options, bool *ret_came, struct err *err)
{
    struct sampler sampler = { .options = options, .out_fd = -1, .timer_fd = -1, .signal_fd = -1 };
    int rc = set_up(&sampler, err);
    if (!rc)
        rc = run(&sampler, err);
    if (options->output && sampler.out_fd >= 0 && close(sampler.out_fd) && !rc)
        rc = err_errno(err, ERR_HOST, errno, "cannot write %s", options->output);
    *ret_came = sampler.process.pid;
    running_close(sampler.running);
    tcp_close(&sampler.tcp);
    host_close(&sampler.host);
    finder_fini(&sampler.finder);
    process_fini(&sampler.process);
    fd_close(&sampler.timer_fd);
    fd_close(&sampler.signal_fd);
    free(sampler.poll);
    buf_free(&sampler.buf);
    return rc;
}
