/* The command line of godwit-probe. */
#pragma once
#include "base/err.h"
#include "mix.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

enum probe_kind {
    PROBE_HTTP,
    PROBE_TCP,
    PROBE_UDP,
    PROBE_RESP,
    PROBE_ICMP,
    PROBE_STREAM,
    PROBE_ARRIVALS,
    PROBE_KIND_MAX
};
const char *probe_kind_name(enum probe_kind kind);

struct options {
    enum probe_kind kind;
    const char *target; /* as given */
    struct sockaddr_storage address;
    socklen_t address_len;
    uint64_t rate_per_s, connections, limit; /* limit: UINT64_MAX = none */
    uint64_t timeout_ns, for_ns;             /* for_ns: CLOCK_NEVER = until told to end */
    uint64_t spin_ns;
    const char *out, *facts, *late; /* facts, late: NULL = none */
    int64_t pin;                    /* -1 = nowhere */
    bool priority;
    uint64_t seed;
    const char *path, *mix_text, *expect, *key; /* NULL = not given */
    uint64_t body_bytes, size_bytes, keys, value_bytes;
    uint64_t bandwidth; /* bytes a second; 0 = as fast as it goes */
    struct mix mix;
};

/* 0; -EINVAL: the user's mistake, in `err`; another error: the target's name cannot be resolved.
 * *ret_help: print the help instead of doing anything. */
int options_read(struct options *options, int argc, char **argv, bool *ret_help,
                 struct err *err) MUST_CHECK;
void options_help(FILE *out);
