#include "move/page_sink.h"
#include "base/hash.h"
#include "mem/discard.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PUNCH_PAGES 16 /* fewer are zeroed sooner than the kernel makes a hole of them */
#define COPY_PAGES 8 /* or fewer, all there already, are copied sooner than the kernel is called */

/* --------------------------------------------------------------------------------------- what memory holds */

static bool holds_data(const struct page_sink *sink, uint64_t page)
{
    return atomic_load_explicit(&sink->written[page / 64], memory_order_relaxed) >> page % 64 & 1;
}

static void note_written(struct page_sink *sink, const struct pages_run *run)
{
    for (uint64_t page = run->first; page < run->first + run->count; page++)
        atomic_fetch_or(&sink->written[page / 64], UINT64_C(1) << (page % 64));
}

/* Memory that is there can be written through its mapping: nothing is to be made, so nothing can be lacking. */
static bool is_there(const struct page_sink *sink, const struct pages_run *run)
{
    for (uint64_t page = run->first; page < run->first + run->count; page++)
        if (!holds_data(sink, page))
            return false;
    return true;
}

static bool is_whole(const struct page_sink *sink, uint64_t page)
{
    uint64_t large = page / MEM_LARGE_PAGES;
    return atomic_load_explicit(&sink->whole[large / 64], memory_order_relaxed) >> large % 64 & 1;
}

static void note_whole(struct page_sink *sink, uint64_t page, bool whole)
{
    uint64_t large = page / MEM_LARGE_PAGES, bit = UINT64_C(1) << large % 64;
    if (whole)
        atomic_fetch_or(&sink->whole[large / 64], bit);
    else
        atomic_fetch_and(&sink->whole[large / 64], ~bit);
}

/* Sees to it that writing the pages cannot fail. */
static int provide(struct page_sink *sink, const struct pages_run *run)
{
    uint64_t end = run->first + run->count, next;
    for (uint64_t page = run->first; page < end; page = next) {
        next = MIN(end, page - page % MEM_LARGE_PAGES + MEM_LARGE_PAGES);
        if (is_whole(sink, page))
            continue;
        int rc = mem_provide(sink->mem, page, next - page);
        if (rc)
            return rc;
        note_whole(sink, page, mem_is_whole(sink->mem, page));
    }
    return 0;
}

/* -------------------------------------------------------------------------------------- one section's pages */

int page_slot_init(struct page_slot *slot)
{
    *slot = (struct page_slot){ .bytes = malloc(PAGES_BODY_MAX), .hasher = hash_new() };
    if (slot->bytes && slot->hasher)
        return 0;
    page_slot_fini(slot);
    return -ENOMEM;
}

void page_slot_fini(struct page_slot *slot)
{
    free(slot->bytes);
    free(slot->plain);
    hash_free(slot->hasher);
    unpacker_fini(&slot->unpacker);
    slot->bytes = slot->plain = NULL;
    slot->hasher = NULL;
}

static int unpack(struct page_slot *slot, struct err *err)
{
    const struct pages_body *body = &slot->body;
    slot->data = slot->bytes + body->data_at;
    if (body->packing == PACKING_NONE)
        return 0;
    if (!slot->plain)
        slot->plain = malloc(PAGES_PLAIN_MAX);
    if (!slot->plain)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot unpack pages");
    int rc = unpacker_unpack(&slot->unpacker, body->packing, slot->data, body->data_bytes,
                             slot->plain, body->plain_bytes, err);
    slot->data = slot->plain;
    return rc;
}

/* Receives the first part of a body: its table, where it has one that makes sense. */
static int recv_front(struct page_slot *slot, struct link *link, const struct section *section,
                      uint32_t *ret_have, struct err *err)
{
    uint32_t have = (uint32_t)MIN(pages_table_size(1, section->version), (size_t)section->length);
    int rc = link_recv(link, slot->bytes, have, err);
    if (rc)
        return rc;
    uint32_t table = pages_table_length(slot->bytes, have, section->length, section->version);
    if (table > have) {
        rc = link_recv(link, slot->bytes + have, table - have, err);
        have = table;
    }
    *ret_have = have;
    return rc;
}

