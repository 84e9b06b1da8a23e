#include "cmd/python.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PYTHON "/usr/bin/python3" /* Debian's: the one that has Debian's packages */
#define ENTRY "/__main__.py"

/* The folder of the package, for the program at `self`; false: there is none. */
static bool find_package(const char *self, char folder[PATH_MAX])
{
    size_t build = strlen(GODWIT_BUILD_ROOT);
    char entry[PATH_MAX + sizeof(ENTRY)];
    int n;

    if (strncmp(self, GODWIT_BUILD_ROOT, build) == 0 && self[build] == '/')
        n = snprintf(folder, PATH_MAX, "%s/measure", GODWIT_SOURCE_ROOT);
    else
        n = snprintf(folder, PATH_MAX, "%.*s/../share/godwit/measure",
                     (int)(strrchr(self, '/') - self), self);
    if (n < 0 || n >= PATH_MAX)
        return false;
    (void)snprintf(entry, sizeof(entry), "%s" ENTRY, folder);
    return access(entry, R_OK) == 0;
}

/* "--name=value", or "--name" of a flag; NULL: out of memory. */
static char *word_of(const struct cmd_value *value)
{
    char *word;
    int n = value->option->kind == CMD_FLAG
                ? asprintf(&word, "--%s", value->option->name)
                : asprintf(&word, "--%s=%s", value->option->name, value->text);
    return n < 0 ? NULL : word;
}

static bool is_argument(const struct cmd_args *args, const struct cmd_option *option)
{
    for (const struct cmd_option *at = args->command->arguments; at && at->name; at++)
        if (at == option)
            return true;
    return false;
}

int python_run(struct cmd_args *args)
{
    /* python3 FOLDER --godwit SELF COMMAND -- and the rest, at most all values and the end. The interpreter takes its
     * home from argv[0]: by a bare name it would be that of the first python3 in PATH. */
    char self[PATH_MAX], folder[PATH_MAX],
        program[] = PYTHON, name[] = "--godwit", dashes[] = "--",
        *command = strdupa(args->command->name),
        *argv[6 + CMD_VALUES_MAX + 1] = { program, folder, name, self, command };
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    size_t count = 5;

    if (len < 0) {
        cmd_note(args, "/proc/self/exe: %s", strerror(errno));
        return CMD_USAGE;
    }
    self[len] = '\0';
    if (!find_package(self, folder)) {
        cmd_note(args, "its Python part is not installed: no %s" ENTRY, folder);
        return CMD_USAGE;
    }
    for (unsigned i = 0; i < args->count; i++)
        if (!is_argument(args, args->value[i].option) &&
            !(argv[count++] = word_of(&args->value[i]))) {
            cmd_note(args, "out of memory");
            return CMD_USAGE;
        }
    argv[count++] = dashes;
    for (unsigned i = 0; i < args->count; i++)
        if (is_argument(args, args->value[i].option))
            argv[count++] = strdupa(args->value[i].text);
    (void)fflush(NULL);
    (void)execv(PYTHON, argv);
    cmd_note(args, PYTHON ": %s%s", strerror(errno),
             errno == ENOENT ? ": install the package python3" : "");
    return CMD_USAGE;
}
