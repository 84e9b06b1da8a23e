/*
 * One lane of trust runs through this file: what mem_get() handed out is memory of ours, what
 * stands in it is the guest's and may change between two reads. So each value is copied once,
 * checked, and only the copy used. A chain has at most VIRTQ_SEGS_MAX segments, which also ends
 * every loop.
 *
 * The three rings' addresses were checked when the queue was started; guest memory is never
 * unmapped.
 *
 * Everything written is marked after it is in place (mem_mark), and data before the used index that
 * shows it, so that a dirty-page harvest which misses a mark has not yet read the page either.
 */
#include "dev/virtq.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

SCHEMA_DEFINE(virtq_state, 1, VIRTQ_STATE)

#define DESC_BYTES sizeof(struct vring_desc)
#define AVAIL_BYTES(size) (6 + 2 * (uint64_t)(size)) /* flags, idx, ring, used_event */
#define USED_BYTES(size) (6 + 8 * (uint64_t)(size))  /* flags, idx, ring, avail_event */

static uint16_t load16(const uint16_t *at, int order)
{
    return __atomic_load_n(at, order);
}

void virtq_init(struct virtq *q, struct mem *mem, uint16_t size_max)
{
    *q = (struct virtq){ .mem = mem, .size_max = size_max };
}

void virtq_reset(struct virtq *q)
{
    ASSERT(q->in_flight == 0);
    virtq_init(q, q->mem, q->size_max);
}

int virtq_start(struct virtq *q, uint16_t index)
{
    uint16_t size = q->size;
    if (size == 0 || size > q->size_max || (size & (size - 1)))
        return -EINVAL;
    if (q->desc_gpa.raw % 16 || q->avail_gpa.raw % 2 || q->used_gpa.raw % 4)
        return -EINVAL;
    q->desc = mem_get(q->mem, q->desc_gpa, size * DESC_BYTES);
    q->avail = mem_get(q->mem, q->avail_gpa, AVAIL_BYTES(size));
    q->used = mem_get(q->mem, q->used_gpa, USED_BYTES(size));
    if (!q->desc || !q->avail || !q->used)
        return -EINVAL;
    q->next_avail = q->next_used = index;
    q->staged = q->in_flight = 0;
    q->broken = false;
    q->signal_all = true;
    q->ready = true;
    return 0;
}

static struct vring_desc read_desc(const uint8_t *table, uint32_t index)
{
    struct vring_desc desc;
    memcpy(&desc, table + index * DESC_BYTES, sizeof(desc));
    /* The copy is final: the compiler may not read again. */
    atomic_signal_fence(memory_order_seq_cst);
    return desc;
}

static int add_segment(struct virtq *q, struct virtq_chain *chain, const struct vring_desc *desc)
{
    unsigned i = chain->out_count + chain->in_count;
    void *host = mem_get(q->mem, gpa_of(desc->addr), desc->len);
    if (i == VIRTQ_SEGS_MAX || !host || desc->len == 0)
        return -EPROTO;
    uint64_t *bytes;
    if (desc->flags & VRING_DESC_F_WRITE) {
        chain->in_count++;
        bytes = &chain->in_bytes;
    } else {
        if (chain->in_count)
            return -EPROTO; /* 2.7.4.2: all readable descriptors come first */
        chain->out_count++;
        bytes = &chain->out_bytes;
    }
    *bytes += desc->len;
    if (*bytes > UINT32_MAX)
        return -EPROTO;
    chain->iov[i] = (struct iovec){ .iov_base = host, .iov_len = desc->len };
    chain->gpa[i] = gpa_of(desc->addr);
    return 0;
}

static int walk(struct virtq *q, struct virtq_chain *chain)
{
    const uint8_t *table = (const uint8_t *)q->desc;
    uint32_t count = q->size, index = chain->head;
    bool within_indirect = false;

    for (;;) {
        if (index >= count)
            return -EPROTO;
        struct vring_desc desc = read_desc(table, index);
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            /* 2.7.5.3: only when negotiated, not nested, last of its chain, whole descriptors. */
            if (!q->indirect || within_indirect || (desc.flags & VRING_DESC_F_NEXT) ||
                desc.len == 0 || desc.len % DESC_BYTES)
                return -EPROTO;
            table = mem_get(q->mem, gpa_of(desc.addr), desc.len);
            if (!table)
                return -EPROTO;
            count = desc.len / DESC_BYTES;
            index = 0;
            within_indirect = true;
            continue;
        }
        int rc = add_segment(q, chain, &desc);
        if (rc)
            return rc;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return 0;
        index = desc.next;
    }
}

