/*
 * Starting a monitor and staying with it: what run, receive and restore share.
 *
 * The monitor is this program again, `godwit vmm NAME`, in a session of its own with "/" as its
 * directory. It gets what it shall be as JSON in a memfd, and answers on the ready pipe
 * (ctl/ready.h). Until it has, a signal to this process ends both; after a failure nothing of it is
 * left.
 *
 *     {"start": "boot" | "receive" | "restore", "runtime_dir": BASE, "config_dir": DIR,
 *      "name": NAME,
 *      "config": {...},                                config_to_json(), to boot
 *      "self_migrate": [HOST:PORT or "any"],
 *      "file": PATH, "paused": BOOL, "once": BOOL, "insecure": BOOL,
 *      "small_pages": BOOL,
 *      "places": [{"id": ID, "where": PATH or TAP}],
 *      "fake": BOOL, "begun_ns": NS}
 */
#pragma once
#include "cmd/cmd.h"
#include "vmm/vmm.h"

struct launch {
    const char *title; /* what `ps` of the system shows after "godwit vmm" */
    json_t *options;   /* as above; a borrowed reference */
    int listen_fd;     /* receive: the listening socket; else -1. launch()'s, which closes it. */
    json_t *facts;     /* more for --json, merged into what is printed; borrowed, or NULL */
    /* "runs", "waits on 1.2.3.4:7000": said of the VM once the monitor is ready */
    const char *what;
};

/* Rows of a command's table of options. Those that every one of the three has: */
/* clang-format off */
#define LAUNCH_OPTIONS                                                                             \
    { .name = "detach", .kind = CMD_FLAG,                                                          \
      .help = "return when it is started, instead of attaching to its console" },                  \
    { .name = "json", .kind = CMD_FLAG,                                                            \
      .help = "print what was started as JSON; goes with --detach" },                              \
    { .name = "escape", .kind = CMD_TEXT, .value = "^C", .fallback = "^]",                         \
      .help = "the control character that detaches from the console, or none" },                   \
    { .name = "self-migrate", .kind = CMD_TEXT, .flags = CMD_REPEATED, .value = "HOST[:PORT]",      \
      .help = "allow the guest to move itself there by its agent, or anywhere with any" },         \
    { .name = "small-pages", .kind = CMD_FLAG,                                                     \
      .help = "keep the guest's memory in pages of 4 KiB, never of 2 MiB: slower, and less of it "   \
              "where a guest uses little here and there" },                                          \
    { .name = "fake", .kind = CMD_FLAG, .flags = CMD_HIDDEN, .help = "no guest, for tests" }

/* --disk and --net of a machine that arrives. */
#define LAUNCH_PLACE_OPTIONS                                                                       \
    { .name = "disk", .kind = CMD_TEXT, .flags = CMD_REPEATED, .value = "ID=PATH",                 \
      .help = "where this host keeps the machine's disk ID" },                                     \
    { .name = "net", .kind = CMD_TEXT, .flags = CMD_REPEATED, .value = "ID=TAP",                   \
      .help = "the tap of this host that the machine's network card ID is joined to" }
/* clang-format on */

/* A new object with what all starts have; launch_self_migrate() reads one option into it. */
json_t *launch_options(const struct cmd_args *args, const char *start, const char *name);

int launch_self_migrate(const struct cmd_args *args, json_t *options, struct err *err) MUST_CHECK;

/* Reads --disk and --net into options["places"]. */
int launch_places(const struct cmd_args *args, json_t *options, struct err *err) MUST_CHECK;

/* Starts the monitor; with --detach prints what was started, otherwise stays with it until it ends
 * or the user detaches. Returns the exit status of the command. */
int launch(struct cmd_args *args, const struct launch *launch);

/* The monitor's side: the JSON above into *options (whose descriptors the caller sets). */
int launch_read_options(int config_fd, struct vmm_options *options, struct err *err) MUST_CHECK;
