/*
 * Answers a hostile target could give, towards the source: those of a real target, damaged inside their sections with all
 * sums made right again, exchanged, said twice, too early or not at all, and the bytes of the urgent lane flipped. However
 * it answers, the source's guest runs on, whole, or never runs there again; and it is given away on the source's word only.
 *
 * Each case is a process of its own, so that one can end while whatever is left of the target still waits for something.
 * GODWIT_HOSTILE=SEED:COUNT chooses others than the few of every run.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "ends.h"
#include "move/urgent.h"
#include "relay.h"
#include "trusting.h"
#include "whole.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define CONNS_MAX 24
#define CASE_SECONDS 60 /* only a case that hangs takes so long */
#define GIVE_UP_NS (3 * CLOCK_SECOND)

static uint64_t seed = 1, count = 40;
static struct trust *trust[2]; /* who they are is not asked here: the connections are plain */

static uint64_t roll(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

/* ------------------------------------------------------------------------------- what the target says */

struct conn {
    int source, target;
    struct buf said; /* by the target, and not passed on yet */
    bool greeted;    /* its stream header has passed */
    bool urgent;     /* no sections any more, but bytes of the urgent lane */
    bool spoilt;     /* so much so that its sections cannot be told apart any more */
};

struct hostile {
    int listen_fd, port, to_port;
    unsigned odds; /* one section in so many is not what it was */
    struct conn conn[CONNS_MAX];
    unsigned conns;
    pthread_t thread;
};

static void damage_body(uint8_t *body, size_t len)
{
    static const uint64_t values[] = { 0,          1,          0x7f,       0xff,       0xffff,
                                       0x7fffffff, 0xffffffff, UINT64_MAX, 1ull << 63, 1ull << 32 };
    for (uint64_t n = 1 + roll(3); n > 0 && len > 0; n--) {
        size_t at = roll(len), width = (size_t)1 << roll(4);
        uint64_t value = roll(3) ? values[roll(ARRAY_LEN(values))] : roll(UINT64_MAX);
        memcpy(body + at, &value, MIN(width, len - at));
    }
}

static void put_section(struct buf *out, struct section section, const uint8_t *body)
{
    section.body_sum = stream_sum(body, section.length);
    section_encode(&section, buf_grow(out, STREAM_SECTION_BYTES));
    buf_put(out, body, section.length);
}

/* Another word of a target, out of nowhere. */
static void put_forged(struct buf *out)
{
    static const enum message_type words[] = {
        MESSAGE_VERDICT,   MESSAGE_RESERVED,  MESSAGE_ROUND_ACK, MESSAGE_PREPARED,
        MESSAGE_COMMITTED, MESSAGE_ACTIVATED, MESSAGE_STATUS,    MESSAGE_ABORT,
        MESSAGE_PULL,      MESSAGE_PULLED,    MESSAGE_LANE
    };
    CLEANUP_FREE struct message *message = calloc(1, sizeof(*message));
    message->type = (uint16_t)words[roll(ARRAY_LEN(words))];
    if (message->type == MESSAGE_VERDICT)
        message->verdict.ok = 1;
    if (message->type == MESSAGE_PREPARED)
        message->prepared.load_ns = UINT64_MAX;
    message_encode(message, out);
}

/* One section of the target as the source is to hear it. */
static void change(struct buf *out, const struct section *section, const uint8_t *original)
{
    struct section changed = *section;
    CLEANUP_FREE uint8_t *body = malloc(section->length + 64u);
    memcpy(body, original, section->length);
    memset(body + section->length, 0xff, 64);
    switch (roll(8)) {
    case 0:
    case 1:
    case 2:
        damage_body(body, changed.length);
        put_section(out, changed, body);
        break;
    case 3:
        changed.length = (uint32_t)roll(section->length + 64u);
        put_section(out, changed, body);
        break;
    case 4:
        changed.type = (uint16_t)(MESSAGE_HELLO + roll(MESSAGE_TYPE_END - MESSAGE_HELLO));
        put_section(out, changed, body);
        break;
    case 5: /* not said */
        break;
    case 6:
        put_section(out, changed, body);
        put_section(out, changed, body);
        break;
    default:
        put_forged(out);
        put_section(out, changed, body);
        break;
    }
}

static bool is_urgent_lane(const struct section *section, const uint8_t *body)
{
    CLEANUP_FREE struct message *message = calloc(1, sizeof(*message));
    return section->type == MESSAGE_LANE && message_decode(section, body, message, NULL) == 0 &&
           message->lane.kind == LANE_URGENT;
}

/* Moves what can be passed on from conn->said to `out`. */
static void rewrite(struct hostile *h, struct conn *conn, struct buf *out)
{
    size_t at = 0;
    if (!conn->greeted && conn->said.len >= STREAM_HEADER_BYTES) {
        buf_put(out, conn->said.data, at = STREAM_HEADER_BYTES);
        conn->greeted = true;
    }
    while (conn->greeted && !conn->urgent && !conn->spoilt &&
           conn->said.len - at >= STREAM_SECTION_BYTES) {
        struct section section;
        conn->spoilt = section_decode(conn->said.data + at, &section, NULL) != 0;
        if (conn->spoilt || conn->said.len - at - STREAM_SECTION_BYTES < section.length)
            break;
        const uint8_t *body = conn->said.data + at + STREAM_SECTION_BYTES;
        at += STREAM_SECTION_BYTES + section.length;
        conn->urgent = is_urgent_lane(&section, body);
        if (roll(h->odds) == 0)
            change(out, &section, body);
        else
            put_section(out, section, body);
    }
    if (conn->urgent || conn->spoilt) {
        size_t left = conn->said.len - at;
        if (left && roll(h->odds * 8) == 0)
            damage_body(conn->said.data + at, left);
        buf_put(out, conn->said.data + at, left);
        at = conn->said.len;
    }
    memmove(conn->said.data, conn->said.data + at, conn->said.len - at);
    conn->said.len -= at;
}

static bool pass_back(struct hostile *h, struct conn *conn)
{
    uint8_t bytes[8192];
    CLEANUP_BUF struct buf out = { 0 };
    ssize_t n = read(conn->target, bytes, sizeof(bytes));
    if (n <= 0)
        return false;
    buf_put(&conn->said, bytes, (size_t)n);
    rewrite(h, conn, &out);
    return fd_write_full(conn->source, out.data, out.len) == 0;
}

static bool pass_there(const struct conn *conn)
{
    uint8_t bytes[65536];
    ssize_t n = read(conn->source, bytes, sizeof(bytes));
    return n > 0 && fd_write_full(conn->target, bytes, (size_t)n) == 0;
}

static void *hostile_thread(void *arg)
{
    struct hostile *h = arg;
    for (;;) {
        struct pollfd fds[1 + 2 * CONNS_MAX] = { { .fd = h->listen_fd, .events = POLLIN } };
        for (unsigned i = 0; i < h->conns; i++) {
            fds[1 + 2 * i] = (struct pollfd){ .fd = h->conn[i].source, .events = POLLIN };
            fds[2 + 2 * i] = (struct pollfd){ .fd = h->conn[i].target, .events = POLLIN };
        }
        (void)poll(fds, 1 + 2 * h->conns, -1);
        for (unsigned i = 0; i < h->conns; i++) {
            struct conn *conn = &h->conn[i];
            if ((fds[1 + 2 * i].revents && !pass_there(conn)) ||
                (fds[2 + 2 * i].revents && !pass_back(h, conn))) {
                fd_close(&conn->source);
                fd_close(&conn->target);
            }
        }
        int source = fds[0].revents ? accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (source >= 0 && h->conns < CONNS_MAX)
            h->conn[h->conns++] =
                (struct conn){ .source = source, .target = connect_port(h->to_port) };
        else
            fd_close(&source);
    }
    return NULL;
}

/* ----------------------------------------------------------------------------------------- one move */

struct receiver {
    struct end end;
    int listen_fd;
};

static void *target_thread(void *arg)
{
    struct receiver *target = arg;
    static const uint8_t store[MOVE_STORE_BYTES] = { 7 };
    struct err err = { 0 };
    bool settled;
    (void)!receive_run(&target->end.env, &target->end.host, target->listen_fd, store, false,
                       &settled, &err);
    return NULL;
}

/* A person who has waited long enough: what is uncertain by then stays so, and post-copy is given up. */
static void *impatient_thread(void *arg)
{
    struct end *source = arg;
    for (;;) {
        (void)poll(NULL, 0, (int)(GIVE_UP_NS / CLOCK_MSEC));
        source->order = MOVE_END_NOW;
        (void)eventfd_write(source->cancel_fd, 1);
    }
    return NULL;
}

static void start(void *(*fn)(void *), void *arg)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fn, arg), 0);
}

