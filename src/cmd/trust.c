#include "base/clock.h"
#include "cmd/cmd.h"
#include "cmd/parse.h"
#include "move/link.h"
#include "trust/store.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static json_t *entry_json(const char *host, const struct fingerprint *print, const char *comment)
{
    char shown[FINGERPRINT_TEXT_MAX], clean[STORE_COMMENT_MAX];
    fingerprint_text(print, shown);
    json_t *text = json_string(comment);
    if (!text) { /* whoever wrote it by hand did not write UTF-8 */
        (void)snprintf(clean, sizeof(clean), "%s", comment);
        for (char *at = clean; *at; at++)
            *at = (unsigned char)*at < 0x80 ? *at : '?';
        text = json_string(clean);
    }
    return json_pack("{s:s, s:s, s:o}", "host", host, "fingerprint", shown, "comment", text);
}

static int list(struct cmd_args *args, const char *dir)
{
    struct store store;
    struct err err = { 0 };
    char shown[FINGERPRINT_TEXT_MAX];
    if (store_load(dir, &store, &err))
        return cmd_fail(args, &err);
    json_t *json = json_array();
    for (size_t i = 0; i < store.count; i++) {
        const struct store_entry *entry = &store.entry[i];
        fingerprint_text(&entry->print, shown);
        if (cmd_flag(args, "json"))
            (void)json_array_append_new(json,
                                        entry_json(entry->host, &entry->print, entry->comment));
        else
            (void)printf("%-24s %s%s%s\n", entry->host, shown, entry->comment[0] ? "  " : "",
                         entry->comment);
    }
    store_free(&store);
    if (cmd_flag(args, "json"))
        return cmd_print_json(args, json);
    json_decref(json);
    return cmd_finish(args);
}

/* What a peer has to type to trust this host. Its directory is not ours to know. */
static void peer_command(const struct trust *trust, char *text, size_t size)
{
    char name[65] = "HOST", own[FINGERPRINT_TEXT_MAX];
    (void)gethostname(name, sizeof(name) - 1);
    fingerprint_text(&trust->keys.print, own);
    (void)snprintf(text, size, "godwit trust %s %s", name, own);
}

static int self(struct cmd_args *args, const char *dir)
{
    struct trust *trust;
    struct err err = { 0 };
    char own[FINGERPRINT_TEXT_MAX], command[256];
    if (trust_open(dir, false, &trust, &err))
        return cmd_fail(args, &err);
    fingerprint_text(&trust->keys.print, own);
    peer_command(trust, command, sizeof(command));
    trust_close(trust);
    if (cmd_flag(args, "json"))
        return cmd_print_json(args, json_pack("{s:s, s:s, s:s}", "fingerprint", own, "command",
                                              command, "config_dir", dir));
    (void)printf("%s\n", own);
    (void)fflush(stdout);
    cmd_note(args, "on a peer that shall trust this host, type: %s", command);
    return cmd_finish(args);
}

static int remove_peer(struct cmd_args *args, const char *dir, const char *text)
{
    struct err err = { 0 };
    char host[STORE_HOST_MAX];
    int rc = store_host(text, host, &err);
    if (!rc)
        rc = store_remove(dir, host, &err);
    if (rc)
        return cmd_fail(args, &err);
    cmd_note(args, "%s is no longer trusted; what moves now moves on", host);
    return CMD_OK;
}

/* HOST, HOST:PORT, [IPV6], [IPV6]:PORT or IPV6 into a host for the store and an address to connect to. */
static int read_target(const char *text, char host[STORE_HOST_MAX],
                       char address[STORE_HOST_MAX + 16], struct err *err)
{
    char name[PARSE_HOST_MAX];
    uint16_t port;
    bool bare = store_host(text, host, NULL) == 0;
    int rc = 0;
    if (!bare) {
        rc = parse_address(text, name, &port, err);
        if (!rc)
            rc = store_host(name, host, err);
    }
    if (rc)
        return rc;
    if (!bare)
        (void)snprintf(address, STORE_HOST_MAX + 16, "%s", text);
    else
        (void)snprintf(address, STORE_HOST_MAX + 16, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host,
                       PARSE_PORT_DEFAULT);
    return 0;
}

/* Asks on the terminal. 0: it is right. */
static int ask(const struct cmd_args *args, const char *address, const char *shown,
               const char *command, struct err *err)
{
    char answer[16] = "";
    if (cmd_flag(args, "yes"))
        return 0;
    if (!isatty(STDIN_FILENO))
        return err_set(err, ERR_CALLER, EKEYREJECTED,
                       "%s shows %s, and there is nobody to ask: if that is right, type: %s",
                       address, shown, command);
    (void)fprintf(stderr,
                  "%s shows the key\n    %s\nCompare it with what 'godwit trust --self' prints "
                  "there.\nTrust it? (yes/no) ",
                  address, shown);
    (void)fflush(stderr);
    if (!fgets(answer, sizeof(answer), stdin) || strcmp(answer, "yes\n") != 0)
        return err_set(err, ERR_HOST, ECANCELED, "nothing was changed");
    return 0;
}

