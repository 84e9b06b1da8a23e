#include "ends.h"
#include "base/fd.h"
#include "kvm/fake.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)

char disk_path[256];
const char *target_disk;

static void ignore_console(void *ctx, const uint8_t *bytes, size_t len)
{
    (void)ctx, (void)bytes, (void)len;
}

static void ignore_room(void *ctx)
{
    (void)ctx;
}

static void ignore_end(void *ctx, enum machine_end how, const char *why)
{
    (void)ctx, (void)how, (void)why;
}

static int hook_pause(void *ctx, struct err *err)
{
    struct end *end = ctx;
    int rc = machine_pause(end->machine, err);
    end->running = false;
    return rc;
}

static void hook_resume(void *ctx)
{
    struct end *end = ctx;
    end->running = true;
    machine_resume(end->machine);
}

static int hook_record(void *ctx, enum move_record record, const uint8_t *token,
                       const uint8_t *store, const char *peer, bool *ret_unknown, struct err *err)
{
    struct end *end = ctx;
    (void)token, (void)store, (void)peer;
    *ret_unknown = false;
    if (end->record_fails > 0) {
        end->record_fails--;
        return err_errno(err, ERR_HOST, ENOSPC, "cannot write the record");
    }
    end->record = record;
    return 0;
}

static bool hook_recorded(void *ctx, const uint8_t *token)
{
    (void)ctx, (void)token;
    return false; /* each token of these tests is new to the store; the engine knows its own */
}

static void hook_state(void *ctx, const char *state, const char *why)
{
    struct end *end = ctx;
    (void)why;
    end->stranded += strcmp(state, "stranded") == 0;
}

static void hook_address(void *ctx, char *address, size_t size)
{
    (void)ctx, (void)address, (void)size;
}

static enum move_order hook_order(void *ctx)
{
    struct end *end = ctx;
    enum move_order order = end->order;
    end->order = MOVE_NO_ORDER;
    return order;
}

static int hook_identify(void *ctx, const uint8_t uuid[16], struct err *err)
{
    (void)ctx, (void)uuid, (void)err;
    return 0;
}

static int hook_claim(void *ctx, const char *name, struct err *err)
{
    (void)err;
    assert_string_equal(name, "m");
    ((struct end *)ctx)->claimed = true;
    return 0;
}

static void hook_unclaim(void *ctx)
{
    ((struct end *)ctx)->claimed = false;
}

static void hook_adopt(void *ctx, struct machine *machine)
{
    ((struct end *)ctx)->machine = machine;
}

static void hook_arrived(void *ctx)
{
    (void)ctx;
}

static void hook_event(void *ctx, const char *event, json_t *params)
{
    (void)ctx;
    assert_true(strcmp(event, "move.progress") == 0 || strcmp(event, "move.decision") == 0);
    json_decref(params);
}

static void on_loop(void *ctx, void (*fn)(void *), void *arg)
{
    (void)ctx;
    fn(arg); /* no loop runs in these tests */
}

static int place(void *ctx, const struct machine_config *config, struct host_config *host,
                 struct err *err)
{
    (void)ctx;
    return config_host_set(config, host, "disk", target_disk ? target_disk : disk_path, err);
}

/* Both ends have the same writable disk, as on storage they share. */
static int open_disk(const char *path)
{
    struct err err;
    uint64_t sectors;
    int fd;
    assert_int_equal(disk_open(path, false, &fd, &sectors, &err), 0);
    return fd;
}

void check_disk_is_locked(bool locked)
{
    int fd = open_disk(disk_path);
    assert_int_equal(disk_lock(fd, false, DISK_ALONE), locked ? -EBUSY : 0);
    close(fd);
}

void end_init(struct end *end, const struct trust *own, bool insecure)
{
    *end = (struct end){ .cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
    assert_int_equal(loop_init(&end->loop), 0);
    meter_init(&end->meter);
    end->machine_hooks = (struct machine_hooks){ .console_out = ignore_console,
                                                 .console_room = ignore_room,
                                                 .on_end = ignore_end };
    end->env = (struct move_env){ .meter = &end->meter,
                                  .cancel_fd = end->cancel_fd,
                                  .nudge_fd = -1,
                                  .trust = own,
                                  .insecure = insecure };
    end->env.hooks = (struct move_hooks){ .ctx = end,
                                          .pause = hook_pause,
                                          .resume = hook_resume,
                                          .record = hook_record,
                                          .recorded = hook_recorded,
                                          .state = hook_state,
                                          .order = hook_order,
                                          .address = hook_address,
                                          .identify = hook_identify,
                                          .claim = hook_claim,
                                          .unclaim = hook_unclaim,
                                          .adopt = hook_adopt,
                                          .arrived = hook_arrived,
                                          .event = hook_event };
    end->host = (struct arrival_host){ .fake = true,
                                       .hooks = &end->machine_hooks,
                                       .meter = &end->meter,
                                       .loop = &end->loop,
                                       .on_loop = on_loop,
                                       .place = place,
                                       .ctx = end };
}

void end_fini(struct end *end)
{
    machine_free(end->machine);
    meter_fini(&end->meter);
    loop_fini(&end->loop);
    fd_close(&end->cancel_fd);
}

void start_guest(struct end *end)
{
    static struct machine_config config;
    static struct hv_cpuid cpuid;
    struct machine_fds fds = { .kvm = -1 };
    struct err err;
    for (int i = 0; i < CONFIG_DEVICES_MAX; i++)
        fds.device[i] = -1;
    config = (struct machine_config){
        .name = "m", .uuid = { 1 }, .vcpus = 2, .memory_bytes = 64 * MIB, .device_count = 3
    };
    config.device[0] = (struct config_device){ .kind = CONFIG_RNG, .id = "rng0" };
    config.device[1] = (struct config_device){ .kind = CONFIG_BLK, .id = "disk", .sectors = 8 };
    config.device[2] = (struct config_device){ .kind = CONFIG_BALLOON, .id = "balloon0" };
    fds.device[1] = open_disk(disk_path);
    hv_fake_cpuid(&cpuid);
    assert_int_equal(machine_create(&config, &cpuid, &fds, &end->loop, &end->meter,
                                    &end->machine_hooks, &end->machine, &err),
                     0);
    assert_int_equal(machine_lock_disks(end->machine, DISK_ALONE, &err), 0);
    end->env.machine = end->machine;
    end->record = RECORD_HERE;
    hook_resume(end);
}
