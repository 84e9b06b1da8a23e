/*
 * The monitor process: from its options to its exit status.
 *
 * Order, and what may fail where: the name is claimed first (nothing exists yet that would have to be
 * undone), then sockets, then the machine, then the ready line. Until the ready line an error goes to
 * whoever started the process; after it, to the log and to subscribers. Every way out passes through
 * teardown(), which ends threads before it frees what they use.
 */
#include "vmm/monitor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "ctl/identity.h"
#include "ctl/promise.h"
#include "ctl/ready.h"
#include "vmm/mover.h"
#include "vmm/recording.h"
#include "vmm/records.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

const char *monitor_state_name(enum monitor_state state)
{
    static const char *const names[MONITOR_STATE_MAX] = {
        [MONITOR_STARTING] = "starting",   [MONITOR_RECEIVING] = "receiving",
        [MONITOR_RUNNING] = "running",     [MONITOR_PAUSED] = "paused",
        [MONITOR_MIGRATING] = "migrating", [MONITOR_CHECKPOINTING] = "checkpointing",
        [MONITOR_UNCERTAIN] = "uncertain", [MONITOR_SERVING] = "serving",
        [MONITOR_PULLING] = "pulling",     [MONITOR_STRANDED] = "stranded",
        [MONITOR_MOVED] = "moved",         [MONITOR_ENDED] = "ended",
    };
    return names[state];
}

void monitor_set_state(struct monitor *monitor, enum monitor_state state, const char *reason)
{
    if (monitor->state == state || monitor->state == MONITOR_ENDED)
        return; /* what was still under way then may report, but nothing follows an end */
    const char *previous = monitor_state_name(monitor->state);
    monitor->state = state;
    (void)snprintf(monitor->state_why, sizeof(monitor->state_why), "%s", reason ? reason : "");
    log_event(LOG_INFO, "vm.state", "%s -> %s%s%s", previous, monitor_state_name(state),
              reason ? ": " : "", reason ? reason : "");
    if (monitor->rpc)
        rpc_post_event(monitor->rpc, "vm.state",
                       json_pack("{s:s, s:s, s:s?}", "state", monitor_state_name(state), "previous",
                                 previous, "reason", reason));
}

void monitor_end(struct monitor *monitor, int exit_status, const char *reason)
{
    if (monitor->ending)
        return; /* the first reason stays: a signal sees a guest off that had left by itself */
    monitor->ending = true;
    monitor->exit_status = exit_status;
    if (monitor->state != MONITOR_MOVED)
        monitor_set_state(monitor, MONITOR_ENDED, reason);
    loop_quit(&monitor->loop);
}

int monitor_pause_machine(struct monitor *monitor, struct err *err)
{
    (void)pthread_mutex_lock(&monitor->pause_lock);
    int rc = machine_pause(monitor->machine, err);
    (void)pthread_mutex_unlock(&monitor->pause_lock);
    return rc;
}

void monitor_resume_machine(struct monitor *monitor)
{
    (void)pthread_mutex_lock(&monitor->pause_lock);
    machine_resume(monitor->machine);
    (void)pthread_mutex_unlock(&monitor->pause_lock);
}

/* ------------------------------------------------------------------------ what the guest tells the loop */

static void hook_console_out(void *ctx, const uint8_t *bytes, size_t len)
{
    console_output(((struct monitor *)ctx)->console, bytes, len);
}

static void hook_console_room(void *ctx)
{
    console_input_ready(((struct monitor *)ctx)->console);
}

static void hook_balloon(void *ctx, uint64_t target_bytes, uint64_t actual_bytes)
{
    rpc_post_event(((struct monitor *)ctx)->rpc, "balloon.progress",
                   json_pack("{s:I, s:I}", "target_bytes", (json_int_t)target_bytes, "actual_bytes",
                             (json_int_t)actual_bytes));
}

static size_t console_typed(void *ctx, const uint8_t *bytes, size_t len)
{
    struct monitor *monitor = ctx;
    return monitor->machine ? machine_console_input(monitor->machine, bytes, len) : len;
}

