/*
 * What is asked for, when it is not always the same: a weighted list, from the command line.
 *
 * For HTTP an item is KIND:WEIGHT:PATH, KIND being `http`, `static`, `dynamic` (all of them GET) or `post`; each {A-B}
 * in the path is a number from A to B, drawn anew each time. For Redis it is WHAT:WEIGHT, of `ping`, `get`, `set`.
 */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include <stdint.h>

#define MIX_MAX 64
#define MIX_PATH_MAX 512

enum mix_what {
    MIX_HTTP,
    MIX_STATIC,
    MIX_DYNAMIC,
    MIX_POST,
    MIX_PING,
    MIX_GET,
    MIX_SET,
    MIX_WHAT_MAX
};

struct mix_item {
    enum mix_what what;
    uint32_t weight;
    char path[MIX_PATH_MAX];
};

struct mix {
    struct mix_item items[MIX_MAX];
    uint32_t count;
    uint64_t weights; /* their sum; at least 1 */
};

int mix_parse_http(struct mix *mix, const char *text, struct err *err) MUST_CHECK;
int mix_parse_resp(struct mix *mix, const char *text, struct err *err) MUST_CHECK;

/* A mix of this one path. */
int mix_path(struct mix *mix, const char *path, struct err *err) MUST_CHECK;

const char *mix_name(enum mix_what what);

/* The next of a sequence that the seed determines. */
uint64_t mix_random(uint64_t *seed);

/* Which item is next. */
uint32_t mix_choose(const struct mix *mix, uint64_t *seed);

/* The item's path with its numbers drawn. */
void mix_put_path(struct buf *out, const struct mix_item *item, uint64_t *seed);
