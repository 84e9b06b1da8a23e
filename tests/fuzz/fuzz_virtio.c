/*
 * A virtio device at the mercy of its guest: registers, rings and requests of any kind, frames from the network, a move
 * at any moment, and states that come from elsewhere. Compiled once a device: FUZZ_NET, FUZZ_BLK, FUZZ_RNG, FUZZ_BALLOON or
 * FUZZ_VSOCK, the last one with host programs that come, talk and go as the input says.
 *
 * The input is a list of operations. Besides raw accesses there are whole ones (set the driver up, offer a chain), so
 * that the search is not kept busy finding what every driver does first.
 */
#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "dev/vsock_impl.h"
#include "fuzz.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RING(q) (0x10000u + (q)*0x10000u)
#define DISK_BYTES (64u << 10)
#define OPS_MAX 400
#define CLIENTS 4
#define CID 3

struct rig {
    struct mem mem;
    struct loop loop;
    struct dev *dev;
    bool running;
    uint16_t queue_size, offered[VIRTIO_QUEUES_MAX], next_desc[VIRTIO_QUEUES_MAX];
    int wire; /* the network's end */
    int disk;
    int client[CLIENTS]; /* host programs, and services the guest has reached */
    unsigned next_client;
};

#if defined(FUZZ_VSOCK)
/* Takes the descriptor; another one may have to go for it. */
static void new_client(struct rig *rig, int fd)
{
    int *slot = &rig->client[rig->next_client++ % CLIENTS];
    fd_close(slot);
    *slot = fd;
}

static void on_service(void *ctx, int fd, uint32_t guest_port)
{
    (void)guest_port;
    new_client(ctx, fd);
}

/* The kernel chooses an abstract address: nothing is left in any directory. */
static int new_listener(void)
{
    const struct sockaddr_un any = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    FUZZ_CHECK(fd >= 0 && bind(fd, (const struct sockaddr *)&any, sizeof(sa_family_t)) == 0 &&
               listen(fd, 16) == 0);
    return fd;
}
#endif

static struct dev *make(struct rig *rig)
{
    struct dev *dev;
    struct err err = { 0 };
    int rc;
#if defined(FUZZ_NET)
    static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
    int pair[2];
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    if (rig->wire >= 0)
        (void)close(rig->wire);
    rig->wire = pair[0];
    rc = virtio_net_create(&dev, 1, &rig->mem, &rig->loop, pair[1], mac, &err);
#elif defined(FUZZ_BLK)
    const struct virtio_blk_options options = { .serial = "fuzz" };
    rc = virtio_blk_create(&dev, 1, &rig->mem, &rig->loop, dup(rig->disk), &options, &err);
#elif defined(FUZZ_BALLOON)
    rc = virtio_balloon_create(&dev, 1, &rig->mem, &rig->loop, NULL, NULL, &err);
#elif defined(FUZZ_VSOCK)
    rc = virtio_vsock_create(&dev, 1, &rig->mem, &rig->loop, CID, &err);
    const struct vsock_host host = {
        .listen_fd = new_listener(),
        .dir_fd = -1,
        .service = { .port = 1021, .accept = on_service, .ctx = rig },
    };
    FUZZ_CHECK(rc == 0 && virtio_vsock_attach(dev, &host) == 0);
#else
    rc = virtio_rng_create(&dev, 1, &rig->mem, &rig->loop, &err);
#endif
    FUZZ_CHECK(rc == 0);
    return dev;
}

static void set_running(struct rig *rig, bool running)
{
    if (running && !rig->running)
        rig->dev->ops->resume(rig->dev);
    else if (!running && rig->running)
        FUZZ_CHECK(rig->dev->ops->pause(rig->dev) == 0);
    rig->running = running;
}

static void turn(struct rig *rig)
{
    for (int i = 0; i < 4; i++)
        FUZZ_CHECK(loop_once(&rig->loop, 0) == 0);
}

/* The device is replaced by a fresh one that is given this state; true if it was taken. Then both are the same: what was
 * loaded is saved again to the same bytes. */
