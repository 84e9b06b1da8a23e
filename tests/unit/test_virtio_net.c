/* virtio-net over a socket pair: the test is guest on one side and network on the other. */
#include "base/clock.h"
#include "dev/virtio_net.h"
#include "virtio_driver.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define BIT(n) (UINT64_C(1) << (n))
#define BUFS 0x200000u
#define BUF(i) (BUFS + (uint64_t)(i)*4096)
#define TX_DATA 0x800000u
#define HEADER 12u

enum { RX, TX, CTRL };

static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
static struct mem mem;
static struct loop loop;
static struct driver d;
static int wire, near_end; /* the network's end, the device's end */

static struct dev *make(int fd)
{
    struct dev *dev;
    struct err err = { 0 };
    assert_int_equal(virtio_net_create(&dev, 2, &mem, &loop, fd, mac, &err), 0);
    return dev;
}

static int setup(void **state)
{
    struct err err = { 0 };
    int pair[2];
    (void)state;
    assert_int_equal(mem_init(&mem, DRIVER_MEM_BYTES, MEM_PAGES_SMALL, &err), 0);
    assert_int_equal(loop_init(&loop), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair), 0);
    wire = pair[0];
    near_end = pair[1];
    d = (struct driver){ .dev = make(pair[1]), .mem = &mem, .loop = &loop };
    d.dev->ops->resume(d.dev);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->free(d.dev);
    if (wire >= 0)
        (void)close(wire);
    loop_fini(&loop);
    mem_fini(&mem);
    return 0;
}

static uint8_t pattern(size_t seed, size_t i)
{
    return (uint8_t)(seed * 31 + i * 7 + i / 256);
}

/* The network sends a frame of `len` bytes to the guest. */
static bool wire_send(size_t seed, size_t len)
{
    static uint8_t frame[HEADER + 65550];
    memset(frame, 0xff, HEADER); /* what a peer puts there must not reach the guest */
    for (size_t i = 0; i < len; i++)
        frame[HEADER + i] = pattern(seed, i);
    return send(wire, frame, HEADER + len, 0) == (ssize_t)(HEADER + len);
}

static void post(unsigned i, uint32_t len)
{
    memset(driver_mem(&d, BUF(i)), 0xee, len);
    driver_submit(&d, RX, &(struct driver_seg){ BUF(i), len, true }, 1);
}

/* Checks the next received frame over `buffers` buffers of `size` bytes, from number `i` on. */
static void expect_frame(size_t seed, size_t len, unsigned i, unsigned buffers, uint32_t size)
{
    size_t at = 0;
    for (unsigned b = 0; b < buffers; b++) {
        uint32_t used;
        (void)driver_used(&d, RX, &used);
        assert_int_equal(used, MIN(size, (uint32_t)(HEADER + len - at)));
        const uint8_t *bytes = driver_mem(&d, BUF(i + b));
        for (uint32_t k = 0; k < used; k++, at++) {
            uint8_t want = at == 10 ? (uint8_t)buffers : 0;
            if (at >= HEADER)
                want = pattern(seed, at - HEADER);
            if (bytes[k] != want)
                fail_msg("buffer %u byte %u is 0x%x, not 0x%x", b, k, bytes[k], want);
        }
    }
    assert_int_equal(at, HEADER + len);
}

static void test_configuration(void **state)
{
    (void)state;
    uint8_t got[6];
    for (unsigned i = 0; i < 6; i++)
        d.dev->ops->read(d.dev, VIRTIO_MMIO_CONFIG + i, &got[i], 1);
    assert_memory_equal(got, mac, 6);
    uint16_t status = 0;
    d.dev->ops->read(d.dev, VIRTIO_MMIO_CONFIG + 6, &status, 2);
    assert_int_equal(status, VIRTIO_NET_S_LINK_UP);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_DEVICE_ID), 1);
    /* Offloads need a tap that can be told of them. */
    assert_false(driver_offered(&d) & (BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_CSUM)));
}

static void test_receive(void **state)
{
    (void)state;
    driver_start(&d, BIT(VIRTIO_RING_F_EVENT_IDX), 64);
    for (unsigned i = 0; i < 4; i++)
        post(i, 2048);
    driver_kick(&d, RX);
    for (unsigned i = 0; i < 4; i++)
        assert_true(wire_send(i, 60 + i));
    driver_wait(&d, RX, 4);
    for (unsigned i = 0; i < 4; i++)
        expect_frame(i, 60 + i, i, 1, 2048);
    assert_true(driver_interrupts(&d) > 0);
}

