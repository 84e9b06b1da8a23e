/* migrate --check: asks, shows the answer, moves nothing. */
#pragma once
#include "cmd/cmd.h"
#include "ctl/client.h"

/* Calls vm.migrate with `params` (stolen), which ask for a check, and returns the exit status. */
int migrate_check(const struct cmd_args *args, struct client *client, json_t *params);
