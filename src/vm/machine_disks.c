/* Disks in use by a machine: making durable what its guest wrote, and keeping other users out. */
#include "base/log.h"
#include "vm/machine.h"

#include <errno.h>
#include <unistd.h>

static bool is_writable_disk(const struct machine *machine, uint32_t n)
{
    const struct config_device *device = &machine->config.device[n];
    return device->kind == CONFIG_BLK && !device->read_only;
}

bool machine_writes_disks(const struct machine *machine)
{
    for (uint32_t n = 0; n < machine->config.device_count; n++)
        if (is_writable_disk(machine, n))
            return true;
    return false;
}

int machine_sync_disks(const struct machine *machine, struct err *err)
{
    for (uint32_t n = 0; n < machine->config.device_count; n++)
        if (is_writable_disk(machine, n) && fdatasync(machine->disk_fd[n]) < 0)
            return err_errno(err, ERR_HOST, errno, "disk %s: cannot make its data durable",
                             machine->config.device[n].id);
    return 0;
}

int machine_lock_disks(const struct machine *machine, enum disk_lock how, struct err *err)
{
    for (uint32_t n = 0; n < machine->config.device_count; n++) {
        const struct config_device *device = &machine->config.device[n];
        if (device->kind != CONFIG_BLK)
            continue;
        int rc = disk_lock(machine->disk_fd[n], device->read_only, how);
        if (rc == -EBUSY)
            return err_set(err, ERR_CALLER, EBUSY, "disk %s is in use by another VM or program%s",
                           device->id, device->read_only ? " that writes to it" : "");
        if (rc)
            log_event(LOG_WARN, "disk.lock",
                      "disk %s: its file system has no locks: nothing keeps a second user out",
                      device->id);
    }
    return 0;
}
