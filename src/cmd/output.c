#include "cmd/cmd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int cmd_fail(const struct cmd_args *args, const struct err *err)
{
    (void)fflush(stdout);
    (void)fprintf(stderr, "godwit %s: %s\n", args->command->name, err->text);
    return err->fault == ERR_CALLER ? CMD_USAGE : CMD_FAILED;
}

void cmd_note(const struct cmd_args *args, const char *fmt, ...)
{
    va_list ap;

    (void)fflush(stdout);
    (void)fprintf(stderr, "godwit %s: ", args->command->name);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputc('\n', stderr);
}

int cmd_finish(const struct cmd_args *args)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CMD_OK;
    cmd_note(args, "cannot write to standard output: %s", strerror(errno));
    return CMD_FAILED;
}

int cmd_print_json(const struct cmd_args *args, json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2));
    json_decref(json);
    if (!text) {
        cmd_note(args, "out of memory");
        return CMD_FAILED;
    }
    (void)puts(text);
    free(text);
    return cmd_finish(args);
}
