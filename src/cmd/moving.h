/* Watching a move until it is done: what migrate and checkpoint share. */
#pragma once
#include "cmd/cmd.h"
#include "ctl/client.h"

/* The options both have. */
/* clang-format off */
#define MOVING_OPTIONS                                                                             \
    { .name = "progress", .kind = CMD_CHOICE, .value = "FORM", .choices = "auto|bar|lines|none",   \
      .fallback = "auto",                                                                          \
      .help = "how to show progress; auto is a bar on a terminal and lines elsewhere" },           \
    { .name = "json", .kind = CMD_FLAG, .help = "print the bill as JSON instead of a page" },      \
    { .name = "bill", .kind = CMD_FILE, .value = "FILE",                                           \
      .help = "write the bill as JSON into FILE too" }
/* clang-format on */

/* Subscribes, starts the move by `method` with `params` (stolen), shows its progress on stderr, and
 * prints the bill on stdout. SIGINT or SIGTERM cancel the move, a second one leaves it to itself.
 * Returns the exit status. */
int moving_run(const struct cmd_args *args, struct client *client, const char *method,
               json_t *params);
