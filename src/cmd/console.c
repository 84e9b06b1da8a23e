#include "base/fd.h"
#include "cmd/attach.h"
#include "cmd/vm.h"

static int console(struct cmd_args *args)
{
    const char *name = cmd_text(args, "NAME");
    struct rundir dir = RUNDIR_NONE;
    struct attach attach = { .console_fd = -1 };
    struct err err = { 0 };
    enum attach_end end;

    int rc = attach_read_escape(cmd_text(args, "escape"), &attach.escape, &err);
    if (rc)
        (void)err_wrap(&err, rc, "--escape");
    if (!rc)
        rc = rundir_open(args->base, name, &dir, &err);
    if (!rc)
        rc = rundir_connect(&dir, RUNDIR_CONSOLE, &attach.console_fd, &err);
    rundir_close(&dir);
    if (!rc && client_open(args->base, name, &attach.client, NULL))
        attach.client = NULL; /* only to learn why it ends */
    if (!rc)
        rc = attach_run(&attach, &end, &err);
    client_close(attach.client);
    fd_close(&attach.console_fd);
    if (rc)
        return cmd_fail(args, &err);
    if (end == ATTACH_ENDED)
        cmd_note(args, "%s: %s%s%s", name,
                 attach.state[0] ? attach.state : "the VM has ended or moved away",
                 attach.reason[0] ? ", " : "", attach.reason);
    return CMD_OK;
}

const struct command cmd_console = {
    .name = "console",
    .summary = "attach to a VM's console",
    .text =
        "Shows what the guest has written to its serial port, beginning with what the monitor has "
        "kept of the past (64 KiB), and sends it what is typed. Several may be attached at once "
        "and all see the same. On a terminal, the escape detaches; the VM runs on. The command "
        "ends when the VM does.\n\n"
        "Standard input that is no terminal is sent to the guest up to its end, which does not "
        "end the command.",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .options =
        (const struct cmd_option[]){ { .name = "escape",
                                       .kind = CMD_TEXT,
                                       .value = "^C",
                                       .fallback = "^]",
                                       .help = "the control character that detaches, or none" },
                                     { 0 } },
    .status_ok = "Detached, or the VM has ended",
    .fn = console,
};
