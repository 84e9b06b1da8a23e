#include "base/clock.h"
#include "cmd/parse.h"
#include "cmd/vm.h"
#include "cost/show.h"
#include "wws/report.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define SLACK_NS (60 * CLOCK_SECOND) /* for the answer after the recording's own time */

struct watching {
    bool shown;
};

static void on_event(void *ctx, const char *event, const json_t *params)
{
    const struct watching *watching = ctx;
    if (!watching->shown || strcmp(event, "wws.progress") != 0)
        return;
    json_int_t at = json_integer_value(json_object_get(params, "intervals"));
    json_int_t of = json_integer_value(json_object_get(params, "of"));
    json_int_t pages = json_integer_value(json_object_get(params, "pages"));
    (void)fprintf(stderr,
                  "\rinterval %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT ": %s written   ",
                  at, of, show_bytes((uint64_t)MAX(pages, (json_int_t)0) * 4096).text);
}

/* "100Mbit/s,1Gbit/s" into a list of bytes a second. */
static int read_bandwidths(const char *text, json_t **ret, struct err *err)
{
    json_t *list = json_array();
    int rc = 0;
    while (!rc && *text) {
        char one[40];
        size_t len = strcspn(text, ",");
        uint64_t rate;
        (void)snprintf(one, sizeof(one), "%.*s", (int)MIN(len, sizeof(one) - 1), text);
        rc = len < sizeof(one) ? parse_rate(one, &rate, err)
                               : err_set(err, ERR_CALLER, EINVAL, "'%s...' is too long", one);
        if (!rc)
            (void)json_array_append_new(list, json_integer((json_int_t)rate));
        text += len + (text[len] == ',');
    }
    if (!rc && (json_array_size(list) == 0 || json_array_size(list) > REPORT_LINKS_MAX))
        rc = err_set(err, ERR_CALLER, EINVAL, "want 1 to %d bandwidths", REPORT_LINKS_MAX);
    if (rc) {
        json_decref(list);
        return err_wrap(err, rc, "--bandwidths");
    }
    *ret = list;
    return 0;
}

/* Writes the report into a file in one of its forms. */
static int save(const char *path, const json_t *report, void (*form)(const json_t *, FILE *),
                struct err *err)
{
    FILE *file = fopen(path, "we");
    if (!file)
        return err_errno(err, ERR_CALLER, errno, "%s", path);
    form(report, file);
    bool broken = ferror(file);
    if (fclose(file) != 0 || broken)
        return err_errno(err, ERR_HOST, errno ? errno : EIO, "%s", path);
    return 0;
}

static int print(const struct cmd_args *args, json_t *report)
{
    struct err err = { 0 };
    const char *csv = cmd_text(args, "csv"), *svg = cmd_text(args, "svg");
    int rc = csv ? save(csv, report, report_csv, &err) : 0;
    if (!rc && svg)
        rc = save(svg, report, report_svg, &err);
    if (rc)
        return cmd_fail(args, &err);
    if (cmd_flag(args, "json"))
        return cmd_print_json(args, json_incref(report));
    report_text(report, stdout);
    return cmd_finish(args);
}

static int wws(struct cmd_args *args)
{
    struct client *client;
    struct err err = { 0 };
    struct watching watching = { .shown = isatty(STDERR_FILENO) };
    json_t *rates = NULL, *report = NULL;
    uint64_t duration_ns = cmd_number(args, "for"), interval_ns = cmd_number(args, "interval");

    int rc = read_bandwidths(cmd_text(args, "bandwidths"), &rates, &err);
    if (!rc && (duration_ns < interval_ns || duration_ns / interval_ns > WWS_INTERVALS_MAX))
        rc = err_set(&err, ERR_CALLER, EINVAL, "--for: want 1 to %u intervals", WWS_INTERVALS_MAX);
    if (!rc)
        rc = vm_open(args, &client, &err);
    if (rc) {
        json_decref(rates);
        return cmd_fail(args, &err);
    }
    rc = client_subscribe(client, on_event, &watching, &err);
    if (!rc)
        rc = client_call(client, "vm.wws",
                         json_pack("{s:I, s:I, s:O, s:I, s:I, s:s}", "interval_ns",
                                   (json_int_t)interval_ns, "duration_ns", (json_int_t)duration_ns,
                                   "bandwidths", rates, "rtt_ns",
                                   (json_int_t)cmd_number(args, "rtt"), "max_downtime_ns",
                                   (json_int_t)cmd_number(args, "max-downtime"), "throttle",
                                   cmd_text(args, "throttle")),
                         duration_ns + SLACK_NS, &report, &err);
    json_decref(rates);
    client_close(client);
    if (watching.shown)
        (void)fprintf(stderr, "\n");
    int status = rc ? cmd_fail(args, &err) : print(args, report);
    json_decref(report);
    return status;
}

const struct command cmd_wws = {
    .name = "wws",
    .summary = "record what a VM writes, and predict what moving it would cost",
    .text =
        "Records for a while which pages a running guest writes: its writable working set, which "
        "decides how long a move takes and how long the guest stands still in it. Reports how often "
        "pages are written, how many different ones in a window of time, and, for each link and "
        "mode, the total time and downtime to expect. The guest runs on; what the recording cost it "
        "is reported too.\n\n"
        "A move that is asked for meanwhile ends the recording, which then reports what it has. "
        "Interrupting this command ends the recording too, without a report.",
    .example = "  godwit wws web1\n"
               "  godwit wws web1 --interval 20ms --for 30s --bandwidths 1Gbit/s --svg web1.svg\n",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "interval",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "100ms",
              .min = CLOCK_MSEC,
              .max = 60 * CLOCK_SECOND,
              .help = "how often to look; shorter tells more, and disturbs the guest more" },
            { .name = "for",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "10s",
              .min = CLOCK_MSEC,
              .max = 24 * 3600 * CLOCK_SECOND,
              .help = "how long to record: at most 10000 intervals" },
            { .name = "bandwidths",
              .kind = CMD_TEXT,
              .value = "LIST",
              .fallback = "100Mbit/s,1Gbit/s,10Gbit/s",
              .help = "links to predict for, separated by commas" },
            { .name = "rtt",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "500us",
              .min = 0,
              .max = 60 * CLOCK_SECOND,
              .help = "round trip time of these links" },
            { .name = "max-downtime",
              .kind = CMD_DURATION,
              .value = "TIME",
              .fallback = "300ms",
              .min = 1,
              .max = 3600 * CLOCK_SECOND,
              .help =
                  "how long the guest may stand still: what pre-copy aims at in the prediction" },
            { .name = "throttle",
              .kind = CMD_CHOICE,
              .value = "WHETHER",
              .choices = "allow|never",
              .fallback = "allow",
              .help = "whether the predicted moves may slow a guest that writes too fast" },
            { .name = "json", .kind = CMD_FLAG, .help = "print the report as JSON" },
            { .name = "csv",
              .kind = CMD_FILE,
              .value = "FILE",
              .help = "write the report as a table into FILE too" },
            { .name = "svg",
              .kind = CMD_FILE,
              .value = "FILE",
              .help = "write the report as a picture into FILE too" },
            { 0 } },
    .fn = wws,
};