static void test_frame_over_merged_buffers(void **state)
{
    (void)state;
    driver_start(&d, BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_NET_F_MRG_RXBUF), 64);
    for (unsigned i = 0; i < 60; i++)
        post(i, 1500);
    driver_kick(&d, RX);
    assert_true(wire_send(1, 1488)); /* exactly one buffer */
    assert_true(wire_send(2, 1489)); /* one byte more */
    assert_true(wire_send(3, 65000));
    driver_wait(&d, RX, 47);
    expect_frame(1, 1488, 0, 1, 1500);
    expect_frame(2, 1489, 1, 2, 1500);
    expect_frame(3, 65000, 3, 44, 1500);
}

static void test_header_over_two_buffers(void **state)
{
    (void)state;
    driver_start(&d, BIT(VIRTIO_NET_F_MRG_RXBUF), 64);
    /* The first chain's segments part num_buffers in the middle. */
    driver_submit(&d, RX, (struct driver_seg[]){ { BUF(0), 11, true }, { BUF(0) + 11, 89, true } },
                  2);
    post(1, 100);
    assert_true(wire_send(1, 100));
    driver_kick(&d, RX);
    driver_wait(&d, RX, 2);
    expect_frame(1, 100, 0, 2, 100);
}

static void test_frame_waits_for_buffers(void **state)
{
    (void)state;
    driver_start(&d, BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_NET_F_MRG_RXBUF), 64);
    post(0, 1000);
    post(1, 1000);
    driver_kick(&d, RX);
    assert_true(wire_send(1, 2500));
    assert_true(wire_send(2, 100));
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, RX), 0); /* never a part of a frame */
    struct virtq *q = &virtio_dev_of(d.dev)->queue[RX];
    assert_int_equal(q->next_avail, 0);
    const uint16_t *avail_event = driver_mem(&d, d.queue[RX].used_gpa + 4 + 64 * 8);
    assert_int_equal(*avail_event, 2); /* it waits for the third buffer, not turning over the two */
    post(2, 1000);
    post(3, 1000);
    driver_kick(&d, RX);
    driver_wait(&d, RX, 4);
    expect_frame(1, 2500, 0, 3, 1000);
    expect_frame(2, 100, 3, 1, 1000);
}

static void test_frame_too_large_is_dropped(void **state)
{
    (void)state;
    driver_start(&d, 0, 64); /* not merged */
    post(0, 500);
    driver_kick(&d, RX);
    assert_true(wire_send(1, 600));
    assert_true(wire_send(2, 400));
    driver_wait(&d, RX, 1);
    expect_frame(2, 400, 0, 1, 500);
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, RX), 0);
    assert_int_equal(driver_count(&d, "received_frames"), 1);
    assert_int_equal(driver_count(&d, "received_bytes"), 400);
    assert_int_equal(driver_count(&d, "received_dropped_frames"), 1);
    assert_true(wire_send(3, 100)); /* held for want of a buffer, and then the driver goes */
    driver_settle(&d);
    driver_start(&d, 0, 64);
    assert_int_equal(driver_count(&d, "received_frames"), 1);
    assert_int_equal(driver_count(&d, "received_dropped_frames"), 2);
}

static void test_driver_without_a_receive_queue(void **state)
{
    (void)state;
    assert_true(driver_negotiate(&d, 0) & VIRTIO_CONFIG_S_FEATURES_OK);
    driver_ready(&d);
    assert_true(wire_send(1, 100));
    driver_settle(&d); /* ends only when no source stays ready */
    driver_start(&d, 0, 64);
    post(0, 500);
    driver_kick(&d, RX);
    driver_wait(&d, RX, 1);
    expect_frame(1, 100, 0, 1, 500);
}

static void test_runts_are_dropped(void **state)
{
    (void)state;
    driver_start(&d, 0, 64);
    post(0, 500);
    driver_kick(&d, RX);
    assert_int_equal(send(wire, "x", 1, 0), 1);
    assert_true(wire_send(2, 60));
    driver_wait(&d, RX, 1);
    expect_frame(2, 60, 0, 1, 500);
}

static ssize_t wire_receive(uint8_t *frame, size_t size)
{
    return recv(wire, frame, size, MSG_DONTWAIT);
}

static void send_frame(const void *frame, size_t len)
{
    memset(driver_mem(&d, TX_DATA), 0, HEADER);
    memcpy(driver_mem(&d, TX_DATA + 0x1000), frame, len);
    driver_submit(&d, TX,
                  (struct driver_seg[]){ { TX_DATA, HEADER, false },
                                         { TX_DATA + 0x1000, (uint32_t)len, false } },
                  2);
    driver_kick(&d, TX);
    driver_wait(&d, TX, 1);
    (void)driver_used(&d, TX, NULL);
}

