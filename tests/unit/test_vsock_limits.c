/* virtio-vsock: credit, limits, and a guest that breaks the rules. */
#include "vsock_guest.h"

/* Neither side gets more than it has room for. */
static void test_credit_towards_the_host(void **state)
{
    (void)state;
    static uint8_t bytes[VSOCK_BUFFER_BYTES];
    struct packet p;
    uint32_t port, sent = 0;
    int fd = open_from_host(&port), size = 4096;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
    const struct vsock_conn *conn = vsock_conn_find(device(), GUEST_PORT, port);
    assert_int_equal(setsockopt(conn->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);

    /* The host program reads nothing: what its socket does not take is held, up to the credit. */
    send_data(GUEST_PORT, port, bytes, 60000);
    sent += 60000;
    driver_settle(&d);
    uint32_t held = conn->received - conn->passed;
    assert_true(held > 0 && held < 60000);
    uint32_t room = VSOCK_BUFFER_BYTES - held;
    send_data(GUEST_PORT, port, bytes, room);
    sent += room;
    driver_settle(&d);
    assert_true(conn->received - conn->passed <= VSOCK_BUFFER_BYTES);

    /* It reads all: the bytes are those, in order, and the guest is told. */
    uint32_t got = 0;
    bool told = false;
    while (got < sent) {
        uint8_t part[8192];
        ssize_t n = recv(fd, part, sizeof(part), MSG_DONTWAIT);
        for (ssize_t i = 0; i < n; i++, got++)
            if (part[i] != bytes[got < 60000 ? got : got - 60000])
                fail_msg("byte %u is wrong", got);
        driver_settle(&d);
        while (driver_used_waiting(&d, RX)) {
            expect(&p, VIRTIO_VSOCK_OP_CREDIT_UPDATE, port, GUEST_PORT);
            told = true;
        }
    }
    assert_true(told);
    assert_true(p.h.fwd_cnt > sent - VSOCK_BUFFER_BYTES);
    send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST, GUEST_PORT, port, 0);
    expect(&p, VIRTIO_VSOCK_OP_CREDIT_UPDATE, port, GUEST_PORT);
    assert_int_equal(p.h.fwd_cnt, sent);

    /* Beyond its credit: reset. */
    send_data(GUEST_PORT, port, bytes, sizeof(bytes));
    driver_settle(&d);
    assert_non_null(vsock_conn_find(device(), GUEST_PORT, port));
    send_data(GUEST_PORT, port, bytes, sizeof(bytes));
    expect(&p, VIRTIO_VSOCK_OP_RST, port, GUEST_PORT);
    assert_null(vsock_conn_find(device(), GUEST_PORT, port));
    (void)close(fd);
}

