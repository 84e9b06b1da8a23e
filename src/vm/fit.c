#include "vm/fit.h"
#include "vm/cpuid.h"
#include "vm/cpuid_features.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void set(struct fit_reason *reason, const char *fact, const char *fmt, va_list ap)
{
    (void)snprintf(reason->fact, sizeof(reason->fact), "%s", fact);
    (void)vsnprintf(reason->text, sizeof(reason->text), fmt, ap);
}

static void add_fact(struct fit_report *report, bool ok, const struct fit_reason *is)
{
    if (report->facts < FIT_FACTS_MAX)
        report->fact[report->facts++] = (struct fit_fact){ .ok = ok, .is = *is };
}

void fit_good(struct fit_report *report, const char *fact, const char *fmt, ...)
{
    struct fit_reason is = { 0 };
    va_list ap;
    va_start(ap, fmt);
    set(&is, fact, fmt, ap);
    va_end(ap);
    add_fact(report, true, &is);
}

void fit_add(struct fit_report *report, const char *fact, const char *fmt, ...)
{
    struct fit_reason is = { 0 };
    va_list ap;
    va_start(ap, fmt);
    set(&is, fact, fmt, ap);
    va_end(ap);
    add_fact(report, false, &is);
    if (report->count < FIT_REASONS_MAX)
        report->reason[report->count++] = is;
}

static void cpu_lacks(void *arg, const char *what)
{
    fit_add(arg, "cpu", "this host's CPU lacks %s", what);
}

static void check_memory(const struct machine_config *config, const struct host_config *host,
                         const struct host_memory *memory, struct fit_report *report)
{
    /* An unknown is no reason to refuse; running out later fails the move cleanly. */
    if (memory->available_bytes != UINT64_MAX) {
        char promised[96] = "";
        if (memory->promised_bytes)
            (void)snprintf(promised, sizeof(promised),
                           ", of which %llu MiB are promised to guests that are here",
                           (unsigned long long)(memory->promised_bytes >> 20));
        (host_memory_fits(memory, config->memory_bytes)
             ? fit_good
             : fit_add)(report, "memory",
                        "the guest has %llu MiB and this host has %llu MiB to spare%s",
                        (unsigned long long)(config->memory_bytes >> 20),
                        (unsigned long long)(memory->available_bytes >> 20), promised);
    }
    fit_good(
        report, "huge-pages", "%s",
        host->small_pages
            ? "the guest's memory will be in small pages"
            : "the guest's memory will be in large pages where this host has them, and needs none");
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
        else
            fit_good(report, "disk", "disk %s has %llu sectors here too%s", n->id,
                     (unsigned long long)n->sectors,
                     n->read_only
                         ? ", and the same data as far as was looked"
                         : "; being writable, it must be the same disk: that is not checked");
    }
}

/* What the guest was shown, by name, as many to a fact as it holds; a fact each where nothing is lacking. */
static void list_features(const struct hv_cpuid *cpuid, struct fit_report *report)
{
    char text[sizeof(report->fact[0].is.text)];
    size_t len = 0;
    for (size_t i = 0; i < cpuid_features_count; i++) {
        const struct cpuid_features *f = &cpuid_features[i];
        uint32_t bits = 0;
        for (uint32_t k = 0; k < cpuid->leaf_count; k++) {
            const struct hv_cpuid_leaf *leaf = &cpuid->leaf[k];
            const uint32_t regs[] = { leaf->eax, leaf->ebx, leaf->ecx, leaf->edx };
            if (leaf->leaf == f->leaf && leaf->subleaf == f->subleaf)
                bits = regs[f->reg] & ~f->ignore;
        }
        for (unsigned bit = 0; bit < 32; bit++) {
            const char *name = f->names[bit];
            if (!(bits >> bit & 1) || !name)
                continue;
            if (len + strlen(name) + 2 > sizeof(text)) {
                fit_good(report, "cpu", "%s", text);
                len = 0;
            }
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", len ? " " : "", name);
        }
    }
    if (len)
        fit_good(report, "cpu", "%s", text);
}

static void check_cpu(const struct hv_cpuid *cpuid, const struct machine_fds *fds,
                      struct fit_report *report)
{
    struct err err = { 0 };
    CLEANUP_FREE struct hv_cpuid *have = malloc(sizeof(*have));
    if (!have || machine_host_cpuid(fds, have, &err)) {
        fit_add(report, "kvm", "%s", have ? err.text : "out of memory");
        return;
    }
    fit_good(report, "kvm", "the hypervisor can be used");
    if (cpuid_compare(cpuid, have, cpu_lacks, report) == 0)
        list_features(cpuid, report);
}

/* Not all could be opened together: which ones cannot be opened at all? And the CPU is looked at even so. */
static void check_one_by_one(const struct machine_config *config, const struct hv_cpuid *cpuid,
                             const struct host_config *host, bool fake, const struct err *all,
                             struct fit_report *report)
{
    unsigned before = report->count;
    CLEANUP_FREE struct machine_config *one = malloc(sizeof(*one));
    CLEANUP_FREE struct host_config *place = malloc(sizeof(*place));
    for (uint32_t i = 0; one && place && i < config->device_count; i++) {
        const struct config_device *device = &config->device[i];
        struct machine_fds fds;
        struct err err;
        *one = *config;
        *place = *host;
        one->device_count = 1;
        one->device[0] = *device;
        place->device[0] = host->device[i];
        if (machine_open_fds(one, place, true, &fds, &err)) {
            fit_add(report,
                    device->kind == CONFIG_BLK   ? "disk"
                    : device->kind == CONFIG_NET ? "net"
                                                 : "device",
                    "%s", err.text);
            continue;
        }
        machine_close_fds(&fds);
    }
    if (one) {
        struct machine_fds fds;
        struct err err;
        *one = *config;
        one->device_count = 0;
        if (machine_open_fds(one, host, fake, &fds, &err)) {
            fit_add(report, "kvm", "%s", err.text);
        } else {
            check_cpu(cpuid, &fds, report);
            machine_close_fds(&fds);
        }
    }
    if (report->count == before)
        fit_add(report, all->fault == ERR_HOST ? "host" : "device", "%s", all->text);
}

static void list_devices(const struct machine_config *config, const struct host_config *host,
                         struct fit_report *report)
{
    for (uint32_t i = 0; i < config->device_count; i++) {
        const struct config_device *device = &config->device[i];
        if (device->kind == CONFIG_NET)
            fit_good(report, "net", "net %s has its tap %s", device->id, host->device[i].tap);
        else if (device->kind != CONFIG_BLK) /* disks have facts of their own */
            fit_good(report, "device", "device %s can be made", device->id);
    }
}

void fit_check(const struct machine_config *config, const struct hv_cpuid *cpuid,
               const struct host_config *host, const struct host_memory *memory, bool fake,
               struct fit_report *report, struct machine_fds *ret_fds)
{
    struct err err = { 0 };
    struct machine_fds fds;
    *report = (struct fit_report){ 0 };

    check_memory(config, host, memory, report);
    if (machine_open_fds(config, host, fake, &fds, &err)) {
        check_one_by_one(config, cpuid, host, fake, &err, report);
        return;
    }
    check_cpu(cpuid, &fds, report);
    list_devices(config, host, report);
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
