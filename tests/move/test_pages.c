/*
 * Pages from one memory to another while a guest (the fake hypervisor's) writes: whatever the rounds
 * and however the writes fall, the target must hold exactly what the source held when it stopped.
 */
#include "kvm/fake.h"
#include "mem/dirty.h"
#include "mem/discard.h"
#include "move/page_maker.h"
#include "move/page_sink.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)

struct receiver {
    struct mem *mem;
    struct link link;
    uint64_t data_pages;
    int rc;
    struct err err;
};

static void *receive(void *arg)
{
    struct receiver *r = arg;
    struct page_sink sink;
    struct meter meter;
    meter_init(&meter);
    assert_int_equal(page_sink_init(&sink, r->mem, &meter), 0);
    for (;;) {
        struct section section;
        r->rc = link_recv_head(&r->link, &section, &r->err);
        if (!r->rc && section.type != SECTION_PAGES) /* the end, or a round's: the barrier */
            r->rc = page_sink_drain(&sink, &r->err);
        if (r->rc || section.type == SECTION_END)
            break;
        if (section.type != SECTION_PAGES)
            continue;
        r->rc = page_sink_recv(&sink, &r->link, &section, &r->err);
        if (r->rc)
            break;
    }
    r->data_pages = sink.data_pages;
    page_sink_fini(&sink);
    meter_fini(&meter);
    return NULL;
}

static void connect_pair(struct link *a, struct link *b)
{
    int fds[2];
    struct err err;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    *a = *b = LINK_NONE;
    assert_int_equal(link_adopt(a, fds[0], &err), 0);
    assert_int_equal(link_adopt(b, fds[1], &err), 0);
}

static void send_round(struct page_maker *maker, struct link *link, bool first)
{
    const uint8_t *bytes;
    size_t len;
    struct err err;
    page_source_begin(maker->source, first, NULL);
    page_maker_begin(maker, 0);
    while (page_maker_fill(maker, &bytes, &len) == 0 && len > 0)
        assert_int_equal(link_send(link, bytes, len, &err), 0);
}

static void send_mark(struct link *link, uint16_t type)
{
    uint8_t head[STREAM_SECTION_BYTES];
    struct section end = { .type = type, .version = 1, .body_sum = stream_sum("", 0) };
    struct err err;
    section_encode(&end, head);
    assert_int_equal(link_send(link, head, sizeof(head), &err), 0);
}

struct writer {
    struct hv_vcpu *vcpu;
};

static void *run_guest(void *arg)
{
    struct hv_exit exit;
    assert_int_equal(
        ((struct writer *)arg)->vcpu->hv->ops->vcpu_run(((struct writer *)arg)->vcpu, &exit), 0);
    return NULL;
}