/* In a process of its own. */
static void try_move(const char *mode, uint32_t lanes, unsigned odds)
{
    static struct end source;
    static struct receiver target;
    static struct hostile hostile;
    static const _Atomic(uint64_t) no_limit;
    static struct bill bill;
    struct err err = { 0 };
    enum migrate_outcome outcome = 0;
    char address[64];
    end_init(&source, trust[0], true);
    end_init(&target.end, trust[1], true);
    start_guest(&source);
    hostile.odds = odds;
    target.listen_fd = listen_any(&hostile.to_port);
    hostile.listen_fd = listen_any(&hostile.port);
    start(target_thread, &target);
    start(hostile_thread, &hostile);
    start(impatient_thread, &source);
    (void)snprintf(address, sizeof(address), "127.0.0.1:%d", hostile.port);
    struct migrate_request request = { .target = address,
                                       .mode = mode,
                                       .lanes = lanes,
                                       .bandwidth = &no_limit,
                                       .bandwidth_paused = MIGRATE_BANDWIDTH_SAME,
                                       .packing = PACKING_MODE_AUTO,
                                       .policy = policy_limits_default(),
                                       .stall_limit_ns = 300 * CLOCK_MSEC };
    int rc = migrate_run(&source.env, &request, &bill, &outcome, &err);
    assert_true(rc == 0 || err.text[0]);
    assert_true(bill.ended);
    switch (outcome) {
    case MIGRATE_STAYED:
        assert_int_not_equal(rc, 0);
        assert_true(source.running);
        assert_int_equal(source.record, RECORD_HERE);
        whole_check(source.machine);
        break;
    case MIGRATE_MOVED:
    case MIGRATE_LEFT_UNCERTAIN:
        assert_false(source.running);
        assert_int_equal(source.record, RECORD_HANDED);
        break;
    }
    _exit(outcome);
}

