#include "cmd/launch.h"
#include "base/clock.h"
#include "base/fd.h"
#include "cmd/attach.h"
#include "cmd/device.h"
#include "cmd/parse.h"
#include "ctl/ready.h"
#include "trust/confdir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
    pid_t pid;
    int ready_fd, console_fd; /* our ends; console_fd is -1 with --detach */
    char name[CONFIG_NAME_MAX];
};

json_t *launch_options(const struct cmd_args *args, const char *start, const char *name)
{
    char config_dir[CONFDIR_MAX];
    /* Without one the VM runs, and says what is missing when it is to move. */
    if (confdir_path(args->config_dir, config_dir, NULL))
        config_dir[0] = '\0';
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:I}", "start", start, "runtime_dir",
                     args->base, "config_dir", config_dir, "name", name ? name : "", "small_pages",
                     cmd_flag(args, "small-pages"), "fake", cmd_flag(args, "fake"), "begun_ns",
                     (json_int_t)clock_now_ns());
}

int launch_self_migrate(const struct cmd_args *args, json_t *options, struct err *err)
{
    const char *text;
    json_t *list = json_array();
    int rc = 0;

    for (unsigned at = 0; !rc && (text = cmd_next(args, "self-migrate", &at));) {
        char target[PARSE_TARGET_MAX];
        if (strcmp(text, "any") != 0 && !(rc = parse_target(text, target, err)))
            text = target; /* with its port, as the agent will say it */
        if (!rc && (strlen(text) >= sizeof(((struct vmm_options *)NULL)->self_migrate[0]) ||
                    json_array_size(list) >= VMM_SELF_MIGRATE_MAX))
            rc = err_set(err, ERR_CALLER, E2BIG, "too long, or more than %d", VMM_SELF_MIGRATE_MAX);
        if (!rc && json_array_append_new(list, json_string(text)))
            rc = err_set(err, ERR_CALLER, EINVAL, "no UTF-8 text");
    }
    (void)json_object_set_new(options, "self_migrate", list);
    return rc ? err_wrap(err, rc, "--self-migrate") : 0;
}

static int add_places(const struct cmd_args *args, const char *option, bool is_disk, json_t *places,
                      struct err *err)
{
    const char *text;
    struct vmm_place place;

    for (unsigned at = 0; (text = cmd_next(args, option, &at));) {
        if (json_array_size(places) >= CONFIG_DEVICES_MAX)
            return err_set(err, ERR_CALLER, E2BIG, "more than %d devices", CONFIG_DEVICES_MAX);
        int rc = device_read_place(text, is_disk, place.id, sizeof(place.id), place.where,
                                   sizeof(place.where), err);
        if (rc)
            return err_wrap(err, rc, "--%s", option);
        if (json_array_append_new(places,
                                  json_pack("{s:s, s:s}", "id", place.id, "where", place.where)))
            return err_set(err, ERR_CALLER, EINVAL, "--%s '%.80s' is no UTF-8 text", option, text);
    }
    return 0;
}

int launch_places(const struct cmd_args *args, json_t *options, struct err *err)
{
    json_t *places = json_array();
    int rc = add_places(args, "disk", true, places, err);
    if (!rc)
        rc = add_places(args, "net", false, places, err);
    (void)json_object_set_new(options, "places", places);
    return rc;
}

/* ------------------------------------------------------------------------------------- the
 * process */

/* A memfd with the options, to be read from its start. */
static int options_fd(const json_t *options, int *ret, struct err *err)
{
    char *text = json_dumps(options, JSON_COMPACT);
    CLEANUP_FD int fd = memfd_create("godwit-options", MFD_CLOEXEC);
    int rc = !text ? -EINVAL : fd < 0 ? -errno : fd_write_full(fd, text, strlen(text));
    free(text);
    if (!rc && lseek(fd, 0, SEEK_SET) < 0)
        rc = -errno;
    if (rc)
        return err_errno(err, rc == -EINVAL ? ERR_CALLER : ERR_HOST, -rc,
                         "cannot hand the options to the monitor");
    *ret = TAKE_FD(fd);
    return 0;
}

