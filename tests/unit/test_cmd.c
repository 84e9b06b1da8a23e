/* The table of commands: complete and consistent, and read as it says. */
#include "cmd/cmd.h"
#include "test.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

static void check_option(const struct command *command, const struct cmd_option *option,
                         bool argument)
{
    const char *where = option->name;
    if (!option->help || !option->help[0])
        fail_msg("%s %s: no help", command->name, where);
    if (option->help[strlen(option->help) - 1] == '.')
        fail_msg("%s %s: the help ends in a full stop", command->name, where);
    if (option->kind == CMD_CHOICE && !option->choices)
        fail_msg("%s %s: no choices", command->name, where);
    if (!argument && (option->kind == CMD_FLAG) != !option->value)
        fail_msg("%s %s: a flag has no value, all else has", command->name, where);
    if (!argument)
        for (const char *at = option->name; *at; at++)
            if (!islower((unsigned char)*at) && *at != '-')
                fail_msg("%s %s: a strange name", command->name, where);
    if (option->fallback && (option->flags & (CMD_REQUIRED | CMD_REPEATED)))
        fail_msg("%s %s: a fallback that never holds", command->name, where);
    if (option->min > option->max)
        fail_msg("%s %s: limits the wrong way round", command->name, where);
}

static unsigned occurrences(const struct cmd_option *list, const char *name)
{
    unsigned count = 0;
    for (; list && list->name; list++)
        count += strcmp(list->name, name) == 0;
    return count;
}

static void table(void **state)
{
    (void)state;
    for (const struct command *const *at = cmd_table; *at; at++) {
        const struct command *command = *at;
        assert_non_null(command->fn);
        assert_true(cmd_find(command->name) == command); /* its name is its own */
        if (!command->summary || !command->text || islower((unsigned char)command->text[0]))
            fail_msg("%s: no summary, or no text", command->name);
        bool optional = false;
        for (const struct cmd_option *o = command->arguments; o && o->name; o++) {
            check_option(command, o, true);
            if (optional && (o->flags & CMD_REQUIRED))
                fail_msg("%s %s: a required argument after an optional one", command->name,
                         o->name);
            optional = !(o->flags & CMD_REQUIRED);
            assert_int_equal(occurrences(command->options, o->name), 0);
        }
        for (const struct cmd_option *o = command->options; o && o->name; o++) {
            check_option(command, o, false);
            assert_int_equal(occurrences(command->options, o->name), 1);
            assert_int_equal(occurrences(cmd_common_options, o->name), 0);
        }
    }
    assert_null(cmd_find("ru"));
    assert_null(cmd_find(""));
}

/* Reads a command line given as words; all but the name of the command. */
static int read_words(struct cmd_args *args, const char *command, struct err *err,
                      const char *const *words)
{
    char *argv[CMD_VALUES_MAX * 2];
    int argc = 0;
    for (; words[argc]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc]; /* they are only read */
    assert_non_null(cmd_find(command));
    static const struct cmd_globals globals = { .runtime_dir = "/tmp/base" };
    return cmd_args_read(args, cmd_find(command), argc, argv, &globals, err);
}
#define READ(args, command, err, ...) \
    read_words(args, command, err, (const char *const[]){ __VA_ARGS__, NULL })

/* Every fallback passes the check that a user's value must pass. */
static void fallbacks(void **state)
{
    (void)state;
    for (const struct command *const *at = cmd_table; *at; at++)
        for (const struct cmd_option *o = (*at)->options; o && o->name; o++) {
            if (!o->fallback)
                continue;
            struct cmd_args args = { .command = *at };
            char word[256];
            (void)snprintf(word, sizeof(word), "--%s=%s", o->name, o->fallback);
            char *argv[] = { word };
            struct err err = { 0 };
            /* What else the command requires is missing; the value itself must not be the
             * complaint. */
            int rc =
                cmd_args_read(&args, *at, 1, argv, &(struct cmd_globals){ "/tmp", NULL }, &err);
            if (rc && !strstr(err.text, "missing"))
                fail_msg("%s %s: %s", (*at)->name, word, err.text);
            assert_int_equal(args.count, 1);
            args.count = 0;
            if (args.value[0].number != cmd_number(&args, o->name))
                fail_msg("%s %s: the fallback reads differently", (*at)->name, word);
        }
}

