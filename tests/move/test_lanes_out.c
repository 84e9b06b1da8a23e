/*
 * The source's lanes against a target that takes some of them: one that was asked for must be there, one that was only
 * tried, because more might help, may be missing. Whatever becomes of them, each page of a round is sent once.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "kvm/fake.h"
#include "mem/dirty.h"
#include "move/lanes_out.h"
#include "trusting.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTES (UINT64_C(64) << 20)
#define PAGES (BYTES / PAGE_BYTES)
#define RATE  \
    UINT64_C( \
        128000000) /* half a second for each round: more than one look at what the lanes carry */
#define ROUNDS_MAX 60

/* What happens to connections after the first `takes`. */
enum then { THEN_REFUSED, THEN_SILENT };

struct target {
    unsigned takes;
    enum then then;
    int listener;
    char address[64];
    int fds[MOVE_LANES_MAX];
    int silent[2]; /* connections that fill its queue */
    unsigned count;
    int stop[2];
    pthread_t thread;
};

struct source {
    struct target target;
    struct mem mem;
    struct hv *hv;
    struct dirty dirty;
    struct page_source pages;
    struct meter meter;
    struct bucket bucket;
    struct trust *trust;
    struct lanes_out lanes;
};

static int dial(const struct target *target)
{
    struct sockaddr_in name;
    socklen_t len = sizeof(name);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(getsockname(target->listener, (struct sockaddr *)&name, &len), 0);
    (void)connect(fd, (struct sockaddr *)&name, sizeof(name));
    return fd;
}

static void take_no_more(struct target *target)
{
    if (target->then == THEN_REFUSED) {
        fd_close(&target->listener);
        return;
    }
    /* A full queue: Linux answers no further SYN. */
    for (unsigned i = 0; i < ARRAY_LEN(target->silent); i++)
        target->silent[i] = dial(target);
}

/* Reads what comes, and throws it away. */
static void *receive(void *arg)
{
    struct target *target = arg;
    static uint8_t scratch[1 << 18];
    for (;;) {
        struct pollfd fds[MOVE_LANES_MAX + 2] = { { .fd = target->stop[0], .events = POLLIN } };
        bool listens = target->count < target->takes;
        fds[1] = (struct pollfd){ .fd = listens ? target->listener : -1, .events = POLLIN };
        for (unsigned i = 0; i < target->count; i++)
            fds[2 + i] = (struct pollfd){ .fd = target->fds[i], .events = POLLIN };
        assert_true(poll(fds, 2 + target->count, -1) > 0);
        if (fds[0].revents)
            return NULL;
        for (unsigned i = 0; i < target->count; i++)
            if (fds[2 + i].revents)
                (void)!read(target->fds[i], scratch, sizeof(scratch));
        if (!fds[1].revents)
            continue;
        target->fds[target->count++] = accept(target->listener, NULL, NULL);
        if (target->count == target->takes)
            take_no_more(target);
    }
}