int virtq_pop(struct virtq *q, struct virtq_chain *chain)
{
    if (!q->ready || q->broken)
        return q->broken ? -EPROTO : 0;

    /* Pairs with the driver's release of avail->idx after it filled the ring and descriptors. */
    uint16_t avail = load16(&q->avail->idx, __ATOMIC_ACQUIRE);
    if (avail == q->next_avail)
        return 0;
    /* A driver owns `size` descriptors and cannot have handed out more than that. */
    q->broken =
        (uint16_t)(avail - q->next_used) > q->size || (uint16_t)(avail - q->next_avail) > q->size;
    if (q->broken)
        return -EPROTO;

    chain->head = load16(&q->avail->ring[q->next_avail % q->size], __ATOMIC_RELAXED);
    chain->out_count = chain->in_count = 0;
    chain->out_bytes = chain->in_bytes = 0;
    int rc = walk(q, chain);
    if (rc) {
        q->broken = true;
        return rc;
    }
    q->next_avail++;
    q->in_flight++;
    return 1;
}

void virtq_rewind(struct virtq *q, uint16_t count)
{
    ASSERT(count <= q->in_flight - q->staged);
    q->next_avail = (uint16_t)(q->next_avail - count);
    q->in_flight = (uint16_t)(q->in_flight - count);
}

void virtq_stage(struct virtq *q, uint16_t head, uint32_t written)
{
    ASSERT(q->staged < q->in_flight);
    uint16_t slot = (uint16_t)(q->next_used + q->staged) % q->size;
    struct vring_used_elem elem = { .id = head, .len = written };
    memcpy(&q->used->ring[slot], &elem, sizeof(elem));
    mem_mark(q->mem, gpa_add(q->used_gpa, offsetof(struct vring_used, ring) + slot * sizeof(elem)),
             sizeof(elem));
    q->staged++;
}

/* 2.7.10: does moving from `old` to `new_index` step over the event index? */
static bool passes_event(uint16_t event, uint16_t new_index, uint16_t old)
{
    return (uint16_t)(new_index - event - 1) < (uint16_t)(new_index - old);
}

bool virtq_publish(struct virtq *q)
{
    if (q->staged == 0)
        return false;
    uint16_t old = q->next_used;
    q->next_used = (uint16_t)(old + q->staged);
    q->in_flight = (uint16_t)(q->in_flight - q->staged);
    q->staged = 0;

    /* As a release: pairs with the driver's read barrier between used->idx and what it shows. As a
     * full barrier before the loads below: pairs with the driver's between its store of used_event
     * (or flags) and its last look at used->idx; either we see the request for an interrupt or it
     * sees the new index. */
    __atomic_store_n(&q->used->idx, q->next_used, __ATOMIC_SEQ_CST);
    mem_mark(q->mem, gpa_add(q->used_gpa, offsetof(struct vring_used, idx)), sizeof(uint16_t));

    const uint16_t *used_event = &q->avail->ring[q->size];
    bool signal;
    if (q->event_idx)
        signal = passes_event(load16(used_event, __ATOMIC_SEQ_CST), q->next_used, old);
    else
        signal = !(load16(&q->avail->flags, __ATOMIC_SEQ_CST) & VRING_AVAIL_F_NO_INTERRUPT);
    signal = signal || q->signal_all;
    q->signal_all = false;
    return signal;
}

bool virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written)
{
    virtq_mark(q, chain, written);
    virtq_stage(q, chain->head, written);
    return virtq_publish(q);
}

static void set_used_flags(struct virtq *q, uint16_t flags)
{
    __atomic_store_n(&q->used->flags, flags, __ATOMIC_SEQ_CST);
    mem_mark(q->mem, q->used_gpa, sizeof(uint16_t));
}

void virtq_kicks_off(struct virtq *q)
{
    /* With event indexes a stale avail_event already keeps the driver quiet. */
    if (q->ready && !q->event_idx)
        set_used_flags(q, VRING_USED_F_NO_NOTIFY);
}

bool virtq_kicks_on(struct virtq *q, uint16_t known)
{
    if (!q->ready || q->broken)
        return false;
    const uint16_t wanted = (uint16_t)(q->next_avail + known);
    /* The stores below are full barriers before the load: they pair with the driver's between its
     * store of avail->idx and its look at avail_event (or flags); either it kicks or we see its
     * chain here. */
    if (q->event_idx) {
        uint64_t offset =
            offsetof(struct vring_used, ring) + q->size * sizeof(struct vring_used_elem);
        uint16_t *avail_event = (uint16_t *)(void *)((uint8_t *)q->used + offset);
        __atomic_store_n(avail_event, wanted, __ATOMIC_SEQ_CST);
        mem_mark(q->mem, gpa_add(q->used_gpa, offset), sizeof(uint16_t));
    } else {
        set_used_flags(q, 0);
    }
    return load16(&q->avail->idx, __ATOMIC_SEQ_CST) != wanted;
}

