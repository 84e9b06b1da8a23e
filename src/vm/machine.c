/*
 * Assembling a machine, and the paths every guest access and every pause takes.
 *
 * Bus: ports go to the serial port and the power button, everything else reads as ones, as on a bus
 * with nobody there. The MMIO window at CONFIG_MMIO_BASE is one stride a virtio device; queue kicks
 * normally never come here, since an ioeventfd turns them into events of the loop.
 *
 * Order of pausing: vCPUs first (no new requests), then devices (finish what is in flight). Resuming
 * goes the other way round, so that an interrupt raised by a device finds its vCPU.
 */
#include "vm/machine.h"
#include "base/fd.h"
#include "dev/button.h"
#include "dev/disk.h"
#include "dev/serial.h"
#include "dev/tap.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "dev/virtio_vsock.h"
#include "vm/acpi.h"
#include "vm/boot.h"
#include "vm/cpuid.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------ what the host lends */

static int open_disk(const struct config_device *device, const char *path, int *ret,
                     struct err *err)
{
    uint64_t sectors;
    int rc = disk_open(path, device->read_only, ret, &sectors, err);
    return rc ? err_wrap(err, rc, "disk %s", device->id) : 0;
}

int machine_open_fds(const struct machine_config *config, const struct host_config *host, bool fake,
                     struct machine_fds *ret, struct err *err)
{
    struct machine_fds fds = { .kvm = -1, .small_pages = host->small_pages };
    for (uint32_t i = 0; i < CONFIG_DEVICES_MAX; i++)
        fds.device[i] = -1;

    int rc = 0;
    if (!fake) {
        fds.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
        if (fds.kvm < 0)
            rc =
                err_errno(err, ERR_HOST, errno, "cannot open /dev/kvm (`godwit check` tells more)");
    }
    for (uint32_t i = 0; i < config->device_count && !rc; i++) {
        const struct config_device *device = &config->device[i];
        if (device->kind == CONFIG_NET && !host->device[i].tap[0])
            rc = err_set(err, ERR_CALLER, EINVAL, "net %s: no tap given (--net %s=TAP)", device->id,
                         device->id);
        else if (device->kind == CONFIG_NET)
            rc = tap_open(host->device[i].tap, &fds.device[i], err);
        else if (device->kind == CONFIG_BLK && !host->device[i].path[0])
            rc = err_set(err, ERR_CALLER, EINVAL, "disk %s: no file given (--disk %s=PATH)",
                         device->id, device->id);
        else if (device->kind == CONFIG_BLK)
            rc = open_disk(device, host->device[i].path, &fds.device[i], err);
    }
    if (rc)
        machine_close_fds(&fds);
    else
        *ret = fds;
    return rc;
}

void machine_close_fds(struct machine_fds *fds)
{
    fd_close(&fds->kvm);
    for (uint32_t i = 0; i < CONFIG_DEVICES_MAX; i++)
        fd_close(&fds->device[i]);
}

int machine_disk_facts(const struct machine_fds *fds, struct machine_config *config,
                       struct err *err)
{
    for (uint32_t i = 0; i < config->device_count; i++) {
        struct config_device *device = &config->device[i];
        if (device->kind != CONFIG_BLK)
            continue;
        int rc = disk_sectors(fds->device[i], &device->sectors);
        if (!rc)
            rc = disk_fingerprint(fds->device[i], device->sectors, &device->fingerprint);
        if (rc)
            return err_errno(err, ERR_HOST, -rc, "disk %s: cannot read it", device->id);
    }
    return 0;
}

int machine_host_cpuid(const struct machine_fds *fds, struct hv_cpuid *ret, struct err *err)
{
    if (fds->kvm >= 0)
        return hv_kvm_cpuid(fds->kvm, ret, err);
    hv_fake_cpuid(ret);
    return 0;
}

/* ------------------------------------------------------------------------------------------- the bus */

/* What the guest is told in ACPI is where the devices answer. */
static_assert(SERIAL_PORT == ACPI_COM1_PORT && SERIAL_GSI == ACPI_COM1_GSI, "serial port");
static_assert(BUTTON_RESET_PORT == ACPI_RESET_PORT &&
                  BUTTON_SLEEP_CONTROL_PORT == ACPI_SLEEP_PORT &&
                  BUTTON_EVENT_PORT == ACPI_EVENT_PORT && BUTTON_GSI == ACPI_EVENT_GSI,
              "power button");
