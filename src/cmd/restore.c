#include "cmd/launch.h"
#include "cmd/parse.h"

#include <errno.h>

static int restore(struct cmd_args *args)
{
    struct err err = { 0 };
    const char *name = cmd_text(args, "name"), *file = cmd_text(args, "FILE");
    char path[4096];

    json_t *options = launch_options(args, "restore", name);
    int rc = launch_places(args, options, &err);
    if (!rc)
        rc = launch_self_migrate(args, options, &err);
    if (!rc)
        rc = parse_path(file, path, sizeof(path), &err);
    if (!rc && json_object_set_new(options, "file", json_string(path)))
        rc = err_set(&err, ERR_CALLER, EINVAL, "'%.80s' is no UTF-8 text", file);
    if (rc) {
        json_decref(options);
        return cmd_fail(args, &err);
    }
    (void)json_object_set_new(options, "paused", json_boolean(cmd_flag(args, "paused")));
    int status =
        launch(args, &(struct launch){ .title = name ? name : "(restoring)",
                                       .options = options,
                                       .listen_fd = -1,
                                       .what = cmd_flag(args, "paused") ? "is restored, paused"
                                                                        : "runs again" });
    json_decref(options);
    return status;
}

const struct command cmd_restore = {
    .name = "restore",
    .summary = "start a VM from a checkpoint file",
    .text =
        "Builds the machine that a checkpoint file holds and lets its guest go on from there, "
        "then attaches to its console as 'godwit run' does. The file stays as it is, and can be "
        "restored again: under another name it is another machine, with a uuid of its own. Its "
        "disks are not in the file: they must be as they were when the "
        "checkpoint was made.\n\n"
        "A file that is damaged or cut short, or a machine that this host cannot run, is refused, "
        "naming what differs.",
    .example = "  godwit restore web1.godwit --name web1 --disk root=/srv/web1.raw --net lan=tap0 "
               "--detach\n",
    .arguments = (const struct cmd_option[]){ { .name = "FILE",
                                                .kind = CMD_FILE,
                                                .flags = CMD_REQUIRED,
                                                .help = "what 'godwit checkpoint' wrote" },
                                              { 0 } },
    .options =
        (const struct cmd_option[]){ { .name = "name",
                                       .kind = CMD_NAME,
                                       .value = "NAME",
                                       .help = "the VM's name; the one it had, if not given" },
                                     LAUNCH_PLACE_OPTIONS,
                                     { .name = "paused",
                                       .kind = CMD_FLAG,
                                       .help = "do not let the guest run before 'godwit resume'" },
                                     LAUNCH_OPTIONS,
                                     { 0 } },
    .status_ok =
        "The guest went on, and then switched itself off or was ended; with --detach, or after "
        "the escape: it runs",
    .fn = restore,
};
