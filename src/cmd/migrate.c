#include "cmd/migrate_check.h"
#include "cmd/moving.h"
#include "cmd/parse.h"
#include "cmd/vm.h"

#include <errno.h>
#include <string.h>

#define LANES_MAX 16u /* the monitor checks it again */

/* "auto" or a number; -1 is auto. */
static int lanes_of(const char *text, int64_t *ret, struct err *err)
{
    uint64_t count;
    *ret = -1;
    if (strcmp(text, "auto") == 0)
        return 0;
    int rc = parse_count(text, &count, NULL);
    if (rc || count > LANES_MAX)
        return err_set(err, ERR_CALLER, EINVAL, "--lanes: want auto, or a number up to %u",
                       LANES_MAX);
    *ret = (int64_t)count;
    return 0;
}

/* Changes the limit of the move under way. */
static int set_bandwidth(struct cmd_args *args)
{
    struct client *client;
    struct err err = { 0 };
    if (vm_open(args, &client, &err))
        return cmd_fail(args, &err);
    int rc = client_call(client, "vm.migrate_set",
                         json_pack("{s:I}", "bandwidth_bytes_per_s",
                                   (json_int_t)cmd_number(args, "bandwidth")),
                         VM_ANSWER_NS, NULL, &err);
    client_close(client);
    return rc ? cmd_fail(args, &err) : CMD_OK;
}

static json_t *params_of(struct cmd_args *args, const char *to, int64_t lanes)
{
    json_t *params = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:b, s:I, s:I, s:b, s:b, s:s, s:I, s:I}", "to",
        to, "mode", cmd_text(args, "mode"), "post_copy", cmd_text(args, "post-copy"),
        "max_downtime_ns", (json_int_t)cmd_number(args, "max-downtime"), "max_time_ns",
        (json_int_t)cmd_number(args, "max-time"), "stall_limit_ns",
        (json_int_t)cmd_number(args, "stall-limit"), "policy", cmd_text(args, "policy"), "throttle",
        cmd_text(args, "throttle"), "strict", (int)cmd_flag(args, "strict"), "rate_min_bytes_per_s",
        (json_int_t)cmd_number(args, "rate-min"), "rate_max_bytes_per_s",
        (json_int_t)cmd_number(args, "rate-max"), "check", (int)cmd_flag(args, "check"), "insecure",
        (int)cmd_flag(args, "insecure"), "compress", cmd_text(args, "compress"),
        "delta_cache_bytes", (json_int_t)cmd_number(args, "delta-cache"), "lanes",
        (json_int_t)lanes);
    if (cmd_text(args, "bandwidth"))
        (void)json_object_set_new(params, "bandwidth_bytes_per_s",
                                  json_integer((json_int_t)cmd_number(args, "bandwidth")));
    if (cmd_text(args, "bandwidth-downtime"))
        (void)json_object_set_new(params, "bandwidth_downtime_bytes_per_s",
                                  json_integer((json_int_t)cmd_number(args, "bandwidth-downtime")));
    return params;
}

static int migrate(struct cmd_args *args)
{
    const char *to = cmd_text(args, "HOST[:PORT]");
    char target[PARSE_TARGET_MAX];
    struct client *client;
    struct err err = { 0 };
    bool cancel = cmd_flag(args, "cancel"), recover = cmd_flag(args, "recover");
    const char *post_copy = cmd_text(args, "post-copy");
    bool pure = strcmp(cmd_text(args, "mode"), "post-copy") == 0;
    bool now = strcmp(post_copy, "now") == 0, go = !to && !cancel && !recover && now;
    int64_t lanes;

    if (!to && !cancel && !recover && !go && cmd_text(args, "bandwidth"))
        return set_bandwidth(args);
    if (cancel && (to || recover))
        (void)err_set(&err, ERR_CALLER, EINVAL, "--cancel takes no HOST and no --recover");
    else if (!to && !cancel && !recover && !go)
        (void)err_set(&err, ERR_CALLER, EINVAL, "HOST is missing: where to?");
    else if (to && !parse_target(to, target, &err))
        to = target;
    if (err.code || lanes_of(cmd_text(args, "lanes"), &lanes, &err))
        return cmd_fail(args, &err);
    if (cancel)
        return vm_call(args, "vm.migrate_cancel");
    if (!recover && (pure || strcmp(post_copy, "never") != 0))
        cmd_note(args, "post-copy: from the switch on the guest needs both hosts until all of its "
                       "memory has followed it; if this host or the other is lost then, so is the "
                       "guest");
    if (go)
        return vm_call(args, "vm.migrate_post_copy");
    if (vm_open(args, &client, &err))
        return cmd_fail(args, &err);
    bool insecure = cmd_flag(args, "insecure");
    if (recover) {
        json_t *params = to ? json_pack("{s:s}", "to", to) : NULL;
        int rc = client_call(client, "vm.migrate_recover", params, VM_ANSWER_NS, NULL, &err);
        client_close(client);
        return rc ? cmd_fail(args, &err) : CMD_OK;
    }
    if (insecure)
        cmd_note(args,
                 "WARNING: --insecure: the guest travels unencrypted, to whoever answers at %s",
                 to);
    bool check = cmd_flag(args, "check");
    json_t *params = params_of(args, to, lanes);
    int status = check ? migrate_check(args, client, params)
                       : moving_run(args, client, "vm.migrate", params);
    client_close(client);
    return status;
}