static void hook_end(void *ctx, enum machine_end how, const char *why)
{
    struct monitor *monitor = ctx;
    (void)pthread_mutex_lock(&monitor->end_lock);
    if (!monitor->end) {
        monitor->end = how;
        (void)snprintf(monitor->end_why, sizeof(monitor->end_why), "%s", why);
    }
    (void)pthread_mutex_unlock(&monitor->end_lock);
    (void)eventfd_write(monitor->ended_fd, 1);
}

static void on_guest_end(struct loop_source *source, uint32_t events)
{
    (void)events;
    struct monitor *monitor = CONTAINER_OF(source, struct monitor, ended);
    (void)loop_drain(source->fd);
    (void)pthread_mutex_lock(&monitor->end_lock);
    enum machine_end how = monitor->end;
    (void)pthread_mutex_unlock(&monitor->end_lock);
    bool failed = how == MACHINE_FAILED;
    log_event(failed ? LOG_ERROR : LOG_INFO, "vm.end", "%s", monitor->end_why);
    if (how != MACHINE_POWERED_OFF) /* a reset is how a guest ends that crashed */
        monitor->keep |= RUNDIR_KEEP_LOGS;
    monitor_end(monitor, failed, monitor->end_why);
}

static void on_signal(struct loop_source *source, uint32_t events)
{
    (void)events;
    struct monitor *monitor = CONTAINER_OF(source, struct monitor, signals);
    struct signalfd_siginfo info;
    if (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        char why[64];
        (void)snprintf(why, sizeof(why), "signal %s", strsignal((int)info.ssi_signo));
        monitor_end(monitor, 1, why);
    }
}

/* ---------------------------------------------------------------------------------------- setting up */

static int watch_signals(struct monitor *monitor)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN); /* a peer that goes away is an error of the write, */
    (void)signal(SIGXFSZ, SIG_IGN); /* and so is a file that may not grow */
    monitor->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    monitor->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (monitor->signal_fd < 0 || monitor->ended_fd < 0)
        return -errno;
    int rc = loop_add(&monitor->loop, &monitor->signals, monitor->signal_fd, EPOLLIN, on_signal);
    return rc ? rc
              : loop_add(&monitor->loop, &monitor->ended, monitor->ended_fd, EPOLLIN, on_guest_end);
}

/* From here on the log is the directory's file: whoever started the monitor may be gone. */
static int redirect_log(struct monitor *monitor, struct err *err)
{
    int fd =
        openat(monitor->dir.dir_fd, RUNDIR_LOG, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "cannot write the log of %s", monitor->dir.name);
    (void)dup2(fd, STDOUT_FILENO);
    (void)dup2(fd, STDERR_FILENO);
    (void)close(fd);
    return 0;
}

static int open_sockets(struct monitor *monitor, struct err *err)
{
    int control = -1, console = -1;
    int rc = rundir_listen(&monitor->dir, RUNDIR_CONTROL, &control, err);
    if (!rc)
        rc = rpc_server_new(&monitor->loop, control, monitor_methods, monitor_method_count, monitor,
                            &monitor->rpc, err);
    if (!rc)
        rc = rundir_listen(&monitor->dir, RUNDIR_CONSOLE, &console, err);
    if (!rc)
        rc = console_new(&monitor->loop, console, -1, console_typed, monitor, &monitor->console,
                         err);
    if (!rc && monitor->options->console_fd >= 0)
        rc = console_attach(monitor->console, monitor->options->console_fd, err);
    return rc;
}

static void claim_name(const struct vmm_options *options, char name[CONFIG_NAME_MAX])
{
    const char *wanted = options->name[0] ? options->name : options->machine.name;
    if (wanted[0])
        (void)snprintf(name, CONFIG_NAME_MAX, "%s", wanted);
    else /* learnt from the stream, and the directory renamed then */
        (void)snprintf(name, CONFIG_NAME_MAX, "arriving-%d", (int)getpid());
}

