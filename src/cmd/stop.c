#include "base/clock.h"
#include "cmd/parse.h"
#include "cmd/vm.h"

#include <errno.h>

/* Waits until the monitor has gone. -ETIMEDOUT. */
static int await_end(struct client *client, uint64_t limit_ns, struct err *err)
{
    uint64_t until_ns = clock_now_ns() + limit_ns;

    for (;;) {
        uint64_t now = clock_now_ns();
        int rc = client_wait(client, until_ns > now ? until_ns - now : 0, err);
        if (rc == -ECONNRESET) /* it lets go of the rest now */
            return client_wait_exit(client, 5 * CLOCK_SECOND);
        if (rc && rc != -EINTR)
            return rc;
    }
}

static int stop_open(struct cmd_args *args, struct client *client)
{
    struct err err = { 0 };
    const char *name = cmd_text(args, "NAME");
    uint64_t limit_ns = cmd_number(args, "timeout");

    int rc = client_subscribe(client, NULL, NULL, &err);
    if (!rc)
        rc = client_call(client, "vm.power_button", NULL, VM_ANSWER_NS, NULL, &err);
    if (rc)
        return cmd_fail(args, &err);
    rc = await_end(client, limit_ns, &err);
    if (!rc)
        return CMD_OK;
    if (rc != -ETIMEDOUT)
        return cmd_fail(args, &err);
    if (!cmd_flag(args, "force")) {
        cmd_note(
            args,
            "%s has not switched itself off within %s and runs on: 'godwit kill %s' ends it at "
            "once",
            name, parse_show_duration(limit_ns).text, name);
        return CMD_FAILED;
    }
    rc = client_call(client, "vm.kill", NULL, VM_ANSWER_NS, NULL, &err);
    if (rc && rc != -ECONNRESET) /* it may have ended by itself just now */
        return cmd_fail(args, &err);
    if (await_end(client, 5 * CLOCK_SECOND, &err)) {
        cmd_note(args, "the monitor of %s does not end: 'godwit kill %s' ends it by force", name,
                 name);
        return CMD_FAILED;
    }
    cmd_note(args, "%s has not switched itself off within %s and was ended", name,
             parse_show_duration(limit_ns).text);
    return CMD_OK;
}

static int stop(struct cmd_args *args)
{
    struct client *client;
    struct err err = { 0 };

    if (vm_open(args, &client, &err))
        return cmd_fail(args, &err);
    int status = stop_open(args, client);
    client_close(client);
    return status;
}

const struct command cmd_stop = {
    .name = "stop",
    .summary = "ask a VM's guest to switch itself off",
    .text =
        "Presses the power button of the machine and waits until the guest has shut down and the "
        "VM has ended. A guest that does not listen to the button, or is paused, stays as it is.",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "timeout",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "30s",
              .help = "how long to wait for it" },
            { .name = "force", .kind = CMD_FLAG, .help = "end the VM when the time is over" },
            { 0 } },
    .status_ok = "The VM is gone",
    .fn = stop,
};
