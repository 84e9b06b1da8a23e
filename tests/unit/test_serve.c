/* A paused guest's memory, handed out: each page once, on whichever lane, and near the last request first. */
#include "base/clock.h"
#include "base/fd.h"
#include "move/page_maker.h"
#include "move/serve.h"
#include "move/urgent.h"
#include "state/pages.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

static struct mem mem;
static struct meter meter;
static struct serve serve;
static struct bucket bucket;
static struct page_source source;
static struct page_maker maker;
static int peer;
static uint8_t *seen; /* times a page came */

static int set_up(void **state)
{
    struct err err;
    (void)state;
    assert_int_equal(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, &err), 0);
    meter_init(&meter);
    seen = calloc(mem.pages, 1);
    bucket_init(&bucket);
    assert_int_equal(serve_init(&serve, &mem, &meter, &bucket), 0);
    page_source_serve(&source, &mem, &serve);
    assert_int_equal(page_maker_init(&maker, &source, NULL, PACKING_MODE_OFF, 0), 0);
    for (uint64_t page = 0; page < mem.pages; page += 1 + page % 5)
        if (page % 3)
            memset(mem_page(&mem, page), (int)(1 + page % 250), PAGE_BYTES);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    page_maker_fini(&maker);
    page_source_fini(&source);
    serve_fini(&serve);
    bucket_fini(&bucket);
    fd_close(&peer);
    mem_fini(&mem);
    meter_fini(&meter);
    free(seen);
    return 0;
}

static void open_lane(void)
{
    int pair[2];
    struct err err;
    struct wire lane = WIRE_NONE;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(link_adopt(&lane.link, pair[0], &err), 0);
    peer = pair[1];
    assert_int_equal(serve_open(&serve, &lane), 0);
}

static void ask(uint64_t page)
{
    uint8_t request[URGENT_REQUEST_BYTES];
    urgent_put(request, page);
    assert_int_equal(fd_write_full(peer, request, sizeof(request)), 0);
}

static void take_reply(uint64_t want)
{
    uint8_t head[URGENT_HEAD_BYTES], bytes[PAGE_BYTES] = { 0 };
    assert_int_equal(fd_read_full(peer, head, sizeof(head)), 0);
    uint64_t word = urgent_get(head);
    bool zero = word & URGENT_ZERO;
    assert_int_equal(word & ~URGENT_ZERO, want);
    if (!zero)
        assert_int_equal(fd_read_full(peer, bytes, sizeof(bytes)), 0);
    assert_int_equal(urgent_get(head + 8), urgent_sum(word, zero ? NULL : bytes));
    assert_memory_equal(bytes, mem_page(&mem, want), PAGE_BYTES);
    seen[want]++;
}

/* Takes the next pushed section in; the first page of it, or UINT64_MAX at the end. */
static uint64_t take_pushed(void)
{
    static struct pages_body pages;
    const uint8_t *bytes;
    size_t len;
    struct section section;
    assert_int_equal(page_maker_fill(&maker, &bytes, &len), 0);
    if (!len)
        return UINT64_MAX;
    assert_int_equal(section_decode(bytes, &section, NULL), 0);
    const uint8_t *body = bytes + STREAM_SECTION_BYTES;
    assert_int_equal(section_check_body(&section, body, NULL), 0);
    assert_int_equal(pages_body_decode(body, section.length, section.version, mem.pages, &pages,
                                       NULL),
                     0);
    assert_int_equal(section.version, PAGES_PLAIN_VERSION);
    const struct pages_run *run = pages.run;
    const uint8_t *data = body + pages.data_at;
    for (uint32_t i = 0; i < pages.runs; i++)
        for (uint64_t page = run[i].first; page < run[i].first + run[i].count; page++) {
            static const uint8_t zero[PAGE_BYTES];
            seen[page]++;
            assert_memory_equal(mem_page(&mem, page), run[i].kind == PAGES_ZERO ? zero : data,
                                PAGE_BYTES);
            data += run[i].kind == PAGES_ZERO ? 0 : PAGE_BYTES;
        }
    return run[0].first;
}

static uint64_t *make_set(uint64_t step)
{
    uint64_t *set = calloc(mem.pages / 64, 8);
    for (uint64_t page = 0; page < mem.pages; page += step)
        set[page / 64] |= UINT64_C(1) << (page % 64);
    serve_set(&serve, set);
    return set;
}

static void each_page_once(void **state)
{
    static const uint64_t steps[] = { 1, 7, 64, 1000, 16383 };
    (void)state;
    open_lane();
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        uint64_t *set = make_set(steps[i]);
        memset(seen, 0, mem.pages);
        for (uint64_t n = 0;; n++) {
            uint64_t page = n * 7919 % mem.pages / steps[i] * steps[i];
            if (!seen[page]) {
                ask(page);
                take_reply(page);
            }
            if (take_pushed() == UINT64_MAX)
                break;
        }
        for (uint64_t page = 0; page < mem.pages; page++)
            assert_int_equal(seen[page], set[page / 64] >> (page % 64) & 1);
        assert_int_equal(serve_left(&serve), 0);
        free(set);
    }
}

/* What was taken already, or never on the list, has no reply; what is asked for after it does. */
static void no_reply_twice(void **state)
{
    (void)state;
    open_lane();
    free(make_set(2));
    ask(10);
    take_reply(10);
    ask(10);
    ask(11);
    ask(12);
    take_reply(12);
    for (int i = 0; i < 1000 && serve.late < 2; i++)
        (void)poll(NULL, 0, 1);
    assert_int_equal(serve.late, 2);
}