static void target_start(struct target *target, unsigned takes, enum then then)
{
    *target = (struct target){ .takes = takes, .then = then, .silent = { -1, -1 } };
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof(name);
    target->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(target->listener, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(listen(target->listener, then == THEN_SILENT ? 0 : 16), 0);
    assert_int_equal(getsockname(target->listener, (struct sockaddr *)&name, &len), 0);
    (void)snprintf(target->address, sizeof(target->address), "127.0.0.1:%u", ntohs(name.sin_port));
    assert_int_equal(pipe(target->stop), 0);
    assert_int_equal(pthread_create(&target->thread, NULL, receive, target), 0);
}

static void target_end(struct target *target)
{
    assert_int_equal(write(target->stop[1], "", 1), 1);
    assert_int_equal(pthread_join(target->thread, NULL), 0);
    for (unsigned i = 0; i < target->count; i++)
        fd_close(&target->fds[i]);
    for (unsigned i = 0; i < ARRAY_LEN(target->silent); i++)
        fd_close(&target->silent[i]);
    for (int i = 0; i < 2; i++)
        fd_close(&target->stop[i]);
    fd_close(&target->listener);
}

static void source_start(struct source *s, unsigned takes, enum then then, unsigned granted,
                         unsigned wanted)
{
    target_start(&s->target, takes, then);
    assert_int_equal(mem_init(&s->mem, BYTES, MEM_PAGES_SMALL, NULL), 0);
    memset(s->mem.host, 0x5a, BYTES);
    assert_int_equal(hv_fake_open(&s->hv), 0);
    assert_int_equal(s->hv->ops->slot_set(s->hv, 0, gpa_of(0), s->mem.host, s->mem.bytes, false),
                     0);
    assert_int_equal(dirty_start(&s->dirty, &s->mem, s->hv), 0);
    page_source_init(&s->pages, &s->mem, &s->dirty);
    meter_init(&s->meter);
    bucket_init(&s->bucket);
    bucket_set(&s->bucket, RATE, clock_now_ns());
    s->trust = trusting_nobody();
    struct lanes_out_config config = { .address = s->target.address,
                                       .trust = s->trust,
                                       .insecure = true,
                                       .granted = granted,
                                       .wanted = wanted,
                                       .stall_limit_ns = 600 * CLOCK_SECOND,
                                       .meter = &s->meter,
                                       .bucket = &s->bucket,
                                       .packing = PACKING_MODE_OFF };
    assert_int_equal(lanes_out_init(&s->lanes, &config, &s->pages), 0);
}

static void source_end(struct source *s)
{
    lanes_out_fini(&s->lanes); /* does not wait for whom it tries */
    target_end(&s->target);
    trusting_end(s->trust);
    bucket_fini(&s->bucket);
    meter_fini(&s->meter);
    page_source_fini(&s->pages);
    dirty_stop(&s->dirty);
    s->hv->ops->close(s->hv);
    mem_fini(&s->mem);
}

/* All of memory, once more. */
static int send_round(struct source *s, uint16_t number, struct err *err)
{
    struct page_count count = { 0 };
    uint64_t pending, stamp = number;
    for (uint64_t page = 0; page < PAGES; page++)
        assert_int_equal(mem_write(&s->mem, gpa_of(page * PAGE_BYTES), &stamp, sizeof(stamp)), 0);
    assert_int_equal(dirty_fetch(&s->dirty, &pending), 0);
    page_source_begin(&s->pages, number == 1, NULL);
    int rc = lanes_out_begin(&s->lanes, number, pending);
    assert_int_equal(rc, 0);
    do {
        struct pollfd event = { .fd = s->lanes.event_fd, .events = POLLIN };
        (void)poll(&event, 1, 50);
        lanes_out_tune(&s->lanes);
        rc = lanes_out_end(&s->lanes, &count, err);
    } while (rc == -EAGAIN);
    if (!rc)
        assert_int_equal(count.data, PAGES);
    return rc;
}

static void send_until(struct source *s, const atomic_bool *flag)
{
    struct err err = { 0 };
    uint16_t number = 0;
    while (!*flag && ++number < ROUNDS_MAX)
        if (send_round(s, number, &err))
            fail_msg("%s", err.text);
    assert_true(*flag);
    if (send_round(s, ++number, &err))
        fail_msg("%s", err.text);
}

static void one_that_is_tried_and_refused(void **state)
{
    (void)state;
    struct source s;
    source_start(&s, 1, THEN_REFUSED, 4, LANES_OUT_AUTO);
    send_until(&s, &s.lanes.settled);
    assert_int_equal(s.lanes.awake, 1);
    assert_int_equal(s.lanes.most, 1);
    assert_false(s.lanes.trying);
    source_end(&s);
}

/* Nobody waits for it: neither the rounds nor the end. */
static void one_that_is_tried_and_never_answers(void **state)
{
    (void)state;
    struct source s;
    source_start(&s, 1, THEN_SILENT, 4, LANES_OUT_AUTO);
    send_until(&s, &s.lanes.trying);
    assert_true(s.lanes.trying);
    assert_int_equal(s.lanes.most, 1);
    source_end(&s);
}

static void one_that_is_tried_and_joins(void **state)
{
    (void)state;
    struct source s;
    source_start(&s, 4, THEN_REFUSED, 4, LANES_OUT_AUTO);
    send_until(&s, &s.lanes.settled);
    assert_in_range(s.lanes.most, 2, 4);
    assert_true(s.lanes.lane[1].sent_bytes > 0);
    source_end(&s);
}

static void one_that_was_asked_for(void **state)
{
    (void)state;
    struct source s;
    struct err err = { 0 };
    source_start(&s, 1, THEN_REFUSED, 4, 2);
    int rc = 0;
    for (uint16_t number = 1; !rc && number < ROUNDS_MAX; number++)
        rc = send_round(&s, number, &err);
    assert_int_not_equal(rc, 0); /* both connect at once: one of them is refused, or reset */
    assert_non_null(strstr(err.text, "lane "));
    source_end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_is_tried_and_refused),
        cmocka_unit_test(one_that_is_tried_and_never_answers),
        cmocka_unit_test(one_that_is_tried_and_joins),
        cmocka_unit_test(one_that_was_asked_for),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