/* Whether the data whose table has come can go straight into memory, which is provided then. Whatever does not fit is
 * left to those who find words for it. */
static bool goes_straight(struct page_sink *sink, struct page_slot *slot,
                          const struct section *section, uint32_t have)
{
    struct pages_body *body = &slot->body;
    struct err err;
    if (pages_table_length(slot->bytes, have, section->length, section->version) != have ||
        pages_body_decode(slot->bytes, section->length, section->version, sink->mem->pages, body,
                          &err) ||
        body->pages[PAGES_DATA] == 0)
        return false;
    for (uint32_t i = 0; i < body->runs; i++)
        if (body->run[i].kind == PAGES_DATA && provide(sink, &body->run[i]))
            return false;
    return true;
}

static int recv_whole(struct page_sink *sink, struct page_slot *slot, struct link *link,
                      const struct section *section, uint32_t have, struct err *err)
{
    struct pages_body *body = &slot->body;
    int rc = link_recv(link, slot->bytes + have, section->length - have, err);
    if (!rc)
        rc = section_check_body(section, slot->bytes, err);
    if (!rc)
        rc = pages_body_decode(slot->bytes, section->length, section->version, sink->mem->pages,
                               body, err);
    if (!rc)
        rc = unpack(slot, err);
    if (!rc)
        rc = pages_data_check(body, slot->data, err);
    return rc;
}

int page_slot_recv(struct page_sink *sink, struct page_slot *slot, struct link *link,
                   const struct section *section, uint64_t *ret_pages, struct err *err)
{
    const uint64_t *pages = slot->body.pages;
    uint32_t have = 0;
    int rc = 0;
    *ret_pages = 0;
    slot->data = NULL;
    if (section->length > PAGES_BODY_MAX)
        return err_set(err, ERR_PEER, EBADMSG, "pages section of %u bytes", section->length);
    if (sink->straight && section->version == PAGES_PLAIN_VERSION)
        rc = recv_front(slot, link, section, &have, err);
    if (!rc && (!have || !goes_straight(sink, slot, section, have)))
        rc = recv_whole(sink, slot, link, section, have, err);
    if (!rc)
        *ret_pages = pages[PAGES_DATA] + pages[PAGES_ZERO] + pages[PAGES_DELTA];
    return rc;
}

/* A page that never held data is zero already, and touching it would only make it use memory; of many
 * that did, the memory is given back. */
static int zero_run(struct page_sink *sink, const struct pages_run *run)
{
    uint64_t first = run->first, end = run->first + run->count;
    while (first < end && !holds_data(sink, first))
        first++;
    while (first < end && !holds_data(sink, end - 1))
        end--;
    if (end - first < PUNCH_PAGES) {
        for (; first < end; first++)
            if (holds_data(sink, first))
                memset(mem_page(sink->mem, first), 0, PAGE_BYTES);
        return 0;
    }
    int rc = mem_punch(sink->mem, first, end - first);
    for (uint64_t page = first; page < end; page += MEM_LARGE_PAGES)
        note_whole(sink, page, false);
    note_whole(sink, end - 1, false);
    for (; first < end && !rc; first++)
        atomic_fetch_and(&sink->written[first / 64], ~(UINT64_C(1) << first % 64));
    return rc;
}

static int write_run(struct page_sink *sink, const struct pages_run *run, const uint8_t *data)
{
    size_t left = (size_t)run->count * PAGE_BYTES;
    off_t at = (off_t)(run->first * PAGE_BYTES);
    if (run->count <= COPY_PAGES && is_there(sink, run)) {
        memcpy(mem_page(sink->mem, run->first), data, left);
        return 0;
    }
    while (left > 0) {
        ssize_t n = pwrite(sink->mem->memfd, data, left, at);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            at += n;
            left -= (size_t)n;
        }
    }
    note_written(sink, run);
    return 0;
}

