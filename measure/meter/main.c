/*
 * godwit-meter: what a process, its threads and its host use, ten times a second (docs/measure.md).
 */
#include "base/clock.h"
#include "base/fd.h"
#include "sampler.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define PRIORITY (-10) /* nice(2) */

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NEVER_CAME = 3 };

static const char help[] =
    "Usage: godwit-meter (--pid PID | --program NAME | --wait-for NAME) [OPTIONS]\n"
    "       godwit-meter clock\n"
    "\n"
    "Samples a process, its threads, its TCP connections and the host, a JSON object a line,\n"
    "until SIGTERM or SIGINT: docs/measure.md has the format.\n"
    "\n"
    "  --pid PID          the process of this number\n"
    "  --program NAME     the process of this name or title, in this network namespace\n"
    "  --wait-for NAME    the same; samples the host alone until there is one\n"
    "  --interval TIME    from sample to sample (100ms)\n"
    "  --for TIME         end by itself after so long\n"
    "  --interfaces LIST  names between commas (all that there are)\n"
    "  -o, --output FILE  where to write (standard output)\n"
    "  -h, --help\n"
    "\n"
    "TIME is a number with us, ms, s or min. How long exactly so many threads ran at once is told\n"
    "to root, or with CAP_PERFMON.\n"
    "\n"
    "`clock` answers each line of its input with CLOCK_MONOTONIC and CLOCK_REALTIME in nanoseconds.\n"
    "\n"
    "Exit status: 0 measured, 1 failed, 2 wrong use, 3 the process waited for never came.\n";

PRINTF(1, 2) static int usage_error(const char *fmt, ...)
{
    va_list args;
    (void)fputs("godwit-meter: ", stderr);
    va_start(args, fmt);
    (void)vfprintf(stderr, fmt, args);
    va_end(args);
    (void)fputs("; see godwit-meter --help\n", stderr);
    return EXIT_USAGE;
}

/* A whole number of at least 1, with nothing behind it but what *ret_end says. */
static bool parse_number(const char *text, uint64_t most, uint64_t *ret, const char **ret_end)
{
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        value = value * 10 + (uint64_t)(*at - '0');
        if (value > most)
            return false;
    }
    if (at == text || !value)
        return false;
    *ret = value;
    *ret_end = at;
    return true;
}

static bool parse_time(const char *text, uint64_t *ret_ns)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {
        { "us", 1000 }, { "ms", CLOCK_MSEC }, { "s", CLOCK_SECOND }, { "min", 60 * CLOCK_SECOND }
    };
    uint64_t value;
    const char *end;
    if (!parse_number(text, 1000000000, &value, &end))
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(units); i++) {
        if (!strcmp(end, units[i].name)) {
            *ret_ns = value * units[i].ns;
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------------------------------------- clock */

static int print_clocks(void)
{
    char line[64];
    uint64_t monotonic = clock_now_ns(), wall = clock_wall_ns();
    int len = snprintf(line, sizeof(line), "%llu %llu\n", (unsigned long long)monotonic,
                       (unsigned long long)wall);
    return fd_write_full(STDOUT_FILENO, line, (size_t)len);
}

static int serve_clock(void)
{
    char input[256];
    for (;;) {
        ssize_t n = read(STDIN_FILENO, input, sizeof(input));
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            return 0;
        int rc = n < 0 ? -errno : 0;
        for (ssize_t i = 0; i < n && !rc; i++)
            rc = input[i] == '\n' ? print_clocks() : 0;
        if (rc) {
            (void)fprintf(stderr, "godwit-meter: clock: %s\n", strerror(-rc));
            return EXIT_FAILED;
        }
    }
}

/* ------------------------------------------------------------------------------- sampling */

static int sample(const struct sampler_options *options)
{
    struct err err = { 0 };
    bool came;
    /* On a busy host: samples in time, and no records of switches lost. Where it may not, they are as they are. */
    (void)setpriority(PRIO_PROCESS, 0, PRIORITY);
    if (sampler_run(options, &came, &err)) {
        (void)fprintf(stderr, "godwit-meter: %s\n", err.text);
        return EXIT_FAILED;
    }
    if (!came) {
        (void)fprintf(stderr, "godwit-meter: no process named %s came\n", options->name);
        return EXIT_NEVER_CAME;
    }
    return 0;
}

int main(int argc, char **argv)
{
    enum { PID = 256, PROGRAM, WAIT_FOR, INTERVAL, FOR, INTERFACES };
    static const struct option long_options[] = {
        { "pid", required_argument, NULL, PID },
        { "program", required_argument, NULL, PROGRAM },
        { "wait-for", required_argument, NULL, WAIT_FOR },
        { "interval", required_argument, NULL, INTERVAL },
        { "for", required_argument, NULL, FOR },
        { "interfaces", required_argument, NULL, INTERFACES },
        { "output", required_argument, NULL, 'o' },
        { "help", no_argument, NULL, 'h' },
        { 0 },
    };
    struct sampler_options options = { .interval_ns = 100 * CLOCK_MSEC, .for_ns = CLOCK_NEVER };
    uint64_t number;
    const char *end;
    unsigned chosen = 0;

    if (argc == 2 && !strcmp(argv[1], "clock"))
        return serve_clock();
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, ":o:h", long_options, NULL)) != -1;) {
        switch (option) {
        case PID:
            if (!parse_number(optarg, 1 << 22, &number, &end) || *end)
                return usage_error("--pid %s is not the number of a process", optarg);
            options.pid = (pid_t)number;
            chosen++;
            break;
        case PROGRAM:
        case WAIT_FOR:
            if (!*optarg)
                return usage_error("a process has a name");
            options.name = optarg;
            options.wait = option == WAIT_FOR;
            chosen++;
            break;
        case INTERVAL:
            if (!parse_time(optarg, &options.interval_ns) || options.interval_ns < CLOCK_MSEC)
                return usage_error("--interval %s is not a time of 1ms or more", optarg);
            break;
        case FOR:
            if (!parse_time(optarg, &options.for_ns))
                return usage_error("--for %s is not a time as 10s, 300ms", optarg);
            break;
        case INTERFACES:
            options.interfaces = optarg;
            break;
        case 'o':
            options.output = optarg;
            break;
        case 'h':
            return fputs(help, stdout) < 0 || fflush(stdout) ? EXIT_FAILED : 0;
        case ':':
            return usage_error("%s wants a value", argv[optind - 1]);
        default:
            return usage_error("there is no option %s", argv[optind - 1]);
        }
    }
    if (optind < argc)
        return usage_error("%s: not expected", argv[optind]);
    if (chosen != 1)
        return usage_error("one of --pid, --program, --wait-for says what to measure");
    return sample(&options);
}