static void running_guest_arrives(enum mem_pages from_pages, enum mem_pages to_pages)
{
    struct mem from, to;
    struct hv *hv;
    struct dirty dirty;
    struct page_source source;
    struct page_maker maker;
    struct receiver receiver = { .mem = &to };
    struct link out;
    pthread_t receiving, running;
    uint64_t pending;

    assert_int_equal(mem_init(&from, 128 * MIB, from_pages, NULL), 0);
    assert_int_equal(mem_init(&to, 128 * MIB, to_pages, NULL), 0);
    assert_int_equal(hv_fake_open(&hv), 0);
    assert_int_equal(hv->ops->slot_set(hv, 0, gpa_of(0), from.host, from.bytes, false), 0);
    connect_pair(&out, &receiver.link);

    struct writer writer;
    struct hv_cpuid *cpuid = calloc(1, sizeof(*cpuid));
    assert_int_equal(hv->ops->vcpu_open(hv, 0, cpuid, &writer.vcpu), 0);
    assert_int_equal(pthread_create(&running, NULL, run_guest, &writer), 0);
    assert_int_equal(pthread_create(&receiving, NULL, receive, &receiver), 0);

    assert_int_equal(dirty_start(&dirty, &from, hv), 0);
    page_source_init(&source, &from, &dirty);
    assert_int_equal(page_maker_init(&maker, &source, NULL, PACKING_MODE_OFF, 0), 0);
    for (int round = 0; round < 20; round++) {
        do /* every round has something new to send: the guest never stops writing */
            assert_int_equal(dirty_fetch(&dirty, &pending), 0);
        while (pending < 20 && sched_yield() == 0);
        send_round(&maker, &out, round == 0);
        send_mark(&out, SECTION_MESSAGE);
        /* The monitor writes too, and turns a page to zero again. */
        uint64_t stamp = (uint64_t)round + 1;
        assert_int_equal(mem_write(&from, gpa_of(100 * MIB + (uint64_t)round * PAGE_BYTES + 512),
                                   &stamp, sizeof(stamp)),
                         0);
        stamp = 0;
        assert_int_equal(mem_write(&from,
                                   gpa_of(100 * MIB + (uint64_t)(round / 2) * PAGE_BYTES + 512),
                                   &stamp, sizeof(stamp)),
                         0);
    }
    hv->ops->vcpu_kick(writer.vcpu);
    assert_int_equal(pthread_join(running, NULL), 0);
    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    send_round(&maker, &out, false);
    send_mark(&out, SECTION_END);
    assert_int_equal(pthread_join(receiving, NULL), 0);
    assert_int_equal(receiver.rc, 0);

    struct hv_vcpu_state *state = calloc(1, sizeof(*state));
    uint64_t bad_page;
    assert_int_equal(hv->ops->vcpu_save(writer.vcpu, state, NULL), 0);
    assert_true(state->gpr[0] > 100);
    assert_true(hv_fake_verify(from.host, from.pages, 0, state->gpr[0], &bad_page));
    assert_memory_equal(from.host, to.host, from.bytes);

    free(state);
    free(cpuid);
    page_maker_fini(&maker);
    page_source_fini(&source);
    dirty_stop(&dirty);
    hv->ops->vcpu_close(writer.vcpu);
    hv->ops->close(hv);
    link_close(&out);
    link_close(&receiver.link);
    mem_fini(&from);
    mem_fini(&to);
}

static void running_guest_arrives_whole(void **unused)
{
    (void)unused;
    running_guest_arrives(MEM_PAGES_SMALL, MEM_PAGES_SMALL);
    running_guest_arrives(MEM_PAGES_LARGE, MEM_PAGES_LARGE);
    running_guest_arrives(MEM_PAGES_LARGE, MEM_PAGES_SMALL);
}

/* A round stopped within a stripe: each touched page was sent or is pending, and `unsent` has just those that the
 * round had taken. */
