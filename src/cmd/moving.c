#include "cmd/moving.h"
#include "base/clock.h"
#include "base/fd.h"
#include "cmd/vm.h"
#include "cost/bill_text.h"
#include "cost/progress.h"
#include "cost/show.h"
#include "ctl/reason.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

struct moving {
    const struct cmd_args *args;
    struct progress progress;
    bool shown;   /* the progress is */
    json_t *done; /* the parameters of move.done */
};

/* What a person wants to know at once: that the goal is in danger, and what is done about it. */
static void show_decision(struct moving *moving, const json_t *params)
{
    const char *what = json_string_value(json_object_get(params, "what"));
    const char *why = json_string_value(json_object_get(params, "why"));
    const char *text = json_string_value(json_object_get(params, "text"));
    int run = (int)json_integer_value(json_object_get(params, "run_permille"));
    char says[64] = "", numbers[200];

    if (!what || !why || !text)
        return;
    if (strcmp(why, "slowed") == 0)
        (void)snprintf(says, sizeof(says), "the fast writers are slowed to %d %%", run / 10);
    else if (strcmp(why, "released") == 0)
        (void)snprintf(says, sizeof(says), "the writers are let go");
    else if (strcmp(what, "switch") == 0)
        (void)snprintf(says, sizeof(says), "going on as post-copy");
    else if (strcmp(what, "abort") == 0)
        (void)snprintf(says, sizeof(says), "the goal cannot be met");
    else if (strcmp(what, "stop") == 0 && json_is_true(json_object_get(params, "exceeds")))
        (void)snprintf(says, sizeof(says), "the goal will be missed");
    if (!says[0])
        return;
    show_clean(numbers, sizeof(numbers), text);
    progress_end(&moving->progress);
    cmd_note(moving->args, "%s: %s", says, numbers);
}

static void on_event(void *ctx, const char *event, const json_t *params)
{
    struct moving *moving = ctx;

    if (strcmp(event, "move.progress") == 0 && !moving->done) {
        if (moving->shown)
            progress_event(&moving->progress, params);
    } else if (strcmp(event, "move.decision") == 0 && !moving->done) {
        if (moving->shown)
            show_decision(moving, params);
    } else if (strcmp(event, "move.done") == 0 && !moving->done) {
        progress_end(&moving->progress);
        moving->done = json_deep_copy(params);
    }
}

/* Lets events come until the move is done. -EINTR: told to stop waiting. */
static int wait_done(const struct cmd_args *args, struct client *client, struct moving *moving,
                     int signal_fd, struct err *err)
{
    bool cancelled = false;

    while (!moving->done) {
        int rc = client_wait(client, 0, err);
        if (rc == 0 || rc == -EINTR)
            continue;
        if (rc != -ETIMEDOUT)
            return rc;
        struct pollfd poll_fd[] = { { .fd = client_fd(client), .events = POLLIN },
                                    { .fd = signal_fd, .events = POLLIN } };
        struct signalfd_siginfo info;
        if (poll(poll_fd, ARRAY_LEN(poll_fd), -1) < 0 || !poll_fd[1].revents)
            continue;
        if (read(signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
            continue;
        progress_end(&moving->progress);
        if (cancelled)
            return err_set(err, ERR_HOST, EINTR,
                           "not waiting any longer: the move goes on, or is about to be cancelled");
        cancelled = true;
        cmd_note(args, "cancelling; a second signal only stops the waiting");
        rc = client_call(client, "vm.migrate_cancel", NULL, VM_ANSWER_NS, NULL, err);
        if (rc && !moving->done) /* too late: it will be done in a moment */
            cmd_note(args, "%s", err->text);
    }
    return 0;
}

static int save_bill(const struct cmd_args *args, const json_t *bill, struct err *err)
{
    const char *path = cmd_text(args, "bill");
    if (!path)
        return 0;
    char *text = json_dumps(bill, JSON_INDENT(2));
    int rc = text ? fd_replace_file(path, text, strlen(text), err)
                  : err_errno(err, ERR_HOST, ENOMEM, "%s", path);
    free(text);
    return rc;
}

/* Prints what the move came to; returns the exit status. */
static int report(const struct cmd_args *args, const json_t *done)
{
    const json_t *error = json_object_get(done, "error");
    json_t *bill = json_object_get(done, "bill");
    const char *owner = json_string_value(json_object_get(bill, "owner"));
    struct err err = { 0 };
    int status = CMD_OK;

    if (save_bill(args, bill, &err))
        status = cmd_fail(args, &err);
    if (cmd_flag(args, "json")) {
        if (cmd_print_json(args, json_incref(bill)))
            status = CMD_FAILED;
    } else {
        bill_text(bill, stdout);
        if (cmd_finish(args))
            status = CMD_FAILED;
    }
    if (json_is_true(json_object_get(done, "ok")))
        return status;
    reason_from_json(error, &err);
    (void)cmd_fail(args, &err); /* whoever is at fault: it was begun, so it is no wrong use */
    return owner && strcmp(owner, "uncertain") == 0 ? CMD_UNCERTAIN : CMD_FAILED;
}

static void begin_progress(const struct cmd_args *args, struct moving *moving)
{
    const char *form = cmd_text(args, "progress");
    enum progress_form wanted = strcmp(form, "bar") == 0     ? PROGRESS_BAR
                                : strcmp(form, "lines") == 0 ? PROGRESS_LINES
                                                             : PROGRESS_AUTO;
    progress_begin(&moving->progress, stderr, wanted, 0);
    moving->shown = strcmp(form, "none") != 0;
}

int moving_run(const struct cmd_args *args, struct client *client, const char *method,
               json_t *params)
{
    struct moving moving = { .args = args };
    struct err err = { 0 };
    sigset_t set, old;
    int status;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &set, &old);
    CLEANUP_FD int signal_fd = signalfd(-1, &set, SFD_CLOEXEC);

    begin_progress(args, &moving);
    int rc = client_subscribe(client, on_event, &moving, &err);
    if (rc)
        json_decref(params);
    else
        rc = client_call(client, method, params, VM_ANSWER_NS, NULL, &err);
    bool begun = !rc;
    if (begun)
        rc = wait_done(args, client, &moving, signal_fd, &err);
    progress_end(&moving.progress);
    if (moving.done) {
        status = report(args, moving.done);
    } else {
        status = cmd_fail(args, &err);
        if (begun && rc == -ECONNRESET) {
            cmd_note(
                args,
                "it died in the move: look for the VM at the other side before starting it again");
            status = CMD_UNCERTAIN;
        }
    }
    json_decref(moving.done);
    (void)sigprocmask(SIG_SETMASK, &old, NULL);
    return status;
}
