#include "options.h"
#include "base/clock.h"
#include "cmd/parse.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>

static const char *const kind_names[] = {
    [PROBE_HTTP] = "http",         [PROBE_TCP] = "tcp",   [PROBE_UDP] = "udp",
    [PROBE_RESP] = "resp",         [PROBE_ICMP] = "icmp", [PROBE_STREAM] = "stream",
    [PROBE_ARRIVALS] = "arrivals",
};
static_assert(ARRAY_LEN(kind_names) == PROBE_KIND_MAX, "a name each");

const char *probe_kind_name(enum probe_kind kind)
{
    return kind_names[kind];
}

#define HTTP (1U << PROBE_HTTP)
#define TCP (1U << PROBE_TCP)
#define UDP (1U << PROBE_UDP)
#define RESP (1U << PROBE_RESP)
#define ICMP (1U << PROBE_ICMP)
#define STREAM (1U << PROBE_STREAM)
#define ARRIVALS (1U << PROBE_ARRIVALS)
#define ALL ((1U << PROBE_KIND_MAX) - 1)

enum value {
    VALUE_COUNT,
    VALUE_DURATION,
    VALUE_SIZE,
    VALUE_RATE,
    VALUE_TEXT,
    VALUE_CPU,
    VALUE_FLAG
};

struct option_row {
    const char *name, *label;
    enum value value;
    size_t offset; /* in struct options: a uint64_t, const char *, int64_t or bool */
    uint64_t least, most;
    unsigned kinds;
    const char *help;
};

#define AT(field) offsetof(struct options, field)
static const struct option_row rows[] = {
    { "rate", "N", VALUE_COUNT, AT(rate_per_s), 1, 1000000, ALL & ~STREAM,
      "so many requests a second (10); arrivals: inputs, of all players" },
    { "connections", "N", VALUE_COUNT, AT(connections), 1, 10000, ALL & ~ICMP,
      "connections, sockets or players (4)" },
    { "timeout", "TIME", VALUE_DURATION, AT(timeout_ns), CLOCK_MSEC, 3600 * CLOCK_SECOND,
      ALL & ~ARRIVALS,
      "give a request up after so long (5s); stream: a connection without a byte" },
    { "for", "TIME", VALUE_DURATION, AT(for_ns), 1, CLOCK_NEVER - 1, ALL,
      "end after so long (when told to)" },
    { "limit", "N", VALUE_COUNT, AT(limit), 1, UINT64_MAX, ALL & ~(STREAM | ARRIVALS),
      "end after so many requests (none)" },
    { "path", "PATH", VALUE_TEXT, AT(path), 0, 0, HTTP | STREAM, "what to GET (/)" },
    { "mix", "LIST", VALUE_TEXT, AT(mix_text), 0, 0, HTTP | RESP,
      "http: KIND:WEIGHT:PATH,... with KIND http, static, dynamic, post; {A-B} in a path is a number;\n"
      "                       resp: ping:WEIGHT,get:WEIGHT,set:WEIGHT (ping:1)" },
    { "body", "SIZE", VALUE_SIZE, AT(body_bytes), 32, 1 << 20, HTTP, "what a post carries (256)" },
    { "expect", "TEXT", VALUE_TEXT, AT(expect), 0, 0, HTTP,
      "the answer's whole body; another is bad" },
    { "size", "SIZE", VALUE_SIZE, AT(size_bytes), 16, 65000, TCP | UDP | ICMP,
      "what an echo carries (64)" },
    { "key", "PREFIX", VALUE_TEXT, AT(key), 0, 0, RESP, "the server's own keys, PREFIX0 and on" },
    { "keys", "N", VALUE_COUNT, AT(keys), 1, UINT32_MAX, RESP,
      "so many keys, probe:SIZE:0 and on (1000)" },
    { "value", "SIZE", VALUE_SIZE, AT(value_bytes), 0, 1 << 20, RESP, "what a set carries (100)" },
    { "bandwidth", "RATE", VALUE_RATE, AT(bandwidth), 1, UINT64_MAX, STREAM,
      "read no faster than this, all connections together (as fast as it goes)" },
    { "out", "FILE", VALUE_TEXT, AT(out), 0, 0, ALL, "the rows, CSV (-: standard output)" },
    { "facts", "FILE", VALUE_TEXT, AT(facts), 0, 0, ALL,
      "what the probe says of itself, JSON (not written)" },
    { "late", "FILE", VALUE_TEXT, AT(late), 0, 0, ALL & ~STREAM,
      "how late its timer was, each time, CSV (not written)" },
    { "pin", "CPU", VALUE_CPU, AT(pin), 0, 1023, ALL, "stay on this processor" },
    { "priority", NULL, VALUE_FLAG, AT(priority), 0, 0, ALL,
      "before everybody else on it (SCHED_FIFO), where that is allowed" },
    { "spin", "TIME", VALUE_DURATION, AT(spin_ns), 0, CLOCK_SECOND, ALL,
      "wake up so much earlier and wait awake: less late, more CPU (0)" },
    { "seed", "N", VALUE_COUNT, AT(seed), 0, UINT64_MAX, HTTP | RESP, "of the mix (1)" },
};