/* In the child: becomes the monitor, or reports why not. */
NORETURN static void become_monitor(char *const argv[], const int *fds, unsigned fd_count,
                                    int ready_fd)
{
    struct err err = { 0 };
    sigset_t none;
    int null_fd = open("/dev/null", O_RDONLY);
    bool good = null_fd >= 0 && dup2(null_fd, STDIN_FILENO) == STDIN_FILENO && setsid() >= 0 &&
                chdir("/") == 0;

    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (unsigned i = 0; good && i < fd_count; i++)
        good = fds[i] < 0 || fcntl(fds[i], F_SETFD, 0) == 0; /* inherited */
    if (good)
        (void)execv("/proc/self/exe", argv);
    (void)err_errno(&err, ERR_HOST, errno, "cannot start the monitor");
    ready_report_failure(&ready_fd, &err);
    _exit(CMD_FAILED);
}

static int start(const struct cmd_args *args, const struct launch *what, struct child *child,
                 struct err *err)
{
    CLEANUP_FD int config_fd = -1, ready_in = -1, ready_out = -1, console_in = -1, console_out = -1;
    int pair[2];

    int rc = options_fd(what->options, &config_fd, err);
    if (rc)
        return rc;
    if (pipe2(pair, O_CLOEXEC) < 0)
        return err_errno(err, ERR_HOST, errno, "pipe");
    ready_in = pair[0];
    ready_out = pair[1];
    if (!cmd_flag(args, "detach")) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
            return err_errno(err, ERR_HOST, errno, "socketpair");
        console_in = pair[0];
        console_out = pair[1];
    }

    static const char *const names[] = { "config", "ready", "listen", "console" };
    int fds[] = { config_fd, ready_out, what->listen_fd, console_out };
    char program[] = "godwit", command[] = "vmm", *title = strdupa(what->title),
         words[ARRAY_LEN(fds)][32];
    char *argv[3 + ARRAY_LEN(fds) + 1] = { program, command, title };
    for (unsigned i = 0, word = 3; i < ARRAY_LEN(fds); i++)
        if (fds[i] >= 0) {
            (void)snprintf(words[i], sizeof(words[i]), "--%s-fd=%d", names[i], fds[i]);
            argv[word++] = words[i];
        }

    (void)fflush(NULL); /* nothing buffered may be written twice */
    pid_t pid = fork();
    if (pid < 0)
        return err_errno(err, ERR_HOST, errno, "cannot start the monitor");
    if (pid == 0)
        become_monitor(argv, fds, ARRAY_LEN(fds), ready_out);
    *child = (struct child){ .pid = pid,
                             .ready_fd = TAKE_FD(ready_in),
                             .console_fd = TAKE_FD(console_in) };
    return 0;
}

static int reap(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return CMD_FAILED;
    return WIFEXITED(status) ? WEXITSTATUS(status) : CMD_FAILED;
}

/* Waits for the ready line, or for a signal to this process, which then ends the monitor too. */
static int await_ready(struct child *child, struct err *err)
{
    sigset_t set, old;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, &old);
    CLEANUP_FD int signal_fd = signalfd(-1, &set, SFD_CLOEXEC);

    struct pollfd poll_fd[] = { { .fd = child->ready_fd, .events = POLLIN },
                                { .fd = signal_fd, .events = POLLIN } };
    int n;
    do
        n = poll(poll_fd, ARRAY_LEN(poll_fd), -1);
    while (n < 0 && errno == EINTR);
    bool signalled = n > 0 && poll_fd[1].revents;
    struct signalfd_siginfo info;
    if (signalled)
        /* taken, or it would end us once it is unblocked */
        (void)!read(signal_fd, &info, sizeof(info));
    int rc = n < 0 || signalled ? err_set(err, ERR_HOST, EINTR, "interrupted while starting")
                                : ready_wait(child->ready_fd, child->name, err);
    (void)sigprocmask(SIG_SETMASK, &old, NULL);
    fd_close(&child->ready_fd);
    if (rc) {
        (void)kill(child->pid, SIGTERM);
        (void)reap(child->pid);
        fd_close(&child->console_fd);
    }
    return rc;
}

