/* What people type: numbers with units, addresses, and whole command lines. */
#include "cmd/cmd.h"
#include "cmd/parse.h"
#include "fuzz.h"

static void try_numbers(const char *text)
{
    struct err err = { 0 };
    uint64_t value, again;
    int rc = parse_size(text, &value, &err);
    fuzz_check_err(rc, &err);
    if (!rc)
        FUZZ_CHECK(parse_size(parse_show_size(value).text, &again, NULL) == 0 && again == value);
    err = (struct err){ 0 };
    rc = parse_duration(text, &value, &err);
    fuzz_check_err(rc, &err);
    if (!rc)
        FUZZ_CHECK(parse_duration(parse_show_duration(value).text, &again, NULL) == 0 &&
                   again == value);
    err = (struct err){ 0 };
    rc = parse_rate(text, &value, &err);
    fuzz_check_err(rc, &err);
    if (!rc)
        FUZZ_CHECK(value <= UINT64_MAX / 8);
    err = (struct err){ 0 };
    fuzz_check_err(parse_count(text, &value, &err), &err);
}

static void try_places(const char *text)
{
    char host[PARSE_HOST_MAX], path[64];
    uint16_t port;
    uint8_t mac[6];
    struct err err = { 0 };
    int rc = parse_address(text, host, &port, &err);
    fuzz_check_err(rc, &err);
    if (!rc)
        FUZZ_CHECK(strlen(host) < strlen(text) && !strpbrk(host, " /[]"));
    err = (struct err){ 0 };
    rc = parse_mac(text, mac, &err);
    fuzz_check_err(rc, &err);
    if (!rc)
        FUZZ_CHECK(!(mac[0] & 1));
    err = (struct err){ 0 };
    rc = parse_path(text, path, sizeof(path), &err);
    fuzz_check_err(rc, &err);
    if (!rc)
        FUZZ_CHECK(path[0] == '/' && strlen(path) < sizeof(path));
}

/* The command by its number, then words separated by NULs. */
static void try_command(char *text, size_t len)
{
    static const struct cmd_globals globals = { .runtime_dir = "/nowhere" };
    static struct cmd_args args;
    char *argv[64];
    int argc = 0;
    unsigned commands = 0;
    struct err err = { 0 };
    while (cmd_table[commands])
        commands++;
    const struct command *command = cmd_table[(uint8_t)text[0] % commands];
    for (size_t at = 1; at < len && argc < 64; at += strlen(text + at) + 1)
        argv[argc++] = text + at;
    int rc = cmd_args_read(&args, command, argc, argv, &globals, &err);
    fuzz_check_err(rc, &err);
    FUZZ_CHECK(args.count <= CMD_VALUES_MAX);
    if (rc)
        FUZZ_CHECK(err.fault == ERR_CALLER);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    char *text = malloc(size); /* what follows the first byte, and a NUL */
    FUZZ_CHECK(text);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0] % 3) {
    case 0:
        try_numbers(text);
        break;
    case 1:
        try_places(text);
        break;
    default:
        try_command(text, size - 1);
        break;
    }
    free(text);
    return 0;
}
