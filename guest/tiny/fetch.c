/*
 * Waiting for memory: how long a load takes that has to fetch its page, as the guest sees it.
 *
 * RAM is a row of `dense=` bytes, each page filled with contents of its own. The guest watches the clock. When
 * it has stood still for `still=` microseconds (2000), it may have been moved: it loads one word of every page, in
 * an order that is no order, checks it, and times each load. A load that took longer than `long=` nanoseconds (4000)
 * counts as one that waited. A sweep with at least `least=` such loads (50) is told:
 *
 *     ok N pages=P waits=W p50=NS p90=NS p99=NS max=NS
 */
#include "tiny.h"

enum { TIMES = 1 << 15 };

static uint32_t times[TIMES]; /* waits, by 100 ns */

static uint64_t word_of(uint64_t page)
{
    return tiny_mix(page * 0x9e3779b97f4a7c15 + 1);
}

static uint64_t ns_of(uint64_t ticks)
{
    return ticks * 1000 / (tiny_tsc_ms / 1000);
}

static uint64_t percentile(uint64_t waits, uint64_t percent)
{
    uint64_t seen = 0;
    for (uint64_t i = 0; i < TIMES; i++) {
        seen += times[i];
        if (seen * 100 >= waits * percent)
            return i * 100;
    }
    return (uint64_t)TIMES * 100;
}

/* A step that is prime to every number of pages there can be: each page comes once. */
static void sweep(uint64_t pages, uint64_t long_ns, uint64_t least)
{
    const uint64_t step = 1000003;
    uint64_t waits = 0, most = 0, page = 0;
    for (uint64_t i = 0; i < TIMES; i++)
        times[i] = 0;
    for (uint64_t i = 0; i < pages; i++, page = (page + step) % pages) {
        volatile uint64_t *at = tiny_page(page);
        uint64_t begin = tiny_tsc();
        uint64_t found = at[7];
        uint64_t ns = ns_of(tiny_tsc() - begin);
        if (found != word_of(page))
            tiny_bad("page %u holds 0x%x, not 0x%x", page, found, word_of(page));
        if (ns <= long_ns)
            continue;
        waits++;
        most = ns > most ? ns : most;
        times[ns / 100 < TIMES ? ns / 100 : TIMES - 1]++;
    }
    if (waits >= least)
        tiny_ok("pages=%u waits=%u p50=%u p90=%u p99=%u max=%u", pages, waits,
                percentile(waits, 50), percentile(waits, 90), percentile(waits, 99), most);
}

void guest_main(void)
{
    uint64_t pages = tiny_arg("dense", 1 << 24) / TINY_PAGE_BYTES;
    uint64_t long_ns = tiny_arg("long", 4000), least = tiny_arg("least", 50);
    uint64_t still_ns = tiny_arg("still", 2000) * 1000;
    if (pages > tiny_pages())
        pages = tiny_pages();
    tiny_printf("info ram=%u dense=%u pages\n", tiny_pages(), pages);
    for (uint64_t page = 0; page < pages; page++)
        for (unsigned i = 0; i < TINY_PAGE_WORDS; i++)
            tiny_page(page)[i] = i == 7 ? word_of(page) : tiny_mix(page << 9 ^ i);
    tiny_ready("fetch");
    uint64_t last = tiny_tsc();
    for (;;) {
        uint64_t now = tiny_tsc();
        bool stood_still = ns_of(now - last) > still_ns;
        last = now;
        enum tiny_command command = tiny_pulse();
        if (command == TINY_STOP)
            break;
        if (stood_still || command == TINY_CHECK) {
            sweep(pages, long_ns, command == TINY_CHECK ? 0 : least);
            last = tiny_tsc();
        }
    }
    sweep(pages, long_ns, 0);
}
