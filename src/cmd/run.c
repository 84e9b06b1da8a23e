#include "cmd/device.h"
#include "cmd/launch.h"
#include "cmd/parse.h"
#include "dev/virtio_vsock.h"
#include "vm/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct plan {
    struct machine_config machine;
    struct host_config host;
};

/* The next device of the plan, and its place on the host; NULL when the list is full. */
static struct config_device *add(struct plan *plan, struct host_device **ret_host, struct err *err)
{
    uint32_t n = plan->machine.device_count;
    if (n == CONFIG_DEVICES_MAX) {
        (void)err_set(err, ERR_CALLER, E2BIG, "more than %d devices", CONFIG_DEVICES_MAX);
        return NULL;
    }
    plan->machine.device_count++;
    *ret_host = &plan->host.device[n];
    return &plan->machine.device[n];
}

static int add_devices(const struct cmd_args *args, struct plan *plan, struct err *err)
{
    struct config_device *device;
    struct host_device *host;
    const char *text;

    for (unsigned at = 0; (text = cmd_next(args, "disk", &at));) {
        device = add(plan, &host, err);
        int rc = device ? device_read_disk(text, device, host, err) : -E2BIG;
        if (rc)
            return err_wrap(err, rc, "--disk");
    }
    for (unsigned at = 0; (text = cmd_next(args, "net", &at));) {
        device = add(plan, &host, err);
        int rc = device ? device_read_net(text, plan->machine.name, device, host, err) : -E2BIG;
        if (rc)
            return err_wrap(err, rc, "--net");
    }
    if (!cmd_flag(args, "no-rng")) {
        device = add(plan, &host, err);
        if (!device)
            return -E2BIG;
        *device = (struct config_device){ .kind = CONFIG_RNG, .id = "rng0" };
    }
    if (!cmd_flag(args, "no-balloon")) {
        device = add(plan, &host, err);
        if (!device)
            return -E2BIG;
        *device = (struct config_device){ .kind = CONFIG_BALLOON, .id = "balloon0" };
    }
    if (cmd_text(args, "vsock")) {
        device = add(plan, &host, err);
        if (!device)
            return -E2BIG;
        *device = (struct config_device){ .kind = CONFIG_VSOCK, .id = "vsock0" };
        plan->machine.vsock_cid = (uint32_t)cmd_number(args, "vsock");
    }
    return 0;
}

static int make_plan(const struct cmd_args *args, struct plan *plan, struct err *err)
{
    const char *kernel = cmd_text(args, "kernel"), *initrd = cmd_text(args, "initrd"),
               *cmdline = cmd_text(args, "cmdline");
    struct machine_config *machine = &plan->machine;

    machine->vcpus = (uint32_t)cmd_number(args, "cpus");
    machine->memory_bytes = cmd_number(args, "memory");
    /* its length was checked */
    (void)snprintf(machine->name, sizeof(machine->name), "%s", cmd_text(args, "name"));
    if (strlen(cmdline) >= sizeof(machine->cmdline))
        return err_set(err, ERR_CALLER, EINVAL, "--cmdline: longer than %zu characters",
                       sizeof(machine->cmdline) - 1);
    memcpy(machine->cmdline, cmdline, strlen(cmdline) + 1);
    int rc = parse_path(kernel, plan->host.kernel, sizeof(plan->host.kernel), err);
    if (!rc && initrd)
        rc = parse_path(initrd, plan->host.initrd, sizeof(plan->host.initrd), err);
    if (!rc)
        rc = config_new_uuid(machine->uuid, err);
    if (!rc)
        rc = add_devices(args, plan, err);
    return rc ? rc : config_check(machine, ERR_CALLER, err);
}

static int run(struct cmd_args *args)
{
    struct err err = { 0 };
    const char *name = cmd_text(args, "name");
    struct plan *plan = calloc(1, sizeof(*plan));
    int rc = plan ? make_plan(args, plan, &err) : err_errno(&err, ERR_HOST, ENOMEM, "cannot start");
    json_t *config = rc ? NULL : config_to_json(&plan->machine, &plan->host);
    free(plan);
    if (!rc && !config)
        rc = err_set(&err, ERR_CALLER, EINVAL,
                     "a path that is no UTF-8 text cannot be handed to the monitor");
    if (rc)
        return cmd_fail(args, &err);

    json_t *options = launch_options(args, "boot", name);
    (void)json_object_set_new(options, "config", config);
    if (launch_self_migrate(args, options, &err)) {
        json_decref(options);
        return cmd_fail(args, &err);
    }
    int status =
        launch(args, &(struct launch){
                         .title = name, .options = options, .listen_fd = -1, .what = "runs" });
    json_decref(options);
    return status;
}