/* A slow host program gets every byte before the end, and the guest its RST only then. */
static void test_end_behind_held_bytes(void **state)
{
    (void)state;
    static char bytes[VSOCK_BUFFER_BYTES];
    uint32_t port;
    int fd = open_from_host(&port), size = 4096;
    const struct vsock_conn *conn = vsock_conn_find(device(), GUEST_PORT, port);
    assert_int_equal(setsockopt(conn->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    memset(bytes, 'x', sizeof(bytes));
    send_data(GUEST_PORT, port, bytes, sizeof(bytes));
    send_op(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, port, 3);
    expect_quiet();
    size_t got = 0;
    for (ssize_t n = 1; n != 0; driver_settle(&d)) {
        n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        assert_true(n >= 0 || errno == EAGAIN);
        got += n > 0 ? (size_t)n : 0;
    }
    assert_int_equal(got, sizeof(bytes));
    driver_wait(&d, RX, 1);
    const struct virtio_vsock_hdr *h = NULL;
    while (driver_used_waiting(&d, RX)) /* behind credit updates */
        h = driver_mem(&d, RX_BUF(driver_used(&d, RX, NULL)));
    assert_int_equal(h->op, VIRTIO_VSOCK_OP_RST);
    (void)close(fd);
}

static void test_credit_towards_the_guest(void **state)
{
    (void)state;
    struct packet p;
    uint32_t port, got = 0;
    int fd = open_from_host(&port);
    struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, port);
    h.buf_alloc = 10000;
    send_raw(&h, NULL, 0);
    static char bytes[30000];
    memset(bytes, 'x', sizeof(bytes));
    assert_int_equal(send(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    while (got < 10000) {
        expect(&p, VIRTIO_VSOCK_OP_RW, port, GUEST_PORT);
        got += p.h.len;
    }
    assert_int_equal(got, 10000);
    expect(&p, VIRTIO_VSOCK_OP_CREDIT_REQUEST, port, GUEST_PORT);
    expect_quiet();
    h.fwd_cnt = 10000;
    send_raw(&h, NULL, 0);
    while (got < 20000) {
        expect(&p, VIRTIO_VSOCK_OP_RW, port, GUEST_PORT);
        got += p.h.len;
    }
    expect(&p, VIRTIO_VSOCK_OP_CREDIT_REQUEST, port, GUEST_PORT);
    /* Nonsense (more read than was ever sent) gets nothing. */
    h.fwd_cnt = 4000000;
    send_raw(&h, NULL, 0);
    expect_quiet();
    (void)close(fd);
}

static void test_few_receive_buffers(void **state)
{
    (void)state;
    struct packet p;
    uint32_t port;
    int fd = open_from_host(&port);
    /* All buffers but none are used up; what the host says waits in its socket. */
    unsigned used = 0;
    for (; used < BUFS; used++) {
        host_say(fd, "x");
        driver_wait(&d, RX, (uint16_t)(used + 1));
    }
    host_say(fd, "waits");
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, RX), BUFS);
    for (unsigned i = 0; i < BUFS; i++)
        (void)driver_used(&d, RX, NULL);
    post_rx(1);
    expect(&p, VIRTIO_VSOCK_OP_RW, port, GUEST_PORT);
    assert_memory_equal(p.data, "waits", 5);
    (void)close(fd);
}

/* Packets that fit nothing are answered RST, and RST by nothing. */
static void test_unexpected_packets(void **state)
{
    (void)state;
    struct packet p;
    static const uint16_t ops[] = { 0, 2, 4, 5, 6, 7, 8, 999 };
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        send_op(ops[i], 1, 2, 0);
        expect(&p, VIRTIO_VSOCK_OP_RST, 2, 1);
        assert_int_equal(p.h.src_cid, 2);
    }
    send_op(VIRTIO_VSOCK_OP_RST, 1, 2, 0);
    struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, 1, 2);
    h.src_cid = CID + 1; /* not its own address: nobody could be answered */
    send_raw(&h, NULL, 0);
    send_raw(&h, NULL, 0);
    expect_quiet();
    h = header(VIRTIO_VSOCK_OP_REQUEST, 1, 2);
    h.dst_cid = 9;
    send_raw(&h, NULL, 0);
    expect(&p, VIRTIO_VSOCK_OP_RST, 2, 1);
    assert_int_equal(p.h.src_cid, 9);
    h = header(VIRTIO_VSOCK_OP_REQUEST, 1, 2);
    h.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
    send_raw(&h, NULL, 0);
    expect(&p, VIRTIO_VSOCK_OP_RST, 2, 1);
    assert_int_equal(p.h.type, VIRTIO_VSOCK_TYPE_SEQPACKET);

    /* Of a connection: a second REQUEST, an answer nobody waits for, more data than there are, data
     * after the end, unknown flags. Each ends it. */
    for (unsigned i = 0; i < 5; i++) {
        uint32_t port;
        int fd = open_from_host(&port);
        h = header(VIRTIO_VSOCK_OP_RW, GUEST_PORT, port);
        h.len = 4;
        if (i == 0)
            send_op(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, port, 0);
        else if (i == 1)
            send_op(VIRTIO_VSOCK_OP_RESPONSE, GUEST_PORT, port, 0);
        else if (i == 2)
            send_raw(&h, "abc", 3);
        else if (i == 4)
            send_op(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, port, 4);
        if (i == 3) {
            send_op(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, port, VIRTIO_VSOCK_SHUTDOWN_SEND);
            send_raw(&h, "abcd", 4);
        }
        expect(&p, VIRTIO_VSOCK_OP_RST, port, GUEST_PORT);
        expect_eof(&fd);
    }
    /* A header cut short. */
    driver_submit(&d, TX, &(struct driver_seg){ TX_BUF, 43, false }, 1);
    driver_kick(&d, TX);
    driver_wait(&d, TX, 1);
    (void)driver_used(&d, TX, NULL);
    expect_quiet();
    assert_true(virtio_mmio_live(virtio_dev_of(d.dev)));
}