/* Changes pages where they are. Returns how many bytes the deltas took. */
static size_t patch_run(struct page_sink *sink, const struct pages_run *run, const uint8_t *data)
{
    size_t at = 0;
    for (uint64_t page = run->first; page < run->first + run->count; page++) {
        uint32_t length = data[at] | (uint32_t)data[at + 1] << 8;
        pages_delta_apply(mem_page(sink->mem, page), data + at + 2, length);
        at += 2 + length;
    }
    note_written(sink, run);
    return at;
}

static int write_slot(struct page_sink *sink, const struct page_slot *slot)
{
    const uint8_t *data = slot->data;
    for (uint32_t i = 0; i < slot->body.runs; i++) {
        const struct pages_run *run = &slot->body.run[i];
        if (run->kind == PAGES_ZERO) {
            int rc = zero_run(sink, run);
            if (rc)
                return rc;
        } else if (run->kind == PAGES_DELTA) {
            data += patch_run(sink, run, data);
        } else if (data) {
            int rc = write_run(sink, run, data);
            if (rc)
                return rc;
            data += (size_t)run->count * PAGE_BYTES;
        }
    }
    return 0;
}

static int recv_straight(struct page_sink *sink, struct page_slot *slot, struct link *link,
                         const struct section *section, struct err *err)
{
    struct iovec piece[1 + PAGES_DATA_MAX], left[PAGES_DATA_MAX];
    int pieces = 1;
    piece[0] = (struct iovec){ .iov_base = slot->bytes, .iov_len = slot->body.data_at };
    for (uint32_t i = 0; i < slot->body.runs; i++) {
        const struct pages_run *run = &slot->body.run[i];
        if (run->kind != PAGES_DATA)
            continue;
        piece[pieces++] = (struct iovec){ .iov_base = mem_page(sink->mem, run->first),
                                          .iov_len = (size_t)run->count * PAGE_BYTES };
        note_written(sink, run);
    }
    memcpy(left, piece + 1, sizeof(*left) * (size_t)(pieces - 1));
    int rc = link_recvv(link, left, pieces - 1, err);
    return rc ? rc : section_check_sum(section, hash_pieces(slot->hasher, piece, pieces), err);
}

int page_slot_write(struct page_sink *sink, struct page_slot *slot, struct link *link,
                    const struct section *section, struct err *err)
{
    int rc = slot->data ? 0 : recv_straight(sink, slot, link, section, err);
    if (rc)
        return rc;
    rc = write_slot(sink, slot);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot write guest memory") : 0;
}

/* ------------------------------------------------------------------------------------ on a writer's thread */

static void *writer_thread(void *arg)
{
    struct page_sink *sink = arg;
    int meter_slot = meter_thread_enter(sink->meter, BILL_CPU_MOVER);

    (void)pthread_mutex_lock(&sink->lock);
    for (;;) {
        while (sink->ready_count == 0 && !sink->ending)
            (void)pthread_cond_wait(&sink->changed, &sink->lock);
        if (sink->ready_count == 0)
            break;
        struct page_slot *slot = sink->ready[--sink->ready_count];
        (void)pthread_mutex_unlock(&sink->lock);
        int rc = write_slot(sink, slot);
        (void)pthread_mutex_lock(&sink->lock);
        if (rc && !sink->failed)
            sink->failed = rc;
        sink->free[sink->free_count++] = slot;
        (void)pthread_cond_broadcast(&sink->changed);
    }
    (void)pthread_mutex_unlock(&sink->lock);
    meter_thread_leave(sink->meter, meter_slot);
    return NULL;
}

/* --------------------------------------------------------------------------------- on the receiving thread */

