/*
 * One end of a migration in a test: a machine of the fake hypervisor, and the hooks of a monitor that only remember what
 * they were told. Both ends have the same writable disk, as on storage they share.
 */
#pragma once
#include "move/migrate.h"
#include "move/receive.h"
#include <stdbool.h>

extern char disk_path[256];
extern const char *target_disk; /* NULL: the same */

struct end {
    struct machine *machine;
    struct loop loop;
    struct meter meter;
    struct machine_hooks machine_hooks;
    struct move_env env;
    struct arrival_host host;
    enum move_record record;
    bool claimed, running;
    int record_fails; /* so many times first */
    enum move_order order;
    int cancel_fd;
    unsigned stranded; /* times */
};

void end_init(struct end *end, const struct trust *own, bool insecure);
void end_fini(struct end *end);

/* A guest of 64 MiB with two vCPUs, a disk and a balloon, running. */
void start_guest(struct end *end);

/* Whether anybody but us has the disk's lock. */
void check_disk_is_locked(bool locked);
