/*
 * The host's own figures: processors, memory, disks, and the interfaces of the caller's network namespace.
 *
 * One thread.
 */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "text.h"

#define HOST_DISKS_MAX 64
#define HOST_TEXT_MAX 32

struct host {
    int stat_fd, meminfo_fd, diskstats_fd, net_fd;
    uint64_t tick_ns;
    char disk
        [HOST_DISKS_MAX]
        [HOST_TEXT_MAX]; /* whole disks with a device below them; more than that are not counted */
    unsigned disks;
    const char *interfaces; /* the caller's: names between commas, or NULL for all */
    struct text text;
};

/* ERR_HOST: a file of /proc is missing. */
int host_open(struct host *host, const char *interfaces, struct err *err) MUST_CHECK;
void host_close(struct host *host);

/* Reads, and writes `host` and `net`. */
void host_json(struct host *host, struct buf *buf);

/* Writes the list `interfaces`: those that are there now. */
void host_interfaces_json(struct host *host, struct buf *buf);
