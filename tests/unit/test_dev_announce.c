#include "dev/announce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t mac[6] = { 0x52, 0x54, 0x00, 0xab, 0xcd, 0xef };
static const uint8_t ip4[4] = { 192, 0, 2, 7 };
static const uint8_t ip6[16] = { 0x20, 0x01, 0x0d, 0xb8, [15] = 0x42 };

static void test_rarp(void **state)
{
    uint8_t frame[ANNOUNCE_FRAME_MAX];
    static const uint8_t expected[60] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0xab, 0xcd, 0xef,
        0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 6,    4,    0x00, 0x03, /* Ethernet, IPv4, request reverse */
        0x52, 0x54, 0x00, 0xab, 0xcd, 0xef, 0,    0,    0,    0, /* sender */
        0x52, 0x54, 0x00, 0xab, 0xcd, 0xef, 0,    0,    0,    0, /* target: itself */
    };
    (void)state;
    memset(frame, 0xee, sizeof(frame));
    assert_int_equal(announce_rarp(frame, mac), 60);
    assert_memory_equal(frame, expected, 60);
}

static void test_arp(void **state)
{
    uint8_t frame[ANNOUNCE_FRAME_MAX];
    static const uint8_t expected[60] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0xab, 0xcd,
        0xef, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6,    4,    0x00, 0x01, /* request */
        0x52, 0x54, 0x00, 0xab, 0xcd, 0xef, 192,  0,    2,    7,    0,
        0,    0,    0,    0,    0,    192,  0,    2,    7,
    };
    (void)state;
    memset(frame, 0xee, sizeof(frame));
    assert_int_equal(announce_arp(frame, mac, ip4), 60);
    assert_memory_equal(frame, expected, 60);
}

static void test_na(void **state)
{
    uint8_t frame[ANNOUNCE_FRAME_MAX];
    /* The checksum was worked out apart from this code, from RFC 8200, 8.1, and RFC 1071. */
    static const uint8_t expected[86] = {
        0x33, 0x33, 0x00, 0x00, 0x00, 0x01, 0x52, 0x54, 0x00, 0xab, 0xcd, 0xef, 0x86,
        0xdd, 0x60, 0,    0,    0,    0,    32,   58,   255,  0x20, 0x01, 0x0d, 0xb8,
        0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0x42, 0xff,
        0x02, 0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
        0,    0x01, 136,  0,    0x00, 0x00, 0x20, 0,    0,    0, /* override, not solicited */
        0x20, 0x01, 0x0d, 0xb8, 0,    0,    0,    0,    0,    0,    0,    0,    0,
        0,    0,    0x42, 2,    1,    0x52, 0x54, 0x00, 0xab, 0xcd, 0xef,
    };
    (void)state;
    memset(frame, 0xee, sizeof(frame));
    assert_int_equal(announce_na(frame, mac, ip6, false), 86);
    assert_int_equal(frame[56] << 8 | frame[57], 0xd9ba);
    frame[56] = frame[57] = 0;
    assert_memory_equal(frame, expected, 86);
    assert_int_equal(announce_na(frame, mac, ip6, true), 86);
    assert_int_equal(frame[58], 0xa0);
    assert_int_equal(frame[56] << 8 | frame[57], 0x59ba);
}

static void test_learns_from_arp(void **state)
{
    struct announce_state s = { 0 };
    uint8_t frame[ANNOUNCE_FRAME_MAX], other[6] = { 2, 0, 0, 0, 0, 1 };
    (void)state;
    size_t len = announce_arp(frame, mac, ip4);
    assert_true(announce_wants(frame, 21));
    announce_snoop(&s, mac, frame, len);
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.ip4_count, 1);
    assert_memory_equal(s.ip4[0].address, ip4, 4);

    /* Not its own: another sender in the frame or in the ARP, a probe (sender 0.0.0.0), RARP. */
    uint8_t b[4] = { 192, 0, 2, 8 }, zero[4] = { 0 }, all[4] = { 255, 255, 255, 255 };
    len = announce_arp(frame, other, b);
    announce_snoop(&s, mac, frame, len);
    memcpy(frame + 6, mac, 6);
    announce_snoop(&s, mac, frame, len);
    len = announce_arp(frame, mac, zero);
    announce_snoop(&s, mac, frame, len);
    len = announce_arp(frame, mac, all);
    announce_snoop(&s, mac, frame, len);
    len = announce_rarp(frame, mac);
    assert_false(announce_wants(frame, len));
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.ip4_count, 1);

    len = announce_arp(frame, mac, b);
    frame[21] = 2; /* a reply */
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.ip4_count, 2);
}

