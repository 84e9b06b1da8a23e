/*
 * CPU times come from the timer's tick, in units of tick_ns over all processors. The kinds do not overlap and add up
 * to the time of all processors, whereas in /proc/stat guest time is part of user time. Idle includes waiting for
 * disks.
 *
 * Memory used is what is neither free nor could be dropped: page cache and reclaimable slab do not count; shared
 * memory, which the kernel counts as page cache and which guests' memory is, does.
 */
#include "host.h"

#include "base/clock.h"
#include "base/fd.h"
#include "json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SECTOR_BYTES 512 /* in /proc/diskstats, whatever the disk says */

static int open_file(int *ret, const char *path, struct err *err)
{
    *ret = open(path, O_RDONLY | O_CLOEXEC);
    return *ret < 0 ? err_errno(err, ERR_HOST, errno, "%s", path) : 0;
}

/* Loop, zram and mapped devices have no device below them: what they do shows on a disk, or is none. */
static void find_disks(struct host *host)
{
    DIR *block = opendir("/sys/block");
    if (!block)
        return;
    for (struct dirent *entry; (entry = readdir(block));) {
        char path[300];
        size_t len = strlen(entry->d_name);
        (void)snprintf(path, sizeof(path), "/sys/block/%s/device", entry->d_name);
        if (entry->d_name[0] == '.' || len >= HOST_TEXT_MAX || access(path, F_OK) ||
            host->disks == HOST_DISKS_MAX)
            continue;
        memcpy(host->disk[host->disks++], entry->d_name, len + 1);
    }
    (void)closedir(block);
}

int host_open(struct host *host, const char *interfaces, struct err *err)
{
    *host = (struct host){ .stat_fd = -1, .meminfo_fd = -1, .diskstats_fd = -1, .net_fd = -1 };
    long ticks = sysconf(_SC_CLK_TCK);
    host->tick_ns = CLOCK_SECOND / (uint64_t)(ticks > 0 ? ticks : 100);
    host->interfaces = interfaces;
    find_disks(host);
    int rc = open_file(&host->stat_fd, "/proc/stat", err);
    if (!rc)
        rc = open_file(&host->meminfo_fd, "/proc/meminfo", err);
    if (!rc)
        rc = open_file(&host->net_fd, "/proc/thread-self/net/dev", err);
    if (!rc && host->disks)
        rc = open_file(&host->diskstats_fd, "/proc/diskstats", err);
    if (rc)
        host_close(host);
    return rc;
}

void host_close(struct host *host)
{
    fd_close(&host->stat_fd);
    fd_close(&host->meminfo_fd);
    fd_close(&host->diskstats_fd);
    fd_close(&host->net_fd);
    text_free(&host->text);
}

static void processors_json(struct host *host, struct buf *buf)
{
    enum { USER, NICE, SYSTEM, IDLE, IOWAIT, IRQ, SOFTIRQ, STEAL, GUEST, GUEST_NICE, KINDS };
    uint64_t ns[KINDS], switches = 0;
    if (text_read(&host->text, host->stat_fd))
        return;
    const char *at = text_skip(host->text.data, 1); /* "cpu" */
    for (unsigned i = 0; i < KINDS; i++)
        ns[i] = text_number(&at) * host->tick_ns;
    (void)text_find(at, "\nctxt", &switches);
    uint64_t guest = ns[GUEST] + ns[GUEST_NICE], user = ns[USER] + ns[NICE];
    json_u64(buf, "user_ns", user > guest ? user - guest : 0);
    json_u64(buf, "system_ns", ns[SYSTEM]);
    json_u64(buf, "irq_ns", ns[IRQ]);
    json_u64(buf, "softirq_ns", ns[SOFTIRQ]);
    json_u64(buf, "steal_ns", ns[STEAL]);
    json_u64(buf, "idle_ns", ns[IDLE] + ns[IOWAIT]);
    json_u64(buf, "guest_ns", guest);
    json_u64(buf, "context_switches", switches);
}

static void memory_json(struct host *host, struct buf *buf)
{
    uint64_t total = 0, kept = 0, value;
    static const char *const not_used[] = { "\nMemFree:", "\nBuffers:", "\nCached:",
                                            "\nSReclaimable:" };
    if (text_read(&host->text, host->meminfo_fd))
        return;
    const char *first = text_skip(host->text.data, 1); /* "MemTotal:" */
    total = text_number(&first);
    if (text_find(host->text.data, "\nShmem:", &value))
        total += value;
    for (unsigned i = 0; i < ARRAY_LEN(not_used); i++)
        kept += text_find(host->text.data, not_used[i], &value) ? value : 0;
    json_u64(buf, "memory_used_bytes", total > kept ? (total - kept) * 1024 : 0);
}

