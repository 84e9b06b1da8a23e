/* `godwit check` itself: probes that misbehave do no harm, and what it says is complete. */
#include "base/clock.h"
#include "check/check.h"
#include "check/probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static void never_ends(struct probe_result *ret)
{
    (void)ret;
    for (;;)
        (void)pause();
}

static void crashes(struct probe_result *ret)
{
    (void)ret;
    abort();
}

static void leaves(struct probe_result *ret)
{
    (void)ret;
    _exit(0);
}

static void forgets(struct probe_result *ret)
{
    (void)ret;
}

static void floods(struct probe_result *ret)
{
    static char much[200000];
    memset(much, 'x', sizeof(much) - 1);
    probe_yes(ret, json_string(much), "much");
}

static void says_no(struct probe_result *ret)
{
    probe_no(ret, "no \"such\" thing\n%d", 1);
}

static void execute(void (*run)(struct probe_result *), uint64_t limit_ns, enum probe_verdict want,
                    const char *why)
{
    struct probe probe = { .fact = "x", .need = PROBE_NOTE, .run = run };
    struct probe_result result;
    probe_execute(&probe, limit_ns, &result);
    assert_int_equal(result.verdict, want);
    assert_non_null(strstr(result.reason, why));
    json_decref(result.value);
}

static void bad_probes_do_no_harm(void **state)
{
    (void)state;
    execute(never_ends, 100 * CLOCK_MSEC, PROBE_WRONG, "no answer within");
    execute(crashes, 10 * CLOCK_SECOND, PROBE_WRONG, "the probe died: Aborted");
    execute(leaves, 10 * CLOCK_SECOND, PROBE_WRONG, "the probe failed");
    execute(forgets, 10 * CLOCK_SECOND, PROBE_WRONG, "gave no answer");
    execute(floods, 10 * CLOCK_SECOND, PROBE_WRONG, "");
    execute(says_no, 10 * CLOCK_SECOND, PROBE_NO, "no \"such\" thing");
}

static void table_is_complete(void **state)
{
    (void)state;
    for (size_t i = 0; i < probe_count; i++) {
        const struct probe *p = &probe_table[i];
        assert_true(p->fact[0] && p->matters[0] && p->run);
        assert_true(p->need >= PROBE_REQUIRED && p->need < PROBE_NEED_MAX);
        assert_true(p->remedy[0] || p->need == PROBE_NOTE);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(p->fact, probe_table[k].fact);
    }
}

static void facts_are_complete(void **state)
{
    (void)state;
    json_t *facts = check_run();
    size_t i;
    json_t *fact;
    assert_non_null(facts);
    assert_int_equal(json_array_size(facts), probe_count + 1);
    json_array_foreach (facts, i, fact) {
        const char *name, *need, *reason, *matters;
        json_t *value;
        int ok;
        assert_int_equal(json_unpack(fact, "{s:s,s:s,s:b,s:o,s:s,s:s}", "fact", &name, "need",
                                     &need, "ok", &ok, "value", &value, "reason", &reason,
                                     "matters", &matters),
                         0);
        assert_true(strlen(reason) > 0 && !strchr(reason, '\n'));
        assert_true(ok || strcmp(need, "note") == 0 || strncmp(reason, "not tried", 9) == 0 ||
                    json_is_string(json_object_get(fact, "remedy")));
    }
    const json_t *last = json_array_get(facts, probe_count);
    const char *value = json_string_value(json_object_get(last, "value"));
    assert_true(strcmp(value, "stock") == 0 || strcmp(value, "tiny") == 0 ||
                strcmp(value, "lab") == 0);

    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    check_text(facts, out);
    assert_int_equal(fclose(out), 0);
    json_array_foreach (facts, i, fact)
        assert_non_null(strstr(text, json_string_value(json_object_get(fact, "reason"))));
    free(text);
    json_decref(facts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_probes_do_no_harm),
        cmocka_unit_test(table_is_complete),
        cmocka_unit_test(facts_are_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
