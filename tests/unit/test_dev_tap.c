/*
 * tap_open() and virtio-net on a real tap, in a network namespace of this process's own: what the
 * host's stack and the guest see of each other's offloads.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "dev/tap.h"
#include "dev/virtio_net.h"
#include "virtio_driver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cmocka.h>

#define BIT(n) (UINT64_C(1) << (n))
#define OFFLOADS_IN \
    (BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6))
#define OFFLOADS_OUT \
    (BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6))
#define BUFS 0x200000u
#define TX_DATA 0x800000u
#define HEADER 12u
#define SKIP 77

enum { RX, TX };

static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
static struct mem mem;
static struct loop loop;
static struct driver d;
static int packets; /* sees all frames of the tap, as the network does */

static int interface_ioctl(unsigned long request, struct ifreq *ifr)
{
    CLEANUP_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd < 0 || ioctl(fd, request, ifr) < 0 ? -errno : 0;
}

static void set_flags(const char *name, short flags)
{
    struct ifreq ifr = { .ifr_flags = flags };
    (void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    assert_int_equal(interface_ioctl(SIOCSIFFLAGS, &ifr), 0);
}

static int tap_make(const char *name, short more_flags)
{
    CLEANUP_FD int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq ifr = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | more_flags) };
    (void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    return fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0 ? -errno : 0;
}

static int skip_reason(void)
{
    if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        return printf("skipped: no network namespace of our own: %s\n", strerror(errno));
    int rc = tap_make("probe0", 0);
    return rc ? printf("skipped: no tap can be made: %s\n", strerror(-rc)) : 0;
}

static int setup(void **state)
{
    struct err err = { 0 };
    int fd;
    (void)state;
    assert_int_equal(tap_make("tap0", 0), 0);
    struct ifreq ifr = { .ifr_name = "tap0" };
    struct sockaddr_in *address = (struct sockaddr_in *)(void *)&ifr.ifr_addr;
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(0x0a000001);
    assert_int_equal(interface_ioctl(SIOCSIFADDR, &ifr), 0);
    set_flags("tap0", IFF_UP);

    struct sockaddr_ll link = { .sll_family = AF_PACKET,
                                .sll_protocol = htons(ETH_P_ALL),
                                .sll_ifindex = (int)if_nametoindex("tap0") };
    packets = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(packets, (struct sockaddr *)(void *)&link, sizeof(link)), 0);

    assert_int_equal(mem_init(&mem, DRIVER_MEM_BYTES, MEM_PAGES_SMALL, &err), 0);
    assert_int_equal(loop_init(&loop), 0);
    if (tap_open("tap0", &fd, &err))
        fail_msg("%s", err.text);
    d = (struct driver){ .mem = &mem, .loop = &loop };
    assert_int_equal(virtio_net_create(&d.dev, 0, &mem, &loop, fd, mac, &err), 0);
    d.dev->ops->resume(d.dev);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->free(d.dev);
    (void)close(packets);
    loop_fini(&loop);
    mem_fini(&mem);
    CLEANUP_FD int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq ifr = { .ifr_name = "tap0", .ifr_flags = IFF_TAP | IFF_NO_PI };
    assert_int_equal(ioctl(fd, TUNSETIFF, &ifr) | ioctl(fd, TUNSETPERSIST, 0), 0);
    return 0;
}

/* One's complement sum over a UDP datagram and its pseudo-header: 0xffff when its checksum is
 * right. */