static bool is_disk(const struct host *host, const char *name, size_t len)
{
    for (unsigned i = 0; i < host->disks; i++) {
        if (!strncmp(host->disk[i], name, len) && !host->disk[i][len])
            return true;
    }
    return false;
}

/* A line: major, minor, name, reads, merged, sectors read, ms, writes, merged, sectors written, ... */
static void disks_json(struct host *host, struct buf *buf)
{
    uint64_t read = 0, written = 0;
    if (host->disks && text_read_list(&host->text, host->diskstats_fd))
        return;
    for (const char *line = host->disks ? host->text.data : ""; *line; line += *line == '\n') {
        const char *name = text_skip(line, 2), *at = text_skip(name, 3);
        if (is_disk(host, name, strcspn(name, " "))) {
            read += text_number(&at) * SECTOR_BYTES;
            at = text_skip(at, 3);
            written += text_number(&at) * SECTOR_BYTES;
        }
        line += strcspn(line, "\n");
    }
    json_u64(buf, "disk_read_bytes", read);
    json_u64(buf, "disk_written_bytes", written);
}

/* ------------------------------------------------------------------------------- interfaces */

static bool is_wanted(const struct host *host, const char *name)
{
    size_t len = strlen(name);
    if (!host->interfaces)
        return true;
    for (const char *at = host->interfaces; *at; at += *at == ',') {
        size_t one = strcspn(at, ",");
        if (one == len && !memcmp(at, name, len))
            return true;
        at += one;
    }
    return false;
}

/* The next wanted interface from *line on: its name, and *line behind its colon. */
static bool next_interface(const struct host *host, const char **line, char name[HOST_TEXT_MAX])
{
    while (**line) {
        const char *from = *line + strspn(*line, " "), *colon = from + strcspn(from, ":\n");
        size_t len = (size_t)(colon - from);
        *line = *colon ? colon + 1 : colon;
        if (*colon != ':' || len >= HOST_TEXT_MAX)
            continue;
        memcpy(name, from, len);
        name[len] = '\0';
        if (is_wanted(host, name))
            return true;
        *line += strcspn(*line, "\n");
        *line += **line == '\n';
    }
    return false;
}

static const char *after_headings(const char *text)
{
    for (int i = 0; i < 2; i++) {
        text += strcspn(text, "\n");
        text += *text == '\n';
    }
    return text;
}

/* A line: name: bytes, packets, 6 others received; bytes, packets, 6 others sent. */
static void interfaces_json(struct host *host, struct buf *buf)
{
    char name[HOST_TEXT_MAX];
    if (text_read_list(&host->text, host->net_fd))
        return;
    const char *line = after_headings(host->text.data);
    while (next_interface(host, &line, name)) {
        uint64_t rx_bytes = text_number(&line), rx_packets = text_number(&line);
        line = text_skip(line, 6);
        uint64_t tx_bytes = text_number(&line), tx_packets = text_number(&line);
        json_object(buf, name);
        json_u64(buf, "rx_bytes", rx_bytes);
        json_u64(buf, "tx_bytes", tx_bytes);
        json_u64(buf, "rx_packets", rx_packets);
        json_u64(buf, "tx_packets", tx_packets);
        json_object_end(buf);
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
}

void host_interfaces_json(struct host *host, struct buf *buf)
{
    char name[HOST_TEXT_MAX];
    json_list(buf, "interfaces");
    if (!text_read_list(&host->text, host->net_fd)) {
        const char *line = after_headings(host->text.data);
        while (next_interface(host, &line, name)) {
            json_text(buf, NULL, name);
            line += strcspn(line, "\n");
            line += *line == '\n';
        }
    }
    json_list_end(buf);
}

void host_json(struct host *host, struct buf *buf)
{
    json_object(buf, "host");
    processors_json(host, buf);
    memory_json(host, buf);
    disks_json(host, buf);
    json_object_end(buf);
    json_object(buf, "net");
    interfaces_json(host, buf);
    json_object_end(buf);
}
