#include "dev/virtq.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIZE 8u
#define DESC 0x10000u
#define AVAIL 0x11000u
#define USED 0x12000u
#define DATA 0x20000u
#define TABLE 0x30000u
#define TOP (MEM_MIN_BYTES)

static struct mem mem;
static _Atomic(uint64_t) *marks;
static struct virtq q;
static struct virtq_chain chain;

static struct vring_desc *desc_at(uint64_t gpa)
{
    return (struct vring_desc *)(void *)(mem.host + gpa);
}

static struct vring_avail *avail(void)
{
    return (struct vring_avail *)(void *)(mem.host + AVAIL);
}

static struct vring_used *used(void)
{
    return (struct vring_used *)(void *)(mem.host + USED);
}

static uint16_t *used_event(void)
{
    return &avail()->ring[SIZE];
}

static uint16_t *avail_event(void)
{
    return (uint16_t *)(void *)&used()->ring[SIZE];
}

static void desc(uint64_t table, unsigned i, uint64_t addr, uint32_t len, unsigned flags,
                 unsigned next)
{
    desc_at(table)[i] = (struct vring_desc){ addr, len, (uint16_t)flags, (uint16_t)next };
}

static void offer(uint16_t head)
{
    avail()->ring[avail()->idx % SIZE] = head;
    avail()->idx++;
}

static int setup(void **state)
{
    struct err err = { 0 };
    (void)state;
    assert_int_equal(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, &err), 0);
    virtq_init(&q, &mem, VIRTQ_SIZE_MAX);
    q.size = SIZE;
    q.desc_gpa = gpa_of(DESC);
    q.avail_gpa = gpa_of(AVAIL);
    q.used_gpa = gpa_of(USED);
    q.indirect = q.event_idx = true;
    assert_int_equal(virtq_start(&q, 0), 0);
    q.signal_all = false;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mem_fini(&mem);
    free(marks);
    marks = NULL;
    return 0;
}

static void track(void)
{
    marks = calloc(mem.pages / 64 + 1, sizeof(*marks));
    assert_non_null(marks);
    mem.marks = marks;
}

static bool marked(uint64_t gpa)
{
    return marks[gpa / PAGE_BYTES / 64] >> (gpa / PAGE_BYTES % 64) & 1;
}

static void push(uint32_t written)
{
    bool signal = virtq_push(&q, &chain, written);
    (void)signal;
}