void options_help(FILE *out)
{
    (void)fputs(
        "Usage: godwit-probe KIND TARGET [OPTION...]\n\n"
        "Asks a server at a fixed rate, whatever became of earlier requests, and writes a row for each: latency\n"
        "counts from when a request was due.\n\n"
        "  http HOST:PORT      GET over kept connections, or a mix with POST\n"
        "  tcp HOST:PORT       echo over kept connections\n"
        "  udp HOST:PORT       echo\n"
        "  resp HOST:PORT      Redis: a mix of PING, GET and SET\n"
        "  icmp HOST           echo (as root, or where net.ipv4.ping_group_range allows it)\n"
        "  stream HOST:PORT    downloads over and over; a row a tenth of a second and connection\n"
        "  arrivals HOST:PORT  joins a tick server; a row a packet that comes\n\n",
        out);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char head[32];
        (void)snprintf(head, sizeof(head), "--%s %s", rows[i].name,
                       rows[i].label ? rows[i].label : "");
        (void)fprintf(out, "  %-20s %s\n", head, rows[i].help);
    }
    (void)fputs(
        "\nTimes are 300ms, 10s; sizes 512K; rates 100Mbit/s, 4MB/s.\n"
        "SIGTERM or SIGINT ends it: answers have one more second to come. Exit status: 0, also when requests failed;\n"
        "1: it could not run or write; 2: a mistake on the command line. The rows: docs/measure.md.\n",
        out);
}

static const struct option_row *find(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (strlen(rows[i].name) == len && strncmp(rows[i].name, name, len) == 0)
            return &rows[i];
    return NULL;
}

static int set(struct options *options, const struct option_row *row, const char *text,
               struct err *err)
{
    void *field = (char *)options + row->offset;
    uint64_t number = 0;
    int rc = 0;
    switch (row->value) {
    case VALUE_FLAG:
        *(bool *)field = true;
        return 0;
    case VALUE_TEXT:
        *(const char **)field = text;
        return 0;
    case VALUE_COUNT:
    case VALUE_CPU:
        rc = parse_count(text, &number, err);
        break;
    case VALUE_DURATION:
        rc = parse_duration(text, &number, err);
        break;
    case VALUE_SIZE:
        rc = parse_size(text, &number, err);
        break;
    case VALUE_RATE:
        rc = parse_rate(text, &number, err);
        break;
    }
    if (rc)
        return err_wrap(err, rc, "--%s", row->name);
    if (number < row->least || number > row->most)
        return err_set(err, ERR_CALLER, EINVAL, "--%s: '%.40s' is too %s", row->name, text,
                       number < row->least ? "small" : "large");
    if (row->value == VALUE_CPU)
        *(int64_t *)field = (int64_t)number;
    else
        *(uint64_t *)field = number;
    return 0;
}

/* One option and, where it is a word of its own, its value: *at moves on. */
static int read_option(struct options *options, int argc, char **argv, int *at, struct err *err)
{
    const char *name = argv[*at] + 2, *equals = strchr(name, '=');
    const struct option_row *row = find(name, equals ? (size_t)(equals - name) : strlen(name));
    if (!row)
        return err_set(err, ERR_CALLER, EINVAL, "unknown option '%.80s'", argv[*at]);
    if (!(row->kinds & 1U << options->kind))
        return err_set(err, ERR_CALLER, EINVAL, "--%s means nothing to %s", row->name,
                       kind_names[options->kind]);
    if (row->value == VALUE_FLAG)
        return equals ? err_set(err, ERR_CALLER, EINVAL, "--%s takes no value", row->name)
                      : set(options, row, NULL, err);
    if (!equals && *at + 1 >= argc)
        return err_set(err, ERR_CALLER, EINVAL, "--%s wants a value: %s", row->name, row->label);
    return set(options, row, equals ? equals + 1 : argv[++*at], err);
}