static unsigned udp_sum(const uint8_t *ip, size_t udp_len)
{
    uint32_t sum = (uint32_t)udp_len + IPPROTO_UDP;
    for (size_t i = 0; i < 8; i += 2)
        sum += (uint32_t)ip[12 + i] << 8 | ip[13 + i];
    for (size_t i = 0; i < udp_len; i += 2)
        sum += (uint32_t)ip[20 + i] << 8 | (i + 1 < udp_len ? ip[21 + i] : 0u);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void post_buffers(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        driver_submit(&d, RX, &(struct driver_seg){ BUFS + i * 4096, 4096, true }, 1);
    driver_kick(&d, RX);
}

/* Has the host's stack send UDP datagrams until the guest received one, and returns where. More
 * than one, since the stack drops them until it has noticed that someone attached to the tap. */
static const uint8_t *receive_udp(unsigned i)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(9),
                              .sin_addr.s_addr = htonl(0x0affffff) };
    CLEANUP_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char text[100] = "a datagram";
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &(int){ 1 }, sizeof(int)), 0);
    for (unsigned tries = 0; tries < 100; tries++) {
        assert_int_equal(sendto(fd, text, sizeof(text), 0, (struct sockaddr *)(void *)&to,
                                sizeof(to)),
                         sizeof(text));
        assert_int_equal(loop_once(&loop, 100), 0);
        driver_settle(&d);
        for (; driver_used_waiting(&d, RX); i++) { /* the stack's own multicasts may come between */
            (void)driver_used(&d, RX, NULL);
            const uint8_t *frame = driver_mem(&d, BUFS + i * 4096);
            if (frame[HEADER + 12] == 8 && frame[HEADER + 13] == 0 &&
                frame[HEADER + 14 + 9] == IPPROTO_UDP &&
                memcmp(frame + HEADER + 42, text, sizeof(text)) == 0)
                return frame;
        }
    }
    fail_msg("no datagram came");
    return NULL;
}

