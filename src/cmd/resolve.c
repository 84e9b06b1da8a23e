#include "base/clock.h"
#include "cmd/vm.h"

static int resolve(struct cmd_args *args)
{
    struct client *client;
    struct err err = { 0 };

    int rc = vm_open(args, &client, &err);
    if (rc)
        return cmd_fail(args, &err);
    rc = client_call(client, "vm.resolve",
                     json_pack("{s:s}", "decision", cmd_text(args, "DECISION")), VM_ANSWER_NS, NULL,
                     &err);
    client_close(client);
    return rc ? cmd_fail(args, &err) : CMD_OK;
}

const struct command cmd_resolve = {
    .name = "resolve",
    .summary = "decide what an uncertain VM cannot learn by itself",
    .text =
        "A VM is 'uncertain' when the connection was lost in the moment in which its ownership "
        "passed to another host. It then stands still at both sides, and resolves that by itself "
        "once they reach each other. If one of them is gone for good, a person has to decide, and "
        "answers for it: the guest must not run at both sides.\n\n"
        "take-back, at the source: the target does not run the guest and never will; it goes on "
        "here. forget, at the source: the target has it, or had it; it is freed here. adopt, at "
        "the target: the source is dead; the guest runs here. discard, at the target: it goes on "
        "at the source, or shall be gone; it is freed here.",
    .example = "  godwit ps\n"
               "  godwit resolve web1 take-back\n",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT,
                                              { .name = "DECISION",
                                                .kind = CMD_CHOICE,
                                                .flags = CMD_REQUIRED,
                                                .choices = "take-back|forget|adopt|discard",
                                                .help = "take-back, forget, adopt or discard" },
                                              { 0 } },
    .status_ok = "The decision was passed on; 'godwit ps' shows what became of it",
    .fn = resolve,
};
