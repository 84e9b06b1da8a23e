/*
 * Whole migrations over the fake hypervisor: both pumps, real TCP, machines whose memory can be replayed.
 *
 * A relay stands between the two ends and cuts, damages or silences one connection, the first if not said
 * otherwise, once a given number of bytes has passed; later connections get through. Wherever the fault falls, one side must run the guest,
 * with all its memory right, and the other must have nothing.
 *
 * The argument, "tls" or "plain", says what the connections are; "lanes" is about moves with encrypted lanes.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "ends.h"
#include "kvm/fake.h"
#include "relay.h"
#include "trusting.h"
#include "whole.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define STRANGERS_MAX 27 /* more than a receiver serves at a time */

static bool plain;
static struct trust *trust[2]; /* the source's, the target's */

static int syncs_while_running, syncs_in_pause, syncs_that_fail;
static struct end *syncing; /* the source */

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    if (syncing->running) {
        syncs_while_running++;
    } else {
        syncs_in_pause++;
        if (syncs_that_fail > 0) {
            syncs_that_fail--;
            errno = EIO;
            return -1;
        }
    }
    return __real_fdatasync(fd);
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
    unsigned stranded;    /* times, at the target */
    unsigned interrupted; /* the same, at the source */
    struct bill_faults faults;
    bool has_faults;
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
    end_init(&source, trust[0], plain);
    end_init(&target, trust[1], plain);
    syncing = &source;
    syncs_while_running = syncs_in_pause = 0;
    start_guest(&source);
    check_disk_is_locked(true);
    source.record_fails = source_record_fails;
    target.record_fails = target_record_fails;
    if (cancel) {
        source.order = MOVE_CANCEL;
        assert_int_equal(eventfd_write(source.cancel_fd, 1), 0);
    }

    struct target_run run = { .end = &target };
    pthread_t thread;
    run.listen_fd = listen_any(&relay.to_port);
    relay_begin(&relay);
    assert_int_equal(pthread_create(&thread, NULL, target_thread, &run), 0);

    int stranger[STRANGERS_MAX];
    for (unsigned i = 0; i < relay.strangers; i++) {
        stranger[i] = connect_port(relay.to_port);
        assert_true(stranger[i] >= 0);
        if (i % 2) /* a handshake that goes no further */
            assert_int_equal(write(stranger[i], "\x16\x03\x01", 3), 3);
    }

    char address[64];
    (void)snprintf(address, sizeof(address), "127.0.0.1:%d", relay.port);
    bool allow = strcmp(mode, "allow") == 0;
    static const _Atomic(uint64_t) no_limit;
    struct migrate_request request = { .target = address,
                                       .mode = allow ? "auto" : mode,
                                       .post_copy =
                                           allow ? SOURCE_POST_COPY_ALLOW : SOURCE_POST_COPY_NEVER,
                                       .lanes = lanes,
                                       .packing = packing_of_next,
                                       .delta_bytes = delta_of_next,
                                       .bandwidth = &no_limit,
                                       .bandwidth_paused = MIGRATE_BANDWIDTH_SAME,
                                       .policy = policy_limits_default(),
                                       .stall_limit_ns = stall_of_next };
    if (allow)
        request.policy.max_downtime_ns = 1;
    result.source_rc =
        migrate_run(&source.env, &request, bill, &result.outcome, &result.source_err);

    if (result.outcome == MIGRATE_MOVED || !target.machine) {
        /* One that never heard of the move still waits for it, and one whose source's last word was lost goes
         * on answering: let both end. */
        target.order = MOVE_END_NOW;
        assert_int_equal(eventfd_write(target.cancel_fd, 1), 0);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    relay_end(&relay);
    result.target_rc = run.rc;
    memcpy(result.passed, relay.passed, sizeof(relay.passed));
    result.stranded = target.stranded;
    result.interrupted = source.stranded;
    result.faults = bill->faults;
    result.has_faults = bill->has_faults;

    /* Exactly one owner. */
    if (result.outcome == MIGRATE_MOVED) {
        assert_true(target.running && !source.running);
        assert_int_equal(source.record, RECORD_HANDED);
        assert_int_equal(target.record, RECORD_HERE);
        whole_check(target.machine);
    } else {
        assert_int_equal(result.outcome, MIGRATE_STAYED);
        assert_true(source.running && !target.running);
        assert_int_equal(source.record, RECORD_HERE);
        assert_null(target.machine);
        assert_false(target.claimed);
        assert_int_not_equal(result.source_rc, 0);
        assert_true(result.source_err.text[0]);
        whole_check(source.machine);
        struct err err; /* it has back what it may have given up */
        assert_int_equal(machine_lock_disks(source.machine, DISK_TAKE_OVER, &err), 0);
    }
    check_disk_is_locked(true); /* the source's monitor is still there */
    if (result.outcome == MIGRATE_MOVED) {
        machine_free(source.machine);
        source.machine = NULL;
        check_disk_is_locked(true); /* and when it is not */
        assert_int_equal(syncs_in_pause, 1);
        assert_true(bill->part_ns[BILL_DISK_SYNC] > 0);
    }
    /* The bill adds up, also of a failure. */
    uint64_t stages = 0;
    for (int i = 0; i < BILL_STAGE_MAX; i++)
        stages += bill->stage_ns[i];
    assert_true(bill->ended);
    assert_int_equal(stages, bill_total_ns(bill));
    assert_int_equal(bill->err.code != 0, result.outcome != MIGRATE_MOVED);
    /* It says how the guest travelled, if it did. */
    if (result.outcome == MIGRATE_MOVED) {
        assert_true(bill->has_link);
        assert_int_equal(bill->link.encrypted, !plain);
        /* A lost connection had encrypted more than it had sent. */
        if (plain || !result.interrupted)
            assert_int_equal(bill->wire_sent_bytes > bill->bytes[BILL_BYTES_PAGE_DATA], !plain);
    }

    for (unsigned i = 0; i < relay.strangers; i++)
        close(stranger[i]);
    free(bill);
    close(run.listen_fd);
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
    if (plain) /* the same pumps: fewer places will do */
        steps = (steps + 2) / 3;
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

/* The guest's vCPUs write all over its memory from the moment they run: each of their accesses to a page that is
 * still away has to wait for it, and one that did not would be found by whole_check(). */
static void post_copy_calm(uint32_t lanes)
{
    for (int i = 0; i < 6; i++) {
        struct result r = move_with((struct relay){ .fault = FAULT_NONE },
                                    i % 2 ? "allow" : "post-copy", 0, 0, false, lanes);
        assert_int_equal(r.outcome, MIGRATE_MOVED);
        assert_int_equal(r.target_rc, 0);
        assert_int_equal(r.stranded, 0);
        assert_int_equal(r.interrupted, 0); /* the end of it is no loss */
        assert_int_equal(r.faults.missing, 0);
        assert_int_equal(r.faults.duplicates, 0);
        if (r.has_faults)
            assert_int_equal(r.faults.absent, r.faults.pushed + r.faults.answered);
    }
}

static void post_copy_whole(void **unused)
{
    (void)unused;
    post_copy_calm(0);
}

/* Rounds on lanes before it, and packed pages and deltas in them. */
static void post_copy_with_lanes(void **unused)
{
    (void)unused;
    stall_of_next = 10 * CLOCK_SECOND;
    post_copy_calm(2);
    packing_of_next = PACKING_MODE_ZSTD;
    delta_of_next = 8 * MIB;
    post_copy_calm(MIGRATE_LANES_AUTO);
    packing_of_next = PACKING_MODE_OFF;
    delta_of_next = 0;
    stall_of_next = 300 * CLOCK_MSEC;
}

/* Faults on each connection of a pure post-copy: the move's, its urgent lane, and the lanes that push. */
static void post_copy_fault_with(enum fault fault, unsigned connection, unsigned steps,
                                 uint32_t lanes)
{
    unsigned moved = 0, stayed = 0, stranded = 0;
    struct relay calm = { .fault = FAULT_NONE, .victim = connection };
    stall_of_next = 10 * CLOCK_SECOND;
    struct result whole = move_with(calm, "post-copy", 0, 0, false, lanes);
    stall_of_next = 300 * CLOCK_MSEC;
    for (int to_source = 0; to_source < 2; to_source++) {
        bool urgent = connection == 1, few = connection == 0 && lanes > 0;
        uint64_t total = urgent ? (to_source ? 400 : 40000) : whole.passed[to_source];
        for (unsigned i = 0; i < steps; i++) {
            uint64_t at = i < steps / 2 ? i * 53 : total * (i - steps / 2) / (steps / 2);
            if (few) /* all that matters is at its end */
                at = total - MIN(total, i * 37);
            struct relay relay = {
                .fault = fault, .to_source = to_source, .at = at, .victim = connection
            };
            struct result r = move_with(relay, "post-copy", 0, 0, false, lanes);
            moved += r.outcome == MIGRATE_MOVED;
            stayed += r.outcome == MIGRATE_STAYED;
            stranded += r.outcome == MIGRATE_MOVED && r.stranded;
            if (r.outcome == MIGRATE_MOVED) {
                assert_int_equal(r.faults.missing, 0);
                assert_int_equal(r.faults.duplicates, 0);
            }
        }
    }
    print_message("# connection %u: %u moved, %u of them after a break; %u stayed\n", connection,
                  moved, stranded, stayed);
    assert_true(moved > 0);
    assert_true(connection == 1 || (connection == 0 && lanes > 0) || stranded > 0);
    assert_true(lanes > 0 ? connection == 0 || stayed == 0 : connection == 1 || stayed > 0);
}

static void post_copy_fault(enum fault fault, unsigned connection, unsigned steps)
{
    post_copy_fault_with(fault, connection, steps, 0);
}

/* What befalls a lane that pushes befalls the move's connection: both are given up, and the target says what it
 * lacks. Connection 0 is the move's, 1 urgent, from 2 on they push. */
static void post_copy_cut_with_lanes(void **unused)
{
    (void)unused;
    post_copy_fault_with(FAULT_CUT, 0, 8, 2);
    post_copy_fault_with(FAULT_CUT, 2, 10, 2);
    post_copy_fault_with(FAULT_CUT, 3, 6, 2);
    packing_of_next = PACKING_MODE_LZ4;
    post_copy_fault_with(FAULT_CUT, 2, 6, 1);
    packing_of_next = PACKING_MODE_OFF;
}

static void post_copy_damage_with_lanes(void **unused)
{
    (void)unused;
    post_copy_fault_with(FAULT_FLIP, 2, 8, 2);
    packing_of_next = PACKING_MODE_ZSTD;
    post_copy_fault_with(FAULT_FLIP, 2, 6, 1);
    packing_of_next = PACKING_MODE_OFF;
}

static void post_copy_silence_with_lanes(void **unused)
{
    (void)unused;
    post_copy_fault_with(FAULT_SILENCE, 2, 6, 2);
}

static void post_copy_cut_anywhere(void **unused)
{
    (void)unused;
    post_copy_fault(FAULT_CUT, 0, 24);
    post_copy_fault(FAULT_CUT, 1, 10);
}

static void post_copy_damage_anywhere(void **unused)
{
    (void)unused;
    post_copy_fault(FAULT_FLIP, 0, 16);
    post_copy_fault(FAULT_FLIP, 1, 6);
}

static void post_copy_silence_anywhere(void **unused)
{
    (void)unused;
    post_copy_fault(FAULT_SILENCE, 0, 8);
}

static void records_that_fail(void **unused)
{
    (void)unused;
    struct result r = move_with((struct relay){ 0 }, "pre-copy", 1, 0, false, 2);
    assert_int_equal(r.outcome, MIGRATE_STAYED);
    (void)move_with((struct relay){ 0 }, "pre-copy", 0, 1, false, 2); /* either way: one owner */
}

static void strangers(void **unused)
{
    (void)unused;
    struct relay relay = { .strangers = STRANGERS_MAX };
    assert_int_equal(move_with(relay, "pre-copy", 0, 0, false, 2).outcome, MIGRATE_MOVED);
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

/* Whatever the guest wrote must be durable before it is handed over, or it stays. */
static void disk_that_fails(void **unused)
{
    (void)unused;
    syncs_that_fail = 1;
    struct result r = move_with((struct relay){ 0 }, "pre-copy", 0, 0, false, 0);
    assert_int_equal(r.outcome, MIGRATE_STAYED);
    assert_int_equal(syncs_in_pause, 1);
    assert_true(syncs_while_running > 0);
    assert_non_null(strstr(r.source_err.text, "disk"));
}

/* A target whose disk someone else writes to refuses, and the source has its own back. */
static void disk_of_a_stranger(void **unused)
{
    (void)unused;
    char other[sizeof(disk_path) + 8];
    (void)snprintf(other, sizeof(other), "%s-other", disk_path);
    int fd = open(other, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_int_equal(disk_lock(fd, false, DISK_ALONE), 0);
    target_disk = other;
    struct result r = move_with((struct relay){ 0 }, "pre-copy", 0, 0, false, 0);
    assert_int_equal(r.outcome, MIGRATE_STAYED);
    assert_non_null(strstr(r.source_err.text, "lock a disk"));
    target_disk = NULL;
    close(fd);
    assert_int_equal(unlink(other), 0);
}

/* A stream that this build is too old to read is named as such, at the source, whichever side wrote it. */
static void newer_streams(void **unused)
{
    (void)unused;
    for (unsigned to_source = 0; plain && to_source < 2; to_source++) {
        struct relay relay = { .fault = FAULT_NEWER, .to_source = to_source };
        struct result result = move_with(relay, "pre-copy", 0, 0, false, 0);
        assert_int_equal(result.outcome, MIGRATE_STAYED);
        assert_int_equal(result.source_rc, -EPROTONOSUPPORT);
        if (!strstr(result.source_err.text, "stream version 9"))
            fail_msg("not named: %s", result.source_err.text);
    }
}

static void nobody_listens(void **unused)
{
    (void)unused;
    struct end source;
    struct bill *bill = calloc(1, sizeof(*bill));
    enum migrate_outcome outcome;
    struct err err;
    end_init(&source, trust[0], plain);
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
    whole_check(source.machine);
    end_fini(&source);
    free(bill);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_whole),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(damage_anywhere),
        cmocka_unit_test(silence_anywhere),
        cmocka_unit_test(records_that_fail),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(disk_that_fails),
        cmocka_unit_test(disk_of_a_stranger),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(newer_streams),
        cmocka_unit_test(post_copy_whole),
        cmocka_unit_test(post_copy_cut_anywhere),
        cmocka_unit_test(post_copy_damage_anywhere),
        cmocka_unit_test(post_copy_silence_anywhere),
        cmocka_unit_test(strangers),
    };
    const struct CMUnitTest with_lanes[] = {
        cmocka_unit_test(classes),
        cmocka_unit_test(post_copy_with_lanes),
        cmocka_unit_test(post_copy_cut_with_lanes),
        cmocka_unit_test(post_copy_damage_with_lanes),
        cmocka_unit_test(post_copy_silence_with_lanes),
        cmocka_unit_test(cut_with_lanes),
        cmocka_unit_test(damage_with_lanes),
        cmocka_unit_test(silence_with_lanes),
    };
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(disk_path, sizeof(disk_path), "%s/godwit-disk-XXXXXX", tmp ? tmp : "/tmp");
    int disk = mkstemp(disk_path);
    if (disk < 0 || ftruncate(disk, 4096) < 0)
        return 1;
    close(disk);
    (void)signal(SIGPIPE, SIG_IGN);
    if (argc != 2)
        return 2;
    plain = strcmp(argv[1], "plain") == 0;
    trusting_pair(trust);
    int failed = strcmp(argv[1], "lanes") == 0 ? cmocka_run_group_tests(with_lanes, NULL, NULL)
                                               : cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < 2; i++)
        trusting_end(trust[i]);
    (void)unlink(disk_path);
    return failed;
}
