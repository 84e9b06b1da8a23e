#include "cmd/migrate_check.h"
#include "cmd/vm.h"
#include "cost/show.h"
#include "ctl/reason.h"

#include <errno.h>
#include <string.h>

#define CHECK_LIMIT_NS (UINT64_C(60) * 1000000000)

static void on_event(void *ctx, const char *event, const json_t *params)
{
    json_t **checked = ctx;
    if (strcmp(event, "move.checked") == 0 && !*checked)
        *checked = json_deep_copy(params);
}

static uint64_t num(const json_t *json, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(json, key));
    return value > 0 ? (uint64_t)value : 0;
}

static const char *clean(char *out, size_t size, const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    show_clean(out, size, text ? text : "?");
    return out;
}

static void show(const json_t *report)
{
    const json_t *predicted = json_object_get(report, "predicted"), *fact;
    const json_t *link = json_object_get(report, "link");
    char name[24], text[256];
    size_t i;

    json_array_foreach (json_object_get(report, "facts"), i, fact)
        (void)printf("%-4s %-12s %s\n", json_is_true(json_object_get(fact, "ok")) ? "yes" : "NO",
                     clean(name, sizeof(name), fact, "fact"),
                     clean(text, sizeof(text), fact, "text"));
    if (json_is_object(link))
        (void)printf("     %-12s %s/s, there and back in %s\n", "connection",
                     show_bytes(num(link, "bytes_per_s")).text,
                     show_duration(num(link, "rtt_ns")).text);
    if (json_is_object(predicted)) {
        bool met = json_is_true(json_object_get(predicted, "goal_met"));
        if (json_is_integer(json_object_get(predicted, "downtime_ns")))
            (void)printf("     %-12s %s in all, %s of downtime%s: %s\n", "predicted",
                         show_duration(num(predicted, "time_ns")).text,
                         show_duration(num(predicted, "downtime_ns")).text,
                         json_is_true(json_object_get(predicted, "slowed"))
                             ? ", with its writers slowed"
                             : "",
                         met ? "the goal is met" : "more than was asked for");
        else
            (void)printf("     %-12s the goal cannot be met\n", "predicted");
        (void)printf("     %-12s %s\n", "", clean(text, sizeof(text), predicted, "text"));
    }
    (void)printf("%s\n",
                 json_is_true(json_object_get(report, "ok")) ? "It fits." : "It does not fit.");
}

int migrate_check(const struct cmd_args *args, struct client *client, json_t *params)
{
    json_t *checked = NULL;
    struct err err = { 0 };
    int rc = client_subscribe(client, on_event, &checked, &err);
    if (rc)
        json_decref(params);
    else
        rc = client_call(client, "vm.migrate", params, VM_ANSWER_NS, NULL, &err);
    while (!rc && !checked) {
        rc = client_wait(client, CHECK_LIMIT_NS, &err);
        if (rc == -EINTR)
            rc = 0;
        else if (rc && !err.code)
            (void)err_errno(&err, ERR_HOST, -rc, "the monitor did not answer");
    }
    if (rc) {
        json_decref(checked);
        return cmd_fail(args, &err);
    }
    json_t *report = json_object_get(checked, "report");
    int status = json_is_true(json_object_get(report, "ok")) ? CMD_OK : CMD_FAILED;
    if (!report) {
        reason_from_json(json_object_get(checked, "error"), &err);
        status = cmd_fail(args, &err);
    } else if (cmd_flag(args, "json")) {
        if (cmd_print_json(args, json_incref(report)))
            status = CMD_FAILED;
    } else {
        show(report);
        if (cmd_finish(args))
            status = CMD_FAILED;
    }
    json_decref(checked);
    return status;
}
