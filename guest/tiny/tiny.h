/*
 * What a tiny guest can rely on. All of it runs in ring 3 on one processor (smp.c: its other
 * processors call only tiny_ring0() and the inline functions).
 *
 * A guest is one C file with guest_main(). It prints, on the serial line:
 *     ready NAME      once set up
 *     tick N          as long as it makes progress, about every `tick=` milliseconds (50)
 *     ok N ...        when a pass of verification found everything right
 *     BAD ...         at the first wrong value; it then switches off
 *     done ok         after the line `stop` and a last verification; it then switches off
 * The line `check` asks for a verification now. Parameters are `key=value` words of the command
 * line.
 */
#ifndef TINY_H
#define TINY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TINY_PAGE_BYTES = 4096, TINY_PAGE_WORDS = TINY_PAGE_BYTES / 8 };

/* The guest itself. When it returns, tiny.c prints `done ok` and switches off. */
void guest_main(void);

/* --- tiny.c: memory, parameters, ring 0 --- */

/* RAM that is neither the guest's image nor below 1 MiB, as a row of pages; mapped one to one. */
uint64_t tiny_pages(void);
uint64_t *tiny_page(uint64_t index);

/* Makes device registers at `gpa` reachable, uncached. Any physical address below 512 GiB. */
void tiny_map_device(uint64_t gpa);

/* Value of a numeric parameter (decimal or 0x; suffix K, M or G), or `fallback`. */
uint64_t tiny_arg(const char *key, uint64_t fallback);
/* Whether the parameter is there with just this value. */
bool tiny_arg_is(const char *key, const char *value);

/* Sets an IDT gate that ring 3 may not call. */
void tiny_gate_set(unsigned vector, const void *handler);

/* Runs a stub of start.S in ring 0. Slow (some 10 us) where ring 0 is emulated. */
uint64_t tiny_ring0(const void *stub, uint64_t a, uint64_t b, uint64_t c);
extern const char ring0_rdmsr[], ring0_wrmsr[], ring0_cpuid[], ring0_halt[], ring0_xsetbv[],
    ring0_get_dr[], ring0_set_dr[], tiny_timer_isr[];

struct tiny_cpuid {
    uint32_t eax, ebx, ecx, edx;
};
struct tiny_cpuid tiny_cpuid(uint32_t leaf, uint32_t subleaf);

/* --- tiny-console.c: 16550 at 0x3f8, polled --- */

void tiny_console_init(void);
int tiny_getc(void); /* next byte of input, or -1 */
void tiny_putc(char c);
/* %s, %c, %u and %x; both numbers are uint64_t. */
void tiny_printf(const char *format, ...);
_Noreturn void tiny_bad(const char *format, ...);
_Noreturn void tiny_off(void);

enum tiny_command { TINY_NONE, TINY_CHECK, TINY_STOP };
/* Prints `ready NAME` and starts the ticks. */
void tiny_ready(const char *name);
/* Call it often, it is cheap: when a tick is due, prints it and reads input. Returns a command,
 * once. */
enum tiny_command tiny_pulse(void);
/* Prints `ok N ` and the rest. */
void tiny_ok(const char *format, ...);

/* --- tiny-clock.c: TSC, kvmclock, LAPIC timer --- */

void tiny_clock_init(void);
/* TSC ticks of a millisecond: exact if kvmclock tells, else a guess good enough for pacing. */
extern uint64_t tiny_tsc_ms;
bool tiny_kvmclock_available(void);
uint64_t tiny_kvmclock_ns(void);

/* LAPIC timer on vector 0x40; every interrupt adds 1 to tiny_timer_count. */
enum tiny_timer_mode { TINY_TIMER_ONESHOT, TINY_TIMER_PERIODIC, TINY_TIMER_DEADLINE };
extern volatile uint64_t tiny_timer_count;
void tiny_timer_init(enum tiny_timer_mode mode);
bool tiny_timer_deadline_available(void);
/* Periodic: the period. One-shot and deadline: from now, once. */
void tiny_timer_arm_us(uint64_t us);
void tiny_apic_write(unsigned reg, uint64_t value); /* register number as in x2APIC, 0x00..0x3f */

/* --- inline --- */

static inline uint64_t tiny_tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void tiny_out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t tiny_in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* A good mixing of 64 bits (the finaliser of splitmix64), so that contents do not compress. */
static inline uint64_t tiny_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

#endif
