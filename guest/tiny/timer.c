/*
 * Time: timer interrupts go on, and no clock goes back.
 *
 * In one-shot and deadline mode each interrupt is armed only when the one before it was seen, so a
 * single lost one ends the row. Clocks are read in turn, over and over, and each value compared
 * with the last: the TSC always, kvmclock where CPUID shows it.
 *
 * Parameters: mode = periodic (default), oneshot or deadline; hz (200).
 */
#include "tiny.h"

/* No interrupt for so long, seen at so many readings of the clock, means that it is lost. Both, as
 * this processor may itself have been away. */
enum { LOST_MS = 3000, LOST_READINGS = 1000 };

struct timer {
    enum tiny_timer_mode mode;
    uint64_t period_us;
    uint64_t seen, seen_tsc, readings;
    uint64_t tsc, kvmclock_ns;
    uint64_t ok_seen;
};

static enum tiny_timer_mode mode_arg(void)
{
    if (tiny_arg_is("mode", "oneshot"))
        return TINY_TIMER_ONESHOT;
    if (!tiny_arg_is("mode", "deadline"))
        return TINY_TIMER_PERIODIC;
    if (!tiny_timer_deadline_available())
        tiny_bad("no deadline timer in CPUID");
    return TINY_TIMER_DEADLINE;
}

static void clocks_check(struct timer *t)
{
    uint64_t tsc = tiny_tsc();
    if (tsc < t->tsc)
        tiny_bad("TSC back from %u to %u", t->tsc, tsc);
    t->tsc = tsc;
    if (!tiny_kvmclock_available())
        return;
    uint64_t ns = tiny_kvmclock_ns();
    if (ns < t->kvmclock_ns)
        tiny_bad("kvmclock back from %u to %u ns", t->kvmclock_ns, ns);
    t->kvmclock_ns = ns;
}

static void interrupts_check(struct timer *t)
{
    uint64_t count = tiny_timer_count;
    if (count != t->seen) {
        t->seen = count;
        t->seen_tsc = t->tsc;
        t->readings = 0;
        if (t->mode != TINY_TIMER_PERIODIC)
            tiny_timer_arm_us(t->period_us);
        return;
    }
    if (t->tsc - t->seen_tsc > LOST_MS * tiny_tsc_ms && ++t->readings > LOST_READINGS)
        tiny_bad("no timer interrupt after the first %u", count);
}

void guest_main(void)
{
    uint64_t hz = tiny_arg("hz", 200);
    struct timer t = { .mode = mode_arg(), .period_us = 1000000 / (hz ? hz : 1) };

    tiny_timer_init(t.mode);
    tiny_timer_arm_us(t.period_us);
    t.seen_tsc = tiny_tsc();
    tiny_printf("info kvmclock=%s\n", tiny_kvmclock_available() ? "yes" : "no");
    tiny_ready("timer");
    for (enum tiny_command command; (command = tiny_pulse()) != TINY_STOP;) {
        clocks_check(&t);
        interrupts_check(&t);
        if (command == TINY_CHECK || t.seen - t.ok_seen >= hz) {
            tiny_ok("interrupts=%u", t.seen);
            t.ok_seen = t.seen;
        }
    }
    /* One more must come. */
    for (uint64_t last = t.seen; t.seen == last;) {
        clocks_check(&t);
        interrupts_check(&t);
    }
    tiny_ok("interrupts=%u", t.seen);
}
