/* `godwit completion`: what a shell offers after TAB, from the commands' descriptions. */
#include "cmd/cmd.h"

#include <string.h>

/* What completes a value, as words of either shell's script understand: see the functions below. */
static const char *source_of(const struct cmd_option *option)
{
    switch (option->kind) {
    case CMD_FILE:
        return "file";
    case CMD_DIR:
        return "dir";
    case CMD_VM:
        return "vm";
    case CMD_COMMAND:
        return "command";
    default:
        return "none";
    }
}

static void put_choices(const char *choices)
{
    for (; *choices; choices++)
        (void)putchar(*choices == '|' ? ' ' : *choices);
}

/* -------------------------------------------------------------------------------------------
 * bash */

static void bash_values(const struct command *command, const struct cmd_option *option)
{
    if (option->kind == CMD_FLAG || (option->flags & CMD_HIDDEN))
        return;
    (void)printf("    %s:--%s) ", command ? command->name : "*", option->name);
    if (option->kind == CMD_CHOICE) {
        (void)printf("COMPREPLY=($(compgen -W '");
        put_choices(option->choices);
        (void)printf("' -- \"$cur\"));;\n");
    } else {
        (void)printf("_godwit_%s;;\n", source_of(option));
    }
}

static void bash_command(const struct command *command)
{
    (void)printf("    %s) options='", command->name);
    for (const struct cmd_option *option = command->options; option && option->name; option++)
        if (!(option->flags & CMD_HIDDEN))
            (void)printf("--%s ", option->name);
    for (const struct cmd_option *option = cmd_common_options; option->name; option++)
        (void)printf("%s--%s", option == cmd_common_options ? "" : " ", option->name);
    (void)printf("'; arguments=(");
    for (const struct cmd_option *argument = command->arguments; argument && argument->name;
         argument++)
        if (argument->kind == CMD_CHOICE) {
            (void)printf(" 'words ");
            put_choices(argument->choices);
            (void)printf("'");
        } else {
            (void)printf(" %s", source_of(argument));
        }
    (void)printf(" );;\n");
}

static void bash(void)
{
    (void)puts("# bash completion of godwit\n"
               "_godwit_none() { COMPREPLY=(); }\n"
               "_godwit_file() { compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "
               "\"$cur\")); }\n"
               "_godwit_dir() { compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "
               "\"$cur\")); }\n"
               "_godwit_vm() { COMPREPLY=($(compgen -W \"$(godwit ps --names 2>/dev/null)\" -- "
               "\"$cur\")); }\n"
               "_godwit_words() { COMPREPLY=($(compgen -W \"$*\" -- \"$cur\")); }");
    (void)printf("_godwit_command() { COMPREPLY=($(compgen -W '");
    for (const struct command *const *command = cmd_table; *command; command++)
        if (!(*command)->hidden)
            (void)printf("%s ", (*command)->name);
    (void)puts(
        "help' -- \"$cur\")); }\n"
        "_godwit() {\n"
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} "
        "command= options= word i\n"
        "    local -a arguments=()\n"
        "    local given=0\n"
        "    COMPREPLY=()\n"
        "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
        "        word=${COMP_WORDS[i]}\n"
        "        if [[ -z $command ]]; then\n"
        "            if [[ $word == --@(runtime|config)-dir ]]; then ((i++))\n"
        "            elif [[ $word != -* ]]; then command=$word; fi\n"
        "        elif [[ $word != -* && ${COMP_WORDS[i-1]} != --* ]]; then ((given++)); "
        "fi\n"
        "    done\n"
        "    if [[ -z $command ]]; then\n"
        "        case $prev in --runtime-dir|--config-dir) _godwit_dir; return;; esac\n"
        "        if [[ $cur == -* ]]; then _godwit_words --runtime-dir --config-dir --help --version\n"
        "        else _godwit_command; fi\n"
        "        return\n"
        "    fi\n"
        "    case $command:$prev in");
    for (const struct command *const *command = cmd_table; *command; command++)
        for (const struct cmd_option *option = (*command)->options; option && option->name;
             option++)
            if (!(*command)->hidden)
                bash_values(*command, option);
    for (const struct cmd_option *option = cmd_common_options; option->name; option++)
        bash_values(NULL, option);
    (void)puts("    *) false;;\n    esac && return\n    case $command in");
    for (const struct command *const *command = cmd_table; *command; command++)
        if (!(*command)->hidden)
            bash_command(*command);
    (void)puts("    help) _godwit_command; return;;\n    esac\n"
               "    if [[ $cur == -* ]]; then _godwit_words $options\n"
               "    elif ((given < ${#arguments[@]})); then _godwit_${arguments[given]}; fi\n"
               "}\ncomplete -F _godwit godwit");
}

