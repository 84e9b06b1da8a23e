/* virtio-vsock: how connections begin and end, and what a move does to them. */
#include "vsock_guest.h"

static void test_configuration(void **state)
{
    (void)state;
    uint64_t cid = 0;
    d.dev->ops->read(d.dev, VIRTIO_MMIO_CONFIG, &cid, 8);
    assert_int_equal(cid, CID);
    assert_int_equal(driver_read32(&d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_VSOCK);
    assert_true(driver_offered(&d) & 1); /* streams */
    assert_false(driver_offered(&d) & BIT(VIRTIO_VSOCK_F_SEQPACKET));
}

static void test_host_connects(void **state)
{
    (void)state;
    struct packet p;
    char text[64];
    uint32_t port;
    int fd = open_from_host(&port);

    host_say(fd, "hello");
    expect(&p, VIRTIO_VSOCK_OP_RW, port, GUEST_PORT);
    assert_int_equal(p.h.len, 5);
    assert_memory_equal(p.data, "hello", 5);
    send_data(GUEST_PORT, port, "world", 5);
    assert_int_equal(host_read(fd, text, sizeof(text)), 5);
    assert_string_equal(text, "world");
    assert_int_equal(driver_count(&d, "received_bytes"), 5);
    assert_int_equal(driver_count(&d, "sent_bytes"), 5);

    /* The host program ends: SHUTDOWN in both directions, and the guest's RST frees it. */
    (void)close(fd);
    expect(&p, VIRTIO_VSOCK_OP_SHUTDOWN, port, GUEST_PORT);
    assert_int_equal(p.h.flags, 3);
    assert_non_null(vsock_conn_find(device(), GUEST_PORT, port));
    send_op(VIRTIO_VSOCK_OP_RST, GUEST_PORT, port, 0);
    expect_quiet();
    assert_null(vsock_conn_find(device(), GUEST_PORT, port));
}

static void test_bytes_behind_the_line_are_the_guests(void **state)
{
    (void)state;
    struct packet p;
    int fd = host_connect();
    host_say(fd, "CONN");
    driver_settle(&d);
    host_say(fd, "ECT 5000\nearly");
    expect(&p, VIRTIO_VSOCK_OP_REQUEST, 1u << 30, GUEST_PORT);
    expect_quiet();
    send_op(VIRTIO_VSOCK_OP_RESPONSE, GUEST_PORT, 1u << 30, 0);
    expect(&p, VIRTIO_VSOCK_OP_RW, 1u << 30, GUEST_PORT);
    assert_memory_equal(p.data, "early", 5);
    (void)close(fd);
}

static void test_refused_knocks(void **state)
{
    (void)state;
    static const char *const bad[] = { "CONNECT\n",
                                       "CONNECT 5000 \n",
                                       "connect 5000\n",
                                       "CONNECT -1\n",
                                       "CONNECT 4294967296\n",
                                       "\n",
                                       "CONNECT 0x10\n",
                                       "CONNECT 4294967295\n",
                                       "CONNECT \n",
                                       "CONNECT 00000000000000000000000000005\n" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int fd = host_connect();
        host_say(fd, bad[i]);
        driver_settle(&d);
        char c;
        ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);
        if (n != 0 && !(n < 0 && errno == ECONNRESET))
            fail_msg("'%s' was not refused", bad[i]);
        (void)close(fd);
    }
    expect_quiet();

    /* The guest refuses. */
    struct packet p;
    int fd = host_connect();
    host_say(fd, "CONNECT 5000\n");
    expect(&p, VIRTIO_VSOCK_OP_REQUEST, 1u << 30, GUEST_PORT);
    send_op(VIRTIO_VSOCK_OP_RST, GUEST_PORT, 1u << 30, 0);
    expect_eof(&fd);

    /* The guest does not answer, and a client says nothing. */
    fd = host_connect();
    int silent = host_connect();
    host_say(fd, "CONNECT 5000\n");
    expect(&p, VIRTIO_VSOCK_OP_REQUEST, (1u << 30) + 1, GUEST_PORT);
    pthread_mutex_lock(&device()->vd.lock);
    vsock_conn_expire(device(), clock_now_ns() + 60 * CLOCK_SECOND);
    pthread_mutex_unlock(&device()->vd.lock);
    expect_eof(&fd);
    expect_eof(&silent);
    expect(&p, VIRTIO_VSOCK_OP_RST, (1u << 30) + 1, GUEST_PORT);
    send_op(VIRTIO_VSOCK_OP_RESPONSE, GUEST_PORT, (1u << 30) + 1, 0); /* too late */
    expect(&p, VIRTIO_VSOCK_OP_RST, (1u << 30) + 1, GUEST_PORT);
}