static void stopped_round_loses_nothing(void **unused)
{
    (void)unused;
    enum { TOUCHED = 1000, SENT = 700 };
    struct mem mem;
    struct hv *hv;
    struct dirty dirty;
    struct page_source source;
    struct page_stripe stripe = { 0 };
    struct page_batch batch;
    uint64_t pending, sent = 0;
    CLEANUP_FREE uint8_t *seen = calloc(64 * MIB / PAGE_BYTES, 1);

    assert_int_equal(mem_init(&mem, 64 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(hv_fake_open(&hv), 0);
    assert_int_equal(hv->ops->slot_set(hv, 0, gpa_of(0), mem.host, mem.bytes, false), 0);
    memset(mem_page(&mem, 100), 0x5a, TOUCHED * PAGE_BYTES);
    assert_int_equal(dirty_start(&dirty, &mem, hv), 0);
    page_source_init(&source, &mem, &dirty);
    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    page_source_begin(&source, true, NULL);
    do {
        uint64_t out, left;
        assert_int_equal(page_source_take(&source, &stripe, 7, &batch), 0);
        assert_true(batch.pages <= 7);
        assert_int_equal(page_source_look(&source, &out, &left), 0);
        assert_int_equal(out, sent + batch.pages);
        assert_int_equal(out + left, TOUCHED); /* of never-touched memory nothing */
        for (unsigned w = 0; w < batch.words; w++)
            for (uint64_t bits = batch.bits[w]; bits; bits &= bits - 1)
                seen[batch.first + w * 64 + (uint64_t)__builtin_ctzll(bits)]++;
        sent += batch.pages;
        if (sent >= SENT)
            page_source_stop(&source);
    } while (batch.pages);
    assert_true(sent >= SENT && sent < SENT + 7);
    assert_true(page_stripe_done(&stripe));

    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    uint64_t visited = page_source_visited(&source), unsent = 0;
    assert_non_null(source.unsent);
    for (uint64_t page = 0; page < mem.pages; page++) {
        bool touched = page >= 100 && page < 100 + TOUCHED;
        bool left = source.unsent[page / 64] >> page % 64 & 1;
        bool is_pending = dirty.pending[page / 64] >> page % 64 & 1;
        assert_true(seen[page] <= 1);
        if (page < visited)
            assert_int_equal(is_pending, touched && !seen[page]);
        assert_int_equal(left, page < visited && touched && !seen[page]);
        unsent += left;
    }
    assert_true(unsent > 0);

    page_source_fini(&source);
    dirty_stop(&dirty);
    hv->ops->close(hv);
    mem_fini(&mem);
}

static void untouched_memory_is_not_looked_at(void **unused)
{
    (void)unused;
    struct mem from, to;
    struct hv *hv;
    struct dirty dirty;
    struct page_source source;
    struct page_maker maker;
    struct receiver receiver = { .mem = &to };
    struct link out;
    pthread_t receiving;
    uint64_t pending;

    assert_int_equal(mem_init(&from, 4096 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(mem_init(&to, 4096 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(hv_fake_open(&hv), 0);
    for (unsigned i = 0; i < from.region_count; i++)
        assert_int_equal(hv->ops->slot_set(hv, i, gpa_of(from.region[i].gpa),
                                           mem_page(&from, from.region[i].page_index),
                                           from.region[i].bytes, false),
                         0);
    /* One page in the low part, one that is only read, one above 4 GiB. */
    memset(mem_get(&from, gpa_of(777 * PAGE_BYTES), 1), 7, 1);
    assert_int_equal(*(volatile uint8_t *)mem_get(&from, gpa_of(9999 * PAGE_BYTES), 1), 0);
    memset(mem_get(&from, gpa_of(MEM_HIGH_GPA + 5 * MIB), 1), 9, 1);

    connect_pair(&out, &receiver.link);
    assert_int_equal(pthread_create(&receiving, NULL, receive, &receiver), 0);
    assert_int_equal(dirty_start(&dirty, &from, hv), 0);
    page_source_init(&source, &from, &dirty);
    assert_int_equal(page_maker_init(&maker, &source, NULL, PACKING_MODE_OFF, 0), 0);
    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    assert_int_equal(pending, from.pages);
    send_round(&maker, &out, true);
    send_mark(&out, SECTION_END);
    assert_int_equal(pthread_join(receiving, NULL), 0);
    assert_int_equal(receiver.rc, 0);

    assert_int_equal(maker.count.data, 2);
    assert_int_equal(maker.count.zero, 1);
    assert_int_equal(source.untouched, from.pages - 3);
    assert_int_equal(mem_resident_pages(&from), 3);
    assert_int_equal(mem_resident_pages(&to), 2); /* the zero page is not even made */
    assert_int_equal(*(uint8_t *)mem_get(&to, gpa_of(MEM_HIGH_GPA + 5 * MIB), 1), 9);
    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    assert_int_equal(pending, 0);

    page_maker_fini(&maker);
    page_source_fini(&source);
    dirty_stop(&dirty);
    hv->ops->close(hv);
    link_close(&out);
    link_close(&receiver.link);
    mem_fini(&from);
    mem_fini(&to);
}

/* Gives back random runs, as a guest's balloon and reports do, while the guest writes and pages travel. */
struct giver {
    struct mem *mem;
    _Atomic bool stop;
    _Atomic(uint64_t) given;
};

static void *give_back(void *arg)
{
    struct giver *giver = arg;
    for (uint64_t seed = 1; !giver->stop; giver->given++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint64_t count = 1 + (seed >> 33) % ((seed >> 20) % 8 ? 20 : 2000);
        uint64_t first = (seed >> 40) % (giver->mem->pages - count);
        assert_int_equal(mem_discard(giver->mem, gpa_of(first * PAGE_BYTES), count * PAGE_BYTES,
                                     false),
                         0);
        (void)sched_yield();
    }
    return NULL;
}

static uint64_t resident(const struct mem *mem, uint64_t first, uint64_t end)
{
    uint64_t pages = 0, from, to;
    for (uint64_t at = first; at < end && !mem_next_touched(mem, at, &from, &to); at = to)
        pages += from < end ? MIN(to, end) - from : 0;
    return pages;
}

/* Pages given back before, between and during the rounds: the target ends with what the source has, holds
 * no memory for what was given back, and none of it was looked at. */
static void freed_pages_do_not_travel(void **unused)
{
    (void)unused;
    struct mem from, to;
    struct hv *hv;
    struct dirty dirty;
    struct page_source source;
    struct page_maker maker;
    struct receiver receiver = { .mem = &to };
    struct link out;
    pthread_t receiving, running, giving;
    uint64_t pending, freed = 0;

    assert_int_equal(mem_init(&from, 128 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(mem_init(&to, 128 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(hv_fake_open(&hv), 0);
    assert_int_equal(hv->ops->slot_set(hv, 0, gpa_of(0), from.host, from.bytes, false), 0);
    connect_pair(&out, &receiver.link);
    memset(from.host, 0x5a, 96 * MIB);

    /* Before: as good as never touched, but told apart. */
    assert_int_equal(mem_discard(&from, gpa_of(MIB + 1), 20 * MIB, false), 0);
    assert_int_equal(pthread_create(&receiving, NULL, receive, &receiver), 0);
    assert_int_equal(dirty_start(&dirty, &from, hv), 0);
    page_source_init(&source, &from, &dirty);
    assert_int_equal(page_maker_init(&maker, &source, NULL, PACKING_MODE_OFF, 0), 0);
    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    send_round(&maker, &out, true);
    send_mark(&out, SECTION_MESSAGE);
    assert_int_equal(source.untouched_free, 20 * 256 - 1);
    assert_int_equal(source.untouched, 20 * 256 - 1 + 32 * 256);
    assert_int_equal(maker.count.data, 76 * 256 + 1);
    assert_int_equal(maker.count.free, 0);

    /* Between: sent before, so the target must hear that they are gone. */
    assert_int_equal(mem_discard(&from, gpa_of(30 * MIB), 8 * MIB, false), 0);
    memset(mem_page(&from, 30 * 256 + 99), 0x77, 1);
    mem_mark(&from, gpa_of(30 * MIB + 99 * PAGE_BYTES), 1); /* one is used again */
    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    assert_int_equal(pending, 8 * 256);
    send_round(&maker, &out, false);
    send_mark(&out, SECTION_MESSAGE);
    assert_int_equal(maker.count.free, 8 * 256 - 1);
    assert_int_equal(maker.count.data, 1);
    assert_true(maker.count.bytes < 3 * PAGE_BYTES);

    /* During. */
    struct writer writer;
    struct hv_cpuid *cpuid = calloc(1, sizeof(*cpuid));
    struct giver giver = { .mem = &from };
    assert_int_equal(hv->ops->vcpu_open(hv, 0, cpuid, &writer.vcpu), 0);
    assert_int_equal(pthread_create(&running, NULL, run_guest, &writer), 0);
    assert_int_equal(pthread_create(&giving, NULL, give_back, &giver), 0);
    for (int round = 0; round < 30; round++) {
        uint64_t seen = giver.given;
        do
            assert_int_equal(dirty_fetch(&dirty, &pending), 0);
        while ((pending < 20 || giver.given < seen + 5) && sched_yield() == 0);
        send_round(&maker, &out, false);
        send_mark(&out, SECTION_MESSAGE);
        freed += maker.count.free;
    }
    giver.stop = true;
    hv->ops->vcpu_kick(writer.vcpu);
    assert_int_equal(pthread_join(giving, NULL), 0);
    assert_int_equal(pthread_join(running, NULL), 0);
    assert_true(freed > 1000);

    /* The last round, the guest standing still. */
    assert_int_equal(mem_discard(&from, gpa_of(64 * MIB), 32 * MIB, false), 0);
    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    send_round(&maker, &out, false);
    send_mark(&out, SECTION_END);
    assert_int_equal(pthread_join(receiving, NULL), 0);
    assert_int_equal(receiver.rc, 0);
    assert_int_equal(resident(&from, 64 * 256, 96 * 256), 0);
    assert_true(resident(&to, 64 * 256, 96 * 256) < 100); /* short runs may have been overwritten */
    assert_memory_equal(from.host, to.host, from.bytes);

    free(cpuid);
    page_maker_fini(&maker);
    page_source_fini(&source);
    dirty_stop(&dirty);
    hv->ops->vcpu_close(writer.vcpu);
    hv->ops->close(hv);
    link_close(&out);
    link_close(&receiver.link);
    mem_fini(&from);
    mem_fini(&to);
}

static void damaged_page_is_refused_by(enum mem_pages to_pages)
{
    struct mem from, to;
    struct hv *hv;
    struct dirty dirty;
    struct page_source source;
    struct page_maker maker;
    uint64_t pending;
    const uint8_t *bytes;
    size_t len;
    struct err err;

    assert_int_equal(mem_init(&from, 64 * MIB, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(mem_init(&to, 64 * MIB, to_pages, NULL), 0);
    assert_int_equal(hv_fake_open(&hv), 0);
    assert_int_equal(hv->ops->slot_set(hv, 0, gpa_of(0), from.host, from.bytes, false), 0);
    memset(from.host, 0x5a, 2 * PAGE_BYTES);
    memset(mem_page(&from, 2), 0, PAGE_BYTES); /* three runs */
    memset(mem_page(&from, 3), 0x5b, PAGE_BYTES);
    assert_int_equal(dirty_start(&dirty, &from, hv), 0);
    page_source_init(&source, &from, &dirty);
    assert_int_equal(page_maker_init(&maker, &source, NULL, PACKING_MODE_OFF, 0), 0);
    assert_int_equal(dirty_fetch(&dirty, &pending), 0);
    page_source_begin(&source, true, NULL);
    page_maker_begin(&maker, 0);
    assert_int_equal(page_maker_fill(&maker, &bytes, &len), 0);

    /* Every byte once, and the whole section cut at every 97th byte. */
    CLEANUP_FREE uint8_t *copy = malloc(len);
    for (size_t at = 0; at < 2 * len; at += at < len ? 1 : 97) {
        struct receiver receiver = { .mem = &to };
        struct link out;
        size_t send = at < len ? len : at - len;
        memcpy(copy, bytes, len);
        if (at < len)
            copy[at] ^= 0x10;
        connect_pair(&out, &receiver.link);
        assert_int_equal(link_send(&out, copy, send, &err), 0);
        link_close(&out);
        (void)receive(&receiver);
        assert_int_not_equal(receiver.rc, 0);
        assert_true(receiver.err.text[0]);
        link_close(&receiver.link);
    }
    page_maker_fini(&maker);
    page_source_fini(&source);
    dirty_stop(&dirty);
    hv->ops->close(hv);
    mem_fini(&from);
    mem_fini(&to);
}

static void damaged_page_is_refused(void **unused)
{
    (void)unused;
    damaged_page_is_refused_by(MEM_PAGES_SMALL);
    damaged_page_is_refused_by(MEM_PAGES_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(running_guest_arrives_whole),
        cmocka_unit_test(stopped_round_loses_nothing),
        cmocka_unit_test(untouched_memory_is_not_looked_at),
        cmocka_unit_test(freed_pages_do_not_travel),
        cmocka_unit_test(damaged_page_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
