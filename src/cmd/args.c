/* Command lines into checked values, by the command's description. */
#include "cmd/cmd.h"
#include "cmd/parse.h"

#include <errno.h>
#include <string.h>

const struct cmd_option cmd_common_options[] = {
    { .name = "runtime-dir",
      .kind = CMD_DIR,
      .value = "DIR",
      .help = "where the VMs of this host are; $XDG_RUNTIME_DIR/godwit, for root /run/godwit, if "
              "not given" },
    { .name = "config-dir",
      .kind = CMD_DIR,
      .value = "DIR",
      .help = "where this host's key, the peers it trusts and godwit.conf are; "
              "$XDG_CONFIG_HOME/godwit, for root /etc/godwit, if not given" },
    { .name = "help", .kind = CMD_FLAG, .help = "print how to use the command" },
    { 0 },
};

static const struct cmd_option *find_in(const struct cmd_option *list, const char *name, size_t len)
{
    for (; list && list->name; list++)
        if (strlen(list->name) == len && memcmp(list->name, name, len) == 0)
            return list;
    return NULL;
}

static const struct cmd_option *find_option(const struct command *command, const char *name,
                                            size_t len)
{
    const struct cmd_option *option = find_in(command->options, name, len);
    return option ? option : find_in(cmd_common_options, name, len);
}

static bool is_choice(const char *choices, const char *text)
{
    size_t len = strlen(text);
    for (const char *at = choices; *at; at += *at == '|') {
        size_t word = strcspn(at, "|");
        if (word == len && memcmp(at, text, len) == 0)
            return true;
        at += word;
    }
    return false;
}

static int check_limits(const struct cmd_option *option, const char *text, uint64_t number,
                        struct err *err)
{
    if (option->max == 0 || (number >= option->min && number <= option->max)) {
        if (option->step == 0 || number % option->step == 0)
            return 0;
        return err_set(err, ERR_CALLER, EINVAL, "%.80s: want a multiple of %s", text,
                       parse_show_size(option->step).text);
    }
    bool low = number < option->min;
    uint64_t limit = low ? option->min : option->max;
    const char *word = low ? "at least" : "at most";

    if (option->kind == CMD_SIZE)
        return err_set(err, ERR_CALLER, EINVAL, "%.80s: want %s %s", text, word,
                       parse_show_size(limit).text);
    if (option->kind == CMD_DURATION)
        return err_set(err, ERR_CALLER, EINVAL, "%.80s: want %s %s", text, word,
                       parse_show_duration(limit).text);
    if (option->kind == CMD_RATE)
        return err_set(err, ERR_CALLER, EINVAL, "%.80s: want %s %s", text, word,
                       parse_show_rate(limit).text);
    return err_set(err, ERR_CALLER, EINVAL, "%.80s: want %s %llu", text, word,
                   (unsigned long long)limit);
}

/* Checks a value by its kind; *ret is its number, if it is one. */
static int check_value(const struct cmd_option *option, const char *text, uint64_t *ret,
                       struct err *err)
{
    char host[PARSE_HOST_MAX], target[PARSE_TARGET_MAX];
    uint16_t port;
    int rc = 0;

    switch (option->kind) {
    case CMD_SIZE:
        rc = parse_size(text, ret, err);
        return rc ? rc : check_limits(option, text, *ret, err);
    case CMD_COUNT:
        rc = parse_count(text, ret, err);
        return rc ? rc : check_limits(option, text, *ret, err);
    case CMD_DURATION:
        rc = parse_duration(text, ret, err);
        return rc ? rc : check_limits(option, text, *ret, err);
    case CMD_RATE:
        rc = parse_rate(text, ret, err);
        return rc ? rc : check_limits(option, text, *ret, err);
    case CMD_ADDRESS:
        return parse_address(text, host, &port, err);
    case CMD_TARGET:
        return parse_target(text, target, err);
    case CMD_VM:
    case CMD_NAME:
        return rundir_check_name(text, err);
    case CMD_CHOICE:
        return is_choice(option->choices, text)
                   ? 0
                   : err_set(err, ERR_CALLER, EINVAL, "'%.80s': want one of %s", text,
                             option->choices);
    case CMD_COMMAND:
        return cmd_find(text) ? 0
                              : err_set(err, ERR_CALLER, EINVAL,
                                        "'%.80s' is no command: 'godwit help' lists them", text);
    case CMD_FILE:
    case CMD_DIR:
        return text[0] ? 0 : err_set(err, ERR_CALLER, EINVAL, "an empty path");
    case CMD_TEXT:
    case CMD_FLAG:
    case CMD_KIND_MAX:
        break;
    }
    return 0;
}

static bool given(const struct cmd_args *args, const struct cmd_option *option)
{
    for (unsigned i = 0; i < args->count; i++)
        if (args->value[i].option == option)
            return true;
    return false;
}

static int take(struct cmd_args *args, const struct cmd_option *option, const char *text,
                struct err *err)
{
    struct cmd_value value = { .option = option, .text = text };

    if (args->count == CMD_VALUES_MAX)
        return err_set(err, ERR_CALLER, E2BIG, "more than %d options and arguments",
                       CMD_VALUES_MAX);
    int rc = text ? check_value(option, text, &value.number, err) : 0;
    if (!rc)
        args->value[args->count++] = value;
    return rc;
}

