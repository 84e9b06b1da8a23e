/*
 * The target's lanes and what a hostile or broken source could send on them: every case ends in one clear error, and
 * no page of a round that is over, or of none, reaches memory.
 */
#include "base/clock.h"
#include "move/lanes_in.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define PAGES (64 * MIB / 4096)

struct place {
    struct mem mem;
    struct meter meter;
    struct page_sink sink;
    struct lanes_in lanes;
    struct link source[2]; /* the other ends */
};

static void open_lane(struct place *p, unsigned index)
{
    int fds[2];
    struct err err;
    struct wire wire = WIRE_NONE;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    p->source[index] = LINK_NONE;
    assert_int_equal(link_adopt(&p->source[index], fds[0], &err), 0);
    assert_int_equal(link_adopt(&wire.link, fds[1], &err), 0);
    wire.header_seen = true;
    assert_int_equal(lanes_in_take(&p->lanes, &wire, index, &err), 0);
    assert_int_equal(wire.link.fd, -1);
}

static void place_init(struct place *p)
{
    assert_int_equal(mem_init(&p->mem, 64 * MIB, MEM_PAGES_SMALL, NULL), 0);
    meter_init(&p->meter);
    assert_int_equal(page_sink_init(&p->sink, &p->mem, &p->meter), 0);
    assert_int_equal(lanes_in_init(&p->lanes, &p->sink, &p->meter, 2, 300 * CLOCK_MSEC), 0);
    open_lane(p, 0);
    open_lane(p, 1);
}

static void place_fini(struct place *p)
{
    lanes_in_fini(&p->lanes);
    page_sink_fini(&p->sink);
    for (unsigned i = 0; i < 2; i++)
        link_close(&p->source[i]);
    meter_fini(&p->meter);
    mem_fini(&p->mem);
}

/* Sends a section of one run, of which `data` is whatever follows the table. */
static void send_run(struct place *p, unsigned lane, uint16_t round, struct pages_run run,
                     uint16_t version, enum pages_packing packing, uint32_t plain, const void *data,
                     size_t len)
{
    struct err err;
    uint8_t *bytes = malloc(STREAM_SECTION_BYTES + PAGES_TABLE_MAX + len);
    uint8_t *body = bytes + STREAM_SECTION_BYTES;
    size_t table = pages_table_encode(&run, 1, version, packing, plain, body);
    memcpy(body + table, data, len);
    struct section section = { .type = SECTION_PAGES,
                               .version = version,
                               .instance = round,
                               .length = (uint32_t)(table + len) };
    section.body_sum = stream_sum(body, section.length);
    section_encode(&section, bytes);
    assert_int_equal(link_send(&p->source[lane], bytes, STREAM_SECTION_BYTES + section.length,
                               &err),
                     0);
    free(bytes);
}

static void send_page(struct place *p, unsigned lane, uint16_t round, uint64_t page, int fill)
{
    uint8_t data[4096];
    memset(data, fill, sizeof(data));
    send_run(p, lane, round, (struct pages_run){ page, 1, PAGES_DATA }, 1, PACKING_NONE, 0, data,
             sizeof(data));
}

static void wait_event(struct place *p)
{
    struct pollfd fd = { .fd = p->lanes.event_fd, .events = POLLIN };
    uint64_t count;
    assert_int_equal(poll(&fd, 1, 20000), 1);
    assert_int_equal(read(p->lanes.event_fd, &count, sizeof(count)), sizeof(count));
}

static void complete(struct place *p, uint64_t pages)
{
    uint64_t got;
    while (!lanes_in_complete(&p->lanes, pages, &got))
        wait_event(p);
    assert_int_equal(got, pages);
}

/* The lanes failed, and say so with these words. */
static void fails(struct place *p, const char *words)
{
    struct err err = { 0 };
    while (!lanes_in_failed(&p->lanes, &err))
        wait_event(p);
    if (!strstr(err.text, words))
        fail_msg("'%s' instead of '%s'", err.text, words);
    assert_non_null(strstr(err.text, "lane "));
    place_fini(p);
}

static uint8_t byte_of(struct place *p, uint64_t page)
{
    return *mem_page(&p->mem, page);
}

static void rounds(void **state)
{
    (void)state;
    struct place p;
    place_init(&p);
    for (uint16_t round = 1; round < 70; round++) {
        /* Before the pump has heard of the round, too; and on whichever lane. */
        send_page(&p, 0, round, 5, round);
        lanes_in_begin(&p.lanes, round);
        send_page(&p, 1, round, 6, round + 1);
        send_run(&p, 0, round, (struct pages_run){ 100, 3, PAGES_ZERO }, 1, PACKING_NONE, 0, "", 0);
        complete(&p, 5);
        assert_int_equal(byte_of(&p, 5), (uint8_t)round);
        assert_int_equal(byte_of(&p, 6), (uint8_t)(round + 1));
    }
    lanes_in_last(&p.lanes);
    link_close(&p.source[0]); /* no failure any more */
    (void)poll(NULL, 0, 5);
    struct err err;
    assert_int_equal(lanes_in_failed(&p.lanes, &err), 0);
    place_fini(&p);
}

/* The round's number has 32 bits, the section's half 16. */
static void number_wraps(void **state)
{
    (void)state;
    struct place p;
    place_init(&p);
    for (uint32_t round = 65534; round < 65540; round++) {
        lanes_in_begin(&p.lanes, round);
        send_page(&p, round % 2, (uint16_t)round, 9, (int)round);
        complete(&p, 1);
        assert_int_equal(byte_of(&p, 9), (uint8_t)round);
    }
    place_fini(&p);
}