static void test_guest_connects(void **state)
{
    (void)state;
    struct packet p;
    char text[64];
    int listener = listen_at(VSOCK_SOCKET "_80");
    int fd = open_from_guest(listener, 6000, 80);
    send_data(6000, 80, "ping", 4);
    assert_int_equal(host_read(fd, text, sizeof(text)), 4);
    assert_string_equal(text, "ping");
    host_say(fd, "pong");
    expect(&p, VIRTIO_VSOCK_OP_RW, 80, 6000);
    assert_memory_equal(p.data, "pong", 4);

    /* Half of it ends at a time, and the last byte arrives before the end. */
    send_data(6000, 80, "last", 4);
    send_op(VIRTIO_VSOCK_OP_SHUTDOWN, 6000, 80, VIRTIO_VSOCK_SHUTDOWN_SEND);
    assert_int_equal(host_read(fd, text, sizeof(text)), 4);
    assert_int_equal(host_read(fd, text, sizeof(text)), 0);
    host_say(fd, "still");
    expect(&p, VIRTIO_VSOCK_OP_RW, 80, 6000);
    send_op(VIRTIO_VSOCK_OP_SHUTDOWN, 6000, 80, VIRTIO_VSOCK_SHUTDOWN_RCV);
    expect(&p, VIRTIO_VSOCK_OP_RST, 80, 6000);
    assert_true(send(fd, "x", 1, MSG_NOSIGNAL) < 0);
    (void)close(fd);

    /* Nobody listens. */
    send_op(VIRTIO_VSOCK_OP_REQUEST, 6000, 81, 0);
    expect(&p, VIRTIO_VSOCK_OP_RST, 81, 6000);
    expect_quiet();
    (void)close(listener);
}

