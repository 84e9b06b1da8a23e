/*
 * One machine: memory, vCPUs, interrupt controllers and devices, assembled from its configuration.
 *
 *     machine_create -> machine_boot | machine_load... -> machine_resume <-> machine_pause -> machine_free
 *
 * Created machines are paused. machine_pause() returns only when nothing of the guest can change any
 * more: vCPUs parked, devices quiescent, so that memory and state can be taken. Pausing nests: each
 * machine_pause() needs its machine_resume().
 *
 * Threads: create and free on the loop's thread (or before it runs); pause, resume, save and load from one thread at a time (the owner's duty: see vmm/vmm.c);
 * on_end is called on a vCPU thread or the loop's and must only note the fact.
 */
#pragma once
#include "base/loop.h"
#include "dev/disk.h"
#include "dev/virtio_balloon.h"
#include "kvm/hv.h"
#include "mem/mem.h"
#include "state/stream.h"
#include "vm/config.h"
#include "vm/vcpu.h"

enum machine_end {
    MACHINE_POWERED_OFF = 1,
    MACHINE_RESET,  /* the guest asked for a reset, or triple-faulted */
    MACHINE_FAILED, /* the hypervisor cannot go on */
    MACHINE_END_MAX
};

struct machine_hooks {
    void *ctx;
    void (*console_out)(void *ctx, const uint8_t *bytes,
                        size_t len);            /* vCPU threads; must not block */
    void (*console_room)(void *ctx);            /* the serial port takes input again */
    virtio_balloon_changed_fn *balloon_changed; /* may be NULL */
    void (*on_end)(void *ctx, enum machine_end how, const char *why);
};

/* Descriptors this host lends the machine; machine_create() takes them all over, also on failure. */
struct machine_fds {
    int kvm;                        /* /dev/kvm; -1 = the fake hypervisor */
    int device[CONFIG_DEVICES_MAX]; /* tap or disk of each device; -1 = none */
    bool small_pages;               /* what the memory is made of (mem.h) */
};

#define MACHINE_DEVS_MAX (CONFIG_DEVICES_MAX + 2)

struct machine {
    struct machine_config config;
    struct hv_cpuid cpuid; /* what the guest is promised; pinned */
    struct mem mem;
    struct hv *hv;
    struct vcpu_group vcpus;
    struct loop *loop; /* borrowed, as is the meter */
    struct meter *meter;
    struct machine_hooks hooks;
    struct machine_fds fds;
    int disk_fd[CONFIG_DEVICES_MAX]; /* of each blk device, which owns it */

    struct dev *dev[MACHINE_DEVS_MAX]; /* serial, button, then the virtio devices */
    unsigned dev_count;
    struct dev *serial, *button;
    struct dev *balloon; /* NULL: it has none */
    struct loop_source serial_room;

    unsigned pauses; /* 0 = running */
};

/* Opens every tap and disk of `host` into *ret (with /dev/kvm unless `fake`). Errors name the thing. */
int machine_open_fds(const struct machine_config *config, const struct host_config *host, bool fake,
                     struct machine_fds *ret, struct err *err) MUST_CHECK;
void machine_close_fds(struct machine_fds *fds);

/* Reads each disk's size and fingerprint from its descriptor into `config`. */
int machine_disk_facts(const struct machine_fds *fds, struct machine_config *config,
                       struct err *err) MUST_CHECK;

/* What this host can show a guest, with the host's TSC rate. */
int machine_host_cpuid(const struct machine_fds *fds, struct hv_cpuid *ret,
                       struct err *err) MUST_CHECK;

/* `cpuid`: the host's for a new machine, the guest's for one that arrives. */
int machine_create(const struct machine_config *config, const struct hv_cpuid *cpuid,
                   struct machine_fds *fds, struct loop *loop, struct meter *meter,
                   const struct machine_hooks *hooks, struct machine **ret,
                   struct err *err) MUST_CHECK;
void machine_free(struct machine *machine);

/* Loads the kernel and makes the boot vCPU ready. */
int machine_boot(struct machine *machine, const struct host_config *host,
                 struct err *err) MUST_CHECK;

int machine_pause(struct machine *machine, struct err *err) MUST_CHECK;
void machine_resume(struct machine *machine);

/* A running machine had to wait for its memory for long: its watchdogs are told, as they are by machine_resume(). Any
 * thread. */
void machine_stood_still(struct machine *machine);

/* Makes durable what the guest has written to its disks so far, so that another host that opens them reads
 * it. May take as long as the storage does; any thread. */
bool machine_writes_disks(const struct machine *machine);
int machine_sync_disks(const struct machine *machine, struct err *err) MUST_CHECK;

/* Locks each disk, or passes the locks on: see dev/disk.h. -EBUSY names the disk that someone else has. */
int machine_lock_disks(const struct machine *machine, enum disk_lock how,
                       struct err *err) MUST_CHECK;

/* Appends the sections VM, VCPU x n, and one for each device. Paused only. */
int machine_save(struct machine *machine, struct buf *out, struct err *err) MUST_CHECK;

/* Applies one section of machine_save(); *seen collects what came, for machine_loaded_all(). */
struct machine_seen {
    bool vm;
    uint32_t vcpus, devs; /* one bit each */
};
int machine_load(struct machine *machine, const struct section *section, const void *body,
                 struct machine_seen *seen, struct err *err) MUST_CHECK;
int machine_loaded_all(const struct machine *machine, const struct machine_seen *seen,
                       struct err *err) MUST_CHECK;

/* After a move: devices tell the network and the guest. */
void machine_announce(struct machine *machine);

/* Device `n` of its configuration. */
struct virtio_dev *machine_virtio(const struct machine *machine, uint32_t n);

/* Its vsock device; NULL if it has none. */
struct dev *machine_vsock(struct machine *machine);

void machine_press_power_button(struct machine *machine);
size_t machine_console_input(struct machine *machine, const uint8_t *bytes, size_t len);
