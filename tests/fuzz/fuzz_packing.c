/*
 * Packed pages as a peer sends them. [0, how, length, bytes]: unpacking gives as many bytes as were announced or a reason,
 * and never writes beyond them. [1, how, bytes]: what is packed here comes back. [2, version, body]: a whole PAGES body
 * through the door that lanes use, its checksum made right; what is accepted goes to just the pages it names.
 */
#include "base/fd.h"
#include "fuzz.h"
#include "move/page_sink.h"

#include <sys/socket.h>
#include <unistd.h>

static enum pages_packing how_of(uint8_t byte)
{
    return (enum pages_packing)(byte % (PACKING_MAX + 1)); /* also ones that are none */
}

static void unpack(struct cursor *in)
{
    struct unpacker unpacker = { 0 };
    struct err err = { 0 };
    enum pages_packing how = how_of(cursor_u8(in));
    size_t plain_len = cursor_u32(in) % (PAGES_PLAIN_MAX + 1);
    CLEANUP_FREE uint8_t *plain = malloc(plain_len + 1), *again = malloc(plain_len + 1);
    FUZZ_CHECK(plain && again);
    memset(plain, 0xa5, plain_len + 1);
    memset(again, 0x5a, plain_len + 1);
    int rc = unpacker_unpack(&unpacker, how, in->at, in->left, plain, plain_len, &err);
    fuzz_check_err(rc, &err);
    FUZZ_CHECK(rc == 0 || err.fault == ERR_PEER);
    FUZZ_CHECK(rc || how == PACKING_LZ4 || how == PACKING_ZSTD);
    FUZZ_CHECK(plain[plain_len] == 0xa5);
    if (!rc) { /* nothing of what was there before is left */
        FUZZ_CHECK(unpacker_unpack(&unpacker, how, in->at, in->left, again, plain_len, &err) == 0);
        FUZZ_CHECK(memcmp(plain, again, plain_len) == 0);
    }
    unpacker_fini(&unpacker);
}

static void pack(struct cursor *in)
{
    struct packer packer;
    struct unpacker unpacker = { 0 };
    struct err err = { 0 };
    enum pages_packing how;
    packer_init(&packer, cursor_u8(in) & 1 ? PACKING_MODE_LZ4 : PACKING_MODE_ZSTD, PAGE_FORMS_ALL);
    size_t len = MIN(in->left, (size_t)PAGES_PLAIN_MAX);
    size_t packed = packer_pack(&packer, in->at, len, 0, &how);
    if (packed) {
        CLEANUP_FREE uint8_t *plain = malloc(len + 1);
        FUZZ_CHECK(plain && packed < len);
        FUZZ_CHECK(unpacker_unpack(&unpacker, how, packer.out + PACKER_FRONT_BYTES, packed, plain,
                                   len, &err) == 0);
        FUZZ_CHECK(memcmp(plain, in->at, len) == 0);
        /* One byte fewer or more was not what came. */
        FUZZ_CHECK(unpacker_unpack(&unpacker, how, packer.out + PACKER_FRONT_BYTES, packed, plain,
                                   len - 1, &err) < 0);
    }
    unpacker_fini(&unpacker);
    packer_fini(&packer);
}

/* --------------------------------------------------------------------------------- through the door */

static struct mem mem;
static struct meter meter;
static struct page_sink sink;
static struct page_slot slot;

static void set_up(void)
{
    struct err err;
    FUZZ_CHECK(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, &err) == 0);
    meter_init(&meter);
    FUZZ_CHECK(page_sink_init(&sink, &mem, &meter) == 0 && page_slot_init(&slot) == 0);
}

/* What holds memory is what was named; all else is a hole again for the next input. */
static void check_written(const struct pages_body *body)
{
    uint64_t first, end, at = 0;
    while (mem_next_touched(&mem, at, &first, &end) == 0) {
        for (uint64_t page = first; page < end; page++) {
            bool named = false;
            for (uint32_t i = 0; i < body->runs && !named; i++)
                named =
                    page >= body->run[i].first && page - body->run[i].first < body->run[i].count;
            FUZZ_CHECK(named);
        }
        at = end;
    }
    FUZZ_CHECK(ftruncate(mem.memfd, 0) == 0 && ftruncate(mem.memfd, (off_t)mem.bytes) == 0);
    for (uint64_t w = 0; w < mem.pages / 64; w++)
        sink.written[w] = 0;
}

static void check_pages(const struct pages_body *body, const uint8_t *data)
{
    static const uint8_t zeroes[PAGE_BYTES];
    if (body->pages[PAGES_DELTA])
        return; /* their data are not whole pages */
    for (uint32_t i = 0; i < body->runs; i++) {
        const struct pages_run *run = &body->run[i];
        uint64_t end = run->first + (run->kind == PAGES_ZERO ? MIN(run->count, 4u) : run->count);
        for (uint64_t page = run->first; page < end; page++) {
            FUZZ_CHECK(memcmp(mem_page(&mem, page), run->kind == PAGES_ZERO ? zeroes : data,
                              PAGE_BYTES) == 0);
            data += run->kind == PAGES_ZERO ? 0 : PAGE_BYTES;
        }
    }
}

static void deliver(struct cursor *in)
{
    struct link link = LINK_NONE;
    struct err err = { 0 };
    int pair[2], room = 1 << 20;
    uint8_t form = cursor_u8(in);
    struct section section = { .type = SECTION_PAGES, .version = form % 128 };
    struct cursor body = fuzz_rest(in);
    uint64_t pages;
    if (body.left > 65536)
        return;
    if (!mem.host)
        set_up();
    sink.straight = form >= 128;
    section.length = (uint32_t)body.left;
    section.body_sum = stream_sum(body.at, body.left);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    (void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    FUZZ_CHECK(link_adopt(&link, pair[0], &err) == 0);
    FUZZ_CHECK(fd_write_full(pair[1], body.at, body.left) == 0);
    (void)close(pair[1]);
    int rc = page_slot_recv(&sink, &slot, &link, &section, &pages, &err);
    fuzz_check_err(rc, &err);
    if (!rc) {
        FUZZ_CHECK(page_slot_write(&sink, &slot, &link, &section, &err) == 0);
        check_pages(&slot.body, slot.data ? slot.data : body.at + slot.body.data_at);
        check_written(&slot.body);
    }
    link_close(&link);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    switch (cursor_u8(&in) % 3) {
    case 0:
        unpack(&in);
        break;
    case 1:
        pack(&in);
        break;
    default:
        deliver(&in);
        break;
    }
    return 0;
}
