#include "cmd/launch.h"
#include "ctl/ready.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* An inherited descriptor; -1 when none was given. It must not be inherited further. */
static int inherited(const struct cmd_args *args, const char *option)
{
    if (!cmd_text(args, option))
        return -1;
    int fd = (int)cmd_number(args, option);
    return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -1 : fd;
}

static int vmm(struct cmd_args *args)
{
    struct err err = { 0 };
    int ready_fd = inherited(args, "ready-fd"), config_fd = inherited(args, "config-fd");
    struct vmm_options *options = calloc(1, sizeof(*options));
    if (!options)
        return CMD_FAILED;
    int rc = launch_read_options(config_fd, options, &err);
    if (config_fd >= 0)
        (void)close(config_fd);
    if (rc) {
        int status = cmd_fail(args, &err);
        ready_report_failure(&ready_fd, &err);
        free(options);
        return status;
    }
    options->ready_fd = ready_fd;
    options->listen_fd = inherited(args, "listen-fd");
    options->console_fd = inherited(args, "console-fd");
    int status = vmm_main(options);
    free(options);
    return status;
}

#define FD_OPTION(text, flag, what)                                                              \
    {                                                                                            \
        .name = text, .kind = CMD_COUNT, .flags = flag, .value = "FD", .min = 3, .max = 1 << 20, \
        .help = what                                                                             \
    }

const struct command cmd_vmm = {
    .name = "vmm",
    .summary = "be the monitor of a VM",
    .text = "Started by run, receive and restore, not by hand.",
    .arguments = (const struct cmd_option[]){ { .name = "TITLE",
                                                .kind = CMD_TEXT,
                                                .flags = CMD_REQUIRED,
                                                .help = "what a list of processes shows" },
                                              { 0 } },
    .options =
        (const struct cmd_option[]){
            FD_OPTION("config-fd", CMD_REQUIRED, "where the options are read from"),
            FD_OPTION("ready-fd", CMD_REQUIRED, "the pipe to report on"),
            FD_OPTION("listen-fd", 0, "a listening socket to receive on"),
            FD_OPTION("console-fd", 0, "a socket that watches the console"),
            { 0 } },
    .hidden = true,
    .fn = vmm,
};
