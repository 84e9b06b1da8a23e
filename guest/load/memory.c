/*
 * Loads that write to memory: `muncher`, the writer that no link keeps up with, and `fill`, a guest that grows.
 *
 * Pages begin with pseudo-random bytes, so that what travels cannot be told from real data by being empty. Then a word in
 * each is enough to make it dirty.
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RESERVE_BYTES (16ull << 20) /* left to everything else */
#define TURN_NS 10000000ull         /* paced work comes in portions of so long */

void load_fill_page(unsigned char *page, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
    for (unsigned i = 0; i < LOAD_PAGE; i += sizeof(x)) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(page + i, &x, sizeof(x));
    }
}

static uint64_t available_bytes(void)
{
    char line[128];
    unsigned long long kilobytes = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1)
            break;
    if (file)
        fclose(file);
    return kilobytes * 1024;
}

/* Address space for `bytes`, nothing of it touched. NULL: said why. */
static unsigned char *reserve(uint64_t bytes)
{
    uint64_t available = available_bytes();
    if (bytes + RESERVE_BYTES > available) {
        fprintf(stderr,
                "godwit-load: %llu MiB are too many: %llu MiB are available, and some must stay\n",
                (unsigned long long)(bytes >> 20), (unsigned long long)(available >> 20));
        return NULL;
    }
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "godwit-load: no memory: %s\n", strerror(errno));
        return NULL;
    }
    return memory;
}

unsigned char *load_take_memory(uint64_t bytes)
{
    unsigned char *memory = reserve(bytes);
    for (uint64_t at = 0; memory && at < bytes; at += LOAD_PAGE)
        load_fill_page(memory + at, at / LOAD_PAGE);
    return memory;
}

/* How many pages a pace of `rate` bytes a second owes `elapsed_ns` after it began. */
static uint64_t owed_pages(uint64_t rate, uint64_t elapsed_ns)
{
    return (uint64_t)((double)rate / LOAD_PAGE * ((double)elapsed_ns / 1e9));
}

int load_muncher(const uint64_t *value)
{
    uint64_t pages = value[0] / LOAD_PAGE, rate = value[1], written = 0;
    unsigned char *memory = load_take_memory(pages * LOAD_PAGE);
    if (!memory)
        return -1;
    load_ready();
    uint64_t began = load_now_ns(), turn = began;
    for (;;) {
        uint64_t until = rate ? owed_pages(rate, turn - began) : written + pages;
        /* What a stall kept from being written is not made up for: pages beyond one sweep are let go. */
        if (until - written > pages)
            written = until - pages;
        for (; written < until; written++)
            *(volatile uint64_t *)(void *)(memory + written % pages * LOAD_PAGE) = written;
        if (rate) {
            load_sleep_until(turn + TURN_NS);
            turn = load_now_ns();
        }
    }
}

int load_fill(const uint64_t *value)
{
    uint64_t rate = value[0], pages = value[1] / LOAD_PAGE, taken = 0;
    unsigned char *memory = reserve(pages * LOAD_PAGE);
    if (!memory)
        return -1;
    load_ready();
    for (uint64_t began = load_now_ns(), turn = began; taken < pages; turn = load_now_ns()) {
        for (uint64_t until = owed_pages(rate, turn - began); taken < until && taken < pages;
             taken++)
            load_fill_page(memory + taken * LOAD_PAGE, taken);
        load_sleep_until(turn + 10 * TURN_NS);
    }
    for (;;)
        pause(); /* it keeps them */
}