static int set_up(struct monitor *monitor, struct err *err)
{
    char name[CONFIG_NAME_MAX], title[16];
    int rc = loop_init(&monitor->loop);
    if (!rc)
        rc = watch_signals(monitor);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot set up the event loop");
    claim_name(monitor->options, name);
    (void)snprintf(title, sizeof(title), "godwit/%.8s", name);
    (void)prctl(PR_SET_NAME, title);
    log_setup(LOG_INFO, name);
    rc = rundir_claim(monitor->options->base, name, &monitor->dir, err);
    if (!rc)
        rc = redirect_log(monitor, err);
    if (!rc)
        rc = open_sockets(monitor, err);
    return rc;
}

/* --------------------------------------------------------------------------------------- three starts */

/* A host may be overcommitted by whoever starts guests on it; it is told, and no other host is promised the same. */
static int promise_memory(struct monitor *monitor, uint64_t bytes, struct err *err)
{
    struct host_memory memory;
    int rc = promise_make(&monitor->dir, bytes, PROMISE_ANYWAY, &memory, err);
    if (!rc && !host_memory_fits(&memory, bytes))
        log_event(
            LOG_WARN, "vm.memory",
            "the guest may take %llu MiB, and of the %llu MiB that are available %llu MiB are "
            "promised to other guests",
            (unsigned long long)(bytes >> 20), (unsigned long long)(memory.available_bytes >> 20),
            (unsigned long long)(memory.promised_bytes >> 20));
    return rc;
}

static int start_new(struct monitor *monitor, struct err *err)
{
    const struct vmm_options *options = monitor->options;
    CLEANUP_FREE struct machine_config *config = malloc(sizeof(*config));
    CLEANUP_FREE struct hv_cpuid *cpuid = malloc(sizeof(*cpuid));
    struct machine_fds fds;
    if (!config || !cpuid)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot start");

    *config = options->machine;
    monitor->host = options->host;
    int rc = config_check(config, ERR_CALLER, err);
    if (!rc)
        rc = machine_open_fds(config, &options->host, options->fake, &fds, err);
    if (rc)
        return rc;
    rc = machine_disk_facts(&fds, config, err);
    if (!rc)
        rc = machine_host_cpuid(&fds, cpuid, err);
    if (!rc)
        rc = identity_claim(&monitor->dir, config->uuid, err);
    if (!rc)
        rc = promise_memory(monitor, config->memory_bytes, err);
    if (rc) {
        machine_close_fds(&fds);
        return rc;
    }
    rc = machine_create(config, cpuid, &fds, &monitor->loop, &monitor->meter, &monitor->hooks,
                        &monitor->machine, err);
    if (!rc)
        rc = promise_kept_in(&monitor->dir, config->memory_bytes, monitor->machine->mem.memfd, err);
    if (!rc)
        rc = machine_lock_disks(monitor->machine, DISK_ALONE, err);
    if (!rc && !options->fake)
        rc = machine_boot(monitor->machine, &options->host, err);
    if (!rc)
        rc = inside_attach(monitor, err);
    if (!rc)
        rc = records_write(&monitor->dir, RECORD_HERE, NULL, NULL, NULL, err);
    if (rc)
        return rc;
    monitor_resume_machine(monitor);
    monitor->first_run_ns = options->begun_ns ? clock_now_ns() - options->begun_ns : 0;
    monitor_set_state(monitor, MONITOR_RUNNING, "booted");
    return 0;
}

static int start_moved(struct monitor *monitor, struct err *err)
{
    struct mover_request request = { .kind = monitor->options->start == VMM_RECEIVE ? MOVER_RECEIVE
                                                                                    : MOVER_RESTORE,
                                     .insecure = monitor->options->insecure };
    (void)snprintf(request.file, sizeof(request.file), "%s", monitor->options->file);
    monitor_set_state(monitor, MONITOR_RECEIVING, NULL);
    return mover_start(monitor, &request, err);
}

/* Post-copy, and the guest is to end with parts of its memory missing: vCPUs and devices may be asleep at a page
 * that will never come, deaf to everything. Joining them could take for ever, and closing what they wait on would
 * let them run on zeroes (mem/uffd.h). So the process goes, and takes them along. */