static void test_pop_and_push(void **state)
{
    (void)state;
    track();
    memcpy(mem.host + DATA, "question", 8);
    desc(DESC, 3, DATA, 4, VRING_DESC_F_NEXT, 5);
    desc(DESC, 5, DATA + 4, 4, VRING_DESC_F_NEXT, 0);
    desc(DESC, 0, DATA + 0xffe, 4, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
    desc(DESC, 1, DATA + 0x4000, 100, VRING_DESC_F_WRITE, 7);
    assert_int_equal(virtq_pop(&q, &chain), 0);
    offer(3);
    assert_int_equal(virtq_pop(&q, &chain), 1);
    assert_int_equal(virtq_pop(&q, &chain), 0);
    assert_int_equal(chain.head, 3);
    assert_int_equal(chain.out_count, 2);
    assert_int_equal(chain.out_bytes, 8);
    assert_int_equal(chain.in_count, 2);
    assert_int_equal(chain.in_bytes, 104);
    char buf[9] = { 0 };
    assert_int_equal(virtq_read(&chain, 2, buf, 99), 6);
    assert_string_equal(buf, "estion");
    assert_int_equal(virtq_read(&chain, 8, buf, 1), 0);

    assert_int_equal(virtq_write(&q, &chain, 1, "answer", 6), 6);
    assert_memory_equal(mem.host + DATA + 0xfff, "ans", 3);
    assert_memory_equal(mem.host + DATA + 0x4000, "wer", 3);
    assert_true(marked(DATA) && marked(DATA + 0x1000) && marked(DATA + 0x4000));
    assert_false(marked(DATA + 0x2000));
    assert_false(marked(USED));
    assert_int_equal(used()->idx, 0);
    push(7);
    assert_int_equal(used()->idx, 1);
    assert_int_equal(used()->ring[0].id, 3);
    assert_int_equal(used()->ring[0].len, 7);
    assert_true(marked(USED));
    assert_int_equal(q.in_flight, 0);
}

static void test_push_marks_what_io_wrote(void **state)
{
    (void)state;
    track();
    desc(DESC, 0, DATA, 3 * 4096, VRING_DESC_F_WRITE, 0);
    offer(0);
    assert_int_equal(virtq_pop(&q, &chain), 1);
    push(4097);
    assert_true(marked(DATA) && marked(DATA + 4096));
    assert_false(marked(DATA + 2 * 4096));
}

static void test_trim(void **state)
{
    (void)state;
    desc(DESC, 0, DATA, 10, VRING_DESC_F_NEXT, 1);
    desc(DESC, 1, DATA + 100, 10, VRING_DESC_F_NEXT, 2);
    desc(DESC, 2, DATA + 200, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 3);
    desc(DESC, 3, DATA + 300, 5, VRING_DESC_F_WRITE, 0);
    offer(0);
    assert_int_equal(virtq_pop(&q, &chain), 1);
    assert_int_equal(virtq_trim_in_last(&chain).raw, DATA + 304);
    virtq_trim_out(&chain, 16);
    assert_int_equal(chain.out_bytes, 4);
    assert_ptr_equal(chain.iov[1].iov_base, mem.host + DATA + 106);
    assert_int_equal(chain.iov[0].iov_len, 0);
    virtq_trim_in(&chain, 3);
    assert_int_equal(chain.in_bytes, 2);
    assert_int_equal(chain.gpa[3].raw, DATA + 302);
    assert_int_equal(virtq_write(&q, &chain, 0, "xyz", 3), 2);
    assert_memory_equal(mem.host + DATA + 302, "xy\0", 3);
    memset(mem.host + DATA + 300, 7, 5);
    virtq_zero(&q, &chain, 1, 99);
    assert_memory_equal(mem.host + DATA + 300, "\7\7\7\0\7", 5);
}

static void test_indirect(void **state)
{
    (void)state;
    desc(DESC, 0, DATA, 1, VRING_DESC_F_NEXT, 1); /* a direct one may come before (2.7.5.3.2) */
    desc(DESC, 1, TABLE + 8, 2 * 16, VRING_DESC_F_INDIRECT, 0);
    desc(TABLE + 8, 0, DATA + 1, 2, VRING_DESC_F_NEXT, 1);
    desc(TABLE + 8, 1, DATA + 8, 8, VRING_DESC_F_WRITE, 0);
    offer(0);
    assert_int_equal(virtq_pop(&q, &chain), 1);
    assert_int_equal(chain.out_bytes, 3);
    assert_int_equal(chain.in_bytes, 8);
}

/* Each case breaks the queue, and it stays broken. */
static void broken(void)
{
    assert_int_equal(virtq_pop(&q, &chain), -EPROTO);
    assert_true(q.broken);
    assert_int_equal(q.in_flight, 0);
    assert_int_equal(virtq_pop(&q, &chain), -EPROTO);
    assert_false(virtq_kicks_on(&q, 0));
    q.broken = false;
    q.next_avail = avail()->idx;
    q.next_used = avail()->idx;
}

static void test_hostile_descriptors(void **state)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
        unsigned flags, next;
    } bad[] = {
        { TOP, 1, 0, 0 },        /* behind RAM */
        { TOP - 1, 2, 0, 0 },    /* across its end */
        { UINT64_MAX, 2, 0, 0 }, /* wraps around */
        { UINT64_MAX - 4095, 4096, VRING_DESC_F_WRITE, 0 },
        { DATA, UINT32_MAX, 0, 0 },           /* longer than RAM */
        { DATA, 0, 0, 0 },                    /* empty */
        { DATA, 1, VRING_DESC_F_NEXT, 0 },    /* a loop of one */
        { DATA, 1, VRING_DESC_F_NEXT, SIZE }, /* behind the table */
        { DATA, 1, VRING_DESC_F_NEXT, 0xffff },
        { TABLE, 15, VRING_DESC_F_INDIRECT, 0 },
        { TABLE, 0, VRING_DESC_F_INDIRECT, 0 },
        { TABLE, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1 },
        { TOP - 16, 32, VRING_DESC_F_INDIRECT, 0 },
        { UINT64_MAX - 15, 0xfffffff0, VRING_DESC_F_INDIRECT, 0 },
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        desc(DESC, 0, bad[i].addr, bad[i].len, bad[i].flags, bad[i].next);
        offer(0);
        broken();
    }
}

