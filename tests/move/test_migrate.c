/*
 * Whole migrations over the fake hypervisor: both pumps, real TCP, machines whose memory can be replayed.
 *
 * A relay stands between the two ends and cuts, damages or silences the first connection once a given number
 * of bytes has passed; later connections get through. Wherever the fault falls, one side must run the guest,
 * with all its memory right, and the other must have nothing.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "kvm/fake.h"
#include "move/migrate.h"
#include "move/receive.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)

/* ------------------------------------------------------------------------------------------- the relay */

#define PAIRS_MAX 24

enum fault { FAULT_NONE, FAULT_CUT, FAULT_FLIP, FAULT_SILENCE };

struct relay {
    int listen_fd, port, to_port;
    enum fault fault;
    unsigned victim; /* the connection it befalls: 0 is the first */
    bool to_source;  /* which direction's bytes count */
    uint64_t at;     /* bytes of it that pass before the fault */
    bool fired;
    uint64_t passed[2];
    atomic_bool quit;
    pthread_t thread;
};

static int listen_any(int *ret_port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    *ret_port = ntohs(at.sin_port);
    return fd;
}

static int connect_port(int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons((uint16_t)port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
        fd_close(&fd);
    return fd;
}

/* Passes on what `from` sent; false when the pair is to be closed. */
static bool pass(struct relay *relay, int from, int to, int direction, bool faulty)
{
    uint8_t bytes[4096];
    ssize_t n = read(from, bytes, sizeof(bytes));
    if (n <= 0)
        return false;
    bool counts =
        faulty && relay->fault != FAULT_NONE && !relay->fired && direction == relay->to_source;
    if (counts && relay->passed[direction] + (uint64_t)n > relay->at) {
        size_t left = (size_t)(relay->at - relay->passed[direction]);
        relay->fired = true;
        if (relay->fault == FAULT_FLIP)
            bytes[left] ^= 0x40;
        else
            n = (ssize_t)left;
        if (relay->fault == FAULT_CUT) {
            (void)!write(to, bytes, (size_t)n);
            return false;
        }
    } else if (faulty && relay->fired && relay->fault == FAULT_SILENCE) {
        n = 0; /* swallowed, in both directions */
    }
    if (faulty)
        relay->passed[direction] += (uint64_t)n;
    return n == 0 || fd_write_full(to, bytes, (size_t)n) == 0;
}

static void *relay_thread(void *arg)
{
    struct relay *relay = arg;
    int pair[PAIRS_MAX][2];
    unsigned pairs = 0;

    while (!relay->quit) {
        struct pollfd fds[1 + 2 * PAIRS_MAX] = { { .fd = relay->listen_fd, .events = POLLIN } };
        for (unsigned i = 0; i < pairs; i++)
            for (int d = 0; d < 2; d++)
                fds[1 + 2 * i + (unsigned)d] =
                    (struct pollfd){ .fd = pair[i][d], .events = POLLIN };
        if (poll(fds, 1 + 2 * pairs, 20) <= 0)
            continue;
        for (unsigned i = 0; i < pairs; i++) {
            bool good = true;
            for (int d = 0; d < 2 && good; d++)
                if (fds[1 + 2 * i + (unsigned)d].revents)
                    good = pass(relay, pair[i][d], pair[i][!d], d, i == relay->victim);
            if (!good)
                for (int d = 0; d < 2; d++)
                    fd_close(&pair[i][d]);
        }
        if (fds[0].revents && pairs < PAIRS_MAX) {
            int source = accept4(relay->listen_fd, NULL, NULL, SOCK_CLOEXEC);
            int target = connect_port(relay->to_port);
            if (source < 0 || target < 0) {
                fd_close(&source);
                fd_close(&target);
                continue;
            }
            pair[pairs][0] = source;
            pair[pairs++][1] = target;
        }
    }
    for (unsigned i = 0; i < pairs; i++)
        for (int d = 0; d < 2; d++)
            fd_close(&pair[i][d]);
    return NULL;
}

/* -------------------------------------------------------------------------------------------- the ends */

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
};

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
    (void)ctx, (void)state, (void)why;
}

static enum move_order hook_order(void *ctx)
{
    struct end *end = ctx;
    enum move_order order = end->order;
    end->order = MOVE_NO_ORDER;
    return order;
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
    (void)ctx, (void)config, (void)host, (void)err;
    return 0;
}