/* A guest that provokes resets and takes none stops its own traffic. */
static void test_flood_without_buffers(void **state)
{
    (void)state;
    driver_start(&d, FEATURES, BUFS); /* again, without receive buffers */
    tx_next = 0;
    unsigned sent = 0;
    struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, 1, 2);
    memcpy(driver_mem(&d, TX_BUF), &h, sizeof(h));
    for (unsigned stuck = 0; sent < 1000 && stuck < 3;) {
        driver_submit(&d, TX, &(struct driver_seg){ TX_BUF, sizeof(h), false }, 1);
        driver_kick(&d, TX);
        driver_settle(&d);
        if (driver_used_waiting(&d, TX)) {
            (void)driver_used(&d, TX, NULL);
            sent++;
        } else {
            stuck++;
        }
    }
    assert_true(sent <= VSOCK_RESETS_MAX);
    /* Once it takes them, all goes on. */
    posted = 0;
    post_rx(BUFS);
    driver_wait(&d, TX, 3);
}

static void test_too_many_connections(void **state)
{
    (void)state;
    struct packet p;
    int listener = listen_at(VSOCK_SOCKET "_80"), fds[VSOCK_CONNS_MAX];
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        fds[i] = open_from_guest(listener, 10000 + i, 80);
    send_op(VIRTIO_VSOCK_OP_REQUEST, 9999, 80, 0);
    expect(&p, VIRTIO_VSOCK_OP_RST, 80, 9999);
    int waiting = host_connect(), own;
    host_say(waiting, "CONNECT 5000\n");
    expect_quiet();
    assert_int_equal(virtio_vsock_connect(d.dev, 700, &own), -ENFILE);
    /* One ends, and the client that waited has its turn. */
    send_op(VIRTIO_VSOCK_OP_RST, 10000, 80, 0);
    expect(&p, VIRTIO_VSOCK_OP_REQUEST, 1u << 30, GUEST_PORT);
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        (void)close(fds[i]);
    (void)close(waiting);
    (void)close(listener);
}

static void test_driver_resets_the_device(void **state)
{
    (void)state;
    uint32_t port;
    int fd = open_from_host(&port);
    begin_guest();
    expect_eof(&fd);
    expect_quiet();
    fd = open_from_host(&port);
    (void)close(fd);
}

static void test_broken_buffers(void **state)
{
    (void)state;
    driver_start(&d, FEATURES, BUFS);
    driver_submit(&d, RX, &(struct driver_seg){ RX_BUF(0), 44, true }, 1);
    driver_kick(&d, RX);
    tx_next = 0;
    send_op(VIRTIO_VSOCK_OP_RW, 1, 2, 0);
    driver_settle(&d);
    assert_true(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    begin_guest();
    assert_false(driver_read32(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    uint32_t port;
    int fd = open_from_host(&port);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        VSOCK_TEST(test_credit_towards_the_host),  VSOCK_TEST(test_end_behind_held_bytes),
        VSOCK_TEST(test_credit_towards_the_guest), VSOCK_TEST(test_few_receive_buffers),
        VSOCK_TEST(test_unexpected_packets),       VSOCK_TEST(test_flood_without_buffers),
        VSOCK_TEST(test_too_many_connections),     VSOCK_TEST(test_driver_resets_the_device),
        VSOCK_TEST(test_broken_buffers),
    };
    return cmocka_run_group_tests_name("vsock_limits", tests, NULL, NULL);
}
