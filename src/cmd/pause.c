#include "cmd/vm.h"

static int pause_vm(struct cmd_args *args)
{
    return vm_call(args, "vm.pause");
}

const struct command cmd_pause = {
    .name = "pause",
    .summary = "stop a VM's guest where it is",
    .text =
        "The guest stands still, its memory stays as it is and its clock does not advance, until "
        "'godwit resume'. A paused VM can be moved and checkpointed; it arrives paused.",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .status_ok = "It stands still",
    .fn = pause_vm,
};
