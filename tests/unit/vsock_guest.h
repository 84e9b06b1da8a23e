/*
 * For the tests of virtio-vsock: a fake guest's rings on one side, host sockets on the other.
 * One device a test, attached to a directory of its own.
 */
#pragma once
#include "base/clock.h"
#include "base/fd.h"
#include "dev/vsock_impl.h"
#include "virtio_driver.h"

#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define CID 7u
#define BIT(n) (UINT64_C(1) << (n))
#define FEATURES (BIT(0) | BIT(VIRTIO_RING_F_EVENT_IDX))
#define RX_BUF(i) (0x200000u + (uint64_t)(i)*0x2000u)
#define TX_BUF 0x800000u
#define EVENT_BUF 0xa00000u
#define BUFS 32u
#define RX_BYTES (4096u + 44u)
#define GUEST_PORT 5000u
#define CREDIT 100000u

enum { RX, TX, EVENT };

static struct mem mem;
static struct loop loop;
static struct driver d;
static char dir[128];
static int dir_fd;
static unsigned posted;
static unsigned tx_next;

static inline struct vsock *device(void)
{
    return (struct vsock *)virtio_dev_of(d.dev);
}

static inline void address_of(const char *file, struct sockaddr_un *ret)
{
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    (void)snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/%s", dir, file);
}

static inline int listen_at(const char *file)
{
    struct sockaddr_un address;
    address_of(file, &address);
    (void)unlink(address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 64), 0);
    return fd;
}

static int service_fd;
static uint32_t service_port;

static inline void on_service(void *ctx, int fd, uint32_t guest_port)
{
    (void)ctx;
    fd_close(&service_fd);
    service_fd = fd;
    service_port = guest_port;
}

static inline struct dev *make(uint32_t cid, bool attach)
{
    struct dev *dev;
    struct err err = { 0 };
    assert_int_equal(virtio_vsock_create(&dev, 4, &mem, &loop, cid, &err), 0);
    struct vsock_host host = { .listen_fd = listen_at(VSOCK_SOCKET),
                               .dir_fd = dup(dir_fd),
                               .service = { .port = 900, .accept = on_service } };
    if (attach)
        assert_int_equal(virtio_vsock_attach(dev, &host), 0);
    return dev;
}

static inline void post_rx(unsigned count)
{
    for (unsigned i = 0; i < count; i++, posted++)
        driver_submit(&d, RX, &(struct driver_seg){ RX_BUF(posted % BUFS), RX_BYTES, true }, 1);
    driver_kick(&d, RX);
}

static inline void begin_guest(void)
{
    posted = tx_next = 0;
    driver_start(&d, FEATURES, BUFS);
    post_rx(BUFS);
}

static inline int setup(void **state)
{
    struct err err = { 0 };
    (void)state;
    (void)snprintf(dir, sizeof(dir), "%s/vsock-XXXXXX", test_tmp());
    assert_non_null(mkdtemp(dir));
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    service_fd = -1;
    assert_int_equal(mem_init(&mem, DRIVER_MEM_BYTES, MEM_PAGES_SMALL, &err), 0);
    assert_int_equal(loop_init(&loop), 0);
    d = (struct driver){ .dev = make(CID, true), .mem = &mem, .loop = &loop };
    d.dev->ops->resume(d.dev);
    begin_guest();
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    if (d.dev) {
        assert_int_equal(d.dev->ops->pause(d.dev), 0);
        d.dev->ops->free(d.dev);
    }
    fd_close(&service_fd);
    fd_close(&dir_fd);
    char command[200];
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    loop_fini(&loop);
    mem_fini(&mem);
    return 0;
}

/* ------------------------------------------------------------------------------------ the guest */

struct packet {
    struct virtio_vsock_hdr h;
    uint8_t data[RX_BYTES];
};

static inline struct virtio_vsock_hdr header(uint16_t op, uint32_t from_port, uint32_t to_port)
{
    return (struct virtio_vsock_hdr){ .src_cid = CID,
                                      .dst_cid = 2,
                                      .src_port = from_port,
                                      .dst_port = to_port,
                                      .type = VIRTIO_VSOCK_TYPE_STREAM,
                                      .op = op,
                                      .buf_alloc = CREDIT };
}