static void nearest_first(void **state)
{
    (void)state;
    open_lane();
    free(make_set(1));
    ask(5000);
    take_reply(5000);
    uint64_t low = 5000 / 64 * 64, high = low;
    for (int i = 0; i < 40; i++) {
        uint64_t first = take_pushed();
        bool up = first == high, down = first + 64 == low;
        assert_true(up || down);
        high += up ? 64 : 0;
        low -= down ? 64 : 0;
    }
    assert_true(high - 5000 < 64 * 22 && 5000 - low < 64 * 22); /* on both sides alike */
    ask(100);
    take_reply(100);
    assert_int_equal(take_pushed(), 64);
}

/* Several that push at once, and the one who answers: each page goes once, whatever their pieces are. */
struct taker {
    pthread_t thread;
    uint64_t pages;
    unsigned room;
};

static void *take_all(void *arg)
{
    struct taker *taker = arg;
    struct page_batch batch;
    struct page_stripe stripe = { 0 };
    for (;;) {
        assert_int_equal(page_source_take(&source, &stripe, taker->room, &batch), 0);
        if (batch.pages == 0)
            return NULL;
        assert_true(batch.pages <= taker->room);
        for (unsigned w = 0; w < batch.words; w++)
            for (uint64_t bits = batch.bits[w]; bits; bits &= bits - 1)
                __atomic_add_fetch(&seen[batch.first + w * 64 + (uint64_t)__builtin_ctzll(bits)], 1,
                                   __ATOMIC_RELAXED);
        taker->pages += batch.pages;
    }
}

static void many_take_each_once(void **state)
{
    static const unsigned room[] = { 1, 7, 64, 64 };
    struct taker taker[ARRAY_LEN(room)] = { 0 };
    uint64_t answered = 0;
    (void)state;
    open_lane();
    uint64_t *set = make_set(1);
    for (unsigned i = 0; i < ARRAY_LEN(room); i++) {
        taker[i].room = room[i];
        assert_int_equal(pthread_create(&taker[i].thread, NULL, take_all, &taker[i]), 0);
    }
    for (uint64_t n = 0; n < 200; n++)
        ask(n * 7919 % mem.pages);
    for (unsigned i = 0; i < ARRAY_LEN(room); i++) {
        assert_int_equal(pthread_join(taker[i].thread, NULL), 0);
        answered += taker[i].pages;
    }
    /* Replies that nobody reads would stop the one who answers. */
    while (serve.late + serve.answered_data + serve.answered_zero < 200) {
        uint8_t drop[65536];
        struct pollfd replies = { .fd = peer, .events = POLLIN };
        if (poll(&replies, 1, 1) > 0)
            assert_true(read(peer, drop, sizeof(drop)) > 0);
    }
    assert_int_equal(answered + serve.answered_data + serve.answered_zero, mem.pages);
    for (uint64_t page = 0; page < mem.pages; page++)
        assert_true(seen[page] <= 1);
    assert_int_equal(serve_left(&serve), 0);
    free(set);
}

/* What is answered is not held back, and what is pushed pays for it. */
static void answers_count_against_the_limit(void **state)
{
    (void)state;
    open_lane();
    free(make_set(1));
    memset(mem_page(&mem, 0), 1, 50 * PAGE_BYTES);
    uint64_t began = clock_now_ns();
    bucket_set(&bucket, 100 * PAGE_BYTES, began); /* empty as yet */
    for (uint64_t n = 0; n < 50; n++) {
        ask(n);
        take_reply(n);
    }
    for (int i = 0; i < 1000 && serve.answered_data + serve.answered_zero < 50; i++)
        (void)poll(NULL, 0, 1);
    /* 50 pages' worth, but for what flowed in meanwhile, and a drop. */
    assert_true(bucket_wait_ns(&bucket, began) > CLOCK_SECOND / 2 - CLOCK_SECOND / 20 -
                                                     MIN(clock_now_ns() - began, CLOCK_SECOND / 4));
}

/* The account knows which pages were sent before, and what the guest gave back is not even read. */
static void sent_before(void **state)
{
    static const uint64_t first = 128;
    (void)state;
    memset(mem_page(&mem, first), 1, 64 * PAGE_BYTES);
    memset(mem_page(&mem, first + 60), 0, 4 * PAGE_BYTES);
    uint64_t *set = calloc(mem.pages / 64, 8);
    set[first / 64] = UINT64_MAX;
    serve_set(&serve, set);
    serve.again[first / 64] = UINT64_C(0xc000000000000003);
    page_maker_begin(&maker, 3);
    while (take_pushed() != UINT64_MAX)
        ;
    assert_int_equal(maker.count.data, 60);
    assert_int_equal(maker.count.data_again, 2);
    assert_int_equal(maker.count.data_bytes, 60 * PAGE_BYTES);
    assert_int_equal(maker.count.data_again_bytes, 2 * PAGE_BYTES);
    assert_int_equal(maker.count.zero, 4);
    assert_int_equal(maker.count.zero_again, 2);
    free(set);
}

static void a_page_outside_ends_the_lane(void **state)
{
    (void)state;
    open_lane();
    free(make_set(1));
    ask(mem.pages);
    struct pollfd fds = { .fd = serve.lost_fd, .events = POLLIN };
    assert_int_equal(poll(&fds, 1, 10000), 1);
    assert_int_equal(serve.lost.fault, ERR_PEER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_page_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_reply_twice, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nearest_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_take_each_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_count_against_the_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sent_before, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_page_outside_ends_the_lane, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