static void test_transmit(void **state)
{
    (void)state;
    uint8_t frame[2048], sent[200];
    driver_start(&d, BIT(VIRTIO_RING_F_EVENT_IDX), 64);
    for (size_t i = 0; i < sizeof(sent); i++)
        sent[i] = pattern(9, i);
    send_frame(sent, sizeof(sent));
    assert_int_equal(wire_receive(frame, sizeof(frame)), HEADER + sizeof(sent));
    assert_memory_equal(frame + HEADER, sent, sizeof(sent));
    /* No frame at all, and one beyond any size: answered, and nothing on the wire. */
    driver_submit(&d, TX, &(struct driver_seg){ TX_DATA, HEADER, false }, 1);
    driver_submit(&d, TX, &(struct driver_seg){ TX_DATA, 5, false }, 1);
    driver_submit(&d, TX, &(struct driver_seg){ TX_DATA, 1 << 20, false }, 1);
    driver_submit(&d, TX, &(struct driver_seg){ TX_DATA, 100, true }, 1);
    driver_kick(&d, TX);
    driver_wait(&d, TX, 4);
    assert_int_equal(wire_receive(frame, sizeof(frame)), -1);
    assert_int_equal(driver_count(&d, "sent_frames"), 1);
    assert_int_equal(driver_count(&d, "sent_bytes"), sizeof(sent));
    assert_int_equal(driver_count(&d, "sent_dropped_frames"), 4);
}

static void test_transmit_waits_for_room(void **state)
{
    (void)state;
    uint8_t frame[2048];
    driver_start(&d, BIT(VIRTIO_RING_F_EVENT_IDX), 256);
    for (unsigned i = 0; i < 200; i++) {
        memset(driver_mem(&d, TX_DATA + i * 2048), 0, HEADER);
        memset(driver_mem(&d, TX_DATA + i * 2048 + HEADER), (int)i, 1000);
        driver_submit(&d, TX, &(struct driver_seg){ TX_DATA + i * 2048, HEADER + 1000, false }, 1);
    }
    driver_kick(&d, TX);
    driver_settle(&d);
    assert_true(driver_used_waiting(&d, TX) < 200); /* the socket holds less */
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->resume(d.dev);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t deadline_ns = clock_now_ns() + 5 * CLOCK_SECOND;
        while (wire_receive(frame, sizeof(frame)) != HEADER + 1000) {
            assert_true(clock_now_ns() < deadline_ns);
            assert_int_equal(loop_once(&loop, 10), 0);
        }
        assert_int_equal(frame[HEADER], i);
    }
    driver_wait(&d, TX, 200);
    assert_int_equal(driver_count(&d, "sent_frames"),
                     200); /* each once, however often it was tried */
    assert_int_equal(driver_count(&d, "sent_bytes"), 200 * 1000);
}

static uint8_t control(uint8_t class, uint8_t cmd, uint32_t header_len)
{
    uint8_t *header = driver_mem(&d, TX_DATA), *ack = driver_mem(&d, TX_DATA + 0x1000);
    header[0] = class;
    header[1] = cmd;
    *ack = 0xee;
    driver_submit(&d, CTRL,
                  (struct driver_seg[]){ { TX_DATA, header_len, false },
                                         { TX_DATA + 0x1000, 1, true } },
                  2);
    driver_kick(&d, CTRL);
    driver_wait(&d, CTRL, 1);
    (void)driver_used(&d, CTRL, NULL);
    return *ack;
}

static uint16_t status(void)
{
    uint16_t value;
    d.dev->ops->read(d.dev, VIRTIO_MMIO_CONFIG + 6, &value, 2);
    return value;
}