static void a_round_that_is_over(void **state)
{
    (void)state;
    struct place p;
    place_init(&p);
    lanes_in_begin(&p.lanes, 1);
    send_page(&p, 0, 1, 5, 1);
    complete(&p, 1);
    send_page(&p, 1, 1, 5, 99);
    struct err err = { 0 };
    while (!lanes_in_failed(&p.lanes, &err))
        wait_event(&p);
    assert_int_equal(byte_of(&p, 5), 1);
    fails(&p, "which is over");

    place_init(&p);
    lanes_in_begin(&p.lanes, 7);
    send_page(&p, 1, 6, 5, 99);
    fails(&p, "pages of round 6 in round 7");

    place_init(&p);
    lanes_in_begin(&p.lanes, 7);
    send_page(&p, 1, 9, 5, 99);
    fails(&p, "pages of round 9 in round 7");
}

static void too_many_pages(void **state)
{
    (void)state;
    struct place p;
    place_init(&p);
    lanes_in_begin(&p.lanes, 1);
    struct pages_run all = { 0, (uint32_t)PAGES, PAGES_ZERO };
    send_run(&p, 0, 1, all, 1, PACKING_NONE, 0, "", 0);
    send_page(&p, 0, 1, 5, 1);
    fails(&p, "more pages in a round than the guest has");
}

/* The same page on both lanes: the source's own loss. */
static void twice_in_a_round(void **state)
{
    (void)state;
    struct place p;
    place_init(&p);
    lanes_in_begin(&p.lanes, 1);
    for (int i = 0; i < 200; i++)
        send_page(&p, i % 2, 1, 5, i % 2 ? 0xaa : 0x55);
    complete(&p, 200);
    assert_true(byte_of(&p, 5) == 0xaa || byte_of(&p, 5) == 0x55);
    assert_int_equal(byte_of(&p, 4), 0);
    assert_int_equal(byte_of(&p, 6), 0);
    place_fini(&p);
}

static void outside_memory(void **state)
{
    (void)state;
    struct place p;
    place_init(&p);
    lanes_in_begin(&p.lanes, 1);
    send_page(&p, 0, 1, PAGES, 1);
    fails(&p, "outside the guest's");
}

static void bombs(void **state)
{
    (void)state;
    static const struct {
        struct pages_run run;
        enum pages_packing packing;
        uint32_t plain;
        const char *words;
    } rows[] = {
        { { 5, 2, PAGES_DATA }, PACKING_LZ4, 8192, "do not unpack" },
        { { 5, 2, PAGES_DATA }, PACKING_ZSTD, 8192, "do not unpack" },
        { { 5, 64, PAGES_DATA }, PACKING_ZSTD, UINT32_MAX, "does not hold" },
        { { 5, 2, PAGES_DELTA }, PACKING_NONE, 40, "unsound" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct place p;
        uint8_t data[40];
        memset(data, 0x20, sizeof(data));
        place_init(&p);
        lanes_in_begin(&p.lanes, 1);
        send_run(&p, 0, 1, rows[i].run, 2, rows[i].packing, rows[i].plain, data, sizeof(data));
        fails(&p, rows[i].words);
    }
}

static void other_things(void **state)
{
    (void)state;
    struct place p;
    struct err err;
    CLEANUP_BUF struct buf out = { 0 };
    struct message message = { .type = MESSAGE_COMMIT, .commit = { .token = { 1 } } };
    message_encode(&message, &out);
    place_init(&p);
    assert_int_equal(link_send(&p.source[1], out.data, out.len, &err), 0);
    fails(&p, "lane 1: section commit on a bulk lane");

    place_init(&p); /* closed with a round to come */
    link_close(&p.source[0]);
    fails(&p, "lane 0: the other side closed");

    place_init(&p); /* silent in the middle of a section */
    assert_int_equal(link_send(&p.source[0], out.data, 10, &err), 0);
    fails(&p, "no progress");

    place_init(&p); /* garbage */
    memset(out.data, 0x77, out.len);
    assert_int_equal(link_send(&p.source[0], out.data, STREAM_SECTION_BYTES, &err), 0);
    fails(&p, "damaged");
}

static void admission(void **state)
{
    (void)state;
    struct place p;
    struct err err;
    struct lanes_in none = { 0 };
    struct message_lane lane = { .kind = LANE_BULK };
    place_init(&p);
    assert_int_equal(lanes_in_admit(&none, &lane, &err), -EPROTO);
    assert_int_equal(lanes_in_admit(&p.lanes, &lane, &err), -EEXIST);
    lane.index = 2;
    assert_int_equal(lanes_in_admit(&p.lanes, &lane, &err), -EPROTO);
    lane.kind = LANE_URGENT;
    assert_int_equal(lanes_in_admit(&p.lanes, &lane, &err), -EOPNOTSUPP);
    place_fini(&p);
    lanes_in_fini(&none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounds),
        cmocka_unit_test(number_wraps),
        cmocka_unit_test(a_round_that_is_over),
        cmocka_unit_test(too_many_pages),
        cmocka_unit_test(twice_in_a_round),
        cmocka_unit_test(outside_memory),
        cmocka_unit_test(bombs),
        cmocka_unit_test(other_things),
        cmocka_unit_test(admission),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
