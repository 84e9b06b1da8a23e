#include "base/fd.h"
#include "probe.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

static const char *const ends[] = {
    [PROBE_RUNS] = NULL,           [PROBE_END_TIME] = "time",   [PROBE_END_LIMIT] = "limit",
    [PROBE_END_SIGNAL] = "signal", [PROBE_END_ERROR] = "error",
};
static_assert(ARRAY_LEN(ends) == PROBE_END_ERROR + 1, "a name each");

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)MIN(n, (uint64_t)INT64_MAX));
}

static json_t *number_or_null(uint64_t n, bool known)
{
    return known ? number(n) : json_null();
}

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

static json_t *late_facts(const struct late *late)
{
    return json_pack("{s:o,s:o,s:o,s:o}", "count", number(late->count), "p50_ns",
                     number_or_null(late_quantile(late, 0.5), late->count), "p99_ns",
                     number_or_null(late_quantile(late, 0.99), late->count), "max_ns",
                     number_or_null(late->max_ns, late->count));
}

static json_t *statuses(const struct probe *probe)
{
    json_t *object = json_object();
    for (enum status status = STATUS_OK; status < STATUS_MAX; status++)
        if (probe->requests.ended[status])
            (void)json_object_set_new(object, status_name(status),
                                      number(probe->requests.ended[status]));
    return object;
}

static json_t *facts(const struct probe *probe)
{
    const struct options *o = &probe->options;
    json_t *object = json_object();
    const struct {
        const char *key;
        json_t *value;
    } rows[] = {
        { "kind", json_string(probe_kind_name(o->kind)) },
        { "target", json_string(o->target) },
        { "rate_per_s", number_or_null(o->rate_per_s, probe->kind->fire) },
        { "connections", number(o->connections) },
        { "requests", number(probe->requests.next + probe->put) },
        { "late", late_facts(&probe->late) },
        { "late_csv", text_or_null(o->late) },
        { "cpu_ns", number(clock_read_ns(CLOCK_PROCESS_CPUTIME_ID)) },
        { "processor", o->pin < 0 ? json_null() : json_integer(o->pin) },
        { "priority", text_or_null(probe->fifo ? "fifo" : NULL) },
        { "spin_ns", number(o->spin_ns) },
        { "timeout_ns", number(o->timeout_ns) },
        { "start_ns", number(probe->start_ns) },
        { "end_ns", number_or_null(probe->ended_ns, probe->ended_ns) },
        { "ended", text_or_null(ends[probe->end]) },
        { "statuses", statuses(probe) },
        { "strays", number(probe->strays) },
        { "troubles", number(probe->troubles) },
        { "silence_ns", number(probe->silence_ns) },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (json_object_set_new(object, rows[i].key, rows[i].value)) {
            json_decref(object);
            object = NULL; /* the rest is still to be freed: json_object_set_new(NULL) does that */
        }
    return object;
}

int facts_write(const struct probe *probe, struct err *err)
{
    if (!probe->options.facts)
        return 0;
    json_t *object = facts(probe);
    char *text = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
    json_decref(object);
    if (!text)
        return err_set(err, ERR_HOST, ENOMEM,
                       "no memory for the facts, or a target that is not UTF-8");
    size_t len = strlen(text);
    text[len] = '\n'; /* in place of the NUL */
    int rc = fd_replace_file(probe->options.facts, text, len + 1, err);
    free(text);
    return rc;
}
