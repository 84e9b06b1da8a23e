/*
 * Several processors: each keeps its own memory and registers, and what they share stays coherent.
 *
 * Every processor walks over pages of its own, stamping and checking them as in writer.c, and for
 * each page adds 1 to one counter shared by all with a locked instruction, and to one of its own.
 * On every check the first processor asks all to hold still, compares the sum of their counters
 * with the shared one, and lets them go. One that does not come to the halt, or makes no progress,
 * is named.
 *
 * Parameters: cpus (2, at most 16; APIC ids 0 to cpus - 1); pages = for each processor (1024).
 */
#include "tiny.h"

enum {
    CPUS_MAX = 16,
    TRAMPOLINE = 0x8000,
    STACK_BYTES = 16384,
    SEL_TSS0 = 0x40,
    TSS_RSP0 = 4,
    TSS_PORT_BITMAP = 0x66,
    TSS_BYTES = 0x68,
    APIC_ICR = 0x30,
    APIC_ICR_HIGH = 0x31,
    ICR_INIT = 0x4500,
    ICR_STARTUP = 0x4600,
    START_MS = 5000,
    LOST_MS = 10000,
    CHECK_STEPS = 2000000,
    POLLS_MIN = 1000000,
};

struct processor {
    uint64_t first_page, pages, next, generation;
    volatile uint64_t count;
    volatile bool up, halted;
    bool bad;
    uint64_t bad_page, bad_found, bad_want;
} __attribute__((aligned(64)));

extern const char smp_trampoline[], smp_trampoline_end[];
extern uint32_t smp_next_stack, smp_next_tss;
extern uint64_t tiny_gdt[];
extern uint8_t tiny_x2apic;

static struct processor processors[CPUS_MAX];
static uint8_t stacks[CPUS_MAX][STACK_BYTES] __attribute__((aligned(4096)));
static uint8_t ring0_stacks[CPUS_MAX][4096] __attribute__((aligned(4096)));
static uint8_t tss[CPUS_MAX][128] __attribute__((aligned(128)));
static unsigned cpus;
static volatile unsigned starting;
static volatile bool halt;
static uint64_t shared_count __attribute__((aligned(64)));

_Noreturn void smp_processor_main(void);

static uint64_t stamp_of(uint64_t page, uint64_t generation)
{
    return tiny_mix(page ^ generation << 40);
}

/* One page. A wrong one is only noted: the serial line is the first processor's. */
static void step(struct processor *p)
{
    uint64_t page = p->first_page + p->next, *at = tiny_page(page);
    uint64_t want = p->generation ? stamp_of(page, p->generation) : at[0];
    if (at[0] != want || (p->generation && at[TINY_PAGE_WORDS - 1] != want)) {
        p->bad_page = page;
        p->bad_found = at[0];
        p->bad_want = want;
        p->bad = true;
    }
    at[0] = at[TINY_PAGE_WORDS - 1] = stamp_of(page, p->generation + 1);
    __atomic_fetch_add(&shared_count, 1, __ATOMIC_SEQ_CST);
    p->count++;
    if (++p->next == p->pages) {
        p->next = 0;
        p->generation++;
    }
}

void smp_processor_main(void)
{
    struct processor *p = &processors[starting];
    p->up = true;
    for (;;) {
        if (!halt && !p->bad) {
            p->halted = false;
            step(p);
            continue;
        }
        p->halted = true;
        __asm__ volatile("pause");
    }
}

/* Waits for *flag to become `value`. By time and by turns, as this processor may have been away. */
static bool await(const volatile bool *flag, bool value, uint64_t ms)
{
    uint64_t from = tiny_tsc();
    for (uint64_t polls = 0; *flag != value; polls++) {
        if (polls > POLLS_MIN && tiny_tsc() - from > ms * tiny_tsc_ms)
            return false;
        __asm__ volatile("pause");
    }
    return true;
}

static void ipi(unsigned cpu, uint32_t command)
{
    if (tiny_x2apic) {
        tiny_apic_write(APIC_ICR, (uint64_t)cpu << 32 | command);
        return;
    }
    tiny_apic_write(APIC_ICR_HIGH, cpu << 24);
    tiny_apic_write(APIC_ICR, command);
}

/* No port bitmap: only the first processor uses ports. */
static void tss_make(unsigned cpu)
{
    uint64_t at = (uint64_t)tss[cpu];
    *(uint64_t *)(at + TSS_RSP0) = (uint64_t)ring0_stacks[cpu] + sizeof(ring0_stacks[cpu]);
    *(uint16_t *)(at + TSS_PORT_BITMAP) = TSS_BYTES;
    uint64_t *entry = &tiny_gdt[(SEL_TSS0 + 16 * cpu) / 8];
    entry[0] = (TSS_BYTES - 1) | (at & 0xffffff) << 16 | 0x89ULL << 40 | (at >> 24 & 0xff) << 56;
    entry[1] = at >> 32;
}

static void processor_start(unsigned cpu)
{
    tss_make(cpu);
    starting = cpu;
    smp_next_tss = SEL_TSS0 + 16 * cpu;
    smp_next_stack = (uint32_t)(uint64_t)stacks[cpu] + STACK_BYTES - 8;
    ipi(cpu, ICR_INIT);
    for (uint64_t from = tiny_tsc(); tiny_tsc() - from < 10 * tiny_tsc_ms;)
        __asm__ volatile("pause");
    ipi(cpu, ICR_STARTUP | TRAMPOLINE >> 12);
    if (!await(&processors[cpu].up, true, START_MS))
        tiny_bad("processor %u does not start", (uint64_t)cpu);
}

/* All hold still, are compared, and go on. */
static void check(void)
{
    uint64_t sum = 0;

    halt = true;
    for (unsigned i = 0; i < cpus; i++) {
        struct processor *p = &processors[i];
        if (i && !await(&p->halted, true, LOST_MS))
            tiny_bad("processor %u does not stop", (uint64_t)i);
        if (p->bad)
            tiny_bad("processor %u page %u holds 0x%x, not 0x%x", (uint64_t)i, p->bad_page,
                     p->bad_found, p->bad_want);
        sum += p->count;
    }
    if (sum != shared_count)
        tiny_bad("shared counter at %u, not %u", shared_count, sum);
    halt = false;
    tiny_ok("counted=%u", sum);
    for (unsigned i = 1; i < cpus; i++)
        if (!await(&processors[i].halted, false, LOST_MS))
            tiny_bad("processor %u does not go on after %u", (uint64_t)i, processors[i].count);
}

void guest_main(void)
{
    uint64_t pages = tiny_arg("pages", 1024), wanted = tiny_arg("cpus", 2);

    if (!wanted || wanted > CPUS_MAX || !pages || pages > tiny_pages() / wanted)
        tiny_bad("%u processors with %u pages each cannot be had", wanted, pages);
    cpus = (unsigned)wanted;
    for (unsigned i = 0; i < cpus; i++) {
        processors[i].first_page = i * pages;
        processors[i].pages = pages;
    }
    tiny_timer_init(TINY_TIMER_ONESHOT); /* for the LAPIC; the timer is never armed */
    char *to = (char *)TRAMPOLINE;
    for (const char *from = smp_trampoline; from < smp_trampoline_end; from++)
        *(volatile char *)to++ = *from;
    for (unsigned i = 1; i < cpus; i++)
        processor_start(i);
    tiny_ready("smp");
    for (enum tiny_command command; (command = tiny_pulse()) != TINY_STOP;) {
        step(&processors[0]);
        if (command == TINY_CHECK || processors[0].count % CHECK_STEPS == 0)
            check();
    }
    check();
}