static int start_writers(struct page_sink *sink)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned wanted = (unsigned)MIN(MAX(cpus, 1l), (long)PAGE_SINK_WRITERS_MAX);
    sink->slot_count = wanted + 2;
    sink->slot = calloc(sink->slot_count, sizeof(*sink->slot));
    if (!sink->slot)
        return -ENOMEM;
    for (unsigned i = 0; i < sink->slot_count; i++) {
        int rc = page_slot_init(&sink->slot[i]);
        if (rc)
            return rc;
        sink->free[sink->free_count++] = &sink->slot[i];
    }
    for (; sink->writer_count < wanted; sink->writer_count++) {
        int rc = -pthread_create(&sink->writer[sink->writer_count], NULL, writer_thread, sink);
        if (rc)
            return rc;
        (void)pthread_setname_np(sink->writer[sink->writer_count], "pages");
    }
    return 0;
}

int page_sink_init(struct page_sink *sink, struct mem *mem, struct meter *meter)
{
    *sink = (struct page_sink){ .mem = mem,
                                .meter = meter,
                                .straight = mem->page_size == MEM_PAGES_LARGE,
                                .written = calloc(mem->pages / 64, sizeof(uint64_t)),
                                .whole = calloc(mem->pages / MEM_LARGE_PAGES / 64 + 1,
                                                sizeof(uint64_t)) };
    (void)pthread_mutex_init(&sink->lock, NULL);
    (void)pthread_cond_init(&sink->changed, NULL);
    int rc = sink->written && sink->whole ? start_writers(sink) : -ENOMEM;
    if (rc)
        page_sink_fini(sink);
    return rc;
}

void page_sink_keep(struct page_sink *sink)
{
    atomic_store(&sink->straight, false);
}

void page_sink_fini(struct page_sink *sink)
{
    if (!sink->mem)
        return;
    (void)pthread_mutex_lock(&sink->lock);
    sink->ending = true;
    (void)pthread_cond_broadcast(&sink->changed);
    (void)pthread_mutex_unlock(&sink->lock);
    for (unsigned i = 0; i < sink->writer_count; i++)
        (void)pthread_join(sink->writer[i], NULL);
    for (unsigned i = 0; sink->slot && i < sink->slot_count; i++)
        page_slot_fini(&sink->slot[i]);
    free(sink->slot);
    free(sink->written);
    free(sink->whole);
    (void)pthread_cond_destroy(&sink->changed);
    (void)pthread_mutex_destroy(&sink->lock);
    *sink = (struct page_sink){ 0 };
}

static struct page_slot *take_free(struct page_sink *sink)
{
    (void)pthread_mutex_lock(&sink->lock);
    while (sink->free_count == 0)
        (void)pthread_cond_wait(&sink->changed, &sink->lock);
    struct page_slot *slot = sink->free[--sink->free_count];
    (void)pthread_mutex_unlock(&sink->lock);
    return slot;
}

static void hand_on(struct page_sink *sink, struct page_slot *slot, bool ready)
{
    (void)pthread_mutex_lock(&sink->lock);
    if (ready)
        sink->ready[sink->ready_count++] = slot;
    else
        sink->free[sink->free_count++] = slot;
    (void)pthread_cond_broadcast(&sink->changed);
    (void)pthread_mutex_unlock(&sink->lock);
}

int page_sink_recv(struct page_sink *sink, struct link *link, const struct section *section,
                   struct err *err)
{
    struct page_slot *slot = take_free(sink);
    uint64_t pages;
    int rc = page_slot_recv(sink, slot, link, section, &pages, err);
    bool straight = !rc && !slot->data;
    if (straight)
        rc = page_slot_write(sink, slot, link, section, err);
    if (!rc) {
        sink->data_pages += slot->body.pages[PAGES_DATA] + slot->body.pages[PAGES_DELTA];
        sink->zero_pages += slot->body.pages[PAGES_ZERO];
    }
    hand_on(sink, slot, rc == 0 && !straight);
    return rc;
}

int page_sink_drain(struct page_sink *sink, struct err *err)
{
    if (!sink->mem)
        return 0;
    (void)pthread_mutex_lock(&sink->lock);
    while (sink->free_count < sink->slot_count)
        (void)pthread_cond_wait(&sink->changed, &sink->lock);
    int rc = sink->failed;
    (void)pthread_mutex_unlock(&sink->lock);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot write guest memory") : 0;
}