static void test_oldest_address_gives_way(void **state)
{
    struct announce_state s = { 0 };
    uint8_t frame[ANNOUNCE_FRAME_MAX];
    (void)state;
    for (unsigned i = 1; i <= ANNOUNCE_ADDRESSES + 3; i++) {
        uint8_t a[4] = { 10, 0, 0, (uint8_t)i };
        size_t len = announce_arp(frame, mac, a);
        announce_snoop(&s, mac, frame, len);
    }
    assert_int_equal(s.ip4_count, ANNOUNCE_ADDRESSES);
    assert_int_equal(s.ip4[0].address[3], 4);
    assert_int_equal(s.ip4[ANNOUNCE_ADDRESSES - 1].address[3], ANNOUNCE_ADDRESSES + 3);
}

static void test_learns_from_neighbour_discovery(void **state)
{
    struct announce_state s = { 0 };
    uint8_t frame[ANNOUNCE_FRAME_MAX], none[16] = { 0 };
    (void)state;
    size_t len = announce_na(frame, mac, ip6, true);
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.ip6_count, 1);
    assert_memory_equal(s.ip6[0].address, ip6, 16);
    assert_int_equal(s.router, 1);
    len = announce_na(frame, mac, ip6, false);
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.router, 0);

    frame[54] = 134; /* a router advertisement */
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.router, 1);
    assert_int_equal(s.ip6_count, 1);

    /* A solicitation counts by its source, and not while it is a test for duplicates. */
    uint8_t second[16] = { 0xfe, 0x80, [15] = 9 };
    len = announce_na(frame, mac, ip6, false);
    frame[54] = 135;
    memcpy(frame + 22, none, 16);
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.ip6_count, 1);
    memcpy(frame + 22, second, 16);
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.ip6_count, 2);
    assert_memory_equal(s.ip6[1].address, second, 16);

    /* Forwarded (hop limit), multicast target, other types. */
    second[15]++;
    len = announce_na(frame, mac, second, false);
    frame[21] = 254;
    announce_snoop(&s, mac, frame, len);
    second[0] = 0xff;
    len = announce_na(frame, mac, second, false);
    announce_snoop(&s, mac, frame, len);
    frame[54] = 128;
    announce_snoop(&s, mac, frame, len);
    assert_int_equal(s.ip6_count, 2);
}

static void test_routed_packets_teach_nothing(void **state)
{
    struct announce_state s = { 0 }, empty = { 0 };
    uint8_t frame[ANNOUNCE_FRAME_MAX] = { 0 };
    (void)state;
    memcpy(frame + 6, mac, 6);
    frame[12] = 0x08; /* IPv4 from 8.8.8.8 */
    frame[14] = 0x45;
    memset(frame + 26, 8, 4);
    assert_false(announce_wants(frame, sizeof(frame)));
    announce_snoop(&s, mac, frame, sizeof(frame));
    assert_memory_equal(&s, &empty, sizeof(s));
}

/* Each length in a buffer of exactly that length, so that a sanitizer sees any step beyond. */
static void test_frames_cut_short(void **state)
{
    uint8_t frame[ANNOUNCE_FRAME_MAX];
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        size_t whole = kind ? announce_na(frame, mac, ip6, false) : announce_arp(frame, mac, ip4);
        size_t enough = kind ? 14 + 40 + 24 : 14 + 28;
        for (size_t len = 0; len <= whole; len++) {
            struct announce_state s = { 0 };
            uint8_t *copy = malloc(len ? len : 1);
            assert_non_null(copy);
            memcpy(copy, frame, len);
            announce_snoop(&s, mac, copy, len);
            assert_int_equal(s.ip4_count + s.ip6_count, len >= enough);
            free(copy);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rarp),
        cmocka_unit_test(test_arp),
        cmocka_unit_test(test_na),
        cmocka_unit_test(test_learns_from_arp),
        cmocka_unit_test(test_oldest_address_gives_way),
        cmocka_unit_test(test_learns_from_neighbour_discovery),
        cmocka_unit_test(test_routed_packets_teach_nothing),
        cmocka_unit_test(test_frames_cut_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
