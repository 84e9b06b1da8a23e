/*
 * The monitor: one process, one virtual machine, from before its first instruction to its end.
 */
#pragma once
#include "base/compiler.h"
#include "vm/config.h"
#include <stdbool.h>

#define VMM_SELF_MIGRATE_MAX 16

enum vmm_start {
    VMM_BOOT = 1, /* a new machine: `machine` and `host` are complete */
    VMM_RECEIVE,  /* wait on listen_fd for one that moves here */
    VMM_RESTORE,  /* load the checkpoint `file` */
    VMM_START_MAX
};

/* Where this host keeps device `id` of a machine that is received or restored: a tap or a file, for
 * config_host_set(). */
struct vmm_place {
    char id[32];
    char where[4096];
};

struct vmm_options {
    enum vmm_start start;
    char base[1024];            /* rundir_base() */
    char config_dir[1024];      /* confdir_path(); empty: there is none, and nothing can move */
    char name[CONFIG_NAME_MAX]; /* empty: the machine's own */
    struct machine_config machine;
    struct host_config host;
    /* VMM_RECEIVE: a listening TCP socket, non-blocking; else -1. The monitor's. */
    int listen_fd;
    /* VMM_RECEIVE: end after a move that failed, instead of waiting for the next */
    bool once;
    bool insecure; /* VMM_RECEIVE: do not encrypt, trust anyone; within the limits of godwit.conf */
    char file[4096]; /* VMM_RESTORE: absolute */
    /* where its guest may ask to be moved: HOST:PORT each, or "any"; none = nowhere. Of this host */
    char self_migrate[VMM_SELF_MIGRATE_MAX][256];
    unsigned self_migrate_count;
    bool paused; /* VMM_RESTORE: do not run the guest before vm.resume */
    struct vmm_place place[CONFIG_DEVICES_MAX];
    unsigned place_count;
    /* the fake hypervisor: tests of everything above it, without /dev/kvm */
    bool fake;
    /* CLOCK_MONOTONIC just before the monitor's process was made; 0 = not known */
    uint64_t begun_ns;
    /* a socket of whoever started it, to watch the console with; -1 = none. The monitor's. */
    int console_fd;
    /* ctl/ready.h: the monitor must report on it exactly once; the monitor's */
    int ready_fd;
};

/* Runs the monitor on the calling thread until its VM has ended, moved away or could not be
 * started. stdin is /dev/null, stdout and stderr are what they were at `run` until the monitor
 * claims its name and puts its log there. Returns the process's exit status: 0 the VM ended or
 * moved, 1 a failure (reported on ready_fd if before readiness, in the log after), 2 wrong
 * input. */
int vmm_main(struct vmm_options *options) MUST_CHECK;