static void end_init(struct end *end)
{
    *end = (struct end){ .cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
    assert_int_equal(loop_init(&end->loop), 0);
    meter_init(&end->meter);
    end->machine_hooks = (struct machine_hooks){ .console_out = ignore_console,
                                                 .console_room = ignore_room,
                                                 .on_end = ignore_end };
    end->env = (struct move_env){ .meter = &end->meter, .cancel_fd = end->cancel_fd };
    end->env.hooks = (struct move_hooks){ .ctx = end,
                                          .pause = hook_pause,
                                          .resume = hook_resume,
                                          .record = hook_record,
                                          .recorded = hook_recorded,
                                          .state = hook_state,
                                          .order = hook_order,
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

static void end_fini(struct end *end)
{
    machine_free(end->machine);
    meter_fini(&end->meter);
    loop_fini(&end->loop);
    fd_close(&end->cancel_fd);
}

static void start_guest(struct end *end)
{
    static struct machine_config config;
    static struct hv_cpuid cpuid;
    struct machine_fds fds = { .kvm = -1 };
    struct err err;
    for (int i = 0; i < CONFIG_DEVICES_MAX; i++)
        fds.device[i] = -1;
    config = (struct machine_config){
        .name = "m", .uuid = { 1 }, .vcpus = 2, .memory_bytes = 64 * MIB, .device_count = 1
    };
    config.device[0] = (struct config_device){ .kind = CONFIG_RNG, .id = "rng0" };
    hv_fake_cpuid(&cpuid);
    assert_int_equal(machine_create(&config, &cpuid, &fds, &end->loop, &end->meter,
                                    &end->machine_hooks, &end->machine, &err),
                     0);
    end->env.machine = end->machine;
    end->record = RECORD_HERE;
    hook_resume(end);
}

static uint64_t steps_of(struct machine *machine, unsigned vcpu)
{
    struct hv_vcpu_state *state = calloc(1, sizeof(*state));
    assert_int_equal(machine->hv->ops->vcpu_save(machine->vcpus.vcpu[vcpu].hv, state, NULL), 0);
    uint64_t steps = state->gpr[0];
    free(state);
    return steps;
}

/* Every page holds what its vCPUs' steps left there; returns how many steps that were. */
static uint64_t check_memory(struct machine *machine)
{
    struct err err;
    uint64_t steps = 0;
    assert_int_equal(machine_pause(machine, &err), 0);
    for (unsigned id = 0; id < 2; id++) {
        uint64_t page;
        if (!hv_fake_verify(machine->mem.host, machine->mem.pages, id, steps_of(machine, id),
                            &page))
            fail_msg("vCPU %u: page %llu is wrong", id, (unsigned long long)page);
        steps += steps_of(machine, id);
    }
    machine_resume(machine);
    return steps;
}

/* The guest is whole, and goes on: a vCPU bursts every 200 us when the machine lets it. */
static void check_guest(struct end *end)
{
    assert_non_null(end->machine);
    uint64_t before = check_memory(end->machine), now = before;
    for (int tries = 0; tries < 2000 && now == before; tries++) {
        (void)poll(NULL, 0, 5);
        now = check_memory(end->machine);
    }
    assert_true(now > before);
}

struct target_run {
    struct end *end;
    int listen_fd;
    int rc;
    struct err err;
};

static void *target_thread(void *arg)
{
    struct target_run *run = arg;
    static const uint8_t store[MOVE_STORE_BYTES] = { 7 };
    bool settled;
    run->rc = receive_run(&run->end->env, &run->end->host, run->listen_fd, store, true, &settled,
                          &run->err);
    return NULL;
}

struct result {
    enum migrate_outcome outcome;
    int source_rc, target_rc;
    struct err source_err;
    uint64_t passed[2];
};

/* How the moves to come send their pages. */
static enum packing_mode packing_of_next = PACKING_MODE_OFF;
static uint64_t delta_of_next;
/* Short, so that silence is soon noticed; where nothing is to fail, long enough for a busy machine. */
static uint64_t stall_of_next = 300 * CLOCK_MSEC;

/* One whole move with one fault; checks what must hold whatever happened. */
static struct result move_with(struct relay relay, const char *mode, int source_record_fails,
                               int target_record_fails, bool cancel, uint32_t lanes)
{
    struct end source, target;
    struct result result = { 0 };
    struct bill *bill = calloc(1, sizeof(*bill));
    end_init(&source);
    end_init(&target);
    start_guest(&source);
    source.record_fails = source_record_fails;
    target.record_fails = target_record_fails;
    if (cancel) {
        source.order = MOVE_CANCEL;
        assert_int_equal(eventfd_write(source.cancel_fd, 1), 0);
    }

    struct target_run run = { .end = &target };
    pthread_t thread;
    run.listen_fd = listen_any(&relay.to_port);
    relay.listen_fd = listen_any(&relay.port);
    assert_int_equal(pthread_create(&relay.thread, NULL, relay_thread, &relay), 0);
    assert_int_equal(pthread_create(&thread, NULL, target_thread, &run), 0);

    char address[64];
    (void)snprintf(address, sizeof(address), "127.0.0.1:%d", relay.port);
    static const _Atomic(uint64_t) no_limit;
    struct migrate_request request = { .target = address,
                                       .mode = mode,
                                       .lanes = lanes,
                                       .packing = packing_of_next,
                                       .delta_bytes = delta_of_next,
                                       .bandwidth = &no_limit,
                                       .bandwidth_paused = MIGRATE_BANDWIDTH_SAME,
                                       .policy = policy_limits_default(),
                                       .stall_limit_ns = stall_of_next };
    result.source_rc =
        migrate_run(&source.env, &request, bill, &result.outcome, &result.source_err);

    if (result.outcome == MIGRATE_MOVED || !target.machine) {
        /* One that never heard of the move still waits for it, and one whose source's last word was lost goes
         * on answering: let both end. */
        target.order = MOVE_END_NOW;
        assert_int_equal(eventfd_write(target.cancel_fd, 1), 0);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    relay.quit = true;
    assert_int_equal(pthread_join(relay.thread, NULL), 0);
    result.target_rc = run.rc;
    memcpy(result.passed, relay.passed, sizeof(relay.passed));

    /* Exactly one owner. */
    if (result.outcome == MIGRATE_MOVED) {
        assert_true(target.running && !source.running);
        assert_int_equal(source.record, RECORD_HANDED);
        assert_int_equal(target.record, RECORD_HERE);
        check_guest(&target);
    } else {
        assert_int_equal(result.outcome, MIGRATE_STAYED);
        assert_true(source.running && !target.running);
        assert_int_equal(source.record, RECORD_HERE);
        assert_null(target.machine);
        assert_false(target.claimed);
        assert_int_not_equal(result.source_rc, 0);
        assert_true(result.source_err.text[0]);
        check_guest(&source);
    }
    /* The bill adds up, also of a failure. */
    uint64_t stages = 0;
    for (int i = 0; i < BILL_STAGE_MAX; i++)
        stages += bill->stage_ns[i];
    assert_true(bill->ended);
    assert_int_equal(stages, bill_total_ns(bill));
    assert_int_equal(bill->err.code != 0, result.outcome != MIGRATE_MOVED);

    free(bill);
    close(run.listen_fd);
    close(relay.listen_fd);
    end_fini(&source);
    end_fini(&target);
    return result;
}

/* -------------------------------------------------------------------------------------------- the tests */

static void moves_whole(void **unused)
{
    static const uint32_t lanes[] = { 0, 1, 2, 4, MOVE_LANES_MAX, MIGRATE_LANES_AUTO };
    (void)unused;
    stall_of_next = 10 * CLOCK_SECOND;
    for (unsigned i = 0; i < 2 * ARRAY_LEN(lanes); i++) {
        struct result r = move_with((struct relay){ .fault = FAULT_NONE },
                                    i % 2 ? "stop-copy" : "pre-copy", 0, 0, false, lanes[i / 2]);
        assert_int_equal(r.outcome, MIGRATE_MOVED);
        assert_int_equal(r.target_rc, 0);
    }
    stall_of_next = 300 * CLOCK_MSEC;
}

/* Faults at places spread over the whole conversation, denser at its ends, where the messages are. */
static void fault_everywhere(enum fault fault, const char *mode, unsigned steps, uint32_t lanes,
                             unsigned victim)
{
    struct relay none = { .fault = FAULT_NONE, .victim = victim };
    stall_of_next = 10 * CLOCK_SECOND;
    struct result whole = move_with(none, mode, 0, 0, false, lanes);
    stall_of_next = 300 * CLOCK_MSEC;
    unsigned moved = 0, stayed = 0;
    assert_int_equal(whole.outcome, MIGRATE_MOVED);
    for (int to_source = 0; to_source < 2; to_source++) {
        uint64_t total = whole.passed[to_source];
        for (unsigned i = 0; i < steps && total > 0; i++) {
            uint64_t part = total * i / steps;
            uint64_t at = i < steps / 3       ? i * 61
                          : i < 2 * steps / 3 ? total - MIN(total, (i - steps / 3) * 61)
                                              : part;
            struct relay relay = {
                .fault = fault, .victim = victim, .to_source = to_source, .at = at
            };
            struct result r = move_with(relay, mode, 0, 0, false, lanes);
            moved += r.outcome == MIGRATE_MOVED;
            stayed += r.outcome == MIGRATE_STAYED;
        }
    }
    print_message("# %u moved all the same, %u stayed\n", moved, stayed);
    assert_true(stayed > 0);
    assert_true(moved > 0 || victim > 0);
}

static void cut_anywhere(void **unused)
{
    (void)unused;
    fault_everywhere(FAULT_CUT, "pre-copy", 45, 0, 0);
    fault_everywhere(FAULT_CUT, "stop-copy", 15, 0, 0);
}

static void damage_anywhere(void **unused)
{
    (void)unused;
    fault_everywhere(FAULT_FLIP, "pre-copy", 30, 0, 0);
}

static void silence_anywhere(void **unused)
{
    (void)unused;
    fault_everywhere(FAULT_SILENCE, "pre-copy", 9, 0, 0);
}

/* The same befalling the control connection or a lane of a move with several. */
static void cut_with_lanes(void **unused)
{
    (void)unused;
    for (unsigned victim = 0; victim < 3; victim++)
        fault_everywhere(FAULT_CUT, victim == 2 ? "stop-copy" : "pre-copy", 12, 2, victim);
    fault_everywhere(FAULT_CUT, "pre-copy", 12, 1, 1);
    fault_everywhere(FAULT_CUT, "pre-copy", 12, 4, 3);
}

static void damage_with_lanes(void **unused)
{
    (void)unused;
    for (unsigned victim = 0; victim < 2; victim++)
        fault_everywhere(FAULT_FLIP, "pre-copy", 9, 2, victim);
}

static void silence_with_lanes(void **unused)
{
    (void)unused;
    for (unsigned victim = 0; victim < 2; victim++)
        fault_everywhere(FAULT_SILENCE, "pre-copy", 6, 2, victim);
}

/* Every way to send a page, in every combination of lanes: the memory that arrives is the same. */
static void classes(void **unused)
{
    (void)unused;
    stall_of_next = 10 * CLOCK_SECOND;
    for (unsigned i = 0; i < 16; i++) {
        packing_of_next = (enum packing_mode)(i % 4);
        delta_of_next = i & 4 ? 8 * MIB : 0;
        struct result r = move_with((struct relay){ .fault = FAULT_NONE }, "pre-copy", 0, 0, false,
                                    i & 8 ? 2 : 0);
        assert_int_equal(r.outcome, MIGRATE_MOVED);
    }
    stall_of_next = 300 * CLOCK_MSEC;
    packing_of_next = PACKING_MODE_LZ4;
    delta_of_next = MIB;
    fault_everywhere(FAULT_FLIP, "pre-copy", 9, 2, 1);
    packing_of_next = PACKING_MODE_OFF;
    delta_of_next = 0;
}

static void records_that_fail(void **unused)
{
    (void)unused;
    struct result r = move_with((struct relay){ 0 }, "pre-copy", 1, 0, false, 2);
    assert_int_equal(r.outcome, MIGRATE_STAYED);
    (void)move_with((struct relay){ 0 }, "pre-copy", 0, 1, false, 2); /* either way: one owner */
}

static void cancelled(void **unused)
{
    (void)unused;
    for (uint32_t lanes = 0; lanes < 3; lanes++) {
        struct result r = move_with((struct relay){ 0 }, "pre-copy", 0, 0, true, lanes);
        assert_int_equal(r.outcome, MIGRATE_STAYED);
        assert_int_equal(r.source_rc, -ECANCELED);
    }
}

static void nobody_listens(void **unused)
{
    (void)unused;
    struct end source;
    struct bill *bill = calloc(1, sizeof(*bill));
    enum migrate_outcome outcome;
    struct err err;
    end_init(&source);
    start_guest(&source);
    static const _Atomic(uint64_t) no_limit;
    struct migrate_request request = { .target = "127.0.0.1:1",
                                       .mode = "pre-copy",
                                       .packing = packing_of_next,
                                       .delta_bytes = delta_of_next,
                                       .bandwidth = &no_limit,
                                       .bandwidth_paused = MIGRATE_BANDWIDTH_SAME,
                                       .policy = policy_limits_default(),
                                       .stall_limit_ns = CLOCK_SECOND };
    assert_int_equal(migrate_run(&source.env, &request, bill, &outcome, &err), -ECONNREFUSED);
    assert_int_equal(outcome, MIGRATE_STAYED);
    assert_non_null(strstr(err.text, "127.0.0.1:1"));
    check_guest(&source);
    end_fini(&source);
    free(bill);
}

/* With an argument, the tests with lanes: two short runs instead of one long. */
int main(int argc, char **argv)
{
    const struct CMUnitTest plain[] = {
        cmocka_unit_test(moves_whole),       cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(damage_anywhere),   cmocka_unit_test(silence_anywhere),
        cmocka_unit_test(records_that_fail), cmocka_unit_test(cancelled),
        cmocka_unit_test(nobody_listens),
    };
    const struct CMUnitTest with_lanes[] = {
        cmocka_unit_test(classes),
        cmocka_unit_test(cut_with_lanes),
        cmocka_unit_test(damage_with_lanes),
        cmocka_unit_test(silence_with_lanes),
    };
    (void)argv;
    (void)signal(SIGPIPE, SIG_IGN);
    return argc > 1 ? cmocka_run_group_tests(with_lanes, NULL, NULL)
                    : cmocka_run_group_tests(plain, NULL, NULL);
}
