#include "cmd/cmd.h"

#include <string.h>

const struct command *const cmd_table[] = {
    &cmd_run,
    &cmd_ps,
    &cmd_info,
    &cmd_console,
    &cmd_pause,
    &cmd_resume,
    &cmd_stop,
    &cmd_kill,
    &cmd_balloon,
    &cmd_migrate,
    &cmd_receive,
    &cmd_checkpoint,
    &cmd_restore,
    &cmd_resolve,
    &cmd_bill,
    &cmd_metrics,
    &cmd_agent,
    &cmd_wws,
    &cmd_measure,
    &cmd_report,
    &cmd_dump,
    &cmd_check,
    &cmd_trust,
    &cmd_completion,
    /* hidden */
    &cmd_man,
    &cmd_vmm,
    NULL,
};

const struct command *cmd_find(const char *name)
{
    for (const struct command *const *command = cmd_table; *command; command++)
        if (strcmp((*command)->name, name) == 0)
            return *command;
    return NULL;
}