static bool transplant(struct rig *rig, const void *state)
{
    const struct dev_ops *ops = rig->dev->ops;
    struct err err = { 0 };
    set_running(rig, false);
    struct dev *other = make(rig);
    int rc = other->ops->load(other, state, &err);
    fuzz_check_err(rc, &err);
    if (rc) {
        other->ops->free(other);
        return false;
    }
    ops->free(rig->dev);
    rig->dev = other;

    CLEANUP_FREE void *again = calloc(1, ops->schema->size);
    CLEANUP_BUF struct buf a = { 0 };
    CLEANUP_BUF struct buf b = { 0 };
    FUZZ_CHECK(again);
    other->ops->save(other, again);
    schema_encode(ops->schema, ops->schema->version, state, &a);
    schema_encode(ops->schema, ops->schema->version, again, &b);
    FUZZ_CHECK(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
    return true;
}

static void move(struct rig *rig)
{
    CLEANUP_FREE void *state = calloc(1, rig->dev->ops->schema->size);
    FUZZ_CHECK(state);
    set_running(rig, false);
    rig->dev->ops->save(rig->dev, state);
    FUZZ_CHECK(transplant(rig, state)); /* one's own state is always taken */
    if (rig->dev->ops->announce)
        rig->dev->ops->announce(rig->dev);
    set_running(rig, true);
}

static void load_foreign(struct rig *rig, struct cursor *in)
{
    const struct schema *schema = rig->dev->ops->schema;
    CLEANUP_FREE void *state = calloc(1, schema->size);
    struct err err = { 0 };
    uint16_t len = cursor_u16(in);
    const uint8_t *bytes = cursor_take(in, MIN((size_t)len, in->left));
    struct cursor body = cursor_of(bytes, bytes ? (size_t)(in->at - bytes) : 0);
    FUZZ_CHECK(state);
    if (bytes && schema_decode(schema, schema->version, &body, state, &err) == 0)
        (void)transplant(rig, state);
    set_running(rig, true);
}

static void write32(struct rig *rig, uint64_t offset, uint32_t value)
{
    rig->dev->ops->write(rig->dev, offset, &value, 4);
}

static void set_up_driver(struct rig *rig, uint64_t features, unsigned order)
{
    features |= UINT64_C(1) << VIRTIO_F_VERSION_1;
    rig->queue_size = (uint16_t)(1u << order % 9);
    write32(rig, VIRTIO_MMIO_STATUS, 0);
    write32(rig, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    for (unsigned half = 0; half < 2; half++) {
        uint32_t offered;
        write32(rig, VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
        rig->dev->ops->read(rig->dev, VIRTIO_MMIO_DEVICE_FEATURES, &offered, 4);
        write32(rig, VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        write32(rig, VIRTIO_MMIO_DRIVER_FEATURES, offered & (uint32_t)(features >> 32 * half));
    }
    uint32_t status =
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
    write32(rig, VIRTIO_MMIO_STATUS, status);
    for (unsigned q = 0; q < virtio_dev_of(rig->dev)->queue_count; q++) {
        rig->offered[q] = rig->next_desc[q] = 0;
        memset(rig->mem.host + RING(q), 0, 0x10000);
        write32(rig, VIRTIO_MMIO_QUEUE_SEL, q);
        write32(rig, VIRTIO_MMIO_QUEUE_NUM, rig->queue_size);
        write32(rig, VIRTIO_MMIO_QUEUE_DESC_LOW, RING(q));
        write32(rig, VIRTIO_MMIO_QUEUE_AVAIL_LOW, RING(q) + 0x4000);
        write32(rig, VIRTIO_MMIO_QUEUE_USED_LOW, RING(q) + 0x8000);
        write32(rig, VIRTIO_MMIO_QUEUE_READY, 1);
    }
    write32(rig, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* [queue, segments], then for each [where, length, flags]; a readable one may bring its first bytes. */
static void offer(struct rig *rig, struct cursor *in)
{
    unsigned q = cursor_u8(in) % VIRTIO_QUEUES_MAX, segments = cursor_u8(in) % 12 + 1;
    if (!rig->queue_size)
        return;
    struct vring_desc *desc = (void *)(rig->mem.host + RING(q));
    struct vring_avail *avail = (void *)(rig->mem.host + RING(q) + 0x4000);
    uint16_t head = rig->next_desc[q];
    for (unsigned i = 0; i < segments; i++) {
        uint8_t where = cursor_u8(in), flags = cursor_u8(in);
        uint16_t len = cursor_u16(in);
        uint64_t gpa = 0x100000 + where * 0x800u;
        if (flags & 0x80)
            gpa += rig->mem.bytes - 0x100800; /* near and over the end */
        uint16_t at = rig->next_desc[q];
        rig->next_desc[q] = (uint16_t)((at + 1) % rig->queue_size);
        desc[at] = (struct vring_desc){ .addr = gpa,
                                        .len = flags & 0x40 ? len * 64u : len,
                                        .next = rig->next_desc[q] };
        desc[at].flags = (uint16_t)((flags & 1 ? VRING_DESC_F_WRITE : 0) |
                                    (i + 1 < segments ? VRING_DESC_F_NEXT : 0) |
                                    (flags & 0x20 ? VRING_DESC_F_INDIRECT : 0));
        const uint8_t *bytes = cursor_take(in, MIN((size_t)(flags >> 1 & 15) * 4, in->left));
        size_t taken = bytes ? (size_t)(in->at - bytes) : 0;
        void *to = mem_get(&rig->mem, gpa_of(gpa), taken);
        if (to && taken)
            memcpy(to, bytes, taken);
    }
    avail->ring[rig->offered[q]++ % rig->queue_size] = head;
    avail->idx = rig->offered[q];
    write32(rig, VIRTIO_MMIO_QUEUE_NOTIFY, q);
}

static void poke_memory(struct rig *rig, struct cursor *in)
{
    uint32_t gpa = RING(0) + cursor_u32(in) % 0x100000;
    const uint8_t *bytes = cursor_take(in, MIN((size_t)cursor_u8(in), in->left));
    if (bytes)
        memcpy(rig->mem.host + gpa, bytes, (size_t)(in->at - bytes));
}

/* What comes from the host's side of the device. */
#if defined(FUZZ_NET)
static void from_outside(struct rig *rig, struct cursor *in)
{
    uint8_t head[12] = { 0 };
    static uint8_t bytes[4096];
    size_t len = cursor_u16(in) % 2048;
    const uint8_t *from = cursor_take(in, MIN(len, in->left));
    memcpy(bytes, head, sizeof(head));
    if (from)
        memcpy(bytes + sizeof(head), from, (size_t)(in->at - from));
    if (rig->wire >= 0)
        (void)!send(rig->wire, bytes, sizeof(head) + len, MSG_DONTWAIT | MSG_NOSIGNAL);
}
#elif defined(FUZZ_BALLOON)
static void from_outside(struct rig *rig, struct cursor *in)
{
    struct virtio_balloon_info before, after;
    uint64_t bytes = (uint64_t)cursor_u16(in) << 16;
    virtio_balloon_info(rig->dev, &before);
    int rc = virtio_balloon_set(rig->dev, bytes);
    virtio_balloon_info(rig->dev, &after);
    FUZZ_CHECK(before.target_bytes <= rig->mem.bytes);
    FUZZ_CHECK((rc == -EINVAL) == (bytes > rig->mem.bytes));
    FUZZ_CHECK(rc == -EINVAL || (rc == -EBUSY) == !rig->running);
    FUZZ_CHECK(after.target_bytes == (rc ? before.target_bytes : bytes));
    FUZZ_CHECK(after.inflated_bytes == before.inflated_bytes);
    FUZZ_CHECK(after.stats >> VIRTIO_BALLOON_TAGS == 0);
}
#elif defined(FUZZ_VSOCK)
static void connect_client(struct rig *rig)
{
    struct vsock *vsock = CONTAINER_OF(virtio_dev_of(rig->dev), struct vsock, vd);
    struct sockaddr_un address;
    socklen_t len = sizeof(address);
    FUZZ_CHECK(getsockname(vsock->host.listen_fd, (struct sockaddr *)&address, &len) == 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    FUZZ_CHECK(fd >= 0);
    (void)!connect(fd, (struct sockaddr *)&address, len);
    new_client(rig, fd);
}

static void from_outside(struct rig *rig, struct cursor *in)
{
    uint8_t what = cursor_u8(in);
    int *client = &rig->client[what >> 4 & (CLIENTS - 1)], fd;
    static uint8_t bytes[4096];
    switch (what % 6) {
    case 0:
        connect_client(rig);
        break;
    case 1: {
        const uint8_t *from = cursor_take(in, MIN((size_t)cursor_u8(in), in->left));
        if (from && *client >= 0)
            (void)!send(*client, from, (size_t)(in->at - from), MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    }
    case 2:
        if (*client >= 0)
            (void)!recv(*client, bytes, sizeof(bytes), MSG_DONTWAIT);
        break;
    case 3:
        fd_close(client);
        break;
    case 4:
        if (virtio_vsock_connect(rig->dev, cursor_u16(in), &fd) == 0)
            new_client(rig, fd);
        break;
    default:
        if (*client >= 0)
            (void)shutdown(*client, what & 0x80 ? SHUT_RD : SHUT_WR);
        break;
    }
}
#else
static void from_outside(struct rig *rig, struct cursor *in)
{
    (void)rig;
    (void)cursor_u8(in);
}
#endif

static void act(struct rig *rig, struct cursor *in)
{
    uint8_t op = cursor_u8(in);
    uint64_t value = 0;
    uint16_t offset;
    switch (op % 10) {
    case 0:
        offset = cursor_u16(in) % VIRTIO_MMIO_BYTES;
        value = cursor_u64(in);
        rig->dev->ops->write(rig->dev, offset, &value, 1u << (op >> 6));
        break;
    case 1:
        rig->dev->ops->read(rig->dev, cursor_u16(in) % VIRTIO_MMIO_BYTES, &value, 1u << (op >> 6));
        break;
    case 2:
        set_up_driver(rig, cursor_u64(in), cursor_u8(in));
        break;
    case 3:
    case 4:
        offer(rig, in);
        break;
    case 5:
        poke_memory(rig, in);
        break;
    case 6:
        turn(rig);
        break;
    case 7:
        from_outside(rig, in);
        break;
    case 8:
        if (op & 0x80)
            set_running(rig, !rig->running);
        else
            move(rig);
        break;
    default:
        load_foreign(rig, in);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rig rig = { .wire = -1, .disk = -1, .client = { -1, -1, -1, -1 } };
    struct cursor in = cursor_of(data, size);
    log_setup(LOG_ERROR, "fuzz");
    FUZZ_CHECK(mem_init(&rig.mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, NULL) == 0 &&
               loop_init(&rig.loop) == 0);
#if defined(FUZZ_BLK)
    rig.disk = memfd_create("disk", MFD_CLOEXEC);
    FUZZ_CHECK(rig.disk >= 0 && ftruncate(rig.disk, DISK_BYTES) == 0);
#endif
    rig.dev = make(&rig);
    set_running(&rig, true);
    for (unsigned i = 0; in.left && !in.bad && i < OPS_MAX; i++)
        act(&rig, &in);
    set_running(&rig, true);
    turn(&rig);
    set_running(&rig, false); /* quiescent, whatever the guest has done */
    rig.dev->ops->free(rig.dev);
    fd_close(&rig.wire);
    fd_close(&rig.disk);
    for (unsigned i = 0; i < CLIENTS; i++)
        fd_close(&rig.client[i]);
    loop_fini(&rig.loop);
    mem_fini(&rig.mem);
    return 0;
}
