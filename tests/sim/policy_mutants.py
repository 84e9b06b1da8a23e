#!/usr/bin/env python3
"""As mutants.py, for the policies: each weakened line must be noticed by the models or by the unit tests.

    policy_mutants.py BUILD_DIR [NAME...]
"""
import os
import sys
import tempfile

from mutants import survives

PROGRAMS = ["tests/sim/policies", "tests/unit/test_policy"]

# name, file in src/move, text (once in the file), what it becomes
MUTANTS = [
    ("link-is-the-goodput", "policy.c", "        ns = MAX(round->send_ns, UINT64_C(1));", "        ;"),
    ("link-is-the-best-round", "policy.c",
     "link[2] == 0 ? low : MIN(high, MAX(low, link[2]))", "link[2] == 0 ? high : MAX(high, link[2])"),
    ("limit-is-forgotten", "policy.c", "    return limit ? MIN(likely, limit) : likely;",
     "    (void)limit;\n    return likely;"),
    ("zero-pages-cost-as-data", "policy.c", "    if (policy->rounds > 1)\n", "    if (0)\n"),
    ("pause-is-free", "policy.c", "    return policy_add(policy_round_ns(policy, pages), fixed);",
     "    (void)fixed;\n    return policy_round_ns(policy, pages);"),
    ("all-are-held-alike", "policy.c", "        if (rate[i] > low)\n", "        if (rate[i])\n"),
    ("a-writer-stands-still", "policy.c", "#define HOLD_MAX UINT64_C(900)", "#define HOLD_MAX UINT64_C(1000)"),
    ("inching-is-progress", "policy_goal.c", "policy->min_left - policy->min_left / 8", "policy->min_left"),
    ("a-wobble-is-a-stall", "policy_goal.c", "#define STALL_ROUNDS 2", "#define STALL_ROUNDS 0"),
    ("tiny-rounds-are-a-stall", "policy_goal.c", "policy->elapsed_ns - policy->min_at_ns >= patience_ns", "true"),
    ("never-a-stall", "policy_goal.c", "    return policy->rounds_since_min >= rounds &&",
     "    return false && rounds &&"),
    ("time-is-not-kept", "policy_goal.c", "    if (limits->max_time_ns)\n        return end_ns > limits->max_time_ns",
     "    if (limits->max_time_ns)\n        return false"),
    ("work-is-not-bounded", "policy_goal.c", "    return many ? POLICY_FACTOR : POLICY_GO;",
     "    return many ? POLICY_GO : POLICY_GO;"),
    ("slows-against-orders", "policy_goal.c", "    if (!policy->limits.allow_throttle || ", "    if ("),
    ("slows-at-once-to-the-least", "policy_goal.c", "    policy->run_permille = (uint32_t)MAX(run, (uint64_t)least);",
     "    policy->run_permille = least;\n    (void)run;"),
    ("slows-without-end", "policy_goal.c", "MAX(run, (uint64_t)least)", "(run > least || 1 ? run : least)"),
    ("never-releases", "policy_goal.c", "    policy->released = true;\n    d->why", "    return;\n    d->why"),
    ("releases-again-and-again", "policy_goal.c", "    policy->released = true;\n", ""),
    ("goes-on-slowed-when-it-fits", "policy_goal.c", "policy->run_permille < POLICY_RUN_ALL || stalled", "stalled"),
    ("strict-is-not", "policy_goal.c", "    else if (policy->limits.strict)\n        d->what = POLICY_ABORT;", ""),
    ("switches-last", "policy_goal.c",
     "    if (policy->limits.allow_switch)\n        d->what = POLICY_SWITCH;\n    else if", "    if"),
    ("does-not-wait", "policy_goal.c", "limits->strict || !limits->max_time_ns) {", "limits->strict || 1) {"),
    ("takes-no-dip", "policy_goal.c", "        stop(d, POLICY_LEVEL);\n}\n\nstatic void judge",
     "        ;\n}\n\nstatic void judge"),
    ("clark-adds-nothing", "policy_clark05.c", "#define STEP (UINT64_C(50000000) / 8)", "#define STEP UINT64_C(0)"),
    ("clark-stops-late", "policy_clark05.c", "    else if (rate > limits->rate_max)\n        stop(d, POLICY_RATE);",
     ""),
    ("clark-stops-early", "policy_clark05.c", "UINT64_C(256) << 10", "UINT64_C(512) << 10"),
    ("clark-goes-below-its-minimum", "policy_clark05.c", "        d->rate = MAX(rate, limits->rate_min);",
     "        d->rate = rate;"),
    ("clark-ends-slowly", "policy_clark05.c", "    d->rate = limits->rate_max;", "    d->rate = limits->rate_min;"),
    ("clark-has-no-bound", "policy_clark05.c", "#define MAX_ROUNDS 29", "#define MAX_ROUNDS 290"),
]


def main():
    build = os.path.realpath(sys.argv[1])
    source = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
    failed = 0
    for mutant in MUTANTS:
        if sys.argv[2:] and mutant[0] not in sys.argv[2:]:
            continue
        whys = []
        for program in PROGRAMS:
            with tempfile.TemporaryDirectory() as scratch:
                why = survives(build, source, mutant, scratch, program)
            if not why:
                break
            whys.append(why)
        else:
            failed += 1
            print(f"SURVIVES  {mutant[0]}: {'; '.join(whys)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