static int resolve(struct options *options, struct err *err)
{
    char host[PARSE_HOST_MAX], service[8];
    uint16_t port = 0;
    if (options->kind == PROBE_ICMP) {
        if (strlen(options->target) >= sizeof(host))
            return err_set(err, ERR_CALLER, EINVAL, "'%.80s' is no host", options->target);
        (void)snprintf(host, sizeof(host), "%s", options->target);
    } else {
        int rc = parse_address(options->target, host, &port, err);
        if (rc)
            return rc;
    }
    if (!host[0] || (options->kind != PROBE_ICMP && port == 0))
        return err_set(err, ERR_CALLER, EINVAL, "'%.80s' does not name a host%s", options->target,
                       options->kind == PROBE_ICMP ? "" : " and a port");
    struct addrinfo hints = { .ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICSERV },
                    *found = NULL;
    (void)snprintf(service, sizeof(service), "%u", port);
    int failed = getaddrinfo(host, service, &hints, &found);
    if (failed)
        return err_set(err, ERR_HOST, EHOSTUNREACH, "%s: %s", host, gai_strerror(failed));
    memcpy(&options->address, found->ai_addr, found->ai_addrlen);
    options->address_len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static int read_mix(struct options *options, struct err *err)
{
    if (options->path && options->mix_text)
        return err_set(err, ERR_CALLER, EINVAL, "either --path or --mix");
    int rc = 0;
    if (options->kind == PROBE_RESP)
        rc = mix_parse_resp(&options->mix, options->mix_text ? options->mix_text : "ping:1", err);
    else if (options->mix_text)
        rc = mix_parse_http(&options->mix, options->mix_text, err);
    else
        rc = mix_path(&options->mix, options->path ? options->path : "/", err);
    return rc ? err_wrap(err, rc, options->mix_text ? "--mix" : "--path") : 0;
}

int options_read(struct options *options, int argc, char **argv, bool *ret_help, struct err *err)
{
    const char *words[2] = { NULL, NULL };
    int rc, at;
    *options = (struct options){
        .rate_per_s = 10,
        .connections = 4,
        .limit = UINT64_MAX,
        .timeout_ns = 5 * CLOCK_SECOND,
        .for_ns = CLOCK_NEVER,
        .out = "-",
        .pin = -1,
        .seed = 1,
        .body_bytes = 256,
        .size_bytes = 64,
        .keys = 1000,
        .value_bytes = 100,
    };
    *ret_help = false;
    for (at = 1; at < argc; at++)
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
            *ret_help = true;
            return 0;
        }
    for (at = 1; at < argc && at < 3 && argv[at][0] != '-'; at++)
        words[at - 1] = argv[at];
    for (options->kind = 0; words[0] && strcmp(words[0], kind_names[options->kind]) != 0;)
        if (++options->kind == PROBE_KIND_MAX)
            return err_set(err, ERR_CALLER, EINVAL, "no kind '%.40s': --help lists them", words[0]);
    if (!words[1])
        return err_set(err, ERR_CALLER, EINVAL, "wants a kind and a target: --help says more");
    options->target = words[1];
    for (; at < argc; at++) {
        if (strncmp(argv[at], "--", 2) != 0)
            return err_set(err, ERR_CALLER, EINVAL, "one target is enough: '%.80s'", argv[at]);
        if ((rc = read_option(options, argc, argv, &at, err)))
            return rc;
    }
    if (options->kind == PROBE_ICMP)
        options->connections = 1;
    if ((rc = read_mix(options, err)))
        return rc;
    if ((__uint128_t)options->rate_per_s * options->timeout_ns / CLOCK_SECOND > 1000000)
        return err_set(err, ERR_CALLER, EINVAL,
                       "--rate times --timeout: more than a million requests at once");
    return resolve(options, err);
}