static_assert(CONFIG_MMIO_STRIDE >= VIRTIO_MMIO_BYTES, "virtio window");

static void access_bytes(struct dev *dev, uint64_t offset, const struct hv_exit *exit, bool write)
{
    uint8_t *data = exit->data;
    for (unsigned i = 0; i < exit->count; i++, data += exit->size) {
        if (write)
            dev->ops->write(dev, offset, data, exit->size);
        else
            dev->ops->read(dev, offset, data, exit->size);
    }
}

static void on_access(void *ctx, const struct hv_exit *exit)
{
    struct machine *machine = ctx;
    bool write = exit->kind == HV_EXIT_PIO_OUT || exit->kind == HV_EXIT_MMIO_WRITE;
    struct dev *dev = NULL;
    uint64_t offset = 0;

    if (exit->kind == HV_EXIT_PIO_IN || exit->kind == HV_EXIT_PIO_OUT) {
        if (exit->address - SERIAL_PORT < SERIAL_PORTS) {
            dev = machine->serial;
            offset = exit->address - SERIAL_PORT;
        } else if (exit->address - BUTTON_PORT < BUTTON_PORTS) {
            dev = machine->button;
            offset = exit->address - BUTTON_PORT;
        }
    } else if (exit->address >= CONFIG_MMIO_BASE) {
        uint64_t n = (exit->address - CONFIG_MMIO_BASE) / CONFIG_MMIO_STRIDE;
        if (n < machine->config.device_count)
            dev = machine->dev[2 + n];
        offset = exit->address % CONFIG_MMIO_STRIDE;
    }
    if (dev)
        access_bytes(dev, offset, exit, write);
    else if (!write)
        memset(exit->data, 0xff, (size_t)exit->size * exit->count);
}

static void on_vcpu_end(void *ctx, unsigned id, enum vcpu_end how, const char *why)
{
    struct machine *machine = ctx;
    char text[200];
    (void)snprintf(text, sizeof(text), "vCPU %u: %s", id, why);
    machine->hooks.on_end(machine->hooks.ctx, how == VCPU_SHUTDOWN ? MACHINE_RESET : MACHINE_FAILED,
                          text);
}

static void on_poweroff(void *ctx)
{
    struct machine *machine = ctx;
    machine->hooks.on_end(machine->hooks.ctx, MACHINE_POWERED_OFF, "the guest switched itself off");
}

static void on_reset(void *ctx)
{
    struct machine *machine = ctx;
    machine->hooks.on_end(machine->hooks.ctx, MACHINE_RESET, "the guest asked for a reset");
}

static void on_console_out(void *ctx, const uint8_t *bytes, size_t len)
{
    struct machine *machine = ctx;
    machine->hooks.console_out(machine->hooks.ctx, bytes, len);
}

static void on_console_room(struct loop_source *source, uint32_t events)
{
    (void)events;
    struct machine *machine = CONTAINER_OF(source, struct machine, serial_room);
    (void)loop_drain(source->fd);
    machine->hooks.console_room(machine->hooks.ctx);
}

/* ---------------------------------------------------------------------------------------- assembling */

static int create_virtio(struct machine *machine, uint32_t n, struct dev **ret, struct err *err)
{
    const struct config_device *device = &machine->config.device[n];
    uint16_t instance = (uint16_t)(2 + n);
    int fd = TAKE_FD(machine->fds.device[n]);
    machine->disk_fd[n] = fd;

    switch ((enum config_device_kind)device->kind) {
    case CONFIG_NET:
        return virtio_net_create(ret, instance, &machine->mem, machine->loop, fd, device->mac, err);
    case CONFIG_BLK:
        return virtio_blk_create(ret, instance, &machine->mem, machine->loop, fd,
                                 &(struct virtio_blk_options){ .serial = device->serial,
                                                               .read_only = device->read_only },
                                 err);
    case CONFIG_RNG:
        return virtio_rng_create(ret, instance, &machine->mem, machine->loop, err);
    case CONFIG_BALLOON: {
        int rc = virtio_balloon_create(ret, instance, &machine->mem, machine->loop,
                                       machine->hooks.balloon_changed, machine->hooks.ctx, err);
        machine->balloon = rc ? NULL : *ret;
        return rc;
    }
    case CONFIG_VSOCK:
        return virtio_vsock_create(ret, instance, &machine->mem, machine->loop,
                                   machine->config.vsock_cid, err);
    case CONFIG_DEVICE_MAX:
        break;
    }
    return err_set(err, ERR_BUG, EINVAL, "device %u of unknown kind %u", n, device->kind);
}