static void end_incomplete(struct monitor *monitor)
{
    if (monitor->rpc)
        rpc_server_close(monitor->rpc);
    rundir_release(&monitor->dir, monitor->keep);
    _exit(monitor->exit_status);
}

static void save_scrollback(struct monitor *monitor)
{
    int fd = openat(monitor->dir.dir_fd, RUNDIR_SCROLLBACK,
                    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = fd < 0 ? -errno : console_save(monitor->console, fd);
    if (rc)
        log_event(LOG_WARN, "vm.end", "the console's last output could not be kept: %s",
                  strerror(-rc));
    fd_close(&fd);
}

static void teardown(struct monitor *monitor)
{
    recording_shutdown(monitor);
    mover_shutdown(monitor);
    if (atomic_load(&monitor->incomplete))
        end_incomplete(monitor);
    inside_detach(monitor);
    machine_free(monitor->machine);
    monitor->machine = NULL;
    if (monitor->rpc) {
        rpc_server_close(monitor->rpc);
        rpc_server_unref(monitor->rpc);
    }
    if (monitor->console) {
        if (monitor->keep & RUNDIR_KEEP_LOGS)
            save_scrollback(monitor);
        console_free(monitor->console);
    }
    loop_remove(&monitor->signals);
    loop_remove(&monitor->ended);
    fd_close(&monitor->signal_fd);
    fd_close(&monitor->ended_fd);
    loop_fini(&monitor->loop);
    json_decref(monitor->last_bill);
    json_decref(monitor->last_progress);
    json_decref(monitor->last_decision);
    rundir_release(&monitor->dir, monitor->keep);
    meter_fini(&monitor->meter);
    (void)pthread_mutex_destroy(&monitor->pause_lock);
    (void)pthread_mutex_destroy(&monitor->end_lock);
    (void)pthread_mutex_destroy(&monitor->progress_lock);
}

int vmm_main(struct vmm_options *options)
{
    struct err err = { 0 };
    struct monitor *monitor = calloc(1, sizeof(*monitor));
    if (!monitor)
        return 1;
    *monitor = (struct monitor){ .options = options,
                                 .dir = RUNDIR_NONE,
                                 .signal_fd = -1,
                                 .ended_fd = -1,
                                 .ready_fd = options->ready_fd,
                                 .started_ns = clock_now_ns() };
    monitor->hooks = (struct machine_hooks){ .ctx = monitor,
                                             .console_out = hook_console_out,
                                             .console_room = hook_console_room,
                                             .balloon_changed = hook_balloon,
                                             .on_end = hook_end };
    (void)pthread_mutex_init(&monitor->pause_lock, NULL);
    (void)pthread_mutex_init(&monitor->end_lock, NULL);
    (void)pthread_mutex_init(&monitor->progress_lock, NULL);
    meter_init(&monitor->meter);
    int slot = meter_thread_enter(&monitor->meter, BILL_CPU_LOOP);

    int rc = set_up(monitor, &err);
    if (!rc)
        rc = options->start == VMM_BOOT ? start_new(monitor, &err) : start_moved(monitor, &err);
    if (!rc && options->start != VMM_RESTORE) /* a restore is ready when its guest is */
        rc = ready_report(&monitor->ready_fd, monitor->dir.name);
    if (!rc) {
        rc = loop_run(&monitor->loop);
        if (rc)
            (void)err_errno(&err, ERR_HOST, -rc, "the event loop failed");
    }
    if (rc)
        monitor->exit_status = err.fault == ERR_CALLER ? 2 : 1;
    if (err.code && monitor->ready_fd >= 0)
        ready_report_failure(&monitor->ready_fd, &err); /* whoever started it prints the reason */
    else if (err.code)
        log_event(LOG_ERROR, "vm.start", "%s", err.text);
    int status = monitor->exit_status;
    meter_thread_leave(&monitor->meter, slot);
    teardown(monitor);
    free(monitor);
    return status;
}
