/* Every probe behind `godwit check` as a test of its own (TAP): passed where the kernel behaves as godwit
 * counts on, skipped where the machine lacks it, failed where it behaves otherwise. */
#include "base/clock.h"
#include "check/probe.h"

#include <stdio.h>

int main(void)
{
    int failed = 0;
    (void)printf("1..%zu\n", probe_count);
    for (size_t i = 0; i < probe_count; i++) {
        struct probe_result result;
        probe_execute(&probe_table[i], 30 * CLOCK_SECOND, &result);
        json_decref(result.value);
        failed += result.verdict == PROBE_WRONG;
        (void)printf("# %s: %s\n", probe_table[i].fact, result.reason);
        if (result.verdict == PROBE_NO)
            (void)printf("ok %zu - %s # SKIP %s\n", i + 1, probe_table[i].fact, result.reason);
        else
            (void)printf("%s %zu - %s\n", result.verdict == PROBE_YES ? "ok" : "not ok", i + 1,
                         probe_table[i].fact);
        (void)fflush(stdout);
    }
    return failed ? 1 : 0;
}