static void test_host_half_closes(void **state)
{
    (void)state;
    struct packet p;
    char text[64];
    uint32_t port;
    int fd = open_from_host(&port);
    host_say(fd, "end");
    (void)shutdown(fd, SHUT_WR);
    expect(&p, VIRTIO_VSOCK_OP_RW, port, GUEST_PORT);
    expect(&p, VIRTIO_VSOCK_OP_SHUTDOWN, port, GUEST_PORT);
    assert_int_equal(p.h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
    send_data(GUEST_PORT, port, "more", 4);
    assert_int_equal(host_read(fd, text, sizeof(text)), 4);
    (void)close(fd);
    expect(&p, VIRTIO_VSOCK_OP_SHUTDOWN, port, GUEST_PORT);
    assert_int_equal(p.h.flags, 3);
    send_op(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, port, 3);
    expect(&p, VIRTIO_VSOCK_OP_RST, port, GUEST_PORT);
    expect_quiet();
}

static void test_services_of_the_monitor(void **state)
{
    (void)state;
    struct packet p;
    char text[64];
    send_op(VIRTIO_VSOCK_OP_REQUEST, 1000, 900, 0);
    expect(&p, VIRTIO_VSOCK_OP_RESPONSE, 900, 1000);
    assert_true(service_fd >= 0);
    assert_int_equal(service_port, 1000);
    send_data(1000, 900, "job", 3);
    assert_int_equal(host_read(service_fd, text, sizeof(text)), 3);

    int fd;
    assert_int_equal(virtio_vsock_connect(d.dev, 700, &fd), 0);
    host_say(fd, "at once");
    expect(&p, VIRTIO_VSOCK_OP_REQUEST, 1u << 30, 700);
    expect_quiet();
    send_op(VIRTIO_VSOCK_OP_RESPONSE, 700, 1u << 30, 0);
    expect(&p, VIRTIO_VSOCK_OP_RW, 1u << 30, 700);
    assert_memory_equal(p.data, "at once", 7);
    assert_int_equal(host_read(fd, text, sizeof(text)), -1); /* no OK line for our own */
    (void)close(fd);

    driver_write32(&d, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(virtio_vsock_connect(d.dev, 700, &fd), -ENOTCONN);
}

static void test_pause_holds_everything(void **state)
{
    (void)state;
    struct packet p;
    char text[16];
    uint32_t port;
    int fd = open_from_host(&port);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    host_say(fd, "later");
    int client = host_connect();
    host_say(client, "CONNECT 5000\n");
    expect_quiet();
    d.dev->ops->resume(d.dev);
    expect(&p, VIRTIO_VSOCK_OP_RW, port, GUEST_PORT);
    expect(&p, VIRTIO_VSOCK_OP_REQUEST, port + 1, GUEST_PORT);
    send_data(GUEST_PORT, port, "ok", 2);
    assert_int_equal(host_read(fd, text, sizeof(text)), 2); /* it outlives a move that failed */
    (void)close(fd);
    (void)close(client);
}

/* A move: the target's guest hears TRANSPORT_RESET, the source's peers the end. */
static void test_save_and_load(void **state)
{
    (void)state;
    struct packet p;
    struct err err = { 0 };
    uint32_t port;
    char ticket[VSOCK_TICKET_MAX];
    int fd = open_from_host(&port);
    for (unsigned i = 0; i < 2; i++)
        driver_submit(&d, EVENT, &(struct driver_seg){ EVENT_BUF + i * 16, 4, true }, 1);
    driver_kick(&d, EVENT);
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, EVENT), 0);
    memset(driver_mem(&d, EVENT_BUF), 0xff, 32);
    virtio_vsock_set_ticket(d.dev, "0123456789abcdef");

    struct dev *source = d.dev, *target = make(CID, true);
    assert_int_equal(source->ops->pause(source), 0);
    assert_int_equal(driver_transplant(source, target, &err), 0);
    source->ops->free(source);
    expect_eof(&fd);

    d.dev = target;
    virtio_vsock_ticket(target, ticket);
    assert_string_equal(ticket, "0123456789abcdef");
    target->ops->resume(target);
    driver_wait(&d, EVENT, 1);
    uint32_t len, id;
    assert_int_equal(driver_used(&d, EVENT, &len), 0);
    memcpy(&id, driver_mem(&d, EVENT_BUF), 4);
    assert_int_equal(len, 4);
    assert_int_equal(id, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    assert_true(driver_interrupts(&d) > 0);
    driver_settle(&d);
    assert_int_equal(driver_used_waiting(&d, EVENT), 0); /* once */

    /* What the guest still sends on the old one is reset; new ones work, both ways. */
    send_data(GUEST_PORT, port, "old", 3);
    expect(&p, VIRTIO_VSOCK_OP_RST, port, GUEST_PORT);
    fd = open_from_host(&port);
    host_say(fd, "new");
    expect(&p, VIRTIO_VSOCK_OP_RW, port, GUEST_PORT);
    (void)close(fd);
}

static void test_reset_event_waits_for_a_buffer(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct dev *source = d.dev, *target = make(CID, false);
    assert_int_equal(source->ops->pause(source), 0);
    assert_int_equal(driver_transplant(source, target, &err), 0);
    source->ops->free(source);
    d.dev = target;
    target->ops->resume(target);
    driver_settle(&d);
    driver_submit(&d, EVENT, &(struct driver_seg){ EVENT_BUF, 8, true }, 1);
    driver_kick(&d, EVENT);
    driver_wait(&d, EVENT, 1);
    /* Not attached to a host side: refused, not crashed. */
    struct packet p;
    send_op(VIRTIO_VSOCK_OP_REQUEST, 1, 80, 0);
    expect(&p, VIRTIO_VSOCK_OP_RST, 80, 1);
}

static void test_state_of_another_is_refused(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct dev *other = make(CID + 1, false);
    assert_int_equal(d.dev->ops->pause(d.dev), 0);
    assert_int_equal(driver_transplant(d.dev, other, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "CID 7"));
    other->ops->free(other);
    d.dev->ops->resume(d.dev);
}

static void test_marks(void **state)
{
    (void)state;
    struct driver_track track;
    struct packet p;
    uint32_t port;
    int fd = open_from_host(&port);
    host_say(fd, "marked");
    driver_track(&d, &track);
    driver_wait(&d, RX, 1);
    driver_check_marks(&d, &track);
    expect(&p, VIRTIO_VSOCK_OP_RW, port, GUEST_PORT);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        VSOCK_TEST(test_configuration),
        VSOCK_TEST(test_host_connects),
        VSOCK_TEST(test_bytes_behind_the_line_are_the_guests),
        VSOCK_TEST(test_refused_knocks),
        VSOCK_TEST(test_guest_connects),
        VSOCK_TEST(test_host_half_closes),
        VSOCK_TEST(test_services_of_the_monitor),
        VSOCK_TEST(test_pause_holds_everything),
        VSOCK_TEST(test_save_and_load),
        VSOCK_TEST(test_reset_event_waits_for_a_buffer),
        VSOCK_TEST(test_state_of_another_is_refused),
        VSOCK_TEST(test_marks),
    };
    return cmocka_run_group_tests_name("virtio_vsock", tests, NULL, NULL);
}
