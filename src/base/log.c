#include "base/log.h"
#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* The one piece of process-wide state below main(): where lines go is a property of the process. */
static struct {
    enum log_level lowest;
    char vm_name[64];
} setup = { .lowest = LOG_INFO };

void log_setup(enum log_level lowest, const char *vm_name)
{
    setup.lowest = lowest;
    (void)snprintf(setup.vm_name, sizeof(setup.vm_name), "%s", vm_name ? vm_name : "");
}

void log_event(enum log_level level, const char *event, const char *fmt, ...)
{
    static const char *const names[LOG_LEVEL_MAX] = { "debug", "info", "warn", "error" };

    if (level < setup.lowest)
        return;
    struct timespec ts;
    struct tm tm;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    (void)gmtime_r(&ts.tv_sec, &tm);

    char line[1024];
    const size_t most = sizeof(line) - 1; /* of text; the newline comes after it */
    size_t len = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
    int n = snprintf(line + len, most - len + 1, ".%03ldZ %s %s%s%s: ", ts.tv_nsec / 1000000,
                     names[level], setup.vm_name, setup.vm_name[0] ? " " : "", event);
    len = MIN(len + (size_t)MAX(n, 0), most);
    va_list ap;
    va_start(ap, fmt);
    n = vsnprintf(line + len, most - len + 1, fmt, ap);
    va_end(ap);
    len = MIN(len + (size_t)MAX(n, 0), most);
    /* Names and reasons come from guests and peers too: none may begin a line or steer a terminal. */
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = '?';
    line[len++] = '\n';
    (void)!write(STDERR_FILENO, line, len); /* nowhere left to report a failure */
}

bool log_rate_pass(struct log_rate *rate, uint32_t *ret_dropped)
{
    uint64_t now = clock_now_ns();
    uint64_t start = atomic_load(&rate->window_ns);

    *ret_dropped = 0;
    if (now - start >= CLOCK_SECOND &&
        atomic_compare_exchange_strong(&rate->window_ns, &start, now)) {
        atomic_store(&rate->in_window, 0);
        *ret_dropped = atomic_exchange(&rate->dropped, 0);
    }
    if (atomic_fetch_add(&rate->in_window, 1) < 10)
        return true;
    atomic_fetch_add(&rate->dropped, 1);
    return false;
}