static void test_hostile_chains(void **state)
{
    (void)state;
    /* A loop of two; one in an indirect table of thousands; a nested table; indirect not
     * negotiated. */
    desc(DESC, 0, DATA, 1, VRING_DESC_F_NEXT, 1);
    desc(DESC, 1, DATA, 1, VRING_DESC_F_NEXT, 0);
    offer(0);
    broken();
    desc(DESC, 0, TABLE, 4096 * 16, VRING_DESC_F_INDIRECT, 0);
    for (unsigned i = 0; i < 4096; i++)
        desc(TABLE, i, DATA, 1, VRING_DESC_F_NEXT, (i + 1) % 4096);
    offer(0);
    broken();
    desc(TABLE, 0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
    offer(0);
    broken();
    desc(TABLE, 0, DATA, 16, VRING_DESC_F_WRITE, 0);
    q.indirect = false;
    offer(0);
    broken();
    q.indirect = true;

    /* Readable after writable. */
    desc(DESC, 0, DATA, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
    desc(DESC, 1, DATA, 1, 0, 0);
    offer(0);
    broken();

    /* A total that does not fit a used element's length. */
    desc(DESC, 0, TABLE, 100 * 16, VRING_DESC_F_INDIRECT, 0);
    for (unsigned i = 0; i < 100; i++)
        desc(TABLE, i, 0, (uint32_t)TOP, VRING_DESC_F_WRITE | (i < 99 ? VRING_DESC_F_NEXT : 0u),
             i + 1);
    offer(0);
    broken();

    /* Heads and indexes that cannot be. */
    offer(SIZE);
    broken();
    offer(0xffff);
    broken();
    avail()->idx = (uint16_t)(avail()->idx + SIZE + 1);
    broken();
    avail()->idx--; /* backwards is a jump of 65535 */
    broken();
}

static void test_longest_chain(void **state)
{
    (void)state;
    desc(DESC, 0, TABLE, VIRTQ_SEGS_MAX * 16, VRING_DESC_F_INDIRECT, 0);
    for (unsigned i = 0; i < VIRTQ_SEGS_MAX; i++)
        desc(TABLE, i, DATA + i, 1, i + 1 < VIRTQ_SEGS_MAX ? VRING_DESC_F_NEXT : 0u, i + 1);
    offer(0);
    assert_int_equal(virtq_pop(&q, &chain), 1);
    assert_int_equal(chain.out_bytes, VIRTQ_SEGS_MAX);
    virtq_rewind(&q, 1);
    desc(DESC, 0, TABLE, (VIRTQ_SEGS_MAX + 1) * 16, VRING_DESC_F_INDIRECT, 0);
    desc(TABLE, VIRTQ_SEGS_MAX - 1, DATA, 1, VRING_DESC_F_NEXT, VIRTQ_SEGS_MAX);
    desc(TABLE, VIRTQ_SEGS_MAX, DATA, 1, 0, 0);
    broken();
}

static void test_more_in_flight_than_descriptors(void **state)
{
    (void)state;
    desc(DESC, 0, DATA, 1, 0, 0);
    for (unsigned i = 0; i < SIZE; i++) {
        offer(0);
        assert_int_equal(virtq_pop(&q, &chain), 1);
    }
    offer(0);
    assert_int_equal(virtq_pop(&q, &chain), -EPROTO);
    for (unsigned i = 0; i < SIZE; i++) /* what was popped is still answered */
        virtq_stage(&q, 0, 0);
    assert_true(virtq_publish(&q));
    assert_int_equal(used()->idx, SIZE);
    assert_int_equal(q.in_flight, 0);
}

static void test_rewind(void **state)
{
    (void)state;
    for (uint16_t i = 0; i < 3; i++) {
        desc(DESC, i, DATA, 1 + i, VRING_DESC_F_WRITE, 0);
        offer(i);
    }
    assert_int_equal(virtq_pop(&q, &chain), 1);
    virtq_stage(&q, chain.head, 1);
    assert_int_equal(virtq_pop(&q, &chain), 1);
    assert_int_equal(virtq_pop(&q, &chain), 1);
    virtq_rewind(&q, 2);
    assert_true(virtq_kicks_on(&q, 0));
    assert_false(virtq_kicks_on(&q, 2)); /* these two are known and did not suffice */
    assert_int_equal(*avail_event(), 3);
    bool signal = virtq_publish(&q);
    (void)signal;
    assert_int_equal(used()->idx, 1);
    assert_int_equal(used()->ring[0].id, 0);
    assert_int_equal(virtq_pop(&q, &chain), 1);
    assert_int_equal(chain.head, 1);
}

static void push_one(void)
{
    desc(DESC, 0, DATA, 1, 0, 0);
    offer(0);
    assert_int_equal(virtq_pop(&q, &chain), 1);
}

static void test_event_index(void **state)
{
    (void)state;
    *used_event() = 0; /* interrupt at the first */
    push_one();
    assert_true(virtq_push(&q, &chain, 0));
    push_one();
    assert_false(virtq_push(&q, &chain, 0));
    *used_event() = 3; /* at the fourth */
    push_one();
    assert_false(virtq_push(&q, &chain, 0));
    push_one();
    assert_true(virtq_push(&q, &chain, 0));
    *used_event() = 5; /* stepped over by a batch */
    for (unsigned i = 0; i < 4; i++) {
        push_one();
        virtq_stage(&q, 0, 0);
    }
    assert_true(virtq_publish(&q));

    assert_false(virtq_kicks_on(&q, 0));
    assert_int_equal(*avail_event(), 8);
    offer(0);
    virtq_kicks_off(&q);
    assert_int_equal(used()->flags, 0);
    assert_true(virtq_kicks_on(&q, 0));
}

static void test_flags_without_event_index(void **state)
{
    (void)state;
    q.event_idx = false;
    virtq_kicks_off(&q);
    assert_int_equal(used()->flags, VRING_USED_F_NO_NOTIFY);
    assert_false(virtq_kicks_on(&q, 0));
    assert_int_equal(used()->flags, 0);
    push_one();
    assert_true(virtq_push(&q, &chain, 0));
    avail()->flags = VRING_AVAIL_F_NO_INTERRUPT;
    push_one();
    assert_false(virtq_push(&q, &chain, 0));
}

static void test_indexes_wrap(void **state)
{
    (void)state;
    q.ready = false;
    avail()->idx = used()->idx = 0xfffd;
    assert_int_equal(virtq_start(&q, 0xfffd), 0);
    for (unsigned i = 0; i < 3 * SIZE; i++) {
        push_one();
        push(0);
    }
    assert_int_equal(used()->idx, (uint16_t)(0xfffd + 3 * SIZE));
    struct virtq_state saved;
    struct err err = { 0 };
    virtq_save(&q, &saved);
    assert_int_equal(saved.index, used()->idx);
    struct virtq loaded;
    virtq_init(&loaded, &mem, VIRTQ_SIZE_MAX);
    assert_int_equal(virtq_load(&loaded, &saved, &err), 0);
    assert_int_equal(virtq_pop(&loaded, &chain), 0);
    offer(0);
    assert_int_equal(virtq_pop(&loaded, &chain), 1);
    saved.used_gpa = TOP - 8;
    virtq_init(&loaded, &mem, VIRTQ_SIZE_MAX);
    assert_true(virtq_load(&loaded, &saved, &err) < 0);
}

static void test_start_checks_the_rings(void **state)
{
    static const struct {
        uint16_t size;
        uint64_t desc, avail, used;
    } bad[] = {
        { 0, DESC, AVAIL, USED },     { 3, DESC, AVAIL, USED },
        { 512, DESC, AVAIL, USED },   { 8, DESC + 8, AVAIL, USED },
        { 8, DESC, AVAIL + 1, USED }, { 8, DESC, AVAIL, USED + 2 },
        { 8, TOP - 64, AVAIL, USED }, { 8, DESC, TOP - 16, USED },
        { 8, DESC, AVAIL, TOP - 64 }, { 8, UINT64_MAX - 15, AVAIL, USED },
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        virtq_init(&q, &mem, VIRTQ_SIZE_MAX);
        q.size = bad[i].size;
        q.desc_gpa = gpa_of(bad[i].desc);
        q.avail_gpa = gpa_of(bad[i].avail);
        q.used_gpa = gpa_of(bad[i].used);
        assert_int_equal(virtq_start(&q, 0), -EINVAL);
        assert_false(q.ready);
        assert_int_equal(virtq_pop(&q, &chain), 0);
    }
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_pop_and_push),
        CASE(test_push_marks_what_io_wrote),
        CASE(test_trim),
        CASE(test_indirect),
        CASE(test_hostile_descriptors),
        CASE(test_hostile_chains),
        CASE(test_longest_chain),
        CASE(test_more_in_flight_than_descriptors),
        CASE(test_rewind),
        CASE(test_event_index),
        CASE(test_flags_without_event_index),
        CASE(test_indexes_wrap),
        CASE(test_start_checks_the_rings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