/* Sends a packet as it is, with `real` bytes of data whatever its header says. */
static inline void send_raw(const struct virtio_vsock_hdr *h, const void *data, uint32_t real)
{
    uint64_t at = TX_BUF + (uint64_t)(tx_next++ % 8) * 0x20000;
    memcpy(driver_mem(&d, at), h, sizeof(*h));
    if (real)
        memcpy((uint8_t *)driver_mem(&d, at) + sizeof(*h), data, real);
    struct driver_seg segs[] = { { at, sizeof(*h), false }, { at + sizeof(*h), real, false } };
    driver_submit(&d, TX, segs, real ? 2 : 1);
    driver_kick(&d, TX);
    driver_wait(&d, TX, 1);
    (void)driver_used(&d, TX, NULL);
}

static inline void send_data(uint32_t from_port, uint32_t to_port, const void *data, uint32_t len)
{
    struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, from_port, to_port);
    h.len = len;
    send_raw(&h, data, len);
}

static inline void send_op(uint16_t op, uint32_t from_port, uint32_t to_port, uint32_t flags)
{
    struct virtio_vsock_hdr h = header(op, from_port, to_port);
    h.flags = flags;
    send_raw(&h, NULL, 0);
}

/* The next packet to the guest; its buffer is posted again. */
static inline void expect(struct packet *p, uint16_t op, uint32_t from_port, uint32_t to_port)
{
    uint32_t len;
    driver_wait(&d, RX, 1);
    uint16_t head = driver_used(&d, RX, &len);
    const uint8_t *bytes = driver_mem(&d, RX_BUF(head));
    assert_true(len >= sizeof(p->h) && len <= sizeof(*p));
    memcpy(p, bytes, len);
    assert_int_equal(p->h.len, len - sizeof(p->h));
    assert_int_equal(p->h.op, op);
    assert_int_equal(p->h.src_port, from_port);
    assert_int_equal(p->h.dst_port, to_port);
    assert_int_equal(p->h.dst_cid, CID);
    if (op != VIRTIO_VSOCK_OP_RST)
        assert_int_equal(p->h.buf_alloc, VSOCK_BUFFER_BYTES);
    post_rx(1);
}

static inline void expect_quiet(void)
{
    driver_settle(&d);
    if (driver_used_waiting(&d, RX)) {
        const struct virtio_vsock_hdr *h = driver_mem(&d, RX_BUF(driver_used(&d, RX, NULL)));
        fail_msg("an unexpected packet: op %u", h->op);
    }
}

/* ------------------------------------------------------------------------------------- the host */

static inline int host_connect(void)
{
    struct sockaddr_un address;
    address_of(VSOCK_SOCKET, &address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static inline void host_say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What a host program reads when everything has settled; -1: nothing is there. */
static inline ssize_t host_read(int fd, char *to, size_t size)
{
    driver_settle(&d);
    ssize_t n = recv(fd, to, size - 1, MSG_DONTWAIT);
    to[n > 0 ? n : 0] = '\0';
    return n;
}

static inline void expect_eof(int *fd)
{
    char text[64];
    assert_int_equal(host_read(*fd, text, sizeof(text)), 0);
    fd_close(fd);
}

/* A host program connects to GUEST_PORT and is accepted; its port in *ret_port. */
static inline int open_from_host(uint32_t *ret_port)
{
    struct packet p;
    char line[64], want[64];
    int fd = host_connect();
    host_say(fd, "CONNECT 5000\n");
    driver_wait(&d, RX, 1);
    const struct vring_used *used = driver_mem(&d, d.queue[RX].used_gpa);
    const struct virtio_vsock_hdr *h =
        driver_mem(&d, RX_BUF(used->ring[d.queue[RX].seen_used % BUFS].id));
    *ret_port = h->src_port;
    expect(&p, VIRTIO_VSOCK_OP_REQUEST, *ret_port, GUEST_PORT);
    assert_int_equal(p.h.src_cid, 2);
    assert_int_equal(host_read(fd, line, sizeof(line)), -1); /* not before the guest accepts */
    send_op(VIRTIO_VSOCK_OP_RESPONSE, GUEST_PORT, *ret_port, 0);
    assert_true(host_read(fd, line, sizeof(line)) > 0);
    (void)snprintf(want, sizeof(want), "OK %u\n", *ret_port);
    assert_string_equal(line, want);
    return fd;
}

/* A guest program connects to whoever listens for `port`; the accepted descriptor. */
static inline int open_from_guest(int listener, uint32_t from_port, uint32_t port)
{
    struct packet p;
    send_op(VIRTIO_VSOCK_OP_REQUEST, from_port, port, 0);
    expect(&p, VIRTIO_VSOCK_OP_RESPONSE, port, from_port);
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

#define VSOCK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
