#include "base/clock.h"
#include "cmd/cmd.h"

#include <inttypes.h>

static int tell(struct cmd_args *args)
{
    char line[64];

    while (fgets(line, sizeof(line), stdin)) {
        (void)printf("%" PRIu64 "\n", clock_now_ns());
        if (cmd_finish(args) != CMD_OK)
            return CMD_FAILED;
    }
    return ferror(stdin) ? CMD_FAILED : CMD_OK;
}

const struct command cmd_clock = {
    .name = "clock",
    .summary = "answer each line of standard input with this host's CLOCK_MONOTONIC, in ns",
    .text =
        "Used by measure: whoever sees the line go and the answer come knows how this host's clock runs "
        "against its own, to half of the time between.",
    .hidden = true,
    .fn = tell,
};
