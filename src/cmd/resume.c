#include "cmd/vm.h"

static int resume(struct cmd_args *args)
{
    return vm_call(args, "vm.resume");
}

const struct command cmd_resume = {
    .name = "resume",
    .summary = "let a paused VM go on",
    .text = "Lets a guest go on that 'godwit pause' or 'godwit restore --paused' holds.",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .status_ok = "It runs",
    .fn = resume,
};
