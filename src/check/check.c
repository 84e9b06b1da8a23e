#include "check/check.h"
#include "base/clock.h"
#include "check/probe.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#define PROBE_LIMIT_NS (15 * CLOCK_SECOND)

static const char *need_name(enum probe_need need)
{
    static const char *const names[] = {
        [PROBE_REQUIRED] = "required", [PROBE_USEFUL] = "useful", [PROBE_NOTE] = "note"
    };
    static_assert(ARRAY_LEN(names) == PROBE_NEED_MAX, "one name per need");
    return names[need];
}

static const json_t *find(const json_t *facts, const char *name)
{
    size_t i;
    json_t *fact;
    json_array_foreach (facts, i, fact)
        if (strcmp(json_string_value(json_object_get(fact, "fact")), name) == 0)
            return fact;
    return NULL;
}

static bool holds(const json_t *facts, const char *name)
{
    return json_is_true(json_object_get(find(facts, name), "ok"));
}

static const char *reason_of(const json_t *facts, const char *name)
{
    return json_string_value(json_object_get(find(facts, name), "reason"));
}

/* Tries one fact, given those before it. */
static json_t *run_one(const struct probe *probe, const json_t *before)
{
    struct probe_result result = { .verdict = PROBE_NO };
    bool try = !probe->after || holds(before, probe->after);
    if (try)
        probe_execute(probe, PROBE_LIMIT_NS, &result);
    else
        probe_no(&result, "not tried, for want of %s (%s)", probe->after,
                 reason_of(before, probe->after));
    bool ok = result.verdict == PROBE_YES;
    json_t *fact = json_pack("{s:s,s:s,s:b,s:o?,s:s,s:s}", "fact", probe->fact, "need",
                             need_name(probe->need), "ok", ok, "value", result.value, "reason",
                             result.reason, "matters", probe->matters);
    if (fact && !ok && try && probe->remedy[0] &&
        json_object_set_new(fact, "remedy", json_string(probe->remedy)) < 0) {
        json_decref(fact);
        return NULL;
    }
    return fact;
}

/* The first required fact that does not hold, or NULL. */
static const char *missing_requirement(const json_t *facts)
{
    size_t i;
    json_t *fact;
    json_array_foreach (facts, i, fact)
        if (strcmp(json_string_value(json_object_get(fact, "need")), "required") == 0 &&
            !json_is_true(json_object_get(fact, "ok")))
            return json_string_value(json_object_get(fact, "fact"));
    return NULL;
}

static json_t *verdict(const json_t *facts)
{
    const char *missing = missing_requirement(facts),
               *below = json_string_value(json_object_get(find(facts, "hypervisor"), "value"));
    const char *value;
    json_t *reason;
    if (missing) {
        value = "lab";
        reason = json_sprintf(
            "No guest runs on this machine itself: %s (%s). The lab, with emulated hosts, %s",
            missing, reason_of(facts, missing),
            holds(facts, "emulator") ? "does run." : "needs QEMU first.");
    } else if (!holds(facts, "stock-guests")) {
        value = "tiny";
        reason = json_sprintf(
            "Only tiny guests run on this machine itself: %s. Use the lab for stock guests.",
            reason_of(facts, "stock-guests"));
    } else if (below && strcmp(below, "none") != 0) {
        value = "stock";
        reason = json_sprintf(
            "Stock guests run on this machine itself, as fast as the hypervisor below it (%s) lets them: %s.",
            below, reason_of(facts, "stock-guests"));
    } else {
        value = "stock";
        reason = json_sprintf("Stock guests run on this machine itself at full speed: %s.",
                              reason_of(facts, "stock-guests"));
    }
    return json_pack("{s:s,s:s,s:b,s:s,s:o,s:s}", "fact", "verdict", "need", "note", "ok", 1,
                     "value", value, "reason", reason, "matters",
                     "which guests this machine can run");
}

json_t *check_run(void)
{
    json_t *facts = json_array();
    for (size_t i = 0; i < probe_count; i++) {
        if (json_array_append_new(facts, run_one(&probe_table[i], facts)) < 0) {
            json_decref(facts);
            return NULL;
        }
    }
    if (json_array_append_new(facts, verdict(facts)) < 0) {
        json_decref(facts);
        return NULL;
    }
    return facts;
}

static const char *text(const json_t *fact, const char *key)
{
    const char *found = json_string_value(json_object_get(fact, key));
    return found ? found : "";
}

void check_text(const json_t *facts, FILE *out)
{
    size_t i;
    json_t *fact;
    json_array_foreach (facts, i, fact) {
        if (strcmp(text(fact, "fact"), "verdict") == 0) {
            (void)fprintf(out, "\n%s\n", text(fact, "reason"));
            continue;
        }
        bool ok = json_is_true(json_object_get(fact, "ok"));
        bool required = strcmp(text(fact, "need"), "required") == 0;
        (void)fprintf(out, "%-4s %-17s %s\n",
                      ok         ? "ok"
                      : required ? "NO"
                                 : "no",
                      text(fact, "fact"), text(fact, "reason"));
        if (ok || !text(fact, "remedy")[0])
            continue;
        (void)fprintf(out, "     %-17s why it matters: %s\n", "", text(fact, "matters"));
        (void)fprintf(out, "     %-17s what to do: %s\n", "", text(fact, "remedy"));
    }
}