static void test_guest_announce(void **state)
{
    (void)state;
    uint64_t features =
        BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_STATUS);
    driver_start(&d, features, 64);
    (void)driver_interrupts(&d);
    uint32_t generation = driver_read32(&d, VIRTIO_MMIO_CONFIG_GENERATION);
    d.dev->ops->announce(d.dev);
    assert_int_equal(status(), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(driver_interrupts(&d), 1);
    assert_int_not_equal(driver_read32(&d, VIRTIO_MMIO_CONFIG_GENERATION), generation);

    assert_int_equal(control(VIRTIO_NET_CTRL_MQ, 0, 2), VIRTIO_NET_ERR);
    assert_int_equal(control(VIRTIO_NET_CTRL_ANNOUNCE, 1, 2), VIRTIO_NET_ERR);
    assert_int_equal(control(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, 1), 0xee);
    assert_int_equal(status(), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    assert_int_equal(control(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, 2),
                     VIRTIO_NET_OK);
    assert_int_equal(status(), VIRTIO_NET_S_LINK_UP);

    driver_start(&d, 0, 64); /* a driver that does not know how is not asked to */
    d.dev->ops->announce(d.dev);
    assert_int_equal(status(), VIRTIO_NET_S_LINK_UP);
}

/* Counts announcement frames by kind: waits for so many of the first kind, then a while for too
 * many. */
static void count_announcements(unsigned counts[3], unsigned expected)
{
    uint8_t frame[256];
    counts[0] = counts[1] = counts[2] = 0;
    uint64_t until_ns = clock_now_ns() + 10 * CLOCK_SECOND;
    bool enough = false;
    while (clock_now_ns() < until_ns) {
        if (!enough && counts[0] >= expected) {
            enough = true;
            until_ns = clock_now_ns() + 600 * CLOCK_MSEC;
        }
        assert_int_equal(loop_once(&loop, 20), 0);
        for (ssize_t n; (n = wire_receive(frame, sizeof(frame))) > 0;) {
            assert_memory_equal(frame + HEADER + 6, mac, 6);
            counts[0] += n == HEADER + 60 && frame[HEADER + 12] == 0x80;
            counts[1] += n == HEADER + 60 && frame[HEADER + 13] == 0x06;
            counts[2] += n == HEADER + 86;
        }
    }
}

static void test_announcement_rounds_survive_the_move(void **state)
{
    (void)state;
    static const uint8_t ip4[4] = { 10, 1, 2, 3 }, ip6[16] = { 0xfe, 0x80, [15] = 5 };
    uint8_t frame[ANNOUNCE_FRAME_MAX];
    struct err err = { 0 };
    unsigned counts[3];
    driver_start(&d, 0, 64);
    size_t len = announce_arp(frame, mac, ip4);
    send_frame(frame, len);
    len = announce_na(frame, mac, ip6, false);
    send_frame(frame, len);
    while (wire_receive(frame, sizeof(frame)) > 0)
        ;

    /* The addresses go along; the frames come from the target, when it runs. */
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair), 0);
    struct dev *target = make(pair[1]);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    assert_int_equal(driver_transplant(d.dev, target, &err), 0);
    d.dev->ops->free(d.dev);
    d.dev = target;
    (void)close(wire);
    wire = pair[0];
    target->ops->announce(target);
    driver_settle(&d);
    assert_int_equal(wire_receive(frame, sizeof(frame)), -1);
    target->ops->resume(target);
    count_announcements(counts, 5);
    assert_int_equal(counts[0], 5);
    assert_int_equal(counts[1], 5);
    assert_int_equal(counts[2], 5);
}

static void test_pause_ends_announcements(void **state)
{
    (void)state;
    unsigned counts[3];
    driver_start(&d, 0, 64);
    d.dev->ops->announce(d.dev);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    count_announcements(counts, 1);
    assert_int_equal(counts[0], 1);
    d.dev->ops->resume(d.dev);
    count_announcements(counts, 0);
    assert_int_equal(counts[0], 0);
}

static void test_nothing_is_read_while_paused(void **state)
{
    (void)state;
    struct err err = { 0 };
    driver_start(&d, BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_NET_F_MRG_RXBUF), 64);
    for (unsigned i = 0; i < 10; i++)
        post(i, 1000);
    driver_kick(&d, RX);
    assert_true(wire_send(1, 100));
    driver_wait(&d, RX, 1);
    expect_frame(1, 100, 0, 1, 1000);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    for (unsigned i = 0; i < 5; i++)
        assert_true(wire_send(10 + i, 100));
    driver_kick(&d, RX);
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, RX), 0);

    /* They wait on the wire for the target, which is given the same socket as a tap may be. */
    struct dev *target = make(dup(near_end));
    assert_int_equal(driver_transplant(d.dev, target, &err), 0);
    d.dev->ops->free(d.dev);
    d.dev = target;
    target->ops->resume(target);
    driver_wait(&d, RX, 5);
    for (unsigned i = 0; i < 5; i++)
        expect_frame(10 + i, 100, 1 + i, 1, 1000);
}

