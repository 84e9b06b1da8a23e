#include "base/clock.h"
#include "cmd/vm.h"

#define EXIT_NS (5 * CLOCK_SECOND)

/* Ends a monitor that may be stuck: asked first, then by force. */
static int end(const struct cmd_args *args, struct client *client, struct err *err)
{
    int rc = client_call(client, "vm.kill", NULL, EXIT_NS, NULL, err);
    if (!rc)
        rc = client_wait_exit(client, EXIT_NS);
    if (!rc)
        return 0;
    rc = client_kill(client, err);
    if (!rc)
        rc = client_wait_exit(client, EXIT_NS);
    if (!rc)
        cmd_note(args, "the monitor did not answer and was ended by force");
    return rc;
}

static int kill_vm(struct cmd_args *args)
{
    const char *name = cmd_text(args, "NAME");
    struct client *client;
    struct err err = { 0 }, dead = { 0 };

    int rc = vm_open(args, &client, &err);
    if (rc) {
        /* Nobody lives there any more: what is left of it goes. */
        if (rundir_reclaim(args->base, name, &dead))
            return cmd_fail(args, &err);
        cmd_note(args, "the monitor of %s had died: removed what it left", name);
        return CMD_OK;
    }
    rc = end(args, client, &err);
    client_close(client);
    if (rc)
        return cmd_fail(args, &err);
    (void)!rundir_reclaim(args->base, name, NULL); /* after SIGKILL there is something left */
    return CMD_OK;
}

const struct command cmd_kill = {
    .name = "kill",
    .summary = "end a VM at once",
    .text = "Ends the VM as pulling the plug of a machine would: what the guest has not written to "
            "its disks is lost. It is also the way to remove what a monitor that died has left "
            "behind. When the command returns, the name is free.",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .status_ok = "The VM is gone",
    .fn = kill_vm,
};
