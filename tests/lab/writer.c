/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's memory under writing: every page holds what was written to it last, wherever the guest runs.
 *
 *     writer HOT_MIB DENSE_MIB SECONDS [LOOKS]
 *
 * Fills all with contents that do not compress, then stamps HOT_MIB over and over, as fast as it can. Each stamp
 * first checks the one before it; and after each, LOOKS pages of the rest (1) are checked word by word, which makes
 * the writer slower by as much in processor time. Its file `progress` tells passes and faults found so far. When
 * SIGTERM or the time given ends it, all pages are checked once more, which `progress` tells too.
 *
 * Exit 0: nothing was wrong. Static, since guests have no libraries of ours.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, MIB_PAGES = 256 };

static volatile sig_atomic_t ended;
static unsigned long bad;

static void end(int number)
{
    (void)number;
    ended = 1;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t word_of(uint64_t page, unsigned i)
{
    return mix(page << 16 | i);
}

/* The words from `from` on but for as many in the end are what they were in the beginning. */
static void look(const uint64_t *at, uint64_t page, unsigned from)
{
    for (unsigned i = from; i < WORDS - from; i++) {
        if (at[i] != word_of(page, i)) {
            bad++;
            return;
        }
    }
}

static void stamp(uint64_t *at, uint64_t page, uint64_t generation)
{
    uint64_t before = mix(page ^ generation << 40);
    if (generation && (at[0] != before || at[WORDS - 1] != before))
        bad++;
    at[0] = at[WORDS - 1] = mix(page ^ (generation + 1) << 40);
}

static void tell(const char *state, unsigned long passes)
{
    char line[64];
    int len = snprintf(line, sizeof(line), "%s passes %10lu bad %10lu\n", state, passes, bad);
    int fd = open("progress", O_WRONLY | O_CREAT, 0644);
    if (fd < 0 || pwrite(fd, line, (size_t)len, 0) != len) {
        perror("progress");
        exit(2);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    uint64_t hot = strtoull(argv[1], NULL, 10) * MIB_PAGES,
             dense = strtoull(argv[2], NULL, 10) * MIB_PAGES;
    unsigned long looks = argc > 4 ? strtoul(argv[4], NULL, 10) : 1, passes = 0;
    time_t limit = time(NULL) + strtol(argv[3], NULL, 10);
    uint64_t *memory = mmap(NULL, (hot + dense) * PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED || !hot || !dense) {
        perror("writer: memory");
        return 2;
    }
    signal(SIGTERM, end);
    for (uint64_t page = 0; page < hot + dense; page++)
        for (unsigned i = 0; i < WORDS; i++)
            memory[page * WORDS + i] = word_of(page, i);
    for (uint64_t next = 0; !ended && time(NULL) < limit; passes++) {
        for (uint64_t page = 0; page < hot; page++) {
            stamp(memory + page * WORDS, page, passes);
            for (unsigned long n = 0; n < looks; n++, next++)
                look(memory + (hot + next % dense) * WORDS, hot + next % dense, 0);
        }
        tell("working", passes + 1);
    }
    for (uint64_t page = 0; page < hot + dense; page++) {
        look(memory + page * WORDS, page, page < hot);
        if (page < hot)
            stamp(memory + page * WORDS, page, passes);
    }
    tell("ended  ", passes + 1);
    return bad ? 1 : 0;
}
