/*
 * `godwit man`: manual pages in mdoc, from the same descriptions as the help. The build writes one
 * file a command with it (src/cmd/meson.build).
 */
#include "cmd/cmd.h"

#include <string.h>

#define MAN_DATE "November 21, 2026" /* of the last change of what commands do */

/* Text as it is into roff: a line must not begin with a control character, nor hold a bare
 * backslash. */
static void put_literal(FILE *out, const char *text, size_t len)
{
    bool start = true;
    for (; len > 0; text++, len--) {
        if (start && (*text == '.' || *text == '\''))
            (void)fputs("\\&", out);
        if (*text == '\\')
            (void)fputs("\\e", out);
        else if (*text == '-')
            (void)fputs("\\-", out);
        else
            (void)fputc(*text, out);
        start = *text == '\n';
    }
}

/* Running text: mdoc wants a line for each sentence, and none longer than 80. */
static void put_text(FILE *out, const char *text)
{
    size_t column = 0;

    while (*text && *text != '\n') {
        size_t word = strcspn(text, " \n");
        if (column > 0) {
            bool wrap = text[-2] == '.' || column + word > 72;
            (void)fputc(wrap ? '\n' : ' ', out);
            column = wrap ? 0 : column + 1;
        }
        put_literal(out, text, word);
        column += word;
        text += word;
        text += *text == ' ';
    }
}

static void put_paragraphs(FILE *out, const char *text)
{
    while (text) {
        put_text(out, text);
        (void)fputc('\n', out);
        text = strstr(text, "\n\n");
        if (text) {
            (void)fputs(".Pp\n", out);
            text += 2;
        }
    }
}

static void put_synopsis(FILE *out, const struct cmd_option *option, bool argument)
{
    if (option->flags & CMD_HIDDEN)
        return;
    const char *macro = option->flags & CMD_REQUIRED ? "." : ".Op ";
    if (argument)
        (void)fprintf(out, "%sAr %s%s\n", macro, option->name,
                      option->flags & CMD_REPEATED ? " ..." : "");
    else if (!option->value)
        (void)fprintf(out, "%sFl \\-%s\n", macro, option->name);
    else
        (void)fprintf(out, "%sFl \\-%s Ar %s%s\n", macro, option->name, option->value,
                      option->flags & CMD_REPEATED ? " ..." : "");
}

static void put_item(FILE *out, const struct cmd_option *option, bool argument)
{
    if (option->flags & CMD_HIDDEN)
        return;
    char letter[16] = "";
    if (option->letter)
        (void)snprintf(letter, sizeof(letter), " , Fl %c", option->letter);
    if (argument)
        (void)fprintf(out, ".It Ar %s\n", option->name);
    else if (option->value)
        (void)fprintf(out, ".It Fl \\-%s%s Ar %s\n", option->name, letter, option->value);
    else
        (void)fprintf(out, ".It Fl \\-%s%s\n", option->name, letter);
    put_text(out, option->help);
    if (option->choices)
        (void)fprintf(out, ":\n%s", option->choices);
    (void)fputs(".\n", out);
    if (option->flags & CMD_REPEATED)
        (void)fputs("May be repeated.\n", out);
    if (option->fallback)
        (void)fprintf(out, "Default: %s.\n", option->fallback);
}

static void put_options(FILE *out, const struct command *command)
{
    (void)fputs(".Bl -tag -width Ds\n", out);
    for (const struct cmd_option *argument = command->arguments; argument && argument->name;
         argument++)
        put_item(out, argument, true);
    for (const struct cmd_option *option = command->options; option && option->name; option++)
        put_item(out, option, false);
    for (const struct cmd_option *option = cmd_common_options; option->name; option++)
        put_item(out, option, false);
    (void)fputs(".El\n", out);
}

static void put_statuses(FILE *out, const struct command *command)
{
    (void)fputs(".Sh EXIT STATUS\n.Bl -tag -width Ds\n", out);
    (void)fputs(".It 0\n", out);
    put_text(out, command && command->status_ok ? command->status_ok : "It was done");
    (void)fputs(".\n", out);
    (void)fputs(".It 1\nIt failed; the reason is on standard error.\n", out);
    (void)fputs(".It 2\nWrong use or wrong input: nothing was begun.\n", out);
    for (const struct cmd_status *status = command ? command->statuses : NULL;
         status && status->meaning; status++) {
        (void)fprintf(out, ".It %d\n", status->status);
        put_text(out, status->meaning);
        (void)fputs(".\n", out);
    }
    (void)fputs(".El\n", out);
}