static void test_receive_offload_follows_the_driver(void **state)
{
    (void)state;
    assert_true((driver_offered(&d) & OFFLOADS_IN) == OFFLOADS_IN);
    driver_start(&d, 0, 64);
    post_buffers(40);
    const uint8_t *frame = receive_udp(0);
    assert_int_equal(frame[0], 0);
    assert_int_equal(frame[10], 1); /* num_buffers also when buffers are not merged */
    assert_int_equal(udp_sum(frame + HEADER + 14, 108), 0xffff);

    driver_start(&d, OFFLOADS_IN | BIT(VIRTIO_NET_F_MRG_RXBUF), 64);
    post_buffers(40);
    frame = receive_udp(0);
    assert_int_equal(frame[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_NEEDS_CSUM);

    /* The same on a fresh device that was given this state: the tap is told anew. */
    struct err err = { 0 };
    struct virtio_net_state saved;
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    d.dev->ops->save(d.dev, &saved);
    d.dev->ops->free(d.dev);
    int fd;
    assert_int_equal(tap_open("tap0", &fd, &err), 0);
    assert_int_equal(virtio_net_create(&d.dev, 0, &mem, &loop, fd, mac, &err), 0);
    assert_int_equal(d.dev->ops->load(d.dev, &saved, &err), 0);
    d.dev->ops->resume(d.dev);
    frame = receive_udp(d.queue[RX].seen_used);
    assert_int_equal(frame[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_NEEDS_CSUM);
}

/* A frame from the guest to another host, TCP over IPv4, its checksum left to the device. */
static size_t tcp_frame(uint8_t *frame, size_t payload, struct virtio_net_hdr *header)
{
    static const uint8_t other[6] = { 2, 0, 0, 0, 0, 9 };
    memset(frame, 0, 54);
    memcpy(frame, other, 6);
    memcpy(frame + 6, mac, 6);
    frame[12] = 8;
    uint8_t *ip = frame + 14, *tcp = ip + 20;
    size_t total = 40 + payload;
    ip[0] = 0x45;
    ip[2] = (uint8_t)(total >> 8);
    ip[3] = (uint8_t)total;
    ip[8] = 64;
    ip[9] = IPPROTO_TCP;
    memcpy(ip + 12, (uint8_t[]){ 10, 0, 0, 2, 10, 0, 0, 3 }, 8);
    tcp[12] = 5 << 4;
    memset(tcp + 20, 'x', payload);
    *header = (struct virtio_net_hdr){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16, .hdr_len = 54
    };
    return 54 + payload;
}

static ssize_t send_and_capture(const struct virtio_net_hdr *header, const uint8_t *frame,
                                size_t len, uint8_t *captured, size_t size)
{
    memset(driver_mem(&d, TX_DATA), 0, HEADER);
    memcpy(driver_mem(&d, TX_DATA), header, sizeof(*header));
    memcpy(driver_mem(&d, TX_DATA + 0x1000), frame, len);
    driver_submit(&d, TX,
                  (struct driver_seg[]){ { TX_DATA, HEADER, false },
                                         { TX_DATA + 0x1000, (uint32_t)len, false } },
                  2);
    driver_kick(&d, TX);
    driver_wait(&d, TX, 1);
    (void)driver_used(&d, TX, NULL);
    ssize_t n;
    do /* also passed over: what the host sends */
        n = recv(packets, captured, size, 0);
    while (n >= 12 && memcmp(captured + 6, mac, 6) != 0);
    return n;
}

static void test_transmit_offload(void **state)
{
    (void)state;
    static uint8_t frame[65536], captured[65536];
    struct virtio_net_hdr header;
    assert_true((driver_offered(&d) & OFFLOADS_OUT) == OFFLOADS_OUT);
    driver_start(&d, OFFLOADS_OUT, 64);
    size_t len = tcp_frame(frame, 100, &header);
    assert_int_equal(send_and_capture(&header, frame, len, captured, sizeof(captured)), len);

    len = tcp_frame(frame, 30000, &header); /* one frame of many segments */
    header.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    header.gso_size = 1448;
    assert_int_equal(send_and_capture(&header, frame, len, captured, sizeof(captured)), len);

    header.gso_type = 0x7f; /* nonsense: the tap refuses it, the device goes on */
    assert_int_equal(send_and_capture(&header, frame, len, captured, sizeof(captured)), -1);
    len = tcp_frame(frame, 60, &header);
    assert_int_equal(send_and_capture(&header, frame, len, captured, sizeof(captured)), len);
}

static void test_announcement_reaches_the_network(void **state)
{
    (void)state;
    uint8_t frame[256];
    driver_start(&d, 0, 64);
    d.dev->ops->announce(d.dev);
    const uint64_t deadline_ns = clock_now_ns() + 5 * CLOCK_SECOND;
    for (;;) {
        ssize_t n = recv(packets, frame, sizeof(frame), 0);
        if (n == 60 && frame[12] == 0x80 && frame[13] == 0x35 && memcmp(frame + 6, mac, 6) == 0)
            break;
        assert_true(clock_now_ns() < deadline_ns);
    }
}

static void test_interface_that_goes_away(void **state)
{
    (void)state;
    driver_start(&d, 0, 64);
    post_buffers(4);
    set_flags("tap0", 0);
    uint8_t frame[60] = { 0 }, captured[60];
    struct virtio_net_hdr none = { 0 };
    assert_int_equal(send_and_capture(&none, frame, sizeof(frame), captured, sizeof(captured)), -1);
    driver_settle(&d); /* does not spin */
    set_flags("tap0", IFF_UP);
    memcpy(frame + 6, mac, 6);
    while (recv(packets, captured, sizeof(captured), 0) >= 0 || errno == ENETDOWN)
        ;
    assert_int_equal(send_and_capture(&none, frame, sizeof(frame), captured, sizeof(captured)), 60);
}

static void refused(const char *name, const char *hint)
{
    struct err err = { 0 };
    int fd;
    assert_true(tap_open(name, &fd, &err) < 0);
    assert_int_equal(err.fault, ERR_CALLER);
    assert_non_null(strstr(err.text, name));
    if (!strstr(err.text, hint))
        fail_msg("\"%s\" does not say \"%s\"", err.text, hint);
}

static void test_open_says_what_to_do(void **state)
{
    (void)state;
    refused("nosuch0", "ip tuntap add");
    refused("", "1 to 15");
    refused("a-name-too-long-for-linux", "1 to 15");
    refused("probe0", "is down");
    set_flags("lo", IFF_UP);
    refused("lo", "is no tap");
    refused("tap0", "in use"); /* the device has it */
    assert_int_equal(tap_make("many0", IFF_MULTI_QUEUE), 0);
    set_flags("many0", IFF_UP);
    refused("many0", "multi_queue");
    assert_int_equal(if_nametoindex("nosuch0"), 0); /* asking did not make it */
}

int main(void)
{
    if (skip_reason())
        return SKIP;
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_receive_offload_follows_the_driver),
        CASE(test_transmit_offload),
        CASE(test_announcement_reaches_the_network),
        CASE(test_interface_that_goes_away),
        CASE(test_open_says_what_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