const struct command cmd_migrate = {
    .name = "migrate",
    .summary = "move a VM to another host while it runs",
    .text =
        "Moves a VM to the monitor that 'godwit receive' has started at HOST, and prints the "
        "bill: what the move cost. Network connections of the guest survive if the other host is "
        "on the same network.\n\n"
        "At every moment exactly one side owns the guest. Until the move is committed, whatever "
        "goes wrong leaves the VM running here as if nothing had happened; afterwards it never "
        "runs here again. If the connection is lost in the moment of commitment, neither side "
        "runs the guest until they have reached each other again, and the VM's state is "
        "'uncertain'.\n\n"
        "The stream is encrypted, and both hosts must trust each other's key: see 'godwit trust'. A "
        "key that is unknown or has changed is refused, with the command that would accept it.\n\n"
        "The goal is a downtime and perhaps a time. If the guest writes too fast for it, the vCPUs "
        "that do are slowed, unless --throttle never; if that does not help, the guest is moved with "
        "the smallest downtime in reach, or with --strict not at all. Every decision is in the bill, "
        "with the numbers it was made by; those that matter are printed as they are made.\n\n"
        "Post-copy hands the guest over first and lets its memory follow: pages are fetched as the "
        "guest touches them, and the rest is pushed. The downtime is short whatever the guest "
        "writes; but until all memory has followed, the guest needs both hosts. If the connection "
        "is lost, the guest stops where it needs what is missing (state 'stranded'), and goes on "
        "when the hosts reach each other again, by themselves or with --recover. If the source "
        "host or its monitor is lost, the guest is lost (reason 'source-lost'): it never runs on "
        "less than its memory.\n\n"
        "SIGINT or SIGTERM cancel the move. Progress is shown on standard error.",
    .example = "  godwit migrate web1 10.0.0.2:7000\n"
               "  godwit migrate web1 10.0.0.2:7000 --check\n"
               "  godwit migrate web1 10.0.0.2:7000 --max-downtime 20ms --max-time 60s --strict\n"
               "  godwit migrate web1 10.0.0.2:7000 --bandwidth 2Gbit/s\n"
               "  godwit migrate web1 --bandwidth 500Mbit/s\n"
               "  godwit migrate web1 10.0.0.2:7000 --mode stop-copy --bill web1.json\n",
    .arguments =
        (const struct cmd_option[]){
            VM_ARGUMENT,
            { .name = "HOST[:PORT]",
              .kind = CMD_TARGET,
              .help = "where the other side waits; port 7000, if not given" },
            { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "mode",
              .kind = CMD_CHOICE,
              .value = "MODE",
              .choices = "auto|pre-copy|stop-copy|post-copy",
              .fallback = "auto",
              .help =
                  "auto sends memory while the guest runs, and does what the goal needs; pre-copy "
                  "the same without ever going on as post-copy; stop-copy stops the guest first; "
                  "post-copy sends memory after the guest runs at the other side" },
            { .name = "post-copy",
              .kind = CMD_CHOICE,
              .value = "WHEN",
              .choices = "never|allow|now",
              .fallback = "never",
              .help = "whether pre-copy may turn into post-copy: allow, when it cannot keep "
                      "--max-downtime; now, at once, also of a move under way (then without "
                      "HOST)" },
            { .name = "max-downtime",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "300ms",
              .min = 1,
              .max = UINT64_C(3600000000000),
              .help = "the goal: how long the guest may stand still; pages are sent while it runs "
                      "until this is expected to be kept" },
            { .name = "max-time",
              .kind = CMD_DURATION,
              .value = "TIME",
              .min = 1,
              .max = UINT64_C(86400000000000),
              .help = "the goal: how long the whole move may take; any time, if not given" },
            { .name = "throttle",
              .kind = CMD_CHOICE,
              .value = "WHEN",
              .choices = "allow|never",
              .fallback = "allow",
              .help =
                  "whether vCPUs that write too fast for the goal may be slowed, down to a tenth, "
                  "until the guest stops" },
            { .name = "strict",
              .kind = CMD_FLAG,
              .help = "fail rather than exceed the goal: the guest then stays here" },
            { .name = "policy",
              .kind = CMD_CHOICE,
              .value = "POLICY",
              .choices = "goal|clark05",
              .fallback = "goal",
              .help =
                  "who decides: goal pursues what was asked for; clark05 is the algorithm of the "
                  "2005 paper, for comparison, and knows only its two rates" },
            { .name = "rate-min",
              .kind = CMD_RATE,
              .value = "RATE",
              .fallback = "100Mbit/s",
              .min = 125000,
              .max = UINT64_C(125000000000),
              .help = "clark05: the first round's rate, and the least of the later ones" },
            { .name = "rate-max",
              .kind = CMD_RATE,
              .value = "RATE",
              .fallback = "500Mbit/s",
              .min = 125000,
              .max = UINT64_C(125000000000),
              .help =
                  "clark05: the last round's rate; the guest stops when a round would need more" },
            { .name = "stall-limit",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "10s",
              .min = 100000000,
              .max = UINT64_C(3600000000000),
              .help = "give up when nothing moves for so long" },
            { .name = "lanes",
              .kind = CMD_TEXT,
              .value = "N|auto",
              .fallback = "auto",
              .help = "how many connections carry memory, up to 16; auto measures what helps; 0 "
                      "sends it on the control connection" },
            { .name = "compress",
              .kind = CMD_CHOICE,
              .value = "HOW",
              .choices = "auto|off|lz4|zstd",
              .fallback = "auto",
              .help = "pack memory; auto tries both now and then, and packs nothing where the link "
                      "is faster" },
            { .name = "delta-cache",
              .kind = CMD_SIZE,
              .value = "SIZE",
              .fallback = "0",
              .max = UINT64_C(1) << 40,
              .help = "memory for pages as last sent, so that of one sent again only what changed "
                      "travels" },
            { .name = "bandwidth",
              .kind = CMD_RATE,
              .value = "RATE",
              .max = UINT64_C(125000000000),
              .help = "send memory no faster than this, as in 2Gbit/s, also while the guest stands "
                      "still; 0 = no limit. Without HOST: changes the limit of the move under "
                      "way" },
            { .name = "bandwidth-downtime",
              .kind = CMD_RATE,
              .value = "RATE",
              .max = UINT64_C(125000000000),
              .help = "another limit for the time the guest stands still; 0 = no limit then" },
            { .name = "insecure",
              .kind = CMD_FLAG,
              .help =
                  "do not encrypt, nor ask who answers; the target must be told too, and beyond "
                  "loopback godwit.conf must allow it twice" },
            { .name = "check",
              .kind = CMD_FLAG,
              .help =
                  "only ask: whether the machine fits the other host, fact by fact, and what the "
                  "move would cost; nothing is changed on either side" },
            { .name = "recover",
              .kind = CMD_FLAG,
              .help = "a move that lost its connection: connect again at once, to HOST if one is "
                      "given" },
            { .name = "cancel",
              .kind = CMD_FLAG,
              .help = "cancel the move that is under way instead" },
            MOVING_OPTIONS,
            { 0 } },
    .statuses =
        (const struct cmd_status[]){
            { CMD_UNCERTAIN,
              "Nobody here knows yet who owns the guest; it will show once the two sides reach "
              "each other" },
            { 0 } },
    .status_ok =
        "The guest runs at the other side; with --check: it fits; with --cancel: the move will "
        "end",
    .fn = migrate,
};
