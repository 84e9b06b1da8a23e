/* The help on a terminal, from the commands' descriptions. */
#include "cmd/cmd.h"

#include <string.h>

#define HELP_COLUMN 28
#define HELP_WIDTH 96

void cmd_show_option(const struct cmd_option *option, bool argument, FILE *out)
{
    bool optional = !(option->flags & CMD_REQUIRED);

    (void)fprintf(out, "%s%s%s%s%s%s%s", optional ? "[" : "", argument ? "" : "--", option->name,
                  option->value ? " " : "", option->value ? option->value : "", optional ? "]" : "",
                  option->flags & CMD_REPEATED ? "..." : "");
}

/* Prints words from `column` on, breaking lines before HELP_WIDTH. */
static void print_wrapped(FILE *out, const char *text, int column)
{
    int at = column;

    while (*text) {
        int word = (int)strcspn(text, " ");
        if (at > column && at + 1 + word > HELP_WIDTH) {
            (void)fprintf(out, "\n%*s", column, "");
            at = column;
        } else if (at > column) {
            (void)fputc(' ', out);
            at++;
        }
        (void)fwrite(text, 1, (size_t)word, out);
        at += word;
        text += word;
        text += strspn(text, " ");
    }
    (void)fputc('\n', out);
}

static void print_item(FILE *out, const char *left, const char *text)
{
    int n = fprintf(out, "  %s", left);
    if (n >= HELP_COLUMN - 1) { /* too long to stand beside its text */
        (void)fputc('\n', out);
        n = 0;
    }
    (void)fprintf(out, "%*s", HELP_COLUMN - n, "");
    print_wrapped(out, text, HELP_COLUMN);
}

static void print_option(FILE *out, const struct cmd_option *option, bool argument)
{
    char left[96], text[512];

    if (option->flags & CMD_HIDDEN)
        return;
    char letter[8] = "";
    if (option->letter)
        (void)snprintf(letter, sizeof(letter), ", -%c", option->letter);
    (void)snprintf(left, sizeof(left), "%s%s%s%s%s", argument ? "" : "--", option->name, letter,
                   option->value ? " " : "", option->value ? option->value : "");
    (void)snprintf(text, sizeof(text), "%s%s%s%s%s%s%s", option->help, option->choices ? ": " : "",
                   option->choices ? option->choices : "", option->fallback ? " [" : "",
                   option->fallback ? option->fallback : "", option->fallback ? "]" : "",
                   option->flags & CMD_REPEATED ? "; may be repeated" : "");
    print_item(out, left, text);
}

void cmd_usage(const struct command *command, FILE *out)
{
    (void)fprintf(out, "usage: godwit %s", command->name);
    for (const struct cmd_option *argument = command->arguments; argument && argument->name;
         argument++) {
        (void)fputc(' ', out);
        cmd_show_option(argument, true, out);
    }
    for (const struct cmd_option *option = command->options; option && option->name; option++)
        if ((option->flags & CMD_REQUIRED) && !(option->flags & CMD_HIDDEN)) {
            (void)fputc(' ', out);
            cmd_show_option(option, false, out);
        }
    (void)fprintf(out, " [OPTION]...\n\n%s\n", command->summary);
    if (command->arguments && command->arguments->name) {
        (void)fputs("\narguments:\n", out);
        for (const struct cmd_option *argument = command->arguments; argument->name; argument++)
            print_option(out, argument, true);
    }
    (void)fputs("\noptions:\n", out);
    for (const struct cmd_option *option = command->options; option && option->name; option++)
        print_option(out, option, false);
    for (const struct cmd_option *option = cmd_common_options; option->name; option++)
        print_option(out, option, false);
    if (command->example)
        (void)fprintf(out, "\nexample:\n%s", command->example);
}

void cmd_usage_all(FILE *out)
{
    (void)fputs(
        "usage: godwit [--runtime-dir DIR] [--config-dir DIR] COMMAND [ARGUMENT]... [OPTION]...\n"
        "\nVirtual machines that move while they run.\n\ncommands:\n",
        out);
    for (const struct command *const *command = cmd_table; *command; command++)
        if (!(*command)->hidden)
            print_item(out, (*command)->name, (*command)->summary);
    (void)fputs(
        "\n'godwit COMMAND --help' shows the use of one; 'godwit --version' prints the version.\n",
        out);
}