static void test_lost_wire_does_not_spin(void **state)
{
    (void)state;
    int pair[2]; /* of a kind that says so when its peer is gone */
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->free(d.dev);
    (void)close(wire);
    wire = pair[0];
    d.dev = make(pair[1]);
    d.dev->ops->resume(d.dev);
    driver_start(&d, 0, 64);
    post(0, 1000);
    driver_kick(&d, RX);
    driver_settle(&d);
    (void)close(wire);
    wire = -1;
    driver_settle(&d); /* ends only when no source stays ready */
    uint8_t frame[60] = { 0 };
    send_frame(frame, sizeof(frame)); /* lost, but answered */
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->resume(d.dev);
    driver_settle(&d);
}

static void test_all_that_is_written_is_marked(void **state)
{
    (void)state;
    struct driver_track track;
    driver_start(&d, BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ), 64);
    for (unsigned i = 0; i < 5; i++)
        post(i, 4000);
    uint8_t *frame = driver_mem(&d, TX_DATA + 0x3000);
    memset(frame, 1, 100);
    driver_submit(&d, TX, &(struct driver_seg){ TX_DATA + 0x3000, 100, false }, 1);
    driver_submit(&d, CTRL,
                  (struct driver_seg[]){ { TX_DATA, 2, false }, { TX_DATA + 0x1000, 1, true } }, 2);
    *(uint8_t *)driver_mem(&d, TX_DATA + 0x1000) = 0xee;
    driver_track(&d, &track);
    assert_true(wire_send(1, 15000));
    for (unsigned queue = RX; queue <= CTRL; queue++)
        driver_kick(&d, queue);
    driver_wait(&d, RX, 4);
    driver_wait(&d, TX, 1);
    driver_wait(&d, CTRL, 1);
    driver_check_marks(&d, &track);
}

static void test_hostile_rings(void **state)
{
    (void)state;
    for (unsigned queue = RX; queue <= CTRL; queue++) {
        driver_start(&d, BIT(VIRTIO_NET_F_MRG_RXBUF), 64);
        if (queue == RX) /* a good buffer before the bad one: the frame needs both */
            post(0, 100);
        uint16_t head = d.queue[queue].next_desc;
        driver_desc(&d, queue, head, MEM_MIN_BYTES - 1, 100, queue == RX ? VRING_DESC_F_WRITE : 0,
                    0);
        driver_offer(&d, queue, head);
        assert_true(wire_send(1, 1000));
        driver_kick(&d, queue);
        driver_settle(&d);
        assert_true(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
        assert_int_equal(driver_used_waiting(&d, queue), 0);
        uint8_t drain[2048];
        while (wire_receive(drain, sizeof(drain)) > 0)
            ;
    }
    /* Buffers without a writable byte, and more of them than a frame may use. */
    driver_start(&d, BIT(VIRTIO_NET_F_MRG_RXBUF), 256);
    for (unsigned i = 0; i < 200; i++)
        driver_submit(&d, RX, &(struct driver_seg){ BUF(0), 16, i % 2 }, 1);
    assert_true(wire_send(1, 1400));
    driver_kick(&d, RX);
    driver_settle(&d);
    assert_int_equal(virtio_dev_of(d.dev)->queue[RX].in_flight, 0);
}

static void test_state_of_another_is_refused(void **state)
{
    (void)state;
    struct virtio_net_state saved, bad;
    struct err err = { 0 };
    driver_start(&d, 0, 64);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->save(d.dev, &saved);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct dev *target = make(fd);
    bad = saved;
    bad.mac[0] ^= 2;
    assert_true(target->ops->load(target, &bad, &err) < 0);
    bad = saved;
    bad.link = 4;
    assert_true(target->ops->load(target, &bad, &err) < 0);
    bad = saved;
    bad.known[0].router = 2;
    assert_true(target->ops->load(target, &bad, &err) < 0);
    bad = saved;
    bad.known_count = 0;
    assert_true(target->ops->load(target, &bad, &err) < 0);
    assert_int_equal(target->ops->load(target, &saved, &err), 0);
    target->ops->free(target);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_configuration),
        CASE(test_receive),
        CASE(test_frame_over_merged_buffers),
        CASE(test_header_over_two_buffers),
        CASE(test_frame_waits_for_buffers),
        CASE(test_frame_too_large_is_dropped),
        CASE(test_driver_without_a_receive_queue),
        CASE(test_runts_are_dropped),
        CASE(test_transmit),
        CASE(test_transmit_waits_for_room),
        CASE(test_guest_announce),
        CASE(test_announcement_rounds_survive_the_move),
        CASE(test_pause_ends_announcements),
        CASE(test_nothing_is_read_while_paused),
        CASE(test_lost_wire_does_not_spin),
        CASE(test_all_that_is_written_is_marked),
        CASE(test_hostile_rings),
        CASE(test_state_of_another_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
