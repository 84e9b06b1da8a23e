/*
 * godwit-load: what keeps the guest image busy while it is measured.
 *
 * One static program with one load a file: `godwit-load NAME[,KEY=VALUE...]` starts a load in the background and returns
 * once it serves, or has begun its work. A load takes what memory it was told to take, checked beforehand, and no more;
 * its buffers, players and connections have fixed limits. docs/measure.md says what each load is for.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define LOAD_OPTIONS_MAX 4
#define LOAD_PAGE 4096u

struct load_option {
    const char *key;
    uint64_t fallback, min, max;
};

struct load {
    const char *name;
    struct load_option option[LOAD_OPTIONS_MAX]; /* those with a key */
    /* Prepares, calls load_ready(), and works until the process is ended. `value`: one for each option. Returns only
     * when it cannot go on, having said why on stderr; load_redis() also when it is done (0). */
    int (*run)(const uint64_t *value);
};

/* main.c. Says that the load serves, once. */
void load_ready(void);
uint64_t load_now_ns(void);
/* Sleeps until load_now_ns() is `when_ns`; at once when that is past. */
void load_sleep_until(uint64_t when_ns);

/* options.c. */
/* Digits with an optional K, M or G (powers of 1024). 0, or -1. */
int load_parse_number(const char *text, uint64_t *ret);
/* Finds the load that `text`, NAME[,KEY=VALUE...], asks for and fills `value`. NULL, with what is wrong in `why`. */
const struct load *load_parse(const struct load *loads, size_t count, const char *text,
                              uint64_t value[LOAD_OPTIONS_MAX], char *why, size_t size);

/* memory.c. Loads that write to memory. */
int load_muncher(const uint64_t *value); /* size, rate (0 = as fast as it can) */
int load_fill(const uint64_t *value);    /* rate, limit */
/* `bytes` of memory, each page written with what no compression shrinks; NULL, said why: more than is available. */
unsigned char *load_take_memory(uint64_t bytes);
/* Fills a page's worth of bytes; `seed` makes it differ from others. */
void load_fill_page(unsigned char *page, uint64_t seed);

/* Servers, each in a file of its name. */
int load_echo(const uint64_t *value);  /* port */
int load_quake(const uint64_t *value); /* tick_ms, state, packet, port */
int load_redis(const uint64_t *value); /* data, port */