const struct command cmd_run = {
    .name = "run",
    .summary = "start a VM",
    .text =
        "Boots a kernel in a new VM, in a process of its own, and attaches to its console. The "
        "command ends when the VM does, with the VM's status; the escape leaves the VM running. "
        "SIGINT, SIGTERM or SIGHUP to the command end the VM.\n\n"
        "The kernel is a bzImage, as distributions ship it, or an ELF file with a PVH entry. "
        "Disks are raw files or block devices, network cards are joined to tap interfaces that "
        "exist already. The guest finds devices in the order disks, cards, random number "
        "generator, balloon, vsock, each kind in the order given.\n\n"
        "A guest that drives its balloon reports the pages it does not use: they take no memory of "
        "the host, and do not travel when it moves. See 'godwit balloon'.\n\n"
        "What is wrong with the options, the kernel, a disk or a tap is said in one line, and "
        "nothing is left running.",
    .example =
        "  godwit run --name web1 --memory 512M --kernel /boot/vmlinuz --initrd initrd.img \\\n"
        "      --cmdline 'console=ttyS0 root=/dev/vda' --disk root=web1.raw --net lan=tap0 "
        "--detach\n",
    .options =
        (const struct cmd_option[]){
            { .name = "name",
              .kind = CMD_NAME,
              .flags = CMD_REQUIRED,
              .value = "NAME",
              .help = "the name of the new VM" },
            { .name = "kernel",
              .kind = CMD_FILE,
              .flags = CMD_REQUIRED,
              .value = "FILE",
              .help = "the kernel to boot" },
            { .name = "initrd",
              .kind = CMD_FILE,
              .value = "FILE",
              .help = "the initial file system of the kernel" },
            { .name = "cmdline",
              .kind = CMD_TEXT,
              .value = "TEXT",
              .fallback = "console=ttyS0",
              .help = "the kernel's command line" },
            { .name = "memory",
              .kind = CMD_SIZE,
              .value = "SIZE",
              .fallback = "256M",
              .min = UINT64_C(64) << 20,
              .max = UINT64_C(1) << 40,
              .step = UINT64_C(2) << 20,
              .help = "the guest's memory, from 64M, in steps of 2M" },
            { .name = "cpus",
              .kind = CMD_COUNT,
              .value = "N",
              .fallback = "1",
              .min = 1,
              .max = CONFIG_VCPUS_MAX,
              .help = "how many processors the guest has, 1 to 16" },
            { .name = "disk",
              .kind = CMD_TEXT,
              .flags = CMD_REPEATED,
              .value = "ID=PATH[,ro][,serial=S]",
              .help = "a disk named ID, read-only with ro, with a serial number of at most "
                      "20 characters" },
            { .name = "net",
              .kind = CMD_TEXT,
              .flags = CMD_REPEATED,
              .value = "ID=TAP[,mac=M]",
              .help = "a network card named ID on the tap TAP; its address depends on NAME and "
                      "ID if none is given" },
            { .name = "no-rng", .kind = CMD_FLAG, .help = "no random number generator" },
            { .name = "no-balloon",
              .kind = CMD_FLAG,
              .help = "no memory balloon, and no reporting of free pages" },
            { .name = "vsock",
              .kind = CMD_COUNT,
              .value = "CID",
              .min = VSOCK_CID_GUEST_MIN,
              .max = VSOCK_CID_GUEST_MAX,
              .help = "a vsock device with this address, from 3 (no two VMs of a host need to "
                      "differ); without it there is none, and no guest agent" },
            LAUNCH_OPTIONS,
            { 0 } },
    .status_ok =
        "The guest switched itself off or was ended by a command; with --detach, or after the "
        "escape: it runs",
    .fn = run,
};
