#include "cmd/cmd.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int usage_error(const char *what, const char *text)
{
    (void)fprintf(stderr, "godwit: %s '%.80s': 'godwit help' lists the commands\n", what, text);
    return CMD_USAGE;
}

/* `help`, `help COMMAND`. */
static int help(int argc, char **argv)
{
    if (argc == 0) {
        cmd_usage_all(stdout);
    } else {
        const struct command *command = cmd_find(argv[0]);
        if (!command)
            return usage_error("no command", argv[0]);
        cmd_usage(command, stdout);
    }
    return fflush(stdout) ? CMD_FAILED : CMD_OK;
}

static int run_command(const struct command *command, int argc, char **argv,
                       const struct cmd_globals *globals)
{
    struct err err = { 0 };
    struct cmd_args *args = malloc(sizeof(*args));
    if (!args) {
        (void)fputs("godwit: out of memory\n", stderr);
        return CMD_FAILED;
    }
    int status;
    if (cmd_args_read(args, command, argc, argv, globals, &err)) {
        status = cmd_fail(args, &err);
    } else if (cmd_flag(args, "help")) {
        cmd_usage(command, stdout);
        status = cmd_finish(args);
    } else {
        status = command->fn(args);
    }
    free(args);
    return status;
}

/* "--NAME VALUE" or "--NAME=VALUE" at argv[*at], which is moved to its last word; NULL: it is not. */
static const char *global_option(const char *name, int argc, char **argv, int *at)
{
    const char *word = argv[*at] + 2;
    size_t len = strlen(name);
    if (argv[*at][1] != '-' || strncmp(word, name, len) != 0)
        return NULL;
    if (word[len] == '=')
        return word + len + 1;
    return word[len] == '\0' && *at + 1 < argc ? argv[++*at] : NULL;
}

/* A closed standard descriptor would be given to the next file opened, and printed into. */
static void open_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) < 0)
            _exit(CMD_FAILED);
}

int main(int argc, char **argv)
{
    struct cmd_globals globals = { 0 };
    const char *value;
    int at = 1;

    open_standard_descriptors();
    (void)signal(SIGPIPE, SIG_IGN); /* every write is checked instead */
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (strcmp(argv[at], "--version") == 0) {
            (void)puts("godwit " GODWIT_VERSION);
            return fflush(stdout) ? CMD_FAILED : CMD_OK;
        }
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0)
            return help(0, NULL);
        if ((value = global_option("runtime-dir", argc, argv, &at)))
            globals.runtime_dir = value;
        else if ((value = global_option("config-dir", argc, argv, &at)))
            globals.config_dir = value;
        else
            return usage_error("unknown option", argv[at]);
    }
    if (at >= argc) {
        cmd_usage_all(stderr);
        return CMD_USAGE;
    }
    if (strcmp(argv[at], "help") == 0)
        return help(argc - at - 1, argv + at + 1);
    const struct command *command = cmd_find(argv[at]);
    if (!command)
        return usage_error("no command", argv[at]);
    return run_command(command, argc - at - 1, argv + at + 1, &globals);
}