static int wire_virtio(struct machine *machine, uint32_t n, struct dev *dev, struct err *err)
{
    const struct hv_ops *ops = machine->hv->ops;
    struct virtio_dev *virtio = virtio_dev_of(dev);
    uint64_t base = CONFIG_MMIO_BASE + (uint64_t)n * CONFIG_MMIO_STRIDE;

    int rc = ops->irqfd(machine->hv, virtio->irq_fd, CONFIG_GSI_BASE + n);
    for (unsigned q = 0; q < virtio->queue_count && !rc; q++)
        rc = ops->ioeventfd(machine->hv, virtio->notify_fd[q], gpa_of(base + VIRTIO_MMIO_NOTIFY), 4,
                            q);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot wire device %s", machine->config.device[n].id)
              : 0;
}

static int create_devices(struct machine *machine, struct err *err)
{
    struct button_calls button = { .ctx = machine,
                                   .on_poweroff = on_poweroff,
                                   .on_reset = on_reset };
    const struct hv_ops *ops = machine->hv->ops;

    int rc = serial_create(&machine->serial, 0, on_console_out, machine, err);
    if (rc)
        return rc;
    machine->dev[machine->dev_count++] = machine->serial;
    rc = button_create(&machine->button, 1, &button, err);
    if (rc)
        return rc;
    machine->dev[machine->dev_count++] = machine->button;
    rc = ops->irqfd(machine->hv, serial_irq_fd(machine->serial), SERIAL_GSI);
    if (!rc)
        rc = ops->irqfd(machine->hv, button_irq_fd(machine->button), BUTTON_GSI);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot wire the serial port and power button");
    rc = loop_add(machine->loop, &machine->serial_room, serial_room_fd(machine->serial), EPOLLIN,
                  on_console_room);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot watch the serial port");

    for (uint32_t n = 0; n < machine->config.device_count; n++) {
        struct dev *dev = NULL;
        rc = create_virtio(machine, n, &dev, err);
        if (rc)
            return err_wrap(err, rc, "device %s", machine->config.device[n].id);
        machine->dev[machine->dev_count++] = dev;
        rc = wire_virtio(machine, n, dev, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int create_vcpus(struct machine *machine, struct err *err)
{
    struct vcpu_handlers handlers = { .ctx = machine, .access = on_access, .ended = on_vcpu_end };
    unsigned count = machine->config.vcpus;
    CLEANUP_FREE struct hv_cpuid *cpuid = calloc(count, sizeof(*cpuid));
    if (!cpuid)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create vCPUs");
    for (unsigned id = 0; id < count; id++) {
        int rc = cpuid_for_vcpu(&machine->cpuid, id, count, &cpuid[id]);
        if (rc)
            return err_errno(err, ERR_HOST, -rc, "cannot describe vCPU %u", id);
    }
    int rc =
        vcpu_group_init(&machine->vcpus, machine->hv, machine->meter, count, cpuid, &handlers, err);
    if (rc)
        return rc;
    /* Part of what the guest was promised: another host must keep it, or refuse. */
    machine->cpuid.tsc_khz = machine->hv->ops->tsc_khz(machine->vcpus.vcpu[0].hv);
    return vcpu_group_start(&machine->vcpus, err);
}

static int assemble(struct machine *machine, struct err *err)
{
    int rc = machine->fds.kvm >= 0 ? hv_kvm_open(machine->fds.kvm, &machine->hv, err)
                                   : hv_fake_open(&machine->hv);
    if (rc)
        return rc;
    rc = mem_init(&machine->mem, machine->config.memory_bytes,
                  machine->fds.small_pages ? MEM_PAGES_SMALL : MEM_PAGES_LARGE, err);
    if (rc)
        return rc;
    /* Slots before the interrupt controllers: adding one later waits out a grace period. */
    for (unsigned i = 0; i < machine->mem.region_count; i++) {
        const struct mem_region *r = &machine->mem.region[i];
        rc = machine->hv->ops->slot_set(machine->hv, i, gpa_of(r->gpa),
                                        mem_page(&machine->mem, r->page_index), r->bytes, false);
        if (rc)
            return err_errno(err, ERR_HOST, -rc, "KVM refuses the guest's memory");
    }
    rc = machine->hv->ops->irqchip(machine->hv);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "KVM cannot create interrupt controllers");
    rc = create_devices(machine, err);
    return rc ? rc : create_vcpus(machine, err);
}

int machine_create(const struct machine_config *config, const struct hv_cpuid *cpuid,
                   struct machine_fds *fds, struct loop *loop, struct meter *meter,
                   const struct machine_hooks *hooks, struct machine **ret, struct err *err)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    if (!machine) {
        machine_close_fds(fds);
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create a machine");
    }
    *machine = (struct machine){ .config = *config,
                                 .cpuid = *cpuid,
                                 .fds = *fds,
                                 .loop = loop,
                                 .meter = meter,
                                 .hooks = *hooks,
                                 .mem = { .memfd = -1 },
                                 .pauses = 1 };
    for (uint32_t i = 0; i < CONFIG_DEVICES_MAX; i++)
        fds->device[i] = -1;
    fds->kvm = -1;

    int rc = assemble(machine, err);
    if (rc) {
        machine_free(machine);
        return rc;
    }
    *ret = machine;
    return 0;
}

void machine_free(struct machine *machine)
{
    if (!machine)
        return;
    vcpu_group_fini(&machine->vcpus);
    loop_remove(&machine->serial_room);
    for (unsigned i = 0; i < machine->dev_count; i++) {
        struct dev *dev = machine->dev[i];
        if (machine->pauses == 0)
            (void)dev->ops->pause(dev); /* it is freed either way */
        dev->ops->free(dev);
    }
    if (machine->hv)
        machine->hv->ops->close(machine->hv);
    mem_fini(&machine->mem);
    machine_close_fds(&machine->fds);
    free(machine);
}

int machine_boot(struct machine *machine, const struct host_config *host, struct err *err)
{
    struct boot_spec spec = { .kernel = host->kernel,
                              .initrd = host->initrd,
                              .cmdline = machine->config.cmdline,
                              .vcpus = machine->config.vcpus,
                              .devices = machine->config.device_count };
    struct hv_boot boot;
    int rc = boot_prepare(&machine->mem, &spec, &boot, err);
    if (rc)
        return rc;
    rc = machine->hv->ops->vcpu_boot(machine->vcpus.vcpu[0].hv, &boot);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot set the first vCPU's registers") : 0;
}

/* --------------------------------------------------------------------------------- pause and resume */

int machine_pause(struct machine *machine, struct err *err)
{
    if (machine->pauses++ > 0)
        return 0;
    vcpu_group_pause(&machine->vcpus);
    for (unsigned i = 0; i < machine->dev_count; i++) {
        struct dev *dev = machine->dev[i];
        int rc = dev->ops->pause(dev);
        if (rc) {
            while (i-- > 0)
                machine->dev[i]->ops->resume(machine->dev[i]);
            vcpu_group_resume(&machine->vcpus);
            machine->pauses = 0;
            return err_errno(err, ERR_HOST, -rc, "device %s (%u) does not come to rest",
                             dev->ops->name, dev->instance);
        }
    }
    return 0;
}

void machine_resume(struct machine *machine)
{
    ASSERT(machine->pauses > 0);
    if (--machine->pauses > 0)
        return;
    for (unsigned i = 0; i < machine->dev_count; i++)
        machine->dev[i]->ops->resume(machine->dev[i]);
    vcpu_group_resume(&machine->vcpus);
}

void machine_stood_still(struct machine *machine)
{
    vcpu_group_stood_still(&machine->vcpus);
}

/* ------------------------------------------------------------------------------------- save and load */

int machine_save(struct machine *machine, struct buf *out, struct err *err)
{
    ASSERT(machine->pauses > 0);
    const struct hv_ops *ops = machine->hv->ops;

    struct hv_vm_state vm;
    int rc = ops->vm_save(machine->hv, &vm);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot read the interrupt controllers and clock");
    section_put(out, SECTION_VM, 0, 0, &hv_vm_state_schema, &vm);

    CLEANUP_FREE struct hv_vcpu_state *vcpu = malloc(sizeof(*vcpu));
    for (unsigned id = 0; vcpu && id < machine->vcpus.count; id++) {
        rc = ops->vcpu_save(machine->vcpus.vcpu[id].hv, vcpu, err);
        if (rc)
            return err_wrap(err, rc, "vCPU %u", id);
        section_put(out, SECTION_VCPU, (uint16_t)id, 0, &hv_vcpu_state_schema, vcpu);
    }
    for (unsigned i = 0; vcpu && i < machine->dev_count; i++) {
        struct dev *dev = machine->dev[i];
        CLEANUP_FREE void *state = calloc(1, dev->ops->schema->size);
        if (!state)
            return err_errno(err, ERR_HOST, ENOMEM, "cannot save device %u", i);
        dev->ops->save(dev, state);
        section_put(out, dev->ops->section, dev->instance, 0, dev->ops->schema, state);
    }
    if (!vcpu || buf_status(out))
        return err_errno(err, ERR_HOST, ENOMEM, "cannot save the machine");
    return 0;
}

static int load_vcpu(struct machine *machine, const struct section *section, const void *body,
                     struct err *err)
{
    if (section->instance >= machine->vcpus.count)
        return err_set(err, ERR_PEER, EBADMSG, "state of vCPU %u, and the machine has %u",
                       section->instance, machine->vcpus.count);
    CLEANUP_FREE struct hv_vcpu_state *state = malloc(sizeof(*state));
    if (!state)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot load vCPU %u", section->instance);
    int rc = section_get(section, body, &hv_vcpu_state_schema, state, err);
    return rc ? rc
              : machine->hv->ops->vcpu_load(machine->vcpus.vcpu[section->instance].hv, state, err);
}

static int load_dev(struct machine *machine, const struct section *section, const void *body,
                    struct err *err)
{
    struct dev *dev =
        section->instance < machine->dev_count ? machine->dev[section->instance] : NULL;
    if (!dev || dev->ops->section != section->type)
        return err_set(err, ERR_PEER, EBADMSG, "state of %s %u, which this machine does not have",
                       section_type_name(section->type), section->instance);
    CLEANUP_FREE void *state = malloc(dev->ops->schema->size);
    if (!state)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot load device %u", section->instance);
    int rc = section_get(section, body, dev->ops->schema, state, err);
    return rc ? rc : dev->ops->load(dev, state, err);
}

int machine_load(struct machine *machine, const struct section *section, const void *body,
                 struct machine_seen *seen, struct err *err)
{
    ASSERT(machine->pauses > 0);
    int rc;
    if (section->type == SECTION_VM) {
        struct hv_vm_state vm;
        rc = section_get(section, body, &hv_vm_state_schema, &vm, err);
        if (!rc)
            rc = machine->hv->ops->vm_load(machine->hv, &vm);
        if (rc && !(err && err->code))
            rc = err_errno(err, ERR_HOST, -rc, "cannot load the interrupt controllers and clock");
        seen->vm = !rc;
    } else if (section->type == SECTION_VCPU) {
        rc = load_vcpu(machine, section, body, err);
        if (!rc)
            seen->vcpus |= UINT32_C(1) << section->instance;
    } else {
        rc = load_dev(machine, section, body, err);
        if (!rc)
            seen->devs |= UINT32_C(1) << section->instance;
    }
    return rc;
}

int machine_loaded_all(const struct machine *machine, const struct machine_seen *seen,
                       struct err *err)
{
    if (!seen->vm || seen->vcpus != (UINT32_C(1) << machine->vcpus.count) - 1 ||
        seen->devs != (UINT32_C(1) << machine->dev_count) - 1)
        return err_set(err, ERR_PEER, EBADMSG,
                       "state is incomplete: vm %d, vCPUs 0x%x, devices 0x%x", seen->vm,
                       seen->vcpus, seen->devs);
    return 0;
}

/* ------------------------------------------------------------------------------------------ the rest */

void machine_announce(struct machine *machine)
{
    for (unsigned i = 0; i < machine->dev_count; i++)
        if (machine->dev[i]->ops->announce)
            machine->dev[i]->ops->announce(machine->dev[i]);
}

struct virtio_dev *machine_virtio(const struct machine *machine, uint32_t n)
{
    return virtio_dev_of(machine->dev[2 + n]);
}

struct dev *machine_vsock(struct machine *machine)
{
    for (uint32_t n = 0; n < machine->config.device_count; n++)
        if (machine->config.device[n].kind == CONFIG_VSOCK)
            return machine->dev[2 + n];
    return NULL;
}

void machine_press_power_button(struct machine *machine)
{
    button_press(machine->button);
}

size_t machine_console_input(struct machine *machine, const uint8_t *bytes, size_t len)
{
    return serial_input(machine->serial, bytes, len);
}