/* --------------------------------------------------------------------------------------------
 * zsh */

/* Text inside a zsh _arguments specification inside single quotes. */
static void zsh_text(const char *text)
{
    for (; *text; text++)
        if (*text == '\'')
            (void)fputs("'\\''", stdout);
        else if (strchr("[]:\\", *text))
            (void)printf("\\%c", *text);
        else
            (void)putchar(*text);
}

static void zsh_action(const struct cmd_option *option)
{
    if (option->kind == CMD_CHOICE) {
        (void)putchar('(');
        put_choices(option->choices);
        (void)putchar(')');
    } else if (option->kind == CMD_FILE) {
        (void)fputs("_files", stdout);
    } else if (option->kind == CMD_DIR) {
        (void)fputs("_files -/", stdout);
    } else if (option->kind == CMD_VM || option->kind == CMD_COMMAND) {
        (void)printf("_godwit_%s", source_of(option));
    } else {
        (void)putchar(' ');
    }
}

static void zsh_option(const struct cmd_option *option)
{
    if (option->flags & CMD_HIDDEN)
        return;
    (void)printf(" \\\n        '%s--%s[", option->flags & CMD_REPEATED ? "*" : "", option->name);
    zsh_text(option->help);
    (void)putchar(']');
    if (option->value) {
        (void)putchar(':');
        zsh_text(option->value);
        (void)putchar(':');
        zsh_action(option);
    }
    (void)putchar('\'');
}

static void zsh_command(const struct command *command)
{
    (void)printf("    %s) _arguments", command->name);
    for (const struct cmd_option *option = command->options; option && option->name; option++)
        zsh_option(option);
    for (const struct cmd_option *option = cmd_common_options; option->name; option++)
        zsh_option(option);
    for (const struct cmd_option *argument = command->arguments; argument && argument->name;
         argument++) {
        (void)printf(" \\\n        ':%s:", argument->name);
        zsh_action(argument);
        (void)putchar('\'');
    }
    (void)puts(";;");
}

static void zsh(void)
{
    (void)puts("#compdef godwit\n"
               "_godwit_vm() { local -a vms; vms=(${(f)\"$(godwit ps --names 2>/dev/null)\"}); "
               "compadd -a vms }\n"
               "_godwit_command() {\n"
               "    local -a commands=(");
    for (const struct command *const *command = cmd_table; *command; command++)
        if (!(*command)->hidden) {
            (void)printf("        '%s:", (*command)->name);
            zsh_text((*command)->summary);
            (void)puts("'");
        }
    (void)puts(
        "    )\n    _describe command commands\n}\n"
        "_godwit() {\n"
        "    local context state line\n"
        "    _arguments -C '--runtime-dir[where the VMs of this host are]:DIR:_files -/' "
        "\\\n"
        "        '--config-dir[where the key, the trusted peers and godwit.conf are]:DIR:_files -/' "
        "\\\n"
        "        '--version[print the version]' '--help[print how to use godwit]' \\\n"
        "        '1:command:_godwit_command' '*::argument:->argument'\n"
        "    [[ $state == argument ]] || return\n"
        "    case $line[1] in");
    for (const struct command *const *command = cmd_table; *command; command++)
        if (!(*command)->hidden)
            zsh_command(*command);
    (void)puts("    help) _arguments '1:command:_godwit_command';;\n    esac\n}\n"
               "if [[ $funcstack[1] == _godwit ]]; then _godwit \"$@\"; else compdef _godwit "
               "godwit; fi");
}

static int completion(struct cmd_args *args)
{
    if (strcmp(cmd_text(args, "SHELL"), "bash") == 0)
        bash();
    else
        zsh();
    return cmd_finish(args);
}

const struct command cmd_completion = {
    .name = "completion",
    .summary = "print the completion script of a shell",
    .text = "Prints a script that teaches the shell to complete godwit's commands, options and the "
            "names of VMs.",
    .example = "  . <(godwit completion bash)\n",
    .arguments = (const struct cmd_option[]){ { .name = "SHELL",
                                                .kind = CMD_CHOICE,
                                                .flags = CMD_REQUIRED,
                                                .choices = "bash|zsh",
                                                .help = "the shell" },
                                              { 0 } },
    .fn = completion,
};