/* How many of the cases had which outcome. */
static void try_all(const char *mode, uint32_t lanes, uint64_t cases, unsigned odds,
                    unsigned ret_outcomes[MIGRATE_LEFT_UNCERTAIN + 1])
{
    for (uint64_t i = 0; i < cases; i++) {
        uint64_t this_seed = seed;
        int status;
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            (void)setenv("CMOCKA_TEST_ABORT", "1", 1);
            (void)alarm(CASE_SECONDS);
            try_move(mode, lanes, odds);
        }
        (void)roll(2);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFEXITED(status) || !WEXITSTATUS(status) ||
            WEXITSTATUS(status) > MIGRATE_LEFT_UNCERTAIN)
            fail_msg("%s, %u lanes, GODWIT_HOSTILE=%llu:1: status %#x", mode, lanes,
                     (unsigned long long)this_seed, (unsigned)status);
        ret_outcomes[WEXITSTATUS(status)]++;
    }
}

/* -------------------------------------------------------------------------------------------- the tests */

static const char *const modes[] = { "pre-copy", "stop-copy", "post-copy" };

/* Nothing is changed: the relay itself does no harm. */
static void test_honest(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(modes); i++)
        for (uint32_t lanes = 0; lanes < 3; lanes += 2) {
            unsigned outcomes[MIGRATE_LEFT_UNCERTAIN + 1] = { 0 };
            try_all(modes[i], lanes, 1, UINT32_MAX / 8, outcomes);
            assert_int_equal(outcomes[MIGRATE_MOVED], 1);
        }
}

static void test_hostile(void **state)
{
    unsigned outcomes[MIGRATE_LEFT_UNCERTAIN + 1] = { 0 };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(modes); i++)
        for (uint32_t lanes = 0; lanes < 3; lanes += 2)
            for (unsigned odds = 3; odds <= 9; odds += 6)
                try_all(modes[i], lanes, (count + 11) / 12, odds, outcomes);
    (void)printf("%u stayed, %u moved, %u left uncertain\n", outcomes[MIGRATE_STAYED],
                 outcomes[MIGRATE_MOVED], outcomes[MIGRATE_LEFT_UNCERTAIN]);
    assert_true(outcomes[MIGRATE_STAYED] > 0); /* else nothing was said that matters */
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_honest),
                                        cmocka_unit_test(test_hostile) };
    unsigned long long first, many;
    const char *chosen = getenv("GODWIT_HOSTILE"), *tmp = getenv("TMPDIR");
    (void)snprintf(disk_path, sizeof(disk_path), "%s/godwit-disk-XXXXXX", tmp ? tmp : "/tmp");
    int disk = mkstemp(disk_path);
    if (disk < 0 || ftruncate(disk, 4096) < 0)
        return 1;
    (void)close(disk);
    (void)signal(SIGPIPE, SIG_IGN);
    log_setup(LOG_ERROR, "hostile");
    if (chosen && sscanf(chosen, "%llu:%llu", &first, &many) == 2) {
        seed = first ? first : 1;
        count = many;
    }
    trusting_pair(trust);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < 2; i++)
        trusting_end(trust[i]);
    (void)unlink(disk_path);
    return failed;
}
