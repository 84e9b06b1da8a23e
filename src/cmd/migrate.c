#include "cmd/moving.h"
#include "cmd/vm.h"

#include <errno.h>
#include <string.h>

static int migrate(struct cmd_args *args)
{
    const char *to = cmd_text(args, "HOST:PORT");
    struct client *client;
    struct err err = { 0 };
    bool cancel = cmd_flag(args, "cancel"), recover = cmd_flag(args, "recover");
    const char *post_copy = cmd_text(args, "post-copy");
    bool pure = strcmp(cmd_text(args, "mode"), "post-copy") == 0;
    bool now = strcmp(post_copy, "now") == 0, go = !to && !cancel && !recover && now;

    if (cancel && (to || recover))
        (void)err_set(&err, ERR_CALLER, EINVAL, "--cancel takes no HOST:PORT and no --recover");
    else if (!to && !cancel && !recover && !go)
        (void)err_set(&err, ERR_CALLER, EINVAL, "HOST:PORT is missing: where to?");
    if (err.code)
        return cmd_fail(args, &err);
    if (cancel)
        return vm_call(args, "vm.migrate_cancel");
    if (!recover && (pure || strcmp(post_copy, "never") != 0))
        cmd_note(args, "post-copy: from the switch on the guest needs both hosts until all of its "
                       "memory has followed it; if this host or the other is lost then, so is the "
                       "guest");
    if (go)
        return vm_call(args, "vm.migrate_post_copy");
    if (vm_open(args, &client, &err))
        return cmd_fail(args, &err);
    if (recover) {
        json_t *params = to ? json_pack("{s:s}", "to", to) : NULL;
        int rc = client_call(client, "vm.migrate_recover", params, VM_ANSWER_NS, NULL, &err);
        client_close(client);
        return rc ? cmd_fail(args, &err) : CMD_OK;
    }
    int status =
        moving_run(args, client, "vm.migrate",
                   json_pack("{s:s, s:s, s:s, s:I, s:I}", "to", to, "mode", cmd_text(args, "mode"),
                             "post_copy", post_copy, "max_downtime_ns",
                             (json_int_t)cmd_number(args, "max-downtime"), "stall_limit_ns",
                             (json_int_t)cmd_number(args, "stall-limit")));
    client_close(client);
    return status;
}

const struct command cmd_migrate = {
    .name = "migrate",
    .summary = "move a VM to another host while it runs",
    .text =
        "Moves a VM to the monitor that 'godwit receive' has started at HOST:PORT, and prints the "
        "bill: what the move cost. Network connections of the guest survive if the other host is "
        "on the same network.\n\n"
        "At every moment exactly one side owns the guest. Until the move is committed, whatever "
        "goes wrong leaves the VM running here as if nothing had happened; afterwards it never "
        "runs here again. If the connection is lost in the moment of commitment, neither side "
        "runs the guest until they have reached each other again, and the VM's state is "
        "'uncertain'.\n\n"
        "Post-copy hands the guest over first and lets its memory follow: pages are fetched as the "
        "guest touches them, and the rest is pushed. The downtime is short whatever the guest "
        "writes; but until all memory has followed, the guest needs both hosts. If the connection "
        "is lost, the guest stops where it needs what is missing (state 'stranded'), and goes on "
        "when the hosts reach each other again, by themselves or with --recover. If the source "
        "host or its monitor is lost, the guest is lost (reason 'source-lost'): it never runs on "
        "less than its memory.\n\n"
        "SIGINT or SIGTERM cancel the move. Progress is shown on standard error.",
    .example = "  godwit migrate web1 10.0.0.2:7000\n"
               "  godwit migrate web1 10.0.0.2:7000 --mode stop-copy --bill web1.json\n",
    .arguments =
        (const struct cmd_option[]){
            VM_ARGUMENT,
            { .name = "HOST:PORT", .kind = CMD_ADDRESS, .help = "where the other side waits" },
            { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "mode",
              .kind = CMD_CHOICE,
              .value = "MODE",
              .choices = "pre-copy|stop-copy|post-copy",
              .fallback = "pre-copy",
              .help = "pre-copy sends memory while the guest runs, stop-copy after stopping it, "
                      "post-copy after it runs at the other side" },
            { .name = "post-copy",
              .kind = CMD_CHOICE,
              .value = "WHEN",
              .choices = "never|allow|now",
              .fallback = "never",
              .help = "whether pre-copy may turn into post-copy: allow, when it cannot keep "
                      "--max-downtime; now, at once, also of a move under way (then without "
                      "HOST:PORT)" },
            { .name = "max-downtime",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "300ms",
              .min = 1,
              .max = UINT64_C(3600000000000),
              .help = "how long the guest may stand still; pre-copy goes on until it expects to "
                      "keep this" },
            { .name = "stall-limit",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "10s",
              .min = 100000000,
              .max = UINT64_C(3600000000000),
              .help = "give up when nothing moves for so long" },
            { .name = "recover",
              .kind = CMD_FLAG,
              .help =
                  "a move that lost its connection: connect again at once, to HOST:PORT if one is "
                  "given" },
            { .name = "cancel",
              .kind = CMD_FLAG,
              .help = "cancel the move that is under way instead" },
            MOVING_OPTIONS,
            { 0 } },
    .statuses =
        (const struct cmd_status[]){
            { CMD_UNCERTAIN,
              "Nobody here knows yet who owns the guest; it will show once the two sides reach "
              "each other" },
            { 0 } },
    .status_ok = "The guest runs at the other side; with --cancel: the move will end",
    .fn = migrate,
};