static void good_lines(void **state)
{
    (void)state;
    struct cmd_args args;
    struct err err = { 0 };
    assert_int_equal(READ(&args, "run", &err, "--name", "a", "--kernel=/k", "--memory", "1G",
                          "--disk", "x=/1", "--detach", "--disk=y=/2"),
                     0);
    assert_string_equal(cmd_text(&args, "name"), "a");
    assert_string_equal(cmd_text(&args, "kernel"), "/k");
    assert_string_equal(cmd_text(&args, "cmdline"), "console=ttyS0");
    assert_null(cmd_text(&args, "initrd"));
    assert_int_equal(cmd_number(&args, "memory"), 1 << 30);
    assert_int_equal(cmd_number(&args, "cpus"), 1);
    assert_true(cmd_flag(&args, "detach"));
    assert_false(cmd_flag(&args, "json"));
    assert_string_equal(args.base, "/tmp/base");
    unsigned at = 0;
    assert_string_equal(cmd_next(&args, "disk", &at), "x=/1");
    assert_string_equal(cmd_next(&args, "disk", &at), "y=/2");
    assert_null(cmd_next(&args, "disk", &at));

    assert_int_equal(READ(&args, "migrate", &err, "--mode", "stop-copy", "vm", "h:1",
                          "--runtime-dir", "/else"),
                     0);
    assert_string_equal(cmd_text(&args, "NAME"), "vm");
    assert_string_equal(cmd_text(&args, "HOST[:PORT]"), "h:1");
    assert_string_equal(cmd_text(&args, "mode"), "stop-copy");
    assert_string_equal(args.base, "/else");

    assert_int_equal(READ(&args, "checkpoint", &err, "vm", "--", "--file"), 0);
    assert_string_equal(cmd_text(&args, "FILE"), "--file");
    assert_int_equal(READ(&args, "dump", &err, "-"), 0);
    assert_int_equal(READ(&args, "run", &err, "--help"), 0); /* then nothing is missing */
    assert_int_equal(READ(&args, "run", &err, "-h"), 0);
    assert_int_equal(READ(&args, "run", &err, "--name", "a", "--kernel", "k", "--cmdline", "--",
                          "--cmdline", "x"),
                     -EINVAL);
    assert_int_equal(READ(&args, "run", &err, "--name", "a", "--kernel", "k", "--cmdline="), 0);
    assert_string_equal(cmd_text(&args, "cmdline"), "");
}

static void bad_lines(void **state)
{
    (void)state;
    static const struct {
        const char *command, *word[6], *says;
    } bad[] = {
        { "run", { "--kernel", "k" }, "--name NAME is missing" },
        { "run", { "--nam", "a" }, "unknown option --nam:" },
        { "run", { "--name" }, "--name wants a value" },
        { "run", { "--name", "--kernel" }, "--name wants a value" },
        { "run", { "--detach=1" }, "--detach takes no value" },
        { "run", { "--name", "a", "--name", "b" }, "--name is given twice" },
        { "run", { "--name", "../x" }, "--name: '../x' is no VM name" },
        { "run", { "--memory", "3K" }, "--memory: 3K: want at least 64M" },
        { "run", { "--memory", "2T" }, "--memory: 2T: want at most 1T" },
        { "run", { "--memory", "65M" }, "--memory: 65M: want a multiple of 2M" },
        { "run", { "--memory", "lots" }, "--memory: 'lots' is no size" },
        { "run", { "--cpus", "0" }, "--cpus: 0: want at least 1" },
        { "run", { "--cpus", "17" }, "--cpus: 17: want at most 16" },
        { "run", { "--kernel", "" }, "--kernel: an empty path" },
        { "run", { "-x" }, "unknown option -x" },
        { "run", { "stray" }, "'stray' is one argument too many" },
        { "info", { NULL }, "NAME is missing" },
        { "info", { "a", "b" }, "'b' is one argument too many" },
        { "info", { "--jsn", "a" }, "unknown option --jsn" },
        { "stop", { "a", "--timeout", "30" }, "--timeout: '30' is no duration" },
        { "migrate", { "a", "h:" }, "'h:' is no address" },
        { "migrate",
          { "a", "h:1", "--mode", "copy" },
          "--mode: 'copy': want one of auto|pre-copy|stop-copy" },
        { "migrate", { "a", "h:1", "--mode", "" }, "--mode: ''" },
        { "migrate", { "a", "h:1", "--mode", "pre-copy|stop-copy" }, "want one of" },
        { "migrate", { "a", "h:1", "--max-downtime", "0" }, "want at least 1ns" },
        { "completion", { "fish" }, "'fish': want one of bash|zsh" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct cmd_args args;
        struct err err = { 0 };
        assert_int_equal(read_words(&args, bad[i].command, &err, bad[i].word), -EINVAL);
        assert_int_equal(err.fault, ERR_CALLER);
        if (!strstr(err.text, bad[i].says) || strchr(err.text, '\n'))
            fail_msg("godwit %s %s: '%s' instead of '%s'", bad[i].command, bad[i].word[0], err.text,
                     bad[i].says);
    }
    /* More words than there is room for. */
    const char *words[CMD_VALUES_MAX + 2] = { NULL };
    for (size_t i = 0; i < CMD_VALUES_MAX + 1; i++)
        words[i] = "--disk=a=/b";
    struct cmd_args args;
    assert_int_equal(read_words(&args, "run", NULL, words), -E2BIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
        cmocka_unit_test(fallbacks),
        cmocka_unit_test(good_lines),
        cmocka_unit_test(bad_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
