#include "vm/config.h"
#include "dev/virtio_vsock.h"
#include "mem/mem.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

SCHEMA_DEFINE(config_device, 1, CONFIG_DEVICE)
SCHEMA_DEFINE(machine_config, 2, MACHINE_CONFIG)

#define MEMORY_STEP_BYTES (UINT64_C(2) << 20)

/* `size`: of the field, so at most size - 1 characters. A peer's text ends in a NUL, as its decoder
 * saw to. */
static bool is_word(const char *text, size_t size)
{
    size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
    return len > 0 && len < size && text[len] == '\0' && text[0] != '.' && text[0] != '-';
}

static bool is_printable(const char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~')
            return false;
    return true;
}

static bool all_zero(const uint8_t *bytes, size_t len)
{
    while (len > 0 && bytes[len - 1] == 0)
        len--;
    return len == 0;
}

#define WORD_RULE "letters, digits, '-', '_' and '.', not beginning with '-' or '.'"

static int check_device(const struct config_device *d, enum err_fault fault, struct err *err)
{
    bool net = d->kind == CONFIG_NET, blk = d->kind == CONFIG_BLK;

    if (!is_word(d->id, sizeof(d->id)))
        return err_set(err, fault, EINVAL, "device id \"%.*s\": wanted 1 to %zu " WORD_RULE,
                       (int)sizeof(d->id), d->id, sizeof(d->id) - 1);
    if (d->kind == 0 || d->kind >= CONFIG_DEVICE_MAX)
        return err_set(err, fault, EINVAL, "device %s: unknown kind %u", d->id, d->kind);
    if (net && (all_zero(d->mac, sizeof(d->mac)) || (d->mac[0] & 1)))
        return err_set(err, fault, EINVAL, "device %s: its MAC address is not a unicast address",
                       d->id);
    if (!net && !all_zero(d->mac, sizeof(d->mac)))
        return err_set(err, fault, EINVAL, "device %s: only a net device has a MAC address", d->id);
    if (!blk && (d->read_only || d->serial[0] || d->sectors || d->fingerprint))
        return err_set(err, fault, EINVAL, "device %s: only a blk device has disk settings", d->id);
    if (d->read_only > 1)
        return err_set(err, fault, EINVAL, "device %s: read_only is neither 0 nor 1", d->id);
    if (!is_printable(d->serial))
        return err_set(err, fault, EINVAL,
                       "device %s: its serial number has characters that are not printable ASCII",
                       d->id);
    if (d->sectors > CONFIG_SECTORS_MAX)
        return err_set(err, fault, EINVAL, "device %s: larger than any file can be", d->id);
    return 0;
}

static int check_devices(const struct machine_config *c, enum err_fault fault, struct err *err)
{
    unsigned balloons = 0;
    if (c->device_count > CONFIG_DEVICES_MAX)
        return err_set(err, fault, EINVAL, "%u devices, and a machine has at most %u",
                       c->device_count, CONFIG_DEVICES_MAX);
    for (uint32_t i = 0; i < c->device_count; i++) {
        const struct config_device *d = &c->device[i];
        int rc = check_device(d, fault, err);
        if (rc)
            return rc;
        balloons += d->kind == CONFIG_BALLOON;
        if (balloons > 1)
            return err_set(err, fault, EINVAL, "device %s: a machine has at most one balloon",
                           d->id);
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(c->device[k].id, d->id) == 0)
                return err_set(err, fault, EINVAL, "two devices are called %s", d->id);
            if (d->kind == CONFIG_NET && memcmp(c->device[k].mac, d->mac, sizeof(d->mac)) == 0)
                return err_set(err, fault, EINVAL, "devices %s and %s have the same MAC address",
                               c->device[k].id, d->id);
        }
    }
    return 0;
}

static int check_vsock(const struct machine_config *c, enum err_fault fault, struct err *err)
{
    unsigned devices = 0;
    for (uint32_t i = 0; i < c->device_count; i++)
        devices += c->device[i].kind == CONFIG_VSOCK;
    if (devices > 1)
        return err_set(err, fault, EINVAL, "%u vsock devices, and a machine has at most one",
                       devices);
    if (devices != (c->vsock_cid != 0))
        return err_set(err, fault, EINVAL, "a vsock device and its CID go together");
    if (devices && (c->vsock_cid < VSOCK_CID_GUEST_MIN || c->vsock_cid > VSOCK_CID_GUEST_MAX))
        return err_set(err, fault, EINVAL, "vsock CID %u: a guest's is %u to %u", c->vsock_cid,
                       VSOCK_CID_GUEST_MIN, VSOCK_CID_GUEST_MAX);
    return 0;
}

int config_new_uuid(uint8_t uuid[16], struct err *err)
{
    if (getrandom(uuid, 16, 0) != 16)
        return err_errno(err, ERR_HOST, errno, "random numbers");
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
    return 0;
}

int config_check(const struct machine_config *c, enum err_fault fault, struct err *err)
{
    if (!is_word(c->name, sizeof(c->name)))
        return err_set(err, fault, EINVAL, "machine name \"%.*s\": wanted 1 to %d " WORD_RULE,
                       CONFIG_NAME_MAX, c->name, CONFIG_NAME_MAX - 1);
    if (all_zero(c->uuid, sizeof(c->uuid)))
        return err_set(err, fault, EINVAL, "machine %s has no uuid", c->name);
    if (c->vcpus < 1 || c->vcpus > CONFIG_VCPUS_MAX)
        return err_set(err, fault, EINVAL, "%u vCPUs: a machine has 1 to %u", c->vcpus,
                       CONFIG_VCPUS_MAX);
    if (c->memory_bytes < MEM_MIN_BYTES || c->memory_bytes > MEM_MAX_BYTES ||
        c->memory_bytes % MEMORY_STEP_BYTES)
        return err_set(err, fault, EINVAL,
                       "memory of %llu bytes: wanted 64 MiB to 1 TiB in steps of 2 MiB",
                       (unsigned long long)c->memory_bytes);
    if (!is_printable(c->cmdline))
        return err_set(err, fault, EINVAL,
                       "the command line has characters that are not printable ASCII");
    int rc = check_devices(c, fault, err);
    return rc ? rc : check_vsock(c, fault, err);
}

int config_host_set(const struct machine_config *machine, struct host_config *host, const char *id,
                    const char *where, struct err *err)
{
    uint32_t i = 0;
    while (i < machine->device_count && strcmp(machine->device[i].id, id) != 0)
        i++;
    if (i == machine->device_count)
        return err_set(err, ERR_CALLER, ENODEV, "machine %s has no device \"%.64s\"", machine->name,
                       id);

    struct host_device *d = &host->device[i];
    switch (machine->device[i].kind) {
    case CONFIG_NET:
        if (!is_printable(where) || !*where || strlen(where) >= sizeof(d->tap) ||
            strpbrk(where, "/ "))
            return err_set(err, ERR_CALLER, EINVAL, "device %s: \"%.64s\" is no interface name", id,
                           where);
        memcpy(d->tap, where, strlen(where) + 1);
        return 0;
    case CONFIG_BLK:
        if (!*where || strlen(where) >= sizeof(d->path))
            return err_set(err, ERR_CALLER, EINVAL,
                           "device %s: wanted a path of 1 to %zu characters", id,
                           sizeof(d->path) - 1);
        memcpy(d->path, where, strlen(where) + 1);
        return 0;
    default:
        return err_set(err, ERR_CALLER, EINVAL,
                       "device %s is neither a disk nor a network card: it has no "
                       "place on the host",
                       id);
    }
}