/* What answers at `address` now. */
static int see(const struct cmd_args *args, const struct trust *trust, const char *host,
               const char *address, struct fingerprint *ret, struct err *err)
{
    struct link link = LINK_NONE;
    char shown[FINGERPRINT_TEXT_MAX], command[TRUST_COMMAND_MAX];
    link.stall_limit_ns = 10 * CLOCK_SECOND;
    int rc = link_look(&link, trust, address, ret, err);
    if (rc)
        return rc;
    fingerprint_text(ret, shown);
    trust_command(trust, host, ret, cmd_flag(args, "replace"), command);
    return ask(args, address, shown, command, err);
}

static int pin(struct cmd_args *args, const char *dir)
{
    const char *given = cmd_text(args, "FINGERPRINT"), *comment = cmd_text(args, "comment");
    char host[STORE_HOST_MAX], address[STORE_HOST_MAX + 16], shown[FINGERPRINT_TEXT_MAX],
        command[256];
    struct fingerprint print;
    struct trust *trust = NULL;
    struct err err = { 0 };

    int rc = read_target(cmd_text(args, "HOST"), host, address, &err);
    if (!rc && !given && strcmp(host, STORE_ANYWHERE) == 0)
        rc = err_set(&err, ERR_CALLER, EINVAL, "* names no host to ask: give the fingerprint too");
    if (!rc)
        rc = trust_open(dir, false, &trust, &err);
    if (!rc)
        rc = given ? fingerprint_parse(given, &print, &err)
                   : see(args, trust, host, address, &print, &err);
    if (!rc)
        rc = store_add(dir, host, &print, comment ? comment : "", cmd_flag(args, "replace"), &err);
    if (!rc)
        peer_command(trust, command, sizeof(command));
    trust_close(trust);
    if (rc)
        return cmd_fail(args, &err);
    fingerprint_text(&print, shown);
    if (cmd_flag(args, "json"))
        return cmd_print_json(args, entry_json(host, &print, comment ? comment : ""));
    (void)printf("%s is trusted: %s\n", host, shown);
    (void)fflush(stdout);
    cmd_note(args, "it must trust this host too; there, type: %s", command);
    return cmd_finish(args);
}

static int trust_command_run(struct cmd_args *args)
{
    const char *host = cmd_text(args, "HOST"), *gone = cmd_text(args, "remove");
    bool listing = cmd_flag(args, "list"), own = cmd_flag(args, "self");
    struct err err = { 0 };
    char dir[CONFDIR_MAX];

    if (!!host + !!gone + listing + own != 1) {
        (void)err_set(&err, ERR_CALLER, EINVAL, "want one of HOST, --list, --remove and --self");
        return cmd_fail(args, &err);
    }
    if (confdir_path(args->config_dir, dir, &err))
        return cmd_fail(args, &err);
    return listing ? list(args, dir)
           : own   ? self(args, dir)
           : gone  ? remove_peer(args, dir, gone)
                   : pin(args, dir);
}

const struct command cmd_trust = {
    .name = "trust",
    .summary = "say which hosts guests may move to and come from",
    .text =
        "Each host has a key of its own, made on first use. VMs move only between hosts that trust "
        "each other's key, as with ssh: a host that a VM is moved to must show the key that is "
        "pinned for its name or address here; a host that a VM comes from must have a key that is "
        "pinned here, whatever its address. A host trusts its own key.\n\n"
        "With HOST alone, asks the receiver that waits there for its key (on port 7000, if none is "
        "given), and pins it once you have compared the fingerprint and said yes. With FINGERPRINT, "
        "pins that, and nothing need answer there. HOST is written as it will be in 'godwit "
        "migrate'; '*' is for a host that VMs only come from.\n\n"
        "The peers are in the file 'trusted' of the configuration directory, one a line: host, "
        "fingerprint, comment. It may be edited by hand, and holds at once.",
    .example = "  godwit trust --self\n"
               "  godwit trust host2\n"
               "  godwit trust host2 SHA256:cRn0hPnRSPvdWCTvmnH0Z5RqlrWOVuUJSlHRCUKFNQI\n",
    .arguments =
        (const struct cmd_option[]){
            { .name = "HOST", .kind = CMD_TEXT, .help = "the peer: HOST, HOST:PORT or *" },
            { .name = "FINGERPRINT",
              .kind = CMD_TEXT,
              .help = "of its key, as 'godwit trust --self' "
                      "prints it there" },
            { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "list", .kind = CMD_FLAG, .help = "print the peers that are trusted" },
            { .name = "remove", .kind = CMD_TEXT, .value = "HOST", .help = "trust it no longer" },
            { .name = "self",
              .kind = CMD_FLAG,
              .help = "print the fingerprint of this host's own key, and what a peer has to type" },
            { .name = "replace",
              .kind = CMD_FLAG,
              .help = "take the new key of a host that had another" },
            { .name = "yes", .kind = CMD_FLAG, .help = "do not ask whether the key is right" },
            { .name = "comment",
              .kind = CMD_TEXT,
              .value = "TEXT",
              .help = "put this behind the fingerprint" },
            { .name = "json", .kind = CMD_FLAG, .help = "print JSON" },
            { 0 } },
    .status_ok = "It is trusted, or was printed",
    .fn = trust_command_run,
};
