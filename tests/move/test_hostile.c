/*
 * Streams a hostile peer could send, towards restore and receive: recorded from a real move, then damaged inside
 * their sections with all sums made right again, so that what is reached is not the checksums but what is behind.
 * Whatever is accepted must run, stop and be saved; the sanitizers judge the rest.
 *
 * GODWIT_HOSTILE=SEED:COUNT chooses others than the few of every run.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "kvm/fake.h"
#include "move/checkpoint.h"
#include "move/receive.h"
#include "move/wire.h"
#include "trusting.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define SECTIONS_MAX 4096
#define MIB (UINT64_C(1) << 20)

static uint64_t seed = 1, count = 60;
static struct trust *trust[2]; /* the peer's, the target's */

static uint64_t roll(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

/* ------------------------------------------------------------------------------------------- the monitor */

struct end {
    struct machine *machine;
    struct loop loop;
    struct meter meter;
    struct machine_hooks machine_hooks;
    struct move_env env;
    struct arrival_host host;
    int cancel_fd, listen_fd;
    _Atomic(enum move_order) order;
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
    return machine_pause(((struct end *)ctx)->machine, err);
}

static void hook_resume(void *ctx)
{
    machine_resume(((struct end *)ctx)->machine);
}

static int hook_record(void *ctx, enum move_record record, const uint8_t *token,
                       const uint8_t *store, const char *peer, bool *ret_unknown, struct err *err)
{
    (void)ctx, (void)record, (void)token, (void)store, (void)peer, (void)err;
    *ret_unknown = false;
    return 0;
}

static bool hook_recorded(void *ctx, const uint8_t *token)
{
    (void)ctx, (void)token;
    return false;
}

static void end_now(struct end *end)
{
    end->order = MOVE_END_NOW;
    (void)eventfd_write(end->cancel_fd, 1);
}

static void hook_state(void *ctx, const char *state, const char *why)
{
    (void)why;
    if (strcmp(state, "uncertain") == 0)
        end_now(ctx); /* a person gives it up */
}

static enum move_order hook_order(void *ctx)
{
    struct end *end = ctx;
    return atomic_exchange(&end->order, MOVE_NO_ORDER);
}

static int hook_identify(void *ctx, const uint8_t uuid[16], struct err *err)
{
    (void)ctx, (void)uuid, (void)err;
    return 0;
}

static int hook_claim(void *ctx, const char *name, struct err *err)
{
    (void)ctx, (void)name, (void)err;
    return 0;
}

static void hook_unclaim(void *ctx)
{
    (void)ctx;
}

static void hook_adopt(void *ctx, struct machine *machine)
{
    ((struct end *)ctx)->machine = machine;
}

/* A source that says no more is not waited for. */
static void hook_arrived(void *ctx)
{
    end_now(ctx);
}

static void hook_event(void *ctx, const char *event, json_t *params)
{
    (void)ctx, (void)event;
    json_decref(params);
}

static void on_loop(void *ctx, void (*fn)(void *), void *arg)
{
    (void)ctx;
    fn(arg);
}

static int place(void *ctx, const struct machine_config *config, struct host_config *host,
                 struct err *err)
{
    (void)ctx, (void)config, (void)host, (void)err;
    return 0;
}

static void end_init(struct end *end)
{
    *end = (struct end){ .cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .listen_fd = -1 };
    assert_int_equal(loop_init(&end->loop), 0);
    meter_init(&end->meter);
    end->machine_hooks = (struct machine_hooks){ .console_out = ignore_console,
                                                 .console_room = ignore_room,
                                                 .on_end = ignore_end };
    end->env =
        (struct move_env){ .meter = &end->meter, .cancel_fd = end->cancel_fd, .nudge_fd = -1 };
    end->env.hooks = (struct move_hooks){ .ctx = end,
                                          .pause = hook_pause,
                                          .resume = hook_resume,
                                          .record = hook_record,
                                          .recorded = hook_recorded,
                                          .state = hook_state,
                                          .order = hook_order,
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

static void end_fini(struct end *end)
{
    machine_free(end->machine);
    meter_fini(&end->meter);
    loop_fini(&end->loop);
    fd_close(&end->cancel_fd);
    fd_close(&end->listen_fd);
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
    machine_resume(end->machine);
    (void)poll(NULL, 0, 5);
}

/* What was let in is a machine like any other. */
static void try_guest(struct end *end)
{
    CLEANUP_BUF struct buf out = { 0 };
    struct err err;
    if (end->machine->pauses > 0)
        machine_resume(end->machine);
    (void)poll(NULL, 0, 1);
    assert_int_equal(loop_once(&end->loop, 0), 0);
    assert_int_equal(machine_pause(end->machine, &err), 0);
    assert_int_equal(machine_save(end->machine, &out, &err), 0);
}

/* ------------------------------------------------------------------------------------------- the streams */

struct stream {
    uint8_t header[STREAM_HEADER_BYTES];
    struct part {
        struct section section;
        const uint8_t *body;
    } part[SECTIONS_MAX];
    size_t parts;
    struct buf bytes; /* what the bodies point into */
};

static void parse(struct stream *s)
{
    struct err err;
    memcpy(s->header, s->bytes.data, sizeof(s->header));
    for (size_t at = STREAM_HEADER_BYTES; at < s->bytes.len;) {
        struct part *part = &s->part[s->parts++];
        assert_true(s->parts < SECTIONS_MAX);
        assert_int_equal(section_decode(s->bytes.data + at, &part->section, &err), 0);
        part->body = s->bytes.data + at + STREAM_SECTION_BYTES;
        at += STREAM_SECTION_BYTES + part->section.length;
    }
}

static void record_checkpoint(struct stream *s)
{
    static struct bill bill;
    char path[] = "/tmp/godwit-hostile-XXXXXX";
    struct end end;
    struct err err;
    char *bytes;
    size_t len;
    end_init(&end);
    start_guest(&end);
    /* A guest that has written nothing yet would leave the pages out. */
    for (int tries = 0; tries < 2000 && mem_resident_pages(&end.machine->mem) == 0; tries++)
        (void)poll(NULL, 0, 5);
    fd_close(&(int){ mkstemp(path) });
    assert_int_equal(checkpoint_write(&end.env, path, &bill, &err), 0);
    assert_int_equal(fd_read_file(path, 256 * MIB, &bytes, &len), 0);
    (void)unlink(path);
    buf_put(&s->bytes, bytes, len);
    free(bytes);
    end_fini(&end);
    parse(s);
}

static void put_message(struct buf *out, const struct message *message)
{
    message_encode(message, out);
}

static void put_part(struct buf *out, const struct part *part)
{
    uint8_t *at = buf_grow(out, STREAM_SECTION_BYTES);
    section_encode(&part->section, at);
    buf_put(out, part->body, part->section.length);
}

/* The same machine as a source would bring it: its sections between the messages of a move. */
static void make_move(const struct stream *file, struct stream *s)
{
    struct message m = {
        .type = MESSAGE_HELLO,
        .hello = { .token = { 1 }, .mode = MOVE_STOP_COPY, .pages = 64 * MIB / 4096, .name = "m" }
    };
    uint64_t pages = 0;
    uint32_t sections = 0;
    buf_put(&s->bytes, file->header, sizeof(file->header));
    put_message(&s->bytes, &m);
    for (size_t i = 0; i < file->parts; i++) {
        const struct part *part = &file->part[i];
        bool first_page =
            part->section.type == SECTION_PAGES && file->part[i - 1].section.type != SECTION_PAGES;
        bool first_state = part->section.type != SECTION_PAGES &&
                           file->part[i - 1 * (i > 0)].section.type == SECTION_PAGES;
        if (part->section.type == SECTION_END)
            break;
        if (first_page) {
            put_message(&s->bytes, &(struct message){ .type = MESSAGE_RESERVE,
                                                      .reserve = { .pages = 64 * MIB / 4096 } });
            put_message(&s->bytes, &(struct message){ .type = MESSAGE_ROUND,
                                                      .round = { .number = 1, .last = 1 } });
        }
        if (part->section.type == SECTION_PAGES) {
            struct pages_body body;
            assert_int_equal(pages_body_decode(part->body, part->section.length,
                                               part->section.version, 64 * MIB / 4096, &body, NULL),
                             0);
            pages += body.pages[PAGES_DATA] + body.pages[PAGES_ZERO];
        }
        if (first_state)
            put_message(&s->bytes,
                        &(struct message){ .type = MESSAGE_ROUND_DONE,
                                           .round_done = { .number = 1, .pages = pages } });
        sections += part->section.type >= SECTION_VM;
        put_part(&s->bytes, part);
    }
    put_message(&s->bytes, &(struct message){ .type = MESSAGE_STATE_DONE,
                                              .state_done = { .sections = sections } });
    put_message(&s->bytes,
                &(struct message){ .type = MESSAGE_COMMIT, .commit = { .token = { 1 } } });
    put_message(&s->bytes,
                &(struct message){ .type = MESSAGE_SETTLED, .settled = { .token = { 1 } } });
    parse(s);
}

static void damage_body(uint8_t *body, size_t len)
{
    static const uint64_t values[] = { 0,          1,          0x7f,      0x80,
                                       0xff,       0x7fff,     0xffff,    0x7fffffff,
                                       0xffffffff, UINT64_MAX, 1ull << 63 };
    for (uint64_t n = 1 + roll(4); n > 0 && len > 0; n--) {
        size_t at = roll(roll(2) ? MIN(len, (size_t)64) : len), width = (size_t)1 << roll(4);
        uint64_t value = roll(3) ? values[roll(ARRAY_LEN(values))] : roll(UINT64_MAX);
        memcpy(body + at, &value, MIN(width, len - at));
    }
}

/* One hostile version of `s`. */
static void make_hostile(const struct stream *s, struct buf *out)
{
    size_t victim = roll(s->parts);
    for (int tries = 0; s->part[victim].section.type == SECTION_PAGES && tries < 8; tries++)
        victim = roll(s->parts); /* there are many of those */
    buf_put(out, s->header, sizeof(s->header));
    for (size_t i = 0; i < s->parts; i++) {
        struct part part = s->part[i];
        uint64_t how = i == victim ? roll(10) : 99;
        CLEANUP_FREE uint8_t *body = malloc(part.section.length + 64);
        memcpy(body, part.body, part.section.length);
        memset(body + part.section.length, 0xff, 64);
        part.body = body;
        if (how < 5)
            damage_body(body, part.section.length);
        else if (how == 5)
            part.section.length = (uint32_t)roll(part.section.length + 64);
        else if (how == 6)
            part.section.instance = (uint16_t)roll(roll(2) ? 40 : 65536);
        else if (how == 7)
            part.section.type = s->part[roll(s->parts)].section.type;
        else if (how == 8)
            continue;
        if (i == victim)
            part.section.body_sum = stream_sum(body, part.section.length);
        put_part(out, &part);
        if (how == 9)
            put_part(out, &part);
    }
    if (roll(8) == 0)
        out->len = roll(out->len);
    assert_false(out->broken);
}

/* ------------------------------------------------------------------------------------------- the tests */

static struct stream file, move;

static bool restore(const struct buf *bytes)
{
    static struct bill bill;
    char path[64];
    struct end end;
    struct err err = { 0 };
    CLEANUP_FD int fd = memfd_create("hostile", MFD_CLOEXEC);
    assert_int_equal(fd_write_full(fd, bytes->data, bytes->len), 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    end_init(&end);
    int rc = checkpoint_read(&end.env, &end.host, path, "", &bill, &end.machine, &err);
    assert_true(rc == 0 || err.text[0]);
    if (!rc)
        try_guest(&end);
    end_fini(&end);
    return rc == 0;
}

struct sending {
    struct end *end;
    struct sockaddr_un at;
    const struct buf *bytes;
    bool encrypted;
};

/* The same from a peer that is trusted: proving who one is must be all that it changes. */
static void send_encrypted(int fd, const struct sending *sending)
{
    struct link link = LINK_NONE;
    struct err err;
    link.stall_limit_ns = CLOCK_SECOND;
    if (!link_adopt(&link, fd, &err) && !link_secure(&link, trust[0], "127.0.0.1", &err) &&
        !link_send(&link, sending->bytes->data, sending->bytes->len, &err))
        link_linger(&link, CLOCK_SECOND);
    link_close(&link);
}

/* Says it all, then waits for the target to hang up; one that had no reason to is told to end. */
static void *sender(void *arg)
{
    struct sending *sending = arg;
    const struct buf *bytes = sending->bytes;
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = { .tv_sec = 1 };
    char drop[4096];
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    bool there = connect(fd, (struct sockaddr *)&sending->at, sizeof(sa_family_t) + 16) == 0;
    if (there && sending->encrypted) {
        send_encrypted(TAKE_FD(fd), sending);
    } else if (there) {
        (void)!fd_write_full(fd, bytes->data, bytes->len);
        (void)shutdown(fd, SHUT_WR);
        while (read(fd, drop, sizeof(drop)) > 0)
            continue;
    }
    end_now(sending->end);
    return NULL;
}

static bool receive(const struct buf *bytes, bool encrypted)
{
    static const uint8_t store[MOVE_STORE_BYTES] = { 7 };
    struct end end;
    struct sending sending = {
        .end = &end, .at = { .sun_family = AF_UNIX }, .bytes = bytes, .encrypted = encrypted
    };
    struct err err = { 0 };
    bool settled;
    pthread_t thread;
    end_init(&end);
    end.env.trust = trust[1];
    end.env.insecure = !encrypted;
    (void)snprintf(sending.at.sun_path + 1, 16, "hostile%08d", (int)getpid()); /* abstract */
    end.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(end.listen_fd, (struct sockaddr *)&sending.at, sizeof(sa_family_t) + 16),
                     0);
    assert_int_equal(listen(end.listen_fd, 4), 0);
    assert_int_equal(pthread_create(&thread, NULL, sender, &sending), 0);
    int rc = receive_run(&end.env, &end.host, end.listen_fd, store, true, &settled, &err);
    fd_close(&end.listen_fd); /* or the sender might still wait to be accepted */
    (void)pthread_join(thread, NULL);
    if (!rc)
        try_guest(&end);
    end_fini(&end);
    return rc == 0;
}

static int record(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    trusting_pair(trust);
    record_checkpoint(&file);
    make_move(&file, &move);
    return 0;
}

static void test_undamaged(void **state)
{
    (void)state;
    assert_true(restore(&file.bytes));
    assert_true(receive(&move.bytes, false));
    assert_true(receive(&move.bytes, true));
}

static void test_restore(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < count; i++) {
        CLEANUP_BUF struct buf bytes = { 0 };
        make_hostile(&file, &bytes);
        (void)restore(&bytes);
    }
}

static void test_receive(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < count; i++) {
        CLEANUP_BUF struct buf bytes = { 0 };
        make_hostile(&move, &bytes);
        (void)receive(&bytes, i % 2);
    }
}

/* ------------------------------------------------------------------------------------------- lanes */

struct serving {
    struct end end;
    struct sockaddr_un at;
    struct err err;
    int rc;
};

static void *serve(void *arg)
{
    struct serving *serving = arg;
    static const uint8_t store[MOVE_STORE_BYTES] = { 7 };
    bool settled;
    serving->rc = receive_run(&serving->end.env, &serving->end.host, serving->end.listen_fd, store,
                              true, &settled, &serving->err);
    return NULL;
}

static void dial(const struct serving *serving, struct wire *wire)
{
    struct err err;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *wire = WIRE_NONE;
    assert_int_equal(connect(fd, (const struct sockaddr *)&serving->at, sizeof(sa_family_t) + 16),
                     0);
    assert_int_equal(link_adopt(&wire->link, fd, &err), 0);
    wire->link.stall_limit_ns = 20 * CLOCK_SECOND;
}

static void expect(struct wire *wire, uint16_t type, struct message *m)
{
    struct section section;
    struct err err = { 0 };
    if (wire_recv_head(wire, &section, &err) || wire_recv_message(wire, &section, m, &err))
        fail_msg("no %s: %s", message_name(type), err.text);
    if (m->type != type)
        fail_msg("%s instead of %s", message_name(m->type), message_name(type));
}

/* A new connection that says it is such a lane is told why not, in these words, and closed. */
static void refused(const struct serving *serving, uint8_t token, uint32_t kind, uint32_t index,
                    const char *words)
{
    struct wire wire;
    struct message *m = calloc(1, sizeof(*m));
    struct err err;
    uint8_t byte;
    m->type = MESSAGE_LANE;
    m->lane = (struct message_lane){ .token = { token }, .kind = kind, .index = index };
    dial(serving, &wire);
    assert_int_equal(wire_send_message(&wire, m, &err), 0);
    expect(&wire, MESSAGE_ABORT, m);
    if (!strstr(m->abort.text, words))
        fail_msg("'%s' instead of '%s'", m->abort.text, words);
    assert_int_equal(link_recv(&wire.link, &byte, 1, &err), -ECONNRESET);
    wire_close(&wire);
    free(m);
}

static void test_lanes_refused(void **state)
{
    (void)state;
    struct serving serving = { .at = { .sun_family = AF_UNIX } };
    struct message *m = calloc(1, sizeof(*m));
    struct wire control, lane;
    struct err err;
    pthread_t thread;
    CLEANUP_BUF struct buf facts = { 0 };
    end_init(&serving.end);
    serving.end.env.trust = trust[1];
    serving.end.env.insecure = true;
    (void)snprintf(serving.at.sun_path + 1, 16, "lanes%08d", (int)getpid());
    serving.end.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(serving.end.listen_fd, (struct sockaddr *)&serving.at,
                          sizeof(sa_family_t) + 16),
                     0);
    assert_int_equal(listen(serving.end.listen_fd, 4), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve, &serving), 0);
    refused(&serving, 1, LANE_BULK, 0, "no move here waits for lanes");

    dial(&serving, &control);
    *m = (struct message){ .type = MESSAGE_HELLO,
                           .hello = { .token = { 1 },
                                      .mode = MOVE_PRE_COPY,
                                      .pages = 64 * MIB / 4096,
                                      .name = "m",
                                      .lanes = 2 } };
    assert_int_equal(wire_send_message(&control, m, &err), 0);
    put_part(&facts, &file.part[0]);
    put_part(&facts, &file.part[1]);
    assert_int_equal(wire_send(&control, facts.data, facts.len, &err), 0);
    expect(&control, MESSAGE_VERDICT, m);
    assert_true(m->verdict.ok);
    refused(&serving, 1, LANE_BULK, 0, "no move here waits for lanes"); /* not reserved yet */
    *m = (struct message){ .type = MESSAGE_RESERVE, .reserve = { .pages = 64 * MIB / 4096 } };
    assert_int_equal(wire_send_message(&control, m, &err), 0);
    expect(&control, MESSAGE_RESERVED, m);
    assert_int_equal(m->reserved.lanes, 2);

    refused(&serving, 9, LANE_BULK, 0, "another move's token");
    refused(&serving, 1, LANE_BULK, 2, "2 were granted");
    refused(&serving, 9, LANE_URGENT, 0, "not a connection of this move");
    dial(&serving, &lane);
    *m = (struct message){ .type = MESSAGE_LANE,
                           .lane = { .token = { 1 }, .kind = LANE_BULK, .index = 1 } };
    assert_int_equal(wire_send_message(&lane, m, &err), 0);
    while (link_wait(&lane.link, 50) == 0) /* it is in when nothing is said against it */
        fail_msg("the lane was refused");
    refused(&serving, 1, LANE_BULK, 1, "is there already");

    /* A lane that breaks ends the move, by name. */
    wire_close(&lane);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_not_equal(serving.rc, 0);
    assert_non_null(strstr(serving.err.text, "lane 1"));
    wire_close(&control);
    end_fini(&serving.end);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_undamaged),
                                        cmocka_unit_test(test_restore),
                                        cmocka_unit_test(test_receive),
                                        cmocka_unit_test(test_lanes_refused) };
    unsigned long long first, many;
    const char *chosen = getenv("GODWIT_HOSTILE");
    if (chosen && sscanf(chosen, "%llu:%llu", &first, &many) == 2) {
        seed = first | 1;
        count = many;
    }
    int failed = cmocka_run_group_tests(tests, record, NULL);
    buf_free(&file.bytes);
    buf_free(&move.bytes);
    for (int i = 0; i < 2; i++)
        trusting_end(trust[i]);
    return failed;
}