/* ---------------------------------------------------------------------------- staying with the
 * VM */

static int ended(const struct cmd_args *args, struct child *child, const struct attach *attach)
{
    int status = reap(child->pid);
    const char *reason = attach->reason[0] ? attach->reason : status ? "it failed" : "it ended";
    char log[PATH_MAX];
    (void)snprintf(log, sizeof(log), "%s/%s/" RUNDIR_LOG, args->base, child->name);
    if (access(log, F_OK) == 0) /* kept for the end that nobody wanted */
        cmd_note(args, "%s: %s (its last words are in %s)", child->name, reason, log);
    else
        cmd_note(args, "%s: %s", child->name, reason);
    return status;
}

static int follow(const struct cmd_args *args, struct child *child)
{
    struct attach attach = { .console_fd = child->console_fd };
    enum attach_end end;
    struct err err = { 0 };
    int status = CMD_FAILED;

    int rc = attach_read_escape(cmd_text(args, "escape"), &attach.escape, &err);
    ASSERT(rc == 0); /* launch() read it before */
    /* A VM may end faster than we can connect: then its exit status is all there is to say. */
    if (client_open(args->base, child->name, &attach.client, NULL))
        attach.client = NULL;
    rc = attach_run(&attach, &end, &err);
    if (!rc && end == ATTACH_SIGNALLED) {
        (void)kill(child->pid, SIGTERM);
        rc = attach_run(&attach, &end, &err); /* its last words; a second signal ends even that */
    }
    if (rc) {
        /* Our output is broken, not the VM: as after a detach, it runs on. */
        status = cmd_fail(args, &err);
    } else if (end == ATTACH_DETACHED) {
        cmd_note(args, "detached from %s, which runs on: 'godwit console %s' attaches again",
                 child->name, child->name);
        status = CMD_OK;
    } else {
        fd_close(&child->console_fd);
        status = ended(args, child, &attach);
    }
    client_close(attach.client);
    return status;
}

static int report(const struct cmd_args *args, const struct launch *what, const struct child *child)
{
    if (cmd_flag(args, "json")) {
        json_t *facts = json_pack("{s:s, s:i}", "name", child->name, "pid", (int)child->pid);
        if (what->facts)
            (void)json_object_update(facts, what->facts);
        return cmd_print_json(args, facts);
    }
    if (cmd_flag(args, "detach"))
        (void)printf("%s %s\n", child->name, what->what);
    else
        cmd_note(args, "%s %s", child->name, what->what);
    return cmd_finish(args);
}

int launch(struct cmd_args *args, const struct launch *what)
{
    CLEANUP_FD int listen_fd = what->listen_fd;
    struct child child;
    struct err err = { 0 };
    int escape;

    int rc = attach_read_escape(cmd_text(args, "escape"), &escape, &err);
    if (rc)
        (void)err_wrap(&err, rc, "--escape");
    if (!rc && cmd_flag(args, "json") && !cmd_flag(args, "detach"))
        rc = err_set(&err, ERR_CALLER, EINVAL,
                     "--json goes with --detach: without it standard output is the console");
    if (!rc)
        rc = start(args, what, &child, &err);
    fd_close(&listen_fd); /* the monitor's alone: when it ends, the port closes */
    if (!rc)
        rc = await_ready(&child, &err);
    if (rc)
        return cmd_fail(args, &err);
    int status = report(args, what, &child);
    if (!cmd_flag(args, "detach"))
        status = follow(args, &child);
    fd_close(&child.console_fd);
    return status;
}

/* --------------------------------------------------------------------------------- the monitor's
 * side */

