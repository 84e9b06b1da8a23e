/*
 * What a machine is.
 *
 * `machine_config` is the guest's view: it travels in the stream's first section, is pinned when
 * the machine is made and never reinterpreted, so that the guest finds the same machine wherever it
 * goes. `host_config` is this host's side of it: files, taps, sockets. It never travels.
 */
#pragma once
#include "base/err.h"
#include "state/schema.h"

#define CONFIG_NAME_MAX \
    64 /* with the NUL; letters, digits, '-', '_', '.', not starting with '.' or '-' */
#define CONFIG_DEVICES_MAX 19 /* one pin each of the IOAPIC's 24, from CONFIG_GSI_BASE on */
#define CONFIG_VCPUS_MAX 16
#define CONFIG_SECTORS_MAX (UINT64_C(1) << 54) /* the largest file, 2^63 bytes */
#define CONFIG_CMDLINE_MAX 2048

enum config_device_kind {
    CONFIG_NET = 1,
    CONFIG_BLK,
    CONFIG_RNG,
    CONFIG_BALLOON,
    CONFIG_VSOCK, /* at most one */
    CONFIG_DEVICE_MAX
};

/* One virtio-mmio device. The bus place is given by its number in the list: window
 * CONFIG_MMIO_BASE + number * CONFIG_MMIO_STRIDE, interrupt CONFIG_GSI_BASE + number. */
#define CONFIG_MMIO_BASE 0xd0000000u
#define CONFIG_MMIO_STRIDE 0x1000u
#define CONFIG_GSI_BASE 5u

#define CONFIG_DEVICE(F, T)                                             \
    F(T, u32, kind)        /* enum config_device_kind */                \
    F(T, text, id, 32)     /* the user's name: unique in the machine */ \
    F(T, u8s, mac, 6)      /* net */                                    \
    F(T, u8, read_only)    /* blk */                                    \
    F(T, text, serial, 21) /* blk: virtio serial number */              \
    F(T, u64, sectors)     /* blk: of 512 bytes */                      \
    F(T, u64, fingerprint) /* blk: sample of its contents (disk_fingerprint()); 0 = none */
SCHEMA_STRUCT(config_device, CONFIG_DEVICE);

#define MACHINE_CONFIG(F, T)                              \
    F(T, text, name, CONFIG_NAME_MAX)                     \
    F(T, u8s, uuid, 16)                                   \
    F(T, u32, vcpus)                                      \
    F(T, u64, memory_bytes)                               \
    F(T, text, cmdline, CONFIG_CMDLINE_MAX)               \
    F(T, list, device, config_device, CONFIG_DEVICES_MAX) \
    F(T, since, 2)                                        \
    F(T, u32, vsock_cid) /* of the guest, if it has a vsock device; else 0 */
SCHEMA_STRUCT(machine_config, MACHINE_CONFIG);

/* Where the n-th device of the machine is on this host: parallel to machine_config.device. */
struct host_device {
    char tap[16];    /* net: interface name; IFNAMSIZ */
    char path[4096]; /* blk: file */
};

struct host_config {
    uint8_t small_pages; /* guest memory in pages of 4 KiB, also where the host has larger ones */
    char kernel[4096], initrd[4096]; /* empty when the machine is received or restored */
    struct host_device device[CONFIG_DEVICES_MAX];
};

/* A random UUID: RFC 9562, section 5.4. */
int config_new_uuid(uint8_t uuid[16], struct err *err) MUST_CHECK;

/* Checks every limit and every name, that ids and MAC addresses are unique, and that a device has
 * no value that only another kind has. Used for the user's and a peer's alike. */
int config_check(const struct machine_config *config, enum err_fault fault,
                 struct err *err) MUST_CHECK;

/* From and to the JSON that `godwit run` hands to the monitor, and that control.md documents:
 *
 *     {"machine": {"name": "web1", "uuid": "8-4-4-4-12 hex digits", "vcpus": 2, "memory_bytes":
 * 268435456, "cmdline": "console=ttyS0", "devices": [{"kind": "blk", "id": "root", "read_only":
 * false, "serial": "", "sectors": 2048, "fingerprint": "16 hex digits"},
 *                              {"kind": "net", "id": "lan", "mac": "52:54:00:12:34:56"},
 *                              {"kind": "rng", "id": "rng0"},
 *                              {"kind": "balloon", "id": "balloon0"},
 *                              {"kind": "vsock", "id": "vsock0"}], "vsock_cid": 3},
 *      "host": {"kernel": "/boot/vmlinuz", "initrd": "/boot/initrd.img",
 *               "devices": {"root": {"path": "/srv/web1.raw"}, "lan": {"tap": "tap0"}}}}
 *
 * A key left out means 0, false or empty; an unknown one is an error. The machine read has passed
 * config_check(), as the one written must have. Errors are ERR_CALLER. config_to_json(): the
 * caller's reference; NULL when there is no memory or a path is not UTF-8, which JSON must be. */
int config_from_json(const json_t *json, struct machine_config *machine, struct host_config *host,
                     struct err *err) MUST_CHECK;
json_t *config_to_json(const struct machine_config *machine, const struct host_config *host);

/* Applies one `--disk ID=PATH` or `--net ID=TAP` of receive and restore: where this host keeps
 * device `id` of the machine. */
int config_host_set(const struct machine_config *machine, struct host_config *host, const char *id,
                    const char *where, struct err *err) MUST_CHECK;