void virtq_mark(struct virtq *q, const struct virtq_chain *chain, uint64_t bytes)
{
    const unsigned end = chain->out_count + chain->in_count;
    for (unsigned i = chain->out_count; i < end && bytes; i++) {
        uint64_t part = MIN(bytes, (uint64_t)chain->iov[i].iov_len);
        mem_mark(q->mem, chain->gpa[i], part);
        bytes -= part;
    }
}

/* Finds the part of [offset, offset+left) that lies in segment `iov`, advancing both when it does
 * not begin further on. */
static size_t part_of(const struct iovec *iov, uint64_t *offset, size_t left, uint8_t **ret_at)
{
    if (*offset >= iov->iov_len) {
        *offset -= iov->iov_len;
        return 0;
    }
    size_t part = MIN(left, iov->iov_len - (size_t)*offset);
    *ret_at = (uint8_t *)iov->iov_base + *offset;
    return part;
}

size_t virtq_read(const struct virtq_chain *chain, uint64_t offset, void *buf, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->out_count && done < len; i++) {
        uint8_t *from;
        size_t part = part_of(&chain->iov[i], &offset, len - done, &from);
        if (part) {
            memcpy((uint8_t *)buf + done, from, part);
            done += part;
            offset = 0;
        }
    }
    return done;
}

/* buf NULL: zeroes. */
static uint64_t fill(struct virtq *q, const struct virtq_chain *chain, uint64_t offset,
                     const void *buf, uint64_t len)
{
    uint64_t done = 0;
    const unsigned end = chain->out_count + chain->in_count;
    for (unsigned i = chain->out_count; i < end && done < len; i++) {
        uint8_t *to;
        uint64_t skipped = offset;
        size_t part = part_of(&chain->iov[i], &offset, len - done, &to);
        if (!part)
            continue;
        if (buf)
            memcpy(to, (const uint8_t *)buf + done, part);
        else
            memset(to, 0, part);
        mem_mark(q->mem, gpa_add(chain->gpa[i], skipped), part);
        done += part;
        offset = 0;
    }
    return done;
}

size_t virtq_write(struct virtq *q, const struct virtq_chain *chain, uint64_t offset,
                   const void *buf, size_t len)
{
    return (size_t)fill(q, chain, offset, buf, len);
}

void virtq_zero(struct virtq *q, const struct virtq_chain *chain, uint64_t offset, uint64_t len)
{
    (void)fill(q, chain, offset, NULL, len);
}

static void trim(struct virtq_chain *chain, unsigned i, uint64_t bytes)
{
    for (; bytes; i++) {
        uint64_t part = MIN(bytes, (uint64_t)chain->iov[i].iov_len);
        chain->iov[i].iov_base = (uint8_t *)chain->iov[i].iov_base + part;
        chain->iov[i].iov_len -= part;
        chain->gpa[i] = gpa_add(chain->gpa[i], part);
        bytes -= part;
    }
}

void virtq_trim_out(struct virtq_chain *chain, uint64_t bytes)
{
    ASSERT(bytes <= chain->out_bytes);
    trim(chain, 0, bytes);
    chain->out_bytes -= bytes;
}

void virtq_trim_in(struct virtq_chain *chain, uint64_t bytes)
{
    ASSERT(bytes <= chain->in_bytes);
    trim(chain, chain->out_count, bytes);
    chain->in_bytes -= bytes;
}

gpa_t virtq_trim_in_last(struct virtq_chain *chain)
{
    ASSERT(chain->in_bytes > 0); /* and pop admits no empty segment */
    unsigned last = chain->out_count + chain->in_count - 1;
    struct iovec *iov = &chain->iov[last];
    iov->iov_len--;
    chain->in_bytes--;
    return gpa_add(chain->gpa[last], iov->iov_len);
}

void virtq_save(const struct virtq *q, struct virtq_state *state)
{
    ASSERT(q->in_flight == 0 && (!q->ready || q->next_avail == q->next_used));
    *state = (struct virtq_state){
        .size = q->size,
        .ready = q->ready,
        .index = q->next_avail,
        .desc_gpa = q->desc_gpa.raw,
        .avail_gpa = q->avail_gpa.raw,
        .used_gpa = q->used_gpa.raw,
    };
}

int virtq_load(struct virtq *q, const struct virtq_state *state, struct err *err)
{
    if (state->ready > 1)
        return err_set(err, ERR_PEER, EBADMSG, "queue state is damaged");
    q->size = state->size;
    q->desc_gpa = gpa_of(state->desc_gpa);
    q->avail_gpa = gpa_of(state->avail_gpa);
    q->used_gpa = gpa_of(state->used_gpa);
    if (state->ready && virtq_start(q, state->index))
        return err_set(err, ERR_PEER, EBADMSG, "queue of %u entries does not lie in memory",
                       state->size);
    return 0;
}