static int read_places(const json_t *list, struct vmm_options *options, struct err *err)
{
    size_t count = json_array_size(list);
    if (count > CONFIG_DEVICES_MAX)
        return err_set(err, ERR_CALLER, E2BIG, "more than %d places", CONFIG_DEVICES_MAX);
    for (size_t i = 0; i < count; i++) {
        struct vmm_place *place = &options->place[i];
        const char *id = json_string_value(json_object_get(json_array_get(list, i), "id"));
        const char *where = json_string_value(json_object_get(json_array_get(list, i), "where"));
        if (!id || !where || strlen(id) >= sizeof(place->id) ||
            strlen(where) >= sizeof(place->where))
            return err_set(err, ERR_CALLER, EINVAL, "place %zu is incomplete", i);
        memcpy(place->id, id, strlen(id) + 1);
        memcpy(place->where, where, strlen(where) + 1);
    }
    options->place_count = (unsigned)count;
    return 0;
}

static int read_self_migrate(const json_t *list, struct vmm_options *options, struct err *err)
{
    size_t count = json_array_size(list);
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (i == VMM_SELF_MIGRATE_MAX || !text || strlen(text) >= sizeof(options->self_migrate[i]))
            return err_set(err, ERR_CALLER, EINVAL, "self_migrate %zu is no address", i);
        memcpy(options->self_migrate[i], text, strlen(text) + 1);
    }
    options->self_migrate_count = (unsigned)count;
    return 0;
}

static int copy_text(char *to, size_t size, const char *from, const char *what, struct err *err)
{
    if (strlen(from) >= size)
        return err_set(err, ERR_CALLER, ENAMETOOLONG, "%s: longer than %zu bytes", what, size - 1);
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

static int read_object(json_t *json, struct vmm_options *options, struct err *err)
{
    static const char *const starts[VMM_START_MAX] = {
        [VMM_BOOT] = "boot", [VMM_RECEIVE] = "receive", [VMM_RESTORE] = "restore"
    };
    json_error_t where;
    const char *start, *base, *config_dir, *name, *file = "";
    json_t *config = NULL, *places = NULL, *self_migrate = NULL;
    int paused = 0, once = 0, fake = 0, insecure = 0, small_pages = 0;
    json_int_t begun_ns = 0;

    if (json_unpack_ex(
            json, &where, JSON_STRICT,
            "{s:s, s:s, s:s, s:s, s?:o, s?:s, s?:b, s?:b, s?:b, s?:o, s?:o, s?:b, s?:b, s?:I}",
            "start", &start, "runtime_dir", &base, "config_dir", &config_dir, "name", &name,
            "config", &config, "file", &file, "paused", &paused, "once", &once, "insecure",
            &insecure, "places", &places, "self_migrate", &self_migrate, "small_pages",
            &small_pages, "fake", &fake, "begun_ns", &begun_ns))
        return err_set(err, ERR_CALLER, EINVAL, "options: %s", where.text);
    for (unsigned i = 1; i < VMM_START_MAX; i++)
        if (strcmp(start, starts[i]) == 0)
            options->start = (enum vmm_start)i;
    if (!options->start)
        return err_set(err, ERR_CALLER, EINVAL, "options: unknown start '%.40s'", start);
    options->paused = paused;
    options->once = once;
    options->insecure = insecure;
    options->fake = fake;
    options->begun_ns = (uint64_t)begun_ns;
    int rc = copy_text(options->base, sizeof(options->base), base, "runtime_dir", err);
    if (!rc)
        rc = copy_text(options->config_dir, sizeof(options->config_dir), config_dir, "config_dir",
                       err);
    if (!rc)
        rc = copy_text(options->name, sizeof(options->name), name, "name", err);
    if (!rc)
        rc = copy_text(options->file, sizeof(options->file), file, "file", err);
    if (!rc)
        rc = read_places(places, options, err);
    if (!rc)
        rc = read_self_migrate(self_migrate, options, err);
    if (!rc && options->start == VMM_BOOT)
        rc = config_from_json(config, &options->machine, &options->host, err);
    options->host.small_pages |= small_pages != 0;
    return rc;
}

int launch_read_options(int config_fd, struct vmm_options *options, struct err *err)
{
    json_error_t where;
    json_t *json = json_loadfd(config_fd, 0, &where);
    if (!json)
        return err_set(err, ERR_CALLER, EBADMSG, "options: %s", where.text);
    int rc = read_object(json, options, err);
    json_decref(json);
    return rc;
}