/* The value of an option: behind its "=" (`text`), or the word after it. Returns the words taken, or -errno. */
static int take_value(struct cmd_args *args, const struct cmd_option *option, const char *text,
                      int argc, char **argv, struct err *err)
{
    int words = 1;

    if (option->kind == CMD_FLAG && text)
        return err_set(err, ERR_CALLER, EINVAL, "--%s takes no value", option->name);
    if (!(option->flags & CMD_REPEATED) && given(args, option))
        return err_set(err, ERR_CALLER, EINVAL, "--%s is given twice", option->name);
    if (option->kind != CMD_FLAG && !text) {
        /* What looks like the next option is more likely a forgotten value than a strange one. */
        if (argc < 2 || strncmp(argv[1], "--", 2) == 0)
            return err_set(err, ERR_CALLER, EINVAL, "--%s wants a value: --%s %s", option->name,
                           option->name, option->value);
        text = argv[1];
        words = 2;
    }
    int rc = take(args, option, text, err);
    return rc ? err_wrap(err, rc, "--%s", option->name) : words;
}

/* One short option: "-o", its value being the next word. Returns how many words it took, or -errno. */
static int take_letter(struct cmd_args *args, int argc, char **argv, struct err *err)
{
    if (!argv[0][2])
        for (const struct cmd_option *option = args->command->options; option && option->name;
             option++)
            if (option->letter == argv[0][1])
                return take_value(args, option, NULL, argc, argv, err);
    return err_set(err, ERR_CALLER, EINVAL,
                   "unknown option %.80s: 'godwit %s --help' lists those there are", argv[0],
                   args->command->name);
}

/* One option at argv[0] (which begins with "--"). Returns how many words it took, or -errno. */
static int take_option(struct cmd_args *args, int argc, char **argv, struct err *err)
{
    const char *name = argv[0] + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    const struct cmd_option *option = find_option(args->command, name, len);
    const char *text = equals ? equals + 1 : NULL;

    if (!option)
        return err_set(err, ERR_CALLER, EINVAL,
                       "unknown option --%.*s: 'godwit %s --help' lists those there are",
                       (int)(len < 80 ? len : 80), name, args->command->name);
    return take_value(args, option, text, argc, argv, err);
}

static int check_required(const struct cmd_args *args, struct err *err)
{
    const struct command *command = args->command;

    for (const struct cmd_option *argument = command->arguments; argument && argument->name;
         argument++)
        if ((argument->flags & CMD_REQUIRED) && !given(args, argument))
            return err_set(err, ERR_CALLER, EINVAL,
                           "%s is missing: 'godwit %s --help' shows the use", argument->name,
                           command->name);
    for (const struct cmd_option *option = command->options; option && option->name; option++)
        if ((option->flags & CMD_REQUIRED) && !given(args, option))
            return err_set(err, ERR_CALLER, EINVAL, "--%s %s is missing", option->name,
                           option->value);
    return 0;
}

int cmd_args_read(struct cmd_args *args, const struct command *command, int argc, char **argv,
                  const struct cmd_globals *globals, struct err *err)
{
    const struct cmd_option *argument = command->arguments;
    bool only_arguments = false;

    *args = (struct cmd_args){ .command = command };
    for (int i = 0, rc; i < argc; i += rc) {
        rc = 1;
        if (!only_arguments && strcmp(argv[i], "--") == 0) {
            only_arguments = true;
        } else if (!only_arguments && (strcmp(argv[i], "-h") == 0)) {
            rc = take(args, find_in(cmd_common_options, "help", 4), NULL, err);
            rc = rc ? rc : 1;
        } else if (!only_arguments && strncmp(argv[i], "--", 2) == 0) {
            rc = take_option(args, argc - i, argv + i, err);
        } else if (!only_arguments && argv[i][0] == '-' && argv[i][1]) {
            rc = take_letter(args, argc - i, argv + i, err);
        } else if (!argument || !argument->name) {
            rc = err_set(err, ERR_CALLER, EINVAL, "'%.80s' is one argument too many", argv[i]);
        } else {
            rc = take(args, argument, argv[i], err);
            rc = rc ? rc : 1;
            argument++;
        }
        if (rc < 0)
            return rc;
    }
    if (cmd_flag(args, "help"))
        return 0;
    const char *base = cmd_text(args, "runtime-dir"), *config_dir = cmd_text(args, "config-dir");
    args->config_dir = config_dir ? config_dir : globals->config_dir;
    int rc = check_required(args, err);
    return rc ? rc : rundir_base(base ? base : globals->runtime_dir, args->base, err);
}

/* ------------------------------------------------------------------------------------- looking
 * up */

static const struct cmd_value *find_value(const struct cmd_args *args, const char *name)
{
    for (unsigned i = 0; i < args->count; i++)
        if (strcmp(args->value[i].option->name, name) == 0)
            return &args->value[i];
    return NULL;
}

static const struct cmd_option *described(const struct cmd_args *args, const char *name)
{
    const struct cmd_option *option = find_option(args->command, name, strlen(name));
    if (!option)
        option = find_in(args->command->arguments, name, strlen(name));
    ASSERT(option); /* a command asks only for what it describes */
    return option;
}

bool cmd_flag(const struct cmd_args *args, const char *name)
{
    (void)described(args, name);
    return find_value(args, name);
}

const char *cmd_text(const struct cmd_args *args, const char *name)
{
    const struct cmd_value *value = find_value(args, name);
    return value ? value->text : described(args, name)->fallback;
}

uint64_t cmd_number(const struct cmd_args *args, const char *name)
{
    const struct cmd_value *value = find_value(args, name);
    const struct cmd_option *option = described(args, name);
    uint64_t number = 0;

    if (value)
        return value->number;
    if (option->fallback) {
        int rc = check_value(option, option->fallback, &number, NULL);
        ASSERT(rc == 0); /* tests/unit/test_cmd.c reads every fallback */
    }
    return number;
}

const char *cmd_next(const struct cmd_args *args, const char *name, unsigned *at)
{
    while (*at < args->count) {
        const struct cmd_value *value = &args->value[(*at)++];
        if (strcmp(value->option->name, name) == 0)
            return value->text;
    }
    return NULL;
}
