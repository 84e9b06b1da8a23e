/* Commands that talk to one running VM. */
#pragma once
#include "cmd/cmd.h"
#include "ctl/client.h"

#define VM_ANSWER_NS (UINT64_C(10) * 1000000000) /* for calls that the monitor answers at once */

/* Connects to the VM that the argument NAME names. */
int vm_open(const struct cmd_args *args, struct client **ret, struct err *err) MUST_CHECK;

/* Opens it, makes one call without parameters, closes it. Returns the exit status. */
int vm_call(const struct cmd_args *args, const char *method);

/* The argument NAME, for all commands that have it. */
#define VM_ARGUMENT                                                             \
    {                                                                           \
        .name = "NAME", .kind = CMD_VM, .flags = CMD_REQUIRED, .help = "the VM" \
    }
