/*
 * The urgent lane of post-copy, at either end, with a peer that says what it likes. Compiled twice:
 *
 *   FUZZ_PULL, at the target:  [what is missing, then replies]: a page is placed once, only if its sum is right, and
 *                              only where one was missing; whatever else comes ends the lane, and nothing more
 *   otherwise, at the source:  [what it has, then requests]: each page is sent once, whole and with its sum
 *
 * What the lane must do with these bytes is told here by a model of a few lines.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "fuzz.h"
#include "move/pull.h"
#include "move/serve.h"
#include "move/urgent.h"
#include "state/absent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGES (MEM_MIN_BYTES / PAGE_BYTES)
#define WORDS (PAGES / 64)
#define FRAMES_MAX 40 /* fit into a socket's buffer, so nobody waits for anybody */

static void make_lane(struct wire *lane, int *ret_peer)
{
    int pair[2], room = 1 << 20;
    struct err err;
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    for (unsigned i = 0; i < 2; i++)
        (void)setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    *lane = WIRE_NONE;
    FUZZ_CHECK(link_adopt(&lane->link, pair[0], &err) == 0);
    *ret_peer = pair[1];
}

static bool take_bit(uint64_t *set, uint64_t page)
{
    uint64_t bit = UINT64_C(1) << (page % 64), had = set[page / 64] & bit;
    set[page / 64] &= ~bit;
    return had;
}

static void wait_readable(int fd)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };
    FUZZ_CHECK(poll(&pfd, 1, 20000) == 1);
}

/* Mostly a page of the first few, so that they meet; else any number at all. */
static uint64_t take_page(struct cursor *in, uint8_t flags)
{
    return flags & 0x80 ? cursor_u64(in) : cursor_u8(in);
}

#if defined(FUZZ_PULL)

/* A reply as it ought to be, but for what `flags` spoil. */
static size_t make_reply(struct cursor *in, uint8_t *frame)
{
    uint8_t flags = cursor_u8(in);
    uint64_t page = take_page(in, flags);
    bool zero = flags & 1;
    uint64_t word = page | (zero ? URGENT_ZERO : 0);
    zero = word & URGENT_ZERO; /* as the reader sees it */
    memset(frame + URGENT_HEAD_BYTES, flags, PAGE_BYTES);
    urgent_put(frame, word);
    urgent_put(frame + 8, urgent_sum(word, zero ? NULL : frame + URGENT_HEAD_BYTES));
    size_t len = URGENT_HEAD_BYTES + (zero ? 0 : PAGE_BYTES);
    if (flags & 2)
        frame[cursor_u16(in) % len] ^= (uint8_t)(1u << (flags >> 2 & 7));
    return flags & 0x40 ? cursor_u16(in) % (len + 1) : len;
}

struct model {
    uint64_t missing[WORDS];
    uint64_t left, duplicates;
    bool lost;
};

/* Takes what the lane was sent as the target must, until it gives the lane up. */
static void expect(struct model *m, const struct mem *mem, const uint8_t *at, size_t len)
{
    while (!m->lost && len > 0) {
        uint64_t word = len < URGENT_HEAD_BYTES ? 0 : urgent_get(at), page = word & ~URGENT_ZERO;
        size_t whole = URGENT_HEAD_BYTES + (word & URGENT_ZERO ? 0 : PAGE_BYTES);
        const uint8_t *bytes = word & URGENT_ZERO ? NULL : at + URGENT_HEAD_BYTES;
        m->lost = len < URGENT_HEAD_BYTES || len < whole || page >= PAGES ||
                  urgent_get(at + 8) != urgent_sum(word, bytes);
        if (m->lost)
            return;
        if (take_bit(m->missing, page)) {
            static const uint8_t zeroes[PAGE_BYTES];
            m->left--;
            FUZZ_CHECK(memcmp(mem_page(mem, page), bytes ? bytes : zeroes, PAGE_BYTES) == 0);
        } else {
            m->duplicates++;
        }
        at += whole;
        len -= whole;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t frames[FRAMES_MAX * (URGENT_HEAD_BYTES + PAGE_BYTES)];
    static struct model m;
    struct cursor in = cursor_of(data, size);
    struct mem mem;
    struct meter meter;
    struct wire lane;
    struct err err = { 0 };
    CLEANUP_BUF struct buf list = { 0 };
    uint64_t count;
    size_t len = 0;
    int peer;
    (void)signal(SIGPIPE, SIG_IGN); /* as monitors do */
    if (uffd_check(&err))
        return 0; /* this machine lets nobody fetch memory when it is touched */
    m = (struct model){ 0 };
    for (unsigned w = 0; w < 4; w++) /* the first 256 pages, as take_page() has them */
        m.missing[w] = cursor_u64(&in);
    m.missing[0] |= 1;
    FUZZ_CHECK(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, &err) == 0);
    meter_init(&meter);
    struct pull *pull = pull_new(&mem, &meter, CLOCK_NEVER);
    FUZZ_CHECK(pull);
    m.left = absent_put(&list, m.missing, PAGES);
    FUZZ_CHECK(pull_absent(pull, list.data + STREAM_SECTION_BYTES,
                           (uint32_t)(list.len - STREAM_SECTION_BYTES), &count, &err) == 0);
    FUZZ_CHECK(pull_arm(pull, &err) == 0 && pull_loaded(pull, &err) == 0);
    for (unsigned i = 0; i < FRAMES_MAX && in.left; i++)
        len += make_reply(&in, frames + len);

    make_lane(&lane, &peer);
    FUZZ_CHECK(pull_attach(pull, &lane, &err) == 0);
    int rc = fd_write_full(peer, frames, len); /* it may have hung up by now */
    FUZZ_CHECK(rc == 0 || rc == -EPIPE || rc == -ECONNRESET);
    (void)shutdown(peer, SHUT_WR);
    while (!atomic_load(&pull->lane_lost)) { /* event_fd tells that all has come, too */
        eventfd_t events;
        wait_readable(pull->event_fd);
        (void)eventfd_read(pull->event_fd, &events);
    }
    fd_close(&peer);
    /* The memory stays armed while the model looks at what was placed, and at nothing else. */
    expect(&m, &mem, frames, len);
    FUZZ_CHECK(pull_left(pull) == m.left && pull->duplicates == m.duplicates);
    FUZZ_CHECK(atomic_load(&pull->failed) == 0);
    for (unsigned w = 0; w < WORDS; w++)
        FUZZ_CHECK(atomic_load(&pull->missing[w]) == m.missing[w]);
    if (m.left == 0)
        pull_finish(pull, &lane);
    else
        pull_abandon(pull);
    wire_close(&lane);
    pull_free(pull);
    meter_fini(&meter);
    mem_fini(&mem);
    return 0;
}

