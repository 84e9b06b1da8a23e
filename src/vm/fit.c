#include "vm/fit.h"
#include "base/fd.h"
#include "vm/cpuid.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fit_add(struct fit_report *report, const char *fact, const char *fmt, ...)
{
    if (report->count == FIT_REASONS_MAX)
        return;
    struct fit_reason *reason = &report->reason[report->count++];
    (void)snprintf(reason->fact, sizeof(reason->fact), "%s", fact);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(reason->text, sizeof(reason->text), fmt, ap);
    va_end(ap);
}

static void cpu_lacks(void *arg, const char *what)
{
    fit_add(arg, "cpu", "this host's CPU lacks %s", what);
}

static void check_memory(const struct machine_config *config, struct fit_report *report)
{
    CLEANUP_FREE char *text = NULL;
    size_t len;
    if (fd_read_file("/proc/meminfo", 1 << 16, &text, &len) < 0)
        return; /* an unknown is no reason to refuse; running out later fails the move cleanly */
    const char *line = strstr(text, "MemAvailable:");
    uint64_t available =
        line ? strtoull(line + strlen("MemAvailable:"), NULL, 10) << 10 : UINT64_MAX;
    if (available < config->memory_bytes)
        fit_add(report, "memory", "the guest has %llu MiB and this host has %llu MiB to spare",
                (unsigned long long)(config->memory_bytes >> 20),
                (unsigned long long)(available >> 20));
}

static void check_disks(const struct machine_config *need, const struct machine_fds *fds,
                        struct fit_report *report)
{
    CLEANUP_FREE struct machine_config *have = malloc(sizeof(*have));
    struct err err;
    if (!have) {
        fit_add(report, "disk", "out of memory");
        return;
    }
    *have = *need;
    if (machine_disk_facts(fds, have, &err)) {
        fit_add(report, "disk", "%s", err.text);
        return;
    }
    for (uint32_t i = 0; i < need->device_count; i++) {
        const struct config_device *n = &need->device[i], *h = &have->device[i];
        if (n->kind != CONFIG_BLK)
            continue;
        if (n->sectors != h->sectors)
            fit_add(report, "disk", "disk %s has %llu sectors at the source and %llu here", n->id,
                    (unsigned long long)n->sectors, (unsigned long long)h->sectors);
        else if (n->read_only && n->fingerprint != h->fingerprint)
            fit_add(report, "disk", "disk %s holds other data here than at the source", n->id);
    }
}

void fit_check(const struct machine_config *config, const struct hv_cpuid *cpuid,
               const struct host_config *host, bool fake, struct fit_report *report,
               struct machine_fds *ret_fds)
{
    struct err err = { 0 };
    struct machine_fds fds;
    *report = (struct fit_report){ 0 };

    check_memory(config, report);
    if (machine_open_fds(config, host, fake, &fds, &err)) {
        fit_add(report, err.fault == ERR_HOST ? "host" : "device", "%s", err.text);
        return;
    }
    CLEANUP_FREE struct hv_cpuid *have = malloc(sizeof(*have));
    if (!have || machine_host_cpuid(&fds, have, &err))
        fit_add(report, "kvm", "%s", have ? err.text : "out of memory");
    else
        (void)cpuid_compare(cpuid, have, cpu_lacks, report);
    check_disks(config, &fds, report);
    if (report->count)
        machine_close_fds(&fds);
    else
        *ret_fds = fds;
}

int fit_err(const struct fit_report *report, struct err *err)
{
    if (!report->count)
        return 0;
    char text[480];
    size_t len = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < report->count && len < sizeof(text); i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", i ? "; " : "",
                                report->reason[i].text);
    return err_set(err, ERR_HOST, ENOTSUP, "%s", text);
}