static void put_page(FILE *out, const struct command *command)
{
    (void)fprintf(out, ".Dd " MAN_DATE "\n.Dt GODWIT-");
    for (const char *at = command->name; *at; at++)
        (void)fputc(*at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at, out);
    (void)fprintf(out, " 1\n.Os godwit\n.Sh NAME\n.Nm godwit-%s\n.Nd ", command->name);
    put_text(out, command->summary);
    (void)fprintf(out, "\n.Sh SYNOPSIS\n.Nm godwit %s\n", command->name);
    for (const struct cmd_option *argument = command->arguments; argument && argument->name;
         argument++)
        put_synopsis(out, argument, true);
    for (const struct cmd_option *option = command->options; option && option->name; option++)
        put_synopsis(out, option, false);
    (void)fputs(".Sh DESCRIPTION\n", out);
    put_paragraphs(out, command->text);
    put_options(out, command);
    put_statuses(out, command);
    if (command->example) {
        (void)fputs(".Sh EXAMPLES\n.Bd -literal -offset indent\n", out);
        put_literal(out, command->example, strlen(command->example));
        (void)fputs(".Ed\n", out);
    }
    (void)fputs(".Sh SEE ALSO\n.Xr godwit 1\n", out);
}

static void put_main_page(FILE *out)
{
    (void)fputs(".Dd " MAN_DATE "\n.Dt GODWIT 1\n.Os godwit\n.Sh NAME\n.Nm godwit\n"
                ".Nd virtual machines that move while they run\n"
                ".Sh SYNOPSIS\n"
                ".Nm\n"
                ".Op Fl \\-runtime\\-dir Ar DIR\n"
                ".Ar COMMAND\n"
                ".Op Ar ARGUMENT ...\n"
                ".Nm\n"
                ".Fl \\-version\n"
                ".Sh DESCRIPTION\n"
                ".Nm\n"
                "runs each virtual machine in a process of its own, the monitor,\n"
                "and talks to it over a control socket.\n"
                "There is no daemon.\n"
                ".Pp\n"
                "Each command has a page of its own.\n"
                ".Bl -tag -width Ds\n",
                out);
    for (const struct command *const *command = cmd_table; *command; command++)
        if (!(*command)->hidden) {
            (void)fprintf(out, ".It Xr godwit-%s 1\n", (*command)->name);
            put_text(out, (*command)->summary);
            (void)fputs(".\n", out);
        }
    (void)fputs(".El\n"
                ".Pp\n"
                "Sizes are written with K, M, G or T, powers of 1024, as in 256M; durations with\n"
                "ns, us, ms, s, m or h, as in 300ms.\n"
                ".Sh FILES\n"
                ".Bl -tag -width Ds\n"
                ".It Pa /run/godwit/NAME/\n"
                "The runtime directory of a VM, for root; for others it is\n"
                ".Pa $XDG_RUNTIME_DIR/godwit/NAME/ .\n"
                "It holds the control socket\n"
                ".Pa control.sock ,\n"
                "the console's socket\n"
                ".Pa console.sock ,\n"
                "the owner record\n"
                ".Pa owner.json ,\n"
                "what its guest was promised of the host's memory\n"
                ".Pa promise ,\n"
                "the monitor's\n"
                ".Pa lock\n"
                "and\n"
                ".Pa log .\n"
                ".It Pa /etc/godwit/\n"
                "The configuration directory, for root; for others it is\n"
                ".Pa $XDG_CONFIG_HOME/godwit/ .\n"
                "It holds this host's key\n"
                ".Pa host_key ,\n"
                "the peers it trusts,\n"
                ".Pa trusted ,\n"
                "and\n"
                ".Pa godwit.conf .\n"
                ".El\n",
                out);
    put_statuses(out, NULL);
}

static int man(struct cmd_args *args)
{
    const char *name = cmd_text(args, "COMMAND");

    if (cmd_flag(args, "list")) {
        for (const struct command *const *command = cmd_table; *command; command++)
            if (!(*command)->hidden)
                (void)puts((*command)->name);
    } else if (name) {
        put_page(stdout, cmd_find(name));
    } else {
        put_main_page(stdout);
    }
    return cmd_finish(args);
}

const struct command cmd_man = {
    .name = "man",
    .summary = "print a manual page in mdoc",
    .text = "Prints the manual page of a command, or of godwit itself, for man(1) or mandoc(1) to "
            "format.",
    .arguments =
        (const struct cmd_option[]){
            { .name = "COMMAND", .kind = CMD_COMMAND, .help = "the command the page is about" },
            { 0 } },
    .options =
        (const struct cmd_option[]){ { .name = "list",
                                       .kind = CMD_FLAG,
                                       .help = "print the names of the commands that have a page" },
                                     { 0 } },
    .hidden = true,
    .fn = man,
};
