#include "virtio_driver.h"
#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WAIT_NS (5 * CLOCK_SECOND)

uint32_t driver_read32(struct driver *d, uint64_t offset)
{
    uint32_t value;
    d->dev->ops->read(d->dev, offset, &value, 4);
    return value;
}

void driver_write32(struct driver *d, uint64_t offset, uint32_t value)
{
    d->dev->ops->write(d->dev, offset, &value, 4);
}

uint64_t driver_offered(struct driver *d)
{
    driver_write32(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    uint64_t high = driver_read32(d, VIRTIO_MMIO_DEVICE_FEATURES);
    driver_write32(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    return high << 32 | driver_read32(d, VIRTIO_MMIO_DEVICE_FEATURES);
}

uint32_t driver_negotiate(struct driver *d, uint64_t features)
{
    memset(d->queue, 0, sizeof(d->queue));
    features |= UINT64_C(1) << VIRTIO_F_VERSION_1;
    driver_write32(d, VIRTIO_MMIO_STATUS, 0);
    driver_write32(d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    driver_write32(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    driver_write32(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
    driver_write32(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver_write32(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
    driver_write32(d, VIRTIO_MMIO_STATUS,
                   VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                       VIRTIO_CONFIG_S_FEATURES_OK);
    return driver_read32(d, VIRTIO_MMIO_STATUS);
}

static void write64(struct driver *d, uint64_t offset, uint64_t value)
{
    driver_write32(d, offset, (uint32_t)value);
    driver_write32(d, offset + 4, (uint32_t)(value >> 32));
}

void driver_queue_setup(struct driver *d, unsigned queue, uint16_t size, uint64_t gpa)
{
    driver_queue_setup_used(d, queue, size, gpa, 0x8000);
}

void driver_queue_setup_used(struct driver *d, unsigned queue, uint16_t size, uint64_t gpa,
                             uint64_t used)
{
    struct driver_queue *q = &d->queue[queue];
    *q = (struct driver_queue){
        .size = size, .desc_gpa = gpa, .avail_gpa = gpa + 0x4000, .used_gpa = gpa + used
    };
    memset(driver_mem(d, gpa), 0, 0x10000);
    driver_write32(d, VIRTIO_MMIO_QUEUE_SEL, queue);
    driver_write32(d, VIRTIO_MMIO_QUEUE_NUM, size);
    write64(d, VIRTIO_MMIO_QUEUE_DESC_LOW, q->desc_gpa);
    write64(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, q->avail_gpa);
    write64(d, VIRTIO_MMIO_QUEUE_USED_LOW, q->used_gpa);
    driver_write32(d, VIRTIO_MMIO_QUEUE_READY, 1);
}

void driver_ready(struct driver *d)
{
    driver_write32(d, VIRTIO_MMIO_STATUS,
                   driver_read32(d, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
}

void driver_start(struct driver *d, uint64_t features, uint16_t size)
{
    assert_true(driver_negotiate(d, features) & VIRTIO_CONFIG_S_FEATURES_OK);
    for (unsigned i = 0; i < virtio_dev_of(d->dev)->queue_count; i++) {
        driver_write32(d, VIRTIO_MMIO_QUEUE_SEL, i);
        uint32_t max = driver_read32(d, VIRTIO_MMIO_QUEUE_NUM_MAX);
        driver_queue_setup(d, i, (uint16_t)MIN((uint32_t)size, max), 0x100000 + i * 0x10000u);
    }
    driver_ready(d);
}

void driver_desc(struct driver *d, unsigned queue, uint16_t index, uint64_t gpa, uint32_t len,
                 uint16_t flags, uint16_t next)
{
    struct vring_desc *desc = driver_mem(d, d->queue[queue].desc_gpa);
    desc[index] = (struct vring_desc){ .addr = gpa, .len = len, .flags = flags, .next = next };
}

void driver_offer(struct driver *d, unsigned queue, uint16_t head)
{
    struct driver_queue *q = &d->queue[queue];
    struct vring_avail *avail = driver_mem(d, q->avail_gpa);
    avail->ring[q->avail_idx++ % q->size] = head;
    __atomic_store_n(&avail->idx, q->avail_idx, __ATOMIC_RELEASE);
}

uint16_t driver_submit(struct driver *d, unsigned queue, const struct driver_seg *segs,
                       unsigned count)
{
    struct driver_queue *q = &d->queue[queue];
    uint16_t head = q->next_desc;
    for (unsigned i = 0; i < count; i++) {
        uint16_t index = q->next_desc;
        q->next_desc = (uint16_t)(index + 1) % q->size;
        unsigned flags =
            (segs[i].in ? VRING_DESC_F_WRITE : 0u) | (i + 1 < count ? VRING_DESC_F_NEXT : 0u);
        driver_desc(d, queue, index, segs[i].gpa, segs[i].len, (uint16_t)flags, q->next_desc);
    }
    driver_offer(d, queue, head);
    return head;
}

void driver_kick(struct driver *d, unsigned queue)
{
    driver_write32(d, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

uint16_t driver_used_waiting(struct driver *d, unsigned queue)
{
    const struct vring_used *used = driver_mem(d, d->queue[queue].used_gpa);
    return (uint16_t)(__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) - d->queue[queue].seen_used);
}

void driver_wait(struct driver *d, unsigned queue, uint16_t count)
{
    const uint64_t deadline_ns = clock_now_ns() + WAIT_NS;
    while (driver_used_waiting(d, queue) < count) {
        if (clock_now_ns() > deadline_ns)
            fail_msg("queue %u: %u of %u chains used", queue, driver_used_waiting(d, queue), count);
        assert_int_equal(loop_once(d->loop, 100), 0);
    }
}

void driver_settle(struct driver *d)
{
    do
        assert_int_equal(loop_once(d->loop, 0), 0);
    while (epoll_wait(d->loop->epoll_fd, &(struct epoll_event){ 0 }, 1, 0) > 0);
}

uint16_t driver_used(struct driver *d, unsigned queue, uint32_t *ret_len)
{
    struct driver_queue *q = &d->queue[queue];
    const struct vring_used *used = driver_mem(d, q->used_gpa);
    assert_true(driver_used_waiting(d, queue) > 0);
    const vring_used_elem_t *elem = &used->ring[q->seen_used++ % q->size];
    if (ret_len)
        *ret_len = elem->len;
    return (uint16_t)elem->id;
}

uint64_t driver_interrupts(struct driver *d)
{
    return loop_drain(virtio_dev_of(d->dev)->irq_fd);
}

void driver_track(struct driver *d, struct driver_track *track)
{
    track->marks = calloc(d->mem->pages / 64 + 1, sizeof(*track->marks));
    track->before = malloc(d->mem->bytes);
    assert_non_null(track->marks);
    assert_non_null(track->before);
    memcpy(track->before, d->mem->host, d->mem->bytes);
    d->mem->marks = track->marks;
}

void driver_check_marks(struct driver *d, struct driver_track *track)
{
    d->mem->marks = NULL;
    unsigned changed = 0;
    for (uint64_t page = 0; page < d->mem->pages; page++) {
        if (memcmp(track->before + page * PAGE_BYTES, mem_page(d->mem, page), PAGE_BYTES) == 0)
            continue;
        changed++;
        if (!(track->marks[page / 64] >> (page % 64) & 1))
            fail_msg("page 0x%llx was written and not marked", (unsigned long long)page);
    }
    assert_true(changed > 0);
    free(track->marks);
    free(track->before);
}

int driver_transplant(struct dev *from, struct dev *to, struct err *err)
{
    const struct schema *schema = from->ops->schema;
    assert_ptr_equal(schema, to->ops->schema);
    void *before = calloc(1, schema->size), *after = calloc(1, schema->size);
    CLEANUP_BUF struct buf bytes = { 0 };
    assert_non_null(before);
    assert_non_null(after);
    from->ops->save(from, before);
    schema_encode(schema, schema->version, before, &bytes);
    assert_int_equal(buf_status(&bytes), 0);
    struct cursor in = cursor_of(bytes.data, bytes.len);
    assert_int_equal(schema_decode(schema, schema->version, &in, after, err), 0);
    int rc = to->ops->load(to, after, err);
    free(before);
    free(after);
    return rc;
}

uint64_t driver_count(const struct driver *d, const char *name)
{
    struct virtio_dev *vd = virtio_dev_of(d->dev);
    const char *const *names = vd->vops->count_name;
    uint64_t count[VIRTIO_COUNTS_MAX];
    virtio_mmio_counts(vd, count);
    for (unsigned i = 0; i < VIRTIO_COUNTS_MAX && names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return count[i];
    fail_msg("no counter %s", name);
    return 0;
}
