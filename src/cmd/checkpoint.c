#include "cmd/moving.h"
#include "cmd/parse.h"
#include "cmd/vm.h"

static int checkpoint(struct cmd_args *args)
{
    struct client *client;
    struct err err = { 0 };
    char path[4096];

    int rc = parse_path(cmd_text(args, "FILE"), path, sizeof(path), &err);
    if (!rc)
        rc = vm_open(args, &client, &err);
    if (rc)
        return cmd_fail(args, &err);
    int status = moving_run(args, client, "vm.checkpoint", json_pack("{s:s}", "file", path));
    client_close(client);
    return status;
}

const struct command cmd_checkpoint = {
    .name = "checkpoint",
    .summary = "write a VM's state into a file",
    .text =
        "Stops the guest, writes its memory and devices into FILE, lets it go on, and prints the "
        "bill. 'godwit restore' starts a VM from the file. Memory that the guest never used takes "
        "no space. The file appears under its name only when it is whole and on disk; one that "
        "was there before is replaced.\n\n"
        "Disks are not part of the file.",
    .example = "  godwit checkpoint web1 web1.godwit\n",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT,
                                              { .name = "FILE",
                                                .kind = CMD_FILE,
                                                .flags = CMD_REQUIRED,
                                                .help = "the file to write" },
                                              { 0 } },
    .options = (const struct cmd_option[]){ MOVING_OPTIONS, { 0 } },
    .status_ok = "The file is whole, and the VM goes on",
    .fn = checkpoint,
};