#else

static struct mem mem;
static struct meter meter;
static struct bucket bucket;

static void set_up(void)
{
    struct err err;
    FUZZ_CHECK(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, &err) == 0);
    meter_init(&meter);
    bucket_init(&bucket);
    for (uint64_t page = 0; page < 256; page++)
        if (page % 3)
            memset(mem_page(&mem, page), (int)page | 1, PAGE_BYTES);
}

static void hear_reply(int peer, uint64_t want)
{
    static const uint8_t zeroes[PAGE_BYTES];
    uint8_t head[URGENT_HEAD_BYTES], bytes[PAGE_BYTES];
    FUZZ_CHECK(fd_read_full(peer, head, sizeof(head)) == 0);
    uint64_t word = urgent_get(head);
    bool zero = word & URGENT_ZERO;
    FUZZ_CHECK((word & ~URGENT_ZERO) == want);
    FUZZ_CHECK(zero || fd_read_full(peer, bytes, sizeof(bytes)) == 0);
    FUZZ_CHECK(urgent_get(head + 8) == urgent_sum(word, zero ? NULL : bytes));
    FUZZ_CHECK(memcmp(zero ? zeroes : bytes, mem_page(&mem, want), PAGE_BYTES) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    static uint64_t set[WORDS];
    uint8_t requests[FRAMES_MAX * URGENT_REQUEST_BYTES];
    struct serve serve;
    struct wire lane;
    uint64_t late = 0, bad = 0;
    size_t len = 0;
    int peer;
    if (!mem.host)
        set_up();
    for (unsigned w = 0; w < 4; w++)
        set[w] = cursor_u64(&in);
    FUZZ_CHECK(serve_init(&serve, &mem, &meter, &bucket) == 0);
    serve_set(&serve, set);
    for (; len < sizeof(requests) && in.left; len += URGENT_REQUEST_BYTES)
        urgent_put(requests + len, take_page(&in, cursor_u8(&in)));
    size_t sent = in.left || !len ? len : len - data[size - 1] % URGENT_REQUEST_BYTES;

    make_lane(&lane, &peer);
    FUZZ_CHECK(serve_open(&serve, &lane) == 0);
    FUZZ_CHECK(fd_write_full(peer, requests, sent) == 0);
    (void)shutdown(peer, SHUT_WR);
    for (size_t at = 0; at + URGENT_REQUEST_BYTES <= sent && !bad; at += URGENT_REQUEST_BYTES) {
        uint64_t page = urgent_get(requests + at);
        if (page >= mem.pages)
            bad = 1;
        else if (take_bit(set, page))
            hear_reply(peer, page);
        else
            late++;
    }
    wait_readable(serve.lost_fd);
    FUZZ_CHECK(serve.lost.code && serve.lost.text[0]);
    FUZZ_CHECK(!bad || (serve.lost.code == EBADMSG && serve.lost.fault == ERR_PEER));
    uint8_t more;
    FUZZ_CHECK(recv(peer, &more, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    serve_close(&serve);
    FUZZ_CHECK(serve.late == late);
    for (unsigned w = 0; w < WORDS; w++)
        FUZZ_CHECK(atomic_load(&serve.unsent[w]) == set[w]);
    serve_fini(&serve);
    fd_close(&peer);
    return 0;
}

#endif
