/*
 * Commands: the description each one gives of itself, and what it is given when it runs.
 *
 * A command's description is the only place where its options are written down. The parser
 * (args.c), the usage text (usage.c), the man pages (man.c) and the shell completion (completion.c)
 * all read it.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "ctl/rundir.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Exit statuses of every command; a command documents any other in `statuses`. */
enum cmd_exit {
    CMD_OK = 0,
    CMD_FAILED = 1,    /* it could not be done */
    CMD_USAGE = 2,     /* wrong use or wrong input; nothing was begun */
    CMD_UNCERTAIN = 3, /* migrate: nobody here knows yet who owns the guest */
};

/* What a value is: decides how it is checked, and how it is completed. */
enum cmd_kind {
    CMD_FLAG, /* no value */
    CMD_TEXT,
    CMD_SIZE,     /* number: bytes */
    CMD_COUNT,    /* number */
    CMD_DURATION, /* number: ns */
    CMD_RATE,     /* number: bytes a second */
    CMD_ADDRESS,  /* HOST:PORT */
    CMD_CHOICE,   /* one of `choices` */
    CMD_FILE,
    CMD_DIR,
    CMD_VM,      /* the name of a VM that exists */
    CMD_NAME,    /* a name for a VM */
    CMD_COMMAND, /* the name of a command */
    CMD_KIND_MAX
};

#define CMD_REQUIRED 1u
#define CMD_REPEATED 2u
#define CMD_HIDDEN 4u /* works, but is in no help: for tests and for godwit itself */

struct cmd_option {
    const char *name; /* without the dashes; of an argument: as usage shows it, "NAME" */
    char letter;      /* "-o", the same in short; 0 = none */
    enum cmd_kind kind;
    unsigned flags;
    /* how usage shows the value, "SIZE"; NULL for a flag and for an argument */
    const char *value;
    const char *help; /* one sentence in lower case, without the default */
    /* what holds when it is not given, as a user would write it; NULL: nothing */
    const char *fallback;
    const char *choices; /* CMD_CHOICE: "one|two" */
    uint64_t min, max;   /* numbers; max 0 = no limits */
    uint64_t step;       /* CMD_SIZE: must be a multiple of this; 0 = need not */
};

struct cmd_status {
    int status;
    const char *meaning;
};

struct cmd_args;

struct command {
    const char *name;
    const char *summary;                /* one line, lower case, no full stop */
    const char *text;                   /* paragraphs for the man page, separated by empty lines */
    const char *example;                /* command lines, one a line; may be NULL */
    const struct cmd_option *arguments; /* in order; ends with an empty one */
    const struct cmd_option *options;   /* the same */
    const struct cmd_status *statuses;  /* beyond 0, 1 and 2; the same; may be NULL */
    const char *status_ok;              /* what 0 means here, if that is not plain; may be NULL */
    bool hidden;
    int (*fn)(struct cmd_args *args); /* returns the exit status */
};

/* One file each. */
extern const struct command cmd_run, cmd_ps, cmd_info, cmd_console, cmd_pause, cmd_resume, cmd_stop,
    cmd_kill, cmd_balloon, cmd_migrate, cmd_receive, cmd_checkpoint, cmd_restore, cmd_resolve,
    cmd_bill, cmd_agent, cmd_wws, cmd_measure, cmd_report, cmd_dump, cmd_check, cmd_trust,
    cmd_completion, cmd_man, cmd_vmm;

/* All of them, in the order of the help (table.c); NULL ends the list. */
extern const struct command *const cmd_table[];
const struct command *cmd_find(const char *name);

/* Options every command takes: --runtime-dir, --config-dir, --help. */
extern const struct cmd_option cmd_common_options[];

/* ---------------------------------------------------------------- what a command is given
 * (args.c) */

#define CMD_VALUES_MAX 128

struct cmd_value {
    const struct cmd_option *option;
    const char *text;
    uint64_t number; /* CMD_SIZE, CMD_COUNT, CMD_DURATION, CMD_RATE */
};

struct cmd_args {
    const struct command *command;
    struct cmd_value value[CMD_VALUES_MAX]; /* options and arguments as given */
    unsigned count;
    char base[RUNDIR_BASE_MAX]; /* where the VMs are: rundir_base() */
    const char *config_dir;     /* as given, for confdir_path(); NULL = the usual one */
};

/* The options every command takes, given before the command's name; NULL = not. */
struct cmd_globals {
    const char *runtime_dir, *config_dir;
};

/* Reads what follows the command's name (argv[0..argc)), checking every value. */
int cmd_args_read(struct cmd_args *args, const struct command *command, int argc, char **argv,
                  const struct cmd_globals *globals, struct err *err) MUST_CHECK;

/* Options without dashes and arguments by their names. Text: NULL when there is neither value nor
 * fallback. Number: of what has a fallback or is required, or 0. */
bool cmd_flag(const struct cmd_args *args, const char *name);
const char *cmd_text(const struct cmd_args *args, const char *name);
uint64_t cmd_number(const struct cmd_args *args, const char *name);

/* The values of a repeated option one after the other; *at starts at 0. NULL: no more. */
const char *cmd_next(const struct cmd_args *args, const char *name, unsigned *at);

/* -------------------------------------------------------------------------------- output
 * (output.c) */

/* Prints "godwit COMMAND: text" and returns the exit status that goes with the fault. */
int cmd_fail(const struct cmd_args *args, const struct err *err);

/* A line on stderr that says what goes on: "godwit COMMAND: ...". */
void cmd_note(const struct cmd_args *args, const char *fmt, ...) PRINTF(2, 3);

/* Prints an object or list, indented, and drops the reference. Returns CMD_OK, or CMD_FAILED when
 * stdout is broken. */
int cmd_print_json(const struct cmd_args *args, json_t *json);

/* Flushes stdout; a full disk must not look like success. */
int cmd_finish(const struct cmd_args *args);

/* usage.c */
void cmd_usage_all(FILE *out);
void cmd_usage(const struct command *command, FILE *out);
/* "--memory SIZE", "[NAME]": an option or argument as a synopsis shows it. */
void cmd_show_option(const struct cmd_option *option, bool argument, FILE *out);
